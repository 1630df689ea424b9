"""Volumes in NIfTI and Analyze files."""

from __future__ import annotations

import gzip
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spm2analyze import Spm2AnalyzeHeader
from nibabel.volumeutils import apply_read_scaling
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
from monai_iln.datasets.geometry.headers import decide_geometry
from monai_iln.errors import UserError, count

_HEADER_BYTES = 544  # the longest header, that of NIfTI-2, and the flag of its extensions
_PACKED = b"\x1f\x8b"  # how gzip files begin
_MAGICS = {b"n+1\0": Nifti1Header, b"ni1\0": Nifti1PairHeader, b"n+2\0": Nifti2Header, b"ni2\0": Nifti2PairHeader}

_MILLISECONDS = {8: 1e3, 16: 1.0, 24: 1e-3}  # in NIfTI's units of time

_silent = logging.Logger("nibabel headers")  # nibabel prints what it mends in a header
_silent.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class NiftiHeader(VolumeHeader):
    """The header of a NIfTI or Analyze volume, checked.

    Attributes:
        scaling: The slope and intercept of the stored values, ``None`` for 1 and 0.
    """

    scaling: tuple[float | None, float | None]


def read_nifti_header(path: Path, name: re.Match[str]) -> NiftiHeader:
    """Read a header, see :func:`~monai_iln.datasets.formats.volumes.read_header`.

    Args:
        path: The file. Whether it is compressed is seen from its bytes, not from its name.
        name: The parts of its name: ``stem``, ``type`` and ``gzip``.
    """
    path, data = _files(path, name)
    start, packed = _read_start(path)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of damaged numbers; what they lead to is checked below
            header = _parse(start, single=path == data)
            result = _check(header, path, data)
    except Exception as error:  # nibabel raises many kinds on damaged headers
        raise UserError(f"{path}: cannot be read as a NIfTI or Analyze volume ({error}). {RULE}") from error
    if data != path:
        _, packed = _read_start(data)
    check_size(result, packed)
    return result


def read_nifti_voxels(header: NiftiHeader) -> NDArray[Any]:
    """Read the voxels, see :func:`~monai_iln.datasets.formats.volumes.read_voxels`."""
    content = _read_exactly(header.data, header.size)
    stored = np.frombuffer(content, header.dtype, offset=header.offset).reshape(header.shape, order="F")
    native = stored.astype(header.dtype.newbyteorder("="))
    with np.errstate(all="ignore"):  # what overflows is infinite, and refused below
        array: NDArray[Any] = apply_read_scaling(native, *header.scaling)
    check_values(array, header.data)
    return array


def _files(path: Path, match: re.Match[str]) -> tuple[Path, Path]:
    """The files that hold the header and the voxels."""
    header = data = path
    if match["type"].lower() == "hdr":
        data = _find_twin(path, match, "img")
    elif match["type"].lower() == "img":
        header = _find_twin(path, match, "hdr")
    for file in (header, data):
        if not file.is_file():
            raise UserError(f"{file}: no such file. Give the path of a .nii, .nii.gz, .hdr or .img file.")
    return header, data


def _find_twin(path: Path, match: re.Match[str], type_: str) -> Path:
    """The other file of a pair, compressed or not."""
    if match["type"].isupper():
        type_ = type_.upper()
    names = [f"{match['stem']}.{type_}{gz}" for gz in (match["gzip"] or "", "", ".gz")]
    for name in names:
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise UserError(
        f"{path}: there is no {names[0]} beside it. A volume of this type is a pair of .hdr (header) and .img "
        "(voxels): copy both, or remove it."
    )


def _parse(start: bytes, single: bool) -> Any:
    """The header of whichever format it is, with nibabel's small repairs."""
    # NIfTI-2 keeps its magic behind the size of the header, NIfTI-1 at the end; Analyze has none.
    kind = _MAGICS.get(start[4:8]) or _MAGICS.get(start[344:348]) or Spm2AnalyzeHeader
    if kind is Spm2AnalyzeHeader and not kind.may_contain_header(start):
        raise ValueError("no header in its first bytes")
    if single and not _is_single(kind):
        raise ValueError("its header says that it is half of a pair")
    if not single and _is_single(kind):
        raise ValueError("its header is not one of a pair")
    header = kind.from_fileobj(io.BytesIO(start[: kind.template_dtype.itemsize]), check=False)
    header.check_fix(_silent, error_level=40)
    return header


def _is_single(header: Any) -> bool:
    """Whether a header is of the kind that stands in one file with the voxels."""
    return bool(getattr(header, "is_single", False))


def _check(header: Any, path: Path, data: Path) -> NiftiHeader:
    """The header's fields, if they describe an image."""
    shape = check_shape(header.get_data_shape())
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"data type {dtype}")
    offset = int(header.get_data_offset())
    if offset < int(header["sizeof_hdr"]) * _is_single(header):
        raise ValueError(f"voxels from byte {offset}")
    affine, oriented, doubt = decide_geometry(header)
    check_affine(affine)
    frame_ms = decide_frame_ms(*_read_step(header))
    return NiftiHeader(path, data, shape, affine, oriented, doubt, dtype, offset, frame_ms, header.get_slope_inter())


def _read_step(header: Any) -> tuple[float, float]:
    """The step along the fourth axis, and the milliseconds in its unit, 0 where that is not told."""
    unit = int(header["xyzt_units"]) & 56 if "xyzt_units" in header.keys() else 0  # noqa: SIM118 - as in headers
    return float(header["pixdim"][4]), _MILLISECONDS.get(unit, 0.0)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, unpacked. Over a network opening is what takes time: it is opened once."""
    with path.open("rb") as file:
        packed = file.read(len(_PACKED)) == _PACKED
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast("BinaryIO", unpacked)


def _read_start(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked, and whether it is compressed."""
    try:
        with _open(path) as file:
            return file.read(_HEADER_BYTES), isinstance(file, gzip.GzipFile)
    except Exception as error:  # gzip and zlib raise EOFError, OSError and zlib.error
        raise unreadable(path, error) from error


def _read_exactly(path: Path, size: int) -> bytes:
    """The content of a file that must have that size; of a compressed one nothing is unpacked beyond it."""
    try:
        with _open(path) as file:
            content = file.read(size)
            surplus = file.read(1)  # at the end, gzip compares its checksum
    except Exception as error:  # as in _read_start
        raise unreadable(path, error) from error
    if surplus:
        raise wrong_size(path, "more", size)
    if len(content) < size:
        raise wrong_size(path, count(len(content), "byte"), size)
    return content
