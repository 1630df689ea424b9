"""A training that starts from weights never makes them worse."""

import json

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn

from monai_iln.errors import UserError
from monai_iln.handlers import FineTuning, SaveWeights, weights
from monai_iln.run_files import FINE_TUNING


class Score:
    """A key metric: how near the weight is to 2, which is 1 there. So each weight of the training has its own score."""

    def __init__(self, network):
        self.network = network

    def attach(self, engine, name):
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: self._store(engine, name))

    def _store(self, engine, name):
        engine.state.metrics[name] = 1 - abs(float(self.network.weight.detach()) - 2)


class NoScoreAtFirst(Score):
    """The same, but for the first epoch, which has none."""

    def _store(self, engine, name):
        super()._store(engine, name)
        if engine.state.epoch == 1:
            engine.state.metrics[name] = float("nan")


class Wrapped(nn.Module):
    """What PyTorch makes of a network for distributed training."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def saved(path, weight):
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, weight)
    torch.save(network.state_dict(), path)
    return path


def weight_in(path):
    return float(torch.load(path, weights_only=True)["weight"])


def tune(folder, steps, to_beat=None, start=None, own=0.0, wrap=None, score=Score, runs=1, **evaluator_options):
    """A training whose epochs add steps to the weight. The weights start as given, or else as the network's own."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, own)
    trained = wrap(network) if wrap else network
    seen = []

    def update(engine, batch):
        seen.append(float(network.weight.detach()))
        with torch.no_grad():
            network.weight += steps[engine.state.epoch - 1]
        return {"loss": torch.zeros(())}

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.zeros(1, 1), "label": torch.zeros(1, 1)}],
        network=trained,
        val_handlers=[SaveWeights(trained, str(folder / "model.pt"))],
        decollate=False,
        **{"key_val_metric": {"val_mean_dice": score(network)}, **evaluator_options},
    )
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=len(steps),
        train_data_loader=[{"image": torch.zeros(1, 1), "label": torch.zeros(1, 1)}],
        network=trained,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=nn.MSELoss(),
        iteration_update=update,
        decollate=False,
        train_handlers=[
            ValidationHandler(1, evaluator),
            FineTuning(trained, evaluator, str(to_beat or folder / "model.pt"), str(folder / "eval"), start),
        ],
    )
    for _ in range(runs):
        trainer.run()
    return json.loads((folder / "eval" / FINE_TUNING).read_text()), seen


def test_worse_epochs_leave_the_file_as_it_was(tmp_path, capsys):
    path = saved(tmp_path / "model.pt", 1.875)
    before = path.read_bytes(), path.stat().st_mtime_ns
    outcome, seen = tune(tmp_path, [-0.5, 0.25], start=str(path))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert seen[0] == 1.875, "it starts from the weights"
    assert outcome["before"] == 0.875
    assert (outcome["best"], outcome["best_epoch"], outcome["better"]) == (0.625, 2, False)
    told = f"validation Dice 0.875 before, 0.625 in the best epoch, 2: no better than before, {path} is kept"
    assert outcome["told"] == told
    assert told in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["eval", "model.pt"]


def test_a_second_run_does_not_know_the_best_of_the_first(tmp_path):
    """The second starts where the first ended, and each of its epochs is worse."""
    saved(tmp_path / "model.pt", 0.5)
    outcome, _ = tune(tmp_path, [1.0, -0.75], own=1.0, runs=2)
    assert outcome["before"] == 1.0, "what the first run has saved"
    assert (outcome["best"], outcome["best_epoch"], outcome["better"]) == (0.75, 1, False)


def test_an_equal_epoch_is_no_better(tmp_path):
    path = saved(tmp_path / "model.pt", 1.875)
    outcome, _ = tune(tmp_path, [0.0], start=str(path))
    assert (outcome["best"], outcome["better"]) == (0.875, False)


