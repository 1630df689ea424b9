"""Dice of every method and fold: the paper's Tables 1 to 3, and the learning rates that they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monai_iln.study.report.document import Block, Row, Table, Text, absent
from monai_iln.study.report.published import IMAGES, SUBJECTS, TABLES, published_dice
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import NO_NUMBER, capital, join, number, slug

_MOST_COLUMNS = 7  # beside the methods, on a printed page
_SOURCES = {
    "nested": "nested: rate chosen inside the training folds",
    "paper": "paper's rule: rate chosen on the test fold (optimistic)",
    "single": "one learning rate, nothing chosen",
    "published": "published in the paper: other folds",
}
Column = tuple[str, str, float]  # data set, structure, test fold
Cell = Mapping[str, Any]


def blocks(results: Results) -> list[Block]:
    """What the tables show, then the tables."""
    dice_tables = _tables(results)
    found: list[Block] = []
    names = dict.fromkeys(filter(None, map(results.published_group, results.datasets)))
    if any(table.name.startswith("table_") for table in dice_tables):
        sizes = join([f"{name} {IMAGES[name]} images of {SUBJECTS[name]} subjects" for name in names])
        found.append(
            Text(
                "Laid out as in the paper: LV-1 tests on the first group of subjects and trains on the others. The "
                "paper drew its groups at random and does not list them, so its numbers are of other folds, and of "
                f"other image files ({sizes} over all folds): agreement to the third decimal is not to be expected."
            )
        )
    found += _about_rules(results)
    found.append(
        Text(
            "Each cell is the mean \N{PLUS-MINUS SIGN} standard deviation of Dice over the test images of a fold. "
            "The number of images stands in brackets; the best of a column is bold."
        )
    )
    return [*found, *dice_tables, _rates_table(results)]


def _about_rules(results: Results) -> list[Block]:
    if "nested" not in results.chosen and results.rule == "paper":
        return [
            absent("There are no validation scores, so the nested rule cannot be applied; all below is optimistic.")
        ]
    if "nested" not in results.chosen:
        return []
    found: list[Block] = [
        Text(
            "Every method is shown by two rules. With the nested rule, validation images inside the training folds "
            "choose the learning rate, and the test images are looked at once. With the paper's rule the test "
            "images themselves choose it, so its numbers are optimistic; they are here to be compared with the "
            "published ones, which were chosen so."
        )
    ]
    missing = len(results.chosen["paper"]) - len(results.chosen["nested"])
    if missing:
        found.append(
            absent(f"{missing} combinations of method and fold have no validation scores, hence no nested result.")
        )
    return found


def _tables(results: Results) -> list[Table]:
    """The paper's tables for the methods and data sets it names, and one of all for what they leave out."""
    present = results.methods_of(results.by_either_rule)
    ours = [dataset for dataset in results.datasets if results.published_group(dataset)]
    tables: list[Table] = []
    left_out = set(present)
    for paper in TABLES:
        methods = {label: method for label, method in paper.rows if method in present}
        if len(methods) > 1 and ours:
            title = f"Table {paper.number}. {paper.title}"
            tables += _split(results, f"table_{paper.number}", title, methods, ours, ["published"])
            left_out -= set(methods.values())
    if left_out or set(results.datasets) - set(ours):
        methods = {method: method for method in present}
        tables += _split(results, "dice_all_methods", "All methods", methods, results.datasets, [])
    return tables


def _split(
    results: Results,
    name: str,
    title: str,
    methods: Mapping[str, str],
    datasets: Sequence[str],
    others: Sequence[str],
) -> list[Table]:
    """A table for each structure, in several pieces if its columns do not fit on a page."""
    structures = list(dict.fromkeys(structure for _, structure in results.parts))
    tables = []
    for structure in structures:
        pieces = _pieces(results, datasets, structure)
        for part, columns in enumerate(pieces, 1):
            names, caption = [name], f"{title} ({structure})"
            if len(structures) > 1:
                names.append(structure)
            if len(pieces) > 1:
                names.append(str(part))
                caption += f", part {part} of {len(pieces)}"
            tables.append(_table(results, slug(*names), f"{caption}.", methods, columns, others))
    return tables


