"""A study on bundles and datalists that could lead to numbers of the wrong case, class or weights."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Engine, State
from torch import nn
from zoo import train_file, write_bundle
from zoo_data import write_data

from monai_iln.errors import UserError
from monai_iln.handlers import SaveWeights
from monai_iln.handlers.cases import SaveCaseScores
from monai_iln.study import CrossValidationWorkflow
from monai_iln.study.bundles import find_bundle
from monai_iln.study.cases import make_cases, read_cases
from monai_iln.study.grid import Run
from monai_iln.study.open_bundle import OpenBundle, mirror
from monai_iln.study.records import read_records

# MONAI warns so where a bundle asks for a GPU that is not there.
pytestmark = [
    pytest.mark.usefixtures("unpainted"),
    pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning"),
]

PRED_AND_LABEL = "$monai.handlers.from_engine(['pred', 'label'])"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data("short_axis", tmp_path_factory.mktemp("data"))


@pytest.fixture
def study(tmp_path, data):
    """Makes a study of a bundle of short axes that somebody has edited."""

    def make(edit, name="short_axis_3label", epochs="max_epochs", **keys):
        folder = write_bundle(name, tmp_path)
        config = yaml.safe_load(train_file(folder).read_text())
        edit(config, folder)
        train_file(folder).write_text(yaml.safe_dump(config, sort_keys=False))
        keys = {"methods": "IN", "num_folds": 3, "folds": [0], "overrides": {epochs: 1}, "jobs": 1, **keys}
        datalist, output = str(data / "dataset.json"), str(tmp_path / "study")
        workflow = CrossValidationWorkflow(bundle=str(folder), datalist=datalist, output_dir=output, **keys)
        workflow.initialize()
        return workflow

    return make


def shuffle(config, folder):
    config["validate"]["dataloader"] |= {"shuffle": True, "batch_size": 5}


@pytest.mark.slow
def test_a_shuffled_validation_scores_the_right_cases(study):
    workflow = study(shuffle, robustness=False)
    workflow.run()
    images = read_records(workflow.folder).images
    for row in images.to_dict("records"):
        truth = np.asarray(nib.load(row["image"].replace("imagesTr", "labelsTr")).dataobj)
        assert (truth == int(row["structure"][-1])).sum() == row["truth_pixels"]


def test_shuffled_cases_that_cannot_be_told_apart_are_refused(study):
    def drop_keys(config, folder):
        shuffle(config, folder)
        select = {"_target_": "SelectItemsd", "keys": ["image", "label"]}
        config["train"]["deterministic_transforms"].append(select)

    with pytest.raises(UserError, match="a loader that does not keep their order"):
        study(drop_keys)


def test_counts_of_a_confusion_matrix_are_no_scores(study):
    def by_counts(config, folder):
        metric = {"_target_": "ConfusionMatrix", "output_transform": PRED_AND_LABEL}
        config["validate"]["key_metric"] = {"val_sensitivity": metric}

    with pytest.raises(UserError, match="key metric 'val_sensitivity': a study needs a score of each case, which"):
        study(by_counts)


def test_a_bundle_without_a_key_metric_is_refused_by_the_plan(study):
    def without(config, folder):
        del config["validate"]["key_metric"], config["validate"]["evaluator"]["key_val_metric"]

    with pytest.raises(UserError, match="val_key_metric: the score of a validation"):
        study(without)


@pytest.mark.slow
def test_scripts_are_found_again_in_another_run(study, tmp_path, monkeypatch):
    def with_scripts(config, folder):
        (folder / "scripts").mkdir()
        (folder / "scripts" / "__init__.py").write_text("")
        (folder / "scripts" / "network.py").write_text("from monai.networks.nets import AttentionUnet")
        (folder / "scripts" / "transforms.py").write_text("from monai.transforms import EnsureTyped")
        config["network_def"]["_target_"] = "scripts.network.AttentionUnet"
        last = {"_target_": "scripts.transforms.EnsureTyped", "keys": ["image", "label"]}
        config["base_transforms"].append(last)

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    workflow = study(with_scripts, "hard_coded", "num_epochs", methods="IN,own")
    workflow.run()
    assert list(read_records(workflow.folder).runs["status"]) == ["finished"] * 2
    assert not list((tmp_path / "hard_coded").rglob("__pycache__"))
    assert "scripts" not in sys.modules


def test_groups_of_parameters_keep_the_ratio_of_their_rates(tmp_path):
    folder = write_bundle("short_axis_3label", tmp_path)
    config = yaml.safe_load(train_file(folder).read_text())
    groups = "$[{'params': [p], 'lr': 0.1 / (i + 1)} for i, p in enumerate(list(@network.parameters())[:2])]"
    config["optimizer"] = {"_target_": "torch.optim.SGD", "params": groups}
    train_file(folder).write_text(yaml.safe_dump(config, sort_keys=False))
    bundle = find_bundle(folder, None, None, {})
    items = [{"image": "a", "label": "a"}]
    for rate, expected in ((0.1, [0.1, 0.05]), (0.02, [0.02, 0.01]), (0.0, [0.1, 0.05])):  # 0: nothing tells a rate
        run = Run("", "own", "own", 0, rate, 0, bundle.files, (), {"train#dataset#cache_rate": 0.0}, "", "", {}, bundle)
        opened = OpenBundle(run, tmp_path / str(rate))
        opened.start({"train_dataset_data": items, "val_dataset_data": []})
        opened.make_trainer()
        assert [group["lr"] for group in opened.get("optimizer").param_groups] == pytest.approx(expected)
        opened.close()


def test_results_of_a_bundle_are_not_written_over(tmp_path):
    result = tmp_path / "bundle" / "eval" / "case" / "seg.txt"
    result.parent.mkdir(parents=True)
    result.write_text("old")
    mirror(tmp_path / "bundle", tmp_path / "work")
    (tmp_path / "work" / "eval" / "case" / "new.txt").write_text("new")
    assert (tmp_path / "work" / "eval" / "case" / "seg.txt").read_text() == "old"
    assert list(result.parent.iterdir()) == [result]


def test_the_best_of_several_validations_of_an_epoch_is_kept(tmp_path):
    network, engine = nn.Linear(1, 1), Engine(lambda engine, batch: None)
    saver = SaveWeights(network, str(tmp_path / "model.pt"))
    for value, best in ((1.0, 0.8), (2.0, 0.8)):  # the second is worse, in the same epoch
        nn.init.constant_(network.weight, value)
        engine.state = State(epoch=1, best_metric_epoch=1, best_metric=best)
        saver._save(engine)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"] == 1.0


def test_classes_that_overlap_are_no_values_of_labels(tmp_path):
    saver = SaveCaseScores(str(tmp_path), ["a"], ["a.nii.gz"], None, "test", ["edema", "core", "enhancing"])
    engine = Engine(lambda engine, batch: None)
    saver.attach(engine)
    mask = torch.zeros(3, 4, 4)
    mask[:2, 1:3] = 1
    engine.state.batch, engine.state.output = [{"monai_iln_case": 0}], [{"pred": mask, "label": mask}]
    saver._iterate(engine)
    assert saver._name([1.0, 1.0, 1.0], saver._measured[0])[0] == ["class 1", "class 2", "class 3"]


@pytest.mark.parametrize(
    ("labels", "structures"),
    [
        ({"0": "background", "1": "LV", "2": "RV"}, ("LV", "RV")),
        ({"0": "background", "255": "vessel"}, ("vessel",)),
        ({"0": "background", "2": "LV", "3": "RV"}, ()),
    ],
)
def test_names_of_values_with_gaps_tell_no_class(tmp_path, data, labels, structures):
    document = json.loads((data / "dataset.json").read_text())
    for item in document["training"]:
        item.update({key: str(data / item[key]) for key in ("image", "label")})
    (tmp_path / "list.json").write_text(json.dumps({**document, "labels": labels}))
    assert read_cases(tmp_path / "list.json").structures == structures


@pytest.mark.parametrize("key", ["image", "label"])
def test_absent_files_are_refused_at_once(tmp_path, data, key):
    document = json.loads((data / "dataset.json").read_text())
    for item in document["training"]:
        item.update({name: str(data / item[name]) for name in ("image", "label")})
    document["training"][3][key] = "nowhere.nii.gz"
    (tmp_path / "list.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"1 of 24 files under '{key}' are not there, such as nowhere.nii.gz"):
        read_cases(tmp_path / "list.json")


def test_images_of_one_name_in_several_folders_are_several_subjects():
    items = [{"image": f"/data/patient{number}/image.nii.gz"} for number in range(4)]
    assert make_cases("four", items, (), None, 2).subjects[0] == "patient0_image"
    assert len(set(make_cases("four", items, (), None, 2).subjects)) == 4


@pytest.mark.parametrize("name", ["a/b", "../../outside"])
def test_a_data_set_cannot_lead_out_of_the_study(tmp_path, data, name):
    document = json.loads((data / "dataset.json").read_text())
    for item in document["training"]:
        item.update({key: str(data / item[key]) for key in ("image", "label")})
    (tmp_path / "list.json").write_text(json.dumps({**document, "name": name}))
    bundle, datalist = write_bundle("short_axis_3label", tmp_path), tmp_path / "list.json"
    workflow = CrossValidationWorkflow(bundle=str(bundle), datalist=str(datalist), methods="IN")
    with pytest.raises(UserError, match="name of a datalist"):
        workflow.initialize()


def test_an_optimizer_can_be_named(tmp_path):
    folder = write_bundle("short_axis_3label", tmp_path)
    config = yaml.safe_load(train_file(folder).read_text())
    config["adam"] = config.pop("optimizer")
    config["train"]["trainer"]["optimizer"] = "@adam"
    train_file(folder).write_text(yaml.safe_dump(config, sort_keys=False))
    assert find_bundle(folder, None, {"optimizer": "adam"}, {}).ids["optimizer"] == "adam"
