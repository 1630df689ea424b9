"""The weights of an evaluation, which are loaded when it runs."""

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from monai_iln.errors import UserError
from monai_iln.handlers import WeightsCheckpointLoader


def test_weights_are_loaded_before_the_first_batch_of_every_run(tmp_path):
    network, path, seen = nn.Linear(1, 1), tmp_path / "model.pt", []
    engine = Engine(lambda *_: seen.append(network.weight.item()))
    WeightsCheckpointLoader(network, str(path)).attach(engine)  # there is no file yet
    for value in (2.0, 3.0):
        torch.save({"weight": torch.full((1, 1), value), "bias": torch.zeros(1)}, path)
        nn.init.zeros_(network.weight)
        engine.run([0, 0])
    assert seen == [2.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("saved", "message"),
    [(None, "model.pt: no such file"), (nn.Linear(1, 2), "do not fit the network"), (b"torn", "not a checkpoint")],
)
def test_wrong_weights_are_told_when_it_runs(tmp_path, saved, message):
    path = tmp_path / "model.pt"
    if isinstance(saved, bytes):
        path.write_bytes(saved)
    elif saved is not None:
        torch.save(saved.state_dict(), path)
    engine = Engine(lambda *_: pytest.fail("a batch before the weights"))
    WeightsCheckpointLoader(nn.Linear(1, 1), str(path)).attach(engine)
    with pytest.raises(UserError, match=message):
        engine.run([0])
