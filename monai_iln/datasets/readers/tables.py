"""Tables and ``Info.cfg`` files about subjects: their strata, and the times of ED and ES."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from monai_iln.datasets.stacks import Finding
from monai_iln.files import read_csv

SubjectInfo = Mapping[str, str]  # the columns of one subject; keys are in lower case

INFO_NAME = "info.cfg"
_SUBJECT_COLUMNS = ("external code", "subject_code", "subject", "subjects", "patient", "patient_id", "id")
_STRATUM_COLUMNS = ("pathology", "disease", "diagnosis", "group", "vendor")


def read_info(path: Path) -> SubjectInfo:
    """Read the lines ``key: value`` of an ``Info.cfg``.

    Args:
        path: The file.

    Returns:
        The values, or nothing if they do not name two different frames as ED and ES.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        fields = (line.partition(":") for line in lines)
        info = {key.strip().casefold(): value.strip() for key, _, value in fields}
        if int(info["ed"]) != int(info["es"]):
            return info
    except (OSError, ValueError, KeyError):
        pass
    return {}


def read_tables(files: Iterable[Path], subjects: Iterable[str]) -> tuple[dict[str, SubjectInfo], list[Finding]]:
    """Read what CSV files say about subjects. A number alone stands for the name that holds it.

    Args:
        files: All files of the sources.
        subjects: The subjects.

    Returns:
        The row of each subject that a table has, and a finding for each table that cannot be read.
    """
    rows: dict[str, dict[str, str]] = {}
    findings = []
    for path in files:
        if path.suffix.casefold() != ".csv":
            continue
        try:
            table = read_csv(path)
        except (OSError, ValueError) as error:
            findings.append(Finding("unreadable", "", "", None, str(path), f"not a table in UTF-8 ({error})"))
            continue
        columns = {column: column.strip().casefold() for column in table.columns}
        subject_column = next((name for name in _SUBJECT_COLUMNS if name in columns.values()), "")
        for record in table.rows:
            row = {columns[column]: cell.strip() for column, cell in record.items() if cell.strip()}
            if subject_column and subject_column in row:
                key = _key(row[subject_column])
                rows[key] = row | rows.get(key, {})
    subjects = set(subjects)
    numbers = Counter(map(_number, subjects))
    found: dict[str, SubjectInfo] = {}
    for subject in subjects:
        key = subject.casefold()
        if key not in rows and numbers[_number(subject)] == 1:
            key = _number(subject)
        if key in rows:
            found[subject] = rows[key]
    return found, findings


def _key(name: str) -> str:
    """A subject as a table names it, in one spelling."""
    return str(int(name)) if name.isdecimal() else normalize("NFC", name).casefold()


def _number(subject: str) -> str:
    """The only number in a name, without leading zeros."""
    numbers = re.findall(r"\d+", subject)
    return str(int(numbers[0])) if len(numbers) == 1 else ""


def find_stratum(info: SubjectInfo) -> str:
    """The group over which folds are balanced: the disease, else the vendor, else none.

    Args:
        info: The row of a subject.

    Example:
        >>> find_stratum({"vendor": "A", "pathology": "HCM"})
        'HCM'
    """
    return next((info[column] for column in _STRATUM_COLUMNS if info.get(column)), "")


def find_times(info: SubjectInfo, times: Sequence[int]) -> dict[int, str]:
    """The times of ED and ES that a table gives, from 0. It may count from 1, which its labelled times show.

    Args:
        info: The row of a subject.
        times: The labelled times, from 0.

    Returns:
        The names of the times, none if the table has no two different ones.
    """
    try:
        ed, es = (int(float(info[phase])) for phase in ("ed", "es"))
    except (KeyError, ValueError, OverflowError):
        return {}
    if ed == es:
        return {}
    first = max((0, 1), key=lambda start: len({ed - start, es - start} & set(times)))
    return {ed - first: "ED", es - first: "ES"}
