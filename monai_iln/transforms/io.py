"""Files to stacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform, Transform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from torch import Tensor

from monai_iln.datasets.dicom import read_stack
from monai_iln.errors import UserError


class LoadStack(Transform):
    """Load a stack from a NIfTI file, or one phase of a short-axis cine from a folder of DICOM files.

    MONAI's readers take all files of a folder for one volume, which a cine is not.

    Args:
        phase: cardiac phase to read from DICOM, 1 is the first; needed where the series holds more than one.

    Shape:
        A path to ``(1, H, W, Z)`` as a ``MetaTensor`` with the affine to RAS millimetres.

    Raises:
        UserError: if a file cannot be read or has not three axes; for folders see
            :func:`monai_iln.datasets.dicom.read_stack`.
    """

    def __init__(self, phase: int | None = None) -> None:
        self.phase = phase
        self.load = LoadImage(image_only=True, ensure_channel_first=True)

    def __call__(self, path: Path | str) -> Tensor:
        path = Path(path)
        return self._read_folder(path) if path.is_dir() else self._read_file(path)

    def _read_file(self, path: Path) -> Tensor:
        try:
            stack: Tensor = self.load(path)
        except Exception as error:  # every reader has its own errors
            raise UserError(f"{path}: cannot be read as an image. It must be a NIfTI file: export it again.") from error
        if stack.dim() != 4 or stack.shape[0] != 1:  # a fourth axis of a file becomes the channels
            raise UserError(
                f"{path}: an image of shape {tuple(stack.shape)}, channels first. A stack has three axes (rows, "
                "columns, slices): split a cine into its phases, or stack single slices."
            )
        if not torch.isfinite(stack).all():
            raise UserError(f"{path}: holds values that are not finite. An image has numbers only: export it again.")
        return stack

    def _read_folder(self, path: Path) -> Tensor:
        pixels, affine = read_stack(path, self.phase)
        meta = {
            MetaKeys.AFFINE: torch.as_tensor(affine),
            MetaKeys.ORIGINAL_AFFINE: affine,
            MetaKeys.SPACE: SpaceKeys.RAS,
            ImageMetaKey.FILENAME_OR_OBJ: str(path),
        }
        stack: Tensor = MetaTensor(torch.as_tensor(pixels.astype(np.float32))[None], meta=meta)
        return stack


class LoadStackd(MapTransform):
    """Dictionary version of :class:`LoadStack`; replaces the paths by the stacks."""

    def __init__(self, keys: KeysCollection, phase: int | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadStack(phase)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.load(data[key]) for key in self.key_iterator(data)}


LoadStackD = LoadStackDict = LoadStackd
