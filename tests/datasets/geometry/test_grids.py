"""Which axis counts slices, and how far apart two grids may lie."""

import numpy as np
import pytest

from monai_iln.datasets.geometry.grids import displacement, is_unit, same_place, slice_axis
from monai_iln.errors import UserError

AFFINE = np.array([[-1.2, 0.3, 0.1, 40.0], [0.3, 1.2, 0.5, -31.0], [0.0, -0.2, 8.0, 5.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (256, 216, 12)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((128, 128, 11), (1.9, 1.9, 8), 2),
        ((11, 128, 128), (8, 1.9, 1.9), 0),
        ((128, 11, 120), (1.5, 10, 1.5), 1),
        ((12, 256, 216), (1, 1, 1), 0),  # sizes unknown
        ((96, 96, 40), (1.2, 1.2, 5), 2),
        ((40, 96, 96), (5, 1.2, 1.22), 0),
        ((64, 64, 40), (1.5, 1.5, 1.5), 2),  # no evidence
        ((31, 90, 96), (1.5, 1.5, 1.5), 2),
        ((29, 90, 96), (1.5, 1.5, 1.5), 0),  # less than a third
        ((200, 216, 1), (1.4, 1.4, 1.4), 2),
        ((12, 256, 216, 30), (8, 1.4, 1.4), 0),
    ],
)
def test_seen_from_lengths_and_spacings(shape, spacing, axis):
    assert slice_axis(shape, np.diag([*spacing, 1.0])) == axis


@pytest.mark.parametrize("spacing", [(8, 1.9, 1.9), (1.9, 8, 1.9)])
def test_contradictions_are_refused(spacing):
    with pytest.raises(UserError, match="shortest axis is not the coarsest"):
        slice_axis((128, 128, 11), np.diag([*spacing, 1.0]))


def test_oblique_axes_count_by_their_length():
    turned = AFFINE.copy()
    turned[:3, :3] = AFFINE[:3, [2, 0, 1]]
    assert slice_axis((4, 40, 40), turned) == 0


def moved(matrix=None, origin=(0, 0, 0)):
    """The affine with its axes changed, or its origin moved by millimetres."""
    affine = AFFINE @ (np.eye(4) if matrix is None else matrix)
    affine[:3, 3] += origin
    return affine


def turned(radians):
    cosine, sine = np.cos(radians), np.sin(radians)
    turn = np.eye(4)
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return turn @ AFFINE


ROUNDING = {
    "an origin 0.03 mm off": moved(origin=(0.03, -0.03, 0.03)),
    "directions that differ by 1e-4": turned(1e-4),
    "sizes with five digits": moved(np.diag([1.3672 / 1.367187, 1.3672 / 1.367187, 1, 1])),
    "single precision": AFFINE.astype(np.float32).astype(float),
}
ELSEWHERE = {
    "half a voxel, from corners taken for centres": moved(origin=AFFINE[:3, :3] @ (0.5, 0.5, 0.5)),
    "half a pixel": moved(origin=AFFINE[:3, :3] @ (0.5, 0, 0)),
    "a slice": moved(origin=AFFINE[:3, 2]),
    "a reversed axis": moved(np.diag([-1, 1, 1, 1])),
    "exchanged axes": AFFINE[:, [1, 0, 2, 3]],
    "a degree": turned(np.pi / 180),
    "sizes of 1 mm": moved(np.diag([1 / 1.237, 1 / 1.253, 1 / 8.01, 1])),
}


@pytest.mark.parametrize("what", ROUNDING)
def test_rounding_moves_nothing(what):
    assert same_place(AFFINE, ROUNDING[what], SHAPE)


@pytest.mark.parametrize("what", ELSEWHERE)
def test_elsewhere(what):
    assert not same_place(AFFINE, ELSEWHERE[what], SHAPE)


def test_distances_are_in_voxels_of_the_image():
    shifted = np.diag([1.5, 1.5, 10, 1])
    shifted[:3, 3] = 0.3, 0, 1
    assert displacement(np.diag([1.5, 1.5, 10, 1]), shifted, SHAPE) == pytest.approx(0.2)
    assert displacement(np.diag([1.5, 1.5, 10, 1]), np.diag([1.5, 1.5, 11, 1]), SHAPE) == pytest.approx(1.15)
    assert displacement(np.eye(4), np.diag([1, 1, -1, 1]), (5, 5, 1)) == pytest.approx(1), "of a single slice, too"


def test_unit_steps():
    assert is_unit(np.array([1, 1.00005, 0.9, -1, 1.46])).tolist() == [True, True, False, False, False]
