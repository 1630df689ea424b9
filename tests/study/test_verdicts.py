"""What a study says of two methods: better, worse, practically equal, or not known."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monai_iln.study.chance import estimate_chance
from monai_iln.study.metric import METRICS, metric_of
from monai_iln.study.report.winners import find_winner
from monai_iln.study.selection import scores_of_runs, subject_scores
from monai_iln.study.statistics import compare, holm
from monai_iln.study.verdicts import Verdict, _answer, default_margin, estimate, judge, over_structures, rank_chances


def images_of(effects, seeds=3, folds=4, subjects=24, noise=0.004, new=False, column="dice", rng=0):
    """Test images of runs: a subject's level, the method's effect, and chance of run and subject."""
    rng = np.random.default_rng(rng)
    rows, levels = [], rng.normal(0.8, 0.05, subjects)
    for seed in range(seeds):
        order = rng.permutation(subjects) if new else np.arange(subjects)
        fold_of = dict(zip(order.tolist(), itertools.cycle(range(folds)), strict=False))
        for method, effect in effects.items():
            luck = rng.normal(0, noise, folds)
            rows += [
                (method, seed * new, fold, seed, f"s{i}", levels[i] + effect + luck[fold] + rng.normal(0, noise))
                for i, fold in fold_of.items()
            ]
    images = pd.DataFrame(rows, columns=["method", "split", "fold", "seed", "subject", column])
    return images.assign(dataset="d", structure="LV", part="test", learning_rate=0.1)


@pytest.mark.parametrize("new", [False, True])
def test_each_answer_is_given(new):
    effects = {"A": 0.0, "same": 0.0, "worse": -0.05, "better": 0.05, "little": -0.004}
    images = images_of(effects, new=new, seeds=8, subjects=60)
    found = {row.other: row for row in judge(images, "A", margin=0.01)}
    assert {other: row.answer for other, row in found.items()} == {
        "same": "equal",
        "worse": "better",
        "better": "worse",
        "little": "equal",  # within the margin, though significant
    }
    assert found["little"].p_holm < 0.05
    assert found["better"].better == "better"
    assert found["same"].better is None
    without = {row.other: row.answer for row in judge(images, "A")}
    assert without["same"] == "unknown"
    assert without["little"] == "better"


@pytest.mark.parametrize(
    ("low", "high", "p", "answer"),
    [
        (-0.01, 0.01, 0.001, "equal"),  # an interval that touches the margin lies within it
        (-0.011, 0.01, 0.001, "better"),
        (-0.01, 0.011, 0.001, "better"),
        (-0.02, 0.02, 0.05, "unknown"),  # p must be below the level
        (-0.02, 0.02, 0.049, "better"),
    ],
)
def test_what_lies_on_a_threshold(low, high, p, answer):
    row = Verdict("", "", "dice", "A", "B", 6, 3, 2, 0.9, 0.8, 0.1, low_90=low, high_90=high, p_holm=p)
    assert _answer(row, METRICS["dice"], 0.01) == answer


def test_numbers_are_those_of_the_estimate():
    images = images_of({"A": 0.0, "B": 0.01, "C": 0.02})
    chance = estimate_chance(*scores_of_runs(images))
    rows = judge(images, "B", dataset="d", structure="LV")
    for row in rows:
        difference = chance.between("B", row.other)
        assert (row.low, row.high) == difference.interval()
        assert (row.low_90, row.high_90) == difference.interval(0.9)
        assert (row.difference, row.p, row.df) == (difference.mean, difference.p, difference.df)
        assert row.half_width == pytest.approx((row.high - row.low) / 2)
        assert (row.subjects, row.folds, row.seeds) == (24, 4, 3)
    assert [row.p_holm for row in rows] == holm([row.p for row in rows])
    every = judge(images, "B", every_pair=True)
    assert [row.p_holm for row in every] == holm([*(row.p for row in rows), chance.between("A", "C").p])[:2]
    by_ranks = compare(subject_scores(images), "B", every_pair=True)
    assert [row.p_subjects for row in every] == [row.p_holm for row in by_ranks]


def test_of_an_error_the_lower_one_is_better():
    mae = metric_of({"metric": {"name": "mae", "higher_is_better": False}})
    images = images_of({"A": 0.0, "B": 0.1}, column="score")
    (row,) = judge(images, "A", mae)
    assert (row.answer, row.chance_of_better) == ("better", pytest.approx(1, abs=0.01))
    assert default_margin(mae) is None
    assert default_margin(METRICS["dice"]) == 0.01


def test_a_method_that_lacks_runs_is_compared_over_what_both_have():
    images = images_of({"A": 0.0, "B": 0.02, "diverged": -0.1})
    lacking = images[(images["method"] != "diverged") | (images["fold"] != 1)]
    whole = {row.other: row for row in judge(images[images["method"] != "diverged"], "A")}
    found = {row.other: row for row in judge(lacking, "A")}
    assert found["B"].low == whole["B"].low  # its estimate has not changed
    assert (found["diverged"].folds, found["diverged"].subjects, found["diverged"].answer) == (3, 18, "better")
    assert estimate(lacking, "dice", "A").methods == ("A", "B")


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_a_method_without_a_run_has_left_is_estimated_with_all_methods(seeds):
    images = images_of({"A": 0.0, "B": 0.02, "C": 0.01, "diverged": -0.01}, seeds)
    lacking = images[(images["method"] != "diverged") | (images["fold"] != 1)]
    (row,) = (row for row in judge(lacking, "A") if row.other == "diverged")
    pooled = estimate_chance(*scores_of_runs(images[images["fold"] != 1])).between("A", "diverged")
    assert (row.low, row.high, row.df) == (*pooled.interval(), pooled.df)
    assert row.df >= 6  # of four methods and three folds; of the two alone it is 2


@pytest.mark.parametrize("new", [False, True])
def test_runs_that_were_lost_of_different_seeds_cost_no_other_seed(new):
    images = images_of({"A": 0.0, "B": 0.02, "C": 0.01}, new=new)
    lost = ((images["method"] == "B") & (images["seed"] == 2)) | ((images["method"] == "C") & (images["seed"] == 1))
    images = images[~lost | (images["fold"] != 1)]
    pool = estimate(images, "dice", "A")
    assert (pool.methods, pool.seeds) == (("A", "B"), 2)
    sizes = {row.other: (row.seeds, row.folds, row.subjects) for row in judge(images, "A")}
    assert sizes == {"B": (2, 4, 24), "C": (2, 4, 24) if new else (3, 3, 18)}
    assert find_winner(images, "A").by_mean == "B"
    assert [row.seeds for row in find_winner(images, "A").verdicts] == [2, 1 if new else 3]  # A, C


def test_the_winner_is_of_the_seeds_that_are_complete_unless_most_are_not():
    images = images_of({"A": 0.0, "B": 0.02, "C": 0.01}, seeds=4)
    lost = (images["method"] == "C") & (images["fold"] == 1)
    half, most = (images[~lost | (images["seed"] < complete)] for complete in (2, 1))
    assert [row.seeds for row in find_winner(half, "A").verdicts] == [2, 2]
    assert [row.seeds for row in find_winner(most, "A").verdicts] == [4, 4]


def test_two_whole_methods_keep_their_seeds_though_with_fewer_more_methods_were_whole():
    images = images_of({"A": 0.0, "B": 0.02, "C": 0.01}, seeds=4)
    images = images[(images["method"] != "C") | (images["seed"] < 3) | (images["fold"] != 1)]
    pool = estimate(images, "dice", "A")
    assert (pool.methods, pool.seeds) == (("A", "B"), 4)


@pytest.mark.parametrize(
    ("has", "methods", "seeds"),
    [
        ({"B": (0, 1, 2), "C": (3,), "D": (3,)}, ("A", "B"), 3),  # 6 runs a fold, and not 3 with one seed
        ({"B": (0, 1, 2), "C": (0, 1), "D": (0, 1), "E": (0, 1)}, ("A", "B", "C", "D", "E"), 2),  # 10, and not 6
    ],
)
def test_where_no_other_method_is_whole_the_most_runs_count(has, methods, seeds):
    images = images_of(dict.fromkeys("ABCDE"[: len(has) + 1], 0.0), seeds=4)
    whole = [
        method == "A" or seed in has[method] for method, seed in zip(images["method"], images["seed"], strict=True)
    ]
    pool = estimate(images[np.array(whole) | (images["fold"] != 1)], "dice", "A")
    assert (pool.methods, pool.seeds) == (methods, seeds)


def test_of_as_many_runs_those_of_all_seeds_are_compared():
    images = images_of({"A": 0.0, "B": 0.02, "C": 0.01}, folds=3)
    lost = (images["method"] == "C") & (images["fold"] == 1) & (images["seed"] == 2)
    row = next(row for row in judge(images[~lost], "A") if row.other == "C")
    assert (row.seeds, row.folds) == (3, 2)  # and not 2 seeds with 3 folds


def test_a_method_under_way_is_compared_over_its_complete_seeds():
    images = images_of({"A": 0.0, "B": 0.02, "C": 0.01})
    under_way = images[(images["method"] != "B") | (images["seed"] == 0) | (images["fold"] + images["seed"] == 1)]
    rows = {row.other: row for row in judge(under_way, "A")}
    assert (rows["B"].seeds, rows["B"].folds, rows["C"].seeds) == (1, 4, 3)
    assert rows["B"].answer != "untested"


def test_of_new_splits_a_seed_counts_only_if_it_is_complete():
    images = images_of({"A": 0.0, "B": 0.02}, new=True)
    under_way = images[(images["seed"] < 2) | (images["fold"] == 0)]
    (row,) = judge(under_way, "A")
    assert (row.seeds, row.subjects) == (2, 24)
    one_fold = images[images["fold"] == 0]
    (row,) = judge(one_fold, "A")
    assert row.answer == "untested"
    assert row.reason
    assert np.isnan([row.low, row.high, row.p, row.p_holm]).all()


def test_means_are_of_the_runs_that_the_difference_is_of():
    images = images_of({"A": 0.0, "B": 0.02}, new=True)
    under_way = images[(images["seed"] < 2) | (images["method"] == "A")]
    (row,) = judge(under_way, "A")
    assert row.difference == pytest.approx(row.mean_reference - row.mean_other)
    winner = find_winner(under_way, "A")
    assert winner.by_mean == "B"
    assert winner.means["B"] - winner.means["A"] == pytest.approx(winner.verdicts[0].difference)


def test_the_best_method_is_told_over_the_subjects_that_it_is_compared_on():
    images = images_of({"A": 0.0, "B": 0.001}, seeds=2)
    ahead = images["subject"].isin(["s0", "s1"])  # A there, but B has no score in one of its runs
    better = images["dice"] + 0.1 * (ahead & (images["method"] == "A"))
    unscored = ahead & (images["method"] == "B") & (images["seed"] == 1)
    winner = find_winner(images.assign(dice=better.where(~unscored)), "A")
    (row,) = winner.verdicts
    assert (winner.subjects, row.subjects, winner.by_mean) == (22, 22, "B")
    assert winner.means["B"] - winner.means["A"] == pytest.approx(row.difference)
    nobody = images.assign(dice=images["dice"].where((images["method"] == "A") | (images["seed"] == 1)))
    assert find_winner(nobody, "A").subjects == 24


def test_a_method_without_a_common_run():
    images = images_of({"A": 0.0, "B": 0.02}, seeds=2)
    apart = images[(images["method"] == "A") == (images["seed"] == 0)]
    (row,) = judge(apart, "A")
    assert (row.answer, row.reason) == ("untested", "they have no run of a fold and seed in common")
    assert find_winner(apart, "A").subjects == 24  # by all that there is
    assert judge(images, "C") == []
    assert judge(images[images["method"] == "A"], "A") == []


def test_a_seed_that_shares_a_split_beside_others_is_no_error():
    new = images_of({"A": 0.0, "B": 0.02}, new=True)
    twin = new[new["seed"] == 0].assign(seed=7)
    (row,) = judge(pd.concat([new, twin]), "A")
    assert row.seeds == 4
    assert row.high > row.low


def test_one_seed_tells_what_must_hold():
    (row,) = judge(images_of({"A": 0.0, "B": 0.02}, seeds=1), "A")
    assert row.df == 3  # of four folds
    assert row.sensitivity > 0
    (row,) = judge(images_of({"A": 0.0, "B": 0.02}, seeds=2), "A")
    assert np.isnan(row.sensitivity)


def test_the_mean_over_structures_counts_what_all_methods_have():
    first = images_of({"A": 0.0, "B": 0.02})
    second = first.assign(structure="RV", dice=first["dice"] / 2)
    both = over_structures(pd.concat([first, second]))
    texts = dict.fromkeys(["dataset", "method", "structure", "subject"], "category")  # as records have them
    pd.testing.assert_frame_equal(over_structures(pd.concat([first, second]).astype(texts)), both)
    keys = ["method", "seed", "subject"]
    merged = both.merge(first, on=keys)
    assert len(merged) == len(first)
    assert merged["dice_x"].to_numpy() == pytest.approx(merged["dice_y"] * 0.75)
    lost = (second["method"] == "B") & (second["subject"] == "s0") & (second["seed"] == 0)
    both = over_structures(pd.concat([first, second.assign(dice=second["dice"].where(~lost))])).set_index(keys)["dice"]
    expected = first.set_index(keys)["dice"]
    assert both["A", 1, "s0"] == pytest.approx(expected["A", 1, "s0"])  # its RV counts for nobody
    assert both["A", 1, "s1"] == pytest.approx(expected["A", 1, "s1"] * 0.75)


def test_ranks_are_as_firm_as_the_differences():
    chance = estimate_chance(*scores_of_runs(images_of({"A": 0.0, "B": 0.0, "C": 0.1})))
    shares = rank_chances(chance)
    assert shares.sum(axis=0).to_numpy() == pytest.approx(1)
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1)
    assert shares.loc["C", 1] > 0.99
    lower = rank_chances(chance, "hd95_mm")
    assert lower.loc["C", 3] == shares.loc["C", 1]
    one = chance.between("A", "B")  # of two, the best is the better one
    pair = rank_chances(estimate_chance(*scores_of_runs(images_of({"A": 0.0, "B": 0.0}))))
    two = estimate_chance(*scores_of_runs(images_of({"A": 0.0, "B": 0.0}))).between("A", "B")
    assert pair.loc["A", 1] == pytest.approx(1 - two.p / 2 if two.mean > 0 else two.p / 2, abs=0.015)
    assert np.isfinite(one.p)


def test_ranks_are_as_uncertain_as_the_least_known_difference():
    chance = estimate_chance(*scores_of_runs(images_of({"A": 0.0, "B": 0.001, "C": 0.002})))

    def shares(*df):
        pairs = zip(chance.differences.items(), df, strict=True)
        return rank_chances(replace(chance, differences={pair: replace(its, df=own) for (pair, its), own in pairs}))

    pd.testing.assert_frame_equal(shares(1, 1000, 1000), shares(1, 1, 1))
    assert not shares(1, 1, 1).equals(shares(1000, 1000, 1000))


def test_equal_methods_share_their_ranks():
    chance = estimate_chance(np.ones((3, 2, 12)), np.tile(np.arange(12) % 3, (2, 1)), ["A", "B", "C"])
    assert rank_chances(chance).to_numpy() == pytest.approx(1 / 3, abs=0.02)
    rounded = np.ones((3, 2, 12)) * (1 + np.array([0, 1, 2])[:, None, None] * 1e-15)
    chance = estimate_chance(rounded, np.tile(np.arange(12) % 3, (2, 1)), ["A", "B", "C"])
    assert rank_chances(chance).to_numpy() == pytest.approx(1 / 3, abs=0.02)


def test_ranks_without_an_estimate_are_missing():
    images = images_of({"A": 0.0, "B": 0.1}, folds=1)
    assert rank_chances(estimate(images, "dice", "A")).isna().to_numpy().all()


def test_a_method_that_lost_its_runs_of_hard_seeds_is_not_the_best_for_it():
    """B is worse than A in each run that both have, and lacks runs of the seeds whose scores are low."""
    images = images_of({"A": 0.0, "B": -0.01, "C": -0.02}, noise=0.001)
    images["dice"] -= 0.1 * (images["seed"] > 0)
    lost = (images["method"] == "B") & (images["seed"] > 0) & (images["fold"] > 0)
    assert images[~lost].groupby("method")["dice"].mean().idxmax() == "B"
    winner = find_winner(images[~lost], "A")
    assert (winner.by_mean, winner.by_rank) == ("A", "A")
    assert winner.means["A"] - winner.means["B"] == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("others", [{}, {"C": 0.0}], ids=["two methods", "three"])
def test_a_complete_seed_is_compared_rather_than_a_single_fold(others):
    images = images_of({"A": 0.0, "B": 0.03, **others}, seeds=2, folds=2, noise=0.001)
    lost = (images["method"] == "B") & (images["seed"] == 0) & (images["fold"] == 1)
    row = judge(images[~lost], "A")[0]
    assert (row.other, row.answer, row.seeds, row.folds) == ("B", "worse", 1, 2)
