"""Pseudonyms tell nothing, stay the same, and lead back to the patient by the key alone."""

import json
import multiprocessing
import os
import stat

import numpy as np
import pytest

from monai_iln.datasets.pseudonyms import draw_pseudonyms, name_stacks, rename_subjects, require_apart
from monai_iln.datasets.stacks import Finding, ReaderOutput, Stack
from monai_iln.errors import UserError
from monai_iln.files import read_csv


@pytest.fixture
def key(tmp_path):
    return tmp_path / "key.csv"


def test_the_same_in_every_call(key):
    first = draw_pseudonyms(key, ["Smith", "Jones", "Smith"])
    assert len(set(first.values())) == 2
    second = draw_pseudonyms(key, ["Meier", "Jones"])
    assert second["Jones"] == first["Jones"]
    assert {row["subject"]: row["pseudonym"] for row in read_csv(key).rows} == first | second
    assert not any("mith" in name for name in first.values())


def test_another_key_gives_other_pseudonyms(tmp_path):
    drawn = [draw_pseudonyms(tmp_path / name, ["Smith"])["Smith"] for name in ("a.csv", "b.csv")]
    assert drawn[0] != drawn[1]


def test_a_pseudonym_stays_as_it_is(key):
    drawn = draw_pseudonyms(key, ["Smith"])["Smith"]
    assert draw_pseudonyms(key, [drawn]) == {drawn: drawn}
    assert len(read_csv(key).rows) == 1


@pytest.mark.skipif(os.name != "posix", reason="the bits of POSIX")
def test_the_key_is_its_owners(key):
    draw_pseudonyms(key, ["Smith"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [path.name for path in key.parent.iterdir()] == ["key.csv"]


@pytest.mark.parametrize("subject", ["=1+1", 'a"b', "a,b", "a\nb", "é", "\udce9", "'=", "s1"])
def test_any_name(key, subject):
    draw_pseudonyms(key, ["Smith"])
    drawn = draw_pseudonyms(key, [subject, "Smith"])
    assert draw_pseudonyms(key, drawn) == drawn


def test_a_key_that_an_editor_left_without_its_last_line_break(key):
    first = draw_pseudonyms(key, ["Smith"])
    key.write_text(key.read_text().rstrip())
    assert draw_pseudonyms(key, ["Jones", "Smith"])["Smith"] == first["Smith"]
    assert draw_pseudonyms(key, ["Smith"]) == first


def _draw(arguments):
    return draw_pseudonyms(*arguments)


def test_several_processes_at_once(key):
    subjects = [f"subject {number}" for number in range(50)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        drawn = pool.map(_draw, [(key, subjects)] * 8)
    final = draw_pseudonyms(key, subjects)
    assert len(set(final.values())) == 50
    # Each process saw whole lines only, and what it lacked is there: nobody's lines were written over.
    assert set().union(*(one.values() for one in drawn)) <= {row["pseudonym"] for row in read_csv(key).rows}


@pytest.mark.parametrize(
    "text",
    [
        "name,age\nSmith,3\n",
        "pseudonym,subject\nSmith,Smith\n",
        "pseudonym,subject\ns0123456789,\n",
        "pseudonym,subject\ns0123456789,a\ns0123456789,b\n",
        "\0",
        "a\n",
    ],
)
def test_no_key(key, text):
    key.write_text(text)
    with pytest.raises(UserError, match="no key of pseudonyms.*give another file, or restore it"):
        draw_pseudonyms(key, ["Smith"])
    assert key.read_text() == text


def test_a_key_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be read or written .*Choose another file"):
        draw_pseudonyms(tmp_path / "missing" / "key.csv", ["Smith"])


def test_the_key_lies_apart(tmp_path):
    require_apart(tmp_path / "key.csv", tmp_path / "output")
    with pytest.raises(UserError, match="put it elsewhere"):
        require_apart(tmp_path / "output" / "deep" / "key.csv", tmp_path / "output")


def test_stacks_and_findings_name_nobody():
    blank = np.zeros((2, 2, 1))
    files = ("/data/Smith_John/IM_0001.dcm",)
    stack = Stack("Smith", "ED", "HF", blank, blank.astype(np.uint8), np.eye(4), (1,), files)
    details = [
        "Dice 0.31, at least 0.5 is expected",
        "/data/Smith_John/IM_0001.dcm: not a DICOM file",
        "the same image as Jones ED",
        "no image like IM_0001",
        "a copy of Smith_John",
        "of Smithson",
    ]
    findings = [Finding("unreadable", "Smith", "ED", 1, files[0], detail) for detail in details]
    findings.append(Finding("no-label", "", "", None, "/data/Smith_John", "no label"))
    found = rename_subjects(ReaderOutput([stack], findings), {"Smith": "s1", "Jones": "s2", "": "s3"})
    assert (found.stacks[0].subject, found.stacks[0].files) == ("s1", ())
    assert found.stacks[0].image is blank
    assert {finding.file for finding in found.findings} == {""}
    assert [finding.subject for finding in found.findings] == ["s1"] * 6 + [""]
    told = [finding.detail for finding in found.findings]
    assert told[0] == details[0]
    assert told[2] == "the same image as s2 ED"
    assert told[6] == "no label"
    assert all(told[place].startswith("not told") for place in (1, 3, 4))
    assert told[5] == "of Smithson", "a word of which a name is a part"


def test_stacks_of_an_inference(key, tmp_path):
    files = [tmp_path / "data" / who / f"{phase}.nii.gz" for who in ("Jones", "Smith") for phase in ("ED", "ES")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    names = name_stacks(tmp_path / "data", key, tmp_path / "out")
    assert list(names) == [str(file) for file in files]
    assert len(set(names.values())) == 4
    assert name_stacks(files[0], key, tmp_path / "out")[str(files[0])] == names[str(files[0])]
    assert {row["subject"] for row in read_csv(key).rows} == {str(file) for file in files}
    assert name_stacks(tmp_path / "data", None, tmp_path) == {}
    with pytest.raises(UserError, match="put it elsewhere"):
        name_stacks(tmp_path / "data", key, tmp_path)


def test_stacks_of_a_datalist_are_called_by_subject_and_phase(prepared, key, tmp_path):
    names = name_stacks(prepared, key, tmp_path / "out")
    items = json.loads((prepared / "datalist.json").read_text())["training"]
    drawn = draw_pseudonyms(key, [item["subject"] for item in items])
    assert list(names.values()) == [f"{drawn[item['subject']]}_{item['phase']}" for item in items]
