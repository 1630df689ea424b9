"""What a study leaves: plain files, a folder for each run, and the tables over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from monai_iln.errors import UserError, refusal
from monai_iln.files import new_file, write_json
from monai_iln.run_files import ALL_IMAGES, FAILURE, GRID, IMAGES, RECORD, RUN_FOLDERS, RUNS, STUDY, SUMMARY


@dataclass(frozen=True)
class Records:
    """A study, read back.

    Attributes:
        study: The plan, as ``study.json`` holds it.
        runs: A row for each run that finished, diverged or failed.
        images: A row for each image and structure of the finished runs.
    """

    study: Mapping[str, Any]
    runs: pd.DataFrame
    images: pd.DataFrame


def unfinished_path(run: Path, token: str) -> Path:
    """The folder that a run works in until everything is there.

    Args:
        run: The folder that it gets in the end.
        token: The token of the start of the study.
    """
    return run.with_name(f".{run.name}.{token}")


def failure_path(run: Path) -> Path:
    """The folder that tells why a run failed, beside where its own would be."""
    return run.with_name(f"{run.name}.failed")


def write_failure(run: Path, key: Mapping[str, Any], message: str, traceback: str = "", retry: bool = True) -> None:
    """Tell why a run failed.

    Args:
        run: The folder where the run would be.
        key: The run's values of :data:`~monai_iln.run_files.GRID`.
        message: One sentence.
        traceback: The traceback of what was raised, if it helps.
        retry: If true, the run may go well another time.
    """
    folder = failure_path(run)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"message": message, "traceback": traceback, "retry": retry, "grid": dict(key)}
    write_json(folder / FAILURE, document)


def read_failure(run: Path) -> dict[str, Any] | None:
    """Read why a run failed; ``None`` if it did not.

    Args:
        run: The folder where the run would be.

    Raises:
        UserError: If the file is there but tells nothing.
    """
    return _read_document(failure_path(run) / FAILURE, "failure", "message", "retry", "grid")


def find_runs(folder: Path) -> list[Path]:
    """List the folders of all finished runs of a study."""
    found = [path.parent for path in folder.glob(f"{RUN_FOLDERS}/{RECORD}")]
    return sorted(path for path in found if not path.name.startswith("."))


def read_record(run: Path) -> dict[str, Any] | None:
    """Read the record of a run; ``None`` if it has not finished.

    Args:
        run: The folder of the run.

    Raises:
        UserError: If the file is there but no record.
    """
    return _read_document(run / RECORD, "record", "config_hash", "status", "scores", "cost")


def read_records(folder: Path | str) -> Records:
    """Read a study, finished or under way.

    Args:
        folder: The folder of the study.

    Raises:
        UserError: If the folder is no study, or a record is damaged.
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
    for run in find_runs(folder):
        record = read_record(run)
        if record is None:
            continue
        name = run.relative_to(folder).as_posix()
        rows.append(_row(name, record))
        if record["status"] == "finished":
            table = _read_images(run)
            for position, column in enumerate(("run", *GRID)):
                table.insert(position, column, {"run": name, **record}[column])
            images.append(table)
    finished = {row["run"] for row in rows}
    for path in sorted(folder.glob(f"{RUN_FOLDERS}.failed/{FAILURE}")):
        run = path.parent.with_name(path.parent.name.removesuffix(".failed"))
        name = run.relative_to(folder).as_posix()
        if name not in finished and (failure := read_failure(run)) is not None:
            rows.append({"run": name, "status": "failed", "message": failure["message"], **failure["grid"]})
    all_images = pd.concat(images) if images else pd.DataFrame(columns=ALL_IMAGES.columns)
    runs = pd.DataFrame(rows)
    others = [column for column in runs.columns if column not in RUNS.columns]
    runs = runs.reindex(columns=[*RUNS.columns, *others])
    return Records(study, _in_order(runs, order), _in_order(all_images, order))


def _row(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Make the row of a run in the table of all runs: its values without what is made of several."""
    row = {"run": name, **record, **record["scores"], **record["cost"]}
    plain = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
    return plain | {"norm": record["norm"]}


def _read_images(run: Path) -> pd.DataFrame:
    try:
        return IMAGES.read(run)
    except (OSError, ValueError) as error:
        raise _changed_from_outside(run / IMAGES.name, "images", error) from error


def _read_document(path: Path, what: str, *keys: str) -> dict[str, Any] | None:
    """Read a JSON file that must have some keys; ``None`` if it is missing."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lacking = [key for key in keys if key not in document]
        if lacking:
            raise ValueError(f"without {', '.join(lacking)}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(error) from error
    except (ValueError, TypeError) as error:  # nothing of ours leaves that behind
        raise _changed_from_outside(path, what, error) from error
    return document


def _changed_from_outside(path: Path, what: str, error: Exception) -> UserError:
    return UserError(
        f"{path}: not the {what} of a run ({type(error).__name__}: {error}). It was changed from outside: delete its "
        "folder, and the study will do the run again."
    )


def _in_order(table: pd.DataFrame, order: Mapping[str, int]) -> pd.DataFrame:
    """Sort rows into the order of the study's methods. Within a method they stay as they were."""
    return table.sort_values("method", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)


def write_tables(folder: Path, records: Records) -> None:
    """Write ``runs.csv`` and ``images.csv`` over all runs, and ``summary.json`` with the means of each of them.

    Args:
        folder: The folder of the study.
        records: The records of the study.
    """
    for file, table in ((RUNS, records.runs), (ALL_IMAGES, records.images)):
        with new_file(folder / file.name) as partial:
            table.to_csv(partial, index=False)
    summary: dict[str, Any] = {}
    test = records.images[records.images["part"] == "test"]
    for key, group in test.groupby(["run", "structure"]):
        run, structure = map(str, key)
        cases = group.groupby(["subject", "phase"])["dice"].mean()
        summary.setdefault(run, {})[structure] = {
            "mean": float(group["dice"].mean()),
            "std": float(group["dice"].std()),
            "images": len(group),
            "cases": {"_".join(map(str, case)): float(value) for case, value in zip(cases.index, cases, strict=True)},
        }
    write_json(folder / SUMMARY, summary)
