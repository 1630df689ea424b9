import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_iln.errors import UserError
from monai_iln.study.statistics import (
    MOST_EXACT,
    bland_altman,
    choose_rates,
    compare,
    metric_of,
    rank,
    select_images,
    subject_scores,
    volumes,
)

MAE = {"metric": {"name": "val_mae", "higher_is_better": False, "in_unit_interval": False}}
RUN_COLUMNS = ["dataset", "method", "fold", "learning_rate", "seed", "status", "test_dice", "validation_dice"]


def table_of_runs(*rows):
    """Of data set d; a row is method, fold, learning rate, seed, status, test and validation Dice."""
    return pd.DataFrame([("d", *row) for row in rows], columns=RUN_COLUMNS)


def rates_of(runs, rule):
    chosen = choose_rates(runs, rule)
    return dict(zip(zip(chosen["method"], chosen["fold"], strict=True), chosen["learning_rate"], strict=True))


def table_of_images(*rows, **fixed):
    """A row is method, fold, seed, subject and Dice."""
    frame = pd.DataFrame(rows, columns=["method", "fold", "seed", "subject", "dice"])
    return frame.assign(
        **{"dataset": "d", "learning_rate": 0.1, "part": "test", "structure": "LV", "phase": "ED", **fixed}
    )


def study_of(effects, seeds, noise, rng, folds=3, subjects=5, spread=0.1):
    """Images of which the Dice is subject + method + a run's noise, the same for all subjects of the run."""
    rows = []
    levels = rng.normal(0.8, spread, (folds, subjects))
    for (method, effect), fold, seed in itertools.product(effects.items(), range(folds), range(seeds)):
        shift = effect + rng.normal(0, noise)
        rows += [(method, fold, seed, f"{fold}-{i}", level + shift) for i, level in enumerate(levels[fold])]
    return table_of_images(*rows)


# learning rates


def test_paper_takes_the_best_test_dice_and_nested_the_best_validation_dice():
    runs = table_of_runs(
        ("IN", 0, 0.1, 0, "finished", 0.80, 0.90),
        ("IN", 0, 0.1, 1, "finished", 0.84, 0.92),
        ("IN", 0, 0.5, 0, "finished", 0.95, 0.70),
        ("IN", 0, 0.5, 1, "finished", 0.71, 0.72),
        ("IN", 1, 0.1, 0, "finished", 0.50, 0.60),
    )
    paper, nested = choose_rates(runs, "paper"), choose_rates(runs, "nested")
    columns = ["dataset", "method", "split", "fold", "learning_rate", "score", "runs", "diverged"]
    assert list(paper.columns) == columns
    assert paper.to_numpy().tolist() == [
        ["d", "IN", 0, 0, 0.5, pytest.approx(0.83), 2, 0],
        ["d", "IN", 0, 1, 0.1, 0.5, 1, 0],
    ]
    assert nested.to_numpy().tolist() == [
        ["d", "IN", 0, 0, 0.1, pytest.approx(0.91), 2, 0],
        ["d", "IN", 0, 1, 0.1, 0.6, 1, 0],
    ]
    assert paper["fold"].dtype == paper["runs"].dtype == paper["diverged"].dtype == int


def test_a_split_chooses_its_own_rate():
    """The held-out subjects of one split may be test subjects of another."""
    runs = table_of_runs(
        ("IN", 0, 0.1, 0, "finished", 0.8, 0.9),
        ("IN", 0, 0.5, 0, "finished", 0.8, 0.7),
        ("IN", 0, 0.1, 1, "finished", 0.8, 0.2),
        ("IN", 0, 0.5, 1, "finished", 0.8, 0.8),
    )
    assert choose_rates(runs, "nested")["learning_rate"].tolist() == [0.5]  # 0.75 against 0.55
    runs = runs.assign(split=runs["seed"])
    chosen = choose_rates(runs, "nested")
    assert chosen[["split", "learning_rate"]].to_numpy().tolist() == [[0, 0.1], [1, 0.5]]
    images = runs.assign(part="test")
    assert select_images(images, chosen)[["seed", "learning_rate"]].to_numpy().tolist() == [[0, 0.1], [1, 0.5]]


