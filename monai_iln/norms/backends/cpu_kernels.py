"""The compiled kernels of the operator on CPU: what each thread of a team does, forward and backward.

All threads run the same function. They share the blocks of a map out, wait for one another once, when all sums are
known, and compute the coefficients each for itself, which takes less time than waiting for one.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from monai_iln.norms.backends.cpu_coefficients import (
    Terms,
    compiled,
    fill,
    gate_weights,
    gate_weights_backward,
    mixture_coefficients,
    mixture_coefficients_backward,
)
from monai_iln.norms.backends.cpu_interleaved import (
    interleaved_apply,
    interleaved_gradient,
    interleaved_moments,
    interleaved_sums,
)
from monai_iln.norms.backends.cpu_maps import (
    merge_moments,
    merge_sums,
    round_backward,
    round_forward,
    round_scaled_mean,
)
from monai_iln.norms.backends.cpu_rows import row_apply, row_gradient, row_moments, row_sums

# What a kernel is called with, 8 bytes each: addresses, sizes and settings. The components follow.
ADDRESSES = (
    "x", "grad", "result", "moments", "rho", "weight", "bias", "running_mean", "running_var",
    "grad_rho", "grad_weight", "grad_bias", "work",
)  # fmt: skip
SETTINGS = (
    "eps", "samples", "channels", "size", "width", "positions", "cuts", "row", "threads", "own",
    "rho_size", "doubles", "rows",
    "components", "num_groups", "blend_statistics", "unbiased", "gate", "per_channel", "running",
)  # fmt: skip
ARGUMENTS = np.dtype([(name, np.float64 if name == "eps" else np.int64) for name in ADDRESSES + SETTINGS])
FIELDS = len(ARGUMENTS)

# OpenMP's functions, under the names by which the backend makes them known to the linker.
_wait_for_team = types.ExternalFunction("monai_iln_barrier", types.void())
_thread_number = types.ExternalFunction("monai_iln_thread_number", types.int32())
_team_size = types.ExternalFunction("monai_iln_team_size", types.int32())


def make_forward(dtype, interleaved, version):
    """The function to be compiled for maps of a dtype and layout. What the other layout needs is not compiled."""

    def forward(arguments):
        version  # noqa: B018 (numba's cache tells functions apart by what they refer to)
        a = carray(arguments, 1, ARGUMENTS)[0]
        components = carray(arguments, FIELDS + a.components, np.int64)[FIELDS:]
        t = find_terms(a)
        thread, threads = find_place(a)
        x, y = map_at(a.x, a, dtype), map_at(a.result, a, dtype)
        partial, channels, mix, _, rho, _, tables, rounded, scratch = workspace(a, thread, dtype)
        slope, offset, mean, variance = tables[0], tables[1], tables[2], tables[3]
        if interleaved:
            interleaved_moments(x, partial, scratch, a, thread, threads)
        else:
            row_moments(x, partial, a, thread, threads)
        wait(threads)
        merge_moments(partial, mean, variance, a)
        read_parameters(channels, rho, a)
        gate_weights(rho, mix, components, t)
        mixture_coefficients(mean, variance, mix, channels, components, t, slope, offset)
        round_forward(mean, slope, offset, rounded)
        if interleaved:
            interleaved_apply(x, y, rounded, scratch, a, thread, threads)
        else:
            row_apply(x, y, rounded, a, thread, threads)
        if thread == 0:
            copy(mean, table_at(a.moments, mean.size))
            copy(variance, table_at(a.moments + 8 * mean.size, mean.size))

    return forward


def make_backward(dtype, interleaved, version):
    """Its gradient."""

    def backward(arguments):
        version  # noqa: B018 (numba's cache tells functions apart by what they refer to)
        a = carray(arguments, 1, ARGUMENTS)[0]
        components = carray(arguments, FIELDS + a.components, np.int64)[FIELDS:]
        t = find_terms(a)
        thread, threads = find_place(a)
        x, grad, grad_x = map_at(a.x, a, dtype), map_at(a.grad, a, dtype), map_at(a.result, a, dtype)
        partial, channels, mix, grad_mix, rho, grad_rho, tables, rounded, scratch = workspace(a, thread, dtype)
        slope, offset, full_slope, sum_grad = tables[0], tables[1], tables[2], tables[3]
        grad_slope, grad_offset, grad_mean, grad_variance = tables[4], tables[5], tables[6], tables[7]
        grad_weight, grad_bias = channels[4], channels[5]
        mean, variance = table_at(a.moments, slope.size), table_at(a.moments + 8 * slope.size, slope.size)
        round_scaled_mean(mean, variance, rounded)
        if interleaved:
            interleaved_sums(grad, x, rounded, partial, scratch, a, thread, threads)
        else:
            row_sums(grad, x, rounded, partial, a, thread, threads)
        wait(threads)
        merge_sums(partial, mean, rounded, grad_slope, grad_offset, a)
        copy(grad_offset, sum_grad)
        sum_channels(grad_offset, grad_bias)
        read_parameters(channels, rho, a)
        gate_weights(rho, mix, components, t)
        mixture_coefficients_backward(
            grad_slope, grad_offset, mean, variance, mix, channels, components, t,
            slope, offset, full_slope, grad_mean, grad_variance, grad_mix, grad_weight,
        )  # fmt: skip
        gate_weights_backward(grad_mix, mix, rho, grad_rho, components, t)
        round_backward(mean, sum_grad, full_slope, grad_mean, grad_variance, rounded, a)
        if interleaved:
            interleaved_gradient(grad, x, grad_x, rounded, scratch, a, thread, threads)
        else:
            row_gradient(grad, x, grad_x, rounded, a, thread, threads)
        if thread == 0:
            write(grad_rho, a.grad_rho, a)
            write(grad_weight, a.grad_weight, a)
            write(grad_bias, a.grad_bias, a)

    return backward


@compiled
def find_terms(a):
    """What the coefficients depend on, as values: memory would be read again after each number that is written."""
    return Terms(
        a.samples, a.channels, a.size, a.num_groups, a.blend_statistics, a.unbiased, a.eps, a.gate, a.per_channel,
        a.running,
    )  # fmt: skip


@compiled
def find_place(a):
    """The number of this thread, and how many there are."""
    if a.threads == 1:
        return 0, 1
    return np.int64(_thread_number()), np.int64(_team_size())


@compiled
def wait(threads):
    """Wait until all threads are here."""
    if threads > 1:
        _wait_for_team()


@compiled
def map_at(address, a, dtype):
    """The numbers of a map, as they lie in memory."""
    return carray(pointer(address), a.samples * a.channels * a.size, dtype)


@compiled
def table_at(address, size):
    """Numbers in float64."""
    return carray(pointer(address), size, np.float64)


@compiled
def workspace(a, thread, dtype):
    """The sums over blocks, which all threads share, and the parts of a thread's own workspace."""
    count, rows = a.samples * a.channels, a.rows
    partial = carray(pointer(a.work), (2, a.cuts, count), np.float64)
    address = a.work + 8 * (partial.size + thread * a.own)
    channels = carray(pointer(address), (6, a.channels), np.float64)
    address += 8 * channels.size
    mix = carray(pointer(address), (rows, a.channels), np.float64)
    address += 8 * mix.size
    grad_mix = carray(pointer(address), (rows, a.channels), np.float64)
    address += 8 * mix.size
    rho = carray(pointer(address), a.rho_size, np.float64)
    address += 8 * rho.size
    grad_rho = carray(pointer(address), a.rho_size, np.float64)
    address += 8 * rho.size
    tables = carray(pointer(address), (8, count), np.float64)
    address += 8 * tables.size
    rounded = carray(pointer(address), (5, count), dtype)
    address += 8 * rounded.size
    scratch = carray(pointer(address), (5, a.row), dtype)
    return partial, channels, mix, grad_mix, rho, grad_rho, tables, rounded, scratch


