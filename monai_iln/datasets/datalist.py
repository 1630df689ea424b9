"""The datalist: a JSON in MONAI's decathlon form beside NIfTI stacks. Data reach training in no other form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import numpy as np

from monai_iln.cores import usable_cores
from monai_iln.datasets.checked import CheckedItems, Known, Stamps, hash_file, key_of, stamp
from monai_iln.datasets.formats.header import unreadable
from monai_iln.datasets.formats.labels import round_labels
from monai_iln.datasets.formats.listing import refuse_special
from monai_iln.datasets.formats.volumes import read_header, read_voxels
from monai_iln.datasets.geometry.grids import same_place
from monai_iln.datasets.progress import track
from monai_iln.errors import UserError, count, refusal
from monai_iln.files import new_file
from monai_iln.names import require_visible

FILE_NAME = "datalist.json"
_KINDS = {"image": str, "label": str, "subject": str, "phase": str, "fold": int}
_NAMES = {str: "text", int: "a whole number"}


def write_items(
    folder: Path,
    items: Iterable[Mapping[str, Any]],
    *,
    count: int,
    name: str,
    labels: Mapping[int, str],
    modality: Any,
) -> None:
    """Write the datalist over files that are there.

    Args:
        folder: The folder to write into.
        items: The items, with the keys that :func:`read_datalist` returns.
        count: The number of items.
        name: The name of the data set.
        labels: The names of the label values.
        modality: The modality of each channel.

    Raises:
        UserError: If a name holds control characters.
    """
    for shown in (name, *labels.values()):
        require_visible(shown, "the name")
    document = {
        "name": name,
        "labels": {str(value): label for value, label in sorted(labels.items())},
        "modality": modality,
        "numTraining": count,
    }
    head = json.dumps(document, indent=1, default=str).removesuffix("\n}")
    with new_file(folder / FILE_NAME) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'{head},\n "training": [')
        comma = ""
        for item in items:  # one by one, for there may be many
            file.write(comma + "\n" + indent(json.dumps(item, indent=1, default=str), "  "))
            comma = ","
        file.write("\n ]\n}\n")


def read_datalist(path: Path | str) -> list[dict[str, Any]]:
    """Read the items of a datalist, paths made absolute.

    Args:
        path: The JSON file, or the folder that holds it as ``datalist.json``.

    Returns:
        The items, each with at least ``image``, ``label``, ``subject``, ``phase`` and ``fold``.

    Raises:
        UserError: If the file is missing or no datalist, an item lacks a key or a file, or a subject has two folds.
    """
    return _read(Path(path)).items


def check_datalist(path: Path | str, progress: bool = False) -> list[dict[str, Any]]:
    """Read a datalist and look into every file that it names.

    Args:
        path: The datalist or its folder.
        progress: Shows a bar.

    Returns:
        The items, as :func:`read_datalist` returns them.

    Raises:
        UserError: If :func:`read_datalist` raises it, a file cannot be read or is not the one whose SHA-256 the item
            has, image and label differ in shape or place, a label holds values that are not under ``"labels"``, or two
            subjects have the same image.
    """
    datalist = _read(Path(path))
    _check(datalist, anew=True, progress=progress)
    return datalist.items


def read_checked(path: Path) -> tuple[Datalist, list[dict[str, str]]]:
    """A datalist and the SHA-256 of its files. Those that are as they were when they were checked are not read again.

    Raises:
        UserError: If :func:`check_datalist` raises it.
    """
    datalist = _read(path)
    return datalist, _check(datalist, anew=False)


def _check(datalist: Datalist, *, anew: bool, progress: bool = False) -> list[dict[str, str]]:
    """Look into the files of all items, and remember what is found.

    Args:
        datalist: The datalist.
        anew: Looks into the files, too, that are as they were when they were found good.
        progress: Shows a bar.

    Returns:
        The SHA-256 of ``image`` and ``label`` of each item.
    """
    memory = CheckedItems(datalist.path)
    before = memory.read()
    known, found = dict(before), {}

    def look(item: Mapping[str, Any]) -> dict[str, str]:
        key = key_of(item, datalist.values)
        entry = known.pop(key, None)  # what turns out to be bad is not known any more
        if anew or entry is None or not entry.unchanged:
            stamps, hashes = _look_into(item, datalist.values)
            entry = Known(stamps, hashes)
        found[key] = entry
        return entry.hashes

    owners: dict[str, str] = {}
    all_hashes = []
    items = track(datalist.items, "Checking", "stack", progress)
    try:
        # Hashing and unpacking leave Python to other threads; of more than these, most would wait for it.
        with ThreadPoolExecutor(usable_cores() + 1) as threads:
            looks = threads.map(look, datalist.items)
            for item, hashes in zip(items, looks, strict=True):
                if owners.setdefault(hashes["image"], item["subject"]) != item["subject"]:
                    raise UserError(
                        f"{item['image']}: the same image as one of another subject. A person under two names may end "
                        "up in two folds: give it one name."
                    )
                all_hashes.append(hashes)
        known.clear()  # of items that are gone
    finally:  # what is good need not be read again once the rest is mended
        if {**known, **found} != before:
            memory.write({**known, **found})
    return all_hashes


def _find_file(path: Path) -> Path:
    return path / FILE_NAME if path.is_dir() else path


class Datalist(NamedTuple):
    """A datalist that was read.

    Attributes:
        path: The file.
        name: The name of the data set.
        labels: The names of the label values, if they are known.
        items: The items.
    """

    path: Path
    name: str
    labels: dict[int, str]
    items: list[dict[str, Any]]

    @property
    def values(self) -> list[int]:
        """The values that labels may have; none if they are not known."""
        return list(self.labels)


def _read(path: Path) -> Datalist:
    folder_or_file, path = path, _find_file(path)
    refuse_special(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        items = [dict(item) for item in document["training"]]
        labels = {int(value): str(label) for value, label in dict(document.get("labels", {})).items()}
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such datalist. Give the folder that 'monai-iln prepare' wrote, or make it first: "
            "monai-iln prepare sunnybrook --source DIR --output DIR."
        ) from error
    except OSError as error:
        raise refusal(error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not a datalist ({type(error).__name__}: {error}). It must be JSON with a list of items under "
            "'training': write it again with 'monai-iln prepare'."
        ) from error
    _require_visible_names(path, document, items)
    folds: dict[Any, Any] = {}
    for number, item in enumerate(items):
        missing = [key for key in _KINDS if key not in item]
        if missing:
            raise UserError(
                f"{path}: item {number} has no {', '.join(missing)}. Every item needs {', '.join(_KINDS)}: add it."
            )
        for key, kind in _KINDS.items():
            # JSON's true is an int to Python, but no fold.
            if not isinstance(item[key], kind) or isinstance(item[key], bool) or "\0" in str(item[key]):
                raise UserError(
                    f"{path}: {key} of item {number} is {item[key]!r}. It must be {_NAMES[kind]}: correct it."
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
    return Datalist(path, str(document.get("name", folder_or_file.absolute().name)), labels, items)


def _require_visible_names(path: Path, document: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
    """Refuse control characters in what a datalist names: they would go on into tables, figures and names of files."""
    labels = document.get("labels")
    names = [document.get("name"), *(labels.values() if isinstance(labels, dict) else ())]
    names += [item.get(key) for item in items for key in ("subject", "phase")]
    for name in dict.fromkeys(map(str, names)):
        require_visible(name, f"{path}: the name")


def check_item(item: Mapping[str, Any], values: Sequence[int]) -> dict[str, str]:
    """Look into the files of an item.

    Args:
        item: An item of a datalist.
        values: The values that labels may have, or none if they are not known.

    Returns:
        The SHA-256 of ``image`` and ``label``.

    Raises:
        UserError: If the files are not those that were written, or do not belong together.
    """
    return _look_into(item, values)[1]


def _look_into(item: Mapping[str, Any], values: Sequence[int]) -> tuple[Stamps, dict[str, str]]:
    """The stamps of the files that were read, from before that, and what :func:`check_item` returns."""
    stamps: Stamps = {}
    found_hashes = {}
    for key in ("image", "label"):
        try:
            stamps |= stamp([item[key]])
            found_hashes[key] = hash_file(Path(item[key]))
        except OSError as error:
            raise unreadable(item[key], error) from error
    recorded = _recorded_hashes(item)
    for key, expected in recorded.items():
        if found_hashes.get(key, expected) != expected:
            raise UserError(
                f"{item[key]}: not the file that was prepared, its SHA-256 differs. Restore it; if you changed it on "
                f"purpose, remove its sha256 from {FILE_NAME}."
            )
    image, label = read_header(item["image"]), read_header(item["label"])
    stamps |= stamp(header.data for header in (image, label))
    aligned = not (image.oriented and label.oriented) or same_place(image.affine, label.affine, image.shape)
    if len(image.shape) != 3 or image.shape != label.shape or not aligned:
        affines = "alike" if aligned else "different"
        raise UserError(
            f"{item['image']}: shape {image.shape}, its label {label.shape}, affines {affines}. Both must be stacks "
            "(H, W, Z) of one shape and affine: resample or export the label again."
        )
    slices = item.get("slices")
    if isinstance(slices, list) and len(slices) != image.shape[-1]:
        raise UserError(
            f"{item['image']}: {count(image.shape[-1], 'slice')}, and {count(len(slices), 'number')} of slices in "
            f"{FILE_NAME}. There is one number for each slice: correct 'slices', or remove it."
        )
    if "image" not in recorded:  # else it is the file whose voxels were read when it was prepared
        read_voxels(image)
    found = np.unique(round_labels(read_voxels(label), item["label"]))
    if values and not np.isin(found, values).all():
        raise UserError(
            f"{item['label']}: holds the values {found[:8]}. The datalist names {values} under 'labels': correct the "
            "file, or add what its values mean."
        )
    return stamps, found_hashes


def _recorded_hashes(item: Mapping[str, Any]) -> Mapping[str, str]:
    recorded = item.get("sha256")
    return recorded if isinstance(recorded, dict) else {}


def count_slices(item: Mapping[str, Any]) -> int:
    """The number of slices of a stack, as the list of its slices tells, else the header of its image.

    Args:
        item: An item of a datalist.

    Raises:
        UserError: If the header cannot be read.
    """
    slices = item.get("slices")
    if isinstance(slices, list):
        return len(slices)
    return read_header(item["image"]).shape[-1]


def summarize(path: Path | str, items: Sequence[Mapping[str, Any]]) -> str:
    """A datalist in a line: its slices, subjects and folds."""
    folds = Counter({item["subject"]: item["fold"] for item in items}.values())
    sizes = "/".join(str(folds[fold]) for fold in sorted(folds))
    slices = sum(map(count_slices, items))
    return f"{path}: {count(slices, 'slice')} of {count(folds.total(), 'subject')}, folds of {sizes} subjects"
