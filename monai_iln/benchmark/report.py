"""What a benchmark says: tables for people, JSON for later."""

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
    bandwidth = None if copy is None else gigabytes_per_second(setting, copy, COPY)
    lines = [setting.name]
    for phase in setting.phases():
        has_floor = phase in setting.floor_tensors
        header = f"  {phase:18}{'min':>9}{'median':>9}  {'quartiles, ms':17}{'x min':>7}{'x median':>9}{'x paired':>9}"
        lines += ["", header + ("   GB/s  of copy" if has_floor else "")]
        for result in setting.results:
            if phase in result.times_ms:
                lines.append(_row(setting, result, phase, bandwidth))
    lines += ["", *_peaks(setting)]
    lines += [f"  not run: {result.contestant}: {result.not_run}" for result in setting.results if result.not_run]
    if bandwidth is not None:
        lines.append(f"  copying a tensor: {bandwidth:.1f} GB/s; GB/s of a norm: least bytes it must move / min")
    if _reference(setting) is None:
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
    if ratio is not None:
        row += f"{ratio.of_minima:7.2f}{ratio.of_medians:9.2f}{ratio.paired:9.2f}"
    rate = gigabytes_per_second(setting, result, phase)
    if rate is not None:
        row += f"{' ' * 25 if ratio is None else ''}{rate:7.1f}"
        row += f"{rate / bandwidth:9.0%}" if bandwidth is not None else ""
    return row


def _peaks(setting: Setting) -> list[str]:
    lines = []
    for result in setting.results:
        if result.peak_bytes is not None:
            line = f"    {result.contestant:16}{result.peak_bytes / 2**20:9.1f} MiB"
            if setting.tensor_bytes is not None:
                line += f"  = {result.peak_bytes / setting.tensor_bytes:.2f} tensors of the input's size"
            lines.append(line)
    return ["  peak memory beyond input and weights", *lines, ""] if lines else []


def _reference(setting: Setting) -> Result | None:
    reference = setting.result(REFERENCE)
    return None if reference is None or reference.not_run else reference


def _ratios(setting: Setting, result: Result, phase: str) -> Ratios | None:
    reference = _reference(setting)
    if reference is None or phase not in reference.times_ms:
        return None
    return ratios(result.times_ms[phase], reference.times_ms[phase])
