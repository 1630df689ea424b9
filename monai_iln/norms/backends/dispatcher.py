"""The operator by way of torch's dispatcher, which asks subclasses of tensors and modes before it calls the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_iln.norms.coefficients import Mixture


def forward(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator; see :func:`monai_iln.norms.operator.mixture_norm`."""
    with torch._C._AutoDispatchBelowAutograd():
        result: tuple[Tensor, Tensor] = torch.ops.monai_iln.mixture_norm.default(
            x, rho, weight, bias, running_mean, running_var, *mixture
        )
    return result


def backward(
    grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Its gradient."""
    grads: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.monai_iln.mixture_norm_backward.default(
        grad, x, moments, rho, weight, bias, running_mean, running_var, *mixture
    )
    return grads