@pytest.mark.parametrize(("metric", "rate"), [("dice", 0.5), ("hd95_mm", 0.1), (metric_of(MAE), 0.1)])
def test_the_better_end_of_a_metric_chooses_the_rate(metric, rate):
    runs = table_of_runs(("IN", 0, 0.1, 0, "finished", 2.0, 2.0), ("IN", 0, 0.5, 0, "finished", 3.0, 3.0))
    for rule in ("paper", "nested"):
        assert choose_rates(runs, rule, metric)["learning_rate"].tolist() == [rate]
    named = runs.rename(columns={"test_dice": "test_score", "validation_dice": "validation_score"})
    assert choose_rates(named, "paper", metric)["learning_rate"].tolist() == [rate]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_rate_of_which_a_seed_broke_counts_only_if_none_is_complete(status):
    broken = [("IN", 0, 1.5, 0, "finished", 0.99, 0.99), ("IN", 0, 1.5, 1, status, np.nan, np.nan)]
    whole = [("IN", 0, 0.1, seed, "finished", 0.6, 0.6) for seed in (0, 1)]
    for rule in ("paper", "nested"):
        assert rates_of(table_of_runs(*broken, *whole), rule) == {("IN", 0): 0.1}
        assert rates_of(table_of_runs(*broken, ("IN", 0, 0.1, 0, status, np.nan, np.nan)), rule) == {("IN", 0): 1.5}
    both = choose_rates(table_of_runs(*broken, *whole), "paper")
    assert (both["runs"].item(), both["diverged"].item()) == (2, int(status == "diverged"))


def test_the_first_run_of_a_new_seed_does_not_decide():
    runs = [("IN", 0, rate, 0, "finished", score, score) for rate, score in ((0.1, 0.6), (0.5, 0.9))]
    assert rates_of(table_of_runs(*runs, ("IN", 0, 0.1, 1, "finished", 0.6, 0.6)), "paper") == {("IN", 0): 0.5}


def test_scores_of_runs_that_did_not_finish_do_not_count():
    runs = table_of_runs(("IN", 0, 1.5, 0, "diverged", 0.9, 0.9), ("IN", 0, 0.1, 0, "finished", 0.2, 0.2))
    assert rates_of(runs, "paper") == rates_of(runs, "nested") == {("IN", 0): 0.1}


def test_of_equal_rates_the_lowest_even_if_a_sum_rounds_otherwise():
    low, high = [0.15, 0.15], [0.1, 0.2]
    assert sum(low) < sum(high)  # equal but for rounding
    scores = [(rate, seed, score) for rate, values in ((0.5, high), (0.1, low)) for seed, score in enumerate(values)]
    runs = table_of_runs(*(("IN", 0, rate, seed, "finished", score, np.nan) for rate, seed, score in scores))
    assert rates_of(runs, "paper") == {("IN", 0): 0.1}


def test_without_a_score_there_is_no_row_and_methods_keep_their_order():
    runs = table_of_runs(
        ("None", 1, 0.1, 0, "finished", 0.5, np.nan),
        ("ILN", 0, 0.1, 0, "diverged", np.nan, np.nan),
        ("GN", 0, 0.1, 0, "finished", 0.5, 0.4),
        ("None", 0, 0.1, 0, "finished", 0.5, 0.3),
    )
    assert list(rates_of(runs, "paper")) == [("None", 0), ("None", 1), ("GN", 0)]
    assert list(rates_of(runs, "nested")) == [("None", 0), ("GN", 0)]


