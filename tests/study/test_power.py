"""What a plan promises, against tables of a simulation and against trials of the estimator."""

from dataclasses import replace

import numpy as np
import pytest

from monai_iln.errors import UserError
from monai_iln.study.chance import NEW_SPLITS, Components, estimate_chance
from monai_iln.study.power import Plan

SD = Components(subject=0.03, fold=0.0, training=0.01, residual=0.035)
LUCKY_FOLDS = replace(SD, fold=0.01)
# The detectable difference, for a fold sd of 0 and 0.01; by simulation, to 0.001.
SIMULATED = {
    # subjects, folds, seeds, methods, design
    (44, 3, 1, 6, "one split"): (0.029, 0.034),
    (44, 3, 8, 6, "one split"): (0.017, 0.024),
    (44, 5, 2, 6, "one split"): (0.020, 0.023),
    (64, 3, 1, 6, "one split"): (0.026, 0.033),
    (64, 3, 4, 6, "one split"): (0.016, 0.024),
    (260, 3, 2, 6, "one split"): (0.015, 0.023),
    (260, 5, 8, 6, "one split"): (0.008, 0.015),
    (44, 3, 2, 2, "new splits"): (0.021, 0.025),
    (64, 3, 4, 2, "new splits"): (0.015, 0.017),
    (260, 3, 8, 2, "new splits"): (0.008, 0.010),
    (260, 5, 2, 2, "new splits"): (0.012, 0.015),
}


@pytest.mark.parametrize("cell", SIMULATED, ids=str)
def test_detectable_differences_are_those_of_a_simulation(cell):
    found = [Plan(sd, *cell).detectable() for sd in (SD, LUCKY_FOLDS)]
    assert found == pytest.approx(SIMULATED[cell], abs=0.002)


def trial(plan, rng):
    """The difference of the first two methods, equal ones, in a cross-validation as planned."""
    sd = {name: value / np.sqrt(2) for name, value in vars(plan.components).items()}
    shape = (plan.methods, plan.seeds, plan.subjects)
    folds = np.tile(np.arange(plan.subjects) % plan.folds, (plan.seeds, 1))
    splits = 1
    if plan.design == NEW_SPLITS:
        splits, folds = plan.seeds, rng.permuted(folds, axis=1)
    of_runs = rng.normal(0, sd["fold"], (plan.methods, splits, plan.folds))
    of_runs = of_runs + rng.normal(0, sd["training"], (plan.methods, plan.seeds, plan.folds))
    scores = rng.normal(0, sd["subject"], (plan.methods, 1, plan.subjects)) + rng.normal(0, sd["residual"], shape)
    scores += np.take_along_axis(of_runs, np.broadcast_to(folds, shape), axis=2)
    return estimate_chance(scores, folds, "abcdef"[: plan.methods]).between("a", "b")


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [(45, 3, 2, 2, "one split"), (45, 3, 1, 4, "one split"), (45, 3, 4, 4, "one split"), (45, 3, 3, 3, "new splits")],
    ids=str,
)
def test_promises_are_kept_by_the_estimator(cell):
    plan, margin = Plan(LUCKY_FOLDS, *cell), 0.025
    rng = np.random.default_rng(4)
    found = [trial(plan, rng) for _ in range(600)]
    ends = np.array([difference.interval() for difference in found])
    assert (ends[:, 0] + plan.detectable() > 0).mean() == pytest.approx(0.8, abs=0.05)
    corrected = np.array([difference.interval(1 - 0.05 / 5)[0] for difference in found])
    assert (corrected + plan.detectable(comparisons=5) > 0).mean() == pytest.approx(0.8, abs=0.05)
    assert np.median(ends[:, 1] - ends[:, 0]) / 2 == pytest.approx(
        plan.half_width(), rel=0.05 if plan.design == NEW_SPLITS else 0.22
    )
    equal = np.mean([np.abs(difference.interval(0.9)).max() < margin for difference in found])
    assert equal == pytest.approx(plan.chance_of_equal(margin), abs=0.08)


