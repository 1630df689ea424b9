"""Stacks from images and text contours: what the layouts of Sunnybrook and RVSC have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.contours import ContourFiles, Mask, Points, rasterize, read_contour
from monai_iln.datasets.formats.dicom import Frame, find_series, number_frames, stack_affine, uneven_steps
from monai_iln.datasets.formats.dicom_pixels import read_pixels
from monai_iln.datasets.progress import track
from monai_iln.datasets.quality.contours import NumberedFinding, check_contours, copied_contours
from monai_iln.datasets.readers.layouts import CONTOURED_STRUCTURES
from monai_iln.datasets.readers.short_axis import choose_series
from monai_iln.datasets.stacks import Finding, ReaderOutput, Stack
from monai_iln.errors import UserError

_NEAR_ENDS = 0.25  # of the cycle; real end diastoles lie within 0.2 of its ends, end systoles nearly all beyond 0.25


@dataclass(frozen=True)
class LabelledFrame:
    """An image with its masks.

    Attributes:
        slice: The number of the slice, from 0.
        phase: The number of the phase, from 0.
        image: The image.
        label: The mask of the structure.
        pool: The mask of the blood pool.
        file: The file of the image.
        frame: The DICOM frame, where there is one.
    """

    slice: int
    phase: int
    image: NDArray[np.generic]
    label: Mask
    pool: Mask
    file: Path
    frame: Frame | None = None

    @property
    def depth(self) -> float:
        """Where the frame lies along its normal, 0 where that is not known."""
        return 0.0 if self.frame is None else self.frame.depth

    @property
    def form(self) -> tuple[object, ...]:
        """The sizes and the spacing, which all frames of a stack have in common."""
        shapes = (*self.image.shape, *self.label.shape)
        return shapes if self.frame is None else (*shapes, self.frame.spacing)


def read_cines(
    name: str,
    contours: Mapping[str, ContourFiles],
    folders: Mapping[str, Collection[Path]],
    structure: str,
    *,
    stratum: Callable[[str], str] = lambda _: "",
    take: Callable[[Sequence[Frame]], list[Frame]] = list,
    progress: bool = False,
) -> ReaderOutput:
    """Read the stacks of every subject with contours. Subjects with DICOM files alone become findings.

    Args:
        name: The name of the data set, for the bar.
        contours: The contour files of each subject.
        folders: The folders of each subject's DICOM files.
        structure: The structure that is labelled, a key of
            :data:`~monai_iln.datasets.readers.layouts.CONTOURED_STRUCTURES`.
        stratum: A function that returns the stratum of a subject.
        take: A function that returns the frames of a series to be used, with the numbers that contours have.
        progress: Shows a bar.
    """
    output = ReaderOutput([], [])
    known_faults = defaultdict(list)
    for number, finding in copied_contours(contours):
        known_faults[finding.subject].append((number, finding))
    for subject in track(sorted(contours), name, "subject", progress):
        series, damaged = find_series(folders.get(subject, ()))
        taken = [frames for frames in map(take, series) if frames]
        stacks, findings = read_cine(
            subject, stratum(subject), taken, contours[subject], structure, known_faults[subject]
        )
        output.stacks.extend(stacks)
        for path, error in damaged:
            output.findings.append(Finding("unreadable", subject, "", None, str(path), str(error)))
        output.findings.extend(findings)
    for subject in sorted(folders.keys() - contours.keys()):
        file = str(min(folders[subject]))
        output.findings.append(Finding("no-label", subject, "", None, file, "DICOM files without contours"))
    return output


def read_cine(
    subject: str,
    stratum: str,
    series: Sequence[Sequence[Frame]],
    contours: ContourFiles,
    structure: str,
    known_faults: Iterable[NumberedFinding] = (),
) -> ReaderOutput:
    """Read the ED and the ES stack of a subject from its DICOM series and contours.

    Args:
        subject: The subject's name.
        stratum: The subject's stratum, see :class:`~monai_iln.datasets.stacks.Stack`.
        series: All series that there are, see :func:`choose_series`. If there is none, only the contours are checked.
        contours: The contour files of the labelled frames. Their numbers are those of the frames.
        structure: The structure that is labelled, a key of
            :data:`~monai_iln.datasets.readers.layouts.CONTOURED_STRUCTURES`.
        known_faults: The findings about the contours that are known already.
    """
    points, findings = _read_contours(subject, contours)
    frames: list[Frame] = []
    if points:
        try:
            frames = choose_series(series, points)
        except UserError as error:
            findings.append(Finding("no-image", subject, "", None, str(_first_contour(contours)), str(error)))
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
        pool = masks.get("i", np.zeros_like(label))
        labelled.append(LabelledFrame(slice_, phase, image, label, pool, frame.path, frame))
    if frames:
        for number in sorted(points.keys() - by_number.keys()):
            file = str(contours[number][min(contours[number])])
            detail = f"{frames[0].path.parent.name} has no frame {number}"
            findings.append(Finding("no-image", subject, "", None, file, detail))
    if undrawn:
        detail = f"{undrawn} of {len(points)} contoured frames have no contour of the {structure}"
        findings.append(Finding("not-drawn", subject, "", None, "", detail))

    names = name_phases(labelled, phases)
    stacks, more = make_stacks(subject, stratum, labelled, names, _cine_affine)
    shape = frames[0].shape if frames else None
    for number, finding in [*known_faults, *check_contours(subject, contours, points, shape)]:
        if number in by_number:
            slice_, phase, _ = by_number[number]
            finding = finding._replace(phase=names.get(phase, ""), slice=slice_ + 1)
        findings.append(finding)
    return ReaderOutput(stacks, [*findings, *more])


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


def name_phases(frames: Sequence[LabelledFrame], phases: int) -> dict[int, str]:
    """Name the phases: of the two with most labelled frames ED has the larger cavity in most slices, ES the smaller.

    A lone phase is ED if it lies near the start or the end of the cycle.

    Args:
        frames: The labelled frames of a subject.
        phases: The number of phases in a cycle.
    """
    counts = Counter(frame.phase for frame in frames).most_common(2)
    if not counts:
        return {}
    if len(counts) == 1:
        phase = counts[0][0]
        is_diastole = min(phase + 1, phases - phase) <= _NEAR_ENDS * phases
        return {phase: "ED" if is_diastole else "ES"}
    first, second = (phase for phase, _ in counts)
    areas: dict[int, dict[int, int]] = {first: {}, second: {}}
    for frame in frames:
        if frame.phase in areas:
            areas[frame.phase][frame.slice] = int((frame.pool | frame.label).sum())
    one, other = areas[first], areas[second]
    # Slice by slice, so that one wrong contour does not decide; base and apex may be labelled in one phase only.
    votes = sum(int(np.sign(one[slice_] - other[slice_])) for slice_ in one.keys() & other.keys())
    if (votes or sum(one.values()) - sum(other.values())) >= 0:
        return {first: "ED", second: "ES"}
    return {first: "ES", second: "ED"}


def make_stacks(
    subject: str,
    stratum: str,
    frames: Iterable[LabelledFrame],
    names: Mapping[int, str],
    affine: Callable[[Sequence[LabelledFrame]], NDArray[np.float64]],
) -> ReaderOutput:
    """Stack labelled frames by phase. Frames that fit in no stack become findings.

    Args:
        subject: The subject's name.
        stratum: The subject's stratum.
        frames: The labelled frames of the subject.
        names: The names of the phases that become stacks.
        affine: A function that returns the affine of a stack.
    """
    findings, usable = [], []
    frames = sorted(frames, key=lambda f: (f.slice, f.phase))
    usual_form = Counter(frame.form for frame in frames).most_common(1)
    for frame in frames:
        if fault := _fault(frame, usual_form[0][0], names):
            findings.append(Finding(fault[0], subject, "", frame.slice + 1, str(frame.file), fault[1]))
        else:
            usable.append(frame)
    stacks = []
    for phase, name in sorted(names.items(), key=lambda item: item[1]):
        members = [frame for frame in usable if frame.phase == phase]
        if not members:
            continue
        steps = np.diff([member.depth for member in members])
        if (steps > 0).any() and (steps < 0).any():  # acquired in another order than they lie
            members.sort(key=lambda f: f.depth, reverse=members[-1].depth < members[0].depth)
        if uneven_steps([frame.frame for frame in members if frame.frame is not None]):
            detail = "labelled slices are not evenly spaced: the affine holds their mean step"
            findings.append(Finding("uneven-slices", subject, name, None, str(members[0].file), detail))
        stack = Stack(
            subject=subject,
            phase=name,
            stratum=stratum,
            image=np.stack([frame.image for frame in members], axis=-1),
            label=np.stack([frame.label for frame in members], axis=-1),
            affine=affine(members),
            slices=tuple(frame.slice + 1 for frame in members),
            files=tuple(str(frame.file) for frame in members),
            pool=np.stack([frame.pool for frame in members], axis=-1),
        )
        stacks.append(stack)
    return ReaderOutput(stacks, findings)


def _fault(frame: LabelledFrame, usual_form: tuple[object, ...], names: Mapping[int, str]) -> tuple[str, str] | None:
    """Why a frame fits in no stack, as reason and detail."""
    image, mask = frame.image.shape, frame.label.shape
    if image != mask or frame.form != usual_form:
        detail = f"image {image} and mask {mask}, size or pixel spacing unlike the subject's other frames"
        return "mismatch", detail
    if not frame.label.any():
        return "outside-image", "the contour or mask covers no pixel of the image"
    if frame.phase not in names:
        return "third-phase", f"phase {frame.phase + 1}, while ED and ES are {sorted(p + 1 for p in names)}"
    return None


def _cine_affine(members: Sequence[LabelledFrame]) -> NDArray[np.float64]:
    return stack_affine([member.frame for member in members if member.frame is not None])
