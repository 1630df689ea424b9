import csv
import math
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import monai.transforms
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, decollate_batch, set_track_meta
from monai.data.utils import to_affine_nd
from monai.transforms import Compose, Flipd, Invertd, RandFlipd, ResizeWithPadOrCropd, Rotate, SaveImage
from PIL import Image, ImageDraw
from scipy import ndimage

import monai_iln.transforms
from monai_iln.datasets import DataWarning
from monai_iln.datasets.cines import CineImage
from monai_iln.datasets.formats.contours import read_contour
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.errors import UserError
from monai_iln.handlers.slices import file_of
from monai_iln.transforms import (
    FixedRotations,
    LargestComponentSlicewise,
    LargestComponentSlicewised,
    LoadStack,
    LoadStackd,
    RandRotateSet,
    RandRotateSetd,
    RandSliceSamples,
    RandSliceSamplesd,
    RasterizeContour,
    RasterizeContourd,
    ScaleIntensitySlicewise,
    ScaleIntensitySlicewised,
    SliceDataset,
    StackWriter,
    StandardizeInPlane,
    StandardizeInPlaned,
    TakeSlice,
    TakeSliced,
)

AFFINE = torch.tensor(  # oblique
    [[1.2, 0.3, -2.0, -40.0], [-0.4, 1.1, 3.0, 15.0], [0.2, -0.5, 7.0, 60.0], [0, 0, 0, 1]], dtype=torch.float64
)


def make_stack(slices=4, rows=12, columns=10):
    """Every voxel has a value of its own."""
    count = rows * columns * slices
    return MetaTensor(torch.arange(1.0, count + 1).reshape(1, rows, columns, slices), affine=AFFINE.clone())


def make_blob(size=64):
    """A smooth image of shape (1, size, size) that no symmetry maps onto itself."""
    y, x = np.mgrid[:size, :size] / size
    blob = np.exp(-60 * ((x - 0.6) ** 2 + 2 * (y - 0.4) ** 2)) + 0.5 * np.exp(-90 * ((x - 0.4) ** 2 + (y - 0.6) ** 2))
    return torch.as_tensor(blob[None], dtype=torch.float32)


