"""Changes of an image that a prediction should bear."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.data.utils import dense_patch_slices
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.utils import ensure_tuple_rep, fall_back_tuple
from torch import Tensor

AMOUNT = 0.2  # of gain, offset and bias field
SMALLER, LARGER = 0.75, 1.5
_MULTIPLES = (1, 2, 4, 8, 16, 32)  # of lengths: networks that halve an image take only some


class NotApplicableError(Exception):
    """A change that has no meaning for an image or an inferer, or that the network does not take."""


def plain(tensor: Any) -> Tensor:
    """A tensor without what MONAI's data know of it."""
    if not isinstance(tensor, Tensor):
        raise NotApplicableError
    return tensor.as_subclass(Tensor)


@dataclass(frozen=True)
class Windows:
    """The windows of a sliding-window inferer on an image.

    Attributes:
        shape: The lengths of the image.
        roi: The lengths of a window.
        step: The steps from one window to the next along each axis.
    """

    shape: tuple[int, ...]
    roi: tuple[int, ...]
    step: tuple[int, ...]

    def near_borders(self) -> Tensor:
        """Whether a voxel is one of the two beside a border of a window inside the image, ``(*shape)``."""
        near = torch.zeros(self.shape, dtype=torch.bool)
        for window in dense_patch_slices(self.shape, self.roi, self.step):
            for axis, (part, length) in enumerate(zip(window, self.shape, strict=True)):
                for border in (part.start, part.stop):
                    if 0 < border < length:
                        near.narrow(axis, border - 1, 2).fill_(True)
        return near


def windows_of(inferer: Any, shape: Sequence[int]) -> Windows | None:
    """The windows of an inferer on an image of a shape; ``None`` where it takes the image as a whole."""
    if not isinstance(inferer, SlidingWindowInferer) or isinstance(inferer, SliceInferer):
        return None
    wanted = fall_back_tuple(inferer.roi_size, shape)
    roi = tuple(min(length, whole) for length, whole in zip(wanted, shape, strict=True))
    if roi == tuple(shape):
        return None
    steps = []
    for length, whole, overlap in zip(roi, shape, ensure_tuple_rep(inferer.overlap, len(roi)), strict=True):
        steps.append(whole if length == whole else max(1, int(length * (1 - overlap))))
    return Windows(tuple(shape), roi, tuple(steps))


