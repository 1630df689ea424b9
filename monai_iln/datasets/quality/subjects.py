"""How subjects are compared with one another: images that occur twice, and masks that fit another's images better.

Both would grow with the square of the number of subjects if each was compared with all. Images are compared by digests.
The masks of a subject are compared with few others. Their contrast on its own images must be low, and the others are
those that may hold the heart on which they were drawn: either masks were exchanged, and then the other is as doubtful,
or the other has the right masks, and then they lie in the same place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy.spatial import KDTree

from monai_iln.datasets.progress import track
from monai_iln.datasets.quality.contrast import Array, Probe, compare
from monai_iln.datasets.quality.inspection import Frame, Portrait, inspect_subject, labelled_slices, tell_copies
from monai_iln.datasets.stacks import Finding, Stack

# Medians of a subject's contrasts. Of 108 good subjects of Sunnybrook and CHLA one lies below 0.86; of masks on the
# images of others 98 % and 99.9 % do. Where all are low, a doubtful one is low among them: the best quarter of
# these data starts at 1.6 and 1.8. To doubt more accuses good subjects: among thousands, some image fits any mask.
_DOUBTFUL = 0.86
_DOUBTFUL_PART = 0.55
_NEAREST = 5  # subjects with masks of like place and size

Masks = Mapping[tuple[str, int], Probe]  # by phase and slice
Images = Mapping[tuple[str, int], Array]


def inspect_stacks(stacks: Sequence[Stack], progress: bool = False) -> list[Finding]:
    """Compare every label with its image, its neighbours and the other subjects.

    Args:
        stacks: The stacks of one data set.
        progress: Shows a bar.

    Returns:
        The findings, with the reasons ``background``, ``displaced``, ``other-subject``, ``low-contrast``,
        ``area-jump``, ``same-image``, ``same-mask`` and ``not-inspected``. A frame may have several.
    """
    subjects: dict[str, list[Stack]] = defaultdict(list)
    for stack in stacks:
        subjects[stack.subject].append(stack)
    findings: list[Finding] = []
    portraits, digests = {}, []
    for subject, own in track(subjects.items(), "Inspecting", "subject", progress):
        inspection = inspect_subject(own)
        findings += inspection.findings
        if inspection.portrait is not None:
            portraits[subject] = inspection.portrait
        for stack, found in zip(own, inspection.images, strict=True):
            digests += [(digest, _frame(stack, index)) for index, digest in enumerate(found)]
    candidates = find_candidates(portraits)
    images = {other: find_images(subjects[other]) for other in set().union(*candidates.values())}
    for subject, others in candidates.items():
        masks = find_masks(subjects[subject])
        fits = {other: measure_fit(masks, images[other]) for other in others}
        frames = labelled_frames(subjects[subject])
        findings += tell_other_subject(frames, portraits[subject], fits)
    return [*findings, *find_same_images(digests)]


def labelled_frames(stacks: Sequence[Stack]) -> list[Frame]:
    """The frames whose labels enclose a cavity.

    Args:
        stacks: The stacks of a subject.
    """
    slices = [slice_ for stack in stacks for slice_ in labelled_slices(stack)]
    return [_frame(slice_.stack, slice_.index) for slice_ in slices]


def _frame(stack: Stack, index: int) -> Frame:
    return Frame(stack.subject, stack.phase, stack.slices[index], stack.file(index))


def find_same_images(digests: Iterable[tuple[str, Frame]]) -> Iterator[Finding]:
    """Find images that occur twice in the data set.

    Args:
        digests: The digest of every image, empty if it does not count, and its frame. They are gone through twice.
    """
    # Of millions of images, only those whose digests begin alike are kept.
    starts = np.sort(np.fromiter((_start(digest) for digest, _ in digests if digest), np.uint64))
    repeated = {int(start) for start in starts[1:][starts[1:] == starts[:-1]]}
    frames: dict[str, list[Frame]] = defaultdict(list)
    for digest, frame in digests:
        if digest and _start(digest) in repeated:
            frames[digest].append(frame)
    for group in frames.values():
        yield from tell_copies("same-image", group)


def _start(digest: str) -> int:
    """The first 64 bits of a digest."""
    return int(digest[:16], 16)


def find_candidates(portraits: Mapping[str, Portrait]) -> dict[str, list[str]]:
    """Find the subjects whose masks may be another's, and those others.

    Args:
        portraits: The portrait of every subject.

    Returns:
        The others for each doubtful subject: all that are as doubtful, and the five whose masks lie most alike.
    """
    if not portraits:
        return {}
    contrasts = [portrait.contrast for portrait in portraits.values()]
    limit = min(_DOUBTFUL, _DOUBTFUL_PART * float(np.quantile(contrasts, 0.75)))
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for subject, portrait in portraits.items():
        groups[portrait.shape].append(subject)
    candidates = {}
    for subjects in groups.values():
        places = {subject: (*portraits[subject].centre, portraits[subject].side) for subject in subjects}
        tree = KDTree(list(places.values()))
        doubtful = [subject for subject in subjects if portraits[subject].contrast < limit]
        for subject in doubtful:
            _, nearest = tree.query(places[subject], k=range(1, min(_NEAREST + 1, len(subjects)) + 1))
            others = dict.fromkeys([*doubtful, *(subjects[index] for index in nearest)])
            candidates[subject] = [other for other in others if other != subject]
    return candidates


def find_masks(stacks: Sequence[Stack]) -> Masks:
    """The masks of a subject, to be laid on the images of another.

    Args:
        stacks: The stacks of the subject.
    """
    slices = [slice_ for stack in stacks for slice_ in labelled_slices(stack)]
    return {slice_.key: slice_.probe for slice_ in slices}


def find_images(stacks: Sequence[Stack]) -> Images:
    """The labelled images of a subject, scaled to the brightness of their brightest pixels.

    Args:
        stacks: The stacks of the subject.
    """
    slices = [slice_ for stack in stacks for slice_ in labelled_slices(stack)]
    return {slice_.key: slice_.scaled for slice_ in slices}


def measure_fit(masks: Masks, images: Images) -> float:
    """The median contrast of one subject's masks on another's images of equal phase and slice.

    Args:
        masks: The masks, as :func:`find_masks` returns them.
        images: The images, as :func:`find_images` returns them.

    Returns:
        The median, or minus infinity if less than half of the masks, or two of them, have an image.
    """
    values = [compare(images[key], probe) for key, probe in masks.items() if key in images]
    if len(values) <= max(len(masks) / 2, 2):
        return -np.inf
    return float(np.median(values))


def tell_other_subject(frames: Iterable[Frame], portrait: Portrait, fits: Mapping[str, float]) -> Iterator[Finding]:
    """Find out whether the masks of a subject fit the images of another better than its own.

    Args:
        frames: The frames of the subject.
        portrait: The portrait of the subject.
        fits: The fit of its masks on the images of each candidate, see :func:`measure_fit`.
    """
    best = max(fits, key=lambda other: fits[other], default=None)
    if best is None or fits[best] <= portrait.contrast:
        return
    detail = f"median contrast {portrait.contrast:.2f} on its own images, {fits[best]:.2f} on those of {best}"
    for frame in frames:
        yield Finding("other-subject", frame.subject, frame.phase, frame.slice, frame.file, detail)
