"""Maps whose positions are neighbours in memory, compiled: loops over blocks of one channel each."""

from __future__ import annotations

import math

import numpy as np

from monai_iln.norms.backends.cpu_coefficients import compiled
from monai_iln.norms.backends.cpu_maps import SMALL, find_block, share, vectorized


@compiled
def row_moments(x, partial, a, thread, threads):
    """Mean and squared deviations of each block."""
    first, last = share(a, thread, threads)
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        mean, squares = moments(x[start:stop], 1.0)
        if not math.isfinite(squares):
            mean, squares = moments(x[start:stop], SMALL)
        partial[0, k, i], partial[1, k, i] = mean, squares


@vectorized
def moments(x, scale):
    """Mean and squared deviations of ``x``, by two passes over it; the sums are those of ``scale * x``."""
    factor, zero = x.dtype.type(scale), x.dtype.type(0)
    total, rest, squares = zero, zero, zero
    for i in range(x.size):
        total += factor * x[i]
    centre = total / x.dtype.type(x.size)
    for i in range(x.size):
        deviation = factor * x[i] - centre
        rest += deviation
        squares += deviation * deviation
    shift = rest / np.float64(x.size)
    return (centre + shift) / scale, (squares - rest * shift) / scale / scale


@vectorized
def row_apply(x, y, rounded, a, thread, threads):
    """``y = A (x - m) + B``, backwards: the last blocks of the statistics are still in the cache."""
    first, last = share(a, thread, threads)
    for block in range(last - 1, first - 1, -1):
        start, stop, _, i = find_block(block, a)
        x_block, y_block = x[start:stop], y[start:stop]
        centre, slope, offset = rounded[0, i], rounded[1, i], rounded[2, i]
        for p in range(x_block.size):
            y_block[p] = slope * (x_block[p] - centre) + offset


@vectorized
def row_sums(grad, x, rounded, partial, a, thread, threads):
    """The sums of ``dy`` and ``dy (f x - f m)`` in each block, where the factor ``f`` is 1 but for huge numbers."""
    first, last = share(a, thread, threads)
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        x_block, grad_block = x[start:stop], grad[start:stop]
        centre, scale, total, dot = rounded[0, i], rounded[4, i], x.dtype.type(0), x.dtype.type(0)
        for p in range(x_block.size):
            total += grad_block[p]
            dot += grad_block[p] * (scale * x_block[p] - centre)
        partial[0, k, i], partial[1, k, i] = total, dot


@vectorized
def row_gradient(grad, x, grad_x, rounded, a, thread, threads):
    """``dx = A dy + dm / S + 2 dv (x - m) / S``, backwards."""
    first, last = share(a, thread, threads)
    for block in range(last - 1, first - 1, -1):
        start, stop, _, i = find_block(block, a)
        x_block, grad_block, result = x[start:stop], grad[start:stop], grad_x[start:stop]
        centre, slope, tilt, shift, scale = rounded[0, i], rounded[1, i], rounded[2, i], rounded[3, i], rounded[4, i]
        for p in range(x_block.size):
            result[p] = slope * grad_block[p] + tilt * (scale * x_block[p] - centre) + shift
