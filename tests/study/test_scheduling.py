"""Which runs are done, again, alone, and no more, where runs are functions of the test, done in this process."""

import contextlib
import os
import re

import pytest
import torch
from filelock import FileLock

from monai_iln.errors import UserError
from monai_iln.files import write_json
from monai_iln.run_files import LOCK, RECORD, ROBUSTNESS_FAILURE
from monai_iln.study import robustness, scheduler
from monai_iln.study.grid import Run
from monai_iln.study.records import (
    failure_path,
    read_failure,
    read_record,
    unfinished_path,
    write_failure,
)
from monai_iln.study.settings import Study

DIED = RuntimeError("a worker was killed")


@pytest.fixture
def runs():
    rest = (0, 0.1, 0, (), (), {}, "hash", "protocol", {}, None)
    return [Run("data", method, method, *rest) for method in ("IN", "LN", "ILN")]


def finish(folder, run, config="hash", protocol="protocol"):
    """Leave the record of a run."""
    path = folder / run.path
    path.mkdir(parents=True, exist_ok=True)
    document = {"config_hash": config, "protocol_hash": protocol, "status": "finished", "scores": {}}
    document["cost"] = {"total_seconds": 1.0}
    write_json(path / RECORD, document)


@pytest.fixture
def done(monkeypatch):
    """Does runs by a function ``work(run, folder, alone)`` in this process. An error of it ends the pass.

    What is given sets the function and returns the list of the methods of each pass, which fills.
    """
    passes = []

    def begin(work):
        def execute_here(batch, study, settings, task):
            passes.append([run.method for run in batch])
            for run in batch:
                unfinished_path(settings.folder / run.path, settings.token).mkdir(parents=True)
                work(run, settings.folder, len(batch) == 1)
                for scratch in (settings.folder / run.path).parent.glob(f".*.{settings.token}"):
                    scratch.rmdir()

        monkeypatch.setattr(scheduler, "_execute_here", execute_here)
        return passes

    return begin


def fail(folder, run, retry=True):
    write_failure(folder / run.path, run.place, "no luck", retry=retry)


# what a plan lacks


def test_what_has_a_record_of_its_configuration_is_not_done_again(runs, tmp_path):
    finish(tmp_path, runs[0])
    assert scheduler.pending(runs, tmp_path) == runs[1:]


def test_a_record_of_another_configuration_is_done_again_or_refused(runs, tmp_path):
    finish(tmp_path, runs[0], config="old")
    finish(tmp_path, runs[1])
    with pytest.raises(
        UserError, match=r"1 finished runs? .* the first is data, IN.* or do them again with redo_changed"
    ):
        scheduler.pending(runs, tmp_path)
    assert scheduler.pending(runs, tmp_path, redo_changed=True) == [runs[0], runs[2]]


@pytest.mark.parametrize("redo", [False, True])
def test_a_record_of_other_data_that_no_run_would_replace_is_refused(runs, tmp_path, redo):
    finish(tmp_path, runs[2], protocol="of other data")
    with pytest.raises(UserError, match=r"Runs of different configurations cannot be compared") as raised:
        scheduler.pending(runs[:2], tmp_path, redo)
    assert "redo_changed" not in str(raised.value)


def test_a_record_of_another_method_of_the_same_protocol_stays(runs, tmp_path):
    finish(tmp_path, runs[2])
    assert scheduler.pending(runs[:2], tmp_path) == runs[:2]


def test_a_folder_is_locked_until_the_study_ends(tmp_path):
    told, other = "another process runs this study", scheduler.locked(tmp_path / "new")
    with scheduler.locked(tmp_path / "new"), pytest.raises(UserError, match=told), other:
        pass
    with FileLock(tmp_path / "new" / LOCK).acquire(timeout=0):
        pass


# again, alone, and no more


def test_each_run_is_done_once(runs, tmp_path, done):
    passes = done(lambda run, folder, alone: finish(folder, run))
    scheduler.run_all(runs, Study(), tmp_path)
    assert passes == [["IN", "LN", "ILN"]]


@pytest.mark.parametrize(("retry", "times"), [(True, 3), (False, 1)])
def test_a_run_that_fails_is_tried_as_often_as_it_is_worth(runs, tmp_path, done, retry, times):
    def work(run, folder, alone):
        if run.method == "LN":
            fail(folder, run, retry)
        else:
            finish(folder, run)

    passes = done(work)
    scheduler.run_all(runs, Study(attempts=3), tmp_path)
    assert passes == [["IN", "LN", "ILN"]] + [["LN"]] * (times - 1)
    assert read_failure(tmp_path / runs[1].path)["message"] == "no luck"


