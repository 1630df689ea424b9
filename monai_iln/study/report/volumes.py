"""Volumes and ejection fraction: how far the predicted ones agree with the true ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monai_iln.study.report.document import Block, Picture, Row, Table, Text, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import (
    FAINT,
    INK,
    LEAST_SIZE,
    REFERENCE_COLOR,
    groups_of_methods,
    new_figure,
    styled,
)
from monai_iln.study.report.wording import NO_NUMBER, join, number, place, shorten, slug
from monai_iln.study.statistics import Agreement, bland_altman, volumes

_MEASURES = {"edv": "EDV", "esv": "ESV", "ef": "EF"}
_UNITS = {"edv": "ml", "esv": "ml", "ef": "%"}
Agreements = Mapping[tuple[str, str], Agreement]  # by method and measure


def blocks(results: Results) -> list[Block]:
    """Bland-Altman plots and a table for each data set and structure; nothing where no phase or no volume is known."""
    if (results.shown["phase"] == "").all() or results.shown["truth_ml"].isna().all():
        return []
    found: list[Block] = [
        Text(
            "End-diastolic and end-systolic volume (EDV, ESV) are sums over the labelled slices of a phase, and the "
            "ejection fraction is EF = (EDV \N{MINUS SIGN} ESV) / EDV. A point is a subject, seeds averaged, at the "
            "mean of its predicted and true value; the solid line is the bias, which the title gives, and dashed lines "
            "are the 95 % limits of agreement."
        )
    ]
    measured = [f"{measure}_{side}" for measure in _MEASURES for side in ("truth", "predicted")]
    keys = ["dataset", "structure", "method", "subject"]
    values = volumes(results.shown).groupby(keys, sort=False)[measured].mean().reset_index()
    for dataset, structure in results.parts:
        chosen, where = results.part(values, dataset, structure), place(dataset, structure)
        agreements = _agreements(chosen)
        methods = [method for method in results.shown_methods if any(key[0] == method for key in agreements)]
        if not methods:
            said = f"{where}: no volumes to compare, for no phase is called ED or ES, or none is known."
            found.append(absent(said))
            continue
        for count, group in enumerate(groups_of_methods(methods), 1):
            found.append(
                Picture(
                    slug("agreement", dataset, structure, str(count)),
                    f"{where}: Bland-Altman plots of {join(group)}.",
                    f"Differences of predicted and true volumes against their means, for {join(group)}; the table of "
                    "agreement has bias and limits.",
                    draw_agreement(chosen, agreements, group, results.reference),
                )
            )
        caption = f"{where}: bias (predicted minus true) and 95 % limits of agreement."
        found.append(_table(slug("agreement", dataset, structure), caption, agreements, methods))
    return found


def _agreements(values: pd.DataFrame) -> Agreements:
    """Agreements by method and measure, without those that no subject has."""
    agreements = {}
    for method, pairs in values.groupby("method", sort=False):
        for measure in _MEASURES:
            found = bland_altman(pairs[f"{measure}_truth"], pairs[f"{measure}_predicted"])
            if found.subjects:
                agreements[str(method), measure] = found
    return agreements


def _measures(agreements: Agreements) -> list[str]:
    return [name for name in _MEASURES if any(key[1] == name for key in agreements)]


def _table(name: str, caption: str, agreements: Agreements, methods: Iterable[str]) -> Table:
    header = ["Method", "Subjects"]
    for measure in _measures(agreements):
        header += [f"{_MEASURES[measure]}, {_UNITS[measure]}: bias", "limits"]
    rows, records = [], []
    for method in methods:
        cells: list[str] = []
        subjects: dict[str, None] = {}
        for measure in _measures(agreements):
            found = agreements.get((method, measure))
            if found is None:
                cells += [NO_NUMBER, NO_NUMBER]
                continue
            limits = NO_NUMBER
            if not np.isnan(found.sd):
                limits = f"{number(found.low, 1)} to {number(found.high, 1)}"
            cells += [number(found.bias, 1, sign=True), limits]
            subjects[str(found.subjects)] = None
            records.append({"method": method, "measure": measure, "unit": _UNITS[measure], **vars(found)})
        rows.append(Row([method, "/".join(subjects), *cells]))
    return Table(name, caption, header, rows, pd.DataFrame(records))


@styled
def draw_agreement(values: pd.DataFrame, agreements: Agreements, methods: Sequence[str], reference: str) -> Figure:
    """Bland-Altman plots: a row a method, a column each for EDV, ESV and EF.

    Args:
        values: The values, a row for each subject and method, with the columns ``method``, ``edv_truth``,
            ``edv_predicted`` and so on.
        agreements: The agreements by method and measure (``edv``, ``esv``, ``ef``): their bias and limits are drawn.
        methods: The methods, top to bottom.
        reference: The method to highlight.
    """
    measures = _measures(agreements)
    figure = new_figure(0.45 + 1.42 * len(methods))
    grid = figure.subplots(len(methods), len(measures), squeeze=False, sharex="col", sharey="col")
    for row, method in zip(grid, methods, strict=True):
        color = REFERENCE_COLOR if method == reference else INK
        chosen = values[values["method"] == method]
        for axes, measure in zip(row, measures, strict=True):
            truth, predicted = chosen[f"{measure}_truth"], chosen[f"{measure}_predicted"]
            axes.axhline(0, color=FAINT, linewidth=0.8)
            axes.scatter((truth + predicted) / 2, predicted - truth, s=11, color=color, alpha=0.6, linewidths=0)
            title = f"{shorten(method, 12)}: {_MEASURES[measure]}"
            agreement = agreements.get((method, measure))
            if agreement is not None:
                axes.axhline(agreement.bias, color=color, linestyle="-", linewidth=0.9)
                title += f" {number(agreement.bias, 1, sign=True)} {_UNITS[measure]}"
            if agreement is not None and not np.isnan(agreement.sd):
                axes.axhline(agreement.low, color=color, linestyle="--", linewidth=0.9)
                axes.axhline(agreement.high, color=color, linestyle="--", linewidth=0.9)
            axes.set_title(title, fontsize=LEAST_SIZE, color=color)
    for axes, measure in zip(grid[-1], measures, strict=True):
        axes.set_xlabel(f"mean {_MEASURES[measure]}, {_UNITS[measure]}", fontsize=LEAST_SIZE)
    figure.supylabel("predicted minus true", fontsize=8.5)
    return figure
