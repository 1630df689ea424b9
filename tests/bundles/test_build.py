"""Bundles are built from one source, and written where a user wants them."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from monai_iln.bundle import BUNDLES, find_bundle, write_bundle
from monai_iln.errors import UserError
from monai_iln.networks import PaperUNet

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "bundles" / "source"


def build(root, *arguments):
    return runpy.run_path(str(root / "bundles" / "build.py"))["main"](list(arguments))


@pytest.fixture
def copy(tmp_path):
    shutil.copy(ROOT / "LICENSE", tmp_path)
    ignored = shutil.ignore_patterns("data", "eval", "models", "study")
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=ignored)
    return tmp_path


def test_what_is_checked_in_is_what_the_source_builds(capsys):
    assert build(ROOT, "--check") == 0
    assert capsys.readouterr().out == ""


def test_what_differs_is_named_and_mended(copy, capsys):
    left, right = (copy / "bundles" / name for name in BUNDLES)
    changed, missing, stray = left / "configs" / "train.json", right / "docs" / "folds.json", left / "docs" / "more.md"
    changed.write_text(changed.read_text().replace("0.002", "0.02"))
    missing.unlink()
    stray.write_text("more")
    assert build(copy, "--check") == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": is not what bundles/source says. ")[0] for line in told] == [
        *(str(path) for path in (changed, stray, missing)),
    ]
    assert build(copy) == 1
    assert capsys.readouterr().out.startswith(f"{stray}: ")
    stray.unlink()
    assert build(copy, "--check") == 0
    assert "0.002" in changed.read_text()


def test_both_recipes_say_the_same_words_and_all_are_used():
    recipes = [yaml.safe_load((SOURCE / f"{name}.yaml").read_text()) for name in BUNDLES]
    used = {word for path in SOURCE.glob("*/*") for word in re.findall(r"\{\{(\w+)\}\}", path.read_text())}
    for recipe in recipes:
        assert recipe.keys() - {"files"} == used - {"bundle"}
    assert sorted(path.stem for path in SOURCE.glob("*.yaml")) == sorted(BUNDLES)


def test_what_both_share_names_no_ventricle():
    """But for the choice of components, which was made with both."""
    named = {path.name: re.findall(r"(?:left|right).ventric", path.read_text()) for path in SOURCE.glob("*/*")}
    assert {name: found for name, found in named.items() if found} == {"README.md": ["right ventric", "left ventric"]}


def test_json_is_the_yaml():
    for path in (ROOT / "bundles").glob("*_iln/configs/*.json"):
        if path.name != "metadata.json":
            assert json.loads(path.read_text()) == yaml.safe_load(path.with_suffix(".yaml").read_text())


def test_weights_of_a_training_are_shipped_in_half_precision(copy):
    weights = PaperUNet().state_dict()
    torch.save({"model": weights}, copy / "trained.pt")
    (copy / "bundles" / "rv_short_axis_iln" / "models").mkdir()
    assert build(copy, "--weights", str(copy / "trained.pt"), "rv_short_axis_iln") == 0
    shipped = torch.load(copy / "bundles" / "rv_short_axis_iln" / "models" / "model.pt", weights_only=True)
    assert shipped.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(shipped[name], tensor.half())


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_is_written_whole(name, tmp_path):
    bundle = write_bundle(name, tmp_path / "new" / "bundle")
    written = {path.relative_to(bundle): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    source = ROOT / "bundles" / name
    assert Path("models/model.pt") in written
    assert {path.relative_to(source) for path in source.glob("configs/*")} <= written.keys()
    for path, content in written.items():
        assert (source / path).read_bytes() == content


def test_a_bundle_is_not_written_where_something_is_nor_without_a_name(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'lv_short_axis_iln'"):
        write_bundle("lv_short_axis", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder"):
        write_bundle("lv_short_axis_iln", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_a_name_is_the_shipped_bundle_whatever_lies_beside(tmp_path, monkeypatch):
    (tmp_path / "lv_short_axis_iln").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_bundle("lv_short_axis_iln") == ROOT / "bundles" / "lv_short_axis_iln"
    assert find_bundle("./lv_short_axis_iln") == tmp_path / "lv_short_axis_iln"
