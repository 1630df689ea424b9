"""The structure that is wanted of label files, and the values that these may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from monai_iln.datasets.formats.labels import round_labels
from monai_iln.datasets.readers.layouts import STRUCTURES
from monai_iln.errors import UserError


class Structure(NamedTuple):
    """The structure that is wanted of label files.

    Attributes:
        name: One of :data:`~monai_iln.datasets.readers.layouts.STRUCTURES`, or the value as text.
        value: The structure's value, or ``None`` for any value but 0.
        left: The value of the left ventricle's cavity, or ``None`` where values are not known.
        known: All values that may occur, or ``None`` where they are not known.
    """

    name: str
    value: int | None
    left: int | None
    known: frozenset[int] | None

    def mask(self, label: NDArray[Any]) -> NDArray[np.uint8]:
        """1 where a label file has the structure."""
        mask = label != 0 if self.value is None else label == self.value
        return np.asarray(mask, dtype=np.uint8)

    def pool(self, label: NDArray[Any]) -> NDArray[np.uint8] | None:
        """The blood pool in the myocardium, by its value or as what the muscle encloses, ``None`` in the ventricles."""
        if self.name != "myocardium":
            return None
        if self.left is not None:
            return np.asarray(label == self.left, dtype=np.uint8)
        mask = self.mask(label)
        filled = [binary_fill_holes(ring) for ring in np.moveaxis(mask, -1, 0)]
        return np.stack(filled, axis=-1).astype(np.uint8) - mask

    def cavity(self, label: NDArray[Any]) -> NDArray[np.uint8]:
        """The blood pool, which is the structure itself where that is a ventricle."""
        pool = self.pool(label)
        return self.mask(label) if pool is None else pool

    def doubt(self, label: NDArray[Any]) -> str:
        """The fault of the values of a label file, or an empty text."""
        values = set(label_values(label) or ()) - {0}
        if self.known is not None and not values <= self.known:
            return f"holds {_listed(values)}; known are 0 and {_listed(self.known)}"
        if self.value is None and len(values) > 1:
            return f"holds {_listed(values)}, unlike the labels of most frames: one value beside 0"
        return ""


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


def find_structure(label: str | int, values: Mapping[str, int]) -> Structure:
    """The structure that a user means.

    Args:
        label: One of :data:`~monai_iln.datasets.readers.layouts.STRUCTURES`, where spaces and capitals do not matter,
            or a value as a number or its digits.
        values: The values of the structures, where the data set defines them.

    Raises:
        UserError: If there is no such structure or value.

    Example:
        >>> find_structure("Right ventricle", {}).value is None
        True
    """
    name = str(label).strip().lower().replace("_", "-").replace(" ", "-")
    value = int(name) if name.isdecimal() else values.get(name)
    known = frozenset(values.values()) or None
    if name not in STRUCTURES and (not value or value not in (known or {value})):
        choices = f" ({_listed(known)})" if known else ", from 1"
        raise UserError(
            f"label {label!r}: not known. It is one of {', '.join(STRUCTURES)}, or the number that the label files "
            f"have there{choices}: choose one of them."
        )
    names = {number: structure for structure, number in values.items()}
    return Structure(names.get(value or 0, name), value, values.get("left-ventricle"), known)


def refuse_several_values(labels: Sequence[NDArray[Any]]) -> None:
    """Refuse labels of which most have several values: one must be chosen. If only a few have, those are damaged.

    Args:
        labels: The label maps of a data set.

    Raises:
        UserError: If most have several values.
    """
    values = [set(label_values(label) or ()) - {0} for label in labels]
    several = [found for found in values if len(found) > 1]
    if several and 2 * len(several) >= sum(map(bool, values)):
        raise UserError(
            f"{len(several)} of {len(labels)} labels have several values beside 0: {_listed(set().union(*several))}. "
            "One structure is learnt at a time: choose its number with --label."
        )


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))
