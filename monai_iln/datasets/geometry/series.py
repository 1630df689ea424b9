"""Series of DICOM frames: which are one, which frames of it are one slice, and which lie apart from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.dicom import NO_NUMBER, Frame, read_frames
from monai_iln.datasets.formats.listing import is_dicom, list_files
from monai_iln.errors import UserError
from monai_iln.extras import require_extra

SAME_SLICE_MM = 0.5  # frames closer than this are one slice; real slices lie 5 mm apart and more
MAX_PHASES = 60  # of a cycle

Misfits = list[tuple[Frame, str]]


def find_series(folders: Iterable[Path]) -> tuple[list[list[Frame]], list[tuple[Path, UserError]]]:
    """All series of DICOM files in and below folders as contours know them, and the files that cannot be read.

    The frames of a series share folder, start of the file name, orientation and UID, because Sunnybrook's series share
    one UID. Where names decide nothing, see :func:`~monai_iln.datasets.geometry.cine.group_cines`.

    Args:
        folders: The folders.

    Returns:
        The series, each sorted by InstanceNumber, and each damaged file with what is wrong with it.
    """
    require_extra("reading DICOM", "data", "pydicom")
    usable: list[Frame] = []
    damaged = []
    for path in sorted({path for folder in folders for path in list_files(folder) if is_dicom(path)}):
        try:
            frames = read_frames(path)
        except UserError as error:
            damaged.append((path, error))
            continue
        for frame in frames:
            if frame.instance == NO_NUMBER:
                message = f"{path}: no InstanceNumber, by which contours name frames. Export the file again."
                damaged.append((path, UserError(message)))
            else:
                usable.append(frame)
    series: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
    for frame in without_idle_uids(usable):
        series[(*frame.series, frame.series_uid)].append(frame)
    return [sorted(frames, key=lambda f: f.instance) for frames in series.values()], damaged


def without_idle_uids(frames: Sequence[Frame]) -> list[Frame]:
    """The frames, without the UIDs of series where every file has one of its own, as some anonymizers write them.

    Args:
        frames: The frames of any number of series.
    """
    uids, numbers = {frame.series_uid for frame in frames}, {frame.series_number for frame in frames}
    if len(numbers) < len(uids) == len(frames):
        return [replace(frame, series_uid="") for frame in frames]
    return list(frames)


def split_places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames of each slice, slices in their order along the normal.

    Frames whose places along their common normal differ by less than ``SAME_SLICE_MM`` are one slice.

    Args:
        frames: Parallel frames.
    """
    normal = np.sum([frame.normal for frame in frames], axis=0) / max(len(frames), 1)
    depths = [float(normal @ frame.position) for frame in frames]
    places: list[list[Frame]] = []
    last = -np.inf
    for depth, frame in sorted(zip(depths, frames, strict=True), key=lambda pair: pair[0]):
        if depth - last < SAME_SLICE_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
        last = depth
    return places


def measure_distances(frames: Sequence[Frame], others: Sequence[Frame]) -> list[float]:
    """The distances of frames from where most of others lie, in mm.

    Args:
        frames: The frames.
        others: The frames that they are compared with.
    """
    usual = np.median([other.position for other in others], axis=0)
    return [float(np.linalg.norm(np.asarray(frame.position) - usual)) for frame in frames]


