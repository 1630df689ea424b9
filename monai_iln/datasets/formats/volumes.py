"""Volumes in files of every format, read so that a damaged file ends in one message and never in wrong voxels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.header import VolumeHeader
from monai_iln.datasets.formats.itk import ItkHeader, read_itk_header, read_itk_voxels
from monai_iln.datasets.formats.nifti import NiftiHeader, read_nifti_header, read_nifti_voxels
from monai_iln.errors import UserError

#: A file's name without its type, and its type.
VOLUME_NAME = re.compile(
    r"(?P<stem>.+)\.(?P<type>nii|hdr|img|nrrd|nhdr|mha|mhd)(?P<gzip>(?<=\.nii|\.hdr|\.img)\.gz)?",
    re.IGNORECASE | re.DOTALL,  # a name may hold a line break
)


def without_type(path: Path) -> Path:
    """The path of a volume without the type of the file.

    Args:
        path: The path. One that is not of a volume stays as it is.

    Example:
        >>> without_type(Path("patient001/ED.nii.gz")).as_posix()
        'patient001/ED'
    """
    match = VOLUME_NAME.fullmatch(path.name)
    if match is None:
        return path
    return path.with_name(match["stem"])


def read_volume(path: Path | str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read a volume, axes and values as stored.

    Args:
        path: A NIfTI file (``.nii``, ``.nii.gz``), one of an ``.hdr``/``.img`` pair (NIfTI or Analyze 7.5), or a file
            of NRRD (``.nrrd``, ``.nhdr``) or MetaImage (``.mha``, ``.mhd``), which need the extra ``data``.

    Returns:
        The array, in native byte order, ``(x, y, z)`` or ``(x, y, z, t)`` as the file has them (trailing axes of
        length 1 are dropped), with the file's data type, ``float64`` where it asks for scaling: what
        ``nibabel.load(path).get_fdata()`` gives. And the affine from its first three indices to RAS millimetres, as
        :func:`~monai_iln.datasets.geometry.headers.decide_geometry` has it.
        *Analyze 7.5 keeps no orientation:* of its affine only the voxel sizes are data, directions and origin are
        nibabel's convention (LAS), and must not be compared with another file's; SPM's ``.mat`` files are not read.

    Raises:
        UserError: If :func:`read_header` or :func:`read_voxels` raises it.

    Example:
        >>> array, affine = read_volume("subject01/subject01_ED.nii.gz")  # doctest: +SKIP
        >>> array.shape, array.dtype  # doctest: +SKIP
        ((128, 128, 12), dtype('uint8'))
    """
    header = read_header(path)
    return read_voxels(header), header.affine


def read_header(path: Path | str) -> VolumeHeader:
    """Read the header of a volume and check it, before any voxel is read.

    Args:
        path: The file, as for :func:`read_volume`.

    Raises:
        UserError: If a file is missing, the header is damaged, says what no image has (axes, size, data type, voxel
            sizes), or more than the file can hold.
    """
    path = Path(path)
    match = VOLUME_NAME.fullmatch(path.name)
    if match is None:
        raise UserError(
            f"{path}: not the name of a volume. It must end in .nii, .nii.gz, .hdr, .img, .nrrd, .nhdr, .mha or .mhd: "
            "convert the file."
        )
    if match["type"].lower() in ("nii", "hdr", "img"):
        return read_nifti_header(path, match)
    return read_itk_header(path)


def is_cine(path: Path) -> bool:
    """Whether a volume has a fourth axis, that of time. One whose header cannot be read has none.

    Args:
        path: The file.
    """
    try:
        return len(read_header(path).shape) == 4
    except UserError:  # told when it is read
        return False


def read_voxels(header: VolumeHeader) -> NDArray[Any]:
    """Read the voxels of a volume whose header is read, see :func:`read_volume`.

    Args:
        header: The header.

    Raises:
        UserError: If the file holds less or more than its header says, its checksum is wrong, or a value is not finite
            in single precision.
    """
    if isinstance(header, ItkHeader):
        return read_itk_voxels(header)
    assert isinstance(header, NiftiHeader)
    return read_nifti_voxels(header)
