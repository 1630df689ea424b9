"""Comparisons of methods in a world whose truth is known: how often each kind of interval is right.

A difference of two methods has a subject's part, which all trainings share; the part of a fold, whose training data
suit one method better; the part of a training, which all subjects of that run share; and a rest for every subject and
training. The parts of two methods are independent, so each has the standard deviations of a difference over sqrt(2).
What all methods of a fold and seed have in common comes on top, and is in no difference.

All methods are equal there. Every interval moves with the methods' means, so whether one would find a true difference
is read off the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from monai_iln.errors import require
from monai_iln.study.chance import NEW_SPLITS, ONE_SPLIT, Components, estimate_chance
from monai_iln.study.power import USUAL
from monai_iln.study.settings import FIRST_SEEDS
from monai_iln.study.simulation_limits import LIMITS

MOST_SEEDS = 8  # of the study that goes on until its intervals are narrow enough
BOOTSTRAP, FOLD_MEANS, GOES_ON = "BCa over subjects", "t over fold means", ", seeds added"
_ONE, _NEW = (f"variance components, {design}" for design in (ONE_SPLIT, NEW_SPLITS))
APPROACHES = (BOOTSTRAP, FOLD_MEANS, _ONE, _NEW, _ONE + GOES_ON, _NEW + GOES_ON)
_FAILS, _LOSS = 0.02, 4.0  # with heavy tails so many scores fail, and lose so many standard deviations
_RESAMPLES = 2000
_ROWS = 500  # in memory at a time
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """What is true: standard deviations of a difference of two methods, and the size of the study.

    Attributes:
        subjects: The number of subjects.
        folds: The number of folds, of equal size or nearly so.
        methods: The number of methods; the first is the reference.
        sd: The standard deviations, none of which is NaN.
        heavy_tails: If true, subjects come from a t distribution of 3 degrees of freedom, and a few scores fail. The
            standard deviations remain.
        noisy: The factor by which the last method's trainings scatter more, its rest included.
        shared: The standard deviation of what the trainings of all methods of a fold and seed have in common.

    Raises:
        UserError: If a number is out of range (:mod:`monai_iln.study.simulation_limits`), there are fewer than two
            subjects a fold, or the standard deviations of subjects and of the rest are 0.
    """

    subjects: int = 44
    folds: int = 3
    methods: int = 6
    sd: Components = USUAL
    heavy_tails: bool = False
    noisy: float = 1.0
    shared: float = 0.0

    def __post_init__(self) -> None:
        for name, number in {**vars(self), **vars(self.sd)}.items():
            if name in LIMITS:
                LIMITS[name].check(name, number)
        least = 2 * self.folds
        few = f"subjects {self.subjects}, where there are {self.folds} folds"
        require(self.subjects >= least, few, f"there must be {least} or more", "choose more subjects, or fewer folds")
        got = "a subject and a residual sd of 0"
        require(self.sd.subject + self.sd.residual > 0, got, "subjects must differ", "give one of them")


def draw(world: World, seeds: int, design: str, rng: np.random.Generator) -> tuple[_Floats, npt.NDArray[np.int64]]:
    """Draw the scores ``(methods, seeds, subjects)`` of a study and the folds ``(seeds, subjects)``.

    Example:
        >>> scores, folds = draw(World(subjects=6), 2, "new splits", np.random.default_rng(0))
        >>> scores.shape, np.sort(folds).tolist()
        ((6, 2, 6), [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]])
    """
    scores = np.empty((world.methods, seeds, world.subjects))
    dealt = np.arange(world.subjects) % world.folds
    split = rng.permutation(dealt)
    folds = np.array([rng.permutation(dealt) if design == NEW_SPLITS else split for _ in range(seeds)])
    in_common = rng.normal(0, world.shared, (seeds, world.folds))
    for method in range(world.methods):
        louder = world.noisy if method == world.methods - 1 else 1.0
        of_subjects = _subjects(world, rng)
        of_folds = rng.normal(0, world.sd.fold / np.sqrt(2), world.folds)
        for seed in range(seeds):
            if design == NEW_SPLITS:  # other training data
                of_folds = rng.normal(0, world.sd.fold / np.sqrt(2), world.folds)
            of_trainings = rng.normal(0, louder * world.sd.training / np.sqrt(2), world.folds)
            rest = louder * _rest(world, rng)
            of_runs = of_folds + of_trainings + in_common[seed]
            scores[method, seed] = of_subjects + of_runs[folds[seed]] + rest
    return scores, folds


def simulate(
    world: World,
    seeds: Iterable[int] = (1, 2, 4, 8),
    difference: float = 0.02,
    margin: float = 0.01,
    half_width: float = 0.015,
    repetitions: int = 2000,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> pd.DataFrame:
    """Repeat a study, and count how often each approach is right.

    The reference is compared with every other method. The approaches see the same study of one split, but for those
    with new splits, which see another.

    Args:
        world: What is true.
        seeds: The numbers of seeds to look at.
        difference: The true difference that ``power`` is about.
        margin: The margin of ``right_equal`` and ``wrong_equal``.
        half_width: The half-width at which a study that began with 3 seeds gets no more of them; 8 are the most.
        repetitions: The number of studies.
        seed: The seed that all is drawn with.
        tick: A function that is called after each study.

    Returns:
        A row for each approach and number of seeds, with the columns

        - approach; seeds, the number of them, a mean where they are added;
        - coverage, of the 95 % interval of a difference; false_alarms, of a single test at 5 %; family_wise, of any
          false alarm among all comparisons with Holm's correction (NaN of the bootstrap, which has no p);
        - power, how often one comparison finds the better method by ``difference``, without correction;
        - wrong_equal, how often the 90 % interval lies within the margin where the true difference is the margin, and
          right_equal, where it is 0;
        - half_width, the mean of that of the 95 % interval;

        and after each of these a column with the ending ``_error``: the standard error by the number of repetitions.

    Raises:
        UserError: If a number is out of range.

    Example:
        >>> table = simulate(World(methods=2), seeds=[2], repetitions=50)
        >>> coverage = table.set_index("approach").coverage
        >>> bool(coverage["BCa over subjects"] < coverage["variance components, new splits"])
        True
    """
    numbers = sorted(set(seeds))
    require(bool(numbers), "no number of seeds", "a study has seeds", "give one number or more")
    given = {"difference": difference, "margin": margin, "half_width": half_width}
    given |= {"repetitions": repetitions, "seed": seed}
    for name, got in (*(("seeds", number) for number in numbers), *given.items()):
        LIMITS[name].check(name, got)
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, int], list[_Floats]] = {}
    added: dict[str, list[int]] = {}
    for _ in range(repetitions):
        for design, approach in ((ONE_SPLIT, _ONE), (NEW_SPLITS, _NEW)):
            study = _Study(*draw(world, max(MOST_SEEDS, numbers[-1]), design, rng))
            stopped = study.stop(half_width)
            added.setdefault(approach + GOES_ON, []).append(stopped)
            results = {(approach + GOES_ON, 0): study.estimate(stopped)}
            for number in numbers:
                if design == ONE_SPLIT:
                    results[BOOTSTRAP, number] = study.differences(number)
                    results[FOLD_MEANS, number] = study.over_folds(number)
                if design == ONE_SPLIT or number > 1:
                    results[approach, number] = study.estimate(number)
            for key, result in results.items():
                found.setdefault(key, []).append(result)
        tick()
    rows = []
    for approach, number in sorted(found, key=lambda key: (APPROACHES.index(key[0]), key[1])):
        ends = np.array(found[approach, number])
        if approach == BOOTSTRAP:  # for all studies at once, which is faster
            ends = _bootstrap(ends)
        used = float(np.mean(added.get(approach, number)))
        rows.append({"approach": approach, "seeds": used, **_rates(ends, difference, margin)})
    return pd.DataFrame(rows)


class _Study:
    """A study whose results can be looked at after any number of seeds.

    What is found is an array ``(comparisons, 5)``: the ends of the 95 % interval, those of the 90 % interval, and p.
    """

    def __init__(self, scores: _Floats, folds: npt.NDArray[np.int64]) -> None:
        self.scores, self.folds = scores, folds
        self.names = [str(number) for number in range(len(scores))]
        self.estimates: dict[int, _Floats] = {}

    def differences(self, seeds: int) -> _Floats:
        """The reference less every other method, for each subject."""
        means = self.scores[:, :seeds].mean(axis=1)
        return np.asarray(means[0] - means[1:])

    def over_folds(self, seeds: int) -> _Floats:
        """A t test over the folds' mean differences."""
        numbers = np.unique(self.folds[0])
        by_fold = np.array([self.differences(seeds)[:, self.folds[0] == fold].mean(axis=1) for fold in numbers])
        mean, error = by_fold.mean(axis=0), by_fold.std(axis=0, ddof=1) / np.sqrt(len(numbers))
        ends = [mean + special.stdtrit(len(numbers) - 1, q) * error for q in (0.025, 0.975, 0.05, 0.95)]
        return np.stack([*ends, 2 * special.stdtr(len(numbers) - 1, -np.abs(mean) / error)], axis=1)

    def estimate(self, seeds: int) -> _Floats:
        """The variance components."""
        if seeds not in self.estimates:
            chance = estimate_chance(self.scores[:, :seeds], self.folds[:seeds], self.names)
            pairs = [chance.between(self.names[0], name) for name in self.names[1:]]
            self.estimates[seeds] = np.array([(*one.interval(), *one.interval(0.9), one.p) for one in pairs])
        return self.estimates[seeds]

    def stop(self, half_width: float) -> int:
        """The number of seeds at which the widest interval is narrow enough, or there are as many as there may be."""
        for seeds in range(FIRST_SEEDS, MOST_SEEDS):
            ends = self.estimate(seeds)
            if (ends[:, 1] - ends[:, 0]).max() <= 2 * half_width:
                return seeds
        return MOST_SEEDS


