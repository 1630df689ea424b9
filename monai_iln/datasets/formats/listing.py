"""The files of a data source."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from operator import attrgetter
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
        UserError: If the source does not exist, a folder cannot be looked into, or :func:`refuse_special` raises it.
    """
    if source.is_file():
        return [source]
    seen: set[str] = set()
    files, folders = list[str](), [str(source)]
    while folders:
        folder = folders.pop()
        if (place := os.path.realpath(folder)) in seen:  # a link may lead upwards
            continue
        seen.add(place)
        try:
            with os.scandir(folder) as entries:
                shown = sorted(filter(_is_shown, entries), key=attrgetter("name"), reverse=True)
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be read ({error.strerror}). Give the folder that holds the data, and see to "
                "it that everything below it may be read."
            ) from error
        for entry in shown:
            (folders if _is_folder(entry) else files).append(entry.path)
    return sorted(map(Path, files))


def _is_shown(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name != "__MACOSX"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder. The disk is asked only of links, and of what is neither file nor folder."""
    if not entry.is_file(follow_symlinks=False) and not entry.is_dir(follow_symlinks=False):
        refuse_special(Path(entry.path))
        return Path(entry.path).is_dir()
    return entry.is_dir(follow_symlinks=False)


def refuse_special(path: Path) -> None:
    """Refuse what is neither file nor folder: reading a pipe, for example, may wait for ever.

    Args:
        path: The path. A link to nothing passes, as whoever reads it says more.

    Raises:
        UserError: If the path is of a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: a pipe, a socket or a device. Only files are read: remove it, or give another path.")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix ``.dcm``, or by its mark; scanners name files by UIDs, which have dots."""
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
