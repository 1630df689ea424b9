"""Independent pieces of work, done on all cores of this machine or on a cluster."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from monai_iln.cluster import connect_to_ray
from monai_iln.cores import usable_cores
from monai_iln.errors import UserError
from monai_iln.extras import require_extra

Task = TypeVar("Task")
Result = TypeVar("Result")

BACKENDS = ("loky", "ray")
_WATCH_SECONDS = 0.2
_WORTH_A_PROCESS = 64  # pieces of work: to start a process takes as long as a dozen of them


@dataclass(frozen=True)
class Workers:
    """The processes that work is shared among.

    Attributes:
        jobs: The number of processes. ``None`` takes one for each core that this process may use, fewer where there
            is little to do.
        backend: ``"loky"`` for processes of this machine, ``"ray"`` for a cluster.
        address: The address of the Ray cluster, ``HOST:PORT``. Without it one is started here.

    Raises:
        UserError: If there is no such backend, fewer than one process, an address without a cluster, or no Ray.
    """

    jobs: int | None = None
    backend: str = "loky"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UserError(f"backend {self.backend!r}: not known. It is one of {', '.join(BACKENDS)}: choose one.")
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"jobs {self.jobs}: at least one process does the work. Choose 1 or more.")
        if self.address is not None and self.backend != "ray":
            raise UserError(
                f"address {self.address}: a cluster is reached by the backend ray alone, and the backend is "
                f"{self.backend}. Choose ray, or leave the address out."
            )
        if self.backend == "ray":  # now: what is done before the first piece of work may take long
            require_extra("backend 'ray'", "ray", "ray")


def run_in_parallel(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: Workers | None = None
) -> Generator[Result, None, None]:
    """Call a function with each of many tasks.

    Few results are held at a time, however many tasks there are.

    Args:
        function: The function, which can be pickled.
        tasks: The tasks, which can be pickled.
        workers: The processes to use. ``None`` is one for each core.

    Yields:
        The results, in the order of the tasks.

    Raises:
        UserError: If a process was killed, or the cluster cannot be used.

    Example:
        >>> list(run_in_parallel(abs, [-1, 2, -3]))
        [1, 2, 3]
    """
    workers = workers or Workers()
    jobs = min(workers.jobs or usable_cores(), len(tasks))
    if workers.jobs is None:
        jobs = min(jobs, len(tasks) // _WORTH_A_PROCESS)
    calls = (joblib.delayed(_do)(function, task, os.getpid()) for task in tasks)
    if workers.backend == "ray":  # whose backend returns all results at once
        options = connect_to_ray(workers.address, workers.jobs)
        while batch := list(itertools.islice(calls, options["n_jobs"] * _WORTH_A_PROCESS)):
            yield from joblib.Parallel(**options)(batch)
    elif jobs > 1:
        parallel = joblib.Parallel(jobs, return_as="generator", batch_size=1, pre_dispatch="3 * n_jobs")
        try:
            yield from parallel(calls)
        except TerminatedWorkerError as error:
            raise UserError(
                f"a process of {jobs} was killed, as the system does when memory ends. Use fewer processes at a time."
            ) from error
    else:
        yield from map(function, tasks)


def _do(function: Callable[[Task], Result], task: Task, parent: int) -> Result:
    end_with(parent)
    return function(task)


def end_with(parent: int) -> bool:
    """End this process when its parent does: one that was killed cannot end its workers itself.

    Args:
        parent: The process that started this one. If another did, such as Ray, nothing happens.

    Returns:
        Whether this call is the one that begins to watch the parent.
    """
    if os.getppid() != parent or _WATCHED:
        return False
    _WATCHED.add(parent)

    def watch() -> None:
        while not is_orphan():
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return True


def is_orphan() -> bool:
    """Whether the parent that this process is to end with has ended."""
    return bool(_WATCHED) and os.getppid() not in _WATCHED


_WATCHED: set[int] = set()
