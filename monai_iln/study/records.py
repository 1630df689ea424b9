"""What a study leaves: plain files, a folder for each run, and the tables over all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from monai_iln.errors import UserError, refusal
from monai_iln.files import write_csv, write_json
from monai_iln.run_files import (
    ALL_IMAGES,
    DICE_SCORES,
    FAILURE,
    GRID,
    IMAGES,
    RECORD,
    RUN_FOLDER,
    RUN_FOLDERS,
    RUNS,
    SCORES,
    STUDY,
    SUMMARY,
)

_IMAGE_KEY = ["part", "subject", "phase", "slice", "index", "structure"]
"""What tells one row of a run's images from another; where it scores cases by a bundle's own metric, also ``image``."""
_ALWAYS = ("part", "subject")
_OF_IMAGES = ("phase", "structure", "dice", "truth_pixels", "predicted_pixels")
_ROWS_AT_ONCE = 10_000
_STATUSES = ("finished", "diverged")


@dataclass(frozen=True)
class Records:
    """A study, read back.

    Attributes:
        study: The plan, as ``study.json`` holds it.
        runs: A row for each run that finished, diverged or failed.
        images: A row for each image and structure of the finished runs. Its texts are categories. The column ``score``
            is Dice where a run recorded no other metric.
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
    return _read_document(failure_path(run) / FAILURE, "failure", message=str, retry=bool, grid=dict)


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
    return _read_document(run / RECORD, "record", config_hash=str, status=str, scores=dict, cost=dict)


def read_records(folder: Path | str) -> Records:
    """Read a study, finished or under way.

    A run that was to be done again and failed has failed: its record is of another configuration.

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
    rows, tables = [], []
    told = [path.parent for path in folder.glob(f"{RUN_FOLDERS}.failed/{FAILURE}")]
    failed = {path.with_name(path.name.removesuffix(".failed")) for path in told}
    for run in find_runs(folder):
        record = read_record(run)
        if record is None or run in failed:
            continue
        name = run.relative_to(folder).as_posix()
        _require_own_folder(run, name, record)
        _require_values(run, record)
        rows.append(_row(name, record))
        if record["status"] == "finished":
            table = _read_images(run, record)
            if "score" not in table:
                table["score"] = table["dice"]
            for position, column in enumerate(("run", *GRID, "split")):
                table.insert(position, column, rows[-1][column])
            if len(table):
                tables.append(table)
    for run in sorted(failed):
        if (failure := read_failure(run)) is not None:
            its = {"run": run.relative_to(folder).as_posix(), "split": 0, "status": "failed"}
            rows.append({**its, "message": failure["message"], **failure["grid"]})
    tables.sort(key=lambda table: order.get(table["method"].iloc[0], len(order)))
    runs = pd.DataFrame(rows)
    others = [column for column in runs.columns if column not in RUNS.columns]
    runs = runs.reindex(columns=[*RUNS.columns, *others])
    # Within a method runs stay as they were.
    runs = runs.sort_values("method", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)
    return Records(study, runs, _join(tables))


def _row(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Make the row of a run in the table of all runs: its values without what is made of several."""
    scores = {key: _score(record, key) for key in SCORES}
    row = {"run": name, "split": 0, **record, **scores, **record["scores"], **record["cost"]}
    plain = {key: value for key, value in row.items() if not isinstance(value, (dict, list))}
    return plain | {"norm": record["norm"]}


def _score(record: Mapping[str, Any], key: str) -> float | None:
    """A score of a run's record, which has it under its own name or under that of Dice."""
    scores: Mapping[str, float | None] = record["scores"]
    return scores.get(key, scores.get(DICE_SCORES[key]))


def run_scores(images: pd.DataFrame) -> dict[str, float]:
    """The scores of a run: mean and standard deviation over its test images, and the mean over its validation images.

    Args:
        images: The rows of ``images.csv``. The score is the column ``score``, or ``dice`` where there is none.

    Returns:
        The numbers by the names of :data:`~monai_iln.run_files.SCORES`; NaN where there is none.
    """
    column = "score" if "score" in images else "dice"
    test, validation = (images.loc[images["part"] == part, column] for part in ("test", "validation"))
    return dict(zip(SCORES, (test.mean(), test.std(), validation.mean()), strict=True))


def _require_own_folder(run: Path, name: str, record: Mapping[str, Any]) -> None:
    """Refuse the record of another run, as a folder that was copied or renamed holds it."""
    lacking = [key for key in ("norm", *GRID) if key not in record]
    if lacking:
        raise _changed_from_outside(run / RECORD, "record", f"it lacks {', '.join(lacking)}")
    own = RUN_FOLDER.format(**{key: record[key] for key in GRID})
    if own != name:
        raise _changed_from_outside(run / RECORD, "record", f"it is the record of {own}")


