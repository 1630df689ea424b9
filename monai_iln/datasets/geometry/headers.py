"""The geometry of a NIfTI or Analyze header, whose parts may contradict one another. It takes numpy alone to import."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.geometry.grids import is_unit, same_place

_TOLERANCE = 0.01  # of a size: some programs write them with two or three digits
_MILLIMETRES = {1: 1e3, 3: 1e-3}  # NIfTI's codes of metre and micrometre; 2 is millimetre, 0 does not say


class Geometry(NamedTuple):
    """Where the voxels of a volume lie.

    Attributes:
        affine: The affine from voxel indices to RAS millimetres.
        oriented: Whether the affine's directions and origin mean anything. Those of Analyze do not.
        doubt: The parts of the header that disagree, which is believed and why; empty if they agree.
    """

    affine: NDArray[np.float64]
    oriented: bool
    doubt: str


def decide_geometry(header: Any) -> Geometry:
    """Decide where the voxels of a volume lie.

    NIfTI tells it up to three times: by the matrix *sform*, by *qform* (a rotation and an offset), both valid only with
    a code above 0, and by the sizes in *pixdim*, which are those of the qform. Where all agree to 1 %, the sform is
    taken. Where they do not, programs differ. nibabel takes all from the sform. ITK takes the sizes from pixdim, and
    the directions from sform or qform. MONAI's readers take the qform if it fits pixdim, be it valid or not. Here
    *a step of 1 is no statement*, for it is what programs write that know no size:

    - The sform's steps are 1 where pixdim says otherwise (ACDC, EMIDEC): the qform is believed if it is set, or else
      pixdim for the sizes and the sform for the directions.
    - pixdim is 1 or 0 where the sform says otherwise: the sform is believed.
    - Both say something, and not the same: the sform is believed, for NIfTI prefers it.
    - The sizes agree, but the qform turns or moves the volume by more than a quarter of a voxel: the sform is believed.
    - The sform is zero, singular or not finite: the qform is believed if it is set. If it is not, a sform of zeros
      counts as not set; any other is returned as it is, for the caller to refuse.
    - Neither is set: pixdim gives the sizes. Directions and origin are nibabel's convention (LAS) and mean nothing.

    A volume of 1 x 1 x 1 mm by all its parts is one, see :func:`~monai_iln.datasets.geometry.grids.is_unit`.

    Args:
        header: A header of nibabel, of NIfTI-1, NIfTI-2 or Analyze.

    Raises:
        ValueError: If only the qform is set, and it is no rotation.

    Example:
        >>> from nibabel import Nifti1Header
        >>> header = Nifti1Header()
        >>> header.set_data_shape((256, 216, 10))
        >>> header["pixdim"][1:4] = 1.5, 1.5, 10
        >>> header.set_sform(np.diag([-1, -1, 1, 1]), code=2)
        >>> geometry = decide_geometry(header)
        >>> np.diag(geometry.affine).tolist(), geometry.doubt[:50]
        ([-1.5, -1.5, 10.0, 1.0], 'the sform has steps of 1 x 1 x 1, pixdim 1.5 x 1.5')
    """
    if "sform_code" not in header.keys():  # noqa: SIM118 - nibabel's headers have no __contains__
        return Geometry(_floats(header.get_best_affine()), False, "")
    geometry = _decide(header)
    geometry.affine[:3] *= _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return geometry


def _decide(header: Any) -> Geometry:
    sform = _floats(header.get_sform()) if int(header["sform_code"]) else None
    qform, fault = _read_qform(header)
    if sform is None and fault:
        raise ValueError(fault)
    if sform is None:
        return _without_sform(header, qform, "")
    if not sform[:3, :3].any():
        return _without_sform(header, qform, "the sform is zero")
    if not _is_regular(sform):
        return Geometry(sform, True, "") if qform is None else _without_sform(header, qform, "the sform is singular")
    return _compare(header, sform, qform, fault)


def _without_sform(header: Any, qform: NDArray[np.float64] | None, fault: str) -> Geometry:
    if qform is not None:
        return Geometry(qform, True, fault and f"{fault}: the qform is believed")
    doubt = fault and f"{fault} and the qform not set: the sizes of pixdim are believed, the orientation is not known"
    return Geometry(_floats(header.get_base_affine()), False, doubt)


def _compare(header: Any, sform: NDArray[np.float64], qform: NDArray[np.float64] | None, fault: str) -> Geometry:
    """The geometry of a header with a regular sform."""
    steps, sizes = np.linalg.norm(sform[:3, :3], axis=0), _read_sizes(header)
    agree = np.isclose(sizes, steps, rtol=_TOLERANCE, atol=0)
    told = f"the sform has steps of {_times(steps)}, pixdim {_times(sizes)}"
    if agree.all() and fault:
        return Geometry(sform, True, f"{fault}: the sform is believed")
    if agree.all() and qform is not None and not same_place(sform, qform, header.get_data_shape()):
        return Geometry(sform, True, "sform and qform differ in directions or origin: the sform is believed")
    if agree.all():
        return Geometry(sform, True, "")
    if (agree | is_unit(sizes)).all():
        return Geometry(sform, True, f"{told}, as if it were not set: the sform is believed")
    if not (agree | is_unit(steps)).all():
        return Geometry(sform, True, f"{told}: the sform is believed, for NIfTI prefers it")
    if qform is not None:
        return Geometry(qform, True, f"{told}: steps of 1 are as good as none, so the qform is believed")
    scaled = sform.copy()
    scaled[:3, :3] *= sizes / steps
    return Geometry(scaled, True, f"{told}: steps of 1 are as good as none, so the sizes of pixdim are believed")


def _read_qform(header: Any) -> tuple[NDArray[np.float64] | None, str]:
    """The qform, if it is set and usable, and what is wrong with one that is set and not usable."""
    if not int(header["qform_code"]):
        return None, ""
    try:
        qform = _floats(header.get_qform())
    except Exception as error:  # nibabel raises several kinds
        return None, f"the qform cannot be computed ({error})"
    return (qform, "") if _is_regular(qform) else (None, "the qform is singular")


def _read_sizes(header: Any) -> NDArray[np.float64]:
    """The sizes in pixdim; 1 where they are missing, as nibabel has it."""
    sizes = np.abs(_floats(header["pixdim"][1:4]))
    return np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1.0)


def _is_regular(affine: NDArray[np.float64]) -> bool:
    """Whether an affine is finite and its axes are independent."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.isfinite(affine).all() and steps.all() and abs(np.linalg.det(affine[:3, :3] / steps)) >= 0.01)


def _floats(numbers: Any) -> NDArray[np.float64]:
    return np.asarray(numbers, dtype=np.float64)


def _times(numbers: NDArray[np.float64]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
