"""Draw the intervals of two studies as they were told before, over subjects alone, and as they are told now.

python docs/results/make_intervals.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from monai_iln.study.chance import estimate_chance

# Mean Dice of the folds of the reduced study on Sunnybrook, and the intervals over subjects that it was published with.
FOLDS = {
    "ILN": [0.802, 0.812, 0.786],
    "IN": [0.830, 0.781, 0.806],
    "GN16": [0.777, 0.783, 0.768],
    "GN4": [0.696, 0.740, 0.732],
    "LN": [0.700, 0.701, 0.666],
    "None": [0.063, 0.707, 0.000],
}
PUBLISHED = {"IN": (-0.020, 0.010), "GN16": (0.005, 0.039)}

# ILN minus the other on the hippocampi: the mean, the interval over subjects, and the interval of the report.
HIPPOCAMPUS = {
    "IN": (-0.008, (-0.018, -0.001), (-0.040, 0.023)),
    "LN": (0.080, (0.069, 0.094), (0.039, 0.121)),
    "GN2": (0.097, (0.084, 0.114), (0.054, 0.141)),
    "BN": (0.028, (0.015, 0.038), (-0.013, 0.068)),
    "BIN": (0.026, (0.013, 0.038), (-0.015, 0.067)),
}


def sunnybrook() -> dict[str, tuple[float, tuple[float, float] | None, tuple[float, float]]]:
    """The same from the means of folds: with one seed and equal folds, subjects play no part in the interval."""
    scores = np.array(list(FOLDS.values()))[:, None]
    chance = estimate_chance(scores, [[0, 1, 2]], list(FOLDS))
    found = {}
    for other in list(FOLDS)[1:]:
        difference = chance.between("ILN", other)
        found[other] = (difference.mean, PUBLISHED.get(other), difference.interval())
        print(
            other, f"{difference.mean:+.3f}", *(f"{end:.3f}" for end in difference.interval()), f"p {difference.p:.4f}"
        )
    return found


def draw(
    axes: plt.Axes, rows: dict[str, tuple[float, tuple[float, float] | None, tuple[float, float]]], title: str
) -> None:
    """One study, the old intervals in grey above the new ones."""
    axes.axvspan(-0.01, 0.01, color="#d1d5db", alpha=0.6, linewidth=0)
    axes.axvline(0, color="#1f2933", linewidth=0.8)
    for height, (mean, old, new) in enumerate(rows.values()):
        if old is not None:
            axes.plot(old, [height - 0.17] * 2, color="#6b7280", linewidth=1.5)
            axes.plot(mean, height - 0.17, "o", color="#6b7280", markersize=4)
        axes.plot(new, [height + 0.12] * 2, color="#d55e00", linewidth=2)
        axes.plot(mean, height + 0.12, "o", color="#d55e00", markersize=5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlim(-0.1, 0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("Dice of ILN minus Dice of the other")


if __name__ == "__main__":
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.9), layout="constrained")
    shown = {other: row for other, row in sunnybrook().items() if other != "None"}
    draw(left, shown, "Sunnybrook, 44 subjects, 3 folds, 1 seed")
    draw(right, HIPPOCAMPUS, "hippocampus, 40 subjects, 3 folds, 2 seeds")
    figure.savefig(Path(__file__).with_name("intervals.png"), dpi=130)
