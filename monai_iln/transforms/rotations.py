"""A fixed set of rotation angles: one at random, or each of them once an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from monai.config import DtypeLike, KeysCollection
from monai.transforms import RandomizableTransform, RandRotate, RandRotated, Rotated
from monai.utils import GridSampleMode, GridSamplePadMode
from torch import Tensor

from monai_iln.errors import UserError


def _to_radians(angles: Iterable[float]) -> list[float]:
    angles = list(angles)
    if not angles or not all(isinstance(angle, Real) and math.isfinite(angle) for angle in angles):
        raise UserError(
            f"angles {angles}: a set of rotations holds at least one angle, a finite number of degrees each. "
            "The ILN paper's are range(-60, 61, 2) for the left and range(-30, 31, 10) for the right ventricle."
        )
    return [math.radians(angle) for angle in angles]


class RandRotateSet(RandRotate):
    """Rotate by an angle drawn from a fixed set, each with the same probability, about the image's centre.

    MONAI's ``RandRotate`` draws from a range. The ILN paper rotates by -60, -58, ..., 60 degrees (left ventricle) or
    -30, -20, ..., 30 degrees (right ventricle); this is the random version, :class:`FixedRotations` the exhaustive
    one. Everything but the draw is ``RandRotate``'s: inverse, lazy execution and the order of the arguments.

    Args:
        angles: The angles in degrees (MONAI's own are in radians), in MONAI's sense: clockwise as the array is printed,
            rows downwards, so that 90 is ``torch.rot90(img, -1, (1, 2))``.
        prob: The probability of a rotation. Choose 1 if the set holds 0 itself.
        keep_size: Keeps the size of the image. False enlarges the output to hold the whole image.
        mode: The interpolation, ``"bilinear"`` or ``"nearest"``.
        padding_mode: The values outside the image: ``"border"``, ``"reflection"`` or, as in the paper's protocol,
            ``"zeros"``.
        align_corners: Maps corners to corners, see ``torch.nn.functional.grid_sample``.
        dtype: The number type of the computation. The result is float32.
        lazy: Collects the rotation instead of applying it, see MONAI's lazy resampling.

    Shape:
        ``(C, H, W)``, or ``(C, H, W, Z)``, all slices of which turn in their plane by the same angle; to the same.

    Raises:
        UserError: If there is no angle, or one is not a finite number.

    Example:
        >>> rotate = RandRotateSet(range(-60, 61, 2), prob=1.0, padding_mode="zeros").set_random_state(0)
        >>> rotate(torch.ones(1, 8, 8)).shape, round(math.degrees(rotate.angle))
        (torch.Size([1, 8, 8]), 46)
    """

    def __init__(
        self,
        angles: Iterable[float],
        prob: float = 0.1,
        keep_size: bool = True,
        mode: str = GridSampleMode.BILINEAR,
        padding_mode: str = GridSamplePadMode.BORDER,
        align_corners: bool = False,
        dtype: DtypeLike | torch.dtype = torch.float32,
        lazy: bool = False,
    ) -> None:
        super().__init__(
            prob=prob,
            keep_size=keep_size,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=align_corners,
            dtype=dtype,
            lazy=lazy,
        )
        self.angles = _to_radians(angles)
        self.angle = 0.0

    def randomize(self, data: Any = None) -> None:
        RandomizableTransform.randomize(self, None)  # whether at all
        if self._do_transform:
            self.angle = self.angles[self.R.randint(len(self.angles))]

    def __call__(self, img: Any, *args: Any, randomize: bool = True, **kwargs: Any) -> Tensor:
        """Rotate; the arguments are those of ``RandRotate.__call__``."""
        if randomize:
            self.randomize()
        # RandRotate turns a plane by x and a volume by x, y and z, of which z turns the plane of its first two axes.
        self.x, self.z = (self.angle, 0.0) if len(img.shape) == 3 else (0.0, self.angle)
        rotated: Tensor = super().__call__(img, *args, randomize=False, **kwargs)
        return rotated


class RandRotateSetd(RandRotated):
    """Dictionary version of :class:`RandRotateSet`: one draw for all keys.

    Args:
        keys: The keys of the images.
        angles: The angles in degrees, in the sense of the array version.
        prob: The probability of a rotation.
        keep_size: Keeps the size of the images.
        mode: One interpolation for all keys, or one for each: ``["bilinear", "nearest"]`` for an image and its label.
        padding_mode: One padding for all keys, or one for each.
        align_corners: One value for all keys, or one for each.
        dtype: One number type for all keys, or one for each.
        allow_missing_keys: Skips the keys that an item lacks, instead of raising an error.
        lazy: Collects the rotations instead of applying them.

    Example:
        >>> rotate = RandRotateSetd(["image", "label"], [-90, 90], prob=1.0, mode=["bilinear", "nearest"])
        >>> item = rotate({"image": torch.ones(1, 8, 8), "label": torch.ones(1, 8, 8)})
        >>> rotate.inverse(item)["label"].unique().tolist()
        [1.0]
    """

    def __init__(
        self,
        keys: KeysCollection,
        angles: Iterable[float],
        prob: float = 0.1,
        keep_size: bool = True,
        mode: Sequence[str] | str = GridSampleMode.BILINEAR,
        padding_mode: Sequence[str] | str = GridSamplePadMode.BORDER,
        align_corners: Sequence[bool] | bool = False,
        dtype: Sequence[DtypeLike | torch.dtype] | DtypeLike | torch.dtype = torch.float32,
        allow_missing_keys: bool = False,
        lazy: bool = False,
    ) -> None:
        super().__init__(
            keys,
            prob=prob,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=align_corners,
            dtype=dtype,
            allow_missing_keys=allow_missing_keys,
            lazy=lazy,
        )
        # Whether to rotate is drawn by the dictionary version.
        self.rand_rotate = RandRotateSet(angles, prob=1.0, keep_size=keep_size, lazy=lazy)


RandRotateSetD = RandRotateSetDict = RandRotateSetd


class FixedRotations(torch.utils.data.Dataset[Any]):
    """Every item of a dataset at every angle: the ILN paper's augmentation, an epoch of which shows each pair once.

    Args:
        dataset: A dataset of dictionaries.
        angles: The angles in degrees, clockwise as the array is printed.
        keys: The keys of the images ``(C, H, W)``. Images keep their size; their corners are filled with 0.
        mode: The interpolation for each key.

    Raises:
        UserError: If there is no angle, or one is not a finite number.

    Example:
        >>> items = [{"image": torch.zeros(1, 8, 8), "label": torch.zeros(1, 8, 8)}]
        >>> len(FixedRotations(items, range(-60, 61, 2), ["image", "label"], ["bilinear", "nearest"]))
        61
    """

    def __init__(self, dataset: Any, angles: Iterable[float], keys: KeysCollection, mode: Sequence[str]) -> None:
        self.dataset = dataset
        self.rotations = [
            Rotated(keys, angle, mode=mode, padding_mode=GridSamplePadMode.ZEROS) for angle in _to_radians(angles)
        ]

    def __len__(self) -> int:
        return len(self.dataset) * len(self.rotations)

    def __getitem__(self, index: int) -> Any:
        item, rotation = divmod(index, len(self.rotations))
        return self.rotations[rotation](self.dataset[item])
