"""The cases of a study on any bundle: items of a datalist, their subjects, and the folds of those."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import KFold

from monai_iln.errors import UserError, count, require
from monai_iln.files import write_json
from monai_iln.names import require_visible

PARTS = ("training", "validation", "test")
_OURS = ("subject", "fold")


@dataclass(frozen=True)
class Cases:
    """The items of a datalist with what a study has to know of each.

    Attributes:
        name: The name of the data set.
        items: What the bundle gets of each case: paths are absolute.
        subjects: The subject of each case.
        folds: The fold of each case; all cases of a subject have the same.
        structures: The names of the label values above 0; empty if the datalist does not name them.
        dealt: Whether the study dealt the folds, because the items had none.
    """

    name: str
    items: tuple[dict[str, Any], ...]
    subjects: tuple[str, ...]
    folds: tuple[int, ...]
    structures: tuple[str, ...] = ()
    dealt: bool = False

    def of_split(self, split: int) -> Cases:
        """The same cases with their subjects dealt anew into as many folds.

        Args:
            split: The number of the split, from which the folds follow. Split 0 has the folds that are there.

        Example:
            >>> cases = Cases("four", ({},) * 4, tuple("abcd"), (0, 0, 1, 1))
            >>> cases.of_split(0).folds, cases.of_split(3).folds
            ((0, 0, 1, 1), (1, 0, 1, 0))
        """
        if split == 0:
            return self
        labels = sorted(set(self.folds))
        dealt = _deal(self.name, sorted(set(self.subjects)), len(labels), split)
        return replace(self, folds=tuple(labels[dealt[subject]] for subject in self.subjects))

    def describe(self) -> dict[str, Any]:
        """What a study records of its data. The hash changes as soon as an item, a subject or a fold does."""
        text = json.dumps([self.items, self.subjects, self.folds], sort_keys=True, default=str)
        return {
            "name": self.name,
            "folds": sorted(set(self.folds)),
            "structures": list(self.structures),
            "subjects": len(set(self.subjects)),
            "stacks": len(self.items),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }

    def split(self, fold: int, validation_every: int | None) -> dict[str, list[int]]:
        """Split the cases by subject.

        Args:
            fold: The test fold.
            validation_every: The number of other subjects of which one is held out for validation; ``None`` for none.

        Returns:
            The numbers of the cases of each of :data:`PARTS`.

        Raises:
            UserError: If too few subjects are left to train on.

        Example:
            >>> Cases("four", ({},) * 4, tuple("abcd"), (0, 0, 1, 1)).split(0, 5)
            {'training': [2], 'validation': [3], 'test': [0, 1]}
        """
        others = sorted({subject for subject, its in zip(self.subjects, self.folds, strict=True) if its != fold})
        held_out: set[str] = set()
        if validation_every is not None:
            held_out = set(others[validation_every // 2 :: validation_every] or others[-1:])
        require(
            len(others) > len(held_out),
            f"{self.name}: {count(len(others), 'subject')} outside fold {fold}, {len(held_out)} of them for validation",
            "a training needs at least one more",
            "use more folds, or add subjects",
        )
        parts: dict[str, list[int]] = {part: [] for part in PARTS}
        for number, (subject, its) in enumerate(zip(self.subjects, self.folds, strict=True)):
            if its == fold:
                parts["test"].append(number)
            else:
                parts["validation" if subject in held_out else "training"].append(number)
        return parts

    def write(self, path: Path) -> None:
        """Write them as a datalist, from which :func:`read_cases` reads the same cases."""
        labels = {"0": "background", **{str(value): name for value, name in enumerate(self.structures, 1)}}
        rows = zip(self.items, self.subjects, self.folds, strict=True)
        items = [{**item, "subject": subject, "fold": fold} for item, subject, fold in rows]
        write_json(path, {"name": self.name, "labels": labels if self.structures else {}, "training": items})


def read_cases(path: Path, subject: str | None = None, num_folds: int = 5) -> Cases:
    """Read a datalist in the form of the Medical Segmentation Decathlon.

    Args:
        path: The JSON file with a list of items under ``training``. Paths in it are relative to its folder.
        subject: See :func:`make_cases`.
        num_folds: See :func:`make_cases`.

    Raises:
        UserError: If it cannot be read, or as :func:`make_cases`.
    """
    if path.is_dir():
        path = path / "datalist.json"
    require(path.is_file(), f"{path}: no such file", "a datalist is a JSON file", "correct its path")
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        items = document["training"]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise TypeError("'training' is no list of items")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as a datalist ({type(error).__name__}: {error}). It is a JSON file with items "
            'under "training": {"training": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}]}. Write it so.'
        ) from error
    name = str(document.get("name") or path.parent.name or path.stem)
    found = [{key: _absolute(value, path.parent) for key, value in item.items()} for item in items]
    require_files(str(path), "the folder of the datalist", found)
    return make_cases(name, found, _structures(document.get("labels")), subject, num_folds)


def _structures(labels: Any) -> list[str]:
    """The names of the values 1, 2, ... If other values have names, a name does not tell its class."""
    if not isinstance(labels, dict) or not all(str(value).isdigit() for value in labels):
        return []
    names = {int(value): str(name) for value, name in labels.items() if int(value) > 0}
    if len(names) > 1 and sorted(names) != list(range(1, len(names) + 1)):
        return []
    return [names[value] for value in sorted(names)]


def require_files(source: str, start: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Refuse paths of files that are not there. A key holds paths if one of its values is a file, or it is ``image``.

    What a run would say of them comes late, once for each run.

    Args:
        source: Where the items come from.
        start: The folder that relative paths start from, in words.
        items: The items.

    Raises:
        UserError: If files are not there.
    """
    texts: dict[str, list[str]] = {"image": []}
    for item in items:
        for key, value in item.items():
            values = value if isinstance(value, list) else [value]
            texts.setdefault(key, []).extend(one for one in values if isinstance(one, str))
    for key, values in texts.items():
        absent = [value for value in values if not Path(value).exists()]
        first = next(iter(absent), "")
        require(
            not absent or (key != "image" and len(absent) == len(values)),
            f"{source}: {len(absent)} of {len(values)} files under {key!r} are not there, such as {first}",
            f"paths are absolute, or relative to {start}",
            "mend them, drop their items, or override the folder of the bundle's own list and leave --datalist out",
        )


