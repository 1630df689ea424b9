"""The tables of a study's report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monai_iln.study.report.document import Row, Table
from monai_iln.study.report.evidence import RULES, Evidence
from monai_iln.study.report.published import TABLES, PaperTable, published_dice
from monai_iln.study.report.score_figures import MEASURES, UNITS
from monai_iln.study.report.wording import NONE, number, p_value, slug
from monai_iln.study.statistics import Agreement, Comparison

_MOST_COLUMNS = 7  # beside the methods, on a printed page
Column = tuple[str, str, float]  # data set, structure, test fold


def dice_tables(evidence: Evidence) -> list[Table]:
    """The paper's Tables 1 to 3 for the methods and data sets it names, and one of all for what they leave out."""
    tables: list[Table] = []
    present = evidence.methods_of(evidence.by_either_rule)
    ours = [dataset for dataset in evidence.datasets if evidence.published_group(dataset)]
    structures = list(dict.fromkeys(structure for _, structure in evidence.parts))
    wanted: list[tuple[PaperTable | None, list[tuple[str, str]], list[str]]] = []
    for table in TABLES:
        rows = [(label, method) for label, method in table.rows if method in present]
        if len(rows) > 1 and ours:
            wanted.append((table, rows, ours))
    covered = {method for _, rows, _ in wanted for _, method in rows}
    if set(present) - covered or set(evidence.datasets) - set(ours):
        wanted.append((None, [(method, method) for method in present], evidence.datasets))
    for paper, rows, datasets in wanted:
        for structure in structures:
            pieces = _pieces(evidence, datasets, structure)
            for part, columns in enumerate(pieces, 1):
                names = [f"table_{paper.number}" if paper else "dice_all_methods"]
                names += [structure] if len(structures) > 1 else []
                names += [str(part)] if len(pieces) > 1 else []
                title = f"Table {paper.number}. {paper.title}" if paper else "All methods"
                title += f" ({structure}){f', part {part} of {len(pieces)}' if len(pieces) > 1 else ''}."
                tables.append(_dice_table(evidence, columns, rows, paper is not None, slug(*names), title))
    return tables


def _pieces(evidence: Evidence, datasets: Sequence[str], structure: str) -> list[list[Column]]:
    """The columns of a table, in several tables if they do not fit on a page: then each data set has its own."""
    columns: list[Column] = []
    for dataset in datasets:
        folds = evidence.part(evidence.by_either_rule, dataset, structure)["fold"]
        columns += [(dataset, structure, fold) for fold in sorted(folds.unique())]
    if len(columns) <= _MOST_COLUMNS:
        return [columns] if columns else []
    pieces = []
    for dataset in dict.fromkeys(column[0] for column in columns):
        own = [column for column in columns if column[0] == dataset]
        pieces += [own[start : start + _MOST_COLUMNS] for start in range(0, len(own), _MOST_COLUMNS)]
    return pieces


def _dice_table(
    evidence: Evidence,
    columns: Sequence[Column],
    methods: Sequence[tuple[str, str]],
    with_published: bool,
    name: str,
    title: str,
) -> Table:
    header = ["Method"]
    for dataset, structure, fold in columns:
        images = evidence.part(evidence.by_either_rule, dataset, structure)
        header.append(f"{dataset}-{fold + 1:.0f} ({_count_images(images[images['fold'] == fold])})")
    blocks = {
        rule: [[_measured(images, method, column) for column in columns] for _, method in methods]
        for rule, images in evidence.selected.items()
    }
    if with_published:
        blocks["published"] = [[_published(evidence, method, column) for column in columns] for _, method in methods]
    headings = {**RULES, "published": "published in the paper: other folds"}
    labels = [label for label, _ in methods]
    rows: list[Row] = []
    records: list[dict[str, Any]] = []
    for source, block in blocks.items():
        if source != "published" or any("mean_dice" in record for line in block for record in line):
            rows += [Row([_capital(headings[source])], heading=True), *_with_best(labels, block)]
            records += [{"source": source, **record} for line in block for record in line]
    frame = pd.DataFrame(records).astype({"images": "Int64"})
    return Table(name, title, header, rows, frame)


def _measured(images: pd.DataFrame, method: str, column: Column) -> dict[str, Any]:
    dataset, structure, fold = column
    own = (images["dataset"] == dataset) & (images["structure"] == structure) & (images["fold"] == fold)
    scores = images[own & (images["method"] == method) & images["dice"].notna()]
    record: dict[str, Any] = {"method": method, "dataset": dataset, "structure": structure, "test_fold": int(fold)}
    record["images"] = _count_images(scores)
    if len(scores):
        mean, sd = scores["dice"].mean(), scores["dice"].std(ddof=1)
        record |= {"mean_dice": mean, "sd_dice": sd, "learning_rate": scores["learning_rate"].iloc[0]}
    return record


