"""Structures by name and value, one or several in a map."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_iln.cli import main
from monai_iln.datasets import check_datalist, describe_datalist, inspect_stacks, prepare_folders, read_folders
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.readers.structures import find_structures
from monai_iln.errors import UserError

SMALL = {"subjects": 3, "slices": 5, "phases": 4, "size": 96}
ALL = ["left-ventricle", "myocardium", "right-ventricle"]


@pytest.fixture(scope="module")
def mnms(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "mnms", layout="mnms", **SMALL)


@pytest.mark.parametrize("order", [ALL, ALL[::-1], ALL[:2], ["Left ventricle", 2, "3"]])
def test_several_structures_are_one_map_in_the_order_given(mnms, order):
    several = read_folders([mnms], label=order)
    assert several.findings == []
    singles = [read_folders([mnms], label=label).stacks for label in order]
    for number, stack in enumerate(several.stacks):
        expected = np.zeros_like(stack.label)
        for value, stacks in enumerate(singles, 1):
            expected[stacks[number].label > 0] = value
        np.testing.assert_array_equal(stack.label, expected)
        assert set(np.unique(stack.label)) == {*range(len(order) + 1)}


@pytest.mark.parametrize("first", ALL)
def test_the_first_structure_is_compared_with_the_images(mnms, first):
    several = read_folders([mnms], label=[first, *(label for label in ALL if label != first)]).stacks
    single = read_folders([mnms], label=first).stacks
    for one, other in zip(several, single, strict=True):
        np.testing.assert_array_equal(one.cavity > 0, other.cavity > 0)
        assert one.thick_wall == other.thick_wall
    assert inspect_stacks(several) == inspect_stacks(single)


def test_one_structure_in_a_list_is_the_same(mnms, tmp_path):
    one, listed = (
        prepare_folders(mnms, tmp_path / "a"),
        prepare_folders(mnms, tmp_path / "b", label=["right-ventricle"]),
    )
    assert one.read_bytes() == listed.read_bytes()


def test_the_datalist_names_them(mnms, tmp_path, capsys):
    assert main(["prepare", "folders", "--source", str(mnms), "--output", str(tmp_path / "o"), "--label", *ALL]) == 0
    assert json.loads((tmp_path / "o" / "datalist.json").read_text())["labels"] == {
        "0": "background",
        "1": "left-ventricle",
        "2": "myocardium",
        "3": "right-ventricle",
    }
    assert describe_datalist(tmp_path / "o")["structures"] == ALL
    for item in check_datalist(tmp_path / "o"):
        assert set(np.unique(nib.load(item["label"]).dataobj)) == {0, 1, 2, 3}
    assert "of 3 subjects" in capsys.readouterr().out


def test_a_phase_without_a_ventricle_is_left_out(mnms, tmp_path):
    folder = shutil.copytree(mnms, tmp_path / "copy")
    path = sorted(folder.rglob("*_gt.nii.gz"))[0]
    volume = nib.load(path)
    label = np.asanyarray(volume.dataobj).copy()
    label[..., 2][label[..., 2] == 3] = 0
    nib.save(nib.Nifti1Image(label, volume.affine), path)
    reading = read_folders([folder], label=ALL)
    assert len(reading.stacks) == 5
    assert [(f.reason, f.subject, f.phase) for f in reading.findings] == [("empty-label", path.parent.name, "ES")]
    assert "the value 3" in reading.findings[0].detail


def test_of_what_overlaps_the_later_counts():
    values = {"myocardium": (2, 3), "scar": (3,), "left-ventricle": (1,)}
    label = np.array([0, 1, 2, 3])
    assert find_structures(["myocardium", "scar"], values).label_map(label).tolist() == [0, 0, 1, 2]
    assert find_structures("myocardium", values).label_map(label).tolist() == [0, 0, 1, 1]
    assert find_structures("2", values).label_map(label).tolist() == [0, 0, 1, 0]
    for labels in (["scar", "myocardium"], ["scar", "scar"], ["2", "scar", "myocardium"]):
        with pytest.raises(UserError, match="nothing would be left of (scar|2)"):
            find_structures(labels, values)


def test_what_not_every_heart_has_may_be_missing():
    values = {"left-ventricle": (1,), "scar": (3,)}
    wanted = find_structures(["left-ventricle", "scar"], values)
    assert wanted.missing(np.array([0, 1])) == []
    assert [one.name for one in wanted.missing(np.array([0, 3]))] == ["left-ventricle"]
    assert len(wanted.missing(np.array([0, 0]))) == 2
    assert len(find_structures("scar", values).missing(np.array([0, 1]))) == 1


def test_several_names_without_known_values():
    with pytest.raises(UserError, match="each needs the number that the label files have"):
        find_structures(ALL, {})
    assert find_structures([2, 1], {}).label_map(np.array([0, 1, 2, 3])).tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize("label", ["right-ventricle", "atrium", 0, 4, -1])
def test_structures_that_a_data_set_does_not_have(label):
    with pytest.raises(UserError, match=r"one of left-ventricle, scar, or the number .*\(1, 3\)"):
        find_structures(label, {"scar": (3,), "left-ventricle": (1,)})


def test_no_structure():
    with pytest.raises(UserError, match="at least one structure"):
        find_structures([], {})
