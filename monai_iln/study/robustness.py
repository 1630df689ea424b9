"""Scores under changes of the test images, measured from the weights of finished runs.

It comes after the runs, and nothing of it is a part of them: what goes wrong here leaves every finished run as it is.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path

from monai_iln.errors import find_user_error, root_cause
from monai_iln.files import write_json
from monai_iln.run_files import LOG, ROBUSTNESS, ROBUSTNESS_FAILURE
from monai_iln.study.cases import Cases
from monai_iln.study.gpus import forget_memory, is_out_of_memory
from monai_iln.study.grid import Run
from monai_iln.study.records import read_record, unfinished_path
from monai_iln.study.training import measure_robustness
from monai_iln.study.worker import WorkerSettings, begin, logged


def lacking(runs: Sequence[Run], folder: Path) -> list[Run]:
    """List the finished runs of a plan whose robustness has not been measured.

    Args:
        runs: The plan.
        folder: The folder of the study.
    """
    found = []
    for run in runs:
        record = read_record(folder / run.path)
        finished = record is not None and record["status"] == "finished" and record["config_hash"] == run.config_hash
        if finished and not (folder / run.path / ROBUSTNESS.name).is_file():
            found.append(run)
    return found


def measure(run: Run, settings: WorkerSettings) -> None:
    """Measure the robustness of a finished run. What is raised is written beside its record, and raised no further.

    Args:
        run: The run.
        settings: The settings of the worker.
    """
    begin(settings)
    final = settings.folder / run.path
    scratch = unfinished_path(final, settings.token)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with logged(scratch / LOG):
            measure_robustness(run, settings.folder, scratch, settings.device)
    except Exception as error:  # of the bundle, which may raise anything
        if is_out_of_memory(error) and not settings.alone:
            return  # it stays open, to be measured alone
        message = str(find_user_error(error) or root_cause(error))
        write_failure(final, message, "".join(traceback.format_exception(error)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        forget_memory()


def write_failure(final: Path, message: str, trace: str = "") -> None:
    """Tell why the robustness of a run could not be measured.

    Args:
        final: The folder of the run.
        message: One sentence.
        trace: The traceback of what was raised, if it helps.
    """
    write_json(final / ROBUSTNESS_FAILURE, {"message": message, "traceback": trace})


def failure_of(final: Path) -> str | None:
    """Read why the robustness of a run could not be measured; ``None`` if nothing is told."""
    path = final / ROBUSTNESS_FAILURE
    if not path.is_file():
        return None
    return str(json.loads(path.read_text(encoding="utf-8"))["message"])


def is_open(final: Path) -> bool:
    """Whether the robustness of a run is neither measured nor known to fail."""
    return not (final / ROBUSTNESS.name).is_file() and not (final / ROBUSTNESS_FAILURE).is_file()


def mean_seconds(finals: Sequence[Path], run: Run, cases: Cases) -> float | None:
    """The seconds that measuring a run takes, from those that were measured; ``None`` where none was.

    Args:
        finals: The folders of finished runs.
        run: A run, whose number of test cases counts.
        cases: The cases of the study.
    """
    tables = [table for final in finals if (table := ROBUSTNESS.read_if_any(final)) is not None]
    if not tables:
        return None
    tested = cases.of_split(run.split).split(run.fold, run.validation_every)["test"]
    each = [table["seconds"].sum() / table["image"].nunique() for table in tables]
    return float(sum(each) / len(each)) * len(tested)
