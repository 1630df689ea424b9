"""What each method does to the network, and what differs between the methods besides the norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from monai_iln.errors import count
from monai_iln.study.report.document import Block, Items, Row, Table
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import NO_NUMBER, join, number

_AFFINE = {True: "with", False: "without", None: NO_NUMBER}
_MEGA = 1e6
_MOST_NAMES = 4  # in a sentence; the CSV file has all


def blocks(results: Results) -> list[Block]:
    """A table of the methods and what was left or changed; nothing in studies of earlier versions."""
    if not results.surveys:
        return []
    notes = [*_notes(results, "left", _left_alone), *_notes(results, "regrouped", _regrouped)]
    return [_table(results), *([Items(notes)] if notes else [])]


def lines(results: Results) -> list[str]:
    """What the summary says of it: who is instance norm, a line a method, then what differs besides the norm."""
    return [*_dead_gates(results), *_one_channel_groups(results), *_differences(results)]


def _dead_gates(results: Results) -> list[str]:
    said = []
    for method, survey in results.surveys.items():
        dead, gates = int(survey.get("dead_gates") or 0), int(survey.get("gates") or 0)
        if not dead:
            continue
        what = "it is instance norm here"
        if dead < gates:
            what = "those layers are instance norm"
        said.append(
            f"{dead} of {count(gates, 'gate')} of {method} are dead: {what}, for the group norm after the gate has one "
            "channel a group. With num_groups: alive they live."
        )
    return said


def _one_channel_groups(results: Results) -> list[str]:
    counts = {method: survey.get("one_channel_groups") for method, survey in results.surveys.items()}
    return [
        f"{number} of {count(results.surveys[method]['norms'], 'norm')} of {method} are group norms with one channel a "
        "group, which is instance norm. Fewer groups make them group norms."
        for method, number in counts.items()
        if number
    ]


def _differences(results: Results) -> list[str]:
    runs = results.runs
    known = {method: survey.get("affine") for method, survey in results.surveys.items()}
    affine = {method: _AFFINE[value] for method, value in known.items() if value is not None}
    tried = {str(method): rates.nunique() for method, rates in runs.groupby("method", sort=False)["learning_rate"]}
    found = [
        _unequal("affine", affine),
        _unequal("parameters", _parameters(results)),
        _unequal("learning rates tried", tried),
    ]
    bad = runs[runs["status"].isin(["failed", "diverged"])]["method"].value_counts()
    broken = [f"{method} {bad[method]} of {(runs['method'] == method).sum()}" for method in results.methods_of(runs)
              if method in bad]  # fmt: skip
    if broken:
        found.append(f"runs that failed or diverged ({join(broken)})")
    if told := list(filter(None, found)):
        return [f"Besides the norm, the methods differ in {'; '.join(told)}."]
    if not results.surveys:
        return []
    return ["Besides the norm, nothing differs: affine, parameters and learning rates are alike, and no run broke."]


def _parameters(results: Results) -> dict[str, str]:
    """The parameters by method, as the plan counted them or else the runs."""
    counts = {method: survey.get("parameters") for method, survey in results.surveys.items()}
    recorded = results.runs.groupby("method", sort=False)["parameters"].median().dropna().to_dict()
    numbers = {method: counts.get(method) or recorded.get(method) for method in results.methods}
    return {method: f"{value:,.0f}" for method, value in numbers.items() if value is not None}


def _unequal(what: str, values: Mapping[str, Any]) -> str:
    """Name a property that is not the same for all methods, with its values; else nothing."""
    groups: dict[Any, list[str]] = {}
    for method, value in values.items():
        groups.setdefault(value, []).append(method)
    if len(groups) < 2:
        return ""
    return f"{what} ({', '.join(f'{join(methods)} {value}' for value, methods in groups.items())})"


def _table(results: Results) -> Table:
    rows, records = [], []
    for method, survey in results.surveys.items():
        kinds = dict(survey.get("kinds") or {})
        record: dict[str, Any] = {
            "method": method,
            "norms": survey.get("norms"),
            # Not "number", the function of that name: Python 3.12.1 takes the two for one variable.
            "kinds": join([f"{count} {kind}" for kind, count in kinds.items()]),
            "affine": survey.get("affine"),
            "gates": survey.get("gates"),
            "dead_gates": survey.get("dead_gates"),
            "regrouped": len(survey.get("regrouped") or ()),
            "left": len(survey.get("left") or ()),
            "parameters": survey.get("parameters"),
            "flops": survey.get("flops"),
        }
        records.append(record)
        gates = NO_NUMBER
        if record["gates"]:
            gates = f"{record['dead_gates'] or 0} of {record['gates']}"
        cells = [method, record["kinds"] or "none", _AFFINE[record["affine"]], gates]
        cells += [number(record[key], 0) for key in ("regrouped", "left")]
        parameters, flops = record["parameters"], record["flops"]
        cells.append(NO_NUMBER if parameters is None else f"{parameters:,.0f}")
        cells.append(NO_NUMBER if flops is None else f"{flops / _MEGA:,.0f}")
        rows.append(Row(cells))
    header = ["Method", "Norms of the network", "Affine", "Dead gates", "Groups changed", "Left alone", "Parameters"]
    caption = "What each method makes of the network, as the plan found it before the first run."
    left = frozenset({0, 1, 2})
    return Table("methods", caption, [*header, "MFLOPs"], rows, pd.DataFrame(records), left)


def _notes(results: Results, key: str, tell: Any) -> list[str]:
    """A sentence for each list of a kind that methods have; what several have alike is said once."""
    groups: dict[str, list[str]] = {}
    for method, survey in results.surveys.items():
        entries = list(survey.get(key) or ())
        if entries:
            groups.setdefault(tell(entries), []).append(method)
    return [f"{join(methods)}: {text}." for text, methods in groups.items()]


def _left_alone(entries: Sequence[Sequence[str]]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in entries:
        by_reason.setdefault(str(reason), []).append(str(name))
    return "left alone: " + "; ".join(f"{_names(names)} ({reason})" for reason, names in by_reason.items())


def _regrouped(entries: Sequence[Sequence[Any]]) -> str:
    by_change: dict[tuple[str, str], list[str]] = {}
    for name, asked, taken in entries:
        by_change.setdefault((str(asked), str(taken)), []).append(str(name))
    told = [f"{taken} instead of {asked} in {_names(names)}" for (asked, taken), names in by_change.items()]
    return f"groups that divide the channels: {'; '.join(told)}"


def _names(names: Sequence[str]) -> str:
    """Names of layers, the first few of many."""
    if len(names) <= _MOST_NAMES:
        return join(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"
