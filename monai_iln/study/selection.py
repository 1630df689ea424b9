"""Which runs stand for a method, and the scores of their subjects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_iln.errors import UserError, require
from monai_iln.run_files import ALL_IMAGES, DICE_SCORES
from monai_iln.study.metric import Metric, known_metric

RULES = ("paper", "nested")
DECIMALS = 12  # scores equal to so many are equal: sums in another order differ in the last bits
GROUP = ["dataset", "method", "split", "fold"]
"""What a learning rate is chosen for. Folds of two splits have nothing in common but their number."""
_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_SCORES = {"paper": "test_score", "nested": "validation_score"}


def choose_rates(runs: pd.DataFrame, rule: str, metric: str | Metric = "dice") -> pd.DataFrame:
    """Choose the learning rate that stands for every data set, method, split and fold.

    A rate at which a seed diverged or failed counts only if there is no other; a seed that is still to come is no
    reason against one. Of equal rates the lowest is taken.

    Args:
        runs: A table with one row a run, with the columns ``test_score`` and ``validation_score``, or ``test_dice`` and
            ``validation_dice``. Without a column ``split``, all are of one split.
        rule: The rule to choose by. ``"paper"`` takes the best mean score over the *test* images, as in the ILN
            paper, which is optimistic; ``"nested"`` the best over the validation images, which lie inside the
            training folds.
        metric: The metric, which says whether higher is better.

    Returns:
        A row for each data set, method, split and fold where something has finished, with the columns dataset, method,
        split, fold, learning_rate, score (mean over seeds), runs (seeds in that mean) and diverged (runs of that data
        set, method, split and fold that did, at any rate).

    Raises:
        UserError: If the rule or the metric is unknown.

    Example:
        >>> runs = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": [0.1, 0.5], "seed": 0,
        ...     "status": "finished", "test_dice": [0.8, 0.9], "validation_dice": [0.9, 0.7]})
        >>> choose_rates(runs, "paper").learning_rate.item(), choose_rates(runs, "nested").learning_rate.item()
        (0.5, 0.1)
    """
    require(rule in RULES, f"rule {rule!r}", f"a rule is one of {', '.join(RULES)}", "choose one of them")
    best_is_high = known_metric(metric).higher_is_better
    column = _SCORES[rule]
    if column not in runs:
        column = DICE_SCORES[column]
    runs = with_split(runs)
    scored = runs.assign(score=pd.to_numeric(runs[column]).where(runs["status"] == "finished"))
    rows: list[list[Any]] = []
    names = [pd.factorize(runs[name])[0] for name in ("dataset", "method")]
    for _, group in scored.groupby([*names, runs["split"], runs["fold"]], observed=True):
        rates = group.groupby("learning_rate", observed=True)["score"].agg(["mean", "count", "size"])
        rates = rates[rates["count"] > 0]
        if len(rates):
            complete = rates[rates["count"] == rates["size"]]
            if len(complete):
                rates = complete
            means = rates["mean"].round(DECIMALS)
            best = int(means.argmax() if best_is_high else means.argmin())  # the first, hence the lowest rate
            diverged = (group["status"] == "diverged").sum()
            rows.append([*group[GROUP].iloc[0], rates.index[best], *rates.iloc[best, :2], diverged])
    types = {**runs.dtypes[GROUP], "learning_rate": float, "score": float, "runs": int, "diverged": int}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def select_images(images: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Select the test images of the runs that :func:`choose_rates` chose, with all their seeds."""
    keys = [*GROUP, "learning_rate"]
    test, chosen = select_test(images), with_split(chosen)
    return test[pd.MultiIndex.from_frame(test[keys]).isin(pd.MultiIndex.from_frame(chosen[keys]))]


def subject_scores(images: pd.DataFrame, metric: str | Metric = "dice") -> pd.DataFrame:
    """Every subject's score with every method: the mean over its test images, then over seeds; NaN is skipped.

    Args:
        images: The images of one learning rate for each data set, method and fold, see :func:`select_images`.
        metric: The metric, which names the column: dice, hd95_mm, asd_mm, or that of a study.

    Returns:
        A table with the index (dataset, structure, subject) and a column a method, both in the order of first
        appearance.

    Raises:
        UserError: If the metric is unknown, or there are images of two learning rates, whose mean would be of no
            method.

    Example:
        >>> images = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": 0.1, "seed": 0,
        ...     "part": "test", "structure": "LV", "subject": ["x", "x", "y"], "dice": [0.8, 0.6, 0.9]})
        >>> subject_scores(images)["ILN"].round(3).tolist()
        [0.7, 0.9]
    """
    column = known_metric(metric).column
    test = select_test(images, one_rate=True)
    keys = ["dataset", "structure", "subject"]
    by_seed = test.groupby([*keys, "method", "seed"], observed=True)[column].mean()
    table = by_seed.groupby([*keys, "method"], observed=True).mean().unstack("method")
    index = pd.MultiIndex.from_frame(test[keys].drop_duplicates())
    return table.reindex(index=index, columns=pd.Index(test["method"].unique(), name="method"))


