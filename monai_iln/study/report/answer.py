"""The answer of a study in a small table: which norm, by how much, how sure, and at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from monai_iln.study.report import cost
from monai_iln.study.report.document import Block, Row, Table
from monai_iln.study.report.results import Results
from monai_iln.study.report.winners import Winner, find_winner, tell, verdict_of
from monai_iln.study.report.wording import count, number, p_value, place
from monai_iln.study.statistics import Comparison, Metric

_QUESTIONS = ("Which norm", "By how much", "How sure", "At what price")


def blocks(results: Results) -> list[Block]:
    """A table with a column for each data set; nothing where no two methods were tested on the same subjects."""
    metric = results.metric
    header, columns, records = [""], [], []
    for dataset in results.datasets:
        structures = [name for part, name in results.parts if part == dataset and (part, name) not in results.unlearned]
        if not structures:
            continue
        winner = find_winner(mean_scores(results, dataset, structures), results.reference, metric)
        if winner is None:
            continue
        where = place(dataset, structures[0])
        if len(structures) > 1:
            where = f"{dataset}, mean of {len(structures)} structures"
        header.append(where)
        rivals = _rivals(winner, results.reference, metric)
        runs = results.runs[results.runs["dataset"] == dataset]
        prices = [cost.records(runs, [winner.by_mean, row.other], row.other) for row in rivals]
        columns.append(
            [
                _which(winner, metric),
                " ".join(tell(verdict_of(row), [row], metric) for row in rivals),
                _how_sure(winner, rivals, dataset, results),
                _at_what_price(*prices[-1]),
            ]
        )
        for row, (own, _) in zip(rivals, prices, strict=True):
            records.append({**vars(row), "dataset": where, **own})
    if not columns:
        return []
    caption = (
        f"The best method by {metric.mean} beside the second best, and beside the reference where that is another. In "
        f"brackets: the difference in {metric.name} and its 95 % interval."
    )
    rows = [Row(cells) for cells in zip(_QUESTIONS, *columns, strict=True)]
    rows[0] = Row(rows[0].cells, frozenset(range(1, len(header))))
    return [Table("answer", caption, header, rows, pd.DataFrame(records), frozenset(range(len(header))))]


def mean_scores(results: Results, dataset: str, structures: Sequence[str]) -> pd.DataFrame:
    """The scores of the subjects, averaged over structures. Of several, those subjects count that all methods have."""
    scores = [results.scores(dataset, structure) for structure in structures]
    if len(scores) == 1:
        return scores[0]
    return pd.concat(scores).dropna().groupby(level="subject", sort=False).mean()


def _rivals(winner: Winner, reference: str, metric: Metric) -> list[Comparison]:
    """The comparison with the second best, and that with the reference where it is neither."""
    rows = sorted(winner.comparisons, key=lambda row: winner.means[row.other], reverse=metric.higher_is_better)
    return [rows[0], *(row for row in rows[1:] if row.other == reference)]


def _which(winner: Winner, metric: Metric) -> str:
    text = f"{winner.by_mean} ({metric.mean} {number(winner.means[winner.by_mean], metric.decimals)}{metric.unit})"
    if winner.by_rank != winner.by_mean:
        text += f"; by mean rank {winner.by_rank}"
    return text


def _how_sure(winner: Winner, rivals: Sequence[Comparison], dataset: str, results: Results) -> str:
    """The p values and what they stand on: subjects, folds, seeds, and what another seed would change."""
    tested = [f"{p_value(row.p_holm)} against {row.other}" for row in rivals if not pd.isna(row.p_holm)]
    seeds = results.runs["seed"].nunique()
    facts = [count(winner.subjects, "subject"), count(results.tested_folds[dataset], "fold"), count(seeds, "seed")]
    chance = "What another seed would change is not known."
    if not pd.isna(results.seed_variance.seed):
        changed = number(results.seed_variance.seed, results.metric.decimals)
        chance = f"Another seed changes the {results.metric.mean} of a fold by {changed}{results.metric.unit}."
    return f"{', '.join([*tested, *facts])}. {chance}"


def _at_what_price(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Time, parameters and memory, beside those of another method."""
    time = "Time per step not measured"
    if not pd.isna(own["ratio"]):
        time = f"{number(own['ratio'], 2)} times the time per step of {own['ratio_to']}"
    memory = "peak memory not measured"
    if not pd.isna(own["peak_memory_mib"]):
        memory = f"{_beside(own, other, 'peak_memory_mib')} MiB of peak memory"
    return f"{time}; {_beside(own, other, 'parameters')} parameters; {memory}."


def _beside(own: Mapping[str, Any], other: Mapping[str, Any], key: str) -> str:
    """A whole number, and that of the other method where it differs."""
    mine, theirs = (cost.thousands(record[key]) for record in (own, other))
    return mine if mine == theirs else f"{mine} instead of {theirs}"
