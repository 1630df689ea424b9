"""What the records of a study say: chosen rates, subjects' scores, tests, intervals, ranks, volumes.

The unit of every test and interval is the subject, never the image: the slices of one heart are alike. A subject's
score is the mean over its images, then over seeds, and subjects are paired over methods.

What the tests assume and do not cover:

- Subjects are taken as independent. In cross-validation they are not quite: the subjects of a fold are scored by the
  same model, and the models of two folds share training subjects. p-values and intervals ignore both, hence are
  somewhat too small and too narrow. They are about new subjects, not about new training data or a new seed:
  :func:`seed_variance` is about seeds.
- With the rule ``paper`` the test images choose the learning rate, so every score is optimistic.
- Intervals are not corrected for the number of comparisons; p-values are, within one call of :func:`compare`. A study
  that calls it for several structures, metrics or data sets has several families.
- An undefined distance (nothing predicted, or nothing there) is skipped. A method that predicts nothing where the task
  is hard looks better in hd95_mm and asd_mm for it: read them beside Dice, for which that image counts 0.
- No evidence of a difference is no evidence of equality; the interval says how large a difference may still be.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import stats
from statsmodels.stats.multitest import multipletests

from monai_iln.errors import require
from monai_iln.study.seeds import ALPHA, SeedVariance, format_p, seed_variance
from monai_iln.study.selection import DECIMALS, RULES, choose_rates, describe, select_images, subject_scores, volumes

__all__ = [
    "MIN_SUBJECTS",
    "RULES",
    "Agreement",
    "Comparison",
    "Ranking",
    "SeedVariance",
    "bland_altman",
    "bootstrap_mean",
    "choose_rates",
    "compare",
    "rank",
    "seed_variance",
    "select_images",
    "subject_scores",
    "volumes",
]

MIN_SUBJECTS = 6  # with five pairs the smallest two-sided p of a signed-rank test is 2/2^5 = 0.0625
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """The reference against another method, over the subjects that have a score with both.

    ``difference`` is the mean of reference - other over subjects, ``low`` and ``high`` its 95 % interval (see
    :func:`bootstrap_mean`), ``p`` that of the signed-rank test and ``p_holm`` the same after Holm's correction.
    ``better`` names the better method where that is significant and mean and ranks agree on it.
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
    low: float
    high: float
    p: float
    p_holm: float
    sentence: str = ""
    better: str | None = None


def compare(
    scores: pd.DataFrame, reference: str, metric: str = "dice", dataset: str = "", structure: str = ""
) -> list[Comparison]:
    """Compare the reference with every other method by paired differences of subjects' scores.

    The test is Wilcoxon's signed-rank test, two-sided and exact (every sign of the differences that are not 0 is
    equally likely), equal differences sharing their mean rank and zeros ranked but not counted (Pratt 1959, JASA 54).
    p is NaN with fewer than six subjects, where it could not reach 0.05, and where no subject differs. Holm's
    correction (1979, Scand. J. Statist. 6) is over the tests of this call.

    Args:
        scores: of one data set and structure, a row a subject, a column a method; see :func:`subject_scores`.
        reference: one of the columns.
        metric: which says what is better, for the sentence.
        dataset: for the sentence, as is ``structure``.
        structure: the label.

    Raises:
        UserError: without the reference, for an unknown metric, or if a subject has two rows.

    Example:
        >>> scores = pd.DataFrame({"ILN": [0.9] * 6, "IN": [0.8, 0.81, 0.82, 0.83, 0.84, 0.85]})
        >>> print(compare(scores, "ILN")[0].sentence)
        Dice of ILN 0.900, of IN 0.825: difference 0.075 (95 % interval 0.062 to 0.088), 6 subjects; ILN is better
        (Wilcoxon signed-rank test, p = 0.031 after Holm's correction).
    """
    describe(metric)
    methods = ", ".join(map(str, scores.columns))
    require(reference in scores, f"reference {reference!r}", f"it is one of the methods ({methods})", "choose one")
    _require_single(scores)
    rows, signs = [], []
    for other in scores.columns.drop(reference):
        pairs = scores[[reference, other]].to_numpy(float)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        differences = np.round(pairs[:, 0] - pairs[:, 1], DECIMALS)
        p, sign = _signed_rank(differences)
        signs.append(sign)
        first, second, difference = _mean(pairs[:, 0]), _mean(pairs[:, 1]), _mean(differences)
        effect = (first, second, difference, *bootstrap_mean(differences), p, np.nan)
        rows.append(Comparison(dataset, structure, metric, reference, str(other), len(pairs), *effect))
    tested = [i for i, row in enumerate(rows) if not np.isnan(row.p)]
    if tested:
        for i, p_holm in zip(tested, multipletests([rows[i].p for i in tested], method="holm")[1], strict=True):
            rows[i] = replace(rows[i], p_holm=float(p_holm))
    rows = [replace(row, better=_better(row, sign)) for row, sign in zip(rows, signs, strict=True)]
    return [replace(row, sentence=_sentence(row)) for row in rows]


