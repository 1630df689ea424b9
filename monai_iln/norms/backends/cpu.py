"""The operator on CPU: torch's own kernels for the maps, NumPy for the tables of (sample, channel).

Maps are read as :class:`_Rows` where they are contiguous and as :class:`_Strided` elsewhere; both have the same steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_iln.norms.backends import PARAMETERS, check_sizes, find_size
from monai_iln.norms.coefficients import (
    Mixture,
    gate_rows,
    gate_rows_backward,
    mixture_coefficients,
    mixture_coefficients_backward,
)
from monai_iln.norms.moments import spatial_moments, spatial_size, working_dtype

# The smallest number that native_group_norm may add to a variance: it divides by zero without one, and the variance is
# recovered from its result.
_TINY = 1e-30


def takes(x: Tensor) -> bool:
    """Any tensor."""
    return True


@np.errstate(all="ignore")  # what is not finite shows in the result, as everywhere in torch
def forward(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One pass for the statistics, one to apply ``y = A (x - m) + B``."""
    sizes = map(find_size, PARAMETERS, (rho, weight, bias, running_mean, running_var))
    check_sizes(x.shape[1], tuple(sizes), mixture)
    x = x.as_subclass(Tensor)  # MONAI's MetaTensor would take part in every line; torch makes the result one
    source = x.to(working_dtype(x))
    maps = _how_to_read(source)
    z, residual, scale, mean, variance = maps.standardize(source)
    if not np.isfinite(variance).all():  # squares may have passed the range of float32
        z, residual, scale, mean, variance = maps.standardize(source.double())
    mix = _mix(_table(rho), mixture)
    slope, offset = mixture_coefficients(
        mean, variance, mix, _table(weight), _table(bias), _table(running_mean), _table(running_var), mixture,
        spatial_size(x),
    )  # fmt: skip
    slope = slope * scale
    maps.scale_and_shift(z, slope, offset - slope * residual, out=z)
    return z.to(x.dtype), torch.from_numpy(np.stack([mean, variance]))


