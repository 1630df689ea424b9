"""Means of the scores under changes of the test images, and what may be said of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from monai_iln.run_files import ROBUSTNESS, UNCHANGED
from monai_iln.study.chance import estimate_mean
from monai_iln.study.report.results import Results
from monai_iln.study.selection import GROUP, scores_of_runs
from monai_iln.study.statistics import Metric
from monai_iln.study.verdicts import MARGIN

_NUMBERS = ["score", "difference", "disagreement", "near_borders", "elsewhere", "marked"]


def chosen_runs(results: Results) -> pd.DataFrame:
    """The finished runs whose learning rate was chosen."""
    finished = results.runs[results.runs["status"] == "finished"]
    if not results.rule:
        return finished.iloc[:0]
    keys = [*GROUP, "learning_rate"]
    return finished.merge(results.chosen[results.rule][keys], on=keys)


def read(results: Results) -> pd.DataFrame:
    """The measured cases of the chosen runs, each with the difference to its score without a change."""
    keys = ["run", *GROUP, "learning_rate", "seed"]
    tables = []
    for run in chosen_runs(results).to_dict("records"):
        table = ROBUSTNESS.read_if_any(results.folder / str(run["run"]))
        if table is None:
            continue
        # Several cases may be of one image.
        number = table.groupby(["change", "subject", "image"], observed=True).cumcount()
        case = pd.MultiIndex.from_arrays([table["subject"], table["image"], number])
        scores = pd.Series(table["score"].to_numpy(float), case)
        unchanged = scores[(table["change"] == UNCHANGED).to_numpy()]
        table["difference"] = (scores - unchanged.reindex(case).to_numpy()).to_numpy()
        tables.append(table.assign(**{key: run[key] for key in keys}))
    if not tables:
        return pd.DataFrame(columns=[*ROBUSTNESS.columns, *keys, "difference"])
    cases = pd.concat(tables, ignore_index=True)
    order = {method: place for place, method in enumerate(results.methods)}
    return cases.sort_values("method", key=lambda names: names.map(order), kind="stable")


def margin_of(cases: pd.DataFrame, metric: Metric) -> float:
    """The change of a score that counts: 0.01, or a hundredth of the mean of scores that are not between 0 and 1."""
    if metric.in_unit_interval:
        return MARGIN
    return MARGIN * float(cases.loc[cases["change"] == UNCHANGED, "score"].abs().mean())


def means(cases: pd.DataFrame) -> pd.DataFrame:
    """A row for each method and change: means over subjects, of each of which the seeds are averaged.

    Args:
        cases: The cases of one data set, as :func:`read` returns them.
    """
    rows = []
    for (method, change), group in cases.groupby(["method", "change"], sort=False, observed=True):
        subjects = group.groupby("subject", observed=True)[_NUMBERS].mean()
        seeds = group.groupby("seed")["difference"].mean()
        row: dict[str, Any] = {"method": method, "change": str(change), "subjects": len(subjects), "seeds": len(seeds)}
        row |= {name: float(subjects[name].mean()) for name in _NUMBERS}
        rows.append(row | {"sd": float(subjects["difference"].std()), "between_seeds": float(np.ptp(seeds))})
    return pd.DataFrame(rows)


def judge(cases: pd.DataFrame, metric: Metric, margin: float) -> pd.DataFrame:
    """The same with a 95 % interval of each difference, the loss, and a verdict.

    The interval takes in the chance of subjects, folds and trainings, see
    :func:`~monai_iln.study.chance.estimate_mean`. The verdict is ``"steady"`` where the mean changes by less than the
    margin. Else it is ``"worse"`` or ``"better"`` where the interval excludes 0, and ``"unclear"`` where it does not.

    Args:
        cases: The cases of one data set, as :func:`read` returns them.
        metric: The metric.
        margin: The change that counts, of :func:`margin_of`.
    """
    found = means(cases)
    groups = cases.groupby(["method", "change"], sort=False, observed=True)
    intervals = [_interval(group, metric) for _, group in groups]
    found["low"], found["high"] = map(list, zip(*intervals, strict=True))
    found["loss"] = -found["difference"] if metric.higher_is_better else found["difference"]
    known = found["low"] * found["high"] > 0
    found["verdict"] = np.select(
        [found["loss"].isna(), found["loss"].abs() < margin, known & (found["loss"] > 0), known],
        ["", "steady", "worse", "better"],
        "unclear",
    )
    return found


def _interval(cases: pd.DataFrame, metric: Metric) -> tuple[float, float]:
    """The 95 % interval of the mean difference that a change makes for a method."""
    differences = cases.assign(part="test", structure="", **{metric.column: cases["difference"]})
    (scores,), folds, _ = scores_of_runs(differences, metric)
    return estimate_mean(scores, folds).interval()
