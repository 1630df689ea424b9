"""The choice of a series and of phases, on headers and masks alone; the readers' tests show them at work."""

from pathlib import Path

import numpy as np
import pytest

from monai_iln.datasets.formats.dicom import Frame
from monai_iln.datasets.readers.labelled import LabelledFrame, name_phases
from monai_iln.datasets.readers.short_axis import choose_series
from monai_iln.errors import UserError

CIRCLE = 40 + 10 * np.stack([np.cos(np.linspace(0, 6.2, 60)), np.sin(np.linspace(0, 6.2, 60))], axis=1)


def stack(numbers, name="CINESAX", size=96, phases=4, step=8.0):
    """Frames numbered slice by slice, none of which has pixels."""
    return [
        Frame(
            path=Path(name) / f"{number}.dcm",
            instance=number,
            series=(name,),
            shape=(size, size),
            position=(0.0, 0.0, step * ((number - 1) // phases)),
            row_direction=(1.0, 0.0, 0.0),
            column_direction=(0.0, 1.0, 0.0),
            spacing=(1.4, 1.4),
            slice_step=step,
        )
        for number in numbers
    ]


def contoured(*numbers):
    return {number: {"i": CIRCLE} for number in numbers}


def test_a_series_needs_half_of_the_contoured_frames():
    points = contoured(4, 8, 12, 16)
    assert choose_series([stack(range(1, 9))], points)[-1].instance == 8
    with pytest.raises(UserError, match="found CINESAX with 7 files. Add the right series"):
        choose_series([stack(range(1, 8))], points)
    with pytest.raises(UserError, match="no DICOM file of the subject. Add its"):
        choose_series([], points)


def test_a_series_may_hold_a_number_twice():
    """A wrong header must not cost the subject."""
    right = [*stack(range(1, 17)), *stack([4], "CINESAX/again")]
    assert choose_series([right], contoured(4, 8, 12, 16)) == right


@pytest.mark.parametrize(
    "wrong",
    [
        stack(range(1, 17), "small", size=48),
        stack(range(1, 17), "flat", step=0.0),
        [*stack(range(1, 17), "twice"), *stack(range(1, 17), "twice/again")],
    ],
    ids=lambda frames: frames[0].path.parent.name,
)
def test_what_is_no_stack_around_the_contours_is_no_candidate(wrong):
    right, points = stack(range(1, 17)), contoured(4, 8, 12, 16)
    assert choose_series([wrong, right], points) == right
    with pytest.raises(UserError, match=f"found {wrong[0].path.parent.name} with {len(wrong)} files"):
        choose_series([wrong], points)


def labelled(phase, areas):
    """A frame for each slice, its mask of so many pixels."""
    frames = []
    for slice_, area in areas.items():
        mask = (np.arange(100).reshape(10, 10) < area).astype(np.uint8)
        frames.append(LabelledFrame(slice_, phase, mask, mask, mask, Path("x")))
    return frames


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({0: 50, 1: 40, 2: 30}, {0: 20, 1: 20, 2: 20}, {3: "ED", 9: "ES"}),
        ({0: 50, 1: 1, 2: 30}, {0: 20, 1: 90, 2: 20}, {3: "ED", 9: "ES"}),
        ({0: 50, 1: 30}, {1: 40, 2: 30, 3: 20}, {3: "ES", 9: "ED"}),
        ({0: 50, 1: 10}, {2: 30, 3: 20}, {3: "ED", 9: "ES"}),
        ({0: 20, 1: 10}, {2: 30, 3: 20}, {3: "ES", 9: "ED"}),
        ({0: 30, 1: 20}, {0: 20, 1: 50}, {3: "ES", 9: "ED"}),
    ],
    ids=["every slice", "most slices", "common slices", "no common slice", "nor here", "a tie"],
)
def test_the_larger_cavity_is_end_diastolic(one, other, names):
    assert name_phases([*labelled(3, one), *labelled(9, other)], 20) == names


@pytest.mark.parametrize(
    ("phase", "name"), [(0, "ED"), (4, "ED"), (5, "ES"), (9, "ES"), (14, "ES"), (15, "ED"), (19, "ED")]
)
def test_a_lone_phase_is_diastolic_near_the_ends_of_the_cycle(phase, name):
    assert name_phases(labelled(phase, {0: 5}), 20) == {phase: name}


def test_phases_with_fewer_frames_are_neither():
    frames = [*labelled(3, {0: 5, 1: 5}), *labelled(9, {0: 9, 1: 9}), *labelled(5, {0: 50})]
    assert name_phases(frames, 20) == {3: "ES", 9: "ED"}
    assert name_phases([], 20) == {}
