"""The pixels of DICOM frames, by pydicom's own functions; and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.dicom import Frame, quiet_pydicom
from monai_iln.errors import UserError, count

_TAGS = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
]
_UNDEFINED = 0xFFFFFFFF  # the length of compressed pixel data, which end with a mark of 8 bytes
_DEFLATED = "1.2.840.10008.1.2.1.99"
# What may follow pixels, in both orders of bytes: private elements, signatures, padding.
_MAY_FOLLOW = (
    *(b"\xe1\x7f", b"\xfa\xff\xfa\xff", b"\xfc\xff\xfc\xff"),
    *(b"\x7f\xe1", b"\xff\xfa\xff\xfa", b"\xff\xfc\xff\xfc"),
)
_DECODERS = (  # the first whose words are in the name of the transfer syntax
    ("JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    ("JPEG", "pylibjpeg pylibjpeg-libjpeg"),
    ("RLE", "pylibjpeg pylibjpeg-rle"),
)


class _DecoderError(ValueError):
    """The pixel data are compressed in a way that nothing here decodes."""


def read_pixels(frame: Frame) -> NDArray[np.generic]:
    """What the frame's stored values mean, ``(rows, columns)``: more is brighter.

    The modality LUT, or slope and intercept, are applied where the header has them. ``MONOCHROME1``, where less is
    brighter, is turned round within the range of the stored bits, so that slices stay comparable.

    Args:
        frame: The frame, as :func:`~monai_iln.datasets.formats.dicom.read_frames` returns it.

    Raises:
        UserError: If the pixel data are missing or truncated, are not one grey image of the size that the header says,
            something stands between or behind them, or no decoder for their compression is installed.
    """
    return read_each([frame])[0]


def read_each(frames: Sequence[Frame]) -> list[NDArray[np.generic]]:
    """What the stored values of several frames mean, see :func:`read_pixels`. Each file is read once.

    Args:
        frames: The frames, of any files.

    Raises:
        UserError: As :func:`read_pixels` raises it.
    """
    pixels: dict[Frame, NDArray[np.generic]] = {}
    for path, members in groupby(sorted(frames, key=attrgetter("path")), key=attrgetter("path")):
        pixels |= _read_file(path, list(members))
    return [pixels[frame] for frame in frames]


def _read_file(path: Path, frames: Sequence[Frame]) -> dict[Frame, NDArray[np.generic]]:
    pixels = {}
    try:
        with quiet_pydicom() as pydicom:
            dataset = pydicom.dcmread(path, specific_tags=_TAGS)
            for frame in frames:
                _check_header(dataset, frame)
            _check_length(dataset, path)
            for frame in frames:
                pixels[frame] = values = _meaning(_stored_values(dataset, frame), dataset, frame)
                if values.shape != frame.shape or not np.isfinite(values).all():
                    raise ValueError(f"pixels of shape {values.shape}, where {frame.shape} finite numbers are expected")
    except _DecoderError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # pydicom raises many kinds on damaged pixel data
        raise UserError(
            f"{path}: the header can be read, the pixel data cannot ({error}). The file is truncated, damaged or "
            "changed. Download or export it again, or remove it together with its contours."
        ) from error
    return pixels


def _check_header(dataset: Any, frame: Frame) -> None:
    """Refuse what is not one grey image a frame, before anything of the size that it claims is unpacked."""
    claimed = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    if claimed != (*frame.shape, 1):
        raise ValueError(f"rows, columns and samples of {claimed}, where one grey image is expected")
    allocated, stored, high = dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or high != stored - 1:
        raise ValueError(f"{stored} bits stored of {allocated}, the highest {high}, where whole bytes are expected")
    if dataset.PixelRepresentation not in (0, 1):
        raise ValueError(f"PixelRepresentation {dataset.PixelRepresentation}, which is 0 or 1")
    if dataset.get("RescaleSlope") == 0:
        raise ValueError("RescaleSlope 0, which makes every pixel alike")


def _check_length(dataset: Any, path: Path) -> None:
    """Refuse pixel data that are longer or shorter than the image, or are followed by what no element explains."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.type != "Transfer Syntax":
        raise ValueError(f"unknown transfer syntax {syntax}")
    element = dataset.get_item("PixelData")
    if not syntax.is_encapsulated:
        frames = int(dataset.get("NumberOfFrames") or 1)
        expected = frames * dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
        if element.length != expected + expected % 2:  # padded to an even length
            raise ValueError(f"{element.length} bytes of pixels, where the header asks for {expected}")
    if syntax == _DEFLATED:
        return  # its places are not those of the file
    end = element.value_tell + element.length
    if element.length == _UNDEFINED:
        end = element.value_tell + len(element.value) + 8
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read()
    if rest and not rest.startswith(_MAY_FOLLOW):
        raise ValueError(f"{count(len(rest), 'byte')} behind the pixels, as if something had been inserted into them")


def _stored_values(dataset: Any, frame: Frame) -> NDArray[np.generic]:
    """The stored values of one frame, unpacked by pydicom."""
    syntax = dataset.file_meta.TransferSyntaxUID
    packages = next((packages for word, packages in _DECODERS if word in syntax.name), None)
    if not _is_decodable(syntax):
        remedy = f"Run: pip install {packages}, or" if packages else "Nothing in Python does:"
        raise _DecoderError(
            f"the pixels are compressed ({syntax.name}), and nothing that is installed decodes them. "
            f"{remedy} store the files uncompressed, for example with gdcmconv --raw."
        )
    try:
        try:
            from pydicom.pixels import pixel_array
        except ImportError:  # pydicom 2, to which MONAI Label is bound
            return _stored_values_2(dataset, frame)
        return np.asarray(pixel_array(dataset, index=frame.index))
    except Exception as error:
        if packages is None:
            raise
        raise _DecoderError(
            f"the compressed pixels ({syntax.name}) cannot be decoded ({error}). The file is damaged, or the decoder "
            f"that is installed does not know this variant. Run: pip install {packages}, or export the file again."
        ) from error


def _stored_values_2(dataset: Any, frame: Frame) -> NDArray[np.generic]:
    """The same by pydicom 2, which leaves in the unused bits what is there."""
    pixels = np.asarray(dataset.pixel_array)
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        pixels = pixels[frame.index]
    unused = dataset.BitsAllocated - dataset.BitsStored
    return np.asarray(pixels << unused >> unused)


def _is_decodable(syntax: Any) -> bool:
    try:
        from pydicom.pixels import get_decoder
    except ImportError:
        from pydicom.config import pixel_data_handlers

        return any(one.supports_transfer_syntax(syntax) and one.is_available() for one in pixel_data_handlers)
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # no package has one
        return False


def _meaning(stored: NDArray[np.generic], dataset: Any, frame: Frame) -> NDArray[np.generic]:
    """What stored values mean."""
    from pydicom import Dataset

    try:
        from pydicom.pixels import apply_modality_lut
    except ImportError:
        from pydicom.pixel_data_handlers import apply_modality_lut
    rules = dataset
    if frame.rescale is not None:
        rules = Dataset()
        rules.RescaleSlope, rules.RescaleIntercept = frame.rescale
    values = np.asarray(apply_modality_lut(stored, rules))
    if dataset.PhotometricInterpretation != "MONOCHROME1":
        return values
    lowest = -(1 << dataset.BitsStored - 1) * dataset.PixelRepresentation
    ends = np.array([lowest, lowest + (1 << dataset.BitsStored) - 1], dtype=stored.dtype)
    return np.asarray(apply_modality_lut(ends, rules).sum() - values)