def test_every_slice_is_scaled_on_its_own():
    stack = torch.rand(1, 5, 6, 3) * torch.tensor([1.0, 10.0, 0.0]) + 7
    scaled = ScaleIntensitySlicewise()(stack)
    torch.testing.assert_close(scaled.amin(dim=(0, 1, 2)), torch.zeros(3))
    torch.testing.assert_close(scaled.amax(dim=(0, 1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    expected = (stack[..., 0] - stack[..., 0].min()) / (stack[..., 0].max() - stack[..., 0].min())
    torch.testing.assert_close(scaled[..., 0], expected)
    torch.testing.assert_close(ScaleIntensitySlicewise()(stack.numpy()).as_tensor(), scaled.as_tensor())


def test_scaling_keeps_the_affine_and_other_keys():
    affine = torch.diag(torch.tensor([1.4, 1.4, 8.0, 1.0], dtype=torch.float64))
    data = {"image": MetaTensor(torch.randint(0, 900, (1, 4, 4, 2), dtype=torch.int16), affine=affine), "subject": "a"}
    scaled = ScaleIntensitySlicewised("image")(data)
    assert scaled["image"].dtype == torch.float32
    torch.testing.assert_close(scaled["image"].affine, affine)
    assert scaled["subject"] == "a"
    assert data["image"].dtype == torch.int16


def test_threads_get_the_pixels_of_their_own_cine(tmp_path, monkeypatch):
    """As the threads of MONAI's CacheDataset, which share a transform."""
    both = threading.Barrier(2, timeout=20)

    class Interrupted(LoadStack):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "_cine" and value is not None:
                both.wait()  # a thread goes on when the other one has kept its cine, too

    def read(path, series):
        return CineImage(np.full((4, 4, 3, 2), float(path.name == "b.nii")), np.eye(4), True, "")

    monkeypatch.setattr("monai_iln.transforms.io.read_cine", read)
    load = Interrupted()
    with ThreadPoolExecutor(2) as pool:
        means = list(pool.map(lambda name: load.read_phase(tmp_path / name, 1)[0].mean(), ("a.nii", "b.nii")))
    assert means == [0.0, 1.0]


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
    torch.testing.assert_close(LoadStack(2)(folder).as_tensor(), loaded.as_tensor())
    torch.testing.assert_close(LoadStackd("image", 2, series=1)({"image": folder})["image"], loaded)
    with pytest.raises(UserError, match="series 2 is none of 1 stack:"):
        LoadStack(2, series=2)(folder)
    with pytest.raises(UserError, match="a cine with 4 phases"):
        LoadStackd("image")({"image": str(folder)})


@pytest.mark.parametrize(
    ("array", "spacing", "message"),
    [
        (np.zeros((4, 4), np.float32), (1.4, 1.4, 8), "describe 3 or 4 axes"),
        (np.zeros((4, 4, 3, 2), np.float32), (1.4, 1.4, 8), "a cine with 2 phases. One phase is segmented at a time"),
        (np.zeros((4, 30, 30), np.float32), (8, 1.4, 1.4), "axis 0 counts the slices. It must be the last"),
        (np.zeros((30, 30, 4), np.complex64), (1.4, 1.4, 8), "axes of real numbers"),
        (np.zeros((30, 30, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), (1.4, 1.4, 8), "axes of real numbers"),
        (np.full((30, 30, 4), np.nan, np.float32), (1.4, 1.4, 8), "3600 voxels are NaN"),
    ],
)
def test_not_a_stack(tmp_path, array, spacing, message):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    with pytest.raises(UserError, match=message):
        LoadStackd("image")({"image": path})


def test_files_that_are_not_there_or_not_whole(tmp_path, prepared):
    with pytest.raises(UserError, match=r"nowhere.nii: no such file"):
        LoadStack()(tmp_path / "nowhere.nii")
    path = tmp_path / "image.nii.gz"
    path.write_bytes(sorted((prepared / "images").iterdir())[0].read_bytes()[:2000])
    with pytest.raises(UserError, match="must be whole"):
        LoadStack()(path)


def _changed(affine, origin=0.0, spacing=1.0, degrees=0.0):
    """An affine with another origin, another spacing within slices, or turned about the axis from foot to head."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ affine[:3, :3]
    changed = affine.copy()
    changed[:3, :3] = turned @ np.diag([spacing, spacing, 1])
    changed[0, 3] += origin
    return changed


def test_an_image_and_its_label_lie_on_one_grid(tmp_path, prepared):
    image = sorted((prepared / "images").iterdir())[0]
    label = sorted((prepared / "labels").iterdir())[0]
    loaded = LoadStackd(["image", "label"])({"image": image, "label": label})
    assert loaded["image"].shape == loaded["label"].shape
    array, affine = nib.load(image).get_fdata(), nib.load(image).affine
    for wrong, difference in (
        (nib.Nifti1Image(array[:-1], affine), r"of shape \(\d+, \d+, \d+\), not \("),
        (nib.Nifti1Image(array, affine @ np.diag([-1, 1, 1, 1])), r"in another place: .* corner lies \d+ voxels away"),
        (
            nib.Nifti1Image(array, _changed(affine, origin=4.0)),
            r"in another place: its origin is .* mm, not .*, 4 mm away",
        ),
        (nib.Nifti1Image(array, _changed(affine, spacing=1.1)), r"in another place: its voxels have .* mm, not \("),
        (
            nib.Nifti1Image(array, _changed(affine, degrees=30)),
            r"in another place: its axes are turned by up to (29.9|30) degr",
        ),
    ):
        nib.save(wrong, tmp_path / "wrong.nii.gz")
        with pytest.raises(UserError, match=f"wrong.nii.gz: the label of .*, but {difference}.*They lie on one grid"):
            LoadStackd(["image", "label"])({"image": image, "label": tmp_path / "wrong.nii.gz"})


def test_a_label_that_lies_on_its_image_but_for_rounding_gets_its_affine(tmp_path):
    """Otherwise the two might be resampled to sizes that differ by a pixel. Analyze has no orientation of its own."""
    affine = np.array([[0, -1.367187, 0, 30], [1.367187, 0, 0, -20], [0, 0, 10, 5], [0, 0, 0, 1.0]])
    image, mask = np.random.default_rng(0).integers(0, 900, (64, 60, 4)).astype(np.int16), np.zeros((64, 60, 4))
    mask[20:40, 20:30, 1:3] = 1
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "image.nii.gz")
    rounded = affine * [1.3672 / 1.367187, 1.3672 / 1.367187, 1, 1] + np.eye(4)[:, 3] * [[0.03], [0.03], [0], [0]]
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), rounded), tmp_path / "rounded.nii.gz")
    nib.save(nib.AnalyzeImage(mask.astype(np.uint8), np.eye(4)), tmp_path / "analyze.img")
    for name in ("rounded.nii.gz", "analyze.img"):
        for keys in (["image", "label"], ["label", "image"]):
            loaded = LoadStackd(keys)({"image": tmp_path / "image.nii.gz", "label": tmp_path / name})
            expected = affine if (name, keys[0]) != ("rounded.nii.gz", "label") else rounded
            for key in keys:
                np.testing.assert_allclose(loaded[key].affine, expected, atol=1e-5)
            np.testing.assert_array_equal(loaded["label"][0], mask)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_stacks_of_other_formats(tmp_path, suffix):
    """A stack from 3D Slicer, its NIfTI twin and a mask in NIfTI lie on one grid; masks are named after it."""
    affine = np.array([[0, -1.4, 0, 30], [1.4, 0, 0, -20], [0, 0, 8, 5], [0, 0, 0, 1.0]])
    pixels = np.random.default_rng(0).integers(0, 900, (20, 18, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(pixels, affine), tmp_path / "twin.nii.gz")
    SimpleITK.WriteImage(SimpleITK.ReadImage(tmp_path / "twin.nii.gz"), tmp_path / f"stack{suffix}")
    item = {"image": tmp_path / f"stack{suffix}", "label": tmp_path / "twin.nii.gz"}
    loaded = LoadStackd(["image", "label"])(item)
    np.testing.assert_array_equal(loaded["image"][0], pixels)
    np.testing.assert_allclose(loaded["image"].affine, affine, atol=1e-5)
    save = SaveImage(tmp_path, "mask", writer=StackWriter, separate_folder=False, print_log=False, resample=False)
    save(loaded["image"])
    written = nib.load(tmp_path / "stack_mask.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    cine = SimpleITK.JoinSeries([SimpleITK.ReadImage(item["image"])] * 2)
    SimpleITK.WriteImage(cine, tmp_path / f"cine{suffix}")
    with pytest.raises(UserError, match=r"a cine with 2 phases. One phase is segmented at a time"):
        LoadStack()(tmp_path / f"cine{suffix}")


def test_labels_are_rounded_and_images_are_not(tmp_path):
    values = np.zeros((8, 9, 3))
    values[2:5, 2:5] = 0.9999999
    for name, array in (("image", values), ("label", values), ("soft", values / 2)):
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), tmp_path / f"{name}.nii.gz", dtype=np.float64)
    item = {key: tmp_path / f"{key}.nii.gz" for key in ("image", "label")}
    loaded = LoadStackd(["image", "label"])(item)
    assert loaded["label"].unique().tolist() == [0, 1]
    assert loaded["label"].long().sum() == 27, "what is rounded down in float32 would be lost"
    assert loaded["image"].max() < 1
    with pytest.raises(UserError, match=r"soft\.nii\.gz: 27 voxels are no labels"):
        LoadStackd(["image", "label"])(item | {"label": tmp_path / "soft.nii.gz"})


def without_sform(path, array, sizes=(1.46, 1.46, 10)):
    """A file as those of ACDC: the sform has unit steps, pixdim the sizes."""
    image = nib.Nifti1Image(array, None)
    image.header["pixdim"][1:4] = sizes
    image.header.set_sform(np.diag([-1, -1, 1, 1]), code=2)
    nib.save(image, path)
    return path


def test_a_header_that_contradicts_itself_is_told_once_a_file(tmp_path):
    array = np.random.default_rng(0).integers(0, 900, (64, 60, 4)).astype(np.int16)
    path = without_sform(tmp_path / "patient001_frame01.nii.gz", array)
    load = LoadStack()
    with pytest.warns(
        DataWarning, match=r"patient001_frame01\.nii\.gz: .*1 x 1 x 1, pixdim 1.46 x.*pixdim are believed"
    ):
        loaded = load(path)
    np.testing.assert_allclose(loaded.affine, np.diag([-1.46, -1.46, 10, 1]), rtol=1e-6)
    np.testing.assert_array_equal(loaded[0], array)
    torch.testing.assert_close(load(path).affine, loaded.affine)  # warnings are errors
    turned = StandardizeInPlane([1.46, 1.46])(loaded)
    np.testing.assert_allclose(turned[0], array.swapaxes(0, 1), atol=0.01)


def test_the_mask_of_such_a_file_lies_where_the_stack_lies(tmp_path):
    path = without_sform(tmp_path / "stack.nii.gz", np.ones((6, 5, 3), np.int16))
    save = SaveImage(tmp_path, "mask", writer=StackWriter, separate_folder=False, print_log=False, resample=False)
    with pytest.warns(DataWarning):
        save(LoadStack()(path))
    written = nib.load(tmp_path / "stack_mask.nii.gz")
    np.testing.assert_allclose(written.affine, np.diag([-1.46, -1.46, 10, 1]), rtol=1e-6)
    np.testing.assert_allclose(written.header.get_zooms(), (1.46, 1.46, 10), rtol=1e-6)
    with pytest.warns(DataWarning, match="stack.nii.gz"):  # and so it is taken for a label
        LoadStackd(["image", "label"])({"image": path, "label": tmp_path / "stack_mask.nii.gz"})


@pytest.mark.parametrize("slices", [1, 3])
def test_a_written_stack_keeps_its_axes(tmp_path, slices):
    affine = np.diag([1.4, 1.4, 8.0, 1.0])
    nib.save(nib.Nifti1Image(np.ones((6, 5, slices), np.float32), affine), tmp_path / "stack.nii.gz")
    save = SaveImage(tmp_path, "mask", writer=StackWriter, separate_folder=False, print_log=False, resample=False)
    save(LoadStack()(tmp_path / "stack.nii.gz"))
    written = nib.load(tmp_path / "stack_mask.nii.gz")
    assert written.shape == (6, 5, slices)
    np.testing.assert_allclose(written.affine, affine)


# Geometry


def _stack(affine, shape=(40, 30, 4)):
    smooth = np.fromfunction(lambda x, y, z: np.sin(x / 6) * np.cos(y / 5) + z, shape)
    return MetaTensor(torch.as_tensor(smooth[None], dtype=torch.float32), affine=torch.as_tensor(affine))


OBLIQUE = np.array([[-0.8, 0.9, 2.0, 7.0], [0.9, 0.8, 1.0, 4.0], [0.3, -0.2, 7.0, 5.0], [0.0, 0.0, 0.0, 1.0]])


def test_geometry_keeps_planes_centre_and_values():
    stack = _stack(OBLIQUE)
    standard = StandardizeInPlane([0.6, 1.0])(stack)
    affine = standard.affine.numpy()
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :2], axis=0), [0.6, 1.0])
    np.testing.assert_allclose(affine[:3, 2], OBLIQUE[:3, 2], err_msg="a sheared stack keeps its planes")
    # Rows lead to the back: against the first axis. Columns lead to the left: against the second, which leads right.
    np.testing.assert_allclose(affine[:3, 0] / 0.6, -OBLIQUE[:3, 0] / np.linalg.norm(OBLIQUE[:3, 0]))
    np.testing.assert_allclose(affine[:3, 1], -OBLIQUE[:3, 1] / np.linalg.norm(OBLIQUE[:3, 1]))
    assert standard.shape == (1, 83, 37, 4)  # 40 pixels of 1.241 mm, 30 of 1.221 mm
    for k in range(4):
        centres = [
            matrix @ [(shape[1] - 1) / 2, (shape[2] - 1) / 2, k, 1]
            for matrix, shape in ((OBLIQUE, stack.shape), (affine, standard.shape))
        ]
        np.testing.assert_allclose(*centres)
    # Truth: the same function of the place, seen through both affines.
    index = np.stack(np.meshgrid(*map(np.arange, standard.shape[1:]), indexing="ij"), -1)
    place = np.concatenate([index, np.ones((*index.shape[:-1], 1))], -1) @ affine.T
    x, y, z, _ = np.moveaxis(place @ np.linalg.inv(OBLIQUE).T, -1, 0)
    error = np.abs(standard[0].numpy() - (np.sin(x / 6) * np.cos(y / 5) + z))
    assert error[2:-2, 2:-2].max() < 0.02


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_every_way_to_store_a_stack_becomes_the_same(order, signs):
    screen = np.array([[0.3, -1.4, 0, 9.0], [-1.0, -0.4, 2, 3.0], [-0.9, 0.2, 8, 5.0], [0, 0, 0, 1]])
    pixels = torch.rand(1, 12, 9, 3)
    stored = pixels.permute(0, *(axis + 1 for axis in order), 3)
    affine = screen[:, [*order, 2, 3]]
    for axis, sign in enumerate(signs):
        if sign < 0:
            stored = stored.flip(axis + 1)
            affine[:3, 3] += affine[:3, axis] * (stored.shape[axis + 1] - 1)
            affine[:3, axis] *= -1
    standardize = StandardizeInPlane(np.linalg.norm(screen[:3, :2], axis=0).tolist())
    standard = standardize(MetaTensor(stored, affine=torch.as_tensor(affine)))
    torch.testing.assert_close(standard.as_tensor(), pixels)
    np.testing.assert_allclose(standard.affine, screen, atol=1e-12)
    back = standardize.inverse(standard)
    torch.testing.assert_close(back.as_tensor(), stored)
    np.testing.assert_allclose(back.affine, affine, atol=1e-12)


def test_a_plane_from_feet_to_head():
    """Coronal: rows lead to the feet, where nothing leads to the back."""
    stack = _stack(np.array([[0, 1.4, 0, 0], [0, 0, 8.0, 0], [1.4, 0, 0, 0], [0, 0, 0, 1]]))
    affine = StandardizeInPlane([1.4, 1.4])(stack).affine.numpy()
    np.testing.assert_allclose(affine[:3, :2] / 1.4, [[0, -1], [0, 0], [-1, 0]], atol=1e-12)


def test_geometry_of_small_stacks_and_of_the_border():
    one = MetaTensor(torch.full((1, 1, 2, 1), 7.0), affine=torch.diag(torch.tensor([-0.5, -0.5, 8.0, 1.0])))
    standard = StandardizeInPlane([1.4, 1.4])(one)
    assert standard.shape == (1, 1, 1, 1)
    assert standard.dtype == torch.float32
    fine = StandardizeInPlane([0.3, 0.3])(one)
    torch.testing.assert_close(fine.as_tensor(), torch.full_like(fine.as_tensor(), 7), msg="no dark rim")


def test_geometry_is_undone():
    stack = _stack(OBLIQUE)
    item = {"image": stack, "label": (stack > 1).float()}
    standardize = StandardizeInPlaned(["image", "label"], [0.5, 0.5], mode=["bilinear", "nearest"])
    standard = standardize(item)
    assert set(standard["label"].unique().tolist()) == {0.0, 1.0}
    back = standardize.inverse(standard)
    for key in item:
        assert back[key].shape == stack.shape
        np.testing.assert_allclose(back[key].affine, OBLIQUE)
    assert (back["image"] - stack).abs()[:, 2:-2, 2:-2].max() < 0.05
    assert (back["label"] != item["label"]).float().mean() < 0.02


@pytest.mark.parametrize("affine", [np.eye(4), -np.eye(4)])
def test_unknown_geometry_is_left_alone(affine):
    stack = _stack(affine)
    standardize = StandardizeInPlane([1.4, 1.4])
    torch.testing.assert_close(standardize(stack).as_tensor(), stack.as_tensor())
    np.testing.assert_allclose(standardize.inverse(standardize(stack)).affine, affine)


def test_wrong_pixel_sizes():
    for wrong in ([1.4], [1.4, 0], [1.4, float("nan")], 1.4, None, "no"):
        with pytest.raises(UserError, match="a pixel has two sizes in mm above 0"):
            StandardizeInPlane(wrong)
    for wrong in (torch.ones(1, 4, 5, 3), _stack(OBLIQUE)[..., 0]):
        with pytest.raises(UserError, match="Geometry is that of a stack"):
            StandardizeInPlane([1.4, 1.4])(wrong)
    with pytest.raises(UserError, match="three independent axes"):
        StandardizeInPlane([1.4, 1.4])(_stack(np.diag([1.0, 0.0, 8.0, 1.0])))


# Components


def test_largest_component_of_every_slice_and_class():
    mask = torch.zeros(1, 6, 8, 3)
    mask[0, 0:2, 0:2, 0] = 1  # 4 pixels
    mask[0, 4, 4, 0] = 1  # of a component that is large in the next slice only
    mask[0, 3:6, 3:6, 1] = 1
    mask[0, 0, 0, 1] = 1
    mask[0, 0, 7, 0] = mask[0, 1, 6, 0] = 2  # one component over a corner
    mask[0, 5, 7, 0] = 2
    expected = mask.clone()
    expected[0, 4, 4, 0] = expected[0, 0, 0, 1] = expected[0, 5, 7, 0] = 0
    affine = torch.diag(torch.tensor([1.4, 1.4, 8.0, 1.0], dtype=torch.float64))
    kept = LargestComponentSlicewised("pred")({"pred": MetaTensor(mask.clone(), affine=affine)})["pred"]
    torch.testing.assert_close(kept.as_tensor(), expected)
    torch.testing.assert_close(kept.affine, affine)
    item = mask.clone()
    LargestComponentSlicewise()(item)
    torch.testing.assert_close(item, mask, msg="the input stays")
    for wrong in (torch.zeros(2, 4, 4, 3), torch.zeros(1, 4, 4)):
        with pytest.raises(UserError, match="take the largest logit first"):
            LargestComponentSlicewise()(wrong)
    full = torch.ones(1, 3, 3, 2, dtype=torch.uint8)
    torch.testing.assert_close(LargestComponentSlicewise()(full).as_tensor(), full)


# All slices


def test_slice_dataset_reads_once_and_transforms_every_time():
    loads = []

    def load(item):
        loads.append(item["name"])
        return item | {"image": torch.full((1, 4, 5, item["slices"]), 7.0), "label": torch.zeros(1, 4, 5, 3)}

    items = [{"name": "a", "slices": 3}, {"name": "b", "slices": 3}]
    dataset = SliceDataset(items, ["image", "label"], load, lambda item: item | {"seen": True})
    assert [(item["slice"], item["seen"], tuple(item["image"].shape)) for item in dataset] == [
        (index, True, (1, 4, 5)) for index in (0, 1, 2, 0, 1, 2)
    ]
    assert loads == ["a", "b"]
    with pytest.raises(UserError, match="different numbers of slices"):
        SliceDataset([{"name": "a", "slices": 2}], ["image", "label"], load)
    with pytest.raises(UserError, match="no slices to train on"):
        SliceDataset([], ["image", "label"], load)


def make_stacks():
    rng = torch.Generator().manual_seed(0)
    stacks = []
    for depth in (3, 1, 2):
        image = MetaTensor(torch.rand(1, 4, 5, depth, generator=rng), meta={"filename_or_obj": f"{depth}.nii"})
        label = MetaTensor(torch.randint(0, 3, (1, 4, 5, depth), generator=rng).float())
        stacks.append({"image": image, "label": label, "slices": list(range(1, depth + 1))})
    return stacks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where slices are kept that do not fit into memory, here all."""
    monkeypatch.setattr("monai_iln.transforms.slice_dataset.MOST_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def assert_alike(one, other):
    assert one.keys() == other.keys()
    for key in ("image", "label"):
        assert one[key].dtype == other[key].dtype == torch.float32
        torch.testing.assert_close(one[key].as_tensor(), other[key].as_tensor(), rtol=0, atol=0)
        assert one[key].meta.get("filename_or_obj") == other[key].meta.get("filename_or_obj")
        torch.testing.assert_close(one[key].affine, other[key].affine)
    assert one["slice"] == other["slice"]


def test_slices_beyond_memory_are_the_same_and_loaded_when_needed(folder, monkeypatch):
    loads = []

    def load(item):
        loads.append(len(item["slices"]))
        return item

    with monkeypatch.context() as patch:
        patch.setattr("monai_iln.transforms.slice_dataset.MOST_BYTES_IN_MEMORY", 1 << 20)
        expected = list(SliceDataset(make_stacks(), ["image", "label"]))
        assert not any(folder.iterdir())
    dataset = SliceDataset(make_stacks(), ["image", "label"], load)
    assert (len(dataset), loads) == (6, [3]), "the first tells the size"
    assert_alike(dataset[5], expected[5])
    assert loads == [3, 2]
    for _ in range(2):
        for index in (2, 0, 1, 5, 3, 4):
            assert_alike(dataset[index], expected[index])
    assert loads == [3, 2, 3, 1]
    assert len(list(folder.glob("*/*"))) == 6
    del dataset
    assert not any(folder.iterdir())


def test_workers_share_slices_beyond_memory(folder):
    expected = list(SliceDataset(make_stacks(), ["image", "label"]))
    dataset = SliceDataset(make_stacks(), ["image", "label"])
    for _ in range(2):
        loader = DataLoader(dataset, num_workers=2, collate_fn=itemgetter(0))
        for one, other in zip(loader, expected, strict=True):
            assert_alike(one, other)
    copy = pickle.loads(pickle.dumps(dataset))  # what a worker gets that is no fork
    assert_alike(copy[4], expected[4])
    del copy
    assert len(list(folder.glob("*/*"))) == 6, "workers and copies leave it to the process that made it"


def test_the_mean_of_the_stacks_tells_their_size(folder, monkeypatch):
    """One of 100 bytes, image and label, is followed by one of 200."""
    stacks = make_stacks()[1:]
    monkeypatch.setattr("monai_iln.transforms.slice_dataset.MOST_BYTES_IN_MEMORY", 300)
    assert SliceDataset(stacks, ["image", "label"])._folder is None
    monkeypatch.setattr("monai_iln.transforms.slice_dataset.MOST_BYTES_IN_MEMORY", 250)
    dataset = SliceDataset(stacks, ["image", "label"])
    assert len(dataset) == 3
    assert dataset._folder is not None


def test_another_process_leaves_the_folder(folder, monkeypatch):
    dataset = SliceDataset(make_stacks(), ["image", "label"])
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)  # as in a fork
        del dataset
    assert len(list(folder.iterdir())) == 1


def test_stacks_that_do_not_tell_their_slices_are_counted(folder):
    stacks = [{"image": stack["image"], "label": stack["label"]} for stack in make_stacks()]
    assert len(SliceDataset(stacks, ["image", "label"])) == 6


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_a_load_that_drops_slices(folder, monkeypatch, most):
    monkeypatch.setattr("monai_iln.transforms.slice_dataset.MOST_BYTES_IN_MEMORY", most)
    cut = {"image": torch.ones(1, 4, 5, 2), "label": torch.ones(1, 4, 5, 2)}
    with pytest.raises(UserError, match="stack 0 of the data: 2 slices when it is loaded, 3 in its list"):
        SliceDataset(make_stacks(), ["image", "label"], lambda item: item | cut)


def test_a_full_disk(folder, monkeypatch):
    dataset = SliceDataset(make_stacks(), ["image", "label"])
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("PytorchStreamWriter failed")))
    with pytest.raises(UserError, match="cannot keep slices there .*TMPDIR"):
        dataset[0]


def test_a_load_with_a_state_does_not_change_what_is_drawn():
    """MONAI's loader seeds every random object of a dataset in turn."""
    found = []
    for load in (None, Compose([])):
        dataset = SliceDataset(make_stacks(), ["image", "label"], load, RandFlipd("image", prob=0.5))
        torch.manual_seed(3)
        DataLoader(dataset, num_workers=0)
        found.append(dataset.transform.R.get_state()[1].tolist())
    assert found[0] == found[1]


def test_labels_are_kept_as_bytes_and_nothing_else():
    dataset = SliceDataset(make_stacks(), ["image", "label"])
    assert [packed.item["label"].dtype for packed in dataset.data] == [torch.uint8] * 6
    assert [packed.item["image"].dtype for packed in dataset.data] == [torch.float32] * 6
    for values in ([-1.0], [256.0], [0.5], [float("nan")], [float("inf")]):
        stack = torch.tensor(values).reshape(1, 1, 1, 1)
        kept = SliceDataset([{"image": stack}], ["image"])
        torch.testing.assert_close(kept[0]["image"], stack[..., 0], rtol=0, atol=0, equal_nan=True)


# Rotations


@pytest.mark.parametrize("shape", [(2, 9, 9), (1, 8, 8), (1, 9, 9, 3)])
@pytest.mark.parametrize(("angle", "turns"), [(0, 0), (90, -1), (-90, 1), (180, 2)])
def test_quarter_turns(shape, angle, turns):
    img = torch.rand(shape)
    expected = torch.rot90(img, turns, (1, 2))
    nearest = RandRotateSet([angle], prob=1.0, mode="nearest")(img)
    torch.testing.assert_close(nearest.as_tensor(), expected, rtol=0, atol=0)
    linear = RandRotateSet([angle], prob=1.0)(img)
    torch.testing.assert_close(linear.as_tensor(), expected, rtol=0, atol=1e-4)


def test_any_angle_is_scipy_s():
    img = make_blob()
    rotated = RandRotateSet([34], prob=1.0, padding_mode="zeros")(img)
    expected = ndimage.rotate(img[0].numpy(), -34, order=1, reshape=False)
    np.testing.assert_allclose(rotated[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"keep_size": False},
        {"mode": "nearest"},
        {"padding_mode": "zeros"},
        {"padding_mode": "reflection"},
        {"align_corners": True},
        {"dtype": torch.float64},
        {},
    ],
    ids=str,
)
def test_options_are_monai_s(options):
    img = torch.rand(1, 12, 9)
    expected = Rotate(math.radians(34), **options)(img).as_tensor()
    array = RandRotateSet([34], prob=1.0, **options)(img)
    mapped = RandRotateSetd("image", [34], prob=1.0, **options)({"image": img})["image"]
    for rotated in (array, mapped):
        torch.testing.assert_close(rotated.as_tensor(), expected, rtol=0, atol=0)


def test_angles_are_drawn_evenly_from_the_set():
    rotate = RandRotateSet(range(-60, 61, 2), prob=1.0).set_random_state(1)
    drawn = []
    for _ in range(6100):
        rotate.randomize()
        drawn.append(round(math.degrees(rotate.angle), 6))
    angles, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(angles, np.arange(-60, 61, 2))
    # Chi-squared with 60 degrees of freedom: 0.1 % lie above 99.6.
    assert ((counts - 100) ** 2 / 100).sum() < 99.6


def test_the_drawn_angle_is_applied():
    rotate = RandRotateSet([-90, 90], prob=1.0, mode="nearest").set_random_state(0)
    img = torch.rand(1, 5, 5)
    turned = {tuple(rotate(img).flatten().tolist()) for _ in range(20)}
    assert turned == {tuple(torch.rot90(img, turns, (1, 2)).flatten().tolist()) for turns in (-1, 1)}


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_probability(prob):
    data = {"image": torch.rand(1, 5, 5)}
    array = RandRotateSet([90], prob=prob).set_random_state(3)
    mapped = RandRotateSetd("image", [90], prob=prob).set_random_state(3)
    for rotate in (lambda: array(data["image"]), lambda: mapped(data)["image"]):
        turned = sum(not torch.equal(rotate().as_tensor(), data["image"]) for _ in range(200))
        assert abs(turned / 200 - prob) <= 4 * math.sqrt(prob * (1 - prob) / 200)


def test_seeds():
    data = {"image": make_blob(16)}

    def draw(rotate, seed):
        rotate.set_random_state(seed)
        return torch.stack([rotate(data)["image"].as_tensor() for _ in range(5)])

    rotate = RandRotateSetd("image", range(-30, 31, 10), prob=0.8)
    torch.testing.assert_close(draw(rotate, 7), draw(rotate, 7), rtol=0, atol=0)
    assert not torch.equal(draw(rotate, 7), draw(rotate, 8))
    composed = Compose([rotate])
    torch.testing.assert_close(draw(composed, 7), draw(composed, 7), rtol=0, atol=0)


def test_keys_turn_together_and_labels_stay_labels():
    image = make_blob()
    data = {"image": image, "label": (image > 0.4).float(), "subject": "a"}
    rotate = RandRotateSetd(
        ["image", "label", "missing"],
        range(-60, 61, 10),
        prob=1.0,
        mode=["bilinear", "nearest", "nearest"],
        padding_mode="zeros",
        allow_missing_keys=True,
    ).set_random_state(2)
    for _ in range(10):
        item = rotate(data)
        assert item["subject"] == "a"
        assert item["label"].unique().tolist() == [0.0, 1.0]
        differ = (item["image"] > 0.4) != (item["label"] > 0.5)
        assert differ.float().mean() < 0.01


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_rotation_is_undone(prob):
    image = MetaTensor(make_blob(), affine=AFFINE.clone())
    data = {"image": image, "label": (image > 0.4).float()}
    mapped = RandRotateSetd(["image", "label"], [-34, 34, 60], prob=prob, mode=["bilinear", "nearest"])
    array = RandRotateSet([-34, 34, 60], prob=prob)
    for rotate, value in ((mapped, data), (array, image)):
        rotate.set_random_state(4)
        there = rotate(value)
        back = rotate.inverse(there)
        there, back = (item if rotate is array else item["image"] for item in (there, back))
        assert (prob == 1.0) == ((there - image).abs().max() > 0.3)
        assert (prob == 1.0) == (not torch.allclose(there.affine, AFFINE))
        torch.testing.assert_close(back.affine, AFFINE)
        assert back.applied_operations == []
        inside = slice(16, 48)
        assert (back - image)[:, inside, inside].abs().max() < (0.03 if prob else 1e-9)


def test_lazy_rotation():
    data = {"image": make_stack(rows=10), "slice": 2}
    rotate = RandRotateSetd("image", [90], prob=1.0, mode="nearest")
    transforms = [TakeSliced("image"), Flipd("image", 0), rotate]
    eager, lazy = (Compose(transforms, lazy=lazy)(data)["image"] for lazy in (False, True))
    torch.testing.assert_close(lazy.as_tensor(), eager.as_tensor(), rtol=0, atol=0)
    torch.testing.assert_close(lazy.affine, to_affine_nd(2, eager.affine))
    expected = torch.rot90(data["image"].as_tensor()[..., 2].flip(1), -1, (1, 2))
    torch.testing.assert_close(lazy.as_tensor(), expected, rtol=0, atol=0)
    plane = data["image"][..., 2]
    assert len(rotate({"image": plane}, lazy=True)["image"].pending_operations) == 1
    assert len(RandRotateSet([90], prob=1.0, lazy=True)(plane).pending_operations) == 1
    assert len(RandRotateSetd("image", [90], prob=1.0, lazy=True)({"image": plane})["image"].pending_operations) == 1


@pytest.mark.parametrize("angles", [[], [10, float("nan")], ["10"], [None]])
def test_no_set_of_angles(angles):
    with pytest.raises(UserError, match=r"angles \[.*finite number of degrees.*range\(-60, 61, 2\)"):
        RandRotateSetd("image", angles)
    with pytest.raises(UserError, match=r"at least one angle"):
        FixedRotations([], angles, ["image"], ["bilinear"])


def test_fixed_rotations_visit_every_pair_once():
    items = [{"image": torch.rand(1, 9, 9), "label": torch.rand(1, 9, 9)} for _ in range(2)]
    rotated = FixedRotations(items, [-90, 0, 90], ["image", "label"], ["bilinear", "nearest"])
    assert len(rotated) == 6
    found = [rotated[index] for index in range(6)]
    for index, (item, turns) in enumerate((item, turns) for item in items for turns in (1, 0, -1)):
        for key, tolerance in (("image", 1e-4), ("label", 0)):
            expected = torch.rot90(item[key], turns, (1, 2))
            torch.testing.assert_close(found[index][key].as_tensor(), expected, rtol=0, atol=tolerance)
    corner = FixedRotations([{"image": torch.ones(1, 9, 9)}], [45], ["image"], ["bilinear"])[0]["image"][0, 0, 0]
    assert corner == 0


# Slices


def test_taken_slice():
    stack = make_stack()
    for taken in (TakeSlice(2)(stack), TakeSliced("image")({"image": stack, "slice": np.int64(2)})["image"]):
        torch.testing.assert_close(taken.as_tensor(), stack.as_tensor()[..., 2])
        # A pixel lies where its voxel lies.
        torch.testing.assert_close(
            taken.affine @ torch.tensor([3.0, 5, 0, 1]).double(), AFFINE @ torch.tensor([3.0, 5, 2, 1]).double()
        )
        assert taken.untyped_storage().nbytes() == 12 * 10 * 4, "a view keeps the stack"
        assert taken.peek_pending_rank() == 2
        taken += 1
        taken.affine[0, 0] = 9
    torch.testing.assert_close(stack.as_tensor(), make_stack().as_tensor(), rtol=0, atol=0)
    torch.testing.assert_close(stack.affine, AFFINE)
    assert stack.applied_operations == []


def test_taken_slice_is_put_back():
    stack = make_stack()
    take = TakeSliced(["image", "label"], slice_key="k")
    back = take.inverse(take({"image": stack, "label": stack * 2, "k": 1}))
    expected = torch.zeros(1, 12, 10, 4)
    expected[..., 1] = stack.as_tensor()[..., 1]
    for key, factor in (("image", 1), ("label", 2)):
        torch.testing.assert_close(back[key].as_tensor(), expected * factor, rtol=0, atol=0)
        torch.testing.assert_close(back[key].affine, AFFINE)
        assert back[key].applied_operations == []
        assert back[key].peek_pending_rank() == 3


def test_plain_stacks():
    stack = make_stack()
    assert TakeSlice(0)(stack.numpy()).shape == (1, 12, 10)
    short = MetaTensor(stack.as_tensor(), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0])))
    torch.testing.assert_close(TakeSlice(2)(short).affine[:3, 3], torch.tensor([0.0, 0.0, 2.0]).double())
    set_track_meta(False)
    try:
        for taken in (TakeSlice(3)(stack), RandSliceSamples(1).set_random_state(0)(stack)[0]):
            assert type(taken) is torch.Tensor
    finally:
        set_track_meta(True)