@np.errstate(all="ignore")
def backward(
    grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``dx = A dy + dm / S + 2 dv (x - m) / S``, with ``dm`` and ``dv`` from the sums of ``dy`` and ``dy (x - m)``."""
    x, grad, size = x.as_subclass(Tensor), grad.as_subclass(Tensor), spatial_size(x)
    if x.numel() == 0:
        nothing = torch.zeros(x.shape[1])
        no_gate = torch.zeros(0) if rho is None else torch.zeros(rho.shape)
        return torch.zeros_like(x), no_gate, nothing, nothing.clone()
    tables: Any = moments.numpy()
    means, variances = tables
    gate = _table(rho)
    mix = _mix(gate, mixture)
    source = x.to(torch.float64 if variances.max() > 1e36 else working_dtype(x))
    grad = grad.to(source.dtype)
    maps = _how_to_read(source)
    source, residual, grad_x = maps.centre(source, means, variances)
    grad_offset, grad_slope = maps.sums(grad, source)
    slope, grad_mean, grad_variance, grad_mix, grad_weight = mixture_coefficients_backward(
        grad_slope - grad_offset * residual, grad_offset, means, variances, mix, _table(weight), _table(running_mean),
        _table(running_var), mixture, size,
    )  # fmt: skip
    if size == 1:  # nothing varies, however large the slope
        slope = 0.0 * slope
    per_deviation = 2.0 * grad_variance / size
    shift = (grad_mean - slope * grad_offset) / size - per_deviation * residual
    maps.scale_and_shift(source, per_deviation, shift, out=grad_x)
    grad_x.addcmul_(grad, _broadcast(slope, grad_x))
    grad_rho = _gate_gradient(grad_mix, mix, gate, mixture)
    return grad_x.to(x.dtype), grad_rho, torch.from_numpy(grad_weight.sum(0)), torch.from_numpy(grad_offset.sum(0))


def _table(tensor: Tensor | None) -> Any:
    """What the coefficients are computed from: float64, in which they lose no digit, and in NumPy.

    Always a copy: a storage that NumPy has seen can never be resized, and FSDP resizes those of parameters.
    """
    if tensor is None:
        return None
    return tensor.detach().to(torch.float64, copy=True).numpy()


def _mix(gate: Any, mixture: Mixture) -> list[Any]:
    """The weights of the components, as tables."""
    rows = gate_rows(None if gate is None else torch.from_numpy(gate), mixture.gate)
    return [row.numpy() for row in rows]


def _gate_gradient(grad_mix: list[Any], mix: list[Any], gate: Any, mixture: Mixture) -> Tensor:
    """The gradient in the gate, of the tables of those in the weights."""
    if gate is None:
        return torch.zeros(0)
    pooled = 0 if mixture.per_channel else None
    rows: list[Any] = [row.sum(pooled) for row in grad_mix]
    rows = gate_rows_backward(rows, mix, gate, mixture)
    return torch.from_numpy(np.concatenate(rows, axis=None).reshape(gate.shape))


def _broadcast(table: Any, x: Tensor) -> Tensor:
    """A table as a tensor that ``x`` can be multiplied with."""
    return torch.from_numpy(table).to(x.dtype).reshape(table.shape + (1,) * (x.dim() - 2))


def _how_to_read(x: Tensor) -> type[_Rows | _Strided]:
    if x.dim() > 2 and x.is_contiguous() and x.numel() > x.shape[0] * x.shape[1]:
        return _Rows
    return _Strided


def _needs_centring(mean: Any, scale: Any) -> bool:
    """Whether products with ``x`` would cut off over 6 bits before the mean is subtracted, or _TINY be too large."""
    return bool(((abs(mean) > 64.0 * scale) | (scale < 1e-12)).any())


class _Strided:
    """Maps in any layout, of any size: plain operators of torch."""

    @staticmethod
    def standardize(x: Tensor) -> tuple[Tensor, Any, Any, Any, Any]:
        """``z``, like ``x``, and tables ``residual, scale, mean, variance``: ``x - mean = (z - residual) * scale``."""
        z, rounded, biased = spatial_moments(x)
        # Even the mean is rounded: what remains of it after its subtraction is a part of it.
        residual = _table(z.mean(tuple(range(2, x.dim())))) if x.dim() > 2 else 0.0 * _table(biased)
        variance = np.maximum(_table(biased) - residual * residual, 0.0)
        return z, residual, 1.0 + 0.0 * residual, _table(rounded) + residual, variance

    @staticmethod
    def centre(x: Tensor, mean: Any, variance: Any) -> tuple[Tensor, Any, Tensor]:
        """``x`` without most of its mean, the table of the rest of the mean, and where the gradient may be written."""
        rounded = _broadcast(mean, x)
        centred = x - rounded
        return centred, mean - _table(rounded).reshape(mean.shape), centred

    @staticmethod
    def sums(grad: Tensor, x: Tensor) -> tuple[Any, Any]:
        """Sums over space of ``grad`` and of ``grad * x``, as tables."""
        if grad.dim() == 2:
            return _table(grad), _table(grad * x)
        axes = tuple(range(2, grad.dim()))
        return _table(grad.sum(axes)), _table((grad * x).sum(axes))

    @staticmethod
    def scale_and_shift(x: Tensor, slope: Any, offset: Any, out: Tensor) -> None:
        """Write ``slope * x + offset`` to ``out``, which may be ``x``."""
        torch.mul(x, _broadcast(slope, x), out=out).add_(_broadcast(offset, x))


class _Rows:
    """The same for contiguous maps: rows of positions, which torch's fused kernels of group and batch norm take."""

    @staticmethod
    def standardize(x: Tensor) -> tuple[Tensor, Any, Any, Any, Any]:
        # torch's fastest moments on CPU by far: vectorized, threaded, by Welford's method.
        samples, channels = x.shape[:2]
        z, rounded, rstd = torch.native_group_norm(x, None, None, samples, channels, spatial_size(x), channels, _TINY)
        mean, scale = _table(rounded), 1.0 / _table(rstd)
        if not _needs_centring(mean, scale):
            return z, 0.0 * mean, scale, mean, scale * scale
        rows = torch.sub(x, _broadcast(mean, x), out=z).flatten(2)
        residual, squares = _table(rows.mean(-1)), _table(torch.linalg.vector_norm(rows, dim=-1)) ** 2
        variance = np.maximum(squares / rows.shape[-1] - residual * residual, 0.0)
        return z, residual, 1.0 + 0.0 * mean, mean + residual, variance

    @staticmethod
    def centre(x: Tensor, mean: Any, variance: Any) -> tuple[Tensor, Any, Tensor]:
        if _needs_centring(mean, variance**0.5):
            return _Strided.centre(x, mean, variance)
        return x, mean, torch.empty_like(x)

    @staticmethod
    def sums(grad: Tensor, x: Tensor) -> tuple[Any, Any]:
        shape, rows = x.shape[:2], x.shape[0] * x.shape[1]
        zeros, ones = x.new_zeros(1, rows), x.new_ones(1, rows)
        # The gradients of its bias and weight, with every row a channel of its own, are these sums.
        _, dots, sums = torch.ops.aten.native_group_norm_backward(
            grad.contiguous().view(1, rows, -1), x.view(1, rows, -1), zeros, ones, ones[0], 1, rows,
            spatial_size(x), rows, [False, True, True],
        )  # fmt: skip
        return _table(sums.view(shape)), _table(dots.view(shape))

    @staticmethod
    def scale_and_shift(x: Tensor, slope: Any, offset: Any, out: Tensor) -> None:
        # Batch norm in evaluation is this very map, in one pass.
        parameters = np.zeros((4, slope.size))
        parameters[0], parameters[1], parameters[3] = slope.ravel(), offset.ravel(), 1.0
        weight, bias, mean, variance = torch.from_numpy(parameters).to(x.dtype).unbind()
        rows, unused = (1, slope.size, -1), (x.new_empty(0), x.new_empty(0))
        torch.native_batch_norm(
            x.view(rows), weight, bias, mean, variance, False, 0.0, 0.0, out=(out.view(rows), *unused)
        )
