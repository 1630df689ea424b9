"""Against formulas by hand, least squares and large matrices; what is to be estimated is simulated elsewhere."""

import itertools
from dataclasses import astuple, replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_iln.errors import UserError
from monai_iln.study.chance import Components, estimate_chance, estimate_mean
from monai_iln.study.selection import scores_of_runs

METHODS = ("a", "b", "c", "d", "e", "f")


def draw(methods=2, seeds=3, sizes=(4, 4, 4), seed=0, fold=0.0, training=0.0, new=False, loud=1.0):
    """Scores of noise, with the luck of folds and trainings, and the folds; the last method may be louder."""
    rng = np.random.default_rng(seed)
    row = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    folds = np.array([rng.permutation(row) if new else row for _ in range(seeds)])
    scores = 0.8 + rng.normal(0, 0.03, (methods, 1, len(row))) + rng.normal(0, 0.03, (methods, seeds, len(row)))
    luck = rng.normal(0, fold, (methods, 1, len(sizes))) + rng.normal(0, training, (methods, seeds, len(sizes)))
    scores += np.take_along_axis(luck, np.broadcast_to(folds, scores.shape), axis=2)
    scores[-1] = 0.8 + loud * (scores[-1] - 0.8)
    return scores, folds


def estimate(scores, folds):
    return estimate_chance(scores, folds, METHODS[: len(scores)])


def residual(values, *factors):
    """The residual sum of squares of least squares on dummies."""
    columns = np.concatenate([np.eye(int(factor.max()) + 1)[factor] for factor in factors], axis=1)
    fit = columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    return float(((values - fit) ** 2).sum())


def satterthwaite(v, *parts):
    """``parts`` are (mean square times weight, degrees of freedom)."""
    return max(min(df for _, df in parts), v**2 / sum(part**2 / df for part, df in parts))


# known answers


def test_four_subjects_in_two_folds_by_hand():
    scores = np.array([[[1.0, 3, 5, 7]], np.zeros((1, 4))])
    found = estimate(scores, [[0, 0, 1, 1]])
    difference = found.between("a", "b")
    # Vs = 4 / 2, 2 I = var(2, 6) = 8, b = 8 - 2 / 2 = 7, V = 2 / 4 + 7 / 2
    assert (difference.mean, difference.variance, difference.df, difference.run_variance) == (4, 4, 1, 7)
    assert difference.interval() == pytest.approx((4 - 12.7062 * 2, 4 + 12.7062 * 2), abs=1e-3)
    assert difference.interval(0.9) == pytest.approx((4 - 6.3138 * 2, 4 + 6.3138 * 2), abs=1e-3)
    assert difference.p == pytest.approx(1 - 2 * np.arctan(2) / np.pi)
    assert difference.chance_of_better() == pytest.approx(0.5 + np.arctan(4 / np.sqrt(11)) / np.pi)
    assert difference.sensitivity == pytest.approx(np.sqrt(((4 / 4.302653) ** 2 - 0.5) / 0.5))
    assert found.components.fold == pytest.approx(np.sqrt(7))
    assert found.components.subject == pytest.approx(np.sqrt(2))
    assert np.isnan([found.components.training, found.components.residual]).all()
    assert (found.design, found.subjects, found.folds, found.seeds) == ("one split", 4, 2, 1)


def alike(scores, pair, group, scatter):
    """The pairs of a group whose subjects scatter as those of a pair do, and how many methods they join."""
    own = scatter(scores[pair[0]] - scores[pair[1]])
    pairs = list(itertools.combinations(group, 2))
    pairs = [(i, j) for i, j in pairs if own / 3 <= scatter(scores[i] - scores[j]) <= 3 * own]
    joined = {k: {k} for k in range(len(scores))}
    for i, j in pairs:
        both = joined[i] | joined[j]
        joined |= dict.fromkeys(both, both)
    return pairs, len(scores) - len({frozenset(methods) for methods in joined.values()})


