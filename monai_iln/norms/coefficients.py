r"""The mathematics of normalization mixtures: statistics in, one affine map per (sample, channel) out.

Instance, layer, group and batch normalization are all affine in ``x`` with coefficients that depend only on the mean
``m`` and the biased variance ``v`` of each (sample, channel). So is any blend of them, and so is a group normalization
after the blend: all of it is ``y = A (x - m) + B``. This module is the definition that every faster implementation is
tested against, and the gradient of ``(A, B)`` in closed form.

A *component* is the number of groups that one normalization of the blend pools the channels into: ``num_features`` is
instance norm, 1 is layer norm, anything between is group norm. Batch norm, which pools samples instead, is
:data:`BATCH`.

What takes tables, as ``(N, C)`` numbers are called here, is written in the operators that torch and NumPy share: on CPU
NumPy computes them, because on so few numbers only the overhead of a call counts, and torch's is three times as large.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_iln.norms.projection import clip, clip_gate, leads_away

BATCH = 0


class Mixture(NamedTuple):
    """What a layer blends, and how; everything about it that is not learned.

    Attributes:
        components: The groups of each normalization, or :data:`BATCH`.
        num_groups: The groups of the normalization after the blend, a divisor of the channels; 0 leaves it out.
        blend_statistics: Blends means and variances instead of the normalized values.
        unbiased: Divides by one less than the count: in each component's variance, or, if ``blend_statistics``, in the
            variance of each channel, before pooling.
        eps: The number added to every variance.
        gate: The kind of gate, see :func:`gate_weights`.
        per_channel: Gives each channel a gate of its own.
    """

    components: list[int]
    num_groups: int
    blend_statistics: bool
    unbiased: bool
    eps: float
    gate: str
    per_channel: bool


def gate_weights(rho: Tensor | None, gate: str) -> Tensor:
    """The weights of the components.

    Args:
        rho: The gate: for ``"softmax"`` ``(J, G)``, where ``G`` is 1 or ``C``, or two such, one behind the other,
            ``(2, J, 1)``; for all others ``(G,)``; ``None`` for one component, which needs no gate.
        gate: The kind of gate: ``"softmax"`` over the components; or else the first of two has ``sigmoid(rho)``, or
            ``rho`` clipped to [0, 1], and the second its complement. ``"projected"`` is clipped, too, with a gradient
            that leads back: see :func:`~monai_iln.norms.projection.clip_gate`.

    Returns:
        ``(J, G)``, or ``(2 J, 1)``.
    """
    return torch.cat(gate_rows(rho, gate))


def gate_rows(rho: Tensor | None, gate: str) -> list[Tensor]:
    """The rows of :func:`gate_weights`, ``(1, G)`` each: a compiler would write a table that is put together."""
    if rho is None:
        return [torch.ones(1, 1, device="cpu")]  # whatever the default device is
    if gate == "softmax":
        return [row[None] for row in rho.softmax(-2).flatten(0, -2).unbind()]
    first = rho.sigmoid() if gate == "sigmoid" else clip(rho)
    if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript must not see what is within)
        if gate == "projected":
            first = clip_gate(rho)
    return [first[None], 1.0 - first[None]]


def gate_rows_backward(grads: list[Tensor], mix: list[Tensor], rho: Tensor, mixture: Mixture) -> list[Tensor]:
    """Gradient of :func:`gate_rows`: rows of the gradient in ``rho``, of those in its result."""
    if mixture.gate == "softmax":
        rows: list[Tensor] = []
        for start in range(0, len(grads), len(mixture.components)):
            half = range(start, start + len(mixture.components))
            mean = sum(mix[j] * grads[j] for j in half)
            rows += [mix[j] * (grads[j] - mean) for j in half]
        return rows
    grad = grads[0] - grads[1]
    if mixture.gate == "projected":
        return [grad * ~leads_away(rho, grad)]
    slope = mix[0] * mix[1] if mixture.gate == "sigmoid" else (rho >= 0) * (rho <= 1)
    return [slope * grad]


def mixture_coefficients(
    mean: Tensor,
    variance: Tensor,
    mix: list[Tensor],
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mixture: Mixture,
    size: int,
) -> tuple[Tensor, Tensor]:
    r"""Slope and offset of a blend of normalizations, of the group norm after it, and of the affine.

    With :math:`M_j, V_j` the moments that component :math:`j` pools and :math:`w_j` its weight,

    .. math::
        a = \sum_j \frac{w_j}{\sqrt{V_j + \epsilon}}, \qquad
        \mu = \sum_j w_j \frac{m - M_j}{\sqrt{V_j + \epsilon}}

    are the slope and the channel means of the blend (if ``blend_statistics``, :math:`a = (\sum_j u_j V_j +
    \epsilon)^{-1/2}` and :math:`\mu = a\,(m - \sum_j w_j M_j)`). A group normalization after it has the statistics
    :math:`\mu_g = \mathrm{mean}_g\,\mu` and :math:`q_g = \mathrm{mean}_g\,a^2 v + \mathrm{mean}_g (\mu - \mu_g)^2`,
    and with the affine

    .. math::
        A = \gamma \frac{a}{\sqrt{q_g + \epsilon}}, \qquad
        B = \gamma \frac{\mu - \mu_g}{\sqrt{q_g + \epsilon}} + \beta.

    Args:
        mean: The mean of each (sample, channel) over space, ``(N, C)``.
        variance: The biased variance of each (sample, channel) over space, ``(N, C)``.
        mix: The weights of each component, ``(1, 1)`` or ``(1, C)``; if ``blend_statistics`` those of the means and
            then those of the variances.
        weight: The factor :math:`\gamma`, ``(C,)``, or ``None`` for 1.
        bias: The summand :math:`\beta`, ``(C,)``, or ``None`` for 0.
        running_mean: The mean that batch norm takes instead of the batch's, ``(C,)``, or ``None``.
        running_var: The variance that batch norm takes instead of the batch's, ``(C,)``, or ``None``.
        mixture: The components and how they are blended.
        size: The number of positions behind each mean.

    Returns:
        ``(A, B)`` of shape ``(N, C)``: the layer is ``A * (x - mean) + B``.
    """
    slope, offset, _ = _blend(mean, variance, mix, running_mean, running_var, mixture, size)
    if mixture.num_groups > 0:
        deviation, rstd = _normalize_groups(slope, offset, variance, mixture)
        slope = (_split(slope, mixture.num_groups) * rstd).reshape(slope.shape)
        offset = (deviation * rstd).reshape(slope.shape)
    if weight is not None:
        slope, offset = slope * weight, offset * weight
    if bias is not None:
        offset = offset + bias
    return slope, offset


def mixture_coefficients_backward(
    grad_slope: Tensor,
    grad_offset: Tensor,
    mean: Tensor,
    variance: Tensor,
    mix: list[Tensor],
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mixture: Mixture,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    """Gradient of :func:`mixture_coefficients` in closed form.

    Returns:
        The slope ``A`` once more; the gradients in ``mean`` and ``variance``; that in each row of ``mix``; and that in
        ``weight``. All are ``(N, C)``: the last two are still to be summed to the shape of what they belong to. The
        gradient in ``bias`` is ``grad_offset``.
    """
    slope, offset, parts = _blend(mean, variance, mix, running_mean, running_var, mixture, size)
    full_slope, shape, groups = slope, slope.shape, mixture.num_groups
    grad_variance = 0.0 * variance
    if groups > 0:
        deviation, rstd = _normalize_groups(slope, offset, variance, mixture)
        full_slope = (_split(slope, groups) * rstd).reshape(shape)
        grad_weight = grad_slope * full_slope + grad_offset * (deviation * rstd).reshape(shape)
    else:
        grad_weight = grad_slope * slope + grad_offset * offset
    if weight is not None:
        full_slope, grad_slope, grad_offset = full_slope * weight, grad_slope * weight, grad_offset * weight
    if groups > 0:
        grad_slope, grad_offset = _split(grad_slope, groups), _split(grad_offset, groups)
        grad_rstd = grad_slope * _split(slope, groups) + grad_offset * deviation
        grad_offset, grad_within = _pool_backward(grad_offset * rstd, -0.5 * rstd**3 * grad_rstd, deviation)
        # What is pooled is slope^2 variance.
        grad_slope = (grad_slope * rstd + 2.0 * grad_within * _split(slope * variance, groups)).reshape(shape)
        grad_variance = (grad_within * _split(slope * slope, groups)).reshape(shape)
        grad_offset = grad_offset.reshape(shape)
    if mixture.blend_statistics:  # slope is the reciprocal root of the blended variance, offset is slope * deviation
        grad_blended_variance = -0.5 * slope**2 * (grad_slope * slope + grad_offset * offset)
        grad_blended_deviation = grad_offset * slope

    grad_mean = 0.0 * mean
    grad_mix: list[Tensor] = []
    grad_mix_variance: list[Tensor] = []
    for j, (component, (deviation, pooled_variance)) in enumerate(zip(mixture.components, parts, strict=True)):
        weights = _weights(mix, j, component, mixture)
        if mixture.blend_statistics:
            variance_weights = _weights(mix, len(parts) + j, component, mixture)
            grad_pooled = _split(grad_blended_variance, component)
            grad_deviation = _split(grad_blended_deviation, component)
            grad_mix.append(_join(grad_deviation * deviation, component))
            grad_mix_variance.append(_join(grad_pooled * pooled_variance, component))
            grad_pooled, grad_deviation = grad_pooled * variance_weights, grad_deviation * weights
        else:
            rstd = _rstd(pooled_variance, mixture.eps)
            grad_shift = _split(grad_offset, component)
            grad_normalized = _split(grad_slope, component) + grad_shift * deviation
            grad_mix.append(_join(grad_normalized * rstd, component))
            grad_pooled = -0.5 * rstd**3 * weights * grad_normalized
            grad_deviation = grad_shift * (weights * rstd)
        if _is_batch(component) and running_mean is not None:
            grad_mean = grad_mean + _join(grad_deviation, component)
            continue
        correction = correction_factor(component, mean, mixture, size)
        if not mixture.blend_statistics:
            grad_pooled = grad_pooled * correction
        grad_part, grad_within = _pool_backward(grad_deviation, grad_pooled, deviation)
        if mixture.blend_statistics:
            grad_within = grad_within * correction
        grad_mean = _join(_split(grad_mean, component) + grad_part, component)
        grad_variance = _join(_split(grad_variance, component) + grad_within, component)
    return full_slope, grad_mean, grad_variance, grad_mix + grad_mix_variance, grad_weight


def _blend(
    mean: Tensor,
    variance: Tensor,
    mix: list[Tensor],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mixture: Mixture,
    size: int,
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Slope and offset of the blend alone, and of each component ``m - M_j`` and ``V_j``, split."""
    first, second = 0.0 * variance, 0.0 * variance
    parts: list[tuple[Tensor, Tensor]] = []
    for j, component in enumerate(mixture.components):
        means, variances = _split(mean, component), _split(variance, component)
        if _is_batch(component) and running_mean is not None and running_var is not None:
            deviation, pooled_variance = means - running_mean[:, None], running_var[:, None]
        else:
            correction = correction_factor(component, mean, mixture, size)
            if mixture.blend_statistics:
                deviation, pooled_variance = _pool(means, variances * correction)
            else:
                deviation, pooled_variance = _pool(means, variances)
                pooled_variance = pooled_variance * correction
        weights = _weights(mix, j, component, mixture)
        if mixture.blend_statistics:
            to_first = pooled_variance * _weights(mix, len(mixture.components) + j, component, mixture)
            to_second = deviation * weights
        else:
            to_first = weights * _rstd(pooled_variance, mixture.eps)
            to_second = deviation * to_first
        # Sums of the split tables: they repeat what is pooled without copying it.
        first = _join(_split(first, component) + to_first, component)
        second = _join(_split(second, component) + to_second, component)
        parts.append((deviation, pooled_variance))
    if mixture.blend_statistics:
        first = _rstd(first, mixture.eps)
        second = second * first
    return first, second, parts


