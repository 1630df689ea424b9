"""One run: the bundle's own training and evaluation in this process, and the folder that it leaves."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import ignite.distributed as idist
import torch
from tqdm import tqdm

from monai_iln.errors import UserError, find_user_error, root_cause
from monai_iln.files import write_json
from monai_iln.machine import describe_commit, describe_machine, describe_versions
from monai_iln.parallel import end_with, is_orphan
from monai_iln.run_files import COST, DICE_SCORES, IMAGES, LENGTH, LOG, RECORD
from monai_iln.study.gpus import forget_memory, is_out_of_memory, own_gpu, peak_memory
from monai_iln.study.grid import Run
from monai_iln.study.progress import slow_bars
from monai_iln.study.records import failure_path, read_record, run_scores, unfinished_path, write_failure
from monai_iln.study.training import train_and_evaluate


@dataclass(frozen=True)
class WorkerSettings:
    """How a worker executes runs. Nothing of it decides a result.

    Attributes:
        folder: The folder of the study.
        token: The token of this start of the study, a part of the names of folders under way.
        threads: The number of torch's threads in each run. ``None`` leaves it as it is.
        gpus: The number of GPUs that the processes share; 0 leaves the device to the training.
        alone: Whether no other run goes at the same time.
        tracking: The tracking as :class:`~monai_iln.study.settings.Study` has it.
        parent: The process that runs end with, if they are its children.
    """

    folder: Path
    token: str
    threads: int | None = None
    gpus: int = 0
    alone: bool = True
    tracking: Any = None
    parent: int | None = None

    @property
    def device(self) -> str | None:
        """The device of the training, if it is not the training's own."""
        return own_gpu(self.gpus)


def execute(run: Run, settings: WorkerSettings) -> None:
    """Train and evaluate, and give the run's folder its final name only when everything is in it.

    Whatever happens inside, this returns: what was raised is written beside the run's folder as its failure. Only where
    several processes share the run it is raised on, since the others would wait for ever. A loss that is not finite is
    a result and no failure: the norm and the rate did not train. A GPU whose memory ends while others share it is no
    failure of the run either: its unfinished folder stays, as that of a worker that died.

    Args:
        run: The run.
        settings: The settings of the worker.

    Raises:
        UserError: If the system refuses to write even the failure.
    """
    begin(settings)
    final = settings.folder / run.path
    scratch = unfinished_path(final, settings.token)
    leads = idist.get_rank() == 0
    started = time.time()
    if leads:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    idist.barrier()
    try:
        with logged(scratch / LOG if leads else None):
            message, evaluating = train_and_evaluate(run, settings.folder, scratch, settings.device, settings.tracking)
        idist.barrier()  # no process works in the folder any more
        if leads and _is_ours(scratch, settings):
            _write_record(run, settings, scratch, started, message, evaluating)
            # First, so that who is killed between them leaves no failure beside a run that went well.
            shutil.rmtree(failure_path(final), ignore_errors=True)
            _replace(scratch, final, run.config_hash)
    except Exception as error:  # a run must never take the study down
        if is_out_of_memory(error) and not settings.alone:
            return
        user_error = find_user_error(error)
        if leads and _is_ours(scratch, settings):
            _leave_failure(run, scratch, final, error, user_error)
        if idist.get_world_size() > 1:
            if user_error is not None:
                raise user_error from None
            raise
    finally:
        forget_memory()


def begin(settings: WorkerSettings) -> None:
    """Prepare this process for the work of a study.

    Args:
        settings: The settings of the worker.
    """
    if settings.parent is not None and end_with(settings.parent):
        # The usual one belongs to the system, which complains if a killed worker leaves it.
        tqdm.set_lock(threading.RLock())
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)


