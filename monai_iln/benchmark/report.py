"""The results of a benchmark: tables for people, JSON for later."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from monai_iln.benchmark.contestants import REFERENCE
from monai_iln.benchmark.records import (
    COPY,
    Ratios,
    Result,
    Setting,
    gigabytes_per_second,
    ratios,
    summarize,
)


def table(setting: Setting) -> str:
    """One setting as text: a block a phase, a line a contestant."""
    copy = setting.result(COPY)
    bandwidth = None
    if copy is not None:
        bandwidth = gigabytes_per_second(setting, copy, COPY)
    lines = [setting.name]
    for phase in setting.phases():
        header = f"  {phase:18}{'min':>9}{'median':>9}  {'quartiles, ms':17}{'x min':>7}{'x median':>9}{'x paired':>9}"
        if phase in setting.floor_tensors:
            header += "   GB/s  of copy"
        lines += ["", header]
        for result in setting.results:
            if phase in result.times_ms:
                lines.append(_row(setting, result, phase, bandwidth))
    lines += ["", *_peaks(setting)]
    lines += [f"  not run: {result.contestant}: {result.not_run}" for result in setting.results if result.not_run]
    if bandwidth is not None:
        lines.append(f"  copying a tensor: {bandwidth:.1f} GB/s; GB/s of a norm: least bytes it must move / min")
    reference = setting.result(REFERENCE)
    if reference is None or reference.not_run:
        lines.append(f"  no ratios: {REFERENCE!r}, which they are taken to, was not run")
    else:
        lines.append(f"  x: times those of {REFERENCE!r}; paired: median of the ratios round by round")
    return "\n".join(lines)


def document(setting: Setting) -> dict[str, Any]:
    """One setting for JSON: every time of every round, and the summaries of the table."""
    results = []
    for result in setting.results:
        summary = {}
        for phase, times in result.times_ms.items():
            ratio = _ratios(setting, result, phase)
            summary[phase] = {
                **asdict(summarize(times)),
                f"ratios_to_{REFERENCE}": None if ratio is None else asdict(ratio),
                "gigabytes_per_second": gigabytes_per_second(setting, result, phase),
            }
        results.append({**asdict(result), "summary_ms": summary})
    return {**asdict(setting), "results": results}


def _row(setting: Setting, result: Result, phase: str, bandwidth: float | None) -> str:
    s = summarize(result.times_ms[phase])
    quartiles = f"{s.lower_quartile:.3f} - {s.upper_quartile:.3f}"
    row = f"    {result.contestant:16}{s.minimum:9.3f}{s.median:9.3f}  {quartiles:17}"
    ratio = _ratios(setting, result, phase)
    ratios_text = ""
    if ratio is not None:
        ratios_text = f"{ratio.of_minima:7.2f}{ratio.of_medians:9.2f}{ratio.paired:9.2f}"
    rate = gigabytes_per_second(setting, result, phase)
    if rate is None:
        return row + ratios_text
    row += f"{ratios_text:25}{rate:7.1f}"
    if bandwidth is not None:
        row += f"{rate / bandwidth:9.0%}"
    return row


def _peaks(setting: Setting) -> list[str]:
    lines = []
    for result in setting.results:
        if result.peak_bytes is not None:
            line = f"    {result.contestant:16}{result.peak_bytes / 2**20:9.1f} MiB"
            if setting.tensor_bytes is not None:
                line += f"  = {result.peak_bytes / setting.tensor_bytes:.2f} tensors of the input's size"
            lines.append(line)
    if not lines:
        return []
    return ["  peak memory beyond input and weights", *lines, ""]


def _ratios(setting: Setting, result: Result, phase: str) -> Ratios | None:
    base = setting.times(REFERENCE, phase)
    if base is None:
        return None
    return ratios(result.times_ms[phase], base)
