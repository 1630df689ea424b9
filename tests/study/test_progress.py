"""What a study tells while it runs."""

import contextlib
import io
import json
import os
import re
import struct
import sys
import time
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from monai_iln.run_files import CURVES, PROGRESS, ROBUSTNESS
from monai_iln.study import progress
from monai_iln.study.grid import Run
from monai_iln.study.progress import (
    RobustnessProgress,
    RunProgress,
    ScoresProgress,
    StudyProgress,
    TrialProgress,
    duration,
    read_progress,
    time_left,
)
from monai_iln.study.records import unfinished_path
from monai_iln.study.worker import logged


def make_run(method, seed=0):
    return Run("data", method, method, 0, 0.1, seed, (), (), {}, "hash", "protocol", {}, None)


def tell(folder, epoch=3, seconds=60.0, left=120.0):
    folder.mkdir(parents=True, exist_ok=True)
    told = {"epoch": epoch, "epochs": 9, "iteration": 5, "iterations": 400, "loss": 1, "started": 0}
    (folder / PROGRESS).write_text(json.dumps(told | {"seconds": seconds, "left": left}))


def finish(folder, seconds=100.0):
    folder.mkdir(parents=True)
    scores = {"test_dice": 0.5, "validation_dice": None}
    record = {"config_hash": "hash", "status": "finished", "scores": scores, "cost": {"total_seconds": seconds}}
    (folder / "run.json").write_text(json.dumps(record))


def test_what_a_run_does(tmp_path):
    assert read_progress(tmp_path).words == "starting"
    (tmp_path / PROGRESS).write_text("{")
    assert read_progress(tmp_path).words == "starting", "what is damaged is not told"
    tell(tmp_path)
    assert read_progress(tmp_path) == RunProgress("epoch 3/9, 2.0 min left", 60.0, 120.0, 400)
    tell(tmp_path, left=None)
    assert read_progress(tmp_path) == RunProgress("epoch 3/9", 60.0, None, 400)
    (tmp_path / PROGRESS).unlink()
    CURVES.write(tmp_path, [(1, 0.5, None)])
    assert read_progress(tmp_path) == RunProgress("evaluating", None, 0.0)


START = RunProgress("starting")
HALF = RunProgress("epoch 5/9", 50.0, 50.0)


