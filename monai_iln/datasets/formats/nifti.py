"""Volumes in NIfTI and Analyze files, read so that a damaged file ends in one message and never in wrong voxels."""

from __future__ import annotations

import gzip
import io
import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spm2analyze import Spm2AnalyzeHeader
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from monai_iln.datasets.geometry.headers import decide_geometry
from monai_iln.errors import UserError

#: A file's name without its type, and its type.
VOLUME_NAME = re.compile(r"(?P<stem>.+)\.(?P<type>nii|hdr|img)(?P<gzip>\.gz)?", re.IGNORECASE)
MAX_VOXELS = 1 << 28  # a cine of 512 x 512 x 20 with 50 phases; more is a damaged header
_MAX_RATIO = 1100  # deflate packs at most 1032 to 1: a smaller file cannot hold what its header says
_LARGEST = float(np.finfo(np.float32).max)
_SPACING_MM = (0.01, 100.0)
_HEADER_BYTES = 544  # the longest header, that of NIfTI-2, and the flag of its extensions
_MAGICS = {b"n+1\0": Nifti1Header, b"ni1\0": Nifti1PairHeader, b"n+2\0": Nifti2Header, b"ni2\0": Nifti2PairHeader}

_silent = logging.Logger("nibabel headers")  # nibabel prints what it mends in a header
_silent.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class VolumeHeader:
    """The header of a volume, checked.

    Attributes:
        path: The file with the header.
        data: The file with the voxels. NIfTI has one file for both.
        shape: The lengths of three axes, or of four with time last.
        affine: The affine from voxel indices to RAS millimetres.
        oriented: Whether the affine's directions and origin mean anything. Those of Analyze do not.
        dtype: The data type of the voxels in the file.
        offset: The number of bytes before the voxels.
        scaling: The slope and intercept of the stored values, ``None`` for 1 and 0.
        doubt: The parts of the header that contradict each other, and what is believed; empty if there are none.
    """

    path: Path
    data: Path
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    oriented: bool
    dtype: np.dtype[Any]
    offset: int
    scaling: tuple[float | None, float | None]
    doubt: str

    @property
    def size(self) -> int:
        """The size of the file with the voxels, in bytes. :func:`read_header` has bounded the shape."""
        return self.offset + int(np.prod(self.shape)) * self.dtype.itemsize


