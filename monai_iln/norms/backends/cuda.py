"""The operator on CUDA: which kernels are launched, over which tiles.

Three launches forward (moments, coefficients, application) and three backward (sums, coefficients, gradients), and
nothing else on the device, for every mixture of instance norm, layer norm and the groups of the normalization after the
blend, which ILN is. Batch norm, which needs the other samples, and other groups take one more each way.
"""

from __future__ import annotations

import functools
import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from monai_iln.norms.backends import (
    PARAMETERS,
    check_sizes,
    cuda_coefficients,
    cuda_gradients,
    cuda_kernels,
    cuda_pools,
    find_size,
    memory_format,
)
from monai_iln.norms.coefficients import BATCH, Mixture

MOST_PLANS = 1024  # that are remembered
PROGRAMS = 2048  # enough to fill a large GPU several times over
ELEMENTS = 2048  # of a program's tile
COEFFICIENTS = 2048  # of a program's tile of tables
CHANNELS = 64  # of a program's tile where the channels are last, or where they are summed


class Launch:
    """A kernel on one grid, with all its arguments but the tensors.

    Triton takes 30 microseconds to look at arguments and to find what it compiled for them. What it found serves as
    long as nothing but the addresses of tensors changes, and these can all be divided by 16, which it compiles for.
    Hooks of Triton's own profiler see the first launch alone; those of CUDA see all.
    """

    def __init__(self, kernel: Any, grid: tuple[int, int, int], *arguments: Any, warps: int = 4) -> None:
        self.kernel = kernel
        self.grid = grid
        self.arguments = arguments
        self.warps = warps
        self.run: Any = None
        self.settings: tuple[Any, ...] = ()

    def __call__(self, stream: int | None, *tensors: Tensor | None) -> None:
        """Launch on a stream; without one, after a look at all arguments, on torch's current stream."""
        if stream is not None and self.run is not None:
            addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
            self.run(*self.grid, stream, *self.settings, *addresses, *self.arguments)
            return
        compiled = self.kernel[self.grid](*tensors, *self.arguments, num_warps=self.warps)
        if stream is not None and compiled is not None:  # Triton's interpreter compiles nothing
            self.settings = compiled.function, compiled.packed_metadata, None, None, None
            self.run = compiled.run  # the last: another thread may launch as soon as it is there


class Plan(NamedTuple):
    """What is launched for inputs of one kind, and how many numbers ``scratch`` has room for.

    ``merge`` and ``pool`` are there if one sample must know the others, or a group other channels.
    """

    moments: Launch
    merge: Launch | None
    coefficients: Launch
    apply: Launch
    forward_size: int
    sums: Launch
    coefficients_backward: Launch
    pool: Launch | None
    gradients: Launch
    backward_size: int


