"""The sentences on comparisons, ranks and seeds, each from numbers known beforehand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monai_iln.study.chance import Chance, Components
from monai_iln.study.metric import METRICS
from monai_iln.study.report.answer import _how_sure
from monai_iln.study.report.chances import chance_sentence, sensitivities
from monai_iln.study.report.comparisons import _not_told_by_a_table, _table, comparison_sentence
from monai_iln.study.report.ranks import ranking_sentence
from monai_iln.study.report.winners import _learned_little, tell
from monai_iln.study.statistics import Ranking
from monai_iln.study.verdicts import Verdict

NAN = np.nan
BETTER = Verdict(
    *("cine", "LV", "dice", "ILN", "IN", 6, 3, 2, 0.5667, 0.35, 0.2167),
    **{"low": 0.15, "high": 0.28, "p": 0.015625, "p_holm": 0.03125, "answer": "better"},
)
SIZE = "6 subjects, 3 folds and 2 seeds"
TEST = "(p = 0.031 after Holm's correction)"


def test_a_better_method():
    assert comparison_sentence(BETTER) == (
        "cine, LV: Dice of ILN 0.567, of IN 0.350: difference 0.217 (95 % interval 0.150 to 0.280), "
        f"{SIZE}; ILN is better {TEST}."
    )
    nameless = replace(BETTER, dataset="", structure="", answer="worse", difference=-0.2167, p_holm=0.0001)
    assert comparison_sentence(nameless) == (
        f"Dice of ILN 0.567, of IN 0.350: difference -0.217 (95 % interval 0.150 to 0.280), {SIZE}; IN is better "
        "(p < 0.001 after Holm's correction)."
    )


def test_no_zero_has_a_sign():
    said = comparison_sentence(replace(BETTER, low=-0.0004, difference=-0.0001))
    assert "difference 0.000 (95 % interval 0.000 to 0.280)" in said


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
    assert comparison_sentence(replace(BETTER, metric=metric)).startswith(f"cine, LV: {start}, {SIZE};")


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        (
            {"answer": "equal"},
            f"; practically equal: the difference is certain {TEST}, and too small to matter.",
        ),
        ({"answer": "equal", "p_holm": 0.05}, "; practically equal."),
        ({"answer": "equal", "p_holm": NAN}, "; practically equal."),
        (
            {"answer": "unknown", "p_holm": 0.0625, "low": -0.1},
            "; no evidence of a difference (p = 0.062 after Holm's correction).",
        ),
        (
            {"answer": "unknown", "p_holm": 0.05},
            "; no evidence of a difference (p = 0.050 after Holm's correction); the interval, not corrected, excludes "
            "0.",
        ),
        (
            {"answer": "untested", "low": NAN, "high": NAN, "p_holm": NAN, "reason": "there is one fold"},
            f": difference 0.217, {SIZE}; nothing was tested: there is one fold.",
        ),
        (
            {"answer": "untested", "difference": NAN, "low": NAN, "p_holm": NAN, "reason": "no seed is complete"},
            "cine, LV: Dice of ILN and of IN: no seed is complete, so nothing was tested.",
        ),
    ],
)
def test_every_other_outcome_of_a_comparison(changes, end):
    sentence = comparison_sentence(replace(BETTER, **changes))
    assert sentence.endswith(end)
    assert "nan" not in sentence
    assert ("is better" in sentence) == ("is better" in end)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("better", "It is better than IN (+0.217; 0.150 to 0.280)."),
        ("worse", "It is worse than IN (+0.217; 0.150 to 0.280)."),
        (
            "equal",
            "It is practically equal to IN (+0.217; 0.150 to 0.280): the 90 % interval lies within \N{PLUS-MINUS SIGN}"
            "0.01.",
        ),
        (
            "unknown",
            f"There is no evidence of a difference to IN (+0.217; 0.150 to 0.280); with {SIZE} that is no proof that "
            "there is none. An interval that excludes 0 is not corrected for the number of comparisons; p is.",
        ),
        ("untested", "Nothing was tested against IN (+0.217; 0.150 to 0.280): no difference varies."),
    ],
)
def test_answers_in_words(answer, told):
    assert tell(answer, [replace(BETTER, answer=answer)], margin=0.01) == told


def test_no_p_stands_beside_what_is_practically_equal():
    rivals = [replace(BETTER, answer="equal"), replace(BETTER, other="LN")]
    assert _how_sure(rivals, METRICS["dice"]) == f"p = 0.031 against LN. {SIZE}."
    assert _how_sure(rivals[:1], METRICS["dice"]) == f"{SIZE}."


@pytest.mark.parametrize(("mean", "low"), [(0.499, True), (0.5, False)])
def test_networks_that_learned_little_are_alike(mean, low):
    rows = [replace(BETTER, answer="equal", mean_reference=mean, mean_other=0.1), replace(BETTER, mean_reference=0.1)]
    told = ["0.499 on A"] if low else []
    assert _learned_little(rows, "A", METRICS["dice"]) == told
    assert _learned_little([replace(row, answer="unknown") for row in rows], "A", METRICS["dice"]) == []
    assert _learned_little(rows, "A", METRICS["asd_mm"]) == []


@pytest.mark.parametrize(
    ("difference", "told"), [(np.nan, "IN"), (0.02, "IN (+0.020)")], ids=["nothing known", "no interval"]
)
def test_what_is_not_known_has_no_brackets(difference, told):
    row = Verdict("", "", "dice", "ILN", "IN", 6, 1, 1, 0.9, 0.88, difference, reason="there is one fold")
    assert tell("untested", [row]) == f"Nothing was tested against {told}: there is one fold."


def test_an_interval_that_excludes_0_is_no_evidence_by_itself():
    told = tell("unknown", [replace(BETTER, answer="unknown")])
    assert told.endswith("An interval that excludes 0 is not corrected for the number of comparisons; p is.")
    fewer = replace(BETTER, other="LN", answer="unknown", subjects=4, folds=1, seeds=3)
    assert f"with {SIZE} that is no proof" in tell("unknown", [fewer, replace(BETTER, answer="unknown")])
    for low in (-0.1, 0.0):  # an end at 0 does not exclude it
        assert "not corrected" not in tell("unknown", [replace(BETTER, answer="unknown", low=low)])


def test_sentences_stand_where_a_table_tells_less():
    usual = replace(BETTER, other="A")
    fewer = replace(BETTER, other="B", seeds=1)
    untested = replace(BETTER, other="C", answer="untested", low=NAN)
    beside = replace(BETTER, other="D", answer="unknown")
    unknown = replace(BETTER, other="E", answer="unknown", low=-0.1)
    rows = [usual, fewer, untested, beside, unknown]
    assert _not_told_by_a_table(rows) == [fewer, untested, beside]


def test_a_table_tells_why_a_column_is_empty():
    told = "With fewer than 6 subjects no p of it could reach 0.05, and there is none."
    for subjects in (5, 6):
        table = _table([replace(BETTER, subjects=subjects)], METRICS["dice"], None, set())
        assert (told in table.caption) == (subjects == 5)


def test_what_one_seed_shows():
    rows = [replace(BETTER, sensitivity=0.012), replace(BETTER, other="LN", sensitivity=0.0), BETTER]
    assert sensitivities(rows) == [
        "ILN and IN (+0.217): significant only if the difference of two runs varies by less than 0.012.",
        "ILN and LN (+0.217): not significant, however little trainings vary.",
    ]
    sd = Components(subject=0.03, fold=0.01)
    one = Chance("one split", ("A", "B", "C", "D"), 44, 3, 1, sd, (), {})
    said = chance_sentence(one)
    assert "has a standard deviation of 0.0300 between subjects and 0.0100 between folds. " in said
    none = chance_sentence(replace(one, components=replace(sd, fold=0.0)))
    assert "has a standard deviation of 0.0300 between subjects; between folds it is too small to estimate. " in none
    nothing = chance_sentence(replace(one, components=Components(subject=0.0, fold=0.0)))
    assert (
        "the difference of two methods varies too little between subjects and between folds to be estimated. "
        in nothing
    )
    assert "finds" not in nothing
    millimetres = chance_sentence(one, METRICS["asd_mm"])
    assert "of 0.030 mm between subjects and 0.010 mm between folds. " in millimetres
    assert "only honest if the trainings of all methods are alike in noise" in said
    assert said.startswith("By chance,")  # one seed has one split, whatever the design
    several = Chance("new splits", ("A", "B", "C", "D"), 44, 3, 4, replace(sd, fold=NAN, training=0.01), ("D",), {})
    said = chance_sentence(several)
    assert "alike in noise" not in said
    assert "Each seed has a split of its own." in said
    assert "Trainings of D are far noisier" in said


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
