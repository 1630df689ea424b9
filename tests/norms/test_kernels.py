"""The Triton kernels against the definition in float64: on a GPU if there is one, or in Triton's interpreter."""

import inspect

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton: pip install triton")

from monai_iln.errors import UserError
from monai_iln.norms.backends import cuda
from monai_iln.norms.coefficients import BATCH, Mixture
from monai_iln.norms.operator import mixture_norm_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# What rounding the input to the dtype leaves of it; float32 sums a few thousand products.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHAPES = {
    "1d": (2, 8, 33),
    "2d": (2, 8, 7, 9),
    "3d": (2, 8, 5, 4, 3),
    "no space": (3, 8),
    "one pixel": (2, 8, 1, 1),
    "channels not a power of 2": (2, 12, 5, 7),
    "several tiles": (1, 4, 70, 80),
}
ILN = Mixture([8, 1], 4, False, False, 1e-3, "sigmoid", False)
MIXTURES = {
    "sigmoid": ILN,
    "clip": ILN._replace(gate="clip"),
    "projected": ILN._replace(gate="projected"),
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
    y, moments = cuda.forward(rounded, *parameters)
    reference = iter(inputs)
    expected, *_ = mixture_norm_reference(
        *(None if t is None else next(reference) for t in (x, rho, weight, bias)), None, None, mixture
    )
    cotangent = (2 * random(*x.shape, seed=4) - 1).to(dtype)
    grads = cuda.backward(cotangent, rounded, moments, *parameters)
    truths = torch.autograd.grad(expected, inputs, cotangent.double())
    grads = [g for g, t in zip(grads, (x, rho, weight, bias), strict=True) if t is not None]
    assert y.dtype == dtype
    assert y.stride() == rounded.stride()
    for actual, truth in zip([y, *grads], [expected, *truths], strict=True):
        # Relative to the largest: sums of cancelling terms are as exact as the terms.
        size = truth.abs().max().clamp(min=1.0)
        torch.testing.assert_close(actual.double() / size, truth / size, rtol=0, atol=TOLERANCE[dtype])


# Triton's interpreter takes a third of a second for each case, so what does not depend on one another is not crossed.


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes(shape):
    check(*make(shape, ILN), ILN)


@pytest.mark.parametrize("name", ["channels not a power of 2", "several tiles"])
def test_gates_of_channels(name):
    """They are read and summed by channel, wherever its positions lie."""
    check(*make(SHAPES[name], ILN, per_channel=True), ILN._replace(per_channel=True))


@pytest.mark.parametrize("name", ["sigmoid", "no groups", "batch"])
def test_one_pixel_in_single_precision(name):
    """Nothing varies there, so slopes are large, and what they multiply must be 0 exactly."""
    mixture = MIXTURES[name]._replace(eps=1e-12)
    check(*make(SHAPES["one pixel"], mixture), mixture, torch.float32)


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_mixtures(mixture):
    check(*make((2, 8, 5, 6), mixture), mixture)


@pytest.mark.parametrize("gate", ["clip", "projected"])
def test_gates_outside_of_their_interval(gate):
    """A gradient that leads back is one of the projected gates alone, and of those outside just one sign leads back."""
    mixture = ILN._replace(gate=gate, num_groups=0, per_channel=True)
    x, rho, *affine = make((2, 8, 5, 6), mixture, per_channel=True)
    check(x, 4 * rho - 1.5, *affine, mixture)
    check(x, (rho > 0.5).double(), *affine, mixture)  # the ends, where the optimizer's steps leave them


@pytest.mark.parametrize("name", ["sigmoid", "no groups"])
def test_without_weight_and_bias(name):
    """The group norm after the blend treats them in another place."""
    check(*make((2, 8, 5, 6), MIXTURES[name], affine=False), MIXTURES[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    """All but float64, which most of the other tests have."""
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
    monkeypatch.setattr(cuda, "_PLANS", {})  # plans are remembered
    x, *parameters = make((1, 3, 5, 7), ILN._replace(num_groups=1))
    mixture = ILN._replace(components=[3, 1], num_groups=1)
    assert (cuda._find_plan(x, *parameters, None, None, mixture).moments.grid[2] > 1) == (programs > 3)
    for layout in (x, x.contiguous(memory_format=torch.channels_last)):
        check(layout, *parameters, ILN._replace(num_groups=1))


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name, value in {"num_groups": 2, "blend_statistics": True, "unbiased": True}.items()),
        *({name: value} for name, value in {"eps": 1e-2, "gate": "clip", "per_channel": True}.items()),
        {"components": [8, 2]},
    ],
    ids=str,
)
def test_each_mixture_has_a_plan_of_its_own(change):
    operands = (*make((2, 8, 4, 5), ILN), None, None)
    assert cuda._find_plan(*operands, ILN) is cuda._find_plan(*operands, ILN._replace(components=[8, 1]))
    changed = ILN._replace(**change)
    others = operands
    if changed.per_channel:
        others = (*make((2, 8, 4, 5), changed, per_channel=True), None, None)
    assert cuda._find_plan(*operands, ILN) is not cuda._find_plan(*others, changed)


def test_each_kind_of_tensors_has_a_plan_of_its_own():
    operands = [*make((2, 8, 4, 5), ILN), random(8), random(8)]
    kinds = [operands]
    for i, operand in enumerate(operands):
        kinds.append([*operands[:i], operand.float(), *operands[i + 1 :]])
    for x in (operands[0].contiguous(memory_format=torch.channels_last), operands[0].transpose(2, 3).contiguous()):
        kinds.append([x, *operands[1:]])
    assert len({id(cuda._find_plan(*kind, ILN)) for kind in kinds}) == len(kinds)


