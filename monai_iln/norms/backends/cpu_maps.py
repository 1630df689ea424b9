"""What both layouts of a map share, compiled: how it is cut, and what becomes of the sums over its parts.

A map is cut into *blocks* that stay in the cache: positions of one channel where those are neighbours in memory (see
:mod:`~monai_iln.norms.backends.cpu_rows`), or positions with all their channels where the layout is channels_last (see
:mod:`~monai_iln.norms.backends.cpu_interleaved`). Sums over a block have the dtype of the map, and all that is computed
of them is float64.
"""

from __future__ import annotations

import math

import numba

from monai_iln.norms.backends.cpu_coefficients import compiled, fill, options

# Sums may be reordered, so that they can be vectorized. NaN and infinity keep their meaning.
vectorized = numba.njit(fastmath={"reassoc", "contract", "nsz"}, **options)

SMALL = 2.0**-96  # where squares overflow, they are computed once more of numbers scaled by it: those of a block do not
HUGE = 1e20  # of a variance: the gradient in it would be too small for float32, beside numbers scaled by 1


@compiled
def share(a, thread, threads):
    """The first block of a thread, and the first that is no longer its own."""
    blocks = a.samples * a.channels // a.width * a.cuts
    return blocks * thread // threads, blocks * (thread + 1) // threads


@compiled
def find_block(block, a):
    """Where a block starts and stops in the map, which part of its positions it is, and its first entry in a table."""
    row, k = block // a.cuts, block % a.cuts
    first = k * a.positions
    start = (row * a.size + first) * a.width
    return start, start + min(a.positions, a.size - first) * a.width, k, row * a.width


@compiled
def merge_moments(partial, mean, variance, a):
    """Mean and biased variance of each (sample, channel) from those of its blocks."""
    fill(mean, 0.0)
    fill(variance, 0.0)
    for k in range(a.cuts):
        share = min(a.positions, a.size - k * a.positions) / a.size
        for i in range(mean.size):
            mean[i] += share * partial[0, k, i]
    for k in range(a.cuts):
        share = min(a.positions, a.size - k * a.positions) / a.size
        for i in range(mean.size):
            variance[i] += partial[1, k, i] / a.size + share * (partial[0, k, i] - mean[i]) ** 2


@compiled
def merge_sums(partial, mean, rounded, grad_slope, grad_offset, a):
    """The gradients in slope and offset from the sums over blocks."""
    fill(grad_slope, 0.0)
    fill(grad_offset, 0.0)
    for k in range(a.cuts):
        for i in range(mean.size):
            grad_offset[i] += partial[0, k, i]
            grad_slope[i] += partial[1, k, i]
    for i in range(mean.size):
        centre, scale = rounded[0, i], rounded[4, i]
        grad_slope[i] = (grad_slope[i] - grad_offset[i] * (scale * mean[i] - centre)) / scale


@compiled
def round_mean(mean, rounded):
    """Round the mean to the dtype of the map."""
    for i in range(mean.size):
        rounded[0, i] = mean[i]


@compiled
def round_forward(mean, slope, offset, rounded):
    """Round the coefficients to the dtype of the map. What the mean loses, the offset gets."""
    round_mean(mean, rounded)
    for i in range(mean.size):
        rounded[1, i] = slope[i]
        rounded[2, i] = offset[i] - slope[i] * (mean[i] - rounded[0, i])


@compiled
def round_scaled_mean(mean, variance, rounded):
    """Choose the factor that a channel is multiplied by before its mean is subtracted, and round that mean."""
    for i in range(mean.size):
        rounded[4, i] = 1.0
        if variance[i] > HUGE:  # a power of two, near one over the standard deviation
            rounded[4, i] = math.ldexp(1.0, -math.frexp(math.sqrt(variance[i]))[1])
        rounded[0, i] = rounded[4, i] * mean[i]


@compiled
def round_backward(mean, sum_grad, slope, grad_mean, grad_variance, rounded, a):
    """The same for the coefficients of the gradient."""
    for i in range(mean.size):
        if a.size == 1:  # nothing varies, however large the slope
            slope[i] = 0.0
        centre, scale = rounded[0, i], rounded[4, i]
        tilt = 2.0 * grad_variance[i] / a.size / scale
        rounded[1, i] = slope[i]
        rounded[2, i] = tilt
        rounded[3, i] = (grad_mean[i] - slope[i] * sum_grad[i]) / a.size - tilt * (scale * mean[i] - centre)
