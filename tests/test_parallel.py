import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from monai_iln import parallel
from monai_iln.errors import UserError
from monai_iln.parallel import Workers, run_in_parallel


def square(number):
    return number * number, os.getpid()


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number):
    raise UserError(f"{number}: no such number")


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_in_the_order_of_the_tasks(jobs):
    results = list(run_in_parallel(square, range(20), Workers(jobs)))
    assert [square for square, _ in results] == [number**2 for number in range(20)]
    processes = {process for _, process in results}
    assert (os.getpid() in processes) is (jobs == 1)


def test_little_work_starts_no_process():
    assert {process for _, process in run_in_parallel(square, range(100))} == {os.getpid()}


def test_no_task_at_all():
    assert list(run_in_parallel(square, [], Workers(2))) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_the_user_passes_through(jobs):
    with pytest.raises(UserError, match="^3: no such number$"):
        list(run_in_parallel(refuse, [3, 3], Workers(jobs)))


def test_a_killed_process_is_told():
    with pytest.raises(UserError, match="a process of 2 was killed, as the system does when memory ends"):
        list(run_in_parallel(die, [1, 2, 3], Workers(2)))


def test_a_process_watches_its_parent_once(monkeypatch):
    started = []
    watcher = SimpleNamespace(start=lambda: started.append("watches"))
    monkeypatch.setattr(parallel, "_WATCHED", set())
    monkeypatch.setattr(parallel.threading, "Thread", lambda **_: watcher)
    assert [parallel.end_with(os.getpid()), parallel.end_with(os.getppid()), parallel.end_with(os.getppid())] == [
        False,
        True,
        False,
    ]
    assert started == ["watches"]


def test_a_missing_ray_is_told_before_there_is_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="backend 'ray' needs ray"):
        Workers(backend="ray", address="head:6379")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"jobs": 0}, "Choose 1 or more"),
        ({"backend": "dask"}, "one of loky, ray"),
        ({"address": "head:6379"}, "address head:6379: a cluster is reached by the backend ray alone"),
    ],
)
def test_workers_that_there_are_not(wrong, message):
    with pytest.raises(UserError, match=message):
        Workers(**wrong)


@pytest.mark.slow
def test_processes_end_with_their_parent(tmp_path):
    """A process that is killed cannot end its workers."""
    program = f"""
import os, time
from pathlib import Path
from monai_iln import parallel
from monai_iln.parallel import Workers, run_in_parallel

def work(number):
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    list(run_in_parallel(work, range(8), Workers(2)))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(map(runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, workers))


def runs(process):
    """Whether a process does anything; one that nobody waits for stays as a zombie."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
