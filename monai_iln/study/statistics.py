"""Tests and ranks of subjects' scores.

The unit of every test is the subject, never the image: the slices of one heart are alike. A subject's score is the mean
over its images, then over seeds, and subjects are paired over methods.

What the tests assume and do not cover:

- They know nothing of trainings. They ask whether the models that were trained differ on new subjects. Whether the
  methods do, whose next training has another seed and other folds, :mod:`monai_iln.study.verdicts` answers, on which
  the words of a report rest.
- With the rule ``paper`` the test images choose the learning rate, so every score is optimistic.
- p-values are corrected for the number of comparisons within one call of :func:`compare`. A study that calls it for
  several structures, metrics or data sets has several families.
- An undefined distance (nothing predicted, or nothing there) is skipped. A method that predicts nothing where the task
  is hard looks better in hd95_mm and asd_mm for it: read them beside Dice, for which that image counts 0.
- No evidence of a difference is no evidence of equality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import stats

from monai_iln.errors import require
from monai_iln.study.metric import METRICS, Metric, known_metric, metric_of
from monai_iln.study.selection import (
    DECIMALS,
    RULES,
    choose_rates,
    select_images,
    subject_scores,
)
from monai_iln.study.volumes import Agreement, bland_altman, volumes

__all__ = [
    "ALPHA",
    "METRICS",
    "MIN_SUBJECTS",
    "RULES",
    "Agreement",
    "Comparison",
    "Metric",
    "Ranking",
    "bland_altman",
    "choose_rates",
    "compare",
    "holm",
    "metric_of",
    "rank",
    "select_images",
    "subject_scores",
    "volumes",
]

MIN_SUBJECTS = 6  # with five pairs the smallest two-sided p of a signed-rank test is 2/2^5 = 0.0625
MOST_EXACT = 500  # subjects; the time of the exact test grows with their cube, and is a quarter of a second here
ALPHA = 0.05
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """The reference against another method, over the subjects that have a score with both.

    ``difference`` is the mean of reference - other over subjects, ``p`` that of the signed-rank test and ``p_holm`` the
    same after Holm's correction. ``better`` names the better method where that is significant and mean and ranks agree.
    """

    dataset: str
    structure: str
    metric: str
    reference: str
    other: str
    subjects: int
    mean_reference: float
    mean_other: float
    difference: float
    p: float
    p_holm: float
    better: str | None = None


def compare(
    scores: pd.DataFrame,
    reference: str,
    metric: str | Metric = "dice",
    dataset: str = "",
    structure: str = "",
    every_pair: bool = False,
) -> list[Comparison]:
    """Compare the reference with every other method by paired differences of subjects' scores.

    The test is Wilcoxon's signed-rank test, two-sided and exact (every sign of the differences that are not 0 is
    equally likely), equal differences sharing their mean rank and zeros ranked but not counted (Pratt 1959, JASA 54).
    With more than 500 subjects p comes from the normal approximation to the same sum of ranks, from which the exact p
    of 500 differs by less than 0.001, and whose time does not grow with the cube of their number.
    p is NaN with fewer than six subjects, where it could not reach 0.05, and where no subject differs. Holm's
    correction (1979, Scand. J. Statist. 6) is over the tests of this call.

    Args:
        scores: The scores for one data set and structure, a row a subject, a column a method; see
            :func:`subject_scores`.
        reference: The method that the others are compared with: one of the columns.
        metric: The metric, which says whether higher is better.
        dataset: The data set that the comparisons are to name.
        structure: The structure that they are to name.
        every_pair: If true, Holm's correction is over the tests of every pair of methods. So it must be where the same
            scores chose the reference, as for the method that turned out best.

    Returns:
        A comparison for every other column, in their order.

    Raises:
        UserError: If the reference is no column, the metric is unknown, or a subject has two rows.

    Example:
        >>> scores = pd.DataFrame({"ILN": [0.9] * 6, "IN": [0.8, 0.81, 0.82, 0.83, 0.84, 0.85]})
        >>> comparison = compare(scores, "ILN")[0]
        >>> round(comparison.difference, 3), comparison.p_holm, comparison.better
        (0.075, 0.03125, 'ILN')
    """
    metric = known_metric(metric)
    methods = ", ".join(map(str, scores.columns))
    require(reference in scores, f"reference {reference!r}", f"it is one of the methods ({methods})", "choose one")
    _require_single(scores)
    rows, signs = [], []
    for other in scores.columns.drop(reference):
        pairs = _pairs(scores, reference, other)
        differences = np.round(pairs[:, 0] - pairs[:, 1], DECIMALS)
        p, sign = _signed_rank(differences)
        signs.append(sign)
        first, second, difference = _mean(pairs[:, 0]), _mean(pairs[:, 1]), _mean(differences)
        effect = (first, second, difference, p, np.nan)
        rows.append(Comparison(dataset, structure, metric.key, reference, str(other), len(pairs), *effect))
    family = [row.p for row in rows]
    if every_pair:
        family += [_p_of(scores, *pair) for pair in combinations(scores.columns.drop(reference), 2)]
    found = []
    for row, p_holm, sign in zip(rows, holm(family), signs, strict=False):  # the family may go on
        corrected = replace(row, p_holm=p_holm)
        found.append(replace(corrected, better=_better(corrected, sign, metric.higher_is_better)))
    return found


@dataclass(frozen=True)
class Ranking:
    """Methods ranked within every subject, 1 the best, and the ranks averaged.

    ``statistic`` and ``p`` are Friedman's, ``nemenyi`` holds a p for every pair of methods, and two methods whose
    average ranks are ``critical_difference`` apart differ at the level 0.05 (Nemenyi; Demsar 2006, JMLR 7).
    """

    average_ranks: dict[str, float]
    subjects: int
    statistic: float
    p: float
    critical_difference: float
    nemenyi: pd.DataFrame


def rank(scores: pd.DataFrame, metric: str | Metric = "dice") -> Ranking:
    """Rank the methods over the subjects that all of them have.

    The critical difference is ``q sqrt(k (k + 1) / (6 N))`` for k methods and N subjects, q the 0.95 quantile of the
    studentized range over sqrt(2). Friedman's p (from chi-square) is NaN with fewer than three methods; it and what
    Nemenyi's test says are NaN with fewer than six subjects, and both are approximate with few. Equal scores share
    their mean rank.

    Args:
        scores: The scores, as for :func:`compare`.
        metric: The metric, which says whether higher is better.

    Raises:
        UserError: If the metric is unknown, or a subject has two rows.

    Example:
        >>> ranking = rank(pd.DataFrame({"ILN": [3, 3, 3, 3, 3, 3], "IN": [2] * 6, "None": [1] * 6}))
        >>> ranking.average_ranks, ranking.statistic
        ({'ILN': 1.0, 'IN': 2.0, 'None': 3.0}, 12.0)
    """
    best_is_high = known_metric(metric).higher_is_better
    _require_single(scores)
    methods = [str(method) for method in scores.columns]
    values = scores.to_numpy(float)
    values = np.round(values[np.isfinite(values).all(axis=1)], DECIMALS)
    n, k = values.shape
    ranks = np.full((1, k), np.nan)
    if n and k:
        best_first = -values if best_is_high else values
        ranks = stats.rankdata(best_first, axis=1)
    average = dict(zip(methods, ranks.mean(axis=0).tolist(), strict=True))
    statistic = p = critical = np.nan
    nemenyi = pd.DataFrame(np.nan, index=methods, columns=methods)
    if n >= MIN_SUBJECTS and k >= 2:
        critical = float(stats.studentized_range.isf(ALPHA, k, np.inf) * np.sqrt(k * (k + 1) / (12 * n)))
        nemenyi = posthoc_nemenyi_friedman(pd.DataFrame(ranks, columns=methods)).loc[methods, methods]
        if k >= 3 and (ranks != ranks[:, :1]).any():
            statistic, p = map(float, stats.friedmanchisquare(*ranks.T))
    return Ranking(average, n, statistic, p, critical, nemenyi)


def _pairs(scores: pd.DataFrame, first: Any, second: Any) -> _Floats:
    """The scores of the subjects that two methods have, an array ``(subjects, 2)``."""
    pairs: _Floats = scores[[first, second]].to_numpy(float)
    both: _Floats = pairs[np.isfinite(pairs).all(axis=1)]
    return both


def _p_of(scores: pd.DataFrame, first: Any, second: Any) -> float:
    pairs = _pairs(scores, first, second)
    return _signed_rank(np.round(pairs[:, 0] - pairs[:, 1], DECIMALS))[0]


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of p values (1979, Scand. J. Statist. 6) over what was tested; NaN stays NaN.

    Example:
        >>> holm([0.01, 0.04, float("nan")])
        [0.02, 0.04, nan]
    """
    corrected = np.array(values, float)  # by hand, as statsmodels collects garbage in each call, for 0.2 s
    (tested,) = np.isfinite(corrected).nonzero()
    ranked = tested[corrected[tested].argsort()]
    steps = corrected[ranked] * np.arange(len(ranked), 0, -1)
    corrected[ranked] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return list(map(float, corrected))