@pytest.mark.parametrize("index", [4, -1, "1", 0.5, None])
def test_no_such_slice(index):
    with pytest.raises(UserError, match=r"of a stack of 4. Slices are counted from 0, here to 3: .*slice_items"):
        TakeSlice(index)(make_stack())


def test_no_stack():
    plane = torch.zeros(1, 4, 4)
    for take in (TakeSlice(0), RandSliceSamples(2)):
        with pytest.raises(UserError, match=r"shape \(1, 4, 4\). Slices are taken from a stack"):
            take(plane)
    with pytest.raises(UserError, match=r"keys \['image'\]. TakeSliced needs the slice's index, under 'slice'"):
        TakeSliced("image")({"image": make_stack()})
    with pytest.raises(UserError, match="num_samples 0: at least one slice"):
        RandSliceSamplesd("image", 0)
    with pytest.raises(UserError, match=r"different numbers of slices, {'image': 4, 'label': 5}"):
        RandSliceSamplesd(["image", "label"], 2)({"image": make_stack(), "label": make_stack(5)})


def numbers(samples, stack):
    """Which slices of a stack the samples are."""
    planes = [plane.flatten().tolist() for plane in stack.as_tensor().unbind(-1)]
    return [planes.index(sample.as_tensor().flatten().tolist()) for sample in samples]