@pytest.mark.parametrize(
    ("finished", "running", "waiting", "left"),
    [
        ([], [], 5, None),
        ([], [START], 5, None),
        ([100.0], [], 5, 500.0),
        ([], [HALF], 5, 550.0),  # no run has finished
        ([], [HALF, HALF], 4, 250.0),  # two at a time
        ([], [HALF, START], 0, 100.0),  # the longer one ends last
        ([300.0, 200.0], [HALF], 1, 250.0),
        ([100.0], [RunProgress("evaluating", None, 0.0)], 1, 100.0),
    ],
)
def test_the_time_that_is_left(finished, running, waiting, left):
    assert time_left(finished, running, waiting) == left


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(30, "0.5 min"), (3599, "60.0 min"), (3600, "1 h 0 min"), (7199, "2 h 0 min"), (7320, "2 h 2 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands; looks are taken by the test."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_POLL_SECONDS", 3600)
    return now


def test_looking_takes_a_twentieth_of_the_time(monkeypatch):
    times, pauses = iter([0.0, 0.001, 10.0, 12.0]), []
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    watch = progress.ScoresProgress.__new__(progress.ScoresProgress)
    watch.look = lambda: None
    watch._stop = SimpleNamespace(wait=lambda pause: pauses.append(pause) or len(pauses) == 3)
    watch._repeat()
    assert pauses == [0.5, 0.5, 40.0]


def test_a_log_gets_a_line_a_minute_and_one_for_each_run(tmp_path, clock, capfd):
    runs = [make_run(name) for name in ("ILN", "IN", "BN")]
    with StudyProgress(runs, tmp_path) as shown:
        shown.begin(runs, "token")
        tell(unfinished_path(tmp_path / runs[0].path, "token"))
        tell(unfinished_path(tmp_path / runs[1].path, "another"))
        for second in range(1, 181):
            clock[0] = 1000 + second * 0.5
            shown.look()
        assert capfd.readouterr().err == (
            "0 of 3 runs finished, about 8.0 min left; data, ILN, fold 0, rate 0.1, seed 0: epoch 3/9, 2.0 min left\n"
        )
        finish(tmp_path / runs[0].path)
        shown.look()
        assert capfd.readouterr().err == "data, ILN, fold 0, rate 0.1, seed 0: test Dice 0.500 (100 s)\n"
        clock[0] += 60
        shown.look()
        assert capfd.readouterr().err == "1 of 3 runs finished, about 3.3 min left\n"
        for run in runs[1:]:
            finish(tmp_path / run.path)
        clock[0] += 60
    assert len(capfd.readouterr().err.splitlines()) == 2, "and none of a time when all is done"


def test_before_anything_is_known(tmp_path, clock, capfd):
    runs = [make_run("ILN")]
    with StudyProgress(runs, tmp_path) as shown:
        clock[0] += 60
        shown.look()
    assert capfd.readouterr().err == "0 of 1 runs finished, time left not known yet\n"


def test_of_many_runs_some_are_shown(tmp_path, clock, capfd):
    runs = [make_run("ILN", seed) for seed in range(20)]
    with StudyProgress(runs, tmp_path) as shown:
        shown.begin(runs, "token")
        for run in runs:
            tell(unfinished_path(tmp_path / run.path, "token"))
        clock[0] += 60
        shown.look()
    told = capfd.readouterr().err
    assert told.count("epoch 3/9") == 7
    assert told.endswith("; and 13 more\n")


@contextlib.contextmanager
def terminal():
    """A terminal in the place of stderr; yields a function that tells what was written to it."""
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    kept = os.dup(2)
    os.dup2(slave, 2)
    os.set_blocking(master, False)

    def read():
        written = b""
        while True:
            try:
                written += os.read(master, 65536)
            except BlockingIOError:
                return written.decode()

    try:
        yield read
    finally:
        os.dup2(kept, 2)
        for number in (kept, master, slave):
            os.close(number)


def test_a_terminal_shows_a_bar_and_a_line_for_each_run(tmp_path, clock):
    runs = [make_run("ILN"), make_run("IN")]
    with terminal() as screen, StudyProgress(runs, tmp_path) as shown:
        shown.begin(runs, "token")
        folder = unfinished_path(tmp_path / runs[0].path, "token")
        tell(folder, epoch=1)
        shown.look()
        assert re.search(r"Study: .*0/2 .*about 5\.0 min left", screen())
        tell(folder, epoch=2)
        shown.look()
        written = screen()
        assert "  data, ILN, fold 0, rate 0.1, seed 0: epoch 2/9, 2.0 min left" in written
        finish(tmp_path / runs[0].path)
        shown.look()
        written = screen()
        assert "data, ILN, fold 0, rate 0.1, seed 0: test Dice 0.500 (100 s)" in written
        assert re.search(r"Study: +50%.*1/2 \[.*, about 1\.7 min left\]", written)
        assert "epoch" not in written[written.rindex("Study") :], "its line is empty"


@pytest.mark.parametrize("name", ["tqdm", "tqdm.auto"])
def test_bars_change_once_in_ten_seconds_in_a_log(tmp_path, monkeypatch, name):
    """Those of MONAI and of ignite too, which take them from other places."""
    bars = pytest.importorskip(name)
    now = [100.0]
    for stage in ("log", "screen"):
        file = io.StringIO()
        with logged(tmp_path / "log.txt") if stage == "log" else open(os.devnull):  # noqa: PTH123
            bar = bars.tqdm(total=1000, file=file, miniters=1)
            monkeypatch.setattr(bar, "_time", lambda: now[0])
            bar.last_print_t = bar.start_t = now[0]
            states = file.getvalue().count("\r")
            for _ in range(1000):
                now[0] += 0.1
                bar.update()
            states = file.getvalue().count("\r") - states
            bar.close()
        assert 8 <= states <= 10 if stage == "log" else states > 400, stage
    assert tqdm(disable=True).__init__.__func__ is tqdm.__init__


def measured(folder, runs):
    for run in runs:
        (folder / run.path).mkdir(parents=True, exist_ok=True)
        (folder / run.path / ROBUSTNESS.name).touch()


def test_robustness_is_a_line_a_minute_in_a_log(tmp_path, clock, capfd):
    runs = [make_run("ILN", seed) for seed in range(18)]
    with RobustnessProgress(runs, tmp_path) as shown:
        shown.look()
        for number in range(18):
            measured(tmp_path, runs[: number + 1])
            clock[0] += 5
            shown.look()
    assert capfd.readouterr().err == (
        "robustness: 0 of 18 finished runs measured\nrobustness: 12 of 18 finished runs measured\n"
        "robustness: 18 of 18 finished runs measured\n"  # once
    )


def test_robustness_is_a_bar_on_a_terminal(tmp_path, clock):
    runs = [make_run("ILN", seed) for seed in range(4)]
    with terminal() as screen, RobustnessProgress(runs, tmp_path) as shown:
        shown.look()
        assert re.search(r"Robustness: +0%.*0/4", screen())
        measured(tmp_path, runs[:3])
        clock[0] += 5
        shown.look()
        assert re.search(r"Robustness: +75%.*3/4", screen())


def test_a_dry_run_is_never_silent_for_ten_seconds(tmp_path, clock, capfd):
    folder = tmp_path / "run"
    with TrialProgress(make_run("ILN"), folder, steps=8) as shown:
        said = []
        for second in range(120):
            clock[0] = 1000.0 + second / 2
            if second == 30:
                tell(folder)
            shown.look()
            told = capfd.readouterr().err
            said += [(clock[0], line) for line in told.splitlines()]
    times = [when for when, _ in said]
    assert all(later - earlier < 10 for earlier, later in zip(times, [*times[1:], 1060.0], strict=True))
    lines = [line for _, line in said]
    assert lines[:2] == [
        "dry run: a trial of data, ILN, fold 0, rate 0.1, seed 0, one epoch of at most 8 steps",
        "dry run: starting, after 8 s",
    ]
    assert "dry run: it takes 400 steps in all" in lines
    assert lines[-1].startswith("dry run: epoch 3/9, 2.0 min left, after ")
    assert len(lines) < 15


def test_it_tells_by_itself(tmp_path, monkeypatch, capfd):
    """No one looks but its own thread."""
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.01)
    with TrialProgress(make_run("ILN"), tmp_path, steps=8), logged(tmp_path / "log.txt"):
        print("of the run", file=sys.stderr)
        deadline = time.monotonic() + 30
        while "a trial" not in capfd.readouterr().err:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_plan_is_not_silent_while_it_scores(clock, capfd):
    with ScoresProgress() as shown:
        for _ in range(20):
            clock[0] += 1
            shown.look()
    assert capfd.readouterr().err.splitlines() == [
        f"plan: two cases are being scored, for {seconds} s" for seconds in (8, 16)
    ]
