"""Mean and variance of a map: of each (sample, channel), and of each channel over a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def working_dtype(x: Tensor) -> torch.dtype:
    """The dtype that statistics are computed in: half precision holds neither the sums nor eps."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def spatial_size(x: Tensor) -> int:
    """Positions behind each (sample, channel); a loop, because TorchScript and tracing know no ``math.prod``."""
    size = 1
    for axis in range(2, x.dim()):
        size *= x.shape[axis]
    return size


def spatial_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre ``x`` over its spatial axes.

    The mean is subtracted as a constant, so that its gradient is not summed over the map once more. Whoever needs it
    adds ``mean - mean.detach()``, which is 0 and has it, to a table. Mean and variance have all their derivatives.

    Args:
        x: The input, ``(N, C, *spatial)`` with any number of spatial axes, also none; floating point.

    Returns:
        ``x - mean.detach()`` shaped like ``x``, and mean and biased variance of shape ``(N, C)``. Without spatial axes
        the mean is ``x`` itself and the variance 0.
    """
    axes = list(range(2, x.dim()))
    if len(axes) == 0:  # torch would reduce over *all* axes
        return x - x.detach(), x, torch.zeros_like(x)
    # Sums divided afterwards: the gradient of ``mean`` writes a tensor as large as x, that of ``sum`` a view.
    size = spatial_size(x)
    mean = x.sum(axes, keepdim=True) / size
    constant = mean.detach()
    # Centred sum of squares: E[x^2] - mean^2 loses every digit where the mean is large against the deviation.
    centred = x - constant
    rest = (mean - constant).flatten(1).masked_fill(constant.flatten(1).isinf(), 0.0)  # where the sum has no number
    return centred, mean.flatten(1), centred.square().sum(axes) / size - rest * rest


def batch_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over the batch, ``(C,)``, from the tables of all samples."""
    batch_mean = mean.mean(0)
    deviation = mean - batch_mean
    return batch_mean, torch.addcmul(variance, deviation, deviation).mean(0)
