"""The files of a run and of a study: their names, and the columns of their tables.

Handlers write them during a training, the study and its report read them. They are spelt here and in the configurations
of the bundles, which name ``model.pt`` and ``overlay.png``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_iln.files import as_written, new_file, read_csv, write_csv, write_rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TableFile:
    """A table in CSV. An empty cell is a missing value.

    Attributes:
        name: The name of the file.
        columns: The names of its columns, in order.
        texts: The columns that hold text. The others hold numbers.
        optional: Columns of numbers that a file may have beside the others.

    Example:
        >>> import tempfile
        >>> table = TableFile("losses.csv", ("iteration", "loss"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table.write(Path(folder), [(1, 0.5)])
        ...     table.append(Path(folder), [(2, 0.25)])
        ...     table.read_rows(Path(folder))
        [{'iteration': '1', 'loss': '0.5'}, {'iteration': '2', 'loss': '0.25'}]
    """

    name: str
    columns: tuple[str, ...]
    texts: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns that hold numbers."""
        return tuple(column for column in self.columns if column not in self.texts)

    def write(self, folder: Path, rows: Iterable[Sequence[Any]] = ()) -> None:
        """Write the table, whole or not at all, over one that is there.

        Args:
            folder: The folder, which must exist.
            rows: The cells of each row, in the order of the columns.
        """
        write_csv(folder / self.name, self.columns, rows)

    def append(self, folder: Path, rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table that was begun with :meth:`write`: all of them or none."""
        path = folder / self.name
        with new_file(path) as partial:
            shutil.copyfile(path, partial)
            with partial.open("a", newline="", encoding="utf-8") as file:
                write_rows(file, rows)

    def read_rows(self, folder: Path) -> list[dict[str, str]]:
        """Read the rows as they are written. There are none if the file is missing or has other columns."""
        path = folder / self.name
        if not path.is_file():
            return []
        table = read_csv(path)
        return table.rows if tuple(table.columns) == self.columns else []

    def read(self, folder: Path) -> pd.DataFrame:
        """Read the table.

        Texts are categories: of a million lines, few differ.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is no table, lacks a column, or holds a text where a number must be.
        """
        import pandas as pd  # here: a training does without

        missing = {column: ["", "nan"] for column in (*self.numbers, *self.optional)}
        missing |= {column: [""] for column in self.texts}  # "NA" may be a subject
        types = dict.fromkeys(self.texts, str)
        table = pd.read_csv(folder / self.name, keep_default_na=False, na_values=missing, dtype=types, low_memory=False)
        lacking = set(self.columns) - set(table.columns)
        if lacking:
            raise ValueError(f"it lacks the columns {', '.join(sorted(lacking))}")
        for column in (*self.numbers, *(name for name in self.optional if name in table)):
            if pd.api.types.is_numeric_dtype(table[column]):
                continue
            values = pd.to_numeric(table[column], errors="coerce")
            wrong = table.loc[values.isna() & table[column].notna(), column]
            if len(wrong):
                raise ValueError(f"{column} is {wrong.iloc[0]!r} in row {wrong.index[0] + 1}, and must be a number")
            table[column] = values
        for column in self.texts:
            table[column] = table[column].astype("category")
            if len(table[column].cat.categories):  # else pandas would forget that they are texts
                table[column] = table[column].cat.rename_categories(as_written)
        return table

    def read_if_any(self, folder: Path) -> pd.DataFrame | None:
        """Read the table; ``None`` if it is missing, damaged or without rows."""
        try:
            table = self.read(folder)
        except (OSError, ValueError):  # pandas' own errors are ValueErrors
            return None
        return table if len(table) else None


# A run: what its training and evaluation leave in its folder.
IMAGES = TableFile(
    "images.csv",
    (
        *("part", "subject", "phase", "slice", "index", "position", "structure", "dice", "hd95_mm", "asd_mm"),
        *("truth_pixels", "predicted_pixels", "truth_ml", "predicted_ml", "image", "truth", "prediction"),
    ),
    texts=("part", "subject", "phase", "position", "structure", "image", "truth", "prediction"),
    optional=("score",),
)
CASES = TableFile(IMAGES.name, (*IMAGES.columns, "score"), IMAGES.texts)
"""The same where the score is that of a bundle's own metric. Without a column ``score``, it is ``dice``."""
OVERLAYS = "overlays"
"""The folder of the pictures of cases."""
CASE = "monai_iln_case"
"""The key of an item that holds its number among the cases of a study on any bundle."""
ROBUSTNESS = TableFile(
    "robustness.csv",
    (
        *("part", "subject", "image", "change", "score", "disagreement", "near_borders", "elsewhere"),
        *("empty_windows", "marked", "seconds"),
    ),
    texts=("part", "subject", "image", "change"),
)
"""What a finished run scores under changes of its test images."""
UNCHANGED = "unchanged"
"""The name of no change."""
OF_INTENSITIES = ("gain", "offset", "bias field")
"""The changes that move nothing."""
ROBUSTNESS_FAILURE = "robustness.json"
"""Why the above could not be measured."""
SLICES = TableFile(  # beside the masks of an inference
    "slices.csv",
    ("stack", "slice", "pixels", "probability", "area_ratio", "shift", "removed_pixels", "doubts", "phase"),
    texts=("stack", "doubts"),
)
PHASES = TableFile(  # beside the masks of cines: a row for each phase, and one for each cine
    "phases.csv",
    ("stack", "structure", "phase", "time_ms", "volume_ml", "name", "doubts"),
    texts=("stack", "structure", "name", "doubts"),
)
SUBJECTS = TableFile(
    "subjects.csv",
    (
        *("stack", "structure", "slices", "phases", "ed_phase", "es_phase", "edv_ml", "esv_ml", "sv_ml"),
        *("ef_percent", "doubts", "mask"),
    ),
    texts=("stack", "structure", "doubts", "mask"),
)
MASK_ENDING, CINE_PICTURE, CINE_FILM = "_pred.nii.gz", "_cine.png", "_cine.gif"
"""How the names of a cine's masks and pictures end."""
CURVES = TableFile("curves.csv", ("epoch", "loss", "val_mean_dice"))
LOSSES = TableFile("losses.csv", ("iteration", "loss"))
GATES = TableFile(
    "gates.csv", ("iteration", "layer", "component", "low", "weight", "high", "dead"), texts=("layer", "component")
)
CURVES_PICTURE = "curves.png"
GATES_PICTURE = "gates.png"
OVERLAY = "overlay.png"
COST = "cost.json"
PROGRESS = "progress.json"
"""How far a training is. It is there only while the training runs."""
PREDICTIONS = "predictions"
WEIGHTS = "model.pt"
SHIPPED = "shipped.pt"
"""The weights that were there before a fine-tuning replaced them for the first time, beside those that replace them."""
FINE_TUNING = "fine_tuning.json"
"""What a fine-tuning made of the weights that were there."""

# A run of a study has these as well; its cost is a part of its record.
RECORD = "run.json"
OVERRIDES = "overrides.json"
LOG = "log.txt"
LENGTH = "length.json"
FAILURE = "failure.json"

DICE_SCORES = {
    "test_score": "test_dice",
    "test_score_std": "test_dice_std",
    "validation_score": "validation_dice",
}
"""The keys of ``scores`` in the record of a run, and what they are called where the metric is Dice."""

SCORES = tuple(DICE_SCORES)

COSTS = (
    *("parameters", "steps", "seconds_per_step", "train_seconds", "validation_seconds", "peak_memory_bytes"),
    *("evaluation_seconds", "total_seconds", "overhead_seconds", "gpu_memory_bytes"),
)
"""The keys of ``cost`` in the record of a run; the first six are those of ``cost.json``."""

# A study.
GRID = ("dataset", "method", "fold", "learning_rate", "seed")
"""What tells one run of a study from another."""

RUN_FOLDER = "runs/{dataset}/{method}/fold_{fold}/lr_{learning_rate!r}/seed_{seed}"
"""The folder of a run within that of its study, to be formatted with its :data:`GRID`."""

RUN_FOLDERS = "runs/*/*/*/*/*"
"""A pattern of all such folders."""

STUDY = "study.json"
SUMMARY = "summary.json"
LOCK = ".lock"
DATALIST = "datalist.json"
RUNS = TableFile(
    "runs.csv",
    ("run", *GRID, "split", "status", "message", *SCORES, "seconds_per_step"),
    texts=("run", "dataset", "method", "status", "message"),
    optional=tuple(DICE_SCORES.values()),
)
"""All runs; further columns, such as the other :data:`COSTS`, follow."""

ALL_IMAGES = TableFile(
    IMAGES.name, ("run", *GRID, "split", *CASES.columns), texts=("run", "dataset", "method", *IMAGES.texts)
)
"""The images of all runs."""
