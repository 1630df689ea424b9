"""What a report is made of: the records of a study, and the runs that stand for each method by either rule."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from monai_iln.study.report.published import published_group
from monai_iln.study.statistics import choose_rates, select_images

if TYPE_CHECKING:
    from monai_iln.study.records import Records

NOTHING = "No run has finished, so there are no test images."
RULES = {
    "nested": "nested: rate chosen inside the training folds",
    "paper": "paper's rule: rate chosen on the test fold (optimistic)",
    "single": "one learning rate, nothing chosen",
}
STATUSES = ("finished", "diverged", "failed")
_TEXT = ("run", "dataset", "method", "status", "message", "device")
_RUNS = ("fold", "learning_rate", "seed", "test_dice", "test_dice_std", "validation_dice", "parameters", "steps")
_COSTS = ("seconds_per_step", "train_seconds", "total_seconds", "overhead_seconds", "peak_memory_bytes")
_IMAGE_TEXT = ("run", "dataset", "method", "part", "subject", "phase", "position", "structure")
_FILES = ("image", "truth", "prediction")
_IMAGE_NUMBERS = ("fold", "learning_rate", "seed", "slice", "index", "dice", "hd95_mm", "asd_mm")
_AMOUNTS = ("truth_pixels", "predicted_pixels", "truth_ml", "predicted_ml")


@dataclass(frozen=True)
class Evidence:
    """Records with all columns there, however little of the study has been run.

    Attributes:
        folder: of the study.
        study: the plan.
        runs: one row a run.
        images: one row an image and structure.
    """

    folder: Path
    study: Mapping[str, Any]
    runs: pd.DataFrame
    images: pd.DataFrame

    @classmethod
    def of(cls, folder: Path, records: Records) -> Evidence:
        """Fill what is missing from the tables of a partial study with NaN."""
        runs = _complete(records.runs, _TEXT, (*_RUNS, *_COSTS))
        images = _complete(records.images, (*_IMAGE_TEXT, *_FILES), (*_IMAGE_NUMBERS, *_AMOUNTS))
        return cls(folder, records.study, runs, images)

    @cached_property
    def methods(self) -> list[str]:
        """In the order of the plan, those without a run too."""
        return list(dict.fromkeys([*map(str, self.study.get("methods", ())), *self.runs["method"]]))

    @cached_property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return str(self.study.get("reference") or (self.methods[0] if self.methods else ""))

    @cached_property
    def datasets(self) -> list[str]:
        """In the order of the plan."""
        return list(dict.fromkeys([*map(str, self.study.get("datasets", ())), *self.runs["dataset"]]))

    def about(self, dataset: str) -> Mapping[str, Any]:
        """What the plan says of a data set."""
        about = dict(self.study.get("datasets") or {}).get(dataset)
        return about if isinstance(about, Mapping) else {}

    def published_group(self, dataset: str) -> str | None:
        """The paper's name of a data set, told by its name in the plan or in its datalist."""
        return published_group(dataset) or published_group(str(self.about(dataset).get("name") or ""))

    @cached_property
    def tested_folds(self) -> dict[str, int]:
        """Number of folds that have a run, by data set."""
        return {name: self.runs.loc[self.runs["dataset"] == name, "fold"].nunique() for name in self.datasets}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of runs by status."""
        return {status: int((self.runs["status"] == status).sum()) for status in STATUSES}

    def planned(self, method: str | None = None) -> int:
        """Number of runs in the grid, or in that of one method; at least those that there are."""
        folds = sum(len(folds) for folds in dict(self.study.get("folds") or {}).values())
        each = folds * len(self.study.get("learning_rates") or ()) * len(self.study.get("seeds") or ())
        if method is None:
            return max(each * len(self.methods), len(self.runs))
        return max(each, int((self.runs["method"] == method).sum()))

    @cached_property
    def parts(self) -> list[tuple[str, str]]:
        """Data sets and structures that have test images of chosen runs."""
        pairs = self.shown[["dataset", "structure"]].drop_duplicates()
        found = list(zip(pairs["dataset"], pairs["structure"], strict=True))
        return sorted(found, key=lambda pair: self.datasets.index(pair[0]))

    @cached_property
    def chosen(self) -> dict[str, pd.DataFrame]:
        """The chosen learning rates, by the name of each rule that can be applied; the one to show first."""
        finished = self.runs[self.runs["status"] == "finished"]
        if finished.empty:
            return {}
        single = finished.groupby(["dataset", "method", "fold"])["learning_rate"].nunique().max() == 1
        if single and self.runs["learning_rate"].nunique() == 1:
            return {"single": choose_rates(self.runs, "paper")}
        rules = {rule: choose_rates(self.runs, rule) for rule in ("nested", "paper")}
        return {rule: table for rule, table in rules.items() if len(table)}

    @cached_property
    def selected(self) -> dict[str, pd.DataFrame]:
        """The test images of the chosen runs, by rule."""
        return {rule: select_images(self.images, table) for rule, table in self.chosen.items()}

    @cached_property
    def rule(self) -> str:
        """The rule that everything but Tables 1 to 3 is shown for: ``nested`` where it can be applied."""
        return next(iter(self.chosen), "")

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The test images of the chosen runs by :attr:`rule`."""
        return self.selected.get(self.rule, self.images.iloc[:0])

    @cached_property
    def shown_methods(self) -> list[str]:
        """The methods that have such images."""
        return self.methods_of(self.shown)

    @cached_property
    def by_either_rule(self) -> pd.DataFrame:
        """The test images of all chosen runs; those that several rules chose are there several times."""
        return pd.concat(self.selected.values()) if self.selected else self.shown

    def methods_of(self, images: pd.DataFrame) -> list[str]:
        """Their methods, in the order of the plan."""
        present = set(images["method"])
        return [method for method in self.methods if method in present]

    def part(self, images: pd.DataFrame, dataset: str, structure: str) -> pd.DataFrame:
        """The images of one data set and structure."""
        return images[(images["dataset"] == dataset) & (images["structure"] == structure)]

    def typical_run(self, method: str, dataset: str) -> Path | None:
        """The folder of the run that stands for a method: chosen, of the first fold, with the lowest seed."""
        if not self.rule:
            return None
        rows = self.chosen[self.rule]
        rows = rows[(rows["method"] == method) & (rows["dataset"] == dataset)].sort_values("fold")
        for fold, rate in zip(rows["fold"], rows["learning_rate"], strict=True):
            runs = self.runs[
                (self.runs["method"] == method)
                & (self.runs["dataset"] == dataset)
                & (self.runs["fold"] == fold)
                & (self.runs["learning_rate"] == rate)
                & (self.runs["status"] == "finished")
            ].sort_values("seed")
            if len(runs):
                return self.folder / str(runs["run"].iloc[0])
        return None

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """The ``run.json`` of every run that has a readable one."""
        documents = []
        for run in self.runs["run"]:
            try:
                document = json.loads((self.folder / str(run) / "run.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(document, dict):
                documents.append(document)
        return documents


def _complete(table: pd.DataFrame, texts: tuple[str, ...], numbers: tuple[str, ...]) -> pd.DataFrame:
    others = [column for column in table.columns if column not in (*texts, *numbers)]
    table = table.reindex(columns=[*texts, *numbers, *others]).reset_index(drop=True)
    for column in texts:
        table[column] = table[column].astype(object).where(table[column].notna(), "")
    for column in numbers:
        table[column] = pd.to_numeric(table[column], errors="coerce").astype(float)
    for column in ("fold", "seed"):
        if table[column].notna().all():
            table[column] = table[column].astype(int)
    return table


def read_table(run: Path | None, name: str, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """A table that a run left, or ``None`` if it left none, an empty one, or one that cannot be read."""
    if run is None:
        return None
    try:
        table = pd.read_csv(run / name)
    except (OSError, ValueError):  # pandas' own errors are ValueErrors
        return None
    return table if len(table) and set(columns) <= set(table.columns) else None
