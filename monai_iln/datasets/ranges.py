"""Which slices of a stack show the heart, as a person names them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from monai_iln.datasets.formats.volumes import without_type
from monai_iln.errors import UserError, did_you_mean, require
from monai_iln.errors import count as told
from monai_iln.files import read_csv

RANGE_KEY = "slice_range"
_RANGE = re.compile(r"\s*(\d*)\s*-\s*(\d*)\s*")
_COLUMNS = ("stack", "first", "last")


def parse_range(text: str) -> tuple[int | None, int | None]:
    """Read a range of slices: the first and the last, counted from 1; ``None`` stands for an end that is left open.

    Args:
        text: The range: ``"2-9"``, ``"2-"`` or ``"-9"``.

    Raises:
        UserError: If the text is no such range, or its slices are none.

    Example:
        >>> parse_range("2-9"), parse_range("-9")
        ((2, 9), (None, 9))
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UserError(
            f"slices {text!r}: a range has a first and a last slice, counted from 1. Write 2-9; 2- or -9 leaves an end "
            "open."
        )
    first, last = (int(number) if number else None for number in match.groups())
    if 0 in (first, last) or (last is not None and (first or 1) > last):
        raise UserError(
            f"slices {text!r}: slices are counted from 1, and the first is not after the last. Remedy: write 2-9; 2- "
            "or -9 leaves an end open."
        )
    return first, last


def require_inside(text: str, count: int, stack: Path | str) -> tuple[int, int]:
    """Require that a range lies in a stack.

    Args:
        text: The range, as for :func:`parse_range`.
        count: The number of slices of the stack.
        stack: The name of the stack, for the message.

    Returns:
        The first and the last slice, counted from 1.

    Raises:
        UserError: If the range leaves the stack.

    Example:
        >>> require_inside("2-", 9, "P1.nii")
        (2, 9)
    """
    start, end = parse_range(text)
    first, last = start or 1, end or count
    require(
        max(first, last) <= count,
        f"{stack}: has {told(count, 'slice')}, and {text} goes beyond the last",
        "slices are counted from 1 along the last axis",
        "correct the range",
    )
    return first, last


def add_ranges(items: Sequence[Mapping[str, Any]], slices: Any, folder: Path | str) -> list[dict[str, Any]]:
    """Tell each stack which of its slices show the heart.

    Args:
        items: The items of the stacks, with a path as ``"image"``.
        slices: The range of the one stack, see :func:`parse_range`; or the path of a table in CSV with the columns
            ``stack``, ``first`` and ``last``, where an empty cell leaves an end open. A stack is named by its file (the
            ending may be left out), by its path below ``folder``, or by its whole path. ``None`` names no slices.
        folder: The folder of the stacks.

    Returns:
        The items. Those of stacks whose slices are named have the range as ``"slice_range"``.

    Raises:
        UserError: If ``slices`` is neither a range nor a table, a range is none, it is given for several stacks, or the
            table names no stack, several, or one twice.

    Example:
        >>> add_ranges([{"image": "a/SAX_ED.nii.gz"}], "2-9", "a")
        [{'image': 'a/SAX_ED.nii.gz', 'slice_range': '2-9'}]
    """
    ranges: dict[str, str] = {}
    if slices is not None and Path(str(slices)).is_file():
        ranges = _read_table(Path(str(slices)), [str(item["image"]) for item in items], Path(folder))
    elif slices is not None:
        ranges = _range_of_one(str(slices), items)
    named = [dict(item) for item in items]
    for item in named:
        if (path := str(item["image"])) in ranges:
            item[RANGE_KEY] = ranges[path]
    return named


def _range_of_one(text: str, items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    require(
        _RANGE.fullmatch(text) is not None,
        f"slices {text}",
        "neither a range of slices, such as 2-9, 2- or -9, nor a table that is there",
        "correct it",
    )
    parse_range(text)
    require(
        len(items) == 1,
        f"slices {text} and {told(len(items), 'stack')}",
        "the slices of one stack are not those of another",
        f"give a table in CSV with the columns {', '.join(_COLUMNS)}",
    )
    return {str(items[0]["image"]): text}


def _read_table(table: Path, paths: Sequence[str], folder: Path) -> dict[str, str]:
    """Read the ranges of stacks, by the paths of these."""
    try:
        columns, rows = read_csv(table)
    except (OSError, ValueError) as error:
        raise UserError(f"{table}: cannot be read as a table ({error}). Save it as CSV in UTF-8.") from error
    require(
        set(_COLUMNS) <= set(columns),
        f"{table}: the columns {', '.join(columns)}",
        f"it needs {', '.join(_COLUMNS)}",
        "add what is missing",
    )
    by_name: dict[str, list[str]] = {}
    for path in paths:
        for name in _names(Path(path), folder):
            by_name.setdefault(name, []).append(path)
    ranges: dict[str, str] = {}
    for row in rows:
        name, text = normalize("NFC", row["stack"].strip()), f"{row['first'].strip()}-{row['last'].strip()}"
        path = _find(name, by_name, table, folder)
        if path in ranges:
            raise UserError(f"{table}: names the slices of {name} twice. A stack has one range: remove a line.")
        try:
            parse_range(text)
        except UserError as error:
            raise UserError(f"{table}: {name}: {error}") from error
        ranges[path] = text
    return ranges


def _find(name: str, by_name: Mapping[str, Sequence[str]], table: Path, folder: Path) -> str:
    """Find the stack that a table calls by a name."""
    found = by_name.get(name, ())
    if not found:
        raise UserError(
            f"{table}: {name!r} is none of the stacks.{did_you_mean(name, by_name)} A stack is named by its file or by "
            f"its path below {folder}: correct the name."
        )
    if len(found) > 1:
        raise UserError(
            f"{table}: {name!r} is the name of {len(found)} stacks, {found[0]} and {found[1]} among them. Name them by "
            f"their paths below {folder}."
        )
    return found[0]


def _names(path: Path, folder: Path) -> set[str]:
    """List the names that a person may call a stack."""
    whole = [path, path.absolute(), Path(path.name)]
    if path.is_relative_to(folder):
        whole.append(path.relative_to(folder))
    whole += [without_type(one) for one in whole]
    # macOS writes accents as characters of their own.
    return {normalize("NFC", name) for one in whole for name in (one.as_posix(), str(one))}