def terms_of_one_split(scores, folds, pairs):
    """The means of Vs, W, E and I over pairs, each by least squares on the pair's difference."""
    _, seeds, subjects = scores.shape
    fold, number = folds[0], folds.max() + 1
    found = []
    for i, j in pairs:
        d = scores[i] - scores[j]
        u = d.mean(axis=0)
        vs = residual(u, fold) / (subjects - number)
        of_folds = np.var([u[fold == f].mean() for f in range(number)], ddof=1)
        run = noise = 0.0
        if seeds > 1:
            seed, subject = np.indices(d.shape)
            r = np.array([[d[s, fold == f].mean() for f in range(number)] for s in range(seeds)])
            run = residual(r.ravel(), np.indices(r.shape)[1].ravel()) / (number * (seeds - 1))
            left = residual(d.ravel(), subject.ravel(), (seed * number + fold).ravel())
            noise = left / ((subjects - number) * (seeds - 1))
        found.append((vs, run, noise, of_folds))
    return np.mean(found, axis=0)


def expected_of_one_split(scores, folds, pair, group, like=True):
    """The variance of the pair's difference and its df, and whether the fold's part is above 0."""
    _, seeds, subjects = scores.shape
    sizes = np.bincount(folds[0])
    number, q, h = len(sizes), ((sizes / subjects) ** 2).sum(), (1 / sizes).mean()
    vs, *_ = terms_of_one_split(scores, folds, [pair])
    pairs, differences = list(itertools.combinations(group, 2)), len(group) - 1
    if like:
        pairs, differences = alike(scores, pair, group, lambda d: residual(d.mean(axis=0), folds[0]))
    mean_vs, run, noise, of_folds = terms_of_one_split(scores, folds, pairs)
    c = max(0, run - h * noise)
    b = max(0, of_folds - h * mean_vs - c / seeds)
    v = vs / subjects + q * (c / seeds + b)
    df = differences * (number - 1)
    if seeds > 1 and b > 0:
        df = max(df, v**2 * df / (q * of_folds) ** 2)
    elif seeds > 1:
        parts = [(vs / subjects, subjects - number)]
        if c > 0:
            parts.append((q * run / seeds, differences * number * (seeds - 1)))
        df = satterthwaite(v, *parts)
    variances = {"fold": b, "training": np.nan, "residual": np.nan, "subject": mean_vs}
    if seeds > 1:
        variances |= {"training": c, "residual": noise, "subject": max(0, mean_vs - noise / seeds)}
    return v, df, variances


@pytest.mark.parametrize("methods", [2, 3, 5])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (3, 5), (2, 7, 3, 3)], ids=str)
@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_one_split_is_that_of_least_squares(methods, sizes, seeds):
    cases = set()
    for number in range(8):
        luck = 0.03 * (number % 2)
        scores, folds = draw(methods, seeds, sizes, number, luck, training=0.03 * (number % 4 > 1))
        found = estimate(scores, folds)
        pool = [k for k in range(methods) if METHODS[k] not in found.noisy]
        for i, j in itertools.combinations(range(methods), 2):
            *expected, of = expected_of_one_split(scores, folds, (i, j), pool)
            difference = found.between(METHODS[i], METHODS[j])
            if not difference.apart:
                assert difference.run_variance == pytest.approx(of["fold"] + np.nan_to_num(of["training"]), rel=1e-9)
                assert (difference.variance, difference.df) == pytest.approx(expected, rel=1e-9)
            assert difference.mean == pytest.approx((scores[i] - scores[j]).mean())
        *_, variances = expected_of_one_split(scores, folds, (0, 1), pool, like=False)
        sd = {name: np.sqrt(value) for name, value in variances.items()}
        assert vars(found.components) == pytest.approx(sd, nan_ok=True)
        cases.add((sd["training"] > 0, sd["fold"] > 0))
    assert len(cases) >= (2 if seeds == 1 else 3)