def _pieces(results: Results, datasets: Sequence[str], structure: str) -> list[list[Column]]:
    """The columns of a table, in several groups if they do not fit on a page: then each data set has its own."""
    columns: list[Column] = []
    for dataset in datasets:
        folds = results.part(results.by_either_rule, dataset, structure)["fold"]
        columns += [(dataset, structure, fold) for fold in sorted(folds.unique())]
    if 0 < len(columns) <= _MOST_COLUMNS:
        return [columns]
    pieces = []
    for dataset in dict.fromkeys(column[0] for column in columns):
        own = [column for column in columns if column[0] == dataset]
        pieces += [own[start : start + _MOST_COLUMNS] for start in range(0, len(own), _MOST_COLUMNS)]
    return pieces


def _table(
    results: Results,
    name: str,
    caption: str,
    methods: Mapping[str, str],
    columns: Sequence[Column],
    others: Sequence[str],
) -> Table:
    """One table: a block of rows for each rule, and one for each of the other sources that has a number."""
    header = ["Method"]
    for dataset, structure, fold in columns:
        images = results.part(results.by_either_rule, dataset, structure)
        header.append(f"{dataset}-{fold + 1:.0f} ({_count_images(images[images['fold'] == fold])})")
    rows: list[Row] = []
    records: list[Cell] = []
    for source in (*results.selected, *others):
        lines = [[_cell(results, source, method, column) for column in columns] for method in methods.values()]
        cells = [cell for line in lines for cell in line]
        if source in results.selected or any("mean_dice" in cell for cell in cells):
            rows += [Row([capital(_SOURCES[source])], heading=True), *_with_best(list(methods), lines)]
            records += cells
    return Table(name, caption, header, rows, pd.DataFrame(records).astype({"images": "Int64"}))


def _cell(results: Results, source: str, method: str, column: Column) -> Cell:
    dataset, structure, fold = column
    cell = {"source": source, "method": method, "dataset": dataset, "structure": structure, "test_fold": int(fold)}
    if source == "published":
        published = published_dice(method, f"{results.published_group(dataset)}-{fold + 1:.0f}")
        return cell | dict(zip(("mean_dice", "sd_dice"), published or (), strict=False))
    images = results.cells[source].get((dataset, structure, fold, method), results.shown.iloc[:0])
    scores = images[images["dice"].notna()]
    cell["images"] = _count_images(scores)
    if scores.empty:
        return cell
    mean, sd = scores["dice"].mean(), scores["dice"].std(ddof=1)
    return cell | {"mean_dice": mean, "sd_dice": sd, "learning_rate": scores["learning_rate"].iloc[0]}


def _count_images(scores: pd.DataFrame) -> int:
    """Images, each once: there are several scores of one with several methods or seeds."""
    return len(scores.drop_duplicates(["subject", "phase", "slice"]))


def _with_best(labels: Sequence[str], lines: Sequence[Sequence[Cell]]) -> list[Row]:
    """Rows with the highest mean of each column bold, as printed: equal ones alike."""
    means = np.array([[round(cell.get("mean_dice", np.nan), 3) for cell in line] for line in lines])
    best = np.nanmax(np.append(means, np.full((1, means.shape[1]), -1.0), axis=0), axis=0)
    rows = []
    for label, line, own in zip(labels, lines, means, strict=True):
        bold: frozenset[int] = frozenset()
        if len(lines) > 1:
            bold = frozenset((np.flatnonzero(own == best) + 1).tolist())
        rows.append(Row([label, *map(_mean_and_sd, line)], bold))
    return rows


def _mean_and_sd(cell: Cell) -> str:
    mean, sd = number(cell.get("mean_dice")), cell.get("sd_dice", np.nan)
    if np.isnan(sd):
        return mean
    return f"{mean}\N{PLUS-MINUS SIGN}{number(sd)}"


def _rates_table(results: Results) -> Table:
    images = results.by_either_rule
    folds = []
    for dataset in results.datasets:
        tested = images.loc[images["dataset"] == dataset, "fold"]
        folds += [(dataset, fold) for fold in sorted(tested.unique())]
    rows, frames = [], []
    for rule, chosen in results.chosen.items():
        rows.append(Row([capital(_SOURCES[rule])], heading=True))
        frames.append(chosen.assign(rule=rule))
        rates = chosen.set_index(["dataset", "method", "fold"])["learning_rate"].map("{:g}".format).to_dict()
        for method in results.methods_of(images):
            cells = [rates.get((dataset, method, fold), NO_NUMBER) for dataset, fold in folds]
            rows.append(Row([method, *cells]))
    header = ["Method", *(f"{dataset}-{fold + 1:.0f}" for dataset, fold in folds)]
    return Table("learning_rates", "Chosen learning rates.", header, rows, pd.concat(frames))