@pytest.mark.parametrize("runs", [table_of_runs(), table_of_runs(("IN", 0, 0.1, 0, "diverged", np.nan, np.nan))])
def test_everything_diverged(runs):
    chosen = choose_rates(runs, "nested")
    assert len(chosen) == 0
    images = pd.DataFrame(columns=["run", "dataset", "method", "fold", "learning_rate", "seed", "dice"])
    chosen_images = select_images(images, chosen)
    assert len(chosen_images) == len(subject_scores(chosen_images)) == len(volumes(chosen_images)) == 0


def test_an_unknown_rule_is_the_users_mistake():
    with pytest.raises(UserError, match="rule 'best': a rule is one of paper, nested"):
        choose_rates(table_of_runs(), "best")


def test_selected_are_the_test_images_of_all_seeds_of_the_chosen_rate():
    keys = itertools.product(["test", "validation"], ["d", "e"], ["IN", "LN"], [0, 1], [0.1, 0.5], [0, 1])
    images = pd.DataFrame(keys, columns=["part", "dataset", "method", "fold", "learning_rate", "seed"])
    chosen = pd.DataFrame(
        [("d", "IN", 0, 0.5), ("d", "LN", 1, 0.1)], columns=["dataset", "method", "fold", "learning_rate"]
    )
    got = select_images(images, chosen).drop(columns="split").to_numpy().tolist()
    assert got == [["test", "d", *run, seed] for run in (["IN", 0, 0.5], ["LN", 1, 0.1]) for seed in (0, 1)]
    assert len(select_images(images, chosen[:0])) == 0


# metrics


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("val_mean_dice", "Dice"), ("mean_dice", "Dice"), ("Dice", "Dice"), ("DiceMetric", "Dice"), ("dice", "Dice"),
        ("val_acc", "acc"), ("val_mean_iou", "mean_iou"), ("val_mean_dice_tumor", "mean_dice_tumor"), ("MAE", "MAE"),
    ],
)  # fmt: skip
def test_dice_is_called_dice_and_nothing_else_is(name, told):
    metric = metric_of({"metric": {"name": name, "higher_is_better": True, "in_unit_interval": True}})
    assert (metric.name, metric.column) == (told, "score")
    assert metric.short == ("dice" if told == "Dice" else "score")


def test_a_study_without_a_metric_is_of_dice():
    assert (metric_of({}).name, metric_of({}).higher_is_better, metric_of({}).in_unit_interval) == ("Dice", True, True)


def test_scores_of_a_study_are_in_their_own_column():
    images = study_of({"A": 0.0, "B": 0.1}, 2, 0.02, np.random.default_rng(3))
    other = images.assign(score=images["dice"], dice=np.nan)
    metric = metric_of(MAE)
    pd.testing.assert_frame_equal(subject_scores(other, metric), subject_scores(images))
    assert subject_scores(other).isna().all(axis=None)


def test_nobody_learned_a_class():
    dice = metric_of({})
    assert dice.is_unlearned(0.049)
    assert not dice.is_unlearned(0.05)
    assert not metric_of(MAE).is_unlearned(0.001)


# scores of subjects


def test_a_subjects_score_is_the_mean_over_images_then_over_seeds():
    images = table_of_images(
        ("ILN", 0, 0, "z", 0.2), ("ILN", 0, 0, "z", 0.4), ("ILN", 0, 0, "z", np.nan), ("ILN", 0, 1, "z", 0.9),
        ("ILN", 0, 0, "a", 0.5), ("GN", 0, 0, "a", 0.7), ("GN", 0, 0, "z", np.nan),
    )  # fmt: skip
    scores = subject_scores(pd.concat([images, images.assign(part="validation", dice=0.0)]))
    assert scores.index.names == ["dataset", "structure", "subject"]
    assert scores.index.tolist() == [("d", "LV", "z"), ("d", "LV", "a")]
    assert scores.columns.tolist() == ["ILN", "GN"]
    np.testing.assert_allclose(scores, [[(0.3 + 0.9) / 2, np.nan], [0.5, 0.7]])