def _subjects(world: World, rng: np.random.Generator) -> _Floats:
    sd = world.sd.subject / np.sqrt(2)
    if world.heavy_tails:
        return np.asarray(sd / np.sqrt(3) * rng.standard_t(3, world.subjects))  # whose variance is 3
    return rng.normal(0, sd, world.subjects)


def _rest(world: World, rng: np.random.Generator) -> _Floats:
    sd = world.sd.residual / np.sqrt(2)
    if not world.heavy_tails:
        return rng.normal(0, sd, world.subjects)
    of_failures = _LOSS**2 * _FAILS * (1 - _FAILS)
    usual = rng.normal(0, sd * np.sqrt(1 - of_failures), world.subjects)
    return np.asarray(usual - sd * _LOSS * (rng.random(world.subjects) < _FAILS))


def _bootstrap(differences: _Floats) -> _Floats:
    """BCa intervals of means over the last axis, for all studies at once; p is NaN.

    It has the same resamples for all, fewer than there.
    """
    rows = differences.reshape(-1, differences.shape[-1])
    subjects = rows.shape[1]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(subjects, np.full(subjects, 1 / subjects), _RESAMPLES) / subjects
    parts = [_bca(rows[start : start + _ROWS], weights) for start in range(0, len(rows), _ROWS)]
    return np.concatenate(parts).reshape(*differences.shape[:-1], 5)


