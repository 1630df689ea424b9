"""Whole or not at all, and tables as the world writes them."""

import csv
import json

import pytest

from monai_iln.files import new_file, read_csv, write_csv, write_json


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
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "nothing"):
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
