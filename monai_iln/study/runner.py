"""Everything that a plan still lacks, in parallel, and nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import joblib
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from monai_iln.errors import UserError
from monai_iln.study.execution import Place, execute
from monai_iln.study.grid import Run, read_training
from monai_iln.study.records import FAILURE, failure_path, read_record
from monai_iln.study.settings import Study

_POLL_SECONDS = 0.5
_TRIAL_STEPS = 8


def pending(runs: Sequence[Run], folder: Path, redo_changed: bool = False) -> list[Run]:
    """The runs of a plan that have no record yet.

    Args:
        runs: the plan.
        folder: of the study.
        redo_changed: whether runs whose record is of another configuration are to be done again; their folders are
            only deleted when they are.

    Raises:
        UserError: if a record is of another configuration or other data, unless they are to be done again.
    """
    missing, changed = [], []
    for run in runs:
        record = read_record(folder / run.path)
        if record is None:
            missing.append(run)
        elif record["config_hash"] != run.config_hash:
            changed.append(run)
    if changed and not redo_changed:
        raise UserError(
            f"{folder}: {len(changed)} finished runs are of another configuration or other data, the first is "
            f"{changed[0]}. Runs of different configurations cannot be compared: choose another output_dir, restore "
            "the configuration, or do them again with redo_changed."
        )
    return [run for run in runs if run in missing or run in changed] if changed else missing


def run_all(runs: Sequence[Run], study: Study, folder: Path) -> None:
    """Execute runs until each has a record or has failed ``study.attempts`` times.

    Args:
        runs: those to do, from :func:`pending`.
        study: settings of the machine: jobs, backend and so on.
        folder: of the study.

    Raises:
        UserError: if another process works on the same study, or the backend cannot run anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if idist.get_world_size() > 1:
        _run_on_all_ranks(runs, study, folder)
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder}: another process runs this study. Wait for it, or choose another output_dir."
        ) from error
    with lock, _Progress(runs, folder):
        tries: Counter[Path] = Counter()
        left = list(runs)
        for run in left:
            _clear(folder / run.path)
        while left:
            place = Place(folder, uuid.uuid4().hex[:8], tracking=study.tracking, parent=os.getpid())
            trouble = _execute_in_parallel(left, study, place)
            begun = {run.path for run in left if _was_begun(folder / run.path, place.token)}
            if trouble is not None and not begun:
                raise UserError(
                    f"the {study.backend} backend ran nothing: {trouble}. Every finished run is kept: mend it, and "
                    "give the same command again."
                ) from trouble
            tries.update(begun)
            left = [run for run in left if _again(folder / run.path, tries[run.path], study.attempts, trouble, run)]


def _execute_in_parallel(runs: Sequence[Run], study: Study, place: Place) -> BaseException | None:
    """One pass over the runs; what breaks the backend, such as a killed worker, ends the pass and is returned."""
    gpus = torch.cuda.device_count()
    jobs = study.jobs or (gpus or os.cpu_count() or 1)
    options: dict[str, Any] = {"n_jobs": jobs, "backend": "loky"}
    devices: list[str | None] = [f"cuda:{index % gpus}" if gpus else None for index in range(len(runs))]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if study.backend == "ray":
        options = _connect_to_ray(study)
        devices, threads = [None] * len(runs), 1  # Ray shows every run its own share of the GPUs
        place = replace(place, parent=None)
    place = replace(place, threads=threads)
    tasks = [
        joblib.delayed(execute)(run, replace(place, device=device if "device" not in run.overrides else None))
        for run, device in zip(runs, devices, strict=True)
    ]
    try:
        with joblib.parallel_config(**options):
            joblib.Parallel(batch_size=1, pre_dispatch="all")(tasks)
    except Exception as error:  # execute itself raises nothing: a worker or a node was lost
        return error
    return None


