"""The answer of a study in a small table: which norm, by how much, how sure, and at what price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from monai_iln.errors import count
from monai_iln.study.report import cost
from monai_iln.study.report.document import Block, Row, Table
from monai_iln.study.report.results import Results
from monai_iln.study.report.winners import Winner, name_of, tell
from monai_iln.study.report.wording import join, number, p_value
from monai_iln.study.statistics import Metric
from monai_iln.study.verdicts import Verdict

_QUESTIONS = ("Which norm", "By how much", "How sure", "At what price")


def blocks(results: Results, best: Mapping[str, Winner | None]) -> list[Block]:
    """A table with a column for each data set; nothing where no two methods were tested on the same subjects.

    Args:
        results: The results.
        best: What :func:`~monai_iln.study.report.winners.winners_of` found of them.
    """
    metric = results.metric
    header, columns, records = [""], [], []
    for dataset, winner in best.items():
        if winner is None:
            continue
        where = name_of(dataset, results.learned(dataset))
        header.append(where)
        rivals = _rivals(winner, results.reference, metric)
        runs = results.runs[results.runs["dataset"] == dataset]
        prices = [cost.records(runs, [winner.by_mean, row.other], row.other) for row in rivals]
        columns.append(
            [
                _which(winner, metric),
                " ".join(tell(row.answer, [row], metric, results.margin) for row in rivals),
                _how_sure(rivals, metric),
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


def _rivals(winner: Winner, reference: str, metric: Metric) -> list[Verdict]:
    """The comparison with the second best, and that with the reference where it is neither."""
    rows = sorted(winner.verdicts, key=lambda row: winner.means[row.other], reverse=metric.higher_is_better)
    return [rows[0], *(row for row in rows[1:] if row.other == reference)]


def _which(winner: Winner, metric: Metric) -> str:
    text = f"{winner.by_mean} ({metric.mean} {number(winner.means[winner.by_mean], metric.decimals)}{metric.unit})"
    if winner.by_rank != winner.by_mean:
        text += f"; by mean rank {winner.by_rank}"
    same = [row.other for row in winner.verdicts if row.answer == "equal"]
    open_ = [row.other for row in winner.verdicts if row.answer in ("unknown", "untested")]
    if same:
        text += f"; practically equal to {join(same)}"
    if open_:
        text += f"; not told apart from {join(open_)}"
    return text


def _how_sure(rivals: Sequence[Verdict], metric: Metric) -> str:
    """The p values, the chance of a new training, and what they stand on. What is practically equal is so for any p."""
    first = rivals[0]
    apart = [row for row in rivals if row.answer != "equal" and not pd.isna(row.p_holm)]
    tested = [f"{p_value(row.p_holm)} against {row.other}" for row in apart]
    size = join([count(first.subjects, "subject"), count(first.folds, "fold"), count(first.seeds, "seed")])
    text = " ".join(f"{part}." for part in [join(tested), size] if part)
    if pd.isna(first.chance_of_better):
        return text
    likely = number(first.chance_of_better, 2)
    text += f" In one new training of each, it beats {first.other} with a probability of {likely}."
    if first.seeds == 1:
        text += " One seed: the luck of trainings is taken from that of folds."
    return text


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
