"""The plan of a study over the real bundle and a small datalist."""

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_iln.errors import UserError
from monai_iln.study.bundle_plan import plan_bundle
from monai_iln.study.settings import read_settings

CONFIGS = Path(__file__).parents[2] / "bundles" / "lv_short_axis_iln" / "configs"


def make_plan(prepared, **settings):
    overrides = {"network_def#features": [8, 16]} | settings.pop("overrides", {})
    settings = {"methods": ["ILN", "IN"], "learning_rates": [0.1], "dataset_dir": str(prepared)} | settings
    return plan_bundle(read_settings(settings | {"overrides": overrides}), CONFIGS).runs


def test_a_plan_is_the_whole_grid_fold_by_fold(prepared):
    runs = make_plan(prepared, learning_rates=[0.5, 0.1], seeds=[0, 7])
    assert len(runs) == len({run.path for run in runs}) == 2 * 3 * 2 * 2
    assert [run.fold for run in runs] == sorted(run.fold for run in runs)
    assert {run.overrides["norm"][0] for run in runs} == {"ILN", "INSTANCE"}
    assert runs[0].path == Path("runs", "phantoms", "ILN", "fold_0", "lr_0.5", "seed_0")
    assert runs[0].data["subjects"] == 6
    assert runs[0].data["structures"] == ["endocardium"]


def test_several_datalists(prepared):
    runs = make_plan(prepared, dataset_dir=None, datasets={"a": str(prepared), "b": str(prepared)}, folds=[1])
    assert [run.dataset for run in runs] == ["a", "a", "b", "b"]


def test_the_rate_is_the_trainings_own_unless_given(prepared):
    assert {run.learning_rate for run in make_plan(prepared, learning_rates=None)} == {0.002}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overrides": {"epoch": 1}}, "'epoch' is no id or property of the bundle. Did you mean 'epochs'"),
        ({"overrides": {"network_def#featurs": [8, 16]}}, "no argument of .*PaperUNet. Did you mean 'features'"),
        ({"overrides": {"train#dataloader#nonsense": 1}}, "'nonsense' is no argument of DataLoader"),
        ({"overrides": {"fold": 1}}, "override 'fold': the study itself sets it"),
        ({"overrides": {"output_dir": "x"}}, "override 'output_dir': the study itself sets it"),
        ({"folds": [0, 3]}, "folds \\[3\\]: the datalist of phantoms has \\[0, 1, 2\\]"),
        ({"methods": ["INL"]}, "norm 'INL' is unknown. Did you mean 'ILN'"),
        ({"methods": [["ILN", {"group": 3}]]}, "Its arguments are num_features, num_groups"),
        ({"reference": "BN"}, "reference 'BN': methods are"),
        ({"training": ["trian.yaml"]}, "trian.yaml: no such file"),
        ({"evaluation": ["evaluat.yaml"]}, "evaluat.yaml: no such file"),
        ({"dataset_dir": "/nowhere"}, "no such datalist"),
        ({"dataset_dir": None, "datasets": {".h": "/nowhere"}}, "data set '.h': its name names a folder"),
        ({"dataset_dir": None, "datasets": {"a/b": "/nowhere"}}, "data set 'a/b': its name names a folder"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_runs(prepared, settings, message):
    with pytest.raises(UserError, match=message):
        make_plan(prepared, **settings)


@pytest.mark.slow
def test_the_hash_follows_what_decides_the_result(prepared, tmp_path):
    def hashes(**settings):
        return {run.config_hash for run in make_plan(prepared, methods=["ILN"], folds=[0], **settings)}

    (base,) = hashes()
    assert hashes() == {base}
    assert hashes(overrides={"num_workers": 3, "device": "cpu"}) == {base}
    assert hashes(overrides={"epochs": 3}) != {base}
    assert hashes(seeds=[1]) != {base}
    assert hashes(learning_rates=[1]) == hashes(learning_rates=[1.0])
    for overlay in ("network: $@network_def", "validate#dataset#data: $@parts['test']", "run: []"):
        (tmp_path / "overlay.yaml").write_text(overlay)
        changed = hashes(training=["train.yaml", str(tmp_path / "overlay.yaml")])
        assert changed != {base}, f"the evaluation, which sets it too, must not hide {overlay}"
    assert hashes(training=["train.yaml", "paper.yaml"]) != {base}

    runs = make_plan(prepared, learning_rates=[0.1, 0.10000001])
    assert len({run.path for run in runs}) == len(runs) == 12
    assert len({run.protocol_hash for run in runs}) == 1
    assert runs[0].protocol_hash != make_plan(prepared, overrides={"epochs": 3})[0].protocol_hash

    moved = shutil.copytree(prepared, tmp_path / "moved")
    assert hashes(dataset_dir=str(moved)) == {base}, "where the data lie decides nothing"
    document = json.loads((moved / "datalist.json").read_text())
    item = document["training"][0]
    label = nib.load(moved / item["label"])
    nib.save(nib.Nifti1Image(1 - np.asanyarray(label.dataobj), label.affine), moved / item["label"])
    with pytest.raises(UserError, match="not the file that was prepared"):
        hashes(dataset_dir=str(moved))
    item["sha256"]["label"] = hashlib.sha256((moved / item["label"]).read_bytes()).hexdigest()
    (moved / "datalist.json").write_text(json.dumps(document))
    assert hashes(dataset_dir=str(moved)) != {base}, "another label"