def scores_of_runs(images: pd.DataFrame, metric: str | Metric = "dice") -> tuple[_Floats, _Integers, tuple[str, ...]]:
    """The arrays that :func:`monai_iln.study.chance.estimate_chance` takes, from the test images of runs.

    A score is the mean over a subject's images with one method and seed; NaN is skipped. Only seeds count whose runs
    are there for all methods and folds, and only subjects with a finite score for each of them.

    Args:
        images: The images of one data set and structure, and of one learning rate for each method and fold, see
            :func:`select_images`.
        metric: The metric, which names the column.

    Returns:
        The scores ``(methods, seeds, subjects)``, the folds ``(seeds, subjects)``, and the methods in order of
        appearance.

    Raises:
        UserError: If there are two data sets, structures or learning rates, if a subject is tested in two folds of a
            seed, or if the metric is unknown.

    Example:
        >>> rows = [(k, f, s, f"{f}{i}", 0.8) for k in ("ILN", "IN") for f in (0, 1) for s in (0, 1) for i in (0, 1, 2)]
        >>> images = pd.DataFrame(rows, columns=["method", "fold", "seed", "subject", "dice"])
        >>> images = images.assign(dataset="a", structure="LV", part="test", learning_rate=0.1)
        >>> scores, folds, methods = scores_of_runs(images)
        >>> scores.shape, folds.tolist(), methods
        ((2, 2, 6), [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]], ('ILN', 'IN'))
    """
    column = known_metric(metric).column
    test = select_test(images, one_rate=True)
    for name in ("dataset", "structure"):
        several = ", ".join(map(str, test[name].unique()))
        require(test[name].nunique() <= 1, f"{name}s {several}", "chance is told for one at a time", "choose one")
    methods = list(test["method"].unique())
    runs = test[["method", "fold", "seed"]].drop_duplicates()
    by_seed = runs.groupby("seed", observed=True).size()
    complete = by_seed.index[by_seed == len(methods) * runs["fold"].nunique()]
    test = test[test["seed"].isin(complete)]
    places = test[["seed", "subject", "fold"]].astype({"subject": str}).drop_duplicates()
    twice = places[places.duplicated(["seed", "subject"])]
    seen = ", ".join(f"{row.subject} with seed {row.seed}" for row in twice.head(3).itertuples())
    rule = "a subject is tested in one fold of a seed, the same for all methods"
    require(not seen, f"two folds for {seen}", rule, "give the methods of a seed one split")
    by_subject = (
        test.astype({"subject": str, "method": str})
        .groupby(["method", "seed", "subject"], observed=True)[column]
        .mean()
    )
    table = pd.DataFrame(by_subject.unstack("subject"))
    table = table[table.columns[np.isfinite(table.to_numpy(float)).all(axis=0)]]
    names = tuple(map(str, methods))
    rows = pd.MultiIndex.from_product([names, complete])
    scores = table.reindex(rows).to_numpy(np.float64).reshape(len(names), len(complete), table.shape[1])
    folds = places.pivot(index="seed", columns="subject", values="fold").reindex(complete)[table.columns]
    return scores, folds.to_numpy(np.int64), names


def select_test(images: pd.DataFrame, one_rate: bool = False) -> pd.DataFrame:
    """Select the test images.

    Args:
        images: The images of runs; of a study without a finished run they may lack columns, and get them here.
        one_rate: Refuses images of two learning rates for one data set, method, split and fold.

    Raises:
        UserError: If there are two learning rates, though they are refused.
    """
    if images.empty:
        images = images.reindex(columns=list(dict.fromkeys([*images.columns, *ALL_IMAGES.columns])))
    test = with_split(images[images["part"] == "test"])
    if one_rate:
        rates = test.groupby(GROUP, observed=True)["learning_rate"].nunique()
        for key in rates.index[rates > 1]:
            raise UserError(
                f"Images of {rates[key]} learning rates for {' / '.join(map(str, key))}: their mean would be the score "
                "of no method. Choose a rate first, with choose_rates and select_images."
            )
    return test


def with_split(table: pd.DataFrame) -> pd.DataFrame:
    """A table of runs or images with a column ``split``, which is 0 where there is none: all have the same folds."""
    if "split" in table:
        return table
    return table.assign(split=0)
