"""Cines as a user measures and splits them, with the weights that come with the bundles."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_iln.cine.files import read_tables
from monai_iln.cine.pictures import find_limits, scale_grey, write_film
from monai_iln.datasets import read_cine
from monai_iln.datasets.phantom import write_phantom
from monai_iln.run_files import PHASES, SLICES, SUBJECTS

pytestmark = pytest.mark.slow

BUNDLES = Path(__file__).parents[2] / "bundles"
PHANTOM = {"subjects": 2, "slices": 6, "phases": 5, "size": 128}
LEFT, RIGHT = "lv_short_axis_iln", "rv_short_axis_iln"


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("hearts") / "raw", **PHANTOM)


@pytest.fixture(scope="module")
def run(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")

    def succeed(*arguments):
        done = python.run("monai_iln", *arguments, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return succeed


@pytest.fixture(scope="module")
def measured(run, hearts, tmp_path_factory):
    """Both ventricles of two subjects in DICOM."""
    output = tmp_path_factory.mktemp("measured") / "both"
    return output, run("cine", hearts / "SCD_IMAGES_01", "--bundle", LEFT, RIGHT, "--output", output)


def test_a_folder_of_subjects_by_two_bundles(measured, hearts):
    output, told = measured
    rows = SUBJECTS.read_rows(output)
    folders = sorted((hearts / "SCD_IMAGES_01").iterdir())
    structures = ["left ventricle", "right ventricle"]
    assert [(row["stack"], row["structure"]) for row in rows] == [(str(f), s) for f in folders for s in structures]
    assert len(PHASES.read_rows(output)) == 2 * 2 * PHANTOM["phases"]
    for row in rows:
        mask, cine = nib.load(output / row["mask"]), read_cine(f"{row['stack']}/CINESAX_300")
        assert mask.shape == cine.pixels.shape
        np.testing.assert_allclose(mask.affine, cine.affine, atol=1e-4)
        assert mask.header.get_zooms()[3] == pytest.approx(800 / PHANTOM["phases"], abs=0.01)
        voxels = (np.asanyarray(mask.dataobj) != 0).sum(axis=(0, 1, 2))
        volumes = voxels * abs(np.linalg.det(cine.affine[:3, :3])) / 1000
        own = [r for r in PHASES.read_rows(output) if (r["stack"], r["structure"]) == (row["stack"], row["structure"])]
        np.testing.assert_allclose([float(r["volume_ml"]) for r in own], volumes, atol=1e-3)
        assert float(row["edv_ml"]) == pytest.approx(volumes.max(), abs=1e-3)
        assert row["doubts"].replace(" ", ", ") in told
    for folder in folders:
        assert f"{folder}\n  left ventricle: EDV " in told
        for ending in ("cine.png", "cine.gif"):
            assert (output / f"{folder.name}_{ending}").stat().st_size > 10_000
    assert "complete. subjects.csv and phases.csv hold the numbers." in told


def test_the_left_ventricle_s_phases_are_near_those_of_the_phantom(measured):
    """End diastole comes last, before phase 1, end systole at two fifths. The network has never seen a phantom."""
    output, _ = measured
    for row in SUBJECTS.read_rows(output / LEFT):
        assert int(row["ed_phase"]) in (1, 5)
        assert int(row["es_phase"]) in (2, 3)


def test_pictures_show_the_cine_itself(measured, hearts, tmp_path):
    """Those of one bundle and those of both: on one scale of grey, as the scanner made it."""
    output, _ = measured
    folder = next((hearts / "SCD_IMAGES_01").iterdir())
    pixels = read_cine(folder / "CINESAX_300").pixels
    for home in (output / LEFT, output):
        cine = read_tables(home)[str(folder)]
        masks = [np.asanyarray(nib.load(home / mask).dataobj) != 0 for mask in cine.masks]
        write_film(tmp_path / "film.gif", scale_grey(pixels, find_limits(pixels[..., 0])), masks, cine.curves)
        assert (tmp_path / "film.gif").read_bytes() == (home / f"{folder.name}_cine.gif").read_bytes()


def test_inference_of_one_bundle_is_the_same(python, measured, hearts, tmp_path):
    output, _ = measured
    folder = next((hearts / "SCD_IMAGES_01").iterdir())
    options = ("--bundle_root", BUNDLES / LEFT, "--dataset_dir", folder, "--output_dir", tmp_path)
    configuration = BUNDLES / LEFT / "configs" / "inference.yaml"
    done = python.run("monai.bundle", "run", "--config_file", configuration, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (cine,) = read_tables(tmp_path).values()
    assert cine.curves[0].volumes_ml == read_tables(output / LEFT)[str(folder)].curves[0].volumes_ml
    rows = SLICES.read_rows(tmp_path)
    assert {row["phase"] for row in rows} == set("12345")
    assert f"{folder.name}: left ventricle: EDV" in done.stdout + done.stderr


def test_a_cine_in_a_file_is_that_of_its_dicom_files(run, measured, hearts, tmp_path):
    output, _ = measured
    folder = sorted((hearts / "SCD_IMAGES_01").iterdir())[0]
    cine = read_cine(folder / "CINESAX_300")
    path = tmp_path / "cine.nii.gz"
    nib.save(nib.Nifti1Image(cine.pixels, cine.affine), path)
    run("cine", path, "--output", tmp_path / "out", "--slices", "2-5")
    (found,) = read_tables(tmp_path / "out").values()
    mask = np.asanyarray(nib.load(tmp_path / "out" / "cine_pred.nii.gz").dataobj)
    assert not mask[:, :, [0, 5]].any()
    assert mask.any()
    assert "edge" not in found.curves[0].doubts
    expected = np.asanyarray(nib.load(output / LEFT / f"{folder.name}_pred.nii.gz").dataobj)[:, :, 1:5]
    assert (mask[:, :, 1:5] != expected).sum() <= 0.01 * expected.sum(), "single precision of the affine"


def test_pseudonyms(run, hearts, tmp_path):
    """Also where a warning tells what was decided on the way: here, which of several stacks is the cine."""
    for name, folder in zip(("Smith_John", "Jones_Mary"), (hearts / "SCD_IMAGES_01").iterdir(), strict=True):
        for series in folder.iterdir():
            files = [file for file in series.iterdir() if "Local" in series.name or int(file.stem[-4:]) % 5 < 2]
            (tmp_path / "data" / name / series.name).mkdir(parents=True)
            for file in files:
                shutil.copy(file, tmp_path / "data" / name / series.name)
    key = ("--anonymize", tmp_path / "key.csv")
    told = run("cine", tmp_path / "data", "--bundle", LEFT, RIGHT, "--output", tmp_path / "out", *key)
    assert "the one cine of several slices is taken" in told
    written = [str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*")]
    text = told + "".join(written) + "".join(path.read_text() for path in (tmp_path / "out").rglob("*.csv"))
    assert "Smith" not in text
    assert "Jones" not in text
    assert len({row["stack"] for row in SUBJECTS.read_rows(tmp_path / "out")}) == 2
    assert len(list((tmp_path / "out").glob("*_cine.gif"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "lv_short_axis"], "bundle lv_short_axis: neither a folder nor a bundle of this package"),
        (["--bundle", LEFT, LEFT], "each has a folder of its name in the output"),
        (["--series", "9"], "series 9 is none of"),
        (["--slices", "2-9"], "slices 2-9 and 2 stacks"),
        (["--device", "gpu"], "device gpu: cannot be used"),
        (["--device", "meta"], "device meta: cannot be used"),
    ],
)
def test_a_mistake_is_one_message(python, hearts, tmp_path, arguments, message):
    done = python.run(
        "monai_iln", "cine", hearts / "SCD_IMAGES_01", "--output", tmp_path / "out", *arguments, cwd=tmp_path
    )
    assert done.returncode == 1
    assert message in done.stderr.split("error: ")[-1]
    assert "Traceback" not in done.stdout + done.stderr
    assert "ERROR" not in done.stdout + done.stderr


def test_a_stack_is_no_cine(python, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 6), np.int16), np.diag([1.4, 1.4, 8, 1])), tmp_path / "ED.nii.gz")
    done = python.run("monai_iln", "cine", tmp_path / "ED.nii.gz", "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "no cine among the stacks" in done.stderr


def test_a_missing_frame_ends_it_before_anything_is_written(python, hearts, tmp_path):
    shutil.copytree(hearts / "SCD_IMAGES_01", tmp_path / "data")
    sorted((tmp_path / "data").rglob("CINESAX_300/*.dcm"))[7].unlink()
    done = python.run("monai_iln", "cine", tmp_path / "data", "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "files for the 6 slices" in done.stderr
    assert not (tmp_path / "out").exists()


def test_ed_and_es_by_a_bundle(run, measured, hearts, tmp_path):
    output, _ = measured
    told = run("stacks", hearts / "SCD_IMAGES_01", "--output", tmp_path / "studies", "--bundle", LEFT)
    assert "complete, 4 stacks" in told
    for row in SUBJECTS.read_rows(output / LEFT):
        folder = Path(row["stack"])
        cine = read_cine(folder / "CINESAX_300")
        for name in ("ED", "ES"):
            stack = nib.load(tmp_path / "studies" / f"{folder.name}_{name}.nii.gz")
            phase = int(row[f"{name.lower()}_phase"])
            np.testing.assert_array_equal(np.asanyarray(stack.dataobj), cine.pixels[..., phase - 1])
            np.testing.assert_allclose(stack.affine, cine.affine, atol=1e-4)


def test_masks_are_no_cine(python, measured, tmp_path):
    """Also one that is called as an image: then it is told when it is loaded, and no engine says so, too."""
    output, _ = measured
    done = python.run("monai_iln", "cine", output, "--output", tmp_path / "out", cwd=tmp_path)
    assert "files, and all are labels or masks" in done.stderr
    mask = next((output / LEFT).glob("*_pred.nii.gz"))
    shutil.copy(mask, tmp_path / "P1.nii.gz")
    done = python.run("monai_iln", "cine", tmp_path / "P1.nii.gz", "--output", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "P1.nii.gz: whole numbers from 0 to 1 alone" in done.stderr
    assert "ERROR" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_doubt_about_the_ends_tells_how_to_name_them(run, hearts, tmp_path):
    """The first and last slice of six are cut off, so the ventricle goes on in both directions."""
    cine = read_cine(sorted((hearts / "SCD_IMAGES_01").iterdir())[0] / "CINESAX_300")
    nib.save(nib.Nifti1Image(cine.pixels[:, :, 2:5, ::2], cine.affine), tmp_path / "P1.nii")
    told = run("cine", tmp_path / "P1.nii", "--output", tmp_path / "out")
    assert "Name those that show the ventricle: --slices 2-9 for one cine" in told
    told = run("cine", tmp_path / "P1.nii", "--output", tmp_path / "named", "--slices", "1-3")
    assert "--slices" not in told
