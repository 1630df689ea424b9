"""The files of a data source."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from monai_iln.errors import UserError

Sources = Path | str | Sequence[Path | str]

#: The end of the name of a folder of unfinished work, and the hidden file that such a folder has.
UNFINISHED, WORK_KEY = ".unfinished", ".key"


def list_sources(sources: Sources) -> list[Path]:
    """The paths of one source or several."""
    if isinstance(sources, (str, Path)):
        sources = [sources]
    return [Path(source) for source in sources]


def list_files(source: Path) -> list[Path]:
    """All files in and below a source, sorted. A file is its own source.

    Hidden files are left out: macOS leaves ``._scan.dcm`` and ``__MACOSX/`` in archives, which are named like data but
    hold none. So are folders of unfinished work, see :mod:`monai_iln.datasets.unfinished`.

    Args:
        source: A file or a folder.

    Raises:
        UserError: If the source does not exist, a folder cannot be looked into, or :func:`refuse_special` raises it.
    """
    return list(FileList([source]))


class FileList(Mapping[Path, Path]):
    """All files of sources, in order, and the folder that was given, in or below which each lies.

    There may be millions: the names of the files of a folder are one text.

    Args:
        sources: Files and folders. Of a source within another one, the last counts.

    Raises:
        UserError: As :func:`list_files` raises it.
    """

    def __init__(self, sources: Sequence[Path]) -> None:
        self._folders: dict[str, tuple[Path, str]] = {}  # each with its source and the names of its files
        for (is_file, home), group in groupby(sources, key=_home):
            if is_file:  # all of a folder at once, for they may be many
                self._add(str(home), home, [source.name for source in group])
            else:
                for folder, names in _walk(home):
                    self._add(folder, home, names)

    def _add(self, folder: str, source: Path, names: Sequence[str]) -> None:
        known = self._names(folder)
        self._folders[folder] = source, "/".join(sorted({*known, *names}))

    def _names(self, folder: str) -> list[str]:
        _, names = self._folders.get(folder, (None, ""))
        return names.split("/") if names else []

    def __getitem__(self, path: Path) -> Path:
        folder = str(path.parent)
        source, names = self._folders.get(folder, (None, ""))
        if source is None or path.name not in _split(names):
            raise KeyError(path)
        return source

    def __len__(self) -> int:
        return sum(len(self._names(folder)) for folder in self._folders)

    def __iter__(self) -> Iterator[Path]:
        above: list[tuple[str, list[str]]] = []  # the folders in which one is, each with the names that follow
        for folder in self._folders:
            parent, name = os.path.split(folder)
            while above and above[-1][0] != (parent or "."):
                yield from _paths(*above.pop())
            if above:
                rest = above[-1][1]
                place = bisect_left(rest, name)
                yield from _paths(above[-1][0], rest[:place])
                del rest[:place]
            above.append((folder, self._names(folder)))
        while above:
            yield from _paths(*above.pop())


@lru_cache(maxsize=8)
def _split(names: str) -> frozenset[str]:
    """The names of a folder's files. Of the folders in which one is, they are kept: every file is asked for."""
    return frozenset(names.split("/"))


def _home(source: Path) -> tuple[bool, Path]:
    """Whether a source is a file, and the folder that is looked into."""
    return (True, source.parent) if source.is_file() else (False, source)


def _paths(folder: str, names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        yield Path(folder, name)


def _walk(source: Path) -> Iterator[tuple[str, list[str]]]:
    """The folders in and below a source, each before those in it, and the names of their files."""
    seen: set[str] = set()
    folders = [str(source)]
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
        inside = {entry.name: _is_folder(entry) for entry in shown}
        yield folder, [name for name, is_folder in inside.items() if not is_folder]
        folders += [str(Path(folder, name)) for name, is_folder in inside.items() if is_folder]


def _is_shown(entry: os.DirEntry[str]) -> bool:
    is_hidden = entry.name.startswith(".") or entry.name == "__MACOSX"
    return not is_hidden and not (entry.name.endswith(UNFINISHED) and Path(entry.path, WORK_KEY).is_file())


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