def _require_single(scores: pd.DataFrame) -> None:
    subjects = scores.index.get_level_values(-1)
    twice = ", ".join(map(str, subjects[subjects.duplicated()].unique()[:3]))
    rule = "a test takes one row a subject"
    require(not twice, f"two rows for {twice}", rule, "give the scores of one data set and structure")


def _mean(values: _Floats) -> float:
    if not len(values):
        return np.nan
    return float(values.mean())


def _signed_rank(differences: _Floats) -> tuple[float, int]:
    """Two-sided p, and the sign of the rank sum. scipy is exact only without zeros and equal differences."""
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)[differences != 0]  # doubled: mean ranks halve
    signed = int(ranks @ np.sign(differences[differences != 0]))
    if len(differences) < MIN_SUBJECTS or not len(ranks):
        return np.nan, int(np.sign(signed))
    if len(differences) > MOST_EXACT:
        deviation = np.sqrt(np.sum(ranks.astype(float) ** 2))  # of a sum of independent signs times ranks
        return 2 * float(stats.norm.sf(abs(signed) / deviation)), int(np.sign(signed))
    chances = np.ones(1)  # of every sum of the positive ranks
    for one in ranks:
        chances = (np.pad(chances, (0, one)) + np.pad(chances, (one, 0))) / 2
    sums = 2 * np.arange(len(chances)) - ranks.sum()  # positive minus negative ranks
    return min(1.0, float(chances[np.abs(sums) >= abs(signed)].sum())), int(np.sign(signed))


def _better(row: Comparison, sign: int, best_is_high: bool) -> str | None:
    """The better method, if the test says that there is one, and its ranks (their ``sign``) what the mean says."""
    if np.isnan(row.p_holm) or row.p_holm >= ALPHA or sign != np.sign(row.difference):
        return None
    if (sign > 0) == best_is_high:
        return row.reference
    return row.other
