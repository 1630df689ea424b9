"""The cores and threads that the machine's limits leave."""

import builtins
import io
import json
import os
import subprocess
import sys

import pytest
import torch
from joblib.externals.loky.backend import context

from monai_iln import cores
from monai_iln.cores import share_cores, usable_cores
from monai_iln.machine import describe_machine

ROOT = "/sys/fs/cgroup"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_the_affinity_limits_the_cores():
    program = """
import json, os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import torch
from monai_iln.cores import share_cores
from monai_iln.machine import describe_machine
told = describe_machine(torch.device("cpu"))
print(json.dumps([told["cores"], told["usable_cores"], share_cores()]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == [os.cpu_count(), 1, [1, 1]]


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_the_quota_of_a_cgroup_limits_the_cores(monkeypatch, files, count):
    """Of both versions, as a container sees them."""
    exists = os.path.exists

    def look(path):
        return path.removeprefix(ROOT)[1:] in files if str(path).startswith(ROOT) else exists(path)

    def read(path, *rest):
        if str(path).startswith(ROOT):
            return io.StringIO(files[path.removeprefix(ROOT)[1:]])
        return builtins.open(path, *rest)  # noqa: PTH123

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(context, "_cpu_count_affinity", lambda _: 64)
    monkeypatch.setattr(os.path, "exists", look)
    monkeypatch.setattr(context, "open", read, raising=False)
    for name in ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    assert usable_cores() == count


def test_what_slurm_allocated_limits_the_cores(monkeypatch):
    monkeypatch.setattr(cores.joblib, "cpu_count", lambda: 64)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    for told, count in {"3": 3, "128": 64, "0": 64, "": 64, "2(x3)": 64, "-1": 64}.items():
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", told)
        assert usable_cores() == count
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "16")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert usable_cores() == 2


@pytest.mark.parametrize(
    ("threads", "processes", "shares"),
    [
        (None, None, (64, 1)),
        (None, 8, (8, 8)),
        (None, 100, (100, 1)),
        ("1", None, (64, 1)),
        ("1", 8, (8, 1)),  # eight threads each had been set
        ("4", None, (16, 4)),  # and not 64 runs
        ("4", 32, (32, 2)),
        ("4,2", 8, (8, 4)),
        ("128", None, (1, 64)),
        ("many", 8, (8, 8)),
        ("0", 8, (8, 8)),
    ],
)
def test_threads_are_no_more_than_the_user_says(monkeypatch, threads, processes, shares):
    monkeypatch.setattr(cores, "usable_cores", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert share_cores(processes) == shares


def test_the_threads_that_are_recorded_are_those_of_torch():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert describe_machine(torch.device("cpu"))["threads"] == 3
    finally:
        torch.set_num_threads(before)