def _require_values(run: Path, record: Mapping[str, Any]) -> None:
    """Refuse a record of an unknown status, or whose scores or counts are no numbers."""
    if record["status"] not in _STATUSES:
        raise _changed_from_outside(run / RECORD, "record", f"its status is {record['status']!r}")
    for key in ("scores", "images"):
        values = record.get(key, {})  # earlier versions did not count
        if not isinstance(values, dict) or not all(map(_is_number, values.values())):
            raise _changed_from_outside(run / RECORD, "record", f"its {key} are {values!r}, and must be numbers")


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def _read_images(run: Path, record: Mapping[str, Any]) -> pd.DataFrame:
    """Read the images of a finished run, and compare them with what its record tells of them."""
    try:
        table = IMAGES.read(run)
        _check_images(table, record)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise _changed_from_outside(run / IMAGES.name, "images", str(error)) from error
    return table


def _check_images(table: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Check the images of a run against its record.

    What scores cases by a bundle's own metric has a column ``score``, and may lack much that images of this package
    have: a case without the class has no score, and a case need not be an image.

    Raises:
        ValueError: If they are not those that it was written for.
    """
    of_cases = "score" in table
    for column in (*_ALWAYS, *(() if of_cases else _OF_IMAGES)):
        empty = np.flatnonzero(table[column].isna())
        if len(empty):
            raise ValueError(f"{column} is empty in row {empty[0] + 1}")
    twice = int(table.duplicated(_IMAGE_KEY).sum())
    if of_cases:  # a subject may have several cases; those without a file cannot be told apart
        twice = int(table[table["image"].notna()].duplicated([*_IMAGE_KEY, "image"]).sum())
    if twice:
        raise ValueError(f"it has {twice} of its {len(table)} rows twice")
    for part, rows in record.get("images", {}).items():  # earlier versions did not count
        counted = int((table["part"] == part).sum())
        if counted != rows:
            raise ValueError(f"it has {counted} rows of the part {part}, and {RECORD} counts {rows}")
    for name, value in run_scores(table).items():
        recorded = _score(record, name)
        if DICE_SCORES[name] in record["scores"]:
            name = DICE_SCORES[name]
        if not np.isclose(value, np.nan if recorded is None else recorded, rtol=0, atol=1e-9, equal_nan=True):
            raise ValueError(f"its {name} is {value:.6g}, and {RECORD} says {recorded}")


def _read_document(path: Path, what: str, **kinds: type) -> dict[str, Any] | None:
    """Read a JSON file that must have keys with values of some kinds; ``None`` if it is missing."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lacking = [key for key in kinds if key not in document]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        for key, kind in kinds.items():
            if not isinstance(document[key], kind):
                raise ValueError(f"its {key} is {document[key]!r}, and must be of another kind")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(error) from error
    except (ValueError, TypeError) as error:  # nothing of ours leaves that behind
        raise _changed_from_outside(path, what, str(error)) from error
    return document


def _changed_from_outside(path: Path, what: str, why: str) -> UserError:
    return UserError(
        f"{path}: not the {what} of a run ({why}). It was changed from outside: delete its folder, and the study will "
        "do the run again."
    )


def _join(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the images of all runs into one table whose texts are categories: each text is held once."""
    if not tables:
        return pd.DataFrame(columns=ALL_IMAGES.columns)
    columns: dict[Any, Any] = {}
    shared = set.intersection(*(set(table.columns) for table in tables))  # someone may have added one to a few
    for column in filter(shared.__contains__, tables[0]):
        parts = [table[column] for table in tables]
        if column in ALL_IMAGES.texts:
            categories = [part.astype("category") for part in parts]
            columns[column] = union_categoricals(categories, sort_categories=True)
        else:
            columns[column] = np.concatenate(parts)
    return pd.DataFrame(columns, copy=False)


def write_tables(folder: Path, records: Records) -> None:
    """Write ``runs.csv`` and ``images.csv`` over all runs, and ``summary.json`` with the means of each of them.

    Args:
        folder: The folder of the study.
        records: The records of the study.
    """
    write_frame(folder / RUNS.name, records.runs)
    write_frame(folder / ALL_IMAGES.name, records.images)
    summary: dict[str, Any] = {}
    texts, scores = ["run", "structure", "subject", "phase"], records.images["score"]
    test = records.images.loc[records.images["part"] == "test", texts].astype(object)
    test = test.where(test.notna(), "").assign(score=scores)
    test["case"] = ["_".join(filter(None, case)) for case in zip(test["subject"], test["phase"], strict=True)]
    for key, group in test.groupby(["run", "structure"]):
        run, structure = map(str, key)
        summary.setdefault(run, {})[structure] = {
            "mean": float(group["score"].mean()),
            "std": float(group["score"].std()),
            "images": len(group),
            "cases": group.groupby("case")["score"].mean().to_dict(),
        }
    write_json(folder / SUMMARY, summary)


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table of pandas as :func:`~monai_iln.files.write_csv` does, without its index.

    Args:
        path: The file; its folder must exist.
        frame: The table. A missing value is an empty cell.
    """
    write_csv(path, list(frame.columns), _cells(frame))


def _cells(frame: pd.DataFrame) -> Iterator[Sequence[Any]]:
    """The rows of a table as Python's own objects, few of them at a time."""
    for start in range(0, len(frame), _ROWS_AT_ONCE):
        part = frame.iloc[start : start + _ROWS_AT_ONCE]
        yield from zip(*(_cells_of(part[column]) for column in part), strict=True)


def _cells_of(column: pd.Series[Any]) -> list[Any]:
    return column.astype(object).where(column.notna(), None).tolist()
