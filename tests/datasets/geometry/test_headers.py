"""Headers whose parts agree, and every way in which they do not."""

import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_iln.datasets.formats.volumes import read_header
from monai_iln.datasets.geometry.headers import decide_geometry
from monai_iln.errors import UserError

SHAPE = (90, 110, 9)
SIZES = (1.46, 1.46, 10.0)
UNIT = np.diag([-1.0, -1.0, 1.0, 1.0])
TRUE = np.diag([-1.46, -1.46, 10.0, 1.0])
TURNED = np.array([[0, -1.46, 0, 30], [1.46, 0, 0, -20], [0, 0, 10, 5], [0, 0, 0, 1.0]])
HIPPOCAMPUS = Path(__file__).parents[4] / "shared" / "data" / "hippocampus"


def header(pixdim=SIZES, sform=None, qform=None, kind=nib.Nifti1Header):
    made = kind()
    made.set_data_shape(SHAPE)
    made.set_data_dtype(np.int16)
    if qform is not None:
        made.set_qform(qform, code=1)
    if sform is not None:
        made.set_sform(sform, code=2)
    made["pixdim"][1:4] = pixdim  # set_qform writes them, too
    return made


BELIEVED = {  # pixdim, sform, qform; the affine, the doubt
    "all agree": (SIZES, TRUE, TRUE, TRUE, ""),
    "no qform": (SIZES, TRUE, None, TRUE, ""),
    "no sform": (SIZES, None, TURNED, TURNED, ""),
    "they agree but for rounding": ((1.4603, 1.4597, 10.001), TRUE, TRUE, TRUE, ""),
    "a cube of 1 mm": ((1, 1, 1), UNIT, UNIT, UNIT, ""),
    "ACDC": (SIZES, UNIT, None, TRUE, "steps of 1 x 1 x 1, pixdim 1.46 x 1.46 x 10.*sizes of pixdim are believed"),
    "ACDC with a qform": (SIZES, UNIT, TURNED, TURNED, "steps of 1 x 1 x 1, pixdim.*the qform is believed"),
    "a sform with one unit step": (
        SIZES,
        np.diag([-1.46, -1.46, 1, 1]),
        None,
        TRUE,
        "1.46 x 1.46 x 1, pixdim.*pixdim are",
    ),
    "no pixdim": ((1, 1, 1), TRUE, None, TRUE, "pixdim 1 x 1 x 1, as if it were not set: the sform is believed"),
    "a pixdim of zeros": ((0, 0, 0), TRUE, None, TRUE, "pixdim 1 x 1 x 1.*sform is believed"),
    "a pixdim that is not finite": ((np.nan, np.inf, 10), TRUE, None, TRUE, "pixdim 1 x 1 x 10.*sform is believed"),
    "no slice step in pixdim": ((1.46, 1.46, 1), TRUE, None, TRUE, "pixdim 1.46 x 1.46 x 1.*sform is believed"),
    "both say something else": ((2, 2, 8), TRUE, None, TRUE, "pixdim 2 x 2 x 8: the sform.*NIfTI prefers it"),
    "another slice step": ((1.46, 1.46, 8), TRUE, TRUE, TRUE, "pixdim 1.46 x 1.46 x 8: the sform.*NIfTI prefers it"),
    "the qform is turned": (SIZES, TRUE, TURNED, TRUE, "differ in directions or origin: the sform is believed"),
    "a sform of zeros": (SIZES, np.diag([0, 0, 0, 1]), TURNED, TURNED, "sform is zero: the qform is believed"),
    "a flat sform": (SIZES, np.diag([1, 1, 0, 1]), TURNED, TURNED, "sform is singular: the qform is believed"),
    "a sform that is not finite": (SIZES, TRUE * np.nan, TURNED, TURNED, "sform is singular: the qform is believed"),
}


@pytest.mark.parametrize("kind", [nib.Nifti1Header, nib.Nifti2Header])
@pytest.mark.parametrize("what", BELIEVED)
def test_what_is_believed(what, kind):
    pixdim, sform, qform, affine, doubt = BELIEVED[what]
    geometry = decide_geometry(header(pixdim, sform, qform, kind))
    np.testing.assert_allclose(geometry.affine, affine, atol=2e-3, rtol=1e-4)
    assert geometry.oriented
    assert bool(geometry.doubt) == bool(doubt)
    assert re.search(doubt, geometry.doubt)


@pytest.mark.parametrize(("sform", "doubt"), [(None, ""), (np.diag([0, 0, 0, 1.0]), "the sform is zero and the qform")])
def test_sizes_without_orientation(sform, doubt):
    geometry = decide_geometry(header(sform=sform))
    assert not geometry.oriented
    np.testing.assert_allclose(np.diag(geometry.affine)[:3], [-1.46, 1.46, 10])
    assert geometry.doubt.startswith(doubt)
    assert bool(geometry.doubt) == bool(doubt)


def test_a_qform_that_is_no_rotation():
    broken = header(sform=TRUE, qform=TRUE)
    broken["quatern_b"] = 3
    geometry = decide_geometry(broken)
    np.testing.assert_allclose(geometry.affine, TRUE, rtol=1e-6)
    assert geometry.doubt.startswith("the qform cannot be computed")
    broken["sform_code"] = 0
    with pytest.raises(ValueError, match="the qform cannot be computed"):
        decide_geometry(broken)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e3), ("mm", 1), ("micron", 1e-3)])
def test_units(unit, factor):
    with_units = header(sform=UNIT)
    with_units.set_xyzt_units(unit)
    np.testing.assert_allclose(decide_geometry(with_units).affine[:3], TRUE[:3] * factor, rtol=1e-6)


def test_analyze_has_no_orientation():
    analyze = nib.AnalyzeHeader()
    analyze.set_data_shape(SHAPE)
    analyze.set_zooms(SIZES)
    geometry = decide_geometry(analyze)
    assert (geometry.oriented, geometry.doubt) == (False, "")
    np.testing.assert_allclose(np.abs(np.diag(geometry.affine)[:3]), SIZES)


def test_a_sform_that_is_no_affine_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), TRUE)
    image.header["srow_x"] = np.nan
    with (tmp_path / "a.nii").open("wb") as file:
        image.header.write_to(file)
        file.write(bytes(4 + 2 * np.prod(SHAPE)))
    with pytest.raises(UserError, match=r"a\.nii: cannot be read.*voxels of nan"):
        read_header(tmp_path / "a.nii")


def test_the_real_cubes_of_1_mm_are_not_doubted():
    if not HIPPOCAMPUS.is_dir():
        pytest.skip(f"the volumes of the hippocampus are not at {HIPPOCAMPUS}")
    paths = sorted((HIPPOCAMPUS / "imagesTr").glob("*.nii.gz"))[:40]
    assert paths
    for path in paths:
        volume = read_header(path)
        assert volume.doubt == ""
        np.testing.assert_array_equal(volume.affine, nib.load(path).affine)


def test_it_loads_neither_torch_nor_nibabel():
    """The plain ONNX example asks it, too."""
    code = "import sys, monai_iln.datasets.geometry.headers; print(*{n.partition('.')[0] for n in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "monai", "nibabel", "scipy", "pydicom"}.isdisjoint(loaded)