def test_scores_of_another_metric_and_two_structures():
    images = table_of_images(("IN", 0, 0, "a", 0.1), hd95_mm=7.0)
    both = pd.concat([images, images.assign(structure="RV", hd95_mm=9.0)])
    assert subject_scores(both, "hd95_mm").xs("RV", level="structure")["IN"].tolist() == [9.0]
    assert len(subject_scores(both)) == 2
    with pytest.raises(UserError, match="metric 'iou'"):
        subject_scores(both, "iou")


def test_two_learning_rates_are_not_averaged():
    images = table_of_images(("IN", 0, 0, "a", 0.1), ("IN", 1, 0, "b", 0.1))
    subject_scores(images.assign(learning_rate=[0.1, 0.5]))  # every fold has its own
    with pytest.raises(UserError, match="2 learning rates for d / IN / 0"):
        subject_scores(pd.concat([images, images[:1].assign(learning_rate=0.5)]))


# comparisons


def enumerated_p(differences):
    """The share of all assignments of signs whose rank sum is as far from its centre as that of the data."""
    size = np.abs(differences)
    ranks = np.array([(np.sum(size < one) + 1 + np.sum(size <= one)) / 2 for one in size])
    nonzero = ranks[size > 0]
    observed = abs(np.sum(np.sign(differences) * ranks))
    sums = [abs(np.dot(signs, nonzero)) for signs in itertools.product([-1, 1], repeat=len(nonzero))]
    return np.mean(np.array(sums) >= observed - 1e-9)


def compare_differences(differences, **arguments):
    differences = np.asarray(differences, float)
    scores = pd.DataFrame({"A": 0.5 + differences, "B": np.full(len(differences), 0.5)})
    (comparison,) = compare(scores, "A", **arguments)
    return comparison


@pytest.mark.parametrize(
    "steps",
    [
        [1, 2, 3, 4, 5, 6],
        [-1, 2, 3, 4, -5, 6, 7, 8],
        [1, 1, 1, -1, 2, 2, -3],
        [0, 0, 0, 1, 2, -3, 4, 5],
        [0, 0, 0, 0, 0, 0, 1, 1, 1],
        [0, 1, -1, 1, -1, 2, -2],
        [3, -2, 5, 5, 0, -1, 7, 9, 9, -4, 0],
    ],
)
def test_signed_rank_p_is_that_of_all_signs_enumerated(steps):
    p = compare_differences(np.array(steps) / 64).p
    assert p == pytest.approx(enumerated_p(np.array(steps)), rel=1e-12)


@pytest.mark.parametrize("n", [6, 13, 40])
def test_signed_rank_p_is_scipys_where_scipy_is_exact(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    assert compare_differences(differences).p == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_signed_rank_p_with_many_zeros_and_ties_is_near_the_pratt_approximation():
    steps = np.random.default_rng(5).integers(-3, 5, 300)
    expected = stats.wilcoxon(steps, zero_method="pratt", method="asymptotic").pvalue
    assert compare_differences(steps / 64).p == pytest.approx(expected, rel=0.05)
    dropped = stats.wilcoxon(steps, zero_method="wilcox", method="asymptotic").pvalue
    assert compare_differences(steps / 64).p != pytest.approx(dropped, rel=0.05)


@pytest.mark.parametrize("shift", [0.0, 0.08, 0.1, 0.15])
def test_signed_rank_p_of_many_subjects_is_the_normal_approximation(monkeypatch, shift):
    rng = np.random.default_rng(7)
    steps = np.rint(32 * rng.normal(shift, 1, MOST_EXACT)) * (rng.random(MOST_EXACT) < 0.9)
    exact = compare_differences(steps / 64).p
    monkeypatch.setattr("monai_iln.study.statistics.MOST_EXACT", MOST_EXACT - 1)
    approximate = compare_differences(steps / 64).p
    assert approximate != exact
    assert approximate == pytest.approx(exact, abs=0.001, rel=0.02)
    expected = stats.wilcoxon(steps, zero_method="pratt", method="asymptotic", correction=False).pvalue
    assert approximate == pytest.approx(expected, rel=1e-9)


def test_signed_rank_p_sees_equal_differences_through_rounding():
    reference = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 0.1 + 0.2])
    other = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 1.0, 0.3])
    differences = reference - other
    assert len(set(differences)) > 3
    assert differences[-1] != 0
    (comparison,) = compare(pd.DataFrame({"A": reference, "B": other}), "A")
    assert comparison.p == pytest.approx(enumerated_p(np.array([1, 1, 1, 1, 1, -1, 0])))


