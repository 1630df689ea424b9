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
from monai_iln.files import write_json
from monai_iln.handlers.ranks import is_first
from monai_iln.run_files import COST

_WARMUP = 3  # iterations that choose algorithms and fill caches
_PROFILED = 2  # the first iteration also makes the state of the optimizer


class SaveCost:
    """Saves parameters, time and memory of a training to ``cost.json`` at its end.

    - ``parameters``: The number of all parameters that are trained.
    - ``steps``: The number of iterations.
    - ``seconds_per_step``: The median time of an iteration, from the arrival of its batch to its end, so without
      loading. The first three iterations do not count where there are more than six. On a GPU each step is waited
      for; whoever reads the loss of every iteration does so anyway.
    - ``train_seconds``: The time of the whole loop with loading, without validation and without measuring memory.
    - ``validation_seconds``: The time of the evaluator and its handlers.
    - ``peak_memory_bytes``: On a GPU, the most that was allocated during the training. On the CPU, what torch's
      allocator allocates in the second iteration beyond what is there before it; ``null`` if there is no second, or
      another profiler runs. The two are not comparable.

    Attach it to the trainer as the first of its handlers: what an earlier handler does at the end of an iteration
    counts as part of the iteration. With several ranks the numbers are those of rank 0.

    Args:
        network: The network that is trained.
        output_dir: The folder of the file. It is made if it is missing.
        evaluator: The engine that validates, if there is one.
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
        self._validating = self._measuring = 0.0  # seconds
        self._started = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _begin_step(self, engine: Engine) -> None:
        begin = self._now()
        # There is one profiler in a process: that of somebody else goes on, and the memory is not known.
        free = not torch.autograd._profiler_enabled()
        if self._device.type == "cpu" and self._done + 1 == _PROFILED and is_first() and free:
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
        timed = list(self._seconds.values())
        if self._done > 2 * _WARMUP:
            timed = [seconds for step, seconds in self._seconds.items() if step > _WARMUP]
        trained = [parameter.numel() for parameter in self.network.parameters() if parameter.requires_grad]
        cost: dict[str, Any] = {
            "parameters": sum(trained),
            "steps": self._done,
            "seconds_per_step": round(statistics.median(timed), 6),
            "train_seconds": round(total - self._validating - self._measuring, 3),
            "validation_seconds": round(self._validating, 3),
            "peak_memory_bytes": self._peak or None,
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(self.output_dir / COST, cost)


def _raise(engine: Engine, error: BaseException) -> None:
    raise error


def _peak(profiler: profile) -> int:
    """Find the most that was allocated while a profiler ran."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return peak_of_trace(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])
