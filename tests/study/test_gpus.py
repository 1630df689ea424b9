"""How many runs share a GPU, and what happens where its memory ends. The numbers are made up: no GPU is needed."""

import json
import multiprocessing
import time
from dataclasses import replace
from types import SimpleNamespace

import joblib
import pytest
import torch

from monai_iln.run_files import IMAGES, OVERRIDES, RECORD, ROBUSTNESS
from monai_iln.study import estimate, gpus, robustness, scheduler, worker
from monai_iln.study.estimate import count_jobs, estimate_seconds
from monai_iln.study.gpus import fit_runs, is_out_of_memory, own_gpu, share_gpus
from monai_iln.study.grid import Run
from monai_iln.study.records import failure_path, find_runs, read_failure, read_record, unfinished_path
from monai_iln.study.settings import Study
from monai_iln.study.training import time_of_step
from monai_iln.study.worker import WorkerSettings, execute

GIB = 2**30
NO_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 80 GiB.")


@pytest.mark.parametrize(
    ("free", "need", "cores", "jobs"),
    [
        ([80 * GIB], 8 * GIB, 64, 7),  # each takes 8 * 1.25 + 1 = 11
        ([77 * GIB], 8 * GIB, 64, 7),
        ([77 * GIB - 1], 8 * GIB, 64, 6),
        ([80 * GIB], 8 * GIB, 10, 5),  # two cores each
        ([80 * GIB], 8 * GIB, 1, 1),
        ([8 * GIB], 8 * GIB, 64, 1),  # the first run did fit
        ([80 * GIB, 33 * GIB], 8 * GIB, 64, 6),  # three on each
        ([80 * GIB, 80 * GIB], 8 * GIB, 16, 8),
    ],
)
def test_runs_share_a_gpu_as_memory_and_cores_allow(free, need, cores, jobs):
    assert fit_runs(free, need, cores).jobs == jobs


def test_the_reason_is_told():
    assert fit_runs([80 * GIB], 8 * GIB, 10).words == (
        "5 runs at a time on the GPU: memory for 7 (80.0 GiB free, a run takes up to 8.0 GiB), cores for 5"
    )
    assert fit_runs([80 * GIB] * 2, 60 * GIB, 10).words.startswith("1 run at a time on each of 2 GPUs: memory for 1 ")


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(gpus, "free_memory", lambda: [80 * GIB])
    monkeypatch.setattr(gpus, "usable_cores", lambda: 64)


def leave_record(folder, method, memory, **cost):
    run = folder / f"runs/data/{method}/fold_0/lr_0.1/seed_0"
    run.mkdir(parents=True)
    if memory is not None:
        cost["gpu_memory_bytes"] = memory
    (run / RECORD).write_text(json.dumps({"config_hash": "", "status": "finished", "scores": {}, "cost": cost}))


@pytest.mark.parametrize("keys", [{"jobs": 3}, {"backend": "ray"}, {"overrides": {"device": "cpu"}}])
def test_who_says_how_many_runs_go_at_a_time_is_obeyed(one_gpu, tmp_path, keys):
    assert share_gpus(Study(), tmp_path) is not None
    assert share_gpus(Study(**keys), tmp_path) is None


