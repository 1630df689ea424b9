"""Stacks to slices: a given one, random ones, or all."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import Dataset, MetaTensor, get_track_meta
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform, MultiSampleTrait, Randomizable
from monai.transforms.utils import create_translate
from monai.utils import ImageMetaKey, TraceKeys, TransformBackends, convert_to_tensor

from monai_iln.errors import UserError

MOST_BYTES_IN_MEMORY = 512 << 20  # of slices; what a small data set has, and no machine lacks


def _count_slices(img: Any) -> int:
    if len(img.shape) != 4:
        raise UserError(
            f"an image of shape {tuple(img.shape)}. Slices are taken from a stack (channels, rows, columns, slices): "
            "load with ensure_channel_first, and take slices only once."
        )
    return int(img.shape[-1])


def _count_alike(stacks: Mapping[Hashable, Any]) -> int:
    """The number of slices that all stacks have."""
    counts = {key: _count_slices(stack) for key, stack in stacks.items()}
    if len(set(counts.values())) > 1:
        raise UserError(
            f"stacks with different numbers of slices, {counts}. The same slices are taken of every key: resample "
            "the stacks to one grid, or check that they belong together."
        )
    return next(iter(counts.values()), 0)


def _take(img: Any, index: Any, transform: InvertibleTransform) -> torch.Tensor:
    """Slice ``index`` of a stack, traced as the work of ``transform``."""
    slices = _count_slices(img)
    if index not in range(slices):
        raise UserError(
            f"slice {index!r} of a stack of {slices}. Slices are counted from 0, here to {slices - 1}: "
            "list the slices of a stack with monai_iln.datasets.slice_items."
        )
    index = int(index)
    img = convert_to_tensor(img, track_meta=get_track_meta())
    taken: torch.Tensor = img[..., index].clone()  # a view would keep the whole stack in every cache
    if isinstance(taken, MetaTensor):
        affine = to_affine_nd(3, img.affine.numpy())
        taken.affine = torch.as_tensor(affine @ create_translate(3, (0, 0, index)))
        extra_info = {"index": index, "affine": affine}
        transform.push_transform(taken, orig_size=tuple(img.shape[1:]), extra_info=extra_info)
    return taken


def _put_back(img: Any, transform: InvertibleTransform) -> Any:
    """The stack that ``transform`` took a slice from: zero but for the slice."""
    info = transform.pop_transform(img)
    stack = img.new_zeros((*img.shape, int(info[TraceKeys.ORIG_SIZE][-1])))
    stack[..., int(info[TraceKeys.EXTRA_INFO]["index"])] = img
    # Remembered, not moved back: MONAI's lazy transforms reduce a slice's affine to its first two axes.
    stack.affine = torch.as_tensor(info[TraceKeys.EXTRA_INFO]["affine"])
    return stack


class TakeSlice(InvertibleTransform):
    r"""Take one slice of a stack.

    The affine goes along: its origin moves to the slice, :math:`A_k = A \, T(0, 0, k)`. MONAI's planar transforms see
    only two axes of it, so bring a stack into orientation and spacing before slices are taken from it.

    The inverse puts the slice where it was in a stack of zeros, as MONAI's ``SpatialCrop`` does.

    Args:
        index: The index of the slice, counted from 0.

    Shape:
        ``(C, H, W, Z)`` to ``(C, H, W)``, a copy.

    Raises:
        UserError: If the image is no stack or has no such slice.

    Example:
        >>> take = TakeSlice(2)
        >>> taken = take(torch.ones(1, 4, 5, 3))
        >>> taken.shape, take.inverse(taken).sum(dim=(0, 1, 2)).tolist()
        (torch.Size([1, 4, 5]), [0.0, 0.0, 20.0])
    """

    backend: ClassVar[list[Any]] = [TransformBackends.TORCH]

    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(self, img: Any) -> torch.Tensor:
        return _take(img, self.index, self)

    def inverse(self, img: Any) -> Any:
        return _put_back(img, self)


class TakeSliced(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`TakeSlice`, with the index in the item: the same slice of every key.

    Args:
        keys: The keys of the stacks.
        slice_key: The key of the slice's index.
        allow_missing_keys: Skips the keys that an item lacks, instead of raising an error.

    Example:
        >>> TakeSliced(["image"])({"image": torch.ones(1, 4, 5, 3), "slice": 0})["image"].shape
        torch.Size([1, 4, 5])
    """

    backend = TakeSlice.backend

    def __init__(self, keys: KeysCollection, slice_key: str = "slice", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_key = slice_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if self.slice_key not in data:
            raise UserError(
                f"an item with the keys {list(data)}. TakeSliced needs the slice's index, under {self.slice_key!r}: "
                "list the slices with monai_iln.datasets.slice_items, or name the key with slice_key."
            )
        index = data[self.slice_key]
        return dict(data) | {key: _take(data[key], index, self) for key in self.key_iterator(data)}

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: _put_back(data[key], self) for key in self.key_iterator(data)}


