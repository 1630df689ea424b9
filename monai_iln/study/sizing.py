"""How large a study must be: what its records so far say of more seeds and folds, and when it may stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from monai_iln.errors import UserError
from monai_iln.study.chance import NEW_SPLITS, ONE_SPLIT, Chance
from monai_iln.study.power import Plan
from monai_iln.study.progress import duration
from monai_iln.study.records import read_records
from monai_iln.study.report.chances import chance_sentence
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import join, number, place
from monai_iln.study.settings import Study

_SEEDS = (1, 2, 3, 4, 6, 8)
_FOLDS = (3, 5, 10)


def widest_interval(folder: Path) -> float:
    """The largest half-width of the intervals against the reference, over what was learned; NaN if there is none."""
    results = Results.of(folder, read_records(folder))
    learned = [row for row in results.verdicts if (row.dataset, row.structure) not in results.unlearned]
    widths = [row.half_width for row in learned if np.isfinite(row.half_width)]
    return max(widths, default=np.nan)


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
    for part, chance in results.chances.items():
        if np.isfinite(chance.components.subject):
            told += [
                f"{place(*part)}: {chance_sentence(chance, results.metric)}",
                *_table(chance, results, seconds, jobs),
            ]
    if not told:
        raise UserError(
            f"{folder}: no power can be told from its {len(results.runs)} runs. It needs all folds of all methods with "
            "a seed, better with two: run such a pilot first, --seeds '[0, 1]'."
        )
    return "\n".join(told)


def _table(chance: Chance, results: Results, seconds: float, jobs: int) -> list[str]:
    """Lines for grids of a few sizes, and the seeds that a wish takes."""
    metric, margin = results.metric, results.margin
    methods = len(chance.methods)
    grid = Plan(chance.components, chance.subjects, chance.folds, 2, max(2, methods - len(chance.noisy)), NEW_SPLITS)
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
        wishes.append(f"for a half-width of {wish:g}{metric.unit} {narrow}")
        wishes.append(f"to find equal methods equal within {wish:g}{metric.unit} in four of five studies {same}")
    return [
        *lines,
        f"  equal: the chance that two equal methods are found practically equal within {margin:g}{metric.unit}.",
        f"  With {chance.folds} folds and new splits it takes, {join(wishes)}.",
    ]


def _seeds(count: int | None) -> str:
    return "more than 50 seeds" if count is None else f"{count} seeds"


def stopping_sentence(width: float, study: Study, seeds: int) -> str:
    """Why a sequential study goes on or stops."""
    if not np.isfinite(width):
        return f"No interval against the reference can be told with {seeds} seeds: the study stops."
    text = f"The widest 95 % interval against the reference is {width:.4f} to either side"
    if width <= (study.half_width or np.inf):
        return f"{text}, as narrow as {study.half_width:g}, which was asked for: the study stops with {seeds} seeds."
    if seeds >= len(study.all_seeds):
        return f"{text}, and not {study.half_width:g}: the budget of {seeds} seeds is used up."
    return f"{text}, and not yet {study.half_width:g}: all methods get another seed."
