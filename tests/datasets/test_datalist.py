import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from monai_iln.datasets import find_stacks, read_datalist, slice_items, split_datalist, write_datalist
from monai_iln.errors import UserError


def change(prepared, tmp_path, function):
    """A copy of the prepared data with its datalist changed."""
    folder = tmp_path / "changed"
    shutil.copytree(prepared, folder)
    document = json.loads((folder / "datalist.json").read_text())
    function(document)
    (folder / "datalist.json").write_text(json.dumps(document))
    return folder


def test_written_stacks_are_the_stacks(prepared, stacks):
    items = read_datalist(prepared)
    assert len(items) == len(stacks) == 12
    for item, stack in zip(items, stacks, strict=True):
        assert (item["subject"], item["phase"], item["slices"]) == (stack.subject, stack.phase, list(stack.slices))
        image, label = nib.load(item["image"]), nib.load(item["label"])
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), stack.image)
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), stack.label)
        np.testing.assert_allclose(image.affine, stack.affine, atol=1e-4)
        np.testing.assert_array_equal(image.affine, label.affine)


def test_splits_never_share_a_subject(prepared):
    tested = []
    for fold in range(3):
        parts = split_datalist(prepared, fold)
        subjects = {part: {item["subject"] for item in items} for part, items in parts.items()}
        assert {part: len(names) for part, names in subjects.items()} == {"training": 3, "validation": 1, "test": 2}
        assert len(set.union(*subjects.values())) == 6
        tested += subjects["test"]
    assert len(set(tested)) == 6
    assert not split_datalist(prepared, 0, validation_every=None)["validation"]


def test_slices(prepared):
    stacks = split_datalist(prepared, 0)["training"]
    slices = slice_items(stacks)
    assert len(slices) == sum(len(stack["slices"]) for stack in stacks)
    assert [item["slice"] for item in slices if item["image"] == stacks[0]["image"]] == list(
        range(len(stacks[0]["slices"]))
    )


def test_unknown_fold(prepared):
    with pytest.raises(UserError, match=r"fold 7 does not exist. It has the folds \[0, 1, 2\]"):
        split_datalist(prepared, 7)


def test_one_subject_in_two_folds(prepared, tmp_path):
    folder = change(prepared, tmp_path, lambda document: document["training"][0].update(fold=9))
    with pytest.raises(UserError, match="is in the folds 9 and"):
        read_datalist(folder)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda d: d["training"][3].pop("fold"), "item 3 has no fold"),
        (lambda d: d["training"][2].update(image="images/none.nii.gz"), "no such file, though item 2"),
        (lambda d: d.pop("training"), "not a datalist"),
        (lambda d: d.update(training=[1]), "not a datalist"),
        (lambda d: d.update(training=[]), "no items"),
        (lambda d: [i.update(fold=0) for i in d["training"][2:]] + [i.update(fold=1) for i in d["training"][:2]], None),
    ],
)
def test_broken_datalists(prepared, tmp_path, function, message):
    folder = change(prepared, tmp_path, function)
    if message:
        with pytest.raises(UserError, match=message):
            read_datalist(folder)
    else:
        with pytest.raises(UserError, match="Training needs at least one more"):
            split_datalist(folder, 0)


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(UserError, match="no such datalist.*monai-iln prepare"):
        read_datalist(tmp_path)
    (tmp_path / "datalist.json").write_text("{")
    with pytest.raises(UserError, match="not a datalist"):
        read_datalist(tmp_path)


def test_output_is_whole_or_not_there(stacks, tmp_path, monkeypatch):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        write_datalist(stacks, full, name="", labels=())

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", disk_full)
    with pytest.raises(UserError, match="No space left"):
        write_datalist(stacks, tmp_path / "new", name="", labels=())
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_find_stacks(prepared, official, tmp_path):
    assert len(find_stacks(prepared / "images")) == 12
    assert find_stacks(prepared) == [item["image"] for item in read_datalist(prepared)]
    shutil.copytree(prepared / "images", tmp_path / "a" / "images")
    shutil.copytree(prepared / "labels", tmp_path / "a" / "labels")
    with pytest.raises(UserError, match="12 names occur more than once"):
        find_stacks(tmp_path / "a")
    file = next((prepared / "images").iterdir())
    assert find_stacks(file) == [str(file)]
    folder = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
    assert find_stacks(folder) == [str(folder)]
    with pytest.raises(UserError, match="no stack found"):
        find_stacks(tmp_path / "none")


@pytest.mark.parametrize("fault", ["shape", "affine", "damage"])
def test_labels_that_do_not_lie_on_their_images(prepared, tmp_path, fault):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    path = sorted((folder / "labels").iterdir())[0]
    label = nib.load(path)
    array = np.asanyarray(label.dataobj)
    if fault == "damage":
        path.write_bytes(b"no NIfTI")
    elif fault == "shape":
        nib.save(nib.Nifti1Image(array[:-1], label.affine), path)
    else:
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(UserError, match="cannot be read as NIfTI" if fault == "damage" else "of one shape and affine"):
        split_datalist(folder, 0)
