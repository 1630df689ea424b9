"""What a bundle made for studies and any other bundle have in common, and where its own ids take part."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from zoo import write_bundle
from zoo_data import write_data

from monai_iln.configuration import read_configuration
from monai_iln.errors import UserError
from monai_iln.networks import PaperUNet
from monai_iln.study import CrossValidationWorkflow
from monai_iln.study.bundle_plan import plan_bundle
from monai_iln.study.grid import hash_of
from monai_iln.study.open_bundle import OpenBundle
from monai_iln.study.records import read_records
from monai_iln.study.settings import read_settings

LV = Path(__file__).parents[2] / "bundles" / "lv_short_axis_iln"
SMALL = {"network_def#features": [8, 16]}

# MONAI warns of what the bundles do, as it would without a study.
pytestmark = [
    pytest.mark.usefixtures("unpainted"),
    pytest.mark.filterwarnings("ignore:.*Orientationd.__init__.labels:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning"),
]


def plan(prepared, folder=LV / "configs", **settings):
    settings = {"methods": ["ILN", "IN"], "folds": [0], "dataset_dir": str(prepared), "overrides": SMALL} | settings
    return plan_bundle(read_settings(settings), folder)


@pytest.fixture(scope="module")
def spleens(tmp_path_factory):
    """Volumes with subjects and phases, as the handlers of this package need them."""
    folder = write_data("spleen", tmp_path_factory.mktemp("data") / "spleen")
    document = json.loads((folder / "dataset.json").read_text())
    for number, item in enumerate(document["training"]):
        item |= {"subject": f"s{number // 2}", "phase": ("ED", "ES")[number % 2]}
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def study(tmp_path, spleens):
    """Makes a study of a bundle of spleens with files laid over it for the evaluation."""

    def make(evaluation, **keys):
        bundle = write_bundle("spleen", tmp_path)
        (bundle / "configs" / "mine.yaml").write_text(yaml.safe_dump(evaluation))
        keys = {"datalist": str(spleens / "dataset.json"), "overrides": {"max_epochs": 1}, "methods": "IN"} | keys
        keys |= {"evaluation": ["mine.yaml"], "num_folds": 3, "folds": [0], "jobs": 1}
        workflow = CrossValidationWorkflow(bundle=str(bundle), output_dir=str(tmp_path / "study"), **keys)
        workflow.initialize()
        return workflow

    return make


def test_a_bundle_of_ours_is_the_same_by_its_folder_and_by_its_file(prepared):
    by_file = plan(prepared, training=["train.yaml"])
    by_folder = plan(prepared, Path(), bundle=str(LV), datasets={"phantoms": str(prepared)}, dataset_dir=None)
    assert [run.config_hash for run in by_folder.runs] == [run.config_hash for run in by_file.runs]
    assert [run.path for run in by_folder.runs] == [run.path for run in by_file.runs]
    assert by_file.runs[0].evaluation == by_folder.runs[0].evaluation == (str(LV / "configs" / "evaluate.yaml"),)
    assert by_file.surveys["ILN"]["kinds"] == {"InstanceLayerNorm": 7}


def test_finished_studies_of_earlier_versions_go_on(prepared):
    """The hash is that of the configuration with the values of the grid, of the evaluation, and of the data."""
    (run,) = plan(prepared, methods=["IN"], learning_rates=[0.1], training=["train.yaml"]).runs
    config = read_configuration([str(LV / "configs" / "train.yaml")], SMALL).config
    config |= {"norm": ["INSTANCE", {"affine": True}], "fold": 0, "learning_rate": 0.1, "seed": 0}
    evaluated = yaml.safe_load((LV / "configs" / "evaluate.yaml").read_text())
    assert run.config_hash == hash_of(config, [evaluated], [run.data["sha256"], run.data["structures"]])


def test_the_method_goes_in_by_the_id_of_the_norm(prepared, tmp_path):
    (run,) = plan(prepared, methods=["None"]).runs
    opened = OpenBundle(run, tmp_path / "bundle")
    opened.start({})
    torch.manual_seed(0)
    expected = PaperUNet(features=(8, 16), norm=None).state_dict()
    found = opened.network.state_dict()
    assert opened.survey is None, "a run has its network copied and run for no table"
    opened.close()
    assert list(found) == list(expected), "what the bundle's own inference makes with the norm None"
    assert all(torch.equal(found[key], expected[key]) for key in expected), "of the run's seed, from its first number"


def test_own_is_the_norm_of_the_configuration(prepared):
    (run,) = plan(prepared, methods=["own"]).runs
    assert "norm" not in run.overrides
    with pytest.raises(UserError, match="methods ILN and own: both build the same network"):
        plan(prepared, methods=["ILN", "own"])


@pytest.mark.parametrize("key", ["pattern", "subject"])
def test_what_a_bundle_of_ours_does_itself_is_refused(prepared, key):
    with pytest.raises(UserError, match=f"{key} 'x': this bundle makes its norms and names its subjects itself"):
        plan(prepared, **{key: "x"})


def test_subjects_are_held_out_as_the_bundle_or_the_study_says(prepared):
    own = plan(prepared).runs[0]
    given = plan(prepared, validation_every=3).runs[0]
    override = plan(prepared, overrides={**SMALL, "validation_every": 3}).runs[0]
    assert (own.validation_every, given.validation_every, override.validation_every) == (10, 3, 3)
    assert own.config_hash != given.config_hash == override.config_hash
    none = plan(prepared, training=["train.yaml", "paper.yaml"])
    assert none.runs[0].validation_every is None
    parts = none.data["phantoms"].cases.split(0, None)
    assert parts["validation"] == []
    assert len(parts["training"]) + len(parts["test"]) == len(none.data["phantoms"].cases.items)


def test_new_splits_for_a_datalist_that_has_folds(prepared):
    plans = [plan(prepared, methods=["ILN"], seeds=[0, 1], splits=splits) for splits in ("one", "new")]
    splits = [[run.split for run in made.runs] for made in plans]
    assert splits == [[0, 0], [0, 1]]
    assert plans[0].runs[0].config_hash == plans[1].runs[0].config_hash
    assert plans[0].runs[1].config_hash != plans[1].runs[1].config_hash


def test_several_datalists_of_any_bundle(study, spleens):
    datalist = str(spleens / "dataset.json")
    workflow = study({}, datalist=None, datasets={"a": datalist, "b": datalist})
    found = [(run.dataset, run.datalist) for run in workflow.runs]
    assert found == [("a", "datalist_a.json"), ("b", "datalist_b.json")]
    assert set(workflow.plan.data) == {"a", "b"}


def test_torchrun_needs_a_configuration_for_it(study, monkeypatch):
    workflow = study({})
    with pytest.raises(UserError, match="no configuration for several processes"):
        plan_bundle(workflow.study, distributed=True)


@pytest.mark.slow
def test_an_evaluation_is_laid_over_any_bundle(study):
    first = study({}).runs[0].config_hash
    by_overlap = {"_target_": "MeanIoUHandler", "include_background": False}
    by_overlap["output_transform"] = "$monai.handlers.from_engine(['pred', 'label'])"
    workflow = study({"validate#key_metric": {"val_iou": by_overlap}}, robustness=False)
    assert workflow.runs[0].config_hash != first, "it decides the result"
    workflow.run()
    records = read_records(workflow.folder)
    assert list(records.runs["status"]) == ["finished"]
    assert records.study["metric"]["name"] == "val_iou"
    dice = records.images["dice"].to_numpy(float)
    assert dice.max() > 0
    np.testing.assert_allclose(records.images["score"].to_numpy(float), dice / (2 - dice), atol=1e-4)


@pytest.mark.slow
def test_an_evaluation_may_leave_images_of_its_own(study):
    images = {"_target_": "monai_iln.handlers.SaveImageMetrics", "output_dir": "$@output_dir", "part": "@part"}
    images |= {"structures": ["spleen"], "per": "volume"}
    workflow = study({"part": "test", "validate#handlers": [images]})
    workflow.run()
    records = read_records(workflow.folder)
    assert list(records.runs["status"]) == ["finished"], list(records.runs["message"])
    assert "metric" not in records.study
    assert set(records.images["structure"]) == {"spleen"}
    assert set(records.images["phase"]) == {"ED", "ES"}
    assert set(records.images["part"]) == {"test", "validation"}
    run = workflow.folder / records.runs["run"][0]
    header = (run / "images.csv").read_text().splitlines()[0].split(",")
    assert "score" not in header
    assert len(list((run / "predictions").iterdir())) == len(records.images)
    assert not (run / "bundle").exists()
