"""Stacks from images and text contours: what the layouts of Sunnybrook and RVSC have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.contours import ContourFiles, Mask, Points, rasterize, read_contour
from monai_iln.datasets.formats.dicom import Frame, stack_affine
from monai_iln.datasets.formats.dicom_pixels import read_pixels
from monai_iln.datasets.geometry.numbering import Numbering, number_frames
from monai_iln.datasets.geometry.series import find_series
from monai_iln.datasets.quality.contours import ContourFinding, check_contours, copied_contours
from monai_iln.datasets.readers.labelled import LabelledFrame, make_stacks, name_phases
from monai_iln.datasets.readers.layouts import CONTOURED_STRUCTURES
from monai_iln.datasets.readers.plan import Plan, SubjectOutput
from monai_iln.datasets.readers.short_axis import choose_series
from monai_iln.datasets.stacks import Finding, ReaderOutput
from monai_iln.errors import UserError

_MOST_NAMED = 3  # files that may be the missing one; the nearest come first


def plan_cines(
    contours: Mapping[str, ContourFiles],
    folders: Mapping[str, Collection[Path]],
    structure: str,
    *,
    stratum: Callable[[str], str] = lambda _: "",
    take: Callable[[Sequence[Frame]], list[Frame]] = list,
) -> Plan:
    """Plan to read the stacks of every subject with contours. Subjects with DICOM files alone become findings.

    Args:
        contours: The contour files of each subject.
        folders: The folders of each subject's DICOM files.
        structure: The structure that is labelled, a key of
            :data:`~monai_iln.datasets.readers.layouts.CONTOURED_STRUCTURES`.
        stratum: A function that returns the stratum of a subject.
        take: A function that returns the frames of a series to be used, with the numbers that contours have.
    """
    copies = defaultdict(list)
    for found in copied_contours(contours):
        copies[found.finding.subject].append(found)
    subjects = {}
    for subject, files in contours.items():
        contoured = _ContouredSubject(subject, stratum(subject), list(folders.get(subject, ())), files, copies[subject])
        subjects[subject] = partial(_read_subject, contoured, structure, take)
    detail = "DICOM files without contours"
    lone = sorted(folders.keys() - contours.keys())
    return Plan(
        subjects, [Finding("no-label", subject, "", None, str(min(folders[subject])), detail) for subject in lone]
    )


class _ContouredSubject(NamedTuple):
    """A subject and its files."""

    name: str
    stratum: str
    folders: list[Path]
    contours: ContourFiles
    copies: list[ContourFinding]


def _read_subject(
    subject: _ContouredSubject, structure: str, take: Callable[[Sequence[Frame]], list[Frame]]
) -> SubjectOutput:
    series, damaged = find_series(subject.folders)
    taken = [frames for frames in map(take, series) if frames]
    stacks, findings = read_cine(subject.name, subject.stratum, taken, subject.contours, structure, subject.copies)
    unreadable = [Finding("unreadable", subject.name, "", None, str(path), str(error)) for path, error in damaged]
    return SubjectOutput(stacks, unreadable + findings)


def read_cine(
    subject: str,
    stratum: str,
    series: Sequence[Sequence[Frame]],
    contours: ContourFiles,
    structure: str,
    copies: Sequence[ContourFinding] = (),
) -> ReaderOutput:
    """Read the ED and the ES stack of a subject from its DICOM series and contours.

    Args:
        subject: The subject's name.
        stratum: The subject's stratum, see :class:`~monai_iln.datasets.stacks.Stack`.
        series: All series that there are, see :func:`choose_series`. If there is none, only the contours are checked.
        contours: The contour files of the labelled frames. Their numbers are those of the frames.
        structure: The structure that is labelled, a key of
            :data:`~monai_iln.datasets.readers.layouts.CONTOURED_STRUCTURES`.
        copies: The copies among the contours, see :func:`~monai_iln.datasets.quality.contours.copied_contours`.
    """
    points, findings = _read_contours(subject, contours)
    frames: list[Frame] = []
    if points:
        try:
            frames = choose_series(series, points)
        except UserError as error:
            findings.append(Finding("no-image", subject, "", None, str(_first_contour(contours)), str(error)))
    numbering = number_frames(frames)
    findings += _find_lost(subject, contours, points, numbering, frames, series)
    shape = frames[0].shape if frames else None
    faults = [*copies, *check_contours(subject, contours, points, shape, copies)]
    doubted = {(fault.number, kind) for fault in faults for kind in fault.kinds}
    labelled, more = _label_frames(subject, points, numbering, structure, doubted)
    findings += more
    names = name_phases(labelled, numbering.phases)
    stacks, more = make_stacks(subject, stratum, labelled, names, _cine_affine)
    findings += more
    for number, kinds, finding in faults:
        if not {*kinds} & {*CONTOURED_STRUCTURES[structure]}:
            finding = finding._replace(detail=f"{finding.detail}; the {structure} does without it", about_label=False)
        if number in numbering.places:
            slice_, phase, _ = numbering.places[number]
            finding = finding._replace(phase=names.get(phase, ""), slice=slice_ + 1)
        findings.append(finding)
    return ReaderOutput(stacks, findings)


def _label_frames(
    subject: str,
    points: Mapping[int, Mapping[str, Points]],
    numbering: Numbering,
    structure: str,
    doubted: Collection[tuple[int, str]],
) -> tuple[list[LabelledFrame], list[Finding]]:
    """The frames that have the contours of the structure, with their masks."""
    labelled, findings, undrawn = [], [], 0
    for number in sorted(points.keys() & numbering.places.keys()):
        slice_, phase, frame = numbering.places[number]
        masks = {kind: rasterize(outline, frame.shape) for kind, outline in points[number].items()}
        label = structure_mask(structure, masks)
        if label is None:
            undrawn += 1
            continue
        try:
            image = read_pixels(frame)
        except UserError as error:
            findings.append(Finding("unreadable", subject, "", slice_ + 1, str(frame.path), str(error)))
            continue
        pool = masks.get("i", np.zeros_like(label))
        if (number, "i") in doubted and "i" not in CONTOURED_STRUCTURES[structure]:
            pool = np.zeros_like(label)  # a wrong contour must not judge the label of another
        labelled.append(LabelledFrame(slice_, phase, image, label, pool, frame.path, frame))
    if undrawn:
        detail = f"{undrawn} of {len(points)} contoured frames have no contour of the {structure}"
        findings.append(Finding("not-drawn", subject, "", None, "", detail))
    return labelled, findings


def _find_lost(
    subject: str,
    contours: ContourFiles,
    numbers: Collection[int],
    numbering: Numbering,
    frames: Sequence[Frame],
    series: Sequence[Sequence[Frame]],
) -> Iterator[Finding]:
    """The misplaced frames of the short-axis series, and the contours of numbers that it does not hold."""
    for frame, detail in numbering.misplaced:
        yield Finding("misplaced-frame", subject, "", None, str(frame.path), detail)
    misplaced = {frame.instance for frame, _ in numbering.misplaced}
    for number in sorted({*numbers} - numbering.places.keys() if frames else ()):
        detail = f"{frames[0].path.parent.name} has no frame {number}"
        others = [frame for other in series for frame in other if frame.instance == number]
        if number in misplaced:
            detail = f"frame {number} is misplaced"
        elif others:
            nearest = sorted(others, key=lambda frame: _distance(frame, frames))[:_MOST_NAMED]
            detail += f"; in another series it is {' or '.join(str(frame.path) for frame in nearest)}"
        yield Finding("no-image", subject, "", None, str(contours[number][min(contours[number])]), detail)


def _distance(frame: Frame, frames: Sequence[Frame]) -> float:
    """The distance between a frame and the nearest of others, in mm."""
    positions = np.array([other.position for other in frames])
    return float(np.linalg.norm(positions - np.array(frame.position), axis=1).min())


def _read_contours(subject: str, contours: ContourFiles) -> tuple[dict[int, dict[str, Points]], list[Finding]]:
    """The points of every contour of a subject that can be read."""
    points: dict[int, dict[str, Points]] = defaultdict(dict)
    findings = []
    for number, kinds in sorted(contours.items()):
        for kind, path in sorted(kinds.items()):
            try:
                points[number][kind] = read_contour(path)
            except UserError as error:
                findings.append(Finding("unreadable", subject, "", None, str(path), str(error)))
    return dict(points), findings


def _first_contour(contours: ContourFiles) -> Path:
    kinds = contours[min(contours)]
    return kinds[min(kinds)]


def structure_mask(structure: str, masks: Mapping[str, Mask]) -> Mask | None:
    """The mask of a structure from the masks of its contours.

    Args:
        structure: A key of :data:`~monai_iln.datasets.readers.layouts.CONTOURED_STRUCTURES`. Myocardium is the
            epicardium without the endocardium; there are one or two papillary muscles.
        masks: The masks that there are, by kind of contour: ``"i"``, ``"o"``, ``"p1"``, ``"p2"``.

    Returns:
        A ``uint8`` mask of 0 and 1, or ``None`` where a contour that it needs was not drawn.
    """
    drawn = [masks[kind] for kind in CONTOURED_STRUCTURES[structure] if kind in masks]
    if structure == "papillary-muscles" and drawn:
        return np.asarray(np.bitwise_or.reduce(drawn))
    if len(drawn) < len(CONTOURED_STRUCTURES[structure]):
        return None
    if len(drawn) == 1:
        return drawn[0]
    inner, outer = drawn
    return np.where(inner > 0, 0, outer).astype(np.uint8)


def _cine_affine(members: Sequence[LabelledFrame]) -> NDArray[np.float64]:
    return stack_affine([member.frame for member in members if member.frame is not None])
