import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_layouts import LAYOUTS, random_cine

from monai_iln.cli import main
from monai_iln.datasets import DataWarning, find_stacks, read_cine, write_phases
from monai_iln.datasets.phantom import write_phantom
from monai_iln.errors import UserError

CINE = random_cine()


@pytest.fixture(scope="module")
def acdc(tmp_path_factory):
    raw = tmp_path_factory.mktemp("acdc") / "raw"
    return write_phantom(raw, layout="acdc", subjects=2, slices=4, phases=5, size=96)


@pytest.fixture
def two(tmp_path):
    """Two cines in DICOM whose folders have one name."""
    for subject in ("P1", "P2"):
        LAYOUTS["one_series"](tmp_path / "data" / subject / "sax", CINE)
        for path in (tmp_path / "data" / subject / "sax").iterdir():
            content = path.read_bytes()
            path.write_bytes(content.replace(b"LO\x02\x00X ", b"LO\x02\x00" + subject.encode()))
    return tmp_path / "data"


def test_every_phase_is_a_file(two, tmp_path):
    written = write_phases(two, tmp_path / "studies")
    assert sorted(path.name for path in (tmp_path / "studies").iterdir()) == sorted(path.name for path in written)
    assert [path.name for path in written] == [f"P{i}_{p}.nii.gz" for i in (1, 2) for p in (1, 2, 3, 4)]
    cine = read_cine(two / "P1")
    for phase, path in enumerate(written[:4]):
        stack = nib.load(path)
        np.testing.assert_array_equal(np.asanyarray(stack.dataobj), cine.pixels[..., phase])
        np.testing.assert_allclose(stack.affine, cine.affine, atol=1e-4)
    assert find_stacks(tmp_path / "studies") == list(map(str, written))


def test_numbers_have_one_length(tmp_path):
    cine = np.zeros((9, 9, 5, 12), np.int64)
    cine[0, 0, 0] = np.arange(12)
    nib.save(nib.Nifti1Image(cine, np.diag([1.5, 1.5, 8, 1]), dtype=np.int64), tmp_path / "P1_cine.nii")
    written = write_phases(tmp_path / "P1_cine.nii", tmp_path / "out", ["2", "11"])
    assert [path.name for path in written] == ["P1_02.nii.gz", "P1_11.nii.gz"]
    assert [np.asanyarray(nib.load(path).dataobj)[0, 0, 0] for path in written] == [1, 10]
    assert nib.load(written[0]).get_data_dtype() == np.int32, "which every reader knows"


def test_names_that_several_cines_share(tmp_path):
    for subject in ("A", "B"):
        (tmp_path / "data" / subject).mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.zeros((9, 9, 5, 2), np.int16), np.eye(4)), tmp_path / "data" / subject / "sax.nii")
    written = write_phases(tmp_path / "data", tmp_path / "out")
    assert [path.name for path in written] == [f"{subject}_sax_{phase}.nii.gz" for subject in "AB" for phase in (1, 2)]


