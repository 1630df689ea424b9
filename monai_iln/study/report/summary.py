"""What a reader in a hurry reads: what was compared, what came out, and how far to trust it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from monai_iln.study.report import deviations
from monai_iln.study.report.comparisons import comparison_sentence
from monai_iln.study.report.document import Block, Items, Text
from monai_iln.study.report.results import NO_IMAGES, Results
from monai_iln.study.report.seed_variance import seed_sentence
from monai_iln.study.report.wording import count, join, minus, number
from monai_iln.study.statistics import ALPHA, MIN_SUBJECTS, Comparison

_FEW = 3  # so many comparisons are told one by one
_RULES = {
    "nested": "With the learning rate chosen on validation images inside the training folds",
    "paper": "With the learning rate chosen on the test images, which is optimistic",
    "single": "With the one learning rate that was tried",
}


def blocks(results: Results) -> list[Block]:
    """The answers, then the caveats."""
    compared = _what_was_compared(results)
    if results.shown.empty:
        return [Text(f"{compared} {NO_IMAGES}")]
    rule, answers = _RULES[results.rule], []
    if not results.comparisons:
        lead = "Nothing can be compared with the reference yet."
    elif len(results.comparisons) <= _FEW:
        lead = f"{rule}:"
        answers = [minus(comparison_sentence(row)) for row in results.comparisons]
    else:
        lead = f"{rule}, by signed-rank tests over subjects (in brackets: difference in Dice):"
        answers = _answers(results)
    caveats = Text(" ".join(["Before you rely on it:", *_caveats(results)]))
    if len(answers) > 1:
        return [Text(f"{compared} {lead}"), Items(answers), caveats]
    return [Text(" ".join([compared, lead, *answers])), caveats]


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
    return f"{text} Of its {count(total, 'run')} {join(told)}."


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


def _answers(results: Results) -> list[str]:
    """For each data set and structure, what the reference is better and worse than."""
    answers = []
    for dataset, structure in dict.fromkeys((row.dataset, row.structure) for row in results.comparisons):
        rows = [row for row in results.comparisons if (row.dataset, row.structure) == (dataset, structure)]
        by_verdict: dict[str, list[Comparison]] = {verdict: [] for verdict in _VERDICTS}
        for row in rows:
            by_verdict[verdict_of(row)].append(row)
        mean = next((row.mean_reference for row in rows if not np.isnan(row.mean_reference)), np.nan)
        said = [f"{results.reference} reaches a mean Dice of {number(mean)} on {dataset}, {structure}."]
        said += [tell(verdict, found) for verdict, found in by_verdict.items() if found]
        answers.append(" ".join(said))
    return answers


_VERDICTS = ("better", "worse", "mixed", "none", "untested")


def verdict_of(row: Comparison) -> str:
    """The verdict on the reference beside another method."""
    if np.isnan(row.p_holm):
        return "untested"
    if row.p_holm >= ALPHA:
        return "none"
    if row.better is None:  # ranks and mean point in opposite directions
        return "mixed"
    if row.better == row.reference:
        return "better"
    return "worse"


def tell(verdict: str, rows: list[Comparison]) -> str:
    """A sentence for all comparisons with one verdict."""
    names = join([row.other for row in rows])
    with_differences = join([f"{row.other} ({number(row.difference, sign=True)})" for row in rows])
    subjects = count(max(row.subjects for row in rows), "subject")
    sentences = {
        "better": f"It is better than {with_differences}.",
        "worse": f"It is worse than {with_differences}.",
        "mixed": f"It differs from {names}, but mean and ranks disagree on which is better.",
        "none": f"There is no evidence of a difference to {with_differences}; with {subjects} that is no proof that "
        "there is none.",
        "untested": f"Nothing was tested against {names}: fewer than {MIN_SUBJECTS} subjects have both, or none "
        "differs.",
    }
    return sentences[verdict]


def _caveats(results: Results) -> list[str]:
    caveats = []
    if {"nested", "paper"} <= set(results.chosen):
        keys = ["dataset", "structure", "method", "fold"]
        means = {rule: images.groupby(keys)["dice"].mean() for rule, images in results.selected.items()}
        gain = (means["paper"] - means["nested"]).mean()
        caveats.append(
            "The paper chooses the learning rate by the test result, which here would raise the mean Dice of a fold by "
            f"{number(gain)} on average: the nested rule is the one to read."
        )
    elif results.rule == "paper":
        caveats.append(
            "No run has validation scores, so the test images chose the learning rate, and every score is optimistic."
        )
    if results.runs["seed"].nunique() > 1:
        caveats.append(minus(seed_sentence(results.seed_variance)))
    else:
        caveats.append("Each setting was trained with one seed, so what a new seed would change is not known.")
    caveats += deviations.caveats(results)
    if unit := _without_spacing(results):
        caveats.append(
            f"Every voxel of {join(unit)} is recorded as 1 x 1 x 1 mm, as of files that do not know their spacing, "
            "such as PNG: then mm are pixels, ml thousands of voxels, and only ratios mean something."
        )
    if missing := [method for method in results.methods if method not in results.shown_methods]:
        caveats.append(f"Without a result by this rule: {join(missing)}.")
    if len(results.runs) < results.planned():
        caveats.append("The study is not complete, and methods may have been tested on different folds.")
    return caveats


def _without_spacing(results: Results) -> list[str]:
    """Data sets whose voxels all measure 1 ml / 1000: so they do where the files do not know their spacing."""
    columns = ["dataset", "truth_pixels", "truth_ml"]
    images = results.images.loc[results.images["truth_pixels"] > 0, columns]
    unit = np.isclose(images["truth_ml"], images["truth_pixels"] / 1000, atol=1e-6)
    of_unit = pd.Series(unit).groupby(images["dataset"].to_numpy()).all()
    return [name for name in results.datasets if of_unit.get(name, False)]
