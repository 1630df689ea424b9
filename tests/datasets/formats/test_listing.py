"""The files of a folder, whatever lies among them."""

import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from monai_iln.datasets.formats import listing
from monai_iln.datasets.formats.listing import FileList, list_files, refuse_special
from monai_iln.errors import UserError


def test_files_in_and_below_sorted_and_each_once(tmp_path):
    work = ("c.unfinished/.key", "c.unfinished/x.dcm")  # a folder of that name without a key is somebody's own
    for name in ("b/2.dcm", "b/1.dcm", "a.dcm", ".hidden/x", "__MACOSX/x", "b/._1.dcm", *work, "d.unfinished/x.dcm"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "b" / "upwards").symlink_to(tmp_path)
    (tmp_path / "nothing.dcm").symlink_to(tmp_path / "gone")  # whoever reads it says so
    (tmp_path / "other.dcm").symlink_to(tmp_path / "a.dcm")
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)]
    assert found == ["a.dcm", "b/1.dcm", "b/2.dcm", "d.unfinished/x.dcm", "nothing.dcm", "other.dcm"]
    assert list_files(tmp_path / "a.dcm") == [tmp_path / "a.dcm"]


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket"])
def test_what_would_be_waited_for_for_ever(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.nii.gz").touch()
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("data/x.nii.gz")
    elif kind == "pipe":
        os.mkfifo(folder / "x.nii.gz")
    else:
        os.mkfifo(tmp_path / "elsewhere")
        (folder / "x.nii.gz").symlink_to(tmp_path / "elsewhere")
    for look in (lambda: list_files(folder), lambda: refuse_special(folder / "x.nii.gz")):
        with pytest.raises(UserError, match="/x.nii.gz: a pipe, a socket or a device. Only files are read"):
            look()


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="gone: cannot be read .No such file or directory"):
        list_files(tmp_path / "gone")


NAMES = ("b/c/1", "b/2", "b.x", "a/x", "b/c.x", "b/z", "b/a/y", "z", "bb/1", "b/ä", "B/1")


def put(folder):
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_list_of_files_is_in_the_order_of_paths(tmp_path, monkeypatch):
    folder = put(tmp_path / "data")
    files = FileList([folder])
    assert [*files] == sorted(folder / name for name in NAMES)
    assert len(files) == len(NAMES)
    assert {*files.values()} == {folder}
    assert folder / "b" / "c" / "1" in files
    assert folder / "b" / "c" not in files
    assert folder / "b" / "c" / "2" not in files
    monkeypatch.chdir(folder)
    assert [*FileList([Path()])] == list_files(Path()) == sorted(map(Path, NAMES))


def test_of_a_source_within_another_one_the_last_counts(tmp_path):
    folder = put(tmp_path / "data")
    files = FileList([folder, folder / "b", folder / "z"])
    assert [*files] == sorted(folder / name for name in NAMES)
    assert files[folder / "b" / "c" / "1"] == folder / "b"
    assert files[folder / "a" / "x"] == files[folder / "z"] == folder
    assert [*FileList([folder / "z", folder / "a" / "x"])] == [folder / "a" / "x", folder / "z"]


def test_a_folder_is_taken_apart_once_and_not_for_each_of_its_files(tmp_path, monkeypatch):
    folder = put(tmp_path / "data")
    listing._split.cache_clear()
    files = FileList([folder])
    assert {*files.items()} == {(path, folder) for path in files}
    folders = {path.parent for path in files}
    assert listing._split.cache_info().misses <= len(folders) < len(files)
    added, add = [], FileList._add
    monkeypatch.setattr(FileList, "_add", lambda self, home, *rest: added.append(home) or add(self, home, *rest))
    given = [folder / "b" / "2", folder / "b" / "z", folder / "b" / "ä", folder / "a"]
    assert [*FileList(given)] == [*given[:3], folder / "a" / "x"]
    assert added == [str(folder / "b"), str(folder / "a")]


def test_many_files_take_little_memory(tmp_path):
    """220 bytes a file would be 1 GB for the images of 20,000 subjects."""
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        for image in range(300):
            (tmp_path / str(number) / f"IM-0003-{image:04d}.dcm").touch()
    list_files(tmp_path)
    tracemalloc.start()
    files = FileList([tmp_path])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(files) < 30
