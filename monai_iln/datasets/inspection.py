"""Bad data: what is looked for in labelled frames, and what is done about it.

Nothing here knows a data set, a file name or a subject. The limits were set on the good frames of Sunnybrook's PNG
mirror, on the right ventricles of CHLA, and on faults made for the purpose (masks moved, subjects swapped);
``docs/explanation/bad-data.md`` shows them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.errors import UserError

Array = NDArray[Any]


class Reason(NamedTuple):
    """Why a frame is doubtful; ``action`` is ``"left out"`` where there is nothing to train on, else the default."""

    action: str
    meaning: str


#: All reasons, with what is done by default: *exclude* where a mask is surely or very probably wrong, *keep* where the
#: good frames of real data look so, too.
REASONS = {
    "unreadable": Reason("left out", "a file is missing, truncated, damaged or holds what it must not"),
    "no-image": Reason("left out", "there is a label, but no image of that number or subject"),
    "no-label": Reason("left out", "there is an image, but no label"),
    "not-drawn": Reason("left out", "the chosen structure was not outlined there"),
    "mismatch": Reason("left out", "image and label differ in size or geometry, or from the rest of the subject"),
    "label-values": Reason("left out", "the label holds values that the data set does not define"),
    "empty-label": Reason("left out", "the label of a whole phase is empty"),
    "third-phase": Reason("left out", "labelled in a phase that is neither ED nor ES"),
    "outside-image": Reason("exclude", "the contour leaves the image"),
    "broken-outline": Reason("exclude", "the contour has a gap or a spike: points are missing or damaged"),
    "epicardium": Reason("exclude", "the epicardium does not contain the endocardium: one of the two is wrong"),
    "copied-contour": Reason("exclude", "byte for byte the contour of another subject"),
    "same-image": Reason("exclude", "the image is identical to another frame's: one of the two labels is wrong"),
    "background": Reason("exclude", "the mask lies in the background: in air, outside the body or in a lung"),
    "displaced": Reason("exclude", "no blood pool under the mask, in this frame or in most frames of the subject"),
    "other-subject": Reason("exclude", "the subject's masks fit the images of another subject better than its own"),
    "low-contrast": Reason("keep", "the blood pool under the mask is hard to tell from its surroundings"),
    "area-jump": Reason("keep", "the area is out of line with the neighbouring slices, or grows in systole"),
    "not-inspected": Reason("keep", "the label encloses no cavity by which it could be compared with its image"),
    "uneven-slices": Reason("keep", "the labelled slices are not evenly spaced; the affine holds their mean step"),
}

# Contrasts of the good frames of Sunnybrook: median 1.4, 1st percentile 0.46; of masks moved by 20 pixels: median -0.1,
# 95 % below 0.3. Around a right ventricle (CHLA) they scatter twice as much: there a single frame proves nothing.
_NO_POOL = 0.3
_LOW_CONTRAST = 0.5
_NO_POOL_IN_SUBJECT = {
    True: 0.5,
    False: 0.3,
}  # by thick_wall; medians of good subjects are 0.86 and more, 0.85 and more
# By thick_wall, contrast and distance from the neighbours' centres in sides of the image: doubtful below and above. No
# good frame of Sunnybrook is both, 99.6 % of masks moved by 20 pixels are.
_OFF_CENTRE = {True: (0.7, 0.03), False: (0.3, 0.06)}
_DARK = 0.35  # of the brightness under the subject's other masks; good frames of Sunnybrook 0.47 and more
_JUMP = 2.5  # against the geometric mean of the neighbours; 99 % of good frames lie within 1.9
_SYSTOLIC_GROWTH = 1.25  # ES against ED; 99 % of good slices lie below 1.08


def contrast(image: Array, mask: Array) -> float:
    r"""How much brighter a mask is than a ring around it.

    .. math:: (\mu_{mask} - \mu_{ring}) / \sqrt{\sigma_{mask}^2 + \sigma_{ring}^2}

    over intensities clipped at the 99.5th percentile; the ring starts a pixel outside the mask and is as wide as a
    64th of the image, about the wall of the left ventricle.

    Args:
        image: ``(H, W)``.
        mask: ``(H, W)``, not 0 inside.

    Returns:
        The contrast; 0 for an empty mask or one that fills the image.

    Example:
        >>> image = np.zeros((64, 64))
        >>> image[30:40, 30:40] = 1
        >>> contrast(image, image) > 10
        True
    """
    return _compare(_scaled(image), _Probe.around(mask))


class _Probe(NamedTuple):
    """Where to look for a blood pool: the mask and the ring, in a window of the image."""

    window: tuple[slice, slice]
    inside: Array
    ring: Array

    @classmethod
    def around(cls, mask: Array) -> _Probe:
        width = max(2, round(max(mask.shape) / 64))
        extents = [np.flatnonzero(np.any(mask, axis=axis)) for axis in (1, 0)]
        rows, columns = (slice(max(e[0] - width - 1, 0), e[-1] + width + 2) if len(e) else slice(0, 0) for e in extents)
        inside = np.asarray(mask[rows, columns]) > 0
        return cls((rows, columns), inside, binary_dilation(inside, iterations=width) & ~binary_dilation(inside))


def _scaled(image: Array) -> NDArray[np.float32]:
    """From 0 to 1 at the 99.5th percentile, clipped there."""
    top = float(np.percentile(image, 99.5))
    scaled: NDArray[np.float32] = np.minimum(image.astype(np.float32) / (top if top > 0 else 1), 1)
    return scaled


def _compare(scaled: NDArray[np.float32], probe: _Probe) -> float:
    pool, wall = (scaled[probe.window][part] for part in (probe.inside, probe.ring))
    if not pool.size or not wall.size:
        return 0.0
    return float((pool.mean() - wall.mean()) / np.sqrt(pool.var() + wall.var() + 1e-4))


@dataclass(frozen=True)
class _View:
    """One slice, ready to be compared."""

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
        """Of the mask, (row, column) in pixels."""
        corner = np.array([part.start for part in self.probe.window])
        return np.asarray(np.mean(np.nonzero(self.probe.inside), axis=1) + corner)

    @property
    def brightness(self) -> float:
        """Under the mask, as a part of the image's brightest."""
        return float(self.scaled[self.probe.window][self.probe.inside].mean())

    def finding(self, reason: str, detail: str) -> Finding:
        return _finding(reason, self.stack, self.index, detail)


