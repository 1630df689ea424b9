"""A study records how its runs were trained, and its report compares that with the paper's protocol by its values."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from monai_iln.study.protocol import describe_protocol
from monai_iln.study.records import Records
from monai_iln.study.report.deviations import caveats
from monai_iln.study.report.published import LEARNING_RATES, ROTATIONS, SUBJECTS
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import minus

CONFIGS = Path(__file__).parents[2] / "bundles" / "lv_short_axis_iln" / "configs"
STRUCTURES = {"LV": "endocardium", "RV": "right-ventricle"}


def protocol(**overrides):
    """The paper's preset of a bundle with overrides, through a file as a study has it."""
    described = describe_protocol([str(CONFIGS / "train.json"), str(CONFIGS / "paper.yaml")], overrides)
    return json.loads(json.dumps(described))


def paper(ventricle, **overrides):
    return protocol(rotations=list(ROTATIONS[ventricle]), **overrides)


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
def test_the_papers_values_deviate_in_nothing_whatever_their_files_are_called(ventricle):
    for files in (["train.yaml", "paper.yaml"], ["mine.yaml"]):
        assert deviations_of(ventricle, paper(ventricle), training=files) == []


@pytest.mark.parametrize(
    ("ventricle", "ran", "said"),
    [
        ("RV", "LV", "61 rotations from -60 to 60 degrees of RV images instead of 7 rotations from -30 to 30 degrees"),
        ("LV", "RV", "7 rotations from -30 to 30 degrees of LV images instead of 61 rotations from -60 to 60 degrees"),
    ],
)
def test_rotations_are_those_of_the_ventricle(ventricle, ran, said):
    training = ["train.yaml", "paper.yaml"]  # by its name it is the paper's
    assert deviations_of(ventricle, paper(ran), training=training) == [
        f"The protocol is not the paper's: {minus(said)}."
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"epochs": 3}, "epochs 3 instead of 2"),
        ({"train#trainer#max_epochs": 5}, "epochs 5 instead of 2"),
        ({"batch_size": 8}, "batch size 8 instead of 1"),
        ({"roi_size": [112, 112]}, "image size 112 x 112 instead of 256 x 256"),
        ({"standardize": True}, "pixel size the same for all images instead of every image's own"),
        ({"largest_component": True}, "predicted masks reduced to their largest component instead of as they are"),
        ({"validation_every": 5}, "validation on one of 5 training subjects instead of on none"),
        ({"loss#lambda_dice": 1.0}, "loss DiceCELoss instead of cross-entropy"),
        ({"loss": {"_target_": "DiceLoss"}}, "loss DiceLoss instead of cross-entropy"),
        ({"optimizer#momentum": 0.5}, "optimizer SGD with momentum 0.5 instead of SGD with momentum 0.9"),
        (
            {"optimizer#weight_decay": 0.1},
            "optimizer SGD with momentum 0.9 and weight_decay 0.1 instead of SGD with momentum 0.9",
        ),
        (
            {"lr_scheduler#gamma": 0.5},
            "learning rate times 0.5 after every epoch instead of times 0.2 after every epoch",
        ),
        ({"lr_per_epoch": False}, "learning rate times 0.2 after every step instead of times 0.2 after every epoch"),
        ({"network_def#features": [8, 16]}, "network PaperUNet with features [8, 16] instead of PaperUNet"),
        ({"train#random_transforms": [{"_target_": "RandFlipd"}]}, "random augmentation RandFlipd instead of none"),
        ({"rotations": [0]}, "no rotation of LV images instead of 61 rotations from -60 to 60 degrees"),
    ],
)
def test_every_value_counts(override, said):
    assert deviations_of("LV", protocol(**override)) == [f"The protocol is not the paper's: {minus(said)}."]


@pytest.mark.parametrize(
    "override",
    [
        {"loss": {"_target_": "torch.nn.CrossEntropyLoss"}},
        {"optimizer#weight_decay": 0},
        {"norm": "INSTANCE", "learning_rate": 0.5, "seed": 3, "val_interval": 2},
    ],
)
def test_what_is_no_deviation(override):
    assert deviations_of("LV", protocol(**override)) == []


def test_the_bundles_own_training_deviates_in_almost_everything():
    (said,) = deviations_of("LV", describe_protocol([str(CONFIGS / "train.json")], {}))
    for part in (
        "DiceCELoss",
        "AdamW with weight_decay 0.01",
        "WarmupCosineSchedule",
        "epochs 50",
        "RandAffined",
        "no rotation",
    ):
        assert part in said


def test_grid_and_data():
    (said,) = deviations_of("LV", paper("LV"), learning_rates=[0.5, 0.1])
    assert said == "The protocol is not the paper's: learning rates 0.5, 0.1 instead of 1.5, 1, 0.5, 0.1, 0.05."
    (said,) = deviations_of("RV", paper("RV"), datasets={"any name": {"structures": ["RV cavity"], "subjects": 64}})
    assert said == "The protocol is not the paper's: 64 subjects of any name instead of 37."


def test_what_the_paper_does_not_have_and_what_is_not_known():
    assert (
        deviations_of("LV", protocol(epochs=9), datasets={"any name": {"structures": ["liver", "LV myocardium"]}}) == []
    )
    (said,) = deviations_of("LV", None)
    assert said.startswith("How the runs were trained was not compared with the paper's protocol")


def test_a_training_of_other_ids_is_described_as_far_as_it_goes(tmp_path):
    (tmp_path / "train.yaml").write_text(
        yaml.safe_dump({"epochs": 4, "network_def": {"_target_": "UNet", "norm": "@norm"}})
    )
    assert describe_protocol([str(tmp_path / "train.yaml")], {}) == {
        "network_def": {"_target_": "UNet", "norm": "@norm"}
    }
