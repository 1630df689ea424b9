"""The operator on CUDA: which kernels are launched, over which tiles.

Three launches forward (statistics, coefficients, application) and three backward (sums, coefficients, gradient), one
more forward where a map is so large that several programs share a channel. The coefficients of a blend of instance and
layer norm, which is ILN, have kernels. Those of all other mixtures are the operators of
:mod:`monai_iln.norms.coefficients` on the device: correct, with more launches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from monai_iln.norms.backends import cuda_kernels as kernels
from monai_iln.norms.coefficients import (
    Mixture,
    correction_factor,
    gate_weights,
    gate_weights_backward,
    mixture_coefficients,
    mixture_coefficients_backward,
    spatial_size,
)

PROGRAMS = 1024  # enough to fill a large GPU several times over
ELEMENTS = 2048  # of a program's tile


class _Layout(NamedTuple):
    """How the programs of a launch share a map out."""

    shape: tuple[int, int, int]  # N, C, S
    strides: tuple[int, int, int]
    blocks: dict[str, Any]
    chunk: int
    splits: int

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.shape[0], triton.cdiv(self.shape[1], self.blocks["BLOCK_C"]), self.splits


def memory_format(x: Tensor) -> torch.memory_format | None:
    """The layout of ``x`` if the kernels can take it."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for layout in (torch.contiguous_format, formats.get(x.dim())):
        if layout is not None and x.is_contiguous(memory_format=layout):
            return layout
    return None


