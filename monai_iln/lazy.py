"""Public names that are imported when they are first asked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_getattr(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose public names, and whose modules, are imported on first use.

    A package must not define ``__dir__`` beside it: MONAI looks at every name that ``dir`` lists, in every package
    whose name starts with "monai", and would import all of them.

    Args:
        package: The package's ``__name__``.
        homes: The module, relative to the package, that each public name is imported from.

    Example:
        >>> lazy_getattr("monai_iln", {"UserError": "errors"})("UserError")
        <class 'monai_iln.errors.UserError'>
    """

    def find(name: str) -> Any:
        if name not in homes:
            if name.startswith("_") or importlib.util.find_spec(f"{package}.{name}") is None:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            return importlib.import_module(f"{package}.{name}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    return find
