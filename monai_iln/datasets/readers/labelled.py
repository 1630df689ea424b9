"""Stacks from labelled frames: which phases are ED and ES, and what fits in no stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.contours import Mask
from monai_iln.datasets.formats.dicom import Frame, uneven_steps
from monai_iln.datasets.stacks import Finding, ReaderOutput, Stack

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
        if self.frame is None:
            return 0.0
        return self.frame.depth

    @property
    def form(self) -> tuple[object, ...]:
        """The sizes and the spacing, which all frames of a stack have in common."""
        shapes = (*self.image.shape, *self.label.shape)
        if self.frame is None:
            return shapes
        return (*shapes, self.frame.spacing)


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
