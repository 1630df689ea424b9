"""What becomes of the scores under changes of the test images: of intensity, place, size and batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monai_iln.errors import count
from monai_iln.run_files import OF_INTENSITIES, UNCHANGED
from monai_iln.study.report.document import Block, Items, Picture, Row, Table, Text, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.robustness_means import chosen_runs, judge, margin_of, means, read
from monai_iln.study.report.style import FAINT, GREY, legend_name, method_colors, new_figure, styled
from monai_iln.study.report.wording import capital, join, number, slug
from monai_iln.study.statistics import Metric

CHANGES = {
    "gain": "gain",
    "offset": "offset",
    "bias field": "a bias field",
    "shift": "a shift",
    "smaller": "a smaller field of view",
    "larger": "a larger field of view",
    "batch": "another batch",
}
"""The changes in a sentence by their names."""

_COLUMNS = ("gain", "offset", "bias field", "shift", "smaller", "larger", "batch")
_NARROW = 4.2  # inches: what a telephone shows at full size
_ROW, _DOT = 0.2, 0.13  # inches, of a change and of each method in it


def blocks(results: Results) -> list[Block]:
    """Sentences, a table and a figure for each data set; nothing where no run was measured."""
    cases = read(results)
    if cases.empty:
        return []
    found: list[Block] = [Text(_INTRODUCTION)]
    for dataset in [name for name in results.datasets if name in set(cases["dataset"])]:
        own = cases[cases["dataset"] == dataset]
        margin = margin_of(own, results.metric)
        summary = judge(own, results.metric, margin)
        table = _table(results, dataset, summary, margin)
        told = [_sentence(method, rows, results.metric) for method, rows in summary.groupby("method", sort=False)]
        told += [_shift_sentence(own), _borders_sentence(own), _empty_sentence(own), _lacking(own)]
        found += [Items(list(filter(None, told))), table, _picture(results, dataset, summary, margin)]
        found.append(Text(_uncertainty(own, results.metric.decimals)))
    missing = sorted(set(chosen_runs(results)["run"]) - set(cases["run"]))
    if missing:
        several = f"{count(len(missing), 'finished run')} without measurement, such as {missing[0]}"
        found.append(absent(f"{several}: methods may have been measured on different cases."))
    moved = set(cases["change"]) - {UNCHANGED, *OF_INTENSITIES}
    return [*found, Items(_INTENSITIES + (_PLACES if moved else []))]


_INTRODUCTION = (
    "The finished weights predict the same test cases again, with one thing changed after the bundle's own "
    "preprocessing. Steady means that the mean score changes by less than 0.01, or less than a hundredth where scores "
    "are not between 0 and 1. A method that scores badly has little to lose: read the changes beside its score."
)
_INTENSITIES = [
    "Gain: intensities times 1.2. Offset: plus 0.2 standard deviations. Bias field: times a smooth field, 0.8 to 1.2.",
]
_PLACES = [
    "Shift: windows lie half a step further. An image that is taken as a whole moves by a quarter of its lengths.",
    "Smaller and larger field of view: windows, or else images, have 0.75 and 1.5 times their lengths, or the nearest "
    "ones that the network takes. What a larger image has more is the median of its border.",
    "Batch: each case is alone and not in its batch. A single one is beside the one before it.",
    "What has moved is moved back before the score, and what was cut off keeps its unchanged prediction.",
]


def lines(results: Results) -> list[str]:
    """What the summary says: the change that most is lost under, for each data set where a method is not steady."""
    cases, said = read(results), []
    for dataset in results.datasets:
        own = cases[cases["dataset"] == dataset]
        rows = _worst(own, results.metric)
        bad = rows[rows["verdict"] == "worse"].sort_values("loss", ascending=False)
        if bad.empty:
            continue
        kept = list(rows.loc[rows["verdict"].isin(["steady", "better"]), "method"])
        where = f" on {dataset}" if len(results.datasets) > 1 else ""
        lost = [f"{number(row['loss'], results.metric.decimals)} ({row['method']})" for row in bad.to_dict("records")]
        verb = "falls" if results.metric.higher_is_better else "rises"
        text = f"{results.metric.mean} {verb} by {join(lost)} under {CHANGES[bad['change'].iloc[0]]}"
        if kept:
            text += f"; {join(kept)} {'keeps' if len(kept) == 1 else 'keep'} it"
        said.append(f"What the scores hide{where}: {text}.")
    return said


def _worst(cases: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The rows of the change that most is lost under, beyond doubt; of any other where none is."""
    margin, rows = margin_of(cases, metric), pd.DataFrame({"verdict": [], "method": [], "loss": []})
    if cases.empty:
        return rows
    found = means(cases)
    losses = -found["difference"] if metric.higher_is_better else found["difference"]
    order = losses.groupby(found["change"]).max().sort_values(ascending=False)
    for change in order[order >= margin].index:
        rows = judge(cases[cases["change"] == change], metric, margin)
        if (rows["verdict"] == "worse").any():
            break
    return rows