def test_comparison_by_hand():
    scores = pd.DataFrame(
        {
            "IN": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, np.nan],
            "ILN": [0.2, 0.4, 0.6, 0.8, 0.7, 0.7, np.nan, 0.9],
        }
    )
    (comparison,) = compare(scores, "ILN", dataset="cine", structure="LV")
    assert (comparison.dataset, comparison.structure, comparison.metric) == ("cine", "LV", "dice")
    assert (comparison.reference, comparison.other, comparison.subjects) == ("ILN", "IN", 6)
    assert comparison.mean_reference == pytest.approx(3.4 / 6)
    assert comparison.mean_other == pytest.approx(2.1 / 6)
    assert comparison.difference == pytest.approx(1.3 / 6)
    assert comparison.p == comparison.p_holm == pytest.approx(2 / 2**6)
    assert comparison.better == "ILN"


def test_holm_by_hand():
    rng = np.random.default_rng(3)
    base = rng.normal(0.8, 0.05, 10)
    scores = pd.DataFrame({"A": base} | {f"m{i}": base + rng.normal(0.02 * i, 0.05, 10) for i in range(5)})
    scores["few"] = [0.5] * 5 + [np.nan] * 5  # not tested, so not in the family
    comparisons = compare(scores, "A")
    tested = [one for one in comparisons if one.other != "few"]
    running = 0.0
    for place, one in enumerate(sorted(tested, key=lambda one: one.p)):
        running = max(running, min(1.0, (len(tested) - place) * one.p))
        assert one.p_holm == pytest.approx(running)
    assert len({one.p for one in tested}) > 3
    assert np.isnan(comparisons[-1].p)
    assert np.isnan(comparisons[-1].p_holm)


def test_holm_over_every_pair_by_hand():
    rng = np.random.default_rng(4)
    scores = pd.DataFrame(rng.normal([0.8, 0.83, 0.86, 0.9], 0.05, (10, 4)), columns=list("ABCD"))
    pairs = {}
    for first, second in itertools.combinations("ABCD", 2):
        pairs[first, second] = compare(scores[[first, second]], first)[0].p
    corrected, running = {}, 0.0
    for place, (pair, p) in enumerate(sorted(pairs.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(pairs) - place) * p))
        corrected[pair] = running
    found = compare(scores, "D", every_pair=True)
    assert [one.p_holm for one in found] == pytest.approx([corrected[other, "D"] for other in "ABC"])
    assert found[0].p_holm > compare(scores, "D")[0].p_holm


def test_order_of_methods_and_subjects_plays_no_role():
    rng = np.random.default_rng(11)
    scores = pd.DataFrame(rng.normal([0.8, 0.83, 0.86, 1.0], 0.1, (12, 4)), columns=list("ABCD"))
    shuffled = scores.sample(frac=1, random_state=1)[list("DBAC")]
    first, second = ({one.other: one for one in compare(table, "A")} for table in (scores, shuffled))
    assert [one.other for one in compare(shuffled, "A")] == ["D", "B", "C"]
    for other in "BCD":
        for name in ("p", "p_holm", "difference"):
            assert getattr(first[other], name) == pytest.approx(getattr(second[other], name))
    assert rank(scores).average_ranks == pytest.approx(rank(shuffled).average_ranks)
    assert rank(scores).p == pytest.approx(rank(shuffled).p)


