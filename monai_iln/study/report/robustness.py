"""What becomes of the scores under changes of the test images: of intensity, place, size and batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monai_iln.run_files import ROBUSTNESS, UNCHANGED
from monai_iln.study.report.document import Block, Items, Picture, Row, Table, Text, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import FAINT, GREY, method_colors, new_figure, styled
from monai_iln.study.report.wording import capital, count, join, number, shorten, slug
from monai_iln.study.selection import GROUP
from monai_iln.study.statistics import Metric, bootstrap_mean

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

_MARGIN = 0.01  # of a score between 0 and 1, or of the mean of another
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
        summary = summarize(own)
        margin = margin_of(summary, results.metric)
        table = _table(results, dataset, summary, margin)
        told = [
            _sentence(method, rows, results.metric, margin) for method, rows in summary.groupby("method", sort=False)
        ]
        told += [_shift_sentence(own), _borders_sentence(own), _empty_sentence(own), _lacking(own)]
        found += [Items(list(filter(None, told))), table, _picture(results, dataset, summary, margin)]
        found.append(Text(_uncertainty(own, results.metric.decimals)))
    missing = sorted(set(_chosen_runs(results)["run"]) - set(cases["run"]))
    if missing:
        several = f"{count(len(missing), 'finished run')} without measurement, such as {missing[0]}"
        found.append(absent(f"{several}: methods may have been measured on different cases."))
    return [*found, Items(_EXPLANATION)]


_INTRODUCTION = (
    "The finished weights predict the same test cases again, with one thing changed after the bundle's own "
    "preprocessing. What has moved is moved back, and what was cut off keeps its unchanged prediction."
)
_EXPLANATION = [
    "Gain: intensities times 1.2. Offset: plus 0.2 standard deviations. Bias field: times a smooth field, 0.8 to 1.2.",
    "Shift: windows lie half a step further. An image that is taken as a whole moves by a quarter of its lengths.",
    "Smaller and larger field of view: windows, or else images, have 0.75 and 1.5 times their lengths, or the nearest "
    "ones that the network takes. What a larger image has more is the median of its border.",
    "Batch: each case is alone and not in its batch. A single one is beside the one before it.",
]


def lines(results: Results) -> list[str]:
    """What the summary says: the worst change of each data set, if it exceeds the margin for some method."""
    cases, said = read(results), []
    for dataset in results.datasets:
        own = cases[cases["dataset"] == dataset]
        if own.empty:
            continue
        summary = summarize(own, intervals=False)
        margin = margin_of(summary, results.metric)
        losses = _losses(summary, results.metric)
        worst = UNCHANGED
        if losses.notna().any():
            worst = str(summary["change"].iloc[int(losses.argmax())])
        rows = summary[summary["change"] == worst].assign(loss=losses)
        bad = rows[rows["loss"] >= margin].sort_values("loss", ascending=False)
        if bad.empty:
            continue
        steady = [method for method in results.methods_of(rows) if method not in set(bad["method"])]
        where = f" on {dataset}" if len(results.datasets) > 1 else ""
        lost = [f"{number(row['loss'], results.metric.decimals)} ({row['method']})" for row in bad.to_dict("records")]
        text = f"{results.metric.mean} {_worse(results.metric)} by {join(lost)} under {CHANGES[worst]}"
        if steady:
            text += f"; {join(steady)} {'keeps' if len(steady) == 1 else 'keep'} it"
        said.append(f"What the scores hide{where}: {text}.")
    return said


def read(results: Results) -> pd.DataFrame:
    """The measured cases of the chosen runs, each with the difference to its score without a change."""
    keys = ["run", *GROUP, "learning_rate", "seed"]
    tables = []
    for run in _chosen_runs(results).to_dict("records"):
        table = ROBUSTNESS.read_if_any(results.folder / str(run["run"]))
        if table is None:
            continue
        unchanged = table.loc[table["change"] == UNCHANGED].set_index("image")["score"]
        table["difference"] = table["score"] - table["image"].map(unchanged).astype(float)
        tables.append(table.assign(**{key: run[key] for key in keys}))
    if not tables:
        return pd.DataFrame(columns=[*ROBUSTNESS.columns, *keys, "difference"])
    cases = pd.concat(tables, ignore_index=True)
    order = {method: place for place, method in enumerate(results.methods)}
    return cases.sort_values("method", key=lambda names: names.map(order), kind="stable")


def _chosen_runs(results: Results) -> pd.DataFrame:
    finished = results.runs[results.runs["status"] == "finished"]
    if not results.rule:
        return finished.iloc[:0]
    keys = [*GROUP, "learning_rate"]
    return finished.merge(results.chosen[results.rule][keys], on=keys)


def summarize(cases: pd.DataFrame, intervals: bool = True) -> pd.DataFrame:
    """A row for each method and change: means over subjects, seeds averaged, and a 95 % interval over subjects.

    Args:
        cases: The cases of one data set, as :func:`read` returns them.
        intervals: If false, the intervals are left out, which take their time.
    """
    rows = []
    for (method, change), group in cases.groupby(["method", "change"], sort=False, observed=True):
        numbers = ["score", "difference", "disagreement", "near_borders", "elsewhere", "marked"]
        subjects = group.groupby("subject", observed=True)[numbers].mean()
        low, high = bootstrap_mean(subjects["difference"]) if intervals else (np.nan, np.nan)
        seeds = group.groupby("seed")["difference"].mean()
        row = {"method": method, "change": str(change), "subjects": len(subjects), "seeds": len(seeds)}
        row |= {name: float(subjects[name].mean()) for name in numbers} | {"low": low, "high": high}
        rows.append(row | {"sd": float(subjects["difference"].std()), "between_seeds": float(np.ptp(seeds))})
    return pd.DataFrame(rows)


def margin_of(summary: pd.DataFrame, metric: Metric) -> float:
    """The change of a score that counts: 0.01, or a hundredth of the mean of scores that are not between 0 and 1."""
    if metric.in_unit_interval:
        return _MARGIN
    return _MARGIN * float(summary.loc[summary["change"] == UNCHANGED, "score"].abs().mean())


def _losses(summary: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    return -summary["difference"] if metric.higher_is_better else summary["difference"]


def _worse(metric: Metric) -> str:
    return "falls" if metric.higher_is_better else "rises"


def _sentence(method: Any, rows: pd.DataFrame, metric: Metric, margin: float) -> str:
    """What a method is steady under, and what it loses and gains under what."""
    told: dict[str, list[str]] = {"steady": [], "worse": [], "better": []}
    rows = rows[rows["change"] != UNCHANGED].assign(loss=_losses(rows, metric)).dropna(subset="loss")
    for row in rows.to_dict("records"):
        name = CHANGES[str(row["change"])]
        if abs(row["loss"]) < margin:
            told["steady"].append(name)
            continue
        size = f"{number(abs(row['loss']), metric.decimals)}{_interval(row, metric)} under {name}"
        told["worse" if row["loss"] > 0 else "better"].append(size)
    parts = []
    if told["steady"]:
        parts.append(f"is steady under {join(told['steady'])}")
    verbs = ("loses", "gains") if metric.higher_is_better else ("errs more by", "errs less by")
    for verb, found in zip(verbs, (told["worse"], told["better"]), strict=True):
        if found:
            parts.append(f"{verb} {join(found)}")
    return f"{method} {'; it '.join(parts)}." if parts else ""


def _interval(row: Mapping[Any, Any], metric: Metric) -> str:
    """The interval of a loss or a gain in brackets."""
    if not np.isfinite(row["low"]):
        return ""
    ends = np.sort(np.sign(row["difference"]) * np.array([row["low"], row["high"]]))
    return f" ({number(ends[0], metric.decimals)} to {number(ends[1], metric.decimals)})"


def _shift_sentence(cases: pd.DataFrame) -> str:
    own = summarize(cases[cases["change"] == "shift"], intervals=False)
    if own.empty or own["disagreement"].isna().all():
        return ""
    told = [f"{row['method']} {number(row['disagreement'])}" for row in own.to_dict("records")]
    return f"Masks under a shift disagree with the unchanged ones (one minus Dice) by: {', '.join(told)}."


def _borders_sentence(cases: pd.DataFrame) -> str:
    own = summarize(cases[cases["change"] == "shift"], intervals=False)
    if own.empty or own["near_borders"].isna().all():
        return "Seams: none to look for, since no image is predicted in windows." if _has_masks(cases) else ""
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
    means = summarize(own, intervals=False)
    told = [f"{row['method']} {number(100 * row['marked'], 2)} %" for row in means.to_dict("records")]
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
    summary = summarize(cases, intervals=False)
    said = (
        f"Brackets and lines are 95 % intervals of the mean over {count(cases['subject'].nunique(), 'subject')}; they "
        "say nothing of another training."
    )
    if (summary["seeds"] > 1).any():
        spread = number(summary["between_seeds"].max(), decimals)
        return f"{said} Between seeds, the mean of a method and change differs by up to {spread}."
    return f"{said} With one training of each method, what another seed would change is not known."


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
    caption = (
        f"{dataset}: {results.metric.mean} of the unchanged test cases, and its change under each change of them. "
        f"Bold: by {number(margin, decimals)} or more. The CSV file has intervals and the disagreement of masks."
    )
    header = ["Method", "Unchanged", *map(capital, present)]
    return Table(slug("robustness", dataset), caption, header, rows, summary)


def _picture(results: Results, dataset: str, summary: pd.DataFrame, margin: float) -> Picture:
    return Picture(
        slug("robustness", dataset),
        f"{dataset}: change of {results.metric.mean} under each change of the test cases, with 95 % intervals over "
        "subjects. In the grey band a method is steady.",
        f"Changes of {results.metric.mean} by method and change of the image; the table has the numbers.",
        draw_robustness(summary, results.methods_of(summary), results.reference, results.metric, margin),
    )


@styled
def draw_robustness(
    summary: pd.DataFrame, methods: Sequence[str], reference: str, metric: Metric, margin: float
) -> Figure:
    """Dots with intervals, a row for each change and in it one for each method.

    Args:
        summary: The means as :func:`summarize` returns them.
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
        axes.plot(own["difference"], heights, "o", color=colors[method], markersize=4, label=shorten(method, 20))
    middle = _DOT * (len(methods) - 1) / 2
    axes.set_yticks(np.arange(len(changes)) * step + middle, list(map(capital, changes)))
    axes.set_ylim(step * len(changes) - _ROW / 2, -_ROW)
    axes.set_xlabel(f"change of {metric.mean}")
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=min(3, len(methods)))
    return figure