class RandSliceSamples(Randomizable, InvertibleTransform, MultiSampleTrait):
    """Take random slices of a stack, without replacement: none comes twice before each has come once.

    Each sample is what :class:`TakeSlice` gives, and so is its inverse. Slices are drawn with the same probability;
    to draw by foreground, MONAI has ``RandCropByPosNegLabel`` with ``spatial_size=[-1, -1, 1]``.

    Args:
        num_samples: The number of slices to take. A stack with fewer gives some of them again.

    Shape:
        ``(C, H, W, Z)`` to a list of ``num_samples`` copies ``(C, H, W)``, each with its position in the list as
        ``patch_index`` in its metadata, as from MONAI's ``RandSpatialCropSamples``.

    Raises:
        UserError: If ``num_samples`` is below 1 or the image is no stack.

    Example:
        >>> stack = torch.arange(3.0).expand(1, 4, 5, 3)
        >>> sorted(sample.mean().item() for sample in RandSliceSamples(3)(stack))
        [0.0, 1.0, 2.0]
    """

    backend = TakeSlice.backend

    def __init__(self, num_samples: int) -> None:
        if num_samples < 1:
            raise UserError(f"num_samples {num_samples}: at least one slice is taken of a stack. Choose 1 or more.")
        self.num_samples = num_samples
        self.indices: list[int] = []

    def randomize(self, data: Any) -> None:
        """Draw the slices of the stack ``data``."""
        slices = _count_slices(data)
        rounds = [self.R.permutation(slices) for _ in range(math.ceil(self.num_samples / slices))]
        self.indices = np.concatenate(rounds)[: self.num_samples].tolist()

    def __call__(self, img: Any, randomize: bool = True) -> list[torch.Tensor]:
        if randomize:
            self.randomize(img)
        samples = [_take(img, index, self) for index in self.indices]
        for position, sample in enumerate(samples):
            if isinstance(sample, MetaTensor):
                sample.meta[ImageMetaKey.PATCH_INDEX] = position
        return samples

    def inverse(self, img: Any) -> Any:
        return _put_back(img, self)