def test_swapping_the_reference_mirrors_the_comparison():
    rng = np.random.default_rng(2)
    scores = pd.DataFrame({"A": rng.normal(0.9, 0.02, 15), "B": rng.normal(0.8, 0.02, 15)})
    (forward,), (backward,) = compare(scores, "A"), compare(scores, "B")
    assert forward.p == backward.p < 0.05
    assert forward.difference == pytest.approx(-backward.difference)
    assert forward.better == backward.better == "A"


@pytest.mark.parametrize(
    ("metric", "better"), [("dice", "A"), ("hd95_mm", "B"), ("asd_mm", "B"), (metric_of(MAE), "B")]
)
def test_better_is_higher_for_dice_and_lower_for_distances(metric, better):
    comparison = compare_differences(np.arange(1, 9) / 10, metric=metric)
    assert comparison.better == better
    assert comparison.difference > 0


def test_without_evidence_no_method_is_better():
    comparison = compare_differences(np.array([1, -2, 3, -4, 5, -6, 7]) / 100)
    assert comparison.p > 0.05
    assert comparison.better is None


def test_the_family_decides_whether_there_is_evidence():
    scores = pd.DataFrame({"A": np.arange(1.0, 7), "B": np.zeros(6)})
    assert compare(scores, "A")[0].better == "A"  # p = 2/64
    with_third = compare(scores.assign(C=[0, 1, 5, 6, 3, 8]), "A")
    assert with_third[0].p < 0.05 < with_third[0].p_holm
    assert with_third[0].better is None


@pytest.mark.parametrize(("p", "better"), [(0.05, None), (0.0499, "A")])
def test_p_must_be_below_the_level(monkeypatch, p, better):
    monkeypatch.setattr("monai_iln.study.statistics.holm", lambda _: [p])
    assert compare_differences(np.arange(1, 9) / 10).better == better


def test_no_p_is_above_1_by_rounding():
    assert compare_differences([0.1, -0.1] * 38).p == 1  # the sum of its chances is 1 + 2e-16


def test_where_mean_and_ranks_disagree_no_method_is_better():
    disagree = compare_differences([*np.arange(1, 15) / 100, -5.0])
    assert disagree.p < 0.05
    assert disagree.difference < 0
    assert disagree.better is None
    wide = compare_differences([*np.arange(1, 15) / 100, -0.9])
    assert wide.p < 0.05
    assert wide.difference > 0
    assert wide.better == "A"


@pytest.mark.parametrize(("n", "tested"), [(1, False), (2, False), (5, False), (6, True)])
def test_few_subjects(n, tested):
    comparison = compare_differences(np.arange(1, n + 1) / 10)
    assert np.isnan(comparison.p) != tested
    assert np.isnan(comparison.p_holm) != tested
    assert comparison.subjects == n


def test_no_common_subject():
    (comparison,) = compare(pd.DataFrame({"A": [0.5, np.nan], "B": [np.nan, 0.5]}), "A")
    assert comparison.subjects == 0
    assert np.isnan([comparison.difference, comparison.p, comparison.p_holm]).all()


def test_identical_scores():
    comparison = compare_differences(np.zeros(8))
    assert comparison.difference == 0
    assert np.isnan(comparison.p)
    assert comparison.better is None


def test_what_cannot_be_compared_is_refused():
    scores = pd.DataFrame({"A": [1.0, 2.0], "B": [1.0, 2.0]}, index=["x", "x"])
    for function in (lambda: compare(scores, "A"), lambda: rank(scores)):
        with pytest.raises(UserError, match="two rows for x"):
            function()
    with pytest.raises(UserError, match=r"reference 'C': it is one of the methods \(A, B\)"):
        compare(scores.set_index(pd.Index(["x", "y"])), "C")
    with pytest.raises(UserError, match="metric 'iou'"):
        rank(scores, "iou")
    assert compare(scores[["A"]].set_index(pd.Index(["x", "y"])), "A") == []


