"""Triton kernels of the operator. They are launched by :mod:`monai_iln.norms.backends.cuda`.

``x`` is read as (sample, channel, position), contiguous or with the channels last. Tables of (sample, channel) are
float64; ``x`` itself is computed with in float32, or in float64 if it is that (``ACC``). Nothing is added atomically:
results are deterministic. Coefficients are in :mod:`monai_iln.norms.backends.cuda_coefficients`.

The kernels hand tables on in one piece of memory, ``scratch``: two tables of each chunk of positions, and behind them
the coefficients.
"""

import triton
import triton.language as tl

SMALL = tl.constexpr(2.0**-96)  # where squares overflow, they and their sums are computed of numbers scaled by it
HUGE = tl.constexpr(1e20)  # of a variance: the gradient in it would be too small for float32


@triton.jit
def _tile(c, start, C, S, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr):
    """Where a tile of sample ``program_id(0)`` begins, and from there its values. Only the first needs 64 bits."""
    row, position = tl.arange(0, BLOCK_C)[:, None], tl.arange(0, BLOCK_S)[None, :]
    sample = tl.program_id(0).to(tl.int64) * C * S
    if LAST:
        begin = sample + tl.cast(start, tl.int64) * C + c
        offset = position * C + row
    else:
        begin = sample + tl.cast(c, tl.int64) * S + start
        offset = row * S + position
    return begin, offset


@triton.jit
def _chunk(S, BLOCK_S: tl.constexpr):
    """The positions of a program: ``program_id(2)`` is its number."""
    length = chunk_length(S, tl.num_programs(2), BLOCK_S)
    begin = tl.program_id(2) * length
    return begin, tl.minimum(begin + length, S)


@triton.jit
def chunk_length(S, splits, BLOCK_S: tl.constexpr):
    """The positions of all chunks but the last, which may have fewer."""
    return tl.cdiv(tl.cdiv(S, splits), BLOCK_S) * BLOCK_S


@triton.jit
def coefficients_in(scratch, splits, N, C):
    """Where the coefficients begin, one table behind the other."""
    return scratch + 2 * splits * N * C


@triton.jit
def _centred(value, mean, ACC: tl.constexpr):
    """``value - mean`` for a float64 mean: what its rounding cut off is subtracted, too."""
    rounded = mean.to(ACC)
    rest = (mean - rounded.to(tl.float64)).to(ACC)
    return (value.to(ACC) - rounded) - rest


