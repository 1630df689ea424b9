"""Normalization layers: mixtures of instance, layer, group and batch norm, and the named members of the family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from monai_iln.errors import UserError
from monai_iln.norms.backends.reference import forward as mixture_norm_reference
from monai_iln.norms.coefficients import BATCH, Mixture, gate_weights
from monai_iln.norms.components import GROUPS, component_name, parse_component
from monai_iln.norms.moments import spatial_moments, spatial_size, working_dtype
from monai_iln.norms.operator import mixture_norm
from monai_iln.norms.projection import project_after_steps, project_gate
from monai_iln.norms.running import RunningStatistics
from monai_iln.norms.sync import is_distributed, moments_over_ranks

GATES = ("sigmoid", "clip", "projected", "softmax")
GATE_SCOPES = ("layer", "channel")


class MixtureNorm(RunningStatistics):
    r"""A learned blend of normalizations, optionally followed by a group norm.

    .. math::
        y = \gamma_c\,\mathrm{then}\Bigl(\sum_j w_j\,\mathrm{norm}_j(x)\Bigr) + \beta_c, \qquad w = \mathrm{gate}(\rho)

    The components have no affine of their own. Statistics are those of the input, in training and in evaluation alike,
    but for batch norm's, which are running averages in evaluation. Everything collapses into one affine map per
    (sample, channel), at the price of instance norm: see :mod:`monai_iln.norms.coefficients`.

    If ``then`` has one channel per group, it undoes whatever the gate does: the layer is instance norm and its gate is
    *dead* (shown in the ``repr``).

    Args:
        num_features: The channels ``C`` of the input.
        components: Two or more of ``"instance"``, ``"layer"``, ``"batch"`` and ``("group", {"num_groups": 4})``; or
            one, which then needs no gate. Layer norm is over channels and space of one sample.
        then: A group norm after the blend, ``("group", {"num_groups": 16})``, or ``None``.
        gate: The way from ``rho`` to the weights. ``"softmax"``: over one parameter for each component. With two
            components also ``"sigmoid"``, ``sigmoid(rho)`` for the first and its complement for the second; ``"clip"``,
            ``rho`` clipped to [0, 1], without gradient beyond, and its complement; or ``"projected"``, ``rho`` itself.
            Each step of a torch optimizer that left [0, 1] moves it back; what else drove it out acts as clipped, has a
            gradient that leads back, and is not saved.
        gate_scope: One gate for all channels, ``"layer"``, or one each, ``"channel"``.
        initial_gate: The value that ``rho`` starts from.
        unbiased: Divides each component's variance by one less than the count.
        eps: The number added to every variance.
        affine: Learns ``weight`` and ``bias``.
        momentum: The weight of the new batch in batch norm's running statistics; ``None`` takes the mean of all
            batches.
        sync: Pools batch norm's statistics over all ranks of ``torch.distributed``, as ``SyncBatchNorm`` does.
        strict: Raises where the channels are not a multiple of a number of groups, instead of taking the largest
            divisor below it.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Attributes:
        rho: The gate, ``(G,)``, with softmax ``(J, G)`` for ``J`` components, where ``G`` is 1 or ``C``
            (``gate_scope``); ``None`` with one component.
        weight: The factor :math:`\gamma`, ``(C,)``, initially 1; ``None`` without affine.
        bias: The summand :math:`\beta`, ``(C,)``, initially 0; ``None`` without affine.
        running_mean: The mean of batch norm in evaluation, ``(C,)``; ``None`` without batch norm.
        running_var: The same for the variance, unbiased as torch's.
        num_batches_tracked: The number of batches behind both, a scalar; ``None`` without batch norm.
        gate_is_dead: Whether ``then`` undoes the gate.

    Shape:
        ``(N, C, *spatial)`` with any number of spatial axes, also ``(N, C)``; the output has the input's shape,
        dtype and memory format. Statistics of half-precision inputs are computed in float32.

    Raises:
        UserError: For an unknown component, gate or scope, fewer than one feature or group, a negative ``eps``, or, if
            ``strict``, channels that the groups do not divide; in ``forward``, for an input whose axis 1 is not
            ``num_features`` or that is not floating point.

    Source:
        The last section of Zhou et al., *U-Net Training with Instance-Layer Normalization*, 2019,
        doi:10.1007/978-3-030-37969-8_13, asks for it; the collapse into one affine map is ours.

    Example:
        >>> layer = MixtureNorm(32, ["instance", "layer", ("group", {"num_groups": 4}), "batch"])
        >>> layer(torch.randn(2, 32, 64, 64)).shape
        torch.Size([2, 32, 64, 64])
        >>> layer
        MixtureNorm(32, instance + layer + group(4) + batch, gate=softmax)
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and does not know these
        rho: Tensor | None
        weight: Tensor | None
        bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        components: Sequence[Any] = ("instance", "layer"),
        then: Any = None,
        gate: str = "softmax",
        gate_scope: str = "layer",
        initial_gate: float = 0.5,
        unbiased: bool = False,
        eps: float = 1e-5,
        affine: bool = True,
        momentum: float | None = 0.1,
        sync: bool = False,
        strict: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kind = type(self).__name__  # for messages; TorchScript knows no type()
        if not isinstance(num_features, int) or num_features < 1:
            raise UserError(f"{self.kind}: num_features is {num_features!r}; it must be a whole number from 1.")
        if not isinstance(initial_gate, (int, float)):
            raise UserError(f"{self.kind}: initial_gate is {initial_gate!r}; it must be a number.")
        if momentum is not None and not (isinstance(momentum, (int, float)) and 0 <= momentum <= 1):
            raise UserError(
                f"{self.kind}: momentum is {momentum!r}; it must be a number in [0, 1], or None for the mean of all."
            )
        if not isinstance(eps, (int, float)) or not eps >= 0:
            raise UserError(
                f"{self.kind}: eps is {eps!r}; it must be a number, 0 or more. In YAML write 1.0e-5, not 1e-5."
            )
        if gate_scope not in GATE_SCOPES:
            raise UserError(
                f"{self.kind}: gate_scope {gate_scope!r} is unknown; choose one of {', '.join(GATE_SCOPES)}."
            )
        if gate not in GATES:
            raise UserError(f"{self.kind}: gate {gate!r} is unknown; choose one of {', '.join(GATES)}.")
        if not isinstance(components, (list, tuple)) or len(components) == 0:
            raise UserError(
                f'{self.kind}: components is {components!r}; it must be a list such as ["instance", "layer"].'
            )
        if gate != "softmax" and len(components) > 2:
            raise UserError(f"{self.kind}: gate {gate!r} weighs two components, not {len(components)}; take 'softmax'.")
        self.num_features = num_features
        self.components = [parse_component(c, num_features, strict) for c in components]
        self.num_groups = None
        if then is not None:
            self.num_groups = parse_component(then, num_features, strict)
        if self.num_groups == BATCH:
            raise UserError(f"{self.kind}: then is {then!r}; batch norm cannot follow a blend, only a group norm can.")
        self.gate_is_dead = self.num_groups == num_features and len(components) > 1
        self.gate = gate
        self.gate_scope = gate_scope
        self.per_channel = gate_scope == "channel" and len(components) > 1
        self.initial_gate = initial_gate
        self.blend_statistics = False
        self.unbiased = unbiased
        self.eps = float(eps)
        self.momentum = momentum
        self.sync = sync
        self._init_gates(len(components), device, dtype)
        for name in ("weight", "bias"):
            self.register_parameter(name, None)
            if affine:
                setattr(self, name, nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)))
        self._init_running_stats(num_features if BATCH in self.components else None, device, dtype)
        self._watch()
        self.reset_parameters()

    def _init_gates(self, components: int, device: Any, dtype: Any) -> None:
        self.register_parameter("rho", None)
        if components > 1:
            gates = self.num_features if self.gate_scope == "channel" else 1
            shape = (components, gates) if self.gate == "softmax" else (gates,)
            self.rho = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

    def _watch(self) -> None:
        if self.gate == "projected" and self.rho is not None:
            project_after_steps(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Copies and what is unpickled must be watched like the layer itself."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._watch()

    def reset_parameters(self) -> None:
        """Set ``rho`` to ``initial_gate``, ``weight`` to 1, ``bias`` to 0, and forget all batches."""
        for tensor, value in ((self.rho, self.initial_gate), (self.weight, 1.0), (self.bias, 0.0)):
            if tensor is not None:
                nn.init.constant_(tensor, value)
        self.reset_running_stats()

    def gate_weights(self) -> Tensor:
        """The weights of the components, ``(J, 1)`` or ``(J, C)``, summing to 1 over the first axis."""
        return gate_weights(self._gate(), self.gate)

    def _gate(self) -> Tensor | None:
        return self.rho

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102
            if isinstance(x, Proxy) and x.tracer.root is not self:
                # A leaf of the graphs of torch.fx, as torch's own norms are.
                return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
        self._check_input(x)
        mixture = self._mixture()
        if self.running_mean is None or not self.training:
            mean, variance = self._running_statistics()
            return mixture_norm(x, self._gate(), self.weight, self.bias, mean, variance, mixture)[0]
        if not torch.jit.is_scripting():  # noqa: SIM102
            if self.sync and is_distributed():
                return self._forward_over_ranks(x, mixture)
        y, moments = mixture_norm(x, self._gate(), self.weight, self.bias, None, None, mixture)
        if x.numel() > 0:
            self._track(moments[0], moments[1], spatial_size(x))
        return y

    def _check_input(self, x: Tensor) -> None:
        tracing = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
        # Tracing would warn that it takes the answer for a constant.
        if not tracing and (x.dim() < 2 or x.shape[1] != self.num_features):
            raise UserError(
                f"{self.kind}: the input has shape {list(x.shape)}; it must be (N, {self.num_features}, *spatial), "
                f"because the layer was made with num_features={self.num_features}."
            )
        if not x.is_floating_point():
            raise UserError(f"{self.kind}: the input is of {x.dtype}; it must be floating point: convert it first.")

    def _mixture(self) -> Mixture:
        num_groups = 0 if self.num_groups is None else self.num_groups
        return Mixture(
            self.components, num_groups, self.blend_statistics, self.unbiased, self.eps, self.gate, self.per_channel
        )

    def _forward_over_ranks(self, x: Tensor, mixture: Mixture) -> Tensor:
        """The definition, with batch norm's statistics pooled over all ranks and differentiated through them."""
        if x.numel() == 0 and len(x) > 0:  # samples without positions have no mean: they count as no samples
            return self._forward_over_ranks(x[:0], mixture).view_as(x)
        work = working_dtype(x)
        _, mean, variance = spatial_moments(x.to(work))
        batch_mean, batch_var, count = moments_over_ranks(mean, variance, spatial_size(x))
        unbiased_var = batch_var * (count / (count - 1).clamp(min=1))
        if count > 0:
            self._move(batch_mean.detach(), unbiased_var.detach())
        if self.unbiased:
            batch_var = unbiased_var
        return mixture_norm_reference(x, self._gate(), self.weight, self.bias, batch_mean, batch_var, mixture)[0]

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.gate == "projected":
            project_gate(self)
        super()._save_to_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        parts = [str(self.num_features)]
        if type(self) is MixtureNorm:  # the other names say what is blended
            parts.append(" + ".join(component_name(component, self.num_features) for component in self.components))
        if self.num_groups is not None or isinstance(self, InstanceLayerNorm):
            parts.append(f"num_groups={self.num_groups}")
        if len(self.components) > 1 and not self.blend_statistics:
            scope = " per channel" if self.gate_scope == "channel" else ""
            dead = " (dead: one channel per group)" if self.gate_is_dead else ""
            parts.append(f"gate={self.gate}{scope}{dead}")
        if self.weight is None:
            parts.append("affine=False")
        return ", ".join(parts)


class InstanceLayerNorm(MixtureNorm):
    r"""Instance-layer normalization (ILN): a learned blend of instance and layer norm, then group norm.

    .. math::
        y = \gamma_c\,\mathrm{GN}\bigl(s\,\mathrm{IN}(x) + (1 - s)\,\mathrm{LN}(x)\bigr) + \beta_c,
        \qquad s = \mathrm{sigmoid}(\rho)

    IN, LN and GN have no affine of their own; LN is over channels and space of one sample. Statistics are
    biased and always those of the input, in training and in evaluation alike.

    With as many groups as channels every group is one channel, and the group norm undoes whatever the gate
    does: the layer then is instance norm and its gate is *dead* (shown in the ``repr``).

    Args:
        num_features: The channels ``C`` of the input.
        num_groups: The groups of the second normalization: a number, of which the largest divisor of ``C`` not above
            it is taken (see ``strict``); ``"auto"``, the same with 16; ``"alive"``, the same with at least two
            channels a group, so that no gate is dead. ``None`` leaves the second normalization out.
        gate: The way from ``rho`` to the weights of IN and LN. ``"sigmoid"``: ``sigmoid(rho)`` and its
            complement; ``"clip"``: ``rho`` clipped to [0, 1] and its complement; ``"softmax"``: the softmax over two
            parameters, the first for IN, the second for LN. Also ``"projected"``, see :class:`MixtureNorm`.
        gate_scope: One gate for all channels, ``"layer"``, or one each, ``"channel"``.
        eps: The number added to every variance.
        affine: Learns ``weight`` and ``bias``.
        strict: Raises instead of taking another number of groups.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Attributes:
        rho: The gate, initially 0.5; ``(G,)``, with softmax ``(2, G)``, where ``G`` is 1 or ``C`` (``gate_scope``).
        weight: The factor :math:`\gamma`, ``(C,)``, initially 1; ``None`` without affine.
        bias: The summand :math:`\beta`, ``(C,)``, initially 0; ``None`` without affine.
        gate_is_dead: Whether the group norm undoes the gate, with one channel per group.

    Shape:
        ``(N, C, *spatial)`` with any number of spatial axes, also ``(N, C)``; the output has the input's shape,
        dtype and memory format.

    Raises:
        UserError: As :class:`MixtureNorm`.

    Source:
        Zhou et al., *U-Net Training with Instance-Layer Normalization*, 2019,
        doi:10.1007/978-3-030-37969-8_13. The 16 groups and ``rho = 0.5`` at the start are the paper's.

    Example:
        >>> layer = InstanceLayerNorm(32)
        >>> layer(torch.randn(2, 32, 64, 64)).shape
        torch.Size([2, 32, 64, 64])
        >>> InstanceLayerNorm(16)
        InstanceLayerNorm(16, num_groups=16, gate=sigmoid (dead: one channel per group))
        >>> InstanceLayerNorm(16, num_groups="alive")
        InstanceLayerNorm(16, num_groups=8, gate=sigmoid)
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int | str | None = GROUPS,
        gate: str = "sigmoid",
        gate_scope: str = "layer",
        eps: float = 1e-5,
        affine: bool = True,
        strict: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        then = None if num_groups is None else ("group", {"num_groups": num_groups})
        super().__init__(
            num_features, ("instance", "layer"), then, gate, gate_scope,
            eps=eps, affine=affine, strict=strict, device=device, dtype=dtype,
        )  # fmt: skip


ILN = InstanceLayerNorm