def test_ranking_by_hand():
    # ranks by row, 1 the highest: (1 2 3), (1 2 3), (2 1 3), (1 3 2), (1 2.5 2.5), (1 2 3)
    scores = pd.DataFrame(
        {"A": [9, 9, 8, 9, 9, 9, 5.0], "B": [8, 8, 9, 7, 8, 8, np.nan], "C": [7, 7, 7, 8, 8, 7, 5]}, dtype=float
    )
    sums = {"A": 7.0, "B": 12.5, "C": 16.5}
    n, k = 6, 3
    tie_correction = 1 - (2**3 - 2) / (n * (k**3 - k))
    chi2 = (12 / (n * k * (k + 1)) * sum(one**2 for one in sums.values()) - 3 * n * (k + 1)) / tie_correction
    ranking = rank(scores)
    assert ranking.subjects == n
    assert ranking.average_ranks == pytest.approx({name: total / n for name, total in sums.items()})
    assert ranking.statistic == pytest.approx(chi2)
    assert ranking.p == pytest.approx(np.exp(-chi2 / 2))  # chi-square with two degrees of freedom
    assert ranking.critical_difference == pytest.approx(2.343 * np.sqrt(k * (k + 1) / (6 * n)), rel=1e-3)
    assert list(ranking.nemenyi.index) == list(ranking.nemenyi.columns) == ["A", "B", "C"]
    assert ranking.nemenyi.loc["A", "C"] < 0.05 < ranking.nemenyi.loc["A", "B"]


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (8, 3.031), (10, 3.164)])
def test_critical_difference_has_the_published_q(k, q):
    """Table 5(a) of Demsar, JMLR 7 (2006)."""
    scores = pd.DataFrame(np.random.default_rng(k).normal(size=(20, k)))
    assert rank(scores).critical_difference == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 20)), rel=4e-4)


def test_nemenyi_crosses_its_level_at_the_critical_difference():
    ranking = rank(
        pd.DataFrame(np.random.default_rng(4).normal(size=(20, 5)) + np.arange(5) / 1.5, columns=list("ZYXWV"))
    )
    ranks, seen = ranking.average_ranks, set()
    for a, b in itertools.combinations(ranks, 2):
        apart = abs(ranks[a] - ranks[b]) > ranking.critical_difference
        assert (ranking.nemenyi.loc[a, b] < 0.05) == apart
        seen.add(apart)
    assert seen == {True, False}


def test_distances_rank_the_other_way():
    scores = pd.DataFrame({"A": np.arange(1.0, 8), "B": np.arange(2.0, 9), "C": np.arange(3.0, 10)})
    assert rank(scores).average_ranks == {"A": 3, "B": 2, "C": 1}
    for metric in ("hd95_mm", metric_of(MAE)):
        assert rank(scores, metric).average_ranks == {"A": 1, "B": 2, "C": 3}


def test_ranks_see_ties_through_rounding():
    scores = pd.DataFrame({"A": [0.1 + 0.2] * 6, "B": [0.3] * 6, "C": [0.1] * 6})
    assert rank(scores).average_ranks == {"A": 1.5, "B": 1.5, "C": 3}


def test_ranking_without_a_test():
    two = rank(pd.DataFrame({"A": np.arange(1.0, 8), "B": np.zeros(7)}))
    assert np.isnan([two.statistic, two.p]).all()
    assert two.critical_difference == pytest.approx(1.96 / np.sqrt(7), rel=1e-4)
    few = rank(pd.DataFrame(np.arange(15.0).reshape(5, 3), columns=list("ABC")))
    assert few.average_ranks == {"A": 3, "B": 2, "C": 1}
    assert np.isnan([few.statistic, few.p, few.critical_difference]).all()
    assert few.nemenyi.isna().all(axis=None)
    tied = rank(pd.DataFrame({"A": [1.0] * 7, "B": [1.0] * 7, "C": [1.0] * 7}))
    assert tied.average_ranks == {"A": 2, "B": 2, "C": 2}
    assert np.isnan([tied.statistic, tied.p]).all()
    none = rank(pd.DataFrame({"A": [1.0, 2.0], "B": [np.nan] * 2, "C": [1.0, 2.0]}))
    assert none.subjects == 0
    assert np.isnan(list(none.average_ranks.values())).all()
    assert rank(pd.DataFrame()).average_ranks == {}