def expected_of_new_splits(scores, folds, pair, group, like=True):
    """The same by the matrices of the page: an orthonormal basis of the runs' dummies less their subject means."""
    _, seeds, subjects = scores.shape
    number = folds.max() + 1
    seed, subject = np.indices(folds.shape)
    z = np.eye(seeds * number)[(seed * number + folds).ravel()]
    of_subjects = np.eye(subjects)[subject.ravel()]
    less_means = z - of_subjects @ np.linalg.lstsq(of_subjects, z, rcond=None)[0]
    left, values, _ = np.linalg.svd(less_means, full_matrices=False)
    basis = left[:, values > 1e-10]
    g, trace = basis.shape[1], ((basis.T @ z) ** 2).sum()
    pairs, differences = list(itertools.combinations(group, 2)), len(group) - 1
    if like:
        pairs, differences = alike(scores, pair, group, lambda d: d.mean(axis=0).var())
    run, noise, within = [], [], []
    for i, j in pairs:
        d = scores[i] - scores[j]
        x = (d - d.mean(axis=0)).ravel()
        explained = ((basis.T @ x) ** 2).sum()
        run.append(explained / trace)
        noise.append(((x**2).sum() - explained) / (subjects * (seeds - 1) - g))
        within.append(d.mean(axis=0).var(ddof=1))
    c = max(0, np.mean(run) - g / trace * np.mean(noise))
    w = 1 / (number * seeds) - (1 - 1 / number) / (seeds * subjects)
    over_subjects = (scores[pair[0]] - scores[pair[1]]).mean(axis=0).var(ddof=1) / subjects
    v = over_subjects + c * w
    parts = [(over_subjects, subjects - 1)]
    if c > 0:
        parts.append((w * np.mean(run), g * differences))
    variances = {"training": c, "residual": np.mean(noise)}
    variances["subject"] = max(0, np.mean(within) - (variances["residual"] + c * (1 - 1 / number)) / seeds)
    return v, satterthwaite(v, *parts), variances


@pytest.mark.parametrize("methods", [2, 3, 5])
@pytest.mark.parametrize(("sizes", "seeds"), [((4, 4, 4), 2), ((5, 5), 3), ((3, 3, 3, 3), 4)], ids=str)
def test_new_splits_are_those_of_large_matrices(methods, sizes, seeds):
    cases = set()
    for number in range(12):
        scores, folds = draw(methods, seeds, sizes, number, training=0.02 * (number % 2), new=True)
        found = estimate(scores, folds)
        pool = [k for k in range(methods) if METHODS[k] not in found.noisy]
        assert found.design == "new splits"
        for i, j in itertools.combinations(range(methods), 2):
            *expected, _ = expected_of_new_splits(scores, folds, (i, j), pool)
            difference = found.between(METHODS[i], METHODS[j])
            if not difference.apart:
                assert (difference.variance, difference.df) == pytest.approx(expected, rel=1e-9)
        *_, variances = expected_of_new_splits(scores, folds, (0, 1), pool, like=False)
        sd = {name: np.sqrt(value) for name, value in variances.items()}
        assert vars(found.components) == pytest.approx({**sd, "fold": np.nan}, nan_ok=True)
        cases.add(sd["training"] > 0)
    assert cases == {False, True}


@pytest.mark.parametrize("seeds_of_splits", [(2, 2), (3, 1), (1, 1, 2)], ids=str)
@pytest.mark.parametrize(("fold", "training"), [(0.03, 0.0), (0.0, 0.03)])
def test_seeds_that_share_a_split_are_no_more_certain(seeds_of_splits, fold, training):
    rng = np.random.default_rng(0)
    means, variances = [], []
    for _ in range(400):
        rows = [rng.permutation(np.arange(24) % 3) for _ in seeds_of_splits]
        luck = [rng.normal(0, fold, (2, 3)) for _ in seeds_of_splits]
        folds = np.repeat(rows, seeds_of_splits, axis=0)
        scores = rng.normal(0, 0.005, (2, 4, 24))
        for seed, of_folds in enumerate(np.repeat(luck, seeds_of_splits, axis=0)):
            scores[:, seed] += (of_folds + rng.normal(0, training, (2, 3)))[:, folds[seed]]
        found = estimate(scores, folds).between("a", "b")
        means.append(found.mean)
        variances.append(found.variance)
    safety = np.mean(variances) / np.mean(np.square(means))
    assert 0.9 < safety < (1.2 if fold else np.inf)
    assert safety > 1.1 or fold


