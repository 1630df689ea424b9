"""The grid of a study: methods x folds x learning rates x seeds x datalists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from monai_iln.run_files import DATALIST, GRID, RUN_FOLDER
from monai_iln.study.bundles import OUTPUT_IDS, Bundle
from monai_iln.study.cases import Cases

_NO_PART_OF_THE_RESULT = (*OUTPUT_IDS, "dataset_dir", "device", "num_workers")


@dataclass(frozen=True)
class Run:
    """One training of the grid, with all that a worker needs to do it.

    Attributes:
        dataset: The name of the datalist.
        method: The name of the norm.
        norm: The specification of the norm.
        fold: The test fold.
        learning_rate: The initial learning rate.
        seed: The seed of the training.
        split: The number of the split of the subjects into folds; 0 for that of the datalist.
        training: The configuration files of the training, absolute.
        evaluation: The files that are laid over them for the evaluation, absolute.
        overrides: Values of the training by their ids, those of the grid included where it has ids for them.
        config_hash: The hash of everything that decides the result: configuration and data.
        protocol_hash: The same without what the grid goes through. Runs of different protocols cannot be compared.
        data: The description of the datalist.
        bundle: The bundle that is trained.
        pattern: The names of the norms to replace in it.
        validation_every: The number of training subjects of which one is held out; ``None`` for none of them.
        datalist: The file in the study's folder that lists the cases.
        trial_steps: The steps of a trial; ``None`` for the training itself.
    """

    dataset: str
    method: str
    norm: Any
    fold: int
    learning_rate: float
    seed: int
    training: tuple[str, ...]
    evaluation: tuple[str, ...]
    overrides: Mapping[str, Any]
    config_hash: str
    protocol_hash: str
    data: Mapping[str, Any]
    bundle: Bundle
    pattern: str | None = None
    validation_every: int | None = 5
    split: int = 0
    datalist: str = DATALIST
    trial_steps: int | None = None

    @property
    def path(self) -> Path:
        """The folder of the run, relative to that of the study."""
        return Path(RUN_FOLDER.format(**self.key))

    @property
    def key(self) -> dict[str, Any]:
        """What tells the run from all others of the grid."""
        return {name: getattr(self, name) for name in GRID}

    @property
    def place(self) -> dict[str, Any]:
        """The same, and the split that it is of."""
        return {**self.key, "split": self.split}

    def __str__(self) -> str:
        return f"{self.dataset}, {self.method}, fold {self.fold}, rate {self.learning_rate:g}, seed {self.seed}"


class Data(NamedTuple):
    """A data set of a study.

    Attributes:
        cases: The cases.
        described: Its description, see :meth:`~monai_iln.study.cases.Cases.describe`.
        source: Where it comes from; ``None`` if the training makes it.
    """

    cases: Cases
    described: Mapping[str, Any]
    source: str | None


@dataclass(frozen=True)
class Plan:
    """The runs of a study, and what is known of them before they run.

    Attributes:
        runs: The runs, fold by fold, so that a study under way can already compare all methods on some subjects.
        data: The data sets by their names.
        surveys: What each method does to the network, by the method's name.
        metric: The name of the key metric, whether a higher value is better, and whether it lies from 0 to 1; ``None``
            where the evaluation measures Dice itself.
        unvalidated: The epochs between two validations and those of a training, where it ends before the first.
    """

    runs: list[Run]
    data: Mapping[str, Data] = field(default_factory=dict)
    surveys: Mapping[str, Any] = field(default_factory=dict)
    metric: Mapping[str, Any] | None = None
    unvalidated: tuple[int, int] | None = None

    @property
    def epochs_and_rates_share_validation(self) -> bool:
        """Whether the held-out subjects choose both. A bundle with the ids of the grid may choose no epoch."""
        return len({run.learning_rate for run in self.runs}) > 1 and not self.runs[0].bundle.takes_grid

    def count_tested_subjects(self, dataset: str) -> int:
        """The number of subjects of a data set that lie in a fold of its runs."""
        tested: set[str] = set()
        for split, fold in {(run.split, run.fold) for run in self.runs if run.dataset == dataset}:
            cases = self.data[dataset].cases.of_split(split)
            tested |= {subject for subject, its in zip(cases.subjects, cases.folds, strict=True) if its == fold}
        return len(tested)


def hash_of(config: Mapping[str, Any], evaluated: Sequence[Any], data: Any) -> str:
    """Hash what decides the result of a run. Where it ran, and where its files lie, do not."""
    trained = {key: value for key, value in config.items() if key not in _NO_PART_OF_THE_RESULT}
    text = json.dumps([trained, evaluated, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
