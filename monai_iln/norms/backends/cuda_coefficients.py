"""Triton kernels of ``mixture_coefficients``, in float64, one program a sample."""

import triton
import triton.language as tl

from monai_iln.norms.backends.cuda_kernels import chunk_length, coefficients_in
from monai_iln.norms.backends.cuda_pools import blend, channels_of_tile, load, pool


@triton.jit
def _merge(partial, row, inside, N, C, S, splits, BLOCK_S: tl.constexpr, BLOCK_P: tl.constexpr):
    """Mean and biased variance of all positions, from the moments of the chunks."""
    length = chunk_length(S, splits, BLOCK_S)
    total = tl.zeros((inside.shape[0], inside.shape[1], BLOCK_P), tl.float64)
    for start in range(0, splits, BLOCK_P):
        split = start + tl.arange(0, BLOCK_P)[None, None, :]
        there = inside[:, :, None] & (split < splits)
        count = tl.where(split < splits, tl.minimum(length, S - split * length), 0)
        total += count * tl.load(partial + split * N * C + row[:, :, None], mask=there, other=0.0)
    mean = tl.sum(total, 2) / S
    squares = tl.zeros((inside.shape[0], inside.shape[1], BLOCK_P), tl.float64)
    for start in range(0, splits, BLOCK_P):
        split = start + tl.arange(0, BLOCK_P)[None, None, :]
        there = inside[:, :, None] & (split < splits)
        count = tl.minimum(length, S - split * length)
        index = split * N * C + row[:, :, None]
        shift = tl.load(partial + index, mask=there, other=0.0) - mean[:, :, None]
        within = tl.load(partial + splits * N * C + index, mask=there, other=0.0)
        squares += tl.where(there, within + count * shift * shift, 0.0)
    return mean, tl.sum(squares, 2) / S


@triton.jit
def merge(scratch, moments, N, C, S, splits, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr):
    """The tables of all samples, where one sample must know the others, or one group other channels."""
    c = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    row, inside = tl.program_id(0) * C + c, c < C
    m, v = _merge(scratch, row, inside, N, C, S, splits, BLOCK_S, BLOCK_P)
    tl.store(moments + row, m, mask=inside)
    tl.store(moments + N * C + row, v, mask=inside)


@triton.jit
def coefficients(
    scratch, moments, rho, weight, bias, running_mean, running_var, N, C, S, splits, gate_step,
    gate_stride, COMPONENTS: tl.constexpr, J: tl.constexpr, GROUPS: tl.constexpr, STATISTICS: tl.constexpr,
    UNBIASED: tl.constexpr, EPS: tl.constexpr, GATE: tl.constexpr, MERGED: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``mixture_coefficients`` of one sample: slopes, then offsets."""
    mean, variance = moments, moments + N * C
    table = coefficients_in(scratch, splits, N, C)
    c, inside, K = channels_of_tile(C, GROUPS, BLOCK_G, BLOCK_K)
    row = tl.program_id(0) * C + c
    if MERGED:
        m, v = load(mean, row, inside, 0.0), load(variance, row, inside, 0.0)
    else:
        m, v = _merge(scratch, row, inside, N, C, S, splits, BLOCK_S, BLOCK_P)
        tl.store(mean + row, m, mask=inside)
        tl.store(variance + row, v, mask=inside)
    slope, offset = blend(
        m, v, mean, variance, rho, c * gate_step, gate_stride, running_mean, running_var, c, inside, C, K, N, S,
        COMPONENTS, J, GROUPS, STATISTICS, UNBIASED, EPS, GATE, BLOCK_P,
    )  # fmt: skip
    if GROUPS > 0:
        offset, pooled = pool(offset, slope * slope * v, inside, K, False)
        rstd = 1.0 / tl.sqrt(pooled + EPS)
        slope, offset = slope * rstd, offset * rstd
    factor = load(weight, c, inside, 1.0)
    tl.store(table + row, slope * factor, mask=inside)
    tl.store(table + N * C + row, offset * factor + load(bias, c, inside, 0.0), mask=inside)