# the pool


@pytest.mark.parametrize(
    ("new", "seeds", "expected"),
    [(False, 1, expected_of_one_split), (False, 3, expected_of_one_split), (True, 3, expected_of_new_splits)],
)
def test_a_far_noisier_method_has_terms_of_its_own(new, seeds, expected):
    for seed in range(6):
        training = 0.04 * (seed % 3 > 0)
        scores, folds = draw(5, seeds, (5, 5, 5, 5), seed, fold=0.01, training=training, new=new, loud=20.0)
        found = estimate(scores, folds)
        assert found.noisy == ("e",)
        for i, j in itertools.combinations(range(5), 2):
            difference = found.between(METHODS[i], METHODS[j])
            assert difference.apart == (j == 4)
            v, df, *_ = expected(scores, folds, (i, j), [i, 4] if j == 4 else range(4))
            assert (difference.variance, difference.df) == pytest.approx((v, df), rel=1e-9)


@pytest.mark.parametrize(
    ("new", "seeds", "expected"),
    [(False, 1, expected_of_one_split), (False, 3, expected_of_one_split), (True, 3, expected_of_new_splits)],
)
def test_pairs_are_pooled_whose_subjects_scatter_alike(new, seeds, expected):
    numbers = set()
    for seed in range(6):
        scores, folds = draw(6, seeds, (5, 5, 5, 5), seed, fold=0.01, training=0.02, new=new)
        rest = scores - scores.mean(axis=2, keepdims=True)
        scores = scores + rest * np.array([0, 0, 0.5, 1, 2, 3]).reshape(6, 1, 1)
        found = estimate(scores, folds)
        pool = [k for k in range(6) if METHODS[k] not in found.noisy]
        for i, j in itertools.combinations(pool, 2):
            difference = found.between(METHODS[i], METHODS[j])
            assert (difference.variance, difference.df) == pytest.approx(
                expected(scores, folds, (i, j), pool)[:2], rel=1e-9
            )
            numbers.add(len(alike(scores, (i, j), pool, lambda d: d.mean(axis=0).var())[0]))
    assert len(numbers) > 3  # from the pair alone to nearly all


@pytest.mark.parametrize("seeds", [1, 3])
def test_of_three_methods_none_is_left_out(seeds):
    scores, folds = draw(3, seeds, loud=20.0)
    found = estimate(scores, folds)
    assert found.noisy == ()
    assert not found.between("a", "c").apart


@pytest.mark.parametrize(
    ("factors", "seeds", "noisy"),
    [
        ((-1, 1, -1, 1, 1 + 23.9**0.5), 3, ()),  # J is 4, 0, 4, 0 and 23.9: that of a method is less the median, 1
        ((-1, 1, -1, 1, 1 + 24.1**0.5), 3, ("e",)),
        ((-1, 1, -1, 1, 1 + 31.9**0.5), 1, ()),
        ((-1, 1, -1, 1, 1 + 32.1**0.5), 1, ("e",)),
        ((1, 1, 1, 1, 1 + 1e-15), 3, ()),  # which is rounding
    ],
    ids=str,
)
def test_a_method_is_left_out_above_the_threshold_only(factors, seeds, noisy):
    scores, folds = draw(1, seeds, (6, 6, 6), training=0.02)
    assert estimate(np.array(factors).reshape(-1, 1, 1) * scores, folds).noisy == noisy


@pytest.mark.parametrize(("folds", "noisy"), [(2, ()), (3, ("e",))])
def test_one_seed_of_two_folds_tells_no_noisy_method(folds, noisy):
    scores, numbers = draw(1, 1, (6,) * folds, training=0.02)
    loud = np.array([-1, 1, -1, 1, 30.0]).reshape(-1, 1, 1)
    assert estimate(loud * scores, numbers).noisy == noisy


@pytest.mark.parametrize("new", [False, True])
def test_noise_is_what_the_means_of_runs_deviate_by(new):
    answers = set()
    for number in range(60):
        scores, folds = draw(4, 2, (2, 5, 9), number, fold=0.1, training=0.02, new=new, loud=3.0)
        x = scores - scores.mean(axis=1, keepdims=True)
        of_runs = [x[:, s, folds[s] == f].mean(axis=1) for s in range(2) for f in range(3)]
        spread = ((np.array(of_runs) - np.median(of_runs, axis=1, keepdims=True)) ** 2).sum(axis=0)
        expected = tuple(METHODS[k] for k in range(4) if spread[k] > 6 * np.median(spread))
        assert estimate(scores, folds).noisy == expected
        answers.add(expected)
    assert {(), ("d",)} <= answers


# what may not matter


def described(found):
    return [astuple(found.between(*pair))[2:8] for pair in itertools.combinations(found.methods, 2)]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("loud", [1.0, 8.0])
def test_order_and_names_do_not_matter(new, loud):
    scores, folds = draw(5, 4, (5, 5, 5), 3, training=0.02, new=new, loud=loud)
    found = estimate(scores, folds)
    rng = np.random.default_rng(0)
    methods, seeds, subjects = (rng.permutation(length) for length in scores.shape)
    moved = scores[np.ix_(methods, seeds, subjects)]
    renamed = np.array([4, 9, 7])[folds][np.ix_(seeds, subjects)]
    other = estimate_chance(moved, renamed, [METHODS[k] for k in methods])
    assert other.design == found.design
    assert set(other.noisy) == set(found.noisy)
    assert astuple(other.components) == pytest.approx(astuple(found.components), nan_ok=True)
    for first, second in itertools.permutations(METHODS[:5], 2):
        expected, got = found.between(first, second), other.between(first, second)
        assert astuple(got)[2:8] == pytest.approx(astuple(expected)[2:8], nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("loud", [1.0, 20.0])
def test_what_all_methods_of_a_seed_share_is_in_no_difference(new, loud):
    scores, folds = draw(5, 3, (5, 5, 5), 2, fold=0.01, training=0.02, new=new, loud=loud)
    shared, _ = draw(1, 3, (5, 5, 5), 9, training=0.3)
    found, other = estimate(scores, folds), estimate(scores + shared, folds)
    assert other.noisy == found.noisy
    assert astuple(other.components) == pytest.approx(astuple(found.components), nan_ok=True)
    assert np.array(described(other)) == pytest.approx(np.array(described(found)), nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("new", [False, True])
def test_a_constant_moves_the_mean_alone_and_a_factor_scales_it(new):
    scores, folds = draw(4, 3, (5, 5, 5), 1, training=0.02, new=new)
    before = estimate(scores, folds).between("b", "d")
    moved = estimate(scores + np.array([0, 0.5, 0, 0.1]).reshape(4, 1, 1), folds).between("b", "d")
    assert moved.mean == pytest.approx(before.mean + 0.4)
    assert (moved.variance, moved.df) == pytest.approx((before.variance, before.df))
    scaled = estimate(100 * scores, folds).between("b", "d")
    assert (scaled.mean, scaled.variance) == pytest.approx((100 * before.mean, 1e4 * before.variance))
    assert (scaled.df, scaled.p) == pytest.approx((before.df, before.p))


def test_folds_that_are_only_called_otherwise_are_one_split():
    scores, folds = draw(2, 2)
    assert estimate(scores, [folds[0], 2 - folds[1]]).design == "one split"


def test_either_order_of_a_pair():
    scores, folds = draw(2, 1, fold=0.05)
    scores[0] += 0.1
    found = estimate(scores, folds)
    there, back = found.between("a", "b"), found.between("b", "a")
    assert (back.first, back.second, back.mean, back.p) == ("b", "a", -there.mean, there.p)
    assert back.interval() == tuple(-end for end in reversed(there.interval()))
    assert back.chance_of_better() == pytest.approx(1 - there.chance_of_better())
    for pair in (("a", "a"), ("a", "z")):
        with pytest.raises(UserError, match="two of the methods \\(a, b\\) are compared"):
            found.between(*pair)


def test_sensitivity_is_the_deviation_of_runs_at_which_significance_ends():
    scores, folds = draw(2, 1, (5, 5, 4))
    scores[0] += 0.2
    found = estimate(scores, folds).between("a", "b")
    d, sizes = (scores[0] - scores[1])[0], np.bincount(folds[0])
    v = residual(d, folds[0]) / 11 / 14 + ((sizes / 14) ** 2).sum() * found.sensitivity**2
    assert 2 * stats.t.sf(found.mean / np.sqrt(v), 11) == pytest.approx(0.05)
    scores[0] += d.mean() * -1
    assert estimate(scores, folds).between("a", "b").sensitivity == 0
    assert np.isnan(estimate(*draw(2, 2)).between("a", "b").sensitivity)


def test_a_new_training_is_less_certain_than_the_mean():
    scores, folds = draw(2, 4, (20, 20, 20), fold=0.02, training=0.02)
    scores[0] += 0.03
    found = estimate(scores, folds).between("a", "b")
    assert found.run_variance > 0
    mean_is_better = 1 - found.p / 2
    assert 0.5 < found.chance_of_better() < mean_is_better
    assert replace(found, run_variance=0.0).chance_of_better() == pytest.approx(mean_is_better)


# what has no answer, or a special one


def told(scores, folds):
    found = estimate(scores, folds).between("a", "b")
    return found, [*found.interval(), found.p, found.variance, found.df, found.chance_of_better()]


@pytest.mark.parametrize(
    ("shape", "folds", "reason"),
    [
        ((2, 2, 1), [[0], [0]], "there is 1 subject"),
        ((2, 2, 0), np.zeros((2, 0), int), "there is no subject"),
        ((2, 0, 4), np.zeros((0, 4), int), "no seed is complete"),
        ((2, 0, 0), np.zeros((0, 0), int), "no seed is complete"),
        ((2, 2, 4), [[5] * 4] * 2, "there is one fold, and its luck cannot be told"),
    ],
)
def test_what_cannot_be_told_is_nan_with_its_reason(shape, folds, reason):
    found, numbers = told(np.random.default_rng(0).normal(size=shape), folds)
    assert np.isnan(numbers).all()
    assert found.reason == reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_leaves_nothing_to_tell(value):
    scores, folds = draw(2, 2)
    scores[1, 0, 3] = value
    scores[0, 1, 2] = -value
    found, numbers = told(scores, folds)
    assert np.isnan([found.mean, *numbers]).all()
    assert found.reason == "a score is not finite"


def test_one_method_is_compared_with_none():
    scores, folds = draw(1, 2)
    found = estimate(scores, folds)
    assert found.differences == {}
    assert np.isnan(astuple(found.components)).all()


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_a_difference_that_is_the_same_for_all_has_no_width_and_no_p(seeds, shift):
    row, folds = draw(1, 1)
    row = np.tile(row, (1, seeds, 1))
    found, _ = told(np.concatenate([row + shift, row]), np.tile(folds, (seeds, 1)))
    assert (found.variance, found.interval()) == (0, (found.mean, found.mean))
    assert np.isnan([found.p, found.sensitivity]).all()
    assert found.mean == pytest.approx(shift)
    assert found.chance_of_better() == (1 if shift else 0.5)
    assert found.reason == "the difference is the same for every subject"


@pytest.mark.parametrize(("seeds", "df"), [(1, 4), (3, None)])
def test_with_one_subject_in_every_fold_it_is_the_t_test_over_subjects(seeds, df):
    scores, _ = draw(2, seeds, (1,) * 5)
    found, _ = told(scores, np.tile(np.arange(5), (seeds, 1)))
    d = (scores[0] - scores[1]).mean(axis=0)
    if df:
        assert (found.variance, found.df) == (pytest.approx(d.var(ddof=1) / 5), df)
        assert found.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
        assert np.isnan(found.sensitivity)
    assert found.variance >= d.var(ddof=1) / 5 * (1 - 1e-12)


def test_two_subjects_are_two_folds():
    scores, _ = draw(2, 1, (1, 1))
    found, numbers = told(scores, [[0, 1]])
    assert np.isfinite(numbers).all()
    assert found.df == 1


def test_few_subjects_with_new_splits_leave_no_rest():
    scores, _ = draw(2, 2, (2, 1))
    _, numbers = told(scores, [[0, 0, 1], [0, 1, 1]])
    assert np.isfinite(numbers).all()
    assert estimate(scores, [[0, 0, 1], [0, 1, 1]]).components.residual == 0


@pytest.mark.parametrize(
    ("shape", "folds", "methods", "message"),
    [
        ((2, 3, 4), np.zeros((3, 5), int), "ab", r"scores \(2, 3, 4\): the folds and methods are of \(2, 3, 5\)"),
        ((2, 3, 4), np.zeros((3, 4), int), "abc", r"scores \(2, 3, 4\)"),
        ((3, 4), np.zeros((4,), int), "abc", r"scores \(3, 4\)"),
        ((2, 1, 4), [[0, 0, 1, 1]], "aa", "methods a, a: each has one name"),
    ],
)
def test_what_does_not_fit_is_refused(shape, folds, methods, message):
    with pytest.raises(UserError, match=message):
        estimate_chance(np.zeros(shape), folds, methods)


# from the table of images


def table(methods=("IN", "ILN"), folds=(0, 1), seeds=(3, 7), subjects=3, images=2):
    rows = itertools.product(methods, folds, seeds, range(subjects), range(images))
    frame = pd.DataFrame(rows, columns=["method", "fold", "seed", "number", "image"])
    frame["subject"] = frame["fold"].astype(str) + "-" + frame["number"].astype(str)
    rng = np.random.default_rng(0)
    return frame.assign(
        dice=rng.random(len(frame)), dataset="d", structure="LV", part="test", learning_rate=0.1, score=2.0
    )


def test_scores_are_means_over_images():
    images = table()
    shuffled = pd.concat([images[:1], images[1:].sample(frac=1, random_state=0)])
    scores, folds, methods = scores_of_runs(shuffled)
    assert methods == ("IN", "ILN")
    assert folds.tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    means = images.groupby(["method", "seed", "subject"]).dice.mean()
    for k, s, i in np.ndindex(scores.shape):
        assert scores[k, s, i] == pytest.approx(means[methods[k], (3, 7)[s], f"{i // 3}-{i % 3}"])
    assert estimate_chance(scores, folds, methods).subjects == 6
    assert (scores_of_runs(images, "dice")[0] == scores_of_runs(images)[0]).all()


def test_the_metric_names_the_column():
    from monai_iln.study.metric import metric_of

    scores, *_ = scores_of_runs(table(), metric_of({"metric": {"name": "val_mae"}}))
    assert (scores == 2).all()


def test_only_complete_seeds_count():
    images = table(seeds=(3, 7, 9))
    gone = (images["method"] == "ILN") & (images["fold"] == 1) & (images["seed"] == 7)
    scores, folds, _ = scores_of_runs(images[~gone])
    assert scores.shape == (2, 2, 6)
    assert folds.shape == (2, 6)
    whole, *_ = scores_of_runs(images)
    assert (scores == whole[:, [0, 2]]).all()


def test_only_subjects_with_a_score_everywhere_count():
    images = table()
    lost = (images["method"] == "ILN") & (images["seed"] == 7) & (images["subject"] == "0-1")
    without = images.assign(dice=images["dice"].mask(lost))
    scores, folds, _ = scores_of_runs(without)
    whole, *_ = scores_of_runs(images)
    assert (scores == np.delete(whole, 1, axis=2)).all()
    assert folds.tolist() == [[0, 0, 1, 1, 1]] * 2
    one = images.assign(dice=images["dice"].mask(lost & (images["image"] == 0)))  # a mean skips NaN
    assert scores_of_runs(one)[0].shape == (2, 2, 6)
    infinite = images.assign(dice=images["dice"].mask(lost, np.inf))
    assert scores_of_runs(infinite)[0].shape == (2, 2, 5)


def test_new_splits_are_read():
    images = table(subjects=2)
    other = images["seed"] == 7
    swapped = images["subject"].map({"0-0": 0, "0-1": 1, "1-0": 0, "1-1": 1})
    images["fold"] = images["fold"].where(~other, swapped)
    scores, folds, methods = scores_of_runs(images)
    assert folds.tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert estimate_chance(scores, folds, methods).design == "new splits"


def test_categories_and_numbers_for_names_are_read():
    images = table()
    texts = ["method", "dataset", "structure", "part", "subject"]
    as_categories = images.astype(dict.fromkeys(texts, "category"))
    assert (scores_of_runs(as_categories)[0] == scores_of_runs(images)[0]).all()
    numbered = images.assign(subject=images["fold"] * 10 + images["number"])
    assert scores_of_runs(numbered)[0].shape == (2, 2, 6)


@pytest.mark.parametrize("rows", [slice(0), slice(1)], ids=["no row", "one method"])
def test_a_table_without_a_complete_seed_gives_no_interval(rows):
    images = table()[rows] if rows.stop == 0 else table(methods=("IN",))
    scores, folds, methods = scores_of_runs(images)
    assert estimate_chance(scores, folds, methods).differences == {}
    unfinished = table()
    unfinished = unfinished[(unfinished["fold"] == 0) | (unfinished["method"] == "IN")]
    found = estimate_chance(*scores_of_runs(unfinished))
    assert (found.seeds, found.between("ILN", "IN").reason) == (0, "no seed is complete")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure": ["LV", "RV"] * 24}, "structures LV, RV: chance is told for one at a time"),
        ({"dataset": ["x", "y"] * 24}, "datasets x, y"),
        ({"learning_rate": [0.1, 0.5] * 24}, "2 learning rates"),
        ({"subject": "x"}, "two folds for x with seed 3, x with seed 7"),
    ],
    ids=str,
)
def test_tables_of_several_kinds_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        scores_of_runs(table().assign(**change))


