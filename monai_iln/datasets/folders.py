"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_iln.errors import UserError


def list_files(source: Path) -> list[Path]:
    """All files in and below a source, sorted; a file is its own source.

    Hidden ones are left aside: macOS leaves ``._scan.dcm`` and ``__MACOSX/`` in archives, with names of data but none
    inside.

    Raises:
        UserError: if the source does not exist or a folder cannot be looked into.
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


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def require_new(output: Path) -> None:
    """Refuse a folder that holds something, before long work is done for it.

    Raises:
        UserError: if ``output`` is anything but absent or an empty folder, or cannot be looked into.
    """
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"{output}: is not an empty folder. Nothing is overwritten: choose another, or empty it.")
    except OSError as error:
        raise UserError(f"{output}: cannot be looked into ({error}). Choose another folder.") from error


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Fill a folder beside ``output`` and give it that name at the end, so that nothing half-written has it.

    Args:
        output: must not exist, or be an empty folder.

    Yields:
        The folder to fill. It is removed if filling it fails.

    Raises:
        UserError: if ``output`` holds something already, or writing fails.
    """
    require_new(output)
    partial = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
        yield partial
        partial.chmod(0o755)  # mkdtemp makes it private
        if output.exists():
            output.rmdir()
        partial.replace(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error}). Free the disk, or choose another folder.") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
