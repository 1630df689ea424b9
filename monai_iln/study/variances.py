r"""The variances of folds and trainings, for :mod:`monai_iln.study.chance`.

With y the difference of two methods' scores for each seed and subject, u its means over seeds, n_f subjects in fold f,
h the mean of 1/n_f, and q = sum (n_f / N)^2. Means are over the pairs of the K methods that are pooled:

One split, the same folds for every seed. r are the means of runs, m the fold means of u::

    Vs = sum (u_i - its fold's mean)^2 / (N - F)
    W  = sum_fs (r_fs - m_f)^2 / (F (S - 1))
    E  = sum (y - r - u + m)^2 / ((N - F)(S - 1))
    I  = sum_f (m_f - m_.)^2 / (F - 1)
    c  = max(0, mean W - h mean E)               of a training; 0 with one seed
    b  = max(0, mean I - h mean Vs - c / S)      of a fold; with one seed, of a fold and a training
    V  = Vs / N + q (c / S + b)

    df = V^2 (K - 1)(F - 1) / (q mean I)^2       if b > 0
    df = V^2 / [(Vs / N)^2 / (N - F) + (q mean W / S)^2 / ((K - 1) F (S - 1))]     otherwise; the last term if c > 0

New splits, other folds for every seed. Z are the dummies of the runs less their means over a subject's seeds, g is the
rank of Z, Q an orthonormal basis of it, and x = y - u::

    W  = |Q'x|^2 / (N (S - 1))
    E  = (|x|^2 - |Q'x|^2) / (N (S - 1) - g)
    c  = max(0, mean W - g / (N (S - 1)) mean E)           of a fold and a training
    w  = mean q / S - (1 - mean q) / (S N)
    V  = var(u) / N + c w
    df = V^2 / [(var(u) / N)^2 / (N - 1) + (w mean W)^2 / ((K - 1) g)]          the last term if c > 0

What all methods of a seed have in common, such as a start that is good for each of them, is in no difference. K sets of
runs hold K - 1 independent differences, so a mean over pairs has the degrees of freedom of K - 1.

For the difference of a pair only those pairs are pooled whose Vs or var(u) is between a third of its own and three
times as much, and K is the number of their methods. Else methods whose subjects scatter widely would drown what two
quiet ones tell of the luck of their folds and trainings: of two among six methods whose subjects scatter a quarter as
much as those of most others, and whose luck is the same, "95 %" intervals held the truth in 76 of 100 studies with one
seed and in 85 with two; so they do in 94 (300 simulated studies each, 44 subjects, 3 folds).

Where some seeds share a split, w is on the safe side, as if all luck were that of folds: with t_j seeds for split j,
w = (mean q sum (t_j / S)^2 - (1 - mean q) / (S N)) / (1 - sum t_j (t_j - 1) / (S (S - 1))).

df is never below the least df that goes into it; with one seed it is (K - 1)(F - 1).

The pairs of all methods together tell the variances of folds and trainings, unless one of four or more methods is far
noisier than most: if its J is more than 6 times the median J, with one seed 8 times. J is the sum of squares of what a
method's runs deviate by, r - m or with new splits the runs' means of x, less the median of that over methods. With one
seed it is that of m_f - m_. instead. Both numbers are set by hand. Of methods that are all alike, one is left out by
chance in 15 of 100 studies with one seed, in 4 to 15 with two, in none with four; one whose trainings scatter four
times as much is found in 45, 60 to 75 and 65 to 90 of 100 (400 simulated studies each, 64 subjects, 3 folds, either
design, 4 or 6 methods). With one seed of two folds J is the square of one number, none is left out, and the plan holds:
where one was, by chance in 37 to 47 of 100, 57 to 70 of 100 studies found the difference that 80 were to find, and now
76 to 82 do (1,000 simulated studies each, 12 and 44 subjects, 4 or 6 methods). A pair with a method that is left out
has its own terms: W, E, I and Vs of the two alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from monai_iln.study.selection import DECIMALS

MOST_POOLED = 3  # so many methods are always pooled: of fewer than four none can be told to be the noisy one
NOISY, NOISY_ONE_SEED = 6.0, 8.0  # times the median; set by hand, in simulations
ALIKE = 3.0  # the ratio of the variances over subjects up to which pairs are pooled; set by hand, in simulations
NOTHING = 10.0 ** (-2 * DECIMALS)  # a variance that is only rounding
_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Terms:
    """What the two designs give, in one form. ``V = within / N + run_weight c + fold_weight b``."""

    seeds: int
    subjects: int
    within: _Floats  # (M, M): Vs or var(d) of every pair
    within_df: int
    run_in_within: float  # so much of c is in it
    run: _Floats  # (M, M): W
    run_df: int
    noise: _Floats  # (M, M): E
    leak: float  # so much of the noise is in W
    run_weight: float
    between: _Floats  # (M, M): I
    between_df: int
    inverse: float  # h
    fold_weight: float
    spread: _Floats  # (M,): J


@dataclass(frozen=True)
class Variances:
    """The variances of folds and trainings, from a group of methods."""

    run: float  # c
    fold: float  # b
    run_part: float  # mean W
    run_df: int
    fold_part: float  # mean I
    fold_df: int
    noise: float  # mean E
    within: float  # mean Vs


def one_split(y: _Floats, folds: _Integers) -> Terms:
    """The terms of one split, from scores ``(methods, seeds, subjects)`` and the fold of each subject."""
    methods, seeds, subjects = y.shape
    members = np.eye(folds.max() + 1)[folds]  # (N, F)
    sizes = members.sum(axis=0)
    number = len(sizes)
    u = y.mean(axis=1)
    r, m = y @ members / sizes, u @ members / sizes
    rest = (y - r[..., folds]) - (u - m[..., folds])[:, None]
    centred = u - m[:, folds]
    effects = m - m.mean(axis=1, keepdims=True)
    of_runs = (r - m[:, None]).reshape(methods, -1)
    q = float(((sizes / subjects) ** 2).sum())
    return Terms(
        seeds=seeds,
        subjects=subjects,
        within=_mean_square(_of_pairs(centred), subjects - number),
        within_df=subjects - number,
        run_in_within=0.0,
        run=_mean_square(_of_pairs(of_runs), number * (seeds - 1)),
        run_df=number * (seeds - 1),
        noise=_mean_square(_of_pairs(rest.reshape(methods, -1)), (subjects - number) * (seeds - 1)),
        leak=float((1 / sizes).mean()),
        run_weight=q / seeds,
        between=_mean_square(_of_pairs(effects), number - 1),
        between_df=number - 1,
        inverse=float((1 / sizes).mean()),
        fold_weight=q,
        spread=_spread(effects if seeds == 1 else of_runs),
    )


def new_splits(y: _Floats, folds: _Integers) -> Terms:
    """The terms of new splits, from scores ``(methods, seeds, subjects)`` and the folds ``(seeds, subjects)``."""
    methods, seeds, subjects = y.shape
    members = np.concatenate([np.eye(folds.max() + 1)[row] for row in folds], axis=1)  # (N, runs), a 1 for each seed
    sizes = members.sum(axis=0)
    u = y.mean(axis=1)
    x = y - u[:, None]
    by_run = np.concatenate([x[:, s] @ np.eye(folds.max() + 1)[row] for s, row in enumerate(folds)], axis=1)
    # The runs' dummies less their means over a subject's seeds have this Gram matrix; x has no such means.
    gram = np.diag(sizes) - members.T @ members / seeds
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-9 * values[-1]
    g = int(kept.sum())
    explained = (_of_pairs(by_run @ vectors[:, kept] / np.sqrt(values[kept])) ** 2).sum(axis=-1)
    total = subjects * (seeds - 1)  # the trace of that matrix
    q = float(((sizes / subjects) ** 2).sum()) / seeds
    # Seeds with the same split share its luck, of which a comparison between them sees nothing.
    times = np.unique(folds, axis=0, return_counts=True)[1]
    shared, seen = float(((times / seeds) ** 2).sum()), 1 - float((times * (times - 1)).sum()) / (seeds * (seeds - 1))
    unexplained = np.maximum((_of_pairs(x.reshape(methods, -1)) ** 2).sum(axis=-1) - explained, 0)
    centred = u - u.mean(axis=1, keepdims=True)
    return Terms(
        seeds=seeds,
        subjects=subjects,
        within=_mean_square(_of_pairs(centred), subjects - 1),
        within_df=subjects - 1,
        run_in_within=(1 - q) / seeds,
        run=explained / total,
        run_df=g,
        noise=unexplained / (total - g) if total > g else np.zeros_like(explained),
        leak=g / total,
        run_weight=(q * shared - (1 - q) / (seeds * subjects)) / seen,
        between=np.zeros((methods, methods)),
        between_df=0,
        inverse=0.0,
        fold_weight=0.0,
        spread=_spread(by_run / sizes),
    )


def noisy_methods(terms: Terms) -> set[int]:
    """The methods that are left out of the pool."""
    if len(terms.run) <= MOST_POOLED or (terms.seeds == 1 and terms.between_df < 2):
        return set()
    most = NOISY if terms.seeds > 1 else NOISY_ONE_SEED
    usual = max(float(np.median(terms.spread)), NOTHING)
    return set(np.flatnonzero(terms.spread > most * usual).tolist())


def variances(terms: Terms, group: Sequence[int], like: tuple[int, int] | None = None) -> Variances:
    """The variances of the methods of a group, or of its pairs whose subjects scatter as those of one pair do."""
    pairs = np.array(list(combinations(group, 2)), int).reshape(-1, 2)
    if like is not None:
        scatter = np.maximum(terms.within, NOTHING)
        ratio = scatter[tuple(pairs.T)] / scatter[like]
        pairs = pairs[np.maximum(ratio, 1 / ratio) <= ALIKE]
    means = (of[tuple(pairs.T)] for of in (terms.run, terms.noise, terms.between, terms.within))
    run, noise, between, within = (float(of.mean()) if of.size else np.nan for of in means)
    c = max(0.0, run - terms.leak * noise)
    b = max(0.0, between - terms.inverse * within - c / terms.seeds)
    methods = _independent(pairs)
    return Variances(c, b, run, methods * terms.run_df, between, methods * terms.between_df, noise, within)


def degrees(terms: Terms, of: Variances, over_subjects: float, v: float) -> float:
    """The degrees of freedom of ``v``, the variance of a pair's mean difference."""
    if terms.seeds == 1:
        return float(of.fold_df)
    if of.fold > 0:
        return max(of.fold_df, v**2 * of.fold_df / (terms.fold_weight * of.fold_part) ** 2)
    parts = [(over_subjects, terms.within_df), (terms.run_weight * of.run_part * (of.run > 0), of.run_df)]
    used = [(part, df) for part, df in parts if part > 0]
    return max(min(df for _, df in used), v**2 / sum(part**2 / df for part, df in used))


def _of_pairs(values: _Floats) -> _Floats:
    """The differences of every two rows."""
    pairs: _Floats = values[:, None] - values
    return pairs


def _independent(pairs: _Integers) -> int:
    """How many independent differences pairs of methods hold: K - 1 for all those of K methods."""
    signs = np.zeros((len(pairs), pairs.max(initial=0) + 1))
    np.put_along_axis(signs, pairs, 1.0, axis=1)
    np.put_along_axis(signs, pairs[:, :1], -1.0, axis=1)
    return int(np.linalg.matrix_rank(signs)) if len(pairs) else 0


def _spread(values: _Floats) -> _Floats:
    """J, the sum of squares of each row, less what the rows have in common."""
    total: _Floats = ((values - np.median(values, axis=0)) ** 2).sum(axis=1)
    return total


def _mean_square(values: _Floats, df: int) -> _Floats:
    """The mean square over the last axis; 0 without degrees of freedom, where another term holds that chance."""
    total: _Floats = (values**2).sum(axis=-1)
    return total / df if df else np.zeros_like(total)