def own_size(samples, channels, rows, rho_size, row):
    """How many numbers of 8 bytes a thread's own workspace holds."""
    return channels * (6 + 2 * rows) + 2 * rho_size + 13 * samples * channels + 5 * row


@compiled
def read_parameters(channels, rho, a):
    """Copy weight, bias and running statistics to the rows of ``channels`` and the gate to ``rho``, in float64."""
    read(a.weight, 1.0, channels[0], a)
    read(a.bias, 0.0, channels[1], a)
    read(a.running_mean, 0.0, channels[2], a)
    read(a.running_var, 1.0, channels[3], a)
    read(a.rho, 0.0, rho, a)


@compiled
def read(address, default, numbers, a):
    """Copy a parameter, or what takes the place of one that there is not."""
    if address == 0:
        fill(numbers, default)
    elif a.doubles:
        copy(carray(pointer(address), numbers.size, np.float64), numbers)
    else:
        copy(carray(pointer(address), numbers.size, np.float32), numbers)


@compiled
def write(numbers, address, a):
    """Copy a gradient to where it belongs, if to anything, in the dtype of the parameters."""
    if address == 0:
        return
    if a.doubles:
        copy(numbers, carray(pointer(address), numbers.size, np.float64))
    else:
        copy(numbers, carray(pointer(address), numbers.size, np.float32))


@compiled
def copy(numbers, to):
    """``to[:] = numbers``, which takes long to compile."""
    for i in range(numbers.size):
        to[i] = numbers[i]


@compiled
def sum_channels(table, channels):
    """Sum a table over its samples."""
    fill(channels, 0.0)
    for first in range(0, table.size, channels.size):
        for c in range(channels.size):
            channels[c] += table[first + c]


@intrinsic
def pointer(typing_context, address):
    """An address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate
