"""From contestants and work to a setting's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from monai_iln.benchmark.contestants import Contestant
from monai_iln.benchmark.measure import Phases, interleave, peak_memory, record_graphs
from monai_iln.benchmark.records import COPY, TOTAL, Result, Setting


def run_setting(
    name: str,
    contestants: Sequence[Contestant],
    make: Callable[[Contestant], Phases],
    device: torch.device,
    *,
    copy: Phases | None = None,
    tensor_bytes: int | None = None,
    floor_tensors: Mapping[str, int] | None = None,
    rounds: int,
    warmup: int,
    seconds: float | None = None,
    tick: Callable[[], object] = lambda: None,
    tell: Callable[[str], object] = lambda _: None,
) -> Setting:
    """Measure contestants against one another.

    Whoever cannot run is left out of the rounds and stays in the results, with the reason.

    Args:
        name: The name of the setting.
        contestants: The contestants.
        make: A function that makes the work of one of them.
        device: The device that they run on.
        copy: The copy of a tensor, timed in the same rounds.
        tensor_bytes: The size of the input, see :class:`Setting`.
        floor_tensors: The least traffic of a norm, see :class:`Setting`.
        rounds: The number of timed rounds, see :func:`interleave`.
        warmup: The number of rounds before them.
        seconds: The budget of the timed rounds.
        tick: A function, called after every timed round.
        tell: A function, called with what is done at the moment.
    """
    if any(contestant.compiled for contestant in contestants):
        torch.compiler.reset()  # what was compiled for one setting counts against the limit of recompilations later
    entries: dict[str, Phases] = {}
    peaks: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for contestant in contestants:
        tell(f"{name}: preparing {contestant.name}")
        try:
            phases = make(contestant)
            for function in phases.values():
                function()
            if contestant.graph:  # its memory is its own from the recording on
                phases = record_graphs(phases, device)
            else:
                peaks[contestant.name] = peak_memory(phases, device)
        except Exception as error:  # compilers, and devices out of memory, raise nearly anything
            reasons[contestant.name] = failure(error)
        else:
            entries[contestant.name] = phases
    if copy is not None:
        entries[COPY] = copy
    tell(name)
    times = {}
    if entries:
        times = interleave(entries, device, rounds=rounds, warmup=warmup, seconds=seconds, tick=tick)
    results = []
    for contestant in contestants:
        if contestant.name in reasons:
            results.append(Result(contestant.name, not_run=reasons[contestant.name]))
        else:
            results.append(Result(contestant.name, with_total(times[contestant.name]), peaks.get(contestant.name)))
    if copy is not None:
        results.append(Result(COPY, times[COPY]))
    return Setting(name, results, tensor_bytes, dict(floor_tensors or {}))


def with_total(times: dict[str, list[float]]) -> dict[str, list[float]]:
    """Add the sum of forward and backward, round by round.

    Example:
        >>> with_total({"forward": [1.0, 2.0], "backward": [3.0, 5.0]})["forward+backward"]
        [4.0, 7.0]
    """
    if not {"forward", "backward"} <= times.keys():
        return times
    return times | {TOTAL: [sum(pair) for pair in zip(times["forward"], times["backward"], strict=True)]}


def failure(error: Exception) -> str:
    """Why something could not run, in one short line.

    Example:
        >>> failure(RuntimeError("no   compiler"))
        'RuntimeError: no compiler'
    """
    text = " ".join(str(error).split()).partition(" Set TORCHDYNAMO_VERBOSE")[0] or "no message"
    if len(text) > 200:
        text = f"{text[:200]}..."
    return f"{type(error).__name__}: {text}"
