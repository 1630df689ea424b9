"""Lists of volumes: subjects by pattern, folds, files that stay as they are, and everything that is wrong with them."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from phantom_folders import VOLUME, write_decathlon

from monai_iln.cli import main
from monai_iln.datasets import (
    DataWarning,
    check_datalist,
    describe_datalist,
    prepare_decathlon,
    prepare_folders,
    split_datalist,
)
from monai_iln.errors import UserError

REAL = Path(__file__).parents[4] / "shared" / "data" / "hippocampus"
NAMES = ["lung_001", "lung_002", "lung_004", "lung_010"]


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def listed(tmp_path):
    return write_decathlon(tmp_path / "Task06 Lung", NAMES)


def test_folders_name_the_command_that_reads_a_list(listed, tmp_path):
    with pytest.raises(UserError, match="holds a dataset.json, .* prepare decathlon: use that"):
        prepare_folders(listed, tmp_path / "out")
    with pytest.raises(UserError, match="of 0 stacks with a label none is left"), pytest.warns(DataWarning):
        prepare_folders(listed, tmp_path / "out", layout="folders")


def test_accents_that_are_characters_of_their_own(tmp_path):
    """As macOS writes them in names of files, and nobody in a pattern."""
    folder = write_decathlon(tmp_path / "list", ["Jose\u0301_a", "Jose\u0301_b"])
    path = prepare_decathlon(folder, tmp_path / "out", subject="Jos\u00e9_{subject}", folds=2)
    assert [item["subject"] for item in check_datalist(path)] == ["a", "b"]


def test_a_list_becomes_a_datalist(listed, tmp_path):
    before = {path: path.read_bytes() for path in listed.rglob("*.nii.gz")}
    path = prepare_decathlon(listed, tmp_path / "out", folds=2)
    items = check_datalist(path)
    assert [item["subject"] for item in items] == NAMES
    assert sorted(item["fold"] for item in items) == [0, 0, 1, 1]
    for item in items:
        assert item["image"] == str(listed / "imagesTr" / f"{item['subject']}.nii.gz")
        assert item["label"] == str(listed / "labelsTr" / f"{item['subject']}.nii.gz")
    assert {path: path.read_bytes() for path in listed.rglob("*.nii.gz")} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["datalist.json", "exclusions.csv"]
    described = describe_datalist(path)
    assert (described["name"], described["structures"]) == ("LUNG", ["lung", "cancer"])
    assert json.loads(path.read_text())["modality"] == {"0": "CT"}
    parts = split_datalist(path, 0)
    assert {len(part) for part in parts.values()} == {1, 2}


def test_monai_reads_it_too(listed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = prepare_decathlon(listed.name, "out", folds=2)
    read = load_decathlon_datalist(str(path), is_segmentation=True, data_list_key="training")
    assert [nib.load(item["label"]).shape for item in read] == [VOLUME] * 4
    assert {tuple(np.unique(nib.load(item["label"]).dataobj)) for item in read} == {(0, 1, 2)}


@pytest.mark.parametrize(
    ("pattern", "subjects", "phases"),
    [
        ("{subject}", ["p1_base", "p1_later", "p2_base"], ["1", "1", "1"]),
        ("{subject}_{phase}", ["p1", "p1", "p2"], ["base", "later", "base"]),
        ("p{subject}_{phase}", ["1", "1", "2"], ["base", "later", "base"]),
    ],
)
def test_subjects_by_pattern(tmp_path, pattern, subjects, phases):
    folder = write_decathlon(tmp_path / "list", ["p1_base", "p1_later", "p2_base"])
    items = check_datalist(prepare_decathlon(folder / "dataset.json", tmp_path / "out", subject=pattern, folds=2))
    assert [item["subject"] for item in items] == subjects
    assert [item["phase"] for item in items] == phases
    assert len({(item["subject"], item["fold"]) for item in items}) == len(set(subjects))


def test_names_that_differ_in_case_are_of_one_subject(tmp_path):
    folder = write_decathlon(tmp_path / "list", ["p1_base", "P1_Base"])
    with pytest.raises(UserError, match="both are subject P1 at Base"):
        prepare_decathlon(folder, tmp_path / "out", subject="{subject}_{phase}", folds=2)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{subject}_*", r"both are subject p1 at 1, by the pattern.*Write \{phase\}"),
        ("{subject}-x", "does not match p1_base.nii.gz of item 0"),
        ("*", r"has no \{subject\}"),
    ],
)
def test_patterns_that_do_not_fit(tmp_path, pattern, message):
    folder = write_decathlon(tmp_path / "list", ["p1_base", "p1_later", "p2_base"])
    with pytest.raises(UserError, match=message):
        prepare_decathlon(folder, tmp_path / "out", subject=pattern, folds=2)
    assert not (tmp_path / "out").exists()


def test_an_item_may_name_its_subject(listed, tmp_path):
    document = json.loads((listed / "dataset.json").read_text())
    for item, subject in zip(document["training"], "aabb", strict=True):
        item["subject"] = subject
    (listed / "dataset.json").write_text(json.dumps(document))
    items = check_datalist(prepare_decathlon(listed, tmp_path / "out", subject="{subject}_{phase}", folds=2))
    assert [(item["subject"], item["phase"]) for item in items] == [
        ("a", "001"),
        ("a", "002"),
        ("b", "004"),
        ("b", "010"),
    ]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


FAULTS = {
    "image gone": lambda image, label: image.unlink(),
    "label gone": lambda image, label: label.unlink(),
    "image cut": lambda image, label: truncate(image),
    "label cut": lambda image, label: truncate(label),
    "not a number": lambda image, label: save(image, np.full(VOLUME, np.nan, np.float32)),
    "another shape": lambda image, label: save(label, np.zeros((9, 12, 7), np.uint8)),
    "another place": lambda image, label: save(label, np.zeros(VOLUME, np.uint8), np.diag([1, 1, -1, 1])),
    "unknown value": lambda image, label: save(label, np.full(VOLUME, 3, np.uint8)),
    "two channels": lambda image, label: save(image, np.zeros((*VOLUME, 2), np.float32)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_volume_is_left_out_and_told(listed, tmp_path, fault):
    FAULTS[fault](*(listed / folder / "lung_002.nii.gz" for folder in ("imagesTr", "labelsTr")))
    with pytest.warns(DataWarning, match=r"unreadable: 1 \(left out\) in lung_002"):
        path = prepare_decathlon(listed, tmp_path / "out", folds=3)
    assert [item["subject"] for item in check_datalist(path)] == ["lung_001", "lung_004", "lung_010"]
    with (tmp_path / "out" / "exclusions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["subject"], row["action"], row["reason"]) == ("lung_002", "left out", "unreadable")
    assert "lung_002" in row["detail"]


@pytest.mark.parametrize("name", ["a\ud800.nii.gz", "a\ud800", "a\0.nii.gz"])
def test_a_name_that_no_file_can_have(listed, tmp_path, name):
    path = listed / "dataset.json"
    document = json.loads(path.read_text())
    document["training"][0]["label"] = name
    path.write_text(json.dumps(document))
    with pytest.warns(DataWarning, match="unreadable: 1"):
        prepare_decathlon(listed, tmp_path / "out", folds=2)
    assert {item["subject"] for item in check_datalist(tmp_path / "out")} == {*NAMES[1:]}


def test_labels_that_only_some_readers_round(listed, tmp_path):
    path = listed / "labelsTr" / "lung_002.nii.gz"
    save(path, np.asanyarray(nib.load(path).dataobj) * np.float32(0.9999999))
    with pytest.warns(DataWarning, match=r"label-values: 1 \(left out\) in lung_002"):
        assert len(check_datalist(prepare_decathlon(listed, tmp_path / "out"))) == 3


def test_headers_that_contradict_themselves_are_told(listed, tmp_path):
    """MONAI's reader believes the sform, whose steps are 1: the files are pointed at, and not mended."""
    for folder in ("imagesTr", "labelsTr"):
        volume = nib.load(listed / folder / "lung_002.nii.gz")
        volume.header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=2)
        volume.header.set_qform(None, code=0)
        volume.header["pixdim"][1:4] = 1.4, 1.4, 10
        array = np.asanyarray(volume.dataobj).copy()
        nib.save(nib.Nifti1Image(array, None, volume.header), listed / folder / "lung_002.nii.gz")
    with pytest.warns(DataWarning, match=r"contradictory-header: 2 \(keep\) in lung_002"):
        assert len(check_datalist(prepare_decathlon(listed, tmp_path / "out"))) == 4


