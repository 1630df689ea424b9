"""Triton kernels of what :mod:`monai_iln.norms.coefficients` defines, in float64, one program a sample.

A program holds the channels of its sample as a tile of (groups, channels of each), the groups being those of the
normalization after the blend. What a component pools is in the program's own hands if it is a channel, a group of that
tile, or all channels. Of batch norm and of other groups it reads the *members* of a pool from memory.
"""

import triton
import triton.language as tl

from monai_iln.norms.backends.cuda_kernels import chunk_length, coefficients_in, input_gradient

# The components, as the kernels know them: these, or the number of groups.
BATCH = tl.constexpr(0)
LAYER = tl.constexpr(1)
INSTANCE = tl.constexpr(-1)
SAME_GROUPS = tl.constexpr(-2)  # as many as the normalization after the blend has
RUNNING = tl.constexpr(-3)  # batch norm by statistics that are given


@triton.jit
def _channels(C, GROUPS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr):
    """The channels of the tile, which of them exist, and how many a group has."""
    K = C
    if GROUPS > 0:
        K = C // GROUPS
    k = tl.arange(0, BLOCK_K)[None, :]
    c = tl.arange(0, BLOCK_G)[:, None] * K + k
    return c, (k < K) & (c < C), K


@triton.jit
def _load(pointer, index, inside, default: tl.constexpr):
    """A parameter of the channels, or the default where there is none."""
    if pointer is None:
        values = tl.full(inside.shape, default, tl.float64)
    else:  # Triton compiles what follows a return, but not the other branch
        values = tl.load(pointer + index, mask=inside, other=0.0).to(tl.float64)
    return values


@triton.jit
def _gate(rho, index, inside, row: tl.constexpr, first: tl.constexpr, J: tl.constexpr, stride, GATE: tl.constexpr):
    """The weight of component ``row``, of the ``J`` whose gates begin with row ``first``; see ``gate_weights``."""
    if rho is None:
        weight = tl.full(inside.shape, 1.0, tl.float64)
    else:
        gate = _load(rho + row * stride, index, inside, 0.0)
        if GATE == "softmax":
            total = tl.zeros(inside.shape, tl.float64)
            for j in tl.static_range(J):
                total += tl.exp(_load(rho + (first + j) * stride, index, inside, 0.0) - gate)
            weight = 1.0 / total
        else:
            gate = _load(rho, index, inside, 0.0)
            if GATE == "sigmoid":
                weight = 1.0 / (1.0 + tl.exp(-gate))
            else:
                weight = tl.minimum(tl.maximum(gate, 0.0), 1.0)
            if row == 1:
                weight = 1.0 - weight
    return weight


@triton.jit
def _members(COMPONENT: tl.constexpr, c, C, N):
    """The pool of each channel of this sample in a table: its first member, the stride to the next, their number."""
    if COMPONENT == BATCH:
        first, stride, count = c, C, N
    else:
        count = C // COMPONENT
        first, stride = tl.program_id(0) * C + c // count * count, 1
    return first, stride, count


@triton.jit
def _mean_of_members(table, first, stride, count, inside, BLOCK_P: tl.constexpr):
    total = tl.zeros((inside.shape[0], inside.shape[1], BLOCK_P), tl.float64)
    for start in range(0, count, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)[None, None, :]
        there = inside[:, :, None] & (p < count)
        total += tl.load(table + first[:, :, None] + p * stride, mask=there, other=0.0)
    return tl.sum(total, 2) / count


@triton.jit
def _variance_of_members(means, variances, factor, mean, first, stride, count, inside, BLOCK_P: tl.constexpr):
    total = tl.zeros((inside.shape[0], inside.shape[1], BLOCK_P), tl.float64)
    for start in range(0, count, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)[None, None, :]
        there, index = inside[:, :, None] & (p < count), first[:, :, None] + p * stride
        deviation = tl.load(means + index, mask=there, other=0.0) - mean[:, :, None]
        within = tl.load(variances + index, mask=there, other=0.0) * factor
        total += tl.where(there, within + deviation * deviation, 0.0)
    return tl.sum(total, 2) / count


