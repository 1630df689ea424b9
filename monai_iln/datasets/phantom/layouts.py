"""How each layout names subjects, which slices it stores, and what writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from monai_iln.datasets.phantom import contoured, volumes
from monai_iln.datasets.phantom.heart import Heart


@dataclass(frozen=True)
class Layout:
    """A layout in which phantoms can be written.

    Attributes:
        write: A function that writes subjects into a folder.
        name: A function that returns a subject's name.
        slices: A function that returns the slices that are labelled or stored in a phase, from 0, in the order of the
            files.
        landscape: Whether there are fewer rows than columns, as scanners store a rectangular field of view.
    """

    write: Callable[[Path, Iterable[Heart]], None]
    name: Callable[[Heart], str]
    slices: Callable[[Heart, int], list[int]]
    landscape: bool = False


def with_left(heart: Heart, phase: int) -> list[int]:
    """The slices that cut the left ventricle."""
    return heart.labelled("endocardium", phase)


def with_right(heart: Heart, phase: int) -> list[int]:
    """The slices that cut the right ventricle."""
    return heart.labelled("right", phase)


def all_slices(heart: Heart, _: int) -> list[int]:
    """All slices."""
    return list(range(heart.slices))


#: The layouts of :data:`monai_iln.datasets.phantom.LAYOUTS`.
WRITERS = {
    "official": Layout(contoured.write_official, contoured.late_name, with_left),
    "png": Layout(contoured.write_png, contoured.late_name, with_left),
    "chla": Layout(volumes.write_chla, volumes.chla_name, volumes.chla_slices),
    "acdc": Layout(volumes.write_acdc, volumes.acdc_name, all_slices, landscape=True),
    "rvsc": Layout(contoured.write_rvsc, contoured.right_name, with_right, landscape=True),
    "mnms": Layout(volumes.write_mnms, volumes.mnms_name, all_slices, landscape=True),
}
