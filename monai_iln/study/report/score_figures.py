"""The figures of a report that show scores: comparisons, ranks, positions in the heart, volumes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scikit_posthocs import critical_difference_diagram

from monai_iln.study.report.figures import FAINT, GREY, INK, REFERENCE_COLOR, method_colors, new_figure, styled
from monai_iln.study.report.wording import number, p_value, shorten
from monai_iln.study.statistics import Agreement, Comparison, Ranking

MEASURES = {"edv": "EDV", "esv": "ESV", "ef": "EF"}
UNITS = {"edv": "ml", "esv": "ml", "ef": "%"}


@styled
def draw_differences(comparisons: Sequence[Comparison]) -> Figure:
    """Forest plot: the mean difference of the reference to every other method, with its interval.

    Args:
        comparisons: of one or several data sets and structures, which get a panel each. A filled point is a difference
            that the test, corrected for their number, finds.
    """
    panels: dict[tuple[str, str], list[Comparison]] = {}
    for row in comparisons:
        if not np.isnan(row.difference):
            panels.setdefault((row.dataset, row.structure), []).append(row)
    heights = [0.62 + 0.24 * len(rows) for rows in panels.values()]
    figure = new_figure(sum(heights) + 0.3)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, ((dataset, structure), rows) in zip(grid, panels.items(), strict=True):
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, row in enumerate(rows):
            found = row.p_holm < 0.05
            color = REFERENCE_COLOR if found and row.difference > 0 else INK
            if not np.isnan(row.low):
                axes.plot([row.low, row.high], [place, place], color=color, linewidth=1.6, solid_capstyle="butt")
            inside = color if found else "white"
            axes.plot(row.difference, place, "o", color=color, markersize=5.5, markerfacecolor=inside)
            p = p_value(row.p_holm)
            said = "not tested" if np.isnan(row.p_holm) else f"p {p}" if p.startswith("<") else f"p = {p}"
            axes.annotate(
                f"{number(row.difference, sign=True)}  {said}",
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(rows)), [shorten(row.other, 24) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(f"{dataset}, {structure}")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
    reference = comparisons[0].reference
    grid[-1].set_xlabel(f"Dice of {reference} minus Dice of the other: right of 0, {reference} is better")
    return figure


@styled
def draw_ranks(ranking: Ranking, reference: str) -> Figure:
    """Critical-difference diagram: average ranks, and bars over methods that Nemenyi's test does not tell apart.

    Args:
        ranking: of at least two methods, with ``nemenyi`` defined.
        reference: the method to highlight.
    """
    methods = list(ranking.average_ranks)
    figure = new_figure(1.1 + 0.2 * len(methods))
    axes = figure.subplots()
    colors = {method: REFERENCE_COLOR if method == reference else INK for method in methods}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own deprecated calls; the drawing is tested
        critical_difference_diagram(
            ranking.average_ranks,
            ranking.nemenyi.clip(0, 1),
            ax=axes,
            color_palette=colors,
            label_fmt_left="{label}  {rank:.2f}\N{NO-BREAK SPACE}",
            label_fmt_right="\N{NO-BREAK SPACE}{rank:.2f}  {label}",
            label_props={"fontsize": 8.5},
            marker_props={"s": 22},
            elbow_props={"linewidth": 0.9},
            crossbar_props={"color": GREY, "linewidth": 3.5, "solid_capstyle": "round"},
            text_h_margin=0.02 * (max(ranking.average_ranks.values()) - min(ranking.average_ranks.values())),
        )
    axes.spines["top"].set_visible(True)  # the axis: this report's style leaves it out elsewhere
    low, high = axes.get_xlim()
    axes.set_title("average rank, 1 is best", fontsize=8.5, loc="center", pad=14)
    axes.set_xticks(np.arange(np.ceil(low * 2), np.floor(high * 2) + 1) / 2)
    return figure


@styled
def draw_agreement(
    values: pd.DataFrame, agreements: Mapping[tuple[str, str], Agreement], methods: Sequence[str], reference: str
) -> Figure:
    """Bland-Altman plots: a row a method, a column each for EDV, ESV and EF.

    Args:
        values: a row a subject and method, columns ``method``, ``edv_truth``, ``edv_predicted`` and so on.
        agreements: by method and measure (``edv``, ``esv``, ``ef``): bias and limits.
        methods: top to bottom.
        reference: the method to highlight.
    """
    measures = [name for name in MEASURES if any(key[1] == name for key in agreements)]
    figure = new_figure(0.45 + 1.42 * len(methods))
    grid = figure.subplots(len(methods), len(measures), squeeze=False, sharex="col", sharey="col")
    for row, method in zip(grid, methods, strict=True):
        color = REFERENCE_COLOR if method == reference else INK
        for axes, measure in zip(row, measures, strict=True):
            chosen = values[values["method"] == method]
            truth, predicted = chosen[f"{measure}_truth"], chosen[f"{measure}_predicted"]
            axes.axhline(0, color=FAINT, linewidth=0.8)
            axes.scatter((truth + predicted) / 2, predicted - truth, s=11, color=color, alpha=0.6, linewidths=0)
            title = f"{shorten(method, 16)}: {MEASURES[measure]}"
            agreement = agreements.get((method, measure))
            if agreement is not None:
                lines = ((agreement.bias, "-"), (agreement.low, "--"), (agreement.high, "--"))
                for value, dashes in lines if not np.isnan(agreement.sd) else lines[:1]:
                    axes.axhline(value, color=color, linestyle=dashes, linewidth=0.9)
                title += f" {number(agreement.bias, 1, sign=True)} {UNITS[measure]}"
            axes.set_title(title, fontsize=8, color=color)
    for axes, measure in zip(grid[-1], measures, strict=True):
        axes.set_xlabel(f"mean of predicted and true {MEASURES[measure]}", fontsize=8)
    figure.supylabel("predicted minus true", fontsize=8.5)
    return figure


@styled
def draw_positions(images: pd.DataFrame, positions: Sequence[str], methods: Sequence[str], reference: str) -> Figure:
    """Boxes of Dice by position in the heart, a panel each.

    Args:
        images: of one data set and structure, columns ``subject``, ``phase``, ``slice``, ``position``, ``method`` and
            ``dice``. A box spans the quartiles, the lines go from the 5th to the 95th percentile.
        positions: left to right.
        methods: top to bottom.
        reference: the method to highlight.
    """
    figure = new_figure(0.8 + 0.23 * len(methods))
    colors = method_colors(methods, reference)
    panels = figure.subplots(1, len(positions), squeeze=False, sharey=True)[0]
    for axes, position in zip(panels, positions, strict=True):
        chosen = images[images["position"] == position]
        for place, method in enumerate(methods):
            values = chosen.loc[chosen["method"] == method, "dice"].dropna()
            if len(values):
                _box(axes, values, place, colors[method])
        count = len(chosen.drop_duplicates(["subject", "phase", "slice"]))
        axes.set_title(f"{position} ({count} images)")
        axes.set(xlabel="Dice", xlim=(-0.02, 1.02))
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(methods)), [shorten(method, 24) for method in methods])
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    return figure


def _box(axes: Axes, values: pd.Series[float], place: int, color: str) -> None:
    lowest, low, middle, high, highest = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95])
    axes.plot([lowest, low], [place, place], color=color, linewidth=1)
    axes.plot([high, highest], [place, place], color=color, linewidth=1)
    axes.barh(place, high - low, left=low, height=0.62, facecolor=color + "38", edgecolor=color, linewidth=0.9)
    axes.plot([middle, middle], [place - 0.31, place + 0.31], color=color, linewidth=2.2, solid_capstyle="butt")
