"""The reference against every other method: the differences, their intervals and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_iln.errors import count
from monai_iln.study.report.document import Block, Items, Picture, Row, Table, Text, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import FAINT, GREY, INK, REFERENCE_COLOR, new_figure, styled
from monai_iln.study.report.wording import NO_NUMBER, join, minus, number, p_cell, p_value, place, shorten, slug
from monai_iln.study.statistics import ALPHA, METRICS, MIN_SUBJECTS, Metric
from monai_iln.study.verdicts import Verdict

_BY_RULE = {
    "nested": "by the nested rule",
    "paper": "by the paper's rule, hence optimistic",
    "single": "of the one learning rate that was tried",
}
_WORDS = {"better": "better", "worse": "worse", "equal": "practically equal", "unknown": "not known"}


def blocks(results: Results) -> list[Block]:
    """What a score is, then the comparisons: drawn, in numbers, and in sentences where these tell more."""
    unit = Text(
        f"A subject's score is its {results.metric.mean} over its test {results.unit}s. Scores here and below are "
        f"{_BY_RULE[results.rule]}. Intervals and p take in the chance of subjects, of folds and of trainings: they "
        "are about training the methods on these subjects once more."
    )
    rows, metric, margin = results.verdicts, results.metric, results.margin
    if rows:
        sentences = [minus(comparison_sentence(row, metric)) for row in _not_told_by_a_table(rows)]
        table = _table(rows, metric, margin, results.unlearned)
        return [unit, *_pictures(rows, metric, margin), table, *([Items(sentences)] if sentences else [])]
    if results.reference not in results.shown_methods:
        why = f"The reference, {results.reference}, has no finished run, so nothing can be compared with it."
    else:
        why = "Only one method has finished runs, so there is nothing to compare."
    return [unit, absent(why)]


def _not_told_by_a_table(rows: Sequence[Verdict]) -> list[Verdict]:
    """The comparisons of which a sentence tells why nothing was tested, what p says beside the interval, or the size.

    The CSV file has a sentence of each.
    """
    sizes = Counter((row.folds, row.seeds) for row in rows)
    usual = sizes.most_common(1)[0][0]
    alone = [row.answer == "unknown" and row.low * row.high > 0 for row in rows]
    return [
        row
        for row, excludes_zero in zip(rows, alone, strict=True)
        if excludes_zero or row.answer == "untested" or (row.folds, row.seeds) != usual
    ]


def comparison_sentence(row: Verdict, metric: Metric | None = None) -> str:
    """What a comparison found, in a sentence.

    Args:
        row: The verdict.
        metric: The metric of the study, if it is not one that every segmentation of this package has.

    Example:
        >>> row = Verdict("", "", "dice", "ILN", "IN", 6, 3, 2, 0.9, 0.825, 0.075, low=0.062, high=0.088, p=0.01,
        ...     p_holm=0.02, answer="better")
        >>> print(comparison_sentence(row))
        Dice of ILN 0.900, of IN 0.825: difference 0.075 (95 % interval 0.062 to 0.088), 6 subjects, 3 folds and
        2 seeds; ILN is better (p = 0.020 after Holm's correction).
    """
    metric = metric or METRICS[row.metric]
    unit = metric.unit

    def value(score: float) -> str:
        return f"{round(score, metric.decimals) + 0.0:.{metric.decimals}f}"  # no zero has a sign

    text = f"{metric.name} of {row.reference} "
    if where := place(row.dataset, row.structure):
        text = f"{where}: {text}"
    if np.isnan(row.difference):
        return f"{text}and of {row.other}: {row.reason or 'no subject has both'}, so nothing was tested."
    text += f"{value(row.mean_reference)}{unit}, of {row.other} {value(row.mean_other)}{unit}: difference "
    text += value(row.difference) + unit
    if not np.isnan(row.low):
        text += f" (95 % interval {value(row.low)} to {value(row.high)})"
    size = join([count(row.subjects, "subject"), count(row.folds, "fold"), count(row.seeds, "seed")])
    return f"{text}, {size}; {_conclusion(row)}."


def _conclusion(row: Verdict) -> str:
    test = f"({p_value(row.p_holm)} after Holm's correction)"
    if row.answer == "untested":
        return f"nothing was tested: {row.reason or 'no difference varies'}"
    if row.answer == "equal":
        certain = f": the difference is certain {test}, and too small to matter"
        return "practically equal" + (certain if row.p_holm < ALPHA else "")
    if row.answer == "unknown":
        within = row.low <= 0 <= row.high
        return f"no evidence of a difference {test}" + ("" if within else "; the interval, not corrected, excludes 0")
    return f"{row.better} is better {test}"


def _pictures(rows: Sequence[Verdict], metric: Metric, margin: float | None) -> list[Block]:
    """A picture for each data set and structure: one of all would be too small in print."""
    parts = {part: its for part, its in _by_part(rows).items() if not all(np.isnan(row.difference) for row in its)}
    if not parts:
        return [absent("No subject was scored with the reference and with another method.")]
    names = {part: slug("differences", *part) if len(parts) > 1 else "differences" for part in parts}
    return [_picture(names[part], its, metric, margin) for part, its in parts.items()]


def _picture(name: str, rows: Sequence[Verdict], metric: Metric, margin: float | None) -> Picture:
    reference = rows[0].reference
    said = "; ".join(f"{row.other} {number(row.difference, metric.decimals, sign=True)}" for row in rows)
    caption = (
        f"{place(rows[0].dataset, rows[0].structure)}: mean difference in {metric.name} with its 95 % interval, and p "
        f"after Holm's correction. A filled point: p below 0.05; in orange {reference} is better."
    )
    if margin is not None:
        caption += f" Grey, without p: practically equal, \N{PLUS-MINUS SIGN}{margin:g}{metric.unit}."
    return Picture(
        name,
        caption,
        f"Forest plot of the differences in {metric.name}, {reference} minus the other method: {said}.",
        draw_differences(rows, metric, margin),
    )


def _table(verdicts: Sequence[Verdict], metric: Metric, margin: float | None, unlearned: set[tuple[str, str]]) -> Table:
    def value(score: float, sign: bool = False) -> str:
        return number(score, metric.decimals, sign)

    reference = verdicts[0].reference
    rows: list[Row] = []
    for (dataset, structure), group in _by_part(verdicts).items():
        learned = (dataset, structure) not in unlearned
        rows.append(Row([place(dataset, structure) + ("" if learned else ": no method learned it")], heading=True))
        for row in group:
            interval = NO_NUMBER
            if not np.isnan(row.low):
                interval = f"{value(row.low)} to {value(row.high)}"
            cells = [row.other, str(row.subjects), value(row.mean_reference), value(row.mean_other)]
            cells += [value(row.difference, sign=True), interval, p_cell(row.p), p_cell(row.p_holm)]
            cells += [_WORDS.get(row.answer, NO_NUMBER), number(row.chance_of_better, 2), p_cell(row.p_subjects)]
            bold: frozenset[int] = frozenset()
            if learned and row.better is not None:
                bold = frozenset({cells.index(_WORDS[row.answer], 8)})
            rows.append(Row(cells, bold))
    caption = (
        f"{reference} against every other method: {metric.mean} over subjects, mean difference with its 95 % interval, "
        f"p as it is and after Holm's correction, what follows of {reference}, and the probability that it is better "
        "in one new training of each. The last column is Wilcoxon's signed-rank test over subjects, which knows "
        "nothing of folds and trainings: it asks whether these models differ, not whether the methods do."
    )
    if any(row.subjects < MIN_SUBJECTS for row in verdicts):
        caption += f" With fewer than {MIN_SUBJECTS} subjects no p of it could reach 0.05, and there is none."
    if margin is not None:
        caption += (
            f" Practically equal: the 90 % interval lies within \N{PLUS-MINUS SIGN}{margin:g}{metric.unit}, whatever p "
            "is. A small p says that there is a difference, and not that it matters."
        )
    header = ["Other", "Subjects", reference, "Other", "Difference", "95 % interval", "p", "p (Holm)"]
    header += [f"{reference} is", "Next time", "p (these models)"]
    frame = pd.DataFrame([vars(row) for row in verdicts])
    frame.insert(list(frame).index("answer"), "better", [row.better for row in verdicts])
    frame.insert(list(frame).index("better"), "sentence", [comparison_sentence(row, metric) for row in verdicts])
    return Table("comparisons", caption, header, rows, frame)


def _by_part(comparisons: Sequence[Verdict]) -> dict[tuple[str, str], list[Verdict]]:
    """Comparisons by data set and structure."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for row in comparisons:
        groups.setdefault((row.dataset, row.structure), []).append(row)
    return groups


@styled
def draw_differences(
    comparisons: Sequence[Verdict], metric: Metric = METRICS["dice"], margin: float | None = None
) -> Figure:
    """Forest plot: the mean difference of the reference to every other method, with its interval.

    Args:
        comparisons: The verdicts; those of a data set and structure get a panel. A filled point is a difference that
            the test, corrected for their number, finds, or one that is practically none.
        metric: The metric that they are of.
        margin: The difference that does not matter, drawn as a grey band.
    """
    panels = _by_part([row for row in comparisons if not np.isnan(row.difference)])
    heights = [0.62 + 0.24 * len(rows) for rows in panels.values()]
    figure = new_figure(sum(heights) + 0.3)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, ((dataset, structure), rows) in zip(grid, panels.items(), strict=True):
        if margin is not None:
            axes.axvspan(-margin, margin, color=FAINT, alpha=0.6, linewidth=0)
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
    reference = shorten(comparisons[0].reference, 24)
    side = "right" if metric.higher_is_better else "left"
    what = f"{metric.name} of {reference} minus {metric.name} of the other"
    grid[-1].set_xlabel(f"{what}\n{side} of 0: {reference} is better")
    return figure


def _draw_difference(axes: Axes, height: int, row: Verdict, metric: Metric) -> None:
    color, inside, test = INK, "white", "not tested"
    if row.answer == "better":
        color = REFERENCE_COLOR
    if row.better is not None:
        inside = color
    if not np.isnan(row.p_holm):
        test = p_value(row.p_holm)
    if row.answer == "equal":  # whatever p is
        color, inside, test = GREY, GREY, "equal"
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
