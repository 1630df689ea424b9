"""The protocol of a study: what its runs train with, as values that can be recorded and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from monai_iln.configuration import read_configuration
from monai_iln.study.bundles import GRID_IDS

# Where a training's configuration has them.
_COMPONENTS = {
    "network_def": "network_def",
    "loss": "train#trainer#loss_function",
    "optimizer": "train#trainer#optimizer",
    "lr_scheduler": "lr_scheduler",
    "random_transforms": "train#preprocessing#transforms",
}
_SETTINGS = {
    "lr_per_epoch": "lr_per_epoch",
    "epochs": "train#trainer#max_epochs",
    "batch_size": "batch_size",
    "roi_size": "roi_size",
    "standardize": "standardize",
    "largest_component": "largest_component",
    "validation_every": "validation_every",
    "rotations": "train#dataloader#dataset#angles",
}


def describe_protocol(training: Sequence[str], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a training does, resolved from its configuration; nothing is built.

    Args:
        training: The configuration files of the training.
        overrides: The values that replace those of the files, by id.

    Returns:
        The settings as values and the components as MONAI configures them, each under the id that the bundles of this
        package give it. What a configuration does not have is left out.
    """
    parser = read_configuration(training, overrides)
    components = {name: _plain(parser, f"@{place}") for name, place in _COMPONENTS.items() if place in parser}
    settings = {name: parser.get_parsed_content(place) for name, place in _SETTINGS.items() if place in parser}
    return {**components, **settings}


def _plain(parser: ConfigParser, value: Any) -> Any:
    """A part of a configuration with what its references lead to. Expressions, and what a grid goes through, stay."""
    while isinstance(value, str) and value.startswith("@") and value[1:] not in GRID_IDS:
        value = parser[value[1:]]
    if isinstance(value, Mapping):
        return {key: _plain(parser, child) for key, child in value.items()}
    if isinstance(value, list):
        return [_plain(parser, child) for child in value]
    return value
