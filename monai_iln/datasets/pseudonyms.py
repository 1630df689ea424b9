"""Pseudonyms: names that tell nothing, in place of those of patients.

A pseudonym is drawn at random, for a name that was only hashed can be guessed. What leads back from it to the patient
is a table, the key. It is kept apart from the data, and whoever shares the data does not share it.
"""

from __future__ import annotations

import csv
import io
import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from monai_iln.datasets.datalist import FILE_NAME, read_datalist
from monai_iln.datasets.formats.listing import refuse_special
from monai_iln.datasets.inference import find_stacks
from monai_iln.datasets.stacks import Finding
from monai_iln.datasets.unfinished import unfinished_folder
from monai_iln.errors import UserError, require
from monai_iln.files import as_text, read_csv

_COLUMNS = ("pseudonym", "subject")
_PSEUDONYM = re.compile("s[0-9a-f]{10}")
_NOT_TOLD = "not told, for it may name a file, and that a patient. The same command without --anonymize tells it"
#: The reasons whose details hold subjects and numbers, and nothing else.
_TELL_NO_FILE = (
    *("background", "displaced", "other-subject", "low-contrast", "area-jump", "same-image", "same-mask"),
    *("not-inspected", "uneven-slices", "broken-outline", "outside-image", "copied-contour"),
)
_NAME_OTHERS = ("same-image", "same-mask", "other-subject", "copied-contour")


def draw_pseudonyms(key: Path | str, subjects: Iterable[str]) -> dict[str, str]:
    """Give subjects pseudonyms. With the same key a subject has the same one in every call.

    Args:
        key: The table of pseudonyms and subjects, a CSV. It is made if it is missing, for its owner alone to read, and
            subjects that it lacks are added to it. Several processes may do so at once.
        subjects: The names of the subjects. A pseudonym of this key stays as it is.

    Returns:
        The pseudonyms by the names.

    Raises:
        UserError: If the key cannot be read or written, or is no such table.

    Example:
        >>> import tempfile
        >>> key = Path(tempfile.mkdtemp()) / "key.csv"
        >>> first = draw_pseudonyms(key, ["patient001", "patient002"])
        >>> draw_pseudonyms(key, ["patient002"])["patient002"] == first["patient002"]
        True
    """
    key = Path(key)
    refuse_special(key)
    stored = {subject: _storable(subject) for subject in subjects}
    try:
        known = _read(key)
        new = [name for name in dict.fromkeys(stored.values()) if name not in known]
        if new:
            _append(key, new)
            known = _read(key)
    except OSError as error:
        raise UserError(f"{key}: the key cannot be read or written ({error}). Choose another file.") from error
    return {subject: known[name] for subject, name in stored.items()}


def _storable(subject: str) -> str:
    """The name as a table in UTF-8 can hold it, which some names are not."""
    return subject.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", r"\x00")


