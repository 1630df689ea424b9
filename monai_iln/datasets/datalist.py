"""The datalist: the one form in which data reach training, a decathlon JSON beside NIfTI stacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from tqdm import tqdm

from monai_iln.datasets.folders import new_folder
from monai_iln.datasets.folds import assign_folds
from monai_iln.errors import UserError

FILE_NAME = "datalist.json"
_KEYS = ("image", "label", "subject", "phase", "fold")


class DataWarning(UserWarning):
    """Something in the data was left out or is doubtful."""


@dataclass(frozen=True)
class Stack:
    """The labelled slices of one subject in one phase.

    Attributes:
        subject: identifier, also the start of the file names.
        phase: ``"ED"`` or ``"ES"``.
        stratum: what folds are balanced over, for example the pathology.
        image: ``(H, W, Z)``, as stored by the scanner.
        label: ``(H, W, Z)`` of ``uint8``, 0 is background.
        affine: from ``(row, column, slice)`` to RAS millimetres.
        slices: numbers of the slices in the series they come from, from 1.
    """

    subject: str
    phase: str
    stratum: str
    image: NDArray[Any]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    slices: tuple[int, ...]


def write_datalist(
    stacks: Sequence[Stack],
    output: Path | str,
    *,
    name: str,
    labels: Sequence[str],
    num_folds: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write stacks as NIfTI files and the datalist over them.

    Args:
        stacks: the data.
        output: folder to make; it must not exist, or be empty. It appears whole or not at all.
        name: of the data set.
        labels: names of the label values 0, 1, ...
        num_folds: folds to deal the subjects into, see :func:`~monai_iln.datasets.folds.assign_folds`.
        seed: of the folds.
        progress: whether to show a bar.

    Returns:
        The path of the datalist, ``output/datalist.json``. Its items under ``"training"`` have ``image``, ``label``
        (paths relative to the file), ``subject``, ``phase``, ``fold`` and ``slices``.

    Raises:
        UserError: if ``output`` holds something already or cannot be written, or the subjects cannot fill the folds.
    """
    output = Path(output)
    folds = assign_folds({stack.subject: stack.stratum for stack in stacks}, num_folds, seed)
    with new_folder(output) as folder:
        items = []
        for stack in tqdm(stacks, desc="Writing", unit="stack", disable=not progress):
            item: dict[str, Any] = {}
            for key, array in (("image", stack.image), ("label", stack.label)):
                file = Path(f"{key}s") / f"{stack.subject}_{stack.phase}.nii.gz"
                (folder / file.parent).mkdir(exist_ok=True)
                nifti = nib.Nifti1Image(array, stack.affine)
                nifti.header.set_xyzt_units("mm")
                nib.save(nifti, folder / file)
                item[key] = file.as_posix()
            item |= {"subject": stack.subject, "phase": stack.phase, "fold": folds[stack.subject]}
            items.append(item | {"slices": list(stack.slices)})
        document = {
            "name": name,
            "labels": {str(value): label for value, label in enumerate(labels)},
            "modality": {"0": "MRI"},
            "numTraining": len(items),
            "training": items,
        }
        (folder / FILE_NAME).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return output / FILE_NAME


