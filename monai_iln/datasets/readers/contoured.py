"""Stacks from images and text contours: what the layouts of Sunnybrook and RVSC have in common."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monai_iln.datasets.formats.contours import (
    Mask,
    Points,
    bounds,
    outline_fault,
    rasterize,
    read_contour,
    structure_mask,
)
from monai_iln.datasets.formats.dicom import Frame, find_series, number_frames, read_pixels, stack_affine, uneven_steps
from monai_iln.datasets.readers.short_axis import choose_series
from monai_iln.datasets.stacks import Finding, Reading, Stack
from monai_iln.errors import UserError

Contours = Mapping[int, Mapping[str, Path]]  # frame number -> kind of contour -> file
Pixels = NDArray[np.generic]

# Of the endocardium's pixels. The worst of the real pairs has 1.8 %, the best of nine wrong ones 19.5 %.
_MAX_OUTSIDE_EPICARDIUM = 0.05
_NEAR_ENDS = 0.25  # of the cycle; real end diastoles lie within 0.2 of its ends, end systoles nearly all beyond 0.25


@dataclass(frozen=True)
class LabelledFrame:
    """An image with its masks; slice and phase count from 0."""

    slice: int
    phase: int
    image: Pixels
    label: Mask
    pool: Mask
    file: Path
    frame: Frame | None = None


def read_contours(subject: str, contours: Contours) -> tuple[dict[int, dict[str, Points]], list[Finding]]:
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


def copied_contours(contours: Mapping[str, Contours]) -> Iterator[tuple[int, Finding]]:
    """Contours that are byte copies of another's, of another subject or frame, with the numbers of their frames.

    Where one of the subjects holds the whole pair, an epicardium around its endocardium, and another does not, the copy
    is the other's.
    """
    holders: dict[bytes, list[tuple[str, int, str]]] = defaultdict(list)
    for subject, numbers in contours.items():
        for number, kinds in numbers.items():
            for kind, path in kinds.items():
                with suppress(OSError):  # told when it is read as a contour
                    holders[hashlib.sha256(path.read_bytes()).digest()].append((subject, number, kind))
    for group in holders.values():
        if len(group) < 2:
            continue
        fits = [_pair_fits(contours[subject][number]) for subject, number, _ in group]
        for (subject, number, kind), fit in zip(group, fits, strict=True):
            if fit and not all(fits) and len({subject for subject, _, _ in group}) > 1:
                continue
            others = ", ".join(sorted({other for other, _, _ in group} - {subject})) or "another frame"
            path = contours[subject][number][kind]
            yield (
                number,
                Finding("copied-contour", subject, "", None, str(path), f"byte for byte a contour of {others}"),
            )


def _pair_fits(kinds: Mapping[str, Path]) -> bool:
    try:
        return _outside_epicardium(read_contour(kinds["i"]), read_contour(kinds["o"])) <= _MAX_OUTSIDE_EPICARDIUM
    except (KeyError, UserError):
        return False


def _outside_epicardium(inner: Points, outer: Points) -> float:
    """The fraction of the endocardium that lies outside the epicardium."""
    low, shape = bounds(np.concatenate([inner, outer]))
    endocardium, epicardium = (rasterize(points - low, shape) for points in (inner, outer))
    return float((endocardium & ~epicardium & 1).sum() / max(endocardium.sum(), 1))


def check_contours(
    subject: str, contours: Contours, points: Mapping[int, Mapping[str, Points]], shape: tuple[int, int] | None = None
) -> Iterator[tuple[int, Finding]]:
    """What the contours of a subject say against themselves, with the numbers of their frames.

    Args:
        subject: whose they are.
        contours: their files.
        points: their points.
        shape: rows and columns of the images, ``None`` where there are none.
    """
    for number, kinds in sorted(points.items()):
        for kind, outline in sorted(kinds.items()):
            if fault := outline_fault(outline):
                yield number, Finding("broken-outline", subject, "", None, str(contours[number][kind]), fault)
            if shape is not None and ((outline < -0.5).any() or (outline > np.array(shape[::-1])).any()):
                (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
                detail = f"x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} in {shape[1]} x {shape[0]} pixels"
                yield number, Finding("outside-image", subject, "", None, str(contours[number][kind]), detail)
        if {"i", "o"} <= kinds.keys():
            outside = _outside_epicardium(kinds["i"], kinds["o"])
            if outside > _MAX_OUTSIDE_EPICARDIUM:
                detail = f"{outside:.0%} of the endocardium lies outside, {_MAX_OUTSIDE_EPICARDIUM:.0%} may"
                yield number, Finding("epicardium", subject, "", None, str(contours[number]["o"]), detail)


def read_cines(
    name: str,
    contours: Mapping[str, Contours],
    folders: Mapping[str, Collection[Path]],
    structure: str,
    *,
    stratum: Callable[[str], str] = lambda _: "",
    frames: Callable[[Sequence[Frame]], list[Frame]] = list,
    progress: bool = False,
) -> Reading:
    """The stacks of every subject with contours, and a finding for those with DICOM files alone.

    Args:
        name: of the data set, for the bar.
        contours: of each subject, by frame number.
        folders: of each subject's DICOM files.
        structure: as for :func:`read_cine`.
        stratum: of a subject.
        frames: what is to be taken of a series, and by which numbers.
        progress: whether to show a bar.
    """
    reading = Reading([], [])
    doubts = defaultdict(list)
    for number, finding in copied_contours(contours):
        doubts[finding.subject].append((number, finding))
    for subject in tqdm(sorted(contours), desc=name, unit="subject", disable=not progress):
        series, damaged = find_series(folders.get(subject, ()))
        taken = [chosen for chosen in map(frames, series) if chosen]
        stacks, findings = read_cine(subject, stratum(subject), taken, contours[subject], structure, doubts[subject])
        reading.stacks.extend(stacks)
        reading.findings.extend(Finding("unreadable", subject, "", None, str(p), str(e)) for p, e in damaged)
        reading.findings.extend(findings)
    for subject in sorted(folders.keys() - contours.keys()):
        file = str(min(folders[subject]))
        reading.findings.append(Finding("no-label", subject, "", None, file, "DICOM files without contours"))
    return reading


def read_cine(
    subject: str,
    stratum: str,
    series: Sequence[Sequence[Frame]],
    contours: Contours,
    structure: str,
    doubts: Iterable[tuple[int, Finding]] = (),
) -> Reading:
    """The ED and the ES stack of a subject from its DICOM series and contours.

    Args:
        subject: its name.
        stratum: see :class:`~monai_iln.datasets.stacks.Stack`.
        series: all that there are, see :func:`choose_series`; none, and only the contours are checked.
        contours: of the labelled frames; their numbers are those of the frames.
        structure: of :data:`~monai_iln.datasets.formats.contours.STRUCTURES`, what the label holds.
        doubts: what is known against its contours already, with the numbers of their frames.
    """
    points, findings = read_contours(subject, contours)
    frames: list[Frame] = []
    if points:
        try:
            frames = choose_series(series, points)
        except UserError as error:
            first = contours[min(contours)]
            findings.append(Finding("no-image", subject, "", None, str(first[min(first)]), str(error)))
    by_number, phases = number_frames(frames)
    labelled, undrawn = [], 0
    for number in sorted(points.keys() & by_number.keys()):
        slice_, phase, frame = by_number[number]
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
        labelled.append(
            LabelledFrame(slice_, phase, image, label, masks.get("i", np.zeros_like(label)), frame.path, frame)
        )
    for number in sorted(points.keys() - by_number.keys()) if frames else ():
        file = str(contours[number][min(contours[number])])
        detail = f"{frames[0].path.parent.name} has no frame {number}"
        findings.append(Finding("no-image", subject, "", None, file, detail))
    if undrawn:
        detail = f"{undrawn} of {len(points)} contoured frames have no contour of the {structure}"
        findings.append(Finding("not-drawn", subject, "", None, "", detail))

    names = name_phases(labelled, phases)
    stacks, more = make_stacks(subject, stratum, labelled, names, _cine_affine)
    doubts = [*doubts, *check_contours(subject, contours, points, frames[0].shape if frames else None)]
    for number, finding in doubts:
        if number in by_number:
            slice_, phase, _ = by_number[number]
            finding = finding._replace(phase=names.get(phase, ""), slice=slice_ + 1)
        findings.append(finding)
    return Reading(stacks, [*findings, *more])


def name_phases(frames: Sequence[LabelledFrame], phases: int) -> dict[int, str]:
    """Which phases are ED and ES: of the two with most labelled frames ED has the larger cavity in most slices.

    A lone phase is ED if it lies near the start or the end of the cycle of so many ``phases``.
    """
    counts = Counter(frame.phase for frame in frames).most_common(2)
    if len(counts) < 2:
        return {phase: "ED" if min(phase + 1, phases - phase) <= _NEAR_ENDS * phases else "ES" for phase, _ in counts}
    one, other = ({f.slice: int((f.pool | f.label).sum()) for f in frames if f.phase == p} for p, _ in counts)
    # Slice by slice, for one wrong contour shall not decide; base and apex may be labelled in one phase only.
    votes = sum(int(np.sign(one[slice_] - other[slice_])) for slice_ in one.keys() & other.keys())
    names = ("ED", "ES") if (votes or sum(one.values()) - sum(other.values())) >= 0 else ("ES", "ED")
    return {phase: name for (phase, _), name in zip(counts, names, strict=True)}


def make_stacks(
    subject: str,
    stratum: str,
    frames: Iterable[LabelledFrame],
    names: Mapping[int, str],
    affine: Callable[[Sequence[LabelledFrame]], NDArray[np.float64]],
) -> Reading:
    """Stack labelled frames by phase; what fits in no stack is found wrong."""
    findings, usable = [], []
    frames = sorted(frames, key=lambda f: (f.slice, f.phase))
    forms = Counter(_form(frame) for frame in frames)
    for frame in frames:
        shape = (*frame.image.shape, *frame.label.shape)
        detail = reason = ""
        if shape[:2] != shape[2:] or _form(frame) != forms.most_common(1)[0][0]:
            detail = f"image {shape[:2]} and mask {shape[2:]}, size or pixel spacing unlike the subject's other frames"
            reason = "mismatch"
        elif not frame.label.any():
            reason, detail = "outside-image", "the contour or mask covers no pixel of the image"
        elif frame.phase not in names:
            reason, detail = (
                "third-phase",
                f"phase {frame.phase + 1}, while ED and ES are {sorted(p + 1 for p in names)}",
            )
        if reason:
            findings.append(Finding(reason, subject, "", frame.slice + 1, str(frame.file), detail))
        else:
            usable.append(frame)
    stacks = []
    for phase, name in sorted(names.items(), key=lambda item: item[1]):
        members = [frame for frame in usable if frame.phase == phase]
        if not members:
            continue
        depths = [frame.frame.depth for frame in members if frame.frame is not None]
        if (np.diff(depths) > 0).any() and (np.diff(depths) < 0).any():  # acquired in another order than they lie
            members.sort(key=lambda f: f.frame.depth if f.frame is not None else 0.0, reverse=depths[-1] < depths[0])
        steps = [frame.frame for frame in members if frame.frame is not None]
        if uneven_steps(steps):
            detail = "labelled slices are not evenly spaced: the affine holds their mean step"
            findings.append(Finding("uneven-slices", subject, name, None, str(members[0].file), detail))
        image, label, pool = (
            np.stack([getattr(frame, key) for frame in members], axis=-1) for key in ("image", "label", "pool")
        )
        numbers = tuple(frame.slice + 1 for frame in members)
        files = tuple(str(frame.file) for frame in members)
        stacks.append(Stack(subject, name, stratum, image, label, affine(members), numbers, files, pool))
    return Reading(stacks, findings)


def _form(frame: LabelledFrame) -> tuple[object, ...]:
    """What all frames of a stack have in common."""
    spacing = None if frame.frame is None else frame.frame.spacing
    return (*frame.image.shape, *frame.label.shape, spacing)


def _cine_affine(members: Sequence[LabelledFrame]) -> NDArray[np.float64]:
    return stack_affine([member.frame for member in members if member.frame is not None])
