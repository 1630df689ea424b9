"""The results of a study as its report shows them: all records, the chosen runs, and what was computed of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from monai_iln.run_files import ALL_IMAGES, COSTS, RECORD, RUNS
from monai_iln.study.chance import Chance
from monai_iln.study.report.published import published_group, ventricle_of
from monai_iln.study.report.wording import four_digits
from monai_iln.study.selection import GROUP, with_split
from monai_iln.study.statistics import (
    Metric,
    choose_rates,
    metric_of,
    select_images,
    subject_scores,
)
from monai_iln.study.verdicts import Verdict, default_margin, estimate, judge

if TYPE_CHECKING:
    from monai_iln.study.records import Records

NO_IMAGES = "No run has finished, so there are no test images."
STATUSES = ("finished", "diverged", "failed")
_RUN_NUMBERS = tuple(dict.fromkeys([*RUNS.numbers, *COSTS]))


@dataclass(frozen=True)
class Results:
    """The records of a study with all columns there, however little of it has been run.

    Attributes:
        folder: The folder of the study.
        study: The plan.
        runs: The runs, a row each.
        images: The scores, a row for each image and structure.
    """

    folder: Path
    study: Mapping[str, Any]
    runs: pd.DataFrame
    images: pd.DataFrame

    @classmethod
    def of(cls, folder: Path, records: Records) -> Results:
        """Fill what is missing from the tables of a partial study with NaN."""
        runs = _complete(with_split(records.runs), RUNS.texts, _RUN_NUMBERS)
        images = with_split(records.images)
        missing = [column for column in ALL_IMAGES.columns if column not in images]
        if missing:
            images = images.reindex(columns=[*images.columns, *missing])
        return cls(folder, records.study, runs, images)

    @cached_property
    def metric(self) -> Metric:
        """The metric that methods are compared by."""
        metric = metric_of(self.study)
        if metric.in_unit_interval:
            return metric
        return replace(metric, decimals=four_digits(float(self.images["score"].abs().median())))

    @cached_property
    def unit(self) -> str:
        """What a score is of: an image of a stack, or a case of any task."""
        if self.shown["slice"].isna().all() and "metric" in self.study:
            return "case"
        return "image"

    @cached_property
    def is_of_ventricles(self) -> bool:
        """Whether there is something to compare with the paper, which segments ventricles."""
        return any(map(self.ventricles, self.datasets))

    def figure(self, number: int) -> str:
        """The beginning of the caption of a figure that the paper has too."""
        return f"Figure {number}. " if self.is_of_ventricles else ""

    @cached_property
    def surveys(self) -> dict[str, Mapping[str, Any]]:
        """What the plan found in the network of each method; nothing in studies of earlier versions."""
        found = dict(self.study.get("surveys") or {})
        return {method: found[method] for method in self.methods if method in found}

    @cached_property
    def methods(self) -> list[str]:
        """All methods in the order of the plan, those without a run too."""
        return list(dict.fromkeys([*map(str, self.study.get("methods", ())), *self.runs["method"]]))

    @cached_property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return str(self.study.get("reference") or next(iter(self.methods), ""))

    @cached_property
    def datasets(self) -> list[str]:
        """All data sets in the order of the plan."""
        return list(dict.fromkeys([*map(str, self.study.get("datasets", ())), *self.runs["dataset"]]))

    def about(self, dataset: str) -> Mapping[str, Any]:
        """What the plan says of a data set."""
        about = dict(self.study.get("datasets") or {}).get(dataset)
        return dict(about or {})

    def published_group(self, dataset: str) -> str | None:
        """The paper's name of a data set, told by its name in the plan or in its datalist."""
        return published_group(dataset) or published_group(str(self.about(dataset).get("name") or ""))

    def ventricles(self, dataset: str) -> list[str]:
        """The ventricles that a data set labels, by the paper's names ``"LV"`` and ``"RV"``; none without Dice."""
        if not self.metric.is_dice:
            return []
        images = self.images[self.images["dataset"] == dataset]
        structures = self.about(dataset).get("structures") or images["structure"].dropna().unique()
        named = [*map(ventricle_of, structures), self.published_group(dataset)]
        return list(dict.fromkeys(filter(None, named)))

    @cached_property
    def tested_folds(self) -> dict[str, int]:
        """Number of folds that have a run, by data set."""
        return {name: self.runs.loc[self.runs["dataset"] == name, "fold"].nunique() for name in self.datasets}

    @cached_property
    def column(self) -> str:
        """What a column of the tables of scores stands for: a ``"fold"``, or a ``"split"`` where there are several."""
        return "split" if self.runs["split"].nunique() > 1 else "fold"

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
        single = finished.groupby(GROUP)["learning_rate"].nunique().max() == 1
        if single and self.runs["learning_rate"].nunique() == 1:
            return {"single": choose_rates(self.runs, "paper", self.metric)}
        rules = {rule: choose_rates(self.runs, rule, self.metric) for rule in ("nested", "paper")}
        if not self.is_of_ventricles and len(rules["nested"]) == len(rules["paper"]):
            del rules["paper"]  # for comparison with the paper only
        return {rule: table for rule, table in rules.items() if len(table)}

    @cached_property
    def selected(self) -> dict[str, pd.DataFrame]:
        """The test images of the chosen runs, by rule."""
        # Of all images they are few, and only these are held as plain text.
        chosen = {rule: select_images(self.images, table) for rule, table in self.chosen.items()}
        return {rule: _complete(images, ALL_IMAGES.texts, ALL_IMAGES.numbers) for rule, images in chosen.items()}

    @cached_property
    def rule(self) -> str:
        """The rule that everything but Tables 1 to 3 is shown for: ``nested`` where it can be applied."""
        return next(iter(self.chosen), "")

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The test images of the chosen runs by :attr:`rule`."""
        nothing = _complete(self.images.iloc[:0], ALL_IMAGES.texts, ALL_IMAGES.numbers)
        return self.selected.get(self.rule, nothing)

    @cached_property
    def shown_methods(self) -> list[str]:
        """The methods that have such images."""
        return self.methods_of(self.shown)

    @cached_property
    def by_either_rule(self) -> pd.DataFrame:
        """The test images of all chosen runs; those that several rules chose are there several times."""
        if not self.selected:
            return self.shown
        return pd.concat(self.selected.values())

    @cached_property
    def cells(self) -> dict[str, dict[tuple[Any, ...], pd.DataFrame]]:
        """The test images of the chosen runs by rule, and by data set, structure, :attr:`column` and method."""
        keys = ["dataset", "structure", self.column, "method"]
        return {rule: dict(iter(images.groupby(keys, sort=False))) for rule, images in self.selected.items()}

    def methods_of(self, images: pd.DataFrame) -> list[str]:
        """The methods of images, in the order of the plan."""
        present = set(images["method"])
        return [method for method in self.methods if method in present]

    def part(self, images: pd.DataFrame, dataset: str, structure: str) -> pd.DataFrame:
        """The images of one data set and structure."""
        return images[(images["dataset"] == dataset) & (images["structure"] == structure)]

    def scores(self, dataset: str, structure: str) -> pd.DataFrame:
        """The scores of the subjects of one data set and structure by :attr:`rule`, a column a method."""
        return subject_scores(self.part(self.shown, dataset, structure), self.metric)

    @cached_property
    def unlearned(self) -> set[tuple[str, str]]:
        """The data sets and structures that no method learned."""
        return {part for part in self.parts if self.metric.is_unlearned(self.scores(*part).mean().max())}

    def learned(self, dataset: str) -> list[str]:
        """The structures of a data set that a method learned."""
        return [name for part, name in self.parts if part == dataset and (part, name) not in self.unlearned]

    @cached_property
    def margin(self) -> float | None:
        """The difference that does not matter, as the study has it, or else the default; ``None`` without any."""
        margin = self.study.get("margin")
        return default_margin(self.metric) if margin is None else float(margin)

    @cached_property
    def chances(self) -> dict[tuple[str, str], Chance]:
        """The chance in the differences of methods, for each data set and structure that was learned."""
        parts = [part for part in self.parts if part not in self.unlearned]
        return {part: estimate(self.part(self.shown, *part), self.metric, self.reference) for part in parts}

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The reference against every other method, over all data sets and structures, by :attr:`rule`."""
        found: list[Verdict] = []
        for dataset, structure in self.parts:
            images = self.part(self.shown, dataset, structure)
            found += judge(images, self.reference, self.metric, self.margin, dataset, structure)
        return found

    def typical_run(self, method: str, dataset: str) -> Path | None:
        """The folder of the run that stands for a method: chosen, of the first fold, with the lowest seed."""
        if not self.rule:
            return None
        keys = [*GROUP, "learning_rate"]
        own = (self.runs["method"] == method) & (self.runs["dataset"] == dataset)
        finished = self.runs[own & (self.runs["status"] == "finished")]
        runs = finished.merge(self.chosen[self.rule][keys], on=keys).sort_values(["fold", "seed"])
        if runs.empty:
            return None
        return self.folder / str(runs["run"].iloc[0])

    @cached_property
    def run_records(self) -> list[dict[str, Any]]:
        """What every run recorded of itself; without the runs whose record cannot be read."""
        records = []
        for run in self.runs["run"]:
            try:
                record = json.loads((self.folder / str(run) / RECORD).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(record, dict):
                records.append(record)
        return records


def _complete(table: pd.DataFrame, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    others = [column for column in table.columns if column not in (*texts, *numbers)]
    table = table.reindex(columns=[*texts, *numbers, *others]).reset_index(drop=True)
    for column in texts:
        table[column] = table[column].astype(object).where(table[column].notna(), "")
    for column in numbers:
        table[column] = pd.to_numeric(table[column], errors="coerce").astype(float)
    for column in ("fold", "seed", "split"):
        if table[column].notna().all():
            table[column] = table[column].astype(int)
    return table