def test_a_better_epoch_is_saved_and_the_first_weights_stay_beside_it(tmp_path):
    path = saved(tmp_path / "model.pt", 1.0)
    first = path.read_bytes()
    outcome, _ = tune(tmp_path, [0.5, 0.25, -1.0], start=str(path))
    assert outcome["told"] == "validation Dice 0.000 before, 0.750 in the best epoch, 2: better by 0.750, and saved"
    assert weight_in(path) == 1.75
    assert (tmp_path / "shipped.pt").read_bytes() == first
    tune(tmp_path, [0.25], start=str(path))
    assert weight_in(path) == 2.0
    assert (tmp_path / "shipped.pt").read_bytes() == first, "never those of a later training"


def test_without_a_start_the_weights_that_are_there_are_still_the_bar(tmp_path):
    path = saved(tmp_path / "model.pt", 1.5)
    outcome, seen = tune(tmp_path, [0.5, 0.5], own=0.25)
    assert seen[0] == 0.25, "the network's own start"
    assert (outcome["before"], outcome["best"], outcome["better"]) == (0.5, 0.25, False)
    assert weight_in(path) == 1.5


def test_another_start_has_to_beat_the_weights_that_are_there(tmp_path):
    path, other = saved(tmp_path / "model.pt", 1.5), saved(tmp_path / "other.pt", 1.0)
    outcome, seen = tune(tmp_path, [0.75], start=str(other))
    assert (seen, outcome["before"], outcome["best"]) == ([1.0], 0.5, 0.75)
    assert weight_in(path) == 1.75
    assert weight_in(tmp_path / "shipped.pt") == 1.5
    assert weight_in(other) == 1.0


def test_a_metric_that_is_better_when_it_is_low(tmp_path):
    path = saved(tmp_path / "model.pt", 1.875)
    outcome, _ = tune(tmp_path, [-0.5, 0.25], start=str(path), metric_cmp_fn=lambda new, best: new < best)
    assert (outcome["best"], outcome["best_epoch"], outcome["better"]) == (0.375, 1, True)
    assert "better by 0.500" in outcome["told"]
    assert weight_in(path) == 1.375


def test_an_epoch_without_a_score_hides_no_better_one(tmp_path):
    path = saved(tmp_path / "model.pt", 1.5)
    outcome, _ = tune(tmp_path, [0.125, 0.25], start=str(path), score=NoScoreAtFirst)
    assert (outcome["best"], outcome["best_epoch"], outcome["better"]) == (0.875, 2, True)
    assert weight_in(path) == 1.875
    outcome, _ = tune(tmp_path, [0.125], start=str(path), score=NoScoreAtFirst)
    assert (outcome["best"], outcome["better"], weight_in(path)) == (None, False, 1.875)


def test_into_another_folder_nothing_is_written_that_is_no_better(tmp_path):
    start = saved(tmp_path / "start.pt", 2.0)
    outcome, _ = tune(tmp_path, [0.5], to_beat=start, start=str(start))
    assert not outcome["better"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["eval", "start.pt"]


def test_distributed_training_loads_below_its_wrapper(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "DistributedDataParallel", Wrapped)
    path = saved(tmp_path / "model.pt", 1.5)
    outcome, seen = tune(tmp_path, [0.25], start=str(path), wrap=Wrapped)
    assert (seen, outcome["before"], outcome["best"]) == ([1.5], 0.5, 0.75)


def test_what_an_earlier_training_told_is_gone_when_another_begins(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / FINE_TUNING).write_text("{}")
    with pytest.raises(UserError, match=r"model.pt: no such file"):
        tune(tmp_path, [0.5])
    assert not (tmp_path / "eval" / FINE_TUNING).exists()


def test_an_evaluator_without_a_key_metric(tmp_path):
    saved(tmp_path / "model.pt", 1.0)
    with pytest.raises(UserError, match=r"an evaluator without a key metric: weights are compared by it\. Remedy"):
        tune(tmp_path, [0.5], key_val_metric=None)
