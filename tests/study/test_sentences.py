"""The sentences on comparisons, ranks and seeds, each from numbers known beforehand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monai_iln.study.report.comparisons import comparison_sentence
from monai_iln.study.report.ranks import ranking_sentence
from monai_iln.study.report.seed_variance import seed_sentence
from monai_iln.study.report.winners import tell, verdict_of
from monai_iln.study.statistics import Comparison, Ranking, SeedVariance

NAN = np.nan
BETTER = Comparison(
    *("cine", "LV", "dice", "ILN", "IN", 6, 0.5667, 0.35, 0.2167, 0.15, 0.28, 0.015625, 0.03125), better="ILN"
)
TEST = "(Wilcoxon signed-rank test, p = 0.031 after Holm's correction)"
UNTESTED = {"p": NAN, "p_holm": NAN, "better": None}
NOBODY = {
    "subjects": 0,
    "mean_reference": NAN,
    "mean_other": NAN,
    "difference": NAN,
    "low": NAN,
    "high": NAN,
    **UNTESTED,
}


def test_a_better_method():
    assert comparison_sentence(BETTER) == (
        "cine, LV: Dice of ILN 0.567, of IN 0.350: difference 0.217 (95 % interval 0.150 to 0.280), 6 subjects; ILN is "
        f"better {TEST}."
    )
    nameless = replace(BETTER, dataset="", structure="", better="IN", difference=-0.2167, p_holm=0.0001)
    assert comparison_sentence(nameless) == (
        "Dice of ILN 0.567, of IN 0.350: difference -0.217 (95 % interval 0.150 to 0.280), 6 subjects; IN is better "
        "(Wilcoxon signed-rank test, p < 0.001 after Holm's correction)."
    )


@pytest.mark.parametrize(
    ("metric", "start"),
    [
        ("dice", "Dice of ILN 0.567, of IN 0.350: difference 0.217 (95 % interval 0.150 to 0.280)"),
        (
            "hd95_mm",
            "95th percentile Hausdorff distance of ILN 0.57 mm, of IN 0.35 mm: difference 0.22 mm (95 % interval 0.15 "
            "to 0.28)",
        ),
        (
            "asd_mm",
            "average surface distance of ILN 0.57 mm, of IN 0.35 mm: difference 0.22 mm (95 % interval 0.15 to 0.28)",
        ),
    ],
)
def test_distances_have_units_and_two_decimals(metric, start):
    assert comparison_sentence(replace(BETTER, metric=metric)).startswith(f"cine, LV: {start}, 6 subjects;")


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"low": -0.1}, f"; ILN is better {TEST}; the interval, which is of the mean, holds 0."),
        (
            {"better": None},
            f"; the methods differ {TEST}, but the mean and the ranks of the differences disagree on the better.",
        ),
        (
            {"p_holm": 0.0625, "better": None, "low": -0.1},
            "; no evidence of a difference (Wilcoxon signed-rank test, p = 0.062 after Holm's correction).",
        ),
        (
            {"p_holm": 0.05, "better": None},
            "; no evidence of a difference (Wilcoxon signed-rank test, p = 0.050 after Holm's correction); the "
            "interval excludes 0, but is of the mean and not corrected.",
        ),
        ({"subjects": 5, **UNTESTED}, " (95 % interval 0.150 to 0.280), 5 subjects; too few subjects to test."),
        (
            {"subjects": 1, "low": NAN, "high": NAN, **UNTESTED},
            ": difference 0.217, 1 subject; too few subjects to test.",
        ),
        (
            NOBODY,
            "cine, LV: Dice of ILN and of IN: no subject has both; too few subjects to test.",
        ),
        (UNTESTED, "; no evidence of a difference, for no subject differs: there is nothing to test."),
    ],
)
def test_every_other_outcome_of_a_comparison(changes, end):
    sentence = comparison_sentence(replace(BETTER, **changes))
    assert sentence.endswith(end)
    assert "nan" not in sentence
    assert ("is better" in sentence) == ("is better" in end)


@pytest.mark.parametrize(("difference", "p", "p_holm", "better", "verdict"), [
    (0.1, 0.01, 0.04, "ILN", "better"),
    (-0.1, 0.01, 0.04, "IN", "worse"),
    (0.1, 0.01, 0.06, None, "none"),  # only the corrected p counts
    (0.1, 0.01, 0.04, None, "mixed"),
    (0.1, np.nan, np.nan, None, "untested"),
])  # fmt: skip
def test_verdicts(difference, p, p_holm, better, verdict):
    row = Comparison("LV", "lv", "dice", "ILN", "IN", 9, 0.9, 0.8, difference, 0.0, 0.2, p, p_holm, better)
    assert verdict_of(row) == verdict
    assert "IN" in tell(verdict, [row])


def ranking_of(averages, subjects=6, p=0.01, close=()):
    names = list(averages)
    nemenyi = pd.DataFrame(0.001, names, names)
    for first, second in close:
        nemenyi.loc[first, second] = nemenyi.loc[second, first] = 0.2
    return Ranking(averages, subjects, 9.0, p, 1.353, nemenyi)


def test_ranks_that_differ():
    averages = {"C": 2.75, "A": 1.17, "B": 2.08}
    start = "Average ranks over 6 subjects (1 is best): A 1.17, B 2.08, C 2.75; "
    differ = "the methods differ (Friedman test, p = 0.010), by Nemenyi's test "
    one = ranking_of(averages, close=[("A", "B"), ("B", "C")])
    assert ranking_sentence(one) == f"{start}{differ}C and A (critical difference 1.35)."
    two = ranking_of(averages, close=[("A", "B")])
    assert ranking_sentence(two) == f"{start}{differ}C and A; C and B (critical difference 1.35)."
    none = ranking_of(averages, close=[("A", "B"), ("B", "C"), ("A", "C")])
    assert ranking_sentence(none) == f"{start}{differ}no single pair (critical difference 1.35)."


@pytest.mark.parametrize(
    ("ranking", "end"),
    [
        (ranking_of({"A": 1, "B": 2}), "Friedman's test needs three methods."),
        (ranking_of({"A": 1, "B": 2, "C": 3}, subjects=5, p=NAN), "too few subjects to test."),
        (
            ranking_of({"A": 2, "B": 2, "C": 2}, p=NAN),
            "no evidence of a difference, for the methods tie for every subject.",
        ),
        (ranking_of({"A": 2, "B": 2, "C": 2}, p=1.0), "no evidence of a difference (Friedman test, p = 1.000)."),
    ],
)
def test_ranks_without_evidence(ranking, end):
    sentence = ranking_sentence(ranking)
    assert sentence.endswith(f"; {end}")
    assert sentence.startswith(
        f"Average ranks over {ranking.subjects} subjects (1 is best): A {ranking.average_ranks['A']:.2f}"
    )


SEEDS = SeedVariance(0.1, 0.03, 0.02449, 0.01225, 0.08485, seeds=2, degrees=4, p=0.004)
START = (
    "A new seed changes the mean Dice of a fold by 0.0245 (standard deviation, 2 seeds). The means of the methods "
    "differ by 0.0848, by chance of the seeds alone they would by 0.0123: the differences between methods "
)


@pytest.mark.parametrize(
    ("variance", "sentence"),
    [
        (SEEDS, f"{START}exceed what a new seed would change (F test, p = 0.004)."),
        (replace(SEEDS, p=0.05), f"{START}do not exceed what a new seed would change (F test, p = 0.050)."),
        (replace(SEEDS, p=NAN), f"{START}do not exceed what a new seed would change."),
        (
            replace(SEEDS, between_methods=NAN, p=NAN),
            "A new seed changes the mean Dice of a fold by 0.0245 (standard deviation, 2 seeds); there are no two "
            "methods with a fold in common to compare it with.",
        ),
        (
            replace(SEEDS, seed=NAN, degrees=0),
            "No fold was trained with two seeds: a study with one seed cannot tell what a new seed would change.",
        ),
    ],
)
def test_seeds(variance, sentence):
    assert seed_sentence(variance) == sentence