def _append(key: Path, subjects: Sequence[str]) -> None:
    """Add subjects in one piece, so that the lines of another process do not come between."""
    descriptor = os.open(key, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        written = file.read()
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        if not written:
            writer.writerow(_COLUMNS)
        elif not written.endswith(b"\n"):  # as an editor may leave it
            text.write("\r\n")
        writer.writerows((f"s{secrets.token_hex(5)}", as_text(subject)) for subject in subjects)
        file.write(text.getvalue().encode("utf-8"))
        os.fsync(descriptor)


def _read(key: Path) -> dict[str, str]:
    """The pseudonyms by subject, and by themselves."""
    if not key.exists() or not key.stat().st_size:
        return {}
    try:
        table = read_csv(key)
    except ValueError as error:
        raise UserError(f"{key}: no key of pseudonyms ({error}). Give another file, or restore it.") from error
    rows = [tuple(row.values()) for row in table.rows]
    rows = [row for row in rows if row != _COLUMNS]  # two processes may have begun the table
    pseudonyms = [row[0] for row in rows]
    good = all(_PSEUDONYM.fullmatch(row[0]) and row[-1] for row in rows) and len(set(pseudonyms)) == len(pseudonyms)
    if tuple(table.columns) != _COLUMNS or not good:
        raise UserError(
            f"{key}: no key of pseudonyms. It must have the columns {' and '.join(_COLUMNS)}, each pseudonym once and "
            "a subject for each: give another file, or restore it."
        )
    known = {pseudonym: pseudonym for pseudonym in pseudonyms}
    for pseudonym, subject in rows:
        # Of two for one subject, drawn at the same time, the first counts. Subjects are called so.
        known.setdefault(normalize("NFC", subject), pseudonym)
    return known


def require_apart(key: Path | str, output: Path | str) -> None:
    """Refuse a key within the folder that it is to be kept apart from, or in that of its unfinished work.

    Args:
        key: The key.
        output: The folder of what is written under pseudonyms.

    Raises:
        UserError: If the one lies in the other.
    """
    above = Path(key).resolve().parents
    for folder in (Path(output), unfinished_folder(output)):
        if folder.resolve() in above:
            raise UserError(
                f"{key}: lies in {folder}. Whoever gets the folder would get the key to its pseudonyms: put it "
                "elsewhere."
            )


def hide_subjects(findings: Iterable[Finding], names: Mapping[str, str]) -> Iterator[Finding]:
    """Give findings other names of subjects, and take the names of files away.

    Args:
        findings: The findings.
        names: The pseudonyms by the names, of all subjects that occur.

    Yields:
        The same, renamed. A detail stays where it tells nothing but subjects and numbers.
    """
    subjects = _others_in_details(names)

    def hide(finding: Finding) -> Finding:
        detail = _NOT_TOLD
        if finding.reason in _TELL_NO_FILE:
            detail = finding.detail
        if finding.reason in _NAME_OTHERS:
            detail = subjects.sub(lambda match: match["before"] + names[match["subject"]], detail)
        return finding._replace(subject=finding.subject and names[finding.subject], file="", detail=detail)

    yield from map(hide, findings)


def _others_in_details(names: Iterable[str]) -> re.Pattern[str]:
    """A pattern of subjects where details name them: one may be called *2*, as slices and measured values are."""
    ordered = sorted(filter(None, names), key=len, reverse=True)
    subject = "|".join(map(re.escape, ordered)) or "(?!)"
    return re.compile(
        rf"(?P<before>identical to |those of |a contour of |, )(?P<subject>{subject})(?= [^,]* slice \d|, |$)"
    )


def name_stacks(
    folder: Path | str, key: Path | str | None, output: Path | str, series: int | str | None = None
) -> dict[str, str]:
    """Give the stacks of an inference names that tell nothing.

    A stack of a datalist is called by the pseudonym of its subject, and its phase. Of any other it is not known whose
    it is: it gets a pseudonym of its own, and the key holds its absolute path.

    Args:
        folder: The path of the stacks, as for :func:`~monai_iln.datasets.inference.find_stacks`.
        key: The table of pseudonyms, see :func:`draw_pseudonyms`. ``None`` renames nothing.
        output: The folder of the masks, which the key is kept apart from.
        series: The stack that is chosen of DICOM files, as for :func:`~monai_iln.datasets.inference.find_stacks`.

    Returns:
        The names by the paths; none without a key.

    Raises:
        UserError: If the key cannot be used or lies in the folder of the masks, there are no stacks, or two of them
            have one subject and phase.
    """
    if key is None:
        return {}
    require_apart(key, output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told where stacks are asked for
        stacks = find_stacks(folder, series)
    owners = {stack: (str(Path(stack).resolve()), "") for stack in stacks}
    if (Path(folder) / FILE_NAME).is_file():
        owners = {str(Path(item["image"])): (item["subject"], f"_{item['phase']}") for item in read_datalist(folder)}
    pseudonyms = draw_pseudonyms(key, [subject for subject, _ in owners.values()])
    names = {stack: pseudonyms[subject] + phase for stack, (subject, phase) in owners.items()}
    alone = len(set(names.values())) == len(stacks) and all(Path(name).name == name for name in names.values())
    rule = "masks are named after subject and phase, and would overwrite each other"
    require(alone, f"{folder}", rule, "give every stack of the datalist another subject or phase, without slashes")
    return names
