"""Stacks to all of their slices, kept in memory or on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.config import KeysCollection
from monai.data import Dataset

from monai_iln.errors import UserError
from monai_iln.errors import count as told
from monai_iln.transforms.slices import TakeSliced, count_alike

MOST_BYTES_IN_MEMORY = 512 << 20  # of slices; what a small data set has, and no machine lacks


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
        count, listed = count_alike(stacks), item.get("slices")
        if isinstance(listed, list) and len(listed) != count:
            raise UserError(
                f"stack {stack} of the data: {told(count, 'slice')} when it is loaded, {len(listed)} in its list. "
                "Loading must keep the slices that an item lists under 'slices': correct the list, or leave it out."
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
