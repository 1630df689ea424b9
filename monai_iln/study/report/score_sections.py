"""The sections of a report on scores; each says in a sentence why it is empty where it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from monai_iln.study.report import overlays, score_figures, tables
from monai_iln.study.report.document import Block, Items, Picture, Section, Text, absent
from monai_iln.study.report.evidence import NOTHING, Evidence
from monai_iln.study.report.published import IMAGES, SUBJECTS
from monai_iln.study.report.wording import join, minus, number, slug
from monai_iln.study.statistics import (
    Agreement,
    Comparison,
    Ranking,
    bland_altman,
    compare,
    rank,
    seed_variance,
    subject_scores,
    volumes,
)

_BY_RULE = {
    "nested": "by the nested rule",
    "paper": "by the paper's rule, hence optimistic",
    "single": "of the one learning rate that was tried",
}


def comparisons_of(evidence: Evidence) -> list[Comparison]:
    """The reference against every other method, over all data sets and structures, by the shown rule."""
    found: list[Comparison] = []
    for dataset, structure in evidence.parts:
        scores = subject_scores(evidence.part(evidence.shown, dataset, structure))
        if evidence.reference in scores:
            found += compare(scores, evidence.reference, dataset=dataset, structure=structure)
    return found


def dice_section(evidence: Evidence) -> Section:
    """Tables 1 to 3, and the learning rates they stand on."""
    section = Section("Dice of every method and fold")
    if evidence.shown.empty:
        section.blocks.append(absent(NOTHING))
        return section
    dice_tables = tables.dice_tables(evidence)
    names = dict.fromkeys(filter(None, map(evidence.published_group, evidence.datasets)))
    if any(table.name.startswith("table_") for table in dice_tables):
        sizes = join([f"{name} {IMAGES[name]} images of {SUBJECTS[name]} subjects" for name in names])
        section.blocks.append(
            Text(
                "Laid out as in the paper: LV-1 tests on the first group of subjects and trains on the others. The "
                "paper drew its groups at random and does not list them, so its numbers are of other folds, and of "
                f"other image files ({sizes} over all folds): agreement to the third decimal is not to be expected."
            )
        )
    if "nested" in evidence.chosen:
        section.blocks.append(
            Text(
                "Every method is shown by two rules. With the nested rule, validation images inside the training folds "
                "choose the learning rate, and the test images are looked at once. With the paper's rule the test "
                "images themselves choose it, so its numbers are optimistic; they are here to be compared with the "
                "published ones, which were chosen so."
            )
        )
        missing = len(evidence.chosen["paper"]) - len(evidence.chosen["nested"])
        if missing:
            section.blocks.append(
                absent(f"{missing} combinations of method and fold have no validation scores, hence no nested result.")
            )
    elif evidence.rule == "paper":
        section.blocks.append(
            absent("There are no validation scores, so the nested rule cannot be applied; all below is optimistic.")
        )
    section.blocks.append(
        Text(
            "Each cell is the mean \N{PLUS-MINUS SIGN} standard deviation of Dice over the test images of a fold. "
            "The number of images stands in brackets; the best of a column is bold."
        )
    )
    section.blocks += dice_tables
    section.blocks.append(tables.rates_table(evidence))
    return section


def statistics_section(evidence: Evidence, comparisons: Sequence[Comparison]) -> Section:
    """Comparisons, ranks and the part of chance."""
    section = Section("Statistics")
    blocks = section.blocks
    if evidence.shown.empty:
        blocks.append(absent(NOTHING))
        return section
    blocks.append(
        Text(
            "The unit is the subject: its score is its mean Dice over its test images. Scores here, and in the "
            f"sections on positions, volumes and pictures, are {_BY_RULE[evidence.rule]}."
        )
    )
    if not comparisons:
        blocks.append(absent(_why_no_comparison(evidence)))
    else:
        blocks += _comparison_blocks(evidence, comparisons)
        blocks.append(Items([minus(row.sentence) for row in comparisons]))
    for dataset, structure in evidence.parts:
        blocks += _rank_blocks(evidence, dataset, structure)
    variance = seed_variance(evidence.shown)
    blocks.append(Text(f"Seeds: {variance.sentence}"))
    return section


def _why_no_comparison(evidence: Evidence) -> str:
    if evidence.reference not in evidence.shown_methods:
        return f"The reference, {evidence.reference}, has no finished run, so nothing can be compared with it."
    return "Only one method has finished runs, so there is nothing to compare."


def _comparison_blocks(evidence: Evidence, comparisons: Sequence[Comparison]) -> list[Block]:
    blocks: list[Block] = []
    if any(not np.isnan(row.difference) for row in comparisons):
        reference = comparisons[0].reference
        said = "; ".join(f"{row.other} {number(row.difference, sign=True)}" for row in comparisons)
        blocks.append(
            Picture(
                "differences",
                f"Mean difference in Dice over subjects with its 95 % bootstrap interval; p after Holm's correction. "
                f"A filled point: p below 0.05. Orange: {reference} is better.",
                f"Forest plot of the differences in Dice, {reference} minus the other method: {said}.",
                score_figures.draw_differences(comparisons),
            )
        )
    else:
        blocks.append(absent("No subject was scored with the reference and with another method."))
    blocks.append(tables.comparison_table(comparisons))
    return blocks


def _rank_blocks(evidence: Evidence, dataset: str, structure: str) -> list[Block]:
    scores = subject_scores(evidence.part(evidence.shown, dataset, structure))
    if scores.shape[1] < 3:
        return [absent(f"{dataset}, {structure}: fewer than three methods have finished runs, so they are not ranked.")]
    ranking: Ranking = rank(scores)
    blocks: list[Block] = [Text(f"{dataset}, {structure}: {ranking.sentence}")]
    if ranking.nemenyi.isna().to_numpy().any():
        blocks.append(absent("Too few subjects have all methods for a critical-difference diagram."))
        return blocks
    ordered = sorted(ranking.average_ranks.items(), key=lambda pair: pair[1])
    listed = ", ".join(f"{name} {value:.2f}" for name, value in ordered)
    blocks.append(
        Picture(
            slug("ranks", dataset, structure),
            f"{dataset}, {structure}: critical-difference diagram. Methods that a grey bar joins are not told apart by "
            f"Nemenyi's test; the critical difference of the average ranks is {ranking.critical_difference:.2f}.",
            f"Average ranks: {listed}.",
            score_figures.draw_ranks(ranking, evidence.reference),
        )
    )
    return blocks


def positions_section(evidence: Evidence) -> Section:
    """Dice by position, and distances."""
    section = Section("By position in the heart, and distances")
    if evidence.shown.empty:
        section.blocks.append(absent(NOTHING))
        return section
    placed = evidence.shown[(evidence.shown["position"] != "") & evidence.shown["dice"].notna()]
    if placed.empty:
        section.blocks.append(absent("Dice is not split by position: no slice is recorded as base, mid or apex."))
    else:
        section.blocks += _position_blocks(evidence, placed)
    if evidence.shown["hd95_mm"].isna().all() and evidence.shown["asd_mm"].isna().all():
        section.blocks.append(absent("No surface distance is defined in any test image."))
    else:
        section.blocks.append(tables.distances_table(evidence))
    return section


def _position_blocks(evidence: Evidence, placed: pd.DataFrame) -> list[Block]:
    known = ["base", "mid", "apex"]
    positions = [name for name in known if name in set(placed["position"])]
    positions += sorted(set(placed["position"]) - set(known))
    table = tables.positions_table(placed, positions, evidence)
    blocks: list[Block] = []
    for dataset, structure in evidence.parts:
        images = evidence.part(placed, dataset, structure)
        if images.empty:
            continue
        reference = evidence.part(table.frame, dataset, structure)
        reference = reference[reference["method"] == evidence.reference]
        said = ", ".join(f"{row['position']} {number(row['median_dice'])}" for row in reference.to_dict("records"))
        blocks.append(
            Picture(
                slug("positions", dataset, structure),
                f"{dataset}, {structure}: Dice by position: median, quartiles, 5th to 95th percentile of the images.",
                f"Boxes of Dice by position and method. Medians of {evidence.reference}: {said or 'none'}.",
                score_figures.draw_positions(images, positions, evidence.shown_methods, evidence.reference),
            )
        )
    return [*blocks, table]


def volumes_section(evidence: Evidence) -> Section:
    """Agreement of volumes and ejection fraction with the truth."""
    section = Section("Volumes and ejection fraction")
    if evidence.shown.empty:
        section.blocks.append(absent(NOTHING))
        return section
    section.blocks.append(
        Text(
            "End-diastolic and end-systolic volume (EDV, ESV) are sums over the labelled slices of a phase, and the "
            "ejection fraction is EF = (EDV \N{MINUS SIGN} ESV) / EDV. A point is a subject, seeds averaged; the solid "
            "line is the bias, which the title gives, and dashed lines are the 95 % limits of agreement."
        )
    )
    measured = [f"{measure}_{side}" for measure in score_figures.MEASURES for side in ("truth", "predicted")]
    keys = ["dataset", "structure", "method", "subject"]
    values = volumes(evidence.shown).groupby(keys, sort=False)[measured].mean().reset_index()
    for dataset, structure in evidence.parts:
        chosen = evidence.part(values, dataset, structure)
        agreements: dict[tuple[str, str], Agreement] = {}
        for method in evidence.shown_methods:
            for measure in score_figures.MEASURES:
                pairs = chosen[chosen["method"] == method]
                found = bland_altman(pairs[f"{measure}_truth"], pairs[f"{measure}_predicted"])
                if found.subjects:
                    agreements[method, measure] = found
        methods = [method for method in evidence.shown_methods if any(key[0] == method for key in agreements)]
        if not methods:
            said = f"{dataset}, {structure}: no volumes to compare, for no phase is called ED or ES, or none is known."
            section.blocks.append(absent(said))
            continue
        for place, group in enumerate(overlays.groups_of_methods(methods), 1):
            section.blocks.append(
                Picture(
                    slug("agreement", dataset, structure, str(place)),
                    f"{dataset}, {structure}: Bland-Altman plots of {join(group)}.",
                    f"Differences of predicted and true volumes against their means, for {join(group)}; the table of "
                    "agreement has bias and limits.",
                    score_figures.draw_agreement(chosen, agreements, group, evidence.reference),
                )
            )
        section.blocks.append(tables.agreement_table(agreements, methods, dataset, structure))
    return section