def _sentence(method: Any, rows: pd.DataFrame, metric: Metric) -> str:
    """What a method is steady under, what it loses and gains under what, and what is not clear."""
    told: dict[str, list[str]] = {"steady": [], "worse": [], "better": [], "unclear": []}
    for row in rows[(rows["change"] != UNCHANGED) & (rows["verdict"] != "")].to_dict("records"):
        name, decimals = CHANGES[str(row["change"])], metric.decimals
        ends = sorted((row["low"], row["high"]), key=abs)
        if row["verdict"] in ("worse", "better"):
            low, high = (number(abs(end), decimals) for end in ends)
            name = f"{number(abs(row['loss']), decimals)} ({low} to {high}) under {name}"
        elif row["verdict"] == "unclear":
            name += f" ({number(row['difference'], decimals, sign=True)})"
        told[str(row["verdict"])].append(name)
    parts = []
    if told["steady"]:
        parts.append(f"is steady under {join(told['steady'])}")
    verbs = ("loses", "gains") if metric.higher_is_better else ("errs more by", "errs less by")
    for verb, found in zip(verbs, (told["worse"], told["better"]), strict=True):
        if found:
            parts.append(f"{verb} {join(found)}")
    if told["unclear"]:
        why = "but the interval includes 0"
        if rows.loc[rows["verdict"] == "unclear", "low"].isna().all():
            why = "but one fold does not tell that from chance"
        parts.append(f"may change under {join(told['unclear'])}, {why}")
    return f"{method} {'; it '.join(parts)}." if parts else ""


def _shift_sentence(cases: pd.DataFrame) -> str:
    own = means(cases[cases["change"] == "shift"])
    if own.empty or own["disagreement"].isna().all():
        return ""
    told = [f"{row['method']} {number(row['disagreement'])}" for row in own.to_dict("records")]
    return f"Masks under a shift disagree with the unchanged ones (one minus Dice) by: {', '.join(told)}."


def _borders_sentence(cases: pd.DataFrame) -> str:
    if not _has_masks(cases):
        return ""
    own = means(cases[cases["change"] == "shift"])
    if own.empty or own["near_borders"].isna().all():
        return "Seams: none to look for, since no mask is predicted in windows."
    told = [
        f"{row['method']} {number(row['near_borders'])} and {number(row['elsewhere'])}"
        for row in own.to_dict("records")
    ]
    return f"Seams: the same at the borders of windows, and elsewhere: {', '.join(told)}."


def _empty_sentence(cases: pd.DataFrame) -> str:
    if not _has_masks(cases):
        return ""
    own = cases[cases["change"] == UNCHANGED]
    if not (own["empty_windows"] > 0).any():
        return "Windows without any object: there are none among the test cases."
    told = [f"{row['method']} {number(100 * row['marked'], 2)} %" for row in means(own).to_dict("records")]
    return f"Share of voxels that is marked in windows without any object: {', '.join(told)}."


def _has_masks(cases: pd.DataFrame) -> bool:
    return bool(cases["disagreement"].notna().any())


