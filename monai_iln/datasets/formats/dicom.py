"""DICOM files: which frames they hold, where these lie and when they were taken; and the affine of a stack of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.errors import UserError

MAX_PIXELS = 4096**2  # a short-axis image has 512 x 512 at most; a damaged header may claim anything
NO_NUMBER = -1  # the number of a frame whose file tells none

_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ImageType", "ComplexImageComponent", "EchoTime"),
    *("InstanceNumber", "TriggerTime", "TemporalPositionIdentifier", "AcquisitionTime"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
# The groups of an enhanced file that are used. Private ones hold elements of the same names that are not the frame's.
_GROUPS = (
    *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"),
    *("MRImageFrameTypeSequence", "MREchoSequence", "CardiacSynchronizationSequence", "FrameContentSequence"),
    *("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence"),
)
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_STUDY = ("PatientID", "StudyInstanceUID")
_KIND = (
    *("ComplexImageComponent", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
_NO_IMAGES = {"SEG", "PR", "SR", "KO", "DOC", "REG", "RTSTRUCT"}  # modalities
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class NotASliceError(UserError):
    """A DICOM file that holds no grey image with a place in the patient, such as a report or a picture in colours.

    Attributes:
        series_uid: The SeriesInstanceUID of the file, or an empty text.
    """

    def __init__(self, message: str, series_uid: str) -> None:
        super().__init__(message)
        self.series_uid = series_uid


@dataclass(frozen=True)
class Frame:
    """One image of a DICOM file. Lengths are in millimetres, positions in DICOM's LPS coordinates.

    Attributes:
        path: The file.
        instance: The InstanceNumber, in a file of several frames the number of the frame, from 1; or ``NO_NUMBER``.
        series: What frames share, beside their UID, in a series of
            :func:`~monai_iln.datasets.geometry.series.find_series`.
        shape: The rows and columns.
        position: The centre of the first pixel.
        row_direction: The direction in which columns count.
        column_direction: The direction in which rows count.
        spacing: The distances between rows and between columns.
        slice_step: The distance to the next slice, as the header says.
        index: The place of the frame in its file, from 0.
        uid: The SOPInstanceUID of the file.
        study: The PatientID and StudyInstanceUID.
        reference: The FrameOfReferenceUID, within which positions can be compared.
        series_uid: The SeriesInstanceUID.
        series_number: The SeriesNumber, or ``NO_NUMBER``.
        description: The SeriesDescription.
        kind: The ImageType and what else tells one kind of image from another, and how its pixels are stored.
        echo_time: The EchoTime in milliseconds, 0 where it is not told.
        trigger_time: The time after the R wave in milliseconds, if it is told.
        temporal_position: The TemporalPositionIdentifier, if it is told.
        acquisition_time: The AcquisitionTime, as the file writes it, if it is told.
        rescale: The slope and the intercept of this frame alone, where a file has them for each.
        header_number: The InstanceNumber, where ``instance`` is the number of the file's name.
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
    index: int = 0
    uid: str = ""
    study: tuple[str, ...] = ()
    reference: str = ""
    series_uid: str = ""
    series_number: int = NO_NUMBER
    description: str = ""
    kind: tuple[str, ...] = ()
    echo_time: float = 0.0
    trigger_time: float | None = None
    temporal_position: float | None = None
    acquisition_time: float | None = None
    rescale: tuple[float, float] | None = None
    header_number: int | None = None

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """The direction of the slice's normal."""
        return np.cross(self.row_direction, self.column_direction)

    @cached_property
    def depth(self) -> float:
        """Where the frame lies along its normal."""
        return float(self.normal @ np.asarray(self.position))


def read_frames(path: Path) -> list[Frame]:
    """Read the header of one file.

    Args:
        path: The DICOM file.

    Returns:
        Its frames: one, or as many as an enhanced multi-frame file has.

    Raises:
        NotASliceError: If the file is whole, but holds no grey image with a place.
        UserError: If the file cannot be read, or claims what cannot be.
    """
    frames: list[Frame] = []
    try:
        with quiet_pydicom() as pydicom:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            series_uid = str(header.get("SeriesInstanceUID") or "")
            fault = _why_no_slice(header)
            if not fault:
                frames = [_parse(path, one, number) for one, number in _split(header)]
    except Exception as error:  # pydicom raises many kinds on damaged headers
        raise UserError(
            f"{path}: cannot be read as a DICOM image ({type(error).__name__}: {error}). A frame needs "
            "ImagePositionPatient, ImageOrientationPatient, PixelSpacing and its size. Download or export the file "
            "again, or remove it."
        ) from error
    if fault:
        raise NotASliceError(f"{path}: {fault}", series_uid)
    return frames


