"""One stack from a folder of DICOM files, in one phase or in all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.dicom import Frame, NotASliceError, read_frames, stack_affine, uneven_steps
from monai_iln.datasets.formats.dicom_pixels import read_each
from monai_iln.datasets.formats.listing import is_dicom, list_files
from monai_iln.datasets.geometry.cine import Cine, drop_copies, group_cines
from monai_iln.datasets.geometry.series import find_misfits
from monai_iln.datasets.geometry.times import Beat, beat_of_frames
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import UserError, count, first_of
from monai_iln.extras import require_extra

_MOST_OPEN = 64  # stacks of which the headers are kept, less than a megabyte each


def read_stack(
    folder: Path | str, phase: int | None = None, series: int | str | None = None
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Read one short-axis stack of one cardiac phase from a folder of DICOM files.

    Names decide nothing: :mod:`monai_iln.datasets.geometry.cine` says how headers do. What was decided on the way, such
    as copies that were passed over, is one :class:`~monai_iln.datasets.stacks.DataWarning`.

    Args:
        folder: The folder of one stack: one image a slice or a cine, in one series or in one for each slice. It may
            hold other series if ``series`` chooses one.
        phase: The phase to read, from 1. A cine needs it, because the series does not say which one is meant.
        series: The number of the stack, from 1, in the list that the message about several stacks gives; or the
            SeriesInstanceUID of one of its series.

    Returns:
        The stack ``(rows, columns, slices)``, slices in order along their normal, and its NIfTI affine, see
        :func:`~monai_iln.datasets.formats.dicom.stack_affine`.

    Raises:
        UserError: If there is no stack, or more than one and none is chosen; if slices, phases or files are missing,
            damaged or unlike their series; or if the phase is not given or out of range.
    """
    folder = Path(folder)
    cine, notes = _open(folder, series)
    members = _take_phase(folder, cine, phase)
    _refuse_uneven(folder, members)
    _tell(folder, notes)
    return np.stack(read_each(members), axis=-1), stack_affine(members)


def read_cine_folder(
    folder: Path | str, series: int | str | None = None
) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """Read all phases of one short-axis stack from a folder of DICOM files, each file once.

    Args:
        folder: The folder, as for :func:`read_stack`. Where ``series`` chooses none of several stacks, and only one of
            them is a cine of several slices, it is taken.
        series: The stack, as for :func:`read_stack`.

    Returns:
        The cine ``(rows, columns, slices, phases)`` and its NIfTI affine.

    Raises:
        UserError: As :func:`read_stack` raises it.
    """
    folder = Path(folder)
    cine, notes = _open(folder, series, cines_first=True)
    _refuse_uneven(folder, _take_phase(folder, cine, 1))
    _tell(folder, notes)
    pixels = np.stack(read_each(cine.frames), axis=-1)
    return pixels.reshape(*pixels.shape[:2], len(cine.slices), -1), stack_affine([slice_[0] for slice_ in cine.slices])


def find_beat(folder: Path | str, series: int | str | None = None) -> Beat:
    """Find the slices of the stack in a folder of DICOM files and when its phases were taken, from headers alone.

    Args:
        folder: The folder, as for :func:`read_cine_folder`.
        series: The stack, as for :func:`read_stack`.

    Raises:
        UserError: As :func:`read_cine_folder` raises it for headers.
    """
    cine, _ = _open(Path(folder), series, cines_first=True)
    return beat_of_frames(cine)