def find_misfits(frames: Sequence[Frame]) -> Misfits:
    """Find the frames whose header does not fit with those of their series, as if it had been changed or damaged.

    A frame lies apart if it has a place of its own beside a slice, or far from the slice that its number belongs to; if
    it is shifted in its plane; or if its number and its time do not follow from those of its slice. Missing files are
    no misfits, and neither is a series without a rule.

    Args:
        frames: The frames of one series: parallel slices, each in several phases or in one.

    Returns:
        The frames that do not fit, each with what is wrong.
    """
    places = split_places(frames)
    most = max(map(len, places), default=0)
    if most < 3:
        return _off_the_row(places)
    slices = [place for place in places if 2 * len(place) > most]
    misfits: Misfits = []
    for slice_ in slices:
        others = [other for other in slices if other is not slice_]
        misfits += _shifted(slice_) or _misnumbered(slice_, others, most)
    centres = [np.median([frame.position for frame in slice_], axis=0) for slice_ in slices]
    step = np.linalg.norm(np.diff(centres, axis=0), axis=1).min(initial=np.inf)
    for frame in (place[0] for place in places if len(place) == 1):
        distances = np.linalg.norm(np.subtract(centres, frame.position), axis=1)
        home = _home(frame, slices)
        if home is None and distances.min() < step / 2:
            home = int(distances.argmin())
        if home is not None:
            name = slices[home][0].path.name
            misfits.append((frame, f"lies {distances[home]:.1f} mm apart from its slice, which is that of {name}"))
    if len(misfits) > max(1, len(frames) // 10):  # a series of few files has no rule
        return []
    return misfits


def _home(frame: Frame, slices: Sequence[Sequence[Frame]]) -> int | None:
    """The one slice between whose numbers the frame's number is missing."""
    numbers = [{one.instance for one in slice_} for slice_ in slices]
    around = [place for place, known in enumerate(numbers) if min(known) < frame.instance < max(known)]
    if len(around) != 1 or frame.instance in numbers[around[0]]:
        return None
    return around[0]


def _shifted(slice_: Sequence[Frame]) -> Misfits:
    """Frames that lie beside the others of their slice."""
    return [
        (frame, f"lies {distance:.1f} mm beside the other frames of its slice")
        for frame, distance in zip(slice_, measure_distances(slice_, slice_), strict=True)
        if distance > SAME_SLICE_MM
    ]


def _misnumbered(slice_: Sequence[Frame], others: Sequence[Sequence[Frame]], most: int) -> Misfits:
    """Frames whose number does not follow from their time, or is one of another slice."""
    slice_ = sorted(slice_, key=lambda frame: frame.instance)
    numbers = np.array([frame.instance for frame in slice_])
    stride = float(np.median(np.diff(numbers)))
    if NO_NUMBER in numbers or stride <= 0 or len(slice_) < 4:
        return []
    times = np.array([frame.trigger_time for frame in slice_], dtype=float)
    late = _lateness(times, numbers)
    strangers = _strangers(slice_, others, stride if late is None else 0)
    odd = np.array([frame in strangers for frame in slice_])
    if late is not None:
        mistimed = _mistimed(times, numbers, late / stride, most)
        odd = mistimed & (~_turned(numbers / stride, late / stride, mistimed, most) | odd)
    return [(slice_[i], f"its number {numbers[i]} does not belong to its slice and time") for i in odd.nonzero()[0]]


def _mistimed(
    times: NDArray[np.float64], numbers: NDArray[np.int64], late: NDArray[np.float64], most: int
) -> NDArray[np.bool_]:
    """Which frames of a slice, in order of number, are so many steps late that another one has their place."""
    odd = np.abs(late) > 0.5
    if odd.sum() > max(1, len(late) // 10):  # the times follow another rule
        return np.zeros_like(odd)
    moved = times.argsort(kind="stable").argsort() != np.arange(len(times))
    repeated = np.isin(numbers, numbers[1:][np.diff(numbers) == 0])
    return np.asarray(odd & (moved | repeated | (np.abs(late) > most / 2)))  # a long step alone changes no order


def _turned(
    steps: NDArray[np.float64], late: NDArray[np.float64], odd: NDArray[np.bool_], most: int
) -> NDArray[np.bool_]:
    """Which frames are late by a whole cycle, because it does not begin with the R wave."""
    low, high = steps[~odd].min(), steps[~odd].max()
    cycle = np.clip(np.abs(late), 0.8 * most, MAX_PHASES)
    return np.asarray((np.abs(late) == cycle) & (np.maximum(steps, high) - np.minimum(steps, low) < cycle + 0.5))


def _strangers(slice_: Sequence[Frame], others: Sequence[Sequence[Frame]], gap: float) -> list[Frame]:
    """The first or the last frame, if its number is more than a gap away and lies among those of another slice."""
    inner = [frame.instance for frame in slice_[1:-1]]
    runs = [(min(numbers), max(numbers)) for numbers in ([frame.instance for frame in other] for other in others)]
    if any(low <= number <= high for low, high in runs for number in inner):
        return []  # the numbers of slices take turns
    return [
        end
        for end, neighbour in ((slice_[0], slice_[1]), (slice_[-1], slice_[-2]))
        if abs(end.instance - neighbour.instance) > gap and any(low <= end.instance <= high for low, high in runs)
    ]


def _lateness(times: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """By how many numbers the time of each frame is late, if times are told and rise with the numbers."""
    steps = np.diff(numbers)
    rates = np.diff(times)[steps > 0] / steps[steps > 0]
    if not len(rates) or not np.median(rates) > 0:  # also if a time is missing
        return None
    late = times / np.median(rates) - numbers
    return np.asarray(late - np.median(late))


def _off_the_row(places: Sequence[Sequence[Frame]]) -> Misfits:
    """The one frame that lies beside the even row of all others, where each slice has one frame or two."""
    if len(places) < 4:
        return []
    step = np.median(np.diff([place[0].position for place in places], axis=0), axis=0)
    length = np.linalg.norm(step)
    frames = [frame for place in places for frame in place]
    positions = np.array([frame.position for frame in frames])
    along = (positions - positions[0]) @ step / length**2
    turns = along - np.median(along - np.round(along))
    beside = positions - positions[0] - np.round(turns)[:, None] * step  # slices may be missing
    distances = np.linalg.norm(beside - np.median(beside, axis=0), axis=1)
    off = np.flatnonzero(distances > 0.1 * length)
    if len(off) != 1:
        return []
    return [(frames[off[0]], f"lies {distances[off[0]]:.1f} mm beside the even row of the other slices")]
