"""What is known of files that were read before, so that nobody reads them again until they change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from monai_iln.errors import refusal
from monai_iln.files import new_file

_CHECKS = 2  # a new number makes all forgotten; it is due when more is checked
Stamps = dict[str, list[int]]


def stamp(paths: Iterable[Path | str]) -> Stamps:
    """The size of every file, and the nanoseconds at which its content and anything else of it last changed.

    Args:
        paths: The files.

    Raises:
        OSError: If a file is not there.
    """
    found = {}
    for path in paths:
        state = Path(path).stat()
        # A copy can keep the time of its content, but not the other one.
        found[str(Path(path).absolute())] = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    return found


def hash_file(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        UserError: If the system refuses to read it.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise refusal(error) from error


class Known(NamedTuple):
    """What is known of the files of an item.

    Attributes:
        stamps: The stamps that the files had when they were read.
        hashes: The SHA-256 of ``image`` and ``label``.
    """

    stamps: Stamps
    hashes: dict[str, str]

    @property
    def unchanged(self) -> bool:
        """Whether the files are still as they were when they were read."""
        try:
            return stamp(self.stamps) == self.stamps
        except OSError:
            return False


class CheckedItems:
    """The items of a datalist that were found good, in a file of the user's cache.

    The file is below ``$XDG_CACHE_HOME``, else ``~/.cache``, and may be removed at any time. Where it cannot be read or
    written, nothing is known, and everything is read again. It never lies beside the data, which may be read-only.

    Args:
        datalist: The file of the datalist.
    """

    def __init__(self, datalist: Path) -> None:
        name = hashlib.sha256(os.fsencode(datalist.resolve())).hexdigest()
        self.path = _cache_folder() / "monai_iln" / "checked" / f"{name}.json"

    def read(self) -> dict[str, Known]:
        """Read what is known, by :func:`key_of` an item."""
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            return {
                key: Known(dict(stamps), {"image": hashes["image"], "label": hashes["label"]})
                for key, (stamps, hashes) in entries.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, LookupError):
            return {}  # missing, or damaged

    def write(self, known: Mapping[str, Known]) -> None:
        """Replace what is known, if the cache can be written."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(self.path) as partial:
                partial.write_text(json.dumps(known), encoding="utf-8")


def _cache_folder() -> Path:
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"])
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(os.devnull)  # below which nothing can be written


def key_of(item: Mapping[str, Any], values: Sequence[int]) -> str:
    """What tells an item, and all that is asked of its files, from others.

    Args:
        item: The item.
        values: The values that labels may have.
    """
    files = [str(Path(item[key]).absolute()) for key in ("image", "label")]
    text = json.dumps([_CHECKS, files, item.get("sha256"), item.get("slices"), list(values)], default=str)
    return hashlib.sha256(text.encode()).hexdigest()