def _normalize_groups(slope: Tensor, offset: Tensor, variance: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Deviation of the blend's channel means from their group's, and the group's reciprocal deviation, both split."""
    groups = mixture.num_groups
    deviation, pooled_variance = _pool(_split(offset, groups), _split(slope * slope * variance, groups))
    return deviation, _rstd(pooled_variance, mixture.eps)


def correction_factor(component: int, mean: Tensor, mixture: Mixture, size: int) -> float:
    """The factor that makes a component's variance unbiased; of ``mean`` only the shape counts."""
    if not mixture.unbiased:
        return 1.0
    count = size
    if not mixture.blend_statistics:
        count *= mean.shape[0] if _is_batch(component) else mean.shape[1] // component
    return count / max(count - 1, 1)


def _pool(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """``m - M`` and ``V`` of equally large parts on the last axis, pooled; the axis is kept."""
    deviation = means - _mean(means)
    return deviation, _mean(variances + deviation * deviation)


def _pool_backward(grad_deviation: Tensor, grad_pooled: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of :func:`_pool` in ``means`` and ``variances``; ``grad_pooled`` may still have to be pooled itself."""
    grad_variances = _mean(grad_pooled)
    return grad_deviation - _mean(grad_deviation) + 2.0 * deviation * grad_variances, grad_variances


def _mean(table: Tensor) -> Tensor:
    return table.sum(-1)[..., None] / table.shape[-1]


def _rstd(variance: Tensor, eps: float) -> Tensor:
    return 1.0 / (variance + eps) ** 0.5


def _is_batch(component: int) -> bool:
    return component == 0  # TorchScript does not know BATCH


def _split(table: Tensor, component: int) -> Tensor:
    """A table with what the component pools on an axis of its own, the last."""
    if _is_batch(component):
        return table.transpose(1, 0)
    return table.reshape(table.shape[0], component, table.shape[1] // component)


def _join(table: Tensor, component: int) -> Tensor:
    """The inverse of :func:`_split`."""
    if _is_batch(component):
        return table.transpose(1, 0)
    return table.reshape(table.shape[0], table.shape[1] * table.shape[2])


def _weights(mix: list[Tensor], j: int, component: int, mixture: Mixture) -> Tensor:
    """The weights of a component, split if they are one for each channel."""
    return _split(mix[j], component) if mixture.per_channel else mix[j]
