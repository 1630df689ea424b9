"""What tables and ``Info.cfg`` files say about subjects: their strata, and the times of ED and ES."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from monai_iln.datasets.stacks import Finding
from monai_iln.files import read_csv

Row = Mapping[str, str]  # what is written about one subject; keys in lower case

INFO_NAME = "info.cfg"
_SUBJECT_COLUMNS = ("external code", "subject_code", "subject", "subjects", "patient", "patient_id", "id")
_STRATUM_COLUMNS = ("pathology", "disease", "diagnosis", "group", "vendor")


def read_info(path: Path) -> Row:
    """The lines ``key: value`` of an ``Info.cfg``; nothing if they do not name two different frames."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        row = {key.strip().casefold(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        return row if int(row["ed"]) != int(row["es"]) else {}
    except (OSError, ValueError, KeyError):
        return {}


def read_tables(files: Iterable[Path], subjects: set[str]) -> tuple[dict[str, Row], list[Finding]]:
    """The rows about subjects in the CSV files of the sources. A number alone stands for the name that holds it."""
    rows: dict[str, dict[str, str]] = {}
    findings = []
    for path in (path for path in files if path.suffix.casefold() == ".csv"):
        try:
            table = read_csv(path)
        except (OSError, ValueError) as error:
            findings.append(Finding("unreadable", "", "", None, str(path), f"not a table in UTF-8 ({error})"))
            continue
        columns = {column: column.strip().casefold() for column in table.columns}
        subject_column = next((c for c in _SUBJECT_COLUMNS if c in columns.values()), None)
        for record in table.rows if subject_column else ():
            row = {columns[column]: cell.strip() for column, cell in record.items() if cell.strip()}
            if name := row.get(subject_column or ""):
                key = str(int(name)) if name.isdecimal() else name.casefold()
                rows[key] = row | rows.get(key, {})
    numbers = Counter(map(_number, subjects))
    keys = {s: s.casefold() if s.casefold() in rows or numbers[_number(s)] > 1 else _number(s) for s in subjects}
    return {subject: rows[key] for subject, key in keys.items() if key in rows}, findings


def _number(subject: str) -> str:
    """The only number in a name, without leading zeros."""
    numbers = re.findall(r"\d+", subject)
    return str(int(numbers[0])) if len(numbers) == 1 else ""


def find_stratum(row: Row) -> str:
    """What folds are balanced over: the disease, else the vendor, else nothing.

    Example:
        >>> find_stratum({"vendor": "A", "pathology": "HCM"})
        'HCM'
    """
    return next((row[column] for column in _STRATUM_COLUMNS if row.get(column)), "")


def find_times(row: Row, times: Sequence[int]) -> dict[int, str]:
    """The times of ED and ES that a table gives, from 0; it may count from 1, which its labelled times show."""
    try:
        given = [int(float(row[phase])) for phase in ("ed", "es")]
    except (KeyError, ValueError, OverflowError):
        return {}
    if given[0] == given[1]:
        return {}
    best = max((0, 1), key=lambda first: len({time - first for time in given} & set(times)))
    return dict(zip((time - best for time in given), ("ED", "ES"), strict=True))
