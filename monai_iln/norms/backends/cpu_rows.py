"""Maps whose positions are neighbours in memory, compiled: loops over blocks of one channel each."""

from __future__ import annotations

import math

import numpy as np

from monai_iln.norms.backends.cpu_coefficients import compiled
from monai_iln.norms.backends.cpu_maps import SMALL, find_block, share, vectorized


@compiled
def row_moments(x, partial, a, thread, threads):
    """Mean and squared deviations of each block.

    They come from the deviations from the mean of the block before, so that a block is read once. Only the first of a
    row is read twice. The means of neighbours lie at most twice as far apart as they deviate from that of the row: what
    is rounded is at most five times as large as with two passes over all.
    """
    first, last = share(a, thread, threads)
    row, near = -1, 0.0
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        if i != row:
            near, _ = moments(x[start:stop], 0.0, 1.0)
        mean, squares = moments(x[start:stop], near, 1.0)
        if not math.isfinite(squares):
            mean, _ = moments(x[start:stop], 0.0, SMALL)
            mean, squares = moments(x[start:stop], mean, SMALL)
        partial[0, k, i], partial[1, k, i] = mean, squares
        row, near = i, mean


@vectorized
def moments(x, near, scale):
    """Mean and squared deviations of ``x``, by its deviations from a number near the mean, multiplied by ``scale``."""
    factor, centre, zero = x.dtype.type(scale), x.dtype.type(scale * near), x.dtype.type(0)
    total, squares = zero, zero
    for i in range(x.size):
        deviation = factor * x[i] - centre
        total += deviation
        squares += deviation * deviation
    shift = total / np.float64(x.size)
    return (centre + shift) / scale, (squares - total * shift) / scale / scale


@vectorized
def row_apply(x, y, rounded, a, thread, threads):
    """``y = A (x - m) + B``."""
    first, last = share(a, thread, threads)
    for block in range(first, last):
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
    """``dx = A dy + dm / S + 2 dv (x - m) / S``."""
    first, last = share(a, thread, threads)
    for block in range(first, last):
        start, stop, _, i = find_block(block, a)
        x_block, grad_block, result = x[start:stop], grad[start:stop], grad_x[start:stop]
        centre, slope, tilt, shift, scale = rounded[0, i], rounded[1, i], rounded[2, i], rounded[3, i], rounded[4, i]
        for p in range(x_block.size):
            result[p] = slope * grad_block[p] + tilt * (scale * x_block[p] - centre) + shift
