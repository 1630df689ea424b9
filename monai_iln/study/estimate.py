"""How long a study would take."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from monai_iln.errors import UserError, count
from monai_iln.study import robustness
from monai_iln.study.gpus import Sharing, jobs_and_threads, share_gpus, with_jobs
from monai_iln.study.grid import Data, Run
from monai_iln.study.progress import TrialProgress, duration
from monai_iln.study.records import find_runs, read_failure, read_record, unfinished_path
from monai_iln.study.settings import Study
from monai_iln.study.worker import WorkerSettings, execute

_TRIAL_STEPS = 8


def count_jobs(study: Study, folder: Path) -> int:
    """The number of runs at a time.

    Args:
        study: The settings of the study.
        folder: The folder of the study, whose records tell how many share a GPU.
    """
    return jobs_and_threads(with_jobs(study, share_gpus(study, folder)))[0]


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
    finished = [read_record(path) for path in find_runs(folder)]
    seconds = [record["cost"]["total_seconds"] for record in finished if record and record["status"] == "finished"]
    if seconds:
        whole, told = sum(seconds) / len(seconds), count(len(seconds), "finished run")
        cases = data[runs[0].dataset].cases
        extra = robustness.mean_seconds(find_runs(folder), runs[0], cases) if study.robustness else None
        return _in_all(runs, study, share_gpus(study, folder), whole, extra, told)
    threads = jobs_and_threads(study)[1]
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
            message = failure["message"].rstrip(".") if failure else "it diverged"
            raise UserError(f"{trial}: a trial of a few steps failed: {message}. Mend it before the study.")
        cost, length = record["cost"], record["length"]
        validation = length.get("validation_seconds", cost["validation_seconds"])
        steps = length["epochs"] * length["epoch_length"] - cost["steps"]
        each = length["seconds_between_steps"] or cost["seconds_per_step"]
        whole = total + (length["validations"] - 1) * validation + each * steps
        extra, told = None, f"{cost['steps']} steps of one run, without the start of the workers"
        if study.robustness:
            robustness.measure(trial, WorkerSettings(Path(scratch), "trial", threads=threads))
            extra = robustness.mean_seconds([final], trial, data[first.dataset].cases)
            if why := robustness.failure_of(final):
                told += f"; robustness cannot be measured: {why}"
        return _in_all(runs, study, share_gpus(study, Path(scratch)), whole, extra, told)


def _in_all(
    runs: Sequence[Run], study: Study, sharing: Sharing | None, each: float, extra: float | None, told: str
) -> tuple[float, str]:
    """The time of all runs, and what it is based on, with the share of what comes after the runs."""
    jobs, _ = jobs_and_threads(with_jobs(study, sharing))
    rounds = math.ceil(len(runs) / jobs)
    if sharing is not None:
        told += f"; {sharing.words}"
    if extra is None:
        return rounds * each, told
    price = f"{duration(rounds * extra)} of it to measure robustness, which --robustness false leaves out"
    return rounds * (each + extra), f"{told}; {price}"
