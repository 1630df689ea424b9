"""What a study tells while it runs: how far each run is, and the time that is left."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from monai_iln.errors import UserError
from monai_iln.run_files import CURVES, PROGRESS, ROBUSTNESS
from monai_iln.study.grid import Run
from monai_iln.study.records import read_record, unfinished_path

Watch = TypeVar("Watch", bound="_Watch")

_POLL_SECONDS = 0.5
_LOG_SECONDS = 60.0  # between two lines where nobody watches
_TRIAL_SECONDS = 8.0  # between two lines of a plan or a dry run, which are never ten apart
_BAR_SECONDS = 10.0  # between two states of a training's bar in its log
_MOST_SHOWN = 8  # runs


class RunProgress(NamedTuple):
    """How far a run is.

    Attributes:
        words: What it does, and the time that its training takes from now on.
        seconds: The time that its training has taken so far, if it is known.
        left: The time that its training takes from now on, if it is known.
        steps: The number of steps of the whole training, if it is known.
    """

    words: str
    seconds: float | None = None
    left: float | None = None
    steps: int | None = None


def read_progress(folder: Path) -> RunProgress:
    """Read how far a run is.

    Args:
        folder: The folder that it works in.
    """
    try:
        told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        words, left = f"epoch {told['epoch']}/{told['epochs']}", told["left"]
        if left is not None:
            words += f", {duration(left)} left"
        return RunProgress(words, told["seconds"], left, told["iterations"])
    except (OSError, ValueError, KeyError, TypeError):  # there is none before and after the training
        if (folder / CURVES.name).is_file():
            return RunProgress("evaluating", None, 0.0)
        return RunProgress("starting")


def time_left(finished: Sequence[float], running: Sequence[RunProgress], waiting: int) -> float | None:
    """Estimate the time that a study takes from now on, in seconds.

    Runs that wait will take the mean time of those that are known, as many at a time as run now.

    Args:
        finished: The times of the finished runs.
        running: The runs under way.
        waiting: The number of runs that have not begun.

    Returns:
        The time; ``None`` as long as nothing is known.

    Example:
        >>> time_left([], [RunProgress("epoch 1/4", 10.0, 30.0), RunProgress("epoch 2/4", 20.0, 20.0)], waiting=2)
        65.0
    """
    known = [one.seconds + one.left for one in running if one.seconds is not None and one.left is not None]
    lengths = [*finished, *known]
    if not lengths:
        return None
    typical = sum(lengths) / len(lengths)
    lefts = [typical if one.left is None else one.left for one in running]
    shared = (sum(lefts) + typical * waiting) / max(1, len(lefts))
    return max([shared, *lefts])


def duration(seconds: float) -> str:
    """Tell a time in hours and minutes.

    Example:
        >>> duration(4000), duration(7199)
        ('1 h 7 min', '2 h 0 min')
    """
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


@contextlib.contextmanager
def slow_bars() -> Iterator[None]:
    """Let bars of tqdm that are made meanwhile change once in ten seconds: in a log, each state is a line."""
    usual = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(usual, mininterval=_BAR_SECONDS)  # type: ignore[assignment]
    try:
        yield
    finally:
        tqdm.__init__ = usual  # type: ignore[method-assign]


class _Watch:
    """Calls :meth:`look` up to twice a second while a ``with`` block runs, and once at its end."""

    def __enter__(self: Watch) -> Watch:
        # A copy of stderr: a run in this very process sends the original to its log.
        self.terminal = os.fdopen(os.dup(2), "w")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with self.terminal:
            self.look()
            self.close()

    def _repeat(self) -> None:
        pause = _POLL_SECONDS
        while not self._stop.wait(pause):
            begun = time.monotonic()
            self.look()
            # Of thousands of runs, or on a slow file system, looking takes a twentieth of the time at most.
            pause = max(_POLL_SECONDS, 20 * (time.monotonic() - begun))

    def look(self) -> None:
        """Look at what has changed, and tell it; each kind of progress looks elsewhere."""
        raise NotImplementedError

    def close(self) -> None:
        """What is done at last, as long as there is a terminal."""


class StudyProgress(_Watch):
    """Tells of each run that finishes, of those under way, and of the time that is left.

    On a terminal, a bar and lines below it do so; elsewhere, as in a log file, a line a minute. It looks at the folders
    of the runs, as anybody could.

    Args:
        runs: The runs that the study is to do.
        folder: The folder of the study.
    """

    def __init__(self, runs: Sequence[Run], folder: Path) -> None:
        self.waiting = {run.path: run for run in runs}
        self.folder = folder
        self._total = len(runs)
        self._folders: dict[Path, Path] = {}  # of the runs that are being done, until everything is in them
        self._seconds: list[float] = []  # of the runs that finished
        self._bars: list[Any] = []
        self._told = time.monotonic()

    def begin(self, runs: Sequence[Run], token: str) -> None:
        """Tell which runs are being done.

        Args:
            runs: The runs.
            token: The token in the names of their folders.
        """
        self._folders = {run.path: unfinished_path(self.folder / run.path, token) for run in runs}

    def close(self) -> None:
        for bar in reversed(self._bars):
            bar.close()

    def look(self) -> None:
        self._look_at_records()
        running = {
            path: read_progress(folder)
            for path, folder in self._folders.items()
            if path in self.waiting and folder.is_dir()
        }
        left = time_left(self._seconds, list(running.values()), len(self.waiting) - len(running))
        rest = "time left not known yet" if left is None else f"about {duration(left)} left"
        lines = [f"{self.waiting[path]}: {progress.words}" for path, progress in running.items()]
        if len(lines) > _MOST_SHOWN:
            lines[_MOST_SHOWN - 1 :] = [f"and {len(lines) - _MOST_SHOWN + 1} more"]
        if self.terminal.isatty():
            self._show(rest, lines)
        elif self.waiting and time.monotonic() - self._told >= _LOG_SECONDS:
            self._told = time.monotonic()
            done = self._total - len(self.waiting)
            self.write("; ".join([f"{done} of {self._total} runs finished, {rest}", *lines]))

    def _look_at_records(self) -> None:
        for path, run in list(self.waiting.items()):
            try:
                record = read_record(self.folder / path)
            except UserError:
                continue
            if record is None or record["config_hash"] != run.config_hash:
                continue
            del self.waiting[path]
            self._seconds.append(record["cost"]["total_seconds"])
            self.write(f"{run}: {summarize(record)}")

    def write(self, line: str) -> None:
        """Write a line above the bars.

        Args:
            line: The line.
        """
        tqdm.write(line, file=self.terminal)
        self.terminal.flush()

    def _show(self, rest: str, lines: Sequence[str]) -> None:
        """Draw the bar, and below it a line for each run."""
        if not self._bars:
            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            self._bars.append(tqdm(total=self._total, desc="Study", bar_format=form, **self._place()))
        while len(self._bars) <= len(lines):
            self._bars.append(tqdm(bar_format="  {desc}", leave=False, **self._place()))
        study, *others = self._bars
        study.n = self._total - len(self.waiting)
        study.set_postfix_str(rest)
        width = os.get_terminal_size(self.terminal.fileno()).columns - 3
        for bar, line in zip(others, itertools.chain(lines, itertools.repeat("")), strict=False):
            bar.set_description_str(line[:width])

    def _place(self) -> dict[str, Any]:
        return {"file": self.terminal, "position": len(self._bars), "dynamic_ncols": True}


class RobustnessProgress(_Watch):
    """Tells how many finished runs have been measured: by a bar on a terminal, elsewhere by a line a minute.

    Args:
        runs: The runs to measure.
        folder: The folder of the study.
    """

    def __init__(self, runs: Sequence[Run], folder: Path) -> None:
        self.runs, self.folder = list(runs), folder
        self._bar: tqdm[Any] | None = None
        self._told = -_LOG_SECONDS  # the first line comes at once
        self._said = -1

    def look(self) -> None:
        done = sum((self.folder / run.path / ROBUSTNESS.name).is_file() for run in self.runs)
        now = time.monotonic()
        if self.terminal.isatty():
            self._bar = self._bar or tqdm(total=len(self.runs), desc="Robustness", file=self.terminal)
            self._bar.n = done
            self._bar.refresh()
        elif now - self._told >= _LOG_SECONDS or self._said < done == len(self.runs):
            self._told, self._said = now, done
            print(f"robustness: {done} of {len(self.runs)} finished runs measured", file=self.terminal, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class TrialProgress(_Watch):
    """Tells how far the trial of a dry run is, so often that it is never silent for ten seconds.

    Args:
        run: The run that is tried.
        folder: The folder that it works in.
        steps: The largest number of steps of its epoch.
    """

    def __init__(self, run: Run, folder: Path, steps: int) -> None:
        self.folder = folder
        self._news = [f"dry run: a trial of {run}, one epoch of at most {steps} steps"]
        self._counted = False
        self._begun = time.monotonic()
        self._told = 0.0

    def look(self) -> None:
        progress = read_progress(self.folder)
        if progress.steps is not None and not self._counted:
            self._counted = True
            self._news.append(f"dry run: it takes {progress.steps} steps in all")
        now = time.monotonic()
        if not self._news and now - self._told >= _TRIAL_SECONDS:
            self._news.append(f"dry run: {progress.words}, after {now - self._begun:.0f} s")
        if self._news:
            self._told = now
            print(*self._news, sep="\n", file=self.terminal, flush=True)
            self._news.clear()


class ScoresProgress(_Watch):
    """Tells that the plan scores two cases, as often as :class:`TrialProgress`: large images take a while."""

    def __init__(self) -> None:
        self._begun = self._told = time.monotonic()

    def look(self) -> None:
        now = time.monotonic()
        if now - self._told >= _TRIAL_SECONDS:
            self._told = now
            print(f"plan: two cases are being scored, for {now - self._begun:.0f} s", file=self.terminal, flush=True)


def summarize(record: Mapping[str, Any]) -> str:
    """Tell in half a line how a run went.

    Args:
        record: The record of a finished run.
    """
    seconds = f"{record['cost']['total_seconds']:.0f} s"
    if record["status"] == "diverged":
        return f"diverged ({seconds})"
    scores = record["scores"]
    name = "Dice" if "test_dice" in scores else "score"
    told = [
        f"{part} {name} {value:.3f}"
        for part in ("test", "validation")
        if (value := scores.get(f"{part}_{name.lower()}")) is not None
    ]
    return f"{', '.join(told) or 'no score'} ({seconds})"