@dataclass(frozen=True)
class Prediction:
    """A batch, how it is predicted, and what is predicted without a change.

    Attributes:
        inputs: The images ``(B, C, ...)``.
        unchanged: What is predicted of them.
        inferer: The inferer.
        network: The network.
        call: Calls an inferer with images and a network, and whatever else the inferer takes.
    """

    inputs: Tensor
    unchanged: Tensor
    inferer: Any
    network: Any
    call: Callable[[Any, Tensor, Any], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the images."""
        return tuple(self.inputs.shape[2:])

    @property
    def is_image(self) -> bool:
        """Whether something is predicted of every voxel."""
        return tuple(self.unchanged.shape[2:]) == self.shape

    def predict(self, inputs: Tensor) -> Tensor:
        """Predict other images."""
        return plain(self.call(self.inferer, inputs, self.network))

    def predict_part(self, part: Sequence[slice]) -> Tensor:
        """Predict a part of the images alone. Voxels outside of it keep what is predicted without a change."""
        predicted = self.predict(self.inputs[_last(part)].contiguous())
        if not self.is_image:
            return predicted
        whole = self.unchanged.clone()
        whole[_last(part)] = predicted
        return whole

    def fill(self, lengths: Sequence[int]) -> Tensor:
        """Images of other lengths that hold the median of each channel's outermost voxels."""
        axes = range(2, self.inputs.dim())
        start = self.inputs.shape[:2]
        ends = [self.inputs.select(axis, end).reshape(*start, -1) for axis in axes for end in (0, -1)]
        median = torch.cat(ends, dim=2).median(dim=2).values
        return median.reshape(*median.shape, *[1] * len(lengths)).expand(*median.shape, *lengths).clone()


def gain(given: Prediction) -> Tensor:
    """Intensities times 1.2."""
    return given.predict(given.inputs * (1 + AMOUNT))


def offset(given: Prediction) -> Tensor:
    """Intensities plus 0.2 of each channel's standard deviation."""
    deviation = given.inputs.flatten(2).std(dim=2)
    return given.predict(given.inputs + AMOUNT * deviation.reshape(*deviation.shape, *[1] * len(given.shape)))


def bias_field(given: Prediction) -> Tensor:
    """Intensities times a smooth field that falls from 1.2 in one corner to 0.8 in the opposite one."""
    field = torch.ones(given.shape, dtype=given.inputs.dtype, device=given.inputs.device)
    for axis, length in enumerate(given.shape):
        wave = torch.cos(torch.linspace(0, math.pi, length, dtype=field.dtype, device=field.device))
        field += AMOUNT / len(given.shape) * wave.reshape(-1, *[1] * (len(given.shape) - axis - 1))
    return given.predict(given.inputs * field)


def shift(given: Prediction) -> Tensor:
    """Windows that lie half a step further, or without windows a whole image that has moved by a quarter.

    Voxels before the first window, and those that have moved out, keep what is predicted without a change.
    """
    windows = windows_of(given.inferer, given.shape)
    if windows is None:
        return _moved(given)
    starts = []
    for whole, roi, step in zip(windows.shape, windows.roi, windows.step, strict=True):
        starts.append(step // 2 if whole - step // 2 >= roi else 0)
    if not any(starts):
        raise NotApplicableError
    return given.predict_part([slice(start, None) for start in starts])


def _moved(given: Prediction) -> Tensor:
    steps = [length // 4 for length in given.shape]
    old = _last([slice(0, length - step) for step, length in zip(steps, given.shape, strict=True)])
    new = _last([slice(step, None) for step in steps])
    images = given.fill(given.shape)
    images[new] = given.inputs[old]
    predicted = given.predict(images)
    if not given.is_image:
        return predicted
    whole = given.unchanged.clone()
    whole[old] = predicted[new]
    return whole


def smaller(given: Prediction) -> Tensor:
    """Windows of three quarters of their lengths, or without windows the middle of the image, cut to this size."""
    return _resized(given, SMALLER, _cropped)


def larger(given: Prediction) -> Tensor:
    """Windows of one and a half times their lengths, or without windows an image that is padded to this size."""
    return _resized(given, LARGER, _padded)


def _resized(given: Prediction, factor: float, resize: Callable[[Prediction, list[int]], Tensor]) -> Tensor:
    """Predict at another size: the nearest one, away from the present one, that the network takes."""
    windows = windows_of(given.inferer, given.shape)
    present = given.shape if windows is None else windows.roi
    for multiple in _MULTIPLES:
        lengths = [_length(length, factor, multiple) for length in present]
        if lengths == list(present):
            continue
        try:
            return resize(given, lengths) if windows is None else _with_windows(given, lengths)
        except Exception:  # networks refuse sizes by errors of any kind
            continue
    raise NotApplicableError


def _length(length: int, factor: float, multiple: int) -> int:
    if factor > 1:
        return math.ceil(factor * length / multiple) * multiple
    return min(length, max(1, math.floor(factor * length / multiple)) * multiple)


def _with_windows(given: Prediction, roi: list[int]) -> Tensor:
    inferer = copy.copy(given.inferer)
    inferer.roi_size, inferer.roi_weight_map = roi, None  # the map is of the former size
    return replace(given, inferer=inferer).predict(given.inputs)


def _cropped(given: Prediction, lengths: list[int]) -> Tensor:
    return given.predict_part(_middle(given.shape, lengths))


def _padded(given: Prediction, lengths: list[int]) -> Tensor:
    images, middle = given.fill(lengths), _last(_middle(lengths, given.shape))
    images[middle] = given.inputs
    predicted = given.predict(images)
    if not given.is_image:
        return predicted
    return predicted[middle]


def _middle(whole: Sequence[int], lengths: Sequence[int]) -> list[slice]:
    starts = [(length - short) // 2 for length, short in zip(whole, lengths, strict=True)]
    return [slice(start, start + short) for start, short in zip(starts, lengths, strict=True)]


def _last(parts: Sequence[slice]) -> tuple[Any, ...]:
    """The index of parts of the last axes."""
    return (..., *parts)


class OtherBatches:
    """A network that predicts each item of a batch alone, and a single one beside the single one before it.

    Args:
        network: The network.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.before: Tensor | None = None

    def __call__(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(inputs) > 1:
            return torch.cat([self._predict(one, *args, **kwargs) for one in torch.split(inputs, 1)])
        before, self.before = self.before, inputs
        if before is None or before.shape != inputs.shape:
            raise NotApplicableError
        return self._predict(torch.cat([inputs, before]), *args, **kwargs)[:1]

    def _predict(self, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        predicted = self.network(inputs, *args, **kwargs)
        if not isinstance(predicted, Tensor):
            raise NotApplicableError
        return predicted


CHANGES: dict[str, Callable[[Prediction], Tensor]] = {
    "gain": gain,
    "offset": offset,
    "bias field": bias_field,
    "shift": shift,
    "smaller": smaller,
    "larger": larger,
}
"""The changes of an image by their names."""

BATCH = "batch"
"""The name of the change of a batch: the same image among others, see :class:`OtherBatches`."""
