"""What the kernels of coefficients share: the tile of a sample, gates, and the pools of the components.

A program holds the channels of its sample as a tile of (groups, channels of each), the groups being those of the
normalization after the blend. What a component pools is in the program's own hands if it is a channel, a group of that
tile, or all channels. Of batch norm and of other groups it reads the *members* of a pool from memory.
"""

import triton
import triton.language as tl

# The components, as the kernels know them: these, or the number of groups.
BATCH = tl.constexpr(0)
LAYER = tl.constexpr(1)
INSTANCE = tl.constexpr(-1)
SAME_GROUPS = tl.constexpr(-2)  # as many as the normalization after the blend has
RUNNING = tl.constexpr(-3)  # batch norm by statistics that are given


@triton.jit
def channels_of_tile(C, GROUPS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_K: tl.constexpr):
    """The channels of the tile, which of them exist, and how many a group has."""
    K = C
    if GROUPS > 0:
        K = C // GROUPS
    k = tl.arange(0, BLOCK_K)[None, :]
    c = tl.arange(0, BLOCK_G)[:, None] * K + k
    return c, (k < K) & (c < C), K


@triton.jit
def load(pointer, index, inside, default: tl.constexpr):
    """A parameter of the channels, or the default where there is none."""
    if pointer is None:
        values = tl.full(inside.shape, default, tl.float64)
    else:  # Triton compiles what follows a return, but not the other branch
        values = tl.load(pointer + index, mask=inside, other=0.0).to(tl.float64)
    return values


@triton.jit
def gate_weight(
    rho, index, inside, row: tl.constexpr, first: tl.constexpr, J: tl.constexpr, stride, GATE: tl.constexpr
):
    """The weight of component ``row``, of the ``J`` whose gates begin with row ``first``; see ``gate_weights``."""
    if rho is None:
        weight = tl.full(inside.shape, 1.0, tl.float64)
    else:
        gate = load(rho + row * stride, index, inside, 0.0)
        if GATE == "softmax":
            total = tl.zeros(inside.shape, tl.float64)
            for j in tl.static_range(J):
                total += tl.exp(load(rho + (first + j) * stride, index, inside, 0.0) - gate)
            weight = 1.0 / total
        else:
            gate = load(rho, index, inside, 0.0)
            if GATE == "sigmoid":  # noqa: SIM108 (the branch that is not taken must not be compiled)
                weight = 1.0 / (1.0 + tl.exp(-gate))
            else:
                weight = tl.minimum(tl.maximum(gate, 0.0), 1.0)
            if row == 1:
                weight = 1.0 - weight
    return weight


@triton.jit
def members(COMPONENT: tl.constexpr, c, C, N):
    """The pool of each channel of this sample in a table: its first member, the stride to the next, their number."""
    if COMPONENT == BATCH:
        first, stride, count = c, C, N
    else:
        count = C // COMPONENT
        first, stride = tl.program_id(0) * C + c // count * count, 1
    return first, stride, count


@triton.jit
def mean_of_members(table, first, stride, count, inside, BLOCK_P: tl.constexpr):
    """The mean of a table over the pool of each channel."""
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
def pool(mean, variance, inside, count, ALL: tl.constexpr):
    """``m - M`` and ``V`` of what the tile itself holds."""
    deviation = mean - _mean(mean, inside, count, ALL)
    return deviation, _mean(variance + deviation * deviation, inside, count, ALL)


@triton.jit
def pool_gradient(grad_deviation, grad_pooled, deviation, inside, count, ALL: tl.constexpr):
    """The gradient of :func:`pool` in ``mean`` and ``variance``; ``grad_pooled`` may still have to be pooled itself."""
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
def part(
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
        deviation, pooled = m - load(running_mean, c, inside, 0.0), load(running_var, c, inside, 1.0)
    elif COMPONENT == INSTANCE:
        deviation, pooled = m - m, v * before
    elif COMPONENT == LAYER:
        deviation, pooled = pool(m, v * before, inside, C, True)
    elif COMPONENT == SAME_GROUPS:
        deviation, pooled = pool(m, v * before, inside, K, False)
    else:
        first, stride, count = members(COMPONENT, c, C, N)
        center = mean_of_members(mean, first, stride, count, inside, BLOCK_P)
        deviation = m - center
        pooled = _variance_of_members(mean, variance, before, center, first, stride, count, inside, BLOCK_P)
    return deviation, pooled * after, correction


@triton.jit
def blend(
    m, v, mean, variance, rho, gate_index, gate_stride, running_mean, running_var, c, inside, C, K, N, S,
    COMPONENTS: tl.constexpr, J: tl.constexpr, GROUPS: tl.constexpr, STATISTICS: tl.constexpr, UNBIASED: tl.constexpr,
    EPS: tl.constexpr, GATE: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Slope and offset of the blend alone."""
    slope, offset = tl.zeros(inside.shape, tl.float64), tl.zeros(inside.shape, tl.float64)
    for j in tl.static_range(J):
        deviation, pooled, _ = part(
            COMPONENTS[j], m, v, mean, variance, running_mean, running_var, c, inside, C, K, N, S, GROUPS, STATISTICS,
            UNBIASED, BLOCK_P,
        )  # fmt: skip
        weight = gate_weight(rho, gate_index, inside, j, 0, J, gate_stride, GATE)
        if STATISTICS:
            slope += pooled * gate_weight(rho, gate_index, inside, J + j, J, J, gate_stride, GATE)
            offset += deviation * weight
        else:
            rstd = weight / tl.sqrt(pooled + EPS)
            slope += rstd
            offset += deviation * rstd
    if STATISTICS:
        slope = 1.0 / tl.sqrt(slope + EPS)
        offset = offset * slope
    return slope, offset
