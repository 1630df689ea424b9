"""What a study leaves: plain files, a folder for each run, and the tables over all of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from monai_iln.errors import UserError
from monai_iln.files import write_json

STUDY = "study.json"
RECORD = "run.json"
FAILURE = "failure.json"
GRID = ("dataset", "method", "fold", "learning_rate", "seed")
_TEXT = {"part": str, "subject": str, "phase": str, "position": str, "structure": str}


@dataclass(frozen=True)
class Records:
    """A study, read back.

    Attributes:
        study: what ``study.json`` holds.
        runs: one row for each run that finished, diverged or failed.
        images: one row for each image and structure of the finished runs.
    """

    study: Mapping[str, Any]
    runs: pd.DataFrame
    images: pd.DataFrame


def failure_path(run: Path) -> Path:
    """The folder that tells why a run failed, beside where its own would be."""
    return run.with_name(f"{run.name}.failed")


def write_failure(run: Path, grid: Mapping[str, Any], message: str, traceback: str = "", retry: bool = True) -> None:
    """Tell why a run failed.

    Args:
        run: its folder, where it would be.
        grid: its place in the grid.
        message: one sentence.
        traceback: of what was raised.
        retry: whether it may go well another time.
    """
    failure = failure_path(run)
    failure.mkdir(parents=True, exist_ok=True)
    document = {"message": message, "traceback": traceback, "retry": retry, "grid": dict(grid)}
    write_json(failure / FAILURE, document)


def find_records(folder: Path) -> list[Path]:
    """The files of all finished runs of a study."""
    found = folder.glob(f"runs/*/*/*/*/*/{RECORD}")
    return sorted(path for path in found if not path.parent.name.startswith("."))


def read_record(run: Path) -> dict[str, Any] | None:
    """The record of a run's folder; ``None`` if it has not finished.

    Raises:
        UserError: if the file is there but no record; nothing of ours leaves that behind.
    """
    path = run / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record["config_hash"], record["status"], record["scores"], record["cost"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not the record of a run ({type(error).__name__}: {error}). It was changed from outside: delete "
            "its folder, and the study will do the run again."
        ) from error
    return record


def read_records(folder: Path | str) -> Records:
    """Read a study, finished or under way.

    Args:
        folder: of the study.

    Raises:
        UserError: if the folder is no study, or a record is damaged.
    """
    folder = Path(folder)
    try:
        study = json.loads((folder / STUDY).read_text(encoding="utf-8"))
        order = {method: number for number, method in enumerate(study["methods"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: no study ({type(error).__name__}). Give the output_dir of one, or run one: monai-iln study."
        ) from error
    rows, images = [], []
    for path in find_records(folder):
        record = read_record(path.parent)
        if record is None:
            continue
        name = path.parent.relative_to(folder).as_posix()
        row = {"run": name, **record, **record["scores"], **record["cost"]}
        rows.append(
            {key: value for key, value in row.items() if not isinstance(value, (dict, list))} | {"norm": record["norm"]}
        )
        if record["status"] == "finished":
            table = _read_images(path.with_name("images.csv"))
            table.insert(0, "run", name)
            for position, key in enumerate(GRID, 1):
                table.insert(position, key, record[key])
            images.append(table)
    finished = {row["run"] for row in rows}
    for path in sorted(folder.glob(f"runs/*/*/*/*/*.failed/{FAILURE}")):
        name = path.parent.relative_to(folder).as_posix().removesuffix(".failed")
        if name not in finished:
            with contextlib.suppress(ValueError, KeyError):  # half written when the study was killed: done again
                failure = json.loads(path.read_text(encoding="utf-8"))
                rows.append({"run": name, "status": "failed", "message": failure["message"], **failure["grid"]})
    columns = ["run", *GRID, "status", "message", "test_dice", "test_dice_std", "validation_dice", "seconds_per_step"]
    runs = pd.DataFrame(rows)
    runs = runs.reindex(columns=[*columns, *(column for column in runs.columns if column not in columns)])
    return Records(
        study,
        _in_order(runs, order),
        _in_order(pd.concat(images) if images else pd.DataFrame(columns=[*columns[:6], "dice"]), order),
    )


def _read_images(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=_TEXT)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not the images of a run ({error}). It was changed from outside: delete its folder, and the study "
            "will do the run again."
        ) from error


def _in_order(table: pd.DataFrame, order: Mapping[str, int]) -> pd.DataFrame:
    """Rows in the order of the study's methods; within a method they stay as they were."""
    return table.sort_values("method", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)


def write_tables(folder: Path, records: Records) -> None:
    """``runs.csv`` and ``images.parquet`` over all runs, and ``summary.json`` with the means of each of them."""
    records.runs.to_csv(folder / "runs.csv", index=False)
    records.images.to_parquet(folder / "images.parquet", index=False)
    test = records.images[records.images["part"] == "test"] if len(records.images) else records.images
    summary: dict[str, Any] = {}
    for key, group in test.groupby(["run", "structure"]) if len(test) else ():
        run, structure = map(str, key)
        cases = group.groupby(["subject", "phase"])["dice"].mean()
        summary.setdefault(run, {})[structure] = {
            "mean": float(group["dice"].mean()),
            "std": float(group["dice"].std()),
            "images": len(group),
            "cases": {"_".join(map(str, case)): float(value) for case, value in zip(cases.index, cases, strict=True)},
        }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
