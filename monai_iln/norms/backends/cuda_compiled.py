"""The operator as ``torch.compile`` has it on a GPU: the compiler looks into it.

It reads and writes the maps itself, fused with what comes before and after, in whatever layout they are. Of the
coefficients, which are many reductions over a few numbers, it would make a dozen kernels, and the host would launch
them one by one. Here they are one kernel forward and two backward, and one more where a sample must know the others.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op, wrap_triton

from monai_iln.errors import require
from monai_iln.norms.backends import PARAMETERS, check_sizes
from monai_iln.norms.backends.cuda import CHANNELS, COEFFICIENTS, Description, describe, works

# By their names: torch reads the source of an operator for the kernels that it launches.
from monai_iln.norms.backends.cuda_coefficients import coefficients
from monai_iln.norms.backends.cuda_gradients import coefficients_backward, parameter_gradients, pool_backward
from monai_iln.norms.coefficients import Mixture
from monai_iln.norms.moments import spatial_size, working_dtype

__all__ = ["forward", "works"]


@triton_op("monai_iln::compiled_mixture_norm", mutates_args=())
def _compiled(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, components: list[int], num_groups: int, blend_statistics: bool, unbiased: bool,
    eps: float, gate: str, per_channel: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator, and which (sample, channel) passes the range of the dtype."""
    mixture = Mixture(components, num_groups, blend_statistics, unbiased, eps, gate, per_channel)
    known = _describe(x, [rho, weight, bias, running_mean, running_var], mixture)
    values = x.to(working_dtype(x))
    variance, mean = torch.var_mean(values, _axes(x), correction=0)
    # Squares may pass the range, also as inf - inf. Such a channel becomes 0, and counts for no other.
    overflow = ~(variance < float("inf")) & mean.isfinite()
    moments = torch.stack([mean.masked_fill(overflow, 0.0), variance.masked_fill(overflow, 0.0)])
    tables = torch.empty_like(moments)
    samples, channels = x.shape[:2]
    wrap_triton(coefficients)[(samples, 1, 1)](
        tables, moments, rho, weight, bias, running_mean, running_var, samples, channels, spatial_size(x), 0,
        *known.gate, *known.blend, True, 1, *known.blocks, num_warps=8,
    )  # fmt: skip
    slope = tables[0].masked_fill(overflow, 0.0)
    y = torch.addcmul(_on_map(tables[1], x), _on_map(slope, x), values - _on_map(moments[0], x))
    return y.to(x.dtype), moments, overflow


@triton_op("monai_iln::compiled_mixture_norm_backward", mutates_args=())
def _compiled_backward(
    grad: Tensor, x: Tensor, moments: Tensor, overflow: Tensor, rho: Tensor | None, weight: Tensor | None,
    bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None, components: list[int],
    num_groups: int, blend_statistics: bool, unbiased: bool, eps: float, gate: str, per_channel: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Its gradient; those of parameters that are not there have no numbers."""
    mixture = Mixture(components, num_groups, blend_statistics, unbiased, eps, gate, per_channel)
    known = _describe(x, [rho, weight, bias, running_mean, running_var], mixture)
    samples, channels = x.shape[:2]
    size, number = spatial_size(x), len(known.codes)
    cotangent, centred = grad.to(moments.dtype), x.to(moments.dtype) - _on_map(moments[0], x)
    dot = (cotangent * centred).sum(_axes(x)).masked_fill(overflow, 0.0)
    sums = torch.stack([cotangent.sum(_axes(x)), dot])
    # The kernels leave room for the sums of one chunk before their own tables; here these are elsewhere.
    tables = moments.new_empty((2 + known.tables, samples, channels))
    wrap_triton(coefficients_backward)[(samples, 1, 1)](
        sums, tables, moments, rho, weight, running_mean, running_var, samples, channels, size, 1, *known.gate,
        *known.blend, *known.blocks, num_warps=8,
    )  # fmt: skip
    few = min(triton.next_power_of_2(channels), CHANNELS)
    blocks = triton.cdiv(channels, few)
    if known.others:
        wrap_triton(pool_backward)[(samples, blocks, 1)](
            tables, samples, channels, size, 1, known.codes, number, blend_statistics, few, COEFFICIENTS // few
        )
    grads = [None if t is None else torch.empty_like(t) for t in (rho, weight, bias)]
    if any(t is not None for t in grads):
        wrap_triton(parameter_gradients)[(blocks, 1, 1)](
            tables, rho, *grads, samples, channels, *known.gate, number, blend_statistics, gate, per_channel, few
        )
    slope, per_deviation, shift = (_on_map(table, x) for table in tables[2:5].masked_fill(overflow, 0.0).unbind())
    grad_x = slope * cotangent + (per_deviation * centred + shift)
    grad_rho, grad_weight, grad_bias = (moments.new_empty(0) if t is None else t for t in grads)
    return grad_x.to(x.dtype), grad_rho, grad_weight, grad_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *tensors = inputs[:6]
    ctx.mixture = inputs[6:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, *output[1:], *tensors)


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    grads = torch.ops.monai_iln.compiled_mixture_norm_backward.default(grad, *saved, *ctx.mixture)
    parameters = [None if t is None else g for t, g in zip(saved[3:6], grads[1:], strict=True)]
    return grads[0], *parameters, None, None, *[None] * len(ctx.mixture)


_compiled.register_autograd(_differentiate, setup_context=_save)


def forward(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator; see :func:`monai_iln.norms.operator.mixture_norm`. It has a gradient, and no second one."""
    tensors = [None if t is None else t.contiguous() for t in (rho, weight, bias, running_mean, running_var)]
    y, moments, _ = torch.ops.monai_iln.compiled_mixture_norm.default(x, *tensors, *mixture)
    return y, moments


def _describe(x: Tensor, parameters: list[Tensor | None], mixture: Mixture) -> Description:
    """What the kernels know of a mixture, once its parameters are known to fit."""
    for name, parameter in zip(PARAMETERS, parameters, strict=True):
        if parameter is not None:
            got, rule = f"{name} is on {parameter.device}", f"the input is on {x.device}, and so must its layer be"
            require(parameter.device == x.device, got, rule, "move the layer there")
    check_sizes(x.shape[1], [0 if parameter is None else parameter.numel() for parameter in parameters], mixture)
    return describe(1, x.shape[1], 1, parameters[-1] is not None, mixture)


def _axes(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def _on_map(table: Tensor, x: Tensor) -> Tensor:
    return table.reshape(table.shape + (1,) * (x.dim() - 2))
