"""Everything that a plan still lacks, in parallel, and nothing twice."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ignite.distributed as idist
import joblib
import torch
from filelock import FileLock, Timeout

from monai_iln.cluster import call_on_ray, connect_to_ray
from monai_iln.cores import share_cores
from monai_iln.errors import UserError, find_user_error, refusal
from monai_iln.run_files import LOCK, ROBUSTNESS_FAILURE
from monai_iln.study import robustness
from monai_iln.study.grid import Data, Run
from monai_iln.study.progress import RobustnessProgress, StudyProgress, TrialProgress, duration
from monai_iln.study.records import (
    failure_path,
    find_runs,
    read_failure,
    read_record,
    unfinished_path,
    write_failure,
)
from monai_iln.study.settings import Study
from monai_iln.study.worker import WorkerSettings, execute

_TRIAL_STEPS = 8


def pending(runs: Sequence[Run], folder: Path, redo_changed: bool = False) -> list[Run]:
    """List the runs of a plan that have no record yet.

    Args:
        runs: The plan.
        folder: The folder of the study.
        redo_changed: If true, runs whose record is of another configuration are done again. The old ones stay until
            the new ones are finished.

    Raises:
        UserError: If a record, of this plan or not, is of another configuration or other data than the plan, and will
            not be done again.
    """
    records = {path.relative_to(folder): read_record(path) for path in find_runs(folder)}
    hashes = {path: record["config_hash"] for path, record in records.items() if record}
    missing = [run for run in runs if hashes.get(run.path) != run.config_hash]
    changed = [str(run) for run in missing if run.path in hashes]
    planned, protocols = {run.path for run in runs}, {run.protocol_hash for run in runs}
    foreign = [
        str(path)
        for path, record in records.items()
        if record and path not in planned and record.get("protocol_hash") not in protocols
    ]
    if foreign or (changed and not redo_changed):
        remedy = "" if foreign else ", or do them again with redo_changed"
        raise UserError(
            f"{folder}: {len(changed + foreign)} finished runs are of another configuration or other data, the first "
            f"is {(foreign or changed)[0]}. Runs of different configurations cannot be compared: choose another "
            f"output_dir, restore the configuration{remedy}."
        )
    return missing


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from working on the study meanwhile.

    Args:
        folder: The folder of the study. It is made if it is missing.

    Raises:
        UserError: If another process works on it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder}: another process runs this study. Wait for it, or choose another output_dir."
        ) from error
    except OSError as error:
        raise refusal(error, folder) from error
    with lock:
        yield


def run_all(runs: Sequence[Run], study: Study, folder: Path) -> None:
    """Execute runs until each has a record or has failed ``study.attempts`` times.

    A run that was under way when its worker died is tried again alone, so that it and no other is to blame if one
    dies again.

    Args:
        runs: The runs to do, from :func:`pending`.
        study: The settings of the study.
        folder: The folder of the study, which must be :func:`locked`.

    Raises:
        UserError: If the backend cannot run anything.
    """
    for run in runs:
        _remove_unfinished(folder / run.path)
        shutil.rmtree(failure_path(folder / run.path), ignore_errors=True)
    tries: Counter[Path] = Counter()
    left, suspects = list(runs), list[Run]()
    with StudyProgress(runs, folder) as progress, contextlib.ExitStack() as tidying:
        for run in runs:
            tidying.callback(_remove_unfinished, folder / run.path)
        while left:
            batch = suspects[:1] or left
            settings = WorkerSettings(folder, uuid.uuid4().hex[:8], tracking=study.tracking, parent=os.getpid())
            progress.begin(batch, settings.token)
            trouble = _execute_in_parallel(batch, study, settings)
            suspects, begun = [], False
            for run in batch:
                final = folder / run.path
                died, done = unfinished_path(final, settings.token).exists(), _is_done(run, final)
                failure = read_failure(final)
                begun |= died or done or failure is not None
                if failure is not None:
                    tries[run.path] += 1 if failure["retry"] else study.attempts
                elif died and not done:
                    suspects.append(run)
                    tries[run.path] += len(batch) == 1
                    if tries[run.path] >= study.attempts:
                        message = f"its worker died {study.attempts} times ({type(trouble).__name__})"
                        write_failure(final, run.place, message)
                _remove_unfinished(final)
            if not begun:
                raise UserError(
                    f"the {study.backend} backend ran nothing ({trouble or 'no run has written to ' + str(folder)}). "
                    "Every finished run is kept: mend it (is output_dir shared by all nodes?), and give the same "
                    "command again."
                ) from trouble
            left = [run for run in left if tries[run.path] < study.attempts and not _is_done(run, folder / run.path)]
            suspects = [run for run in suspects if run in left]


def count_jobs(study: Study) -> int:
    """The number of runs at a time."""
    return _jobs_and_threads(study)[0]


def measure_robustness(runs: Sequence[Run], study: Study, folder: Path) -> list[str]:
    """Measure the robustness of finished runs that lack it, in parallel.

    A run whose worker died is tried again alone, and no third time.

    Args:
        runs: The plan.
        study: The settings of the study.
        folder: The folder of the study, which must be :func:`locked`.

    Returns:
        A sentence for each run where it could not be measured.

    Raises:
        UserError: If the backend cannot run anything.
    """
    todo = robustness.lacking(runs, folder)
    if not todo:
        return []
    for run in todo:
        (folder / run.path / ROBUSTNESS_FAILURE).unlink(missing_ok=True)
    settings = WorkerSettings(folder, uuid.uuid4().hex[:8], parent=os.getpid())
    left, trouble = todo, None
    with RobustnessProgress(todo, folder), contextlib.ExitStack() as tidying:
        for run in todo:
            tidying.callback(_remove_unfinished, folder / run.path)
        for one_by_one in (False, True):
            for batch in [[run] for run in left] if one_by_one else [left]:
                for run in batch:
                    _remove_unfinished(folder / run.path)
                trouble = _execute_in_parallel(batch, study, settings, robustness.measure)
            left = [run for run in left if robustness.is_open(folder / run.path)]
    for run in left:
        robustness.write_failure(folder / run.path, f"its worker died twice ({type(trouble).__name__})")
    told = [(run, robustness.failure_of(folder / run.path)) for run in todo]
    return [f"{run}: robustness could not be measured: {why}" for run, why in told if why]


def _jobs_and_threads(study: Study) -> tuple[int, int]:
    """The number of runs at a time on this machine, and the number of threads of each."""
    return share_cores(study.jobs or torch.cuda.device_count() or None)


def _is_done(run: Run, final: Path) -> bool:
    record = read_record(final)
    return record is not None and record["config_hash"] == run.config_hash


def _remove_unfinished(final: Path) -> None:
    for scratch in final.parent.glob(f".{final.name}.*"):
        # At once, so that a worker that still writes to it finds all of its files or none.
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(
                scratch.rename(final.with_name(f".{final.name}.removed-{uuid.uuid4().hex}")), ignore_errors=True
            )


def run_on_all_ranks(runs: Sequence[Run], study: Study, folder: Path) -> None:
    """Execute runs under ``torchrun``, one after another, each on all processes. A run that fails ends them all.

    Args:
        runs: The runs to do, alike on all processes.
        study: The settings of the study.
        folder: The folder of the study.
    """
    token = str(idist.broadcast(uuid.uuid4().hex[:8], src=0, safe_mode=True))
    progress, leads = StudyProgress(runs, folder), idist.get_rank() == 0
    progress.begin(runs, token)
    with progress if leads else contextlib.nullcontext():
        for run in runs:
            if leads:
                _remove_unfinished(folder / run.path)
            execute(run, WorkerSettings(folder, token, tracking=study.tracking))
            idist.barrier()


def _execute_in_parallel(
    runs: Sequence[Run],
    study: Study,
    settings: WorkerSettings,
    task: Callable[[Run, WorkerSettings], None] = execute,
) -> BaseException | None:
    """Do a task for each run. What breaks the backend, such as a killed worker, ends the pass and is returned."""
    try:
        if study.backend == "ray":
            trouble = call_on_ray(
                task,
                [(run, replace(settings, threads=1, parent=None)) for run in runs],  # Ray deals out the GPUs
                connect_to_ray(study.address, study.jobs, study.gpus_per_run),
            )
            if trouble is not None:
                raise trouble
        else:
            _execute_here(runs, study, settings, task)
    except Exception as error:  # a worker or a node was lost, or a run cannot even write why it failed
        told = find_user_error(error)
        if told is not None:
            raise told from error
        return error
    return None


def _execute_here(
    runs: Sequence[Run], study: Study, settings: WorkerSettings, task: Callable[[Run, WorkerSettings], None]
) -> None:
    jobs, threads = _jobs_and_threads(study)
    gpus = torch.cuda.device_count()
    tasks = []
    for number, run in enumerate(runs):
        device = None
        if gpus > 0 and "device" not in run.overrides:
            device = f"cuda:{number % gpus}"
        tasks.append((run, replace(settings, threads=threads, device=device)))
    with joblib.parallel_config(backend="loky", n_jobs=jobs):
        joblib.Parallel(batch_size=1)(joblib.delayed(task)(*arguments) for arguments in tasks)


def estimate_seconds(runs: Sequence[Run], folder: Path, study: Study, data: Mapping[str, Data]) -> tuple[float, str]:
    """Estimate how long the pending runs of a plan would take.

    Finished runs of the study tell. Without any, the first run is done in a temporary folder with a few steps of one
    epoch, since a training may have hundreds.

    Args:
        runs: The pending runs, at least one.
        folder: The folder of the study.
        study: The settings of the study.
        data: The data sets by their names.

    Returns:
        The time in seconds, and what the estimate is based on.

    Raises:
        UserError: If the first run fails or diverges.
    """
    jobs, threads = _jobs_and_threads(study)
    jobs = min(jobs, len(runs))
    finished = [read_record(path) for path in find_runs(folder)]
    seconds = [record["cost"]["total_seconds"] for record in finished if record and record["status"] == "finished"]
    if seconds:
        whole, told = sum(seconds) / len(seconds), f"{len(seconds)} finished runs"
        cases = data[runs[0].dataset].cases
        extra = robustness.mean_seconds(find_runs(folder), runs[0], cases) if study.robustness else None
        return _in_all(len(runs) / jobs, whole, extra, told)
    with tempfile.TemporaryDirectory() as scratch:
        first = min(runs, key=lambda run: run.learning_rate)  # which does not diverge at once
        trial = replace(first, trial_steps=_TRIAL_STEPS)
        data[first.dataset].cases.write(Path(scratch) / first.datalist)
        final = Path(scratch) / trial.path
        start = time.perf_counter()
        with TrialProgress(trial, unfinished_path(final, "trial"), _TRIAL_STEPS):
            execute(trial, WorkerSettings(Path(scratch), "trial", threads=threads))
        total = time.perf_counter() - start
        record, failure = read_record(final), read_failure(final)
        if record is None or record["status"] != "finished":
            message = failure["message"] if failure else "it diverged"
            raise UserError(f"{trial}: a trial of a few steps failed: {message} Mend it before the study.")
        cost, length = record["cost"], record["length"]
        validation = length.get("validation_seconds", cost["validation_seconds"])
        steps = length["epochs"] * length["epoch_length"] - cost["steps"]
        whole = total + (length["validations"] - 1) * validation + cost["seconds_per_step"] * steps
        extra, told = None, f"{cost['steps']} steps of one run"
        if study.robustness:
            robustness.measure(trial, WorkerSettings(Path(scratch), "trial", threads=threads))
            extra = robustness.mean_seconds([final], trial, data[first.dataset].cases)
            if why := robustness.failure_of(final):
                told += f"; robustness cannot be measured: {why}"
    return _in_all(len(runs) / jobs, whole, extra, told)


def _in_all(rounds: float, each: float, extra: float | None, told: str) -> tuple[float, str]:
    """The time of all runs, and what it is based on, with the share of what comes after the runs."""
    if extra is None:
        return rounds * each, told
    price = f"{duration(rounds * extra)} of it to measure robustness, which --robustness false leaves out"
    return rounds * (each + extra), f"{told}; {price}"
