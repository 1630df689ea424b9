"""What the operator runs on, one module a backend, all with the same functions.

:mod:`~monai_iln.norms.backends.reference` is the definition. Faster are :mod:`~monai_iln.norms.backends.cpu_numba`,
where numba is installed, :mod:`~monai_iln.norms.backends.cpu`, and :mod:`~monai_iln.norms.backends.cuda`.
:mod:`~monai_iln.norms.backends.dispatcher` asks torch, which comes back to one of them.
:mod:`monai_iln.norms.operator` chooses.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from monai_iln.norms.coefficients import Mixture

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def memory_format(x: Tensor) -> torch.memory_format | None:
    """The layout of ``x`` if it lies in memory without gaps, contiguous or with the channels last."""
    if x.is_contiguous():
        return torch.contiguous_format
    layout = _CHANNELS_LAST.get(x.dim())
    return layout if layout is not None and x.is_contiguous(memory_format=layout) else None


class Backend(Protocol):
    """The functions of a backend."""

    def forward(
        self, x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
        running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Compute what :func:`~monai_iln.norms.operator.mixture_norm` returns."""

    def backward(
        self, grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, weight: Tensor | None,
        bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Compute the gradients in ``x``, ``rho``, ``weight`` and ``bias``; nobody reads those that are not needed."""


class Kernels(Backend, Protocol):
    """A backend for the tensors of one device."""

    def takes(self, x: Tensor) -> bool:
        """Whether it can normalize ``x``."""