def _leave_failure(run: Run, scratch: Path, final: Path, error: Exception, user_error: UserError | None) -> None:
    with contextlib.suppress(OSError):
        failure_path(final).mkdir(exist_ok=True)
        (scratch / LOG).replace(failure_path(final) / LOG)
    shutil.rmtree(scratch, ignore_errors=True)  # on a full disk, this makes room for what follows
    if is_out_of_memory(error):
        message = f"the memory of the GPU is too small for it, even alone ({str(error).splitlines()[0]})"
        remedy = "Free the GPU, or make the batch or the patch smaller, by overrides."
        write_failure(final, run.place, f"{message}. {remedy}", "".join(traceback.format_exception(error)), retry=True)
    elif user_error is None:
        trace = "".join(traceback.format_exception(error))
        write_failure(final, run.place, root_cause(error), trace, retry=True)
    else:
        write_failure(final, run.place, str(user_error), retry=False)


def _write_record(
    run: Run, settings: WorkerSettings, scratch: Path, started: float, message: str | None, evaluating: float
) -> None:
    now = time.time()
    scores: dict[str, float | None] = {}
    counts: dict[str, int] = {}
    if message is None:
        scores, counts = _read_images(scratch)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    left_out = {"overrides", "training", "evaluation", "bundle", "datalist", "trial_steps"}
    record: dict[str, Any] = {
        "format": 1,
        "status": "finished" if message is None else "diverged",
        **{key: value for key, value in asdict(run).items() if key not in left_out},
        "overrides": dict(run.overrides),
        "message": message,
        "scores": scores,
        "images": counts,
        "cost": {},
        "environment": {
            "versions": describe_versions(),
            "commit": describe_commit(),
            "machine": describe_machine(torch.device(device)),
            "processes": idist.get_world_size(),
        },
        "started": _format_time(started),
        "finished": _format_time(now),
    }
    if (scratch / COST).is_file():
        record["cost"] = json.loads((scratch / COST).read_text(encoding="utf-8"))
        (scratch / COST).unlink()
    if (scratch / LENGTH).is_file():
        record["length"] = json.loads((scratch / LENGTH).read_text(encoding="utf-8"))
        (scratch / LENGTH).unlink()
    cost = record["cost"]
    cost["evaluation_seconds"], cost["total_seconds"] = round(evaluating, 3), round(now - started, 3)
    used = evaluating + cost.get("train_seconds", 0.0) + cost.get("validation_seconds", 0.0)
    cost["overhead_seconds"] = round(now - started - used, 3)
    if (peak := peak_memory()) is not None:
        cost["gpu_memory_bytes"] = peak
    write_json(scratch / RECORD, record)


def _read_images(scratch: Path) -> tuple[dict[str, float | None], dict[str, int]]:
    """Read the scores of a run, and the number of rows of each part: by both the table is known again."""
    images = IMAGES.read(scratch)
    scores: dict[str, float | None] = {}
    for name, value in run_scores(images).items():
        key = name if "score" in images else DICE_SCORES[name]
        scores[key] = None if math.isnan(value) else value
    counts = images["part"].value_counts()
    return scores, {part: int(counts.get(part, 0)) for part in ("test", "validation")}


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _is_ours(scratch: Path, settings: WorkerSettings) -> bool:
    """Tell whether the folder is still what this run made. A study that was started again takes it from an orphan."""
    return not is_orphan() and (scratch / LOG).is_file()  # which is there before anything can fail


def _replace(scratch: Path, final: Path, config_hash: str) -> None:
    """Give a finished folder its name. What has it already stays if it is the same run, which another did faster."""
    record = read_record(final)
    if record is not None and record["config_hash"] == config_hash:
        shutil.rmtree(scratch, ignore_errors=True)
        return
    old = scratch.with_name(f"{scratch.name}.old")
    if final.exists():
        final.rename(old)
    scratch.rename(final)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """Send everything that is printed, logged or warned of to a file, also what goes to the terminal itself.

    Args:
        path: The file; ``None`` throws it away.
    """
    path = path or Path(os.devnull)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("w", encoding="utf-8"))
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            stream.flush()
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(slow_bars())
        stack.callback(_let_go, file)
        yield


def _let_go(file: TextIO) -> None:
    """Loggers that were made meanwhile hold on to the file: give them the terminal instead, before it is closed."""
    file.flush()
    loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in [handler for logger in loggers for handler in logger.handlers]:
        if isinstance(handler, logging.StreamHandler) and handler.stream is file:
            handler.setStream(sys.__stderr__)