def inspect_stacks(stacks: Sequence[Stack], progress: bool = False) -> list[Finding]:
    """Compare every label with its image, its neighbours and the other subjects.

    Args:
        stacks: of one data set.
        progress: whether to show a bar.

    Returns:
        Findings with the reasons ``background``, ``displaced``, ``other-subject``, ``low-contrast``, ``area-jump`` and
        ``same-image``; a frame may have several.
    """
    views: dict[str, list[_View]] = defaultdict(list)
    for stack in tqdm(stacks, desc="Inspecting", unit="stack", disable=not progress):
        for index in range(len(stack.slices)):
            scaled, probe = _scaled(stack.image[..., index]), _Probe.around(stack.cavity[..., index])
            if probe.inside.any():
                views[stack.subject].append(_View(stack, index, scaled, probe, _compare(scaled, probe)))
    compared = {(view.stack.subject, view.stack.phase) for members in views.values() for view in members}
    return [
        *(
            Finding("not-inspected", s.subject, s.phase, None, s.file(0), "no cavity under or inside the label")
            for s in stacks
            if (s.subject, s.phase) not in compared
        ),
        *_pools(views),
        *_other_subjects(views, progress),
        *_areas(stacks),
        *_same_images(stacks),
    ]


def _finding(reason: str, stack: Stack, index: int, detail: str) -> Finding:
    return Finding(reason, stack.subject, stack.phase, stack.slices[index], stack.file(index), detail)


def _typical(views: Sequence[_View]) -> float:
    return float(np.median([view.contrast for view in views]))


def _pools(subjects: Mapping[str, Sequence[_View]]) -> Iterator[Finding]:
    for views in subjects.values():
        typical, blood = _typical(views), float(np.median([view.brightness for view in views]))
        centres = {(view.stack.phase, view.number): view.centre for view in views}
        for view in views:
            doubtful, far = _OFF_CENTRE[view.stack.thick_wall]
            moved, limit = _distance(view, centres), _NO_POOL_IN_SUBJECT[view.stack.thick_wall]
            measured = f"contrast {view.contrast:.2f}"
            if typical < limit:
                yield view.finding("displaced", f"{measured}, the subject's median {typical:.2f}: below {limit}")
            elif view.contrast < _NO_POOL and view.brightness < _DARK * blood:
                detail = f"brightness {view.brightness:.2f}, {blood:.2f} under the subject's other masks"
                yield view.finding("background", detail)
            elif view.contrast < _NO_POOL and view.stack.thick_wall:
                yield view.finding("displaced", f"{measured}, below {_NO_POOL}")
            elif view.contrast < doubtful and moved > far:
                detail = (
                    f"{measured}, below {doubtful}, and {moved:.1%} of the image off the neighbours, above {far:.0%}"
                )
                yield view.finding("displaced", detail)
            elif view.contrast < _LOW_CONTRAST:
                yield view.finding("low-contrast", f"{measured}, below {_LOW_CONTRAST}")


def _distance(view: _View, centres: Mapping[tuple[str, int], Array]) -> float:
    """How far a mask lies from the nearest of those in the next slices and the other phase, in sides of the image."""
    other = {"ED": "ES", "ES": "ED"}.get(view.stack.phase, "")
    near = ((view.stack.phase, view.number - 1), (view.stack.phase, view.number + 1), (other, view.number))
    distances = [float(np.linalg.norm(view.centre - centres[key])) for key in near if key in centres]
    return float(min(distances, default=0.0) / max(view.scaled.shape))