def make_plan(shape: torch.Size, channels_last: bool, dtypes: tuple[torch.dtype | None, ...], mixture: Mixture) -> Plan:
    """The launches for inputs of one kind, which is all that Triton compiles for."""
    samples, channels, size = shape[0], shape[1], math.prod(shape[2:])
    wide_c, wide_s = triton.next_power_of_2(channels), triton.next_power_of_2(size)
    # The axis that is contiguous in memory first, so that neighbouring threads read neighbouring values.
    if channels_last:
        block_c = min(wide_c, CHANNELS)
        block_s = min(wide_s, ELEMENTS // block_c)
    else:
        block_s = min(wide_s, ELEMENTS)
        block_c = min(wide_c, ELEMENTS // block_s)
    programs = samples * triton.cdiv(channels, block_c)
    splits = max(1, min(triton.cdiv(size, block_s), PROGRAMS // programs))
    chunk = triton.cdiv(triton.cdiv(size, splits), block_s) * block_s
    splits = triton.cdiv(size, chunk)
    grid = samples, triton.cdiv(channels, block_c), splits
    acc = tl.float64 if dtypes[0] == torch.float64 else tl.float32
    tile = acc, block_c, block_s, channels_last

    sizes = samples, channels, size
    known = describe(samples, channels, splits, dtypes[-1] is not None, mixture)
    codes, others, (gate_step, gate_stride) = known.codes, known.others, known.gate
    blend = (*sizes, splits, *known.gate, *known.blend)
    gate = len(codes), mixture.blend_statistics, mixture.gate, mixture.per_channel
    few = min(wide_c, CHANNELS)
    merge = pool = None
    if others:
        by_channels, members = (samples, triton.cdiv(channels, few), 1), COEFFICIENTS // few
        merge = Launch(cuda_coefficients.merge, by_channels, *sizes, splits, block_s, few, members)
        pool = Launch(
            cuda_gradients.pool_backward, by_channels, *sizes, splits, codes, len(codes), mixture.blend_statistics,
            few, members,
        )  # fmt: skip
    each = samples, 1, 1
    one_more = samples + 1, grid[1], splits
    return Plan(
        Launch(cuda_kernels.moments, grid, *sizes, *tile),
        merge,
        Launch(cuda_coefficients.coefficients, each, *blend, others, block_s, *known.blocks, warps=8),
        Launch(cuda_kernels.apply, grid, *sizes, *tile),
        (2 * splits + 2) * samples * channels,
        Launch(cuda_kernels.sums, grid, *sizes, *tile),
        Launch(cuda_gradients.coefficients_backward, each, *blend, *known.blocks, warps=8),
        pool,
        Launch(cuda_gradients.gradients, one_more, *sizes, gate_step, gate_stride, *tile, *gate, few),
        (2 * splits + known.tables) * samples * channels,
    )


class Description(NamedTuple):
    """A mixture as the kernels of coefficients know it.

    Attributes:
        codes: The components.
        others: Whether one sample must know the others, or a group other channels.
        gate: The strides of the gate, from channel to channel and from row to row.
        blend: The arguments that the kernels of both directions share.
        blocks: The sizes of their tiles.
        tables: The tables that the kernel of the backward direction writes.
    """

    codes: tuple[int, ...]
    others: bool
    gate: tuple[int, int]
    blend: tuple[Any, ...]
    blocks: tuple[int, int, int]
    tables: int


def describe(samples: int, channels: int, splits: int, running: bool, mixture: Mixture) -> Description:
    """Describe a mixture for the kernels; ``splits`` is the number of chunks that a map is read in."""
    codes = tuple(_code(component, channels, running, mixture.num_groups) for component in mixture.components)
    others = any(code == 0 or code > 1 for code in codes)
    groups = max(mixture.num_groups, 1)
    block_g, block_k = triton.next_power_of_2(groups), triton.next_power_of_2(channels // groups)
    most = max(splits, samples, channels // groups) if others else splits
    block_p = min(triton.next_power_of_2(most), max(1, COEFFICIENTS // (block_g * block_k)))
    blend = (
        codes, len(codes), mixture.num_groups, mixture.blend_statistics, mixture.unbiased, mixture.eps, mixture.gate,
    )  # fmt: skip
    rows = (2 if mixture.blend_statistics else 1) * len(codes) + 2
    exchanged = 3 * len(codes) if others else 0
    gate = (1, channels) if mixture.per_channel else (0, 1)
    return Description(codes, others, gate, blend, (block_g, block_k, block_p), 3 + rows + exchanged)


def _code(component: int, channels: int, running: bool, num_groups: int) -> int:
    """A component as the kernels know it."""
    if component == BATCH:
        return cuda_pools.RUNNING.value if running else BATCH
    if component == channels:
        return int(cuda_pools.INSTANCE.value)
    if component == num_groups and component > 1:
        return int(cuda_pools.SAME_GROUPS.value)
    return component


def _find_plan(x: Tensor, *parameters: Any) -> Plan:
    """The plan for inputs of one kind; it is asked for twice a layer and step, so it is looked up by as little."""
    *tensors, mixture = parameters
    kinds = [None if t is None else (t.dtype, t.numel(), t.get_device()) for t in tensors]
    components, *rest = mixture  # a list, which cannot be a part of a key
    device = x.get_device()
    key = x.shape, x.is_contiguous(), device, x.dtype, *kinds, *components, *rest
    plan = _PLANS.get(key)
    if plan is None:
        sizes = [find_size(name, tensor, device) for name, tensor in zip(PARAMETERS, tensors, strict=True)]
        check_sizes(x.shape[1], sizes, mixture)
        if len(_PLANS) >= MOST_PLANS:
            _PLANS.clear()
        dtypes = [None if t is None else t.dtype for t in tensors]
        plan = _PLANS[key] = make_plan(x.shape, not x.is_contiguous(), (x.dtype, *dtypes), mixture)
    return plan


_PLANS: dict[tuple[Any, ...], Plan] = {}


def takes(x: Tensor) -> bool:
    """Whether ``x`` has values and a layout that the kernels know, and Triton can build and run kernels there."""
    return x.numel() > 0 and memory_format(x) is not None and not x.is_neg() and works(x.device)


@functools.cache
def works(device: torch.device) -> bool:
    """Whether Triton can build and run a kernel on a device; says so once if not."""
    probe = torch.ones(4, 1, 1, dtype=torch.float64, device=device)
    try:
        with _on_device_of(probe):
            cuda_kernels.apply[(1, 1, 1)](probe[0], probe[1], probe[2], probe, 1, 1, 1, tl.float64, 1, 1, False)
        return True
    except Exception as error:  # compilers and drivers raise nearly anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        warnings.warn(
            f"monai_iln: Triton cannot run kernels on {device} ({reason}). Norms are computed by plain torch there, "
            "with the same results, more slowly. Remedy: install a C compiler, or a Triton that fits torch and GPU.",
            stacklevel=2,
        )
        return False


def _on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which the device of ``x`` is the current one, which Triton launches on."""
    device = x.get_device()
    if device < 0 or device == _current_device():
        return _NO_CHANGE
    return torch.cuda.device(device)


_NO_CHANGE = nullcontext()
# Of torch's bindings, which a build for the CPU lacks: its functions in Python around them take a microsecond longer.
_current_device: Any = getattr(torch._C, "_cuda_getDevice", None)
_current_stream: Any = getattr(torch._C, "_cuda_getCurrentRawStream", None)


def _read(maps: tuple[Tensor, ...], *parameters: Tensor | None) -> tuple[int | None, list[Tensor | None]]:
    """Torch's current stream, if all that others allocated begins at a multiple of 16 bytes, and gapless parameters."""
    bits = 0
    gapless: list[Tensor | None] = []
    for tensor in maps:
        bits |= tensor.data_ptr()
    for parameter in parameters:
        if parameter is not None:
            if not parameter.is_contiguous() or parameter.is_neg():
                parameter = parameter.resolve_neg().contiguous()
            bits |= parameter.data_ptr()
        gapless.append(parameter)
    if bits % 16 != 0:
        return None, gapless
    x = maps[0]
    return (_current_stream(x.get_device()) if x.is_cuda else 0), gapless


def forward(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The operator; see :func:`monai_iln.norms.operator.mixture_norm`."""
    plan = _find_plan(x, rho, weight, bias, running_mean, running_var, mixture)
    samples, channels = x.shape[:2]
    with _on_device_of(x):
        y = torch.empty_like(x)
        moments = x.new_empty((2, samples, channels), dtype=torch.float64)
        scratch = x.new_empty(plan.forward_size, dtype=torch.float64)
        stream, parameters = _read((x,), rho, weight, bias, running_mean, running_var)
        plan.moments(stream, x, scratch)
        if plan.merge is not None:
            plan.merge(stream, scratch, moments)
        plan.coefficients(stream, scratch, moments, *parameters)
        plan.apply(stream, x, y, moments, scratch)
    return y, moments


def backward(
    grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Its gradient."""
    plan = _find_plan(x, rho, weight, bias, running_mean, running_var, mixture)
    with _on_device_of(x):
        grad_x = torch.empty_like(x)
        if grad.stride() != grad_x.stride() or grad.is_neg():
            grad = torch.empty_like(x).copy_(grad)
        scratch = moments.new_empty(plan.backward_size)
        stream, (rho, *others) = _read((x, grad, moments), rho, weight, running_mean, running_var)
        grad_rho, grad_weight, grad_bias = (None if t is None else torch.empty_like(t) for t in (rho, weight, bias))
        plan.sums(stream, grad, x, moments, scratch)
        plan.coefficients_backward(stream, scratch, scratch, moments, rho, *others)
        if plan.pool is not None:
            plan.pool(stream, scratch)
        plan.gradients(stream, grad, x, grad_x, moments, scratch, rho, grad_rho, grad_weight, grad_bias)
    return grad_x, grad_rho, grad_weight, grad_bias
