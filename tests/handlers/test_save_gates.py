import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_iln import ILN
from monai_iln.handlers import SaveGates
from monai_iln.norms.family import BatchInstanceNorm


def train(network, folder, iterations, epochs=1, **options):
    """Iteration i leaves rho = i / 100 in every gate."""

    def step(engine, _):
        for name, parameter in network.named_parameters():
            if name.endswith("rho"):
                parameter.data.fill_(engine.state.iteration / 100)

    trainer = Engine(step)
    SaveGates(network, str(folder), **options).attach(trainer)
    trainer.run(range(iterations), max_epochs=epochs)


def read(folder):
    with (folder / "gates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_gates_are_those_of_the_iteration(tmp_path):
    network = nn.Sequential(ILN(16), nn.ReLU(), ILN(32))
    train(network, tmp_path / "new", iterations=5, epochs=2, readings=4)
    rows = read(tmp_path / "new")
    header = (tmp_path / "new" / "gates.csv").read_text().splitlines()[0]
    assert header == "iteration,layer,component,low,weight,high,dead"
    # Every third of ten, the start and the end.
    expected = [(str(i), layer, kind) for i in (0, 3, 6, 9, 10) for layer in "02" for kind in ("instance", "layer")]
    assert [(row["iteration"], row["layer"], row["component"]) for row in rows] == expected
    for row in rows:
        rho = int(row["iteration"]) / 100 or 0.5  # what ILN begins with
        instance = 1 / (1 + np.exp(-rho))
        weight = instance if row["component"] == "instance" else 1 - instance
        assert [float(row[key]) for key in ("low", "weight", "high")] == pytest.approx([weight] * 3, rel=1e-5)
        assert row["dead"] == ("1" if row["layer"] == "0" else "0")  # 16 groups of one channel each
    assert (tmp_path / "new" / "gates.png").stat().st_size > 5000


def test_gates_per_channel_have_quartiles(tmp_path):
    network = BatchInstanceNorm(8)
    network.rho.data.copy_(torch.linspace(0.1, 0.8, 8))
    trainer = Engine(lambda *_: None)
    SaveGates(network, str(tmp_path)).attach(trainer)
    trainer.run([0], max_epochs=1)
    rows = [row for row in read(tmp_path) if row["iteration"] == "1"]
    quartiles = {row["component"]: [float(row[key]) for key in ("low", "weight", "high")] for row in rows}
    # Of 0.1, 0.2, ..., 0.8.
    assert quartiles.pop("batch") == pytest.approx([0.275, 0.45, 0.625], abs=1e-5)
    assert list(quartiles.values()) == [pytest.approx([0.375, 0.55, 0.725], abs=1e-5)]


@pytest.mark.parametrize(("iterations", "most"), [(7, 8), (200, 201), (1000, 202), (1337, 202)])
def test_readings_are_about_as_many_as_asked_for(tmp_path, iterations, most):
    train(ILN(32), tmp_path, iterations)
    found = sorted({int(row["iteration"]) for row in read(tmp_path)})
    assert found[0] == 0
    assert found[-1] == iterations
    assert min(iterations + 1, most / 2) < len(found) + 1
    assert len(found) <= most
    assert len(set(np.diff(found[:-1]))) == 1, "evenly spaced"


def test_a_training_begins_the_file_anew(tmp_path):
    for _ in range(2):
        train(ILN(32), tmp_path, iterations=2)
    assert [row["iteration"] for row in read(tmp_path)] == ["0", "0", "1", "1", "2", "2"]


def test_the_first_reading_is_of_weights_that_a_later_handler_loads(tmp_path):
    """As those of a training that goes on from trained weights."""
    network = ILN(32)
    trainer = Engine(lambda *_: None)
    SaveGates(network, str(tmp_path)).attach(trainer)
    trainer.add_event_handler(Events.STARTED, lambda: network.rho.data.fill_(2))
    trainer.run([0], max_epochs=1)
    weights = [float(row["weight"]) for row in read(tmp_path) if row["component"] == "instance"]
    assert weights == pytest.approx([1 / (1 + np.exp(-2))] * 2, rel=1e-5)


def test_without_gates_there_are_no_files(tmp_path):
    train(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), tmp_path, iterations=2)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_training_begins_the_file_where_there_is_none(tmp_path):
    trainer = Engine(lambda *_: None)
    SaveGates(nn.Sequential(ILN(16)), str(tmp_path / "new")).attach(trainer)
    trainer.load_state_dict({"epoch_length": 2, "max_epochs": 2, "iteration": 2})
    trainer.run([1, 2], max_epochs=2)
    assert [row["iteration"] for row in read(tmp_path / "new")] == ["2", "2", "3", "3", "4", "4"]
