"""One operator for every mixture of normalizations: ``torch.ops.monai_iln.mixture_norm``.

:func:`mixture_norm` is the only way in. It takes the operator, with statistics in one pass, coefficients in closed
form and a gradient written by hand, on CPU in plain torch and on CUDA in Triton; and takes the definition,
:func:`mixture_norm_reference`, where nothing but plain differentiable torch will do.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_iln.norms.affine import (
    Mixture,
    gate_weights,
    gate_weights_backward,
    mixture_coefficients,
    mixture_coefficients_backward,
    spatial_moments,
)

_SCHEMA_PARAMETERS = (
    "Tensor? rho, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
    "int[] components, int num_groups, bool blend_statistics, bool unbiased, float eps, str gate, bool per_channel"
)
torch.library.define(
    "monai_iln::mixture_norm", f"(Tensor x, {_SCHEMA_PARAMETERS}) -> (Tensor y, Tensor mean, Tensor variance)"
)
torch.library.define(
    "monai_iln::mixture_norm_backward",
    f"(Tensor grad, Tensor x, Tensor mean, Tensor variance, {_SCHEMA_PARAMETERS}) "
    "-> (Tensor grad_x, Tensor grad_rho, Tensor grad_weight, Tensor grad_bias)",
)
# The smallest number that native_group_norm may add to a variance: it divides by zero without one, and the variance is
# recovered from its result.
_TINY = 1e-30


def mixture_norm(
    x: Tensor,
    rho: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize ``x`` by a mixture of normalizations.

    Args:
        x: ``(N, C, *spatial)``, floating point.
        rho: the gate, as :func:`~monai_iln.norms.affine.gate_weights` describes it.
        weight: ``(C,)`` or ``None``.
        bias: ``(C,)`` or ``None``.
        running_mean: ``(C,)``, instead of the batch's, or ``None``.
        running_var: ``(C,)``, instead of the batch's, or ``None``.
        mixture: what is blended, and how.

    Returns:
        The normalized tensor, like ``x`` in shape, dtype and memory format, and the mean and biased variance of each
        (sample, channel), ``(N, C)``, which carry no gradient.
    """
    if torch.jit.is_scripting():
        return mixture_norm_reference(x, rho, weight, bias, running_mean, running_var, mixture)
    else:  # noqa: RET505 (TorchScript compiles what follows a return, not an else that it never takes)
        if _only_reference(x):
            return mixture_norm_reference(x, rho, weight, bias, running_mean, running_var, mixture)
        normalize: Any = _MixtureNorm.apply if _is_plain(x) else torch.ops.monai_iln.mixture_norm.default
        result: tuple[Tensor, Tensor, Tensor] = normalize(x, rho, weight, bias, running_mean, running_var, *mixture)
        return result


