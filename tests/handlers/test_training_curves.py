import csv
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanAbsoluteError, ValidationHandler, from_engine
from PIL import Image

from monai_iln.errors import DivergedError, UserError
from monai_iln.handlers import TrainingCurves, curves


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


def test_another_training_of_the_same_engine_has_its_own_curve(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.run([1.0, 2.0], max_epochs=2)
    trainer.run([4.0, 6.0], max_epochs=2)
    assert read(tmp_path / "curves.csv")[1:] == [["1", "5.0", ""], ["2", "5.0", ""]]
    trainer.run([3.0, 3.0], max_epochs=3)  # which goes on
    assert read(tmp_path / "curves.csv")[1:] == [["1", "5.0", ""], ["2", "5.0", ""], ["3", "3.0", ""]]


def test_no_half_epoch(tmp_path, axes):
    trainer_of(tmp_path).run([1.0], max_epochs=2)
    assert {tick for tick in axes["training loss"].get_xticks() if 1 <= tick <= 2} == {1, 2}


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


@pytest.fixture
def axes(monkeypatch):
    """The axes of the last picture, by their label."""
    drawn = {}
    save = Figure.savefig

    def keep(figure, *arguments, **options):
        drawn.clear()
        drawn.update({one.get_ylabel(): one for one in figure.axes})
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda loss: [{"loss": loss}, {"loss": loss + 7}], 2.0),
        (lambda loss: {"loss": loss, "pred": None}, 2.0),
        (lambda loss: loss, 2.0),
        (float, 2.0),
        (lambda loss: {"loss": torch.stack([loss, loss + 1])}, 2.5),  # of the heads of a network
        (lambda loss: {"loss": loss.clone().requires_grad_()}, 2.0),
    ],
)
def test_losses_in_the_forms_that_trainers_give(tmp_path, make, loss):
    trainer = Engine(lambda engine, batch: make(torch.tensor(batch)))
    TrainingCurves(None, str(tmp_path)).attach(trainer)
    trainer.run([2.0], max_epochs=1)
    assert read(tmp_path / "losses.csv")[1:] == [["1", f"{loss:g}"]]
    assert read(tmp_path / "curves.csv")[1:] == [["1", str(loss), ""]]
    with pytest.raises(DivergedError, match="the loss is nan"):
        trainer.run([float("nan")], max_epochs=2)


def test_a_trainer_without_a_loss_is_one_message(tmp_path):
    trainer = Engine(lambda engine, batch: {"g_loss": 1.0, "d_loss": 2.0})
    TrainingCurves(None, str(tmp_path)).attach(trainer)
    with pytest.raises(UserError, match="output holds g_loss, d_loss: curves are of its 'loss'"):
        trainer.run([1.0], max_epochs=1)


@pytest.mark.parametrize("smallest", [False, True])
def test_monais_engines_with_a_metric_that_is_no_dice(tmp_path, capsys, axes, smallest):
    """The best score is the one that the evaluator takes for the best; the axis goes as far as the scores."""
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.bias, 5)
    data = [{"image": torch.ones(2, 1), "label": torch.zeros(2, 1)}]
    metric = MeanAbsoluteError(output_transform=from_engine(["pred", "label"]))
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=data,
        network=network,
        key_val_metric={"val_error": metric},
        metric_cmp_fn=(lambda new, best: new < best) if smallest else (lambda new, best: new > best),
    )
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.L1Loss(),
        train_handlers=[ValidationHandler(1, evaluator), TrainingCurves(evaluator, str(tmp_path))],
    )
    trainer.run()
    scores = [float(row[2]) for row in read(tmp_path / "curves.csv")[1:]]
    assert len(scores) == 3
    assert min(scores) > 1
    printed = capsys.readouterr().out
    assert f"epoch 3/3: loss {trainer.state.output[0]['loss']:.3f}, val_error {scores[-1]:.3f}" in printed
    assert "Dice" not in printed
    assert set(axes) == {"training loss", "val_error"}
    low, high = axes["val_error"].get_ylim()
    assert low <= min(scores) < max(scores) <= high
    best = min(scores) if smallest else max(scores)
    (label,) = axes["val_error"].texts
    assert label.get_text() == f"{best:.3f}"
    assert (label.xyann[1] > 0) == smallest, "on the side of the worse scores"


