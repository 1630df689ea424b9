"""Both backends on CPU against the definition in float64: torch's kernels with NumPy, and what numba compiles."""

import importlib.util
import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader

from monai_iln import ILN
from monai_iln.norms.backends import cpu
from monai_iln.norms.coefficients import BATCH, Mixture
from monai_iln.norms.operator import choose_backend, load_kernels, mixture_norm_reference

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba: pip install numba")
BACKENDS = load_kernels("cpu")
# What rounding the input to the dtype leaves of it; float32 sums a few thousand products.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
C = 12
ILN_MIXTURE = Mixture([C, 1], 4, False, False, 1e-3, "sigmoid", False)
MIXTURES = {
    "sigmoid": ILN_MIXTURE,
    "clip": ILN_MIXTURE._replace(gate="clip"),
    "projected, of each channel": ILN_MIXTURE._replace(gate="projected", per_channel=True, num_groups=0),
    "softmax, of each channel": ILN_MIXTURE._replace(components=[C, 4, BATCH], gate="softmax", per_channel=True),
    "one component": ILN_MIXTURE._replace(components=[1], num_groups=0),
    "one channel a group": ILN_MIXTURE._replace(num_groups=C),
    "unbiased": ILN_MIXTURE._replace(components=[BATCH, 1], unbiased=True, num_groups=0),
    "four": ILN_MIXTURE._replace(components=[C, 1, 4, BATCH], gate="softmax", num_groups=3),
    "groups": ILN_MIXTURE._replace(components=[6, 2]),
    "batch": ILN_MIXTURE._replace(components=[BATCH, C], gate="clip", per_channel=True),
    "statistics": ILN_MIXTURE._replace(components=[C, 1, BATCH], gate="softmax", blend_statistics=True, num_groups=0),
    "unbiased statistics": ILN_MIXTURE._replace(
        components=[BATCH, 4, C], gate="softmax", blend_statistics=True, unbiased=True
    ),
}
LAYOUTS = {
    "1d": (3, C, 33),
    "2d": (2, C, 7, 9),
    "3d": (2, C, 5, 4, 3),
    "no space": (5, C),
    "one pixel": (2, C, 1, 1),
    "several blocks": (2, C, 90, 100),
}


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(shape, mixture, affine=True, running=False, memory_format=torch.contiguous_format):
    """Channels that differ in mean and scale, and parameters; some of the gates that are clipped lie outside [0, 1]."""
    spread = torch.linspace(0.5, 2, C, dtype=torch.float64).view(-1, *[1] * (len(shape) - 2))
    x = (spread * (6 * random(*shape) - 2 + spread)).contiguous(memory_format=memory_format)
    gates = C if mixture.per_channel else 1
    rho = 1.6 * random(gates, seed=1) - 0.3
    if mixture.blend_statistics:
        rho = random(2, len(mixture.components), 1, seed=1)
    elif mixture.gate == "softmax":
        rho = random(len(mixture.components), gates, seed=1)
    elif len(mixture.components) == 1:
        rho = None
    weight, bias = (random(C, seed=seed) - 0.4 for seed in (2, 3)) if affine else (None, None)
    mean, variance = (random(C, seed=seed) + 0.2 for seed in (4, 5)) if running else (None, None)
    return x, rho, weight, bias, mean, variance, mixture


def run(backend, operands, dtype, parameter_dtype=None):
    """The output and the gradients in x, rho, weight and bias for a random cotangent."""
    x, *parameters, mixture = operands
    x = x.to(dtype)
    parameters = [None if t is None else t.to(parameter_dtype or torch.float64) for t in parameters]
    y, moments = backend.forward(x, *parameters, mixture)
    cotangent = (2 * random(*x.shape, seed=6) - 1).to(dtype)
    grads = backend.backward(cotangent, x, moments, *parameters, mixture)
    assert y.dtype == grads[0].dtype == dtype
    assert y.stride() == grads[0].stride() == x.stride()
    return [y, *(grad for grad, t in zip(grads, [x, *parameters], strict=False) if t is not None)]


