"""One run, and what happens to its folder."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from monai_iln.errors import UserError
from monai_iln.run_files import IMAGES, LOG, OVERRIDES, WEIGHTS
from monai_iln.study import scheduler, worker
from monai_iln.study.grid import Run
from monai_iln.study.records import failure_path, read_failure, read_record, write_failure
from monai_iln.study.worker import WorkerSettings, execute


@pytest.fixture
def run():
    return Run("data", "ILN", "ILN", 0, 0.1, 0, (), (), {}, "hash", "protocol", {}, None)


@pytest.fixture
def settings(tmp_path):
    return WorkerSettings(tmp_path, "token")


def make(scratch):
    (scratch / OVERRIDES).write_text("{}")
    scores = [("test", 0.5), ("test", 0.7), ("validation", 0.4)]
    blank = [None] * (len(IMAGES.columns) - 8)
    rows = [(part, "Smith", "ED", n + 1, n, "mid", "heart", dice, *blank) for n, (part, dice) in enumerate(scores)]
    IMAGES.write(scratch, rows)


def test_a_finished_run_gets_its_name(run, settings, monkeypatch):
    monkeypatch.setattr(worker, "train_and_evaluate", lambda run, folder, scratch, *_: (make(scratch), 1.0))
    execute(run, settings)
    record = read_record(settings.folder / run.path)
    assert record["status"] == "finished"
    assert record["scores"]["test_dice"] == pytest.approx(0.6)
    assert record["scores"]["validation_dice"] == 0.4
    assert record["images"] == {"test": 2, "validation": 1}
    assert [path.name for path in (settings.folder / run.path).parent.iterdir()] == ["seed_0"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_orphan_whose_folder_was_taken_away_leaves_nothing(run, settings, monkeypatch, fails):
    def train(run, folder, scratch, *_):
        make(scratch)
        scratch.rename(scratch.with_name("taken"))  # by a study that was started again
        scratch.mkdir()
        IMAGES.write(scratch)  # what it still had to write
        if fails:
            raise FileNotFoundError(WEIGHTS)
        return None, 1.0

    monkeypatch.setattr(worker, "train_and_evaluate", train)
    execute(run, settings)
    assert read_record(settings.folder / run.path) is None
    assert not failure_path(settings.folder / run.path).exists()


def test_a_faster_worker_wins_and_another_configuration_is_replaced(run, settings, monkeypatch):
    monkeypatch.setattr(worker, "train_and_evaluate", lambda run, folder, scratch, *_: (make(scratch), 1.0))
    execute(run, settings)
    first = read_record(settings.folder / run.path)
    monkeypatch.setattr(worker, "train_and_evaluate", lambda run, folder, scratch, *_: (make(scratch), 2.0))
    execute(run, settings)
    assert read_record(settings.folder / run.path) == first
    changed = Run(*(list(vars(run).values())[:9]), "another", "protocol", {}, None)
    execute(changed, settings)
    assert read_record(settings.folder / run.path)["config_hash"] == "another"


def test_who_is_killed_at_the_end_leaves_no_failure_of_an_earlier_try(run, settings, monkeypatch):
    def replace_and_die(*arguments):
        replace(*arguments)
        raise KeyboardInterrupt

    replace = worker._replace
    final = settings.folder / run.path
    write_failure(final, run.place, "the disk was full")
    monkeypatch.setattr(worker, "train_and_evaluate", lambda run, folder, scratch, *_: (make(scratch), 1.0))
    monkeypatch.setattr(worker, "_replace", replace_and_die)
    with pytest.raises(KeyboardInterrupt):
        worker.execute(run, settings)
    assert read_record(final)["status"] == "finished"
    assert read_failure(final) is None


@pytest.mark.parametrize("fails", [False, True])
def test_an_orphan_leaves_no_record_and_no_failure(run, settings, monkeypatch, fails):
    def train(run, folder, scratch, *_):
        make(scratch)
        return 1 / 0 if fails else (None, 1.0)

    monkeypatch.setattr(worker, "train_and_evaluate", train)
    monkeypatch.setattr(worker, "is_orphan", lambda: True)
    execute(run, settings)
    assert read_record(settings.folder / run.path) is None
    assert read_failure(settings.folder / run.path) is None


def test_a_worker_has_its_threads(settings):
    before = torch.get_num_threads()
    try:
        worker.begin(replace(settings, threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_failure_before_the_bundle_is_open_is_told(run, settings):
    execute(run, settings)  # there is no datalist
    assert "no such file" in read_failure(settings.folder / run.path)["message"]


def test_a_full_disk_is_told_and_makes_room(run, settings, monkeypatch):
    failure = failure_path(settings.folder / run.path)

    def train(run, folder, scratch, *_):
        make(scratch)
        raise UserError("model.pt: cannot be written (No space left on device).")

    def write(*arguments, **options):
        assert [path.name for path in failure.parent.iterdir()] == [failure.name], "what the run wrote is gone before"
        write_failure(*arguments, **options)

    monkeypatch.setattr(worker, "train_and_evaluate", train)
    monkeypatch.setattr(worker, "write_failure", write)
    execute(run, settings)
    assert "No space left" in read_failure(settings.folder / run.path)["message"]
    assert (failure / LOG).is_file()


def test_a_failure_that_cannot_be_written_ends_the_study(run, settings, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    def train(run, folder, scratch, *_):
        make(scratch)
        monkeypatch.setattr(os, "fsync", full)
        raise KeyError("bug")

    monkeypatch.setattr(worker, "train_and_evaluate", train)
    with pytest.raises(UserError, match="failure.json: cannot be written .No space left") as caught:
        execute(run, settings)
    monkeypatch.setattr(scheduler.joblib, "Parallel", lambda **_: lambda _: fail(caught.value))
    with pytest.raises(UserError, match="No space left"):
        scheduler._execute_in_parallel([run], SimpleNamespace(backend="loky", jobs=1), settings)
    monkeypatch.setattr(scheduler.joblib, "Parallel", lambda **_: lambda _: fail(RuntimeError("lost")))
    assert str(scheduler._execute_in_parallel([run], SimpleNamespace(backend="loky", jobs=1), settings)) == "lost"


def fail(error):
    raise error
