"""How much of a difference between two methods is chance: of subjects, of folds and of trainings.

A score is that of method k, seed s and subject i, who is tested in fold f. The difference of two methods has four
sources of chance: the subject, the fold (its training data suit one method better), the training (the luck of its
seed, which all subjects of a run share: one method, fold and seed), and what one training does to one subject. An
interval over subjects alone leaves out two of them, and is far too narrow. Here each has a variance, and the variance
of the mean difference is put together from them. The formulas stand in :mod:`monai_iln.study.variances`.

There are two designs. With one split all seeds have the same folds; with new splits each seed has its own, and then the
luck of folds averages out as that of trainings does.

What the interval is about: training on these subjects. What this pool of subjects does to every training is seen by no
split of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import special

from monai_iln.errors import require
from monai_iln.study.variances import (
    NOTHING,
    Terms,
    Variances,
    degrees,
    new_splits,
    noisy_methods,
    one_split,
    variances,
)

ONE_SPLIT, NEW_SPLITS = "one split", "new splits"
_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """The mean difference between two methods, over subjects, folds and trainings.

    Attributes:
        first: The first method.
        second: The second method.
        mean: The mean of first - second.
        variance: The variance of that mean; NaN if it cannot be told.
        df: The degrees of freedom of the variance.
        apart: Whether one of the two was left out of the pool, so that the pair has its own terms.
        run_variance: The variance of the difference between one training and another, each in a fold of its own.
        sensitivity: With one seed, the largest standard deviation of the difference of two runs at which the mean would
            still be significant; 0 if it would be at none. NaN with more seeds, which tell that deviation.
        reason: Why there is no interval, or why it has no width; empty if it has one.
    """

    first: str
    second: str
    mean: float
    variance: float = np.nan
    df: float = np.nan
    apart: bool = False
    run_variance: float = np.nan
    sensitivity: float = np.nan
    reason: str = ""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The interval ``mean -+ t(df) sqrt(variance)``.

        Args:
            level: The chance that such an interval holds the truth.
        """
        half = self._quantile(level) * float(np.sqrt(self.variance))
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        """The two-sided p value of the same t; NaN without a variance, and where it is 0."""
        if not self.variance > 0:
            return np.nan
        return float(2 * special.stdtr(self.df, -abs(self.mean) / np.sqrt(self.variance)))

    def chance_of_better(self) -> float:
        """The probability that the first method scores higher in one new training of each.

        It is ``P(T < mean / sqrt(variance + run_variance))``, T of Student's distribution with ``df`` degrees of
        freedom: a new training has its own luck, of a fold and of the seed, and the mean is not known exactly. The
        score is the expected one over subjects.
        """
        spread = np.sqrt(self.variance + self.run_variance)
        if spread == 0:
            return float(np.heaviside(self.mean, 0.5))
        return float(special.stdtr(self.df, self.mean / spread))

    def _quantile(self, level: float) -> float:
        if self.variance == 0:
            return 0.0
        return float(special.stdtrit(self.df, (1 + level) / 2))


@dataclass(frozen=True)
class Components:
    """Standard deviations of the difference of two methods by where they come from, over the pooled methods.

    What a design cannot tell apart is NaN, and contained in another one: with one seed ``fold`` contains the training,
    and ``subject`` the residual; with new splits ``training`` contains the fold.

    Attributes:
        subject: The spread between subjects.
        fold: The spread between folds.
        training: The spread between the trainings of a fold.
        residual: The spread of one subject between trainings, beside what all subjects of a run share.
    """

    subject: float = np.nan
    fold: float = np.nan
    training: float = np.nan
    residual: float = np.nan


@dataclass(frozen=True)
class Chance:
    """What :func:`estimate_chance` finds.

    Attributes:
        design: ``"one split"`` or ``"new splits"``.
        methods: The methods, in their order.
        subjects: The number of subjects.
        folds: The number of folds.
        seeds: The number of seeds.
        components: The standard deviations of a difference.
        noisy: The methods that were left out of the pool.
        differences: The difference of every pair of methods, the one that comes first minus the other.
        means: The mean score of each method, over the same subjects and seeds.
    """

    design: str
    methods: tuple[str, ...]
    subjects: int
    folds: int
    seeds: int
    components: Components
    noisy: tuple[str, ...]
    differences: Mapping[tuple[str, str], Difference]
    means: Mapping[str, float] = field(default_factory=dict)

    def between(self, first: str, second: str) -> Difference:
        """The difference first - second, whatever their order.

        Raises:
            UserError: If it is not a pair of the methods.
        """
        known = {first, second} <= set(self.methods) and first != second
        rule = f"two of the methods ({', '.join(self.methods)}) are compared"
        require(known, f"{first!r} and {second!r}", rule, "choose two of them")
        if (first, second) in self.differences:
            return self.differences[first, second]
        found = self.differences[second, first]
        return replace(found, first=first, second=second, mean=-found.mean)


