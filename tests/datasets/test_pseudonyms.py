"""Pseudonyms tell nothing, stay the same, and lead back to the patient by the key alone."""

import json
import multiprocessing
import os
import shutil
import stat
from pathlib import Path

import pytest

from monai_iln.datasets import DataWarning, prepare_sunnybrook, read_datalist
from monai_iln.datasets.pseudonyms import draw_pseudonyms, hide_subjects, name_stacks, require_apart
from monai_iln.datasets.stacks import Finding
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


def test_accents_that_are_characters_of_their_own(key):
    key.write_text("pseudonym,subject\ns0123456789,Jose\u0301\n", encoding="utf-8")
    assert draw_pseudonyms(key, ["Jos\u00e9"]) == {"Jos\u00e9": "s0123456789"}


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


@pytest.mark.parametrize("subject", ["=1+1", 'a"b', "a,b", "a\nb", "é", "\udce9", "a\0", "'=", "s1"])
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
    with pytest.raises(UserError, match="no key of pseudonyms.*[Gg]ive another file, or restore it"):
        draw_pseudonyms(key, ["Smith"])
    assert key.read_text() == text


def test_a_key_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be read or written .*Choose another file"):
        draw_pseudonyms(tmp_path / "missing" / "key.csv", ["Smith"])


def test_a_key_that_is_a_pipe(key):
    os.mkfifo(key)
    with pytest.raises(UserError, match="a pipe, a socket or a device"):
        draw_pseudonyms(key, ["Smith"])


def test_the_key_lies_apart(tmp_path):
    require_apart(tmp_path / "key.csv", tmp_path / "output")
    for folder in ("output", "output.unfinished"):
        with pytest.raises(UserError, match=rf"lies in .*{folder}\. .*put it elsewhere"):
            require_apart(tmp_path / folder / "deep" / "key.csv", tmp_path / "output")


def test_findings_name_nobody():
    details = {
        "displaced": "contrast 0.31, below 0.5",
        "same-image": "identical to Jones ED slice 2, Smith-2 ES slice 1 and Smithson ES slice 3",
        "no-image": "IM_0001 has no frame 5",
        "mismatch": "belongs to Smith_John.nii alike",
    }
    findings = [Finding(reason, "Smith", "ED", 1, "/data/Smith.dcm", detail) for reason, detail in details.items()]
    found = [*hide_subjects(findings, {"Smith": "s1", "Jones": "s2", "Smith-2": "s3"})]
    assert {(finding.subject, finding.file) for finding in found} == {("s1", "")}
    displaced, same, *others = [finding.detail for finding in found]
    assert displaced == details["displaced"]
    assert same == "identical to s2 ED slice 2, s3 ES slice 1 and Smithson ES slice 3"
    assert all(detail.startswith("not told") for detail in others)
    (nobody,) = hide_subjects([Finding("no-label", "", "", None, "/data/Smith", "none")], {})
    assert (nobody.subject, nobody.file) == ("", "")


@pytest.mark.parametrize(
    ("reason", "detail", "hidden"),
    [
        ("area-jump", "2 pixels between slices of 12 and 0", "2 pixels between slices of 12 and 0"),
        ("area-jump", "12 pixels at ES, 2 at ED", "12 pixels at ES, 2 at ED"),
        ("displaced", "contrast 0.12, below 0.5", "contrast 0.12, below 0.5"),
        (
            "same-image",
            "identical to 12 ED slice 2, 2 ES slice 12 and 2 more",
            "identical to sb ED slice 2, sa ES slice 12 and 2 more",
        ),
        ("same-mask", "identical to 2 2 slice 12", "identical to sa 2 slice 12"),
        (
            "other-subject",
            "median contrast 0.12 on its own images, 2.12 on those of 12",
            "median contrast 0.12 on its own images, 2.12 on those of sb",
        ),
        ("copied-contour", "byte for byte a contour of 12, 2", "byte for byte a contour of sb, sa"),
    ],
)
def test_a_number_is_a_subject_only_where_one_is_named(reason, detail, hidden):
    """Else a slice or an area, which anybody can count, would lead back to the name."""
    (finding,) = hide_subjects([Finding(reason, "2", "ED", 2, "", detail)], {"0": "sz", "2": "sa", "12": "sb"})
    assert finding.detail == hidden


def test_data_are_prepared_under_pseudonyms(official, key, tmp_path):
    """What is written is the same but for names, and tells none of those that the files have."""
    source = shutil.copytree(official, tmp_path / "source")
    contour = sorted(source.rglob("*icontour*"))[0]
    contour.write_text("nothing")
    with pytest.warns(DataWarning):
        plain = prepare_sunnybrook(source, tmp_path / "plain", exclude=["low-contrast", "area-jump"]).parent
    with pytest.warns(DataWarning) as caught:
        secret = prepare_sunnybrook(
            source, tmp_path / "secret", exclude=["low-contrast", "area-jump"], anonymize=key
        ).parent
    subjects = {row["pseudonym"]: row["subject"] for row in read_csv(key).rows}
    items = {(item["subject"], item["phase"]): item for item in read_datalist(plain)}
    hidden = read_datalist(secret)
    assert [item["subject"] for item in hidden] == sorted(item["subject"] for item in hidden)
    assert len(hidden) == len(items)
    for item in hidden:
        own = items[subjects[item["subject"]], item["phase"]]
        assert (item["fold"], item["slices"], item["sha256"]["label"]) == (
            own["fold"],
            own["slices"],
            own["sha256"]["label"],
        )
        assert Path(item["image"]).name == f"{item['subject']}_{item['phase']}.nii.gz"
    written = [str(path.relative_to(secret)) for path in secret.rglob("*")]
    texts = [path.read_text() for path in secret.glob("*.[cj]s*")] + [str(w.message) for w in caught]
    names = {*subjects.values(), contour.name, "IM-0001", str(source)}
    assert not [name for name in names if any(name in text for text in written + texts)]
    assert len(read_csv(secret / "exclusions.csv").rows) == len(read_csv(plain / "exclusions.csv").rows) > 0
    with pytest.raises(UserError, match="put it elsewhere"):
        prepare_sunnybrook(source, tmp_path / "third", anonymize=tmp_path / "third" / "key.csv")


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