def _lacking(cases: pd.DataFrame) -> str:
    measured = set(cases.loc[cases["difference"].notna(), "change"])
    names = [CHANGES[change] for change in _COLUMNS if change not in measured]
    if not names:
        return ""
    return f"Not measured, since the network or its inferer does not take it: {join(names)}."


def _uncertainty(cases: pd.DataFrame, decimals: int) -> str:
    summary = means(cases)
    subjects = count(cases["subject"].nunique(), "subject")
    said = f"Brackets and lines are 95 % intervals, with the chance of {subjects}, of folds and of trainings."
    if (summary["seeds"] > 1).any():
        spread = number(summary["between_seeds"].max(), decimals)
        return f"{said} Between seeds, the mean of a method and change differs by up to {spread}."
    return f"{said} There is one seed, so the luck of trainings is taken from that of folds; of one fold there is none."


def _table(results: Results, dataset: str, summary: pd.DataFrame, margin: float) -> Table:
    decimals = results.metric.decimals
    present = [change for change in _COLUMNS if change in set(summary["change"])]
    rows = []
    for method in results.methods_of(summary):
        own = summary[summary["method"] == method].set_index("change")
        cells, bold = [method, number(own["score"].get(UNCHANGED), decimals)], set()
        for change in present:
            difference = own["difference"].get(change)
            if difference is not None and abs(difference) >= margin:
                bold.add(len(cells))
            cells.append(number(difference, decimals, sign=True))
        rows.append(Row(cells, frozenset(bold)))
    besides = " and the disagreement of masks" if _has_masks(summary) else ""
    caption = (
        f"{dataset}: {results.metric.mean} of the unchanged test cases, and its change under each change of them. "
        f"Bold: by {number(margin, decimals)} or more. The CSV file has intervals{besides}."
    )
    header = ["Method", "Unchanged", *map(capital, present)]
    return Table(slug("robustness", dataset), caption, header, rows, summary)


def _picture(results: Results, dataset: str, summary: pd.DataFrame, margin: float) -> Picture:
    return Picture(
        slug("robustness", dataset),
        f"{dataset}: change of {results.metric.mean} under each change of the test cases, with 95 % intervals. "
        "In the grey band a method is steady.",
        f"Changes of {results.metric.mean} by method and change of the image; the table has the numbers.",
        draw_robustness(summary, results.methods_of(summary), results.reference, results.metric, margin),
    )


@styled
def draw_robustness(
    summary: pd.DataFrame, methods: Sequence[str], reference: str, metric: Metric, margin: float
) -> Figure:
    """Dots with intervals, a row for each change and in it one for each method.

    Args:
        summary: The means as :func:`~monai_iln.study.report.robustness_means.judge` returns them.
        methods: The methods, top to bottom.
        reference: The method to highlight.
        metric: The metric.
        margin: The half width of the band in which a method is steady.
    """
    changes = [change for change in _COLUMNS if change in set(summary["change"])]
    step = _ROW + _DOT * len(methods)
    figure = new_figure(0.9 + step * len(changes) + 0.17 * ((len(methods) + 2) // 3), _NARROW)
    axes = figure.subplots()
    axes.axvspan(-margin, margin, color=FAINT, alpha=0.6, linewidth=0)
    axes.axvline(0, color=GREY, linewidth=0.7)
    colors = method_colors(methods, reference)
    for place, method in enumerate(methods):
        own = summary[summary["method"] == method].set_index("change").reindex(changes)
        heights = np.arange(len(changes)) * step + place * _DOT
        axes.hlines(heights, own["low"], own["high"], color=colors[method], linewidth=1.2)
        axes.plot(own["difference"], heights, "o", color=colors[method], markersize=4, label=legend_name(method, 20))
    middle = _DOT * (len(methods) - 1) / 2
    axes.set_yticks(np.arange(len(changes)) * step + middle, list(map(capital, changes)))
    axes.set_ylim(step * len(changes) - _ROW / 2, -_ROW)
    axes.set_xlabel(f"change of {metric.mean}")
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=min(3, len(methods)))
    return figure