def _bca(rows: _Floats, weights: _Floats) -> _Floats:
    means = np.sort(rows @ weights.T, axis=1)
    centred = rows - rows.mean(axis=1, keepdims=True)
    below = (means < rows.mean(axis=1, keepdims=True)).mean(axis=1)
    shift = special.ndtri(below)
    skew = (centred**3).sum(axis=1) / (6 * (centred**2).sum(axis=1) ** 1.5)
    found = np.full((len(rows), 5), np.nan)
    for column, level in enumerate((0.025, 0.975, 0.05, 0.95)):
        z = shift + special.ndtri(level)
        place = special.ndtr(shift + z / (1 - skew * z)) * (len(weights) - 1)
        found[:, column] = means[np.arange(len(rows)), np.rint(place).astype(int)]
    return found


def _rates(found: _Floats, difference: float, margin: float) -> Mapping[str, float]:
    """The rates of what was found ``(repetitions, comparisons, 5)`` where nothing differs, and their errors."""
    low, high, low_90, high_90, p = np.moveaxis(found, -1, 0)
    covered = (low <= 0) & (high >= 0)
    family = np.where(np.isnan(p).any(axis=1), np.nan, p.min(axis=1) < 0.05 / p.shape[1])[:, None]
    counted = {
        "coverage": covered,
        "false_alarms": ~covered,
        "family_wise": family,
        "power": low + difference > 0,
        "wrong_equal": (low_90 + margin > -margin) & (high_90 + margin < margin),
        "right_equal": (low_90 > -margin) & (high_90 < margin),
        "half_width": (high - low) / 2,
    }
    rates = {}
    for name, values in counted.items():
        of_studies = np.asarray(values, float).mean(axis=1)
        rates[name] = float(of_studies.mean())
        rates[f"{name}_error"] = float(of_studies.std(ddof=1) / np.sqrt(len(of_studies)))
    return rates
