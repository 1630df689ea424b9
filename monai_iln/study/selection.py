"""Which runs stand for a method, and the scores and volumes of their subjects."""

from __future__ import annotations

from typing import Any

import pandas as pd

from monai_iln.errors import UserError, require

RULES = ("paper", "nested")
DECIMALS = 12  # scores equal to so many are equal: sums in another order differ in the last bits
GROUP = ["dataset", "method", "fold"]
_METRICS = {  # name in a sentence, unit, decimals, whether higher is better
    "dice": ("Dice", "", 3, True),
    "hd95_mm": ("95th percentile Hausdorff distance", " mm", 2, False),
    "asd_mm": ("average surface distance", " mm", 2, False),
}
_COLUMNS = [*GROUP, "learning_rate", "seed", "part", "subject", "phase", "structure", "truth_ml", "predicted_ml"]
_COLUMNS += _METRICS
_SCORES = {"paper": "test_dice", "nested": "validation_dice"}


def choose_rates(runs: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The learning rate that stands for every data set, method and fold.

    Args:
        runs: one row a run.
        rule: ``"paper"``: the highest mean Dice over the *test* images, as in the ILN paper, which is optimistic;
            ``"nested"``: the highest over the validation images, which lie inside the training folds.

    Returns:
        A row per data set, method and fold with the columns dataset, method, fold, learning_rate, score (mean over
        seeds), runs (seeds in that mean), diverged (of all runs of the row's data set, method and fold). A rate at
        which a seed diverged or failed counts only if there is no other; a seed that is still to come is no reason
        against one. Of equal rates the lowest is taken. Where nothing has finished there is no row.

    Raises:
        UserError: for an unknown rule.

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
            pool = complete if len(complete) else rates
            best = int(pool["mean"].round(DECIMALS).argmax())  # the first, hence the lowest
            diverged = (group["status"] == "diverged").sum()
            rows.append([*group[GROUP].iloc[0], pool.index[best], *pool.iloc[best, :2], diverged])
    types = {**runs.dtypes[GROUP], "learning_rate": float, "score": float, "runs": int, "diverged": int}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def select_images(images: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """The test images of the runs that :func:`choose_rates` chose, of all their seeds."""
    keys = [*GROUP, "learning_rate"]
    test = select_test(images)
    return test[pd.MultiIndex.from_frame(test[keys]).isin(pd.MultiIndex.from_frame(chosen[keys]))]


def subject_scores(images: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Every subject's score with every method: the mean over its test images, then over seeds; NaN is skipped.

    Args:
        images: of one learning rate per data set, method and fold, see :func:`select_images`.
        metric: dice, hd95_mm or asd_mm.

    Returns:
        Index (dataset, structure, subject), a column per method, both in the order of first appearance.

    Raises:
        UserError: for an unknown metric or images of two learning rates, whose mean would be of no method.

    Example:
        >>> images = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": 0.1, "seed": 0,
        ...     "part": "test", "structure": "LV", "subject": ["x", "x", "y"], "dice": [0.8, 0.6, 0.9]})
        >>> subject_scores(images)["ILN"].round(3).tolist()
        [0.7, 0.9]
    """
    describe(metric)
    test = select_test(images, one_rate=True)
    keys = ["dataset", "structure", "subject"]
    by_seed = test.groupby([*keys, "method", "seed"])[metric].mean()
    table = by_seed.groupby([*keys, "method"]).mean().unstack("method")
    index = pd.MultiIndex.from_frame(test[keys].drop_duplicates())
    return table.reindex(index=index, columns=pd.Index(test["method"].unique(), name="method"))


def volumes(images: pd.DataFrame) -> pd.DataFrame:
    """Volumes at end diastole (ED) and end systole (ES), and the ejection fraction, of the test images.

    A volume is the sum over the slices of a phase, in ml; ``EF = 100 (EDV - ESV) / EDV`` in percent. NaN where a phase,
    or the volume of one of its slices, is missing, and EF where EDV is 0. Only slices with a label count.

    Returns:
        A row per dataset, method, fold, learning_rate, seed, structure and subject with edv_truth, edv_predicted,
        esv_truth, esv_predicted, ef_truth, ef_predicted.

    Example:
        >>> images = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": 0.1, "seed": 0,
        ...     "part": "test", "structure": "LV", "subject": "x", "phase": ["ED", "ED", "ES"],
        ...     "truth_ml": [60, 40, 40], "predicted_ml": [50, 40, 45]})
        >>> volumes(images)[["ef_truth", "ef_predicted"]].to_numpy().tolist()
        [[60.0, 50.0]]
    """
    keys = [*GROUP, "learning_rate", "seed", "structure", "subject"]
    test = select_test(images).assign(phase=lambda frame: frame["phase"].astype(str).str.upper())
    table = test[keys].drop_duplicates().set_index(keys)
    for phase, name in (("ED", "edv"), ("ES", "esv")):
        groups = test[test["phase"] == phase].groupby(keys)[["truth_ml", "predicted_ml"]]
        sums = groups.sum().where(groups.count().eq(groups.size(), axis=0))  # a sum without one slice is no volume
        table = table.join(sums.set_axis([f"{name}_truth", f"{name}_predicted"], axis=1))
    for side in ("truth", "predicted"):
        edv, esv = table[f"edv_{side}"], table[f"esv_{side}"]
        table[f"ef_{side}"] = 100 * (edv - esv) / edv.where(edv > 0)
    return table.reset_index()


def describe(metric: str) -> tuple[str, str, int, bool]:
    """A metric's name in a sentence, its unit, the decimals to show, and whether higher is better."""
    require(metric in _METRICS, f"metric {metric!r}", f"a metric is one of {', '.join(_METRICS)}", "choose one of them")
    return _METRICS[metric]


def select_test(images: pd.DataFrame, one_rate: bool = False) -> pd.DataFrame:
    """The test images; if asked, refused where they are of two learning rates for one method and fold."""
    if images.empty:  # of a study without a finished run; it may lack columns
        images = images.reindex(columns=images.columns.union(_COLUMNS, sort=False))
    test = images[images["part"] == "test"]
    rates = test.groupby(GROUP)["learning_rate"].nunique()
    for key in rates.index[rates > 1] if one_rate else ():
        raise UserError(
            f"Images of {rates[key]} learning rates for {' / '.join(map(str, key))}: their mean would be the score of "
            "no method. Choose a rate first, with choose_rates and select_images."
        )
    return test
