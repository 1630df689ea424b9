"""The structures that are wanted of label files, and the values that these may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from monai_iln.datasets.formats.labels import round_labels
from monai_iln.datasets.readers.layouts import STRUCTURES
from monai_iln.errors import UserError

Label = str | int | Sequence[str | int]  # one structure or several, by names or by values
Values = Mapping[str, tuple[int, ...]]  # what label files have inside each structure; they may overlap

MOST_VALUES = 16  # of a label file; images, of 8 bit too, have more
# Structures of the wall are compared with their images at the blood pool that they hold.
_WALL = ("myocardium", "infarction", "no-reflow")


class Structure(NamedTuple):
    """A structure that is wanted of label files.

    Attributes:
        name: One of :data:`~monai_iln.datasets.readers.layouts.STRUCTURES` or of the data set, or the value as text.
        values: The structure's values, or ``None`` for any value but 0.
        left: The values of the left ventricle's cavity, or ``None`` where values are not known.
        known: All values that may occur, or ``None`` where they are not known.
    """

    name: str
    values: tuple[int, ...] | None
    left: tuple[int, ...] | None
    known: frozenset[int] | None

    def mask(self, label: NDArray[Any]) -> NDArray[np.uint8]:
        """1 where a label file has the structure."""
        mask = label != 0 if self.values is None else np.isin(label, self.values)
        return np.asarray(mask, dtype=np.uint8)

    def pool(self, label: NDArray[Any]) -> NDArray[np.uint8] | None:
        """The blood pool in the wall, by its value or as what the muscle encloses, ``None`` in the ventricles."""
        if self.name not in _WALL:
            return None
        if self.left is not None:
            return np.asarray(np.isin(label, self.left), dtype=np.uint8)
        mask = self.mask(label)
        filled = [binary_fill_holes(ring) for ring in np.moveaxis(mask, -1, 0)]
        return np.stack(filled, axis=-1).astype(np.uint8) - mask

    def cavity(self, label: NDArray[Any]) -> NDArray[np.uint8]:
        """The blood pool, which is the structure itself where that is a ventricle."""
        pool = self.pool(label)
        if pool is None:
            return self.mask(label)
        return pool

    def doubt(self, label: NDArray[Any]) -> str:
        """The fault of the values of a label file, or an empty text."""
        values = set(label_values(label) or ()) - {0}
        if self.known is not None and not values <= self.known:
            return f"holds {_listed(values)}; known are 0 and {_listed(self.known)}"
        if self.values is None and len(values) > 1:
            return f"holds {_listed(values)}, unlike the labels of most frames: one value beside 0"
        return ""


class Wanted(NamedTuple):
    """The structures of one label map, whose values in it are 1, 2, ... in their order."""

    structures: tuple[Structure, ...]

    @property
    def first(self) -> Structure:
        """The structure that is compared with the images."""
        return self.structures[0]

    @property
    def thick_wall(self) -> bool:
        """Whether dark muscle surrounds the blood pool of the first structure."""
        return self.first.name in ("left-ventricle", *_WALL)

    def label_map(self, label: NDArray[Any]) -> NDArray[np.uint8]:
        """The map of a label file. Where two structures overlap, the later one counts."""
        result = np.zeros(label.shape, np.uint8)
        for value, structure in enumerate(self.structures, 1):
            result[structure.mask(label) > 0] = value
        return result

    def pool(self, label: NDArray[Any]) -> NDArray[np.uint8] | None:
        """The blood pool of the first structure, ``None`` where that is the whole map."""
        return self.first.pool(label) if len(self.structures) == 1 else self.first.cavity(label)

    def missing(self, label: NDArray[Any]) -> list[Structure]:
        """The structures that a label file lacks. Several may lack what not every heart has, such as an infarction."""
        absent = [structure for structure in self.structures if not structure.mask(label).any()]
        if len(absent) == len(self.structures):
            return absent
        return [structure for structure in absent if structure.name in STRUCTURES]


def label_values(array: NDArray[Any]) -> tuple[int, ...] | None:
    """The values of a label map, or ``None`` if they are not whole numbers from 0 to 65535, up to rounding.

    Args:
        array: The label map.

    Example:
        >>> label_values(np.array([0.0, 2.0, 2.0])), label_values(np.array([0.5]))
        ((0, 2), None)
    """
    try:
        whole = round_labels(array)
    except UserError:
        return None
    return tuple(map(int, np.flatnonzero(np.bincount(whole.ravel().astype(np.intp)))))


def list_labels(label: Label) -> list[str | int]:
    """The structures that a user names, one or several."""
    return [label] if isinstance(label, (str, int)) else list(label)


def find_structures(label: Label, values: Values) -> Wanted:
    """The structures that a user means.

    Args:
        label: One of :data:`~monai_iln.datasets.readers.layouts.STRUCTURES` or of the keys of ``values``, where spaces
            and capitals do not matter, or a value as a number or its digits; or several of these.
        values: The values of the structures, where the data set defines them.

    Raises:
        UserError: If there is no such structure or value, or one of several would have no voxel of its own.

    Example:
        >>> find_structures("Right ventricle", {}).first.values is None
        True
        >>> find_structures(["left-ventricle", 2], {"left-ventricle": (3,), "scar": (2,)}).label_map(np.array([2, 3]))
        array([2, 1], dtype=uint8)
    """
    structures = tuple(_find(name, values) for name in list_labels(label))
    if not structures:
        raise UserError("no label: at least one structure is learnt. Name it, such as right-ventricle.")
    for place, structure in enumerate(structures):
        later = [other.values for other in structures[place + 1 :]]
        if len(structures) > 1 and structure.values is None:
            raise UserError(
                f"labels {', '.join(map(str, list_labels(label)))}: names of structures, whose values are not known "
                "there. Of several, each needs the number that the label files have: give those."
            )
        if later and set(structure.values or ()) <= {value for found in later for value in found or ()}:
            raise UserError(
                f"labels {', '.join(map(str, list_labels(label)))}: nothing would be left of {structure.name}, for the "
                "later one counts where two overlap. Name each once, and the larger one first."
            )
    return Wanted(structures)


def _find(label: str | int, values: Values) -> Structure:
    name = hyphened(str(label))
    known = frozenset(value for found in values.values() for value in found) or None
    own = (int(name),) if name.isdecimal() else values.get(name)
    if own is None:
        is_known = not values and name in STRUCTURES
    else:
        is_known = 0 not in own and (known is None or known.issuperset(own))
    if not is_known:
        choices = f" ({_listed(known)})" if known else ", from 1"
        raise UserError(
            f"label {label!r}: not known. It is one of {', '.join(_names(values))}, or the number that the label files "
            f"have there{choices}: choose one of them."
        )
    names = {found: structure for structure, found in values.items()}
    return Structure(names.get(own or (), name), own, values.get("left-ventricle"), known)


def _names(values: Values) -> list[str]:
    """The structures that there are, the usual ones first."""
    usual = [name for name in STRUCTURES if name in values or not values]
    return usual + [name for name in values if name not in usual]


def hyphened(name: str) -> str:
    """The name of a structure in one spelling.

    Example:
        >>> hyphened("Right ventricle")
        'right-ventricle'
    """
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))