def mixture_norm_reference(
    x: Tensor,
    rho: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of :func:`mixture_norm` in plain torch, differentiated, scripted and exported by torch itself."""
    work = working_dtype(x)
    centred, mean, variance = spatial_moments(x.to(work))
    size = 1
    for axis in range(2, x.dim()):
        size *= x.shape[axis]
    slope, offset = mixture_coefficients(
        mean,
        variance,
        gate_weights(rho if rho is None else rho.to(work), mixture.gate),
        weight if weight is None else weight.to(work),
        bias if bias is None else bias.to(work),
        running_mean if running_mean is None else running_mean.to(work),
        running_var if running_var is None else running_var.to(work),
        mixture,
        size,
    )
    broadcast = mean.shape + (1,) * (x.dim() - 2)
    y = torch.addcmul(offset.reshape(broadcast), slope.reshape(broadcast), centred)
    return y.to(x.dtype), mean.detach(), variance.detach()


def _only_reference(x: Tensor) -> bool:
    """Whether the result must consist of plain torch operators, or the device has no implementation of ours."""
    return (
        not (x.device.type == "cpu" or (x.device.type == "cuda" and _kernels_take(x)))
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()  # type: ignore[no-untyped-call]
        or torch.compiler.is_compiling()  # or exporting: the compiler fuses plain operators with their neighbours
        or torch.onnx.is_in_onnx_export()
    )


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _cuda() -> Any:
    """The operator on CUDA; imported late, because Triton may be missing, and reads its environment then."""
    return importlib.import_module("monai_iln.norms.cuda")


def _kernels_take(x: Tensor) -> bool:
    return _has_triton() and x.numel() > 0 and _cuda().memory_format(x) is not None


def _is_plain(x: Tensor) -> bool:
    """Whether nobody watches: torch's dispatcher, through which all else goes, takes 100 microseconds a layer."""
    return type(x) is Tensor and x.device.type == "cpu"


def _forward(x: Tensor, *parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The operator on CPU."""
    return _normalize(x, *_unpack(*parameters))


def _backward(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor, *parameters: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Its gradient."""
    return _differentiate(grad, x, mean, variance, *_unpack(*parameters))


@np.errstate(all="ignore")  # what is not finite shows in the result, as everywhere in torch
def _normalize(
    x: Tensor, mix: Any, _: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, mixture: Mixture
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass for the statistics, one to apply ``y = A (x - m) + B``."""
    x = x.as_subclass(Tensor)  # MONAI's MetaTensor would take part in every line; torch makes the result one
    z, residual, scale, mean, variance = _standardize(x.to(working_dtype(x)))
    slope, offset = mixture_coefficients(
        mean, variance, mix, weight, bias, running_mean, running_var, mixture, math.prod(x.shape[2:])
    )
    slope = slope * scale
    offset = offset - slope * residual
    _scale_and_shift(z, slope, offset, out=z)
    return z.to(x.dtype), torch.from_numpy(mean), torch.from_numpy(variance)


@np.errstate(all="ignore")
def _differentiate(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor,
    mix: Any, rho: Any, weight: Any, _: Any, running_mean: Any, running_var: Any, mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``dx = A dy + dm / S + 2 dv (x - m) / S``, with ``dm`` and ``dv`` from the sums of ``dy`` and ``dy (x - m)``."""
    work, x, grad = working_dtype(x), x.as_subclass(Tensor), grad.as_subclass(Tensor)
    size = math.prod(x.shape[2:])
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


def working_dtype(x: Tensor) -> torch.dtype:
    """What statistics are computed in: half precision holds neither the sums nor eps."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _unpack(*parameters: Any) -> tuple[Any, ...]:
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
    """Whether a product with ``x`` must wait until the mean is subtracted: it would cut off more than 6 bits."""
    return bool((abs(mean) > 64.0 * scale).any())


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


def _fake_forward(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    table = x.new_empty(x.shape[:2], dtype=torch.float64)
    return torch.empty_like(x), table, torch.empty_like(table)


def _fake_backward(
    grad: Tensor, x: Tensor, mean: Tensor, variance: Tensor, rho: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = mean.new_empty(x.shape[1])
    grad_rho = mean.new_empty(0, dtype=torch.float32) if rho is None else torch.empty_like(rho, dtype=torch.float64)
    return torch.empty_like(x), grad_rho, channels, torch.empty_like(channels)


class _MixtureNorm(torch.autograd.Function):
    """The operator with its gradient. Written by hand: ``register_autograd`` takes 100 microseconds longer a call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Any) -> tuple[Tensor, Tensor, Tensor]:
        if _is_plain(x):
            ctx.unpacked = _unpack(*parameters)
            y, mean, variance = _normalize(x, *ctx.unpacked)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                y, mean, variance = torch.ops.monai_iln.mixture_norm.default(x, *parameters)
        ctx.recipe = parameters[5:]
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, mean, variance, *parameters[:5])
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Any, *_: None) -> tuple[Any, ...]:
        x, mean, variance, *tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        nothing: tuple[None, ...] = (None,) * (2 + len(ctx.recipe))
        if grad is None:
            return (None,) * 4 + nothing
        if torch.is_grad_enabled():  # create_graph=True: the definition is differentiable any number of times
            rho, weight, bias, running_mean, running_var = tensors
            y = mixture_norm_reference(x, rho, weight, bias, running_mean, running_var, Mixture(*ctx.recipe))[0]
            inputs = [tensor for tensor, wanted in zip((x, *tensors), needed, strict=False) if wanted]
            remaining = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
            return (*(next(remaining) if wanted else None for wanted in needed), *nothing)
        if _is_plain(x):
            grads = _differentiate(grad, x, mean, variance, *ctx.unpacked)
        else:
            grads = torch.ops.monai_iln.mixture_norm_backward.default(grad, x, mean, variance, *tensors, *ctx.recipe)
        # autograd casts them to the dtype of what they belong to.
        return (*(g if wanted else None for g, wanted in zip(grads, needed, strict=True)), *nothing)


torch.library.impl("monai_iln::mixture_norm", "cpu", _forward)
torch.library.impl("monai_iln::mixture_norm", "cuda", lambda *inputs: _cuda().forward(*inputs))
torch.library.impl("monai_iln::mixture_norm_backward", "cpu", _backward)
torch.library.impl("monai_iln::mixture_norm_backward", "cuda", lambda *inputs: _cuda().backward(*inputs))
torch.library.register_fake("monai_iln::mixture_norm", _fake_forward)
torch.library.register_fake("monai_iln::mixture_norm_backward", _fake_backward)
torch.library.impl("monai_iln::mixture_norm", "Autograd", _MixtureNorm.apply)