def _layout(x: Tensor) -> _Layout:
    samples, channels = x.shape[:2]
    size = spatial_size(x)
    contiguous = x.is_contiguous()
    strides = (channels * size, size, 1) if contiguous else (channels * size, 1, channels)
    wide_c, wide_s = triton.next_power_of_2(channels), triton.next_power_of_2(size)
    # The axis that is contiguous in memory first, so that neighbouring threads read neighbouring values.
    if contiguous:
        block_s = min(wide_s, ELEMENTS)
        block_c = min(wide_c, max(1, ELEMENTS // block_s))
    else:
        block_c = min(wide_c, 64)
        block_s = min(wide_s, ELEMENTS // block_c)
    programs = samples * triton.cdiv(channels, block_c)
    splits = max(1, min(triton.cdiv(size, 4 * block_s), PROGRAMS // programs))
    chunk = triton.cdiv(triton.cdiv(size, splits), block_s) * block_s
    acc = tl.float64 if x.dtype == torch.float64 else tl.float32
    blocks = {"ACC": acc, "BLOCK_C": block_c, "BLOCK_S": block_s}
    return _Layout((samples, channels, size), strides, blocks, chunk, triton.cdiv(size, chunk))


def _statistics(x: Tensor, layout: _Layout) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each (sample, channel), ``(N, C)`` in float64."""
    samples, channels, size = layout.shape
    mean, variance = x.new_empty((2, layout.splits, samples, channels), dtype=torch.float64)
    kernels.statistics[layout.grid](x, mean, variance, *layout.shape, *layout.strides, layout.chunk, **layout.blocks)
    if layout.splits == 1:
        return mean[0], variance[0]
    merged = torch.empty_like(mean[0]), torch.empty_like(mean[0])
    rows = samples * channels
    kernels.merge[(triton.cdiv(rows, 128),)](
        mean, variance, *merged, rows, size, layout.chunk, layout.splits, BLOCK=128
    )
    return merged


def _fused(mixture: Mixture, x: Tensor, mix: Tensor) -> dict[str, Any] | None:
    """The constants of the coefficient kernels, or ``None`` for a mixture that they do not know."""
    channels, size = x.shape[1], spatial_size(x)
    if mixture.components != [channels, 1] or mixture.blend_statistics or channels > 2048:
        return None
    groups = max(mixture.num_groups, 1)
    return {
        "mix_row": mix.shape[1],
        "mix_stride": int(mixture.per_channel),
        "K": channels // groups,
        "EPS": mixture.eps,
        "UNBIASED_IN": correction_factor(channels, x, mixture, size),
        "UNBIASED_LN": correction_factor(1, x, mixture, size),
        "THEN": mixture.num_groups > 0,
        "BLOCK_G": triton.next_power_of_2(groups),
        "BLOCK_K": triton.next_power_of_2(channels // groups),
    }


def takes(x: Tensor) -> bool:
    """Whether ``x`` has values, and a layout that the kernels know."""
    return x.numel() > 0 and memory_format(x) is not None


def forward(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator; see :func:`monai_iln.norms.operator.mixture_norm`."""
    rho, weight, bias, running_mean, running_var = map(_double, (rho, weight, bias, running_mean, running_var))
    mix = gate_weights(rho, mixture.gate).to(x.device, torch.float64)
    layout = _layout(x)
    mean, variance = _statistics(x, layout)
    constants = _fused(mixture, x, mix)
    if constants is None:
        size = spatial_size(x)
        slope, offset = mixture_coefficients(
            mean, variance, mix, weight, bias, running_mean, running_var, mixture, size
        )
        slope, offset = slope.contiguous(), offset.contiguous()
    else:
        slope, offset = torch.empty_like(mean), torch.empty_like(mean)
        kernels.coefficients[(x.shape[0],)](mean, variance, mix, weight, bias, slope, offset, x.shape[1], **constants)
    y = torch.empty_like(x)
    kernels.apply[layout.grid](
        x, y, mean, slope, offset, *layout.shape[1:], *layout.strides, layout.chunk, **layout.blocks
    )
    return y, mean, variance


def backward(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor,
    rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Its gradient."""
    rho, weight, running_mean, running_var = map(_double, (rho, weight, running_mean, running_var))
    mix = gate_weights(rho, mixture.gate).to(x.device, torch.float64)
    layout = _layout(x)
    samples, channels, size = layout.shape
    grad = grad.contiguous(memory_format=memory_format(x) or torch.contiguous_format)
    sums, dots = mean.new_empty((2, layout.splits, samples, channels))
    kernels.sums[layout.grid](grad, x, mean, sums, dots, *layout.shape, *layout.strides, layout.chunk, **layout.blocks)
    constants = _fused(mixture, x, mix)
    if constants is None:
        grad_offset = sums.sum(0)
        slope, grad_mean, grad_variance, grad_mix, grad_weight = mixture_coefficients_backward(
            dots.sum(0), grad_offset, mean, variance, mix, weight, running_mean, running_var, mixture, size
        )
        per_deviation = (2.0 * grad_variance / size).contiguous()
        shift = ((grad_mean - slope * grad_offset) / size).contiguous()
        slope = slope.contiguous()
        *grad_mix, grad_weight, grad_bias = torch.stack([*grad_mix, grad_weight, grad_offset]).sum(1)
    else:
        rows = mean.new_empty((4, samples, channels))
        slope, per_deviation, shift = mean.new_empty((3, samples, channels))
        kernels.coefficients_backward[(samples,)](
            sums, dots, mean, variance, mix, weight, slope, per_deviation, shift, rows, *layout.shape,
            splits=layout.splits, **constants,
        )  # fmt: skip
        *grad_mix, grad_weight, grad_bias = rows.sum(1)
    grad_x = torch.empty_like(x)
    kernels.input_gradient[layout.grid](
        grad, x, grad_x, mean, slope, per_deviation, shift, *layout.shape[1:], *layout.strides, layout.chunk,
        **layout.blocks,
    )  # fmt: skip
    if rho is None:
        return grad_x, x.new_empty(0), grad_weight, grad_bias
    if not mixture.per_channel:
        grad_mix = [row.sum() for row in grad_mix]
    grad_rho = torch.stack(gate_weights_backward(grad_mix, mix.squeeze(-1), rho, mixture))
    return grad_x, grad_rho.reshape(rho.shape), grad_weight, grad_bias


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double()
