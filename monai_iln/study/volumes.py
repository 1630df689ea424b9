"""Volumes and ejection fractions of subjects, and how far the predicted ones agree with the true ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from monai_iln.errors import require
from monai_iln.study.selection import select_test


def volumes(images: pd.DataFrame) -> pd.DataFrame:
    """Volumes at end diastole (ED) and end systole (ES), and the ejection fraction, in the test images.

    A volume is the sum over the slices of a phase, in ml; ``EF = 100 (EDV - ESV) / EDV`` in percent. NaN where a phase,
    or the volume of one of its slices, is missing, and EF where EDV is 0. Only slices with a label count.

    Returns:
        A row for each dataset, method, fold, learning_rate, seed, structure and subject with edv_truth, edv_predicted,
        esv_truth, esv_predicted, ef_truth, ef_predicted.

    Example:
        >>> images = pd.DataFrame({"dataset": "a", "method": "ILN", "fold": 0, "learning_rate": 0.1, "seed": 0,
        ...     "part": "test", "structure": "LV", "subject": "x", "phase": ["ED", "ED", "ES"],
        ...     "truth_ml": [60, 40, 40], "predicted_ml": [50, 40, 45]})
        >>> volumes(images)[["ef_truth", "ef_predicted"]].to_numpy().tolist()
        [[60.0, 50.0]]
    """
    keys = ["dataset", "method", "fold", "learning_rate", "seed", "structure", "subject"]
    test = select_test(images).assign(phase=lambda frame: frame["phase"].astype(str).str.upper())
    table = test[keys].drop_duplicates().set_index(keys)
    for phase, name in (("ED", "edv"), ("ES", "esv")):
        groups = test[test["phase"] == phase].groupby(keys, observed=True)[["truth_ml", "predicted_ml"]]
        sums = groups.sum().where(groups.count().eq(groups.size(), axis=0))  # a sum without one slice is no volume
        table = table.join(sums.set_axis([f"{name}_truth", f"{name}_predicted"], axis=1))
    for side in ("truth", "predicted"):
        edv, esv = table[f"edv_{side}"], table[f"esv_{side}"]
        table[f"ef_{side}"] = 100 * (edv - esv) / edv.where(edv > 0)
    return table.reset_index()


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
        truth: The true values, one a subject.
        predicted: The predicted values, for the same subjects in the same order. Pairs with NaN are dropped; one pair
            has no sd.

    Raises:
        UserError: If the lengths differ.

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
    n = len(differences)
    bias = sd = half = np.nan
    if n:
        bias = float(differences.mean())
    if n > 1:
        sd = float(differences.std(ddof=1))
        half = float(stats.t.ppf(0.975, n - 1)) * sd / n**0.5
    return Agreement(n, bias, sd, bias - 1.96 * sd, bias + 1.96 * sd, bias - half, bias + half)
