"""What the operator runs on, one module a backend, all with the same functions.

:mod:`~monai_iln.norms.backends.reference` is the definition. Faster are :mod:`~monai_iln.norms.backends.cpu_numba`,
where numba is installed, :mod:`~monai_iln.norms.backends.cpu`, and :mod:`~monai_iln.norms.backends.cuda`.
:mod:`~monai_iln.norms.backends.cuda_compiled` is for ``torch.compile`` on a GPU.
:mod:`~monai_iln.norms.backends.dispatcher` asks torch, which comes back to one of them.
:mod:`monai_iln.norms.operator` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from monai_iln.errors import UserError, count, require
from monai_iln.norms.coefficients import Mixture

PARAMETERS = ("rho", "weight", "bias", "running_mean", "running_var")
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def memory_format(x: Tensor) -> torch.memory_format | None:
    """The layout of ``x`` if it lies in memory without gaps, contiguous or with the channels last."""
    if x.is_contiguous():
        return torch.contiguous_format
    layout = _CHANNELS_LAST.get(x.dim())
    return layout if layout is not None and x.is_contiguous(memory_format=layout) else None


def check_sizes(channels: int, sizes: Sequence[int], mixture: Mixture) -> None:
    """Refuse what does not fit the channels: kernels get addresses, and would read what lies behind a parameter.

    Args:
        channels: The channels of the input.
        sizes: The numbers in ``rho``, ``weight``, ``bias``, ``running_mean`` and ``running_var``; 0 for ``None``.
        mixture: The components and how they are blended.

    Raises:
        UserError: If a parameter has another size, a running statistic lacks the other, or a number of groups does not
            divide the channels.
    """
    for groups in (*mixture.components, mixture.num_groups):
        fits = groups == 0 or (groups > 0 and channels % groups == 0)  # 0 is batch norm, or no group norm
        got = f"{count(groups, 'group')} in an input of {count(channels, 'channel')}"
        require(fits, got, "they must divide the channels", "make the layer with the channels of its input")
    rows = len(mixture.components) * (2 if mixture.blend_statistics else 1)
    gates = channels if mixture.per_channel else 1
    if mixture.gate == "softmax":
        gates *= rows
    for name, size in zip(PARAMETERS, sizes, strict=True):
        wanted = gates if name == "rho" else channels
        may_lack = name != "rho" or rows == 1
        got = f"{name} of {count(size, 'number')} for an input of {count(channels, 'channel')}"
        rule = f"it must have {wanted}"
        require(size == wanted or (size == 0 and may_lack), got, rule, "give the layer parameters of its own shapes")
    both = (sizes[3] == 0) == (sizes[4] == 0)
    require(both, "one of running_mean and running_var", "batch norm takes both or none", "give the other, too")


def find_size(name: str, tensor: Tensor | None, device: int = -1) -> int:
    """The numbers in a parameter of a layer; 0 for ``None``.

    Args:
        name: The name of the parameter.
        tensor: The parameter.
        device: The number of the input's device, as ``Tensor.get_device`` has it: -1 is the CPU.

    Raises:
        UserError: If the parameter has no values on that device.
    """
    if tensor is None:
        return 0
    if tensor.get_device() != device or tensor.data_ptr() == 0:
        place = "the CPU" if device < 0 else f"GPU {device}"
        got = f"{name} is a {type(tensor).__name__} of {count(tensor.numel(), 'number')} on {tensor.device}"
        rule = f"the input lies on {place}, and so must the values of its layer"
        remedy = "move the layer there, and load its values"
        if hasattr(tensor, "full_tensor"):  # DTensor, of which this process has a part
            rule = "the input is whole, and of the parameter this process may have but a part"
            remedy = "call the network that fully_shard was given, or make the parameter plain by full_tensor()"
        raise UserError(f"{got}; {rule}. Remedy: {remedy}.")
    return tensor.numel()


class Forward(Protocol):
    """What computes the operator, and has its gradient from elsewhere, or none."""

    def forward(
        self, x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
        running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Compute what :func:`~monai_iln.norms.operator.mixture_norm` returns."""


class Backend(Forward, Protocol):
    """The functions of a backend."""

    def backward(
        self, grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, weight: Tensor | None,
        bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Compute the gradients in ``x``, ``rho``, ``weight`` and ``bias``; nobody reads those that are not needed."""


class Kernels(Backend, Protocol):
    """A backend for the tensors of one device."""

    def takes(self, x: Tensor) -> bool:
        """Whether it can normalize ``x``."""
