"""The file ``dataset.json`` of the Medical Segmentation Decathlon and of nnU-Net."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from monai_iln.datasets.formats.listing import refuse_special
from monai_iln.errors import UserError

FILE_NAME = "dataset.json"


class DatasetJson(NamedTuple):
    """A ``dataset.json``.

    Attributes:
        path: The file.
        document: Everything that is in it.
        labels: The values of each structure by its name, the background among them. nnU-Net may give several.
    """

    path: Path
    document: Mapping[str, Any]
    labels: Mapping[str, tuple[int, ...]]


def read_dataset_json(path: Path) -> DatasetJson:
    """Read a ``dataset.json``.

    Args:
        path: The file. Its ``labels`` are ``{"0": "background", "1": "RV"}``, or ``{"background": 0, "RV": 1}`` as
            nnU-Net 2 writes them, where a region has a list of values.

    Raises:
        UserError: If the file cannot be read, or names no labels.
    """
    refuse_special(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        labels = dict(map(_label, document["labels"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as a {FILE_NAME} ({type(error).__name__}: {error}). It must be JSON that names "
            'the values of the label files, such as "labels": {"0": "background", "1": "RV"}: correct it.'
        ) from error
    named, different = len(document["labels"]), min(len(labels), len(set(labels.values())))
    if different < max(2, named):
        raise UserError(
            f"{path}: names {named} labels, {different} of them different. Every value, and at least one beside the "
            "background, has a name of its own: correct it."
        )
    return DatasetJson(path, document, labels)


def _label(entry: tuple[str, Any]) -> tuple[str, tuple[int, ...]]:
    """The name and the values of a label, whichever stands first."""
    key, value = entry
    if isinstance(value, str):
        return value, (int(key),)
    if isinstance(value, list):
        return key, tuple(map(index, value))
    return key, (index(value),)  # which refuses 1.5
