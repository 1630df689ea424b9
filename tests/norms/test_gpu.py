"""The layers on a CUDA device: against float64 on the CPU, in graphs, and in what they ask of the device."""

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from monai_iln.norms import (
    BatchInstanceNorm,
    InstanceLayerNorm,
    MixtureNorm,
    SpatialLayerNorm,
    SwitchableNorm,
    UGATITInstanceLayerNorm,
)
from monai_iln.norms.operator import choose_backend

LAYERS = {
    "ILN": lambda c: InstanceLayerNorm(c, num_groups=4),
    "ILN per channel": lambda c: InstanceLayerNorm(c, num_groups=4, gate="softmax", gate_scope="channel"),
    "layer": SpatialLayerNorm,
    "BIN": BatchInstanceNorm,
    "U-GAT-IT": UGATITInstanceLayerNorm,
    "switchable": SwitchableNorm,
    "four": lambda c: MixtureNorm(c, ["instance", "layer", ("group", {"num_groups": 2}), "batch"]),
    "groups": lambda c: MixtureNorm(c, [("group", {"num_groups": 8}), "layer"], then=("group", {"num_groups": 8})),
    "not affine": lambda c: InstanceLayerNorm(c, num_groups=4, affine=False),
}
SHAPES = {
    "2d": (3, 48, 33, 31),
    "large": (2, 32, 256, 256),
    "3d": (2, 16, 20, 24, 28),
    "one": (1, 16, 64, 64),
    "deep": (2, 512, 4, 4),
    "no space": (5, 32),
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def results(layer, x, cotangent):
    """The output, and the gradients in the input and all parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], cotangent.to(y.dtype))]


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_close(actual, expected, tolerance):
    for one, other in zip(actual, expected, strict=True):
        size = other.abs().max().clamp(min=1.0)
        torch.testing.assert_close(one.double().cpu() / size, other / size, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_layers(name, shape):
    check(LAYERS[name], shape, torch.float32)


@pytest.mark.parametrize("name", ["ILN", "four"])
@pytest.mark.parametrize("shape", [SHAPES["2d"], SHAPES["3d"]], ids=["2d", "3d"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_dtypes_and_layouts(name, shape, dtype, last):
    check(LAYERS[name], shape, dtype, last)


def check(make, shape, dtype, last=False):
    """A layer that has been trained, in both modes, against its twin in float64 on the CPU."""
    layer = make(shape[1])
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter += 0.3 * random(parameter.shape, number).abs() * (1 - 2 * (parameter > 0.9))
    twin, layer = copy.deepcopy(layer).cuda(), layer.double()
    if dtype == torch.float64:
        twin.double()
    x = (random(shape, 7) * 2 + 3).to(dtype)
    cotangent = random(shape, 8).to(dtype)
    format_ = torch.contiguous_format
    if last:
        format_ = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    there = x.cuda().contiguous(memory_format=format_)
    assert choose_backend(there).__name__.endswith("cuda")
    for training in (True, False):
        actual = results(twin.train(training), there, cotangent.cuda())
        assert_close(actual, results(layer.train(training), x.double(), cotangent.double()), TOLERANCE[dtype])
        assert actual[0].is_contiguous(memory_format=format_)
    for one, other in zip(twin.buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(one.double().cpu(), other.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled(name, dtype):
    """Between two functions that the compiler fuses it with, both smooth: rounding must not change a sign."""
    torch._dynamo.reset()
    network = torch.nn.Sequential(torch.nn.Softplus(), LAYERS[name](32), torch.nn.Tanh()).to("cuda", dtype)
    x, cotangent = random((3, 32, 40, 36), 0).to(dtype), random((3, 32, 40, 36), 1).to(dtype)
    twin = copy.deepcopy(network)  # in the same dtype: it rounds about where the compiled network does
    actual = results(torch.compile(network, fullgraph=True), x.cuda(), cotangent.cuda())
    expected = results(twin, x.cuda(), cotangent.cuda())
    if dtype == torch.bfloat16:  # what is rounded before it is summed may cancel in the gradients of parameters
        actual, expected = actual[:2], expected[:2]
    assert_close(actual, [result.double().cpu() for result in expected], 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_graph_has_all_of_it(make):
    """What waits for the device, or copies from the host, cannot be captured."""
    layer = make(32).cuda()
    x, cotangent = random((2, 32, 24, 20), 0).float().cuda(), random((2, 32, 24, 20), 1).float().cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            results(layer, x, cotangent)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(layer, x, cotangent)
    x.copy_(random(x.shape, 2))
    graph.replay()
    expected = results(copy.deepcopy(layer), x, cotangent)
    for one, other in zip(captured, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("name", "most"), [("ILN", 3), ("layer", 3), ("U-GAT-IT", 3), ("groups", 4), ("BIN", 4)])
@pytest.mark.parametrize("shape", [(2, 32, 256, 256), (8, 256, 16, 16)], ids=str)
def test_launches(name, most, shape):
    layer = LAYERS[name](shape[1]).cuda().eval()
    x, cotangent = random(shape, 0).float().cuda().requires_grad_(), random(shape, 1).float().cuda()
    inputs = [x, *layer.parameters()]
    torch.autograd.grad(layer(x), inputs, cotangent)
    if name == "BIN":  # running statistics are copied
        most = 5
    y = layer(x)
    for work in (lambda: layer(x), lambda: torch.autograd.grad(y, inputs, cotangent)):
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
        launched = [e.name for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        assert 1 <= len(launched) <= most, launched


def test_the_operator_as_torch_checks_it():
    x = random((2, 8, 5, 6), 0).cuda().requires_grad_()
    rho, weight, bias = (random((n,), 1).cuda().requires_grad_() for n in (1, 8, 8))
    arguments = (x, rho, weight, bias, None, None, [8, 1], 4, False, False, 1e-3, "sigmoid", False)
    torch.library.opcheck(torch.ops.monai_iln.mixture_norm, arguments)


def test_a_large_mean_costs_no_digits():
    layer = InstanceLayerNorm(32, num_groups=8)
    x, cotangent = (random((2, 32, 128, 128), 0) + 1e4).float(), random((2, 32, 128, 128), 1)
    actual = results(copy.deepcopy(layer).cuda(), x.cuda(), cotangent.float().cuda())
    assert_close(actual, results(layer.double(), x.double(), cotangent), 1e-5)


def test_what_is_not_finite_stays_in_its_sample():
    layer = InstanceLayerNorm(32, num_groups=8).cuda()
    x = torch.randn(3, 32, 40, 40, device="cuda")
    x[1, 3, 4, 5] = torch.nan
    y, grad_x, *_ = results(layer, x, torch.randn_like(x))
    assert y[[0, 2]].isfinite().all()
    assert grad_x[[0, 2]].isfinite().all()


def test_memory_that_is_not_aligned():
    layer = InstanceLayerNorm(16, num_groups=4).cuda()
    memory = torch.randn(2 * 16 * 32 * 32 + 1, device="cuda")
    x, cotangent = memory[1:].view(2, 16, 32, 32), torch.randn(2, 16, 32, 32, device="cuda")
    aligned = results(layer, x.clone(), cotangent)
    assert_close(results(layer, x, cotangent), [result.double().cpu() for result in aligned], 2e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one():
    layer = InstanceLayerNorm(16, num_groups=4)
    x, cotangent = torch.randn(2, 16, 32, 32), torch.randn(2, 16, 32, 32)
    there = copy.deepcopy(layer).to("cuda:1")
    with torch.cuda.device(0):
        actual = results(there, x.to("cuda:1"), cotangent.to("cuda:1"))
    assert_close(actual, results(layer.double(), x.double(), cotangent.double()), 2e-5)


def test_no_compiler_is_no_reason_to_fail(monkeypatch):
    from monai_iln.norms.backends import cuda, reference

    def broken(*_, **__):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(cuda, "works", cuda.functools.cache(cuda.works.__wrapped__))
    monkeypatch.setattr(cuda.cuda_kernels, "apply", {(1, 1, 1): broken})
    x = torch.randn(2, 16, 8, 8, device="cuda")
    with pytest.warns(UserWarning, match="Triton cannot run kernels on cuda:0 .no C compiler."):
        assert choose_backend(x) is reference
    assert choose_backend(x) is reference  # and says so once
