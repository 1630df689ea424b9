"""What a new seed would change."""

from __future__ import annotations

import numpy as np

from monai_iln.study.report.document import Block, Text
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import p_value
from monai_iln.study.statistics import ALPHA, METRICS, Metric, SeedVariance


def blocks(results: Results) -> list[Block]:
    """The sentence."""
    return [Text(f"Seeds: {seed_sentence(results.seed_variance, results.metric)}")]


def seed_sentence(found: SeedVariance, metric: Metric = METRICS["dice"]) -> str:
    """What a new seed would change, beside what differs between methods."""
    if not found.degrees:
        return "No fold was trained with two seeds: a study with one seed cannot tell what a new seed would change."
    decimals = metric.decimals + 1
    text = f"A new seed changes the {metric.mean} of a fold by {found.seed:.{decimals}f}"
    text += f" (standard deviation, {found.seeds} seeds)"
    if np.isnan(found.between_methods):
        return f"{text}; there are no two methods with a fold in common to compare it with."
    text += (
        f". The means of the methods differ by {found.between_methods:.{decimals}f}, by chance of the seeds alone they "
    )
    text += f"would by {found.seed_of_mean:.{decimals}f}: the differences between methods "
    if np.isnan(found.p):
        return f"{text}do not exceed what a new seed would change."
    test = f"(F test, {p_value(found.p)})"
    if found.p >= ALPHA:
        return f"{text}do not exceed what a new seed would change {test}."
    return f"{text}exceed what a new seed would change {test}."
