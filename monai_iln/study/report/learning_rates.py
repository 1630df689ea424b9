"""How much the learning rate matters."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_iln.study.report.document import Block, Picture, Row, Table, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import FAINT, INK, LEAST_SIZE, WIDTH, method_colors, new_figure, styled
from monai_iln.study.report.wording import NO_NUMBER, join, number, shorten, slug
from monai_iln.study.statistics import METRICS, Metric


def blocks(results: Results, dataset: str) -> list[Block]:
    """The score at every rate of one data set, drawn and in numbers; nothing where one rate was tried."""
    scores = _scores(results.runs[results.runs["dataset"] == dataset])
    if scores["learning_rate"].nunique() < 2:
        return []
    methods, metric = results.methods_of(scores), results.metric
    table = _table(scores, methods, dataset, results)
    if scores["score"].isna().all():
        said = f"{dataset}: no run finished at any learning rate, so there is no {metric.name} to draw."
        return [absent(said), table]
    picture = Picture(
        slug("learning_rates", dataset),
        f"{dataset}: {metric.mean} on the test {results.unit}s against the learning rate, over all folds and seeds "
        "that finished, with the other methods in grey. A cross with n/m: n of m runs diverged. It shows how sensitive "
        "a method is to the rate, not which rate to take.",
        f"{metric.name} against the learning rate of {join(methods)}; the table below has the numbers.",
        draw_rates(scores, methods, results.reference, metric),
    )
    return [picture, table]


def _scores(runs: pd.DataFrame) -> pd.DataFrame:
    """The mean score of the finished runs at every rate, and how many of the runs diverged."""
    records = []
    done = runs[runs["status"].isin(["finished", "diverged"])]
    for (method, rate), group in done.groupby(["method", "learning_rate"], sort=False):
        finished = group.loc[group["status"] == "finished", "test_score"]
        diverged = int((group["status"] == "diverged").sum())
        record = {"method": method, "learning_rate": rate, "score": finished.mean(), "finished": finished.count()}
        records.append({**record, "diverged": diverged, "runs": len(group)})
    return pd.DataFrame(records, columns=["method", "learning_rate", "score", "finished", "diverged", "runs"])


def _table(scores: pd.DataFrame, methods: Sequence[str], dataset: str, results: Results) -> Table:
    metric = results.metric
    rates = sorted(scores["learning_rate"].unique(), reverse=True)
    rows = []
    for method in methods:
        own = scores[scores["method"] == method].set_index("learning_rate")
        best = number(own["score"].max() if metric.higher_is_better else own["score"].min(), metric.decimals)
        cells, bold = [method], set()
        for column, rate in enumerate(rates, 1):
            if rate not in own.index:
                cells.append(NO_NUMBER)
                continue
            row = own.loc[rate]
            cell = number(row["score"], metric.decimals)
            if cell == best != NO_NUMBER:
                bold.add(column)
            if row["diverged"] == row["runs"]:
                cell = "diverged"
            elif row["diverged"]:
                cell += f" ({row['diverged']}/{row['runs']} div.)"
            cells.append(cell)
        rows.append(Row(cells, frozenset(bold)))
    caption = (
        f"{dataset}: {metric.mean} on test {results.unit}s by learning rate, over the runs that finished; the best of "
        "a row is bold."
    )
    if scores["diverged"].any():
        caption += " (n/m div.): n of m runs diverged."
    header = ["Method", *(f"{rate:g}" for rate in rates)]
    frame = scores.rename(columns={"score": metric.short})
    return Table(slug(f"{metric.short}_by_rate", dataset), caption, header, rows, frame)


@styled
def draw_rates(
    scores: pd.DataFrame, methods: Sequence[str], reference: str, metric: Metric = METRICS["dice"]
) -> Figure:
    """The score against the learning rate: a panel a method, the others behind it in grey.

    Args:
        scores: The scores, with the columns ``method``, ``learning_rate``, ``score`` (mean over the finished runs, NaN
            if there is none), ``diverged`` (number of runs that did) and ``runs``.
        methods: The methods, one panel each.
        reference: The method to highlight.
        metric: The metric.
    """
    columns = min(3, len(methods))
    rows = -(-len(methods) // columns)
    width = WIDTH if columns > 1 else 3.6
    figure = new_figure(0.5 + 1.55 * rows, width)
    colors = method_colors(methods, reference)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    rates = sorted(scores["learning_rate"].unique())
    low, high = _limits(scores["score"], metric)
    for axes in grid.flat[len(methods) :]:
        axes.set_axis_off()
    for axes, method in zip(grid.flat, methods, strict=False):
        for other in methods:
            line = scores[scores["method"] == other].sort_values("learning_rate")
            if other != method:
                axes.plot(line["learning_rate"], line["score"], color=FAINT, linewidth=0.8, zorder=1)
                continue
            style = {"linewidth": 1.8, "marker": "o", "markersize": 3.5, "zorder": 3}
            axes.plot(line["learning_rate"], line["score"], color=colors[method], **style)
            _mark_diverged(axes, line[line["diverged"] > 0], low + 0.06 * (high - low))
        axes.set_title(shorten(method, 21), fontweight="bold")
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=90 if len(rates) > 3 else 0)
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_ylim(low, high)
        axes.grid()
    figure.supxlabel("learning rate", fontsize=8.5)
    figure.supylabel(f"{metric.mean} in the test", fontsize=8.5)
    return figure


def _limits(scores: pd.Series[float], metric: Metric) -> tuple[float, float]:
    """The ends of the axis of scores; below the lowest there is room for crosses."""
    low, high = 0.0, 1.0
    if scores.notna().any():
        low, high = float(scores.min()), float(scores.max())
    margin = max(0.2 * (high - low), 0.02)
    low, high = low - 1.5 * margin, high + margin
    if metric.in_unit_interval:
        return max(0.0, low), min(1.0, high)
    return low, high


def _mark_diverged(axes: Axes, diverged: pd.DataFrame, place: float) -> None:
    for rate, count, runs in zip(diverged["learning_rate"], diverged["diverged"], diverged["runs"], strict=True):
        axes.plot(rate, place, "x", color=INK, markersize=5.5, markeredgewidth=1.5, zorder=4)
        label = f"{int(count)}/{int(runs)}"
        axes.annotate(label, (rate, place), xytext=(0, 5), textcoords="offset points", fontsize=LEAST_SIZE, ha="center")