def make_cases(
    name: str, items: Sequence[Mapping[str, Any]], structures: Sequence[str], subject: str | None, num_folds: int
) -> Cases:
    """Tell the subject of each item, and deal subjects into folds where they have none.

    Args:
        name: The name of the data set.
        items: The items, with absolute paths.
        structures: The names of the label values above 0.
        subject: The key of an item that holds its subject, or a regular expression whose first group is the subject in
            the path of an item's image. Without it the key is ``subject``, and where there is none, each item is a
            subject of its own.
        num_folds: The number of folds, where items have no ``fold``.

    Raises:
        UserError: If an item has no subject or no fold though others have, a subject has two folds, or there are fewer
            subjects than folds.
    """
    require(len(items) > 0, f"{name}: no items", "a study needs cases", "name a datalist that has some")
    subjects = _subjects(name, items, subject)
    for one in subjects:
        require_visible(one, "subject")
    given = [item.get("fold") for item in items]
    dealt = all(fold is None for fold in given)
    if dealt:
        of_subjects = _deal(name, sorted(set(subjects)), num_folds, 0)
        folds = [of_subjects[one] for one in subjects]
    else:
        whole = all(isinstance(fold, int) and not isinstance(fold, bool) for fold in given)
        require(whole, f"{name}: folds {given[:3]}", "each item has a whole number, or none has one", "mend 'fold'")
        folds = [int(fold) for fold in given if fold is not None]
    by_subject: dict[str, int] = {}
    for one, fold in zip(subjects, folds, strict=True):
        require(
            by_subject.setdefault(one, fold) == fold,
            f"{name}: subject {one} in the folds {by_subject[one]} and {fold}",
            "a subject has one fold, else its images would be in training and test",
            "mend 'fold' in the datalist",
        )
    require(len(set(folds)) > 1, f"{name}: all in fold {folds[0]}", "a study tests on a fold of several", "add folds")
    counted = Counter(zip(subjects, map(image_of, items), strict=True))
    twice = [image for (_, image), times in counted.items() if times > 1 and image]
    require(
        not twice,
        f"{name}: {count(len(twice), 'image')} of several items, such as {(twice or [''])[0]}",
        "a case is told from the others by its image",
        "let each image stand in one item",
    )
    kept = tuple({key: value for key, value in item.items() if key not in _OURS} for item in items)
    return Cases(name, kept, tuple(subjects), tuple(folds), tuple(structures), dealt)


def _subjects(name: str, items: Sequence[Mapping[str, Any]], subject: str | None) -> list[str]:
    key = subject or "subject"
    having = [key in item for item in items]
    if all(having):
        return [str(item[key]) for item in items]
    require(
        not any(having), f"{name}: {count(having.count(False), 'item')} without {key!r}", "the others have it", "add it"
    )
    if subject is None:
        return _names_of_files([image_of(item) for item in items])
    try:
        pattern = re.compile(subject)
    except re.error as error:
        raise UserError(f"subject {subject!r}: no key of the items, and no regular expression ({error}).") from error
    require(
        pattern.groups > 0,
        f"subject {subject!r}",
        "it is a key of the items, or a regular expression with a group in brackets",
        "write for example 'patient([0-9]+)'",
    )
    subjects = []
    for item in items:
        match = pattern.search(image_of(item))
        if match is None:
            raise UserError(f"{name}: {image_of(item)!r} does not match {subject!r}, which tells its subject. Mend it.")
        subjects.append(match[1])
    return subjects


def image_of(item: Mapping[str, Any]) -> str:
    """The path of an item's image, or of the first of several."""
    image = item.get("image", "")
    return str(image[0] if isinstance(image, (list, tuple)) and image else image)


def _names_of_files(paths: Sequence[str]) -> list[str]:
    """A name for each path: that of its file, with its folders where files of several folders have the same."""
    names = [Path(path).name.removesuffix(".gz").removesuffix(".nii") for path in paths]
    if len(set(names)) < len(set(paths)):  # such as image.nii.gz in a folder of each patient
        whole = [Path(path).absolute() for path in paths]
        common = os.path.commonpath(whole)
        folders = [path.relative_to(common).parent.parts for path in whole]
        names = ["_".join([*parts, name]) for parts, name in zip(folders, names, strict=True)]
    return [name or f"case {number}" for number, name in enumerate(names)]


def _deal(name: str, subjects: Sequence[str], num_folds: int, split: int) -> dict[str, int]:
    require(
        1 < num_folds <= len(subjects),
        f"{name}: {count(len(subjects), 'subject')} for {count(num_folds, 'fold')}",
        "each of at least two folds has a subject",
        "choose another num_folds, or add subjects",
    )
    folds = KFold(num_folds, shuffle=True, random_state=split).split(np.zeros(len(subjects)))
    return {subjects[i]: fold for fold, (_, members) in enumerate(folds) for i in members}


def _absolute(value: Any, folder: Path) -> Any:
    """A path, or several, as an absolute one; anything else as it is."""
    if isinstance(value, list):
        return [_absolute(one, folder) for one in value]
    if isinstance(value, str) and (folder / value).exists() and value:
        return str((folder / value).resolve())
    return value