def test_components_may_be_left_unknown():
    assert np.isnan(astuple(Components())).all()


@pytest.mark.parametrize("new", [False, True])
def test_the_mean_of_one_score_has_the_chance_of_its_own_trainings(new):
    """What trainings have in common cancels: the interval covers the truth, and is no wider than that asks for."""
    rng = np.random.default_rng(5)
    seeds, number, subjects = 3, 3, 30
    inside, widths = 0, []
    for _ in range(400):
        order = [rng.permutation(subjects) if new else np.arange(subjects) for _ in range(seeds)]
        folds = np.stack([np.argsort(one) % number for one in order])
        luck = rng.normal(0, 0.01, (seeds, number))
        scores = 0.05 + rng.normal(0, 0.02, subjects) + rng.normal(0, 0.02, (seeds, subjects))
        scores += np.take_along_axis(luck, folds, axis=1)
        low, high = estimate_mean(scores, folds).interval()
        inside += low <= 0.05 <= high
        widths.append(high - low)
    assert 0.92 <= inside / 400 <= 0.985  # 0.95, three standard errors
    sd = np.sqrt(0.02**2 / subjects + 0.02**2 / (subjects * seeds) + 0.01**2 / (seeds * number))
    assert np.median(widths) < 2 * 2.7 * sd


def test_a_change_without_effect_has_no_width():
    folds = np.tile(np.arange(12) % 3, (2, 1))
    assert estimate_mean(np.zeros((2, 12)), folds).interval() == (0, 0)
