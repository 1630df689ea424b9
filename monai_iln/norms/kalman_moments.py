"""Batch Kalman normalization: the mean and variance of maps that are not computed.

A norm's statistics are followed through what lies between it and the next norm. The authors draw a random map from a
normal distribution with these statistics, send it through activation and convolution, and take the mean and variance of
what comes out. Here both are computed, as those of a map without a border whose values are independent: the limit of
the authors' for large maps, without their noise. After each step but a rectifier's, values are taken for normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from monai_iln.errors import require

Moments = tuple[Tensor, Tensor]
"""The mean and the variance of each channel, ``(C,)``."""


class Ended(dict[int, Moments]):
    """What the norms of a network ended with in the current forward pass, by their numbers; copies are empty.

    Attributes:
        unrecorded: The numbers of those that autograd did not record.
    """

    def __init__(self, *moments: Any) -> None:
        super().__init__(*moments)
        self.unrecorded: set[int] = set()

    def __reduce__(self) -> tuple[type[Ended], tuple[()]]:
        return Ended, ()  # its tensors belong to a graph, which can be neither copied nor saved


class Statistics(Protocol):
    """What is known of a map before it is computed."""

    def moments(self, ended: Ended) -> Moments:
        """The mean and the variance of each channel, from what the norms before ended with."""


@dataclass(frozen=True, eq=False)
class FromNorm:
    """The map that a norm has normalized, with the statistics that this norm ended with."""

    number: int

    def moments(self, ended: Ended) -> Moments:
        lost = torch.is_grad_enabled() and self.number in ended.unrecorded
        got = f"norm {self.number}, counted from 0, ran without gradients, and the norm after it runs with them"
        rule = "the gradient through the prediction would be lost in silence"
        remedy = "take use_reentrant=False in checkpoints; set what runs under torch.no_grad() to evaluation mode"
        require(not lost, got, rule, remedy)
        return ended[self.number]


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter of the network. It is looked up when it is needed, for it may be moved or replaced."""

    module: nn.Module
    name: str

    def like(self, tensor: Tensor) -> Tensor:
        value: Tensor = getattr(self.module, self.name)
        return value.to(tensor.dtype)


@dataclass(frozen=True, eq=False)
class Convolved:
    r"""A convolution of a map of independent values, far from its border.

    .. math::
        \hat\mu_o = \sum_{i,k} w_{oik}\,\mu_i + b_o, \qquad \hat\sigma_o^2 = \sum_{i,k} w_{oik}^2\,\sigma_i^2

    with :math:`k` over the kernel. To a position of a transposed convolution only some of its kernel contribute, which
    ones is a matter of its phase: the position modulo the stride. Its mean is that over the phases, its variance the
    mean over the phases plus the variance between them.
    """

    inner: Statistics
    weight: Parameter
    bias: Parameter | None
    stride: Sequence[int]
    dilation: Sequence[int]
    groups: int
    transposed: bool

    def moments(self, ended: Ended) -> Moments:
        mean, variance = self.inner.moments(ended)
        weight = self.weight.like(mean)
        kernel = weight.shape[2:]
        weight = weight.reshape(self.groups, -1, weight.shape[1], math.prod(kernel))
        phases, count = torch.zeros(math.prod(kernel), dtype=torch.long), 1
        if self.transposed:
            phases, count = self._phases(kernel), math.prod(self.stride)
        else:
            weight = weight.transpose(1, 2)  # (groups, inputs, outputs, kernel), as it is of a transposed convolution
        phases = phases.to(weight.device)

        def convolve(values: Tensor, weight: Tensor) -> Tensor:
            """The sum over inputs and kernel for each output and phase."""
            taps = torch.einsum("gi,giok->gok", values.view(self.groups, -1), weight)
            return taps.new_zeros(*taps.shape[:2], count).index_add(2, phases, taps).flatten(0, 1)

        means = convolve(mean, weight)
        variances = convolve(variance, weight.square())
        mean = means.mean(1)
        if self.bias is not None:
            mean = mean + self.bias.like(mean)
        return mean, variances.mean(1) + means.var(1, correction=0)

    def _phases(self, kernel: Sequence[int]) -> Tensor:
        """The phase of the positions that each part of the kernel contributes to."""
        phases = torch.zeros(1, dtype=torch.long)
        for size, stride, dilation in zip(kernel, self.stride, self.dilation, strict=True):
            along = torch.arange(size) * dilation % stride
            phases = (phases[:, None] * stride + along).flatten()
        return phases


