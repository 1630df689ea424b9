"""What a reader in a hurry reads: what was compared, what came out, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from monai_iln.errors import count
from monai_iln.study.report import chances, deviations, fairness, robustness, winners
from monai_iln.study.report.document import Block, Items, Text
from monai_iln.study.report.results import NO_IMAGES, Results
from monai_iln.study.report.wording import join, number
from monai_iln.study.selection import GROUP
from monai_iln.study.verdicts import estimate

_RULES = {
    "nested": "Validation images inside the training folds chose the learning rate.",
    "paper": "The test images chose the learning rate, which is optimistic.",
    "single": "",
}


def blocks(results: Results, best: Mapping[str, winners.Winner | None]) -> list[Block]:
    """The best method, what was compared, what is not alike, then the caveats.

    Args:
        results: The results.
        best: What :func:`~monai_iln.study.report.winners.winners_of` found of them.
    """
    compared = _what_was_compared(results)
    if results.shown.empty:
        return [Text(f"{compared} {NO_IMAGES}")]
    found: list[Block] = []
    answers = winners.answers(results, best)
    if len(answers) > 1:
        found.append(Items(answers))
    elif answers:
        found.append(Text(answers[0]))
    found.append(Text(" ".join([compared, *_how_it_was_compared(results)])))
    if notes := [*fairness.lines(results), *robustness.lines(results)]:
        found.append(Items(notes))
    if caveats := _caveats(results):
        found += [Text("Before you rely on it:"), Items(caveats)]
    return found


def _how_it_was_compared(results: Results) -> list[str]:
    metric, said = results.metric, []
    if not metric.is_dice:
        said.append(f"The score is {metric.key}, of which the {metric.best} is the best.")
    said += filter(None, [_RULES[results.rule]])
    if not results.verdicts:
        return [*said, "Nothing can be compared with the reference yet."]
    said.append(
        f"In brackets stand the difference in {metric.name} and its 95 % interval, which takes in the chance of "
        "subjects, of folds and of trainings; better and worse are by the same estimate after Holm's correction."
    )
    if results.margin is not None:
        said.append(
            f"Practically equal is what differs by less than {results.margin:g}{metric.unit} with 90 % confidence."
        )
    return said


def _what_was_compared(results: Results) -> str:
    study, methods = results.study, results.methods
    rates, seeds = len(study.get("learning_rates") or ()), len(study.get("seeds") or ())
    tested = [count(folds, "fold") for folds in dict.fromkeys(results.tested_folds.values()) if folds]
    text = (
        f"This study trained {count(len(methods), 'method')} ({', '.join(methods)}) on "
        f"{join([_dataset(results, name) for name in results.datasets])}, tested on "
        f"{join(tested, 'or') or 'no fold yet'}, with {count(rates, 'learning rate')} and {count(seeds, 'seed')}."
    )
    counts, total = results.counts, results.planned()
    told = [f"{counts[status]} {status}" for status in counts if counts[status] or status == "finished"]
    left = total - sum(counts.values())
    if left == 1:
        told.append("1 has not been run")
    elif left:
        told.append(f"{left} have not been run")
    return f"{text} Of its {count(total, 'run')} {join(told)}.{_length(results)}"


def _length(results: Results) -> str:
    """How long the runs trained, in a sentence."""
    steps = results.runs["steps"].dropna()
    if steps.empty:
        return ""
    least, most = f"{steps.min():,.0f}", f"{steps.max():,.0f}"
    many = least if least == most else f"{least} to {most}"
    return f" A run trained for {many} steps."


def _dataset(results: Results, name: str) -> str:
    about = results.about(name)
    facts = []
    if about.get("name"):
        facts.append(str(about["name"]))
    if about.get("subjects"):
        facts.append(f"{about['subjects']} subjects")
    if not facts:
        return name
    return f"{name} ({', '.join(facts)})"


def _caveats(results: Results) -> list[str]:
    caveats = _mixed(results)
    if {"nested", "paper"} <= set(results.chosen):
        keys = ["structure", *GROUP]
        means = {rule: images.groupby(keys)["score"].mean() for rule, images in results.selected.items()}
        gain = (means["paper"] - means["nested"]).mean()
        change = "raise" if results.metric.higher_is_better else "change"
        caveats.append(
            f"The paper chooses the learning rate by the test result, which here would {change} the "
            f"{results.metric.mean} of a fold by {number(gain, results.metric.decimals)} on average: the nested rule "
            "is the one to read."
        )
    elif results.rule == "paper":
        caveats.append(
            "No run has validation scores, so the test images chose the learning rate, and every score is optimistic."
        )
    if results.study.get("epochs_and_rates_share_validation"):
        caveats.append(
            "The same held-out subjects chose the epoch and the learning rate of a run, so what they say of a rate is "
            "optimistic; the test subjects had no part in either."
        )
    caveats += [*_what_chance_allows(results), *chances.lost_runs(results), *chances.lost_subjects(results)]
    caveats += deviations.caveats(results)
    if unit := _without_spacing(results):
        caveats.append(
            f"Every voxel of {join(unit)} is recorded as 1 x 1 x 1 mm. If that is so because the files do not know "
            "their spacing, as PNG does not, mm are pixels, ml thousands of voxels, and only ratios mean something."
        )
    if missing := [method for method in results.methods if method not in results.shown_methods]:
        caveats.append(f"Without a result by this rule: {join(missing)}.")
    if len(results.runs) < results.planned():
        caveats.append("The study is not complete, and methods may have been tested on different folds.")
    return caveats


def _mixed(results: Results) -> list[str]:
    """Data sets whose runs are of several configurations, as where ``redo_changed`` has not come to its end."""
    if "protocol_hash" not in results.runs:  # which earlier versions did not record
        return []
    protocols = results.runs.groupby("dataset", sort=False)["protocol_hash"].nunique()
    if not (mixed := [str(name) for name in protocols.index[protocols > 1]]):
        return []
    return [
        f"Runs of several configurations or data are mixed on {join(mixed)}, which cannot be compared. The command "
        "that does changed ones again, by redo_changed, has not come to its end: repeat it."
    ]


def _what_chance_allows(results: Results) -> list[str]:
    """What a grid of this size can show, told of the first data set; more stands below."""
    first = next((dataset for dataset in results.datasets if results.learned(dataset)), None)
    if first is None:
        return []
    images = winners.images_of(results, first, results.learned(first))
    chance = estimate(images, results.metric, results.reference)
    return [chances.chance_sentence(chance, results.metric)] if len(chance.methods) > 1 else []


def _without_spacing(results: Results) -> list[str]:
    """Data sets whose voxels all measure 1 ml / 1000: so they do where the files do not know their spacing."""
    columns = ["dataset", "truth_pixels", "truth_ml"]
    images = results.images.loc[results.images["truth_pixels"] > 0, columns]
    unit = np.isclose(images["truth_ml"], images["truth_pixels"] / 1000, atol=1e-6)
    of_unit = pd.Series(unit).groupby(images["dataset"].to_numpy()).all()
    return [name for name in results.datasets if of_unit.get(name, False)]
