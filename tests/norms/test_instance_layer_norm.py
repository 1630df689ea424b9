"""ILN against its definition, composed from separate normalizations in float64."""

import copy
import itertools

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_iln import ILN, InstanceLayerNorm
from monai_iln.errors import UserError

SHAPES = {"1d": (3, 8, 33), "2d": (3, 8, 7, 9), "3d": (2, 8, 5, 4, 3), "no space": (5, 8)}
EPS = 1e-5

# What rounding costs: a few units of the last place, more where float32 sums a thousand numbers.
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float16: {"rtol": 4e-3, "atol": 4e-3},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}


def normalize(x: torch.Tensor, axes: tuple[int, ...], eps: float = EPS) -> torch.Tensor:
    """(x - mean) / sqrt(biased variance + eps) over the axes; over none, x - x."""
    if not axes:
        return torch.zeros_like(x)
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean(axes, keepdim=True).add(eps).sqrt()


def compose(x: torch.Tensor, layer: InstanceLayerNorm) -> torch.Tensor:
    """The paper's definition, normalization by normalization."""
    space = tuple(range(2, x.dim()))
    if layer.gate == "softmax":
        first, second = layer.rho.exp() / layer.rho.exp().sum(0)
    elif layer.gate == "sigmoid":
        first = 1 / (1 + torch.exp(-layer.rho))
        second = 1 - first
    else:
        first = torch.where(layer.rho < 0, 0.0, torch.where(layer.rho > 1, 1.0, layer.rho))
        second = 1 - first
    per_channel = (1, -1) + (1,) * len(space)
    blend = first.view(per_channel) * normalize(x, space) + second.view(per_channel) * normalize(x, (1, *space))
    if layer.num_groups is not None:
        grouped = blend.reshape(x.shape[0], layer.num_groups, -1)
        blend = normalize(grouped, (2,)).reshape(x.shape)
    if layer.weight is None:
        return blend
    return layer.weight.view(per_channel) * blend + layer.bias.view(per_channel)


def randomize(layer: InstanceLayerNorm, seed: int = 0) -> InstanceLayerNorm:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if layer.gate == "clip":
            layer.rho.copy_(torch.rand(layer.rho.shape, generator=generator))
    return layer


def sample(shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    channels = (1, -1) + (1,) * (len(shape) - 2)
    # Channels that differ in mean and scale, or instance, layer and group norm would nearly agree.
    return x * torch.linspace(0.3, 3, shape[1]).view(channels) + torch.linspace(-2, 2, shape[1]).view(channels)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("gate", ["sigmoid", "clip", "softmax"])
@pytest.mark.parametrize("gate_scope", ["layer", "channel"])
@pytest.mark.parametrize("num_groups", [4, None])
@pytest.mark.parametrize("affine", [True, False])
def test_value_and_gradient_are_those_of_the_composition(shape, gate, gate_scope, num_groups, affine):
    layer = randomize(ILN(8, num_groups, gate, gate_scope, affine=affine, dtype=torch.float64))
    x = sample(shape).requires_grad_()
    inputs = [x, *layer.parameters()]
    actual, expected = layer(x), compose(x, layer)
    torch.testing.assert_close(actual, expected, **TOLERANCE[torch.float64])
    cotangent = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(actual, inputs, cotangent)
    truths = torch.autograd.grad(expected, inputs, cotangent, materialize_grads=True, allow_unused=True)
    for gradient, truth in zip(gradients, truths, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("num_groups", [4, None])
def test_first_and_second_derivatives(num_groups):
    layer = randomize(ILN(4, num_groups and 2, dtype=torch.float64))
    x = sample((2, 4, 3, 3)).requires_grad_()

    def function(x, rho, weight, bias):
        return torch.func.functional_call(layer, {"rho": rho, "weight": weight, "bias": bias}, (x,))

    inputs = (x, *(p.detach().requires_grad_() for p in (layer.rho, layer.weight, layer.bias)))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_lower_precision_inputs(dtype, shape):
    layer = randomize(ILN(8, 4))
    x = sample(shape).to(dtype)
    actual = layer(x)
    assert actual.dtype == dtype
    expected = compose(x.double(), copy.deepcopy(layer).double())
    scale = expected.abs().max()
    torch.testing.assert_close(actual.double() / scale, expected / scale, **TOLERANCE[dtype])


def test_half_parameters_and_autocast():
    x = sample((2, 8, 6, 6)).half()
    assert ILN(8, 4, dtype=torch.float16)(x).isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert ILN(8, 4)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_a_large_mean_costs_no_digits(offset):
    layer = randomize(ILN(8, 4))
    x = (sample((2, 8, 32, 32)) + offset).float()
    expected = compose(x.double(), copy.deepcopy(layer).double())
    # Centring in float32 keeps the digits that the input still has: only its mean is rounded, by 2^-24 of the offset.
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=3e-7 * offset)


def test_gate_of_one_is_instance_norm():
    x = sample((2, 8, 16, 16))
    layer = ILN(8, None, gate="clip", affine=False, dtype=torch.float64)
    nn.init.ones_(layer.rho)
    torch.testing.assert_close(layer(x), nn.InstanceNorm2d(8)(x))


def test_gate_of_zero_is_group_norm():
    x = sample((2, 8, 16, 16))
    layer = ILN(8, 4, gate="clip", affine=False, dtype=torch.float64)
    nn.init.zeros_(layer.rho)
    torch.testing.assert_close(layer(x), nn.functional.group_norm(x, 4), rtol=1e-4, atol=1e-4)  # another eps


def test_dead_gate_is_instance_norm_and_says_so():
    x = sample((2, 16, 16, 16))
    dead, alive = (randomize(ILN(16, groups, affine=False, dtype=torch.float64)) for groups in (16, 8))
    assert dead.gate_is_dead
    assert not alive.gate_is_dead
    assert "dead" in repr(dead)
    assert "dead" not in repr(alive)
    torch.testing.assert_close(dead(x), nn.functional.instance_norm(x), rtol=1e-3, atol=1e-3)  # another eps
    cotangent = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    slopes = [abs(torch.autograd.grad(layer(x), layer.rho, cotangent)[0].item()) for layer in (dead, alive)]
    assert slopes[0] < 1e-3 * slopes[1]


def test_initial_values():
    for gate, scope in itertools.product(["sigmoid", "clip", "softmax"], ["layer", "channel"]):
        layer = ILN(8, gate=gate, gate_scope=scope)
        assert layer.rho.shape == ((2,) if gate == "softmax" else ()) + ((8,) if scope == "channel" else (1,))
        assert (layer.rho == 0.5).all()
        assert (layer.weight == 1).all()
        assert (layer.bias == 0).all()
        assert layer.gate_weights().sum(0).allclose(torch.ones(1))


def test_device_dtype_and_repr():
    for gate, scope in itertools.product(["sigmoid", "softmax"], ["layer", "channel"]):
        layer = ILN(8, gate=gate, gate_scope=scope, device="meta", dtype=torch.float64)
        assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
        assert ("per channel" in repr(layer)) == (scope == "channel")
        assert f"gate={gate}" in repr(layer)
    assert "affine=False" in repr(ILN(8, affine=False))
    assert "num_groups=None" in repr(ILN(8, None))


def test_edges():
    assert ILN(8)(torch.empty(0, 8, 4, 4)).shape == (0, 8, 4, 4)
    one_pixel = sample((1, 8, 1, 1)).float()
    assert ILN(8, 4)(one_pixel).abs().max() > 0.1, "the layer part carries a signal where there is one pixel"
    for channels in (1, 3, 7, 17):
        assert ILN(channels)(sample((2, channels, 5, 5)).float()).isfinite().all()
    constant = torch.full((2, 8, 4, 4), 3.0, requires_grad=True)
    ILN(8, 4)(constant).backward(torch.randn(2, 8, 4, 4))
    assert constant.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((2, 8, 4, 5), torch.channels_last), ((2, 8, 3, 4, 5), torch.channels_last_3d)],
)
def test_memory_format_is_kept(shape, memory_format):
    layer = randomize(ILN(8, 4))
    x = sample(shape).float()
    y = layer(x.to(memory_format=memory_format))
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, layer(x))


