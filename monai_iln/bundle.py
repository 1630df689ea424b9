"""The bundles that come with this package."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai_iln.errors import check_keys, refusal, require
from monai_iln.files import new_folder
from monai_iln.run_files import WEIGHTS

BUNDLES = {
    "lv_short_axis_iln": "left ventricle on short-axis cine MRI, trained on Sunnybrook Cardiac Data",
    "rv_short_axis_iln": "right ventricle on short-axis cine MRI, trained on children with congenital heart disease",
}
PARTS = ("LICENSE", "README.md", "configs", "docs", "models", "scripts")
"""What a bundle consists of. All else in its folder is data, or what a run has left."""

_PACKAGE = Path(__file__).parent
_IN_THE_WHEEL, _IN_A_CLONE = _PACKAGE / "bundles", _PACKAGE.parent / "bundles"


def write_bundle(name: str, output: Path | str) -> Path:
    """Write a bundle of this package: configurations in YAML and JSON, trained weights, documentation and licence.

    Args:
        name: One of :data:`BUNDLES`.
        output: The folder to write. It must not exist, or be empty, and appears whole or not at all.

    Returns:
        The folder.

    Raises:
        UserError: If there is no such bundle, or ``output`` is in use or cannot be written.

    Example:
        >>> import tempfile
        >>> bundle = write_bundle("lv_short_axis_iln", tempfile.mkdtemp())
        >>> sorted(path.name for path in bundle.iterdir())
        ['LICENSE', 'configs', 'docs', 'models']
    """
    check_keys([name], BUNDLES, "bundle of this package")
    folder = _shipped(name)
    weights = folder / "models" / WEIGHTS
    require(weights.is_file(), f"{weights}: no such file", "a bundle comes with weights", "install the package again")
    output = Path(output)
    with new_folder(output) as partial:
        copy_bundle(folder, partial)
    return output


def find_bundle(bundle: Path | str) -> Path:
    """Find the folder of a bundle.

    Args:
        bundle: One of :data:`BUNDLES`, wherever the program runs, or the folder itself: ``./lv_short_axis_iln`` is a
            folder, too.

    Raises:
        UserError: If there is neither.
    """
    if str(bundle) in BUNDLES:  # a copy of that name in the working directory may have other weights
        return _shipped(str(bundle))
    rule = f"neither a folder nor a bundle of this package ({', '.join(BUNDLES)})"
    require(Path(bundle).is_dir(), f"bundle {bundle}", rule, "give one of them")
    return Path(bundle).resolve()


def _shipped(name: str) -> Path:
    folder = _IN_THE_WHEEL if _IN_THE_WHEEL.is_dir() else _IN_A_CLONE
    return folder / name


def copy_bundle(bundle: Path, target: Path) -> None:
    """Copy the :data:`PARTS` of a bundle, and none of the data and results that lie beside them.

    Args:
        bundle: The folder of the bundle.
        target: The folder of the copy. It is made if it does not exist.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in (bundle / part for part in PARTS):
        if path.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.ts", "*.onnx")
            shutil.copytree(path, target / path.name, ignore=ignore, copy_function=_copy)
        elif path.is_file():
            _copy(path, target / path.name)


def _copy(source: Path | str, target: Path | str) -> None:
    """Copy a file. What the system refuses ends it at once; ``copytree`` would go on, and list it file by file."""
    try:
        shutil.copy(source, target)
    except OSError as error:
        raise refusal(error, Path(target)) from error
