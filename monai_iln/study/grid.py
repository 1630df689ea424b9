"""The plan of a study: methods x folds x learning rates x seeds x datalists, checked before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_iln.configuration import ids_of, read_configuration
from monai_iln.errors import UserError, check_keys, find_user_error, require, root_cause
from monai_iln.names import require_visible
from monai_iln.run_files import GRID, RUN_FOLDER
from monai_iln.study.bundles import Bundle
from monai_iln.study.cases import Cases
from monai_iln.study.settings import Study, check_names, name_methods

GRID_IDS = ("norm", "fold", "learning_rate", "seed", "dataset_dir")
"""Ids of the training that a grid goes through: no override may name them."""

OUTPUT_IDS = ("bundle_root", "ckpt_dir", "output_dir")
"""Ids of the training that say where a run writes: no override may name them either."""

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
        overrides: Values of the training by their ids, those of the grid included.
        config_hash: The hash of everything that decides the result: configuration and data.
        protocol_hash: The same without what the grid goes through. Runs of different protocols cannot be compared.
        data: The bundle's description of the datalist.
        bundle: Any bundle that is trained as it is; ``None`` for one with a configuration of the study's own.
        pattern: The names of the norms to replace in such a bundle.
        validation_every: The number of its training subjects of which one is held out.
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
    bundle: Bundle | None = None
    pattern: str | None = None
    validation_every: int = 5
    split: int = 0
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


@dataclass(frozen=True)
class Plan:
    """The runs of a study, and what is known of them before they run.

    Attributes:
        runs: The runs, fold by fold, so that a study under way can already compare all methods on some subjects.
        cases: The cases of a study on any bundle.
        surveys: What each method does to the network of such a bundle, by the method's name.
        metric: The name of its key metric, whether a higher value is better, and whether it lies from 0 to 1.
    """

    runs: list[Run]
    cases: Cases | None = None
    surveys: Mapping[str, Any] = field(default_factory=dict)
    metric: Mapping[str, Any] | None = None

    def count_tested_subjects(self) -> int:
        """The number of subjects of a study on any bundle that lie in a fold of its runs."""
        assert self.cases is not None
        tested: set[str] = set()
        for split, fold in {(run.split, run.fold) for run in self.runs}:
            pairs = zip(self.cases.subjects, self.cases.of_split(split).folds, strict=True)
            tested |= {subject for subject, its in pairs if its == fold}
        return len(tested)


def plan_runs(study: Study, folder: Path, distributed: bool = False) -> list[Run]:
    """List all runs of a study, after its configuration, methods and data have been checked.

    Every norm is built once in the bundle's network, and every datalist read, so that a mistake is told before the
    first run.

    Args:
        study: The settings of the study.
        folder: The folder of the study's configuration file. The other files are relative to it.
        distributed: If true, the processes of ``torchrun`` share every run.

    Returns:
        The runs, fold by fold, so that a study under way can already compare all methods on some subjects.

    Raises:
        UserError: If something cannot be run.
    """
    training = tuple(str((folder / file).resolve()) for file in study.training or ("train.yaml",))
    evaluation = tuple(str((folder / file).resolve()) for file in study.evaluation)
    shared = tuple(str(Path(training[0]).parent / file) for file in (study.distributed if distributed else ()))
    for key in study.overrides:
        taken = key in GRID_IDS or key in OUTPUT_IDS
        require(not taken, f"override {key!r}", "the study itself sets it", "use the study's own keys instead")
    methods = name_methods(study.methods)
    known = study.reference is None or study.reference in methods
    require(known, f"reference {study.reference!r}", f"methods are {list(methods)}", "choose one")
    base = read_configuration(training, dict(study.overrides))
    read_configuration(training + shared + evaluation, {})
    check_keys(GRID_IDS, ids_of(base.config), f"id of {training[0]}, though a study must set it; its ids")
    rates = [float(rate) for rate in study.learning_rates or [base["learning_rate"]]]
    root = str(Path(training[0]).parent.parent)  # of the bundle
    # Laid over the training, the evaluation would hide what it replaces of it.
    evaluated = [ConfigParser.load_config_file(file) for file in evaluation]
    runs = []
    for dataset, dataset_dir in _datasets(study).items():
        common = {**study.overrides, "bundle_root": root, "dataset_dir": dataset_dir}
        data = _check_methods_and_data(training, common, methods)
        folds = data["folds"] if study.folds is None else study.folds
        wrong = sorted(set(folds) - set(data["folds"]))
        require(not wrong, f"folds {wrong}", f"the datalist of {dataset} has {data['folds']}", "choose among them")
        config = read_configuration(training, common).config
        protocol = hash_of({**config, **dict.fromkeys(GRID_IDS)}, evaluated, data["sha256"])
        for fold, seed, rate, (method, norm) in itertools.product(folds, study.seeds, rates, methods.items()):
            own: dict[str, Any] = {"norm": norm, "fold": fold, "learning_rate": rate, "seed": seed}
            run = Run(
                dataset=dataset,
                method=method,
                **own,
                training=training + shared,
                evaluation=evaluation,
                overrides={**common, **own},
                config_hash=hash_of({**config, **own}, evaluated, [data["sha256"], data["structures"]]),
                protocol_hash=protocol,
                data=data,
            )
            runs.append(run)
    return runs


def _datasets(study: Study) -> dict[str, str | None]:
    """List the absolute paths of the datalists by the names of their data sets."""
    if study.datasets is not None:
        check_names([str(name) for name in study.datasets], "data set")
        return {str(name): str(Path(path).resolve()) for name, path in study.datasets.items()}
    if study.dataset_dir is None:
        return {"phantoms": None}
    path = Path(study.dataset_dir).resolve()
    name = path.name.removesuffix(".json")
    require_visible(name, "data set")
    return {name: str(path)}


def _check_methods_and_data(
    training: Sequence[str], overrides: Mapping[str, Any], methods: Mapping[str, Any]
) -> dict[str, Any]:
    """Build every norm once, and return the bundle's description of the datalist."""
    try:
        parser = read_configuration(training, overrides)
        for norm in methods.values():
            parser["norm"] = norm
            parser.get_parsed_content("network_def")
        data: dict[str, Any] = dict(parser.get_parsed_content("data"))
    except Exception as error:  # MONAI wraps what is raised in a configuration
        told = find_user_error(error)
        raise told or UserError(
            f"{training[0]}: its network or its data cannot be made ({root_cause(error)}). Try the training alone "
            "first: python -m monai.bundle run training."
        ) from error
    return data


def hash_of(config: Mapping[str, Any], evaluated: Sequence[Any], data: Any) -> str:
    """Hash what decides the result of a run. Where it ran, and where its files lie, do not."""
    trained = {key: value for key, value in config.items() if key not in _NO_PART_OF_THE_RESULT}
    text = json.dumps([trained, evaluated, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
