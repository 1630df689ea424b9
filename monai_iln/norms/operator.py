"""One operator for every mixture of normalizations: ``torch.ops.monai_iln.mixture_norm``.

:func:`mixture_norm` is the only way in. :func:`choose_backend` says who computes it: a backend with statistics in one
pass, coefficients in closed form and a gradient written by hand, or the definition, where nothing but plain
differentiable torch will do.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_unary

from monai_iln.norms.backends import Backend, Forward, Kernels, dispatcher, reference
from monai_iln.norms.backends.reference import forward as mixture_norm_reference
from monai_iln.norms.coefficients import Mixture

# The kernels of each device, and the package that they need: the first that takes a tensor normalizes it.
KERNELS = {
    "cpu": [("cpu_numba", "numba"), ("cpu", "numpy")],
    "cuda": [("cuda", "triton")],
}

_PARAMETERS = (
    "Tensor? rho, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, "
    "int[] components, int num_groups, bool blend_statistics, bool unbiased, float eps, str gate, bool per_channel"
)
torch.library.define("monai_iln::mixture_norm", f"(Tensor x, {_PARAMETERS}) -> (Tensor y, Tensor moments)")
torch.library.define(
    "monai_iln::mixture_norm_backward",
    f"(Tensor grad, Tensor x, Tensor moments, {_PARAMETERS}) "
    "-> (Tensor grad_x, Tensor grad_rho, Tensor grad_weight, Tensor grad_bias)",
)


def mixture_norm(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Normalize ``x`` by a mixture of normalizations.

    Args:
        x: The input, ``(N, C, *spatial)``, floating point.
        rho: The gate, as :func:`~monai_iln.norms.coefficients.gate_weights` describes it.
        weight: The factor of each channel, ``(C,)``, or ``None``.
        bias: The summand of each channel, ``(C,)``, or ``None``.
        running_mean: The mean of each channel that replaces the batch's, ``(C,)``, or ``None``.
        running_var: The variance of each channel that replaces the batch's, ``(C,)``, or ``None``.
        mixture: The components and how they are blended.

    Returns:
        The normalized tensor, like ``x`` in shape, dtype and memory format, and the moments, ``(2, N, C)``: mean and
        biased variance of each (sample, channel), which carry no gradient.
    """
    if torch.jit.is_scripting():
        return mixture_norm_reference(x, rho, weight, bias, running_mean, running_var, mixture)
    else:  # noqa: RET505 (TorchScript compiles what follows a return, not an else that it never takes)
        if type(x) is not Tensor and has_torch_function_unary(x):  # MetaTensor: its class and meta come back, out here
            return handle_torch_function(mixture_norm, (x,), x, rho, weight, bias, running_mean, running_var, mixture)
        backend = choose_backend(x)
        # Nothing for our gradient to do: there is another, or nobody asks for one.
        if backend is reference or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return backend.forward(x, rho, weight, bias, running_mean, running_var, mixture)
        result: tuple[Tensor, Tensor] = _apply(backend, x, rho, weight, bias, running_mean, running_var, mixture)
        return result


def choose_backend(x: Tensor) -> Forward:
    """The backend that normalizes ``x``: the one place where this is decided."""
    if _needs_plain_torch() or _is_wrapped(x):
        if torch.compiler.is_compiling() and _compiles_kernels(x):
            from monai_iln.norms.backends import cuda_compiled  # which is loaded by now

            return cuda_compiled
        return reference
    kernels = _choose_kernels(x)
    if kernels is reference or not _is_watched(x):  # torch's dispatcher takes 100 microseconds a layer
        return kernels
    return dispatcher


# Functions of torch, which are asked at every call. Nothing that Python reads is in the cache between two layers of a
# network, and so each further function between here and there, and each name on the way, costs a microsecond or more.
_C: Any = torch._C
_is_tracing = _C._is_tracing
_has_transforms = _C._are_functorch_transforms_active
_count_modes = _C._len_torch_dispatch_stack
_includes = _C._dispatch_tls_is_dispatch_key_included
_PRE_DISPATCH = _C.DispatchKey.PreDispatch
_is_legacy_batched = _C._functorch.is_legacy_batchedtensor
_is_wrapped = _C._functorch.is_functorch_wrapped_tensor  # by torch.func, also what is left of it afterwards


def _compiles_kernels(x: Tensor) -> bool:
    """Whether the compiler may launch kernels of ours, and nobody asks for more than their gradient."""
    if _device_type(x) != "cuda" or x.dim() < 3 or x.numel() == 0:  # there is nothing to reduce over
        return False
    if _has_transforms() or forward_ad._current_level >= 0:
        return False
    return bool(_load_compiled(type(x), x.device))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # the compiler runs it instead of looking into it
def _load_compiled(kind: type, device: torch.device) -> bool:
    """Load the kernels for the compiler, and tell if they work. What is exported is for other machines, too."""
    if torch.compiler.is_exporting() or _is_dispatched(kind) or importlib.util.find_spec("triton") is None:
        return False
    return bool(importlib.import_module("monai_iln.norms.backends.cuda_compiled").works(device))


def _needs_plain_torch() -> bool:
    """Whether someone asks for derivatives, or a graph, of which only torch's own operators know."""
    return bool(
        torch.compiler.is_compiling()
        or _is_tracing()
        or _has_transforms()
        or forward_ad._current_level >= 0
        or _includes(_PRE_DISPATCH)  # torch.export, and make_fx where it comes before autograd
    )


