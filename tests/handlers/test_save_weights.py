"""The weights of a training, which a full disk must not take away."""

import os

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_iln.errors import UserError
from monai_iln.handlers import SaveWeights, weights


class Wrapped(nn.Module):
    """What PyTorch makes of a network for distributed training."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def train(path, *scores, wrap=None, **options):
    """An engine whose epochs have these scores, as MONAI's evaluator has. The weight is the number of the epoch."""
    network = nn.Linear(1, 1)

    def compare(engine):
        epoch = engine.state.epoch
        if scores[epoch - 1] == max(scores[:epoch]):
            engine.state.best_metric_epoch, engine.state.best_metric = epoch, scores[epoch - 1]

    engine = Engine(lambda engine, _: nn.init.constant_(network.weight, engine.state.epoch))
    engine.add_event_handler(Events.EPOCH_COMPLETED, compare)
    SaveWeights(wrap(network) if wrap else network, str(path), **options).attach(engine)
    engine.run([0], len(scores))


@pytest.mark.parametrize(("options", "epoch"), [({}, 2), ({"best": False}, 3)])
def test_the_best_or_the_last(tmp_path, options, epoch):
    path = tmp_path / "new" / "model.pt"
    train(path, 0.5, 0.9, 0.7, **options)
    assert torch.load(path, weights_only=True)["weight"] == epoch
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_weights_that_were_there(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.write_bytes(b"published")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="/model.pt: cannot be written .No space left on device.. Free the disk"):
        train(path, 0.5)
    assert path.read_bytes() == b"published"
    assert list(tmp_path.iterdir()) == [path]


def test_layers_have_their_own_names_in_distributed_training(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "DistributedDataParallel", Wrapped)
    train(tmp_path / "model.pt", 0.5, wrap=Wrapped)
    assert set(torch.load(tmp_path / "model.pt", weights_only=True)) == {"weight", "bias"}


def test_one_process_of_several_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "is_first", lambda: False)
    train(tmp_path / "model.pt", 0.5)
    assert list(tmp_path.iterdir()) == []