def _published(evidence: Evidence, method: str, column: Column) -> dict[str, Any]:
    dataset, structure, fold = column
    cell = published_dice(method, f"{evidence.published_group(dataset)}-{fold + 1:.0f}")
    record: dict[str, Any] = {"method": method, "dataset": dataset, "structure": structure, "test_fold": int(fold)}
    return record if cell is None else record | {"mean_dice": cell[0], "sd_dice": cell[1]}


def _count_images(scores: pd.DataFrame) -> int:
    """Images, each once: there are several scores of one with several methods or seeds."""
    return len(scores.drop_duplicates(["subject", "phase", "slice"]))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _with_best(labels: Sequence[str], block: Sequence[Sequence[dict[str, Any]]]) -> list[Row]:
    """Rows with the highest mean of each column bold, as printed: equal ones alike."""
    means = np.array([[round(record.get("mean_dice", np.nan), 3) for record in line] for line in block])
    rows = []
    for label, line, own in zip(labels, block, means, strict=True):
        best = {i + 1 for i, mean in enumerate(own) if len(block) > 1 and mean == np.nanmax([*means[:, i], -1])}
        rows.append(Row([label, *map(_mean_and_sd, line)], frozenset(best)))
    return rows


def _mean_and_sd(record: dict[str, Any]) -> str:
    sd = record.get("sd_dice", np.nan)
    return number(record.get("mean_dice")) + ("" if np.isnan(sd) else f"\N{PLUS-MINUS SIGN}{number(sd)}")


def rates_table(evidence: Evidence) -> Table:
    """The chosen learning rates."""
    images = evidence.by_either_rule
    folds = [
        (dataset, fold)
        for dataset in evidence.datasets
        for fold in sorted(images.loc[images["dataset"] == dataset, "fold"].unique())
    ]
    rows, frames = [], []
    for rule, chosen in evidence.chosen.items():
        rows.append(Row([_capital(RULES[rule])], heading=True))
        frames.append(chosen.assign(rule=rule))
        rates = chosen.set_index(["dataset", "method", "fold"])["learning_rate"].to_dict()
        for method in evidence.methods_of(images):
            cells = [rates.get((dataset, method, fold)) for dataset, fold in folds]
            rows.append(Row([method, *(NONE if cell is None else f"{cell:g}" for cell in cells)]))
    header = ["Method", *(f"{dataset}-{fold + 1:.0f}" for dataset, fold in folds)]
    return Table("learning_rates", "Chosen learning rates.", header, rows, pd.concat(frames))


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """What each comparison of the reference found, in numbers."""
    reference = comparisons[0].reference
    rows: list[Row] = []
    for dataset, structure in dict.fromkeys((row.dataset, row.structure) for row in comparisons):
        rows.append(Row([f"{dataset}, {structure}"], heading=True))
        for row in comparisons:
            if (row.dataset, row.structure) == (dataset, structure):
                interval = NONE if np.isnan(row.low) else f"{number(row.low)} to {number(row.high)}"
                cells = [row.other, str(row.subjects), number(row.mean_reference), number(row.mean_other)]
                cells += [number(row.difference, sign=True), interval, p_value(row.p), p_value(row.p_holm)]
                rows.append(Row(cells, frozenset({7} if row.p_holm < 0.05 else ())))
    caption = (
        f"{reference} against every other method: mean Dice over subjects, mean difference with its 95 % bootstrap "
        "interval, and p of Wilcoxon's signed-rank test, as it is and after Holm's correction (bold below 0.05)."
    )
    header = ["Other", "Subjects", reference, "Other", "Difference", "95 % interval", "p", "p (Holm)"]
    return Table("comparisons", caption, header, rows, pd.DataFrame([vars(row) for row in comparisons]))


def quartiles(values: pd.Series[float], decimals: int = 3) -> str:
    """Median and quartiles for reading."""
    values = values.dropna()
    if values.empty:
        return NONE
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{number(middle, decimals)} ({number(low, decimals)}\N{EN DASH}{number(high, decimals)})"


def positions_table(images: pd.DataFrame, positions: Sequence[str], evidence: Evidence) -> Table:
    """Dice by position in the heart."""
    rows, records = [], []
    for dataset, structure in evidence.parts:
        chosen = evidence.part(images, dataset, structure)
        if chosen.empty:
            continue
        rows.append(Row([f"{dataset}, {structure}"], heading=True))
        for method in evidence.shown_methods:
            cells = []
            for position in positions:
                dice = chosen.loc[(chosen["method"] == method) & (chosen["position"] == position), "dice"].dropna()
                cells.append(quartiles(dice))
                key = {"dataset": dataset, "structure": structure, "method": method, "position": position}
                summary = {f"{name}_dice": dice.quantile(q) for name, q in _QUARTILES.items()}
                records.append({**key, "scores": len(dice), "mean_dice": dice.mean(), **summary})
            rows.append(Row([method, *cells]))
    caption = "Dice by position in the heart: median (quartiles) over test images."
    return Table("positions", caption, ["Method", *positions], rows, pd.DataFrame(records))


