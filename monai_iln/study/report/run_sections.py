"""The sections of a report on the runs themselves: what they cost, and what was run where."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monai_iln.study.report.document import Row, Section, Table, Text, absent
from monai_iln.study.report.evidence import STATUSES, Evidence
from monai_iln.study.report.published import TIME_RATIO
from monai_iln.study.report.wording import NONE, number

_MEBIBYTE = 2**20
_INSTANCE_NORM = "IN"  # what the paper compares times with
_COMMAND = (
    "python -m monai.bundle run_workflow --workflow_name monai_iln.study.CrossValidationWorkflow \\\n"
    "    --config_file configs/cross_validation.yaml"
)


def cost_section(evidence: Evidence) -> Section:
    """Parameters, time and memory of each method."""
    section = Section("Cost")
    finished = evidence.runs[evidence.runs["status"] == "finished"]
    if finished["seconds_per_step"].isna().all():
        section.blocks.append(absent("No finished run recorded its time per step."))
        return section
    methods = [method for method in evidence.methods if method in set(finished["method"])]
    base = _INSTANCE_NORM if _INSTANCE_NORM in methods else evidence.reference
    text = (
        "Runs shared the machine with one another and with whatever else ran on it, so times are rough. The ratio is "
        "the median over pairs of runs with the same data, fold, learning rate and seed."
    )
    if {"ILN", _INSTANCE_NORM} <= set(methods):
        text += f" For ILN the paper reports {TIME_RATIO:.3f}."
    section.blocks.append(Text(text))
    section.blocks.append(_cost_table(evidence, finished, methods, base))
    if finished["peak_memory_bytes"].isna().all():
        section.blocks.append(absent("Peak memory is missing: no run measured it."))
    return section


def _cost_table(evidence: Evidence, finished: pd.DataFrame, methods: Sequence[str], base: str) -> Table:
    keys = ["dataset", "fold", "learning_rate", "seed"]
    steps = finished.pivot_table(index=keys, columns="method", values="seconds_per_step", aggfunc="first")
    rows, records = [], []
    for method in methods:
        runs = finished[finished["method"] == method]
        milliseconds = 1000 * runs["seconds_per_step"]
        record = {
            "method": method,
            "parameters": runs["parameters"].median(),
            "ms_per_step": milliseconds.median(),
            "ms_per_step_lowest": milliseconds.min(),
            "ms_per_step_highest": milliseconds.max(),
            "ratio_to": base,
            "ratio": (steps[method] / steps[base]).median() if {base, method} <= set(steps.columns) else np.nan,
            "peak_memory_mib": runs["peak_memory_bytes"].median() / _MEBIBYTE,
            "train_minutes": runs["train_seconds"].median() / 60,
            "all_runs_hours": evidence.runs.loc[evidence.runs["method"] == method, "total_seconds"].sum() / 3600,
        }
        records.append(record)
        spread = f" ({number(milliseconds.min(), 1)}\N{EN DASH}{number(milliseconds.max(), 1)})"
        cells = [
            method,
            NONE if np.isnan(record["parameters"]) else f"{record['parameters']:,.0f}",
            number(record["ms_per_step"], 1) + (spread if milliseconds.notna().sum() > 1 else ""),
            number(record["ratio"], 2),
            number(record["peak_memory_mib"], 0),
            number(record["train_minutes"], 1),
            number(record["all_runs_hours"], 2),
        ]
        rows.append(Row(cells))
    header = ["Method", "Parameters", "Time of a step, ms: median (range)", f"Ratio to {base}", "Peak memory, MiB"]
    header += ["Training of one run, min", "All runs, h"]
    return Table("cost", "What each method costs.", header, rows, pd.DataFrame(records))


def provenance_section(evidence: Evidence) -> Section:
    """Everything that someone needs who wants to believe, or to repeat, the report."""
    section = Section("What was run")
    section.blocks += [_runs_table(evidence), _setup_table(evidence)]
    bad = evidence.runs[evidence.runs["status"].isin(["failed", "diverged"])]
    if len(bad):
        section.blocks.append(_not_finished_table(bad))
    section.blocks += [
        Text(
            "study.json, beside the folder of this report, holds the whole plan, and run.json in every run's folder "
            "its configuration, versions and result. With the same configuration and data this command does what is "
            "missing, keeps finished runs, and writes this report anew:"
        ),
        Text(str(evidence.study.get("command") or _COMMAND), "code"),
    ]
    return section


def _runs_table(evidence: Evidence) -> Table:
    rows = []
    for method in evidence.methods:
        statuses = evidence.runs.loc[evidence.runs["method"] == method, "status"]
        counts = [int((statuses == status).sum()) for status in STATUSES]
        planned = evidence.planned(method)
        norm = dict(evidence.study.get("methods") or {}).get(method, method)
        rows.append(Row([method, _norm(norm), str(planned), *map(str, counts), str(planned - sum(counts))]))
    header = ["Method", "Norm", "Planned", "Finished", "Diverged", "Failed", "Not run"]
    return Table("runs", "Runs of each method.", header, rows, evidence.runs, frozenset({0, 1}))


def _norm(norm: Any) -> str:
    """A norm specification for reading."""
    if isinstance(norm, (list, tuple)) and len(norm) == 2 and isinstance(norm[1], Mapping):
        arguments = ", ".join(f"{key} = {value}" for key, value in norm[1].items())
        return f"{norm[0]} ({arguments})" if arguments else str(norm[0])
    return "none" if norm is None else str(norm)


def _setup_table(evidence: Evidence) -> Table:
    study = evidence.study
    facts: list[tuple[str, str]] = []
    for name in evidence.datasets:
        about = evidence.about(name)
        facts.append((f"Data of {name}", str(about.get("path") or "made by the training")))
        facts.append((f"SHA-256 of {name}", str(about.get("sha256") or "not recorded")))
    for name, folds in dict(study.get("folds") or {}).items():
        facts.append((f"Test folds of {name}", ", ".join(f"{name}-{fold + 1}" for fold in folds)))
    overrides = dict(study.get("overrides") or {})
    facts += [
        ("Learning rates", ", ".join(f"{float(rate):g}" for rate in study.get("learning_rates") or ())),
        ("Seeds", ", ".join(str(seed) for seed in study.get("seeds") or ())),
        ("Reference", evidence.reference),
        ("Preset", str(study.get("preset") or "none")),
        ("Overrides of the training", ", ".join(f"{key} = {value}" for key, value in overrides.items()) or "none"),
    ]
    commit = study.get("commit")
    if isinstance(commit, Mapping):
        facts.append(("Commit of monai_iln", f"{commit.get('hash')}{', with changes' if commit.get('dirty') else ''}"))
    environments = [document.get("environment") or {} for document in evidence.documents]
    for title, key in (("Versions", "versions"), ("Machine", "machine")):
        seen = list(dict.fromkeys(_listed(there[key]) for there in environments if there.get(key)))
        facts.append((title, "; or ".join(seen) or "not recorded"))
    hashes = sorted({str(document["config_hash"]) for document in evidence.documents if document.get("config_hash")})
    facts.append(("Configuration", _configuration(hashes)))
    frame = pd.DataFrame(facts, columns=["fact", "value"])
    return Table("setup", "Grid, data and machine.", ["", ""], [Row(fact) for fact in facts], frame, frozenset({0, 1}))


def _configuration(hashes: Sequence[str]) -> str:
    if len(hashes) < 2:
        return f"hash {hashes[0]}" if hashes else "no hash recorded"
    whole = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
    return f"{len(hashes)} hashes, one in each run.json; the SHA-256 of their sorted list begins {whole}"


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    return str(value)


def _not_finished_table(bad: pd.DataFrame) -> Table:
    rows = []
    for run in bad.to_dict("records"):
        fold = f"{run['dataset']}-{number(run['fold'] + 1, 0)}"
        cells = [
            run["method"],
            fold,
            f"{run['learning_rate']:g}",
            number(run["seed"], 0),
            run["status"],
            run["message"],
        ]
        rows.append(Row(cells))
    header = ["Method", "Fold", "Rate", "Seed", "Status", "Message"]
    left = frozenset({0, 1, 4, 5})
    return Table("not_finished", "Runs that did not finish.", header, rows, bad, left)
