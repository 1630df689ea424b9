"""What a training costs: parameters, time and memory."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.profiler import ProfilerActivity, profile

from monai_iln.benchmark.measure import peak_of_trace, quiet_profile
from monai_iln.handlers.ranks import is_first

_WARMUP = 3  # iterations that choose algorithms and fill caches
_PROFILED = 2  # the first iteration also makes the state of the optimizer


class SaveCost:
    """Parameters, time and memory of a training, to ``cost.json`` at its end.

    - ``parameters``: count of all that are trained.
    - ``steps``: iterations done.
    - ``seconds_per_step``: median over iterations of the time from the batch's arrival to the end of the iteration,
      loading left out. The first three are left out where there are more than six. On a GPU each step is waited for;
      whoever reads the loss of every iteration does so anyway.
    - ``train_seconds``: the whole loop, loading included, without validation and without measuring memory.
    - ``validation_seconds``: the runs of the evaluator, its handlers included.
    - ``peak_memory_bytes``: on a GPU the most that was allocated during the training. On the CPU what the second
      iteration allocates beyond what is there before it, in torch's allocator; ``null`` if there is no second. The
      two are not comparable.

    Attach it to the trainer as the first of its handlers, for what the others do at the end of an iteration counts as
    part of it if they come before. With several ranks the numbers are those of rank 0.

    Args:
        network: that is trained.
        output_dir: folder of the file; made if missing.
        evaluator: the validating engine, if there is one.
    """

    def __init__(self, network: nn.Module, output_dir: str, evaluator: Engine | None = None) -> None:
        self.network = network
        self.output_dir = Path(output_dir)
        self.evaluator = evaluator
        self._validating = 0.0
        self._profiler: profile | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._begin_step)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.COMPLETED, self._write)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop_profiler)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.STARTED, self._begin_validation)
            self.evaluator.add_event_handler(Events.COMPLETED, self._end_validation)

    def _start(self, engine: Engine) -> None:
        # An engine raises only what a handler of its raises on. This one comes after all others, which raise first.
        if not engine.has_event_handler(_raise, Events.EXCEPTION_RAISED):
            engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)
        self._device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._seconds: dict[int, float] = {}  # by step
        self._done = self._peak = 0
        self._validating = self._measuring = 0.0
        self._started = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _begin_step(self, engine: Engine) -> None:
        begin = self._now()
        if self._device.type == "cpu" and self._done + 1 == _PROFILED and is_first():
            self._profiler = quiet_profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profiler.start()
            self._measuring += self._now() - begin
        self._begun = begin

    def _end_step(self, engine: Engine) -> None:
        end = self._now()
        self._done += 1
        if self._profiler is None:
            self._seconds[self._done] = end - self._begun
            return
        self._profiler.stop()
        self._peak = _peak(self._profiler)
        self._profiler = None
        self._measuring += self._now() - end

    def _stop_profiler(self, engine: Engine, error: BaseException) -> None:
        if self._profiler is not None:
            self._profiler.stop()  # there is one in a process, and the next training needs it
            self._profiler = None

    def _begin_validation(self) -> None:
        self._validation_begun = time.perf_counter()

    def _end_validation(self) -> None:
        self._validating += time.perf_counter() - self._validation_begun

    def _write(self, engine: Engine) -> None:
        if not is_first():
            return
        total = self._now() - self._started
        if self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device)
        skipped = _WARMUP if self._done > 2 * _WARMUP else 0
        timed = [seconds for step, seconds in self._seconds.items() if step > skipped]
        cost: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in self.network.parameters() if parameter.requires_grad),
            "steps": self._done,
            "seconds_per_step": round(statistics.median(timed), 6),
            "train_seconds": round(total - self._validating - self._measuring, 3),
            "validation_seconds": round(self._validating, 3),
            "peak_memory_bytes": self._peak or None,
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        (self.output_dir / "cost.json").write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")


def _raise(engine: Engine, error: BaseException) -> None:
    raise error


def _peak(profiler: profile) -> int:
    """The most that was allocated while a profiler ran."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return peak_of_trace(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])
