"""The files of a folder, whatever lies among them."""

import os
import socket

import pytest

from monai_iln.datasets.formats.listing import list_files, refuse_special
from monai_iln.errors import UserError


def test_files_in_and_below_sorted_and_each_once(tmp_path):
    for name in ("b/2.dcm", "b/1.dcm", "a.dcm", ".hidden/x", "__MACOSX/x", "b/._1.dcm"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "b" / "upwards").symlink_to(tmp_path)
    (tmp_path / "nothing.dcm").symlink_to(tmp_path / "gone")  # whoever reads it says so
    (tmp_path / "other.dcm").symlink_to(tmp_path / "a.dcm")
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)]
    assert found == ["a.dcm", "b/1.dcm", "b/2.dcm", "nothing.dcm", "other.dcm"]
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
