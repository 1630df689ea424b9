"""The output of readers: stacks of labelled slices, and findings about what is wrong with the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray


class DataWarning(UserWarning):
    """Something in the data was left out or is doubtful."""


@dataclass(frozen=True)
class Stack:
    """The labelled slices of one subject in one phase.

    Attributes:
        subject: The subject's name, with which the names of its files start.
        phase: ``"ED"`` or ``"ES"``.
        stratum: The group over which folds are balanced, for example the pathology.
        image: An array ``(H, W, Z)``, as the scanner stored it.
        label: An array ``(H, W, Z)`` of ``uint8``, 1 inside the labelled structure, or 1, 2, ... inside several.
        affine: The affine from ``(row, column, slice)`` to RAS millimetres.
        slices: The numbers of the slices in their series, from 1.
        files: The file that each slice was read from, for reports.
        pool: An array ``(H, W, Z)``, not 0 in the blood pool that the structure is or surrounds. A label is compared
            with its image there. ``None`` means that the label is the blood pool.
        thick_wall: Whether dark muscle surrounds the blood pool, as in the left ventricle. The thin wall of the right
            ventricle often does not separate it from other bright tissue.
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
        """The file that a slice was read from, or an empty text if that is not known."""
        return self.files[index] if self.files else ""

    @property
    def cavity(self) -> NDArray[np.uint8]:
        """The blood pool, which is the label itself where no other was given."""
        return self.label if self.pool is None else self.pool


class Finding(NamedTuple):
    """Something wrong with a frame, a phase or a subject.

    Attributes:
        reason: A key of :data:`monai_iln.datasets.quality.reasons.REASONS`, which says what is done about it.
        subject: The subject whose data it is about.
        phase: The phase, or ``""`` if it is about all of them.
        slice: The slice's number in its series, from 1, or ``None`` if it is about the whole phase or not known.
        file: The file to look at.
        detail: The value that was measured and the rule that it breaks.
        about_label: False if it is about a contour that the label does without. Such a finding excludes nothing.
    """

    reason: str
    subject: str
    phase: str
    slice: int | None
    file: str
    detail: str
    about_label: bool = True

    def action(self, actions: Mapping[str, str]) -> str:
        """What is done about it: ``"exclude"``, ``"keep"`` or ``"left out"``.

        Args:
            actions: The action for each reason, see :func:`~monai_iln.datasets.quality.reasons.choose_actions`.
        """
        action = actions[self.reason]
        if action == "exclude" and not self.about_label:
            return "keep"
        return action


class ReaderOutput(NamedTuple):
    """The output of a reader.

    Attributes:
        stacks: The stacks of the data set, sorted by subject, ED before ES.
        findings: Everything that was wrong with the files.
    """

    stacks: list[Stack]
    findings: list[Finding]


Reading = ReaderOutput  # the former name