@dataclass(frozen=True, eq=False)
class Rectified:
    r"""``max(x, 0) + slope * min(x, 0)`` of normal values, in closed form: ReLU, leaky ReLU and PReLU.

    With :math:`a = \mu / \sigma`, the positive part has the mean :math:`\mu \Phi(a) + \sigma \varphi(a)` and the
    second moment :math:`(\mu^2 + \sigma^2) \Phi(a) + \mu \sigma \varphi(a)`.
    """

    inner: Statistics
    slope: float | Parameter

    def moments(self, ended: Ended) -> Moments:
        mean, variance = self.inner.moments(ended)
        slope: float | Tensor = self.slope if isinstance(self.slope, float) else self.slope.like(mean)
        deviation = _deviation(variance)
        ratio = mean / deviation
        below = 0.5 * torch.erfc(ratio * math.sqrt(0.5))
        density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
        second = mean.square() + variance
        positive = mean * (1 - below) + deviation * density
        positive_second = second * (1 - below) + mean * deviation * density
        rectified = positive + slope * (mean - positive)
        rectified_second = positive_second + slope**2 * (second - positive_second)
        return rectified, (rectified_second - rectified.square()).clamp(min=0)


@dataclass(frozen=True, eq=False)
class Activated:
    """Another activation of normal values, by Gauss-Hermite quadrature."""

    inner: Statistics
    function: str
    arguments: tuple[Any, ...]

    def moments(self, ended: Ended) -> Moments:
        mean, variance = self.inner.moments(ended)
        places, weights = np.polynomial.hermite_e.hermegauss(32)
        weight = mean.new_tensor(weights / weights.sum())
        deviation = _deviation(variance)
        function = getattr(torch.ops.aten, self.function)
        values = function(mean[:, None] + deviation[:, None] * mean.new_tensor(places), *self.arguments)
        activated = values @ weight
        return activated, (values - activated[:, None]).square() @ weight


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest of several independent normal values: max-pooling.

    Attributes:
        inner: The map that the values are of.
        mean: The mean of the largest of so many standard normal values.
        variance: Its variance.
    """

    inner: Statistics
    mean: float
    variance: float

    @staticmethod
    def of(inner: Statistics, count: int) -> Largest:
        """The largest of ``count`` values."""
        places = np.linspace(-9, 9, 4001)
        probabilities = np.diff(torch.special.ndtr(torch.from_numpy(places)).numpy() ** count)
        middles = (places[1:] + places[:-1]) / 2
        mean = float(probabilities @ middles)
        return Largest(inner, mean, float(probabilities @ (middles - mean) ** 2))

    def moments(self, ended: Ended) -> Moments:
        mean, variance = self.inner.moments(ended)
        return mean + self.mean * _deviation(variance), self.variance * variance


@dataclass(frozen=True, eq=False)
class Averaged:
    """The mean of ``count`` independent values: average pooling."""

    inner: Statistics
    count: int

    def moments(self, ended: Ended) -> Moments:
        mean, variance = self.inner.moments(ended)
        return mean, variance / self.count


@dataclass(frozen=True, eq=False)
class Concatenated:
    """Maps behind one another along the channels. A number stands for so many channels of which nothing is known."""

    parts: Sequence[Statistics | int]

    def moments(self, ended: Ended) -> Moments:
        known = {part: part.moments(ended) for part in self.parts if not isinstance(part, int)}
        like = next(iter(known.values()))[0]
        pairs = []
        for part in self.parts:
            if isinstance(part, int):
                pairs.append((like.new_zeros(part), like.new_zeros(part)))
            else:
                pairs.append(known[part])
        means, variances = zip(*pairs, strict=True)
        return torch.cat(means), torch.cat(variances)


@dataclass(frozen=True, eq=False)
class Summed:
    """The sum of two maps, as if they were independent."""

    one: Statistics
    other: Statistics

    def moments(self, ended: Ended) -> Moments:
        mean, variance = self.one.moments(ended)
        other_mean, other_variance = self.other.moments(ended)
        return mean + other_mean, variance + other_variance


@dataclass(frozen=True, eq=False)
class Multiplied:
    """The product of two maps, as if they were independent: attention."""

    one: Statistics
    other: Statistics

    def moments(self, ended: Ended) -> Moments:
        mean, variance = self.one.moments(ended)
        other_mean, other_variance = self.other.moments(ended)
        second = (mean.square() + variance) * (other_mean.square() + other_variance)
        return mean * other_mean, second - (mean * other_mean).square()


def _deviation(variance: Tensor) -> Tensor:
    """The square root, with a gradient at 0."""
    return variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
