import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_iln.datasets.dicom import read_stack
from monai_iln.errors import UserError
from monai_iln.transforms import (
    FixedRotations,
    LoadStackd,
    ScaleIntensitySlicewise,
    ScaleIntensitySlicewised,
    TakeSliced,
)


def test_every_slice_is_scaled_on_its_own():
    stack = torch.rand(1, 5, 6, 3) * torch.tensor([1.0, 10.0, 0.0]) + 7
    scaled = ScaleIntensitySlicewise()(stack)
    torch.testing.assert_close(scaled.amin(dim=(0, 1, 2)), torch.zeros(3))
    torch.testing.assert_close(scaled.amax(dim=(0, 1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    expected = (stack[..., 0] - stack[..., 0].min()) / (stack[..., 0].max() - stack[..., 0].min())
    torch.testing.assert_close(scaled[..., 0], expected)


def test_scaling_keeps_the_affine_and_other_keys():
    affine = torch.diag(torch.tensor([1.4, 1.4, 8.0, 1.0], dtype=torch.float64))
    data = {"image": MetaTensor(torch.randint(0, 900, (1, 4, 4, 2), dtype=torch.int16), affine=affine), "subject": "a"}
    scaled = ScaleIntensitySlicewised("image")(data)
    assert scaled["image"].dtype == torch.float32
    torch.testing.assert_close(scaled["image"].affine, affine)
    assert scaled["subject"] == "a"
    assert data["image"].dtype == torch.int16


def test_taken_slices_are_plain_copies():
    stack = MetaTensor(torch.arange(24.0).reshape(1, 2, 3, 4))
    taken = TakeSliced(["image"])({"image": stack, "slice": 2})["image"]
    assert type(taken) is torch.Tensor
    assert taken.untyped_storage().nbytes() == 6 * 4
    torch.testing.assert_close(taken, stack.as_tensor()[..., 2])


def test_load_stack(official, prepared):
    file = sorted((prepared / "images").iterdir())[0]
    loaded = LoadStackd("image")({"image": str(file)})["image"]
    np.testing.assert_array_equal(loaded[0].numpy(), nib.load(file).get_fdata())
    np.testing.assert_allclose(loaded.affine, nib.load(file).affine, atol=1e-6)

    folder = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
    pixels, affine = read_stack(folder, 2)
    loaded = LoadStackd("image", phase=2)({"image": str(folder)})["image"]
    np.testing.assert_array_equal(loaded[0].numpy(), pixels)
    np.testing.assert_allclose(loaded.affine, affine)
    with pytest.raises(UserError, match="a cine with 4 phases"):
        LoadStackd("image")({"image": str(folder)})


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3, 2)])
def test_not_a_stack(tmp_path, shape):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), path)
    with pytest.raises(UserError, match=r"A stack has three axes"):
        LoadStackd("image")({"image": path})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read as an image"):
        LoadStackd("image")({"image": path})


def test_fixed_rotations_visit_every_pair_once():
    image = torch.zeros(1, 33, 33)
    image[0, 16, 28] = 1.0  # to the right of the centre
    items = [{"image": image * value, "label": image} for value in (1, 2)]
    rotated = FixedRotations(items, [-90, 0, 90], ["image", "label"], ["bilinear", "nearest"])
    assert len(rotated) == 6
    found = [
        (item["image"].max().round().item(), tuple(np.argwhere(item["label"][0].numpy() > 0.5)[0]))
        for item in rotated_items(rotated)
    ]
    assert {value for value, _ in found} == {1.0, 2.0}
    assert len(set(found)) == 6
    up, down = (4, 16), (28, 16)
    assert {place for _, place in found} == {(16, 28), up, down}
    assert math.isclose(rotated[1]["image"].sum(), 1.0, rel_tol=1e-4)


def rotated_items(dataset):
    return [dataset[index] for index in range(len(dataset))]