def test_the_record_of_another_configuration_does_not_end_the_tries(runs, tmp_path, done):
    """As where ``redo_changed`` does it again."""
    finish(tmp_path, runs[0], config="old")

    def work(run, folder, alone):
        if len(passes) == 1:
            fail(folder, run)
        else:
            finish(folder, run)

    passes = done(work)
    scheduler.run_all(runs[:1], Study(attempts=2), tmp_path)
    assert passes == [["IN"], ["IN"]]
    assert read_record(tmp_path / runs[0].path)["config_hash"] == "hash"


def test_a_worker_that_dies_is_blamed_only_alone(runs, tmp_path, done, capfd):
    """Two are under way when the backend breaks. One of them breaks it again, alone, as often as it is tried."""

    def work(run, folder, alone):
        if run.method == "LN" or (run.method == "ILN" and not alone):
            raise DIED
        finish(folder, run)

    passes = done(work)
    scheduler.run_all(runs, Study(attempts=2), tmp_path)
    # The first pass ends at LN, before ILN has begun.
    assert passes == [["IN", "LN", "ILN"], ["LN"], ["LN"], ["ILN"]]
    assert read_failure(tmp_path / runs[1].path)["message"] == "its worker died 2 times (RuntimeError)"
    assert read_record(tmp_path / runs[2].path)["status"] == "finished"
    assert not list(tmp_path.rglob(".seed_*"))
    told = capfd.readouterr().err
    assert told.count("it ended early, perhaps for lack of memory, and is done again.") == 1


def test_the_first_that_was_under_way_is_tried_alone_and_then_the_others(runs, tmp_path, monkeypatch):
    passes, left = [], []

    def execute_here(batch, study, settings, task):
        passes.append([run.method for run in batch])
        left.extend(settings.folder.rglob(".seed_*"))
        for run in batch:
            unfinished_path(settings.folder / run.path, settings.token).mkdir(parents=True)
        if len(batch) > 1:
            raise DIED
        finish(settings.folder, batch[0])

    monkeypatch.setattr(scheduler, "_execute_here", execute_here)
    scheduler.run_all(runs, Study(), tmp_path)
    assert passes == [["IN", "LN", "ILN"], ["IN"], ["LN", "ILN"], ["LN"], ["ILN"]]
    assert not left, "what a pass leaves is taken away before the next"


def test_who_died_after_it_had_finished_is_no_suspect(runs, tmp_path, done):
    def work(run, folder, alone):
        finish(folder, run)
        if run.method == "LN":
            raise DIED

    passes = done(work)
    scheduler.run_all(runs, Study(), tmp_path)
    assert passes == [["IN", "LN", "ILN"], ["ILN"]]


def test_who_died_alone_after_it_had_finished_has_not_failed(runs, tmp_path, done, capfd):
    def work(run, folder, alone):
        finish(folder, run)
        raise DIED

    done(work)
    scheduler.run_all(runs[:1], Study(attempts=1), tmp_path)
    assert read_failure(tmp_path / runs[0].path) is None
    assert "ended early" not in capfd.readouterr().err


@pytest.mark.parametrize("trouble", [None, DIED])
def test_a_backend_that_begins_nothing_is_told(runs, tmp_path, monkeypatch, trouble):
    def execute_here(*_):
        if trouble:
            raise trouble

    monkeypatch.setattr(scheduler, "_execute_here", execute_here)
    told = "a worker was killed" if trouble else "no run has written to"
    with pytest.raises(UserError, match=f"the loky backend ran nothing .{re.escape(told)}"):
        scheduler.run_all(runs, Study(), tmp_path)


def test_an_error_of_the_user_ends_the_study(runs, tmp_path, done):
    def work(run, folder, alone):
        raise RuntimeError from UserError("the disk is full")

    passes = done(work)
    with pytest.raises(UserError, match="the disk is full"):
        scheduler.run_all(runs, Study(), tmp_path)
    assert passes == [["IN", "LN", "ILN"]]
    assert not list(tmp_path.rglob(".seed_*")), "what was under way is taken away"


def test_what_an_earlier_start_left_is_taken_away(runs, tmp_path, done):
    """Failures, and folders of runs that were under way; no others."""
    fail(tmp_path, runs[0])
    (tmp_path / runs[1].path).with_name(".seed_0.earlier").mkdir(parents=True)
    neighbour = (tmp_path / runs[1].path).with_name(".seed_01.earlier")  # of another run
    neighbour.mkdir()

    left = []

    def work(run, folder, alone):
        left.extend(path for path in (failure_path(folder / run.path),) if path.exists())
        left.extend((folder / run.path).parent.glob(".seed_0.earlier"))
        finish(folder, run)

    done(work)
    scheduler.run_all(runs, Study(), tmp_path)
    assert not left
    assert read_record(tmp_path / runs[1].path)
    assert neighbour.is_dir()