def bootstrap_mean(values: npt.ArrayLike) -> tuple[float, float]:
    """95 % interval of the mean of independent values; NaN is skipped, and the result NaN with fewer than two.

    BCa bootstrap (Efron 1987, JASA 82) of 9999 resamples with a fixed seed; percentiles where BCa is degenerate. With
    fewer than about ten values any bootstrap interval is too narrow, and around equal values it has no width.

    Example:
        >>> low, high = bootstrap_mean([1, 2, 3, 4, 5, 6, 7, 8, 9])
        >>> round(low, 1), round(high, 1)
        (3.3, 6.7)
    """
    data = np.asarray(values, float).ravel()
    data = data[np.isfinite(data)]
    if len(data) < 2:
        return np.nan, np.nan
    low = high = np.nan
    for method in ("BCa", "percentile"):
        if np.isnan(low) or np.isnan(high):
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # of degenerate data, for which the other method is there
                result = stats.bootstrap((data,), np.mean, n_resamples=9999, method=method, rng=0)
            low, high = result.confidence_interval
    return float(low), float(high)


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
    sentence: str


def rank(scores: pd.DataFrame, metric: str = "dice") -> Ranking:
    """Rank the methods over the subjects that all of them have.

    The critical difference is ``q sqrt(k (k + 1) / (6 N))`` for k methods and N subjects, q the 0.95 quantile of the
    studentized range over sqrt(2). Friedman's p (from chi-square) is NaN with fewer than three methods; it and what
    Nemenyi's test says are NaN with fewer than six subjects, and both are approximate with few. Equal scores share
    their mean rank.

    Args:
        scores: as for :func:`compare`.
        metric: which says what is better.

    Raises:
        UserError: for an unknown metric, or if a subject has two rows.

    Example:
        >>> ranking = rank(pd.DataFrame({"ILN": [3, 3, 3, 3, 3, 3], "IN": [2] * 6, "None": [1] * 6}))
        >>> ranking.average_ranks, ranking.statistic
        ({'ILN': 1.0, 'IN': 2.0, 'None': 3.0}, 12.0)
    """
    higher_is_better = describe(metric)[3]
    _require_single(scores)
    methods = [str(method) for method in scores.columns]
    values = scores.to_numpy(float)
    values = np.round(values[np.isfinite(values).all(axis=1)], DECIMALS)
    n, k = values.shape
    ranks = stats.rankdata(-values if higher_is_better else values, axis=1) if n and k else np.full((1, k), np.nan)
    average = dict(zip(methods, ranks.mean(axis=0).tolist(), strict=True))
    statistic = p = critical = np.nan
    nemenyi = pd.DataFrame(np.nan, index=methods, columns=methods)
    if n >= MIN_SUBJECTS and k >= 2:
        critical = float(stats.studentized_range.isf(ALPHA, k, np.inf) * np.sqrt(k * (k + 1) / (12 * n)))
        nemenyi = posthoc_nemenyi_friedman(pd.DataFrame(ranks, columns=methods)).loc[methods, methods]
        if k >= 3 and (ranks != ranks[:, :1]).any():
            statistic, p = map(float, stats.friedmanchisquare(*ranks.T))
    listed = ", ".join(f"{name} {average[name]:.2f}" for name in sorted(methods, key=lambda name: average[name]))
    sentence = f"Average ranks over {n} subjects (1 is best): {listed}; "
    pairs = zip(*np.nonzero(np.triu(nemenyi.to_numpy() < ALPHA, 1)), strict=True)
    apart = [f"{methods[first]} and {methods[second]}" for first, second in pairs]
    if k < 3:
        sentence += "Friedman's test needs three methods."
    elif n < MIN_SUBJECTS:
        sentence += "too few subjects to test."
    elif np.isnan(p):
        sentence += "no evidence of a difference, for the methods tie for every subject."
    elif p >= ALPHA:
        sentence += f"no evidence of a difference (Friedman test, {format_p(p)})."
    else:
        sentence += f"the methods differ (Friedman test, {format_p(p)}), by Nemenyi's test "
        sentence += f"{'; '.join(apart) or 'no single pair'} (critical difference {critical:.2f})."
    return Ranking(average, n, statistic, p, critical, nemenyi, sentence)


@dataclass(frozen=True)
class Agreement:
    """Bias of predicted - truth with its 95 % interval, its standard deviation, and the limits of agreement."""

    subjects: int
    bias: float
    sd: float
    low: float
    high: float
    bias_low: float
    bias_high: float


