"""The largest component of a whole stack. That of every slice: tests/test_transforms.py."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_iln.errors import UserError
from monai_iln.transforms import LargestComponent, LargestComponentd

AFFINE = torch.diag(torch.tensor([1.4, 1.4, 8.0, 1.0], dtype=torch.float64))


def marked(*places, shape=(6, 8, 5), dtype=torch.float32):
    """A stack of zeros, with 1 at some places; a place is an index of three axes."""
    mask = torch.zeros(1, *shape, dtype=dtype)
    for place in places:
        mask[0][place] = 1
    return mask


HEART = np.s_[1:4, 1:4, 0:3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_what_does_not_touch_the_heart_goes(dtype):
    mask = marked(HEART, np.s_[2:4, 2:4, 4], np.s_[0, 7, 1], dtype=dtype)
    kept = LargestComponentd("pred")({"pred": MetaTensor(mask.clone(), affine=AFFINE), "other": 1})
    torch.testing.assert_close(kept["pred"].as_tensor(), marked(HEART, dtype=dtype))
    torch.testing.assert_close(kept["pred"].affine, AFFINE)
    assert kept["other"] == 1


def test_the_input_stays():
    mask = marked(HEART, np.s_[0, 0, 4])
    item = mask.clone()
    LargestComponent()(item)
    torch.testing.assert_close(item, mask)


@pytest.mark.parametrize("place", [np.s_[4, 4, 3], np.s_[0, 0, 3], np.s_[4, 2, 3]])
def test_a_corner_or_an_edge_in_the_next_slice_is_enough(place):
    """Slices are breath-holds apart, and a small apex may lie beside the slice above it."""
    mask = marked(HEART, place)
    torch.testing.assert_close(LargestComponent()(mask).as_tensor(), mask)


def test_two_pixels_away_is_not():
    torch.testing.assert_close(LargestComponent()(marked(HEART, np.s_[5, 5, 3])).as_tensor(), marked(HEART))


def test_a_column_of_small_slices_is_larger_than_one_large_slice():
    column = np.s_[2, 2, 0:5]
    mask = marked(column, np.s_[0:2, 6:8, 1])  # 5 against 4
    torch.testing.assert_close(LargestComponent()(mask).as_tensor(), marked(column))


def test_of_equal_ones_the_first_stays():
    mask = marked(np.s_[0:2, 0:2, 4], np.s_[4:6, 4:6, 0])
    torch.testing.assert_close(LargestComponent()(mask).as_tensor(), marked(np.s_[0:2, 0:2, 4]))


def test_classes_have_components_of_their_own():
    mask = marked(HEART)
    mask[0, 4, 1:4, 0] = 2  # touches class 1, and is the smaller one of class 2
    mask[0, 0, 4:8, 3] = 2
    expected = mask.clone()
    expected[0, 4, 1:4, 0] = 0
    torch.testing.assert_close(LargestComponent()(mask).as_tensor(), expected)


@pytest.mark.parametrize("mask", [torch.zeros(1, 4, 5, 3), torch.ones(1, 4, 5, 3), torch.ones(1, 4, 5, 1)])
def test_an_empty_a_full_and_a_planar_stack(mask):
    torch.testing.assert_close(LargestComponent()(mask).as_tensor(), mask)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 4, 4), (4, 4, 3)])
def test_another_shape_is_one_message(shape):
    with pytest.raises(UserError, match="take the largest logit first"):
        LargestComponent()(torch.zeros(shape))
