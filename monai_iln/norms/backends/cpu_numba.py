"""The operator on CPU, compiled by numba: one call forward and one backward, on the threads that torch itself uses.

The kernels are those of :mod:`~monai_iln.norms.backends.cpu_kernels`. A second pool of threads would compete with
torch's for the same cores, so a kernel is handed to the OpenMP library that torch has loaded.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_iln.norms.backends import PARAMETERS, check_sizes, cpu_kernels, find_size, memory_format
from monai_iln.norms.backends.cpu_build import DTYPES, OPENMP, build
from monai_iln.norms.backends.cpu_coefficients import GATES
from monai_iln.norms.coefficients import Mixture
from monai_iln.norms.moments import working_dtype

GRAIN = 16384  # numbers of a map for each thread: below, waking it takes longer than what it does
BLOCK = 4096  # numbers of a block, of which several fit the first-level cache
ROW = 256  # numbers that are read together where channels are neighbours: enough to be vectorized

_ADDRESSES = struct.Struct(f"{len(cpu_kernels.ADDRESSES)}q")
_SETTINGS = "".join("d" if name == "eps" else "q" for name in cpu_kernels.SETTINGS)
_CPU = torch.device("cpu")  # whatever the default device is


def takes(x: Tensor) -> bool:
    """Whether ``x`` has values, and lies in memory without gaps, contiguous or channels_last."""
    return x.numel() > 0 and memory_format(x) is not None and not x.is_neg()


def forward(
    x: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One pass for the statistics, one to apply ``y = A (x - m) + B``."""
    source = _plain(x)
    y = torch.empty_like(source)
    moments = torch.empty((2, *x.shape[:2]), dtype=torch.float64, device=_CPU)
    parameters, sizes, doubles = _read(source.dtype, rho, weight, bias, running_mean, running_var)
    _run("forward", source, None, y, moments, parameters, sizes, doubles, (None, None, None), mixture)
    return (y if source is x else y.to(x.dtype)), moments


def backward(
    grad: Tensor, x: Tensor, moments: Tensor, rho: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    running_mean: Tensor | None, running_var: Tensor | None, mixture: Mixture,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """``dx = A dy + dm / S + 2 dv (x - m) / S``, with ``dm`` and ``dv`` from the sums of ``dy`` and ``dy (x - m)``."""
    source = _plain(x)
    layout = memory_format(source)
    if layout is None:  # what a hook of saved tensors made of it
        source, layout = source.contiguous(), torch.contiguous_format
    if type(grad) is not Tensor or grad.dtype is not source.dtype or memory_format(grad) is not layout or grad.is_neg():
        grad = grad.as_subclass(Tensor).to(source.dtype).resolve_neg().contiguous(memory_format=layout)
    grad_x = torch.empty_like(source)
    parameters, sizes, doubles = _read(source.dtype, rho, weight, bias, running_mean, running_var)
    grads = [None if tensor is None else torch.empty_like(tensor) for tensor in parameters[:3]]
    _run("backward", source, grad, grad_x, moments, parameters, sizes, doubles, grads, mixture)
    grad_rho, grad_weight, grad_bias = grads
    return (grad_x if source is x else grad_x.to(x.dtype)), grad_rho, grad_weight, grad_bias


def _plain(x: Tensor) -> Tensor:
    """``x`` in a dtype that the kernels know, without the class that would take part in every line."""
    if type(x) is Tensor and x.dtype in DTYPES:  # each call of torch counts, even if it does nothing
        return x
    return x.as_subclass(Tensor).to(working_dtype(x))


def _run(
    name: str, x: Tensor, grad: Tensor | None, result: Tensor, moments: Tensor, parameters: tuple[Tensor | None, ...],
    sizes: tuple[int, ...], doubles: bool, grads: Sequence[Tensor | None], mixture: Mixture,
) -> None:  # fmt: skip
    """Call a kernel on one thread, or on as many as torch would use."""
    _, samples, channels = moments.shape
    numbers = x.numel()
    size = numbers // (samples * channels)
    threads = 1
    if OPENMP is not None and numbers >= 2 * GRAIN:
        threads = min(torch.get_num_threads(), numbers // GRAIN)
    interleaved = size == 1 or not x.is_contiguous()
    work_size, settings = _plan(
        samples, channels, size, interleaved, threads, sizes, doubles, tuple(mixture.components), *mixture[1:]
    )  # fmt: skip
    work = torch.empty(work_size, dtype=torch.float64, device=_CPU)
    tensors = (x, grad, result, moments, *parameters, *grads, work)
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    arguments = _ADDRESSES.pack(*addresses) + settings
    kernel = build(name, x.dtype, interleaved)
    if threads > 1:
        OPENMP.GOMP_parallel(kernel.address, arguments, threads, 0)
    else:
        kernel.ctypes(arguments)


def _read(dtype: torch.dtype, *parameters: Tensor | None) -> tuple[tuple[Tensor | None, ...], tuple[int, ...], bool]:
    """The parameters without gaps, their sizes, and whether all are in float64, as for a map in it, or in float32."""
    doubles, plain = dtype is torch.float64, True
    sizes: list[int] = []
    for name, tensor in zip(PARAMETERS, parameters, strict=True):
        sizes.append(find_size(name, tensor))
        if tensor is not None:
            doubles |= tensor.dtype is not torch.float32
            plain &= tensor.is_contiguous() and not tensor.is_neg()
    if plain and not doubles:
        return parameters, tuple(sizes), doubles
    dtype = torch.float64 if doubles else torch.float32
    copies = [None if tensor is None else tensor.to(dtype).resolve_neg().contiguous() for tensor in parameters]
    return tuple(copies), tuple(sizes), doubles


@functools.lru_cache(1024)
def _plan(
    samples: int, channels: int, size: int, interleaved: bool, threads: int, sizes: tuple[int, ...],
    doubles: bool, components: tuple[int, ...], num_groups: int, blend_statistics: bool, unbiased: bool, eps: float,
    gate: str, per_channel: bool,
) -> tuple[int, bytes]:  # fmt: skip
    """The size of the workspace in numbers of 8 bytes, and what a kernel is told beside addresses."""
    mixture = Mixture(list(components), num_groups, blend_statistics, unbiased, eps, gate, per_channel)
    check_sizes(channels, sizes, mixture)
    rho_size, running = sizes[0], sizes[3] > 0
    width, positions, row = 1, BLOCK, 0
    if interleaved:
        width, positions, row = channels, max(64, 2 * BLOCK // channels), channels * max(1, ROW // channels)
    cuts = -(-size // positions)
    rows = len(components) * (2 if blend_statistics else 1)
    own: int = cpu_kernels.own_size(samples, channels, rows, rho_size, row)  # type: ignore[no-untyped-call]
    settings = struct.pack(
        f"{_SETTINGS}{len(components)}q",
        eps, samples, channels, size, width, positions, cuts, row, threads, own, rho_size, doubles, rows,
        len(components), num_groups, blend_statistics, unbiased, GATES[gate], per_channel, running, *components,
    )  # fmt: skip
    return 2 * cuts * samples * channels + threads * own, settings
