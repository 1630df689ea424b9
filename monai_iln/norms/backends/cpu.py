"""The operator on CPU: torch's own kernels for the maps, NumPy for the tables of (sample, channel)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_iln.norms.coefficients import (
    Mixture,
    gate_weights,
    gate_weights_backward,
    mixture_coefficients,
    mixture_coefficients_backward,
    spatial_moments,
    spatial_size,
    working_dtype,
)

# The smallest number that native_group_norm may add to a variance: it divides by zero without one, and the variance is
# recovered from its result.
_TINY = 1e-30


def forward(x: Tensor, *parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The operator; see :func:`monai_iln.norms.operator.mixture_norm`."""
    return normalize(x, *unpack(*parameters))


def backward(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor, *parameters: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Its gradient; see :mod:`monai_iln.norms.operator`."""
    return differentiate(grad, x, mean, variance, *unpack(*parameters))


@np.errstate(all="ignore")  # what is not finite shows in the result, as everywhere in torch
def normalize(
    x: Tensor, mix: Any, _: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, mixture: Mixture
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass for the statistics, one to apply ``y = A (x - m) + B``."""
    x = x.as_subclass(Tensor)  # MONAI's MetaTensor would take part in every line; torch makes the result one
    z, residual, scale, mean, variance = _standardize(x.to(working_dtype(x)))
    slope, offset = mixture_coefficients(
        mean, variance, mix, weight, bias, running_mean, running_var, mixture, spatial_size(x)
    )
    slope = slope * scale
    offset = offset - slope * residual
    _scale_and_shift(z, slope, offset, out=z)
    return z.to(x.dtype), torch.from_numpy(mean), torch.from_numpy(variance)


@np.errstate(all="ignore")
def differentiate(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor,
    mix: Any, rho: Any, weight: Any, _: Any, running_mean: Any, running_var: Any, mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``dx = A dy + dm / S + 2 dv (x - m) / S``, with ``dm`` and ``dv`` from the sums of ``dy`` and ``dy (x - m)``."""
    work, x, grad = working_dtype(x), x.as_subclass(Tensor), grad.as_subclass(Tensor)
    size = spatial_size(x)
    if x.numel() == 0:
        nothing = torch.zeros(x.shape[1])
        return torch.zeros_like(x), torch.zeros(() if rho is None else rho.shape), nothing, nothing.clone()
    means: Any = mean.numpy()
    variances: Any = variance.numpy()
    source = x.to(work)
    if _is_fast(source) and not _needs_centring(means, variances**0.5):
        residual, grad_x = means, torch.empty_like(source)
    else:
        rounded_mean = mean.to(work).numpy()
        residual, grad_x = means - rounded_mean, source - _broadcast(rounded_mean, source)
        source = grad_x
    fast = _is_fast(source)
    grad = grad.to(work).contiguous() if fast else grad.to(work)
    grad_offset, grad_slope = _sums(grad, source)
    slope, grad_mean, grad_variance, grad_mix, grad_weight = mixture_coefficients_backward(
        grad_slope - grad_offset * residual, grad_offset, means, variances, mix, weight, running_mean, running_var,
        mixture, size,
    )  # fmt: skip
    per_deviation = 2.0 * grad_variance / size
    shift = grad_mean / size - per_deviation * residual
    if fast:
        shift = shift - slope * grad_offset / size
    else:  # exactly 0 where there is one position only, however large the slope
        grad = grad - _broadcast(grad_offset / size, grad)
    if rho is None:
        grad_rho = torch.zeros(0)
    else:
        rows = [row.sum(0) if mixture.per_channel else row.sum() for row in grad_mix]
        rows = gate_weights_backward(rows, mix, rho, mixture)
        grad_rho = torch.from_numpy(np.concatenate(rows, axis=None).reshape(rho.shape))
    _scale_and_shift(source, per_deviation, shift, out=grad_x)
    grad_x.addcmul_(grad, _broadcast(slope, grad_x))
    return grad_x.to(x.dtype), grad_rho, torch.from_numpy(grad_weight.sum(0)), torch.from_numpy(grad_offset.sum(0))


def unpack(*parameters: Any) -> tuple[Any, ...]:
    """Of the flat parameters of the schema: the weights of the components, five tables and a mixture."""
    tables = [None if tensor is None else _table(tensor) for tensor in parameters[:5]]
    mixture = Mixture(*parameters[5:])
    mix = gate_weights(None if tables[0] is None else torch.from_numpy(tables[0]), mixture.gate).numpy()
    return mix, *tables, mixture


def _table(tensor: Tensor) -> Any:
    """What the coefficients are computed from: float64, in which they lose no digit, and in NumPy."""
    tensor = tensor.detach()
    return (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()).numpy().astype(np.float64)


def _broadcast(table: Any, x: Tensor) -> Tensor:
    """A table as a tensor that ``x`` can be multiplied with."""
    return torch.from_numpy(table).to(x.dtype).reshape(table.shape + (1,) * (x.dim() - 2))


def _is_fast(x: Tensor) -> bool:
    """Whether torch's group and batch norm kernels can take ``x`` as rows of positions."""
    return x.dim() > 2 and x.is_contiguous() and x.numel() > x.shape[0] * x.shape[1]


def _needs_centring(mean: Any, scale: Any) -> bool:
    """Whether products with ``x`` would cut off over 6 bits before the mean is subtracted, or _TINY be too large."""
    return bool(((abs(mean) > 64.0 * scale) | (scale < 1e-12)).any())


def _standardize(x: Tensor) -> tuple[Tensor, Any, Any, Any, Any]:
    """``z``, like ``x``, and the tables ``residual, scale, mean, variance``: ``x - mean = (z - residual) * scale``."""
    if not _is_fast(x):
        z, rounded, biased = spatial_moments(x)
        residual = _table(z.mean(tuple(range(2, x.dim())))) if x.dim() > 2 else 0.0 * _table(biased)
        variance = np.maximum(_table(biased) - residual * residual, 0.0)
        return z, residual, 1.0 + 0.0 * residual, _table(rounded) + residual, variance
    samples, channels = x.shape[:2]
    # torch's fastest moments on CPU by far: vectorized, threaded, by Welford's method.
    z, rounded, rstd = torch.native_group_norm(
        x, None, None, samples, channels, x.numel() // (samples * channels), channels, _TINY
    )
    mean, scale = _table(rounded), 1.0 / _table(rstd)
    if not _needs_centring(mean, scale):
        return z, 0.0 * mean, scale, mean, scale * scale
    # Even the mean is rounded: what remains of it after its subtraction is a part of it.
    rows = torch.sub(x, _broadcast(mean, x), out=z).flatten(2)
    residual, squares = _table(rows.mean(-1)), _table(torch.linalg.vector_norm(rows, dim=-1)) ** 2
    variance = np.maximum(squares / rows.shape[-1] - residual * residual, 0.0)
    return z, residual, 1.0 + 0.0 * mean, mean + residual, variance


def _sums(grad: Tensor, x: Tensor) -> tuple[Any, Any]:
    """Sums over space of ``grad`` and of ``grad * x``, as tables."""
    if _is_fast(x):
        shape, rows = grad.shape[:2], grad.shape[0] * grad.shape[1]
        zeros, ones = grad.new_zeros(1, rows), grad.new_ones(1, rows)
        # The gradients of its bias and weight, with every row a channel of its own, are these sums.
        _, dots, sums = torch.ops.aten.native_group_norm_backward(
            grad.view(1, rows, -1), x.view(1, rows, -1), zeros, ones, ones[0], 1, rows, grad.numel() // rows,
            rows, [False, True, True],
        )  # fmt: skip
        return _table(sums.view(shape)), _table(dots.view(shape))
    if grad.dim() == 2:
        return _table(grad), _table(grad * x)
    axes = tuple(range(2, grad.dim()))
    return _table(grad.sum(axes)), _table((grad * x).sum(axes))


def _scale_and_shift(x: Tensor, slope: Any, offset: Any, out: Tensor) -> None:
    """Write ``slope * x + offset`` to ``out``, which may be ``x``."""
    if not _is_fast(x):
        torch.mul(x, _broadcast(slope, x), out=out).add_(_broadcast(offset, x))
        return
    # Batch norm in evaluation is this very map, in one pass.
    parameters = np.zeros((4, slope.size))
    parameters[0], parameters[1], parameters[3] = slope.ravel(), offset.ravel(), 1.0
    weight, bias, mean, variance = torch.from_numpy(parameters).to(x.dtype).unbind()
    rows, unused = (1, slope.size, -1), (x.new_empty(0), x.new_empty(0))
    torch.native_batch_norm(x.view(rows), weight, bias, mean, variance, False, 0.0, 0.0, out=(out.view(rows), *unused))
