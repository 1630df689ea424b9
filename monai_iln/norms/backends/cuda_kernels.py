"""Triton kernels of the operator. They are launched by :mod:`monai_iln.norms.backends.cuda`.

``x`` is read as (sample, channel, position) with any strides that contiguous and channels-last tensors have. Tables of
(sample, channel) are float64; ``x`` itself is computed with in float32, or in float64 if it is that (``ACC``). Nothing
is added atomically: results are deterministic.
"""

import triton
import triton.language as tl


@triton.jit
def _tile(pointer, n, c, s, C, end, stride_n, stride_c, stride_s):
    """Addresses and mask of the tile of channels ``c`` and positions ``s``; 64 bits, for maps of over 2^31 values."""
    offset = n.to(tl.int64) * stride_n + c.to(tl.int64)[:, None] * stride_c + s.to(tl.int64)[None, :] * stride_s
    return pointer + offset, (c < C)[:, None] & (s < end)[None, :]


@triton.jit
def _centred(value, mean, ACC: tl.constexpr):
    """``value - mean`` for a float64 mean: what its rounding cut off is subtracted, too."""
    rounded = mean.to(ACC)
    rest = (mean - rounded.to(tl.float64)).to(ACC)
    return (value.to(ACC) - rounded[:, None]) - rest[:, None]


