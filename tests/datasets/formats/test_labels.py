"""Values that rounding moved, and values that are no labels."""

import nibabel as nib
import numpy as np
import pytest

from monai_iln.datasets.formats.labels import round_labels
from monai_iln.datasets.formats.volumes import read_volume
from monai_iln.errors import UserError

VALUES = np.array([0, 1, 1, 2, 3, 0, 4, 4], np.uint8).reshape(2, 2, 2)


@pytest.mark.parametrize("error", [1e-7, -1e-7, 0.0098, -0.0098])
def test_what_rounding_moved(error):
    rounded = round_labels(VALUES + error)
    np.testing.assert_array_equal(rounded, VALUES)
    assert rounded.dtype == np.uint16


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_maps_that_are_stored_with_a_slope(tmp_path, dtype):
    """What nibabel writes of floating point in whole numbers: steps of 4/255 in 8 bits."""
    image = nib.Nifti1Image(VALUES.astype(np.float64), np.eye(4))
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / "label.nii.gz")
    stored, _ = read_volume(tmp_path / "label.nii.gz")
    assert (stored != VALUES).any()
    np.testing.assert_array_equal(round_labels(stored), VALUES)


def test_whole_numbers_are_taken_as_they_are():
    assert round_labels(VALUES) is VALUES
    np.testing.assert_array_equal(round_labels(np.array([0.0, 65535.0])), [0, 65535])


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.5, float), (1.02, float), (-1, np.int16), (-1, float), (65536, np.int32), (7e4, np.float32)]
)
def test_values_that_are_no_labels(value, dtype):
    array = VALUES.astype(dtype)
    array[1, 1, 1] = value
    with pytest.raises(UserError, match=rf"gt\.nii: 1 voxels are no labels, the first is {value:.6g}\. .*export"):
        round_labels(array, "gt.nii")