def test_without_a_gpu_nothing_is_shared(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert share_gpus(Study(), tmp_path) is None


def test_the_largest_run_so_far_tells_how_many_fit(one_gpu, tmp_path, monkeypatch):
    leave_record(tmp_path, "old", None)  # of a version that did not measure
    first = share_gpus(Study(), tmp_path)
    assert (first.jobs, first.is_open) == (1, True)
    leave_record(tmp_path, "small", 2 * GIB)
    leave_record(tmp_path, "large", 8 * GIB)
    then = share_gpus(Study(), tmp_path)
    assert (then.jobs, then.is_open) == (7, False)
    monkeypatch.setattr(gpus, "free_memory", list)
    assert share_gpus(Study(), tmp_path) == (1, "1 run at a time on the GPU: the free memory is not known", False)


def test_runs_that_use_no_gpu_share_the_cores(one_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "share_cores", lambda: (12, 1))
    leave_record(tmp_path, "on the CPU", 0)
    assert share_gpus(Study(), tmp_path) == (12, "12 runs at a time, as the cores allow: none has used a GPU", False)


def test_no_answer_is_no_memory(monkeypatch):
    monkeypatch.setattr(gpus, "_QUESTION", "raise SystemExit(1)")
    assert gpus.free_memory() == []
    monkeypatch.setattr(gpus, "_QUESTION", "print([5, 7])")
    assert gpus.free_memory() == [5, 7]


def test_workers_spread_over_the_gpus(monkeypatch):
    found = []
    for number in range(5, 9):
        monkeypatch.setattr(
            multiprocessing, "current_process", lambda n=number: SimpleNamespace(name=f"LokyProcess-{n}")
        )
        found.append(own_gpu(2))
    assert sorted(found) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert own_gpu(0) is None


def test_a_single_run_at_a_time_is_on_the_first_gpu():
    assert own_gpu(2) == "cuda:0"


def number_of_worker():
    time.sleep(0.5)
    return own_gpu(1_000_000)


@pytest.mark.slow
def test_workers_have_numbers():
    with joblib.parallel_config(backend="loky", n_jobs=2):
        told = joblib.Parallel(batch_size=1)(joblib.delayed(number_of_worker)() for _ in range(2))
    assert len({*told, "cuda:0"}) == 3


def leave_number(run, settings):
    time.sleep(0.3)
    (settings.folder / f"{run.method}-{settings.device.partition(':')[2]}").touch()


@pytest.mark.slow
def test_workers_are_new_where_their_number_may_change(runs, tmp_path, monkeypatch, own_workers):
    """Those that loky keeps of many are any, perhaps all of one GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1_000_000)
    numbers = []
    for token in "ab":
        settings = WorkerSettings(tmp_path / token, token)
        settings.folder.mkdir()
        scheduler._execute_here(runs, Study(jobs=2), settings, leave_number)
        numbers.append({int(path.name.rpartition("-")[2]) for path in settings.folder.iterdir()})
    assert max(numbers[0]) < min(numbers[1])


def test_the_end_of_memory_is_known_behind_other_errors():
    def raised(cause, context):
        try:
            try:
                raise context
            except RuntimeError:
                raise ValueError("Failed to instantiate") from cause
        except ValueError as error:
            return error

    assert is_out_of_memory(raised(NO_MEMORY, RuntimeError("other")))
    assert is_out_of_memory(raised(None, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")))
    assert not is_out_of_memory(raised(RuntimeError("shapes"), RuntimeError("other")))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_what_a_process_keeps_is_freed_and_the_next_peak_counted_anew(monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda gpu: [3, 8][gpu])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 1)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", called.append)
    assert gpus.peak_memory() == 8
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    gpus.forget_memory()
    assert called == [], "a process that has used no GPU must not start to"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    gpus.forget_memory()
    assert called == ["empty", 0, 1]


@pytest.fixture
def runs():
    rest = (0, 0.1, 0, (), (), {}, "hash", "protocol", {}, None)
    return [Run("data", method, method, *rest) for method in ("IN", "LN", "ILN")]


def work(scratch):
    (scratch / OVERRIDES).write_text("{}")
    blank = [None] * (len(IMAGES.columns) - 8)
    rows = [(part, "Smith", "ED", 1, 0, "mid", "heart", 0.5, *blank) for part in ("test", "validation")]
    IMAGES.write(scratch, rows)
    return None, 1.0


def lack_memory(run, folder, scratch, *_):
    work(scratch)
    raise NO_MEMORY


def test_a_run_without_memory_is_blamed_only_alone(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "train_and_evaluate", lack_memory)
    settings, final = WorkerSettings(tmp_path, "token", alone=False), tmp_path / runs[0].path
    execute(runs[0], settings)
    assert read_failure(final) is None
    assert unfinished_path(final, "token").is_dir(), "as if its worker had died"
    execute(runs[0], replace(settings, alone=True))
    failure = read_failure(final)
    assert failure["message"] == (
        "the memory of the GPU is too small for it, even alone (CUDA out of memory. Tried to allocate 2.00 GiB.). "
        "Free the GPU, or make the batch or the patch smaller, by overrides."
    )
    assert failure["retry"]
    assert "OutOfMemoryError" in failure["traceback"]


@pytest.fixture
def batches(monkeypatch):
    """Runs are done in this process. What is filled are the methods of each batch, and the number of runs at a time."""
    filled = []

    def execute_here(batch, study, settings, task):
        filled.append([[run.method for run in batch], study.jobs])
        for run in batch:
            task(run, replace(settings, alone=len(batch) == 1))

    monkeypatch.setattr(scheduler, "_execute_here", execute_here)
    return filled


def test_a_run_without_memory_does_not_cost_the_study(runs, tmp_path, monkeypatch, capfd, one_gpu, batches):
    def train(run, folder, scratch, *_):
        made = work(scratch)
        if run.method == "ILN" and len(batches[-1][0]) > 1:
            raise NO_MEMORY
        return made

    memory = iter([8 * GIB, 8 * GIB, 20 * GIB])
    monkeypatch.setattr(worker, "peak_memory", lambda: next(memory))
    monkeypatch.setattr(worker, "train_and_evaluate", train)
    scheduler.run_all(runs, Study(attempts=1), tmp_path)
    assert batches == [[["IN"], 1], [["LN", "ILN"], 7], [["ILN"], 7]]
    assert len(find_runs(tmp_path)) == 3
    assert read_record(tmp_path / runs[2].path)["cost"]["gpu_memory_bytes"] == 20 * GIB
    assert not failure_path(tmp_path / runs[2].path).exists()
    assert not list(tmp_path.rglob(".seed_*"))
    told = capfd.readouterr().err
    assert told.count("1 run at a time on the GPU: the first will tell how many fit") == 1
    assert told.count("7 runs at a time on the GPU: memory for 7 (80.0 GiB free, a run takes up to 8.0 GiB)") == 1
    assert "data, ILN, fold 0, rate 0.1, seed 0: it ended early, perhaps for lack of memory" in told


@pytest.mark.parametrize(("peak", "cost"), [(None, False), (0, True)])
def test_a_run_that_uses_no_gpu_says_so_where_there_is_one(runs, tmp_path, monkeypatch, peak, cost):
    monkeypatch.setattr(worker, "peak_memory", lambda: peak)
    monkeypatch.setattr(worker, "train_and_evaluate", lambda run, folder, scratch, *_: work(scratch))
    execute(runs[0], WorkerSettings(tmp_path, "token"))
    assert ("gpu_memory_bytes" in read_record(tmp_path / runs[0].path)["cost"]) is cost


def test_a_run_that_never_has_memory_fails_and_the_next_tells_how_many_fit(
    runs, tmp_path, monkeypatch, one_gpu, batches
):
    def train(run, folder, scratch, *_):
        return lack_memory(run, folder, scratch) if run.method == "IN" else work(scratch)

    monkeypatch.setattr(worker, "peak_memory", lambda: 8 * GIB)
    monkeypatch.setattr(worker, "train_and_evaluate", train)
    scheduler.run_all(runs, Study(attempts=2), tmp_path)
    assert batches == [[["IN"], 1], [["IN"], 1], [["LN"], 1], [["ILN"], 7]]
    assert "even alone" in read_failure(tmp_path / runs[0].path)["message"]


def test_robustness_without_memory_is_measured_again_alone(runs, tmp_path, monkeypatch, one_gpu, batches):
    leave_record(tmp_path, "old", 8 * GIB)

    def measure(run, folder, scratch, device):
        if run.method == "LN" and len(batches[-1][0]) > 1:
            raise NO_MEMORY
        if run.method == "ILN":
            raise NO_MEMORY
        ROBUSTNESS.write(folder / run.path)

    for run in runs:
        (tmp_path / run.path).mkdir(parents=True)
    monkeypatch.setattr(robustness, "lacking", lambda runs, folder: runs)
    monkeypatch.setattr(robustness, "measure_robustness", measure)
    (told,) = scheduler.measure_robustness(runs, Study(), tmp_path)
    assert batches == [[["IN", "LN", "ILN"], 7], [["LN"], 7], [["ILN"], 7]]
    assert "ILN, fold 0, rate 0.1, seed 0: robustness could not be measured: OutOfMemoryError: CUDA" in told


@pytest.mark.parametrize(("jobs", "count", "alone"), [(4, 3, False), (4, 1, True), (1, 3, True)])
def test_workers_know_the_gpus_and_whether_they_are_alone(runs, tmp_path, monkeypatch, jobs, count, alone):
    given = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(scheduler.joblib, "Parallel", lambda **_: given.extend)
    settings = WorkerSettings(tmp_path, "token", alone=not alone)
    chosen = [replace(runs[0], overrides={"device": "cpu"}), *runs[1:count]]
    assert scheduler._execute_in_parallel(chosen, Study(jobs=jobs), settings) is None
    found = [arguments for _, arguments, _ in given]
    assert [run for run, _ in found] == chosen
    assert [one.gpus for _, one in found] == [0, 2, 2][:count], "who names a device has it"
    assert {one.alone for _, one in found} == {alone}


@pytest.mark.parametrize(("between", "each"), [(3.0, 3.0), (None, 1.0)])
def test_a_dry_run_counts_the_time_between_steps(runs, tmp_path, monkeypatch, between, each):
    length = {"epochs": 2, "epoch_length": 50, "validations": 1, "seconds_between_steps": between}
    cost = {"steps": 8, "seconds_per_step": 1.0, "validation_seconds": 0.0}
    monkeypatch.setattr(estimate, "execute", lambda *_: None)
    monkeypatch.setattr(estimate, "read_record", lambda _: {"status": "finished", "cost": cost, "length": length})
    data = {"data": SimpleNamespace(cases=SimpleNamespace(write=lambda _: None))}
    seconds, told = estimate_seconds(runs[:1], tmp_path, Study(jobs=1, robustness=False), data)
    assert seconds == pytest.approx(92 * each, abs=2)
    assert told == "8 steps of one run, without the start of the workers"


@pytest.mark.parametrize(("ends", "mean"), [
    ([1.0], None), ([1.0, 4.0], 3.0), ([0.0, 9.0, 10.0], 1.0), ([0.0, 9.0, 10.0, 13.0, 15.0], 2.0),
])  # fmt: skip
def test_the_first_steps_are_slow(ends, mean):
    assert time_of_step(ends) == mean


def test_the_estimate_knows_how_many_share(runs, tmp_path, one_gpu):
    leave_record(tmp_path, "old", 8 * GIB, total_seconds=10.0)
    study, data = Study(robustness=False), {"data": SimpleNamespace(cases=None)}
    assert count_jobs(study, tmp_path) == 7
    seconds, told = estimate_seconds(runs * 7, tmp_path, study, data)
    assert seconds == pytest.approx(30)
    assert told.startswith("1 finished run; 7 runs at a time on the GPU: memory for 7")
    seconds, _ = estimate_seconds([*runs * 7, runs[0]], tmp_path, study, data)
    assert seconds == pytest.approx(40), "the last one takes as long as seven"
