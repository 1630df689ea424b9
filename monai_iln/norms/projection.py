"""Gates that are weights themselves: they act as clipped to [0, 1], and are moved back into it after each step."""

from __future__ import annotations

import functools
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

# By their ids: unlike a set, its references can be listed while another thread makes layers.
_watched: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()


def clip_gate(rho: Tensor) -> Tensor:
    """Clip a gate to [0, 1], with a gradient that is 0 only where descent would lead further away.

    The gradient of plain clipping is 0 everywhere outside: a gate that some step drove there would never return.
    """
    knows_python = forward_ad._current_level < 0 and not torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    if not (torch.is_grad_enabled() and knows_python):
        return clip(rho)
    clipped: Tensor = _Clip.apply(rho)  # type: ignore[no-untyped-call]
    return clipped


def clip(rho: Tensor) -> Tensor:
    """Clip a gate to [0, 1], with the gradient 1 at the ends, too. That of ``clamp`` is 0 there since torch 2.14."""
    inside = (rho >= 0.0) & (rho <= 1.0)
    return torch.where(inside, rho, rho.detach().clamp(0.0, 1.0))


class _Clip(torch.autograd.Function):
    generate_vmap_rule = True

    forward = staticmethod(clip)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rho,) = ctx.saved_tensors
        return grad.masked_fill(leads_away(rho, grad), 0.0)


def leads_away(rho: Tensor, grad: Tensor) -> Tensor:
    """Where descent along ``grad`` would move a gate further away from [0, 1]."""
    return ((rho > 1.0) & (grad < 0.0)) | ((rho < 0.0) & (grad > 0.0))


def project_gate(layer: nn.Module) -> None:
    """Move the gates of a layer back into [0, 1]."""
    gate = _gate_of(layer)
    if gate is not None and not gate.is_inference():
        gate.data.clamp_(0.0, 1.0)  # .data: what waits for its gradient must not be invalidated


def project_after_steps(layer: nn.Module) -> None:
    """Call :func:`project_gate` after each step of a torch optimizer that has the layer's gates."""
    _watch_optimizers()
    _watched[id(layer)] = layer


@functools.cache
def _watch_optimizers() -> None:
    register_optimizer_step_post_hook(_project_gates)


def _project_gates(optimizer: Optimizer, *_: Any) -> None:
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for reference in _watched.valuerefs():
        layer = reference()
        if layer is not None and id(_gate_of(layer)) in stepped:
            project_gate(layer)


def _gate_of(layer: nn.Module) -> nn.Parameter | None:
    """The parameter behind the gates: pruning keeps it under another name; a parametrization has one in other units."""
    return layer._parameters.get("rho", layer._parameters.get("rho_orig"))
