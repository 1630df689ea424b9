"""How labels are compared with their images, their neighbours and the other subjects.

Nothing here knows a data set, a file name or a subject. The limits were set on the good frames of Sunnybrook's PNG
mirror, on the right ventricles of CHLA, and on faults made for the purpose (masks moved, subjects swapped);
``docs/explanation/bad-data.md`` shows them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from monai_iln.datasets.progress import track
from monai_iln.datasets.stacks import Finding, Stack

Array = NDArray[Any]


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
_SYSTOLIC_GROWTH = 1.25  # ES against ED; 99 % of good slices lie below 1.08


def contrast(image: Array, mask: Array) -> float:
    r"""How much brighter a mask is than a ring around it.

    .. math:: (\mu_{mask} - \mu_{ring}) / \sqrt{\sigma_{mask}^2 + \sigma_{ring}^2}

    over intensities clipped at the 99.5th percentile; the ring starts a pixel outside the mask and is as wide as a
    64th of the image, about the wall of the left ventricle.

    Args:
        image: An array ``(H, W)``.
        mask: An array ``(H, W)``, not 0 inside.

    Returns:
        The contrast; 0 for an empty mask or one that fills the image.

    Example:
        >>> image = np.zeros((64, 64))
        >>> image[30:40, 30:40] = 1
        >>> contrast(image, image) > 10
        True
    """
    return _compare(_scale(image), _Probe.around(mask))


class _Probe(NamedTuple):
    """Where to look for a blood pool: the mask and the ring, in a window of the image."""

    window: tuple[slice, slice]
    inside: Array
    ring: Array

    @classmethod
    def around(cls, mask: Array) -> _Probe:
        width = max(2, round(max(mask.shape) / 64))
        places = np.argwhere(mask)
        window = (slice(0, 0), slice(0, 0))
        if len(places):
            starts, stops = np.maximum(places.min(axis=0) - width - 1, 0), places.max(axis=0) + width + 2
            window = (slice(starts[0], stops[0]), slice(starts[1], stops[1]))
        inside = np.asarray(mask[window]) > 0
        return cls(window, inside, binary_dilation(inside, iterations=width) & ~binary_dilation(inside))


def _scale(image: Array) -> NDArray[np.float32]:
    """The image with its 99.5th percentile scaled to 1, clipped there."""
    top = float(np.percentile(image, 99.5))
    if top <= 0:
        top = 1.0
    return np.asarray(np.minimum(image.astype(np.float32) / top, 1), np.float32)


def _compare(scaled: NDArray[np.float32], probe: _Probe) -> float:
    pool, wall = (scaled[probe.window][part] for part in (probe.inside, probe.ring))
    if not pool.size or not wall.size:
        return 0.0
    return float((pool.mean() - wall.mean()) / np.sqrt(pool.var() + wall.var() + 1e-4))


@dataclass(frozen=True)
class _LabelledSlice:
    """One slice of a stack, ready to be compared."""

    stack: Stack
    index: int
    scaled: NDArray[np.float32]
    probe: _Probe
    contrast: float

    @property
    def number(self) -> int:
        return self.stack.slices[self.index]

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
        return _finding(reason, self.stack, self.index, detail)


def inspect_stacks(stacks: Sequence[Stack], progress: bool = False) -> list[Finding]:
    """Compare every label with its image, its neighbours and the other subjects.

    Args:
        stacks: The stacks of one data set.
        progress: Shows a bar.

    Returns:
        The findings, with the reasons ``background``, ``displaced``, ``other-subject``, ``low-contrast``,
        ``area-jump``, ``same-image``, ``same-mask`` and ``not-inspected``. A frame may have several.
    """
    slices: dict[str, list[_LabelledSlice]] = defaultdict(list)
    not_inspected = []
    for stack in track(stacks, "Inspecting", "stack", progress):
        found = list(_labelled_slices(stack))
        slices[stack.subject] += found
        if not found:
            detail = "no cavity under or inside the label"
            not_inspected.append(Finding("not-inspected", stack.subject, stack.phase, None, stack.file(0), detail))
    subjects = {subject: members for subject, members in slices.items() if members}
    return [
        *not_inspected,
        *_check_blood_pools(subjects),
        *_check_other_subjects(subjects, progress),
        *_check_areas(stacks),
        *_check_copies(stacks),
    ]


def _labelled_slices(stack: Stack) -> Iterator[_LabelledSlice]:
    for index in range(len(stack.slices)):
        scaled, probe = _scale(stack.image[..., index]), _Probe.around(stack.cavity[..., index])
        if probe.inside.any():
            yield _LabelledSlice(stack, index, scaled, probe, _compare(scaled, probe))


def _finding(reason: str, stack: Stack, index: int, detail: str) -> Finding:
    return Finding(reason, stack.subject, stack.phase, stack.slices[index], stack.file(index), detail)


def _median_contrast(slices: Sequence[_LabelledSlice]) -> float:
    return float(np.median([slice_.contrast for slice_ in slices]))


def _check_blood_pools(subjects: Mapping[str, Sequence[_LabelledSlice]]) -> Iterator[Finding]:
    """Masks under which there is no blood pool, or one that is hard to tell."""
    for slices in subjects.values():
        typical, blood = _median_contrast(slices), float(np.median([slice_.brightness for slice_ in slices]))
        centres = {(slice_.stack.phase, slice_.number): slice_.centre for slice_ in slices}
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


def _verdict(slice_: _LabelledSlice, centres: Mapping[tuple[str, int], Array], blood: float) -> tuple[str, str]:
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


def _distance(slice_: _LabelledSlice, centres: Mapping[tuple[str, int], Array]) -> float:
    """The distance from the nearest mask in the next slices and the other phase, in sides of the image."""
    other = {"ED": "ES", "ES": "ED"}.get(slice_.stack.phase, "")
    near = ((slice_.stack.phase, slice_.number - 1), (slice_.stack.phase, slice_.number + 1), (other, slice_.number))
    distances = [float(np.linalg.norm(slice_.centre - centres[key])) for key in near if key in centres]
    return float(min(distances, default=0.0) / max(slice_.scaled.shape))


def _check_other_subjects(subjects: Mapping[str, Sequence[_LabelledSlice]], progress: bool) -> Iterator[Finding]:
    """Subjects whose masks fit the images of another better, slice by slice."""
    own = {subject: _median_contrast(slices) for subject, slices in subjects.items()}
    # Masks that lie on another's heart have a low contrast of their own: the better half need not be compared.
    doubtful = [subject for subject, value in own.items() if value <= np.median(list(own.values()))]
    for subject in track(doubtful, "Comparing", "subject", progress):
        fits = {other: _fit(subjects[subject], subjects[other]) for other in subjects if other != subject}
        best = max(fits, key=lambda other: fits[other], default=None)
        if best is not None and fits[best] > own[subject]:
            detail = f"median contrast {own[subject]:.2f} on its own images, {fits[best]:.2f} on those of {best}"
            for slice_ in subjects[subject]:
                yield slice_.finding("other-subject", detail)


def _fit(masked: Sequence[_LabelledSlice], imaged: Sequence[_LabelledSlice]) -> float:
    """The median contrast of one subject's masks on another's images of equal phase and slice; -inf if they are few."""
    images = {(slice_.stack.phase, slice_.number): slice_.scaled for slice_ in imaged}
    values = []
    for slice_ in masked:
        image = images.get((slice_.stack.phase, slice_.number))
        if image is not None and image.shape == slice_.scaled.shape:
            values.append(_compare(image, slice_.probe))
    if len(values) <= max(len(masked) / 2, 2):
        return -np.inf
    return float(np.median(values))


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


def _check_copies(stacks: Sequence[Stack]) -> Iterator[Finding]:
    """Images that occur twice in the data set, and masks that occur twice in a subject. Empty ones do not count."""
    images: dict[Hashable, list[tuple[Stack, int]]] = defaultdict(list)
    masks: dict[Hashable, list[tuple[Stack, int]]] = defaultdict(list)
    for stack in stacks:
        for index in range(len(stack.slices)):
            image, label = stack.image[..., index], stack.label[..., index]
            if label.any() and image.min() < image.max():
                images[_digest(image)].append((stack, index))
                masks[stack.subject, _digest(label)].append((stack, index))
    for reason, holders in (("same-image", images), ("same-mask", masks)):
        for group in holders.values():
            if len(group) > 1:
                yield from _copies(reason, group)


def _copies(reason: str, group: Sequence[tuple[Stack, int]]) -> Iterator[Finding]:
    """A finding for each slice of a group that is identical."""
    names = [f"{stack.subject} {stack.phase} slice {stack.slices[index]}" for stack, index in group]
    for place, (stack, index) in enumerate(group):
        others = names[:place] + names[place + 1 :]
        shown = ", ".join(others[:3])
        if len(others) > 3:
            shown += f" and {len(others) - 3} more"
        yield _finding(reason, stack, index, f"identical to {shown}")


def _digest(array: Array) -> bytes:
    return hashlib.sha256(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes()).digest()