@triton.jit
def _moments_of_chunk(
    x, scratch, N, C, S, SCALE: tl.constexpr,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """:func:`moments`, computed of ``SCALE * x``; whether a sum of squares is not finite."""
    c = tl.program_id(1) * BLOCK_C
    channel, s = c + tl.arange(0, BLOCK_C)[:, None], tl.arange(0, BLOCK_S)[None, :]
    begin, end = _chunk(S, BLOCK_S)
    # Relative to the first value, which is near the mean: then the mean is small, and little of it is rounded off.
    origin, offset = _tile(c, 0, C, S, BLOCK_C, BLOCK_S, LAST)
    first = tl.load(x + origin + tl.where(s == 0, offset, 0), mask=(channel < C) & (s == 0), other=0.0)
    first = tl.sum(first.to(ACC) * SCALE, 1, keep_dims=True)
    mean, squares = tl.zeros((BLOCK_C, BLOCK_S), ACC), tl.zeros((BLOCK_C, BLOCK_S), ACC)
    number = tl.zeros((1, 1), ACC)
    for start in range(begin, end, BLOCK_S):  # Welford's method, for each place of the tile by itself
        origin, offset = _tile(c, start, C, S, BLOCK_C, BLOCK_S, LAST)
        inside = (channel < C) & (start + s < end)
        value = tl.load(x + origin + offset, mask=inside, other=0.0).to(ACC) * SCALE - first
        number += 1.0
        shift = tl.where(inside, value - mean, 0.0)
        mean += shift * (1.0 / number)
        squares += shift * tl.where(inside, value - mean, 0.0)
    # The places have as many values as there are tiles, those beyond the end of the last tile one less.
    count = ((end - begin - s + BLOCK_S - 1) // BLOCK_S).to(ACC)
    pooled = tl.sum(mean * count, 1, keep_dims=True) / (end - begin)
    shift = mean - pooled
    squares = tl.sum(squares + tl.where(count > 0.0, shift * shift * count, 0.0), 1, keep_dims=True)
    row = (tl.program_id(2) * N + tl.program_id(0)) * C + channel
    sums = scratch + tl.num_programs(2) * N * C + row
    inside = channel < C
    if SCALE != 1.0:  # of the channels that need it
        inside = inside & ~(tl.load(sums, mask=inside, other=0.0) < float("inf"))
    tl.store(scratch + row, (first.to(tl.float64) + pooled.to(tl.float64)) / SCALE, mask=inside)
    tl.store(sums, squares.to(tl.float64) / (SCALE * SCALE), mask=inside)
    return tl.max(tl.where(squares < float("inf"), 0, 1))


@triton.jit(noinline=True)
def _moments_of_huge(
    x, scratch, N, C, S, ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """A function that is called, so that it takes no registers where it is not."""
    _moments_of_chunk(x, scratch, N, C, S, SMALL, ACC, BLOCK_C, BLOCK_S, LAST)


@triton.jit
def moments(
    x, scratch, N, C, S, ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Mean of each (sample, channel) over one chunk of positions, and the sum of squares about it."""
    if _moments_of_chunk(x, scratch, N, C, S, 1.0, ACC, BLOCK_C, BLOCK_S, LAST) > 0:
        tl.debug_barrier()  # other threads have written what this one reads
        _moments_of_huge(x, scratch, N, C, S, ACC, BLOCK_C, BLOCK_S, LAST)


@triton.jit
def apply(
    x, y, moments, scratch, N, C, S,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """``y = slope * (x - mean) + offset``."""
    table = coefficients_in(scratch, tl.num_programs(2), N, C)
    c = tl.program_id(1) * BLOCK_C
    channel, s = c + tl.arange(0, BLOCK_C)[:, None], tl.arange(0, BLOCK_S)[None, :]
    row = tl.program_id(0) * C + channel
    m = tl.load(moments + row, mask=channel < C, other=0.0)
    slope = tl.load(table + row, mask=channel < C, other=0.0).to(ACC)
    shift = tl.load(table + N * C + row, mask=channel < C, other=0.0).to(ACC)
    begin, end = _chunk(S, BLOCK_S)
    for start in range(begin, end, BLOCK_S):
        origin, offset = _tile(c, start, C, S, BLOCK_C, BLOCK_S, LAST)
        inside = (channel < C) & (start + s < end)
        centred = _centred(tl.load(x + origin + offset, mask=inside, other=0.0), m, ACC)
        tl.store(y + origin + offset, (slope * centred + shift).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _scale(moments, row, inside, N, C, ACC: tl.constexpr):
    """The factor of each channel's deviations from the mean in the backward pass: 1, but for huge numbers."""
    v = tl.load(moments + N * C + row, mask=inside, other=0.0)
    return (1.0 / tl.sqrt(tl.where(v > HUGE, v, 1.0))).to(ACC)


@triton.jit
def sums(
    grad, x, moments, scratch, N, C, S,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Sums of ``grad`` and of ``grad * (x - mean)`` over one chunk of positions."""
    c = tl.program_id(1) * BLOCK_C
    channel, s = c + tl.arange(0, BLOCK_C)[:, None], tl.arange(0, BLOCK_S)[None, :]
    row = tl.program_id(0) * C + channel
    m = tl.load(moments + row, mask=channel < C, other=0.0)
    scale = _scale(moments, row, channel < C, N, C, ACC)
    total, dot = tl.zeros((BLOCK_C, BLOCK_S), ACC), tl.zeros((BLOCK_C, BLOCK_S), ACC)
    begin, end = _chunk(S, BLOCK_S)
    for start in range(begin, end, BLOCK_S):
        origin, offset = _tile(c, start, C, S, BLOCK_C, BLOCK_S, LAST)
        inside = (channel < C) & (start + s < end)
        centred = _centred(tl.load(x + origin + offset, mask=inside, other=0.0), m, ACC)
        value = tl.load(grad + origin + offset, mask=inside, other=0.0).to(ACC)
        total += value
        dot += tl.where(inside, value * (scale * centred), 0.0)  # a mean that is not finite stays in its sample
    row = (tl.program_id(2) * N + tl.program_id(0)) * C + channel
    tl.store(scratch + row, tl.sum(total, 1, keep_dims=True).to(tl.float64), mask=channel < C)
    dot = tl.sum(dot, 1, keep_dims=True).to(tl.float64) / scale.to(tl.float64)
    tl.store(scratch + tl.num_programs(2) * N * C + row, dot, mask=channel < C)


@triton.jit
def input_gradient(
    grad, x, grad_x, moments, scratch, N, C, S,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """``grad_x = slope * grad + per_deviation * (x - mean) + shift``."""
    table = coefficients_in(scratch, tl.num_programs(2), N, C)
    c = tl.program_id(1) * BLOCK_C
    channel, s = c + tl.arange(0, BLOCK_C)[:, None], tl.arange(0, BLOCK_S)[None, :]
    row = tl.program_id(0) * C + channel
    m = tl.load(moments + row, mask=channel < C, other=0.0)
    slope = tl.load(table + row, mask=channel < C, other=0.0).to(ACC)
    scale = _scale(moments, row, channel < C, N, C, ACC)
    per_deviation = tl.load(table + N * C + row, mask=channel < C, other=0.0) / scale.to(tl.float64)
    per_deviation = per_deviation.to(ACC)
    shift = tl.load(table + 2 * N * C + row, mask=channel < C, other=0.0).to(ACC)
    begin, end = _chunk(S, BLOCK_S)
    for start in range(begin, end, BLOCK_S):
        origin, offset = _tile(c, start, C, S, BLOCK_C, BLOCK_S, LAST)
        inside = (channel < C) & (start + s < end)
        centred = _centred(tl.load(x + origin + offset, mask=inside, other=0.0), m, ACC)
        value = tl.load(grad + origin + offset, mask=inside, other=0.0).to(ACC)
        result = slope * value + (per_deviation * (scale * centred) + shift)
        tl.store(grad_x + origin + offset, result.to(grad_x.dtype.element_ty), mask=inside)
