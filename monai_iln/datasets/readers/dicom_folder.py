"""One stack from a folder of DICOM files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.dicom import find_series, split_slices, stack_affine, uneven_steps
from monai_iln.datasets.formats.dicom_pixels import read_pixels
from monai_iln.errors import UserError


def read_stack(folder: Path | str, phase: int | None = None) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Read one short-axis stack of one cardiac phase from a folder of DICOM files.

    Args:
        folder: The folder of one series, either one image a slice or a cine with every phase of every slice.
        phase: The phase to read, from 1. A cine needs it, because the series does not say which one is meant.

    Returns:
        The stack ``(rows, columns, slices)`` and its NIfTI affine, see :func:`stack_affine`.

    Raises:
        UserError: If there is no or more than one series, slices, phases or files are missing, the phase is not given
            or out of range, or a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the folder that holds the DICOM files of one stack.")
    series, damaged = find_series([folder])
    if damaged:
        raise damaged[0][1]
    if len(series) != 1:
        found = ", ".join(f"{len(frames)} files in {frames[0].path.parent}" for frames in series) or "no .dcm file"
        raise UserError(
            f"{folder}: {found}. A stack is one series: give the folder that holds the short-axis files alone."
        )
    slices = split_slices(series[0])
    counts = sorted({len(slice_) for slice_ in slices})
    if len(counts) > 1 or len({frame.instance for frame in series[0]}) < len(series[0]):
        raise UserError(
            f"{folder}: {counts[0]} to {counts[-1]} files for each of {len(slices)} slices, or numbers twice. Every "
            "slice must be there in every phase, once, or phases would mix: add what is missing, remove copies."
        )
    if len({(frame.shape, frame.spacing) for frame in series[0]}) > 1 or min(series[0][0].spacing) <= 0:
        raise UserError(
            f"{folder}: frames of different size or pixel spacing, or a spacing of 0. A stack has one of each: remove "
            "what belongs to another series."
        )
    phases = counts[0]
    if phase is None and phases > 1:
        raise UserError(
            f"{folder}: a cine with {phases} phases of {len(slices)} slices. One phase is segmented at a time: choose "
            f"it with phase (1 to {phases})."
        )
    phase = phase if phase is not None else 1
    if not 1 <= phase <= phases:
        raise UserError(f"{folder}: phase {phase} of {phases}. Phases count from 1 to {phases}: choose one of them.")
    frames = [slice_[phase - 1] for slice_ in slices]
    if uneven_steps(frames):
        raise UserError(
            f"{folder}: the slices are not evenly spaced, as if one were missing. A stack needs one step between "
            "slices: add what is missing, or segment the parts one by one."
        )
    return np.stack([read_pixels(frame) for frame in frames], axis=-1), stack_affine(frames)
