"""One operator for every mixture of normalizations: ``torch.ops.monai_iln.mixture_norm``.

:func:`mixture_norm` is the only way in. It takes the operator, with statistics in one pass, coefficients in closed
form and a gradient written by hand, on CPU in plain torch and on CUDA in Triton; and takes the definition,
:func:`mixture_norm_reference`, where nothing but plain differentiable torch will do.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from monai_iln.norms.backends import cpu
from monai_iln.norms.coefficients import (
    Mixture,
    gate_weights,
    mixture_coefficients,
    spatial_moments,
    spatial_size,
    working_dtype,
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
        rho: the gate, as :func:`~monai_iln.norms.coefficients.gate_weights` describes it.
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
    slope, offset = mixture_coefficients(
        mean,
        variance,
        mean.new_ones(1, 1) if rho is None else gate_weights(rho.to(work), mixture.gate),  # on the input's device
        weight if weight is None else weight.to(work),
        bias if bias is None else bias.to(work),
        running_mean if running_mean is None else running_mean.to(work),
        running_var if running_var is None else running_var.to(work),
        mixture,
        spatial_size(x),
    )
    broadcast = mean.shape + (1,) * (x.dim() - 2)
    y = torch.addcmul(offset.reshape(broadcast), slope.reshape(broadcast), centred)
    return y.to(x.dtype), mean.detach(), variance.detach()


def is_transformed() -> bool:
    """Whether ``torch.func`` or ``torch.export`` watch, which allow no change in place."""
    return torch._C._are_functorch_transforms_active() or torch.compiler.is_exporting()


def _is_batched(grad: Tensor) -> bool:
    """Whether ``vmap`` runs over many gradients, its own or that of ``torch.autograd.grad(is_grads_batched=True)``."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(grad) or functorch.is_legacy_batchedtensor(grad)


def _only_reference(x: Tensor) -> bool:
    """Whether the result must consist of plain torch operators, or the device has no implementation of ours."""
    return (
        not (x.device.type == "cpu" or (x.device.type == "cuda" and _kernels_take(x)))
        or is_transformed()
        or torch.jit.is_tracing()  # type: ignore[no-untyped-call]
        or torch.compiler.is_compiling()  # the compiler fuses plain operators with their neighbours
        or torch.onnx.is_in_onnx_export()
    )


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _cuda() -> Any:
    """The operator on CUDA; imported late, because Triton may be missing, and reads its environment then."""
    return importlib.import_module("monai_iln.norms.backends.cuda")


def _kernels_take(x: Tensor) -> bool:
    return _has_triton() and x.numel() > 0 and _cuda().memory_format(x) is not None


def _is_plain(x: Tensor) -> bool:
    """Whether nobody watches: torch's dispatcher, through which all else goes, takes 100 microseconds a layer."""
    return type(x) is Tensor and x.device.type == "cpu"


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
            ctx.unpacked = cpu.unpack(*parameters)
            y, mean, variance = cpu.normalize(x, *ctx.unpacked)
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
        create_graph = torch.is_grad_enabled()
        if create_graph or _is_batched(grad):  # the definition is differentiable at will
            with torch.enable_grad():
                # Aliases: operands may depend on one another, and that is not for this gradient to follow.
                aliases: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in (x, *tensors)]
                rho, weight, bias, running_mean, running_var = aliases[1:]
                mixture = Mixture(*ctx.recipe)
                y = mixture_norm_reference(aliases[0], rho, weight, bias, running_mean, running_var, mixture)[0]
                inputs = [alias for alias, wanted in zip(aliases, needed, strict=False) if wanted]
                remaining = iter(torch.autograd.grad(y, inputs, grad, create_graph=create_graph))
            return (*(next(remaining) if wanted else None for wanted in needed), *nothing)
        if _is_plain(x):
            grads = cpu.differentiate(grad, x, mean, variance, *ctx.unpacked)
        else:
            grads = torch.ops.monai_iln.mixture_norm_backward.default(grad, x, mean, variance, *tensors, *ctx.recipe)
        # autograd casts them to the dtype of what they belong to.
        return (*(g if wanted else None for g, wanted in zip(grads, needed, strict=True)), *nothing)


torch.library.impl("monai_iln::mixture_norm", "cpu", cpu.forward)
torch.library.impl("monai_iln::mixture_norm", "cuda", lambda *inputs: _cuda().forward(*inputs))
torch.library.impl("monai_iln::mixture_norm_backward", "cpu", cpu.backward)
torch.library.impl("monai_iln::mixture_norm_backward", "cuda", lambda *inputs: _cuda().backward(*inputs))
torch.library.register_fake("monai_iln::mixture_norm", _fake_forward)
torch.library.register_fake("monai_iln::mixture_norm_backward", _fake_backward)
torch.library.impl("monai_iln::mixture_norm", "Autograd", _MixtureNorm.apply)
