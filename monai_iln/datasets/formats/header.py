"""What every volume's header tells, whatever its format, and what is refused alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.errors import UserError

MAX_VOXELS = 1 << 28  # a cine of 512 x 512 x 20 with 50 phases; more is a damaged header
_MAX_RATIO = 1100  # deflate packs at most 1032 to 1: a smaller file cannot hold what its header says
_LARGEST = float(np.finfo(np.float32).max)
_SPACING_MM = (0.01, 100.0)
PHASE_MS = (5.0, 250.0)  # from one phase of a cine to the next
#: What a header must describe, as messages say it.
RULE = (
    f"A header must be whole and describe 3 or 4 axes of real numbers, up to {MAX_VOXELS} voxels, and their sizes of "
    f"{_SPACING_MM[0]} to {_SPACING_MM[1]:g} mm. Copy or export the file again, or remove it."
)


@dataclass(frozen=True)
class VolumeHeader:
    """The header of a volume, checked.

    Attributes:
        path: The file with the header.
        data: The file with the voxels. Most formats have one file for both.
        shape: The lengths of three axes, or of four with time last.
        affine: The affine from voxel indices to RAS millimetres.
        oriented: Whether the affine's directions and origin mean anything. Those of Analyze do not.
        doubt: The parts of the header that contradict each other, and what is believed; empty if there are none.
        dtype: The data type of the voxels in the file.
        offset: The number of bytes before the voxels.
        frame_ms: The time from one phase of a cine to the next in milliseconds; NaN where the file does not tell it.
    """

    path: Path
    data: Path
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    oriented: bool
    doubt: str
    dtype: np.dtype[Any]
    offset: int
    frame_ms: float

    @property
    def size(self) -> int:
        """The size of the voxels in bytes, unpacked, and of what is before them. The shape is bounded."""
        return self.offset + int(np.prod(self.shape)) * self.dtype.itemsize


def check_shape(lengths: Iterable[Any]) -> tuple[int, ...]:
    """The lengths of the axes, without those of length 1 behind the third.

    Raises:
        ValueError: If no image has so many axes or voxels.
    """
    shape = tuple(int(length) for length in lengths)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1 or np.prod(shape, dtype=object) > MAX_VOXELS:
        raise ValueError(f"shape {shape}")
    return shape


def check_affine(affine: NDArray[np.float64]) -> None:
    """Refuse an affine that no image has.

    Raises:
        ValueError: If it is not finite or singular, or voxels are too large or too small.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = _SPACING_MM
    if not np.isfinite(affine).all() or spacing.min() < low or spacing.max() > high:
        raise ValueError(f"voxels of {' x '.join(f'{size:.3g}' for size in spacing)} mm")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.01:
        raise ValueError("two axes that point the same way")


def decide_frame_ms(step: float, milliseconds: float = 0.0) -> float:
    """The time from one phase of a cine to the next.

    Units are often missing or wrong. A phase lasts 0.005 to 0.25 seconds, so the number tells whether it counts seconds
    or milliseconds. A step of 1, which programs write where they know none, is none.

    Args:
        step: The step along the axis of time.
        milliseconds: The milliseconds in a unit of the step, 0 if the file does not tell.

    Returns:
        The time in milliseconds, or NaN.

    Example:
        >>> decide_frame_ms(0.04), decide_frame_ms(40.0), decide_frame_ms(40.0, 1000.0), decide_frame_ms(1.0)
        (40.0, 40.0, 40.0, nan)
    """
    for unit in (milliseconds, 1.0, 1000.0):
        if PHASE_MS[0] <= step * unit <= PHASE_MS[1]:
            return float(step * unit)
    return math.nan


def check_size(header: VolumeHeader, packed: bool) -> None:
    """Refuse a file that cannot hold what its header says, before any voxel is read.

    Args:
        header: The header.
        packed: True for a compressed file.

    Raises:
        UserError: If sizes do not agree.
    """
    try:
        there = header.data.stat().st_size
    except OSError as error:
        raise unreadable(header.data, error) from error
    if packed and there * _MAX_RATIO < header.size:
        raise wrong_size(header.data, f"{there} bytes, compressed", header.size)
    if not packed and there != header.size:
        raise wrong_size(header.data, f"{there} bytes", header.size)


def check_values(array: NDArray[Any], path: Path) -> None:
    """Refuse values that single precision cannot hold.

    Raises:
        UserError: If there are any.
    """
    if array.dtype.kind in "iu":
        return
    bad = np.count_nonzero(~(np.abs(array) <= _LARGEST))
    if bad:
        raise UserError(
            f"{path}: {bad} voxels are NaN, infinite or beyond {_LARGEST:.1g}. Every voxel needs a value that networks "
            "can compute with: export the file again, or remove it."
        )


def unreadable(path: Path, error: Exception) -> UserError:
    """The error of a file that cannot be read."""
    return UserError(
        f"{path}: cannot be read ({type(error).__name__}: {error}). The file must be whole and readable: copy or "
        "download it again, or remove it."
    )


def wrong_size(path: Path, got: str, expected: int) -> UserError:
    """The error of a file that holds less or more than its header says."""
    return UserError(
        f"{path}: holds {got}, its header speaks of {expected} bytes. The two must agree: the file is truncated or its "
        "header damaged; copy or export it again, or remove it."
    )