_QUARTILES = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}


def distances_table(evidence: Evidence) -> Table:
    """Distances between the surfaces, with the number of images in which they are undefined."""
    rows, records = [], []
    for dataset, structure in evidence.parts:
        chosen = evidence.part(evidence.shown, dataset, structure)
        rows.append(Row([f"{dataset}, {structure}"], heading=True))
        for method in evidence.shown_methods:
            scores = chosen[chosen["method"] == method]
            if scores.empty:
                continue
            undefined = int(scores["hd95_mm"].isna().sum())
            cells = [quartiles(scores[metric], 2) for metric in ("hd95_mm", "asd_mm")]
            rows.append(Row([method, *cells, f"{undefined} of {len(scores)}"]))
            record: dict[str, Any] = {"dataset": dataset, "structure": structure, "method": method}
            for metric in ("hd95_mm", "asd_mm"):
                record |= {f"{name}_{metric}": scores[metric].quantile(q) for name, q in _QUARTILES.items()}
            records.append({**record, "undefined": undefined, "scores": len(scores)})
    caption = (
        "Surface distances in mm: median (quartiles) over the test images in which they are defined, which takes "
        "something to be there and something to be predicted."
    )
    header = ["Method", "HD95, mm", "ASD, mm", "Undefined"]
    return Table("distances", caption, header, rows, pd.DataFrame(records))


def agreement_table(
    agreements: Mapping[tuple[str, str], Agreement], methods: Iterable[str], dataset: str, structure: str
) -> Table:
    """Bias and limits of agreement of volumes and ejection fraction."""
    measures = [name for name in MEASURES if any(key[1] == name for key in agreements)]
    rows, records = [], []
    for method in methods:
        found = [agreements.get((method, measure)) for measure in measures]
        cells = [method, "/".join(dict.fromkeys(str(each.subjects) for each in found if each))]
        for measure, each in zip(measures, found, strict=True):
            if each is None:
                cells += [NONE, NONE]
                continue
            limits = NONE if np.isnan(each.sd) else f"{number(each.low, 1)} to {number(each.high, 1)}"
            cells += [number(each.bias, 1, sign=True), limits]
            records.append({"method": method, "measure": measure, "unit": UNITS[measure], **vars(each)})
        rows.append(Row(cells))
    header = ["Method", "Subjects"]
    for measure in measures:
        header += [f"{MEASURES[measure]}, {UNITS[measure]}: bias", "limits"]
    caption = f"{dataset}, {structure}: bias (predicted minus true) and 95 % limits of agreement."
    return Table(slug("agreement", dataset, structure), caption, header, rows, pd.DataFrame(records))


def rate_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice of the finished runs at every rate, and how many of the runs diverged."""
    records = []
    done = runs[runs["status"].isin(["finished", "diverged"])]
    for (method, rate), group in done.groupby(["method", "learning_rate"], sort=False):
        finished = group.loc[group["status"] == "finished", "test_dice"]
        diverged = int((group["status"] == "diverged").sum())
        record = {"method": method, "learning_rate": rate, "dice": finished.mean(), "finished": finished.count()}
        records.append({**record, "diverged": diverged, "runs": len(group)})
    return pd.DataFrame(records, columns=["method", "learning_rate", "dice", "finished", "diverged", "runs"])


def rates_score_table(scores: pd.DataFrame, methods: Sequence[str], dataset: str) -> Table:
    """Mean Dice over the test folds at every learning rate."""
    rates = sorted(scores["learning_rate"].unique(), reverse=True)
    rows = []
    for method in methods:
        cells, best = [method], -1.0
        own = scores[scores["method"] == method].set_index("learning_rate")
        for rate in rates:
            if rate not in own.index:
                cells.append(NONE)
                continue
            row = own.loc[rate]
            best = max(best, -1.0 if np.isnan(row["dice"]) else round(row["dice"], 3))
            said = f" ({row['diverged']}/{row['runs']} div.)" if row["diverged"] else ""
            cells.append("diverged" if row["diverged"] == row["runs"] else number(row["dice"]) + said)
        bold = {i for i, cell in enumerate(cells) if len(rates) > 1 and cell.split(" ")[0] == number(best)}
        rows.append(Row(cells, frozenset(bold)))
    caption = (
        f"{dataset}: mean Dice on test images by learning rate, over the runs that finished; the best of a row is bold."
    )
    if scores["diverged"].any():
        caption += " (n/m div.): n of m runs diverged."
    header = ["Method", *(f"{rate:g}" for rate in rates)]
    return Table(slug("dice_by_rate", dataset), caption, header, rows, scores)