@pytest.mark.parametrize("num_samples", [1, 3, 5, 7, 13])
def test_samples_are_drawn_without_replacement(num_samples):
    stack = make_stack(5)
    sample = RandSliceSamples(num_samples).set_random_state(0)
    drawn = [numbers(sample(stack), stack) for _ in range(30)]
    for indices in drawn:
        assert len(indices) == num_samples
        for start in range(0, num_samples, 5):
            part = indices[start : start + 5]
            assert len(set(part)) == len(part)
    assert len({tuple(indices) for indices in drawn}) > 3
    first = np.bincount([indices[0] for indices in drawn], minlength=5)
    assert (first > 0).all()


def test_samples_are_taken_slices():
    stack = make_stack(3)
    sample = RandSliceSamples(3).set_random_state(0)
    samples = sample(stack)
    assert [item.meta["patch_index"] for item in samples] == [0, 1, 2]
    back = sum(sample.inverse(item).as_tensor() for item in samples)
    torch.testing.assert_close(back, stack.as_tensor(), rtol=0, atol=0)
    for item, index in zip(sample(stack), sample.indices, strict=True):
        torch.testing.assert_close(item.affine, TakeSlice(index)(stack).affine)


def test_samples_of_all_keys():
    stack = make_stack()
    data = {"image": stack, "label": stack + 1000, "notes": ["a"]}
    sample = RandSliceSamplesd(["image", "label", "missing"], 3, allow_missing_keys=True)
    drawn = []
    for seed in (5, 5, 6, 7):
        items = sample.set_random_state(seed)(data)
        drawn.append(numbers([item["image"] for item in items], stack))
        assert drawn[-1] == numbers([item["label"] for item in items], data["label"])
        items[0]["notes"].append("b")
        assert [item["notes"] for item in items[1:]] == [["a"], ["a"]]
    assert data["notes"] == ["a"]
    assert drawn[0] == drawn[1]
    assert len({tuple(indices) for indices in drawn}) > 1
    assert sample({"notes": 1}) == [{"notes": 1}] * 3