def test_non_contiguous_and_meta_tensors():
    layer = randomize(ILN(8, 4))
    x = sample((2, 5, 6, 8)).float().permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), layer(x.contiguous()))
    assert isinstance(layer(MetaTensor(x)), MetaTensor)


def test_in_place_activation_may_follow():
    x = sample((2, 8, 4, 4)).float().requires_grad_()
    nn.Sequential(ILN(8, 4), nn.ReLU(inplace=True))(x).backward(torch.randn(2, 8, 4, 4))
    assert x.grad.abs().sum() > 0


def test_state_dict_copy_export_and_script():
    layer = randomize(ILN(8, 4, gate="softmax", gate_scope="channel"))
    other = ILN(8, 4, gate="softmax", gate_scope="channel")
    other.load_state_dict(layer.state_dict())
    x = sample((2, 8, 4, 4)).float()
    exported = torch.export.export(layer, (x,)).module()
    for twin in (other, copy.deepcopy(layer), exported, torch.jit.script(layer)):
        torch.testing.assert_close(twin(x), layer(x))


@pytest.mark.parametrize(("channels", "groups", "fitting"), [(24, 16, 12), (7, 16, 7), (10, 4, 2), (13, 4, 1)])
def test_groups_fit_or_strictly_refuse(channels, groups, fitting):
    assert ILN(channels, groups).num_groups == fitting
    with pytest.raises(UserError, match=rf"{channels} channels .* {groups} equal groups.*num_groups={fitting}"):
        ILN(channels, groups, strict=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gate": "tanh"}, "'tanh' is unknown; choose one of sigmoid, clip, projected, softmax"),
        ({"gate_scope": "pixel"}, "'pixel' is unknown; choose one of layer, channel"),
        ({"num_groups": 0}, "num_groups is 0; it must be a whole number from 1"),
        ({"num_groups": 2.5}, "num_groups is 2.5; it must be a whole number"),
        ({"num_groups": True}, "num_groups is True; it must be a whole number"),
        ({"eps": -1.0}, "eps is -1.0; it must be a number, 0 or more"),
        ({"eps": "1e-5"}, "In YAML write 1.0e-5"),
        ({"num_features": 0}, "num_features is 0"),
        ({"num_features": 8.0}, "num_features is 8.0; it must be a whole number from 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        ILN(**{"num_features": 8} | arguments)


@pytest.mark.parametrize("shape", [(2, 7, 4, 4), (8,)])
def test_wrong_inputs(shape):
    with pytest.raises(UserError, match=r"it must be \(N, 8, \*spatial\)"):
        ILN(8)(torch.zeros(shape))


def test_integers_are_refused():
    with pytest.raises(UserError, match=r"torch\.int64; it must be floating point"):
        ILN(8)(torch.zeros(2, 8, 4, 4, dtype=torch.int64))