def _connect_to_ray(study: Study) -> dict[str, Any]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise UserError("backend 'ray': Ray is not installed. Install it: pip install 'monai-iln[ray]'.") from error
    if not ray.is_initialized():
        try:
            ray.init(address=study.address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # of many kinds
            raise UserError(
                f"address {study.address!r}: no Ray cluster answers there ({error}). Start one first."
            ) from error
    register_ray()
    shares = {"num_cpus": 1, "num_gpus": study.gpus_per_run}
    return {"backend": "ray", "n_jobs": study.jobs or -1, "ray_remote_args": shares}


def _run_on_all_ranks(runs: Sequence[Run], study: Study, folder: Path) -> None:
    """Under ``torchrun``: one run after another, each on all processes."""
    token = str(idist.broadcast(uuid.uuid4().hex[:8], src=0, safe_mode=True))
    for run in tqdm(runs, desc="Study", unit="run", disable=idist.get_rank() > 0):
        if idist.get_rank() == 0:
            _clear(folder / run.path)
        execute(run, Place(folder, token, tracking=study.tracking))
        idist.barrier()


def _clear(final: Path) -> None:
    """Remove what is no finished run of this plan: what a killed one left, and what is to be done again."""
    _remove_unfinished(final)
    shutil.rmtree(final, ignore_errors=True)
    shutil.rmtree(failure_path(final), ignore_errors=True)


def _remove_unfinished(final: Path) -> None:
    for scratch in final.parent.glob(f".{final.name}.*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _was_begun(final: Path, token: str) -> bool:
    return final.exists() or failure_path(final).exists() or final.with_name(f".{final.name}.{token}").exists()


def _again(final: Path, tries: int, attempts: int, trouble: BaseException | None, run: Run) -> bool:
    """Whether a run is to be tried again."""
    if read_record(final) is not None:
        return False
    failure = failure_path(final)
    if failure.is_dir():
        retry = bool(json.loads((failure / FAILURE).read_text(encoding="utf-8"))["retry"])
    else:
        retry = True
        if tries >= attempts:
            failure.mkdir(parents=True)
            message = f"its worker died {tries} times: {trouble}"
            document = {"run": str(run), "message": message, "traceback": "", "retry": True, "grid": {}}
            (failure / FAILURE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    _remove_unfinished(final)
    return retry and tries < attempts


class _Progress:
    """A bar over the study with the time left, and a line for each run; it looks at the folders, as anybody could."""

    def __init__(self, runs: Sequence[Run], folder: Path) -> None:
        self.waiting = {run.path: run for run in runs}
        self.folder = folder
        self._stop = threading.Event()

    def __enter__(self) -> None:
        self.bar = tqdm(total=len(self.waiting), desc="Study", unit="run", smoothing=0)
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.thread.join()
        self._look()
        self.bar.close()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._look()
            self.bar.refresh()

    def _look(self) -> None:
        for path, run in list(self.waiting.items()):
            try:
                record = read_record(self.folder / path)
            except UserError:
                continue
            if record is None or record["config_hash"] != run.config_hash:
                continue
            del self.waiting[path]
            tqdm.write(f"{run}: {summarize(record)}")
            self.bar.update()


def summarize(record: dict[str, Any]) -> str:
    """A finished run in half a line."""
    seconds = f"{record['cost']['total_seconds']:.0f} s"
    if record["status"] == "diverged":
        return f"diverged ({seconds})"
    scores = record["scores"]
    chosen = "" if scores["validation_dice"] is None else f", validation {scores['validation_dice']:.3f}"
    return f"test Dice {scores['test_dice']:.3f}{chosen} ({seconds})"


def estimate_seconds(runs: Sequence[Run], folder: Path, study: Study) -> tuple[float, str]:
    """How long the pending runs of a plan would take, and what that is based on.

    Finished runs of the study tell; without any, the first run is done in a temporary folder with a few steps an epoch.

    Args:
        runs: the pending ones, at least one.
        folder: of the study.
        study: its settings.
    """
    jobs = study.jobs or (torch.cuda.device_count() or os.cpu_count() or 1)
    finished = [read_record(path.parent) for path in folder.glob("runs/*/*/*/*/*/run.json")]
    seconds = [record["cost"]["total_seconds"] for record in finished if record and record["status"] == "finished"]
    if seconds:
        return len(runs) * sum(seconds) / len(seconds) / jobs, f"{len(seconds)} finished runs"
    with tempfile.TemporaryDirectory() as scratch:
        trial = replace(runs[0], overrides={**runs[0].overrides, "train#trainer#epoch_length": _TRIAL_STEPS})
        start = time.perf_counter()
        execute(trial, Place(Path(scratch), "trial", threads=max(1, (os.cpu_count() or 1) // jobs)))
        total = time.perf_counter() - start
        record = read_record(Path(scratch) / trial.path)
        if record is None:
            failure = json.loads((failure_path(Path(scratch) / trial.path) / FAILURE).read_text(encoding="utf-8"))
            raise UserError(f"{trial}: a trial of a few steps failed: {failure['message']}. Mend it before the study.")
        cost = record["cost"]
        whole = total + cost["seconds_per_step"] * (_steps(runs[0]) - cost["steps"])
    return len(runs) * whole / jobs, f"{cost['steps']} steps of the first run"


def _steps(run: Run) -> int:
    """Optimizer steps of a training."""
    return int(read_training(run.training, run.overrides).get_parsed_content("iterations"))