# Pipelines


@pytest.mark.parametrize("lazy", [False, True])
# MONAI says so whenever a lazy pipeline is inverted; what it then does is what the test is about.
@pytest.mark.filterwarnings("ignore:'lazy' is set to True but lazy execution is not supported when inverting")
def test_a_pipeline_is_undone_from_the_batch(lazy):
    stacks = [make_stack(slices) for slices in (3, 4)]
    data = [{"image": stack, "slice": index} for stack in stacks for index in range(3)]
    transform = Compose(
        [
            TakeSliced("image"),
            ResizeWithPadOrCropd("image", (14, 14)),
            RandRotateSetd("image", [-90, 90], prob=1.0, mode="nearest"),
        ],
        lazy=lazy,
    ).set_random_state(0)
    dataset = CacheDataset(data, transform, progress=False)
    invert = Invertd("pred", transform, orig_keys="image")
    seen = 0
    for batch in DataLoader(dataset, batch_size=4):
        batch["pred"] = batch["image"] * 2
        for item in decollate_batch(batch):
            stack, index = stacks[seen // 3], seen % 3
            expected = torch.zeros(stack.shape)
            expected[..., index] = stack.as_tensor()[..., index]
            pred = invert(item)["pred"]  # before the image's own inverse, which uses its trace up
            image = transform.inverse({"image": item["image"]})["image"]
            for back, factor in ((image, 1), (pred, 2)):
                torch.testing.assert_close(back.as_tensor(), factor * expected, rtol=0, atol=0)
                torch.testing.assert_close(back.affine, AFFINE)
            seen += 1
    assert seen == 6


def test_samples_in_a_pipeline():
    stacks = [make_stack(), make_stack(3)]
    transform = Compose(
        [Flipd("image", 1), RandSliceSamplesd("image", 3), RandRotateSetd("image", [180], prob=1.0, mode="nearest")]
    ).set_random_state(1)
    dataset = CacheDataset([{"image": stack} for stack in stacks], transform, progress=False)
    (batch,) = DataLoader(dataset, batch_size=2)
    assert batch["image"].shape == (6, 1, 12, 10)
    for place, item in enumerate(decollate_batch(batch)):
        stack = stacks[place // 3].as_tensor()
        back = transform.inverse(item)["image"]
        torch.testing.assert_close(back.affine, AFFINE)
        held = back.as_tensor().flatten(0, 2).any(0)
        assert held.sum() == 1
        torch.testing.assert_close(back.as_tensor(), torch.where(held, stack, 0.0), rtol=0, atol=0)


def test_workers_draw_differently():
    data = [{"image": make_blob(16)}] * 8
    transform = RandRotateSetd("image", range(-60, 61, 2), prob=1.0)

    def epoch():
        transform.set_random_state(0)
        torch.manual_seed(0)
        loader = DataLoader(Dataset(data, transform), num_workers=2)
        return torch.cat([batch["image"].as_tensor() for batch in loader])

    images = epoch()
    assert len({tuple(image.flatten().tolist()) for image in images}) > 5
    torch.testing.assert_close(epoch(), images, rtol=0, atol=0)


# Contours


def reference_mask(points, shape):
    """PIL's polygon through the pixels that hold the points."""
    mask = Image.new("L", shape[::-1])
    ImageDraw.Draw(mask).polygon([(int(x), int(y)) for x, y in points], outline=1, fill=1)
    return np.asarray(mask)


def test_contours_are_pil_s_polygons():
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 30))
        radii = rng.uniform(3, 12, 30)
        points = np.stack([20 + radii * np.cos(angles), 15 + radii * np.sin(angles)], 1)
        mask = RasterizeContour((31, 41))(points)
        assert mask.shape == (1, 31, 41)
        assert mask.dtype == torch.uint8
        np.testing.assert_array_equal(mask[0], reference_mask(points, (31, 41)))
        np.testing.assert_array_equal(RasterizeContour((31, 41))(torch.as_tensor(points))[0], mask[0])


