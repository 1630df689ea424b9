"""What the label app takes as a stack and as its label; without MONAI Label."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from dicom_layouts import LAYOUTS, random_cine

from monai_iln.errors import UserError
from monai_iln.label.stacks import hold_out, load_label, require_stack, stack_of, why_no_stack

AFFINE = np.array([[-1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 8, -4], [0, 0, 0, 1.0]])


def write(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def stack(tmp_path):
    return write(tmp_path / "heart.nii.gz", np.random.default_rng(0).integers(0, 900, (32, 30, 4)).astype(np.int16))


@pytest.fixture
def cine(tmp_path):
    """Three phases whose voxels are a hundred times their number."""
    array = np.stack([np.full((32, 30, 4), 100 * phase, np.int16) for phase in (1, 2, 3)], axis=-1)
    return write(tmp_path / "cine.nii.gz", array)


def as_other(path, suffix):
    other = path.with_name(path.name.removesuffix(".nii.gz") + suffix)
    SimpleITK.WriteImage(SimpleITK.ReadImage(path), other)
    return other


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_phase_of_a_cine_is_a_stack_in_its_place(cine, suffix):
    cine = cine if suffix == ".nii.gz" else as_other(cine, suffix)
    with stack_of(cine, "2") as taken:
        image = nib.load(taken)
        np.testing.assert_array_equal(image.get_fdata(), np.full((32, 30, 4), 200))
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    assert not taken.exists()
    assert cine.is_file()


def test_a_phase_of_a_folder_of_dicom_files(tmp_path):
    pixels = random_cine()
    LAYOUTS["one_series"](tmp_path, pixels)
    with stack_of(tmp_path, "2") as taken:
        np.testing.assert_array_equal(nib.load(taken).get_fdata(), np.moveaxis(pixels[:, 1], 0, -1))
    with pytest.raises(UserError, match=f"{tmp_path}: phase 5. The cine has 4"), stack_of(tmp_path, 5):
        pass


@pytest.mark.parametrize("phase", ["", None])
def test_a_stack_is_taken_as_it_is(stack, phase):
    with stack_of(stack, phase) as taken:
        assert taken == stack


def test_phases_that_are_not_there(cine, stack):
    for phase in (0, 4, "x", "2.0", -1):
        with pytest.raises(UserError, match=f"cine.nii.gz: phase {phase}. The cine has 3"), stack_of(cine, phase):
            pass
    for phase in ("", None):
        with pytest.raises(UserError, match="a cine of 3 phases.* parameter 'phase'.*monai-iln stacks"):
            stack_of(cine, phase).__enter__()
    with pytest.raises(UserError, match="phase 1 of a single stack"), stack_of(stack, 1):
        pass


def test_what_fails_for_a_phase_names_the_cine(cine):
    with pytest.raises(UserError, match=f"^{cine}: too dark$"), stack_of(cine, 1) as taken:
        raise RuntimeError from UserError(f"{taken}: too dark")
    with pytest.raises(ZeroDivisionError), stack_of(cine, 1):
        raise ZeroDivisionError


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_labels_come_in_every_format(tmp_path, stack, suffix):
    mask = np.zeros((32, 30, 4), np.uint8)
    mask[4:9, 5:7, 1] = 1
    label = write(tmp_path / "label.nii.gz", mask)
    label = label if suffix == ".nii.gz" else as_other(label, suffix)
    for image in (stack, as_other(stack, ".mha")):
        np.testing.assert_array_equal(load_label(str(image), str(label))[0], mask)


def test_labels_that_are_none_of_the_stack(tmp_path, stack, cine):
    mask = np.zeros((32, 30, 4), np.uint8)
    moved = AFFINE.copy()
    moved[0, 3] += 9
    foreign = write(tmp_path / "foreign.nii.gz", mask[:-1])
    away = write(tmp_path / "away.nii.gz", mask, moved)
    layers = write(tmp_path / "layers.nii.gz", np.stack([mask] * 2, axis=-1))
    for label, words in (
        (foreign, r"of shape \(31, 30, 4\), not \(32, 30, 4\)"),
        (away, r"its origin is \(29, 30, -4\) mm, not \(20, 30, -4\), 9 mm away"),
        (layers, r"of shape \(32, 30, 4, 2\)\. A label has three axes"),
    ):
        with pytest.raises(UserError, match=words):
            load_label(str(stack), str(label))
    with pytest.raises(UserError, match="a cine of 3 phases"):
        load_label(str(cine), str(layers))


def test_why_a_file_is_no_stack(tmp_path, stack, cine):
    planar = write(tmp_path / "planar.nii.gz", np.zeros((32, 30), np.int16))
    cut = Path(tmp_path / "cut.nii.gz")
    cut.write_bytes(stack.read_bytes()[:2000])
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"PNG")
    assert why_no_stack(stack) == ""
    for path, words in ((planar, "(32, 30)"), (cut, "must be whole"), (picture, "not the name of"), (cine, "3 phases")):
        assert words in why_no_stack(path)
    require_stack(tmp_path)  # a folder, which is judged when it is read


def items(*names):
    return [{"image": f"/studies/{name}.nii.gz"} for name in names]


def stems(split):
    return [[Path(item["image"]).name.removesuffix(".nii.gz") for item in part] for part in split]


@pytest.mark.parametrize(
    ("names", "share", "training", "held_out"),
    [
        (["b_ED", "a_ES", "a_ED", "b_ES"], 0.2, ["a_ED", "a_ES"], ["b_ED", "b_ES"]),
        (["a_01", "a_02", "b_01", "c"], 0.2, ["a_01", "a_02", "b_01"], ["c"]),
        (["a", "b", "1.2.3_phase01", "1.2.3_phase12"], 0.9, ["1.2.3_phase01", "1.2.3_phase12"], ["a", "b"]),
        (["a_ED", "b_ED", "b_ES", "c_ED", "c_ES"], 0.7, ["a_ED"], ["b_ED", "b_ES", "c_ED", "c_ES"]),
        (["case_1", "case_2", "case_3"], 0.2, ["case_1", "case_2"], ["case_3"]),  # no name tells the hearts apart
        (["a_ED", "b_ED"], 0, ["a_ED", "b_ED"], []),
        (["a_ED"], 0.5, ["a_ED"], []),
    ],
    ids=str,
)
def test_the_phases_of_a_heart_are_held_out_together(names, share, training, held_out):
    assert stems(hold_out(items(*names), share)) == [training, held_out]
