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
    """Mean and squared deviations of each channel in each block, as in :mod:`~monai_iln.norms.backends.cpu_rows`."""
    near, wanted = scratch[0], scratch[3]
    first, last = share(a, thread, threads)
    sample = -1
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        means, squares = partial[0, k, i : i + a.channels], partial[1, k, i : i + a.channels]
        if i != sample:
            fill(near, 0)
            fill(wanted, 1)
            moments(x[start:stop], 1.0, scratch, means, squares)
        sample = i
        if not moments(x[start:stop], 1.0, scratch, means, squares):
            for c in range(a.channels):  # scaled, the squares of the others would be too small to have all digits
                wanted[c] = not math.isfinite(squares[c])
            fill(near, 0)
            for _ in range(2):  # the first time for the means
                moments(x[start:stop], SMALL, scratch, means, squares)
            sample = -1


@vectorized
def moments(x, scale, scratch, means, squares):
    """Write mean and squared deviations of each wanted channel; return whether all are finite.

    The sums are those of the deviations from ``near``, multiplied by ``scale``. Afterwards ``near`` has the means.
    """
    near, total, square, wanted = scratch[0], scratch[1], scratch[2], scratch[3]
    factor, channels = x.dtype.type(scale), means.size
    fill(total, 0)
    fill(square, 0)
    for p in range(0, x.size, near.size):
        row = x[p : p + near.size]
        for c in range(row.size):
            deviation = factor * row[c] - near[c]
            total[c] += deviation
            square[c] += deviation * deviation
    fold(total, channels)
    fold(square, channels)
    all_squares = 0.0
    for c in range(channels):
        shift = total[c] / np.float64(x.size // channels)
        if wanted[c] != 0:
            means[c] = (near[c] + shift) / scale
            squares[c] = (square[c] - total[c] * shift) / scale / scale
        all_squares += squares[c]
        near[c] += shift
    repeat(near, channels)
    return math.isfinite(all_squares)


@vectorized
def interleaved_apply(x, y, rounded, scratch, a, thread, threads):
    """``y = A (x - m) + B``."""
    centres, slopes, offsets = scratch[0], scratch[1], scratch[2]
    current = -1
    first, last = share(a, thread, threads)
    for block in range(first, last):
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
    """``dx = A dy + dm / S + 2 dv (x - m) / S``."""
    centres, slopes, tilts, shifts, scales = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    current = -1
    first, last = share(a, thread, threads)
    for block in range(first, last):
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
