import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_iln.datasets import (
    check_datalist,
    describe_datalist,
    find_stacks,
    find_stacks_folder,
    read_datalist,
    slice_items,
    split_datalist,
)
from monai_iln.datasets.stack_files import storable, write_stack
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
        for key in ("image", "label"):
            assert item["sha256"][key] == hashlib.sha256(Path(item[key]).read_bytes()).hexdigest()


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


def test_a_list_without_a_name_is_called_as_its_folder(prepared, tmp_path, monkeypatch):
    folder = change(prepared, tmp_path, lambda document: document.pop("name"))
    assert describe_datalist(folder)["name"] == "changed"
    monkeypatch.chdir(folder)
    assert describe_datalist(".")["name"] == "changed"


def test_a_list_with_the_mark_of_windows(prepared, tmp_path):
    folder = change(prepared, tmp_path, lambda document: None)
    (folder / "datalist.json").write_bytes(b"\xef\xbb\xbf" + (folder / "datalist.json").read_bytes())
    assert len(read_datalist(folder)) == 12


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fold", "0"),
        ("fold", True),
        ("fold", 1.0),
        ("subject", 3),
        ("image", ["a"]),
        ("label", "a\0b"),
        ("phase", None),
    ],
)
def test_values_of_the_wrong_kind(prepared, tmp_path, key, value):
    folder = change(prepared, tmp_path, lambda document: document["training"][1].update({key: value}))
    with pytest.raises(UserError, match=f"{key} of item 1 is .* It must be (text|a whole number): correct it"):
        read_datalist(folder)


