"""Volumes in NRRD and MetaImage files, which 3D Slicer and MONAI Label write.

SimpleITK says what a header means. The voxels are read here: it takes bytes too many, and of compressed MetaImage files
damaged ones, without a word, and gives what was in memory.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.header import (
    RULE,
    VolumeHeader,
    check_affine,
    check_shape,
    check_size,
    check_values,
    decide_frame_ms,
    unreadable,
    wrong_size,
)
from monai_iln.errors import UserError, count
from monai_iln.extras import require_extra

_MOST_TEXT = 1 << 20  # bytes of a header; those of Slicer's segmentations have thousands
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TYPES = ("UInt8", "Int8", "UInt16", "Int16", "UInt32", "Int32", "UInt64", "Int64", "Float32", "Float64")
_SPACES = re.compile(r"(right|left)-(anterior|posterior)-superior|RAS|LAS|LPS", re.IGNORECASE)
# Fields of MetaImage that hold a number for each axis or each pair of axes: 1 and 2.
_LISTS = {
    **dict.fromkeys(("Offset", "Position", "Origin", "CenterOfRotation", "ElementSpacing", "ElementSize"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
_BITS = {"raw": 0, "gzip": 31, "gz": 31, "zlib": 15}  # as zlib calls the kinds of compression


@dataclass(frozen=True)
class ItkHeader(VolumeHeader):
    """The header of a NRRD or MetaImage volume, checked.

    Attributes:
        encoding: A key of ``_BITS``, the compression of the voxels.
    """

    encoding: str


class _Text(NamedTuple):
    """What the text of a header says about the bytes of the voxels.

    Attributes:
        sizes: The lengths of all axes, those of the components of a voxel among them.
        data: The name of the file with the voxels, empty if they follow the header.
        encoding: The compression.
        order: The order of bytes, ``">"`` if the first is the highest.
        oriented: Whether directions are given.
        units: The units of lengths.
    """

    sizes: list[int]
    data: str
    encoding: str
    order: Literal["<", ">"]
    oriented: bool
    units: set[str]


def read_itk_header(path: Path) -> ItkHeader:
    """Read a header, see :func:`~monai_iln.datasets.formats.volumes.read_header`.

    Args:
        path: The file.
    """
    require_extra(f"reading {path.suffix} files", "data", "SimpleITK")
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of a .nrrd, .nhdr, .mha or .mhd file.")
    if not _is_text(str(path)):  # SimpleITK would end the process
        raise UserError(f"{str(path)!r}: a path that is not UTF-8. Rename what is not.")
    try:
        with path.open("rb") as file:
            start = file.read(_MOST_TEXT)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        header = _read_header(path, start)
    except UserError:
        raise
    except Exception as error:  # SimpleITK raises RuntimeError, of several lines
        raise UserError(
            f"{path}: cannot be read as a NRRD or MetaImage volume ({_last_line(error)}). {RULE}"
        ) from error
    check_size(header, packed=header.encoding != "raw")
    return header


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_itk_voxels(header: ItkHeader) -> NDArray[Any]:
    """Read the voxels, see :func:`~monai_iln.datasets.formats.volumes.read_voxels`."""
    try:
        content = header.data.read_bytes()[header.offset :]
        if header.encoding != "raw":
            content = _unpack(header, content)
    except (OSError, zlib.error) as error:
        raise unreadable(header.data, error) from error
    stored = np.frombuffer(content, header.dtype).reshape(header.shape, order="F")
    array = stored.astype(header.dtype.newbyteorder("="))
    check_values(array, header.data)
    return array


def _read_header(path: Path, start: bytes) -> ItkHeader:
    text, offset = _read_text(path, start)
    if text.encoding not in _BITS:
        raise ValueError(f"voxels in the encoding {text.encoding}: save it as raw or compressed")
    if text.units - {"mm"}:
        raise ValueError(f"lengths in {', '.join(sorted(text.units))}, not in mm")
    check_shape([*text.sizes, 1, 1])
    data = path
    if text.data:
        data, offset = path.parent / text.data, 0
    if not data.is_file():
        raise ValueError(f"there is no {text.data} beside it")
    reader = _read_information(path)
    if reader.GetNumberOfComponents() > 1:
        raise UserError(
            f"{path}: {reader.GetNumberOfComponents()} values a voxel, as colours, vectors and the layers of a "
            "segmentation have. A stack has one: export it as a scalar volume or as a label map."
        )
    if math.prod(reader.GetSize()) != math.prod(text.sizes):
        raise ValueError(f"sizes {text.sizes} and {list(reader.GetSize())}")
    affine = _affine(reader)
    check_affine(affine)
    shape = check_shape(reader.GetSize())
    dtype = _dtype(reader).newbyteorder(text.order)
    frame_ms = math.nan
    if reader.GetDimension() > 3:
        frame_ms = decide_frame_ms(reader.GetSpacing()[3])
    return ItkHeader(path, data, shape, affine, text.oriented, "", dtype, offset, frame_ms, text.encoding)


def _read_text(path: Path, start: bytes) -> tuple[_Text, int]:
    """The text of the header and its length in bytes."""
    parse, end = _parse_nrrd, rb"\r?\n\r?\n"
    if _is_meta(path):
        parse, end = _parse_meta, rb"(?m)^\s*ElementDataFile\b[^\n]*\n"
    found = re.search(end, start)
    length = found.end() if found else len(start)
    return parse(start[:length].decode("latin-1")), length


def _is_meta(path: Path) -> bool:
    return path.suffix.lower() in (".mha", ".mhd")


def _read_information(path: Path) -> Any:
    """A reader of SimpleITK that has read the header."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if _is_meta(path) else "NrrdImageIO")
    reader.SetFileName(str(path))
    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it prints what becomes an error here
    try:
        reader.ReadImageInformation()
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
    return reader


