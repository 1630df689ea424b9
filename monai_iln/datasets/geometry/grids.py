"""Grids of voxels by shape and affine: which axis counts slices, and whether two lie in one place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.errors import UserError

MOST_VOXELS = 0.25  # between corners of grids in one place


def is_unit(steps: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether steps are 1, which is what programs write where they know no size.

    A short-axis stack whose steps *all* are 1 does not know its geometry, for its slices are never 1 mm apart. Of other
    volumes 1 x 1 x 1 mm is a common size.

    Args:
        steps: The lengths of the steps.

    Example:
        >>> is_unit(np.array([1.0, 1.0, 8.0])).tolist()
        [True, True, False]
    """
    return np.asarray(np.isclose(steps, 1, rtol=0, atol=1e-4))


def slice_axis(shape: tuple[int, ...], affine: NDArray[np.float64]) -> int:
    """Find the axis that counts slices, from sizes alone.

    It is an axis that is clearly coarser than two of equal spacing, or has less than a third of the length of the
    others. If there is none, the last axis counts slices, as is usual.

    Args:
        shape: The shape of the array.
        affine: The affine to millimetres.

    Returns:
        The axis: 0, 1 or 2.

    Raises:
        UserError: If spacing and length point at different axes.

    Example:
        >>> slice_axis((12, 256, 216), np.diag([8.0, 1.4, 1.4, 1.0]))
        0
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lengths = np.asarray(shape[:3])
    fine, medium, coarse = np.sort(spacing)
    short, next_ = np.sort(lengths)[:2]
    candidates = set()
    if medium < 1.05 * fine and coarse > 1.5 * medium:
        candidates.add(int(spacing.argmax()))
    if 3 * short < next_:
        candidates.add(int(lengths.argmin()))
    if len(candidates) > 1:
        sizes = " x ".join(f"{size:.3g}" for size in spacing)
        raise UserError(
            f"shape {tuple(shape)} with voxels of {sizes} mm: the shortest axis is not the coarsest. Slices are few "
            "and far apart: correct the voxel sizes in the header, or the order of the axes."
        )
    return next(iter(candidates), 2)


def refuse_other_axis(path: Path | str, shape: tuple[int, ...], affine: NDArray[np.float64]) -> None:
    """Refuse a stack or a cine whose slices do not lie along the third axis.

    Args:
        path: The file, for the message.
        shape: The shape of the array.
        affine: The affine to millimetres.

    Raises:
        UserError: If another axis counts slices, see :func:`slice_axis`.
    """
    axis = slice_axis(shape, affine)
    if axis != 2:
        sizes = " x ".join(f"{size:.2f}" for size in np.linalg.norm(affine[:3, :3], axis=0))
        raise UserError(
            f"{path}: shape {shape}, voxels of {sizes} mm: by these, axis {axis} counts the slices. It must be the "
            "last (rows, columns, slices): reorder the axes."
        )


def displacement(image: NDArray[np.float64], label: NDArray[np.float64], shape: Sequence[int]) -> float:
    """How far two affines put the corners of a grid apart, in voxels.

    Args:
        image: The affine of the image, in whose voxels distances are measured, along each of its axes.
        label: The affine of what should lie on it.
        shape: The shape of the grid. Axes beyond the third do not count.

    Returns:
        The largest distance of a corner.

    Example:
        >>> displacement(np.diag([1.5, 1.5, 8, 1]), np.diag([1.5, 1.5, 9, 1]), (128, 128, 12))
        1.4375
    """
    corners = np.array([[*corner, 1.0] for corner in product(*((-0.5, length - 0.5) for length in shape[:3]))]).T
    return float(np.abs(np.linalg.solve(image, label @ corners) - corners).max())


def same_place(image: NDArray[np.float64], label: NDArray[np.float64], shape: Sequence[int]) -> bool:
    """Whether two affines put a grid in one place: every corner to a quarter of a voxel, see :func:`displacement`.

    Rounding is no difference: an origin 0.03 mm off, directions that differ by 1e-4, a size of 1.3672 for 1.367187. The
    shift by half a voxel, which comes from taking corners for centres, is one.

    Args:
        image: The affine of the image.
        label: The affine of what should lie on it.
        shape: The shape of the grid.
    """
    return displacement(image, label, shape) <= MOST_VOXELS
