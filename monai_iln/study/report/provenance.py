"""What was run: everything that someone needs who wants to believe, or to repeat, the report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from monai_iln.study.report.document import Block, Row, Table, Text
from monai_iln.study.report.results import STATUSES, Results
from monai_iln.study.report.wording import number

_COMMAND = (
    "python -m monai.bundle run_workflow --workflow_name monai_iln.study.CrossValidationWorkflow \\\n"
    "    --config_file configs/cross_validation.yaml"
)


def blocks(results: Results) -> list[Block]:
    """Runs, grid, data and machine, and the command."""
    found: list[Block] = [_runs_table(results), _setup_table(results)]
    bad = results.runs[results.runs["status"].isin(["failed", "diverged"])]
    if len(bad):
        found.append(_not_finished_table(bad))
    place = results.study.get("working_dir")  # which earlier versions did not record
    given = f", given in {place} (as seen from the folder of the study)," if place else ""
    found += [
        Text(
            "study.json, beside the folder of this report, holds the whole plan, and run.json in every run's folder "
            f"its configuration, versions and result. With the same configuration and data this command{given} does "
            "what is missing, keeps finished runs, and writes this report anew:"
        ),
        Text(str(results.study.get("command") or _COMMAND), "code"),
    ]
    return found


def _runs_table(results: Results) -> Table:
    rows = []
    for method in results.methods:
        statuses = results.runs.loc[results.runs["method"] == method, "status"]
        counts = [int((statuses == status).sum()) for status in STATUSES]
        planned = results.planned(method)
        norm = dict(results.study.get("methods") or {}).get(method, method)
        rows.append(Row([method, _norm(norm), str(planned), *map(str, counts), str(planned - sum(counts))]))
    header = ["Method", "Norm", "Planned", "Finished", "Diverged", "Failed", "Not run"]
    return Table("runs", "Runs of each method.", header, rows, results.runs, frozenset({0, 1}))


def _norm(norm: Any) -> str:
    """A norm specification for reading."""
    name, arguments = norm, {}
    if isinstance(norm, (list, tuple)) and len(norm) == 2 and isinstance(norm[1], Mapping):
        name, arguments = norm
    if name is None:
        return "none"
    if not arguments:
        return str(name)
    return f"{name} ({_equations(arguments)})"


def _setup_table(results: Results) -> Table:
    study = results.study
    facts: list[tuple[str, str]] = []
    for name in results.datasets:
        about = results.about(name)
        facts.append((f"Data of {name}", str(about.get("path") or "made by the training")))
        facts.append((f"SHA-256 of {name}", str(about.get("sha256") or "not recorded")))
    for name, folds in dict(study.get("folds") or {}).items():
        facts.append((f"Test folds of {name}", ", ".join(map(str, folds))))
    facts += [
        ("Learning rates", ", ".join(f"{float(rate):g}" for rate in study.get("learning_rates") or ())),
        ("Seeds", ", ".join(str(seed) for seed in study.get("seeds") or ())),
        ("Reference", results.reference),
        ("Preset", str(study.get("preset") or "none")),
        ("Overrides of the training", _equations(study.get("overrides") or {}) or "none"),
    ]
    commit = study.get("commit")
    if commit:
        changes = ", with changes" if commit.get("dirty") else ""
        facts.append(("Commit of monai_iln", f"{commit.get('hash')}{changes}"))
    environments = [record.get("environment") or {} for record in results.run_records]
    for title, key in (("Versions", "versions"), ("Machine", "machine")):
        seen = [_listed(environment[key]) for environment in environments if environment.get(key)]
        facts.append((title, "; or ".join(dict.fromkeys(seen)) or "not recorded"))
    hashes = {str(record["config_hash"]) for record in results.run_records if record.get("config_hash")}
    facts.append(("Configuration", _configuration(sorted(hashes))))
    frame = pd.DataFrame(facts, columns=["fact", "value"])
    return Table("setup", "Grid, data and machine.", ["", ""], [Row(fact) for fact in facts], frame, frozenset({0, 1}))


def _equations(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def _configuration(hashes: Sequence[str]) -> str:
    if not hashes:
        return "no hash recorded"
    if len(hashes) == 1:
        return f"hash {hashes[0]}"
    whole = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
    return f"a hash in each run.json, {len(hashes)} in all; the SHA-256 of their sorted list begins {whole}"


def _not_finished_table(bad: pd.DataFrame) -> Table:
    rows = []
    for run in bad.to_dict("records"):
        fold = number(run["fold"], 0)
        cells = [run["method"], run["dataset"], fold, f"{run['learning_rate']:g}", number(run["seed"], 0)]
        rows.append(Row([*cells, run["status"], run["message"]]))
    header = ["Method", "Data", "Fold", "Rate", "Seed", "Status", "Message"]
    left = frozenset({0, 1, 5, 6})
    return Table("not_finished", "Runs that did not finish.", header, rows, bad, left)