def bland_altman(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> Agreement:
    """Agreement of two measurements of the same subjects (Bland & Altman 1986, Lancet 327).

    The limits are ``bias ± 1.96 sd`` of the differences predicted - truth; the interval of the bias is Student's,
    ``bias ± t sd / sqrt(n)``. Both take the differences as normal and independent: one value a subject, seeds averaged.

    Args:
        truth: a value a subject.
        predicted: of the same subjects in the same order. Pairs with NaN are dropped; one pair has no sd.

    Raises:
        UserError: if the lengths differ.

    Example:
        >>> agreement = bland_altman([100, 110, 120], [102, 111, 123])
        >>> agreement.bias, agreement.sd, round(agreement.high, 2)
        (2.0, 1.0, 3.96)
    """
    first, second = np.asarray(truth, float), np.asarray(predicted, float)
    got = f"{first.shape} true and {second.shape} predicted values"
    require(first.shape == second.shape, got, "they are pairs", "give one of each for every subject")
    differences = second - first
    differences = differences[np.isfinite(differences)]
    n, bias, sd, half = len(differences), _mean(differences), np.nan, np.nan
    if n > 1:
        sd = float(differences.std(ddof=1))
        half = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * sd / n**0.5
    return Agreement(n, bias, sd, bias - 1.96 * sd, bias + 1.96 * sd, bias - half, bias + half)


def _require_single(scores: pd.DataFrame) -> None:
    subjects = scores.index.get_level_values(-1)
    twice = ", ".join(map(str, subjects[subjects.duplicated()].unique()[:3]))
    rule = "a test takes one row a subject"
    require(not twice, f"two rows for {twice}", rule, "give the scores of one data set and structure")


def _mean(values: _Floats) -> float:
    return float(values.mean()) if len(values) else np.nan


def _signed_rank(differences: _Floats) -> tuple[float, int]:
    """Exact two-sided p, and the sign of the rank sum. scipy is exact only without zeros and equal differences."""
    ranks = np.rint(2 * stats.rankdata(np.abs(differences))).astype(int)[differences != 0]  # doubled: mean ranks halve
    signed = int(ranks @ np.sign(differences[differences != 0]))
    if len(differences) < MIN_SUBJECTS or not len(ranks):
        return np.nan, int(np.sign(signed))
    chances = np.ones(1)  # of every sum of the positive ranks
    for one in ranks:
        chances = (np.pad(chances, (0, one)) + np.pad(chances, (one, 0))) / 2
    sums = 2 * np.arange(len(chances)) - ranks.sum()  # positive minus negative ranks
    return min(1.0, float(chances[np.abs(sums) >= abs(signed)].sum())), int(np.sign(signed))


def _better(row: Comparison, sign: int) -> str | None:
    """The better method, if the test says that there is one, and its ranks (their ``sign``) what the mean says."""
    if np.isnan(row.p_holm) or row.p_holm >= ALPHA or sign != np.sign(row.difference):
        return None
    *_, higher_is_better = describe(row.metric)
    return row.reference if (sign > 0) == higher_is_better else row.other


def _sentence(row: Comparison) -> str:
    name, unit, decimals, _ = describe(row.metric)

    def number(value: float) -> str:
        return f"{value:.{decimals}f}"

    where = ", ".join(filter(None, (row.dataset, row.structure)))
    text = f"{where}: " if where else ""
    text += f"{name} of {row.reference} "
    if not row.subjects:
        return f"{text}and of {row.other}: no subject has both; too few subjects to test."
    text += f"{number(row.mean_reference)}{unit}, of {row.other} {number(row.mean_other)}{unit}: difference "
    text += number(row.difference) + unit
    if not np.isnan(row.low):
        text += f" (95 % interval {number(row.low)} to {number(row.high)})"
    text += f", {row.subjects} subject{'s' * (row.subjects > 1)}; "
    if row.subjects < MIN_SUBJECTS:
        return f"{text}too few subjects to test."
    if np.isnan(row.p):
        return f"{text}no evidence of a difference, for no subject differs: there is nothing to test."
    test = f"(Wilcoxon signed-rank test, {format_p(row.p_holm)} after Holm's correction)"
    holds_zero = row.low <= 0 <= row.high
    if row.p_holm >= ALPHA:
        note = "" if holds_zero else "; the interval excludes 0, but is of the mean and not corrected"
        return f"{text}no evidence of a difference {test}{note}."
    if row.better is None:
        return f"{text}the methods differ {test}, but the mean and the ranks of the differences disagree on the better."
    note = "; the interval, which is of the mean, holds 0" if holds_zero else ""
    return f"{text}{row.better} is better {test}{note}."
