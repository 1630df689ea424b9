"""Maps whose channels are neighbours in memory, compiled: loops over blocks of positions with all their channels.

A block is read in *rows*: as many positions as make some hundred numbers, so that even few channels are vectorized.
What belongs to a channel stands in a row at all its places.
"""

from __future__ import annotations

import math

import numpy as np

from monai_iln.norms.backends.cpu_coefficients import compiled, fill
from monai_iln.norms.backends.cpu_maps import SMALL, find_block, share, vectorized


@compiled
def interleaved_moments(x, partial, scratch, a, thread, threads):
    """Mean and squared deviations of each channel in each block."""
    first, last = share(a, thread, threads)
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        if not moments(x[start:stop], 1.0, scratch, partial[0, k], partial[1, k], i, a.channels):
            moments(x[start:stop], SMALL, scratch, partial[0, k], partial[1, k], i, a.channels)


@vectorized
def moments(x, scale, scratch, means, squares, first, channels):
    """Write mean and squared deviations of each channel, from sums of ``scale * x``; return whether all are finite."""
    centre, rest, square = scratch[0], scratch[1], scratch[2]
    factor, count = x.dtype.type(scale), x.size // channels
    fill(centre, 0)
    fill(rest, 0)
    fill(square, 0)
    for p in range(0, x.size, centre.size):
        row = x[p : p + centre.size]
        for c in range(row.size):
            centre[c] += factor * row[c]
    fold(centre, channels)
    for c in range(channels):
        centre[c] /= x.dtype.type(count)
    repeat(centre, channels)
    for p in range(0, x.size, centre.size):
        row = x[p : p + centre.size]
        for c in range(row.size):
            deviation = factor * row[c] - centre[c]
            rest[c] += deviation
            square[c] += deviation * deviation
    fold(rest, channels)
    fold(square, channels)
    total = 0.0
    for c in range(channels):
        shift = rest[c] / np.float64(count)
        means[first + c] = (centre[c] + shift) / scale
        squares[first + c] = (square[c] - rest[c] * shift) / scale / scale
        total += squares[first + c]
    return math.isfinite(total)


@vectorized
def interleaved_apply(x, y, rounded, scratch, a, thread, threads):
    """``y = A (x - m) + B``, backwards: the last blocks of the statistics are still in the cache."""
    centres, slopes, offsets = scratch[0], scratch[1], scratch[2]
    current = -1
    first, last = share(a, thread, threads)
    for block in range(last - 1, first - 1, -1):
        start, stop, _, i = find_block(block, a)
        if i != current:
            expand(rounded, scratch, i, a)
            current = i
        for p in range(start, stop, a.row):
            x_row, y_row = x[p : min(p + a.row, stop)], y[p : min(p + a.row, stop)]
            for c in range(x_row.size):
                y_row[c] = slopes[c] * (x_row[c] - centres[c]) + offsets[c]


@vectorized
def interleaved_sums(grad, x, rounded, partial, scratch, a, thread, threads):
    """The sums of ``dy`` and ``dy (f x - f m)`` in each block, where the factor ``f`` is 1 but for huge numbers."""
    centres, sums, dots, scales = scratch[0], scratch[1], scratch[2], scratch[4]
    first, last = share(a, thread, threads)
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        for c in range(a.channels):
            centres[c], scales[c] = rounded[0, i + c], rounded[4, i + c]
        repeat(centres, a.channels)
        repeat(scales, a.channels)
        fill(sums, 0)
        fill(dots, 0)
        for p in range(start, stop, a.row):
            x_row, grad_row = x[p : min(p + a.row, stop)], grad[p : min(p + a.row, stop)]
            for c in range(x_row.size):
                sums[c] += grad_row[c]
                dots[c] += grad_row[c] * (scales[c] * x_row[c] - centres[c])
        fold(sums, a.channels)
        fold(dots, a.channels)
        for c in range(a.channels):
            partial[0, k, i + c], partial[1, k, i + c] = sums[c], dots[c]


@vectorized
def interleaved_gradient(grad, x, grad_x, rounded, scratch, a, thread, threads):
    """``dx = A dy + dm / S + 2 dv (x - m) / S``, backwards."""
    centres, slopes, tilts, shifts, scales = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    current = -1
    first, last = share(a, thread, threads)
    for block in range(last - 1, first - 1, -1):
        start, stop, _, i = find_block(block, a)
        if i != current:
            expand(rounded, scratch, i, a)
            current = i
        for p in range(start, stop, a.row):
            end = min(p + a.row, stop)
            x_row, grad_row, row = x[p:end], grad[p:end], grad_x[p:end]
            for c in range(x_row.size):
                row[c] = slopes[c] * grad_row[c] + tilts[c] * (scales[c] * x_row[c] - centres[c]) + shifts[c]


@compiled
def expand(rounded, scratch, first, a):
    """Write the coefficients of a sample to all places of a row."""
    for j in range(scratch.shape[0]):
        for c in range(a.channels):
            scratch[j, c] = rounded[j, first + c]
        repeat(scratch[j], a.channels)


@compiled
def repeat(row, channels):
    """Copy the first numbers, one for each channel, to all places of a row."""
    for start in range(channels, row.size, channels):
        for c in range(channels):
            row[start + c] = row[c]


@compiled
def fold(row, channels):
    """The inverse: add all places of a channel to the first."""
    for start in range(channels, row.size, channels):
        for c in range(channels):
            row[c] += row[start + c]