def test_contours_are_closed_cut_off_and_x_first():
    points = [[2.5, 1.0], [9.0, 1.5], [9.9, 3.0], [2.0, 3.9]]
    expected = torch.zeros(1, 6, 8, dtype=torch.uint8)
    expected[0, 1:4, 2:] = 1
    for contour in (points, [*points, points[0]], points[::-1]):
        torch.testing.assert_close(RasterizeContour((6, 8))(contour).as_tensor(), expected)


def test_contour_of_an_image():
    image = MetaTensor(torch.rand(1, 31, 41), affine=AFFINE.clone())
    data = {"image": image, "label": np.array([[5, 5], [20, 6], [12, 25]]), "other": [[1, 1], [2, 1], [2, 2]]}
    item = RasterizeContourd(["label", "other"], ref_image_key="image")(data)
    np.testing.assert_array_equal(item["label"][0], reference_mask(data["label"], (31, 41)))
    assert item["other"].sum() == 3
    for key in ("label", "other"):
        torch.testing.assert_close(item[key].affine, AFFINE)
        item[key].affine[0, 0] = 9
    torch.testing.assert_close(image.affine, AFFINE)
    assert data["label"].shape == (3, 2)
    with pytest.raises(UserError, match=r"spatial_size \(31, 41, 3\): .*take a slice of the stack first"):
        RasterizeContourd("label", "image")(data | {"image": torch.zeros(1, 31, 41, 3)})


