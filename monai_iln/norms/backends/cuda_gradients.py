"""Triton kernels of ``mixture_coefficients_backward``, and of the gradients that follow from it."""

import triton
import triton.language as tl

from monai_iln.norms.backends.cuda_kernels import coefficients_in, input_gradient
from monai_iln.norms.backends.cuda_pools import (
    BATCH,
    INSTANCE,
    LAYER,
    RUNNING,
    SAME_GROUPS,
    blend,
    channels_of_tile,
    gate_weight,
    load,
    mean_of_members,
    members,
    part,
    pool,
    pool_gradient,
)


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
    sums, scratch, moments, rho, weight, running_mean, running_var, N, C, S, splits, gate_step,
    gate_stride, COMPONENTS: tl.constexpr, J: tl.constexpr, GROUPS: tl.constexpr, STATISTICS: tl.constexpr,
    UNBIASED: tl.constexpr, EPS: tl.constexpr, GATE: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``mixture_coefficients_backward`` of one sample, from the sums of each chunk, which may begin ``scratch``.

    The tables in ``scratch`` are slope, ``per_deviation`` and shift of :func:`~...cuda_kernels.input_gradient`; *rows*,
    the gradients in the rows of the weights of the components, in ``weight`` and in ``bias``, to be summed; and for the
    components with members what they still have to pool: gradients of deviation and variance, and the deviation.
    """
    mean, variance = moments, moments + N * C
    table, rows, exchange = _backward_tables(scratch, splits, N, C, J, STATISTICS)
    c, inside, K = channels_of_tile(C, GROUPS, BLOCK_G, BLOCK_K)
    NC, row, index = N * C, tl.program_id(0) * C + c, c * gate_step
    m, v = load(mean, row, inside, 0.0), load(variance, row, inside, 0.0)
    grad_offset = _total(sums, row, inside, N, C, splits, BLOCK_P)
    grad_slope = _total(sums + splits * NC, row, inside, N, C, splits, BLOCK_P)
    grad_sum = grad_offset
    slope, offset = blend(
        m, v, mean, variance, rho, index, gate_stride, running_mean, running_var, c, inside, C, K, N, S,
        COMPONENTS, J, GROUPS, STATISTICS, UNBIASED, EPS, GATE, BLOCK_P,
    )  # fmt: skip
    factor = load(weight, c, inside, 1.0)
    full_slope, grad_mean, grad_variance = slope, tl.zeros(inside.shape, tl.float64), tl.zeros(inside.shape, tl.float64)
    if GROUPS > 0:
        deviation, pooled = pool(offset, slope * slope * v, inside, K, False)
        rstd = 1.0 / tl.sqrt(pooled + EPS)
        full_slope = slope * rstd
        grad_weight = grad_slope * full_slope + grad_offset * deviation * rstd
        grad_slope, grad_offset = grad_slope * factor, grad_offset * factor
        grad_rstd = grad_slope * slope + grad_offset * deviation
        grad_offset, grad_within = pool_gradient(
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
        deviation, pooled, correction = part(
            COMPONENTS[j], m, v, mean, variance, running_mean, running_var, c, inside, C, K, N, S, GROUPS, STATISTICS,
            UNBIASED, BLOCK_P,
        )  # fmt: skip
        share = gate_weight(rho, index, inside, j, 0, J, gate_stride, GATE)
        if STATISTICS:
            tl.store(rows + j * NC + row, grad_offset * deviation, mask=inside)
            tl.store(rows + (J + j) * NC + row, grad_blended * pooled, mask=inside)
            grad_pooled = grad_blended * gate_weight(rho, index, inside, J + j, J, J, gate_stride, GATE)
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
            grad_part, grad_within = pool_gradient(grad_deviation, grad_pooled, deviation, inside, C, True)
            grad_mean += grad_part
            grad_variance += grad_within * after
        elif COMPONENTS[j] == SAME_GROUPS:
            grad_part, grad_within = pool_gradient(grad_deviation, grad_pooled, deviation, inside, K, False)
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
    if S == 1:  # nothing varies, however large the slope
        full_slope = full_slope * 0.0
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
            first, stride, count = members(COMPONENTS[j], c, C, N)
            here = exchange + 3 * j * NC
            grad_within = mean_of_members(here + NC, first, stride, count, inside, BLOCK_P)
            grad_deviation = load(here, row, inside, 0.0)
            grad_mean += grad_deviation - mean_of_members(here, first, stride, count, inside, BLOCK_P)
            grad_mean += 2.0 * load(here + 2 * NC, row, inside, 0.0) * grad_within
            grad_variance += grad_within
    per_deviation = load(table + NC, row, inside, 0.0) + 2.0 * grad_variance / S
    tl.store(table + NC + row, per_deviation, mask=inside)
    tl.store(table + 2 * NC + row, load(table + 2 * NC, row, inside, 0.0) + grad_mean / S, mask=inside)


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
def _store(pointer, index, values, inside):
    """Store float64 in the dtype of a parameter. To bfloat16 there is no direct way everywhere."""
    if pointer.dtype.element_ty != tl.float64:
        values = values.to(tl.float32)
    tl.store(pointer + index, values.to(pointer.dtype.element_ty), mask=inside)


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
        _store(grad_weight, c, total, c < C)
    if grad_bias is not None:
        total = _sum_of_rows(rows + (OTHERS + 1) * N * C, c, N, C, True, BLOCK)
        _store(grad_bias, c, total, c < C)
    if grad_rho is not None:
        inside = c < C
        if not PER_CHANNEL:
            inside = c < 1  # one gate, one place
        index = c * gate_step
        if GATE == "softmax":
            for half in tl.static_range(HALVES):
                mean = tl.zeros(c.shape, tl.float64)
                for j in tl.static_range(J):
                    weight = gate_weight(rho, index, inside, half * J + j, half * J, J, gate_stride, GATE)
                    mean += weight * _sum_of_rows(rows + (half * J + j) * N * C, c, N, C, PER_CHANNEL, BLOCK)
                for j in tl.static_range(J):
                    weight = gate_weight(rho, index, inside, half * J + j, half * J, J, gate_stride, GATE)
                    total = _sum_of_rows(rows + (half * J + j) * N * C, c, N, C, PER_CHANNEL, BLOCK)
                    _store(grad_rho, (half * J + j) * gate_stride + index, weight * (total - mean), inside)
        else:
            total = _sum_of_rows(rows, c, N, C, PER_CHANNEL, BLOCK)
            total -= _sum_of_rows(rows + N * C, c, N, C, PER_CHANNEL, BLOCK)
            gate = load(rho, index, inside, 0.0)
            weight = gate_weight(rho, index, inside, 0, 0, J, gate_stride, GATE)
            if GATE == "sigmoid":
                slope = weight * (1.0 - weight)
            elif GATE == "projected":
                leads_away = ((gate > 1.0) & (total < 0.0)) | ((gate < 0.0) & (total > 0.0))
                slope = tl.where(leads_away, 0.0, 1.0)
            else:
                slope = tl.where((gate >= 0.0) & (gate <= 1.0), 1.0, 0.0)
            _store(grad_rho, index, slope * total, inside)


@triton.jit
def gradients(
    grad, x, grad_x, moments, scratch, rho, grad_rho, grad_weight, grad_bias, N, C, S, gate_step, gate_stride,
    ACC: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, LAST: tl.constexpr,
    J: tl.constexpr, STATISTICS: tl.constexpr, GATE: tl.constexpr, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient in the input, and as if of one more sample those in the parameters."""
    if tl.program_id(0) < N:
        input_gradient(grad, x, grad_x, moments, scratch, N, C, S, ACC, BLOCK_C, BLOCK_S, LAST)
    elif tl.program_id(2) == 0:
        _, rows, _ = _backward_tables(scratch, tl.num_programs(2), N, C, J, STATISTICS)
        for start in range(tl.program_id(1) * BLOCK, C, tl.num_programs(1) * BLOCK):
            _parameter_gradients(
                start + tl.arange(0, BLOCK), rows, rho, grad_rho, grad_weight, grad_bias, N, C, gate_step, gate_stride,
                J, STATISTICS, GATE, PER_CHANNEL, BLOCK,
            )  # fmt: skip


@triton.jit
def parameter_gradients(
    tables, rho, grad_rho, grad_weight, grad_bias, N, C, gate_step, gate_stride,
    J: tl.constexpr, STATISTICS: tl.constexpr, GATE: tl.constexpr, PER_CHANNEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradients in the parameters alone, from the tables of :func:`coefficients_backward` behind one chunk."""
    _, rows, _ = _backward_tables(tables, 1, N, C, J, STATISTICS)
    _parameter_gradients(
        tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), rows, rho, grad_rho, grad_weight, grad_bias, N, C, gate_step,
        gate_stride, J, STATISTICS, GATE, PER_CHANNEL, BLOCK,
    )  # fmt: skip
