"""The slices of a stack that show the heart, where a person has named them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor

from monai_iln.datasets.ranges import RANGE_KEY, parse_range, require_inside
from monai_iln.errors import UserError


class KeepSlices(Transform):
    """Keep a mask in a range of slices, and empty it in the others.

    A network that was trained on slices of the heart marks something in those beyond it too. Who knows which slice is
    the basal one says so with this.

    Args:
        slices: The range, counted from 1 along the last axis, both ends included: ``"2-9"``, ``"2-"`` or ``"-9"``.

    Shape:
        ``(C, H, W, Z)`` to the same, a copy.

    Raises:
        UserError: If the range is none or leaves the stack.

    Example:
        >>> KeepSlices("2-")(torch.ones(1, 1, 1, 3)).flatten().tolist()
        [0.0, 1.0, 1.0]
    """

    backend: ClassVar[list[Any]] = [TransformBackends.TORCH]

    def __init__(self, slices: str) -> None:
        self.slices = slices
        parse_range(slices)

    def __call__(self, img: Any) -> torch.Tensor:
        if len(img.shape) != 4:
            raise UserError(
                f"a mask of shape {tuple(img.shape)}. Slices are those of a stack (channels, rows, columns, slices): "
                "keep them before slices are taken from it."
            )
        name = getattr(img, "meta", {}).get("filename_or_obj", "a stack")
        first, last = require_inside(self.slices, img.shape[-1], name)
        kept: torch.Tensor = convert_to_tensor(img, track_meta=get_track_meta()).clone()
        kept[..., : first - 1] = 0
        kept[..., last:] = 0
        return kept


class KeepSlicesd(MapTransform):
    """Dictionary version of :class:`KeepSlices`, with the range in the item. An item without one is left as it is.

    Args:
        keys: The keys of the masks.
        range_key: The key of the range.
        allow_missing_keys: Skips the keys that an item lacks, instead of raising an error.
    """

    backend = KeepSlices.backend

    def __init__(self, keys: KeysCollection, range_key: str = RANGE_KEY, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.range_key = range_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        slices = data.get(self.range_key)
        if not slices:
            return dict(data)
        keep = KeepSlices(slices)
        return dict(data) | {key: keep(data[key]) for key in self.key_iterator(data)}


KeepSlicesD = KeepSlicesDict = KeepSlicesd
