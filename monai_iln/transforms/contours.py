"""Contours to masks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_numpy, convert_to_tensor, ensure_tuple
from torch import Tensor

from monai_iln.datasets.formats.contours import MAX_COORDINATE, rasterize
from monai_iln.errors import UserError


class RasterizeContour(Transform):
    """Fill a closed contour: points to a mask.

    Convention: pixel k spans k to k + 1, every point stands for the pixel that it lies in, and the pixels inside and
    on the polygon through those are 1. It is that of ``PIL.ImageDraw.polygon(outline=1, fill=1)``, which turns the
    contours of the Sunnybrook data into their published masks exactly. Rasterizers differ: against scikit-image's the
    masks of those contours are 4 % larger and the worst Dice coefficient is 0.94, as much as methods differ by. Hence
    there is one convention and no option.

    Points outside the image are cut off. Not invertible: a mask does not tell its points. Needs the extra ``data``.

    Args:
        spatial_size: The rows and columns of the mask.

    Shape:
        Points ``(P, 2)`` with P >= 3, columns x and y in pixels, where x counts columns and y rows from the top left
        corner of the image, closed or not; to ``(1, H, W)`` in uint8. MONAI's ``LoadImage`` swaps rows and columns of
        PNG and DICOM files: load those with ``reverse_indexing=False`` and ``swap_ij=False``.

    Raises:
        UserError: If the size is not two positive numbers, the points are not as above, or no point of the polygon
            lies within the image.

    Example:
        >>> RasterizeContour((4, 5))([[1, 1], [3, 1], [3, 2], [1, 2]])[0].tolist()
        [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    """

    backend: ClassVar[list[Any]] = [TransformBackends.NUMPY]

    def __init__(self, spatial_size: Sequence[int]) -> None:
        self.spatial_size = tuple(int(size) for size in ensure_tuple(spatial_size))
        if len(self.spatial_size) != 2 or min(self.spatial_size) < 1:
            raise UserError(
                f"spatial_size {self.spatial_size}: a contour is drawn into one image. Give rows and columns, or take "
                "a slice of the stack first."
            )

    def __call__(self, points: Any) -> Tensor:
        try:
            array = np.asarray(convert_to_numpy(points), dtype=np.float64)
        except (TypeError, ValueError):  # a path, a ragged list
            array = np.empty(0)
        if array.ndim != 2 or array.shape[1] != 2 or len(array) < 3 or not (np.abs(array) < MAX_COORDINATE).all():
            raise UserError(
                f"points {points!r:.80}: a contour has at least three points of two numbers, x and y in pixels, each "
                f"below {MAX_COORDINATE:g}. Read contour files with monai_iln.datasets.formats.contours.read_contour."
            )
        rows, columns = self.spatial_size
        mask = rasterize(array, (rows, columns))
        if not mask.any():
            raise UserError(
                f"a contour with x from {array[:, 0].min():g} to {array[:, 0].max():g} and y from "
                f"{array[:, 1].min():g} to {array[:, 1].max():g} misses an image of {rows} rows and {columns} columns. "
                "Points are in pixels of the image, x first: check the order, the unit, and that both belong together."
            )
        drawn: Tensor = convert_to_tensor(mask[None], track_meta=get_track_meta())
        return drawn


class RasterizeContourd(MapTransform):
    """Dictionary version of :class:`RasterizeContour`: replaces points by a mask of the size of an image in the item.

    The mask has the image's affine. Points are in pixels of the image as it is now, so rasterize
    before the image is cropped or turned.

    Args:
        keys: The keys of the points.
        ref_image_key: The key of the image ``(C, H, W)`` that the contours were drawn on.
        allow_missing_keys: Skips the keys that an item lacks, instead of raising an error.

    Example:
        >>> item = {"image": np.zeros((1, 4, 5)), "label": [[1, 1], [3, 1], [3, 2], [1, 2]]}
        >>> RasterizeContourd("label", ref_image_key="image")(item)["label"].shape
        torch.Size([1, 4, 5])
    """

    backend = RasterizeContour.backend

    def __init__(self, keys: KeysCollection, ref_image_key: Hashable, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_image_key = ref_image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data[self.ref_image_key]
        draw = RasterizeContour(image.shape[1:])
        item = dict(data)
        for key in self.key_iterator(data):
            item[key] = mask = draw(data[key])
            if isinstance(mask, MetaTensor) and isinstance(image, MetaTensor):
                mask.affine = image.affine.clone()
        return item


RasterizeContourD = RasterizeContourDict = RasterizeContourd
