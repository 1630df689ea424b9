"""The small bundles train as MONAI itself runs them, and have the ids that they say."""

import math
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from zoo import BUNDLES, train_file, write_bundle
from zoo_data import write_data

# What MONAI and torch say of bundles as the zoo has them: Orientationd without labels, mixed precision on a CPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Orientationd.__init__.labels:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning"),
]
REAL = Path(__file__).parents[3] / "shared" / "data" / "hippocampus"
NESTED = {
    "train_dataset_data": "train#dataset#data",
    "val_dataset_data": "validate#dataset#data",
    "trainer": "train#trainer",
    "max_epochs": "train#trainer#max_epochs",
    "evaluator": "validate#evaluator",
    "val_handlers": "validate#handlers",
    "val_key_metric": "validate#key_metric",
}
FLAT = {
    "train_dataset_data": "train_datalist",
    "val_dataset_data": "val_datalist",
    "trainer": "trainer",
    "max_epochs": "num_epochs",
    "evaluator": "evaluator",
    "val_handlers": "val_handlers",
    "val_key_metric": "evaluator#key_val_metric",
}
SCORES = {
    "spleen": "val_mean_dice",
    "short_axis_3label": "val_mean_dice",
    "hard_coded": "val_mean_dice",
    "dynunet": "val_mean_dice",
    "brats": "val_mean_dice",
    "classification": "val_accu",
    "regression": "val_mae",
    "hippocampus": "val_mean_dice",
}
RUN_TRAINING = {"short_axis_3label", "brats"}  # the others have ``run``


def ids_of(name):
    return FLAT if name == "hard_coded" else NESTED


def config_of(name, folder):
    parser = ConfigParser()
    parser.read_config(str(train_file(write_bundle(name, folder))))
    return parser


def train_alone(name, folder, data, **overrides):
    """Trains by MONAI's own workflow; returns the evaluator, and the network's weights before and after."""
    data_id = "data_file_base_dir" if name == "brats" else "dataset_dir"
    workflow = ConfigWorkflow(
        str(train_file(write_bundle(name, folder))),
        workflow_type="train",
        run_id="training" if name in RUN_TRAINING else "run",
        logging_file=False,
        bundle_root=str(folder / name),
        **{data_id: str(data)},
        **overrides,
    )
    workflow.initialize()
    network = workflow.network_def
    before = {key: value.clone() for key, value in network.state_dict().items()}
    workflow.run()
    workflow.finalize()  # closes what a bundle has opened
    return workflow.parser.get_parsed_content(ids_of(name)["evaluator"]), before, network.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLES)
def test_trains_an_epoch_alone(name, tmp_path):
    data = write_data(BUNDLES[name][1], tmp_path / "data")
    once = {"val_interval": 1, ids_of(name)["max_epochs"]: 1}
    evaluator, before, after = train_alone(name, tmp_path, data, **once)
    assert evaluator.state.key_metric_name == SCORES[name]
    assert evaluator.state.best_metric_epoch == 1
    assert math.isfinite(evaluator.state.best_metric)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[key], after[key]) for key in after if key.endswith("weight"))
    saved = list((tmp_path / name).rglob("*.pt"))
    assert saved
    assert (tmp_path / name / "models" / "model.pt" in saved) == (name != "hard_coded")


@pytest.mark.parametrize("name", BUNDLES)
def test_ids_are_those_of_the_zoo(name, tmp_path):
    config = config_of(name, tmp_path)
    for key, nested in NESTED.items():
        assert (nested in config) == (name != "hard_coded"), nested
        assert ids_of(name)[key] in config
    for id_ in ("bundle_root", "device", "network_def", "network", "optimizer"):
        assert id_ in config
    assert ("dataset_dir" in config) == ("val_interval" in config) == (name != "brats")
    assert ("training" in config) == (name in RUN_TRAINING)
    assert ("run" in config) == (name not in RUN_TRAINING)
    assert ("initialize" in config) == (name not in RUN_TRAINING | {"hard_coded"})
    assert ("finalize" in config) == (name in ("classification", "regression"))
    assert "monai_iln" not in train_file(tmp_path / name).read_text()


def test_layout_and_missing_data_are_those_of_the_zoo(tmp_path):
    bundle = write_bundle("spleen", tmp_path)
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert files == {"configs/train.json", "configs/metadata.json", "configs/logging.conf", "docs/README.md"}
    assert not any((bundle / "models").iterdir())
    config = config_of("spleen", tmp_path)
    assert config.get_parsed_content("train#dataset#data") == []  # the zoo's dataset_dir is on another machine


def test_two_slices_of_a_subject_are_two_items(tmp_path):
    images = sorted(path.name for path in (write_data("short_axis", tmp_path) / "imagesTr").iterdir())
    assert images[:2] == ["short_axis_001_slice1.nii.gz", "short_axis_001_slice2.nii.gz"]
    assert len(images) == 24


def test_weights_lying_in_the_bundle_are_loaded_before_training(tmp_path):
    """The zoo ships ``models/model.pt``: a bundle of the template's kind begins with it, whatever the seed."""
    data, once = write_data("short_axis", tmp_path / "data"), {"num_epochs": 1, "learning_rate": 0.0}
    _, before, _ = train_alone("hard_coded", tmp_path, data, **once)
    shipped = {key: torch.full_like(value, 2) for key, value in before.items()}
    torch.save(shipped, tmp_path / "hard_coded" / "models" / "model.pt")
    _, before, after = train_alone("hard_coded", tmp_path, data, **once)
    weights = [key for key in after if key.endswith("weight")]
    assert not any(torch.equal(before[key], shipped[key]) for key in weights)
    assert all(torch.equal(after[key], shipped[key]) for key in weights)


@pytest.mark.slow
def test_hippocampus_learns_the_real_data(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"the real hippocampus data are not at {REAL}")
    evaluator, *_ = train_alone("hippocampus", tmp_path, REAL)
    assert evaluator.state.best_metric > 0.5
