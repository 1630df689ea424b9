"""The contestants: norm specifications by name, and the two norms that only a benchmark needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Norm
from torch import Tensor, nn

from monai_iln.errors import UserError, did_you_mean
from monai_iln.norms.components import fit_groups

REFERENCE = "instance"
COMPILED = " compiled"
GRAPH = " graph"


class ComposedILN(nn.Module):
    """ILN as its formula reads, one torch call per norm: the fused layer is compared with it. Not for use.

    The sigmoid gate, one per layer, and the groups are those of :class:`monai_iln.InstanceLayerNorm`.

    Args:
        num_features: The channels ``C`` of the input.
        num_groups: The number of groups; as in ILN, the largest divisor of ``C`` not above it is taken.
        eps: The number added to every variance.
    """

    def __init__(self, num_features: int, num_groups: int = 16, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups = fit_groups(num_features, num_groups)
        self.eps = eps
        self.rho = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        instance = F.instance_norm(x, eps=self.eps)
        layer = F.group_norm(x, 1, eps=self.eps)
        gate = self.rho.sigmoid()
        return F.group_norm(gate * instance + (1 - gate) * layer, self.num_groups, self.weight, self.bias, self.eps)


class FittingGroupNorm(nn.GroupNorm):
    """Group norm with the largest divisor of ``num_features`` not above ``num_groups``, for any network."""

    def __init__(self, num_features: int, num_groups: int = 16) -> None:
        super().__init__(fit_groups(num_features, num_groups), num_features)


_OWN = {"BENCHMARK_COMPOSED_ILN": ComposedILN, "BENCHMARK_GROUP": FittingGroupNorm}
NORMS: dict[str, Any] = {
    "none": None,
    "instance": ("INSTANCE", {"affine": True}),
    "group16": "BENCHMARK_GROUP",
    "batch": "BATCH",
    "composed": "BENCHMARK_COMPOSED_ILN",
    "four": ("MIXTURE", {"components": ["instance", "layer", ("group", {"num_groups": 4}), "batch"]}),
    "ILN": "ILN",
}
NAMES = (*NORMS, *(name + way for way in (COMPILED, GRAPH) for name in NORMS if name != "none"))
DEFAULTS = (*NORMS, "instance" + COMPILED, "ILN" + COMPILED)


@dataclass(frozen=True)
class Contestant:
    """One norm, run as it is, through ``torch.compile``, or as a CUDA graph.

    Attributes:
        name: The name on the command line.
        norm: The norm specification as everywhere in MONAI; it is valid within :func:`benchmark_norms`.
        compiled: Whether the layer, or the whole network, goes through ``torch.compile``.
        graph: Whether the work is recorded once and replayed, which leaves nothing to Python.
    """

    name: str
    norm: Any
    compiled: bool
    graph: bool

    def compile(self, module: nn.Module) -> nn.Module:
        """The module as this contestant runs it."""
        if not self.compiled:
            return module
        # Shapes are fixed: a compiler that generalizes over them would be at a disadvantage.
        return cast(nn.Module, torch.compile(module, dynamic=False))


def find_contestants(names: Sequence[str]) -> list[Contestant]:
    """Contestants by name, each once.

    Raises:
        UserError: For a name that is not among :data:`NAMES`.

    Example:
        >>> find_contestants(["ILN compiled"])
        [Contestant(name='ILN compiled', norm='ILN', compiled=True, graph=False)]
        >>> find_contestants(["INL"])
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: contestant 'INL' is unknown. Did you mean 'ILN'? ...
    """
    for name in names:
        if name not in NAMES:
            hint = did_you_mean(name, NAMES)
            known = ", ".join(repr(known) for known in NAMES)
            raise UserError(f"contestant {name!r} is unknown.{hint} Choose from {known}; quote names with a blank.")
    return [
        Contestant(name, NORMS[plain_name(name)], name.endswith(COMPILED), name.endswith(GRAPH))
        for name in dict.fromkeys(names)
    ]


def plain_name(name: str) -> str:
    """The name of a contestant's norm, however it is run."""
    return name.removesuffix(COMPILED).removesuffix(GRAPH)


@contextmanager
def benchmark_norms() -> Iterator[None]:
    """Make the benchmark's own norms known to MONAI's factory, and forget them afterwards."""
    documentation = Norm.__doc__  # the factory appends every name to it
    for name, norm in _OWN.items():
        Norm.add_factory_class(name, norm)
    try:
        yield
    finally:
        for name in _OWN:
            del Norm.components[name]
        Norm.__doc__ = documentation
