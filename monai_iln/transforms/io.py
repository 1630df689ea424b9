"""Files to stacks, and stacks to files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import ImageWriter, MetaTensor, NibabelWriter
from monai.transforms import MapTransform, SaveImage, SaveImaged, Transform
from monai.utils import CommonKeys, ImageMetaKey, MetaKeys, SpaceKeys
from numpy.typing import NDArray

from monai_iln.datasets.cines import PHASE_KEY, CineImage, read_cine, refuse_mask
from monai_iln.datasets.formats.labels import round_labels
from monai_iln.datasets.formats.volumes import read_header, read_voxels
from monai_iln.datasets.geometry.grids import displacement, refuse_other_axis, same_place
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import UserError, require
from monai_iln.files import new_file

_ORIGIN_MM, _SPACING_MM, _ANGLE_DEGREES = 0.04, 0.001, 0.02  # smaller differences are rounding in headers
PSEUDONYM = "pseudonym"
"""The key of the meta data that holds the name of a stack whose file is not to be told."""


class _Grid(NamedTuple):
    """Where the voxels of a stack lie. Without orientation, directions and origin of the affine mean nothing."""

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    oriented: bool

    def difference(self, other: _Grid) -> str:
        """How another grid differs from this one by more than rounding; empty if it does not."""
        if self.shape != other.shape:
            return f"of shape {other.shape}, not {self.shape}"
        if not (self.oriented and other.oriented) or same_place(self.affine, other.affine, self.shape):
            return ""
        distance = displacement(self.affine, other.affine, self.shape)
        details = [*_differences(self.affine, other.affine), f"a corner lies {distance:.3g} voxels away"]
        return f"in another place: {'; '.join(details)}"


def _differences(expected: NDArray[np.float64], found: NDArray[np.float64]) -> Iterator[str]:
    """Tell in millimetres and degrees in what an affine differs from the expected one."""
    origins = [affine[:3, 3] for affine in (expected, found)]
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (expected, found)]
    if (distance := np.linalg.norm(origins[1] - origins[0])) > _ORIGIN_MM:
        yield f"its origin is {_numbers(origins[1])} mm, not {_numbers(origins[0])}, {distance:.3g} mm away"
    if np.abs(spacings[1] - spacings[0]).max() > _SPACING_MM:
        yield f"its voxels have {_numbers(spacings[1])} mm, not {_numbers(spacings[0])}"
    cosines = (expected[:3, :3] / spacings[0] * (found[:3, :3] / spacings[1])).sum(axis=0)
    if (angle := np.degrees(np.arccos(cosines.clip(-1, 1))).max()) > _ANGLE_DEGREES:
        yield f"its axes are turned by up to {angle:.3g} degrees"


def _numbers(values: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values + 0.0)})"


class LoadStack(Transform):
    """Load a stack, or one phase of a cine, from a NIfTI, Analyze, NRRD or MetaImage file or a folder of DICOM files.

    MONAI's readers take all files of a folder for one volume, which a cine is not, and read damaged files, colours and
    complex values into other numbers than they hold. DICOM, NRRD and MetaImage need the extra ``data``.

    Args:
        phase: The cardiac phase to read, counted from 1. A cine needs it; a file of three axes has phase 1 alone.
        series: The stack to read from DICOM files, if there are several: its number in the list that the message about
            them gives, or a SeriesInstanceUID.

    Shape:
        A path to ``(1, H, W, Z)`` as a ``MetaTensor`` with the affine to RAS millimetres.

    Raises:
        UserError: If a file cannot be read, its slices do not lie along the third axis, or no phase of a cine is
            chosen; see :func:`monai_iln.datasets.formats.volumes.read_volume` for files and
            :func:`monai_iln.datasets.readers.dicom_folder.read_stack` for folders.

    Warns:
        DataWarning: Once for every file whose header contradicts itself, and for every folder of DICOM files in which
            something was decided. It says what is believed, see
            :func:`~monai_iln.datasets.geometry.headers.decide_geometry` and
            :func:`~monai_iln.datasets.readers.dicom_folder.read_stack`.
    """

    def __init__(self, phase: int | None = None, series: int | str | None = None) -> None:
        self.phase = phase
        self.series = series
        self._told: set[Path] = set()
        self._cine: tuple[Path, CineImage] | None = None

    def __call__(self, path: Path | str) -> MetaTensor:
        pixels, grid = self.read(Path(path))
        return _as_tensor(pixels, grid.affine, path)

    def read(self, path: Path) -> tuple[NDArray[Any], _Grid]:
        """Read the voxels of a stack as they are stored, and where they lie."""
        if path.is_dir():
            pixels, affine = read_stack(path, self.phase, self.series)
            return pixels, _Grid(pixels.shape, affine, True)
        if not path.exists():
            raise UserError(f"{path}: no such file. Give the path of a stack or of a folder with DICOM files.")
        header = read_header(path)
        refuse_other_axis(path, header.shape, header.affine)
        if len(header.shape) == 4:
            return self.read_phase(path, self._checked(path, header.shape[3]))
        one = "it has three axes, and so one phase alone"
        require(self.phase in (None, 1), f"{path}: phase {self.phase}", one, "leave phase out, or give a cine")
        self._tell(path, header.doubt)
        return read_voxels(header), _Grid(header.shape, header.affine, header.oriented)

    def read_phase(self, path: Path, phase: int) -> tuple[NDArray[Any], _Grid]:
        """Read one phase of a cine, counted from 1. The cine stays in memory until another file is read."""
        known = self._cine  # one look: threads, such as those of MONAI's CacheDataset, share it
        if known is None or known[0] != path:
            self._cine = known = None  # before the next one comes
            self._cine = known = path, read_cine(path, self.series)
        cine = known[1]
        self._tell(path, cine.doubt)
        return cine.pixels[..., phase - 1], _Grid(cine.pixels.shape[:3], cine.affine, cine.oriented)

    def _checked(self, path: Path, phases: int) -> int:
        """The phase that is to be read of a volume with several."""
        told = f"1 to {phases}"
        if self.phase is None:
            raise UserError(
                f"{path}: a cine with {phases} phases. One phase is segmented at a time: choose it with phase ({told})."
            )
        require(1 <= self.phase <= phases, f"{path}: phase {self.phase}", f"phases count from {told}", "choose one")
        return self.phase

    def _tell(self, path: Path, doubt: str) -> None:
        """Warn of a header that contradicts itself, once."""
        if doubt and path not in self._told:
            self._told.add(path)
            warnings.warn(DataWarning(f"{path}: {doubt}."), stacklevel=4)


def _as_tensor(pixels: NDArray[Any], affine: NDArray[np.float64], path: Path | str, name: str = "") -> MetaTensor:
    meta: dict[Any, Any] = {
        MetaKeys.AFFINE: torch.as_tensor(affine),
        MetaKeys.ORIGINAL_AFFINE: affine,
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.array(pixels.shape),
        ImageMetaKey.FILENAME_OR_OBJ: str(path),
    }
    if name:
        meta |= {ImageMetaKey.FILENAME_OR_OBJ: f"{name}.nii.gz", PSEUDONYM: name}
    return MetaTensor(torch.as_tensor(pixels.astype(np.float32))[None], meta=meta)


class LoadStackd(MapTransform):
    """Dictionary version of :class:`LoadStack`; replaces the paths by the stacks.

    An item that is one phase of a cine, see :func:`~monai_iln.datasets.split_phases`, says which. Such items are read
    from one cine, which is kept until that of another file is read.

    The stacks of an item, such as an image and its label, lie on one grid. They all get the affine of the first of them
    that knows its orientation: headers differ by rounding, and Analyze keeps none. The stack under ``"label"`` holds
    whole numbers, see :func:`~monai_iln.datasets.formats.labels.round_labels`.

    Args:
        keys: The keys of the paths.
        phase: The cardiac phase, as for :class:`LoadStack`.
        allow_missing_keys: If true, an item may lack a key.
        series: The series, as for :class:`LoadStack`.
        names: Names by path, to be told in place of the paths in meta data, hence in the names of masks, and in
            messages. See :func:`monai_iln.datasets.name_stacks`.

    Raises:
        UserError: If the stacks of an item differ in shape or, by more than a quarter of a voxel, in place; or a label
            holds other values.
    """

    def __init__(
        self,
        keys: KeysCollection,
        phase: int | None = None,
        allow_missing_keys: bool = False,
        series: int | str | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadStack(phase, series)
        self.names = dict(names or {})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if not self.names:
            return self._load(data)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                loaded = self._load(data)
            except UserError as error:
                raise UserError(self._rename(str(error))) from None
        for warning in told:
            warnings.warn(warning.category(self._rename(str(warning.message))), stacklevel=2)
        return loaded

    def _rename(self, text: str) -> str:
        for path in sorted(self.names, key=len, reverse=True):  # one may begin as another does
            text = re.sub(rf"{re.escape(path)}([/\\][^\s:,;)]*)?", self.names[path], text)
        return text

    def _read(self, data: Mapping[Hashable, Any], key: Hashable) -> tuple[NDArray[Any], _Grid]:
        path = Path(data[key])
        if PHASE_KEY not in data:
            return self.load.read(path)
        pixels, grid = self.load.read_phase(path, data[PHASE_KEY])
        if data[PHASE_KEY] == 1:
            refuse_mask(path, pixels)
        return pixels, grid

    def _load(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        read = {key: self._read(data, key) for key in self.key_iterator(data)}
        first = next((key for key, (_, grid) in read.items() if grid.oriented), next(iter(read), None))
        stacks = {}
        for key, (pixels, grid) in read.items():
            _, expected = read[first]
            if difference := expected.difference(grid):
                raise UserError(
                    f"{data[key]}: the {key} of {data[first]}, but {difference}. They lie on one grid: draw or export "
                    f"the {key} on the {first}."
                )
            values = round_labels(pixels, data[key]) if key == CommonKeys.LABEL else pixels
            stacks[key] = _as_tensor(values, expected.affine, data[key], self.names.get(str(data[key]), ""))
        return dict(data) | stacks


class StackWriter(NibabelWriter):
    """MONAI's NIfTI writer, for ``SaveImage``; but a stack of one slice keeps its third axis, and a file appears whole.

    Raises:
        UserError: If a stack has several channels, or the system refuses to write.
    """

    def write(self, filename: Path | str, verbose: bool = False, **options: Any) -> None:
        array = self.data_obj
        found = f"{filename}: {array.shape[-1]} channels"
        require(array.ndim == 3, found, "a stack has one channel", "save each by itself")
        ImageWriter.write(self, filename, verbose)  # which prints the name
        with new_file(Path(filename)) as partial:
            super().write(partial, **options)

    @classmethod
    def convert_to_channel_last(cls, data: Any, *args: Any, **kwargs: Any) -> Any:
        array = super().convert_to_channel_last(data, *args, **kwargs | {"squeeze_end_dims": False})
        return array[..., 0] if array.shape[-1] == 1 else array  # told when it is written, which MONAI lets pass


class _DeferringWriter(StackWriter):
    """Keeps what a :class:`StackWriter` raises: ``SaveImage`` would say instead that it finds no suitable writer."""

    failure: UserError | None = None

    def write(self, filename: Path | str, verbose: bool = False, **options: Any) -> None:
        try:
            super().write(filename, verbose, **options)
        except UserError as error:
            self.failure = error


class SaveStack(SaveImage):
    """MONAI's ``SaveImage`` with :class:`StackWriter`; it tells why a file cannot be written.

    Args:
        options: The arguments of ``SaveImage`` without ``writer``.

    Raises:
        UserError: If a stack has several channels, or the system refuses to write, for example because the disk is
            full.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, writer=_DeferringWriter)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        saved = super().__call__(*arguments, **options)
        if self.writer_obj.failure is not None:
            raise self.writer_obj.failure
        return saved


class SaveStackd(SaveImaged):
    """Dictionary version of :class:`SaveStack`.

    It does not save the phases of a cine, which have one file: see :class:`monai_iln.handlers.SaveCines`.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **options: Any) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys)
        self.saver = SaveStack(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> Any:
        return dict(data) if PHASE_KEY in data else super().__call__(data)


LoadStackD = LoadStackDict = LoadStackd
SaveStackD = SaveStackDict = SaveStackd
