import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_iln.datasets import check_datalist, describe_datalist, read_datalist, split_datalist
from monai_iln.datasets import datalist as datalist_module
from monai_iln.datasets.checked import CheckedItems
from monai_iln.errors import UserError


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")


@pytest.fixture
def hashed(monkeypatch):
    """The files whose content is read."""
    paths, sha256 = [], datalist_module.hash_file
    monkeypatch.setattr(datalist_module, "hash_file", lambda path: paths.append(path) or sha256(path))
    return paths


def rewrite(path, content):
    """Give a file other content of the same size, and the time that it had."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_every_file_is_read_once_for_all_trainings(copy, hashed, monkeypatch):
    decoded, read = [], datalist_module.read_voxels
    monkeypatch.setattr(
        datalist_module, "read_voxels", lambda file: decoded.append(file.path.parent.name) or read(file)
    )
    describe_datalist(copy)
    assert len(hashed) == 24
    assert set(decoded) == {"labels"}, "images are those that were read when they were prepared"
    split_datalist(copy, 0)
    split_datalist(copy, 1)
    assert describe_datalist(copy)["stacks"] == 12
    assert len(hashed) == 24
    first = Path(read_datalist(copy)[0]["image"])
    rewrite(first, first.read_bytes())
    split_datalist(copy, 0)
    assert hashed[24:] == [first, Path(read_datalist(copy)[0]["label"])], "of the others nothing is read"


def test_a_check_reads_everything_and_trainings_know_it(copy, hashed):
    for times in (1, 2):
        check_datalist(copy)
        assert len(hashed) == 24 * times
    split_datalist(copy, 0)
    assert len(hashed) == 48


def test_a_change_that_size_and_time_hide_is_refused(copy):
    check_datalist(copy)
    path = Path(read_datalist(copy)[3]["label"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    rewrite(path, bytes(content))
    for read in (describe_datalist, lambda folder: split_datalist(folder, 0)):
        with pytest.raises(UserError, match=f"{path}: not the file that was prepared"):
            read(copy)


def test_what_a_check_finds_bad_is_not_known_any_more(copy, monkeypatch, hashed):
    """A disk that forgets bits tells no new time. The other files stay known."""
    check_datalist(copy)
    path = Path(read_datalist(copy)[3]["label"])
    with monkeypatch.context() as patch:
        patch.setattr(datalist_module, "hash_file", lambda file: "" if file == path else file.name)
        patch.setattr(datalist_module, "_recorded_hashes", lambda item: {"label": Path(item["label"]).name})
        with pytest.raises(UserError, match="not the file that was prepared"):
            check_datalist(copy)
    del hashed[:]
    describe_datalist(copy)
    assert path in hashed


def test_what_is_asked_of_a_file_is_part_of_what_is_known(copy):
    check_datalist(copy)
    document = json.loads((copy / "datalist.json").read_text())
    (copy / "datalist.json").write_text(json.dumps(document | {"labels": {"0": "background", "2": "other"}}))
    with pytest.raises(UserError, match="The datalist names"):
        split_datalist(copy, 0)
    document["training"][0]["slices"].pop()
    (copy / "datalist.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"numbers of slices in datalist.json. There is one number for each slice"):
        split_datalist(copy, 0)


def test_voxels_in_a_file_of_their_own(copy):
    document = json.loads((copy / "datalist.json").read_text())
    del document["training"][0]["sha256"]
    label = nib.load(copy / document["training"][0]["label"])
    voxels = np.asanyarray(label.dataobj).astype(np.uint8)
    nib.save(nib.Nifti1Pair(voxels, label.affine), copy / "label.hdr")
    document["training"][0]["label"] = "label.hdr"
    (copy / "datalist.json").write_text(json.dumps(document))
    split_datalist(copy, 0)
    rewrite(copy / "label.img", bytes(voxels.size - 1) + b"\7")
    with pytest.raises(UserError, match="holds the values"):
        split_datalist(copy, 0)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": [{}, {}]}', '{"a": [1, 2]}'])
def test_a_damaged_cache_knows_nothing(copy, hashed, content):
    memory = CheckedItems(copy / "datalist.json")
    memory.path.parent.mkdir(parents=True, exist_ok=True)
    memory.path.write_text(content)
    for _ in range(2):
        split_datalist(copy, 0)
    assert len(hashed) == 24


def test_a_cache_that_cannot_be_written(copy, hashed, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        split_datalist(copy, 0)
    assert len(hashed) == 48
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert CheckedItems(copy).path.parent == tmp_path / "home" / ".cache" / "monai_iln" / "checked"


def test_a_user_without_a_home(copy, hashed, monkeypatch):
    def refuse():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", refuse)
    split_datalist(copy, 0)
    assert len(hashed) == 24


def test_nothing_is_written_beside_the_data(copy):
    before = sorted(copy.rglob("*"))
    check_datalist(copy)
    assert sorted(copy.rglob("*")) == before


def test_a_file_that_may_not_be_read(copy, monkeypatch):
    def refuse(path):
        raise PermissionError("Permission denied")

    monkeypatch.setattr(datalist_module, "hash_file", refuse)
    with pytest.raises(UserError, match=r"images/.*: cannot be read \(PermissionError"):
        check_datalist(copy)
