"""The report of a study: one page that says what was compared, what came out, and how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monai_iln.study.report.document import Block, Document, Items, Section, Text, write_document
from monai_iln.study.report.evidence import NOTHING, Evidence
from monai_iln.study.report.picture_sections import learning_section, pictures_section
from monai_iln.study.report.published import FOLDS, LEARNING_RATES
from monai_iln.study.report.run_sections import cost_section, provenance_section
from monai_iln.study.report.score_sections import (
    comparisons_of,
    dice_section,
    positions_section,
    statistics_section,
    volumes_section,
)
from monai_iln.study.report.wording import count, join, minus, number
from monai_iln.study.statistics import MIN_SUBJECTS, Comparison, seed_variance

if TYPE_CHECKING:
    from monai_iln.study.records import Records

_FEW = 3  # so many comparisons are told one by one
_RULE = {
    "nested": "With the learning rate chosen on validation images inside the training folds",
    "paper": "With the learning rate chosen on the test images, which is optimistic",
    "single": "With the one learning rate that was tried",
}


def write_report(folder: Path, records: Records) -> Path:
    """Write the report of a study, finished or under way.

    Args:
        folder: of the study; the report goes to ``report`` inside it: ``report.html``, which needs no other file,
            its twin ``report.md`` with ``figures/*.png``, and ``tables/*.csv`` with unrounded numbers.
        records: of the study.

    Returns:
        The path of ``report.html``.
    """
    folder = Path(folder)
    evidence = Evidence.of(folder, records)
    comparisons = comparisons_of(evidence)
    sections = [
        _headline(evidence, comparisons),
        dice_section(evidence),
        statistics_section(evidence, comparisons),
        positions_section(evidence),
        volumes_section(evidence),
        pictures_section(evidence),
        learning_section(evidence),
        cost_section(evidence),
        provenance_section(evidence),
    ]
    title = "Comparison of normalization methods"
    if evidence.datasets:
        title += f" on {join(evidence.datasets)}"
    return write_document(Document(title, _subtitle(evidence), sections), folder / "report")


def _subtitle(evidence: Evidence) -> str:
    ends = [str(document.get("finished") or "")[:10] for document in evidence.documents]
    last = f"; the last run ended on {max(ends)}" if any(ends) else ""
    return f"{evidence.counts['finished']} of {evidence.planned()} runs finished{last}"


def _headline(evidence: Evidence, comparisons: Sequence[Comparison]) -> Section:
    compared = _what_was_compared(evidence)
    if evidence.shown.empty:
        return Section("In short", [Text(f"{compared} {NOTHING}")])
    answers: list[str] = []
    if not comparisons:
        lead = "Nothing can be compared with the reference yet."
    elif len(comparisons) <= _FEW:
        lead = f"{_RULE[evidence.rule]}:"
        answers = [minus(row.sentence) for row in comparisons]
    else:
        lead = f"{_RULE[evidence.rule]}, by signed-rank tests over subjects (in brackets: difference in Dice):"
        answers = _answers(evidence, comparisons)
    one = len(answers) < 2
    blocks: list[Block] = [Text(" ".join([compared, lead, *answers] if one else [compared, lead]))]
    blocks += [] if one else [Items(answers)]
    blocks.append(Text(" ".join(["Before you rely on it:", *_caveats(evidence)])))
    return Section("In short", blocks)


def _what_was_compared(evidence: Evidence) -> str:
    study, methods = evidence.study, evidence.methods
    data = []
    for dataset in evidence.datasets:
        about = evidence.about(dataset)
        people = about.get("subjects")
        size = len(people) if isinstance(people, (list, dict)) else people
        facts = [str(about["name"])] if about.get("name") else []
        facts += [f"{size} subjects"] if size else []
        data.append(dataset + (f" ({', '.join(facts)})" if facts else ""))
    rates, seeds = len(study.get("learning_rates") or ()), len(study.get("seeds") or ())
    tested = [count(folds, "fold") for folds in dict.fromkeys(evidence.tested_folds.values()) if folds]
    text = (
        f"This study trained {count(len(methods), 'method')} ({', '.join(methods)}) on {join(data)}, tested on "
        f"{join(tested, 'or') or 'no fold yet'}, with {count(rates, 'learning rate')} and {count(seeds, 'seed')}."
    )
    counts, total = evidence.counts, evidence.planned()
    told = [f"{counts[status]} {status}" for status in counts if counts[status] or status == "finished"]
    if left := total - sum(counts.values()):
        told.append(f"{left} {'has' if left == 1 else 'have'} not been run")
    return f"{text} Of its {count(total, 'run')} {join(told)}."


def _answers(evidence: Evidence, comparisons: Sequence[Comparison]) -> list[str]:
    """For each data set and structure, what the reference is better and worse than."""
    answers = []
    for dataset, structure in dict.fromkeys((row.dataset, row.structure) for row in comparisons):
        groups: dict[str, list[Comparison]] = {}
        mean = np.nan
        for row in comparisons:
            if (row.dataset, row.structure) == (dataset, structure):
                groups.setdefault(_verdict(row), []).append(row)
                mean = row.mean_reference if np.isnan(mean) else mean
        said = f"{evidence.reference} reaches a mean Dice of {number(mean)} on {dataset}, {structure}. "
        answers.append(said + " ".join(_say(verdict, groups[verdict]) for verdict in _VERDICTS if verdict in groups))
    return answers


_VERDICTS = ("better", "worse", "mixed", "none", "untested")


def _verdict(row: Comparison) -> str:
    if np.isnan(row.p_holm):
        return "untested"
    if row.p_holm >= 0.05:
        return "none"
    if row.better is None:  # ranks and mean point in opposite directions
        return "mixed"
    return "better" if row.better == row.reference else "worse"


def _say(verdict: str, rows: Sequence[Comparison]) -> str:
    names = join([row.other for row in rows])
    with_differences = join([f"{row.other} ({number(row.difference, sign=True)})" for row in rows])
    subjects = count(max(row.subjects for row in rows), "subject")
    return {
        "better": f"It is better than {with_differences}.",
        "worse": f"It is worse than {with_differences}.",
        "mixed": f"It differs from {names}, but mean and ranks disagree on which is better.",
        "none": f"There is no evidence of a difference to {with_differences}; with {subjects} that is no proof that "
        "there is none.",
        "untested": f"Nothing was tested against {names}: fewer than {MIN_SUBJECTS} subjects have both, or none "
        "differs.",
    }[verdict]


def _caveats(evidence: Evidence) -> list[str]:
    caveats = []
    if {"nested", "paper"} <= set(evidence.chosen):
        keys = ["dataset", "structure", "method", "fold"]
        means = {rule: images.groupby(keys)["dice"].mean() for rule, images in evidence.selected.items()}
        gain = (means["paper"] - means["nested"]).mean()
        caveats.append(
            "The paper chooses the learning rate by the test result, which here would raise the mean Dice of a fold by "
            f"{number(gain)} on average: the nested rule is the one to read."
        )
    elif evidence.rule == "paper":
        caveats.append(
            "No run has validation scores, so the test images chose the learning rate, and every score is optimistic."
        )
    if evidence.runs["seed"].nunique() > 1:
        caveats.append(minus(seed_variance(evidence.shown).sentence))
    else:
        caveats.append("Each setting was trained with one seed, so what a new seed would change is not known.")
    if reduced := _deviations(evidence):
        caveats.append(f"The protocol is not the paper's: {'; '.join(reduced)}.")
    if unit := _without_spacing(evidence):
        caveats.append(
            f"Every voxel of {join(unit)} is recorded as 1 x 1 x 1 mm, as of files that do not know their spacing, "
            "such as PNG: then mm are pixels, ml thousands of voxels, and only ratios mean something."
        )
    if missing := [method for method in evidence.methods if method not in evidence.shown_methods]:
        caveats.append(f"Without a result by this rule: {join(missing)}.")
    if len(evidence.runs) < evidence.planned():
        caveats.append("The study is not complete, and methods may have been tested on different folds.")
    return caveats


def _deviations(evidence: Evidence) -> list[str]:
    """Where the grid falls short of the paper's, for data sets that the paper has."""
    ours = [dataset for dataset in evidence.datasets if evidence.published_group(dataset)]
    if not ours:
        return []
    rates = {float(rate) for rate in evidence.study.get("learning_rates") or ()}
    said = []
    if rates != set(LEARNING_RATES):
        got, paper = (", ".join(f"{rate:g}" for rate in sorted(r, reverse=True)) for r in (rates, LEARNING_RATES))
        said.append(f"learning rates {got} instead of {paper}")
    folds = evidence.tested_folds
    said += [f"{folds[name]} of {FOLDS} folds of {name}" for name in ours if folds[name] < FOLDS]
    training = [str(file) for file in evidence.study.get("training") or ()]
    said += [f"another training ({', '.join(training)})"] if training and "paper.yaml" not in training else []
    # What the paper did not hold out, a study has to, where the test fold is not to choose the rate.
    own = {"validation_every": None}
    overrides = dict(evidence.study.get("overrides") or {})
    said += [f"{key} = {value}" for key, value in overrides.items() if key not in own or value != own[key]]
    return said


def _without_spacing(evidence: Evidence) -> list[str]:
    """Data sets whose voxels all measure 1 ml / 1000: so they do where the files do not know their spacing."""
    images = evidence.images[evidence.images["truth_pixels"] > 0]
    unit = np.isclose(images["truth_ml"], images["truth_pixels"] / 1000, atol=1e-6)
    return [
        name
        for name in evidence.datasets
        if (images["dataset"] == name).any() and unit[images["dataset"] == name].all()
    ]


__all__ = ["write_report"]
