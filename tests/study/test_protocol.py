"""A study records how its runs were trained, and its report compares that with the paper's protocol by its values."""

import json
from pathlib import Path

import pandas as pd
import pytest

from monai_iln.study.protocol import describe_protocol
from monai_iln.study.records import Records
from monai_iln.study.report.deviations import caveats
from monai_iln.study.report.published import LEARNING_RATES, ROTATIONS, SUBJECTS
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import minus

BUNDLES = Path(__file__).parents[2] / "bundles"
STRUCTURES = {"LV": "endocardium", "RV": "right-ventricle"}


def describe(*files, bundle="lv_short_axis_iln", **overrides):
    """The protocol of a bundle's training, as ``study.json`` holds it."""
    described = describe_protocol([str(BUNDLES / bundle / "configs" / file) for file in files], overrides)
    return json.loads(json.dumps(described))


@pytest.fixture(scope="module")
def preset():
    """The preset of the paper for the left ventricle."""
    return describe("train.json", "paper.yaml")


def deviations_of(ventricle, ran, **plan):
    """What the report says of a study that is the paper's but for ``ran`` and ``plan``."""
    subjects = SUBJECTS[ventricle]
    data = {"any name": {"structures": [STRUCTURES[ventricle]], "subjects": subjects}}
    study = {"methods": {"ILN": "ILN"}, "learning_rates": LEARNING_RATES, "datasets": data, **plan}
    if ran is not None:
        study["protocol"] = ran
    runs = pd.DataFrame({"dataset": "any name", "method": "ILN", "fold": [0, 1, 2]})
    return caveats(Results.of(Path(), Records(study, runs, pd.DataFrame())))


@pytest.mark.parametrize("ventricle", ["LV", "RV"])
def test_the_bundles_presets_have_the_papers_values_whatever_their_files_are_called(ventricle):
    ran = describe("train.json", "paper.yaml", bundle=f"{ventricle.lower()}_short_axis_iln")
    for files in (["train.yaml", "paper.yaml"], ["mine.yaml"]):
        assert deviations_of(ventricle, ran, training=files) == []


@pytest.mark.parametrize(
    ("ventricle", "ran", "said"),
    [
        ("RV", "LV", "61 rotations from -60 to 60 degrees of RV images instead of 7 rotations from -30 to 30 degrees"),
        ("LV", "RV", "7 rotations from -30 to 30 degrees of LV images instead of 61 rotations from -60 to 60 degrees"),
    ],
)
def test_rotations_are_those_of_the_ventricle(preset, ventricle, ran, said):
    ran = {**preset, "rotations": list(ROTATIONS[ran])}
    training = ["train.yaml", "paper.yaml"]  # by its name it is the paper's
    assert deviations_of(ventricle, ran, training=training) == [f"The protocol is not the paper's: {minus(said)}."]


OPTIMIZER = {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@learning_rate"}
SCHEDULE = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5}
NETWORK = {"_target_": "monai_iln.networks.PaperUNet", "norm": "@norm"}


@pytest.mark.parametrize(("change", "said"), [
    ({"epochs": 3}, "epochs 3 instead of 2"),
    ({"batch_size": 8}, "batch size 8 instead of 1"),
    ({"roi_size": [112, 112]}, "image size 112 x 112 instead of 256 x 256"),
    ({"standardize": True}, "pixel size the same for all images instead of every image's own"),
    ({"largest_component": True}, "predicted masks reduced to their largest component instead of as they are"),
    ({"validation_every": 5}, "validation on one of 5 training subjects instead of on none"),
    ({"loss": {"_target_": "DiceCELoss"}}, "loss DiceCELoss instead of cross-entropy"),
    ({"loss": {"_target_": "DiceLoss"}}, "loss DiceLoss instead of cross-entropy"),
    ({"optimizer": OPTIMIZER}, "optimizer SGD instead of SGD with momentum 0.9"),
    ({"optimizer": {**OPTIMIZER, "momentum": 0.9, "weight_decay": 0.1}},
     "optimizer SGD with momentum 0.9 and weight_decay 0.1 instead of SGD with momentum 0.9"),
    ({"lr_scheduler": SCHEDULE}, "learning rate times 0.5 after every epoch instead of times 0.2 after every epoch"),
    ({"lr_per_epoch": False}, "learning rate times 0.2 after every step instead of times 0.2 after every epoch"),
    ({"network_def": {**NETWORK, "features": [8, 16]}}, "network PaperUNet with features [8, 16] instead of PaperUNet"),
    ({"network_def": {"_target_": "BasicUNet"}}, "network BasicUNet instead of PaperUNet"),
    ({"random_transforms": [{"_target_": "RandFlipd"}]}, "random augmentation RandFlipd instead of none"),
    ({"rotations": [0]}, "no rotation of LV images instead of 61 rotations from -60 to 60 degrees"),
])  # fmt: skip
def test_every_value_counts(preset, change, said):
    assert deviations_of("LV", {**preset, **change}) == [f"The protocol is not the paper's: {minus(said)}."]


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"_target_": "torch.nn.CrossEntropyLoss"}},
        {"optimizer": {**OPTIMIZER, "momentum": 0.9, "weight_decay": 0}},
        {"network_def": {**NETWORK, "out_channels": 3, "features": [16, 32, 64, 128, 256]}},
    ],
)
def test_what_is_no_deviation(preset, change):
    assert deviations_of("LV", {**preset, **change}) == []