def _parse_nrrd(text: str) -> _Text:
    """The fields of a NRRD header: ``key: value``."""
    if not text.startswith("NRRD"):
        raise ValueError("no header in its first bytes")
    lines = [line.partition(":") for line in text.splitlines() if not line.startswith("#")]
    fields = {key.strip().lower(): value.strip() for key, _, value in lines if not value.startswith("=")}
    data = fields.get("data file", fields.get("datafile", ""))
    skips = {"line skip", "lineskip", "byte skip", "byteskip"} & fields.keys()
    if data.upper().startswith("LIST") or "%" in data or skips:
        raise ValueError("voxels in several files, or behind something else: save it as one file")
    return _Text(
        sizes=[int(size) for size in _find(fields, "sizes").split()],
        data=data,
        encoding=_find(fields, "encoding").lower(),
        order=">" if fields.get("endian", "").lower() == "big" else "<",
        oriented=bool(_SPACES.fullmatch(fields.get("space", ""))) and "space directions" in fields,
        units=set(re.findall(r'"([^"]*)"', fields.get("space units", ""))),
    )


def _parse_meta(text: str) -> _Text:
    """The fields of a MetaImage header: ``key = value``, that of the voxels last."""
    lines = [line.partition("=") for line in text.split("\n") if line.strip()]  # as SimpleITK parts them
    fields = {key.strip(): value.strip() for key, _, value in lines}
    data, sizes = _find(fields, "ElementDataFile"), _find(fields, "DimSize").split()
    # SimpleITK prints what is wrong with these, whatever it is told.
    if not all(sign for _, sign, _ in lines) or not _find(fields, "ElementType").startswith("MET_"):
        raise ValueError("a line that is damaged")
    if not {"ElementSpacing", "ElementSize"} & fields.keys():  # it would take voxels of 1 mm
        raise ValueError("no ElementSpacing")
    if _find(fields, "NDims") != str(len(sizes)):
        raise ValueError(f"NDims {fields['NDims']}, and {count(len(sizes), 'size')}")
    counts = {key: len(fields[key].split()) for key in _LISTS if key in fields}
    short = [key for key, count in counts.items() if count < len(sizes) ** _LISTS[key]]
    if short or not fields.get("CompressedDataSize", "0").isdigit():  # SimpleITK would go on in the next line
        raise ValueError("a line that is damaged")
    if data.upper().startswith("LIST") or "%" in data or fields.get("HeaderSize", "0") != "0":
        raise ValueError("voxels in several files, or behind something else: save it as one file")
    if data.upper() == "LOCAL":
        data = ""
    encoding = "raw"
    if not _is_true(fields, "BinaryData"):
        encoding = "ASCII"
    elif _is_true(fields, "CompressedData"):
        encoding = "zlib"
    return _Text(
        sizes=[*map(int, sizes), int(fields.get("ElementNumberOfChannels", "1"))],
        data=data,
        encoding=encoding,
        order=">" if _is_true(fields, "BinaryDataByteOrderMSB") or _is_true(fields, "ElementByteOrderMSB") else "<",
        oriented=not {"TransformMatrix", "Rotation", "Orientation"}.isdisjoint(fields),
        units={fields.get("DistanceUnits", "mm")},
    )


def _is_true(fields: Mapping[str, str], key: str) -> bool:
    return fields.get(key, "False")[:1] in ("T", "t", "1")


def _find(fields: Mapping[str, str], key: str) -> str:
    if key not in fields:
        raise ValueError(f"no {key}")
    return fields[key]


def _affine(reader: Any) -> NDArray[np.float64]:
    """The affine of the first three axes, in RAS."""
    axes = reader.GetDimension()
    directions = np.reshape(reader.GetDirection(), (axes, axes))
    affine = np.eye(4)
    affine[:3, :3] = (directions * reader.GetSpacing())[:3, :3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return np.asarray(_LPS_TO_RAS @ affine)


def _dtype(reader: Any) -> np.dtype[Any]:
    import SimpleITK

    types = {getattr(SimpleITK, f"sitk{name}"): np.dtype(name.lower()) for name in _TYPES}
    kind = reader.GetPixelIDValue()
    if kind not in types:
        raise ValueError(f"data type {SimpleITK.GetPixelIDValueAsString(kind)}")
    return types[kind]


def _unpack(header: ItkHeader, packed: bytes) -> bytes:
    """Unpack the voxels, and refuse what is cut, damaged or followed by something. zlib compares the checksum."""
    size = header.size - header.offset
    unpack = zlib.decompressobj(_BITS[header.encoding])
    content = unpack.decompress(packed, size + 1)
    if len(content) > size or unpack.unused_data:
        raise wrong_size(header.data, "more", size)
    if len(content) < size or not unpack.eof:
        raise wrong_size(header.data, count(len(content), "byte"), size)
    return content


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