def read_volume(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read a volume, axes and values as stored.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file, or one of an ``.hdr``/``.img`` pair (NIfTI or Analyze 7.5). Whether it is
            compressed is seen from its bytes, not from its name.

    Returns:
        The array, in native byte order, ``(x, y, z)`` or ``(x, y, z, t)`` as the file has them (trailing axes of
        length 1 are dropped), with the file's data type, ``float64`` where it asks for scaling: what
        ``nibabel.load(path).get_fdata()`` gives. And the affine from its first three indices to RAS millimetres, as
        :func:`~monai_iln.datasets.geometry.headers.decide_geometry` has it.
        *Analyze 7.5 keeps no orientation:* of its affine only the voxel sizes are data, directions and origin are
        nibabel's convention (LAS), and must not be compared with another file's; SPM's ``.mat`` files are not read.

    Raises:
        UserError: If :func:`read_header` raises it, or the file holds less or more than its header says, its checksum
            is wrong, or a value is not finite in single precision.

    Example:
        >>> array, affine = read_volume("subject01/subject01_ED.nii.gz")  # doctest: +SKIP
        >>> array.shape, array.dtype  # doctest: +SKIP
        ((128, 128, 12), dtype('uint8'))
    """
    header = read_header(path)
    return read_voxels(header), header.affine


def read_voxels(header: VolumeHeader) -> NDArray[Any]:
    """Read the voxels of a volume whose header is read, see :func:`read_volume`.

    Args:
        header: The header.

    Raises:
        UserError: If the file holds less or more than its header says, its checksum is wrong, or a value is not finite
            in single precision.
    """
    content = _read_exactly(header.data, header.size)
    stored = np.frombuffer(content, header.dtype, offset=header.offset).reshape(header.shape, order="F")
    native = stored.astype(header.dtype.newbyteorder("="))
    with np.errstate(all="ignore"):  # what overflows is infinite, and refused below
        array: NDArray[Any] = apply_read_scaling(native, *header.scaling)
    is_float = array.dtype.kind not in "iu"
    bad = np.count_nonzero(~(np.abs(array) <= _LARGEST)) if is_float else 0
    if bad:
        raise UserError(
            f"{header.data}: {bad} voxels are NaN, infinite or beyond {_LARGEST:.1g}. Every voxel needs a value that "
            "networks can compute with: export the file again, or remove it."
        )
    return array


def read_header(path: Path | str) -> VolumeHeader:
    """Read the header of a volume and check it, before any voxel is read.

    Args:
        path: The file, as for :func:`read_volume`.

    Raises:
        UserError: If a file is missing, the header is damaged, says what no image has (axes, size, data type, voxel
            sizes), or more than the file can hold.
    """
    path, data = _files(Path(path))
    start = _read_start(path)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of damaged numbers; what they lead to is checked below
            header = _parse(start, single=path == data)
            result = _check(header, path, data)
    except Exception as error:  # nibabel raises many kinds on damaged headers
        raise UserError(
            f"{path}: cannot be read as a NIfTI or Analyze volume ({error}). A header must be whole and describe 3 or "
            f"4 axes of real numbers, up to {MAX_VOXELS} voxels, and their sizes of {_SPACING_MM[0]} to "
            f"{_SPACING_MM[1]:g} mm. Copy or export the file again, or remove it."
        ) from error
    try:
        bytes_there, packed = data.stat().st_size, _is_packed(data)
    except OSError as error:
        raise _unreadable(data, error) from error
    if packed and bytes_there * _MAX_RATIO < result.size:
        raise _wrong_size(data, f"{bytes_there} bytes, compressed", result.size)
    if not packed and bytes_there != result.size:
        raise _wrong_size(data, f"{bytes_there} bytes", result.size)
    return result


def _files(path: Path) -> tuple[Path, Path]:
    """The files that hold the header and the voxels."""
    match = VOLUME_NAME.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{path}: not the name of a volume. It must end in .nii, .nii.gz, .hdr or .img: convert the file."
        )
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


def _check(header: Any, path: Path, data: Path) -> VolumeHeader:
    """The header's fields, if they describe an image."""
    shape = tuple(int(length) for length in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1 or np.prod(shape, dtype=object) > MAX_VOXELS:
        raise ValueError(f"shape {shape}")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ValueError(f"data type {dtype}")
    offset = int(header.get_data_offset())
    if offset < int(header["sizeof_hdr"]) * _is_single(header):
        raise ValueError(f"voxels from byte {offset}")
    affine, oriented, doubt = decide_geometry(header)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = _SPACING_MM
    if not np.isfinite(affine).all() or spacing.min() < low or spacing.max() > high:
        raise ValueError(f"voxels of {_times(spacing)} mm")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.01:
        raise ValueError("two axes that point the same way")
    return VolumeHeader(path, data, shape, affine, oriented, dtype, offset, header.get_slope_inter(), doubt)


def _times(numbers: NDArray[np.float64]) -> str:
    return " x ".join(f"{number:.3g}" for number in numbers)


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _open(path: Path) -> BinaryIO:
    if _is_packed(path):
        return cast("BinaryIO", gzip.open(path))
    return path.open("rb")


def _read_start(path: Path) -> bytes:
    try:
        with _open(path) as file:
            return file.read(_HEADER_BYTES)
    except Exception as error:  # gzip and zlib raise EOFError, OSError and zlib.error
        raise _unreadable(path, error) from error


def _read_exactly(path: Path, size: int) -> bytes:
    """The content of a file that must have that size; of a compressed one nothing is unpacked beyond it."""
    try:
        with _open(path) as file:
            content = file.read(size)
            surplus = file.read(1)  # at the end, gzip compares its checksum
    except Exception as error:  # as in _read_start
        raise _unreadable(path, error) from error
    if surplus:
        raise _wrong_size(path, "more", size)
    if len(content) < size:
        raise _wrong_size(path, f"{len(content)} bytes", size)
    return content


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: cannot be read ({type(error).__name__}: {error}). The file must be whole and readable: copy or "
        "download it again, or remove it."
    )


def _wrong_size(path: Path, got: str, expected: int) -> UserError:
    return UserError(
        f"{path}: holds {got}, its header speaks of {expected} bytes. The two must agree: the file is truncated or its "
        "header damaged; copy or export it again, or remove it."
    )
