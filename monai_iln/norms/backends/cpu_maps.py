"""Loops over maps, compiled: sums over blocks, their totals, and what is written.

A map is cut into *blocks* that stay in the cache: positions of one channel where those are neighbours in memory, or
positions with all their channels where the layout is channels_last (``interleaved``), which are then read in *rows* of
a few hundred numbers. Sums over a block have the dtype of the map, and all that is computed of them is float64.
"""

from __future__ import annotations

import numba
import numpy as np

from monai_iln.norms.backends.cpu_coefficients import compiled, fill, options

# Sums may be reordered, so that they can be vectorized. NaN and infinity keep their meaning.
vectorized = numba.njit(fastmath={"reassoc", "contract", "nsz"}, **options)


@compiled
def share(a, thread, threads):
    """The first block of a thread, and the first that is no longer its own."""
    rows = a.samples if a.interleaved else a.samples * a.channels
    blocks = rows * a.cuts
    return blocks * thread // threads, blocks * (thread + 1) // threads


@compiled
def find_block(block, a):
    """Where a block starts and stops in the map, which part of its positions it is, and its first entry in a table."""
    row, k = block // a.cuts, block % a.cuts
    width = a.channels if a.interleaved else 1
    first = k * a.positions
    start = (row * a.size + first) * width
    return start, start + min(a.positions, a.size - first) * width, k, row * width


@compiled
def block_moments(x, partial, scratch, a, thread, threads):
    """Mean and squared deviations of each block, in the dtype of the map, and once more in float64 on overflow."""
    first, last = share(a, thread, threads)
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        if a.interleaved:
            if not interleaved_moments(x[start:stop], scratch[0], partial[0, k], partial[1, k], i, a.channels):
                interleaved_moments(x[start:stop], scratch[1], partial[0, k], partial[1, k], i, a.channels)
        else:
            mean, squares = row_moments(x[start:stop], x.dtype.type(0))
            if not np.isfinite(squares):
                mean, squares = row_moments(x[start:stop], 0.0)
            partial[0, k, i], partial[1, k, i] = mean, squares


@vectorized
def row_moments(x, zero):
    """Mean and squared deviations of a block, by two passes over it; ``zero`` has the dtype to sum in."""
    total, rest, squares = zero, zero, zero
    for i in range(x.size):
        total += x[i]
    centre = total / x.dtype.type(x.size)
    for i in range(x.size):
        deviation = x[i] - centre
        rest += deviation
        squares += deviation * deviation
    rests = np.float64(rest)
    return centre + rests / x.size, squares - rests * (rests / x.size)


@vectorized
def interleaved_moments(x, scratch, means, squares, first, channels):
    """The same for all channels. ``scratch`` has the dtype to sum in. Returns whether all is finite."""
    centre, rest, square = scratch[0], scratch[1], scratch[2]
    count = x.size // channels
    fill(centre, 0)
    fill(rest, 0)
    fill(square, 0)
    for p in range(0, x.size, centre.size):
        row = x[p : p + centre.size]
        for c in range(row.size):
            centre[c] += row[c]
    fold(centre, channels)
    for c in range(channels):
        centre[c] /= x.dtype.type(count)
    repeat(centre, channels)
    for p in range(0, x.size, centre.size):
        row = x[p : p + centre.size]
        for c in range(row.size):
            deviation = row[c] - centre[c]
            rest[c] += deviation
            square[c] += deviation * deviation
    fold(rest, channels)
    fold(square, channels)
    total = 0.0
    for c in range(channels):
        rests = np.float64(rest[c])
        means[first + c] = centre[c] + rests / count
        squares[first + c] = square[c] - rests * (rests / count)
        total += squares[first + c]
    return np.isfinite(total)


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


