"""How the labels of a subject are compared with their images and their neighbours.

Nothing here knows a data set, a file name or a subject. The limits were set on the good frames of Sunnybrook's PNG
mirror, on the right ventricles of CHLA, and on faults made for the purpose (masks moved, subjects swapped);
``docs/explanation/bad-data.md`` shows them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.quality.contrast import Array, Probe, compare, scale
from monai_iln.datasets.stacks import Finding, Stack

# Contrasts of the good frames of Sunnybrook: median 1.4, 1st percentile 0.46; of masks moved by 20 pixels: median -0.1,
# 95 % below 0.3. Around a right ventricle (CHLA) they scatter twice as much: there a single frame proves nothing.
_NO_POOL = 0.3
_LOW_CONTRAST = 0.5
# By thick_wall; the medians of good subjects are 0.86 and more, 0.85 and more.
_NO_POOL_IN_SUBJECT = {True: 0.5, False: 0.3}
# By thick_wall, contrast and distance from the neighbours' centres in sides of the image: doubtful below and above. No
# good frame of Sunnybrook is both, 99.6 % of masks moved by 20 pixels are.
_OFF_CENTRE = {True: (0.7, 0.03), False: (0.3, 0.06)}
_MOST_WRONG = 1 / 3  # of a subject's frames, before the others are not believed either; good subjects have 6 %
_DARK = 0.35  # of the brightness under the subject's other masks; good frames of Sunnybrook 0.47 and more
_JUMP = 2.5  # against the geometric mean of the neighbours; 99 % of good frames lie within 1.9
_DIGEST_LETTERS = 32  # 128 bits
_SYSTOLIC_GROWTH = 1.25  # ES against ED; 99 % of good slices lie below 1.08


@dataclass(frozen=True)
class LabelledSlice:
    """One slice of a stack, ready to be compared."""

    stack: Stack
    index: int
    scaled: NDArray[np.float32]
    probe: Probe
    contrast: float

    @property
    def number(self) -> int:
        return self.stack.slices[self.index]

    @property
    def key(self) -> tuple[str, int]:
        """The phase and the number, by which slices of different subjects are compared."""
        return self.stack.phase, self.number

    @property
    def centre(self) -> Array:
        """The centre of the mask, (row, column) in pixels."""
        corner = np.array([part.start for part in self.probe.window])
        return np.asarray(np.mean(np.nonzero(self.probe.inside), axis=1) + corner)

    @property
    def brightness(self) -> float:
        """The mean brightness under the mask, as a part of the image's brightest."""
        return float(self.scaled[self.probe.window][self.probe.inside].mean())

    def finding(self, reason: str, detail: str) -> Finding:
        """A finding about the slice."""
        return _finding(reason, self.stack, self.index, detail)


class Inspection(NamedTuple):
    """The inspection of one subject.

    Attributes:
        findings: The findings, with the reasons ``background``, ``displaced``, ``low-contrast``, ``area-jump``,
            ``same-mask`` and ``not-inspected``.
        portrait: The numbers by which the subject is compared with others; ``None`` if no label encloses a cavity.
        images: The digests of the images, as :func:`digest_images` returns them.
    """

    findings: list[Finding]
    portrait: Portrait | None
    images: list[list[str]]


class Portrait(NamedTuple):
    """A subject in a few numbers, by which those are found that may hold the same heart.

    Attributes:
        contrast: The median contrast of its masks on its own images.
        shape: The rows and columns of its images.
        centre: The median centre of its masks, row and column in pixels.
        side: The square root of their median area, in pixels.
    """

    contrast: float
    shape: tuple[int, int]
    centre: tuple[float, float]
    side: float


def inspect_subject(stacks: Sequence[Stack]) -> Inspection:
    """Compare every label of one subject with its image and its neighbours.

    Args:
        stacks: The stacks of the subject.
    """
    slices, findings = [], []
    for stack in stacks:
        found = labelled_slices(stack)
        slices += found
        if not found:
            detail = "no cavity under or inside the label"
            findings.append(Finding("not-inspected", stack.subject, stack.phase, None, stack.file(0), detail))
    portrait = None
    if slices:
        findings += _check_blood_pools(slices)
        portrait = _portray(slices)
    findings += [*_check_areas(stacks), *_check_masks(stacks)]
    return Inspection(findings, portrait, [digest_images(stack) for stack in stacks])


def _portray(slices: Sequence[LabelledSlice]) -> Portrait:
    row, column = np.median([slice_.centre for slice_ in slices], axis=0)
    area = np.median([np.count_nonzero(slice_.probe.inside) for slice_ in slices])
    rows, columns = slices[0].scaled.shape
    return Portrait(_median_contrast(slices), (rows, columns), (float(row), float(column)), float(np.sqrt(area)))


def labelled_slices(stack: Stack) -> list[LabelledSlice]:
    """The slices of a stack whose labels enclose a cavity.

    Args:
        stack: The stack.
    """
    slices = []
    for index in range(len(stack.slices)):
        probe = Probe.around(stack.cavity[..., index])
        if probe.inside.any():
            scaled = scale(stack.image[..., index])
            slices.append(LabelledSlice(stack, index, scaled, probe, compare(scaled, probe)))
    return slices


def _finding(reason: str, stack: Stack, index: int, detail: str) -> Finding:
    return Finding(reason, stack.subject, stack.phase, stack.slices[index], stack.file(index), detail)


def _median_contrast(slices: Sequence[LabelledSlice]) -> float:
    return float(np.median([slice_.contrast for slice_ in slices]))


