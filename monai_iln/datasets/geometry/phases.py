"""The order of the phases of a cine: which element of the headers tells it, and where others contradict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from monai_iln.datasets.formats.dicom import NO_NUMBER, Frame
from monai_iln.datasets.geometry.series import Misfits
from monai_iln.errors import count

_Orders = list[list[int]]  # the places of the frames of each slice, in order of phase

# What orders phases, the most telling first.
_KEYS: dict[str, Callable[[Frame], float | None]] = {
    "TriggerTime": lambda frame: frame.trigger_time,
    "TemporalPositionIdentifier": lambda frame: frame.temporal_position,
    "AcquisitionTime": lambda frame: frame.acquisition_time,
    "InstanceNumber": lambda frame: None if frame.instance == NO_NUMBER else frame.instance,
}


class Phases(NamedTuple):
    """Slices with their phases in order.

    Attributes:
        slices: The frames of each slice, in order of phase if a key tells it.
        key: The element that told the order, or an empty text.
        notes: What was decided, as sentences that name files.
        misfits: Frames of a few slices of which the keys disagree, while they agree in most.
    """

    slices: list[list[Frame]]
    key: str
    notes: list[str]
    misfits: Misfits


def order_phases(slices: Sequence[Sequence[Frame]]) -> Phases:
    """Put the phases of each slice in order by the first key that every frame has and that no two of a slice share.

    The keys are TriggerTime, TemporalPositionIdentifier, AcquisitionTime and InstanceNumber.

    Args:
        slices: The frames of each slice.
    """
    orders = {name: order for name, key in _KEYS.items() if (order := _order(slices, key)) is not None}
    if not orders or max(map(len, slices)) == 1:
        return Phases([[*slice_] for slice_ in slices], "", [], [])
    name, order = next(iter(orders.items()))
    notes: list[str] = []
    misfits: Misfits = []
    if name != "TriggerTime":
        notes.append(f"phases are in order of {name}, because TriggerTime is missing or the same in two of a slice")
    for other, its_order in orders.items():
        differing = [place for place, (one, two) in enumerate(zip(order, its_order, strict=True)) if one != two]
        files = [slices[place][0].path for place in differing]
        if 2 * len(differing) >= len(slices):
            notes.append(
                f"{name} ordered phases, {other} does otherwise in {count(len(files), 'slice')}, as that of {files[0]}"
            )
            continue
        for place in differing:
            frame = slices[place][_most_moved(order[place], its_order[place])]
            misfits.append((frame, f"has {name} and {other} that tell different phases, unlike most slices"))
    if name == "TriggerTime" and len(orders) == 1:
        uneven = [slice_[0].path for slice_ in slices if _are_uneven(slice_)]
        notes += [f"TriggerTime alone orders phases, and is uneven in the slice of {file}" for file in uneven[:1]]
    ordered = [[slice_[i] for i in indices] for slice_, indices in zip(slices, order, strict=True)]
    return Phases(ordered, name, notes, misfits)


def _order(slices: Sequence[Sequence[Frame]], key: Callable[[Frame], float | None]) -> _Orders | None:
    """The order of the frames of each slice by a key, if every frame has a value of its own there."""
    orders = []
    for slice_ in slices:
        values = [value for value in map(key, slice_) if value is not None]
        if len({*values}) < len(slice_):
            return None
        orders.append([int(i) for i in np.argsort(values)])
    return orders


def _most_moved(one: Sequence[int], other: Sequence[int]) -> int:
    """The frame whose phases in two orders are the farthest apart."""
    return max(one, key=lambda frame: abs(one.index(frame) - other.index(frame)))


def _are_uneven(slice_: Sequence[Frame]) -> bool:
    """Whether the steps of trigger times differ by more than half from the usual one, as if one were wrong."""
    steps = np.diff(sorted(frame.trigger_time or 0.0 for frame in slice_))
    return len(steps) > 1 and bool(np.abs(steps - np.median(steps)).max() > 0.5 * np.median(steps))