def _why_no_slice(header: Any) -> str:
    """Why a file is no slice, and what to do; an empty text if it is one."""
    sop_class = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", "")
    is_known = getattr(sop_class, "type", "") == "SOP Class"
    if header.get("Modality") in _NO_IMAGES or (is_known and "Image Storage" not in sop_class.name):
        return f"{sop_class.name if is_known else header.Modality}, which is no image. Give the images alone."
    if "Rows" not in header or "Columns" not in header:
        return "" if is_known else "no image, it has no rows and columns. Give the images alone."  # truncated, or none
    colours = header.get("PhotometricInterpretation") or "colours that it does not tell"
    if header.get("SamplesPerPixel", 1) != 1 or not str(colours).startswith("MONOCHROME"):
        return (
            f"a picture in {colours}. A stack has one grey value a pixel, as the scanner made it: export the grey "
            "images, not a picture of them."
        )
    if "PerFrameFunctionalGroupsSequence" in header:
        return ""
    if _whole(header, "NumberOfFrames") > 1:
        return f"{header.NumberOfFrames} frames, of which the file does not tell the places. Export single images."
    missing = [name for name in _PLACE if name not in header]
    if missing:
        return f"an image that does not tell where it lies, it has no {', '.join(missing)}. Give the scanner's images."
    return ""


def _split(header: Any) -> Iterator[tuple[Any, int | None]]:
    """The header of each frame, in an enhanced file with what it shares with all or has alone, and its number there."""
    groups = header.get("PerFrameFunctionalGroupsSequence")
    count = max(1, _whole(header, "NumberOfFrames"))
    if not groups or (count == 1 and "ImagePositionPatient" in header):  # Sunnybrook's images have an empty group
        yield header, None
        return
    if len(groups) != count:
        raise ValueError(f"{count} frames, but headers of {len(groups)}")
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    plain = {element.tag: element for element in header if element.VR != "SQ"}
    for number, group in enumerate(groups, start=1):
        merged = type(group)(dict(plain))  # a copy: pydicom keeps the dictionary that it gets
        for item, name in product((shared[0], group), _GROUPS):
            for element in (item.get(name) or [()])[0]:
                merged.add(element)
        yield merged, number if count > 1 else None


def _parse(path: Path, header: Any, number: int | None) -> Frame:
    """A frame from its header and, in an enhanced file, its number."""
    orientation = [float(v) for v in header.ImageOrientationPatient]
    x, y, z = (float(v) for v in header.ImagePositionPatient)
    rows, columns = (float(v) for v in header.PixelSpacing)
    prefix = re.sub(r"-?\d+$|.*\..*", "", path.stem)  # a name with dots is a UID, not that of a series
    told = header.get("FrameType") or header.get("ImageType") or ()
    kind = [told] if isinstance(told, str) else [*told]  # pydicom gives one value as it is
    kind += [_text(header, name) for name in _KIND]
    slope, intercept = _number(header, "RescaleSlope"), _number(header, "RescaleIntercept")
    slice_step = abs(float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0))  # some write -8
    frame = Frame(
        path=path,
        instance=number or _whole(header, "InstanceNumber"),
        series=(str(path.parent), prefix, *(f"{v:.3f}" for v in orientation)),
        shape=(int(header.Rows), int(header.Columns)),
        position=(x, y, z),
        row_direction=(orientation[0], orientation[1], orientation[2]),
        column_direction=(orientation[3], orientation[4], orientation[5]),
        spacing=(rows, columns),
        slice_step=slice_step,
        index=(number or 1) - 1,
        uid=_text(header, "SOPInstanceUID"),
        study=tuple(_text(header, name) for name in _STUDY),
        reference=_text(header, "FrameOfReferenceUID"),
        series_uid=_text(header, "SeriesInstanceUID"),
        series_number=_whole(header, "SeriesNumber"),
        description=_text(header, "SeriesDescription"),
        kind=tuple(map(str, kind)),
        echo_time=_number(header, "EffectiveEchoTime", "EchoTime") or 0.0,
        trigger_time=_number(header, "NominalCardiacTriggerDelayTime", "TriggerTime"),
        temporal_position=_number(header, "TemporalPositionIndex", "TemporalPositionIdentifier"),
        acquisition_time=_number(header, "FrameAcquisitionDateTime", "AcquisitionTime"),
        rescale=None if slope is None or intercept is None else (slope, intercept),
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
    return frame


def _number(header: Any, *names: str) -> float | None:
    """The first of some elements that holds a number."""
    for name in names:
        try:
            value = float(header.get(name))
        except (TypeError, ValueError, OverflowError):  # missing, empty, several or damaged: as if it were not there
            continue
        if np.isfinite(value):
            return value
    return None


def _whole(header: Any, name: str) -> int:
    value = _number(header, name)
    if value is None:
        return NO_NUMBER
    return int(value)


def _text(header: Any, name: str) -> str:
    value = header.get(name)
    if value is None:
        return ""
    return str(value)


@contextmanager
def quiet_pydicom() -> Iterator[Any]:
    """Without the warnings of pydicom: real Sunnybrook headers hold invalid UIDs, of which nothing is used here."""
    import pydicom
    from pydicom.config import disable_value_validation

    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pydicom


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