def test_described_is_what_a_run_uses(preset):
    """Overrides of the trainer's own ids, too, and not what the grid goes through."""
    overrides = {
        "train#trainer#max_epochs": 5,
        "rotations": "$list(range(-30, 31, 10))",
        "loss#lambda_dice": 1.0,
        "optimizer#momentum": 0.5,
        "network_def#features": [8, 16],
        "train#random_transforms": [{"_target_": "RandFlipd", "keys": ["image", "label"]}],
        "validation_every": 5,
    }
    swept = {"norm": "INSTANCE", "learning_rate": 0.5, "seed": 3, "fold": 1}
    described = describe("train.json", "paper.yaml", **overrides, **swept)
    assert described["epochs"] == 5
    assert described["rotations"] == [-30, -20, -10, 0, 10, 20, 30]
    assert described["loss"]["lambda_dice"] == 1
    assert described["optimizer"] == {**OPTIMIZER, "momentum": 0.5}
    assert described["network_def"] == {**preset["network_def"], "features": [8, 16]}
    assert described["network_def"]["norm"] == "@norm"
    assert described["random_transforms"] == overrides["train#random_transforms"]
    assert described["validation_every"] == 5
    assert {key for key in preset if preset[key] == described[key]} == {
        *("lr_per_epoch", "batch_size", "roi_size", "standardize", "largest_component"),
    }


def test_the_bundles_own_training_deviates_in_almost_everything():
    (said,) = deviations_of("LV", describe("train.json"))
    for part in ("DiceCELoss", "AdamW with weight_decay 0.01", "WarmupCosineSchedule", "epochs 50", "RandAffined"):
        assert part in said
    assert "no rotation of LV images" in said


def test_grid_and_data(preset):
    (said,) = deviations_of("LV", preset, learning_rates=[0.5, 0.1])
    assert said == "The protocol is not the paper's: learning rates 0.5, 0.1 instead of 1.5, 1, 0.5, 0.1, 0.05."
    data = {"any name": {"structures": ["LV cavity"], "subjects": 64}}
    (said,) = deviations_of("LV", preset, datasets=data)
    assert said == "The protocol is not the paper's: 64 subjects of any name instead of 45."


def test_what_the_paper_does_not_have_and_what_is_not_known(preset):
    other = {"any name": {"structures": ["liver", "LV myocardium"]}}
    assert deviations_of("LV", {**preset, "epochs": 9}, datasets=other) == []
    (said,) = deviations_of("LV", None)
    assert said.startswith("How the runs were trained was not compared with the paper's protocol")


def test_a_training_of_other_ids_is_described_as_far_as_it_goes(tmp_path):
    config = {"epochs": 4, "network_def": {"_target_": "UNet", "norm": "@norm"}}
    (tmp_path / "train.json").write_text(json.dumps(config))
    described = describe_protocol([str(tmp_path / "train.json")], {})
    assert described == {"network_def": {"_target_": "UNet", "norm": "@norm"}}


SCHEDULER = {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 1, "gamma": 0.2}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"loss": "$torch.nn.CrossEntropyLoss()"}, "loss $torch.nn.CrossEntropyLoss() instead of cross-entropy"),
        ({"optimizer": "$mine(@network)"}, "optimizer $mine(@network) instead of SGD with momentum 0.9"),
        (
            {"lr_scheduler": "$mine(@optimizer)"},
            "learning rate $mine(@optimizer) instead of times 0.2 after every epoch",
        ),
        (
            {"lr_scheduler": {**SCHEDULER, "gamma": "$1/5"}},
            "learning rate StepLR with step_size 1 and gamma $1/5 instead of times 0.2 after every epoch",
        ),
        ({"network_def": "$mine(norm=@norm)"}, "network $mine(norm=@norm) instead of PaperUNet"),
        ({"train#preprocessing#transforms": "$@a + @b"}, "random augmentation $@a + @b instead of none"),
        ({"train#random_transforms": ["$mine()"]}, "random augmentation $mine() instead of none"),
        ({"roi_size": 96}, "image size 96 instead of 256 x 256"),
    ],
)
def test_what_a_training_says_by_an_expression_is_told_as_it_is_written(override, said):
    ran = describe("train.json", "paper.yaml", **override)
    assert deviations_of("LV", ran) == [f"The protocol is not the paper's: {said}."]


def test_as_many_rotations_are_not_the_same(preset):
    (said,) = deviations_of("RV", {**preset, "rotations": list(range(-60, 61, 20))})
    assert "7 rotations from \N{MINUS SIGN}60 to 60 degrees of RV images instead of 7 rotations" in said
