"""The mathematics of instance-layer normalization: statistics in, one affine map per (sample, channel) out.

Instance, layer and group normalization are all affine in ``x`` with coefficients that depend only on the
mean ``m`` and the biased variance ``v`` of each (sample, channel). So is any blend of them, and so is a group
normalization after the blend: the whole of ILN is ``y = A (x - m) + B``. This module is the definition that every
faster implementation is tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spatial_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre ``x`` over its spatial axes.

    Args:
        x: ``(N, C, *spatial)`` with any number of spatial axes, also none; floating point.

    Returns:
        ``x - mean`` shaped like ``x``, and mean and biased variance of shape ``(N, C)``. Without spatial axes the
        mean is ``x`` itself and the variance 0.
    """
    axes = list(range(2, x.dim()))
    if len(axes) == 0:  # torch would reduce over *all* axes
        return torch.zeros_like(x), x, torch.zeros_like(x)
    # Sums divided afterwards: the gradient of ``mean`` writes a tensor as large as x, that of ``sum`` a view.
    size = 1
    for axis in axes:
        size *= x.shape[axis]
    mean = x.sum(axes, keepdim=True) / size
    # Centred sum of squares: E[x^2] - mean^2 loses every digit where the mean is large against the deviation.
    centred = x - mean
    return centred, mean.flatten(1), centred.square().sum(axes) / size


def pooled_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the last axis of equally large parts, from those of the parts.

    ``M = mean_c m`` and ``V = mean_c v + mean_c (m - M)^2``; the reduced axis is kept with size 1.
    """
    pooled_mean = mean.mean(-1, keepdim=True)
    between = (mean - pooled_mean).square().mean(-1, keepdim=True)
    return pooled_mean, variance.mean(-1, keepdim=True) + between


def instance_layer_coefficients(
    mean: Tensor,
    variance: Tensor,
    instance_weight: Tensor,
    layer_weight: Tensor,
    num_groups: int | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    r"""Slope and offset of ILN before its per-channel affine.

    With :math:`s, l` the weights of the instance and the layer part and :math:`M, V` the layer statistics,

    .. math::
        a = \frac{s}{\sqrt{v + \epsilon}} + \frac{l}{\sqrt{V + \epsilon}}, \qquad
        \mu = l\,\frac{m - M}{\sqrt{V + \epsilon}}

    are the slope and the channel means of the blend. A group normalization after it has the statistics
    :math:`\mu_g = \mathrm{mean}_g\,\mu` and :math:`q_g = \mathrm{mean}_g\,a^2 v + \mathrm{mean}_g (\mu - \mu_g)^2`
    and turns them into :math:`a / \sqrt{q_g + \epsilon}` and :math:`(\mu - \mu_g) / \sqrt{q_g + \epsilon}`.

    Args:
        mean: per-channel means over space, ``(N, C)``.
        variance: per-channel biased variances over space, ``(N, C)``.
        instance_weight: weight of instance normalization, broadcastable to ``(N, C)``.
        layer_weight: weight of layer normalization, broadcastable to ``(N, C)``.
        num_groups: groups of the second normalization, a divisor of ``C``; ``None`` leaves it out.
        eps: added to every variance.

    Returns:
        ``(slope, offset)`` of shape ``(N, C)``: ILN without affine is ``slope * (x - mean) + offset``.
    """
    layer_mean, layer_variance = pooled_moments(mean, variance)
    layer_rstd = torch.rsqrt(layer_variance + eps)
    slope = instance_weight * torch.rsqrt(variance + eps) + layer_weight * layer_rstd
    offset = layer_weight * (mean - layer_mean) * layer_rstd
    if num_groups is None:
        return slope, offset
    grouped = (mean.shape[0], num_groups, mean.shape[1] // num_groups)
    group_mean, group_variance = pooled_moments(offset.reshape(grouped), (slope.square() * variance).reshape(grouped))
    group_rstd = torch.rsqrt(group_variance + eps)
    slope = slope.reshape(grouped) * group_rstd
    offset = (offset.reshape(grouped) - group_mean) * group_rstd
    return slope.reshape(mean.shape), offset.reshape(mean.shape)
