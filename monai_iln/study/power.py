"""What a cross-validation can show, before it is run: from the spread of subjects, folds and trainings.

The variance of a mean difference is that of :mod:`monai_iln.study.variances`, with the true components in place of the
estimated ones; sd are those of a difference, N subjects, F folds of equal size, S seeds, and K methods::

    one split:   V = (subject^2 + residual^2 / S) / N + (training^2 / S + fold^2) / F,    df = (K - 1)(F - 1)
    new splits:  c = training^2 + fold^2,  w = 1 / (F S) - (1 - 1/F) / (S N),
                 V = (subject^2 + residual^2 / S + c (1 - 1/F) / S) / N + c w
                 df that of Satterthwaite, as for the estimate

From there on it is the noncentral t distribution. This is a calculation for normal distributions, with no method left
out of the pool. With one seed that happens now and then by chance, and makes the detectable difference of six methods
larger by a twentieth. ``monai-iln simulate`` shows how good the calculation is, for other distributions as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from monai_iln.errors import require
from monai_iln.study.chance import NEW_SPLITS, ONE_SPLIT, Components

USUAL = Components(subject=0.03, fold=0.01, training=0.01, residual=0.035)
"""Standard deviations of a difference in Dice between two norms, as in cardiac segmentation."""

MOST_SEEDS = 50
_MIDDLES = (np.arange(500) + 0.5) / 500  # of equal parts of a distribution


@dataclass(frozen=True)
class Plan:
    """A cross-validation that may be run.

    A component that is NaN is contained in another one, see :class:`~monai_iln.study.chance.Components`. More seeds do
    not make smaller what one seed could not tell apart, nor, in a plan of one split, what new splits could not: then
    the plan is on the safe side. Where nothing is known, all answers are NaN or ``None``.

    Attributes:
        components: The standard deviations of a difference.
        subjects: The number of subjects N.
        folds: The number of folds F.
        seeds: The number of seeds S.
        methods: The number of methods K, all of which are pooled.
        design: ``"one split"`` or ``"new splits"``.

    Raises:
        UserError: If there are fewer than two methods or folds, fewer subjects than folds, no seed, or new splits with
            one seed; if a component is negative, or the design is unknown.

    Example:
        >>> sd = Components(subject=0.03, fold=0.01, training=0.01, residual=0.035)
        >>> plan = Plan(sd, subjects=44, folds=3, seeds=4, methods=6)
        >>> round(plan.detectable(), 3), round(plan.detectable(comparisons=5), 3), plan.seeds_for_half_width(0.01)
        (0.026, 0.034, None)
    """

    components: Components
    subjects: int
    folds: int
    seeds: int
    methods: int = 2
    design: str = ONE_SPLIT

    def __post_init__(self) -> None:
        for name, got, least in (
            ("methods", self.methods, 2),
            ("folds", self.folds, 2),
            ("subjects", self.subjects, self.folds),
            ("seeds", self.seeds, 1),
        ):
            require(got >= least, f"{name} {got}", f"there must be {least} or more", "choose more")
        known = (ONE_SPLIT, NEW_SPLITS)
        require(self.design in known, f"design {self.design!r}", f"it is one of {', '.join(known)}", "choose one")
        several = self.seeds > 1 or self.design == ONE_SPLIT
        require(several, "new splits with one seed", "one seed has one split", f"choose {ONE_SPLIT!r}, or more seeds")
        least_sd = np.nanmin([*vars(self.components).values(), np.inf])
        require(least_sd >= 0, f"a standard deviation of {least_sd}", "there is no negative one", "choose 0 or more")

    @property
    def variance(self) -> float:
        """The variance of the mean difference."""
        return self._variance_and_df()[0]

    @property
    def df(self) -> float:
        """The degrees of freedom of the variance's estimate."""
        return self._variance_and_df()[1]

    def half_width(self, level: float = 0.95) -> float:
        """About half the width of the interval, which differs from study to study.

        The median over studies is this with new splits. With one split it may be a fifth less, where df are few.
        """
        variance, df = self._variance_and_df()
        return float(special.stdtrit(df, (1 + level) / 2) * np.sqrt(variance))

    def detectable(self, comparisons: int = 1, power: float = 0.8, alpha: float = 0.05) -> float:
        """The difference that is significant with a given probability.

        Args:
            comparisons: The number of comparisons that Holm's correction is over: K - 1 against a reference. The
                difference is that of its first step, the hardest. With 1 there is no correction.
            power: The probability.
            alpha: The two-sided level.
        """
        variance, df = self._variance_and_df()
        t = special.stdtrit(df, 1 - alpha / comparisons / 2)
        return float(special.nctdtrinc(df, 1 - power, t) * np.sqrt(variance))

    def chance_of_equal(self, margin: float) -> float:
        """The probability that two equal methods are found practically equal.

        They are where the 90 % interval lies between -margin and margin. With new splits this is right to 0.03. With
        one split it is up to 0.1 too high where it is below a half, as no variance is estimated below 0.
        """
        variance, df = self._variance_and_df()
        if variance == 0:
            return 1.0
        width = special.stdtrit(df, 0.95) * np.sqrt(special.chdtri(df, _MIDDLES) / df)  # half of it, for the true sd 1
        return float(np.maximum(0, 2 * special.ndtr(margin / np.sqrt(variance) - width) - 1).mean())

    def seeds_for_half_width(self, half_width: float) -> int | None:
        """The fewest seeds for an interval of that half-width; ``None`` if 50 are too few."""
        return self._fewest(lambda plan: plan.half_width() <= half_width)

    def seeds_for_equal(self, margin: float, chance: float = 0.8) -> int | None:
        """The fewest seeds that find equal methods equal with that probability; ``None`` if 50 are too few."""
        return self._fewest(lambda plan: plan.chance_of_equal(margin) >= chance)

    def _fewest(self, is_enough: Callable[[Plan], bool]) -> int | None:
        first = 1 if self.design == ONE_SPLIT else 2
        plans = (replace(self, seeds=seeds) for seeds in range(first, MOST_SEEDS + 1))
        return next((plan.seeds for plan in plans if is_enough(plan)), None)

    def _variance_and_df(self) -> tuple[float, float]:
        given = self.components
        if np.isnan(given.subject):
            return np.nan, np.nan
        subject, fold, training, residual = np.nan_to_num(list(vars(given).values())) ** 2
        n, s, q = self.subjects, self.seeds, 1 / self.folds
        within = subject + residual / s
        if self.design == ONE_SPLIT:
            if np.isnan(given.fold):
                fold, training = training, 0.0
            variance = within / n + q * (training / s + fold)
            return float(variance), float((self.methods - 1) * (self.folds - 1))
        run = training + fold
        within += run * (1 - q) / s
        w = q / s - (1 - q) / (s * n)
        rank = self.folds * s - 1
        parts = (within / n, w * (run + residual * rank / (n * (s - 1))))
        variance = within / n + w * run
        if not variance:
            return 0.0, float(n - 1)
        squares = parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (rank * (self.methods - 1))
        return float(variance), float(variance**2 / squares)
