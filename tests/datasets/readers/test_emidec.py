"""EMIDEC's late enhancement against the phantoms' own truth."""

import shutil

import nibabel as nib
import numpy as np
import pytest
from phantom_folders import LAYOUTS

from monai_iln.datasets import DataWarning, inspect_stacks, prepare_folders, read_datalist, read_folders
from monai_iln.datasets.phantom import phantom_truth, write_phantom
from monai_iln.errors import UserError

SMALL = {"layout": LAYOUTS["emidec"], "subjects": 3, "slices": 6, "phases": 4, "size": 96}
NAMES = ["Case_N003", "Case_P001", "Case_P002"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "emidec-dataset-1.0.1", **SMALL)


@pytest.fixture(scope="module")
def truth():
    return {known.subject: known.masks for known in phantom_truth(**SMALL) if known.phase == "ED"}


def told(reading):
    """What was found besides the headers, which contradict themselves in every file."""
    headers = [finding for finding in reading.findings if finding.reason == "contradictory-header"]
    assert len(headers) >= 2 * len(reading.stacks)
    return [finding for finding in reading.findings if finding not in headers]


def test_every_case_is_a_subject_with_one_phase(source, truth):
    reading = read_folders([source], label="left-ventricle")
    assert told(reading) == []
    assert [(stack.subject, stack.phase) for stack in reading.stacks] == [(name, "1") for name in NAMES]
    assert [stack.stratum for stack in reading.stacks] == ["normal", "pathological", "pathological"]
    for stack in reading.stacks:
        np.testing.assert_array_equal(stack.label, truth[stack.subject]["endocardium"].swapaxes(0, 1))
        spacing = np.linalg.norm(stack.affine[:3, :3], axis=0)
        np.testing.assert_allclose(spacing, nib.load(stack.files[0]).header.get_zooms(), rtol=1e-5)
        assert stack.files[0] == str(source / stack.subject / "Images" / f"{stack.subject}.nii.gz")


def test_the_myocardium_is_normal_infarcted_and_without_reflow(source, truth):
    for stack in read_folders([source], label="myocardium").stacks:
        masks = truth[stack.subject]
        wall = (masks["epicardium"] & ~masks["endocardium"]).swapaxes(0, 1)
        np.testing.assert_array_equal(stack.label, wall)


def test_the_infarction_holds_the_no_reflow(source):
    reading = read_folders([source], label="infarction")
    assert [stack.subject for stack in reading.stacks] == NAMES[1:]
    assert [(f.reason, f.subject) for f in told(reading)] == [("empty-label", "Case_N003")]
    for stack in reading.stacks:
        file = np.asanyarray(nib.load(stack.files[0].replace("Images", "Contours")).dataobj)
        np.testing.assert_array_equal(stack.label, np.isin(file, (3, 4)))


def test_all_in_one_map_keeps_the_normal_cases(source):
    labels = ["left-ventricle", "myocardium", "infarction", "no-reflow"]
    reading = read_folders([source], label=labels)
    assert told(reading) == []
    for stack in reading.stacks:
        file = np.asanyarray(nib.load(stack.files[0].replace("Images", "Contours")).dataobj)
        np.testing.assert_array_equal(stack.label, file)
    assert [int(stack.label.max()) for stack in reading.stacks] == [2, 4, 4]


def test_no_good_case_is_excluded(tmp_path):
    """An infarction as bright as blood made a subject's masks fit others better than itself."""
    folder = write_phantom(tmp_path / "emidec", **SMALL | {"subjects": 8, "size": 128})
    for label in ("left-ventricle", "myocardium", "infarction"):
        stacks = read_folders([folder], label=label).stacks
        assert [finding.reason for finding in inspect_stacks(stacks)] == ["not-inspected"] * len(stacks)
    with pytest.warns(DataWarning) as caught:
        items = read_datalist(prepare_folders(folder, tmp_path / "out", label="left-ventricle"))
    assert len(items) == 8
    assert "0 frames excluded" in str(caught[-1].message)


def test_structures_that_it_has(source):
    with pytest.raises(UserError, match=r"one of left-ventricle, myocardium, infarction, no-reflow, .*\(1, 2, 3, 4\)"):
        read_folders([source])


def test_cases_without_a_partner_or_a_group(source, tmp_path):
    folder = shutil.copytree(source, tmp_path / "copy")
    (folder / "Case_P001" / "Contours" / "Case_P001.nii.gz").unlink()
    for path in sorted((folder / "Case_P002").rglob("*.nii.gz")):  # the cases for tests are called so
        new = folder / "Case_142" / path.parent.name / "Case_142.nii.gz"
        new.parent.mkdir(parents=True)
        path.rename(new)
    reading = read_folders([folder], label="left-ventricle")
    assert [(stack.subject, stack.stratum) for stack in reading.stacks] == [("Case_142", ""), ("Case_N003", "normal")]
    assert [(f.reason, f.subject) for f in told(reading)] == [("no-label", "Case_P001")]
