"""How much of what differs between methods is the luck of the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from monai_iln.study.metric import Metric, known_metric
from monai_iln.study.selection import DECIMALS, GROUP, select_test

ALPHA = 0.05


@dataclass(frozen=True)
class SeedVariance:
    """Standard deviations of the score by where they come from.

    Attributes:
        subject: The spread between the subjects of a data set, structure and method, seeds averaged.
        residual: The spread of one subject's score between seeds.
        seed: The spread of a fold's mean over subjects between seeds, from ``degrees`` degrees of freedom.
        seed_of_mean: The spread of a method's mean over its folds and seeds by chance of the seeds: what ``seed``
            leads to.
        between_methods: The spread of the methods' means, over the folds that all methods have.
        seeds: The number of seeds.
        degrees: The degrees of freedom of ``seed``.
        p: The p value of the F test whether ``between_methods`` exceeds ``seed_of_mean``, on these subjects.
    """

    subject: float
    residual: float
    seed: float
    seed_of_mean: float
    between_methods: float
    seeds: int
    degrees: int
    p: float


def seed_variance(images: pd.DataFrame, metric: str | Metric = "dice") -> SeedVariance:
    """How much of the differences between methods a new seed would change.

    A variance is pooled: the mean of the groups' variances, weighted by their degrees of freedom. Seeds are taken as
    independent between methods and folds. With one seed the variance between seeds is NaN.

    Args:
        images: The images of one learning rate for each data set, method and fold, see :func:`select_images`.
        metric: The metric.

    Raises:
        UserError: If there are images of two learning rates, or the metric is unknown.

    Example:
        >>> images = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": 0.1, "seed": [0, 1],
        ...     "part": "test", "structure": "LV", "subject": "x", "dice": [0.7, 0.9]})
        >>> round(seed_variance(images).seed, 3)
        0.141
    """
    test = select_test(images, one_rate=True)
    column = known_metric(metric).column
    scores = test.groupby([*GROUP, "seed", "structure", "subject"])[column].mean().dropna()
    by_run = scores.groupby([*GROUP, "seed"]).mean()
    seed, degrees = _pooled(by_run, GROUP)
    residual, _ = _pooled(scores, [*GROUP, "structure", "subject"])
    keys = ["dataset", "structure", "method"]
    subject, _ = _pooled(scores.groupby([*keys, "subject"]).mean(), keys)
    variances = []
    for _, runs in by_run.groupby("dataset"):
        by_fold = runs.groupby(["method", "fold"])
        means, counts = by_fold.mean().unstack("fold"), by_fold.count().unstack("fold")
        shared = means.columns[means.notna().all()]
        if len(shared) and len(means) > 1:
            noise = (seed**2 / counts[shared]).sum(axis=1, skipna=False).mean() / len(shared) ** 2
            variances.append((means[shared].mean(axis=1).var(), noise, len(means) - 1))
    between, noise, p = np.nan, np.nan, np.nan
    if variances:
        between_by_dataset, noise_by_dataset, weights = zip(*variances, strict=True)
        between = np.average(between_by_dataset, weights=weights)
        noise = np.average(noise_by_dataset, weights=weights)
        if degrees and between > 10.0 ** (-2 * DECIMALS):  # else all that differs is the rounding
            with np.errstate(divide="ignore"):
                p = float(stats.f.sf(between / noise, sum(weights), degrees))
    seeds = test["seed"].nunique()
    return SeedVariance(subject, residual, seed, float(np.sqrt(noise)), float(np.sqrt(between)), seeds, degrees, p)


def _pooled(values: pd.Series[float], keys: list[str]) -> tuple[float, int]:
    """Standard deviation within groups, and its degrees of freedom."""
    groups = values.groupby(keys)
    degrees = groups.count() - 1
    total = int(degrees.sum())
    if not total:
        return np.nan, 0
    return float(np.sqrt((groups.var() * degrees).sum() / total)), total
