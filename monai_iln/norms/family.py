"""Named relatives of ILN, each a :class:`~monai_iln.norms.layers.MixtureNorm` with its published settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_iln.norms.layers import MixtureNorm
from monai_iln.norms.moments import batch_moments


class SpatialLayerNorm(MixtureNorm):
    r"""Layer normalization for convolutional networks: over channels and space of one sample.

    .. math::
        y = \gamma_c \frac{x - \mathrm{mean}_{c,s}\,x}{\sqrt{\mathrm{var}_{c,s}\,x + \epsilon}} + \beta_c

    MONAI's ``"LAYER"`` is :class:`torch.nn.LayerNorm`, which normalizes the last axis and cannot follow a convolution;
    this one is the LN of the normalization papers, with an affine per channel.

    Args:
        num_features: The channels ``C`` of the input.
        eps: The number added to the biased variance.
        affine: Learns ``weight`` and ``bias``.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Shape:
        ``(N, C, *spatial)``, also ``(N, C)``; the output is like the input.

    Raises:
        UserError: As :class:`~monai_iln.norms.layers.MixtureNorm`.

    Source:
        Ba et al., *Layer Normalization*, 2016, arXiv:1607.06450, as read by Wu & He, *Group Normalization*, 2018,
        arXiv:1803.08494.

    Example:
        >>> SpatialLayerNorm(8)(torch.randn(2, 8, 16, 16)).mean((1, 2, 3)).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, ("layer",), eps=eps, affine=affine, device=device, dtype=dtype)


class BatchInstanceNorm(MixtureNorm):
    r"""Batch-instance normalization (BIN): batch norm where style matters, instance norm where it does not.

    .. math::
        y = \gamma_c \bigl(\rho_c\,\mathrm{BN}(x) + (1 - \rho_c)\,\mathrm{IN}(x)\bigr) + \beta_c,
        \qquad \rho_c \in [0, 1]

    One gate per channel, initially 1 (batch norm), moved back into [0, 1] after each step that left it. Its authors
    train the gates with ten times the learning rate and without weight decay: see
    :func:`~monai_iln.norms.gates.parameter_groups`.

    Args:
        num_features: The channels ``C`` of the input.
        eps: The number added to both biased variances.
        momentum: The weight of the new batch in the running statistics, which evaluation uses; ``None`` takes the mean
            of all batches.
        affine: Learns ``weight`` and ``bias``.
        sync: Pools the statistics of the batch over all ranks of ``torch.distributed``, as ``SyncBatchNorm`` does.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Shape:
        ``(N, C, *spatial)``, also ``(N, C)``; the output is like the input.

    Raises:
        UserError: As :class:`~monai_iln.norms.layers.MixtureNorm`.

    Source:
        Nam & Kim, *Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks*, 2018,
        arXiv:1805.07925.

    Example:
        >>> layer = BatchInstanceNorm(8)
        >>> layer(torch.randn(2, 8, 16, 16)).shape, layer.rho.shape
        (torch.Size([2, 8, 16, 16]), torch.Size([8]))
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        sync: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            ("batch", "instance"),
            gate="projected",
            gate_scope="channel",
            initial_gate=1.0,
            eps=eps,
            momentum=momentum,
            affine=affine,
            sync=sync,
            device=device,
            dtype=dtype,
        )


class UGATITInstanceLayerNorm(MixtureNorm):
    r"""The instance-layer normalization of U-GAT-IT: no group norm, a gate per channel, unbiased variances.

    .. math::
        y = \gamma_c \bigl(\rho_c\,\mathrm{IN}(x) + (1 - \rho_c)\,\mathrm{LN}(x)\bigr) + \beta_c,
        \qquad \rho_c \in [0, 1]

    The gates start from 0 (layer norm) and are moved back into [0, 1] after each step that left it.

    Args:
        num_features: The channels ``C`` of the input.
        eps: The number added to both variances, which are unbiased as in the authors' PyTorch code.
        affine: Learns ``weight`` and ``bias``.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Shape:
        ``(N, C, *spatial)``, also ``(N, C)``; the output is like the input.

    Raises:
        UserError: As :class:`~monai_iln.norms.layers.MixtureNorm`.

    Source:
        Kim et al., *U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance Normalization
        for Image-to-Image Translation*, 2020, arXiv:1907.10830.

    Example:
        >>> layer = UGATITInstanceLayerNorm(8)
        >>> layer(torch.randn(2, 8, 16, 16)).shape, layer.rho.sum().item()
        (torch.Size([2, 8, 16, 16]), 0.0)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            ("instance", "layer"),
            gate="projected",
            gate_scope="channel",
            initial_gate=0.0,
            unbiased=True,
            eps=eps,
            affine=affine,
            device=device,
            dtype=dtype,
        )


