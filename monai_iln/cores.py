"""How many cores and threads the machine's limits leave to a program."""

from __future__ import annotations

import os

import joblib


def usable_cores() -> int:
    """The number of cores that this process may use, 1 or more.

    The CPU affinity of the process limits it, the CPU quota of its cgroup (v1 or v2), what SLURM allocated to a task
    or on this node, and ``LOKY_MAX_CPU_COUNT``.
    """
    # Not every cluster binds a job to its cores.
    allocated = [os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")]
    limits = [int(number) for number in allocated if number.isdecimal() and int(number) > 0]
    return min([int(joblib.cpu_count()), *limits])


def share_cores(processes: int | None = None) -> tuple[int, int]:
    """Share the usable cores among processes that run side by side.

    ``OMP_NUM_THREADS`` is the largest number of threads of each process, if it is set.

    Args:
        processes: The number of processes. ``None`` takes as many as the cores hold, each with ``OMP_NUM_THREADS``
            threads, else with one.

    Returns:
        The number of processes, and the number of threads of each.

    Example:
        >>> share_cores(10_000)
        (10000, 1)
    """
    cores = usable_cores()
    most = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list has one number for each level
    threads = int(most) if most.isdecimal() else 0
    if processes is None:
        processes = max(1, cores // max(1, threads))
    share = max(1, cores // processes)
    return processes, min(share, threads or share)