def test_ranking_without_evidence():
    scores = pd.DataFrame(np.array([np.roll([1.0, 2, 3], i) for i in range(9)]), columns=list("ABC"))
    ranking = rank(scores)
    assert ranking.p == pytest.approx(1)


def table_of_slices(*rows):
    """A row is subject, phase, truth_ml and predicted_ml."""
    frame = pd.DataFrame(rows, columns=["subject", "phase", "truth_ml", "predicted_ml"])
    return frame.assign(
        dataset="d", method="IN", fold=0, learning_rate=0.1, seed=0, structure="LV", part="test", dice=0.5
    )


def test_volumes_by_hand():
    slices = table_of_slices(
        ("a", "ED", 60, 50), ("a", "ed", 40, 30), ("a", "ES", 30, 20), ("a", "Es", 10, 4), ("a", "MID", 999, 999),
        ("b", "ED", 70, 0), ("b", "ES", 35, 3),
        ("c", "ED", 80, 90), ("d", "mid", 1, 1),
        ("e", "ED", 10, np.nan), ("e", "ED", 10, 9), ("e", "ES", 5, 5),
    )  # fmt: skip
    everything = pd.concat([slices, slices.assign(part="validation"), slices.assign(seed=1, truth_ml=1.0)])
    table = volumes(everything)
    keys = ["dataset", "method", "fold", "learning_rate", "seed", "structure", "subject"]
    sides = ["edv_truth", "edv_predicted", "esv_truth", "esv_predicted", "ef_truth", "ef_predicted"]
    assert list(table.columns) == [*keys, *sides]
    assert table.groupby("seed").size().tolist() == [5, 5]
    first = table[table["seed"] == 0].set_index("subject")[sides]
    nan = np.nan
    expected = [
        [100, 80, 40, 24, 60, 70],
        [70, 0, 35, 3, 50, nan],
        [80, 90, nan, nan, nan, nan],
        [nan] * 6,
        [20, nan, 5, 5, 75, nan],
    ]
    assert first.index.tolist() == list("abcde")
    np.testing.assert_allclose(first, expected)


def test_volumes_without_a_phase_anywhere():
    table = volumes(table_of_slices(("a", "ED", 60, 50)))
    assert table["edv_truth"].tolist() == [60]
    assert table[["esv_truth", "esv_predicted", "ef_truth", "ef_predicted"]].isna().all(axis=None)


def test_bland_altman_by_hand():
    agreement = bland_altman([10, 20, 30, 40, np.nan, 60], [11, 23, 30, 44, 1, np.nan])
    assert agreement.subjects == 4
    assert agreement.bias == 2
    sd = np.sqrt((1 + 1 + 4 + 4) / 3)
    assert agreement.sd == pytest.approx(sd)
    assert (agreement.low, agreement.high) == (pytest.approx(2 - 1.96 * sd), pytest.approx(2 + 1.96 * sd))
    half = 3.182446 * sd / 2  # t with 3 degrees of freedom
    assert (agreement.bias_low, agreement.bias_high) == (pytest.approx(2 - half), pytest.approx(2 + half))


@pytest.mark.parametrize(("truth", "predicted", "bias"), [([], [], np.nan), ([3], [5], 2.0)])
def test_bland_altman_of_too_few(truth, predicted, bias):
    agreement = bland_altman(truth, predicted)
    assert agreement.subjects == len(truth)
    np.testing.assert_equal(agreement.bias, bias)
    assert np.isnan([agreement.sd, agreement.low, agreement.high, agreement.bias_low, agreement.bias_high]).all()


def test_bland_altman_takes_pairs():
    with pytest.raises(UserError, match=r"\(2,\) true and \(3,\) predicted values: they are pairs"):
        bland_altman([1, 2], [1, 2, 3])
