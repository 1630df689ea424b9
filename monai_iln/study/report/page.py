"""The page of a report: its sections, and the topics in each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from monai_iln.study.report import (
    answer,
    chances,
    comparisons,
    cost,
    fairness,
    gates,
    learning_curves,
    learning_rates,
    overlays,
    positions,
    provenance,
    ranks,
    robustness,
    scores,
    summary,
    volumes,
)
from monai_iln.study.report.document import Block, Document, Section, absent, write_document
from monai_iln.study.report.results import NO_IMAGES, Results
from monai_iln.study.report.winners import winners_of
from monai_iln.study.report.wording import capital, join

if TYPE_CHECKING:
    from monai_iln.study.records import Records


def write_report(folder: Path, records: Records) -> Path:
    """Write the report of a study, finished or under way.

    Args:
        folder: The folder of the study. The report goes to ``report`` inside it: ``report.html``, which needs no other
            file, its twin ``report.md`` with ``figures/*.png``, and ``tables/*.csv`` with unrounded numbers.
        records: The records of the study.

    Returns:
        The path of ``report.html``.
    """
    results = Results.of(Path(folder), records)
    best = winners_of(results)
    sections = [
        Section("The answer", answer.blocks(results, best)),
        Section("In short", summary.blocks(results, best)),
        _section_on_scores(results, _scores_title(results), scores.blocks),
        _section_on_scores(results, "Statistics", comparisons.blocks, chances.blocks, ranks.blocks),
        positions.section(results),
        Section("Volumes and ejection fraction", volumes.blocks(results)),
        Section("Robustness", robustness.blocks(results)),
        _figures(results),
        Section("What each method does to the network", fairness.blocks(results)),
        _training(results),
        Section("Cost", cost.blocks(results)),
        Section("What was run", provenance.blocks(results)),
    ]
    sections = [section for section in sections if section.blocks]
    title = "Comparison of normalization methods"
    if results.datasets:
        title += f" on {join(results.datasets)}"
    return write_document(Document(title, _subtitle(results), sections), results.folder / "report")


def _subtitle(results: Results) -> str:
    text = f"{results.counts['finished']} of {results.planned()} runs finished"
    last = max((str(record.get("finished") or "")[:10] for record in results.run_records), default="")
    if last:
        text += f"; the last run ended on {last}"
    return text


def _section_on_scores(results: Results, title: str, *topics: Callable[[Results], list[Block]]) -> Section:
    if results.shown.empty:
        return Section(title, [absent(NO_IMAGES)])
    return Section(title, [block for topic in topics for block in topic(results)])


def _scores_title(results: Results) -> str:
    if results.metric.is_dice:
        return "Dice of every method and fold"
    return f"Scores of every method and fold ({results.metric.name})"


def _figures(results: Results) -> Section:
    pictures, weights = overlays.blocks(results), gates.blocks(results)
    title = "The paper's figures"
    if not results.is_of_ventricles:
        title = capital(join([name for name, found in (("pictures", pictures), ("gates", weights)) if found]))
    return Section(title, [*pictures, *weights])


def _training(results: Results) -> Section:
    if results.runs.empty:
        return Section("Training", [absent("No run has ended yet.")])
    curves, rates = [], []
    for dataset in results.datasets:
        curves += learning_curves.blocks(results, dataset)
        rates += learning_rates.blocks(results, dataset)
    return Section("Training, and the learning rate" if rates else "Training", [*curves, *rates])
