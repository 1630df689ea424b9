import json
import time
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_iln.handlers import SaveCost, TrainingCurves, cost


@pytest.fixture
def sleep(monkeypatch):
    """A clock that runs only when told, for this machine may be busy with other things."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def sleep(seconds):
        clock.now += seconds

    return sleep


def cost_of(folder, seconds, sleep=time.sleep, loading=0.0, validating=0.0, epochs=1, work=lambda iteration: None):
    """Train with steps that take given seconds; what was recorded."""
    network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1, bias=False))
    network[2].weight.requires_grad_(False)

    def step(engine, duration):
        sleep(duration)
        work(engine.state.iteration)

    def batches():
        for duration in seconds:
            sleep(loading)
            yield duration

    trainer, evaluator = Engine(step), Engine(lambda *_: sleep(validating))
    SaveCost(network, str(folder / "new"), evaluator).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0], 1))
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: engine.set_data(batches()))
    trainer.run(batches(), max_epochs=epochs, epoch_length=len(seconds))
    return json.loads((folder / "new" / "cost.json").read_text())


def test_time_is_that_of_the_step(tmp_path, sleep):
    found = cost_of(tmp_path, [0.25] * 5, sleep, loading=0.5, validating=7, epochs=2)
    del found["peak_memory_bytes"]
    assert found == {
        "parameters": 3 * 5 + 5 + 5 + 5,  # the frozen layer is not trained
        "steps": 10,
        "seconds_per_step": 0.25,
        "train_seconds": 10 * 0.75,
        "validation_seconds": 14.0,
    }


def test_real_time(tmp_path):
    found = cost_of(tmp_path, [0.02] * 4, validating=0.1)
    assert found["seconds_per_step"] >= 0.02
    assert found["train_seconds"] >= 0.08
    assert found["validation_seconds"] >= 0.1


def test_warm_up_is_left_out_of_more_than_six(tmp_path, sleep):
    assert cost_of(tmp_path, [8, 8, 8, 1, 2, 2, 8], sleep)["seconds_per_step"] == 2
    assert cost_of(tmp_path, [8, 8, 8, 1, 1, 8], sleep)["seconds_per_step"] == 8


def test_measuring_memory_is_not_timed(tmp_path, sleep, monkeypatch):
    monkeypatch.setattr(cost, "_peak", lambda profiler: sleep(100) or 5)
    found = cost_of(tmp_path, [1, 20], sleep)
    assert (found["seconds_per_step"], found["train_seconds"]) == (1, 21)
    assert found["peak_memory_bytes"] == 5


def test_peak_memory_is_that_of_the_second_step(tmp_path):
    def work(iteration):
        numbers = torch.zeros(2_000_000 if iteration == 2 else 5_000_000)  # 8 MB, then twice as much
        return (numbers + 1).sum()

    peak = cost_of(tmp_path, [0.0] * 4, work=work)["peak_memory_bytes"]
    assert 16_000_000 <= peak < 16_100_000


def test_a_single_step_has_no_peak(tmp_path):
    found = cost_of(tmp_path, [0.0])
    assert (found["peak_memory_bytes"], found["steps"]) == (None, 1)


def test_somebody_elses_profiler_goes_on(tmp_path):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        found = cost_of(tmp_path, [0.0] * 4, work=lambda _: torch.zeros(10).add(1))
    assert (found["peak_memory_bytes"], found["steps"]) == (None, 4)
    assert sum(event.name == "aten::add" for event in profiler.events()) == 4


@pytest.mark.parametrize("curves", [False, True])
def test_an_error_is_raised_on_and_leaves_no_profiler(tmp_path, curves):
    def step(engine, fails):
        if engine.state.iteration == 2 and fails:
            raise RuntimeError("out of memory")
        return [{"loss": torch.zeros(1000).sum()}]

    for fails in (True, False):
        trainer = Engine(step)
        SaveCost(nn.Linear(1, 1), str(tmp_path)).attach(trainer)
        if curves:
            TrainingCurves(Engine(lambda *_: None), str(tmp_path)).attach(trainer)
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                trainer.run([fails] * 3, 1)
            assert not (tmp_path / "cost.json").exists()
            assert not torch.autograd._profiler_enabled()
        else:
            trainer.run([fails] * 3, 1)
            assert json.loads((tmp_path / "cost.json").read_text())["peak_memory_bytes"] >= 4000
