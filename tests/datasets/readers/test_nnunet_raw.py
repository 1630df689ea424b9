"""nnU-Net's raw data against the phantoms' own truth."""

import json
import shutil
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from phantom_folders import LAYOUTS, write_nnunet
from phantom_layouts import TRUTH

from monai_iln.datasets import read_folders
from monai_iln.datasets.phantom import phantom_truth, write_phantom
from monai_iln.datasets.phantom.layouts import Layout
from monai_iln.datasets.phantom.volumes import acdc_name
from monai_iln.datasets.readers.layouts import STRUCTURES
from monai_iln.datasets.readers.nnunet import _read_case
from monai_iln.errors import UserError

SMALL = {"subjects": 3, "slices": 5, "phases": 4, "size": 96}
FRAMES = Layout(partial(write_nnunet, frames=True), acdc_name, LAYOUTS["nnunet"].slices, landscape=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "Dataset027_Heart", layout=LAYOUTS["nnunet"], **SMALL)


@pytest.fixture
def copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def assert_is_truth(reading, layout, label="right-ventricle"):
    known = {(t.subject, t.phase): TRUTH[label](t.masks) for t in phantom_truth(layout=layout, **SMALL)}
    assert [(stack.subject, stack.phase) for stack in reading.stacks] == sorted(known)
    for stack in reading.stacks:
        np.testing.assert_array_equal(stack.label, known[stack.subject, stack.phase].swapaxes(0, 1))


def told(reading):
    """What was found besides the headers, which contradict themselves in every file."""
    headers = [finding for finding in reading.findings if finding.reason == "contradictory-header"]
    assert len(headers) >= 2 * len(reading.stacks)
    return [finding for finding in reading.findings if finding not in headers]


def describe(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("label", STRUCTURES)
def test_structures_by_the_names_of_the_data_set(source, label):
    reading = read_folders([source], label=label)
    assert told(reading) == [], "images for tests are no images without a label"
    assert_is_truth(reading, LAYOUTS["nnunet"], label)


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "RV", "2": "Myo", "3": "LV"},  # the first nnU-Net
        {"background": 0, "Right ventricle": 1, "left_ventricular_myocardium": 2, "LV cavity": 3},
        {"background": 0, "rv": 1, "heart of the left": [2, 3], "myo": 2},
    ],
)
def test_names_and_forms_of_labels(copy, labels):
    describe(copy, labels=labels)
    assert_is_truth(read_folders([copy]), LAYOUTS["nnunet"])
    assert_is_truth(read_folders([copy], label=2), LAYOUTS["nnunet"], "myocardium")


def test_names_of_its_own(copy):
    describe(copy, labels={"background": 0, "RV": 1, "Left Heart": [2, 3]})
    for stack in read_folders([copy], label="left-heart").stacks:
        file = np.asanyarray(nib.load(stack.files[0].replace("imagesTr", "labelsTr").replace("_0000", "")).dataobj)
        np.testing.assert_array_equal(stack.label, file >= 2)
    with pytest.raises(UserError, match="one of right-ventricle, left-heart, or the number"):
        read_folders([copy], label="myocardium")


def test_two_names_for_one_structure_are_not_guessed_at(copy):
    describe(copy, labels={"background": 0, "RV": 1, "LV": 2, "LVC": 3})
    with pytest.raises(UserError, match="one of right-ventricle, lv, lvc"):
        read_folders([copy], label="left-ventricle")
    assert_is_truth(read_folders([copy], label="LVC"), LAYOUTS["nnunet"], "left-ventricle")


def test_a_region_is_not_taken_for_a_cavity(copy):
    describe(copy, labels={"background": 0, "RV": 1, "Myo": 2, "LV": [2, 3]})
    with pytest.raises(UserError, match="one of right-ventricle, myocardium, lv, or the number"):
        read_folders([copy], label="left-ventricle")