class RandSliceSamplesd(Randomizable, MapTransform, InvertibleTransform, MultiSampleTrait):
    """Dictionary version of :class:`RandSliceSamples`: the same slices of every key, a list of items.

    Args:
        keys: The keys of the stacks, which have the same number of slices. Everything else in the item is copied.
        num_samples: The number of slices to take.
        allow_missing_keys: Skips the keys that an item lacks, instead of raising an error.

    Raises:
        UserError: If the stacks of an item differ in the number of slices, or the array version raises it.

    Example:
        >>> items = RandSliceSamplesd(["image", "label"], 2)(
        ...     {"image": torch.rand(1, 4, 5, 3), "label": torch.ones(1, 4, 5, 3), "subject": "a"}
        ... )
        >>> [(item["image"].shape, item["subject"]) for item in items]
        [(torch.Size([1, 4, 5]), 'a'), (torch.Size([1, 4, 5]), 'a')]
    """

    backend = RandSliceSamples.backend

    def __init__(self, keys: KeysCollection, num_samples: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sampler = RandSliceSamples(num_samples)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandSliceSamplesd:
        super().set_random_state(seed, state)
        self.sampler.set_random_state(seed, state)
        return self

    def randomize(self, data: Any) -> None:
        self.sampler.randomize(data)

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        stacks = {key: data[key] for key in self.key_iterator(data)}
        _count_alike(stacks)
        rest = {key: value for key, value in data.items() if key not in stacks}
        items = [deepcopy(rest) for _ in range(self.sampler.num_samples)]
        if stacks:
            self.randomize(next(iter(stacks.values())))
        for key, stack in stacks.items():
            for item, sample in zip(items, self.sampler(stack, randomize=False), strict=True):
                item[key] = sample
        return items

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return dict(data) | {key: self.sampler.inverse(data[key]) for key in self.key_iterator(data)}


class SliceDataset(Dataset):
    """Every slice of every stack, an item each. Stacks are loaded once and kept as slices.

    Where the slices of all stacks fit into 512 MB, they are loaded at once and kept in memory. Where they do not, as
    the mean of the first stacks tells, a stack is loaded when one of its slices is first needed, and its slices are
    kept in a temporary folder, so that memory does not grow with the data. The environment variable ``TMPDIR`` chooses
    the disk. The process that made the folder removes it at its end; one that is killed leaves it behind.

    Args:
        data: The items, with stacks or the paths of their files under ``keys``. The list under ``"slices"``, where an
            item has one, tells how many they are; other stacks are all loaded at once to count them.
        keys: The keys of the stacks, which have the same number of slices. All else in an item, such as the list of its
            slices, is left out: a batch could not hold it.
        load: Turns an item of ``data`` into one with stacks ``(C, H, W, Z)``. It is applied once; where slices are kept
            in a folder, two workers of a data loader may both do so.
        transform: Changes the item of a slice, ``(C, H, W)`` under ``keys`` and its index under ``"slice"``. It is
            applied every time.

    Raises:
        UserError: If the stacks of an item differ in the number of slices or have not as many as it lists, there is
            none, or the disk is full.

    Example:
        >>> stack = {"image": torch.rand(1, 4, 5, 3), "label": torch.ones(1, 4, 5, 3)}
        >>> dataset = SliceDataset([stack, stack], keys=["image", "label"])
        >>> len(dataset), dataset[5]["image"].shape, dataset[5]["slice"]
        (6, torch.Size([1, 4, 5]), 2)
    """

    def __init__(
        self,
        data: Iterable[Mapping[Hashable, Any]],
        keys: KeysCollection,
        load: Callable[[Any], Any] | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__([], transform)  # first: MONAI's loader seeds what it finds, in the order of the attributes
        self._stacks = list(data)
        self._take = TakeSliced(keys)
        self._load = load
        self._folder: Path | None = None
        self.data: list[Any] = []
        size = 0
        for stack in range(len(self._stacks)):
            slices = self._load_slices(stack)
            size += sum(map(_count_bytes, slices))
            if size / (stack + 1) * len(self._stacks) > MOST_BYTES_IN_MEMORY:
                self._folder = _make_folder(self)
                self.data = self._list_slices()
                break
            self.data += slices
        if not self.data:
            raise UserError("no slices to train on. The data must hold at least one stack: add some.")

    def _transform(self, index: int) -> Any:
        kept = self.data[index]
        item = _unpack(kept if self._folder is None else self._fetch(*kept))
        return item if self.transform is None else self.transform(item)

    def _load_slices(self, stack: int) -> list[_Packed]:
        item = self._stacks[stack]
        loaded = item if self._load is None else self._load(item)
        stacks = {key: loaded[key] for key in self._take.keys}
        count, listed = _count_alike(stacks), item.get("slices")
        if isinstance(listed, list) and len(listed) != count:
            raise UserError(
                f"stack {stack} of the data: {count} slices when it is loaded, {len(listed)} in its list. Loading must "
                "keep the slices that an item lists under 'slices': correct the list, or leave it out."
            )
        return [_pack(self._take({**stacks, self._take.slice_key: index})) for index in range(count)]

    def _list_slices(self) -> list[tuple[int, int]]:
        """The stack and the index of every slice, without loading a stack that lists its slices."""
        places: list[tuple[int, int]] = []
        for stack, item in enumerate(self._stacks):
            listed = item.get("slices")
            count = len(listed) if isinstance(listed, list) else self._store(stack)
            places += [(stack, index) for index in range(count)]
        return places

    def _fetch(self, stack: int, index: int) -> _Packed:
        path = self._path(stack, index)
        if not path.is_file():
            self._store(stack)
        packed: _Packed = torch.load(path, mmap=True, weights_only=False)
        return packed

    def _store(self, stack: int) -> int:
        """Load a stack and keep its slices in the folder. Several workers may do so for one stack at the same time."""
        slices = self._load_slices(stack)
        for index, packed in enumerate(slices):
            path = self._path(stack, index)
            partial = path.with_suffix(f".{os.getpid()}_{threading.get_ident()}")
            try:
                torch.save(packed, partial)
                partial.replace(path)
            except (OSError, RuntimeError) as error:  # torch's own writer raises a RuntimeError
                raise UserError(
                    f"{path.parent}: cannot keep slices there ({error}). The slices of all stacks must fit: free the "
                    "disk, or choose another one by the environment variable TMPDIR."
                ) from error
        return len(slices)

    def _path(self, stack: int, index: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{stack}_{index}.pt"


class _Packed(NamedTuple):
    """A slice as it is kept.

    Attributes:
        item: The item. Tensors of whole numbers from 0 to 255, such as labels, are bytes.
        dtypes: The data types that bytes had, by their keys.
    """

    item: dict[Hashable, Any]
    dtypes: dict[Hashable, torch.dtype]


def _pack(item: dict[Hashable, Any]) -> _Packed:
    packed, dtypes = dict(item), {}
    for key, value in item.items():
        if isinstance(value, torch.Tensor) and value.dtype != torch.uint8:
            small = value.to(torch.uint8)
            if torch.equal(small.to(value.dtype), value):
                packed[key], dtypes[key] = small, value.dtype
    return _Packed(packed, dtypes)


def _unpack(packed: _Packed) -> dict[Hashable, Any]:
    return packed.item | {key: packed.item[key].to(dtype) for key, dtype in packed.dtypes.items()}


def _count_bytes(packed: _Packed) -> int:
    return sum(value.nbytes for value in packed.item.values() if isinstance(value, torch.Tensor))


def _make_folder(owner: object) -> Path:
    """A temporary folder that goes with its owner, in this process alone: workers are copies of it."""
    folder = Path(tempfile.mkdtemp(prefix="monai_iln_slices_"))
    weakref.finalize(owner, _remove_folder, folder, os.getpid())
    return folder


def _remove_folder(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


TakeSliceD = TakeSliceDict = TakeSliced
RandSliceSamplesD = RandSliceSamplesDict = RandSliceSamplesd
