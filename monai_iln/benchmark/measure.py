"""The measuring itself: interleaved timing and peak memory. Nothing here knows what it measures."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Phases = Mapping[str, Callable[[], object]]
"""The work of a contestant, phase by phase, in order; later phases may use what earlier ones left."""


def rotation(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: each contestant starts in turn, and every second pass goes backwards.

    A mere rotation would have everyone always run behind the same neighbour, in the cache that it left.

    Example:
        >>> [rotation("ABC", number) for number in range(4)]
        [['A', 'B', 'C'], ['B', 'C', 'A'], ['C', 'A', 'B'], ['C', 'B', 'A']]
    """
    passes, shift = divmod(number, len(names))
    order = list(names)
    if passes % 2:
        order.reverse()
    return order[shift:] + order[:shift]


def time_phases(phases: Phases, device: torch.device) -> dict[str, float]:
    """Run every phase once.

    On a GPU each phase is between two events of the stream and waited for, so that nothing of it hides in the next; the
    time of launching short kernels from Python is part of it.

    Returns:
        Milliseconds by phase.
    """
    times = {}
    for phase, function in phases.items():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")  # type: ignore[no-untyped-call]
            start.record()
            function()
            end.record()
            torch.cuda.synchronize(device)
            times[phase] = start.elapsed_time(end)
        else:
            begin = time.perf_counter()
            function()
            times[phase] = (time.perf_counter() - begin) * 1e3
    return times


def record_graphs(phases: Phases, device: torch.device) -> Phases:
    """The same work as CUDA graphs, one a phase: what the device does, without what Python takes to ask for it."""
    if device.type != "cuda":
        raise RuntimeError(f"a CUDA graph needs a CUDA device, not {device.type}")
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for function in list(phases.values()) * 3:  # memory, compilers and libraries settle before anything is recorded
            function()
    torch.cuda.current_stream(device).wait_stream(stream)
    pool = torch.cuda.graph_pool_handle()
    graphs = {}
    for phase, function in phases.items():
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            function()
        graphs[phase] = partial(_replay, graph, function)
    return graphs


def _replay(graph: torch.cuda.CUDAGraph, recorded: Callable[[], object]) -> None:
    """Replay a graph. It knows addresses only, so what it was recorded from must live as long."""
    graph.replay()


def interleave(
    contestants: Mapping[str, Phases],
    device: torch.device,
    *,
    rounds: int,
    warmup: int = 3,
    seconds: float | None = None,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, list[float]]]:
    """Time contestants against one another: every round runs each once, in an order that rotates.

    Whatever else the machine does then falls on all of them, where blocks of one contestant after another would let it
    fall on one. Python's garbage collector rests meanwhile.

    Args:
        contestants: The phases of each contestant, by its name.
        device: The device to wait for.
        rounds: The number of timed rounds.
        warmup: The number of rounds that are run before and forgotten.
        seconds: A limit: no round begins after them, but at least one is timed.
        tick: A function, called after every timed round.

    Returns:
        Milliseconds by contestant and phase, one entry a round.
    """
    names = list(contestants)
    times: dict[str, dict[str, list[float]]] = {
        name: {phase: [] for phase in phases} for name, phases in contestants.items()
    }
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(-warmup, rounds):
            if number == 0:
                begin = time.monotonic()
            for name in rotation(names, number + warmup):
                for phase, milliseconds in time_phases(contestants[name], device).items():
                    if number >= 0:
                        times[name][phase].append(milliseconds)
            if number >= 0:
                tick()
                if seconds is not None and time.monotonic() - begin >= seconds:
                    break
    finally:
        if collecting:
            gc.enable()
    return times


def peak_memory(phases: Phases, device: torch.device) -> int:
    """Bytes that running all phases once takes at its peak, beyond what is allocated before.

    On a GPU ``torch.cuda.max_memory_allocated`` tells. On the CPU the profiler records every allocation and release of
    torch's allocator, temporaries inside an operator and compiled code included, and the peak is that of their running
    sum. What libraries take past torch's allocator is in neither, such as the scratch space of a convolution.

    Example:
        >>> x = torch.zeros(1000)  # 4 kB; two more live at once
        >>> peak_memory({"sum": lambda: (x + 1) + (x + 2).sum()}, torch.device("cpu")) >= 8000
        True
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for function in phases.values():
            function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with quiet_profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for function in phases.values():
            function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return peak_of_trace(json.loads(trace.read_text(encoding="utf-8"))["traceEvents"])


def quiet_profile(**options: Any) -> profile:
    """``torch.profiler.profile`` that does not tell of itself on stderr, where the progress bar is."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    return profile(**options)


def peak_of_trace(events: Sequence[Mapping[str, Any]]) -> int:
    """Peak of the CPU memory that was allocated within a profiler's trace.

    Example:
        >>> def event(time, address, size):
        ...     return {"name": "[memory]", "ts": time, "args": {"Addr": address, "Bytes": size, "Device Type": 0}}
        >>> peak_of_trace([event(1, 7, 10), event(2, 8, 5), event(3, 7, -10), event(4, 9, 8), event(5, 1, -99)])
        15
    """
    live: dict[int, int] = {}
    total = peak = 0
    memory = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    for event in sorted(memory, key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            live[address] = size
            total += size
            peak = max(peak, total)
        else:
            total -= live.pop(address, 0)  # 0: the release of what was there before
    return peak
