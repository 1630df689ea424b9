"""The reference against every other method: the differences, their intervals and their tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_iln.study.report.document import Block, Items, Picture, Row, Table, Text, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import INK, REFERENCE_COLOR, new_figure, styled
from monai_iln.study.report.wording import NO_NUMBER, count, minus, number, p_cell, p_value, place, shorten
from monai_iln.study.statistics import ALPHA, METRICS, MIN_SUBJECTS, MOST_EXACT, Comparison, Metric

_BY_RULE = {
    "nested": "by the nested rule",
    "paper": "by the paper's rule, hence optimistic",
    "single": "of the one learning rate that was tried",
}


def blocks(results: Results) -> list[Block]:
    """What a score is, then the comparisons: drawn, in numbers and in sentences."""
    unit = Text(
        f"The unit is the subject: its score is its {results.metric.mean} over its test {results.unit}s. Scores here "
        f"and below are {_BY_RULE[results.rule]}."
    )
    rows, metric = results.comparisons, results.metric
    if rows:
        sentences = [minus(comparison_sentence(row, metric)) for row in rows]
        return [unit, _picture(rows, metric), _table(rows, metric, results.unlearned), Items(sentences)]
    if results.reference not in results.shown_methods:
        why = f"The reference, {results.reference}, has no finished run, so nothing can be compared with it."
    else:
        why = "Only one method has finished runs, so there is nothing to compare."
    return [unit, absent(why)]


def comparison_sentence(row: Comparison, metric: Metric | None = None) -> str:
    """What a comparison found, in a sentence.

    Args:
        row: The comparison.
        metric: The metric of the study, if it is not one that every segmentation of this package has.

    Example:
        >>> from monai_iln.study.statistics import compare
        >>> scores = pd.DataFrame({"ILN": [0.9] * 6, "IN": [0.8, 0.81, 0.82, 0.83, 0.84, 0.85]})
        >>> print(comparison_sentence(compare(scores, "ILN")[0]))
        Dice of ILN 0.900, of IN 0.825: difference 0.075 (95 % interval 0.062 to 0.088), 6 subjects; ILN is better
        (Wilcoxon signed-rank test, p = 0.031 after Holm's correction).
    """
    metric = metric or METRICS[row.metric]
    unit = metric.unit

    def value(score: float) -> str:
        return f"{score:.{metric.decimals}f}"

    text = f"{metric.name} of {row.reference} "
    if where := place(row.dataset, row.structure):
        text = f"{where}: {text}"
    if not row.subjects:
        return f"{text}and of {row.other}: no subject has both; too few subjects to test."
    text += f"{value(row.mean_reference)}{unit}, of {row.other} {value(row.mean_other)}{unit}: difference "
    text += value(row.difference) + unit
    if not np.isnan(row.low):
        text += f" (95 % interval {value(row.low)} to {value(row.high)})"
    return f"{text}, {count(row.subjects, 'subject')}; {_conclusion(row)}."


def _conclusion(row: Comparison) -> str:
    if row.subjects < MIN_SUBJECTS:
        return "too few subjects to test"
    if np.isnan(row.p):
        return "no evidence of a difference, for no subject differs: there is nothing to test"
    test = f"(Wilcoxon signed-rank test, {p_value(row.p_holm)} after Holm's correction)"
    holds_zero = row.low <= 0 <= row.high
    if row.p_holm < ALPHA and row.better is None:
        return f"the methods differ {test}, but the mean and the ranks of the differences disagree on the better"
    if row.p_holm < ALPHA and holds_zero:
        return f"{row.better} is better {test}; the interval, which is of the mean, holds 0"
    if row.p_holm < ALPHA:
        return f"{row.better} is better {test}"
    if holds_zero:
        return f"no evidence of a difference {test}"
    return f"no evidence of a difference {test}; the interval excludes 0, but is of the mean and not corrected"


def _picture(rows: Sequence[Comparison], metric: Metric) -> Block:
    if all(np.isnan(row.difference) for row in rows):
        return absent("No subject was scored with the reference and with another method.")
    reference = rows[0].reference
    said = "; ".join(f"{row.other} {number(row.difference, metric.decimals, sign=True)}" for row in rows)
    return Picture(
        "differences",
        f"Mean difference in {metric.name} over subjects with its 95 % bootstrap interval; p after Holm's correction. "
        f"A filled point: p below 0.05. Orange: {reference} is better.",
        f"Forest plot of the differences in {metric.name}, {reference} minus the other method: {said}.",
        draw_differences(rows, metric),
    )


def _table(comparisons: Sequence[Comparison], metric: Metric, unlearned: set[tuple[str, str]]) -> Table:
    def value(score: float, sign: bool = False) -> str:
        return number(score, metric.decimals, sign)

    reference = comparisons[0].reference
    rows: list[Row] = []
    for (dataset, structure), group in _by_part(comparisons).items():
        learned = (dataset, structure) not in unlearned
        rows.append(Row([place(dataset, structure) + ("" if learned else ": no method learned it")], heading=True))
        for row in group:
            interval = NO_NUMBER
            if not np.isnan(row.low):
                interval = f"{value(row.low)} to {value(row.high)}"
            cells = [row.other, str(row.subjects), value(row.mean_reference), value(row.mean_other)]
            cells += [value(row.difference, sign=True), interval, p_cell(row.p), p_cell(row.p_holm)]
            bold: frozenset[int] = frozenset()
            if learned and row.p_holm < ALPHA:
                bold = frozenset({len(cells) - 1})
            rows.append(Row(cells, bold))
    caption = (
        f"{reference} against every other method: {metric.mean} over subjects, mean difference with its 95 % bootstrap "
        "interval, and p of Wilcoxon's signed-rank test, as it is and after Holm's correction (bold below 0.05)."
    )
    if max(row.subjects for row in comparisons) > MOST_EXACT:
        caption += f" With more than {MOST_EXACT} subjects, p is by the normal approximation."
    header = ["Other", "Subjects", reference, "Other", "Difference", "95 % interval", "p", "p (Holm)"]
    frame = pd.DataFrame([vars(row) for row in comparisons])
    frame.insert(list(frame).index("better"), "sentence", [comparison_sentence(row, metric) for row in comparisons])
    return Table("comparisons", caption, header, rows, frame)


def _by_part(comparisons: Sequence[Comparison]) -> dict[tuple[str, str], list[Comparison]]:
    """Comparisons by data set and structure."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for row in comparisons:
        groups.setdefault((row.dataset, row.structure), []).append(row)
    return groups


@styled
def draw_differences(comparisons: Sequence[Comparison], metric: Metric = METRICS["dice"]) -> Figure:
    """Forest plot: the mean difference of the reference to every other method, with its interval.

    Args:
        comparisons: The comparisons; those of a data set and structure get a panel. A filled point is a difference
            that the test, corrected for their number, finds.
        metric: The metric that they are of.
    """
    panels = _by_part([row for row in comparisons if not np.isnan(row.difference)])
    heights = [0.62 + 0.24 * len(rows) for rows in panels.values()]
    figure = new_figure(sum(heights) + 0.3)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, ((dataset, structure), rows) in zip(grid, panels.items(), strict=True):
        axes.axvline(0, color=INK, linewidth=0.8)
        for height, row in enumerate(rows):
            _draw_difference(axes, height, row, metric)
        axes.set_yticks(range(len(rows)), [shorten(row.other, 24) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(place(dataset, structure))
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
    reference = comparisons[0].reference
    side = "right" if metric.higher_is_better else "left"
    what = f"{metric.name} of {reference} minus {metric.name} of the other"
    grid[-1].set_xlabel(f"{what}: {side} of 0, {reference} is better")
    return figure


def _draw_difference(axes: Axes, height: int, row: Comparison, metric: Metric) -> None:
    color, inside, test = INK, "white", "not tested"
    if row.p_holm < ALPHA and (row.difference > 0) == metric.higher_is_better:
        color = REFERENCE_COLOR
    if row.p_holm < ALPHA:
        inside = color
    if not np.isnan(row.p_holm):
        test = p_value(row.p_holm)
    if not np.isnan(row.low):
        axes.plot([row.low, row.high], [height, height], color=color, linewidth=1.6, solid_capstyle="butt")
    axes.plot(row.difference, height, "o", color=color, markersize=5.5, markerfacecolor=inside)
    axes.annotate(
        f"{number(row.difference, metric.decimals, sign=True)}  {test}",
        (1.02, height),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        annotation_clip=False,
    )