def test_acdc_tells_ed_and_es(acdc, tmp_path):
    with pytest.warns(DataWarning, match="8 labels and single phases beside cines are passed over"):
        written = write_phases(acdc, tmp_path / "out", ["ed", "ES"])
    names = ["patient001_ED", "patient001_ES", "patient002_ED", "patient002_ES"]
    assert [path.name for path in written] == [f"{name}.nii.gz" for name in names]
    for path, frame in zip(written, (1, 3, 1, 3), strict=True):
        subject = path.name[:10]
        labelled = nib.load(acdc / subject / f"{subject}_frame{frame:02d}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(nib.load(path).dataobj), np.asanyarray(labelled.dataobj))


def test_nothing_tells_ed_in_dicom(two, tmp_path):
    with pytest.raises(UserError, match=r"P1: phase ED, and nothing tells which that is\. .* give a bundle"):
        write_phases(two, tmp_path / "out", ["ED"])
    extremes = {str(two / name): {"ED": 4, "ES": place} for place, name in enumerate(("P1", "P2"), start=1)}
    written = write_phases(two, tmp_path / "out", ["ES", "ED", "2"], extremes)
    assert [path.name for path in written[:3]] == ["P1_ES.nii.gz", "P1_ED.nii.gz", "P1_2.nii.gz"]
    pixels = [read_cine(two / name).pixels for name in ("P1", "P2")]
    found = [np.asanyarray(nib.load(path).dataobj) for path in written]
    for image, (cine, phase) in zip(found, [(i, p) for i in (0, 1) for p in ((1, 2)[i], 4, 2)], strict=True):
        np.testing.assert_array_equal(image, pixels[cine][..., phase - 1])


@pytest.mark.parametrize("phase", ["5", "0", "MD"])
def test_a_phase_that_is_not_there(two, tmp_path, phase):
    with pytest.raises(UserError, match=f"phase {phase}: the phases of a cine are 1 to 4, ED and ES"):
        write_phases(two, tmp_path / "out", [phase])
    assert not (tmp_path / "out").exists()


def test_ed_of_a_cine_of_a_hundred_phases(tmp_path):
    path = tmp_path / "P1_cine.nii"
    nib.save(nib.Nifti1Image(np.arange(9 * 9 * 5 * 100, dtype=np.int32).reshape(9, 9, 5, 100), np.eye(4)), path)
    written = write_phases(path, tmp_path / "out", ["ED", "7"], {str(path): {"ED": 99, "ES": 40}})
    assert [file.name for file in written] == ["P1_ED.nii.gz", "P1_007.nii.gz"]
    assert [np.asanyarray(nib.load(file).dataobj)[0, 0, 0] for file in written] == [98, 6]


@pytest.mark.parametrize("phases", [(0, 2), (1, 6)])
def test_an_info_that_names_phases_beyond_the_cine(acdc, tmp_path, phases):
    folder = tmp_path / "patient001"
    folder.mkdir()
    shutil.copy(acdc / "patient001" / "patient001_4d.nii.gz", folder)
    (folder / "Info.cfg").write_text("ED: {}\nES: {}\n".format(*phases))
    told = "Info.cfg: ED is phase {}, ES is phase {}: .* has the phases 1 to 5".format(*phases)
    with pytest.raises(UserError, match=told):
        write_phases(folder, tmp_path / "out", ["ED"])
    assert len(write_phases(folder, tmp_path / "out")) == 5, "numbers need no Info.cfg"


def test_an_info_file_in_other_letters(acdc, tmp_path):
    folder = shutil.copytree(acdc / "patient001", tmp_path / "patient001")
    (folder / "Info.cfg").rename(folder / "INFO.CFG")
    (file,) = write_phases(folder / "patient001_4d.nii.gz", tmp_path / "out", ["ED"])
    assert file.name == "patient001_ED.nii.gz"


def test_cines_that_would_have_one_file(tmp_path):
    for name in ("x/a_4d", "y/a_4d", "x_a_4d_cine"):
        path = tmp_path / "data" / f"{name}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((9, 9, 5, 2), np.int16), np.eye(4)), path)
    with pytest.raises(UserError, match="2 stacks would be called x_a_4d_1.nii.gz"):
        write_phases(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stacks_of_one_phase_are_passed_over(two, tmp_path):
    affine = np.diag([1.5, 1.5, 8, 1])
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 5), np.int16), affine), tmp_path / "data" / "other_ED.nii")
    with pytest.raises(UserError, match="no cine"):
        write_phases(tmp_path / "data", tmp_path / "out")
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 5, 3), np.int16), affine), tmp_path / "data" / "P3_cine.nii")
    with pytest.warns(DataWarning, match="1 stack of one phase passed over: .*other_ED.nii"):
        assert len(write_phases(tmp_path / "data", tmp_path / "out")) == 3


def test_the_command(two, tmp_path, capsys):
    assert main(["stacks", str(two), "--output", str(tmp_path / "studies"), "--phases", "1", "3"]) == 0
    assert f"{tmp_path / 'studies'}: complete, 4 stacks. Next, with an app" in capsys.readouterr().out
    assert main(["stacks", str(two), "--output", str(tmp_path / "studies")]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "studies")
    assert main(["stacks", str(two), "--output", str(tmp_path / "studies"), "--phases", "ED"]) == 1
    assert "give a bundle that measures it" in capsys.readouterr().err