def truth(operands, dtype, parameter_dtype=None):
    """The same from the definition in float64."""
    x, *parameters, mixture = operands
    x = x.to(dtype).double().clone()
    parameters = [None if t is None else t.to(parameter_dtype or torch.float64).double().clone() for t in parameters]
    leaves = [t.requires_grad_() for t in [x, *parameters[:3]] if t is not None]
    y = mixture_norm_reference(x, *parameters, mixture)[0]
    cotangent = (2 * random(*x.shape, seed=6) - 1).to(dtype).double()
    return [y, *torch.autograd.grad(y, leaves, cotangent)]


def assert_same(actual, expected, tolerance):
    for one, other in zip(actual, expected, strict=True):
        size = other.abs().max().clamp(min=1.0)  # sums of terms that cancel are as exact as the terms
        torch.testing.assert_close(one.double() / size, other.double() / size, rtol=0, atol=tolerance)


@pytest.fixture
def threads():
    """Set the number of threads, and set it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__.split(".")[-1])
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_mixture(backend, mixture, dtype):
    for affine in (True, False):
        for running in (True, False):
            operands = make((3, C, 5, 6), mixture, affine, running)
            assert_same(run(backend, operands, dtype), truth(operands, dtype), TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__.split(".")[-1])
@pytest.mark.parametrize("shape", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_layout_and_dtype(backend, shape, dtype):
    mixture = MIXTURES["four"]
    layouts = {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(len(shape), [])
    for layout in [torch.contiguous_format, *layouts]:
        operands = make(shape, mixture, memory_format=layout)
        for parameters in (torch.float32, torch.bfloat16):
            assert_same(run(backend, operands, dtype, parameters), truth(operands, dtype, parameters), TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__.split(".")[-1])
@pytest.mark.parametrize("offset", [1e2, 1e4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_large_mean_costs_no_digits(backend, offset, memory_format):
    x, *others = make((2, C, 70, 80), ILN_MIXTURE)
    x[:, :, 0] -= offset  # the first values do not tell the mean of all
    operands = ((x + offset).contiguous(memory_format=memory_format), *others)
    assert_same(run(backend, operands, torch.float32), truth(operands, torch.float32), 1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_sample(memory_format, strange):
    x = random(2, C, 70, 80).float().contiguous(memory_format=memory_format)
    x[1, 3, 2, 2] = strange
    layer = ILN(C, 4)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    (grad,) = torch.autograd.grad(y, leaf, torch.randn(y.shape))
    for result in (y, grad):
        assert result[0].isfinite().all()
        assert not result[1].isfinite().any()  # through the layer part


@needs_numba
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("largest", [1e19, 1e38])
def test_squares_that_overflow(memory_format, largest):
    operands = list(make((2, C, 70, 80), ILN_MIXTURE, memory_format=memory_format))
    operands[0] = operands[0] * (largest / operands[0].abs().max())
    assert_same(run(BACKENDS[0], operands, torch.float32)[:1], truth(operands, torch.float32)[:1], 1e-5)


@needs_numba
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_channel_whose_squares_overflow_costs_others_no_digits(memory_format):
    x = random(2, C, 70, 80) - 0.5
    x[:, 1:6] *= 1e-3
    x[:, 6:] += 1e3
    x[0, 0, :5] *= 1e25  # in the first block alone
    alone = ILN_MIXTURE._replace(num_groups=C, eps=1e-12)  # instance norm: no channel counts for another
    operands = (x.contiguous(memory_format=memory_format), *make(x.shape, alone)[1:])
    actual, expected = run(BACKENDS[0], operands, torch.float32), truth(operands, torch.float32)
    for channel in range(C):  # each by its own size
        assert_same([actual[0][:, channel]], [expected[0][:, channel]], 1e-5)
        scale = expected[1][:, channel].abs().max()
        assert_same([actual[1][:, channel] / scale], [expected[1][:, channel] / scale], 1e-5)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.__name__.split(".")[-1])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("pattern", ["the first rows", "the last rows", "every other"])
def test_parts_of_a_map_far_from_one_another(backend, memory_format, pattern):
    x, *others = make((2, C, 200, 100), ILN_MIXTURE)
    rows = {"the first rows": slice(0, 20), "the last rows": slice(180, 200), "every other": slice(0, 200, 2)}[pattern]
    x[:, :, rows] += 1e4
    operands = ((x + 1e4).contiguous(memory_format=memory_format), *others)
    assert_same(run(backend, operands, torch.float32), truth(operands, torch.float32), 1e-5)


@needs_numba
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_any_number_of_threads_gives_the_same(threads, mixture, memory_format):
    operands = make((2, C, 70, 80), mixture, memory_format=memory_format)
    results = []
    for number in (1, 2, 3, 7):
        threads(number)
        results.append(run(BACKENDS[0], operands, torch.float32))
    for other in results[1:]:
        assert_same(other, results[0], 1e-6)


@needs_numba
def test_one_thread_and_small_maps_leave_openmp_alone(monkeypatch, threads):
    calls = []

    class Spy:
        def GOMP_parallel(self, address, arguments, number, flags):  # noqa: N802
            calls.append(number)
            openmp.GOMP_parallel(address, arguments, number, flags)

    openmp = BACKENDS[0].OPENMP
    monkeypatch.setattr(BACKENDS[0], "OPENMP", Spy())
    layer, large, small = ILN(C, 4), random(1, C, 128, 128).float(), random(1, C, 16, 16).float()
    threads(1)
    layer(large)
    threads(2)
    layer(small)
    assert calls == []
    layer(large)
    assert calls == [2]


@needs_numba
def test_without_openmp_one_thread_does_everything(monkeypatch, threads):
    threads(2)
    operands = make((2, C, 70, 80), ILN_MIXTURE)
    monkeypatch.setattr(BACKENDS[0], "OPENMP", None)
    assert_same(run(BACKENDS[0], operands, torch.float32), truth(operands, torch.float32), 1e-5)


def test_several_python_threads_at_once(threads):
    threads(2)
    layer, x = ILN(C, 4), random(1, C, 128, 128).float()
    expected = layer(x)
    with ThreadPoolExecutor(4) as pool:
        for y in pool.map(lambda _: layer(x), range(32)):
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


class Normalized(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        with torch.no_grad():
            return ILN(C, 4)(random(1, C, 128, 128, seed=index).float())[0]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_workers_that_were_forked_after_use(threads):
    threads(2)
    expected = [Normalized()[index] for index in range(4)]
    loader = DataLoader(Normalized(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for y, other in zip(loader, expected, strict=True):
        torch.testing.assert_close(y, other, rtol=0, atol=1e-6)


def test_without_numba_everything_works_as_before(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    load_kernels.cache_clear()
    try:
        assert choose_backend(torch.randn(2, C, 4)) is cpu
    finally:
        load_kernels.cache_clear()


@needs_numba
def test_what_the_kernels_leave_to_others():
    x = random(2, C, 4, 6)
    compiled = BACKENDS[0]
    assert compiled.takes(x)
    assert compiled.takes(x.contiguous(memory_format=torch.channels_last))
    assert not compiled.takes(x[..., ::2])
    assert not compiled.takes(x.transpose(2, 3))
    assert not compiled.takes(x[:0])
    assert not compiled.takes(torch.view_as_complex(torch.stack((x, x), -1)).conj().imag.view_as(x))


@needs_numba
def test_where_no_folder_can_be_written_to(monkeypatch):
    import numba

    from monai_iln.norms.backends import cpu_build

    def cfunc(signature, cache=False):
        def compiler(function):
            if cache:
                raise RuntimeError("cannot cache function 'forward': no locator available for file 'cpu_kernels.py'")
            return "compiled"

        return compiler

    monkeypatch.setattr(numba, "cfunc", cfunc)
    assert cpu_build.build.__wrapped__("forward", torch.float32, False) == "compiled"


CACHED = """
import numpy, torch
from monai_iln.norms.backends import cpu_build
print(cpu_build.build("forward", torch.float32, False).cache_hits)
"""


@needs_numba
@pytest.mark.slow
def test_kernels_are_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    for hits in (0, 1):
        process = subprocess.run([sys.executable, "-c", CACHED], capture_output=True, text=True, check=True)
        assert int(process.stdout) == hits
