"""Which runs stand for a method, and the scores of their subjects."""

from __future__ import annotations

from typing import Any

import pandas as pd

from monai_iln.errors import UserError, require
from monai_iln.run_files import ALL_IMAGES

RULES = ("paper", "nested")
DECIMALS = 12  # scores equal to so many are equal: sums in another order differ in the last bits
GROUP = ["dataset", "method", "fold"]
_HIGHER_IS_BETTER = {"dice": True, "hd95_mm": False, "asd_mm": False}
_SCORES = {"paper": "test_dice", "nested": "validation_dice"}


def choose_rates(runs: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Choose the learning rate that stands for every data set, method and fold.

    A rate at which a seed diverged or failed counts only if there is no other; a seed that is still to come is no
    reason against one. Of equal rates the lowest is taken.

    Args:
        runs: A table with one row a run.
        rule: The rule to choose by. ``"paper"`` takes the highest mean Dice over the *test* images, as in the ILN
            paper, which is optimistic; ``"nested"`` the highest over the validation images, which lie inside the
            training folds.

    Returns:
        A row for each data set, method and fold where something has finished, with the columns dataset, method, fold,
        learning_rate, score (mean over seeds), runs (seeds in that mean) and diverged (runs of that data set, method
        and fold that did, at any rate).

    Raises:
        UserError: If the rule is unknown.

    Example:
        >>> runs = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": [0.1, 0.5], "seed": 0,
        ...     "status": "finished", "test_dice": [0.8, 0.9], "validation_dice": [0.9, 0.7]})
        >>> choose_rates(runs, "paper").learning_rate.item(), choose_rates(runs, "nested").learning_rate.item()
        (0.5, 0.1)
    """
    require(rule in RULES, f"rule {rule!r}", f"a rule is one of {', '.join(RULES)}", "choose one of them")
    scored = runs.assign(score=pd.to_numeric(runs[_SCORES[rule]]).where(runs["status"] == "finished"))
    rows: list[list[Any]] = []
    for _, group in scored.groupby([pd.factorize(runs[name])[0] for name in GROUP[:2]] + [runs["fold"]]):
        rates = group.groupby("learning_rate")["score"].agg(["mean", "count", "size"])
        rates = rates[rates["count"] > 0]
        if len(rates):
            complete = rates[rates["count"] == rates["size"]]
            if len(complete):
                rates = complete
            best = int(rates["mean"].round(DECIMALS).argmax())  # the first, hence the lowest
            diverged = (group["status"] == "diverged").sum()
            rows.append([*group[GROUP].iloc[0], rates.index[best], *rates.iloc[best, :2], diverged])
    types = {**runs.dtypes[GROUP], "learning_rate": float, "score": float, "runs": int, "diverged": int}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def select_images(images: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Select the test images of the runs that :func:`choose_rates` chose, with all their seeds."""
    keys = [*GROUP, "learning_rate"]
    test = select_test(images)
    return test[pd.MultiIndex.from_frame(test[keys]).isin(pd.MultiIndex.from_frame(chosen[keys]))]


def subject_scores(images: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Every subject's score with every method: the mean over its test images, then over seeds; NaN is skipped.

    Args:
        images: The images of one learning rate for each data set, method and fold, see :func:`select_images`.
        metric: The metric: dice, hd95_mm or asd_mm.

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
    higher_is_better(metric)
    test = select_test(images, one_rate=True)
    keys = ["dataset", "structure", "subject"]
    by_seed = test.groupby([*keys, "method", "seed"])[metric].mean()
    table = by_seed.groupby([*keys, "method"]).mean().unstack("method")
    index = pd.MultiIndex.from_frame(test[keys].drop_duplicates())
    return table.reindex(index=index, columns=pd.Index(test["method"].unique(), name="method"))


def higher_is_better(metric: str) -> bool:
    """Whether a higher score is a better one.

    Raises:
        UserError: If the metric is unknown.
    """
    known = ", ".join(_HIGHER_IS_BETTER)
    require(metric in _HIGHER_IS_BETTER, f"metric {metric!r}", f"a metric is one of {known}", "choose one of them")
    return _HIGHER_IS_BETTER[metric]


def select_test(images: pd.DataFrame, one_rate: bool = False) -> pd.DataFrame:
    """Select the test images.

    Args:
        images: The images of runs; of a study without a finished run they may lack columns, and get them here.
        one_rate: Refuses images of two learning rates for one data set, method and fold.

    Raises:
        UserError: If there are two learning rates, though they are refused.
    """
    if images.empty:
        images = images.reindex(columns=list(dict.fromkeys([*images.columns, *ALL_IMAGES.columns])))
    test = images[images["part"] == "test"]
    if one_rate:
        rates = test.groupby(GROUP)["learning_rate"].nunique()
        for key in rates.index[rates > 1]:
            raise UserError(
                f"Images of {rates[key]} learning rates for {' / '.join(map(str, key))}: their mean would be the score "
                "of no method. Choose a rate first, with choose_rates and select_images."
            )
    return test