class SwitchableNorm(MixtureNorm):
    r"""Switchable normalization: blends the *statistics* of instance, layer and batch norm.

    .. math::
        y = \gamma_c \frac{x - \sum_j w_j M_j}{\sqrt{\sum_j u_j V_j + \epsilon}} + \beta_c, \qquad
        w = \mathrm{softmax}(\text{mean weight}),\ u = \mathrm{softmax}(\text{var weight})

    :math:`V_\mathrm{instance}` is unbiased, and the others pool it:
    :math:`V = \mathrm{mean}(V_\mathrm{instance} + m^2) - M^2`.

    Its authors' code differs in two ways. Their running variance starts from 0, ours from 1 as torch's does: of that,
    ``(1 - momentum)^t`` is left after ``t`` batches. Their layer for ``(N, C)`` blends layer and batch norm only, with
    unbiased variances; ours is the formula above at a single position, where :math:`V_\mathrm{instance} = 0`.

    Args:
        num_features: The channels ``C`` of the input.
        components: The statistics to blend: ``"instance"``, ``"layer"``, ``"batch"`` or ``("group", {"num_groups":
            4})``; leave out ``"batch"`` for small batches, as the authors do.
        eps: The number added to the blended variance.
        momentum: The weight of the new batch in the running statistics, which evaluation uses; ``None`` takes the mean
            of all batches.
        affine: Learns ``weight`` and ``bias``.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Attributes:
        mean_weight: The weights of the means before the softmax, ``(J,)``, initially 1.
        var_weight: The same for the variances.

    Shape:
        ``(N, C, *spatial)``, also ``(N, C)``; the output is like the input.

    Raises:
        UserError: As :class:`~monai_iln.norms.layers.MixtureNorm`.

    Source:
        Luo et al., *Differentiable Learning-to-Normalize via Switchable Normalization*, 2019, arXiv:1806.10779.

    Example:
        >>> layer = SwitchableNorm(8)
        >>> layer(torch.randn(2, 8, 16, 16)).shape, layer.gate_weights().shape
        (torch.Size([2, 8, 16, 16]), torch.Size([6, 1]))
    """

    def __init__(
        self,
        num_features: int,
        components: Sequence[Any] = ("instance", "layer", "batch"),
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            components,
            unbiased=True,
            eps=eps,
            momentum=momentum,
            affine=affine,
            device=device,
            dtype=dtype,
        )
        self.blend_statistics = True

    def _init_gates(self, components: int, device: Any, dtype: Any) -> None:
        self.register_parameter("rho", None)
        self.mean_weight = nn.Parameter(torch.ones(components, device=device, dtype=dtype))
        self.var_weight = nn.Parameter(torch.ones(components, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.ones_(self.mean_weight)
        nn.init.ones_(self.var_weight)

    def _gate(self) -> Tensor | None:
        return torch.stack((self.mean_weight, self.var_weight)).unsqueeze(-1)

    def gate_weights(self) -> Tensor:
        """The weights of the means and then of the variances, ``(2 J, 1)``, each half summing to 1."""
        return super().gate_weights()

    def _track(self, mean: Tensor, variance: Tensor, size: int) -> None:
        self._move(*batch_moments(mean, variance * (size / max(size - 1, 1))))
