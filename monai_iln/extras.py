"""The extras of this package, and what is said where one is missing."""

from __future__ import annotations

import importlib.util
import re
import sys

from monai_iln.errors import UserError, hide_tracebacks, is_monai_command


class MissingExtraError(UserError, ModuleNotFoundError):
    """A part of this package was asked for whose extra is not installed."""


def require_extra(part: str, extra: str, *modules: str) -> None:
    """Refuse to go on without the packages of an extra, before any of them is imported.

    Args:
        part: The part that needs them, as the user calls it.
        extra: The extra that installs them.
        modules: The names by which they are imported.

    Raises:
        MissingExtraError: If one of them cannot be found. The message holds the command that installs it.

    Example:
        >>> require_extra("the report", "study", "json", "no_such_package")
        Traceback (most recent call last):
            ...
        monai_iln.extras.MissingExtraError: the report needs no_such_package, ... Run: pip install "monai-iln[study]"
    """
    absent = [name for name in modules if sys.modules.get(name) is None]  # None blocks an import
    missing = [name for name in absent if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f'{part} needs {", ".join(missing)}, which {verb} not installed. Run: pip install "monai-iln[{extra}]"'
        )


def check_export() -> None:
    """Refuse MONAI's command ``onnx_export``, with one message, where the packages that write the file are missing.

    This is for what the network of a bundle requires. In another command or program it does nothing.

    Raises:
        MissingExtraError: If one of them cannot be found. Torch's older exporter, ``'dynamo': False``, needs one alone.
    """
    if not is_monai_command() or sys.argv[1:2] != ["onnx_export"]:
        return
    hide_tracebacks()
    is_older = any(re.search(r"dynamo\W+False", argument) for argument in sys.argv)
    require_extra("onnx_export", "onnx", "onnx", *([] if is_older else ["onnxscript"]))