def test_only_so_many_plans_are_remembered(monkeypatch):
    monkeypatch.setattr(cuda, "_PLANS", {})
    monkeypatch.setattr(cuda, "MOST_PLANS", 2)
    for eps in (1e-3, 1e-2, 1e-1):
        cuda._find_plan(*make((2, 8, 4, 5), ILN), None, None, ILN._replace(eps=eps))
    assert len(cuda._PLANS) == 1


def test_a_large_mean_costs_no_digits():
    x, *parameters = make((2, 8, 32, 32), ILN)
    rounded = (x + 1e4).float()
    y, (mean, variance) = cuda.forward(rounded, *parameters, None, None, ILN)
    expected, *_ = mixture_norm_reference(rounded.double(), *parameters, None, None, ILN)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance, rounded.double().var((2, 3), correction=0), rtol=1e-5, atol=0)
    torch.testing.assert_close(mean, rounded.double().mean((2, 3)), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # the interpreter is NumPy's
@pytest.mark.parametrize(
    ("scale", "memory_format"),
    [(1e19, torch.contiguous_format), (1e32, torch.channels_last), (2.5e37, torch.contiguous_format)],
)
def test_squares_beyond_the_range_of_float32(scale, memory_format):
    """Of two channels one is of ordinary size in one sample, the other small in both."""
    mixture = MIXTURES["batch"]
    x, *parameters = make((2, 8, 6, 7), mixture)
    x = (scale * x).float()
    x[0, 2], x[:, 5] = x[0, 2] / scale, 1e-3 * x[:, 5] / scale
    x = x.contiguous(memory_format=memory_format)
    inputs = [t.double().requires_grad_() for t in (x, *parameters)]
    expected, *_ = mixture_norm_reference(*inputs, None, None, mixture)
    cotangent = (2 * random(*x.shape, seed=4) - 1).float()
    y, moments = cuda.forward(x, *parameters, None, None, mixture)
    grads = cuda.backward(cotangent, x, moments, *parameters, None, None, mixture)
    truths = torch.autograd.grad(expected, inputs, cotangent.double())
    torch.testing.assert_close(moments[1], x.double().var((2, 3), correction=0), rtol=1e-5, atol=0)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5)
    for actual, truth in zip(grads, truths, strict=True):
        # Each channel for itself: the gradient of a huge one is tiny.
        axes = [axis for axis in range(truth.dim()) if truth.dim() == 1 or axis > 1]
        size = truth.abs().amax(axes, keepdim=True)
        torch.testing.assert_close(actual.double() / size, truth / size, rtol=0, atol=1e-4)


def test_a_tensor_whose_sign_is_a_bit():
    """Torch negates some views when they are read. Kernels read memory."""
    x, *parameters = make((2, 8, 4, 5), ILN)
    assert cuda.takes(x)
    assert not cuda.takes(torch._neg_view(x))
    check(x, *[torch._neg_view(parameter) for parameter in parameters], ILN)
    _, moments = cuda.forward(x, *parameters, None, None, ILN)
    cotangent = random(2, 8, 4, 5, seed=4)
    grads = [
        cuda.backward(grad, x, moments, *parameters, None, None, ILN)
        for grad in (torch._neg_view(cotangent), -cotangent)
    ]
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_gates_with_gaps():
    """Or with rows that are columns in memory."""
    mixture = ILN._replace(gate="softmax", per_channel=True)
    x, rho, *affine = make((2, 8, 4, 5), mixture, per_channel=True)
    check(x, rho.t().contiguous().t(), *affine, mixture)


def test_results_are_the_same_every_time():
    x, *parameters = make((1, 8, 40, 40), ILN)
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
        x = torch.empty(1, 32, height, 64)
        plan = cuda._find_plan(x, torch.ones(32), None, None, None, None, mixture)
        for launch in plan:
            if isinstance(launch, cuda.Launch):
                parameters = list(inspect.signature(launch.kernel.fn).parameters.values())[-len(launch.arguments) :]
                key = [
                    value if "constexpr" in str(parameter.annotation) else (value == 1, value % 16 == 0)
                    for parameter, value in zip(parameters, launch.arguments, strict=True)
                ]
                compiled.setdefault(launch.kernel.fn.__name__, set()).add(str(key))
    assert {name: len(keys) for name, keys in compiled.items() if len(keys) > 4} == {}


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("weight", 4, "weight of 4 numbers for an input of 8 channels: it must have 8"),
        ("rho", 8, "rho of 8 numbers for an input of 8 channels: it must have 1"),
    ],
)
def test_a_parameter_that_does_not_fit_after_one_that_does(name, size, message):
    x, *others = make(SHAPES["2d"], ILN)
    parameters = dict(zip(("rho", "weight", "bias"), others, strict=True))
    cuda.forward(x, *parameters.values(), None, None, ILN)  # whose plan is remembered
    parameters[name] = random(size)
    with pytest.raises(UserError, match=message):
        cuda.forward(x, *parameters.values(), None, None, ILN)


def test_a_parameter_on_another_device():
    x, rho, weight, bias = make((2, 8, 3, 3), ILN)
    with pytest.raises(UserError, match="bias is a Tensor of 8 numbers on meta; the input lies on"):
        cuda.forward(x, rho, weight, bias.to("meta"), None, None, ILN)
