"""The Triton kernels against the definition in float64: on a GPU if there is one, or in Triton's interpreter."""

import inspect

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton: pip install triton")

from monai_iln.norms.backends import cuda
from monai_iln.norms.coefficients import BATCH, Mixture
from monai_iln.norms.operator import mixture_norm_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# What rounding the input to the dtype leaves of it; float32 sums a few thousand products.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHAPES = {
    "1d": (3, 8, 33),
    "2d": (2, 8, 7, 9),
    "3d": (2, 8, 5, 4, 3),
    "no space": (5, 8),
    "one pixel": (2, 8, 1, 1),
    "channels not a power of 2": (2, 12, 5, 7),
    "several tiles": (1, 4, 70, 80),
}
ILN = Mixture([8, 1], 4, False, False, 1e-3, "sigmoid", False)
MIXTURES = {
    "sigmoid": ILN,
    "clip": ILN._replace(gate="clip"),
    "softmax": ILN._replace(gate="softmax"),
    "no groups": ILN._replace(num_groups=0),
    "one channel a group": ILN._replace(num_groups=8),
    "unbiased": ILN._replace(unbiased=True, num_groups=0),
    "batch": ILN._replace(components=[BATCH, 8]),
    "groups": ILN._replace(components=[4, 2]),
    "statistics": ILN._replace(components=[8, 1, BATCH], blend_statistics=True, unbiased=True, gate="softmax"),
}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def make(shape, mixture, per_channel=False, affine=True, seed=0):
    """An input of channels that differ, a gate, weight and bias."""
    channels = shape[1]
    spread = torch.linspace(0.5, 2, channels, dtype=torch.float64, device=DEVICE).view(-1, *[1] * (len(shape) - 2))
    x = spread * (6 * random(*shape, seed=seed) - 2 + spread)
    gates = channels if per_channel else 1
    if mixture.blend_statistics:
        rho = random(2, len(mixture.components), 1, seed=1)
    else:
        rho = random(*((len(mixture.components), gates) if mixture.gate == "softmax" else (gates,)), seed=1)
    weight, bias = (random(channels, seed=seed) - 0.4 for seed in (2, 3)) if affine else (None, None)
    return x, rho, weight, bias


def scale(components, channels):
    return [channels if component == 8 else component for component in components]


def check(x, rho, weight, bias, mixture, dtype=torch.float64):
    mixture = mixture._replace(components=scale(mixture.components, x.shape[1]))
    rounded = x.to(dtype)
    inputs = [t.double().requires_grad_() for t in (rounded, rho, weight, bias) if t is not None]
    parameters = (rho, weight, bias, None, None, mixture)
    y, mean, variance = cuda.forward(rounded, *parameters)
    reference = iter(inputs)
    expected, *_ = mixture_norm_reference(
        *(None if t is None else next(reference) for t in (x, rho, weight, bias)), None, None, mixture
    )
    cotangent = (2 * random(*x.shape, seed=4) - 1).to(dtype)
    grads = cuda.backward(cotangent, rounded, mean, variance, *parameters)
    truths = torch.autograd.grad(expected, inputs, cotangent.double())
    grads = [g for g, t in zip(grads, (x, rho, weight, bias), strict=True) if t is not None]
    assert y.dtype == dtype
    assert y.stride() == rounded.stride()
    for actual, truth in zip([y, *grads], [expected, *truths], strict=True):
        # Relative to the largest: sums of cancelling terms are as exact as the terms.
        size = truth.abs().max().clamp(min=1.0)
        torch.testing.assert_close(actual.double() / size, truth / size, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("per_channel", [False, True], ids=["layer gate", "channel gates"])
def test_shapes(shape, per_channel):
    check(*make(shape, ILN, per_channel), ILN._replace(per_channel=per_channel))


@pytest.mark.parametrize("shape", [SHAPES["no space"], SHAPES["one pixel"]], ids=["no space", "one pixel"])
@pytest.mark.parametrize("mixture", [ILN, MIXTURES["no groups"], MIXTURES["batch"]], ids=["ILN", "no groups", "batch"])
def test_one_pixel_in_single_precision(shape, mixture):
    """Nothing varies there, so slopes are large, and what they multiply must be 0 exactly."""
    mixture = mixture._replace(eps=1e-12)
    check(*make(shape, mixture), mixture, torch.float32)


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_mixtures(mixture, affine):
    check(*make((3, 8, 5, 6), mixture, affine=affine), mixture)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_dtypes(dtype):
    check(*make((2, 8, 9, 31), ILN), ILN, dtype)


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((2, 8, 4, 5), torch.channels_last), ((2, 12, 3, 4, 5), torch.channels_last_3d)],
)
def test_memory_formats(shape, memory_format):
    x, *parameters = make(shape, ILN)
    check(x.contiguous(memory_format=memory_format), *parameters, ILN)