@pytest.mark.parametrize(
    "points",
    ["contour.txt", [[1, 2], [3, 4]], [[1, 2, 3]] * 3, [[1, 1], [2, float("nan")], [3, 3]], [[1, 1], [1e9, 2], [3, 3]]],
)
def test_no_contour(points):
    with pytest.raises(UserError, match=r"at least three points of two numbers, x and y in pixels.*read_contour"):
        RasterizeContour((9, 9))(points)


def test_contour_of_another_image():
    with pytest.raises(UserError, match=r"x from 20 to 30 and y from 1 to 2 misses an image of 31 rows and 15 columns"):
        RasterizeContour((31, 15))([[20, 1], [30, 1], [30, 2]])
    for size in (9, (9, 0)):
        with pytest.raises(UserError, match="drawn into one image"):
            RasterizeContour(size)


def test_real_contours_give_the_published_masks(real):
    compared = 0
    with (real / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["icontour"]]
    for row in rows[::5]:
        truth = np.asarray(Image.open(real / row["label_png"]).convert("L")) > 0
        mask = RasterizeContour(truth.shape)(read_contour(real / row["icontour"]))
        np.testing.assert_array_equal(mask[0], truth)
        compared += 1
    assert compared == 28


# All


TRANSFORMS = {
    "StandardizeInPlane": {"pixdim": [1.4, 1.4]},
    "DoubtSlices": {},
    "KeepSlices": {"slices": "2-3"},
    "LargestComponent": {},
    "LargestComponentSlicewise": {},
    "LoadStack": {},
    "RandRotateSet": {"angles": [10, 20]},
    "RandSliceSamples": {"num_samples": 2},
    "RasterizeContour": {"spatial_size": [5, 6]},
    "SaveStack": {},
    "ScaleIntensitySlicewise": {},
    "TakeSlice": {"index": 1},
}


