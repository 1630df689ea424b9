"""The picture of a benchmark: a panel a setting, the times of every contestant relative to those of instance norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_iln.benchmark.contestants import COMPILED, GRAPH, REFERENCE, plain_name
from monai_iln.benchmark.records import COPY, TOTAL, Result, Setting, paired_ratios, summarize

_COLORS = {"ILN": "#c2410c", REFERENCE: "#1d4ed8", "composed": "#7e22ce"}
_OTHERS = "#6b7280"


@rc_context({"text.parse_math": False})  # a dollar sign in a name is a dollar sign
def save_plot(settings: Sequence[Setting], caption: str, path: Path) -> None:
    """Draw settings below one another and phases beside one another.

    Args:
        settings: One setting or more.
        caption: A line on the machine and the time, below the panels.
        path: The PNG to write.
    """
    phases = [phase for phase in next((s.phases() for s in settings if s.phases()), []) if phase != TOTAL] or [""]
    rows = [[result for result in setting.results if result.contestant != COPY] for setting in settings]
    heights = [0.3 * len(results) + 0.9 for results in rows]
    figure = Figure(figsize=(2.2 + 5 * len(phases), sum(heights) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(settings), len(phases), squeeze=False, sharey="row", height_ratios=heights)
    for setting, results, panels in zip(settings, rows, axes, strict=True):
        for phase, panel in zip(phases, panels, strict=True):
            _draw(panel, setting, results, phase)
        panels[0].set_yticks(range(len(results)), [result.contestant for result in results])
        panels[0].set_ylim(len(results) - 0.4, -0.6)  # the first on top
    legend = (
        "A point is a round, a box spans the quartiles (dashed: compiled, dotted: graph), the number is the median; "
        "(n \N{RIGHTWARDS ARROW}): n rounds lie further right."
    )
    figure.supxlabel(f"{legend}\n{caption}", fontsize=7, color=_OTHERS)
    figure.savefig(path, dpi=150)


def _draw(panel: Axes, setting: Setting, results: Sequence[Result], phase: str) -> None:
    base = setting.times(REFERENCE, phase)
    title = setting.name
    if phase not in ("", "step"):
        title += f": {phase}"
    drawn = {row: result.times_ms[phase] for row, result in enumerate(results) if phase in result.times_ms}
    ends = []
    if base is not None:
        drawn = {row: paired_ratios(times, base) for row, times in drawn.items()}
        ends = [1.0]
    for values in drawn.values():
        summary = summarize(values)
        # An axis that reached the last outlier would squeeze what matters.
        whisker = summary.upper_quartile + 1.5 * (summary.upper_quartile - summary.lower_quartile)
        ends.append(min(whisker, 2.5 * summary.median))
    end = 1.1 * max(ends, default=1.0)
    for row, values in drawn.items():
        _strip(panel, row, values, end, results[row].contestant)
    for row, result in enumerate(results):
        if result.not_run:
            panel.text(0.01 * end, row, f"not run: {result.not_run[:48]}", va="center", fontsize=7, color=_OTHERS)
    if base is not None:
        panel.axvline(1, color=_COLORS[REFERENCE], linewidth=1, zorder=0)
        title += f" ({REFERENCE}: {summarize(base).median:.3g} ms)"
        panel.set_xlabel(f"time relative to {REFERENCE} in the same round", fontsize=8)
    else:
        panel.set_xlabel("ms", fontsize=8)
    panel.set_xlim(0, end)
    panel.set_title(title, fontsize=9, loc="left")
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _strip(panel: Axes, row: int, values: Sequence[float], end: float, contestant: str) -> None:
    """All values as points, their quartiles as a box with the median, which is also written beside the panel."""
    color = _COLORS.get(plain_name(contestant), _OTHERS)
    style = {COMPILED: "--", GRAPH: ":"}.get(contestant.removeprefix(plain_name(contestant)), "-")
    inside = [value for value in values if value <= end]
    jitter = np.random.default_rng(row).uniform(-0.22, 0.22, len(inside))
    panel.scatter(inside, row + jitter, s=6, color=color, alpha=0.35, linewidths=0)
    summary = summarize(values)
    panel.barh(
        row,
        summary.upper_quartile - summary.lower_quartile,
        left=summary.lower_quartile,
        height=0.6,
        facecolor="none",
        edgecolor=color,
        linestyle=style,
    )
    panel.plot([summary.median] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2)
    beyond = len(values) - len(inside)
    text = f" {summary.median:.2f}"
    if beyond:
        text += f"  ({beyond} \N{RIGHTWARDS ARROW})"
    panel.text(end, row, text, va="center", fontsize=7, color=color)
