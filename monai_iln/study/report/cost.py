"""What each method costs: parameters, time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monai_iln.study.report.document import Block, Row, Table, Text, absent
from monai_iln.study.report.published import TIME_RATIO
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import NO_NUMBER, number

_MEBIBYTE = 2**20
_INSTANCE_NORM = "IN"  # what the paper compares times with


def blocks(results: Results) -> list[Block]:
    """How the costs were measured, and their table."""
    finished = results.runs[results.runs["status"] == "finished"]
    if finished["seconds_per_step"].isna().all():
        return [absent("No finished run recorded its time per step.")]
    methods = results.methods_of(finished)
    base = _INSTANCE_NORM if _INSTANCE_NORM in methods else results.reference
    text = (
        "Runs shared the machine with one another and with whatever else ran on it, so times are rough. The ratio is "
        "the median over pairs of runs with the same data, fold, learning rate and seed."
    )
    if results.is_of_ventricles and {"ILN", _INSTANCE_NORM} <= set(methods):
        text += f" For ILN the paper reports {TIME_RATIO:.3f}."
    found: list[Block] = [Text(text), _table(records(results.runs, methods, base), base)]
    if finished["peak_memory_bytes"].isna().all():
        found.append(absent("Peak memory is missing: no run measured it."))
    return found


def records(runs: pd.DataFrame, methods: Sequence[str], base: str) -> list[dict[str, Any]]:
    """What each method costs, unrounded.

    Args:
        runs: The runs, with the columns of ``runs.csv``.
        methods: The methods, a record each.
        base: The method whose time per step is 1 in ``"ratio"``.
    """
    finished = runs[runs["status"] == "finished"]
    keys = ["dataset", "fold", "learning_rate", "seed"]
    steps = finished.pivot_table(index=keys, columns="method", values="seconds_per_step", aggfunc="first")
    found = []
    for method in methods:
        own = finished[finished["method"] == method]
        milliseconds = 1000 * own["seconds_per_step"]
        ratio = np.nan
        if {base, method} <= set(steps.columns):
            ratio = _median(steps[method] / steps[base])
        record = {
            "method": method,
            "parameters": _median(own["parameters"]),
            "ms_per_step": _median(milliseconds),
            "ms_per_step_lowest": milliseconds.min(),
            "ms_per_step_highest": milliseconds.max(),
            "ratio_to": base,
            "ratio": ratio,
            "peak_memory_mib": _median(own["peak_memory_bytes"]) / _MEBIBYTE,
            "train_minutes": _median(own["train_seconds"]) / 60,
            "all_runs_hours": runs.loc[runs["method"] == method, "total_seconds"].sum() / 3600,
        }
        found.append(record)
    return found


def _table(found: Sequence[Mapping[str, Any]], base: str) -> Table:
    rows = []
    for record in found:
        time = number(record["ms_per_step"], 1)
        lowest, highest = record["ms_per_step_lowest"], record["ms_per_step_highest"]
        if lowest < highest:
            time += f" ({number(lowest, 1)}\N{EN DASH}{number(highest, 1)})"
        cells = [record["method"], thousands(record["parameters"]), time, number(record["ratio"], 2)]
        cells += [number(record["peak_memory_mib"], 0), number(record["train_minutes"], 1)]
        rows.append(Row([*cells, number(record["all_runs_hours"], 2)]))
    header = ["Method", "Parameters", "Time of a step, ms: median (range)", f"Ratio to {base}", "Peak memory, MiB"]
    header += ["Training of one run, min", "All runs, h"]
    return Table("cost", "What each method costs.", header, rows, pd.DataFrame(found))


def thousands(value: float) -> str:
    """A whole number with commas; a dash where there is none.

    Example:
        >>> thousands(2161880.0), thousands(float("nan"))
        ('2,161,880', '–')
    """
    return NO_NUMBER if pd.isna(value) else f"{value:,.0f}"


def _median(values: pd.Series[float]) -> float:
    """The median of what was measured; NaN where nothing was, of which some versions of pandas warn."""
    return float(values.dropna().median())