@pytest.mark.parametrize("programs", [1024, 3])
def test_a_channel_shared_by_several_programs(monkeypatch, programs):
    monkeypatch.setattr(cuda, "ELEMENTS", 16)
    monkeypatch.setattr(cuda, "PROGRAMS", programs)
    monkeypatch.setattr(cuda, "_plan", cuda._plan.__wrapped__)  # plans are remembered
    x, *parameters = make((1, 3, 19, 9), ILN._replace(num_groups=1))
    mixture = ILN._replace(components=[3, 1], num_groups=1)
    assert (cuda._find_plan(x, *parameters, None, None, mixture).moments.grid[2] > 1) == (programs > 3)
    for layout in (x, x.contiguous(memory_format=torch.channels_last)):
        check(layout, *parameters, ILN._replace(num_groups=1))


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_large_mean_costs_no_digits(offset):
    x, *parameters = make((2, 8, 32, 32), ILN)
    rounded = (x + offset).float()
    y, mean, variance = cuda.forward(rounded, *parameters, None, None, ILN)
    expected, *_ = mixture_norm_reference(rounded.double(), *parameters, None, None, ILN)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance, rounded.double().var((2, 3), correction=0), rtol=1e-5, atol=0)
    torch.testing.assert_close(mean, rounded.double().mean((2, 3)), rtol=0, atol=1e-6)


def test_results_are_the_same_every_time():
    x, *parameters = make((2, 8, 40, 40), ILN)
    first, second = (cuda.forward(x.float(), *parameters, None, None, ILN)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_layouts_that_the_kernels_leave_to_the_definition():
    x = random(2, 8, 4, 6)
    assert cuda.memory_format(x) == torch.contiguous_format
    assert cuda.memory_format(x.contiguous(memory_format=torch.channels_last)) == torch.channels_last
    assert cuda.memory_format(x[..., ::2]) is None
    assert cuda.memory_format(x.transpose(2, 3)) is None


@pytest.mark.parametrize("unbiased", [False, True])
def test_sizes_share_what_is_compiled(unbiased):
    """Triton compiles for each constant anew, and for integers that are 1 or can be divided by 16."""
    compiled = {}
    mixture = ILN._replace(components=[32, 1], num_groups=0, unbiased=unbiased, gate="projected", per_channel=True)
    for height in range(20, 60):
        plan = cuda._find_plan(torch.empty(1, 32, height, 64), None, None, None, None, None, mixture)
        for launch in plan:
            if isinstance(launch, cuda.Launch):
                parameters = list(inspect.signature(launch.kernel.fn).parameters.values())[-len(launch.arguments) :]
                key = [
                    value if "constexpr" in str(parameter.annotation) else (value == 1, value % 16 == 0)
                    for parameter, value in zip(parameters, launch.arguments, strict=True)
                ]
                compiled.setdefault(launch.kernel.fn.__name__, set()).add(str(key))
    assert {name: len(keys) for name, keys in compiled.items() if len(keys) > 4} == {}