def _check_blood_pools(slices: Sequence[LabelledSlice]) -> Iterator[Finding]:
    """Masks under which there is no blood pool, or one that is hard to tell."""
    typical, blood = _median_contrast(slices), float(np.median([slice_.brightness for slice_ in slices]))
    centres = {slice_.key: slice_.centre for slice_ in slices}
    limit = _NO_POOL_IN_SUBJECT[slices[0].stack.thick_wall]
    verdicts = [_verdict(slice_, centres, blood) for slice_ in slices]
    wrong = sum(reason in ("background", "displaced") for reason, _ in verdicts)
    for slice_, (reason, detail) in zip(slices, verdicts, strict=True):
        if typical < limit:
            detail = f"contrast {slice_.contrast:.2f}, the subject's median {typical:.2f}: below {limit}"
            yield slice_.finding("displaced", detail)
        elif wrong > _MOST_WRONG * len(slices) and reason not in ("background", "displaced"):
            yield slice_.finding("displaced", f"so are {wrong} of the subject's {len(slices)} frames")
        elif reason:
            yield slice_.finding(reason, detail)


def _verdict(slice_: LabelledSlice, centres: Mapping[tuple[str, int], Array], blood: float) -> tuple[str, str]:
    """The reason to doubt a frame by itself, if there is one, and what was measured."""
    doubtful, far = _OFF_CENTRE[slice_.stack.thick_wall]
    moved, measured = _distance(slice_, centres), f"contrast {slice_.contrast:.2f}"
    if slice_.contrast < _NO_POOL and slice_.brightness < _DARK * blood:
        return "background", f"brightness {slice_.brightness:.2f}, {blood:.2f} under the subject's other masks"
    if slice_.contrast < _NO_POOL and slice_.stack.thick_wall:
        return "displaced", f"{measured}, below {_NO_POOL}"
    if slice_.contrast < doubtful and moved > far:
        detail = f"{measured}, below {doubtful}, and {moved:.1%} of the image off the neighbours, above {far:.0%}"
        return "displaced", detail
    if slice_.contrast < _LOW_CONTRAST:
        return "low-contrast", f"{measured}, below {_LOW_CONTRAST}"
    return "", ""


def _distance(slice_: LabelledSlice, centres: Mapping[tuple[str, int], Array]) -> float:
    """The distance from the nearest mask in the next slices and the other phase, in sides of the image."""
    other = {"ED": "ES", "ES": "ED"}.get(slice_.stack.phase, "")
    near = ((slice_.stack.phase, slice_.number - 1), (slice_.stack.phase, slice_.number + 1), (other, slice_.number))
    distances = [float(np.linalg.norm(slice_.centre - centres[key])) for key in near if key in centres]
    return float(min(distances, default=0.0) / max(slice_.scaled.shape))


def _check_areas(stacks: Sequence[Stack]) -> Iterator[Finding]:
    """Masks whose area is out of line with the neighbouring slices, or grows in systole."""
    areas = {
        (stack.subject, stack.phase, number): int(np.count_nonzero(stack.cavity[..., index]))
        for stack in stacks
        for index, number in enumerate(stack.slices)
    }
    for stack in stacks:
        for index, number in enumerate(stack.slices):
            area = areas[stack.subject, stack.phase, number]
            before, after = (areas.get((stack.subject, stack.phase, number + step), 0) for step in (-1, 1))
            expected = (before * after) ** 0.5
            diastolic = areas.get((stack.subject, "ED", number), 0)
            if area and expected and not 1 / _JUMP < area / expected < _JUMP:
                yield _finding("area-jump", stack, index, f"{area} pixels between slices of {before} and {after}")
            elif stack.phase == "ES" and diastolic and area > _SYSTOLIC_GROWTH * diastolic:
                yield _finding("area-jump", stack, index, f"{area} pixels at ES, {diastolic} at ED")


def _check_masks(stacks: Sequence[Stack]) -> Iterator[Finding]:
    """Masks that occur twice in a subject. Empty ones do not count."""
    masks: dict[str, list[tuple[Stack, int]]] = defaultdict(list)
    for stack in stacks:
        for index in range(len(stack.slices)):
            label = stack.label[..., index]
            if label.any():
                masks[_digest(label)].append((stack, index))
    for group in masks.values():
        frames = [Frame(stack.subject, stack.phase, stack.slices[index], stack.file(index)) for stack, index in group]
        yield from tell_copies("same-mask", frames)


class Frame(NamedTuple):
    """A slice of a stack, by its names."""

    subject: str
    phase: str
    slice: int
    file: str


def tell_copies(reason: str, frames: Sequence[Frame]) -> Iterator[Finding]:
    """A finding for each of several frames that are identical; none for one alone.

    Args:
        reason: The reason of the findings.
        frames: The frames.
    """
    if len(frames) < 2:
        return
    names = [f"{frame.subject} {frame.phase} slice {frame.slice}" for frame in frames]
    for place, frame in enumerate(frames):
        others = [*names[: min(place, 3)], *names[place + 1 : place + 4]]
        shown = ", ".join(others[:3])
        if len(names) > 4:
            shown += f" and {len(names) - 4} more"
        yield Finding(reason, frame.subject, frame.phase, frame.slice, frame.file, f"identical to {shown}")


def digest_images(stack: Stack) -> list[str]:
    """A digest of the image of every slice; empty for one that is blank, for those are alike everywhere.

    Args:
        stack: The stack.
    """
    images = np.moveaxis(stack.image, -1, 0)
    return [_digest(image) if image.min() < image.max() else "" for image in images]


def _digest(array: Array) -> str:
    data = f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(data).hexdigest()[:_DIGEST_LETTERS]