@triton.jit
def _mean(table, inside, count, ALL: tl.constexpr):
    """The mean of each group, or of all; the axes are kept."""
    total = tl.sum(tl.where(inside, table, 0.0), 1, keep_dims=True)
    if ALL:
        total = tl.sum(total, 0, keep_dims=True)
    return total / count


@triton.jit
def _pool(mean, variance, inside, count, ALL: tl.constexpr):
    """``m - M`` and ``V`` of what the tile itself holds."""
    deviation = mean - _mean(mean, inside, count, ALL)
    return deviation, _mean(variance + deviation * deviation, inside, count, ALL)


@triton.jit
def _pool_backward(grad_deviation, grad_pooled, deviation, inside, count, ALL: tl.constexpr):
    grad_variance = _mean(grad_pooled, inside, count, ALL)
    return grad_deviation - _mean(grad_deviation, inside, count, ALL) + 2.0 * deviation * grad_variance, grad_variance


@triton.jit
def _correction(COMPONENT: tl.constexpr, C, N, S, STATISTICS: tl.constexpr, UNBIASED: tl.constexpr):
    """The factor that makes a component's variance unbiased."""
    count = S
    if not STATISTICS:
        if COMPONENT == BATCH:
            count = S * N
        elif COMPONENT > 0:
            count = S * (C // COMPONENT)
    factor = tl.full((1, 1), 1.0, tl.float64)
    if UNBIASED:
        factor = factor * count / tl.maximum(count - 1, 1)
    return factor


@triton.jit
def _part(
    COMPONENT: tl.constexpr, m, v, mean, variance, running_mean, running_var, c, inside, C, K, N, S,
    GROUPS: tl.constexpr, STATISTICS: tl.constexpr, UNBIASED: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``m - M`` and the corrected ``V`` of a component, and the correction, which may belong before the pooling."""
    correction = tl.full((1, 1), 1.0, tl.float64)
    if COMPONENT == SAME_GROUPS:
        correction = _correction(GROUPS, C, N, S, STATISTICS, UNBIASED)
    elif COMPONENT != RUNNING:
        correction = _correction(COMPONENT, C, N, S, STATISTICS, UNBIASED)
    before, after = tl.full((1, 1), 1.0, tl.float64), correction
    if STATISTICS:
        before, after = correction, before
    if COMPONENT == RUNNING:
        deviation, pooled = m - _load(running_mean, c, inside, 0.0), _load(running_var, c, inside, 1.0)
    elif COMPONENT == INSTANCE:
        deviation, pooled = m - m, v * before
    elif COMPONENT == LAYER:
        deviation, pooled = _pool(m, v * before, inside, C, True)
    elif COMPONENT == SAME_GROUPS:
        deviation, pooled = _pool(m, v * before, inside, K, False)
    else:
        first, stride, count = _members(COMPONENT, c, C, N)
        center = _mean_of_members(mean, first, stride, count, inside, BLOCK_P)
        deviation = m - center
        pooled = _variance_of_members(mean, variance, before, center, first, stride, count, inside, BLOCK_P)
    return deviation, pooled * after, correction


@triton.jit
def _blend(
    m, v, mean, variance, rho, gate_index, gate_stride, running_mean, running_var, c, inside, C, K, N, S,
    COMPONENTS: tl.constexpr, J: tl.constexpr, GROUPS: tl.constexpr, STATISTICS: tl.constexpr, UNBIASED: tl.constexpr,
    EPS: tl.constexpr, GATE: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Slope and offset of the blend alone."""
    slope, offset = tl.zeros(inside.shape, tl.float64), tl.zeros(inside.shape, tl.float64)
    for j in tl.static_range(J):
        deviation, pooled, _ = _part(
            COMPONENTS[j], m, v, mean, variance, running_mean, running_var, c, inside, C, K, N, S, GROUPS, STATISTICS,
            UNBIASED, BLOCK_P,
        )  # fmt: skip
        weight = _gate(rho, gate_index, inside, j, 0, J, gate_stride, GATE)
        if STATISTICS:
            slope += pooled * _gate(rho, gate_index, inside, J + j, J, J, gate_stride, GATE)
            offset += deviation * weight
        else:
            rstd = weight / tl.sqrt(pooled + EPS)
            slope += rstd
            offset += deviation * rstd
    if STATISTICS:
        slope = 1.0 / tl.sqrt(slope + EPS)
        offset = offset * slope
    return slope, offset


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
def merge(scratch, mean, variance, N, C, S, splits, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr):
    """The tables of all samples, where one sample must know the others, or one group other channels."""
    c = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    row, inside = tl.program_id(0) * C + c, c < C
    m, v = _merge(scratch, row, inside, N, C, S, splits, BLOCK_S, BLOCK_P)
    tl.store(mean + row, m, mask=inside)
    tl.store(variance + row, v, mask=inside)


@triton.jit
def coefficients(
    scratch, mean, variance, rho, weight, bias, running_mean, running_var, N, C, S, splits, gate_step,
    gate_stride, COMPONENTS: tl.constexpr, J: tl.constexpr, GROUPS: tl.constexpr, STATISTICS: tl.constexpr,
    UNBIASED: tl.constexpr, EPS: tl.constexpr, GATE: tl.constexpr, MERGED: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``mixture_coefficients`` of one sample: slopes, then offsets."""
    table = coefficients_in(scratch, splits, N, C)
    c, inside, K = _channels(C, GROUPS, BLOCK_G, BLOCK_K)
    row = tl.program_id(0) * C + c
    if MERGED:
        m, v = _load(mean, row, inside, 0.0), _load(variance, row, inside, 0.0)
    else:
        m, v = _merge(scratch, row, inside, N, C, S, splits, BLOCK_S, BLOCK_P)
        tl.store(mean + row, m, mask=inside)
        tl.store(variance + row, v, mask=inside)
    slope, offset = _blend(
        m, v, mean, variance, rho, c * gate_step, gate_stride, running_mean, running_var, c, inside, C, K, N, S,
        COMPONENTS, J, GROUPS, STATISTICS, UNBIASED, EPS, GATE, BLOCK_P,
    )  # fmt: skip
    if GROUPS > 0:
        offset, pooled = _pool(offset, slope * slope * v, inside, K, False)
        rstd = 1.0 / tl.sqrt(pooled + EPS)
        slope, offset = slope * rstd, offset * rstd
    factor = _load(weight, c, inside, 1.0)
    tl.store(table + row, slope * factor, mask=inside)
    tl.store(table + N * C + row, offset * factor + _load(bias, c, inside, 0.0), mask=inside)


@triton.jit
def _total(partial, row, inside, N, C, splits, BLOCK_P: tl.constexpr):
    """A table's sum over the chunks."""
    total = tl.zeros((inside.shape[0], inside.shape[1], BLOCK_P), tl.float64)
    for start in range(0, splits, BLOCK_P):
        split = start + tl.arange(0, BLOCK_P)[None, None, :]
        there = inside[:, :, None] & (split < splits)
        total += tl.load(partial + split * N * C + row[:, :, None], mask=there, other=0.0)
    return tl.sum(total, 2)


@triton.jit
def _backward_tables(scratch, splits, N, C, J: tl.constexpr, STATISTICS: tl.constexpr):
    """Where the tables of the backward pass begin; see :func:`coefficients_backward`."""
    table = coefficients_in(scratch, splits, N, C)
    ROWS: tl.constexpr = 2 * J + 2 if STATISTICS else J + 2
    return table, table + 3 * N * C, table + (3 + ROWS) * N * C


@triton.jit
def coefficients_backward(
    scratch, mean, variance, rho, weight, running_mean, running_var, N, C, S, splits, gate_step,
    gate_stride, COMPONENTS: tl.constexpr, J: tl.constexpr, GROUPS: tl.constexpr, STATISTICS: tl.constexpr,
    UNBIASED: tl.constexpr, EPS: tl.constexpr, GATE: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``mixture_coefficients_backward`` of one sample.

    The tables in ``scratch`` are slope, ``per_deviation`` and shift of :func:`~...cuda_kernels.input_gradient`; *rows*,
    the gradients in the rows of the weights of the components, in ``weight`` and in ``bias``, to be summed; and for the
    components with members what they still have to pool: gradients of deviation and variance, and the deviation.
    """
    table, rows, exchange = _backward_tables(scratch, splits, N, C, J, STATISTICS)
    c, inside, K = _channels(C, GROUPS, BLOCK_G, BLOCK_K)
    NC, row, index = N * C, tl.program_id(0) * C + c, c * gate_step
    m, v = _load(mean, row, inside, 0.0), _load(variance, row, inside, 0.0)
    grad_offset = _total(scratch, row, inside, N, C, splits, BLOCK_P)
    grad_slope = _total(scratch + splits * NC, row, inside, N, C, splits, BLOCK_P)
    grad_sum = grad_offset
    slope, offset = _blend(
        m, v, mean, variance, rho, index, gate_stride, running_mean, running_var, c, inside, C, K, N, S,
        COMPONENTS, J, GROUPS, STATISTICS, UNBIASED, EPS, GATE, BLOCK_P,
    )  # fmt: skip
    factor = _load(weight, c, inside, 1.0)
    full_slope, grad_mean, grad_variance = slope, tl.zeros(inside.shape, tl.float64), tl.zeros(inside.shape, tl.float64)
    if GROUPS > 0:
        deviation, pooled = _pool(offset, slope * slope * v, inside, K, False)
        rstd = 1.0 / tl.sqrt(pooled + EPS)
        full_slope = slope * rstd
        grad_weight = grad_slope * full_slope + grad_offset * deviation * rstd
        grad_slope, grad_offset = grad_slope * factor, grad_offset * factor
        grad_rstd = grad_slope * slope + grad_offset * deviation
        grad_offset, grad_within = _pool_backward(
            grad_offset * rstd, -0.5 * rstd * rstd * rstd * grad_rstd, deviation, inside, K, False
        )
        grad_slope = grad_slope * rstd + 2.0 * grad_within * slope * v
        grad_variance = grad_within * slope * slope
    else:
        grad_weight = grad_slope * slope + grad_offset * offset
        grad_slope, grad_offset = grad_slope * factor, grad_offset * factor
    if STATISTICS:  # slope is the reciprocal root of the blended variance, offset is slope * deviation
        grad_blended = -0.5 * slope * slope * (grad_slope * slope + grad_offset * offset)
        grad_offset = grad_offset * slope

    for j in tl.static_range(J):
        deviation, pooled, correction = _part(
            COMPONENTS[j], m, v, mean, variance, running_mean, running_var, c, inside, C, K, N, S, GROUPS, STATISTICS,
            UNBIASED, BLOCK_P,
        )  # fmt: skip
        share = _gate(rho, index, inside, j, 0, J, gate_stride, GATE)
        if STATISTICS:
            tl.store(rows + j * NC + row, grad_offset * deviation, mask=inside)
            tl.store(rows + (J + j) * NC + row, grad_blended * pooled, mask=inside)
            grad_pooled = grad_blended * _gate(rho, index, inside, J + j, J, J, gate_stride, GATE)
            grad_deviation = grad_offset * share
        else:
            rstd = 1.0 / tl.sqrt(pooled + EPS)
            grad_normalized = grad_slope + grad_offset * deviation
            tl.store(rows + j * NC + row, grad_normalized * rstd, mask=inside)
            grad_pooled = -0.5 * rstd * rstd * rstd * share * grad_normalized * correction
            grad_deviation = grad_offset * (share * rstd)
        after = tl.full((1, 1), 1.0, tl.float64)
        if STATISTICS:
            after = correction
        if COMPONENTS[j] == RUNNING:
            grad_mean += grad_deviation
        elif COMPONENTS[j] == INSTANCE:
            grad_variance += grad_pooled * after
        elif COMPONENTS[j] == LAYER:
            grad_part, grad_within = _pool_backward(grad_deviation, grad_pooled, deviation, inside, C, True)
            grad_mean += grad_part
            grad_variance += grad_within * after
        elif COMPONENTS[j] == SAME_GROUPS:
            grad_part, grad_within = _pool_backward(grad_deviation, grad_pooled, deviation, inside, K, False)
            grad_mean += grad_part
            grad_variance += grad_within * after
        else:
            tl.store(exchange + 3 * j * NC + row, grad_deviation, mask=inside)
            tl.store(exchange + (3 * j + 1) * NC + row, grad_pooled * after, mask=inside)
            tl.store(exchange + (3 * j + 2) * NC + row, deviation / after, mask=inside)
    OTHERS: tl.constexpr = 2 * J if STATISTICS else J
    tl.store(rows + OTHERS * NC + row, grad_weight, mask=inside)
    tl.store(rows + (OTHERS + 1) * NC + row, grad_sum, mask=inside)
    full_slope = full_slope * factor
    tl.store(table + row, full_slope, mask=inside)
    tl.store(table + NC + row, 2.0 * grad_variance / S, mask=inside)
    tl.store(table + 2 * NC + row, (grad_mean - full_slope * grad_sum) / S, mask=inside)


@triton.jit
def pool_backward(
    scratch, N, C, S, splits, COMPONENTS: tl.constexpr, J: tl.constexpr, STATISTICS: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Pool what :func:`coefficients_backward` left to be exchanged, and add it to the coefficients."""
    table, _, exchange = _backward_tables(scratch, splits, N, C, J, STATISTICS)
    c = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    NC, row, inside = N * C, tl.program_id(0) * C + c, c < C
    grad_mean, grad_variance = tl.zeros(inside.shape, tl.float64), tl.zeros(inside.shape, tl.float64)
    for j in tl.static_range(J):
        if COMPONENTS[j] == BATCH or COMPONENTS[j] > LAYER:
            first, stride, count = _members(COMPONENTS[j], c, C, N)
            here = exchange + 3 * j * NC
            grad_within = _mean_of_members(here + NC, first, stride, count, inside, BLOCK_P)
            grad_deviation = _load(here, row, inside, 0.0)
            grad_mean += grad_deviation - _mean_of_members(here, first, stride, count, inside, BLOCK_P)
            grad_mean += 2.0 * _load(here + 2 * NC, row, inside, 0.0) * grad_within
            grad_variance += grad_within
    per_deviation = _load(table + NC, row, inside, 0.0) + 2.0 * grad_variance / S
    tl.store(table + NC + row, per_deviation, mask=inside)
    tl.store(table + 2 * NC + row, _load(table + 2 * NC, row, inside, 0.0) + grad_mean / S, mask=inside)


@triton.jit
def _sum_of_rows(rows, c, N, C, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of a table over the samples, and over the channels, too, unless each has a gate."""
    tile = tl.zeros((16, BLOCK), tl.float64)
    if PER_CHANNEL:
        for start in range(0, N, 16):
            n = start + tl.arange(0, 16)[:, None]
            tile += tl.load(rows + n * C + c[None, :], mask=(n < N) & (c < C)[None, :], other=0.0)
    else:
        for start in range(0, N * C, 16 * BLOCK):
            i = start + tl.arange(0, 16)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
            tile += tl.load(rows + i, mask=i < N * C, other=0.0)
    total = tl.sum(tile, 0)
    if not PER_CHANNEL:
        total = tl.zeros((BLOCK,), tl.float64) + tl.sum(total, 0)
    return total


@triton.jit
def _parameter_gradients(
    c, rows, rho, grad_rho, grad_weight, grad_bias, N, C, gate_step, gate_stride,
    J: tl.constexpr, STATISTICS: tl.constexpr, GATE: tl.constexpr, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the rows of :func:`coefficients_backward` for the channels ``c``, and go back through their gates."""
    HALVES: tl.constexpr = 2 if STATISTICS else 1
    OTHERS: tl.constexpr = HALVES * J
    if grad_weight is not None:
        total = _sum_of_rows(rows + OTHERS * N * C, c, N, C, True, BLOCK)
        tl.store(grad_weight + c, total.to(grad_weight.dtype.element_ty), mask=c < C)
    if grad_bias is not None:
        total = _sum_of_rows(rows + (OTHERS + 1) * N * C, c, N, C, True, BLOCK)
        tl.store(grad_bias + c, total.to(grad_bias.dtype.element_ty), mask=c < C)
    if grad_rho is not None:
        inside = c < C
        if not PER_CHANNEL:
            inside = c < 1  # one gate, one place
        index = c * gate_step
        if GATE == "softmax":
            for half in tl.static_range(HALVES):
                mean = tl.zeros(c.shape, tl.float64)
                for j in tl.static_range(J):
                    weight = _gate(rho, index, inside, half * J + j, half * J, J, gate_stride, GATE)
                    mean += weight * _sum_of_rows(rows + (half * J + j) * N * C, c, N, C, PER_CHANNEL, BLOCK)
                for j in tl.static_range(J):
                    weight = _gate(rho, index, inside, half * J + j, half * J, J, gate_stride, GATE)
                    total = _sum_of_rows(rows + (half * J + j) * N * C, c, N, C, PER_CHANNEL, BLOCK)
                    place = grad_rho + (half * J + j) * gate_stride + index
                    tl.store(place, (weight * (total - mean)).to(grad_rho.dtype.element_ty), mask=inside)
        else:
            total = _sum_of_rows(rows, c, N, C, PER_CHANNEL, BLOCK)
            total -= _sum_of_rows(rows + N * C, c, N, C, PER_CHANNEL, BLOCK)
            gate = _load(rho, index, inside, 0.0)
            weight = _gate(rho, index, inside, 0, 0, J, gate_stride, GATE)
            if GATE == "sigmoid":
                slope = weight * (1.0 - weight)
            else:
                slope = tl.where((gate >= 0.0) & (gate <= 1.0), 1.0, 0.0)
            tl.store(grad_rho + index, (slope * total).to(grad_rho.dtype.element_ty), mask=inside)


@triton.jit
def gradients(
    grad, x, grad_x, mean, scratch, rho, grad_rho, grad_weight, grad_bias, N, C, S, gate_step, gate_stride,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
    J: tl.constexpr, STATISTICS: tl.constexpr, GATE: tl.constexpr, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient in the input, and as if of one more sample those in the parameters."""
    if tl.program_id(0) < N:
        input_gradient(grad, x, grad_x, mean, scratch, N, C, S, ACC, BLOCK_C, BLOCK_S, LAST)
    elif tl.program_id(2) == 0:
        _, rows, _ = _backward_tables(scratch, tl.num_programs(2), N, C, J, STATISTICS)
        for start in range(tl.program_id(1) * BLOCK, C, tl.num_programs(1) * BLOCK):
            _parameter_gradients(
                start + tl.arange(0, BLOCK), rows, rho, grad_rho, grad_weight, grad_bias, N, C, gate_step, gate_stride,
                J, STATISTICS, GATE, PER_CHANNEL, BLOCK,
            )  # fmt: skip
