import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image

from monai_iln.errors import DivergedError, UserError
from monai_iln.handlers import TrainingCurves


def trainer_of(folder, validator=None):
    """A trainer whose batches are its losses."""
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(batch)}])
    TrainingCurves(validator or Engine(lambda *_: None), str(folder)).attach(trainer)
    return trainer


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_curves(tmp_path, capsys):
    validator = Engine(lambda *_: None)
    validator.state.metrics = {"val_mean_dice": 0.0}
    validator.state.key_metric_name = "val_mean_dice"
    losses = [0.0, 0.0]
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(batch)}])

    @trainer.on(Events.EPOCH_COMPLETED(every=2))
    def validate(engine):
        validator.state.epoch = engine.state.epoch
        validator.state.metrics["val_mean_dice"] = engine.state.epoch / 10

    TrainingCurves(validator, str(tmp_path)).attach(trainer)

    @trainer.on(Events.EPOCH_STARTED)
    def change(engine):
        losses[:] = [float(engine.state.epoch), engine.state.epoch + 1.0]

    trainer.run(losses, max_epochs=4)
    assert read(tmp_path / "curves.csv") == [
        ["epoch", "loss", "val_mean_dice"],
        ["1", "1.5", ""],
        ["2", "2.5", "0.2"],
        ["3", "3.5", ""],
        ["4", "4.5", "0.4"],
    ]
    expected = [[str(number), str(loss)] for number, loss in enumerate([1, 2, 2, 3, 3, 4, 4, 5], 1)]
    assert read(tmp_path / "losses.csv") == [["iteration", "loss"], *expected]
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert "epoch 4/4: loss 4.500, validation Dice 0.400" in capsys.readouterr().out


def test_losses_are_begun_anew_by_a_training_and_added_to_by_a_resumed_one(tmp_path):
    for _ in range(2):
        trainer_of(tmp_path).run([1.0, 2.0], max_epochs=1)
    assert read(tmp_path / "losses.csv")[1:] == [["1", "1"], ["2", "2"]]
    resumed = trainer_of(tmp_path)
    resumed.load_state_dict({"epoch_length": 2, "max_epochs": 2, "iteration": 2})
    resumed.run([3.0, 4.0], max_epochs=2)
    assert read(tmp_path / "losses.csv")[1:] == [["1", "1"], ["2", "2"], ["3", "3"], ["4", "4"]]


def test_one_epoch_is_a_visible_point(tmp_path):
    trainer_of(tmp_path).run([1.0], max_epochs=1)
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    inside = pixels[:, pixels.shape[1] // 5 : -pixels.shape[1] // 5]  # without the axes' labels
    blue = np.abs(inside - [31, 119, 180]).max(axis=-1) < 10
    assert 20 < blue.sum() < 500


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_divergence_ends_the_training(tmp_path, loss):
    with pytest.raises(DivergedError, match=f"the loss is {loss} in epoch 1") as caught:
        trainer_of(tmp_path).run([2.0, 3.0, loss, 4.0], max_epochs=1)
    assert isinstance(caught.value, UserError)
    assert read(tmp_path / "losses.csv") == [["iteration", "loss"], ["1", "2"], ["2", "3"]]


def test_an_error_in_training_is_not_swallowed(tmp_path):
    def fail(engine, batch):
        if engine.state.iteration == 2:
            raise RuntimeError("out of memory")
        return [{"loss": torch.tensor(batch)}]

    trainer = Engine(fail)
    TrainingCurves(Engine(lambda *_: None), str(tmp_path)).attach(trainer)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run([1.0, 2.0], max_epochs=1)
    assert read(tmp_path / "losses.csv")[1:] == [["1", "1"]]