def test_workers_end_with_the_study(runs, tmp_path, monkeypatch):
    """They get its process, and an idle one of a GPU with several would hold its memory."""
    given = []

    def execute_here(batch, study, settings, task):
        given.append(settings.parent)
        for run in batch:
            unfinished_path(settings.folder / run.path, settings.token).mkdir(parents=True)
            finish(settings.folder, run)

    monkeypatch.setattr(scheduler, "_execute_here", execute_here)
    scheduler.run_all(runs, Study(), tmp_path)
    monkeypatch.setattr(robustness, "lacking", lambda runs, folder: list(runs))
    monkeypatch.setattr(robustness, "is_open", lambda path: False)
    scheduler.measure_robustness(runs, Study(), tmp_path)
    assert given == [os.getpid()] * 2


@pytest.mark.parametrize(("jobs", "gpus", "ended"), [(2, 1, True), (1, 1, False), (2, 0, False)])
def test_workers_that_might_hold_a_gpu_are_ended(runs, tmp_path, monkeypatch, jobs, gpus, ended):
    calls = []
    executor = type("Executor", (), {"shutdown": lambda self: calls.append("ended")})()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(scheduler, "get_reusable_executor", lambda reuse: executor)
    monkeypatch.setattr(scheduler.joblib, "Parallel", lambda **_: list)
    settings = scheduler.WorkerSettings(tmp_path, "token")
    assert scheduler._execute_in_parallel(runs, Study(jobs=jobs), settings) is None
    assert calls == ["ended"] * ended


def test_more_jobs_than_runs_start_no_more_workers(runs, tmp_path, monkeypatch):
    asked = []

    def configure(n_jobs, backend):
        asked.append(n_jobs)
        return contextlib.nullcontext()

    monkeypatch.setattr(scheduler.joblib, "parallel_config", configure)
    monkeypatch.setattr(scheduler.joblib, "Parallel", lambda **_: list)
    settings = scheduler.WorkerSettings(tmp_path, "token")
    scheduler._execute_in_parallel(runs, Study(jobs=10_000), settings)
    scheduler._execute_in_parallel(runs[:1], Study(jobs=10_000), settings)
    assert asked == [3, 2]  # a single one would be this process, and its end that of the study


# robustness


def test_robustness_of_a_worker_that_dies_is_measured_again_alone_and_then_no_more(runs, tmp_path, monkeypatch, done):
    measured = set()

    def work(run, folder, alone):
        if run.method == "LN" or (run.method == "IN" and not alone):
            raise DIED
        measured.add(folder / run.path)

    for run in runs:
        (tmp_path / run.path).mkdir(parents=True)
    monkeypatch.setattr(robustness, "lacking", lambda runs, folder: list(runs))
    is_open = robustness.is_open
    monkeypatch.setattr(robustness, "is_open", lambda path: path not in measured and is_open(path))
    passes = done(work)
    (told,) = scheduler.measure_robustness(runs, Study(), tmp_path)
    assert passes == [["IN", "LN", "ILN"], ["IN"], ["LN"], ["ILN"]]
    assert told == f"{runs[1]}: robustness could not be measured: its worker died twice (RuntimeError)"
    assert not list(tmp_path.rglob(".seed_*"))


def test_an_earlier_reason_is_forgotten_and_runs_share_a_sentence(runs, tmp_path, monkeypatch, done):
    for run in runs:
        (tmp_path / run.path).mkdir(parents=True)
        robustness.write_failure(tmp_path / run.path, "an earlier reason")

    left = []

    def work(run, folder, alone):
        left.extend((folder / run.path).glob(ROBUSTNESS_FAILURE))
        if run.method != "ILN":
            robustness.write_failure(folder / run.path, "the inferer is unknown")

    monkeypatch.setattr(robustness, "lacking", lambda runs, folder: list(runs))
    monkeypatch.setattr(robustness, "is_open", lambda path: False)
    done(work)
    (told,) = scheduler.measure_robustness(runs, Study(), tmp_path)
    assert not left
    assert told == f"{runs[0]} and 1 more: robustness could not be measured: the inferer is unknown"


# torchrun


def test_ranks_take_away_what_an_earlier_start_left(runs, tmp_path, monkeypatch):
    left = []

    def execute(run, settings):
        left.extend((settings.folder / run.path).parent.glob(".seed_0.earlier"))
        finish(settings.folder, run)

    monkeypatch.setattr(scheduler, "execute", execute)
    for run in runs:
        (tmp_path / run.path).with_name(".seed_0.earlier").mkdir(parents=True)
    scheduler.run_on_all_ranks(runs, Study(), tmp_path)
    assert not left
