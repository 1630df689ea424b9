"""Files and folders that appear whole or not at all, and tables in CSV."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from monai_iln.errors import UserError, refusal

# A spreadsheet takes a cell that begins with one of these signs for a formula, and runs it. A number is none.
_SIGNS = frozenset("'=+-@\t\r\n")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class Table(NamedTuple):
    """A table in CSV: the names of its columns, and its rows by these names. A cell that is missing is empty."""

    columns: list[str]
    rows: list[dict[str, str]]


def read_csv(path: Path) -> Table:
    r"""Read a table in UTF-8, whose cells a comma, a semicolon or a tab parts: the one that its first line has most of.

    The apostrophe that :func:`write_csv` puts before formulas is taken off.

    Args:
        path: The file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is no text in UTF-8, or no table, or every row has more cells than there are
            columns.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> _ = path.write_text("subject;fold\na;0\nb", encoding="utf-8")
        >>> read_csv(path).rows
        [{'subject': 'a', 'fold': '0'}, {'subject': 'b', 'fold': ''}]
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, restval="", delimiter=max(",;\t", key=head.count))
        try:
            columns = list(reader.fieldnames or ())
            read = list(reader)
            rows = [{column: as_written(row[column]) for column in columns} for row in read]
        except csv.Error as error:
            raise ValueError(str(error)) from error
    if len(read) > 1 and all(any(row.get(None, ())) for row in read):  # their cells may be shifted against the names
        raise ValueError("every row has more cells than there are columns")
    return Table(columns, rows)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table that is there whole or not at all.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, which :func:`read_csv` takes off.

    Args:
        path: The file; its folder must exist.
        columns: The names of the columns.
        rows: The cells of each row. ``None`` is an empty cell.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> write_csv(path, ["subject", "change"], [("=1+1", -0.5)])
        >>> path.read_text(encoding="utf-8").split()
        ['subject,change', "'=1+1,-0.5"]
        >>> read_csv(path).rows
        [{'subject': '=1+1', 'change': '-0.5'}]
    """
    with new_file(path) as partial, partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerow(columns)
        write_rows(file, rows)


def write_rows(file: TextIO, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows of a table, as :func:`write_csv` does.

    Args:
        file: The open file.
        rows: The cells of each row.
    """
    csv.writer(file).writerows([as_text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)


def as_text(cell: str) -> str:
    r"""A cell that a spreadsheet takes for text, whatever it begins with. A number stays as it is, NUL is ``\x00``."""
    cell = cell.replace("\0", r"\x00")  # which the csv module of Python 3.10 neither writes nor reads
    if cell[:1] in _SIGNS and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def as_written(cell: str) -> str:
    """What a cell held before :func:`as_text`."""
    if cell.startswith("'") and _FORMULA.match(cell):
        return cell[1:]
    return cell


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file that is there whole or not at all; what JSON does not know is written as text."""
    with new_file(path) as partial:
        partial.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a file beside ``path`` and give it that name at the end, so that nothing half-written has it.

    Args:
        path: The file's final name; its folder must exist. A file that has the name already is replaced.

    Yields:
        The name to write to, which ends as the final one does. It is removed if writing fails.

    Raises:
        UserError: If the system refuses to write, for example because the disk is full.
    """
    partial = path.with_name(f".{os.getpid()}_{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise refusal(error, path, partial) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def require_new(output: Path) -> None:
    """Refuse a folder that holds something, before long work is done for it.

    Args:
        output: The folder to be made.

    Raises:
        UserError: If ``output`` is anything but absent or an empty folder, or cannot be looked into.
    """
    try:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"{output}: is not an empty folder. Nothing is overwritten: choose another, or empty it.")
    except OSError as error:
        raise refusal(error, output) from error


@contextmanager
def emptied_unless_filled(output: Path) -> Iterator[None]:
    """Leave a new folder without anything in it if what fills it fails or is interrupted.

    It is for what tells the name of the folder while it is filled. All else takes :func:`new_folder`, which also
    survives that the program is killed.

    Args:
        output: The folder. It must not exist, or be empty.

    Raises:
        UserError: If ``output`` holds something already.
    """
    require_new(output)
    existed = output.exists()
    try:
        yield
    except BaseException:
        for path in output.iterdir() if output.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if not existed:
            shutil.rmtree(output, ignore_errors=True)
        raise


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Fill a folder beside ``output`` and give it that name at the end, so that nothing half-written has it.

    Args:
        output: The folder's final name. It must not exist, or be an empty folder, or a link to such a place.

    Yields:
        The folder to fill. It is removed if filling it fails.

    Raises:
        UserError: If ``output`` holds something already, no folder can take its place, or writing fails.
    """
    require_new(output)
    target = Path(os.path.realpath(output))  # of a link, what it leads to: the link stays
    if target == Path.cwd() or os.path.ismount(target):
        raise UserError(
            f"{output}: cannot be written whole or not at all, for no folder can take the place of the one where the "
            "program runs, or of a mount. Choose a new folder in it."
        )
    partial = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        partial.replace(target)
    except OSError as error:
        raise refusal(error, output, partial) from error
    except UserError as error:
        if str(partial) in str(error):  # which nobody knows
            raise UserError(str(error).replace(str(partial), str(output))) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
