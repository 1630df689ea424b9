"""Connected components of masks, slice by slice and of the whole stack."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor
from scipy import ndimage
from torch import Tensor

from monai_iln.errors import UserError

_IN_PLANE = np.zeros((3, 3, 3), dtype=bool)
_IN_PLANE[:, :, 1] = True  # neighbours of a voxel, corners included, in its own slice
_IN_SPACE = np.ones((3, 3, 3), dtype=bool)  # and in the slices beside it


def _copy(img: Any) -> Tensor:
    """Copy a stack of classes, and refuse anything else."""
    if len(img.shape) != 4 or img.shape[0] != 1:
        raise UserError(
            f"a mask of shape {tuple(img.shape)}. Components are those of a stack of classes (1, rows, columns, "
            "slices): take the largest logit first."
        )
    copy: Tensor = convert_to_tensor(img, track_meta=get_track_meta()).clone()
    return copy


class LargestComponentSlicewise(Transform):
    """Keep the largest connected component of every class in every slice of a mask.

    The cavity of a ventricle is one region of a short-axis slice, or nearly always. MONAI's
    ``KeepLargestConnectedComponent`` looks at the stack: what is wrong in a slice may touch what is right in the next.

    Shape:
        ``(1, H, W, Z)`` of classes, 0 the background, to the same.

    Raises:
        UserError: If the mask has another shape.

    Example:
        >>> mask = torch.tensor([1, 1, 0, 1, 0]).reshape(1, 5, 1, 1)
        >>> LargestComponentSlicewise()(mask).flatten().tolist()
        [1, 1, 0, 0, 0]
    """

    backend: ClassVar[list[Any]] = [TransformBackends.NUMPY]

    def __call__(self, img: Any) -> Tensor:
        kept = _copy(img)
        mask = kept[0].cpu().numpy()
        for value in np.unique(mask[mask != 0]):
            components, count = ndimage.label(mask == value, structure=_IN_PLANE)
            sizes = np.bincount(components.ravel(), minlength=count + 1)
            for index in range(mask.shape[2]):
                labels = components[..., index]
                present = np.unique(labels[labels != 0])
                if len(present) > 1:
                    small = (labels != 0) & (labels != present[sizes[present].argmax()])
                    kept[0, ..., index][torch.as_tensor(small)] = 0
        return kept


class LargestComponent(Transform):
    """Keep the largest connected component of every class in a stack.

    A ventricle is one body: what does not touch it lies beyond base or apex. Voxels touch over faces, edges and
    corners, also from slice to slice. A heart that an empty slice parts in two loses the smaller part, which
    :class:`~monai_iln.transforms.DoubtSlices` reports. Of components of one size, the one that comes first in the array
    stays.

    MONAI's ``KeepLargestConnectedComponent`` does the same with scikit-image, which this package does without.

    Shape:
        ``(1, H, W, Z)`` of classes, 0 the background, to the same.

    Raises:
        UserError: If the mask has another shape.

    Example:
        >>> mask = torch.tensor([1, 1, 1, 0, 1]).reshape(1, 1, 1, 5)
        >>> LargestComponent()(mask).flatten().tolist()
        [1, 1, 1, 0, 0]
    """

    backend: ClassVar[list[Any]] = [TransformBackends.NUMPY]

    def __call__(self, img: Any) -> Tensor:
        kept = _copy(img)
        mask = kept[0].cpu().numpy()
        for value in np.unique(mask[mask != 0]):
            components, _ = ndimage.label(mask == value, structure=_IN_SPACE)
            sizes = np.bincount(components.ravel())
            sizes[0] = 0  # the rest of the stack is no component
            small = (components != 0) & (components != sizes.argmax())
            kept[0][torch.as_tensor(small)] = 0
        return kept


class LargestComponentSlicewised(MapTransform):
    """Dictionary version of :class:`LargestComponentSlicewise`."""

    backend = LargestComponentSlicewise.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.keep = LargestComponentSlicewise()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.keep(data[key]) for key in self.key_iterator(data)}


class LargestComponentd(MapTransform):
    """Dictionary version of :class:`LargestComponent`."""

    backend = LargestComponent.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.keep = LargestComponent()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.keep(data[key]) for key in self.key_iterator(data)}


LargestComponentD = LargestComponentDict = LargestComponentd
LargestComponentSlicewiseD = LargestComponentSlicewiseDict = LargestComponentSlicewised