def test_the_fewest_seeds_are_enough_and_one_less_is_not():
    plan = Plan(SD, 260, 3, 1, 6)
    seeds = plan.seeds_for_half_width(0.01)
    assert replace(plan, seeds=seeds).half_width() <= 0.01 < replace(plan, seeds=seeds - 1).half_width()
    seeds = plan.seeds_for_equal(0.01)
    chances = [replace(plan, seeds=number).chance_of_equal(0.01) for number in (seeds - 1, seeds)]
    assert chances[0] < 0.8 <= chances[1]
    assert plan.seeds_for_half_width(1.0) == 1
    assert replace(plan, design=NEW_SPLITS, seeds=2).seeds_for_half_width(1.0) == 2


def test_no_number_of_seeds_makes_up_for_subjects_or_for_one_split():
    one, new = Plan(LUCKY_FOLDS, 2000, 3, 2, 2), Plan(LUCKY_FOLDS, 2000, 3, 2, 2, NEW_SPLITS)
    assert (one.seeds_for_half_width(0.01), new.seeds_for_half_width(0.01)) == (None, 4)
    assert replace(new, subjects=30).seeds_for_half_width(0.005) is None
    assert replace(new, subjects=30).seeds_for_equal(0.005) is None


def test_what_is_not_told_apart_is_on_the_safe_side():
    one_seed = Components(subject=0.046, fold=0.014)
    plan = Plan(one_seed, 44, 3, 1, 6)
    assert replace(plan, seeds=8).variance == plan.variance > 0
    of_new_splits = Components(subject=0.03, training=0.014, residual=0.0)
    plan = Plan(of_new_splits, 44, 3, 2, 6)
    assert plan.variance == Plan(replace(of_new_splits, fold=0.014, training=0.0), 44, 3, 2, 6).variance
    assert plan.variance > Plan(replace(of_new_splits, fold=0.0), 44, 3, 2, 6).variance


def test_nothing_known_nothing_promised():
    plan = Plan(Components(), 44, 3, 4)
    promised = [plan.variance, plan.df, plan.half_width(), plan.detectable(), plan.chance_of_equal(0.01)]
    assert np.isnan(promised).all()
    assert plan.seeds_for_half_width(1) is plan.seeds_for_equal(1) is None


@pytest.mark.parametrize("design", ["one split", "new splits"])
def test_without_any_chance_everything_is_detectable(design):
    plan = Plan(Components(0.0, 0.0, 0.0, 0.0), 44, 3, 2, 2, design)
    assert (plan.half_width(), plan.detectable(), plan.chance_of_equal(0.001)) == (0, 0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": 1}, "methods 1: there must be 2 or more"),
        ({"folds": 1}, "folds 1: "),
        ({"subjects": 2}, "subjects 2: there must be 3 or more"),
        ({"seeds": 0}, "seeds 0: "),
        ({"design": "leave one out"}, "design 'leave one out': it is one of one split, new splits"),
        ({"design": "new splits", "seeds": 1}, "new splits with one seed"),
        ({"components": replace(SD, fold=-1.0)}, r"standard deviation of -1\.0"),
    ],
    ids=str,
)
def test_impossible_plans_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        replace(Plan(SD, 44, 3, 2), **change)


@pytest.mark.parametrize(
    ("cell", "margin", "simulated"),
    [((260, 3, 4), 0.01, 0.63), ((260, 3, 8), 0.01, 0.88), ((260, 5, 4), 0.01, 0.85), ((44, 3, 4), 0.02, 0.84)],
)
def test_equal_methods_are_found_equal_as_often_as_in_a_simulation(cell, margin, simulated):
    assert Plan(SD, *cell, methods=6).chance_of_equal(margin) == pytest.approx(simulated, abs=0.03)


def test_with_new_splits_the_luck_of_folds_and_trainings_averages_out():
    plan = Plan(LUCKY_FOLDS, 45, 3, 4, 2, NEW_SPLITS)
    expected = (0.03**2 + 0.035**2 / 4) / 45 + (0.01**2 + 0.01**2) / (3 * 4)
    assert plan.variance == pytest.approx(expected)


def test_with_new_splits_the_degrees_of_freedom_are_those_of_the_estimates():
    plan = Plan(Components(0.01, 0.0, 0.03, 0.05), 21, 3, 3, 3, NEW_SPLITS)
    rng = np.random.default_rng(1)
    found = [trial(plan, rng) for _ in range(400)]
    assert np.mean([difference.variance for difference in found]) == pytest.approx(plan.variance, rel=0.1)
    assert np.median([difference.df for difference in found]) == pytest.approx(plan.df, rel=0.05)
