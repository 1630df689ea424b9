"""Any MONAI bundle, known only by the properties that MONAI defines for a training: where its configuration has what.

A bundle keeps most of them under the ids that MONAI proposes. Where it does not, its own references lead there: from
the trainer to the loader, from the loader to the data set, from the data set to its items. What they do not lead to,
the user names. A bundle may have ids for what a study goes through, as those of this package: it is driven by these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import TrainProperties

from monai_iln.configuration import ids_of, read_configuration
from monai_iln.errors import UserError, check_keys

NEEDED = {
    "network_def": "the network, for example {_target_: UNet, ...}",
    "trainer": "the engine that trains, for example {_target_: SupervisedTrainer, ...}",
    "evaluator": "the engine that validates, for example {_target_: SupervisedEvaluator, ...}",
    "train_dataset_data": "the items to train on, 'data' of the data set of the trainer's loader",
    "val_dataset_data": "the items to validate on, 'data' of the data set of the evaluator's loader",
    "val_key_metric": "the score of a validation, key_val_metric of the evaluator: {dice: {_target_: MeanDice}}",
}
"""The properties that a study cannot do without, and what each of them is."""

GRID_IDS = ("norm", "fold", "learning_rate", "seed", "dataset_dir")
"""The ids by which a bundle that has all of them takes what a study goes through. No override may name them then."""

OUTPUT_IDS = ("bundle_root", "ckpt_dir", "output_dir")
"""The ids that say where a run writes. No override may name them."""

_DATA_IDS = ("datalist", "data", "parts", "validation_every")
"""What such a bundle may have besides: the folder of its datalist, its description, its parts, and how it is split."""

OWN_IMAGES = "SaveImageMetrics"
"""The handler by which an evaluation leaves an ``images.csv`` of its own."""

_FILES = ("train.json", "train.yaml", "train.yml")


@dataclass(frozen=True)
class Bundle:
    """A bundle, and where its training has what a study needs.

    Attributes:
        folder: The folder of the bundle.
        files: The configuration files of its training.
        ids: The ids of its configuration by the names of MONAI's properties. A bundle with the ids of the grid has some
            more: ``datalist``, ``data``, ``parts`` and ``validation_every``.
        overrides: Other values of its configuration by their ids.
        takes_grid: Whether it has all of :data:`GRID_IDS`.
        outputs: Those of :data:`OUTPUT_IDS` that it has.
    """

    folder: Path
    files: tuple[str, ...]
    ids: Mapping[str, str]
    overrides: Mapping[str, Any]
    takes_grid: bool = False
    outputs: tuple[str, ...] = ()


def find_bundle(
    folder: Path, files: Sequence[str] | None, ids: Mapping[str, str] | None, overrides: Mapping[str, Any]
) -> Bundle:
    """Look for everything that a study needs of a bundle, without building any of it.

    Args:
        folder: The folder of the bundle.
        files: The files of its training, absolute or relative to its folder ``configs``; without them ``train.json``
            or ``train.yaml``.
        ids: The ids of properties that are not where MONAI proposes, and to which no reference leads.
        overrides: Other values of the configuration by their ids, or by the names of MONAI's properties, with ``#`` and
            the name of an argument where that is meant.

    Raises:
        UserError: If the folder is no bundle, or something is lacking: all of it is listed in one message.
    """
    configs = folder / "configs"
    if not configs.is_dir() and not (files and Path(files[0]).is_absolute()):
        raise UserError(f"{folder}: no MONAI bundle: it has no folder 'configs'. Give the folder of a bundle.")
    if files is None:
        files = [name for name in _FILES if (configs / name).is_file()][:1]
        if not files:
            raise UserError(
                f"{configs}: there is none of {', '.join(_FILES)}. Name the files of the training with --training."
            )
    paths = tuple(str((configs / file).resolve()) for file in files)
    parser = read_configuration(paths, {})
    check_keys(ids or {}, [*TrainProperties, "optimizer"], "property of a bundle")
    known = ids_of(parser.config)
    check_keys((ids or {}).values(), known, f"id of {paths[0]}, named as a property; its ids")
    found = {**dict(_find(parser, ids or {})), **(ids or {})}
    lacking = [f"  {name}: {what}" for name, what in NEEDED.items() if name not in found]
    if lacking:
        names = ", ".join(name for name in NEEDED if name not in found)
        raise UserError(
            f"{paths[0]}: of the properties of a training {len(lacking)} cannot be found:\n" + "\n".join(lacking) + "\n"
            "A study drives a bundle by MONAI's properties. Say under which ids of the configuration they are, such as "
            f"--properties '{{{names.split(', ')[0]}: ID}}', or add them to the bundle."
        )
    plain = [key for key in overrides if "#" not in key]
    check_keys(plain, [*found, *known], "id or property of the bundle")
    by_id = {key if key in parser else _id_of(key, known, found): value for key, value in overrides.items()}
    read_configuration(paths, by_id)
    takes_grid = set(GRID_IDS) <= set(known)
    if takes_grid:
        found |= {name: name for name in _DATA_IDS if name in known}
    outputs = tuple(name for name in OUTPUT_IDS if name in known)
    return Bundle(folder.resolve(), paths, found, by_id, takes_grid, outputs)


def _id_of(key: str, known: Sequence[str], found: Mapping[str, str]) -> str:
    """The id of a property, or of a part of it: ``trainer#amp`` is an argument of the trainer, wherever that is."""
    top, *parts = key.split("#")
    return key if top in known else "#".join([found.get(top, top), *parts])