def estimate_chance(scores: npt.ArrayLike, folds: npt.ArrayLike, methods: Sequence[str]) -> Chance:
    """Estimate how far chance of subjects, folds and trainings may have moved each difference of two methods.

    The formulas stand in :mod:`monai_iln.study.variances`. The design is read off the folds: a new split is another
    partition of the subjects, whatever the folds are called. Where only some seeds share a split, the interval is on
    the safe side.

    There is no interval (its ends and p are NaN, and ``reason`` says why) with one subject, one fold, no seed, or a
    score that is not finite. Where no subject's difference varies the interval has no width, and p is NaN. With one
    subject in every fold, fold and subject are one.

    Args:
        scores: The scores, an array ``(methods, seeds, subjects)``, calculated with in float64.
        folds: The number of the fold in which each subject is tested, integers ``(seeds, subjects)``. All methods of a
            seed share its split.
        methods: The names of the methods.

    Raises:
        UserError: If the shapes do not fit together, or a name is there twice.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> scores = 0.8 + rng.normal(0, 0.02, (2, 3, 12)) + np.array([0.05, 0]).reshape(2, 1, 1)
        >>> chance = estimate_chance(scores, np.tile(np.arange(12) % 3, (3, 1)), ["ILN", "IN"])
        >>> difference = chance.between("ILN", "IN")
        >>> chance.design, round(difference.mean, 3), difference.p < 0.05
        ('one split', 0.042, True)
    """
    y = np.asarray(scores, np.float64)
    y = np.where(np.isfinite(y), y, np.nan)
    names = tuple(map(str, methods))
    shape = (len(names), *np.shape(folds))
    require(
        y.ndim == 3 and y.shape == shape, f"scores {y.shape}", f"the folds and methods are of {shape}", "match them"
    )
    require(len(set(names)) == len(names), f"methods {', '.join(names)}", "each has one name", "name it once")
    partitions = np.array([_in_order(row) for row in np.asarray(folds)], np.int64).reshape(shape[1:])
    _, seeds, subjects = y.shape
    distinct = len(np.unique(partitions, axis=0)) if partitions.size else 0
    design = ONE_SPLIT if distinct < 2 else NEW_SPLITS
    number = int(partitions.max(initial=-1)) + 1
    means = y.mean(axis=(1, 2)) if y[:1].size else np.full(len(names), np.nan)
    told_means = dict(zip(names, means.tolist(), strict=True))
    reason = _reason(y, number)
    if reason:
        unknown = {
            (names[i], names[j]): Difference(names[i], names[j], float(means[i] - means[j]), reason=reason)
            for i, j in combinations(range(len(names)), 2)
        }
        return Chance(design, names, subjects, number, seeds, Components(), (), unknown, told_means)
    terms = one_split(y, partitions[0]) if design == ONE_SPLIT else new_splits(y, partitions)
    noisy = noisy_methods(terms)
    pool = [k for k in range(len(names)) if k not in noisy]
    pooled = variances(terms, pool)
    found = {}
    for i, j in combinations(range(len(names)), 2):
        apart = bool(noisy & {i, j})
        own = variances(terms, [i, j]) if apart else variances(terms, pool, (i, j))
        found[names[i], names[j]] = _difference(terms, own, (i, j), names, float(means[i] - means[j]), apart)
    told = _components(terms, pooled, design)
    left_out = tuple(names[k] for k in sorted(noisy))
    return Chance(design, names, subjects, number, seeds, told, left_out, found, told_means)


def estimate_mean(scores: npt.ArrayLike, folds: npt.ArrayLike) -> Difference:
    """Estimate how far chance may have moved the mean of one score, such as what a change does to each training.

    The formulas are those of a difference whose second method is 0 everywhere, and adds no degrees of freedom.

    Args:
        scores: The scores, an array ``(seeds, subjects)``.
        folds: The number of the fold in which each subject is tested, integers ``(seeds, subjects)``.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> mean = estimate_mean(rng.normal(0.05, 0.02, (3, 12)), np.tile(np.arange(12) % 3, (3, 1)))
        >>> round(mean.mean, 3), mean.p < 0.01
        (0.048, True)
    """
    y = np.asarray(scores, np.float64)
    return estimate_chance(np.stack([y, np.zeros_like(y)]), folds, ["", "0"]).between("", "0")


def _difference(
    terms: Terms, of: Variances, pair: tuple[int, int], names: Sequence[str], mean: float, apart: bool
) -> Difference:
    over_subjects = float(terms.within[pair]) / terms.subjects
    v = over_subjects + terms.run_weight * of.run + terms.fold_weight * of.fold
    first, second = (names[k] for k in pair)
    if v < NOTHING:
        reason = "the difference is the same for every subject"
        return Difference(first, second, mean, 0.0, np.inf, apart, 0.0, np.nan, reason)
    sensitivity = np.nan
    if terms.seeds == 1 and terms.within_df:
        t = float(special.stdtrit(terms.within_df, 0.975))
        sensitivity = float(np.sqrt(max(0.0, (mean / t) ** 2 - over_subjects) / terms.fold_weight))
    df = degrees(terms, of, over_subjects, v)
    return Difference(first, second, mean, v, df, apart, of.run + of.fold, sensitivity)


def _components(terms: Terms, of: Variances, design: str) -> Components:
    subject, residual = of.within, of.noise
    fold, training = of.fold, of.run
    if design == NEW_SPLITS:
        fold = np.nan
    if terms.seeds == 1:
        training = residual = np.nan
    else:
        subject = max(0.0, subject - residual / terms.seeds - terms.run_in_within * training)
    return Components(*(float(np.sqrt(value)) for value in (subject, fold, training, residual)))


def _reason(y: _Floats, folds: int) -> str:
    """Why nothing can be told about chance; empty if it can."""
    methods, seeds, subjects = y.shape
    if methods < 2:
        return "there is one method"
    if not seeds:
        return "no seed is complete"
    if subjects < 2:
        return f"there is {subjects or 'no'} subject"
    if folds < 2:
        return "there is one fold, and its luck cannot be told"
    if np.isnan(y).any():
        return "a score is not finite"
    return ""


def _in_order(row: npt.NDArray[np.generic]) -> _Integers:
    """The folds of a row, numbered in the order in which they appear."""
    _, first, inverse = np.unique(row, return_index=True, return_inverse=True)
    numbers: _Integers = np.argsort(np.argsort(first))[inverse]
    return numbers