@vectorized
def apply(x, y, rounded, scratch, a, thread, threads):
    """``y = A (x - m) + B``, backwards: the last blocks of the statistics are still in the cache."""
    centres, slopes, offsets = scratch[0], scratch[1], scratch[2]
    current = -1
    first, last = share(a, thread, threads)
    for block in range(last - 1, first - 1, -1):
        start, stop, _, i = find_block(block, a)
        x_block, y_block = x[start:stop], y[start:stop]
        if a.interleaved:
            if i != current:
                expand(rounded, scratch, i, a)
                current = i
            for p in range(0, x_block.size, a.row):
                x_row, y_row = x_block[p : p + a.row], y_block[p : p + a.row]
                for c in range(x_row.size):
                    y_row[c] = slopes[c] * (x_row[c] - centres[c]) + offsets[c]
        else:
            centre, slope, offset = rounded[0, i], rounded[1, i], rounded[2, i]
            for p in range(x_block.size):
                y_block[p] = slope * (x_block[p] - centre) + offset


@vectorized
def block_sums(grad, x, rounded, partial, scratch, a, thread, threads):
    """The sums of ``dy`` and ``dy (x - m)`` over each block, with the mean rounded to the dtype of the map."""
    centres, sums, dots = scratch[0], scratch[1], scratch[2]
    first, last = share(a, thread, threads)
    for block in range(first, last):
        start, stop, k, i = find_block(block, a)
        x_block, grad_block = x[start:stop], grad[start:stop]
        if a.interleaved:
            for c in range(a.channels):
                centres[c] = rounded[0, i + c]
            repeat(centres, a.channels)
            fill(sums, 0)
            fill(dots, 0)
            for p in range(0, x_block.size, a.row):
                x_row, grad_row = x_block[p : p + a.row], grad_block[p : p + a.row]
                for c in range(x_row.size):
                    sums[c] += grad_row[c]
                    dots[c] += grad_row[c] * (x_row[c] - centres[c])
            fold(sums, a.channels)
            fold(dots, a.channels)
            for c in range(a.channels):
                partial[0, k, i + c], partial[1, k, i + c] = sums[c], dots[c]
        else:
            centre = rounded[0, i]
            total, dot = x.dtype.type(0), x.dtype.type(0)
            for p in range(x_block.size):
                total += grad_block[p]
                dot += grad_block[p] * (x_block[p] - centre)
            partial[0, k, i], partial[1, k, i] = total, dot


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
        grad_slope[i] -= grad_offset[i] * (mean[i] - rounded[0, i])


@vectorized
def input_gradient(grad, x, grad_x, rounded, scratch, a, thread, threads):
    """``dx = A dy + dm / S + 2 dv (x - m) / S``, backwards."""
    centres, slopes, tilts, shifts = scratch[0], scratch[1], scratch[2], scratch[3]
    current = -1
    first, last = share(a, thread, threads)
    for block in range(last - 1, first - 1, -1):
        start, stop, _, i = find_block(block, a)
        x_block, grad_block, result = x[start:stop], grad[start:stop], grad_x[start:stop]
        if a.interleaved:
            if i != current:
                expand(rounded, scratch, i, a)
                current = i
            for p in range(0, x_block.size, a.row):
                x_row, grad_row, row = x_block[p : p + a.row], grad_block[p : p + a.row], result[p : p + a.row]
                for c in range(x_row.size):
                    row[c] = slopes[c] * grad_row[c] + tilts[c] * (x_row[c] - centres[c]) + shifts[c]
        else:
            centre, slope, tilt, shift = rounded[0, i], rounded[1, i], rounded[2, i], rounded[3, i]
            for p in range(x_block.size):
                result[p] = slope * grad_block[p] + tilt * (x_block[p] - centre) + shift


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
def round_backward(mean, sum_grad, slope, grad_mean, grad_variance, rounded, a):
    """The same for the coefficients of the gradient."""
    for i in range(mean.size):
        if a.size == 1:  # nothing varies, however large the slope
            slope[i] = 0.0
        tilt = 2.0 * grad_variance[i] / a.size
        rounded[1, i] = slope[i]
        rounded[2, i] = tilt
        rounded[3, i] = (grad_mean[i] - slope[i] * sum_grad[i]) / a.size - tilt * (mean[i] - rounded[0, i])
