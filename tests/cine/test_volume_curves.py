from dataclasses import replace

import numpy as np
import pytest

from monai_iln.cine.curves import DOUBTS, VolumeCurve, compare_strokes, find_largest_jump, measure_curve
from monai_iln.errors import UserError

# Sheared, turned and with a gap between slices: pixels of 2 x 1.5 mm, 10 mm from slice to slice along the normal.
TURN = np.array([[np.sqrt(0.75), -0.5, 0], [0.5, np.sqrt(0.75), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.array([[2.0, 0, 0.7], [0, 1.5, 0], [0, 0, 10.0]])
VOXEL_ML = 2 * 1.5 * 10 / 1000
AREAS = np.round(280 + 120 * np.cos(2 * np.pi * np.arange(16) / 16)).astype(int)  # pixels in each slice, by phase


def beating(changed=None, slices=8, first=1, last=6):
    """A mask whose slices from the first to the last hold so many pixels."""
    areas = AREAS.copy()
    for phase, area in (changed or {}).items():
        areas[phase] = area
    mask = np.zeros((400, slices, len(areas)), np.uint8)
    for phase, area in enumerate(areas):
        mask[:area, first : last + 1, phase] = 1
    return mask.reshape(20, 20, slices, -1)


NOTHING = dict.fromkeys(range(16), 0)


def measure(mask, affine=AFFINE, **options):
    return measure_curve(mask, affine, [float("nan")] * mask.shape[3], **options)


def test_volumes_in_float64():
    curve = measure(beating(), structure="left ventricle")
    np.testing.assert_allclose(curve.volumes_ml, np.array(AREAS) * 6 * VOXEL_ML, rtol=1e-12)
    assert (curve.ed, curve.es, curve.doubts) == (1, 9, ())
    assert (curve.name_of(1), curve.name_of(9), curve.name_of(2)) == ("ED", "ES", "")
    assert curve.stroke_ml == pytest.approx(240 * 6 * VOXEL_ML)
    assert curve.ejection_fraction == pytest.approx(60)
    assert "DOUBTED" not in curve.tell()
    assert (measure(np.roll(beating(), 8, axis=3)).ed, measure(np.roll(beating(), 8, axis=3)).es) == (9, 1)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (beating(slices=5, first=1, last=3), ("few-slices",)),
        (beating(first=0), ("edge",)),
        (beating(last=7), ("edge",)),
        (beating({8: 0}), ("empty", "jump")),
        (beating({4: 320}), ("jump",)),
        (beating(NOTHING), ("empty",)),
    ],
)
def test_what_makes_a_curve_doubtful(mask, words):
    curve = measure(mask)
    assert curve.doubts == words
    assert curve.tell().endswith(f"; DOUBTED: {', '.join(words)}")
    assert set(words) <= DOUBTS.keys()


def test_a_gap_counts_at_the_ends_of_the_beat_alone():
    mask = beating()
    mask[:, :, 3, 2] = 0
    assert "gap" not in measure(mask).doubts
    mask = beating()
    mask[:, :, 3, 8] = 0
    assert "gap" in measure(mask).doubts


def test_six_slices_are_enough():
    assert measure(beating(slices=6, last=4)).doubts == ()


def test_an_end_that_a_person_has_named_is_no_edge():
    mask = beating(first=0, last=7)
    assert measure(mask, named_ends=(True, True)).doubts == ()
    assert measure(mask, named_ends=(True, False)).doubts == ("edge",)
    assert measure(beating(first=0), named_ends=(True, False)).doubts == ()


def test_voxels_of_unknown_size():
    curve = measure(beating(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert curve.doubts == ("no-sizes",)
    assert curve.ejection_fraction == pytest.approx(60)


def test_nothing_marked_has_no_ejection_fraction():
    assert np.isnan(measure(beating(NOTHING)).ejection_fraction)


def test_the_beat_is_a_circle():
    smooth = 100 + 30 * np.cos(2 * np.pi * np.arange(20) / 20)
    largest = find_largest_jump(smooth)
    assert largest < 0.02
    assert find_largest_jump(np.roll(smooth, 7)) == pytest.approx(largest)
    smooth[0] *= 0.8
    assert find_largest_jump(smooth) > 0.15
    assert find_largest_jump(smooth[:11]) == 0
    assert find_largest_jump(smooth[:12]) > 0


@pytest.mark.parametrize(
    ("right", "doubted"), [(66.0, False), (80.0, False), (82.0, True), (55.0, False), (53.0, True)]
)
def test_stroke_volumes_of_two_ventricles(right, doubted):
    """66 ml on the left: a fifth of the mean is 14.6 for 80 ml, and 12.1 for 55."""
    left = VolumeCurve("a", "left ventricle", (100.0, 34.0), (0.0, 1.0), 9, ("edge",))
    other = replace(left, structure="right ventricle", volumes_ml=(34.0 + right, 34.0), doubts=())
    expected = ("stroke",) if doubted else ()
    assert [curve.doubts for curve in compare_strokes(left, other)] == [("edge", *expected), expected]


def test_times_belong_to_phases():
    with pytest.raises(UserError, match=r"a mask of shape \(20, 20, 8, 16\) and 7 times"):
        measure_curve(beating(), AFFINE, [0.0] * 7)
    with pytest.raises(UserError, match="four axes"):
        measure_curve(beating()[..., 0], AFFINE, [0.0] * 8)
