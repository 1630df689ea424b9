"""Right Ventricle Segmentation Challenge (RVSC) 2012: DICOM cine and text contours at ED and ES.

``P01dicom/P01-0080.dcm``, ``P01contours-manual/P01-0080-icontour-manual.txt`` (i endocardium, o epicardium) and
``P01list.txt``, which names the contours by Windows paths. Numbers in names count all frames of a study, from 0.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PureWindowsPath

from monai_iln.datasets.formats.contours import FILE_NAME, ContourFiles, read_text
from monai_iln.datasets.formats.dicom import Frame
from monai_iln.datasets.readers.contoured import plan_cines
from monai_iln.datasets.readers.plan import Plan, SubjectOutput
from monai_iln.datasets.readers.structures import Label
from monai_iln.datasets.stacks import Finding
from monai_iln.errors import UserError

#: The structures, and how contours call them.
LABELS = {"right-ventricle": "endocardium", "epicardium": "epicardium", "myocardium": "myocardium"}
_SUBJECT = re.compile(r"P\d+", re.IGNORECASE)
_FRAME = re.compile(r"(?P<prefix>P\d+)-(?P<number>\d{1,9})\.dcm", re.IGNORECASE)
_LIST = re.compile(r"(?P<prefix>P\d+)list\.txt", re.IGNORECASE)


def holds(files: Iterable[Path]) -> bool:
    """Whether there are contours that are named as here."""
    matches = (FILE_NAME.fullmatch(path.name) for path in files)
    return any(match and _SUBJECT.fullmatch(match["prefix"]) for match in matches)


def plan(files: Iterable[Path], label: Label) -> Plan:
    """Plan to read every labelled frame, one stack for each subject and phase. Subjects are called P01 and so on.

    Args:
        files: All files of the sources.
        label: A key of :data:`LABELS`.

    Raises:
        UserError: If the label is another, or two files are of one frame.
    """
    if not isinstance(label, str) or label not in LABELS:
        raise UserError(f"label {label!r}: RVSC has {', '.join(LABELS)}. Choose one of them.")
    contours: dict[str, dict[int, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    folders: dict[str, set[Path]] = defaultdict(set)
    lists: dict[str, Path] = {}
    for path in files:
        if match := FILE_NAME.fullmatch(path.name):
            twin = contours[match["prefix"].upper()][int(match["number"])].setdefault(match["kind"].lower(), path)
            if twin != path:
                raise UserError(f"{path}: the same frame as {twin}. A frame has one contour of a kind: keep one.")
        elif match := _FRAME.fullmatch(path.name):
            folders[match["prefix"].upper()].add(path.parent)
        elif match := _LIST.fullmatch(path.name):
            lists[match["prefix"].upper()] = path
    cines = plan_cines(contours, folders, LABELS[label], take=_number_by_name)
    subjects = {
        subject: partial(_read_subject, read, subject, lists.get(subject), contours[subject])
        for subject, read in cines.subjects.items()
    }
    return replace(cines, subjects=subjects)


def _read_subject(
    read: Callable[[], SubjectOutput], subject: str, listing: Path | None, contours: ContourFiles
) -> SubjectOutput:
    output = read()
    findings = list(output.findings)
    if listing is not None:
        findings += _find_missing(subject, listing, contours)
    return SubjectOutput([replace(stack, thick_wall=False) for stack in output.stacks], findings)


def _number_by_name(frames: Sequence[Frame]) -> list[Frame]:
    """The frames that are named as here, with the numbers of their names."""
    matches = [(frame, _FRAME.fullmatch(frame.path.name)) for frame in frames]
    return [
        replace(frame, instance=int(match["number"]), header_number=frame.instance) for frame, match in matches if match
    ]


def _find_missing(subject: str, listing: Path, contours: ContourFiles) -> list[Finding]:
    """Contours that the list names and that are not there."""
    try:
        lines = read_text(listing, "latin-1").splitlines()
    except (OSError, UnicodeError) as error:
        return [Finding("unreadable", subject, "", None, str(listing), str(error))]
    named = {PureWindowsPath(line.strip()).name for line in lines}
    there = {path.name for kinds in contours.values() for path in kinds.values()}
    missing = sorted(name for name in named - there if FILE_NAME.fullmatch(name))
    return [
        Finding("no-label", subject, "", None, str(listing), f"names {name}, which is not there") for name in missing
    ]
