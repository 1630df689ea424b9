"""Cine DICOM series: which frames lie where, their pixels, and the affine of a stack of them."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.listing import is_dicom, list_files
from monai_iln.datasets.geometry.numbering import split_slices
from monai_iln.errors import UserError
from monai_iln.extras import require_extra

MAX_PIXELS = 4096**2  # a short-axis image has 512 x 512 at most; a damaged header may claim anything

_TAGS = [
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "SpacingBetweenSlices",
    "SliceThickness",
]
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Frame:
    """One DICOM image of a series. Lengths are in millimetres, positions in DICOM's LPS coordinates.

    Attributes:
        path: The file.
        instance: The InstanceNumber.
        series: What all frames of the series share, see :func:`find_series`.
        shape: The rows and columns.
        position: The centre of the first pixel.
        row_direction: The direction in which columns count.
        column_direction: The direction in which rows count.
        spacing: The distances between rows and between columns.
        slice_step: The distance to the next slice, as the header says.
    """

    path: Path
    instance: int
    series: tuple[str, ...]
    shape: tuple[int, int]
    position: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    spacing: tuple[float, float]
    slice_step: float

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """The direction of the slice's normal."""
        return np.cross(self.row_direction, self.column_direction)

    @cached_property
    def depth(self) -> float:
        """Where the frame lies along its normal."""
        return float(self.normal @ np.asarray(self.position))


def read_frame(path: Path) -> Frame:
    """Read the header of one file.

    Args:
        path: The DICOM file.

    Raises:
        UserError: If the file is no DICOM image, or does not say where it lies.
    """
    try:
        with _quiet_pydicom() as pydicom:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            orientation = [float(v) for v in header.ImageOrientationPatient]
            x, y, z = (float(v) for v in header.ImagePositionPatient)
            rows, columns = (float(v) for v in header.PixelSpacing)
            # Some series share one UID with others: folder, start of the name and geometry tell them apart.
            prefix = re.sub(r"-?\d+$|.*\..*", "", path.stem)  # a name with dots is a UID, not that of a series
            frame = Frame(
                path=path,
                instance=int(header.InstanceNumber),
                series=(str(path.parent), prefix, str(header.SeriesInstanceUID), *(f"{v:.3f}" for v in orientation)),
                shape=(int(header.Rows), int(header.Columns)),
                position=(x, y, z),
                row_direction=(orientation[0], orientation[1], orientation[2]),
                column_direction=(orientation[3], orientation[4], orientation[5]),
                spacing=(rows, columns),
                slice_step=float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0),
            )
        # Written so that a value that is no number fails, too.
        if (
            not 0.99 < np.linalg.norm(frame.normal) < 1.01
            or not abs(frame.depth) < 1e5
            or not (0 < rows < 100 and 0 < columns < 100 and 0 < frame.slice_step < 1000)
        ):
            raise ValueError(f"orientation {orientation}, position {(x, y, z)}, spacing {(rows, columns)}")
        if not 0 < frame.shape[0] * frame.shape[1] <= MAX_PIXELS:
            raise ValueError(f"claims {frame.shape[0]} x {frame.shape[1]} pixels")
    except Exception as error:  # pydicom raises many kinds on damaged headers
        raise UserError(
            f"{path}: cannot be read as a DICOM image ({type(error).__name__}: {error}). A frame needs InstanceNumber, "
            "ImagePositionPatient, ImageOrientationPatient, PixelSpacing and its size. Download the file again, or "
            "remove it."
        ) from error
    return frame


def read_pixels(frame: Frame) -> NDArray[np.generic]:
    """The frame's stored values, ``(rows, columns)``, rescaled where the header asks for it.

    Args:
        frame: The frame, as :func:`read_frame` returns it.

    Raises:
        UserError: If the pixel data are missing, truncated, or not one grey image of the size that the header says.
    """
    try:
        with _quiet_pydicom() as pydicom:
            dataset = pydicom.dcmread(frame.path)
            claimed = (dataset.Rows, dataset.Columns, int(dataset.get("NumberOfFrames") or 1), dataset.SamplesPerPixel)
            if claimed != (*frame.shape, 1, 1):  # before anything of that size is unpacked
                raise ValueError(f"rows, columns, frames and samples of {claimed}, where one grey image is expected")
            pixels = _rescale(dataset.pixel_array, dataset)
        if pixels.shape != frame.shape or not np.isfinite(pixels).all():
            raise ValueError(f"pixels of shape {pixels.shape}, where {frame.shape} finite numbers are expected")
    except Exception as error:  # pydicom raises many kinds on damaged pixel data
        raise UserError(
            f"{frame.path}: the header can be read, the pixel data cannot ({error}). The file is truncated or "
            "damaged. Download it again, or remove it together with its contours."
        ) from error
    return pixels


@contextmanager
def _quiet_pydicom() -> Iterator[Any]:
    """Without the warnings of pydicom: real Sunnybrook headers hold invalid UIDs, of which nothing is used here."""
    import pydicom
    from pydicom.config import disable_value_validation

    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pydicom


def _rescale(pixels: NDArray[np.generic], dataset: Any) -> NDArray[np.generic]:
    """The values that the header's slope and intercept make of the stored ones."""
    try:
        from pydicom.pixels import apply_modality_lut
    except ImportError:  # pydicom 2, to which MONAI Label is bound
        from pydicom.pixel_data_handlers import apply_modality_lut
    return np.asarray(apply_modality_lut(pixels, dataset))


def find_series(folders: Iterable[Path]) -> tuple[list[list[Frame]], list[tuple[Path, UserError]]]:
    """All series of DICOM files in and below folders, and the files that cannot be read.

    The frames of a series share folder, start of the file name, UID and orientation.

    Args:
        folders: The folders.

    Returns:
        The series, each sorted by InstanceNumber, and each damaged file with what is wrong with it.
    """
    require_extra("reading DICOM", "data", "pydicom")
    series: dict[tuple[str, ...], list[Frame]] = defaultdict(list)
    damaged = []
    for path in sorted({path for folder in folders for path in list_files(folder) if is_dicom(path)}):
        try:
            frame = read_frame(path)
        except UserError as error:
            damaged.append((path, error))
        else:
            series[frame.series].append(frame)
    return [sorted(frames, key=lambda f: f.instance) for frames in series.values()], damaged


def stack_affine(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """The NIfTI affine (RAS, millimetres) of ``numpy.stack([rows x columns], axis=-1)`` of these frames.

    Axis 0 counts rows, axis 1 columns, axis 2 slices in the order given. The step between slices is the mean of the
    distances from ``ImagePositionPatient``; for one slice alone it is what the header says.

    Args:
        frames: One frame of each slice.
    """
    first, last = frames[0], frames[-1]
    if len(frames) > 1:
        step = (np.asarray(last.position) - np.asarray(first.position)) / (len(frames) - 1)
    else:
        step = first.normal * first.slice_step
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(first.column_direction) * first.spacing[0]
    affine[:3, 1] = np.asarray(first.row_direction) * first.spacing[1]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    affine[:3] = _LPS_TO_RAS @ affine[:3]
    return affine


def uneven_steps(frames: Sequence[Frame]) -> bool:
    """Whether steps between neighbours differ by more than a tenth, in length or direction: the affine is a mean."""
    steps = np.diff([frame.position for frame in frames], axis=0)
    if len(steps) < 2:
        return False
    mean = steps.mean(axis=0)
    return bool(np.linalg.norm(steps - mean, axis=1).max() > 0.1 * np.linalg.norm(mean))


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
