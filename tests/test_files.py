"""Whole or not at all, and tables as the world writes them."""

import csv
import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from monai_iln.errors import UserError
from monai_iln.files import emptied_unless_filled, new_file, new_folder, read_csv, write_csv, write_json


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "mask.nii.gz"
    with new_file(path) as partial:
        assert partial.name.endswith(".nii.gz")  # by which writers choose the format
        partial.write_bytes(b"whole")
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["mask.nii.gz"]
    assert path.read_bytes() == b"whole"


def test_a_file_is_replaced_at_once(tmp_path):
    """Whoever has the old one open reads on in it: its content is not written over."""
    path = tmp_path / "run.json"
    write_json(path, {"old": 1})
    with path.open() as reader:
        write_json(path, {"new": 2})
        assert json.load(reader) == {"old": 1}
    assert json.loads(path.read_text()) == {"new": 2}


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError, match="killed"), new_file(path) as partial:  # noqa: PT012 - both lines count
        partial.write_text("half")
        raise RuntimeError("killed")
    assert json.loads(path.read_text()) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_a_writer_that_writes_nothing_is_told(tmp_path):
    with pytest.raises(UserError, match="/nothing: cannot be written .No such file"), new_file(tmp_path / "nothing"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("subject,fold\n", []),
        ("\ufeffsubject,fold\na,0\n", [{"subject": "a", "fold": "0"}]),
        ("subject;fold\r\na,b;0\r\n", [{"subject": "a,b", "fold": "0"}]),
        ("subject\tfold\na\t0\n", [{"subject": "a", "fold": "0"}]),
        ('subject,fold\n"a\nb",0\n', [{"subject": "a\nb", "fold": "0"}]),
        ("subject,fold\na\nb,1,left over\n", [{"subject": "a", "fold": ""}, {"subject": "b", "fold": "1"}]),
    ],
)
def test_tables_of_others(tmp_path, text, rows):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    assert read_csv(path).rows == rows


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a,b\n\xff,1\n", b'a,b\n"' + b"x" * 200_000 + b'",1\n'])
def test_what_is_no_table(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"decode|field larger"):
        read_csv(path)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, ("name", "value"), [("a,b", 1), ("é\n", None)])
    assert read_csv(path).rows == [{"name": "a,b", "value": "1"}, {"name": "é\n", "value": ""}]


def test_what_no_table_can_hold_is_written_as_its_code(tmp_path):
    """Python 3.10 neither writes NUL to a table nor reads it."""
    path = tmp_path / "table.csv"
    write_csv(path, ["name"], [("a\0b",), ("=\0",), ("\ud800",)])
    assert [row["name"] for row in read_csv(path).rows] == [r"a\x00b", r"=\x00", r"\ud800"]


KILL = """
import os, signal, sys
from pathlib import Path
from monai_iln.files import new_file
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
with new_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
"""


def test_a_kill_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILL, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


@pytest.mark.parametrize("named", [False, True])
def test_a_full_disk_is_told_with_the_final_name(tmp_path, named):
    def write(partial):
        raise OSError(errno.ENOSPC, "No space left on device", *[str(partial)] * named)

    with pytest.raises(UserError) as caught, new_file(tmp_path / "a.png") as partial:
        write(partial)
    cause = "cannot be written (No space left on device). Free the disk, or choose another folder."
    assert str(caught.value) == f"{tmp_path / 'a.png'}: {cause}"


@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_a_folder_has_the_permissions_that_the_user_wants(tmp_path, mask):
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "out") as partial:
            assert stat.S_IMODE(partial.stat().st_mode) == 0o777 & ~mask, "also while it is filled"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free the disk"),
        (errno.EROFS, "Choose a folder that can be written to"),
        (errno.EACCES, "Give yourself the permission"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
    ],
)
def test_a_folder_tells_the_real_cause(tmp_path, number, remedy):
    with pytest.raises(UserError) as caught, new_folder(tmp_path / "out") as partial:
        raise OSError(number, os.strerror(number), str(partial / "images" / "a.png"))
    expected = f"{tmp_path / 'out' / 'images' / 'a.png'}: cannot be written ({os.strerror(number)}). {remedy}"
    assert str(caught.value).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_cannot_be_read_is_not_the_folder_s_fault(tmp_path):
    with pytest.raises(UserError, match="^/data/a.dcm: Permission denied. Give yourself"), new_folder(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/a.dcm")


def test_what_is_told_of_a_file_in_a_folder_has_its_final_name(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=f"^{tmp_path / 'out' / 'a.json'}: cannot be written"):  # noqa: SIM117
        with new_folder(tmp_path / "out") as partial:
            write_json(partial / "a.json", {})


def test_the_folder_where_one_is_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^[.]: cannot be written whole .* a new folder in it"), new_folder(Path()):
        pass


def test_a_mount_cannot_be_replaced(tmp_path, monkeypatch):
    """As that of a container is: all work would be lost when the folder is to get its name."""
    monkeypatch.setattr(os.path, "ismount", tmp_path.__eq__)
    with pytest.raises(UserError, match=f"^{tmp_path}: cannot be written whole"), new_folder(tmp_path):
        pass


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_filled(tmp_path, exists):
    target, link = tmp_path / "disk" / "out", tmp_path / "link"
    target.parent.mkdir()
    if exists:
        target.mkdir()
    link.symlink_to(target)
    with new_folder(link) as partial:
        assert partial.parent == target.parent, "on the same disk"
        (partial / "a").write_text("whole")
    assert link.is_symlink()
    assert (target / "a").read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_a_link_that_leads_to_itself(tmp_path):
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(UserError, match=f"^{link}: "), new_folder(link):
        pass
    assert list(tmp_path.iterdir()) == [link]


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-a", "@sum", "\ttab", "\rreturn", "'=1", "''=1", "-1+2"])
def test_no_cell_is_a_formula(tmp_path, text):
    path = tmp_path / "table.csv"
    write_csv(path, ("name",), [(text,)])
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [f"'{text}"]
    assert read_csv(path).rows == [{"name": text}]


@pytest.mark.parametrize("cell", [-0.5, "-0.5", "+1e-3", "-.5", "'tis", "a=b", "", "é"])
def test_other_cells_stay_as_they_are(tmp_path, cell):
    path = tmp_path / "table.csv"
    write_csv(path, ("name", "other"), [(cell, 1)])
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [str(cell), "1"]
    assert read_csv(path).rows[0]["name"] == str(cell)


def test_a_folder_that_could_not_be_filled_is_empty_and_what_its_links_lead_to_is_not(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.txt").write_text("kept")
    output = tmp_path / "output"
    output.mkdir()

    def fill():
        with emptied_unless_filled(output):
            (output / "masks").mkdir()
            (output / "masks" / "a.nii.gz").touch()
            (output / "images").symlink_to(tmp_path / "elsewhere")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(output.iterdir()) == []
    assert (tmp_path / "elsewhere" / "kept.txt").read_text() == "kept"