def test_phases_by_frames(tmp_path):
    folder = write_phantom(tmp_path / "data", layout=FRAMES, **SMALL)
    assert (folder / "imagesTr" / "patient001_frame01_0000.nii.gz").is_file()
    reading = read_folders([folder], label="left-ventricle")
    assert told(reading) == []
    assert_is_truth(reading, FRAMES, "left-ventricle")
    # The larger cavity is at end diastole, whatever the frames' numbers.
    for folder_ in ("imagesTr", "labelsTr"):
        for path in sorted((folder / folder_).glob("patient002_frame01*")):
            path.rename(path.with_name(path.name.replace("frame01", "frame09")))
    assert_is_truth(read_folders([folder], label="left-ventricle"), FRAMES, "left-ventricle")
    # A table knows better, and one frame alone has only its number.
    (folder / "phases.csv").write_text("subject,ED,ES\npatient001,3,1\n")
    for path in sorted(folder.rglob("patient003_frame01*")):
        path.unlink()
    stacks = {(stack.subject, stack.phase): stack.files[0] for stack in read_folders([folder]).stacks}
    assert stacks["patient001", "ED"].endswith("frame03_0000.nii.gz")
    assert [phase for subject, phase in stacks if subject == "patient003"] == ["3"]


@pytest.mark.parametrize(
    ("case", "subject", "phase"),
    [
        ("patient001_frame01", "patient001", "frame01"),
        ("patient001_frame01_ED", "patient001", "ED"),
        ("A0S9V9_es", "A0S9V9", "ES"),
        ("001_SA_ED", "001_SA", "ED"),
        ("systole-007", "007", "ES"),
        ("ED_site 2", "site 2", "ED"),
        ("ESther_1", "ESther_1", ""),
        ("case_0001", "case_0001", ""),
        ("ED", "ED", ""),
    ],
)
def test_cases(case, subject, phase):
    assert _read_case(case) == (subject, phase)


def test_lone_files(copy):
    images, labels = (sorted((copy / name).iterdir()) for name in ("imagesTr", "labelsTr"))
    images[0].unlink()
    labels[3].unlink()
    reading = read_folders([copy])
    assert len(reading.stacks) == 4
    assert sorted((f.reason, f.phase) for f in told(reading)) == [("no-image", "ED"), ("no-label", "ES")]


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_file_endings(copy, ending):
    for path in sorted(copy.rglob("*.nii.gz")):
        volume = nib.load(path)
        image = SimpleITK.GetImageFromArray(np.asanyarray(volume.dataobj).T)
        image.SetSpacing([float(size) for size in volume.header.get_zooms()])
        SimpleITK.WriteImage(image, str(path).replace(".nii.gz", ending))
        path.unlink()
    describe(copy, file_ending=ending)
    reading = read_folders([copy])
    assert reading.findings == []
    assert_is_truth(reading, LAYOUTS["nnunet"])


def test_a_value_that_nnunet_ignores_is_no_background(copy):
    describe(copy, labels={"background": 0, "RV": 1, "MLV": 2, "LVC": 3, "ignore": 4})
    path = sorted((copy / "labelsTr").iterdir())[0]
    volume = nib.load(path)
    label = np.asanyarray(volume.dataobj).copy()
    label[0, 0, 0] = 4
    nib.save(nib.Nifti1Image(label, None, volume.header), path)
    reading = read_folders([copy])
    assert [(finding.reason, finding.file) for finding in told(reading)] == [("label-values", str(path))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0}}, "names 1 labels"),
        ({"labels": {"background": 0, "RV": 1, "LV": 1}}, "names 3 labels, 2 of them different"),
        ({"labels": ["RV"]}, "cannot be read as a dataset.json"),
        ({"channel_names": {"0": "T2", "1": "LGE"}}, "images of 2 channels"),
    ],
)
def test_descriptions_that_cannot_be_used(copy, changes, message):
    describe(copy, **changes)
    with pytest.raises(UserError, match=message):
        read_folders([copy])


def test_a_second_channel(copy):
    path = sorted((copy / "imagesTr").iterdir())[0]
    shutil.copy(path, path.with_name(path.name.replace("_0000", "_0001")))
    with pytest.raises(UserError, match="channel 0001 of a case. A stack has one"):
        read_folders([copy])


def test_two_data_sets(copy, source):
    with pytest.raises(UserError, match="two data sets"):
        read_folders([copy, source])