def test_one_image_under_two_names(listed, tmp_path):
    shutil.copy(listed / "imagesTr" / "lung_001.nii.gz", listed / "imagesTr" / "lung_004.nii.gz")
    with pytest.warns(DataWarning, match=r"same-image: 2 \(exclude\) in lung_001, lung_004"):
        path = prepare_decathlon(listed, tmp_path / "out", folds=2)
    assert [item["subject"] for item in check_datalist(path)] == ["lung_002", "lung_010"]


def test_a_stop_tells_what_is_done_in_volumes(listed, tmp_path, monkeypatch):
    from monai_iln.datasets import decathlon

    real = decathlon.check_item

    def stop(item, values):
        if "lung_004" in item["image"]:
            raise KeyboardInterrupt
        return real(item, values)

    monkeypatch.setattr(decathlon, "check_item", stop)
    with pytest.raises(KeyboardInterrupt, match="^2 volumes are done and kept in"):
        prepare_decathlon(listed, tmp_path / "out", folds=2)


def test_nothing_left(listed, tmp_path):
    for path in (listed / "labelsTr").iterdir():
        truncate(path)
    with pytest.warns(DataWarning), pytest.raises(UserError, match="of 4 volumes none is left. The first finding"):
        prepare_decathlon(listed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "cannot be read as a dataset.json.*names the values"),
        ({"labels": {"0": "background"}}, "names 1 labels"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "names 3 labels, 2 of them different"),
        ({"labels": {"0": "background", "one": "a"}}, "cannot be read as a dataset.json"),
        ({"labels": {"background": 0, "a": 1.5}}, "cannot be read as a dataset.json"),
        ({"training": []}, "lists nothing under 'training'"),
        ({"training": [{"image": ["a", "b"], "label": "c"}]}, "item 0 .*one image and one label"),
        (
            {"training": [{"image": "a.nii", "label": "c.nii"}, {"image": "b.nii", "label": "./c.nii"}]},
            "names .*c.nii more than once",
        ),
        ({"training": ["a.nii.gz"]}, "item 0 .*one image and one label"),
        ({"training": [{"image": "a.nii", "label": "b.nii", "fold": 1}]}, "item 0 has a fold already.*monai-iln check"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        prepare_decathlon(write_decathlon(tmp_path / "list", NAMES, **changes), tmp_path / "out")


def test_no_list(tmp_path):
    (tmp_path / "Task06.tar").touch()
    for source, message in ((tmp_path, "dataset.json: cannot be read"), (tmp_path / "Task06.tar", "unpack it")):
        with pytest.raises(UserError, match=message):
            prepare_decathlon(source, tmp_path / "out")


def test_labels_of_nnunet(tmp_path):
    folder = write_decathlon(tmp_path / "list", NAMES, labels={"background": 0, "lung": 1, "cancer": 2})
    assert describe_datalist(prepare_decathlon(folder, tmp_path / "out"))["structures"] == ["lung", "cancer"]


def test_a_list_of_few_words(tmp_path):
    folder = write_decathlon(tmp_path / "mine", NAMES)
    document = json.loads((folder / "dataset.json").read_text())
    for key in set(document) - {"labels", "training"}:
        del document[key]
    (folder / "dataset.json").write_text("\ufeff" + json.dumps(document), encoding="utf-8")
    written = json.loads(prepare_decathlon(folder, tmp_path / "out").read_text())
    assert (written["name"], written["modality"], written["numTraining"]) == ("mine", {}, 4)


def test_command(listed, tmp_path, capsys):
    arguments = ["prepare", "decathlon", "--source", str(listed), "--output", str(tmp_path / "out"), "--folds", "2"]
    assert main(arguments) == 0
    assert "32 slices of 4 subjects, folds of 2/2 subjects" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "out")]) == 0
    assert main([*arguments, "--subject", "{subject}_*"]) == 1


@pytest.mark.slow
def test_real_hippocampi(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"the hippocampi of the decathlon are not at {REAL}")
    path = prepare_decathlon(REAL, tmp_path / "out", folds=5)
    read = load_decathlon_datalist(str(path), is_segmentation=True, data_list_key="training")
    assert len(read) == len({item["subject"] for item in read}) == 260
    assert describe_datalist(path)["structures"] == ["Anterior", "Posterior"]
    assert nib.load(read[0]["image"]).ndim == 3
