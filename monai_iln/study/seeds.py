"""How much of what differs between methods is the luck of the seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from monai_iln.study.selection import DECIMALS, GROUP, select_test

ALPHA = 0.05


@dataclass(frozen=True)
class SeedVariance:
    """Standard deviations of Dice by where they come from.

    - ``subject``: between the subjects of a data set, structure and method, seeds averaged;
    - ``residual``: of one subject's score between seeds;
    - ``seed``: of a fold's mean over subjects between seeds, from ``degrees`` degrees of freedom;
    - ``seed_of_mean``: of a method's mean over its folds and seeds by chance of the seeds, what ``seed`` leads to;
    - ``between_methods``: of the methods' means, over the folds that all methods have.

    ``p`` tests whether ``between_methods`` exceeds ``seed_of_mean`` (F test), on these subjects.
    """

    subject: float
    residual: float
    seed: float
    seed_of_mean: float
    between_methods: float
    seeds: int
    degrees: int
    p: float
    sentence: str


def seed_variance(images: pd.DataFrame) -> SeedVariance:
    """How much of the differences between methods a new seed would change.

    A variance is pooled: the mean of the groups' variances, weighted by their degrees of freedom. Seeds are taken as
    independent between methods and folds. With one seed the variance between seeds is NaN.

    Args:
        images: of one learning rate per data set, method and fold, see :func:`select_images`.

    Raises:
        UserError: for images of two learning rates.

    Example:
        >>> images = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": 0.1, "seed": [0, 1],
        ...     "part": "test", "structure": "LV", "subject": "x", "dice": [0.7, 0.9]})
        >>> round(seed_variance(images).seed, 3)
        0.141
    """
    test = select_test(images, one_rate=True)
    scores = test.groupby([*GROUP, "seed", "structure", "subject"])["dice"].mean().dropna()
    by_run = scores.groupby([*GROUP, "seed"]).mean()
    seed, degrees = _pooled(by_run, GROUP)
    residual, _ = _pooled(scores, [*GROUP, "structure", "subject"])
    keys = ["dataset", "structure", "method"]
    subject, _ = _pooled(scores.groupby([*keys, "subject"]).mean(), keys)
    variances = []
    for _, runs in by_run.groupby("dataset"):
        means, counts = (runs.groupby(["method", "fold"]).agg(what).unstack("fold") for what in ("mean", "count"))
        shared = means.columns[means.notna().all()]
        if len(shared) and len(means) > 1:
            noise = (seed**2 / counts[shared]).sum(axis=1, skipna=False).mean() / len(shared) ** 2
            variances.append((means[shared].mean(axis=1).var(), noise, len(means) - 1))
    between, noise, p = np.nan, np.nan, np.nan
    if variances:
        between, noise = np.average([v[:2] for v in variances], axis=0, weights=[v[2] for v in variances])
        if degrees and between > 10.0 ** (-2 * DECIMALS):  # else all that differs is the rounding
            with np.errstate(divide="ignore"):
                p = float(stats.f.sf(between / noise, sum(v[2] for v in variances), degrees))
    result = SeedVariance(
        subject, residual, seed, float(np.sqrt(noise)), float(np.sqrt(between)), test["seed"].nunique(), degrees, p, ""
    )
    return replace(result, sentence=_seed_sentence(result))


def _pooled(values: pd.Series[float], keys: list[str]) -> tuple[float, int]:
    """Standard deviation within groups, and its degrees of freedom."""
    groups = values.groupby(keys)
    degrees = groups.count() - 1
    total = int(degrees.sum())
    return (float(np.sqrt((groups.var() * degrees).sum() / total)) if total else np.nan), total


def _seed_sentence(result: SeedVariance) -> str:
    if not result.degrees:
        return "No fold was trained with two seeds: a study with one seed cannot tell what a new seed would change."
    text = f"A new seed changes the mean Dice of a fold by {result.seed:.4f} (standard deviation, {result.seeds} seeds)"
    if np.isnan(result.between_methods):
        return f"{text}; there are no two methods with a fold in common to compare it with."
    text += f". The means of the methods differ by {result.between_methods:.4f}, by chance of the seeds alone they "
    text += f"would by {result.seed_of_mean:.4f}: "
    if np.isnan(result.p) or result.p >= ALPHA:
        p = "" if np.isnan(result.p) else f" (F test, {format_p(result.p)})"
        return f"{text}the differences between methods do not exceed what a new seed would change{p}."
    return f"{text}the differences between methods exceed what a new seed would change (F test, {format_p(result.p)})."


def format_p(p: float) -> str:
    """A p-value as a sentence gives it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
