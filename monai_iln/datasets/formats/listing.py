"""The files of a data source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from monai_iln.errors import UserError

Sources = Path | str | Sequence[Path | str]


def list_sources(sources: Sources) -> list[Path]:
    """The paths of one source or several."""
    if isinstance(sources, (str, Path)):
        sources = [sources]
    return [Path(source) for source in sources]


def list_files(source: Path) -> list[Path]:
    """All files in and below a source, sorted. A file is its own source.

    Hidden files are left out: macOS leaves ``._scan.dcm`` and ``__MACOSX/`` in archives, which are named like data but
    hold none.

    Args:
        source: A file or a folder.

    Raises:
        UserError: If the source does not exist or a folder cannot be looked into.
    """
    if source.is_file():
        return [source]

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}). Give the folder that holds the data, and see to it "
            "that everything below it may be read."
        ) from error

    files, seen = [], set()
    for folder, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        if (place := os.path.realpath(folder)) in seen:  # a link may lead upwards
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(filter(_is_shown, folders))
        files += [Path(folder) / name for name in names if _is_shown(name)]
    return sorted(files)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix ``.dcm``, or by its mark; scanners name files by UIDs, which have dots."""
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
