"""How many runs share a GPU, which one a process works on, and what a run takes of its memory."""

from __future__ import annotations

import gc
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from monai_iln.cores import share_cores, usable_cores
from monai_iln.errors import count
from monai_iln.study.records import find_runs, read_record
from monai_iln.study.settings import Study

MARGIN = 1.25
"""A run may take so many times what the largest run so far took: methods and sizes of images differ."""

CONTEXT_BYTES = 2**30
"""What a process may take of a GPU beside torch's tensors, for CUDA and its libraries: an allowance, not measured."""

CORES_PER_RUN = 2
"""A run needs a core to drive the GPU, and one to load the data."""

_QUESTION = "import torch; print([torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())])"


class Sharing(NamedTuple):
    """How many runs go at a time on the GPUs of this machine.

    Attributes:
        jobs: The number of runs at a time, on all GPUs together.
        words: The number on each of them, and why.
        is_open: Whether the first runs are still to tell how many fit.
    """

    jobs: int
    words: str
    is_open: bool = False


def fit_runs(free: Sequence[int], need: int, cores: int) -> Sharing:
    """Find how many runs fit on the GPUs at a time.

    Args:
        free: The free memory of each GPU in bytes, at least one.
        need: The most that a run has reserved of a GPU, in bytes.
        cores: The number of cores that the study may use.

    Returns:
        As many runs on each GPU as its memory and the cores allow, and at least one.

    Example:
        >>> print(fit_runs([20 * 2**30, 24 * 2**30], need=4 * 2**30, cores=16).words)
        3 runs at a time on each of 2 GPUs: memory for 3 (20.0 GiB free, a run takes up to 4.0 GiB), cores for 4
    """
    by_memory = min(free) // int(MARGIN * need + CONTEXT_BYTES)
    by_cores = cores // (CORES_PER_RUN * len(free))
    each = max(1, min(by_memory, by_cores))
    why = f"memory for {by_memory} ({_gib(min(free))} free, a run takes up to {_gib(need)}), cores for {by_cores}"
    return Sharing(each * len(free), f"{_at_a_time(each, len(free))}: {why}")


def share_gpus(study: Study, folder: Path) -> Sharing | None:
    """Find how many runs of a study go at a time on the GPUs of this machine.

    Args:
        study: The settings of the study.
        folder: A folder with records, which tell what a run takes.

    Returns:
        The number and the reason; ``None`` where the user or a cluster decides, and where no GPU is used.
    """
    gpus = torch.cuda.device_count()
    if gpus == 0 or study.jobs is not None or study.backend != "loky" or "device" in study.overrides:
        return None
    costs = [record["cost"] for record in map(read_record, find_runs(folder)) if record]
    taken = [cost["gpu_memory_bytes"] for cost in costs if cost.get("gpu_memory_bytes") is not None]
    need = max(taken, default=0)
    if taken and need == 0:
        jobs, _ = share_cores()
        return Sharing(jobs, f"{count(jobs, 'run')} at a time, as the cores allow: none has used a GPU")
    if need == 0:
        return Sharing(gpus, f"{_at_a_time(1, gpus)}: the first will tell how many fit", is_open=True)
    free = free_memory()
    if not free:
        return Sharing(gpus, f"{_at_a_time(1, gpus)}: the free memory is not known")
    return fit_runs(free, need, usable_cores())


def with_jobs(study: Study, sharing: Sharing | None) -> Study:
    """The same study with as many runs at a time as share the GPUs."""
    return study if sharing is None else replace(study, jobs=sharing.jobs)


def jobs_and_threads(study: Study) -> tuple[int, int]:
    """The number of runs at a time on this machine, and the number of threads of each."""
    return share_cores(study.jobs or torch.cuda.device_count() or None)


def free_memory() -> list[int]:
    """Ask for the free memory of each GPU, in bytes. The list is empty where no answer comes.

    Another process asks, since whoever does takes some of the memory until it ends.
    """
    asked = subprocess.run([sys.executable, "-c", _QUESTION], capture_output=True, text=True, check=False)
    answer: list[int] = json.loads(asked.stdout) if asked.returncode == 0 else []
    return answer


def own_gpu(gpus: int) -> str | None:
    """The GPU that this process works on.

    Workers that start together have consecutive numbers, so that as many of them work on each GPU, and each works on
    one GPU alone.

    Args:
        gpus: The number of GPUs; 0 leaves the device open.
    """
    if gpus == 0:
        return None
    number = multiprocessing.current_process().name.rpartition("-")[2]
    return f"cuda:{int(number) % gpus if number.isdecimal() else 0}"


def peak_memory() -> int | None:
    """The most that torch has reserved of a GPU for this run, in bytes; ``None`` where there is none."""
    return max(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())), default=None)


def forget_memory() -> None:
    """Leave to others what this process keeps of a GPU's memory for later, and count the next peak anew."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception is, or comes from, the end of a GPU's memory. Libraries of CUDA tell it in other words."""
    while error is not None:
        if isinstance(error, RuntimeError) and any(words in str(error) for words in ("out of memory", "ALLOC_FAILED")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _at_a_time(each: int, gpus: int) -> str:
    runs = "1 run" if each == 1 else f"{each} runs"
    return f"{runs} at a time on {'the GPU' if gpus == 1 else f'each of {gpus} GPUs'}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
