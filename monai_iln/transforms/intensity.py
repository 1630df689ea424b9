"""Intensities of stacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor
from torch import Tensor


class ScaleIntensitySlicewise(Transform):
    """Scale every slice of a stack to [0, 1] by its own minimum and maximum; a constant slice becomes 0.

    Slices of one cine stack differ in brightness, and the ILN paper scales images, not stacks. Not invertible, as
    MONAI's ``ScaleIntensity``.

    Shape:
        ``(C, H, W, Z)``, any number type, to the same in float32.

    Example:
        >>> ScaleIntensitySlicewise()(torch.arange(8.0).reshape(1, 2, 2, 2)).max().item()
        1.0
    """

    backend: ClassVar[list[Any]] = [TransformBackends.TORCH]

    def __call__(self, img: Any) -> Tensor:
        img = convert_to_tensor(img, dtype=torch.float32, track_meta=get_track_meta())
        low = img.amin(dim=(1, 2), keepdim=True)
        span = img.amax(dim=(1, 2), keepdim=True) - low
        scaled: Tensor = (img - low) / torch.where(span > 0, span, torch.ones_like(span))
        return scaled


class ScaleIntensitySlicewised(MapTransform):
    """Dictionary version of :class:`ScaleIntensitySlicewise`."""

    backend = ScaleIntensitySlicewise.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scale = ScaleIntensitySlicewise()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.scale(data[key]) for key in self.key_iterator(data)}


ScaleIntensitySlicewiseD = ScaleIntensitySlicewiseDict = ScaleIntensitySlicewised
