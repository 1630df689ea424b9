"""When the phases of a cine were taken, and what in its times and sizes no heart has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.header import PHASE_MS
from monai_iln.datasets.geometry.cine import Cine
from monai_iln.errors import UserError

_CLOSEST_MS, _SHORTEST_BEAT_MS = 1.0, 200.0  # phases and beats below are impossible
_WHOLE_BEAT = 12  # phases; fewer may be a part of it
# Of real cines, slices differ by up to 0.06 of a step once their beats have one length, and in this by 9 %.
_LARGEST_SHIFT = 0.5
_FARTHEST_MM, _LONGEST_MM = 25.0, 200.0  # between slices, and of a whole stack
_CLOSE_MS = 16.0  # steps in time that are as large as those between slices in mm


class Beat(NamedTuple):
    """The slices and phases of a stack, as headers tell them.

    Attributes:
        slices: The number of slices.
        times_ms: The time of each phase after the first, NaN where it is not told. A stack of one phase has one.
        doubts: The words for what may be wrong: ``"shifted"``, ``"axes"``; see :data:`monai_iln.cine.curves.DOUBTS`.
        notes: What was decided, as sentences.
    """

    slices: int
    times_ms: list[float]
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def beat_of_frames(cine: Cine) -> Beat:
    """Tell the beat of a cine of DICOM files by its trigger times.

    They are those of the median slice. Times that count seconds, which phases closer than a millisecond tell, are taken
    so; those of another beat that no heart has are taken for unknown.

    Args:
        cine: The cine, as many phases in every slice.
    """
    slices, phases = len(cine.slices), cine.counts[0]
    if cine.key != "TriggerTime":
        return Beat(slices, [math.nan] * phases)
    times = np.array([[frame.trigger_time for frame in slice_] for slice_ in cine.slices], dtype=float)
    notes, doubts = [], []
    shifted = _find_shifted(times)
    if shifted:
        doubts.append("shifted")
        file = cine.slices[shifted[0]][0].path
        told = f"TriggerTimes of {len(shifted)} of {slices} slices do not agree with those of the others"
        notes.append(f"{told}, as that of {file}: phases may mix")
    own = np.median(times - times[:, :1], axis=0)
    step = float(np.median(np.diff(own)))
    if step < _CLOSEST_MS and PHASE_MS[0] <= 1000 * step <= PHASE_MS[1]:
        own = own * 1000
        notes.append(f"TriggerTime, which counts milliseconds, puts {step:.3g} between phases: it is taken for seconds")
    elif step < _CLOSEST_MS or (phases >= _WHOLE_BEAT and step * phases < _SHORTEST_BEAT_MS):
        own = np.full(phases, math.nan)
        notes.append(f"TriggerTime puts {step:.3g} ms between {phases} phases, which no heart does: it is passed over")
    return Beat(slices, own.tolist(), tuple(doubts), tuple(notes))


def _find_shifted(times: NDArray[np.float64]) -> list[int]:
    """The slices whose times lie elsewhere than those of most, once all beats last as long as the median one."""
    starts, lengths = times[:, :1], times[:, -1:] - times[:, :1]
    scaled = starts + (times - starts) * np.median(lengths) / lengths
    usual = np.median(scaled, axis=0)
    farthest = np.abs(scaled - usual).max(axis=1)
    return [int(place) for place in np.flatnonzero(farthest > _LARGEST_SHIFT * np.median(np.diff(usual)))]


def beat_of_volume(path: Path, shape: Sequence[int], affine: NDArray[np.float64], frame_ms: float) -> Beat:
    """Tell the beat of a volume, and doubt its axes where time may lie along the third.

    Args:
        path: The file, for the message.
        shape: The shape of the array. A fourth axis is that of time.
        affine: The affine to millimetres.
        frame_ms: The time from one phase to the next, NaN where it is not known.

    Raises:
        UserError: If steps along the third axis are too large for slices, and those along the fourth for no phases.
    """
    slices, phases = [*shape, 1][2:4]
    times = [phase * frame_ms for phase in range(phases)]
    if phases == 1:
        return Beat(slices, times)
    step = float(np.linalg.norm(affine[:3, 2]))
    is_close = frame_ms < _CLOSE_MS and frame_ms * phases < _SHORTEST_BEAT_MS
    if step > _FARTHEST_MM and (math.isnan(frame_ms) or is_close):
        raise UserError(
            f"{path}: shape {tuple(shape)}, steps of {step:.3g} along the third axis: no slices are so far apart. By "
            "this the third axis counts time. It must be the last (rows, columns, slices, phases): reorder the axes, "
            "or correct the voxel sizes."
        )
    more_slices = slices >= _WHOLE_BEAT and 4 < phases < slices
    is_doubted = more_slices or is_close or step > _FARTHEST_MM or slices * step > _LONGEST_MM
    return Beat(slices, times, ("axes",) * is_doubted)
