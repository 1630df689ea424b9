import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_iln.errors import UserError
from monai_iln.transforms import KeepSlices, KeepSlicesd


@pytest.mark.parametrize(
    ("slices", "kept"),
    [("2-3", [0, 1, 1, 0, 0]), ("4-", [0, 0, 0, 1, 1]), ("-1", [1, 0, 0, 0, 0]), ("1-5", [1] * 5), ("-", [1] * 5)],
)
def test_first_and_last_are_included_and_counted_from_1(slices, kept):
    mask = torch.ones(1, 3, 4, 5, dtype=torch.float64)
    affine = np.diag([1.4, 1.4, -8.0, 1.0])
    item = {"pred": MetaTensor(mask.clone(), affine=affine), "slice_range": slices}
    found = KeepSlicesd("pred")(item)["pred"]
    torch.testing.assert_close(found.as_tensor(), mask * torch.tensor(kept))
    np.testing.assert_allclose(found.affine, affine)
    torch.testing.assert_close(item["pred"].as_tensor(), mask, msg="the input stays")


@pytest.mark.parametrize("item", [{}, {"slice_range": ""}])
def test_without_a_range_all_stay(item):
    mask = torch.ones(1, 3, 4, 5)
    torch.testing.assert_close(KeepSlicesd("pred")(item | {"pred": mask})["pred"], mask)


@pytest.mark.parametrize("slices", ["2-6", "6-", "-6", "6-9"])
def test_a_range_that_leaves_the_stack_names_it(slices):
    mask = MetaTensor(torch.ones(1, 3, 4, 5), meta={"filename_or_obj": "one_ED.nii.gz"})
    with pytest.raises(UserError, match=f"one_ED.nii.gz: has 5 slices, and {slices} goes beyond the last"):
        KeepSlices(slices)(mask)


def test_what_is_no_stack():
    with pytest.raises(UserError, match="Slices are those of a stack"):
        KeepSlices("2-3")(torch.ones(1, 3, 4))