@pytest.mark.parametrize("sign", ["\n", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u200b", "\u200e"])
@pytest.mark.parametrize("place", ["subject", "phase", "labels", "name"])
def test_names_with_control_characters(prepared, tmp_path, place, sign):
    def rename(document):
        if place == "labels":
            document["labels"]["1"] = f"left{sign}"
        elif place == "name":
            document["name"] = f"left{sign}"
        else:
            document["training"][1][place] = f"left{sign}"

    with pytest.raises(UserError, match="the name 'left.*': a name holds no line breaks, tabs or other control"):
        read_datalist(change(prepared, tmp_path, rename))


def test_nesting_without_end(tmp_path):
    (tmp_path / "datalist.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not a datalist"):
        read_datalist(tmp_path)


def relabel(folder, function, forget_hash=True):
    """Change the first label of a copy."""
    path = sorted((folder / "labels").iterdir())[0]
    label = nib.load(path)
    array, affine = function(np.asanyarray(label.dataobj).copy(), label.affine)
    nib.save(nib.Nifti1Image(array, affine), path)
    if forget_hash:
        document = json.loads((folder / "datalist.json").read_text())
        for item in document["training"]:
            item.pop("sha256")
        (folder / "datalist.json").write_text(json.dumps(document))


def with_twos(array, affine):
    array[0, 0, 0] = 2
    return array, affine


def test_what_was_changed_behind_its_back(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    assert len(check_datalist(folder)) == 12
    relabel(folder, lambda array, affine: (array[:, ::-1], affine), forget_hash=False)
    assert len(read_datalist(folder)) == 12
    with pytest.raises(UserError, match="not the file that was prepared, its SHA-256 differs"):
        check_datalist(folder)
    with pytest.raises(UserError, match="not the file that was prepared"):
        split_datalist(folder, 0)


def test_label_values(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    relabel(folder, with_twos)
    with pytest.raises(UserError, match=r"holds the values \[0 1 2\]. The datalist names \[0, 1\] under 'labels'"):
        check_datalist(folder)
    document = json.loads((folder / "datalist.json").read_text())
    del document["labels"]
    (folder / "datalist.json").write_text(json.dumps(document))
    assert len(check_datalist(folder)) == 12, "a list of one's own need not name its labels"


def test_integers_of_64_bits_are_stored_smaller(stacks, tmp_path):
    for number, (value, dtype) in enumerate([(1000, np.int32), (2**40, np.float64)]):
        stack = replace(stacks[0], image=stacks[0].image.astype(np.int64) + value)
        folder = tmp_path / str(number)
        folder.mkdir()
        image = nib.load(folder / write_stack(stack, folder)["image"])
        assert image.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), stack.image)
    least = np.array([np.iinfo(np.int64).min, 0])  # its amount is no 64-bit integer
    np.testing.assert_array_equal(storable(least), least.astype(float))


def test_a_subject_that_cannot_name_a_file(stacks, tmp_path):
    with pytest.raises(UserError, match="cannot name a file"):
        write_stack(replace(stacks[0], subject="../up"), tmp_path)
    with pytest.raises(UserError, match="control characters"):
        write_stack(replace(stacks[0], subject="a\nb"), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["_gt", "_label", "-seg", "_mask2"])
def test_labels_beside_their_images(tmp_path, ending):
    """ACDC, as it is downloaded. A name that merely ends so is no label."""
    for name in ("patient001_frame01", f"patient001_frame01{ending}", "other_gt"):
        (tmp_path / f"{name}.nii.gz").touch()
    if ending in ("_gt", "_label"):
        with pytest.raises(UserError, match=f"1 of 3 files are labels, .*frame01{ending}.nii.gz.*prepare has made"):
            find_stacks(tmp_path)
    else:
        assert len(find_stacks(tmp_path)) == 3


def test_find_stacks_of_every_format(tmp_path):
    names = ["a.nii", "b.nii.gz", "c.nrrd", "d.nhdr", "e.mha", "f.mhd", "sub/G.NRRD"]
    hidden = ["._b.nii.gz", ".cache/c.nii", "__MACOSX/b.nii.gz"]  # as macOS leaves them
    for name in [*names, *hidden, "d.raw", "h.hdr", "notes.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_stacks(tmp_path) == [str(tmp_path / name) for name in names]
    (tmp_path / "b.mha").touch()
    with pytest.raises(UserError, match="1 name occurs more than once in a folder, the first is .*/b"):
        find_stacks(tmp_path)


def test_find_stacks(prepared, official, tmp_path):
    assert len(find_stacks(prepared / "images")) == 12
    assert find_stacks(prepared) == [item["image"] for item in read_datalist(prepared)]
    shutil.copytree(prepared / "images", tmp_path / "a" / "images")
    shutil.copytree(prepared / "labels", tmp_path / "a" / "labels")
    with pytest.raises(UserError, match="12 of 24 files are labels, by their folders or their names"):
        find_stacks(tmp_path / "a")
    assert len(find_stacks(tmp_path / "a" / "labels")) == 12, "who asks for labels gets them"
    file = next((prepared / "images").iterdir())
    assert find_stacks(file) == [str(file)]
    folder = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
    assert find_stacks(folder) == [str(folder)]
    assert find_stacks(folder.parent) == [str(folder.parent)], "a folder for each slice is one stack, too"
    with pytest.raises(UserError, match="none: no such file or folder"):
        find_stacks(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no stack found"):
        find_stacks(tmp_path / "empty")


def test_stacks_of_equal_names_in_folders_of_subjects(prepared, tmp_path):
    source = next((prepared / "images").iterdir())
    for subject in ("P1", "P2"):
        (tmp_path / "data" / subject).mkdir(parents=True)
        shutil.copy(source, tmp_path / "data" / subject / "ED.nii.gz")
    found = find_stacks(tmp_path / "data")
    assert found == [str(tmp_path / "data" / subject / "ED.nii.gz") for subject in ("P1", "P2")]
    assert find_stacks_folder(tmp_path / "data") == str(tmp_path / "data")
    (tmp_path / "data" / "P2" / "ED.nii").touch()
    with pytest.raises(UserError, match="1 name occurs more than once in a folder, the first is .*P2/ED"):
        find_stacks(tmp_path / "data")


def test_the_folder_of_stacks(prepared, official, monkeypatch):
    assert find_stacks_folder(prepared) == find_stacks_folder(prepared / "images") == str(prepared / "images")
    assert find_stacks_folder(next((prepared / "images").iterdir())) == str(prepared / "images")
    monkeypatch.chdir(prepared.parent)
    assert find_stacks_folder(f"{prepared.name}/images") == str(prepared / "images")
    folder = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
    assert find_stacks_folder(folder) == str(folder.parent)
    assert find_stacks_folder("nowhere") == "nowhere"


@pytest.mark.parametrize(
    "function",
    [
        lambda array, affine: (array * 0.9999999, affine),
        lambda array, affine: (array, affine @ np.diag([1.0001, 1, 1.001, 1])),
    ],
    ids=["values", "affine"],
)
def test_labels_that_rounding_moved(prepared, tmp_path, function):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    relabel(folder, function)
    assert len(check_datalist(folder)) == 12


def test_labels_without_orientation_lie_where_their_images_lie(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    relabel(folder, lambda array, affine: (array, affine))
    path = sorted((folder / "labels").iterdir())[0]
    label = nib.load(path)
    header = nib.Nifti1Header()  # neither sform nor qform
    nib.save(nib.Nifti1Image(np.asanyarray(label.dataobj), None, header), path)
    assert len(check_datalist(folder)) == 12


@pytest.mark.parametrize("fault", ["shape", "affine", "damage"])
def test_labels_that_do_not_lie_on_their_images(prepared, tmp_path, fault):
    folder = shutil.copytree(prepared, tmp_path / "copy")
    relabel(
        folder,
        {
            "shape": lambda array, affine: (array[:-1], affine),
            "affine": lambda array, affine: (array, affine @ np.diag([1, 1, 1.1, 1])),
            "damage": lambda array, affine: (array, affine),
        }[fault],
    )
    if fault == "damage":
        sorted((folder / "labels").iterdir())[0].write_bytes(b"no NIfTI")
    with pytest.raises(
        UserError, match="cannot be read as a NIfTI" if fault == "damage" else "of one shape and affine"
    ):
        split_datalist(folder, 0)


@pytest.mark.parametrize(("damage", "kept"), [("cut", {}), ("cut", {"label"}), ("not a number", {})], ids=str)
def test_images_of_a_list_without_their_hashes_are_read(prepared, tmp_path, damage, kept):
    def forget(document):
        for item in document["training"]:
            item["sha256"] = {key: item["sha256"][key] for key in kept}

    folder = change(prepared, tmp_path, forget)
    check_datalist(folder)
    path = Path(read_datalist(folder)[4]["image"])
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        volume = nib.load(path)
        array = volume.get_fdata(dtype=np.float32)
        array[3, 4, 1] = np.nan
        nib.save(nib.Nifti1Image(array, volume.affine), path)
    with pytest.raises(UserError, match=f"{path}: (cannot be read|1 voxels are NaN)"):
        check_datalist(folder)
    with pytest.raises(UserError, match=f"{path}: "):
        split_datalist(folder, 0)


def test_a_datalist_is_written_as_a_whole_document_would_be(prepared):
    text = (prepared / "datalist.json").read_text()
    document = json.loads(text)
    assert document["numTraining"] == len(document["training"]) > 1
    assert text == json.dumps(document, indent=1) + "\n"


def test_what_may_not_be_read(prepared, monkeypatch):
    image = Path(read_datalist(prepared)[3]["image"])
    read = Path.read_bytes

    def forbid(path):
        if path == image:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", forbid)
    with pytest.raises(UserError, match=f"^{image}: Permission denied. Give yourself the permission"):
        check_datalist(prepared)


def test_a_list_that_is_a_folder_or_a_pipe(tmp_path):
    (tmp_path / "datalist.json").mkdir()
    with pytest.raises(UserError, match="datalist.json: Is a directory. It is a folder where a file must be"):
        read_datalist(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UserError, match="pipe.json: a pipe, a socket or a device"):
        read_datalist(tmp_path / "pipe.json")
