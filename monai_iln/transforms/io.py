"""Files to stacks, and stacks to files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import MapTransform, Transform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from numpy.typing import NDArray

from monai_iln.datasets.formats.nifti import read_volume, same_place, slice_axis
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.errors import UserError, require


class LoadStack(Transform):
    """Load a stack from a NIfTI or Analyze file, or one phase of a short-axis cine from a folder of DICOM files.

    MONAI's readers take all files of a folder for one volume, which a cine is not, and read damaged files, colours and
    complex values into other numbers than they hold. DICOM files need the extra ``data``.

    Args:
        phase: The cardiac phase to read from DICOM files, counted from 1. A stack of several phases needs it.
        series: The stack to read from DICOM files, if there are several: its number in the list that the message about
            them gives, or a SeriesInstanceUID.

    Shape:
        A path to ``(1, H, W, Z)`` as a ``MetaTensor`` with the affine to RAS millimetres.

    Raises:
        UserError: If a file cannot be read, does not have three axes, or its slices do not lie along the last; see
            :func:`monai_iln.datasets.formats.nifti.read_volume` for files and
            :func:`monai_iln.datasets.readers.dicom_folder.read_stack` for folders.
    """

    def __init__(self, phase: int | None = None, series: int | str | None = None) -> None:
        self.phase = phase
        self.series = series

    def __call__(self, path: Path | str) -> MetaTensor:
        path = Path(path)
        pixels, affine = self._read(path)
        meta = {
            MetaKeys.AFFINE: torch.as_tensor(affine),
            MetaKeys.ORIGINAL_AFFINE: affine,
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(pixels.shape),
            ImageMetaKey.FILENAME_OR_OBJ: str(path),
        }
        return MetaTensor(torch.as_tensor(pixels.astype(np.float32))[None], meta=meta)

    def _read(self, path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
        if path.is_dir():
            return read_stack(path, self.phase, self.series)
        if not path.exists():
            raise UserError(f"{path}: no such file. Give the path of a NIfTI stack or of a folder with DICOM files.")
        pixels, affine = read_volume(path)
        if pixels.ndim != 3:
            raise UserError(
                f"{path}: an image of shape {pixels.shape}. A stack has three axes (rows, columns, slices): split a "
                "cine into its phases (nibabel.four_to_three does, and --phase chooses one of DICOM files), or stack "
                "single slices."
            )
        if (axis := slice_axis(pixels.shape, affine)) != 2:
            sizes = " x ".join(f"{size:.2f}" for size in np.linalg.norm(affine[:3, :3], axis=0))
            raise UserError(
                f"{path}: shape {pixels.shape}, voxels of {sizes} mm: by these, axis {axis} counts the slices. It must "
                "be the last (rows, columns, slices): reorder the axes."
            )
        return pixels, affine


class LoadStackd(MapTransform):
    """Dictionary version of :class:`LoadStack`; replaces the paths by the stacks.

    Raises:
        UserError: If the stacks of an item, such as an image and its label, differ in shape or place.
    """

    def __init__(
        self,
        keys: KeysCollection,
        phase: int | None = None,
        allow_missing_keys: bool = False,
        series: int | str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadStack(phase, series)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        stacks = {key: self.load(data[key]) for key in self.key_iterator(data)}
        first = next(iter(stacks), None)
        for key, stack in stacks.items():
            reference = stacks[first]
            expected, shape = tuple(reference.shape[1:]), tuple(stack.shape[1:])
            if shape != expected or not same_place(reference.affine.numpy(), stack.affine.numpy()):
                raise UserError(
                    f"{data[key]}: the {key} of {data[first]}, but shape {shape} and not {expected}, or in another "
                    f"place by its affine. They lie on one grid: draw or export the {key} on the {first}."
                )
        return dict(data) | stacks


class StackWriter(NibabelWriter):
    """MONAI's NIfTI writer, for ``SaveImage``; but a stack of one slice keeps its third axis."""

    @classmethod
    def convert_to_channel_last(cls, data: Any, *args: Any, **kwargs: Any) -> Any:
        require(data.shape[0] == 1, f"shape {tuple(data.shape)}", "a stack has one channel", "save each by itself")
        return super().convert_to_channel_last(data, *args, **kwargs | {"squeeze_end_dims": False})[..., 0]


LoadStackD = LoadStackDict = LoadStackd
