"""The plan of a study: methods x folds x learning rates x seeds x datalists, checked before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_iln.configuration import ids_of, read_configuration
from monai_iln.errors import UserError, check_keys, find_user_error, require, root_cause
from monai_iln.study.records import GRID
from monai_iln.study.settings import Study, check_names, name_methods

SWEPT = ("norm", "fold", "learning_rate", "seed", "dataset_dir")
"""Ids of the training that a grid goes through: no override may name them."""

PLACES = ("bundle_root", "ckpt_dir", "output_dir")
"""Ids of the training that say where a run writes: no override may name them either."""

_NO_PART_OF_THE_RESULT = (*PLACES, "dataset_dir", "device", "num_workers")


@dataclass(frozen=True)
class Run:
    """One training of the grid, with all that a worker needs to do it.

    Attributes:
        dataset: name of the datalist.
        method: name of the norm.
        norm: its specification.
        fold: the test fold.
        learning_rate: the initial one.
        seed: of the training.
        training: configuration files, absolute.
        evaluation: files on top of them for the evaluation, absolute.
        overrides: of the training by id, those of the grid included.
        config_hash: of everything that decides the result: configuration and data.
        protocol_hash: the same but for what the grid goes through; runs of different protocols cannot be compared.
        data: what the bundle says of the datalist.
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

    @property
    def path(self) -> Path:
        """Its folder, relative to that of the study."""
        rate = f"lr_{self.learning_rate!r}"
        return Path("runs", self.dataset, self.method, f"fold_{self.fold}", rate, f"seed_{self.seed}")

    @property
    def point(self) -> dict[str, Any]:
        """Its place in the grid, as records have it."""
        return {key: getattr(self, key) for key in GRID}

    def __str__(self) -> str:
        return f"{self.dataset}, {self.method}, fold {self.fold}, rate {self.learning_rate:g}, seed {self.seed}"


def plan(study: Study, folder: Path, distributed: bool = False) -> list[Run]:
    """All runs of a study, after its configuration, methods and data have been checked.

    Every norm is built once in the bundle's network, and every datalist read, so that a mistake is told before the
    first run.

    Args:
        study: the settings.
        folder: of the study's configuration file, which the other files are relative to.
        distributed: whether the processes of ``torchrun`` share every run.

    Returns:
        The runs: fold by fold, so that a study under way can already compare all methods on some subjects.

    Raises:
        UserError: for what cannot be run.
    """
    training, evaluation = (
        tuple(str((folder / file).resolve()) for file in files) for files in (study.training, study.evaluation)
    )
    shared = tuple(str(Path(training[0]).parent / file) for file in (study.distributed if distributed else ()))
    for key in study.overrides:
        taken = key in SWEPT or key in PLACES
        require(not taken, f"override {key!r}", "the study itself sets it", "use the study's own keys instead")
    methods = name_methods(study.methods)
    reference = study.reference
    require(
        reference is None or reference in methods,
        f"reference {reference!r}",
        f"methods are {list(methods)}",
        "choose one",
    )
    base = read_configuration(training, dict(study.overrides))
    read_configuration(training + shared + evaluation, {})
    check_keys(SWEPT, ids_of(base.config), f"id of {training[0]}, though a study must set it; its ids")
    rates = [float(rate) for rate in study.learning_rates or [base["learning_rate"]]]
    root = str(Path(training[0]).parent.parent)  # of the bundle
    # Laid over the training, the evaluation would hide what it replaces of it.
    evaluated = [ConfigParser.load_config_file(file) for file in evaluation]
    runs = []
    for dataset, place in _datasets(study).items():
        common = {**study.overrides, "bundle_root": root, "dataset_dir": place}
        data = _look_at(training, common, methods)
        folds = data["folds"] if study.folds is None else study.folds
        wrong = sorted(set(folds) - set(data["folds"]))
        require(not wrong, f"folds {wrong}", f"the datalist of {dataset} has {data['folds']}", "choose among them")
        config = read_configuration(training, common).config
        protocol = _hash({**config, **dict.fromkeys(SWEPT)}, evaluated, data["sha256"])
        for fold, seed, rate, (method, norm) in itertools.product(folds, study.seeds, rates, methods.items()):
            swept = {"norm": norm, "fold": fold, "learning_rate": rate, "seed": seed}
            overrides = {**common, **swept}
            digest = _hash({**config, **swept}, evaluated, [data["sha256"], data["structures"]])
            point = (dataset, method, norm, fold, rate, seed)
            runs.append(Run(*point, training + shared, evaluation, overrides, digest, protocol, data))
    return runs


def _datasets(study: Study) -> dict[str, str | None]:
    """Absolute folders of the datalists by the names of their data sets."""
    if study.datasets is not None:
        check_names([str(name) for name in study.datasets], "data set")
        return {str(name): str(Path(place).resolve()) for name, place in study.datasets.items()}
    if study.dataset_dir is None:
        return {"phantoms": None}
    place = Path(study.dataset_dir).resolve()
    return {place.stem if place.suffix == ".json" else place.name: str(place)}


def _look_at(training: Sequence[str], overrides: Mapping[str, Any], methods: Mapping[str, Any]) -> dict[str, Any]:
    """What the bundle says of the datalist, after every norm has been built once."""
    try:
        for norm in methods.values():
            parser = read_configuration(training, {**overrides, "norm": norm})
            parser.get_parsed_content("network_def")
        data: dict[str, Any] = dict(parser.get_parsed_content("data"))
    except Exception as error:  # MONAI wraps what is raised in a configuration
        told = find_user_error(error)
        raise told or UserError(
            f"{training[0]}: its network or its data cannot be made ({root_cause(error)}). Try the training alone "
            "first: python -m monai.bundle run training."
        ) from error
    return data


def _hash(config: Mapping[str, Any], evaluated: Sequence[Any], data: Any) -> str:
    """SHA-256 of what decides the result of a run; where it ran, and where its files lie, do not."""
    trained = {key: value for key, value in config.items() if key not in _NO_PART_OF_THE_RESULT}
    text = json.dumps([trained, evaluated, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