@triton.jit
def statistics(
    x, mean_out, variance_out, N, C, S, stride_n, stride_c, stride_s, chunk,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Mean and biased variance of each (sample, channel) over one chunk of positions, by Chan's merging of blocks."""
    n, split = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    begin, end = split * chunk, tl.minimum((split + 1) * chunk, S)
    # Relative to the first value, which is near the mean: then the mean is small, and little of it is rounded off.
    pointer, exists = _tile(x, n, c, tl.zeros((1,), tl.int32), C, S, stride_n, stride_c, stride_s)
    first = tl.load(pointer, mask=exists, other=0.0).to(ACC)
    mean, squares, count = tl.zeros((BLOCK_C,), ACC), tl.zeros((BLOCK_C,), ACC), 0
    for start in range(begin, end, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        pointers, inside = _tile(x, n, c, s, C, end, stride_n, stride_c, stride_s)
        value = tl.where(inside, tl.load(pointers, mask=inside, other=0.0).to(ACC) - first, 0.0)
        added = tl.minimum(BLOCK_S, end - start)
        block_mean = tl.sum(value, 1) / added
        deviation = tl.where(inside, value - block_mean[:, None], 0.0)
        shift = block_mean - mean
        share = added / (count + added).to(ACC)
        mean += shift * share
        squares += tl.sum(deviation * deviation, 1) + shift * shift * (count * share)
        count += added
    row = (split * N + n) * C + c
    tl.store(mean_out + row, tl.sum(first, 1).to(tl.float64) + mean.to(tl.float64), mask=c < C)
    tl.store(variance_out + row, squares.to(tl.float64) / tl.maximum(count, 1), mask=c < C)


@triton.jit
def merge(means, variances, mean_out, variance_out, NC, S, chunk, splits, BLOCK: tl.constexpr):
    """Statistics of all positions from those of the chunks."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < NC
    mean, squares, count = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64), 0
    for split in range(splits):
        added = tl.minimum(chunk, S - split * chunk)
        shift = tl.load(means + split * NC + row, mask=inside, other=0.0) - mean
        share = added / (count + added).to(tl.float64)
        mean += shift * share
        squares += added * tl.load(variances + split * NC + row, mask=inside, other=0.0) + shift * shift * (
            count * share
        )
        count += added
    tl.store(mean_out + row, mean, mask=inside)
    tl.store(variance_out + row, squares / count, mask=inside)


@triton.jit
def apply(
    x, y, mean, slope, offset, C, S, stride_n, stride_c, stride_s, chunk,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """``y = slope * (x - mean) + offset``."""
    n, split = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.load(mean + n * C + c, mask=c < C, other=0.0)
    a = tl.load(slope + n * C + c, mask=c < C, other=0.0).to(ACC)
    b = tl.load(offset + n * C + c, mask=c < C, other=0.0).to(ACC)
    end = tl.minimum((split + 1) * chunk, S)
    for start in range(split * chunk, end, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        pointers, inside = _tile(x, n, c, s, C, end, stride_n, stride_c, stride_s)
        centred = _centred(tl.load(pointers, mask=inside, other=0.0), m, ACC)
        targets, _ = _tile(y, n, c, s, C, end, stride_n, stride_c, stride_s)
        tl.store(targets, (a[:, None] * centred + b[:, None]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def sums(
    grad, x, mean, sums_out, dots_out, N, C, S, stride_n, stride_c, stride_s, chunk,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Sums of ``grad`` and of ``grad * (x - mean)`` over one chunk of positions."""
    n, split = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.load(mean + n * C + c, mask=c < C, other=0.0)
    sums, dots = tl.zeros((BLOCK_C, BLOCK_S), ACC), tl.zeros((BLOCK_C, BLOCK_S), ACC)
    end = tl.minimum((split + 1) * chunk, S)
    for start in range(split * chunk, end, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        pointers, inside = _tile(x, n, c, s, C, end, stride_n, stride_c, stride_s)
        centred = _centred(tl.load(pointers, mask=inside, other=0.0), m, ACC)
        pointers, _ = _tile(grad, n, c, s, C, end, stride_n, stride_c, stride_s)
        value = tl.load(pointers, mask=inside, other=0.0).to(ACC)  # 0 outside, whatever centred is there
        sums += value
        dots += value * centred
    row = (split * N + n) * C + c
    tl.store(sums_out + row, tl.sum(sums, 1).to(tl.float64), mask=c < C)
    tl.store(dots_out + row, tl.sum(dots, 1).to(tl.float64), mask=c < C)


@triton.jit
def input_gradient(
    grad, x, grad_x, mean, slope, per_deviation, shift, C, S, stride_n, stride_c, stride_s, chunk,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """``grad_x = slope * grad + per_deviation * (x - mean) + shift``."""
    n, split = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m = tl.load(mean + n * C + c, mask=c < C, other=0.0)
    a = tl.load(slope + n * C + c, mask=c < C, other=0.0).to(ACC)
    d = tl.load(per_deviation + n * C + c, mask=c < C, other=0.0).to(ACC)
    b = tl.load(shift + n * C + c, mask=c < C, other=0.0).to(ACC)
    end = tl.minimum((split + 1) * chunk, S)
    for start in range(split * chunk, end, BLOCK_S):
        s = start + tl.arange(0, BLOCK_S)
        pointers, inside = _tile(x, n, c, s, C, end, stride_n, stride_c, stride_s)
        centred = _centred(tl.load(pointers, mask=inside, other=0.0), m, ACC)
        pointers, _ = _tile(grad, n, c, s, C, end, stride_n, stride_c, stride_s)
        value = tl.load(pointers, mask=inside, other=0.0).to(ACC)
        result = a[:, None] * value + (d[:, None] * centred + b[:, None])
        targets, _ = _tile(grad_x, n, c, s, C, end, stride_n, stride_c, stride_s)
        tl.store(targets, result.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit
def _pool(mean, variance, inside, count, AXIS: tl.constexpr):
    """``m - M`` and ``V``, pooled over the last axis, or over both if ``AXIS`` is ``None``; the axes are kept."""
    deviation = tl.where(inside, mean - tl.sum(tl.where(inside, mean, 0.0), AXIS, keep_dims=True) / count, 0.0)
    pooled = tl.sum(tl.where(inside, variance + deviation * deviation, 0.0), AXIS, keep_dims=True) / count
    return deviation, pooled


@triton.jit
def _pool_backward(grad_deviation, grad_pooled, deviation, inside, count, AXIS: tl.constexpr):
    grad_variance = tl.sum(tl.where(inside, grad_pooled, 0.0), AXIS, keep_dims=True) / count
    grad_mean = tl.sum(tl.where(inside, grad_deviation, 0.0), AXIS, keep_dims=True) / count
    return grad_deviation - grad_mean + 2.0 * deviation * grad_variance, grad_variance


@triton.jit
def _load(pointer, index, inside, default: tl.constexpr):
    """A parameter of the channels, or the default where there is none."""
    if pointer is None:
        values = tl.full(inside.shape, default, tl.float64)
    else:  # Triton compiles what follows a return, but not the other branch
        values = tl.load(pointer + index, mask=inside, other=0.0).to(tl.float64)
    return values


@triton.jit
def coefficients(
    mean, variance, mix, weight, bias, slope_out, offset_out, C, mix_row, mix_stride, K,
    EPS: tl.constexpr, UNBIASED_IN: tl.constexpr, UNBIASED_LN: tl.constexpr, THEN: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``mixture_coefficients`` of instance and layer norm for one sample, on a tile of (groups, channels of each)."""
    k = tl.arange(0, BLOCK_K)[None, :]
    c = tl.arange(0, BLOCK_G)[:, None] * K + k
    inside = (k < K) & (c < C)
    row = tl.program_id(0) * C + c
    m, v = tl.load(mean + row, mask=inside, other=0.0), tl.load(variance + row, mask=inside, other=0.0)
    index = c * mix_stride  # stride 0: one weight for all channels
    first, second = _load(mix, index, inside, 1.0), _load(mix + mix_row, index, inside, 1.0)
    deviation, layer_variance = _pool(m, v, inside, C, None)
    layer_rstd = 1.0 / tl.sqrt(layer_variance * UNBIASED_LN + EPS)
    slope = first / tl.sqrt(v * UNBIASED_IN + EPS) + second * layer_rstd
    offset = second * layer_rstd * deviation
    if THEN:
        offset, group_variance = _pool(offset, slope * slope * v, inside, K, 1)
        rstd = 1.0 / tl.sqrt(group_variance + EPS)
        slope, offset = slope * rstd, offset * rstd
    factor = _load(weight, c, inside, 1.0)
    tl.store(slope_out + row, slope * factor, mask=inside)
    tl.store(offset_out + row, offset * factor + _load(bias, c, inside, 0.0), mask=inside)


@triton.jit
def coefficients_backward(
    sums, dots, mean, variance, mix, weight, slope_out, per_deviation_out, shift_out, rows_out,
    N, C, S, mix_row, mix_stride, K,
    splits,
    EPS: tl.constexpr, UNBIASED_IN: tl.constexpr, UNBIASED_LN: tl.constexpr, THEN: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``mixture_coefficients_backward`` of instance and layer norm for one sample, and ``input_gradient``'s tables."""
    k = tl.arange(0, BLOCK_K)[None, :]
    c = tl.arange(0, BLOCK_G)[:, None] * K + k
    inside = (k < K) & (c < C)
    row = tl.program_id(0) * C + c
    m, v = tl.load(mean + row, mask=inside, other=0.0), tl.load(variance + row, mask=inside, other=0.0)
    index = c * mix_stride
    first, second = _load(mix, index, inside, 1.0), _load(mix + mix_row, index, inside, 1.0)
    grad_offset, grad_slope = tl.zeros(inside.shape, tl.float64), tl.zeros(inside.shape, tl.float64)
    for split in range(splits):
        grad_offset += tl.load(sums + split * N * C + row, mask=inside, other=0.0)
        grad_slope += tl.load(dots + split * N * C + row, mask=inside, other=0.0)
    tl.store(rows_out + 3 * N * C + row, grad_offset, mask=inside)  # of the bias
    grad_sum = grad_offset

    layer_deviation, layer_variance = _pool(m, v, inside, C, None)
    instance_rstd = 1.0 / tl.sqrt(v * UNBIASED_IN + EPS)
    layer_rstd = 1.0 / tl.sqrt(layer_variance * UNBIASED_LN + EPS)
    slope = first * instance_rstd + second * layer_rstd
    offset = second * layer_rstd * layer_deviation
    factor = _load(weight, c, inside, 1.0)
    full_slope, grad_variance = slope, tl.zeros(inside.shape, tl.float64)
    if THEN:
        deviation, group_variance = _pool(offset, slope * slope * v, inside, K, 1)
        rstd = 1.0 / tl.sqrt(group_variance + EPS)
        full_slope = slope * rstd
        grad_weight = grad_slope * full_slope + grad_offset * deviation * rstd
        grad_slope, grad_offset = grad_slope * factor, grad_offset * factor
        grad_rstd = grad_slope * slope + grad_offset * deviation
        grad_offset, grad_within = _pool_backward(
            grad_offset * rstd, -0.5 * rstd * rstd * rstd * grad_rstd, deviation, inside, K, 1
        )
        grad_slope = grad_slope * rstd + 2.0 * grad_within * slope * v
        grad_variance = grad_within * slope * slope
    else:
        grad_weight = grad_slope * slope + grad_offset * offset
        grad_slope, grad_offset = grad_slope * factor, grad_offset * factor
    tl.store(rows_out + 2 * N * C + row, grad_weight, mask=inside)

    tl.store(rows_out + row, grad_slope * instance_rstd, mask=inside)
    cubed = instance_rstd * instance_rstd * instance_rstd
    grad_variance += -0.5 * UNBIASED_IN * cubed * first * grad_slope
    grad_normalized = grad_slope + grad_offset * layer_deviation
    tl.store(rows_out + N * C + row, grad_normalized * layer_rstd, mask=inside)
    cubed = layer_rstd * layer_rstd * layer_rstd
    grad_mean, grad_within = _pool_backward(
        grad_offset * second * layer_rstd, -0.5 * UNBIASED_LN * cubed * second * grad_normalized, layer_deviation,
        inside, C, None,
    )  # fmt: skip
    grad_variance += grad_within
    full_slope = full_slope * factor
    tl.store(slope_out + row, full_slope, mask=inside)
    tl.store(per_deviation_out + row, 2.0 * grad_variance / S, mask=inside)
    tl.store(shift_out + row, (grad_mean - full_slope * grad_sum) / S, mask=inside)