def _open(folder: Path, series: int | str | None, cines_first: bool = False) -> tuple[Cine, list[str]]:
    """The one stack of a folder, whole and in order, and what was decided on the way."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Give the folder that holds the DICOM files of one stack.")
    return _open_files(folder, tuple(map(_identify, list_files(folder))), series, cines_first)


def _identify(path: Path) -> tuple[Path, int, int]:
    """A file, when it was written last and its size."""
    try:
        state = path.stat()
    except OSError:  # a link to nothing
        return path, 0, 0
    return path, state.st_mtime_ns, state.st_size


@lru_cache(maxsize=_MOST_OPEN)
def _open_files(
    folder: Path, files: Sequence[tuple[Path, int, int]], series: int | str | None, cines_first: bool
) -> tuple[Cine, list[str]]:
    """The same by the files of the folder, which are read once as long as they stay as they are."""
    frames, unfit, others = _find_frames([path for path, _, _ in files])
    frames, notes = drop_copies(frames)
    cines = group_cines(frames)
    moving = [cine for cine in cines if len(cine.slices) > 1 and max(cine.counts) > 1]
    if cines_first and series is None and len(moving) == 1 < len(cines):
        notes.append(f"of {len(cines)} stacks the one cine of several slices is taken: {moving[0].describe()}")
        cines = moving
    cine = _choose(folder, cines, series, unfit)
    _check(folder, cine, unfit)
    others += [str(error).rstrip(".") for error in unfit]
    notes += [
        *cine.notes,
        *beat_of_frames(cine).notes,
        *(f"{frame.path} is passed over, {detail}" for frame, detail in cine.strays),
    ]
    if others:
        notes.append(f"{count(len(others), 'file', 'is', 'are')} passed over: {first_of(others)}")
    return cine, notes


def _tell(folder: Path, notes: Sequence[str]) -> None:
    """Warn of what was decided on the way."""
    if notes:
        warnings.warn(f"{folder}: {'. '.join(notes)}.", DataWarning, stacklevel=3)


def _find_frames(files: Sequence[Path]) -> tuple[list[Frame], list[NotASliceError], list[str]]:
    """All frames of some files, what the other DICOM files are, and which files are not DICOM."""
    require_extra("reading DICOM", "data", "pydicom")
    frames: list[Frame] = []
    unfit, others = [], []
    for path in files:
        if not is_dicom(path):
            others.append(f"{path}: not a DICOM file")
            continue
        try:
            frames += read_frames(path)
        except NotASliceError as error:
            unfit.append(error)
    return frames, unfit, others


def _choose(folder: Path, cines: Sequence[Cine], series: int | str | None, unfit: Sequence[NotASliceError]) -> Cine:
    """The one stack of a folder, or the one that is asked for."""
    if not cines:
        found = "no DICOM file"
        if unfit:
            found = f"no image of a stack: {first_of([str(error).rstrip('.') for error in unfit])}"
        raise UserError(f"{folder}: {found}. Give the folder that holds the DICOM files of one stack.")
    chosen = list(cines)
    if series is not None and str(series).isdecimal():
        chosen = [cine for number, cine in enumerate(cines, start=1) if number == int(series)]
    elif series is not None:
        chosen = [cine for cine in cines if str(series) in cine.series_uids]
    if len(chosen) == 1:
        return chosen[0]
    asked = ""
    if series is not None:
        asked = f"series {series} is {'more than one' if chosen else 'none'} of "
    listed = "\n".join(f"  {number}: {cine.describe()}" for number, cine in enumerate(cines, start=1))
    raise UserError(
        f"{folder}: {asked}{count(len(cines), 'stack')}:\n{listed}\nOne is segmented at a time: choose it with "
        f"series (1 to {len(cines)}, or a UID that it alone has), or give the folder that holds its files alone."
    )


def _check(folder: Path, cine: Cine, unfit: Sequence[NotASliceError]) -> None:
    """Refuse a stack in which a file is damaged or missing."""
    for error in unfit:
        if error.series_uid and error.series_uid in cine.series_uids:
            raise error
    if cine.misfits:
        told = first_of([f"{frame.path} {detail}" for frame, detail in cine.misfits])
        raise UserError(f"{folder}: a header was changed or damaged. {told}. Restore the file, or remove its slice.")
    counts = cine.counts
    if min(counts) < max(counts):
        strays = [f"{frame.path}, {detail}" for frame, detail in cine.strays]
        hint = ""
        if strays:
            hint = f" It may be {first_of(strays)}."
        raise UserError(
            f"{folder}: {', '.join(map(str, counts))} files for the {len(counts)} slices, in order of their places: "
            f"{_odd_slice(cine)}.{hint} Every slice must be there in every phase, once, or phases would mix: add what "
            "is missing, remove what is there twice."
        )
    if counts[0] > 1 and not cine.key:
        raise UserError(
            f"{folder}: {counts[0]} files for each of {len(counts)} slices, and nothing tells their order: "
            "TriggerTime, TemporalPositionIdentifier, AcquisitionTime and InstanceNumber are missing, or the same in "
            "two files of a slice. Export the files again, with one of them."
        )


def _odd_slice(cine: Cine) -> str:
    """The first slice that has not as many files as most, and files of it that are one image."""
    usual = max(cine.counts, key=lambda count: (cine.counts.count(count), count))
    slice_ = next(slice_ for slice_ in cine.slices if len(slice_) != usual)
    if len(slice_) < usual:
        return f"too few for that of {slice_[0].path.name}"
    told = f"too many for that of {slice_[0].path.name}"
    known: dict[tuple[str, int], Frame] = {}
    for frame in slice_:
        twin = known.setdefault((frame.uid, frame.index), frame)
        if frame.uid and twin is not frame:
            return f"{told}: {twin.path.name} and {frame.path.name} have one SOPInstanceUID"
    return told


def _take_phase(folder: Path, cine: Cine, phase: int | None) -> list[Frame]:
    """The frames of one phase."""
    phases = cine.counts[0]
    if phase is None and phases > 1:
        raise UserError(
            f"{folder}: a cine with {phases} phases of {len(cine.slices)} slices. One phase is segmented at a time: "
            f"choose it with phase (1 to {phases})."
        )
    if phase is None:
        phase = 1
    if not 1 <= phase <= phases:
        raise UserError(f"{folder}: phase {phase} of {phases}. Phases count from 1 to {phases}: choose one of them.")
    return [slice_[phase - 1] for slice_ in cine.slices]


def _refuse_uneven(folder: Path, members: Sequence[Frame]) -> None:
    """Refuse slices that are not evenly spaced."""
    if not uneven_steps(members):
        return
    misfits = [f"{frame.path} {detail}" for frame, detail in find_misfits(members)]
    if misfits:
        raise UserError(
            f"{folder}: a header was changed or damaged, or a slice moved. {misfits[0]}. Restore the file, or remove "
            "its slice."
        )
    steps = np.linalg.norm(np.diff([frame.position for frame in members], axis=0), axis=1)
    place = int(np.abs(steps - np.median(steps)).argmax())
    one, two = members[place].path.name, members[place + 1].path.name
    raise UserError(
        f"{folder}: the slices are not evenly spaced, as if one were missing or too many: {steps[place]:.1f} mm "
        f"between those of {one} and {two}, {np.median(steps):.1f} mm between most. A stack needs one step between "
        "slices: add what is missing, remove what is not of it, or segment the parts one by one."
    )
