"""Our norms in MONAI's norm factory, from the moment that the factory is there.

Importing ``monai_iln`` must not import MONAI, which takes seconds, and must register the norms whichever of the two is
imported first. If the factory is there, it gets the names at once. A finder in ``sys.meta_path`` gives them to every
factory that is loaded later, also to one that is loaded again.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FACTORY = "monai.networks.layers.factories"

CLASS_NAMES = {
    "ILN": "InstanceLayerNorm",
    "MIXTURE": "MixtureNorm",
    "SPATIAL_LAYER": "SpatialLayerNorm",
    "BIN": "BatchInstanceNorm",
    "SWITCHABLE": "SwitchableNorm",
    "UGATIT_ILN": "UGATITInstanceLayerNorm",
}
"""The names in the factory, and the classes of :mod:`monai_iln.norms` that they stand for."""


def register_when_loaded() -> None:
    """Register the norms now if MONAI's factory is loaded, and whenever it is loaded from now on."""
    if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if FACTORY in sys.modules:
        factories = importlib.import_module(FACTORY)  # waits where another thread is loading it
        if hasattr(factories, "Norm"):  # not there where this thread itself is
            add_norms(factories.Norm)


def add_norms(factory: Any) -> None:
    """Make the norms known to a factory by name. Doing it again changes nothing.

    Args:
        factory: MONAI's ``Norm``.

    Raises:
        RuntimeError: If another package has taken one of the names; MONAI itself would overwrite it in silence.
    """
    for name, class_name in CLASS_NAMES.items():
        if name not in factory.names:
            factory.add_factory_callable(name, _class_getter(class_name))
        elif getattr(factory.components[name].value, "__module__", None) != __name__:
            raise RuntimeError(
                f"monai_iln: the norm name {name!r} is already taken in MONAI's factory by {factory[name, 2]!r}. "
                "Two packages cannot share it: import only one of them."
            )


def _class_getter(class_name: str) -> Callable[..., Any]:
    def get_class(spatial_dims: int | None = None) -> Any:
        return getattr(importlib.import_module("monai_iln.norms"), class_name)

    get_class.__doc__ = f"``monai_iln.norms.{class_name}``, for any number of spatial axes."
    return get_class


class _Finder:
    """Finds the factory as the other finders do, and adds the norms when it has been executed."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != FACTORY or self._asking:
            return None
        self._asking = True  # another finder may ask all finders, too
        try:
            specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
            spec = next(filter(None, specs), None)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """Loads a module by the loader that it has without us, and adds the norms."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        add_norms(module.Norm)
