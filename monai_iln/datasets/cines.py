"""Cines: short-axis stacks in several phases, in DICOM folders or in volumes of four axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.volumes import read_header, read_voxels
from monai_iln.datasets.geometry.grids import refuse_other_axis
from monai_iln.datasets.geometry.times import Beat, beat_of_volume
from monai_iln.datasets.ranges import RANGE_KEY, require_inside
from monai_iln.datasets.readers.dicom_folder import find_beat, read_cine_folder
from monai_iln.errors import require

PHASE_KEY, TIMES_KEY, DOUBTS_KEY = "cine_phase", "cine_times", "cine_doubts"
"""The keys of an item that is one phase of a cine: its number, from 1; of all phases the times, and what is doubted."""
_LARGEST_CLASS = 15  # of a mask; the grey values of an image reach beyond 100


class CineImage(NamedTuple):
    """All phases of a stack.

    Attributes:
        pixels: An array ``(rows, columns, slices, phases)``, as stored.
        affine: The affine from the first three indices to RAS millimetres.
        oriented: Whether the affine's directions and origin mean anything.
        doubt: The parts of the header that contradict each other, and what is believed; empty if there are none.
    """

    pixels: NDArray[Any]
    affine: NDArray[np.float64]
    oriented: bool
    doubt: str


def read_cine(path: Path | str, series: int | str | None = None) -> CineImage:
    """Read all phases of a cine, each file once.

    Args:
        path: A folder of DICOM files, or a volume of four axes, the last of which is time.
        series: The stack to read from DICOM files, see :func:`~monai_iln.datasets.readers.dicom_folder.read_stack`.

    Raises:
        UserError: If it cannot be read, or is no such cine.
    """
    path = Path(path)
    if path.is_dir():
        pixels, affine = read_cine_folder(path, series)
        return CineImage(pixels, affine, True, "")
    header = read_header(path)
    refuse_other_axis(path, header.shape, header.affine)
    got, rule = f"{path}: an image of shape {header.shape}", "a cine has four axes (rows, columns, slices, phases)"
    require(len(header.shape) == 4, got, rule, "give a cine")
    beat_of_volume(path, header.shape, header.affine, header.frame_ms)  # which refuses time along the third axis
    return CineImage(read_voxels(header), header.affine, header.oriented, header.doubt)


def refuse_mask(path: Path | str, pixels: NDArray[Any]) -> None:
    """Refuse to segment a mask: the numbers would mean nothing.

    Args:
        path: The file, for the message.
        pixels: The voxels of an image.

    Raises:
        UserError: If they are few whole numbers from 0 on.
    """
    low, high = pixels.min(), pixels.max()
    is_mask = low >= 0 and high <= _LARGEST_CLASS and bool((pixels == np.round(pixels)).all())
    got, rule = f"{path}: whole numbers from {low:g} to {high:g} alone", "a mask has so few, and an image many"
    require(not is_mask, got, rule, "give the cine itself")


def read_beat(path: Path | str, series: int | str | None = None) -> Beat:
    """Read how many slices and phases a stack has, from headers alone.

    Args:
        path: A folder of DICOM files, or a volume.
        series: The stack, as for :func:`read_cine`.

    Raises:
        UserError: If the headers cannot be read, frames are missing, or time lies along the third axis.
    """
    path = Path(path)
    if path.is_dir():
        return find_beat(path, series)
    header = read_header(path)
    return beat_of_volume(path, header.shape, header.affine, header.frame_ms)


def find_phase_times(path: Path | str, series: int | str | None = None) -> list[float]:
    """Find the phases of a stack, from headers alone.

    Args:
        path: A folder of DICOM files, or a volume.
        series: The stack, as for :func:`read_cine`.

    Returns:
        The time of each phase in milliseconds after the first, NaN where it is not told. A stack of one phase has one.

    Raises:
        UserError: As :func:`read_beat` raises it.
    """
    return read_beat(path, series).times_ms


def split_phases(
    items: Sequence[Mapping[str, Any]], phase: int | None = None, series: int | str | None = None
) -> list[dict[str, Any]]:
    """Make an item of every phase of the cines among some items. Stacks of one phase stay as they are.

    Args:
        items: The items, with a path as ``"image"``, and those of :func:`~monai_iln.datasets.add_ranges` with a range.
        phase: The phase that is asked for. Then no cine is split.
        series: The stack, as for :func:`read_cine`.

    Returns:
        The items. Those of a phase have its number as ``"cine_phase"``, the times of all phases as ``"cine_times"`` and
        the words of what headers make doubtful as ``"cine_doubts"``; the phases of a cine follow one another.

    Raises:
        UserError: As :func:`read_beat` raises it, or a range of slices leaves its stack; before anything is segmented.
    """
    if phase is not None:
        return [dict(item) for item in items]
    split: list[dict[str, Any]] = []
    for item in items:
        beat = read_beat(item["image"], series)
        if RANGE_KEY in item:
            require_inside(item[RANGE_KEY], beat.slices, item["image"])
        if len(beat.times_ms) < 2:
            split.append(dict(item))
            continue
        shared = {**item, TIMES_KEY: beat.times_ms, DOUBTS_KEY: " ".join(beat.doubts)}
        split += [{**shared, PHASE_KEY: number} for number in range(1, len(beat.times_ms) + 1)]
    return split


def frame_ms(times: Sequence[float]) -> float:
    """The usual time from one phase to the next, NaN where it is not known.

    Args:
        times: The times of the phases in milliseconds.

    Example:
        >>> frame_ms([0.0, 40.0, 80.0, 121.0])
        40.0
    """
    if len(times) < 2:
        return math.nan
    return float(np.median(np.diff(times)))
