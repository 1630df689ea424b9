"""The short-axis series: which of several DICOM series contours belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from monai_iln.datasets.formats.contours import Points, rasterize
from monai_iln.datasets.formats.dicom import Frame
from monai_iln.datasets.formats.dicom_pixels import read_pixels
from monai_iln.datasets.geometry.numbering import number_frames
from monai_iln.datasets.geometry.series import split_places
from monai_iln.datasets.quality.contrast import contrast
from monai_iln.errors import UserError, count

ContourPoints = Mapping[int, Mapping[str, Points]]  # by the number of the frame and the kind of contour

_BLOOD = 0.5  # median contrast of what a subject's contours enclose; real ones have 0.86 and more on their own images
_AS_MANY = 0.8  # of the other series' contoured frames; a file or two may be lost
_MOST_IN_DOUBT = 0.2  # of the frames; two series that mix share all of their numbers
_CLEARLY_BETTER = 1.2  # ratio of contrasts by which one series beats another that holds the same numbers


def choose_series(series: Sequence[Sequence[Frame]], points: ContourPoints) -> list[Frame]:
    """Find the short-axis series that contours belong to. Only the frames decide, never a name.

    It holds the contoured numbers, or at least half of them; it is a stack of parallel slices, in which few numbers
    occur twice; the contours lie inside its images. Of several such series it is one whose blood they enclose, then
    the one that holds most of the numbers, then the one that fits best.

    Args:
        series: All series of the subject.
        points: The points of its contours.

    Returns:
        The frames of the series.

    Raises:
        UserError: If no series holds as much as half of the frames, or two fit alike and differ.
    """
    numbers = set(points)
    candidates = _possible_series(series, points)
    if len(candidates) == 1:
        return candidates[0]
    if not series:
        raise UserError("no DICOM file of the subject. Add its short-axis series")
    if not candidates:
        found = "; ".join(f"{frames[0].path.parent.name} with {count(len(frames), 'file')}" for frames in series)
        raise UserError(
            f"no series of parallel slices holds the contoured frames {min(numbers)} to {max(numbers)}, or half of "
            f"them; found {found}. Add the right series"
        )
    fits = [_fit(frames, points) for frames in candidates]
    held = [sum(frame.instance in numbers for frame in frames) for frames in candidates]
    # Blood where the contours are comes first: a series may lack a file, and a wrong one hold every number.
    first, second, *_ = sorted(range(len(candidates)), key=lambda i: (fits[i] >= _BLOOD, held[i], fits[i]))[::-1]
    alike = (
        (fits[first] >= _BLOOD) == (fits[second] >= _BLOOD)
        and held[second] >= _AS_MANY * held[first]
        and fits[first] <= _CLEARLY_BETTER * fits[second]
    )
    if alike and not _same_images(candidates[first], candidates[second], numbers):
        names = " and ".join(sorted(str(candidates[i][0].path) for i in (first, second)))
        raise UserError(
            f"{len(candidates)} series hold the contoured frames and fit them alike, such as those of {names}. Exactly "
            "one is the contours' own: remove the others"
        )
    return candidates[first]


def _possible_series(series: Sequence[Sequence[Frame]], points: ContourPoints) -> list[list[Frame]]:
    """The series that the contours could belong to by their numbers, slices and extent."""
    numbers = set(points)
    extent = np.median([outline.max() for kinds in points.values() for outline in kinds.values()])
    possible = []
    for frames in series:
        numbering = number_frames(frames)
        is_stack = len(split_places(frames)) > 1 or len(frames) == 1
        is_numbered = len(numbering.misplaced) <= _MOST_IN_DOUBT * len(frames)
        held = len(numbers & numbering.places.keys())
        if is_stack and is_numbered and extent <= max(frames[0].shape) and 2 * held >= len(numbers):
            possible.append(list(frames))
    return possible


def _fit(frames: Sequence[Frame], points: ContourPoints) -> float:
    """The median contrast of what the contours enclose; 0 where nothing can be read."""
    values = []
    for frame in frames:
        kinds = points.get(frame.instance, {})
        outline = kinds.get("i", kinds.get("o"))
        if outline is not None:
            try:
                values.append(contrast(read_pixels(frame), rasterize(outline, frame.shape)))
            except UserError:  # told when the frame is read for the stack
                continue
    return max(float(np.median(values or [0.0])), 0.0)


def _same_images(first: Sequence[Frame], second: Sequence[Frame], numbers: set[int]) -> bool:
    twins = {frame.instance: frame for frame in second}
    pairs = [(frame, twins[frame.instance]) for frame in first if frame.instance in numbers & twins.keys()]
    try:
        return all(np.array_equal(read_pixels(one), read_pixels(other)) for one, other in pairs)
    except UserError:
        return False