def values_of_grid(bundle: Bundle, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the ids of the grid, where a bundle has them. The method own leaves the norm as it is."""
    if not bundle.takes_grid:
        return {}
    own = str(values.get("norm")).strip().upper() == "OWN"
    return {key: values.get(key) for key in GRID_IDS if key != "norm" or not own}


def makes(parser: ConfigParser, name: str) -> bool:
    """Tell whether a configuration makes something of a class of this name."""
    return any(target.rpartition(".")[2] == name for target in _targets(parser).values())


def _find(parser: ConfigParser, given: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The properties that there are, and their ids: what is given, what MONAI proposes, where references lead."""
    known = set(ids_of(parser.config))
    proposed = {name: str(its["id"]).replace("::", "#") for name, its in TrainProperties.items()}
    found = {name: place for name, place in proposed.items() if place in known} | dict(given)
    for name, end in (("trainer", "Trainer"), ("evaluator", "Evaluator")):
        if name not in found and len(engines := _made_by(parser, end)) == 1:
            found[name] = engines[0]
    for engine, loader, data in (
        ("trainer", "train_data_loader", "train_dataset_data"),
        ("evaluator", "val_data_loader", "val_dataset_data"),
    ):
        if data not in found and engine in found:
            place = _follow(parser, found[engine], loader, "dataset", "data")
            if place is not None:
                found[data] = place
    for engine, argument, name in (
        ("trainer", "max_epochs", "max_epochs"),
        ("trainer", "optimizer", "optimizer"),
        ("evaluator", "key_val_metric", "val_key_metric"),
    ):
        if engine in found and (place := _follow(parser, found[engine], argument)) is not None:
            found[name] = place
    yield from found.items()


def _made_by(parser: ConfigParser, end: str) -> list[str]:
    """The ids of components whose class is named so at its end."""
    return [place for place, target in _targets(parser).items() if target.endswith(end)]


def _targets(parser: ConfigParser) -> dict[str, str]:
    """The classes of all components by their ids."""
    components = ((place, parser.get(place)) for place in ids_of(parser.config))
    return {place: str(one["_target_"]) for place, one in components if isinstance(one, Mapping) and "_target_" in one}


def _follow(parser: ConfigParser, place: str, *arguments: str) -> str | None:
    """The id of an argument of an argument of a component, through the references between them."""
    for argument in arguments:
        inner = f"{place}#{argument}"
        if not isinstance(parser.get(place), Mapping) or inner not in parser:
            return None
        place = inner
        while argument != arguments[-1] and isinstance(value := parser.get(place), str) and _is_reference(value):
            place = value[1:]
            if place not in parser:
                return None
    return place


def _is_reference(value: str) -> bool:
    return value.startswith("@") and all(letter.isalnum() or letter in "_#" for letter in value[1:])
