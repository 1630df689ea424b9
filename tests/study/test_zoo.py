"""The small bundles train as MONAI itself runs them, and have the ids that they say."""

import pytest
import torch
from monai.bundle import ConfigWorkflow
from zoo import BUNDLES, train_file, write_bundle
from zoo_data import write_data

# What MONAI and torch say of bundles as the zoo has them: Orientationd without labels, mixed precision on a CPU.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Orientationd.__init__.labels:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning"),
]
NESTED = {
    "train_dataset_data": "train#dataset#data",
    "val_dataset_data": "validate#dataset#data",
    "trainer": "train#trainer",
    "max_epochs": "train#trainer#max_epochs",
    "evaluator": "validate#evaluator",
    "val_handlers": "validate#handlers",
    "val_key_metric": "validate#key_metric",
}
IDS = {  # where a bundle has them, and what is run
    "spleen": (NESTED, "run"),
    "short_axis_3label": (NESTED, "training"),
}
SCORES = {"spleen": "val_mean_dice", "short_axis_3label": "val_mean_dice"}


def workflow_of(name, folder, data, **overrides):
    """MONAI's own workflow of a bundle, for one epoch."""
    ids, run_id = IDS[name]
    return ConfigWorkflow(
        str(train_file(write_bundle(name, folder))),
        workflow_type="train",
        run_id=run_id,
        logging_file=False,
        bundle_root=str(folder / name),
        dataset_dir=str(data),
        **{"val_interval": 1, ids["max_epochs"]: 1},
        **overrides,
    )


@pytest.mark.parametrize("name", BUNDLES)
def test_trains_one_epoch_alone(name, tmp_path):
    workflow = workflow_of(name, tmp_path, write_data(BUNDLES[name][1], tmp_path / "data"))
    workflow.initialize()
    before = {key: value.clone() for key, value in workflow.network_def.state_dict().items()}
    workflow.run()
    evaluator = workflow.parser.get_parsed_content(IDS[name][0]["evaluator"])
    after = workflow.network_def.state_dict()
    assert evaluator.state.key_metric_name == SCORES[name]
    assert evaluator.state.epoch == 1
    assert any(not torch.equal(before[key], value) for key, value in after.items() if key.endswith("weight"))
    assert (tmp_path / name / "models" / "model.pt").is_file()
