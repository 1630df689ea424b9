"""What every reader returns: stacks of labelled slices, and what it found wrong on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


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
        label: ``(H, W, Z)`` of ``uint8``, 1 inside the labelled structure.
        affine: from ``(row, column, slice)`` to RAS millimetres.
        slices: numbers of the slices in the series they come from, from 1.
        files: what every slice was read from, for reports; one path for each slice.
        pool: ``(H, W, Z)``, not 0 in the cavity of blood that the labelled structure is or surrounds, by which a label
            is compared with its image; ``None``: the label is that cavity.
        thick_wall: whether dark muscle surrounds that cavity, as it does the left ventricle's. The right ventricle's
            thin wall often does not part it from other bright tissue.
    """

    subject: str
    phase: str
    stratum: str
    image: NDArray[Any]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    slices: tuple[int, ...]
    files: tuple[str, ...] = ()
    pool: NDArray[np.uint8] | None = field(default=None, repr=False)
    thick_wall: bool = True

    def file(self, index: int) -> str:
        """What a slice was read from, if that is known."""
        return self.files[index] if self.files else ""

    @property
    def cavity(self) -> NDArray[np.uint8]:
        """The pool, or the label where that is the pool."""
        return self.label if self.pool is None else self.pool


class Finding(NamedTuple):
    """Something wrong with a frame, a phase or a subject.

    Attributes:
        reason: a key of :data:`monai_iln.datasets.quality.exclusion.REASONS`, which says what is done about it.
        subject: whose data it is about.
        phase: ``""`` if it is about all.
        slice: number in the series, from 1; ``None`` if it is about all of the phase, or unknown.
        file: the file to look at.
        detail: what was measured, and against what rule.
    """

    reason: str
    subject: str
    phase: str
    slice: int | None
    file: str
    detail: str


class Reading(NamedTuple):
    """The stacks of a data set, by subject and ED before ES, and what was found wrong while reading them."""

    stacks: list[Stack]
    findings: list[Finding]
