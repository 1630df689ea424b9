"""What a study says of two methods: better, worse, practically equal, or not known.

Three answers rest on one estimate, :mod:`monai_iln.study.chance`, with the chance of subjects, folds and trainings:

- better or worse: p is below 0.05 after Holm's correction;
- practically equal: the 90 % interval of the difference lies within the margin. It goes first: a difference may be
  certain and too small to matter;
- not known: neither, which is no proof of equality.

The margin is what a user does not care about. Of a score between 0 and 1 it is 0.01 by default: two readers of the same
images, and two rasterizers of the same contour, differ by more, and a smaller one is out of reach of most studies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from monai_iln.study.chance import Chance, Difference, estimate_chance
from monai_iln.study.metric import Metric, known_metric
from monai_iln.study.selection import GROUP, scores_of_runs, select_test, subject_scores
from monai_iln.study.statistics import ALPHA, compare, holm

MARGIN = 0.01
"""The default margin of scores between 0 and 1."""

_RESAMPLES = 20_000


@dataclass(frozen=True)
class Verdict:
    """The reference against another method.

    Attributes:
        dataset: The data set.
        structure: The structure.
        metric: The key of the metric.
        reference: The method that the other one is compared with.
        other: The other method.
        subjects: The number of subjects that have a score with both, and with all that are pooled.
        folds: The number of folds.
        seeds: The number of seeds that are complete.
        mean_reference: The mean score of the reference, over these subjects' means over images and these seeds.
        mean_other: That of the other method.
        difference: The mean of reference - other.
        low: The lower end of its 95 % interval.
        high: The upper end.
        low_90: The lower end of the 90 % interval, which practical equality rests on.
        high_90: The upper end.
        df: The degrees of freedom of the intervals.
        p: The two-sided p value.
        p_holm: The same after Holm's correction over the comparisons of a call of :func:`judge`.
        p_subjects: The p value of a signed-rank test over subjects after its correction, which knows nothing of folds
            and trainings: see :func:`~monai_iln.study.statistics.compare`.
        chance_of_better: The probability that the reference is the better one in one new training of each.
        answer: ``"better"``, ``"worse"``, ``"equal"``, ``"unknown"``, or ``"untested"`` where there is no p.
        apart: Whether one of the two is far noisier than most, so that the pair has an estimate of its own.
        sensitivity: With one seed, the spread of a run's difference below which the difference would be significant.
        reason: Why nothing was tested.
    """

    dataset: str
    structure: str
    metric: str
    reference: str
    other: str
    subjects: int
    folds: int
    seeds: int
    mean_reference: float
    mean_other: float
    difference: float
    low: float = np.nan
    high: float = np.nan
    low_90: float = np.nan
    high_90: float = np.nan
    df: float = np.nan
    p: float = np.nan
    p_holm: float = np.nan
    p_subjects: float = np.nan
    chance_of_better: float = np.nan
    answer: Literal["better", "worse", "equal", "unknown", "untested"] = "untested"
    apart: bool = False
    sensitivity: float = np.nan
    reason: str = ""

    @property
    def better(self) -> str | None:
        """The better method; ``None`` if no answer names one."""
        return {"better": self.reference, "worse": self.other}.get(self.answer)

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        return (self.high - self.low) / 2


def default_margin(metric: Metric) -> float | None:
    """The margin of a metric; ``None`` where it does not lie between 0 and 1, and only the user knows one."""
    return MARGIN if metric.in_unit_interval else None


def judge(
    images: pd.DataFrame,
    reference: str,
    metric: str | Metric = "dice",
    margin: float | None = None,
    dataset: str = "",
    structure: str = "",
    every_pair: bool = False,
) -> list[Verdict]:
    """Compare the reference with every other method, over subjects, folds and trainings.

    Methods with a complete seed are estimated together. One that lacks runs, because they diverged or are still to
    come, is compared over the seeds and folds that both have, and estimated with all methods that have these.

    Args:
        images: The test images of one data set and structure, and of one learning rate for each method, split and
            fold, see :func:`~monai_iln.study.selection.select_images`.
        reference: The method that the others are compared with.
        metric: The metric, which names the column, and says whether higher is better.
        margin: The difference that does not matter; without it no answer is ``"equal"``.
        dataset: The data set that the verdicts are to name.
        structure: The structure that they are to name.
        every_pair: If true, Holm's correction is over every pair of methods, as it must be where the same scores chose
            the reference.

    Returns:
        A verdict for each other method, in order of appearance; none if the reference has no image.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> keys = pd.MultiIndex.from_product([["ILN", "IN"], range(3), range(4), range(6)])
        >>> images = keys.to_frame(index=False, name=["method", "seed", "fold", "subject"])
        >>> images["subject"] += 6 * images["fold"]
        >>> images = images.assign(dataset="a", structure="LV", part="test", learning_rate=0.1)
        >>> images["dice"] = 0.8 + 0.1 * (images["method"] == "ILN") + rng.normal(0, 0.02, len(images))
        >>> verdict, = judge(images, "ILN", margin=0.01)
        >>> verdict.answer, round(verdict.difference, 2), verdict.p_holm < 0.001
        ('better', 0.1, True)
    """
    metric = known_metric(metric)
    test = select_test(images, one_rate=True)
    methods = list(map(str, test["method"].unique()))
    if reference not in methods:
        return []
    pool = estimate(test, metric, reference)
    whole = set(pool.methods)
    found: dict[tuple[str, str], Chance] = {}

    def chance(first: str, second: str) -> Chance:
        if {first, second} <= whole:
            return pool
        if (first, second) not in found:
            found[first, second] = _estimate(_shared(test, first, second), metric)
        return found[first, second]

    scores = subject_scores(test, metric).droplevel(["dataset", "structure"])
    by_ranks = {row.other: row.p_holm for row in compare(scores, reference, metric, every_pair=every_pair)}
    others = [method for method in methods if method != reference]
    rows, differences = [], []
    for other in others:
        its = chance(reference, other)
        difference = _difference(its, reference, other)
        values = (its.means.get(reference, np.nan), its.means.get(other, np.nan), difference.mean)
        counted = (its.subjects, its.folds, its.seeds)
        row = Verdict(dataset, structure, metric.key, reference, other, *counted, *values)
        rows.append(replace(_with_chance(row, difference, metric), p_subjects=by_ranks[other]))
        differences.append(difference)
    family = [row.p for row in rows]
    if every_pair:
        family += [_difference(chance(*pair), *pair).p for pair in combinations(others, 2)]
    corrected = [replace(row, p_holm=p) for row, p in zip(rows, holm(family), strict=False)]  # the family may go on
    return [replace(row, answer=_answer(row, metric, margin)) for row in corrected]


def estimate(images: pd.DataFrame, metric: str | Metric, reference: str) -> Chance:
    """Estimate the chance in the differences of all methods that have the complete seeds of the reference.

    Args:
        images: The images, as for :func:`judge`.
        metric: The metric, which names the column.
        reference: The method whose seeds count.
    """
    test = select_test(images, one_rate=True)
    return _estimate(test[test["method"].isin(_whole_methods(test, reference))], metric)


def _estimate(test: pd.DataFrame, metric: str | Metric) -> Chance:
    """The same of all methods that are there."""
    return estimate_chance(*scores_of_runs(test, metric))


def over_structures(images: pd.DataFrame, metric: str | Metric = "dice") -> pd.DataFrame:
    """The images of a data set as if they had one structure: a subject's score is the mean over the structures.

    A subject's structure counts if it has a score with every method and seed that tested the subject.

    Args:
        images: The test images of a data set.
        metric: The metric, which names the column.
    """
    column = known_metric(metric).column
    keys = [*GROUP, "learning_rate", "seed", "subject"]
    test = select_test(images)
    test = test.astype(dict.fromkeys(("dataset", "method", "structure", "subject"), str))
    scores = test.groupby([*keys, "structure"], sort=False, observed=True)[column].mean()
    whole = scores.notna().groupby(["dataset", "subject", "structure"], observed=True).transform("all")
    means = scores[whole].groupby(keys, sort=False, observed=True).mean().reset_index()
    return means.assign(part="test", structure="")


def rank_chances(chance: Chance, metric: str | Metric = "dice") -> pd.DataFrame:
    """How likely each method has each rank by its true mean, which the study knows only within its chance.

    Means are drawn from the normal distribution whose differences have the means and variances of the estimate, over
    Student's t of the least degrees of freedom among the pairs; the draw has a fixed seed.

    Args:
        chance: The estimate.
        metric: The metric, which says whether higher is better.

    Returns:
        The probabilities, a row a method, a column a rank from 1, the best. NaN where nothing could be estimated.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scores = 0.8 + rng.normal(0, 0.02, (2, 3, 12)) + np.array([0.05, 0]).reshape(2, 1, 1)
        >>> chance = estimate_chance(scores, np.tile(np.arange(12) % 3, (3, 1)), ["ILN", "IN"])
        >>> bool(rank_chances(chance).loc["ILN", 1] > 0.95)
        True
    """
    methods = list(chance.methods)
    count = len(methods)
    names = pd.RangeIndex(1, count + 1)
    variances = np.zeros((count, count))
    centre = np.zeros(count)
    least = np.inf
    for i, j in combinations(range(count), 2):
        pair = chance.between(methods[i], methods[j])
        variances[i, j] = variances[j, i] = pair.variance
        centre[i] += pair.mean / count
        centre[j] -= pair.mean / count
        least = min(least, pair.df)
    if count < 2 or not np.isfinite(variances).all():
        return pd.DataFrame(np.nan, index=methods, columns=names)
    centring = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(-centring @ variances @ centring / 2)
    root = vectors * np.sqrt(np.maximum(values, 0))
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((_RESAMPLES, count)) @ root.T
    if np.isfinite(least):
        draws /= np.sqrt(rng.chisquare(least, (_RESAMPLES, 1)) / least)
    sign = -1 if known_metric(metric).higher_is_better else 1
    means = sign * (centre + draws).round(12)  # what differs by rounding is equal, and equal means share their ranks
    ranks = np.lexsort((rng.random(draws.shape), means)).argsort(axis=1)
    shares = np.stack([(ranks == rank).mean(axis=0) for rank in range(count)], axis=1)
    return pd.DataFrame(shares, index=methods, columns=names)


def _whole_methods(test: pd.DataFrame, reference: str) -> list[str]:
    """The methods that have all folds of the seeds that are complete for the reference."""
    if reference not in set(test["method"]):
        return []
    runs = test[["method", "seed", "fold"]].drop_duplicates().astype({"method": str})
    folds = runs["fold"].nunique()
    has = pd.crosstab(runs["method"], runs["seed"]) == folds
    seeds = [seed for seed in has.columns if has.at[reference, seed]]
    if has[seeds].all(axis=1).sum() < 2:  # the others may have lost a run each, or their last seed may be under way
        fewer = [[seed for seed in seeds if row[seed]] for method, row in has.iterrows() if method != reference]
        seeds = max(filter(None, fewer), key=lambda some: len(some) * has[some].all(axis=1).sum(), default=[])
    if not seeds:
        return [reference]
    whole = has[seeds].all(axis=1)
    return [method for method in map(str, test["method"].unique()) if whole[method]]


def _shared(test: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """The images over the seeds and folds that two methods have, of all methods that have them.

    These are all folds of the seeds that are complete, or of one split all seeds of the folds that are: of which there
    are more runs. A single fold tells nothing of luck, and is taken only where no seed is complete.
    """
    runs = test[["method", "split", "seed", "fold"]].drop_duplicates()
    pair = runs[runs["method"].isin([first, second])]
    both = pair[pair.duplicated(["split", "seed", "fold"])]
    of_seeds, of_folds = both["seed"].value_counts(), both["fold"].value_counts()
    folds = pd.Index(pair["fold"].unique())
    seeds, whole = of_seeds.index[of_seeds == len(folds)], of_folds.index[of_folds == len(of_seeds)]
    has_more = len(whole) * len(of_seeds) >= len(seeds) * len(folds) and (len(whole) > 1 or seeds.empty)
    if pair["split"].nunique() == 1 and has_more:
        seeds, folds = of_seeds.index, whole
    counts = runs.loc[runs["seed"].isin(seeds) & runs["fold"].isin(folds), "method"].value_counts()
    methods = counts.index[counts == len(seeds) * len(folds)]
    return test[test["seed"].isin(seeds) & test["fold"].isin(folds) & test["method"].isin(methods)]


def _difference(chance: Chance, first: str, second: str) -> Difference:
    if {first, second} <= set(chance.methods):
        return chance.between(first, second)
    return Difference(first, second, np.nan, reason="they have no run of a fold and seed in common")


def _with_chance(row: Verdict, difference: Difference, metric: Metric) -> Verdict:
    """A verdict with what the estimate of its difference tells."""
    low, high = difference.interval()
    low_90, high_90 = difference.interval(0.9)
    chance = difference.chance_of_better()
    return replace(
        row,
        low=low,
        high=high,
        low_90=low_90,
        high_90=high_90,
        df=difference.df,
        p=difference.p,
        chance_of_better=chance if metric.higher_is_better else 1 - chance,
        apart=difference.apart,
        sensitivity=difference.sensitivity,
        reason=difference.reason,
    )


def _answer(
    row: Verdict, metric: Metric, margin: float | None
) -> Literal["better", "worse", "equal", "unknown", "untested"]:
    if margin is not None and -margin <= row.low_90 and row.high_90 <= margin:
        return "equal"
    if np.isnan(row.p_holm):
        return "untested"
    if row.p_holm >= ALPHA:
        return "unknown"
    if (row.difference > 0) == metric.higher_is_better:
        return "better"
    return "worse"
