"""Everything that a plan still lacks, in parallel, and nothing twice."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import ignite.distributed as idist
import joblib
import torch
from filelock import FileLock, Timeout
from joblib.externals.loky import get_reusable_executor

from monai_iln.cluster import call_on_ray, connect_to_ray
from monai_iln.errors import UserError, count, find_user_error, refusal
from monai_iln.run_files import LOCK, ROBUSTNESS_FAILURE
from monai_iln.study import robustness
from monai_iln.study.gpus import jobs_and_threads, share_gpus, with_jobs
from monai_iln.study.grid import Run
from monai_iln.study.progress import RobustnessProgress, StudyProgress
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
            f"{folder}: {count(len(changed + foreign), 'finished run', 'is', 'are')} of another configuration or "
            "other data, the first "
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


def forget_failures(runs: Sequence[Run], folder: Path) -> None:
    """Remove what tells why runs failed: they are tried again, or their records are those of the plan after all.

    Args:
        runs: The runs.
        folder: The folder of the study, which must be :func:`locked`.
    """
    for run in runs:
        shutil.rmtree(failure_path(folder / run.path), ignore_errors=True)


def run_all(runs: Sequence[Run], study: Study, folder: Path) -> None:
    """Execute runs until each has a record or has failed ``study.attempts`` times.

    Of the runs that were under way when a worker died, or for which the memory of a shared GPU did not suffice, the
    first is tried again alone, and then the others with all that is left: only a run that was alone is to blame. On a
    GPU the first run is alone, too: it tells how many fit.

    Args:
        runs: The runs to do, from :func:`pending`.
        study: The settings of the study.
        folder: The folder of the study, which must be :func:`locked`.

    Raises:
        UserError: If the backend cannot run anything.
    """
    forget_failures(runs, folder)
    for run in runs:
        _remove_unfinished(folder / run.path)
    tries: Counter[Path] = Counter()
    left, suspects, told = list(runs), list[Run](), ""
    with StudyProgress(runs, folder) as progress, contextlib.ExitStack() as tidying:
        for run in runs:
            tidying.callback(_remove_unfinished, folder / run.path)
        while left:
            batch = suspects[:1] or left
            sharing = share_gpus(study, folder)
            if sharing is not None and sharing.is_open:
                batch = batch[: sharing.jobs]
            if sharing is not None and sharing.words != told:
                told = sharing.words
                progress.write(told)
            settings = WorkerSettings(folder, uuid.uuid4().hex[:8], tracking=study.tracking, parent=os.getpid())
            progress.begin(batch, settings.token)
            trouble = _execute_in_parallel(batch, with_jobs(study, sharing), settings)
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
                    if len(batch) > 1:
                        progress.write(f"{run}: it ended early, perhaps for lack of memory, and is done again.")
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


def measure_robustness(runs: Sequence[Run], study: Study, folder: Path) -> list[str]:
    """Measure the robustness of finished runs that lack it, in parallel.

    A run whose worker died is tried again alone, and no third time.

    Args:
        runs: The plan.
        study: The settings of the study.
        folder: The folder of the study, which must be :func:`locked`.

    Returns:
        A sentence for each reason why it could not be measured, with the runs.

    Raises:
        UserError: If the backend cannot run anything.
    """
    todo = robustness.lacking(runs, folder)
    if not todo:
        return []
    for run in todo:
        (folder / run.path / ROBUSTNESS_FAILURE).unlink(missing_ok=True)
    settings = WorkerSettings(folder, uuid.uuid4().hex[:8], parent=os.getpid())
    study = with_jobs(study, share_gpus(study, folder))
    left, troubles = todo, dict[Path, BaseException | None]()
    with RobustnessProgress(todo, folder), contextlib.ExitStack() as tidying:
        for run in todo:
            tidying.callback(_remove_unfinished, folder / run.path)
        for one_by_one in (False, True):
            for batch in [[run] for run in left] if one_by_one else [left]:
                for run in batch:
                    _remove_unfinished(folder / run.path)
                trouble = _execute_in_parallel(batch, study, settings, robustness.measure)
                troubles |= dict.fromkeys((run.path for run in batch), trouble)
            left = [run for run in left if robustness.is_open(folder / run.path)]
    for run in left:
        robustness.write_failure(folder / run.path, f"its worker died twice ({type(troubles[run.path]).__name__})")
    reasons: dict[str, list[Run]] = {}
    for run in todo:
        why = robustness.failure_of(folder / run.path)
        if why:
            reasons.setdefault(why, []).append(run)
    return [f"{_first_of(runs)}: robustness could not be measured: {why}" for why, runs in reasons.items()]


def _first_of(runs: Sequence[Run]) -> str:
    return str(runs[0]) if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"


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
                # Ray deals out the GPUs.
                [(run, replace(settings, threads=1, parent=None, alone=len(runs) == 1)) for run in runs],
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
    jobs, threads = jobs_and_threads(study)
    settings = replace(settings, threads=threads, alone=min(jobs, len(runs)) == 1)
    on_gpu = replace(settings, gpus=torch.cuda.device_count())
    tasks = [(run, settings if "device" in run.overrides else on_gpu) for run in runs]
    try:
        # Each worker is started, with work or not. One alone would be this process, and take the study with it.
        with joblib.parallel_config(backend="loky", n_jobs=min(jobs, max(2, len(tasks)))):
            joblib.Parallel(batch_size=1)(joblib.delayed(task)(*arguments) for arguments in tasks)
    finally:
        if on_gpu.gpus and jobs > 1:  # new workers have consecutive numbers, and idle ones take of a GPU's memory
            get_reusable_executor(reuse=True).shutdown()
