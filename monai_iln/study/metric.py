"""The score that a study compares methods by: its name, its column, and which of two scores is the better one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai_iln.errors import require

_DICE = re.compile(r"((val|train|test)_)?(mean_?)?dice(_?metric)?", re.IGNORECASE)
_UNLEARNED = 0.05  # a mean Dice below it is that of chance
_LOW = 0.5  # of a Dice below it, less than a third of what either mask marks is marked by both


@dataclass(frozen=True)
class Metric:
    """A metric of cases.

    Attributes:
        key: The name in tables and files.
        name: The name in a sentence.
        column: The column of ``images.csv`` that holds the scores.
        higher_is_better: Whether the higher of two scores is the better one.
        in_unit_interval: Whether every score lies between 0 and 1.
        unit: The unit, after a space.
        decimals: The number of decimals to print.
    """

    key: str
    name: str
    column: str
    higher_is_better: bool = True
    in_unit_interval: bool = True
    unit: str = ""
    decimals: int = 3

    @property
    def is_dice(self) -> bool:
        """Whether it is Dice."""
        return self.name == "Dice"

    @property
    def short(self) -> str:
        """The name in those of files and of columns: ``"dice"`` or ``"score"``."""
        return "dice" if self.is_dice else "score"

    @property
    def mean(self) -> str:
        """The name of its mean.

        Example:
            >>> METRICS["dice"].mean, metric_of({"metric": {"name": "val_mean_iou"}}).mean
            ('mean Dice', 'mean_iou')
        """
        return self.name if self.name.startswith("mean") else f"mean {self.name}"

    @property
    def best(self) -> str:
        """The better end: ``"highest"`` or ``"lowest"``."""
        return "highest" if self.higher_is_better else "lowest"

    def is_unlearned(self, best_mean: float) -> bool:
        """Whether nobody learned a class, judged by the best of the methods' means."""
        return self.higher_is_better and self.in_unit_interval and best_mean < _UNLEARNED

    def is_low(self, best_mean: float) -> bool:
        """Whether so little was learned that methods may be alike for it, judged by the best of their means."""
        return self.higher_is_better and self.in_unit_interval and best_mean < _LOW


METRICS = {
    metric.key: metric
    for metric in (
        Metric("dice", "Dice", "dice"),
        Metric("hd95_mm", "95th percentile Hausdorff distance", "hd95_mm", False, False, " mm", 2),
        Metric("asd_mm", "average surface distance", "asd_mm", False, False, " mm", 2),
    )
}
"""The metrics that every segmentation of this package has."""


def metric_of(study: Mapping[str, Any]) -> Metric:
    """The metric of a study, whose scores are in the column ``score``.

    Args:
        study: The plan, as ``study.json`` holds it. Without a metric it is Dice.

    Example:
        >>> metric_of({}).name, metric_of({"metric": {"name": "val_mae", "higher_is_better": False}}).name
        ('Dice', 'mae')
    """
    given = study.get("metric") or {}
    key = str(given.get("name") or "dice")
    is_dice = _DICE.fullmatch(key) is not None
    higher = bool(given.get("higher_is_better", True))
    unit = bool(given.get("in_unit_interval", is_dice))
    if is_dice:
        return Metric("dice", "Dice", "score", higher, unit)
    return Metric(key, re.sub(r"^(val|test)_", "", key), "score", higher, unit)


def known_metric(metric: str | Metric) -> Metric:
    """The metric of a name; a metric is returned as it is.

    Raises:
        UserError: If the name is unknown.
    """
    if isinstance(metric, Metric):
        return metric
    known = ", ".join(METRICS)
    require(metric in METRICS, f"metric {metric!r}", f"a metric is one of {known}", "choose one of them")
    return METRICS[metric]
