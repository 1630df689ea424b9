"""MONAI transforms for stacks of slices that MONAI lacks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, Rotated, Transform
from monai.utils import GridSamplePadMode, ImageMetaKey, MetaKeys, SpaceKeys, convert_to_tensor
from torch import Tensor

from monai_iln.datasets.dicom import read_stack
from monai_iln.errors import UserError


class ScaleIntensitySlicewise(Transform):
    """Scale every slice of a stack to [0, 1] by its own minimum and maximum; a constant slice becomes 0.

    Slices of one cine stack differ in brightness, and the ILN paper scales images, not stacks.

    Shape:
        ``(C, H, W, Z)``, any number type, to the same in float32.

    Example:
        >>> ScaleIntensitySlicewise()(torch.arange(8.0).reshape(1, 2, 2, 2)).max()
        tensor(1.)
    """

    def __call__(self, img: Tensor) -> Tensor:
        img = img.to(torch.float32)
        low = img.amin(dim=(1, 2), keepdim=True)
        span = img.amax(dim=(1, 2), keepdim=True) - low
        return (img - low) / torch.where(span > 0, span, torch.ones_like(span))


class ScaleIntensitySlicewised(MapTransform):
    """Dictionary version of :class:`ScaleIntensitySlicewise`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scale = ScaleIntensitySlicewise()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.scale(data[key]) for key in self.key_iterator(data)}


class TakeSliced(MapTransform):
    """Take one slice of a stack, ``(C, H, W, Z)`` to ``(C, H, W)``.

    The slice is a plain tensor: the affine of a stack does not describe a slice of it.

    Args:
        keys: of the stacks.
        slice_key: of the slice's index.
        allow_missing_keys: as everywhere in MONAI.
    """

    def __init__(self, keys: KeysCollection, slice_key: str = "slice", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_key = slice_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        index = data[self.slice_key]
        slices = {key: data[key][..., index] for key in self.key_iterator(data)}
        # A copy: a view would keep the whole stack in every cache.
        return dict(data) | {key: convert_to_tensor(img, track_meta=False).clone() for key, img in slices.items()}


class LoadStackd(MapTransform):
    """Load a stack from a NIfTI file, or one phase of a short-axis cine from a folder of DICOM files.

    MONAI's readers take all files of a folder for one volume, which a cine is not.

    Args:
        keys: of the paths.
        phase: cardiac phase to read from DICOM, 1 is the first; needed where the series holds more than one.
        allow_missing_keys: as everywhere in MONAI.

    Shape:
        ``(1, H, W, Z)`` as a ``MetaTensor`` with the affine to RAS millimetres.

    Raises:
        UserError: if a file cannot be read or has not three axes; for folders see
            :func:`monai_iln.datasets.dicom.read_stack`.
    """

    def __init__(self, keys: KeysCollection, phase: int | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.phase = phase
        self.load = LoadImage(image_only=True, ensure_channel_first=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self._read(Path(data[key])) for key in self.key_iterator(data)}

    def _read(self, path: Path) -> Any:
        if not path.is_dir():
            try:
                stack = self.load(path)
            except Exception as error:  # every reader has its own errors
                raise UserError(
                    f"{path}: cannot be read as an image. It must be a NIfTI file: export it again."
                ) from error
            if stack.dim() != 4 or stack.shape[0] != 1:  # a fourth axis of a file becomes the channels
                raise UserError(
                    f"{path}: an image of shape {tuple(stack.shape)}, channels first. A stack has three axes (rows, "
                    "columns, slices): split a cine into its phases, or stack single slices."
                )
            if not torch.isfinite(stack).all():
                raise UserError(
                    f"{path}: holds values that are not finite. An image has numbers only: export it again."
                )
            return stack
        pixels, affine = read_stack(path, self.phase)
        meta = {
            MetaKeys.AFFINE: torch.as_tensor(affine),
            MetaKeys.ORIGINAL_AFFINE: affine,
            MetaKeys.SPACE: SpaceKeys.RAS,
        }
        meta[ImageMetaKey.FILENAME_OR_OBJ] = str(path)
        return MetaTensor(torch.as_tensor(pixels.astype(np.float32))[None], meta=meta)


class FixedRotations(torch.utils.data.Dataset[Any]):
    """Every item of a dataset at every angle: the ILN paper's augmentation, an epoch of which shows each pair once.

    Args:
        dataset: of dictionaries.
        angles: in degrees, counter-clockwise.
        keys: of the images ``(C, H, W)`` to rotate; the size is kept and corners are filled with 0.
        mode: interpolation for each key.

    Example:
        >>> items = [{"image": torch.zeros(1, 8, 8), "label": torch.zeros(1, 8, 8)}]
        >>> len(FixedRotations(items, range(-60, 61, 2), ["image", "label"], ["bilinear", "nearest"]))
        61
    """

    def __init__(self, dataset: Any, angles: Sequence[float], keys: KeysCollection, mode: Sequence[str]) -> None:
        self.dataset = dataset
        self.rotations = [
            Rotated(keys, math.radians(angle), mode=mode, padding_mode=GridSamplePadMode.ZEROS) for angle in angles
        ]

    def __len__(self) -> int:
        return len(self.dataset) * len(self.rotations)

    def __getitem__(self, index: int) -> Any:
        item, rotation = divmod(index, len(self.rotations))
        return self.rotations[rotation](self.dataset[item])