def _is_watched(x: Tensor) -> bool:
    """Whether a subclass of tensors, or a mode (``make_fx``, selective checkpointing) wants to see each operator."""
    return _count_modes() > 0 or (type(x) is not Tensor and _is_dispatched(type(x)))


@functools.cache
def _is_dispatched(kind: type) -> bool:
    """Whether a subclass sees operators (``DTensor``), and not functions alone, as ``MetaTensor`` does."""
    return kind.__torch_dispatch__ is not _C._disabled_torch_dispatch_impl  # type: ignore[attr-defined]


def _choose_kernels(x: Tensor) -> Backend:
    """The first kernels in the table that take ``x``, or the definition."""
    for kernels in load_kernels(_device_type(x)):
        if kernels.takes(x):
            return kernels
    return reference


def _device_type(x: Tensor) -> str:
    """``x.device.type``, which itself takes 12 microseconds: torch writes the name to a stream of text first."""
    if x.is_cpu:
        return "cpu"
    if x.is_cuda:
        return "cuda"
    return x.device.type


@functools.cache
def load_kernels(device: str) -> list[Kernels]:
    """The kernels whose package is installed. Imported at their first use: Triton is slow, and reads settings then."""
    return [
        importlib.import_module(f"monai_iln.norms.backends.{name}")
        for name, package in KERNELS.get(device, [])
        if importlib.util.find_spec(package) is not None
    ]


class _MixtureNorm(torch.autograd.Function):
    """The operator with its gradient. Written by hand: ``register_autograd`` takes 100 microseconds longer a call."""

    @staticmethod
    def forward(ctx: Any, backend: Backend, x: Tensor, *parameters: Any) -> tuple[Tensor, Tensor]:
        y, moments = backend.forward(x, *parameters)
        ctx.backend = backend
        *tensors, ctx.mixture = parameters
        ctx.mark_non_differentiable(moments)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, moments, *tensors)
        return y, moments

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * 8
        # Only the definition can be differentiated again, or takes many cotangents at once (is_grads_batched=True).
        if torch.is_grad_enabled() or _is_legacy_batched(grad) or _needs_plain_torch():
            backend = reference
        else:
            backend = dispatcher if _is_watched(grad) else ctx.backend
        x, moments, *tensors = ctx.saved_tensors
        # Hooks of saved tensors may have left another dtype, and kernels read memory by it.
        if x.dtype is not grad.dtype:
            x = x.to(grad.dtype)
        if moments.dtype is not torch.float64:
            moments = moments.to(torch.float64)
        operands: Any = (x, moments, *tensors, ctx.mixture)
        grads = backend.backward(grad, *operands)
        _, needs_x, needs_rho, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        # autograd casts them to the dtype of what they belong to.
        return (
            None,
            grads[0] if needs_x else None,
            grads[1] if needs_rho else None,
            grads[2] if needs_weight else None,
            grads[3] if needs_bias else None,
            None, None, None,
        )  # fmt: skip


# Without what Function.apply does in Python before: it is for torch.func, and choose_backend has asked for that.
_apply: Any = super(torch.autograd.Function, _MixtureNorm).apply


# What torch's dispatcher calls; it knows the fields of a mixture one by one.


def _autograd(x: Tensor, *parameters: Any) -> Any:
    if _has_transforms():
        return reference.forward(x, *_pack(parameters))
    backend = reference if _choose_kernels(x) is reference else dispatcher
    return _apply(backend, x, *_pack(parameters))


def _forward(x: Tensor, *parameters: Any) -> Any:
    return _choose_kernels(x).forward(x, *_pack(parameters))


def _backward(grad: Tensor, x: Tensor, moments: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
    """The gradients as the schema has them: all there, and those of the parameters in float64."""
    with torch._C._AutoDispatchBelowAutograd():  # in the graphs of make_fx no autograd function is around it
        grad_x, grad_rho, *others = _choose_kernels(x).backward(grad, x, moments, *_pack(parameters))
        assert grad_x is not None
        if grad_rho is None:
            grad_rho = moments.new_empty(0)
        channels = [moments.new_zeros(x.shape[1]) if g is None else g.to(moments.dtype) for g in others]
        return grad_x, grad_rho.to(moments.dtype), *channels


def _pack(parameters: tuple[Any, ...]) -> tuple[Any, ...]:
    return *parameters[:5], Mixture(*parameters[5:])


def _fake_forward(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((2, *x.shape[:2]), dtype=torch.float64)


def _fake_backward(
    grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = moments.new_empty(x.shape[1])
    grad_rho = moments.new_empty(0) if rho is None else moments.new_empty(rho.shape)
    return torch.empty_like(x), grad_rho, channels, torch.empty_like(channels)


torch.library.impl("monai_iln::mixture_norm", "Autograd", _autograd)
torch.library.register_fake("monai_iln::mixture_norm", _fake_forward)
torch.library.register_fake("monai_iln::mixture_norm_backward", _fake_backward)
for _device in KERNELS:
    torch.library.impl("monai_iln::mixture_norm", _device, _forward)
    torch.library.impl("monai_iln::mixture_norm_backward", _device, _backward)
