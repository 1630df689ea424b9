"""Which structure of a label map is wanted, and what its values may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from monai_iln.errors import UserError

STRUCTURES = ("right-ventricle", "left-ventricle", "myocardium")


class Structure(NamedTuple):
    """What is wanted of the labels.

    ``value`` is that of the structure (``None``: any but 0), ``left`` that of the left ventricle's cavity, where values
    are known, and ``known`` are all that may occur.
    """

    name: str
    value: int | None
    left: int | None
    known: frozenset[int] | None

    def mask(self, label: NDArray[Any]) -> NDArray[np.uint8]:
        return np.asarray(label != 0 if self.value is None else label == self.value, dtype=np.uint8)

    def pool(self, label: NDArray[Any]) -> NDArray[np.uint8] | None:
        """The cavity in the myocardium, by its value or as what the muscle encloses; ``None`` for the ventricles."""
        if self.name != "myocardium":
            return None
        if self.left is not None:
            return np.asarray(label == self.left, dtype=np.uint8)
        mask = self.mask(label)
        return np.stack([binary_fill_holes(ring) for ring in np.moveaxis(mask, -1, 0)], axis=-1).astype(np.uint8) - mask

    def doubt(self, label: NDArray[Any]) -> str:
        """What is wrong with the values of a label; nothing if nothing is."""
        values = set(label_values(label) or ()) - {0}
        if self.known is not None and not values <= self.known:
            return f"holds {_listed(values)}; known are 0 and {_listed(self.known)}"
        if self.value is None and len(values) > 1:
            return f"holds {_listed(values)}, unlike the labels of most frames: one value beside 0"
        return ""


def label_values(array: NDArray[Any]) -> tuple[int, ...] | None:
    """The values of a label map; ``None`` if they are not whole numbers from 0 to 65535.

    Example:
        >>> label_values(np.array([0.0, 2.0, 2.0])), label_values(np.array([0.5]))
        ((0, 2), None)
    """
    if array.min() < 0 or array.max() > 65535 or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        return None
    return tuple(map(int, np.flatnonzero(np.bincount(array.ravel().astype(np.intp)))))


def find_structure(label: str | int, values: Mapping[str, int]) -> Structure:
    """What a user wants.

    Args:
        label: one of :data:`STRUCTURES`, spaces and capitals do not matter, or a value as a number or its digits.
        values: those of the structures, where the data set defines them.

    Raises:
        UserError: if there is no such structure or value.

    Example:
        >>> find_structure("Right ventricle", {}).value is None
        True
    """
    name = str(label).strip().lower().replace("_", "-").replace(" ", "-")
    value = int(name) if name.isdecimal() else values.get(name)
    known = frozenset(values.values()) or None
    if name not in STRUCTURES and (not value or value not in (known or {value})):
        raise UserError(
            f"label {label!r}: not known. It is one of {', '.join(STRUCTURES)}, or the number that the label files "
            f"have there{f' ({_listed(known)})' if known else ', from 1'}: choose one of them."
        )
    name = {number: structure for structure, number in values.items()}.get(value or 0, name)
    return Structure(name, value, values.get("left-ventricle"), known)


def refuse_several_values(labels: Sequence[NDArray[Any]]) -> None:
    """Where most labels have several values, one must be chosen; if only a few have, those are damaged.

    Raises:
        UserError: if it is most of them.
    """
    values = [set(label_values(label) or ()) - {0} for label in labels]
    several = [found for found in values if len(found) > 1]
    if several and 2 * len(several) >= sum(map(bool, values)):
        raise UserError(
            f"{len(several)} of {len(labels)} labels have several values beside 0: {_listed(set().union(*several))}. "
            "One structure is learnt at a time: choose its number with --label."
        )


def _listed(values: set[int] | frozenset[int]) -> str:
    return ", ".join(map(str, sorted(values)))
