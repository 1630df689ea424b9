"""The sections of a report that show pictures and curves: the paper's figures, and training."""

from __future__ import annotations

import pandas as pd

from monai_iln.study.report import figures, overlays, tables
from monai_iln.study.report.document import Block, Picture, Section, absent
from monai_iln.study.report.evidence import NOTHING, Evidence, read_table
from monai_iln.study.report.wording import join, slug


def pictures_section(evidence: Evidence) -> Section:
    """The paper's Figures 1 to 3."""
    section = Section("The paper's figures")
    section.blocks.append(
        Picture(
            "gate_functions",
            "Figure 1. Clip has no gradient outside [0, 1], sigmoid has one everywhere. Points: where training starts, "
            "\N{GREEK SMALL LETTER RHO} = 0.5.",
            "Curves of clip, which rises from 0 at 0 to 1 at 1 and is flat beyond, and of sigmoid, which is smooth.",
            figures.draw_gate_functions(),
        )
    )
    section.blocks += _overlay_blocks(evidence)
    section.blocks += _gate_blocks(evidence)
    return section


def _overlay_blocks(evidence: Evidence) -> list[Block]:
    if evidence.shown.empty:
        return [absent(f"Figure 2 is missing. {NOTHING}")]
    blocks: list[Block] = []
    colors = figures.method_colors(evidence.methods, evidence.reference)
    for dataset, structure in evidence.parts:
        images = evidence.part(evidence.shown, dataset, structure)
        tiles = [
            overlays.make_tile(evidence.folder, name, row)
            for method in evidence.shown_methods
            for name, row in overlays.pick_images(images[images["method"] == method]).items()
        ]
        problems = list(dict.fromkeys(tile.problem for tile in tiles if tile.pixels is None))
        if problems:
            count = sum(tile.pixels is None for tile in tiles)
            said = (
                f"{dataset}, {structure}: {count} of the {len(tiles)} pictures of Figure 2 are missing; {problems[0]}."
            )
            blocks.append(absent(said))
        drawn = {tile.method for tile in tiles if tile.pixels is not None}
        methods = [method for method in evidence.shown_methods if method in drawn]
        for number, group in enumerate(overlays.groups_of_methods(methods), 1):
            shown = [tile for tile in tiles if tile.method in group]
            said = "; ".join(f"{tile.method} {tile.rank}: {tile.caption}".replace("\n", ", ") for tile in shown)
            blocks.append(
                Picture(
                    slug("overlays", dataset, structure, str(number)),
                    f"Figure 2. {dataset}, {structure}: worst, median and best test image of {join(group)} by Dice, "
                    "among those in which the truth is not empty. Truth red, prediction green, overlap yellow.",
                    f"Segmented images. {said}.",
                    overlays.draw_overlays(shown, colors),
                )
            )
    return blocks


_GATE_COLUMNS = ("iteration", "layer", "component", "low", "weight", "high", "dead")


def _gate_blocks(evidence: Evidence) -> list[Block]:
    blocks: list[Block] = []
    for method in evidence.shown_methods:
        for dataset in evidence.datasets:
            run = evidence.typical_run(method, dataset)
            gates = read_table(run, "gates.csv", _GATE_COLUMNS)
            if run is None or gates is None:
                continue
            component = figures.first_component(gates)
            last = gates[gates["component"] == component].groupby("layer", sort=False).tail(1)
            ends = last["weight"].to_numpy(float)
            dead = int((last["dead"] > 0).sum())
            blocks.append(
                Picture(
                    slug("gates", method),
                    f"Figure 3. {method}: weight of the {component} component in every layer, in "
                    f"{run.relative_to(evidence.folder).as_posix()}. Colours go from the first layer (dark) to the "
                    f"last (light); {_dead(dead, len(last))}.",
                    f"Lines of {len(last)} layers, which end between {ends.min():.2f} and {ends.max():.2f}.",
                    figures.draw_gate_curves(gates),
                )
            )
            break
    return blocks or [absent("Figure 3 is missing: no finished run of a method with gates left a gates.csv.")]


def _dead(dead: int, layers: int) -> str:
    if not dead:
        return "no gate is dead"
    return f"a dashed grey line is a dead gate, which the group norm after it undoes ({dead} of {layers})"


def learning_section(evidence: Evidence) -> Section:
    """Curves of training, and how much the learning rate matters."""
    section = Section("Training, and the learning rate")
    if evidence.runs.empty:
        section.blocks.append(absent("No run has ended yet."))
        return section
    for dataset in evidence.datasets:
        section.blocks += _curve_blocks(evidence, dataset)
        section.blocks += _rate_blocks(evidence, dataset)
    return section


def _curve_blocks(evidence: Evidence, dataset: str) -> list[Block]:
    losses: dict[str, pd.DataFrame] = {}
    validation: dict[str, pd.DataFrame] = {}
    for method in evidence.shown_methods:
        run = evidence.typical_run(method, dataset)
        loss = read_table(run, "losses.csv", ("iteration", "loss"))
        curve = read_table(run, "curves.csv", ("epoch", "val_mean_dice"))
        if loss is not None:
            losses[method] = loss
        if curve is not None and curve["val_mean_dice"].notna().any():
            validation[method] = curve.dropna(subset="val_mean_dice")
    if not losses:
        return [absent(f"{dataset}: no learning curves, for no chosen run left a losses.csv.")]
    blocks: list[Block] = []
    if not validation:
        blocks.append(absent(f"{dataset}: nothing was validated during training, so only the loss is drawn."))
    methods = [method for method in evidence.shown_methods if method in losses or method in validation]
    blocks.append(
        Picture(
            slug("learning_curves", dataset),
            f"{dataset}: one run a method, the chosen one of the first fold.",
            f"Training loss{' and validation Dice' if validation else ''} of {join(methods)}.",
            figures.draw_learning_curves(losses, validation, methods, evidence.reference),
        )
    )
    return blocks


def _rate_blocks(evidence: Evidence, dataset: str) -> list[Block]:
    scores = tables.rate_scores(evidence.runs[evidence.runs["dataset"] == dataset])
    if scores["learning_rate"].nunique() < 2:
        return [absent(f"{dataset}: only one learning rate was tried, so nothing is known of how much it matters.")]
    methods = [method for method in evidence.methods if method in set(scores["method"])]
    table = tables.rates_score_table(scores, methods, dataset)
    if scores["dice"].isna().all():
        return [absent(f"{dataset}: no run finished at any learning rate, so there is no Dice to draw."), table]
    return [
        Picture(
            slug("learning_rates", dataset),
            f"{dataset}: mean Dice on the test images against the learning rate, over all folds and seeds that "
            "finished, with the other methods in grey. A cross with n/m: n of m runs diverged. It shows how sensitive "
            "a method is to the rate, not which rate to take.",
            f"Dice against the learning rate of {join(methods)}; the table below has the numbers.",
            figures.draw_rates(scores, methods, evidence.reference),
        ),
        table,
    ]
