"""Stacks to slices: a given one, or random ones."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform, MultiSampleTrait, Randomizable
from monai.transforms.utils import create_translate
from monai.utils import ImageMetaKey, TraceKeys, TransformBackends, convert_to_tensor

from monai_iln.errors import UserError


def _count_slices(img: Any) -> int:
    if len(img.shape) != 4:
        raise UserError(
            f"an image of shape {tuple(img.shape)}. Slices are taken from a stack (channels, rows, columns, slices): "
            "load with ensure_channel_first, and take slices only once."
        )
    return int(img.shape[-1])


def count_alike(stacks: Mapping[Hashable, Any]) -> int:
    """The number of slices that all stacks have.

    Raises:
        UserError: If one is no stack, or they differ in the number of slices.
    """
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
        count_alike(stacks)
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


TakeSliceD = TakeSliceDict = TakeSliced
RandSliceSamplesD = RandSliceSamplesDict = RandSliceSamplesd
