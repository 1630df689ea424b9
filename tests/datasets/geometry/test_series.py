"""Which frames lie apart from their series, on headers alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from monai_iln.datasets.formats.dicom import Frame
from monai_iln.datasets.geometry.cine import group_cines
from monai_iln.datasets.geometry.series import find_misfits, split_places

SLICES, PHASES = 6, 10


def cine(number=lambda slice_, phase: slice_ * PHASES + phase + 1, timed=True):
    """Slices of 8 mm, each in every phase; none of the frames has pixels."""
    return [
        Frame(
            path=Path(f"{slice_}_{phase}.dcm"),
            instance=number(slice_, phase),
            series=(),
            shape=(96, 96),
            position=(10.0, -8.0 * slice_, 20.0),
            row_direction=(1.0, 0.0, 0.0),
            column_direction=(0.0, 0.0, 1.0),
            spacing=(1.4, 1.4),
            slice_step=8.0,
            trigger_time=40.0 * phase if timed else None,
        )
        for slice_ in range(SLICES)
        for phase in range(PHASES)
    ]


NUMBERS = {
    "slice by slice": lambda slice_, phase: slice_ * PHASES + phase + 1,
    "phase by phase": lambda slice_, phase: phase * SLICES + slice_ + 1,
    "from 1 in each slice": lambda _, phase: phase + 1,
    "from the end of the cycle": lambda slice_, phase: slice_ * PHASES + (phase + 1) % PHASES,
    "all 1": lambda *_: 1,
}


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_what_is_in_order_has_no_misfits(number, timed):
    frames = cine(number, timed)
    assert [len(place) for place in split_places(frames)] == [PHASES] * SLICES
    assert find_misfits(frames) == []
    for lost in (frames[7:], frames[::2], frames[:40] + frames[45:], frames[5::PHASES], frames[:14]):
        assert find_misfits(lost) == [], "a missing file is no misfit"
    assert find_misfits([*frames[5:15:PHASES], *frames[25::PHASES]]) == [], "nor is a missing slice"


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("which", [0, 9, 23, 59])
@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 1, 0), (0, -3, 0), (0, 0, 2)])
def test_a_position_that_lies_apart(which, shift, timed):
    frames = cine(timed=timed)
    odd = replace(frames[which], position=tuple(a + b for a, b in zip(frames[which].position, shift, strict=True)))
    ((frame, detail),) = find_misfits([*frames[:which], odd, *frames[which + 1 :]])
    assert frame == odd
    assert f"lies {abs(sum(shift))}.0 mm" in detail


def test_a_frame_of_a_slice_far_away():
    frames = cine()
    odd = replace(frames[23], position=(10.0, -60.0, 20.0))
    ((frame, detail),) = find_misfits([*frames[:23], odd, *frames[24:]])
    assert frame == odd
    assert "lies 44.0 mm apart from its slice, which is that of 2_" in detail


def test_a_slice_that_lies_apart():
    frames = cine()[5::PHASES]
    odd = replace(frames[3], position=(10.0, -25.0, 20.0))
    ((frame, detail),) = find_misfits([*frames[:3], odd, *frames[4:]])
    assert frame == odd
    assert "lies 1.0 mm beside the even row" in detail


@pytest.mark.parametrize(("which", "number"), [(23, 23), (23, 25), (23, 34), (23, 300), (20, 31), (59, 75)])
def test_a_number_that_belongs_elsewhere(which, number):
    frames = cine()
    odd = replace(frames[which], instance=number)
    ((frame, detail),) = find_misfits([*frames[:which], odd, *frames[which + 1 :]])
    assert frame == odd
    assert f"its number {number} does not belong" in detail


@pytest.mark.parametrize("late", [30, 90])
def test_a_long_step_is_no_misfit(late):
    """The last phase may come late, and a heart may beat unevenly: the order is the same."""
    frames = [replace(one, trigger_time=one.trigger_time + late * (one.trigger_time >= 360)) for one in cine()]
    assert find_misfits(frames) == []
    assert find_misfits([replace(one, instance=one.instance - (one.instance == 1)) for one in frames]) == []


def test_a_number_of_another_slice_without_times():
    frames = cine(timed=False)
    odd = replace(frames[23], instance=34)
    ((frame, _),) = find_misfits([*frames[:23], odd, *frames[24:]])
    assert frame == odd


def test_a_time_that_belongs_elsewhere():
    frames = cine()
    odd = replace(frames[23], trigger_time=300.0)
    ((frame, _),) = find_misfits([*frames[:23], odd, *frames[24:]])
    assert frame == odd


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 0, -1)])
@pytest.mark.parametrize("which", [0, 1, 4, 11])
def test_one_of_two_phases_that_lies_beside_the_row(which, shift):
    """In one series, or in one for each slice or file."""
    frames = [one for one in cine() if one.path.stem[-1] in "05"]
    odd = replace(frames[which], position=tuple(a + b for a, b in zip(frames[which].position, shift, strict=True)))
    series = [*frames[:which], odd, *frames[which + 1 :]]
    ((frame, detail),) = find_misfits(series)
    assert frame == odd
    assert "lies 1.0 mm beside the even row" in detail
    for uid in (lambda one: one.path.stem[0], lambda one: one.path.stem):
        cines = group_cines([replace(one, series_uid=uid(one), series_number=1 + one.instance) for one in series])
        assert [frame.path for frame, _ in cines[0].misfits] == [odd.path]
        assert odd.path not in {frame.path for frame in cines[0].frames}
        whole = group_cines([replace(one, series_uid=uid(one), series_number=1 + one.instance) for one in frames])
        assert all(one.misfits == [] for one in whole)
