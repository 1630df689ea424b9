"""The score of every method and fold: the paper's Tables 1 to 3, and the learning rates that they stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monai_iln.study.report.document import Block, Row, Table, Text, absent
from monai_iln.study.report.published import IMAGES, SUBJECTS, TABLES, may_be_cavity, published_dice
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import NO_NUMBER, capital, join, number, place, slug
from monai_iln.study.selection import GROUP

_MOST_COLUMNS = 8  # beside the methods, on a printed page
_SOURCES = {
    "nested": "nested: rate chosen inside the training folds",
    "paper": "paper's rule: rate chosen on the test fold (optimistic)",
    "single": "one learning rate, nothing chosen",
    "published": "published in the paper: other folds",
}
Column = tuple[str, str, float | None]  # data set, structure, test fold or split; None stands for all of them
Cell = Mapping[str, Any]


def blocks(results: Results) -> list[Block]:
    """What the tables show, then the tables."""
    tables, metric = _tables(results), results.metric
    found: list[Block] = []
    names = dict.fromkeys(filter(None, map(results.published_group, results.datasets)))
    if any(table.name.startswith("table_") for table in tables):
        sizes = join([f"{name} {IMAGES[name]} images of {SUBJECTS[name]} subjects" for name in names])
        found.append(
            Text(
                "Laid out as in the paper, whose LV-1 tests on the first group of subjects and trains on the others, "
                "as fold 0 does here. The paper drew its groups at random and does not list them, so its numbers are "
                f"of other folds, and of other image files ({sizes} over all folds): agreement to the third decimal is "
                "not to be expected."
            )
        )
    found += _about_rules(results)
    text = (
        f"Each cell is the mean \N{PLUS-MINUS SIGN} standard deviation of {metric.name} over the test {results.unit}s "
        f"of a {results.column}. The number of {results.unit}s stands in brackets; the best of a column, which is the "
        f"{metric.best}, is bold."
    )
    if results.column == "split":
        text += f" {_about_splits(results)}"
    if results.column == "split" or max(results.tested_folds.values(), default=0) > 1:
        text += f' The column "all" is the mean over the {results.column}s, each of which counts alike.'
    found.append(Text(text))
    if len(results.parts) > 1:
        found.append(_overview(results))
    found += tables
    if results.runs["learning_rate"].nunique() > 1:
        found.append(_rates_table(results))
    return found


def _about_splits(results: Results) -> str:
    """Whether seeds share splits, as they do where a data set has folds of its own."""
    counts = results.runs.groupby("dataset")[["split", "seed"]].nunique()
    if (counts["split"] == counts["seed"]).all():
        return "Each seed has a split of its own, in which every subject is tested once, in one of the folds."
    shared = [name for name in results.datasets if counts["split"].get(name) != counts["seed"].get(name)]
    return f"In a split every subject is tested once, in one of the folds; seeds of {join(shared)} share splits."


def _overview(results: Results) -> Table:
    """One table of all: the means over the folds, structure by structure, by the rule that the statistics use."""
    columns: list[Column] = [(dataset, structure, None) for dataset, structure in results.parts]
    header = ["Method"]
    for dataset, structure, _ in columns:
        what = place(dataset, structure) if len(results.datasets) > 1 else structure
        header.append(what + _mark(results, dataset, structure))
    methods = results.shown_methods
    lines = [[_cell(results, results.rule, method, column) for column in columns] for method in methods]
    if len(results.datasets) == 1 and len(results.parts) > len(results.unlearned) + 1:
        learned = [number for number, part in enumerate(results.parts) if part not in results.unlearned]
        for line in lines:
            mean = np.mean([line[number].get("mean", np.nan) for number in learned])
            line.append({**line[0], "structure": None, "mean": mean})
        columns.append((results.datasets[0], "", None))
        header.append("mean")
    caption = f"{capital(results.metric.mean)} over the {results.column}s, of every structure. "
    caption += f"{capital(_SOURCES[results.rule])}."
    rows = _with_best(results, methods, lines, columns)
    return Table("all_structures", caption, header, rows, _frame(results, [cell for line in lines for cell in line]))


def _mark(results: Results, dataset: str, structure: str) -> str:
    """What follows the name of a structure that nobody learned."""
    return " (no method learned it)" if (dataset, structure) in results.unlearned else ""


def _about_rules(results: Results) -> list[Block]:
    if "nested" not in results.chosen and results.rule == "paper":
        return [
            absent("There are no validation scores, so the nested rule cannot be applied; all below is optimistic.")
        ]
    if "nested" not in results.chosen or "paper" not in results.chosen:
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
    ours = [name for name in results.datasets if results.published_group(name) and results.ventricles(name)]
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
        name = f"{results.metric.short}_all_methods"
        tables += _split(results, name, "All methods", methods, results.datasets, [])
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
            names, caption = [name], title
            if structure:
                caption += f" ({structure})"
            if all((dataset, structure) in results.unlearned for dataset in datasets):
                caption += ": no method learned it"
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
        folds = sorted(results.part(results.by_either_rule, dataset, structure)[results.column].unique())
        columns += [(dataset, structure, fold) for fold in folds]
        if len(folds) > 1:
            columns.append((dataset, structure, None))
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
    header = ["Method", *(_title(results, column) for column in columns)]
    rows: list[Row] = []
    records: list[Cell] = []
    for source in (*results.selected, *others):
        lines = [[_cell(results, source, method, column) for column in columns] for method in methods.values()]
        cells = [cell for line in lines for cell in line]
        if source in results.selected or any(not np.isnan(cell.get("mean", np.nan)) for cell in cells):
            rows.append(Row([capital(_SOURCES[source])], heading=True))
            rows += _with_best(results, list(methods), lines, columns)
            records += cells
    return Table(name, caption, header, rows, _frame(results, records))


def _frame(results: Results, records: Sequence[Cell]) -> pd.DataFrame:
    """The cells for computing; where the metric is Dice, the columns are called after it."""
    names = ["source", "method", "dataset", "structure", _number(results), "images", "mean", "sd", "learning_rate"]
    table = pd.DataFrame(records, columns=names).astype({"images": "Int64", _number(results): "Int64"})
    return table.rename(columns={name: f"{name}_{results.metric.short}" for name in ("mean", "sd")})


def _title(results: Results, column: Column) -> str:
    dataset, structure, fold = column
    if fold is None:
        return "all" if len(results.datasets) == 1 else f"{dataset}, all"
    images = results.part(results.by_either_rule, dataset, structure)
    images = images[images[results.column] == fold]
    return f"{_name(results, dataset, results.column, fold)} ({_count_images(images)})"


def _name(results: Results, dataset: str, what: str, number: float) -> str:
    """The name of a fold or split: its number, as in folders and files, after its data set where there are several."""
    return place(dataset if len(results.datasets) > 1 else "", f"{what} {number:.0f}")


def _number(results: Results) -> str:
    """The column of a CSV file that holds the number of the fold or of the split."""
    return "split" if results.column == "split" else "test_fold"


def _cell(results: Results, source: str, method: str, column: Column) -> Cell:
    dataset, structure, fold = column
    if fold is None:
        return _over_folds(results, source, method, dataset, structure)
    cell: dict[str, Any] = {"source": source, "method": method, "dataset": dataset, "structure": structure}
    cell[_number(results)] = int(fold)
    if source == "published":
        group = str(results.published_group(dataset))
        published = published_dice(method, f"{group}-{fold + 1:.0f}") if may_be_cavity(structure, group) else None
        return cell | dict(zip(("mean", "sd"), published or (), strict=False))
    images = results.cells[source].get((dataset, structure, fold, method), results.shown.iloc[:0])
    scores = images[images["score"].notna()]
    cell["images"] = _count_images(scores)
    if scores.empty:
        return cell
    mean, sd = scores["score"].mean(), scores["score"].std(ddof=1)
    rates = scores["learning_rate"].unique()  # of a split, each fold has its own
    return cell | {"mean": mean, "sd": sd, "learning_rate": rates[0] if len(rates) == 1 else None}


def _over_folds(results: Results, source: str, method: str, dataset: str, structure: str) -> Cell:
    """The mean over the folds or splits, of a method that was tested on all of them."""
    folds = results.part(results.by_either_rule, dataset, structure)[results.column].unique()
    means = [_cell(results, source, method, (dataset, structure, fold)).get("mean", np.nan) for fold in folds]
    key = {"source": source, "method": method, "dataset": dataset, "structure": structure}
    return key | {"mean": float(np.mean(means))}


def _count_images(scores: pd.DataFrame) -> int:
    """Images, each once: there are several scores of one with several methods or seeds."""
    key = ["subject", "phase", "slice"]
    if scores["slice"].isna().all():  # a subject may have several cases
        key.append("image")
    return len(scores.drop_duplicates(key))


def _with_best(
    results: Results, labels: Sequence[str], lines: Sequence[Sequence[Cell]], columns: Sequence[Column]
) -> list[Row]:
    """Rows with the best mean of each column bold, as printed: equal ones alike. What nobody learned has no best."""
    metric = results.metric
    means = np.array([[round(cell.get("mean", np.nan), metric.decimals) for cell in line] for line in lines], float)
    learned = [(dataset, structure) not in results.unlearned for dataset, structure, _ in columns]
    worst = -np.inf if metric.higher_is_better else np.inf
    filled = np.where(np.isnan(means), worst, means)
    best = filled.max(axis=0) if metric.higher_is_better else filled.min(axis=0)
    rows = []
    for label, line, own in zip(labels, lines, means, strict=True):
        bold: frozenset[int] = frozenset()
        if len(lines) > 1:
            bold = frozenset((np.flatnonzero((own == best) & learned) + 1).tolist())
        rows.append(Row([label, *(_mean_and_sd(cell, metric.decimals) for cell in line)], bold))
    return rows


def _mean_and_sd(cell: Cell, decimals: int) -> str:
    mean, sd = number(cell.get("mean"), decimals), cell.get("sd", np.nan)
    if np.isnan(sd):
        return mean
    return f"{mean}\N{PLUS-MINUS SIGN}{number(sd, decimals)}"


def _rates_table(results: Results) -> Table:
    images = results.by_either_rule
    folds = []
    for dataset in results.datasets:
        tested = images.loc[images["dataset"] == dataset, ["split", "fold"]].drop_duplicates()
        folds += [(dataset, *pair) for pair in sorted(tested.itertuples(index=False, name=None))]
    rows, frames = [], []
    for rule, chosen in results.chosen.items():
        rows.append(Row([capital(_SOURCES[rule])], heading=True))
        frames.append(chosen.assign(rule=rule))
        rates = chosen.set_index(GROUP)["learning_rate"].map("{:g}".format).to_dict()
        for method in results.methods_of(images):
            cells = [rates.get((dataset, method, split, fold), NO_NUMBER) for dataset, split, fold in folds]
            rows.append(Row([method, *cells]))
    header = ["Method"]
    for dataset, split, fold in folds:
        name = _name(results, dataset, "fold", fold)
        header.append(f"{name}, split {split:.0f}" if results.column == "split" else name)
    return Table("learning_rates", "Chosen learning rates.", header, rows, pd.concat(frames))