def test_names_are_monai_s_kind_and_free():
    names = set(monai_iln.transforms.__all__) - {"FixedRotations", "SliceDataset", "StackWriter"}
    assert names == {name + ending for name in TRANSFORMS for ending in ("", "d", "D", "Dict")}
    assert not names & set(dir(monai.transforms))
    for name in TRANSFORMS:
        mapped = getattr(monai_iln.transforms, name + "d")
        assert issubclass(mapped, monai.transforms.MapTransform)
        assert getattr(monai_iln.transforms, name + "D") is getattr(monai_iln.transforms, name + "Dict") is mapped
        assert mapped.backend == getattr(monai_iln.transforms, name).backend


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_pickle(name):
    arguments = TRANSFORMS[name]
    special = {"KeepSlices": {}, "RasterizeContour": {"ref_image_key": "image"}, "TakeSlice": {}}
    array = getattr(monai_iln.transforms, name)(**arguments)
    mapped = getattr(monai_iln.transforms, name + "d")("label", **special.get(name, arguments))
    for transform in (array, mapped):
        assert type(pickle.loads(pickle.dumps(transform))) is type(transform)


def test_a_mask_that_cannot_be_written_says_why(tmp_path, monkeypatch):
    mask = MetaTensor(torch.ones(1, 4, 5, 2), affine=torch.eye(4), meta={"filename_or_obj": "/data/heart.nii.gz"})
    options = {"output_dir": tmp_path, "output_postfix": "pred", "separate_folder": False, "print_log": False}
    save = monai_iln.transforms.SaveStackd("pred", **options)
    save({"pred": mask})
    assert [path.name for path in tmp_path.iterdir()] == ["heart_pred.nii.gz"]
    before = (tmp_path / "heart_pred.nii.gz").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="/heart_pred.nii.gz: cannot be written .No space left on device"):
        save({"pred": mask})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before], "whole, or as it was"


def test_a_mask_of_several_channels_says_so(tmp_path):
    mask = MetaTensor(torch.ones(2, 4, 5, 3), affine=torch.eye(4), meta={"filename_or_obj": "/data/heart.nii.gz"})
    save = monai_iln.transforms.SaveStack(output_dir=tmp_path, separate_folder=False, print_log=False)
    with pytest.raises(
        UserError, match=r"heart_trans\.nii\.gz: 2 channels: a stack has one channel. Remedy: save each"
    ):
        save(mask)
    assert list(tmp_path.iterdir()) == []
    save(mask[:1])
    assert nib.load(tmp_path / "heart_trans.nii.gz").shape == (4, 5, 3)


def test_a_stack_under_a_pseudonym(tmp_path):
    """Meta data and messages have the name, and not the path."""
    path = tmp_path / "Smith_John" / "ED.nii.gz"
    path.parent.mkdir()
    nifti = nib.Nifti1Image(np.zeros((6, 6, 2), np.int16), np.eye(4))
    nifti.header["pixdim"][1:4] = (1.4, 1.4, 8)
    nib.save(nifti, path)
    load = LoadStackd("image", names={str(path): "s1_ED", str(path.parent): "s2"})
    with pytest.warns(DataWarning, match="^s1_ED: the sform"):
        image = load({"image": str(path)})["image"]
    assert "Smith" not in str(image.meta)
    assert file_of(image) == "s1_ED"
    with pytest.raises(UserError, match="^s2: ") as raised:
        load({"image": str(path.parent)})
    assert "Smith" not in str(raised.value)
