"""Pixel size and orientation of stacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, SpatialResample
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor

from monai_iln.datasets.geometry.grids import is_unit
from monai_iln.errors import UserError

#: Where rows and columns lead on a screen, in RAS: down to the back and the feet, right to the patient's left.
_DOWN, _RIGHT = np.array([0.0, -1.0, -1.0]) / np.sqrt(2), np.array([-1.0, 0.0, 0.0])


class StandardizeInPlane(InvertibleTransform):
    r"""Bring the slices of a stack to one pixel size and to the orientation in which they are read on a screen.

    How a short-axis slice is stored is up to scanner, operator and file format. Its axes are exchanged and reversed (in
    the plane; of the eight ways, the one by which rows lead most to the patient's back and feet, columns to the left),
    and pixels resampled, linearly in images. Planes, their order, the image's centre and its extent stay.

    A stack whose voxels measure :math:`1 \times 1 \times 1` does not know its geometry (it was made from PNG files or
    arrays), for slices of short-axis stacks are never 1 mm apart. It is left as it is. MONAI's ``Orientation`` and
    ``Spacing`` know no such exception; on an oblique stack the one may take the slices for rows, and the other
    straightens a sheared stack. Of files without an orientation (Analyze) nibabel's convention is taken, as everywhere.

    Args:
        pixdim: The size of a pixel along rows and columns, in mm.
        mode: The interpolation: ``"bilinear"`` for images, ``"nearest"`` for labels.

    Shape:
        ``(C, H, W, Z)``, a ``MetaTensor``, to ``(C, H', W', Z)`` in float32.

    Raises:
        UserError: If ``pixdim`` is not two positive numbers, or a stack's affine is singular.

    Example:
        >>> from monai.data import MetaTensor
        >>> stack = MetaTensor(torch.ones(1, 10, 20, 3), affine=torch.diag(torch.tensor([-2.0, -1.0, 8.0, 1.0])))
        >>> standardize = StandardizeInPlane([1.0, 1.0])  # the first axis leads to the left: these are columns
        >>> standardize(stack).shape, standardize.inverse(standardize(stack)).shape
        (torch.Size([1, 20, 20, 3]), torch.Size([1, 10, 20, 3]))
    """

    backend = SpatialResample.backend

    def __init__(self, pixdim: Sequence[float], mode: str = "bilinear") -> None:
        try:
            self.pixdim = [float(size) for size in pixdim]
            known = len(self.pixdim) == 2 and all(0 < size < float("inf") for size in self.pixdim)
        except (TypeError, ValueError):
            known = False
        if not known:
            raise UserError(f"pixdim {pixdim!r}: a pixel has two sizes in mm above 0. Give them as [1.4, 1.4].")
        self.resample = SpatialResample(mode=mode, padding_mode="border", dtype=torch.float64)

    def __call__(self, img: Any) -> Tensor:
        if len(img.shape) != 4 or not hasattr(img, "affine"):
            raise UserError(
                f"an image of shape {tuple(img.shape)}. Geometry is that of a stack (channels, rows, columns, slices) "
                "with an affine: load it with LoadStack, and take slices afterwards."
            )
        affine, shape = self._standard(img.affine.numpy().astype(np.float64), np.array(img.shape[1:]))
        resampled: Tensor = self.resample(img, dst_affine=torch.as_tensor(affine), spatial_size=shape.tolist())
        return resampled.float()

    def _standard(self, affine: NDArray[Any], shape: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The affine and shape that a stack of these shall get."""
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) < 4:
            raise UserError(
                f"a stack with the affine {affine[:3].tolist()}, which does not map voxels to millimetres. It needs "
                "three independent axes: correct the header."
            )
        if is_unit(sizes).all():
            return affine, shape
        (rows, columns), signs = _reading_direction(affine[:3, :2] / sizes[:2])
        order = [rows, columns, 2]
        scale = np.array([*self.pixdim, sizes[2]]) / sizes[order]
        standard, extent = affine.copy(), shape[order]
        standard[:3, :3] = affine[:3, order] * [*signs, 1] * scale
        pixels = np.maximum(np.round(extent / scale), 1).astype(int)
        standard[:3, 3] += affine[:3, :3] @ (shape - 1) / 2 - standard[:3, :3] @ (pixels - 1) / 2  # the centre stays
        return standard, pixels

    def inverse(self, img: Any) -> Any:
        return self.resample.inverse(img)


def _reading_direction(directions: NDArray[Any]) -> tuple[tuple[int, int], NDArray[Any]]:
    """Order and signs of the two axes of a plane that lead most down and to the right of a screen."""
    down, right = _DOWN @ directions, _RIGHT @ directions
    as_stored = abs(down[0]) + abs(right[1])
    exchanged = abs(down[1]) + abs(right[0])
    rows, columns = (0, 1) if as_stored >= exchanged else (1, 0)
    signs = np.where(np.array([down[rows], right[columns]]) < 0, -1, 1)
    return (rows, columns), signs


class StandardizeInPlaned(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`StandardizeInPlane`.

    Args:
        keys: The keys of the stacks.
        pixdim: The size of a pixel along rows and columns, in mm.
        mode: One interpolation for all keys, or one for each: ``["bilinear", "nearest"]`` for an image and its label.
        allow_missing_keys: Skips the keys that an item lacks, instead of raising an error.
    """

    backend = StandardizeInPlane.backend

    def __init__(
        self,
        keys: KeysCollection,
        pixdim: Sequence[float],
        mode: Sequence[str] | str = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transforms = {
            key: StandardizeInPlane(pixdim, one)
            for key, one in zip(self.keys, ensure_tuple_rep(mode, len(self.keys)), strict=True)
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.transforms[key](data[key]) for key in self.key_iterator(data)}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.transforms[key].inverse(data[key]) for key in self.key_iterator(data)}


StandardizeInPlaneD = StandardizeInPlaneDict = StandardizeInPlaned
