"""The definition of the operator in plain torch, which torch itself differentiates, scripts, compiles and exports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_iln.norms.coefficients import Mixture, gate_rows, mixture_coefficients
from monai_iln.norms.moments import spatial_moments, spatial_size, working_dtype


def forward(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator; see :func:`monai_iln.norms.operator.mixture_norm`."""
    work = working_dtype(x)
    centred, mean, variance = spatial_moments(x.to(work))
    # Squares may pass the dtype's range. Such a channel becomes 0, as instance norm's does, and counts for no other.
    overflow = variance == float("inf")
    mean, variance = mean.masked_fill(overflow, 0.0), variance.masked_fill(overflow, 0.0)
    slope, offset = mixture_coefficients(
        mean,
        variance,
        [mean.new_ones(1, 1)] if rho is None else gate_rows(rho.to(work), mixture.gate),  # on the input's device
        _cast(weight, work),
        _cast(bias, work),
        _cast(running_mean, work),
        _cast(running_var, work),
        mixture,
        spatial_size(x),
    )
    slope = slope.masked_fill(overflow, 0.0)
    offset = offset - slope * (mean - mean.detach())  # 0: the gradient of the mean, see spatial_moments
    broadcast = mean.shape + (1,) * (x.dim() - 2)
    y = torch.addcmul(offset.reshape(broadcast), slope.reshape(broadcast), centred)
    return y.to(x.dtype), torch.stack([mean.detach(), variance.detach()])


def backward(
    grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Its gradient, which can be differentiated again, and for many cotangents at once."""
    create_graph = torch.is_grad_enabled()
    tensors = (x, rho, weight, bias, running_mean, running_var)
    with torch.enable_grad():
        # Aliases: operands may depend on one another, and that is not for this gradient to follow.
        aliases: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        x, rho, weight, bias, running_mean, running_var = aliases
        y, _ = forward(x, rho, weight, bias, running_mean, running_var, mixture)
        grads: list[Tensor | None] = [None] * 4
        needed = [i for i, alias in enumerate(aliases[:4]) if alias is not None and alias.requires_grad]
        found = torch.autograd.grad(y, [aliases[i] for i in needed], grad, create_graph=create_graph)
    for i, gradient in zip(needed, found, strict=True):
        grads[i] = gradient
    return grads[0], grads[1], grads[2], grads[3]


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)