def _other_subjects(subjects: Mapping[str, Sequence[_View]], progress: bool) -> Iterator[Finding]:
    """Masks of one subject on the images of another, slice by slice."""
    own = {subject: _typical(views) for subject, views in subjects.items()}
    # Masks that lie on another's heart have a low contrast of their own: the better half need not be compared.
    doubtful = [subject for subject, value in own.items() if value <= np.median(list(own.values()))]
    for subject in tqdm(doubtful, desc="Comparing", unit="subject", disable=not progress):
        fits = {other: _fit(subjects[subject], subjects[other]) for other in subjects if other != subject}
        best = max(fits, key=lambda other: fits[other], default=None)
        if best is not None and fits[best] > own[subject]:
            detail = f"median contrast {own[subject]:.2f} on its own images, {fits[best]:.2f} on those of {best}"
            for view in subjects[subject]:
                yield view.finding("other-subject", detail)


def _fit(masked: Sequence[_View], imaged: Sequence[_View]) -> float:
    """The median contrast of one subject's masks on another's images of equal phase and slice; -inf without enough."""
    images = {(view.stack.phase, view.number): view.scaled for view in imaged}
    values = []
    for view in masked:
        image = images.get((view.stack.phase, view.number))
        if image is not None and image.shape == view.scaled.shape:
            values.append(_compare(image, view.probe))
    return float(np.median(values)) if len(values) > max(len(masked) / 2, 2) else -np.inf


def _areas(stacks: Sequence[Stack]) -> Iterator[Finding]:
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


def _same_images(stacks: Sequence[Stack]) -> Iterator[Finding]:
    holders: dict[bytes, list[tuple[Stack, int]]] = defaultdict(list)
    for stack in stacks:
        for index in range(len(stack.slices)):
            image = np.ascontiguousarray(stack.image[..., index])
            holders[hashlib.sha256(f"{image.shape}{image.dtype}".encode() + image.tobytes()).digest()].append(
                (stack, index)
            )
    for group in holders.values():
        for stack, index in group if len(group) > 1 else ():
            others = [f"{s.subject} {s.phase} slice {s.slices[i]}" for s, i in group if s is not stack or i != index]
            yield _finding("same-image", stack, index, f"identical to {', '.join(others)}")


def actions(keep: Collection[str] = (), exclude: Collection[str] = ()) -> dict[str, str]:
    """What is done for each reason: the defaults, but for those named.

    Raises:
        UserError: if a name is no reason, is named twice, or stands for frames of which there is nothing to keep.
    """
    free = [name for name, reason in REASONS.items() if reason.action != "left out"]
    for name in [*keep, *exclude]:
        if name not in free or (name in keep and name in exclude):
            raise UserError(
                f"{name!r} to be kept or excluded: each reason can be given once, and is one of {', '.join(free)}. "
                "Choose from those."
            )
    chosen = {name: reason.action for name, reason in REASONS.items()}
    return chosen | dict.fromkeys(keep, "keep") | dict.fromkeys(exclude, "exclude")


def excluded(
    stacks: Sequence[Stack], findings: Sequence[Finding], chosen: Mapping[str, str]
) -> tuple[list[Stack], list[Finding]]:
    """The stacks without the slices that a finding excludes, and findings where that leaves a gap between slices."""
    out = {(f.subject, f.phase, f.slice) for f in findings if chosen[f.reason] == "exclude"}
    kept, gaps = [], []
    for stack in stacks:
        indices = [i for i, number in enumerate(stack.slices) if (stack.subject, stack.phase, number) not in out]
        if len(indices) == len(stack.slices):
            kept.append(stack)
        elif indices:
            kept.append(_take(stack, indices))
            if len({*np.diff(indices)}) > 1:
                detail = "exclusion leaves a gap between the slices: the affine holds their mean step"
                gaps.append(Finding("uneven-slices", stack.subject, stack.phase, None, kept[-1].file(0), detail))
    return kept, gaps


def _take(stack: Stack, indices: Sequence[int]) -> Stack:
    """Some of the slices; the step of the affine grows where one between them is missing."""
    affine = stack.affine.copy()
    affine[:3, 3] += affine[:3, 2] * indices[0]
    if len(indices) > 1:
        affine[:3, 2] *= (indices[-1] - indices[0]) / (len(indices) - 1)
    return replace(
        stack,
        image=stack.image[..., indices],
        label=stack.label[..., indices],
        pool=None if stack.pool is None else stack.pool[..., indices],
        affine=affine,
        slices=tuple(stack.slices[index] for index in indices),
        files=tuple(stack.files[index] for index in indices) if stack.files else (),
    )
