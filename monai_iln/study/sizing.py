"""How large a study must be: what its records so far say of more seeds and folds, and when it may stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from monai_iln.errors import UserError, count
from monai_iln.study.chance import NEW_SPLITS, ONE_SPLIT, Chance
from monai_iln.study.grid import Plan
from monai_iln.study.metric import metric_of
from monai_iln.study.power import USUAL
from monai_iln.study.power import Plan as Grid
from monai_iln.study.progress import duration
from monai_iln.study.records import read_records
from monai_iln.study.report.chances import chance_sentence
from monai_iln.study.report.results import Results
from monai_iln.study.report.winners import images_of, name_of
from monai_iln.study.report.wording import join, number, place
from monai_iln.study.settings import Study
from monai_iln.study.verdicts import estimate

_FEW = 4  # degrees of freedom: with one less, intervals are a fifth wider
_SEEDS = (1, 2, 3, 4, 6, 8)
_FOLDS = (3, 5, 10)


def widest_interval(folder: Path) -> tuple[float, str]:
    """The largest half-width of the intervals against the reference, and which it is; NaN if there is none.

    It is over all methods, data sets and structures that were learned.
    """
    results = Results.of(folder, read_records(folder))
    learned = [row for row in results.verdicts if (row.dataset, row.structure) not in results.unlearned]
    known = [row for row in learned if np.isfinite(row.half_width)]
    if not known:
        return np.nan, ""
    widest = max(known, key=lambda row: row.half_width)
    return widest.half_width, f"{widest.other}, {place(widest.dataset, widest.structure)}"


def expected_power(plan: Plan, dataset: str) -> str:
    """What a plan can show of a data set, before its first run; nothing where it has one method.

    The spreads are those of Dice in cardiac segmentation, :data:`~monai_iln.study.power.USUAL`: they are assumed, and
    not known.

    Args:
        plan: The plan of a study.
        dataset: The name of the data set.
    """
    runs = [run for run in plan.runs if run.dataset == dataset]
    methods, folds, seeds = (len({getattr(run, key) for run in runs}) for key in ("method", "fold", "seed"))
    subjects = plan.count_tested_subjects(dataset)
    if methods < 2:
        return ""
    if folds < 2:
        return f"Nothing can be tested on {dataset} with one fold, whose luck cannot be told: means say what there is."
    if plan.metric is not None and not plan.metric["in_unit_interval"]:
        return ""
    design = NEW_SPLITS if len({run.split for run in runs}) > 1 else ONE_SPLIT
    grid = Grid(USUAL, subjects, folds, seeds, methods, design)
    least = grid.detectable(methods - 1)
    size = join([count(subjects, "subject"), count(folds, "fold"), count(seeds, "seed")])
    spreads = "With spreads as usual for Dice of hearts"
    if plan.metric is not None and not metric_of({"metric": plan.metric}).is_dice:
        spreads = "If its scores spread as Dice of hearts does"
    told = f"{spreads}, {size} of {dataset} find a difference of {number(least)} in four of five studies, and smaller"
    told += " ones less often."
    if grid.df < _FEW:
        told += f" It is so large because {methods} methods and {count(folds, 'fold')} tell the luck of trainings with "
        told += f"{count(round(grid.df), 'degree')} of freedom: {_with_more(grid)}."
    return f"{told} After the first runs --power tells it for these data."


def _with_more(grid: Grid) -> str:
    """What a method or a fold more would find."""
    method = number(replace(grid, methods=grid.methods + 1).detectable(grid.methods))
    if grid.folds == grid.subjects:
        return f"with a method more it would be {method}"
    fold = number(replace(grid, folds=grid.folds + 1).detectable(grid.methods - 1))
    return f"with a fold more it would be {fold}, with a method more {method}"


def describe_power(folder: Path, jobs: int) -> str:
    """What grids of other sizes would show, from the records so far.

    Args:
        folder: The folder of the study.
        jobs: The number of runs at a time.

    Raises:
        UserError: If the records do not tell the chance of subjects, folds and trainings yet.
    """
    results = Results.of(folder, read_records(folder))
    seconds = float(results.runs["total_seconds"].median())
    told = []
    for dataset in results.datasets:
        learned = results.learned(dataset)
        if not learned:
            continue
        chance = estimate(images_of(results, dataset, learned), results.metric, results.reference)
        if np.isfinite(chance.components.subject):
            told.append(f"{name_of(dataset, learned)}: {chance_sentence(chance, results.metric)}")
            told += _table(chance, results, seconds, jobs)
    if not told:
        raise UserError(
            f"{folder}: no power can be told from its {count(len(results.runs), 'run')}. It needs all folds of all "
            "methods with a seed, better with two: run such a pilot first, --seeds '[0, 1]'."
        )
    return "\n".join(told)


def _table(chance: Chance, results: Results, seconds: float, jobs: int) -> list[str]:
    """Lines for grids of a few sizes, and the seeds that a wish takes."""
    metric, margin = results.metric, results.margin
    methods = len(chance.methods)
    grid = Grid(chance.components, chance.subjects, chance.folds, 2, max(2, methods - len(chance.noisy)), NEW_SPLITS)
    lines = [f"  {'seeds':>5s} {'folds':>5s} {'splits':>6s} {'half-width':>10s} {'finds':>8s} {'equal':>6s}  time here"]
    for seeds in _SEEDS:
        for folds in sorted({*_FOLDS, chance.folds}):
            if folds > chance.subjects:
                continue
            design = NEW_SPLITS if seeds > 1 else ONE_SPLIT
            plan = replace(grid, seeds=seeds, folds=folds, design=design)
            equal = number(None if margin is None else plan.chance_of_equal(margin), 2)
            # A run of more folds trains on more subjects.
            longer = (1 - 1 / folds) / (1 - 1 / chance.folds)
            time = duration(seeds * folds * methods * seconds * longer / jobs)
            width, least = plan.half_width(), plan.detectable(max(1, methods - 1))
            lines.append(
                f"  {seeds:5d} {folds:5d} {'new' if seeds > 1 else 'one':>6s} {number(width, metric.decimals):>10s} "
                f"{number(least, metric.decimals):>8s} {equal:>6s}  {time}"
            )
    lines.append(
        f"  half-width: of a 95 % interval. finds: the difference that is significant in four of five studies, after "
        f"Holm's correction over {max(1, methods - 1)} comparisons."
    )
    if margin is None:
        return lines
    wishes = []
    for wish in (margin, 2 * margin):
        narrow, same = _seeds(grid.seeds_for_half_width(wish)), _seeds(grid.seeds_for_equal(wish))
        wishes.append(f"a half-width of {wish:g}{metric.unit} takes {narrow}")
        wishes.append(f"to find equal methods equal within {wish:g}{metric.unit} in four of five studies takes {same}")
    return [
        *lines,
        f"  equal: the chance that two equal methods are found practically equal within {margin:g}{metric.unit}.",
        f"  With {chance.folds} folds and new splits {'; '.join(wishes)}.",
    ]


def _seeds(number: int | None) -> str:
    return "more than 50 seeds" if number is None else count(number, "seed")


def stopping_sentence(width: float, which: str, study: Study, seeds: int) -> str:
    """Why a sequential study goes on or stops."""
    if not np.isfinite(width):
        return f"No interval against the reference can be told with {seeds} seeds: the study stops."
    text = f"The widest 95 % interval against the reference ({which}) is {width:.4f} to either side"
    if width <= (study.half_width or np.inf):
        return f"{text}, as narrow as {study.half_width:g}, which was asked for: the study stops with {seeds} seeds."
    if seeds >= len(study.all_seeds):
        return f"{text}, and not {study.half_width:g}: the budget of {seeds} seeds is used up."
    return f"{text}, and not yet {study.half_width:g}: all methods get another seed."
