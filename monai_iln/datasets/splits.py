"""What a training and a study ask of a datalist: its description, its parts, its slices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_iln.datasets.datalist import count_slices, read_checked
from monai_iln.errors import UserError


def describe_datalist(path: Path | str) -> dict[str, Any]:
    """Describe a datalist for a study, without the names of its files.

    Args:
        path: The datalist or its folder.

    Returns:
        A dictionary with the data set's ``name``, its ``folds``, its ``structures`` (the names of the label values
        above 0), the number of ``subjects`` and ``stacks``, and a ``sha256`` that changes as soon as an image, a label
        or a fold does.

    Raises:
        UserError: If :func:`~monai_iln.datasets.datalist.check_datalist` raises it.
    """
    datalist, all_hashes = read_checked(Path(path))
    items = datalist.items
    described = []
    for item, found in zip(items, all_hashes, strict=True):
        hashes = item["sha256"] if isinstance(item.get("sha256"), dict) else found
        described.append([hashes.get("image"), hashes.get("label"), item["subject"], item["phase"], item["fold"]])
    return {
        "name": datalist.name,
        "folds": sorted({item["fold"] for item in items}),
        "structures": [datalist.labels[value] for value in sorted(datalist.labels) if value > 0],
        "subjects": len({item["subject"] for item in items}),
        "stacks": len(items),
        "sha256": hashlib.sha256(json.dumps(described).encode()).hexdigest(),
    }


def split_datalist(path: Path | str, fold: int, validation_every: int | None = 10) -> dict[str, list[dict[str, Any]]]:
    """Split a datalist by subject into training, validation and test stacks.

    The fold is the test part and never seen in training. Of the other subjects every tenth, in the order of their
    names and at least one, is held out to choose the best epoch on, so that test images choose nothing.

    Args:
        path: The datalist or its folder.
        fold: The test fold.
        validation_every: The number of training subjects of which one is held out for validation, or ``None`` to hold
            out none.

    Returns:
        The items of the datalist under ``"training"``, ``"validation"`` and ``"test"``.

    Raises:
        UserError: If :func:`~monai_iln.datasets.datalist.check_datalist` raises it, or the fold does not exist or
            leaves too few subjects to train on.
    """
    if validation_every is not None and validation_every < 1:
        raise UserError(f"validation_every {validation_every}: one of so many subjects is held out. Choose 1 or more.")
    items = read_checked(Path(path))[0].items
    folds = sorted({item["fold"] for item in items})
    if fold not in folds:
        raise UserError(f"{path}: fold {fold!r} does not exist. It has the folds {folds}: choose one of them.")
    others = sorted({item["subject"] for item in items if item["fold"] != fold})
    held_out = set()
    if validation_every is not None:
        held_out = set(others[validation_every // 2 :: validation_every] or others[-1:])
    if len(others) <= len(held_out):
        raise UserError(
            f"{path}: outside fold {fold} subjects are left: {len(others)}, of which {len(held_out)} are for "
            "validation. Training needs at least one more: use more folds or add subjects."
        )
    rest = [item for item in items if item["fold"] != fold]
    return {
        "training": [item for item in rest if item["subject"] not in held_out],
        "validation": [item for item in rest if item["subject"] in held_out],
        "test": [item for item in items if item["fold"] == fold],
    }


def slice_items(stacks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One item for each slice of the stacks: ``image``, ``label`` and ``slice``, its index along the last axis.

    Args:
        stacks: Items of a datalist.
    """
    return [
        {"image": item["image"], "label": item["label"], "slice": index}
        for item in stacks
        for index in range(count_slices(item))
    ]
