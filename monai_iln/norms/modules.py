"""Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_iln.errors import UserError
from monai_iln.norms.affine import instance_layer_coefficients, spatial_moments

GATES = ("sigmoid", "clip", "softmax")
GATE_SCOPES = ("layer", "channel")


class InstanceLayerNorm(nn.Module):
    r"""Instance-layer normalization (ILN): a learned blend of instance and layer norm, then group norm.

    .. math::
        y = \gamma_c\,\mathrm{GN}\bigl(s\,\mathrm{IN}(x) + (1 - s)\,\mathrm{LN}(x)\bigr) + \beta_c,
        \qquad s = \mathrm{sigmoid}(\rho)

    IN, LN and GN have no affine of their own; LN is over channels and space of one sample. Statistics are
    biased and always those of the input, in training and in evaluation alike. Everything collapses into one
    affine map per (sample, channel), see :mod:`monai_iln.norms.affine`.

    With as many groups as channels every group is one channel, and the group norm undoes whatever the gate
    does: the layer then is instance norm and its gate is *dead* (shown in the ``repr``).

    Args:
        num_features: channels ``C`` of the input.
        num_groups: groups of the second normalization. Where ``C`` is not a multiple of it, the largest
            divisor of ``C`` below it is taken (see ``strict``). ``None`` leaves the second normalization out.
        gate: how ``rho`` becomes the weights of IN and LN. ``"sigmoid"``: ``sigmoid(rho)`` and its
            complement; ``"clip"``: ``rho`` clipped to [0, 1] and its complement; ``"softmax"``: the softmax over two
            parameters, the first for IN, the second for LN.
        gate_scope: ``"layer"``, one gate for all channels, or ``"channel"``, one each.
        eps: added to every variance.
        affine: whether to learn ``weight`` and ``bias``.
        strict: raise instead of taking another number of groups.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        rho: the gate, initially 0.5; ``(G,)``, with softmax ``(2, G)``, where ``G`` is 1 or ``C`` (``gate_scope``).
        weight: :math:`\gamma`, ``(C,)``, initially 1; ``None`` without affine.
        bias: :math:`\beta`, ``(C,)``, initially 0; ``None`` without affine.
        gate_is_dead: whether the group norm undoes the gate, with one channel per group.

    Shape:
        ``(N, C, *spatial)`` with any number of spatial axes, also ``(N, C)``; the output has the input's shape,
        dtype and memory format. Statistics of half-precision inputs are computed in float32.

    Raises:
        UserError: for an unknown gate or scope, fewer than one feature or group, a negative ``eps``, or, if ``strict``,
            channels that the groups do not divide; in ``forward``, for an input whose axis 1 is not ``num_features`` or
            that is not floating point.

    Source:
        Zhou et al., *U-Net Training with Instance-Layer Normalization*, 2019,
        doi:10.1007/978-3-030-37969-8_13. The 16 groups and ``rho = 0.5`` at the start are the paper's; the collapse
        into one affine map is ours.

    Example:
        >>> layer = InstanceLayerNorm(32)
        >>> layer(torch.randn(2, 32, 64, 64)).shape
        torch.Size([2, 32, 64, 64])
        >>> InstanceLayerNorm(16)
        InstanceLayerNorm(16, num_groups=16, gate=sigmoid (dead: one channel per group))
    """

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = 16,
        gate: str = "sigmoid",
        gate_scope: str = "layer",
        eps: float = 1e-5,
        affine: bool = True,
        strict: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise UserError(f"ILN: gate {gate!r} is unknown; choose one of {', '.join(GATES)}.")
        if gate_scope not in GATE_SCOPES:
            raise UserError(f"ILN: gate_scope {gate_scope!r} is unknown; choose one of {', '.join(GATE_SCOPES)}.")
        if num_features < 1:
            raise UserError(f"ILN: num_features is {num_features}; it must be at least 1.")
        if not isinstance(eps, (int, float)) or not eps >= 0:
            raise UserError(f"ILN: eps is {eps!r}; it must be a number, 0 or more. In YAML write 1.0e-5, not 1e-5.")
        self.num_features = num_features
        self.num_groups = _fit_groups(num_features, num_groups, strict)
        self.gate_is_dead = self.num_groups == num_features
        self.gate = gate
        self.gate_scope = gate_scope
        self.eps = eps
        gates = num_features if gate_scope == "channel" else 1
        shape = (2, gates) if gate == "softmax" else (gates,)
        self.rho = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if affine:
            self.weight = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the paper's initial values: ``rho`` 0.5, ``weight`` 1, ``bias`` 0."""
        nn.init.constant_(self.rho, 0.5)
        if self.weight is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def gate_weights(self) -> tuple[Tensor, Tensor]:
        """The weights of the instance and of the layer part, ``(1,)`` or ``(C,)`` each, summing to 1."""
        if self.gate == "softmax":
            weights = self.rho.softmax(0)
            return weights[0], weights[1]
        gate = self.rho.sigmoid() if self.gate == "sigmoid" else self.rho.clamp(0.0, 1.0)
        return gate, 1.0 - gate

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise UserError(
                f"ILN: the input has shape {list(x.shape)}; it must be (N, {self.num_features}, *spatial), because "
                f"the layer was made with num_features={self.num_features}."
            )
        if not x.is_floating_point():
            raise UserError(f"ILN: the input is of {x.dtype}; it must be floating point: convert it first.")
        # Half precision holds neither the sums nor eps; the parameters are at least as wide as the input otherwise.
        work = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        centred, mean, variance = spatial_moments(x.to(work))
        instance_weight, layer_weight = self.gate_weights()
        slope, offset = instance_layer_coefficients(
            mean, variance, instance_weight.to(work), layer_weight.to(work), self.num_groups, self.eps
        )
        if self.weight is not None:
            weight = self.weight.to(work)
            slope, offset = slope * weight, offset * weight + self.bias.to(work)
        broadcast = mean.shape + (1,) * (x.dim() - 2)
        return torch.addcmul(offset.reshape(broadcast), slope.reshape(broadcast), centred).to(x.dtype)

    def extra_repr(self) -> str:
        scope = " per channel" if self.gate_scope == "channel" else ""
        dead = " (dead: one channel per group)" if self.gate_is_dead else ""
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.num_features}, num_groups={self.num_groups}, gate={self.gate}{scope}{dead}{affine}"


def _fit_groups(num_features: int, num_groups: int | None, strict: bool) -> int | None:
    """The largest divisor of ``num_features`` not above ``num_groups``, or an error if ``strict``."""
    if num_groups is None:
        return None
    if isinstance(num_groups, bool) or not isinstance(num_groups, int) or num_groups < 1:
        raise UserError(
            f"ILN: num_groups is {num_groups!r}; it must be a whole number from 1, or None to leave the group norm out."
        )
    fitting = next(g for g in range(min(num_groups, num_features), 0, -1) if num_features % g == 0)
    if strict and fitting != num_groups:
        raise UserError(
            f"ILN: {num_features} channels cannot be divided into {num_groups} equal groups; with strict=True they "
            f"must be. Take num_groups={fitting}, which divides them, or strict=False, which does so by itself."
        )
    return fitting


ILN = InstanceLayerNorm
