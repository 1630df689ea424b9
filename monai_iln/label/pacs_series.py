"""Which stacks the series of a PACS hold, told from the headers of their images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from monai_iln.datasets.formats.dicom import Frame, NotASliceError, quiet_pydicom, read_frames, uneven_steps
from monai_iln.datasets.geometry.cine import Cine, group_cines
from monai_iln.errors import UserError, count, first_of
from monai_iln.files import write_json


class OneSliceError(UserError):
    """A series of one slice in several phases: a long axis, or a part of a cine with a series for each slice."""


class PacsStack(NamedTuple):
    """A stack in a PACS: a series, or one phase of a cine, which is a series or has one for each slice.

    Attributes:
        image_id: The SeriesInstanceUID, for a phase followed by ``_phase`` and its number, from 1.
        study: The StudyInstanceUID.
        series: The SeriesInstanceUID, of several that of the first slice.
        instances: The SOPInstanceUIDs of its images, in the order of its slices.
        homes: The SeriesInstanceUID of each image.
    """

    image_id: str
    study: str
    series: str
    instances: tuple[str, ...]
    homes: tuple[str, ...]


@contextmanager
def remember_series(file: Path) -> Iterator[dict[str, Any]]:
    """Read what the headers of each series told, and write what has come at the end, also if an error is that.

    Args:
        file: The file that keeps it. It need not exist.
    """
    text = file.read_text() if file.exists() else "{}"
    known = json.loads(text)
    try:
        yield known
    finally:
        if known != json.loads(text):
            write_json(file, known)


def split_series(study: str, series: str, headers: Sequence[Mapping[str, Any]]) -> list[PacsStack]:
    """Find the stacks of a series. Images at one place are phases, see :mod:`monai_iln.datasets.geometry.cine`.

    Args:
        study: The StudyInstanceUID.
        series: The SeriesInstanceUID.
        headers: The headers of its images in DICOM's JSON, as DICOMweb tells them.

    Returns:
        One stack for each phase. Where localizers lie in the series of a cine, they are passed over.

    Raises:
        OneSliceError: If the series is one slice in several phases.
        UserError: If it is no stack: it holds something else, several stacks, or slices and phases of which some are
            missing or damaged.
    """
    return join_series(study, {series: headers})


def join_series(study: str, headers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[PacsStack]:
    """Find the stacks that some series are together, as :func:`split_series` does.

    Args:
        study: The StudyInstanceUID.
        headers: The headers of the images of each series.
    """
    frames: list[Frame] = []
    for series, told in headers.items():
        frames += [replace(frame, series_uid=series) for frame in _read_headers(told)]
    cine = _choose(group_cines(frames))
    counts = cine.counts
    if cine.misfits:
        raise UserError(
            f"{count(len(cine.misfits), 'image', 'does', 'do')} not fit with the others by their headers, which may "
            "be damaged"
        )
    if min(counts) < max(counts):
        raise UserError(f"{min(counts)} to {max(counts)} images for each of {len(counts)} slices, not as many for all")
    if counts[0] > 1 and not cine.key:
        raise UserError(f"{counts[0]} images for each of {len(counts)} slices, and nothing tells their order")
    if len(counts) == 1 and counts[0] > 1:
        raise OneSliceError(
            f"one slice in {counts[0]} phases: a long axis, or a cine that is stored as a series for each slice, whose "
            "other slices are missing or do not fit. Store them too, or take its files and split them with monai-iln "
            "stacks"
        )
    if uneven_steps([slice_[0] for slice_ in cine.slices]):
        raise UserError("the slices are not evenly spaced")
    first = cine.slices[0][0].series_uid
    stacks = []
    for number, members in enumerate(zip(*cine.slices, strict=True), start=1):
        name = f"{first}_phase{number:0{len(str(counts[0]))}}" if counts[0] > 1 else first
        instances, homes = zip(*((frame.uid, frame.series_uid) for frame in members), strict=True)
        stacks.append(PacsStack(name, study, first, instances, homes))
    return stacks


def _read_headers(headers: Sequence[Mapping[str, Any]]) -> list[Frame]:
    """The frames of images, read as those of files are."""
    frames: list[Frame] = []
    with tempfile.TemporaryDirectory() as folder, quiet_pydicom() as pydicom:
        for number, header in enumerate(headers):
            path = Path(folder) / f"{number}.dcm"
            meta = pydicom.dataset.FileMetaDataset()
            meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            told = pydicom.Dataset.from_json({tag: value for tag, value in header.items() if _tells(tag, value)})
            file = pydicom.FileDataset(path, told, preamble=bytes(128), file_meta=meta, is_implicit_VR=False)
            file.save_as(path)
            try:
                parts = read_frames(path)
            except NotASliceError as error:
                raise UserError(str(error).removeprefix(f"{path}: ").rstrip(".")) from error
            except UserError as error:
                raise UserError("the header of an image is damaged") from error
            if len(parts) > 1:
                raise UserError("images of several frames each, which MONAI Label does not write a SEG of")
            frames += parts
    return frames


def _tells(tag: str, element: Mapping[str, Any]) -> bool:
    """Whether an element may tell the kind, the place or the time of an image. Others take time."""
    if tag[:4] == "5200":
        return True
    is_short = element.get("vr") not in ("SQ", "UN", "OB", "OW", "LT", "ST", "UT", "PN", "SH")
    return is_short and (tag == "00100020" or tag[:4] in ("0008", "0018", "0020", "0028"))


def _choose(cines: Sequence[Cine]) -> Cine:
    """The one stack of a series, or the one cine of several slices among others."""
    moving = [cine for cine in cines if len(cine.slices) > 1 and max(cine.counts) > 1]
    chosen = moving if len(moving) == 1 else cines
    if len(chosen) != 1:
        sizes = [f"{count(len(cine.slices), 'slice')} of {count(max(cine.counts), 'image')}" for cine in cines]
        raise UserError(f"{count(len(cines), 'stack')} in one series: {first_of(sizes)}")
    return chosen[0]
