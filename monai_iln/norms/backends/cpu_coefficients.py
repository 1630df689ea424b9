"""The mathematics of :mod:`monai_iln.norms.coefficients`, compiled: the same names and formulas, number by number.

Tables of (sample, channel) are arrays of ``N * C`` numbers in float64. What a component pools is a *pool* of a table:
``count`` numbers from ``first`` on, ``step`` apart, whose channels are ``channel_step`` apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba

# Division by zero gives infinity, as in torch, and no exception.
options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled = numba.njit(**options)

SIGMOID, CLIP, PROJECTED, SOFTMAX = range(4)
GATES = {"sigmoid": SIGMOID, "clip": CLIP, "projected": PROJECTED, "softmax": SOFTMAX}


class Terms(NamedTuple):
    """The shape of a map, and its mixture as numbers; ``running`` says whether batch norm has running statistics."""

    samples: int
    channels: int
    size: int
    num_groups: int
    blend_statistics: int
    unbiased: int
    eps: float
    gate: int
    per_channel: int
    running: int


@compiled
def gate_weights(rho, mix, components, t):
    """Write the weights of the components to the rows of ``mix``, ``(J, C)`` or ``(2 J, C)``."""
    gates = t.channels if t.per_channel else 1
    if rho.size == 0:
        fill(mix[0], 1.0)
    for g in range(min(gates, rho.size)):
        if t.gate == SOFTMAX:
            for start in range(0, mix.shape[0], components.size):
                softmax(rho, mix, start, components.size, gates, g)
        else:
            mix[0, g] = 1.0 / (1.0 + math.exp(-rho[g])) if t.gate == SIGMOID else rho[g]
            if t.gate != SIGMOID and rho[g] < 0.0:  # NaN stays NaN
                mix[0, g] = 0.0
            if t.gate != SIGMOID and rho[g] > 1.0:
                mix[0, g] = 1.0
            mix[1, g] = 1.0 - mix[0, g]
    if gates == 1:
        for j in range(mix.shape[0]):
            fill(mix[j], mix[j, 0])


@compiled
def softmax(rho, mix, start, components, gates, g):
    """The softmax of one gate over its components."""
    largest, total = -math.inf, 0.0
    for j in range(start, start + components):
        largest = max(largest, rho[j * gates + g])
    for j in range(start, start + components):
        mix[j, g] = math.exp(rho[j * gates + g] - largest)
        total += mix[j, g]
    for j in range(start, start + components):
        mix[j, g] /= total


@compiled
def gate_weights_backward(grad_mix, mix, rho, grad_rho, components, t):
    """Sum the gradients in the weights over the channels that share a gate, and lead them back to it."""
    gates = t.channels if t.per_channel else 1
    if gates == 1:
        for j in range(mix.shape[0]):
            total = 0.0
            for c in range(t.channels):
                total += grad_mix[j, c]
            grad_mix[j, 0] = total
    for g in range(min(gates, rho.size)):
        if t.gate == SOFTMAX:
            for start in range(0, mix.shape[0], components.size):
                mean = 0.0
                for j in range(start, start + components.size):
                    mean += mix[j, g] * grad_mix[j, g]
                for j in range(start, start + components.size):
                    grad_rho[j * gates + g] = mix[j, g] * (grad_mix[j, g] - mean)
        else:
            grad = grad_mix[0, g] - grad_mix[1, g]
            leads_away = (rho[g] > 1.0 and grad < 0.0) or (rho[g] < 0.0 and grad > 0.0)
            slope = 1.0
            if t.gate == SIGMOID:
                slope = mix[0, g] * mix[1, g]
            elif leads_away or (t.gate == CLIP and not 0.0 <= rho[g] <= 1.0):
                slope = 0.0
            grad_rho[g] = slope * grad


@compiled
def mixture_coefficients(mean, variance, mix, channels, components, t, slope, offset):
    """Write ``(A, B)`` to ``slope`` and ``offset``."""
    blend(mean, variance, mix, channels, components, t, slope, offset)
    weight, bias = channels[0], channels[1]
    if t.num_groups > 0:
        count = t.channels // t.num_groups
        for first in range(0, mean.size, count):
            mu, rstd = group_moments(slope, offset, variance, first, count, t.eps)
            for i in range(first, first + count):
                slope[i] *= rstd
                offset[i] = (offset[i] - mu) * rstd
    for first in range(0, mean.size, t.channels):
        for c in range(t.channels):
            slope[first + c] *= weight[c]
            offset[first + c] = offset[first + c] * weight[c] + bias[c]


@compiled
def mixture_coefficients_backward(
    grad_slope, grad_offset, mean, variance, mix, channels, components, t,
    slope, offset, full_slope, grad_mean, grad_variance, grad_mix, grad_weight,
):  # fmt: skip
    """Write ``A`` to ``full_slope``, and the gradients; those in slope and offset are overwritten."""
    blend(mean, variance, mix, channels, components, t, slope, offset)
    weight = channels[0]
    fill(grad_mean, 0.0)
    fill(grad_variance, 0.0)
    fill(grad_weight, 0.0)
    for j in range(grad_mix.shape[0]):
        fill(grad_mix[j], 0.0)
    for first in range(0, mean.size, t.channels):
        if t.num_groups > 0:
            count = t.channels // t.num_groups
            for channel in range(0, t.channels, count):
                group_backward(
                    grad_slope, grad_offset, variance, weight, slope, offset, full_slope, grad_variance, grad_weight,
                    first + channel, channel, count, t.eps,
                )  # fmt: skip
        else:
            for c in range(t.channels):
                i = first + c
                grad_weight[c] += grad_slope[i] * slope[i] + grad_offset[i] * offset[i]
                full_slope[i] = slope[i] * weight[c]
                grad_slope[i] *= weight[c]
                grad_offset[i] *= weight[c]
    if t.blend_statistics:
        # The slope is the reciprocal root of the blended variance, the offset is slope * deviation: from here on the
        # gradients are those in the two.
        for i in range(mean.size):
            grad_slope[i] = -0.5 * slope[i] ** 2 * (grad_slope[i] * slope[i] + grad_offset[i] * offset[i])
            grad_offset[i] *= slope[i]
    for j in range(components.size):
        samples, groups, width, step, channel_step, count = pools(components[j], t)
        for n in range(samples):
            for channel in range(0, groups * width, width):
                component_backward(
                    grad_slope, grad_offset, mean, variance, mix, channels, components, t,
                    grad_mean, grad_variance, grad_mix, j, n * t.channels + channel, step, channel, channel_step, count,
                )  # fmt: skip


@compiled
def blend(mean, variance, mix, channels, components, t, slope, offset):
    """Slope and offset of the blend alone."""
    fill(slope, 0.0)
    fill(offset, 0.0)
    for j in range(components.size):
        samples, groups, width, step, channel_step, count = pools(components[j], t)
        for n in range(samples):
            for channel in range(0, groups * width, width):
                first = n * t.channels + channel
                centre, pooled = pooled_moments(mean, variance, channels, components[j], t, first, step, count)
                rstd = 1.0 / math.sqrt(pooled + t.eps)
                for k in range(count):
                    i, c = first + k * step, channel + k * channel_step
                    if t.blend_statistics:
                        slope[i] += mix[components.size + j, c] * pooled
                        offset[i] += mix[j, c] * (mean[i] - centre)
                    else:
                        slope[i] += mix[j, c] * rstd
                        offset[i] += mix[j, c] * rstd * (mean[i] - centre)
    if t.blend_statistics:
        for i in range(mean.size):
            slope[i] = 1.0 / math.sqrt(slope[i] + t.eps)
            offset[i] *= slope[i]


@compiled
def component_backward(
    grad_slope, grad_offset, mean, variance, mix, channels, components, t,
    grad_mean, grad_variance, grad_mix, j, first, step, channel, channel_step, count,
):  # fmt: skip
    """Add what one pool of a component contributes to the gradients."""
    centre, pooled = pooled_moments(mean, variance, channels, components[j], t, first, step, count)
    rstd = 1.0 / math.sqrt(pooled + t.eps)
    scale = 1.0 if t.blend_statistics else rstd
    grad_pooled, grad_centre = 0.0, 0.0
    for k in range(count):
        i, c = first + k * step, channel + k * channel_step
        deviation = mean[i] - centre
        if t.blend_statistics:
            grad_mix[j, c] += grad_offset[i] * deviation
            grad_mix[components.size + j, c] += grad_slope[i] * pooled
            grad_pooled += grad_slope[i] * mix[components.size + j, c]
        else:
            grad_normalized = grad_slope[i] + grad_offset[i] * deviation
            grad_mix[j, c] += grad_normalized * rstd
            grad_pooled -= 0.5 * rstd * rstd * rstd * mix[j, c] * grad_normalized
        grad_centre += grad_offset[i] * mix[j, c] * scale
    inner, outer = corrections(components[j], t)
    grad_centre, grad_within = grad_centre / count, grad_pooled / count * outer
    if components[j] == 0 and t.running:
        grad_centre, grad_within = 0.0, 0.0  # nothing leads from running statistics to the input
    for k in range(count):
        i, c = first + k * step, channel + k * channel_step
        grad_deviation = grad_offset[i] * mix[j, c] * scale
        grad_mean[i] += grad_deviation - grad_centre + 2.0 * (mean[i] - centre) * grad_within
        grad_variance[i] += grad_within * inner


@compiled
def group_moments(slope, offset, variance, first, count, eps):
    """The mean and the reciprocal deviation of the blend in a group."""
    mu, q = 0.0, 0.0
    for i in range(first, first + count):
        mu += offset[i]
    mu /= count
    for i in range(first, first + count):
        q += slope[i] ** 2 * variance[i] + (offset[i] - mu) ** 2
    return mu, 1.0 / math.sqrt(q / count + eps)


@compiled
def group_backward(
    grad_slope, grad_offset, variance, weight, slope, offset, full_slope, grad_variance, grad_weight,
    first, channel, count, eps,
):  # fmt: skip
    """Gradient of the group norm after the blend, in one group: afterwards the gradients are those of the blend."""
    mu, rstd = group_moments(slope, offset, variance, first, count, eps)
    grad_rstd, grad_mu = 0.0, 0.0
    for k in range(count):
        i, c = first + k, channel + k
        full_slope[i] = slope[i] * rstd * weight[c]
        dot = grad_slope[i] * slope[i] + grad_offset[i] * (offset[i] - mu)
        grad_weight[c] += dot * rstd
        grad_rstd += dot * weight[c]
        grad_slope[i] *= weight[c] * rstd
        grad_offset[i] *= weight[c] * rstd
        grad_mu += grad_offset[i]
    grad_mu, grad_within = grad_mu / count, -0.5 * rstd * rstd * rstd * grad_rstd / count
    for i in range(first, first + count):
        # What is pooled is slope^2 variance.
        grad_slope[i] += 2.0 * grad_within * slope[i] * variance[i]
        grad_variance[i] += grad_within * slope[i] ** 2
        grad_offset[i] += 2.0 * (offset[i] - mu) * grad_within - grad_mu


@compiled
def pooled_moments(mean, variance, channels, component, t, first, step, count):
    """The moments of a pool: ``M_j`` and ``V_j``."""
    if component == 0 and t.running:
        return channels[2, first], channels[3, first]
    inner, outer = corrections(component, t)
    centre, pooled = 0.0, 0.0
    for k in range(count):
        centre += mean[first + k * step]
    centre /= count
    for k in range(count):
        i = first + k * step
        pooled += variance[i] * inner + (mean[i] - centre) ** 2
    return centre, pooled / count * outer


@compiled
def corrections(component, t):
    """The factors that make variances unbiased: before they are pooled, and after."""
    if not t.unbiased:
        return 1.0, 1.0
    if t.blend_statistics:
        return t.size / max(t.size - 1, 1), 1.0
    count = t.size * (t.samples if component == 0 else t.channels // component)
    return 1.0, count / max(count - 1, 1)


@compiled
def pools(component, t):
    """How pools lie in a table: samples and groups of them, the channels in each; step, channel step and count."""
    if component == 0:  # batch norm: one for each channel, of all samples
        return 1, t.channels, 1, t.channels, 0, t.samples
    count = t.channels // component
    return t.samples, component, count, 1, 1, count


@compiled
def fill(numbers, value):
    """``numbers[:] = value``, which takes long to compile."""
    for i in range(numbers.size):
        numbers[i] = value