def test_scores_in_the_unit_interval_have_that_axis_and_negative_losses_another(tmp_path, axes):
    validator = Engine(lambda *_: None)
    validator.state.key_metric_name, validator.state.metrics = "mean_dice", {"mean_dice": 0.25}
    trainer = trainer_of(tmp_path, validator)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: setattr(validator.state, "epoch", 1))
    trainer.run([-3.0], max_epochs=1)
    assert axes["validation Dice"].get_ylim() == (0, 1)
    assert axes["training loss"].get_ylim()[0] < -3


def test_an_evaluator_without_a_key_metric_or_that_never_validates(tmp_path, axes, capsys):
    evaluator = SupervisedEvaluator(torch.device("cpu"), [], torch.nn.Identity())
    trainer_of(tmp_path, evaluator).run([1.0], max_epochs=1)
    assert set(axes) == {"training loss"}
    evaluator.state.key_metric_name = "val_mean_dice"
    trainer_of(tmp_path, evaluator).run([1.0], max_epochs=1)
    assert set(axes) == {"training loss", "validation Dice"}
    assert read(tmp_path / "curves.csv")[1:] == [["1", "1.0", ""]]
    assert "validation" not in capsys.readouterr().out


def progress_of(trainer, folder, monkeypatch, seconds):
    """What is told after each iteration of a training whose steps take so long."""
    clock, told = [100.0], []
    monkeypatch.setattr(curves.time, "monotonic", lambda: clock[0])

    @trainer.on(Events.ITERATION_STARTED)
    def wait(engine):
        clock[0] += seconds

    @trainer.on(Events.ITERATION_COMPLETED)
    def look(engine):
        told.append(json.loads((folder / "progress.json").read_text()))

    trainer.add_event_handler(Events.STARTED, lambda: told.append(json.loads((folder / "progress.json").read_text())))
    return told


def test_progress_is_told_from_the_start_and_removed_in_the_end(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    told = progress_of(trainer, tmp_path, monkeypatch, seconds=10)
    trainer.run([1.0, 2.0, 3.0], max_epochs=4)
    assert told[0] | {"started": 0} == {
        "epoch": 0, "epochs": 4, "iteration": 0, "iterations": 12, "loss": None, "started": 0, "seconds": 0.0,
        "left": None,
    }  # fmt: skip
    assert told[5] | {"started": 0} == {
        "epoch": 2, "epochs": 4, "iteration": 5, "iterations": 12, "loss": 2.0, "started": 0, "seconds": 50.0,
        "left": 70.0,
    }  # fmt: skip
    assert told[12]["left"] == 0
    assert not (tmp_path / "progress.json").exists()


def test_progress_is_written_every_few_seconds_only(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    told = progress_of(trainer, tmp_path, monkeypatch, seconds=0.75)
    trainer.run([1.0] * 9, max_epochs=1)
    assert [one["iteration"] for one in told] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_progress_of_a_resumed_training_counts_what_it_does_itself(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    told = progress_of(trainer, tmp_path, monkeypatch, seconds=10)
    trainer.load_state_dict({"epoch_length": 2, "max_epochs": 4, "iteration": 4})
    trainer.run([1.0, 2.0], max_epochs=4)
    assert told[1]["iteration"] == 5
    assert told[1]["left"] == 30.0


def test_progress_without_a_known_length_and_after_divergence(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path)
    told = progress_of(trainer, tmp_path, monkeypatch, seconds=10)
    with pytest.raises(DivergedError):
        trainer.run(iter([1.0, float("inf")]), max_epochs=3)
    assert told[1]["iterations"] is None
    assert told[1]["left"] is None
    assert not (tmp_path / "progress.json").exists()
