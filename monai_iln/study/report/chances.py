"""What chance does to the differences between methods, what a grid of this size can show, and how firm ranks are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from monai_iln.errors import count
from monai_iln.study.chance import NEW_SPLITS, Chance
from monai_iln.study.power import Plan
from monai_iln.study.report.document import Block, Items, Row, Table, Text
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import NO_NUMBER, join, number, place
from monai_iln.study.statistics import METRICS, Metric
from monai_iln.study.verdicts import Verdict, rank_chances

_DESIGNS = {NEW_SPLITS: "Each seed has a split of its own.", "one split": "All seeds share one split."}


def blocks(results: Results) -> list[Block]:
    """The components of chance, the sensitivity of a study with one seed, and the chances of ranks."""
    found: list[Block] = []
    for (dataset, structure), chance in results.chances.items():
        where = place(dataset, structure)
        found.append(Text(f"{where}: {chance_sentence(chance, results.metric)}"))
        own = [row for row in results.verdicts if (row.dataset, row.structure) == (dataset, structure)]
        if lines := sensitivities(own, results.metric):
            found.append(Items(lines))
    if table := _ranks(results):
        found.append(table)
    return found


def chance_sentence(chance: Chance, metric: Metric = METRICS["dice"]) -> str:
    """Where a difference of two methods comes from by chance, and which difference such a grid would show."""
    size = join([count(chance.subjects, "subject"), count(chance.folds, "fold"), count(chance.seeds, "seed")])
    sd = chance.components
    if np.isnan(sd.subject):
        reason = next(iter({one.reason for one in chance.differences.values()}), "")
        return f"With {size} the chance in a difference cannot be told{': ' + reason if reason else ''}."
    decimals = metric.decimals + 1
    names = {
        "between subjects": sd.subject,
        "between folds": sd.fold,
        "between trainings": sd.training,
        "from training to training of one subject": sd.residual,
    }
    parts = [f"{number(value, decimals)}{metric.unit} {name}" for name, value in names.items() if value > 0]
    small = join([name for name, value in names.items() if value == 0])
    text = _DESIGNS[chance.design] + " " if chance.seeds > 1 else ""
    text += "By chance, the difference of two methods "
    if parts:
        text += f"has a standard deviation of {join(parts)}" + ("; " if small else ".")
    if small:
        text += f"{small} it is too small to estimate." if parts else f"varies too little {small} to be estimated."
    if chance.seeds == 1:
        text += " With one seed, folds stand for folds and trainings together, and that is only honest if the "
        text += "trainings of all methods are alike in noise."
    methods = len(chance.methods) - len(chance.noisy)
    if methods > 1 and parts:
        plan = Plan(sd, chance.subjects, chance.folds, chance.seeds, methods, chance.design)
        least = number(plan.detectable(len(chance.methods) - 1), metric.decimals)
        text += f" A study of {size} finds a difference of {least}{metric.unit} in four of five cases, after Holm's "
        text += "correction against a reference."
    if chance.noisy:
        text += f" Trainings of {join(chance.noisy)} are far noisier than those of the others, so what is said of "
        text += "them rests on an estimate of each pair."
    return text


def lost_runs(results: Results) -> list[str]:
    """What the runs that diverged or failed cost the comparisons: a fold, or a whole seed, and which runs these are."""
    key, said = ["dataset", "method", "fold", "seed"], []
    lost = results.runs[results.runs["status"].isin(["diverged", "failed"])].drop_duplicates(key)
    shown = pd.MultiIndex.from_frame(results.shown[key].astype(lost[key].dtypes))
    lost = lost[~pd.MultiIndex.from_frame(lost[key]).isin(shown)]  # no other rate stands for them
    seeds = len(results.study.get("seeds") or ())
    for method in [method for method in results.shown_methods if method in set(lost["method"])]:
        own = lost[lost["method"] == method]
        for dataset in [name for name in results.datasets if name in set(own["dataset"])]:
            rows = [row for row in results.verdicts if row.dataset == dataset and method in (row.reference, row.other)]
            folds = results.tested_folds[dataset]
            most = max(((row.seeds, row.folds) for row in rows), default=(seeds, folds))
            if most == (seeds, folds):
                continue
            counted = f"{most[0]} of {count(seeds, 'seed')}"
            if most[0] and most[1] < folds:
                counted += f" and {most[1]} of {count(folds, 'fold')}"
            runs = own[own["dataset"] == dataset].sort_values(["seed", "fold"])
            places = [f"fold {row['fold']} of seed {row['seed']}" for row in runs.to_dict("records")]
            ended = join(list(map(str, runs["status"].unique())), "or")
            where = f"{method} has no result on {dataset} in {join(places)}, where it {ended}"
            said.append(f"{where}: comparisons with it count {counted}.")
    return said


def lost_subjects(results: Results) -> list[str]:
    """The subjects that were tested and have no score, with which methods, and how many are left to compare."""
    said, metric = [], results.metric
    for dataset, structure in [part for part in results.parts if part not in results.unlearned]:
        images = results.part(results.shown, dataset, structure)
        scored = images.groupby(["method", "seed", "subject"], sort=False)[metric.column].count()
        without = scored[scored == 0].reset_index()
        rows = [row for row in results.verdicts if (row.dataset, row.structure) == (dataset, structure)]
        if without.empty or not rows:
            continue
        tested, lost = images["subject"].nunique(), without["subject"].nunique()
        said.append(
            f"{lost} of {count(tested, 'subject')} of {place(dataset, structure)} have no {metric.name} with "
            f"{join(results.methods_of(without))}: comparisons count {min(row.subjects for row in rows)}. A method "
            "without a score where it fails looks better than it is."
        )
    return said


def sensitivities(rows: Sequence[Verdict], metric: Metric = METRICS["dice"]) -> list[str]:
    """With one seed, what must hold for a difference to be more than the luck of two trainings."""
    said = []
    for row in rows:
        if np.isnan(row.sensitivity):
            continue
        between = f"{row.reference} and {row.other} ({number(row.difference, metric.decimals, sign=True)})"
        if row.sensitivity == 0:
            said.append(f"{between}: not significant, however little trainings vary.")
        else:
            spread = number(row.sensitivity, metric.decimals)
            said.append(f"{between}: significant only if the difference of two runs varies by less than {spread}.")
    return said


def _ranks(results: Results) -> Table | None:
    """How often each method would be the best, the second best, and so on."""
    rows: list[Row] = []
    frames, most = [], max((len(chance.methods) for chance in results.chances.values()), default=0)
    for (dataset, structure), chance in results.chances.items():
        shares = rank_chances(chance, results.metric)
        if shares.isna().to_numpy().any():
            continue
        if len(results.chances) > 1:
            rows.append(Row([place(dataset, structure)], heading=True))
        for method, values in shares.sort_values(list(shares.columns), ascending=False).iterrows():
            bold = frozenset((np.flatnonzero(values.to_numpy() >= 0.95) + 1).tolist())
            cells = [str(method), *(_share(value) for value in values)]
            rows.append(Row([*cells, *[NO_NUMBER] * (most + 1 - len(cells))], bold))
        frames.append(shares.rename_axis("method").reset_index().assign(dataset=dataset, structure=structure))
    if not frames:
        return None
    caption = (
        "How firm the ranking is: the probability that a method has each rank by mean score, if the luck of subjects, "
        "folds and trainings were averaged out, drawn from the estimates above (bold: 0.95 and more)."
    )
    lacking = [name for name in results.shown_methods if any(name not in frame["method"].array for frame in frames)]
    if lacking:
        caption += f" Left out, since runs are missing: {join(lacking)}."
    header = ["Method", *(f"rank {number}" for number in range(1, most + 1))]
    return Table("rank_chances", caption, header, rows, pd.concat(frames))


def _share(value: float) -> str:
    return "< 0.01" if 0 < value < 0.005 else f"{value:.2f}"