def read_datalist(path: Path | str) -> list[dict[str, Any]]:
    """Read the items of a datalist, paths made absolute.

    Args:
        path: the JSON file, or the folder that holds it as ``datalist.json``.

    Returns:
        Items with at least ``image``, ``label``, ``subject``, ``phase`` and ``fold``.

    Raises:
        UserError: if the file is missing or no datalist, an item lacks a key or a file, or a subject has two folds.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        items = json.loads(path.read_text(encoding="utf-8"))["training"]
        items = [dict(item) for item in items]
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such datalist. Give the folder that 'monai-iln prepare' wrote, or make it first: "
            "monai-iln prepare sunnybrook --source DIR --output DIR."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a datalist ({type(error).__name__}: {error}). It must be JSON with a list of items under "
            "'training': write it again with 'monai-iln prepare'."
        ) from error
    folds: dict[Any, Any] = {}
    for number, item in enumerate(items):
        missing = [key for key in _KEYS if key not in item]
        if missing:
            raise UserError(
                f"{path}: item {number} has no {', '.join(missing)}. Every item needs {', '.join(_KEYS)}: add it."
            )
        for key in ("image", "label"):
            item[key] = str(path.parent / item[key])
            if not Path(item[key]).is_file():
                raise UserError(f"{item[key]}: no such file, though item {number} of {path} names it. Restore it.")
        if folds.setdefault(item["subject"], item["fold"]) != item["fold"]:
            raise UserError(
                f"{path}: subject {item['subject']} is in the folds {folds[item['subject']]} and {item['fold']}. All "
                "images of a subject belong to one fold, or test images are not unseen: give it one."
            )
    if not items:
        raise UserError(f"{path}: no items under 'training'. A datalist needs at least one: prepare the data again.")
    return items


def split_datalist(path: Path | str, fold: int, validation_every: int | None = 10) -> dict[str, list[dict[str, Any]]]:
    """Split a datalist by subject into training, validation and test stacks.

    The fold is the test part and never seen in training. Of the other subjects every tenth, in the order of their
    names and at least one, is held out to choose the best epoch on, so that test images choose nothing.

    Args:
        path: the datalist or its folder.
        fold: the test fold.
        validation_every: one of so many training subjects is held out for validation; ``None`` holds out none.

    Returns:
        ``{"training": [...], "validation": [...], "test": [...]}``, items of the datalist.

    Raises:
        UserError: as :func:`read_datalist`, and if the fold does not exist or leaves too few subjects to train on, or
            an image and its label differ in shape or affine.
    """
    items = read_datalist(path)
    folds = sorted({item["fold"] for item in items})
    if fold not in folds:
        raise UserError(f"{path}: fold {fold!r} does not exist. It has the folds {folds}: choose one of them.")
    others = sorted({item["subject"] for item in items if item["fold"] != fold})
    held_out = set()
    if validation_every is not None:
        held_out = set(others[validation_every // 2 :: validation_every] or others[-1:])
    if len(others) <= len(held_out):
        raise UserError(
            f"{path}: outside fold {fold} there are {len(others)} subjects, of which {len(held_out)} are for "
            "validation. Training needs at least one more: use more folds or add subjects."
        )
    parts: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for item in items:
        _check_geometry(item)
        part = "test" if item["fold"] == fold else "validation" if item["subject"] in held_out else "training"
        parts[part].append(item)
    return parts


def _check_geometry(item: dict[str, Any]) -> None:
    """Refuse an image and a label that do not lie on one another, or cannot be read."""
    try:
        image, label = nib.load(item["image"]), nib.load(item["label"])
    except (OSError, ValueError, ImageFileError) as error:
        raise UserError(f"{item['image']} or its label: cannot be read as NIfTI ({error}). Write it again.") from error
    aligned = np.allclose(image.affine, label.affine, atol=1e-3)
    if len(image.shape) != 3 or image.shape != label.shape or not aligned:
        affines = "alike" if aligned else "different"
        raise UserError(
            f"{item['image']}: shape {image.shape}, its label {label.shape}, affines {affines}. Both must be stacks "
            "(H, W, Z) of one shape and affine: resample or export the label again."
        )


def slice_items(stacks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One item for each slice of the stacks: ``image``, ``label`` and ``slice``, its index along the last axis."""
    return [
        {"image": item["image"], "label": item["label"], "slice": index}
        for item in stacks
        for index in range(nib.load(item["image"]).shape[-1])
    ]


def find_stacks(path: Path | str) -> list[str]:
    """The stacks at a place, for inference.

    Args:
        path: a NIfTI file, a folder with a datalist (its images are taken), a folder with NIfTI files below it, or a
            folder with the DICOM files of one series.

    Returns:
        Paths of NIfTI files, or the one DICOM folder.

    Raises:
        UserError: if there is nothing of the kind, or two files have one name: their masks would overwrite each other.
    """
    path = Path(path)
    if path.is_file():
        return [str(path)]
    if (path / FILE_NAME).is_file():
        found = [Path(item["image"]) for item in read_datalist(path)]
    else:
        found = sorted(file for pattern in ("*.nii", "*.nii.gz") for file in path.rglob(pattern))
    names = [file.name.split(".nii")[0] for file in found]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise UserError(
            f"{path}: {len(twins)} names occur more than once below it, the first is {twins[0]}. Masks are named "
            "after the images and would overwrite each other: give a folder with the images alone."
        )
    if found:
        return [str(file) for file in found]
    if any(path.glob("*.dcm")):
        return [str(path)]
    raise UserError(
        f"{path}: no stack found. It must be a NIfTI file, a folder with .nii or .nii.gz files, or a folder with the "
        ".dcm files of one short-axis series."
    )
