"""The folder of a MONAI Label app, written without MONAI Label. What the server makes of it: round.py beside this."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_iln.cli import main
from monai_iln.errors import UserError
from monai_iln.label import write_app

BUNDLES = Path(__file__).parents[2] / "bundles"


@pytest.fixture
def bundles(tmp_path):
    """Both bundles with weights, results of a training, and data."""
    for source in sorted(BUNDLES.glob("*_iln")):
        bundle = tmp_path / "bundles" / source.name
        shutil.copytree(source, bundle, ignore=shutil.ignore_patterns("data", "eval", "study", "models"))
        for file in (
            "models/model.pt",
            "models/fold_1.pt",
            "data/phantoms/datalist.json",
            "eval/curves.csv",
            "prepared/images/somebody.nii.gz",
        ):
            (bundle / file).parent.mkdir(parents=True, exist_ok=True)
            (bundle / file).write_text(file)
    return sorted((tmp_path / "bundles").iterdir())


def test_app_holds_the_bundles_and_one_line(bundles, tmp_path):
    app = write_app(tmp_path / "app", bundles)
    assert app == tmp_path / "app"
    lines = [line for line in (app / "main.py").read_text().splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("from monai_iln.label.app import LabelApp")
    for bundle in bundles:
        copy = app / "model" / bundle.name
        assert (copy / "models" / "model.pt").read_text() == "models/model.pt"
        assert (copy / "models" / "fold_1.pt").is_file()
        assert (copy / "configs" / "train.yaml").read_bytes() == (bundle / "configs" / "train.yaml").read_bytes()
        assert sorted(path.name for path in copy.iterdir()) == ["LICENSE", "configs", "docs", "models"]
        assert bundle.name in (app / "README.md").read_text()


def test_command(bundles, tmp_path, capsys):
    app = tmp_path / "a b é"
    assert main(["label-app", str(app), "--bundle", *map(str, bundles)]) == 0
    assert f"monailabel start_server --app '{app}' --studies DIR --host 127.0.0.1" in capsys.readouterr().out
    assert sorted(path.name for path in (app / "model").iterdir()) == [bundle.name for bundle in bundles]
    assert main(["label-app", str(app), "--bundle", str(bundles[0])]) == 1
    assert capsys.readouterr().err == f"error: {app}: is not an empty folder. " + (
        "Nothing is overwritten: choose another, or empty it.\n"
    )


def test_a_bundle_given_as_a_dot_has_its_folders_name(bundles, tmp_path, monkeypatch):
    monkeypatch.chdir(bundles[0])
    assert (write_app(tmp_path / "app", ["."]) / "model" / bundles[0].name / "configs").is_dir()


def test_a_bundle_given_twice_is_there_once(bundles, tmp_path):
    assert len(list((write_app(tmp_path / "app", [bundles[0], bundles[0]]) / "model").iterdir())) == 1


@pytest.mark.parametrize("file", ["configs/inference.yaml", "configs/metadata.json", "models/model.pt"])
def test_no_bundle(bundles, tmp_path, file):
    (bundles[0] / file).unlink()
    with pytest.raises(UserError, match=rf"{bundles[0]}: .*{file}.* missing\. .*: .*"):
        write_app(tmp_path / "app", bundles)
    assert not (tmp_path / "app").exists()


def test_two_of_one_name(bundles, tmp_path):
    twin = shutil.copytree(bundles[0], tmp_path / "others" / bundles[0].name)
    with pytest.raises(UserError, match=rf"{twin}: has the name of {bundles[0]}\. .* rename one"):
        write_app(tmp_path / "app", [*bundles, twin])


def test_not_into_the_bundle_itself(bundles):
    with pytest.raises(UserError, match="lies in .* choose another folder"):
        write_app(bundles[0] / "app", bundles)
    with pytest.raises(UserError, match="no bundles"):
        write_app(bundles[0].parent / "app", [])


def test_app_without_monailabel_says_what_it_needs(bundles, tmp_path, monkeypatch):
    app = write_app(tmp_path / "app", bundles)
    monkeypatch.setitem(sys.modules, "monailabel", None)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(UserError, match=r"\AMONAI Label cannot be imported .*: install it there, with monai_iln\.\Z"):
        runpy.run_path(str(app / "main.py"))


def test_command_and_writer_import_what_they_need(bundles, tmp_path):
    """The writer needs no network, the command no server."""
    code = (
        "import sys; from monai_iln.label import write_app; write_app(sys.argv[1], sys.argv[2:])\n"
        "assert not {'torch', 'monai', 'monailabel', 'fastapi'} & set(sys.modules)\n"
        "import monai_iln.cli; assert not {'monailabel', 'fastapi'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "app"), *map(str, bundles)], check=True)
