"""Every member of the family against its formula, written out here in float64 by the plainest means."""

import copy
from functools import partial

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from monai_iln import ILN
from monai_iln.errors import UserError
from monai_iln.norms.family import BatchInstanceNorm, SpatialLayerNorm, SwitchableNorm, UGATITInstanceLayerNorm
from monai_iln.norms.layers import MixtureNorm

EPS, GROUP, PAIRS = 1e-5, ("group", {"num_groups": 4}), ("group", {"num_groups": 2})
ALL = ["instance", "layer", GROUP, "batch"]
SHAPES = [(s, torch.contiguous_format) for s in ((3, 8, 11), (3, 8, 5, 6), (2, 8, 3, 4, 5), (5, 8), (4, 8, 1, 1))]
SHAPES += [((3, 8, 5, 6), torch.channels_last), ((2, 8, 3, 4, 5), torch.channels_last_3d)]


def sample(shape, memory_format=torch.contiguous_format, seed=1):
    """An input whose channels and samples differ in mean and scale, or all normalizations would nearly agree."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for axis in (0, 1):
        ramp = torch.linspace(0.5, 2, shape[axis], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1 - axis))
        x = x * ramp + 2 * ramp - 2
    return x.to(memory_format=memory_format)


def randomize(layer):
    """Parameters and running statistics that leave no factor 1 and no term 0; gates that are clipped, too."""
    for seed, (name, tensor) in enumerate(layer.state_dict().items()):
        uniform = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        gate = layer.gate if name == "rho" else ""
        tensor.copy_({"clip": 2 * uniform - 0.3, "projected": uniform}.get(gate, uniform + 0.2))
    return layer


# The formulas, of inputs (N, 8, positions).
def affine(y, layer):
    return y if layer.weight is None else layer.weight[:, None] * y + layer.bias[:, None]


def standardize(x, component, layer=None, unbiased=False, eps=EPS):
    """One normalization without affine; batch norm by the running statistics of a layer in evaluation."""
    rows, axes = x, (0, 2)
    if component != "batch":
        groups = {"instance": 8, "layer": 1}[component] if isinstance(component, str) else component[1]["num_groups"]
        rows, axes = x.reshape(len(x), groups, -1), (2,)
    mean = rows.mean(axes, keepdim=True)
    count = rows.numel() // mean.numel()
    variance = (rows - mean).square().sum(axes, keepdim=True) / max(count - unbiased, 1)
    if component == "batch" and layer is not None and not layer.training:
        mean, variance = layer.running_mean[:, None], layer.running_var[:, None]
    return ((rows - mean) / (variance + eps).sqrt()).reshape(x.shape)


def mixture(x, layer, components, gate="softmax", then=None, unbiased=False):
    weights = torch.ones(1, 1) if layer.rho is None else layer.rho.softmax(0)
    if gate != "softmax":
        clipped = torch.where(layer.rho < 0, 0.0, torch.where(layer.rho > 1, 1.0, layer.rho))
        first = {"sigmoid": 1 / (1 + torch.exp(-layer.rho)), "clip": clipped, "projected": layer.rho}[gate]
        weights = (first, 1 - first)
    parts = [standardize(x, component, layer, unbiased) for component in components]
    blend = sum(weight[:, None] * part for weight, part in zip(weights, parts, strict=True))
    return affine(blend if then is None else standardize(blend, then), layer)


def switchable_moments(x, component, layer=None):
    """Mean and variance from those of the instances: mean(v + m^2) - M^2 with unbiased v."""
    if component == "batch" and layer is not None and not layer.training:
        return layer.running_mean[None], layer.running_var[None]
    mean = x.mean(2)
    second = (x - mean[..., None]).square().sum(2) / max(x.shape[2] - 1, 1) + mean.square()
    if component == GROUP:  # its channels on an axis of their own, and what is pooled copied to each
        mean, second = (table.reshape(len(x), 4, -1).mean(2).repeat_interleave(2, 1) for table in (mean, second))
    elif component != "instance":
        axis = {"layer": 1, "batch": 0}[component]
        mean, second = mean.mean(axis, keepdim=True), second.mean(axis, keepdim=True)
    return mean, second - mean.square()


def switchable_norm(x, layer, components=("instance", "layer", "batch")):
    means, variances = zip(*(switchable_moments(x, component, layer) for component in components), strict=True)
    mean = sum(weight * part for weight, part in zip(layer.mean_weight.softmax(0), means, strict=True))
    variance = sum(weight * part for weight, part in zip(layer.var_weight.softmax(0), variances, strict=True))
    return affine((x - mean[..., None]) / (variance[..., None] + EPS).sqrt(), layer)


def definition(formula, layer):
    """The formula with the layer's tensors, as a function of inputs of any shape."""
    return lambda x: formula(x.reshape(*x.shape[:2], -1), layer).reshape(x.shape)


ugatit = partial(mixture, components=ALL[:2], gate="projected", unbiased=True)
# A layer of 8 channels, and its formula.
MEMBERS = {
    "INSTANCE": (partial(MixtureNorm, 8, ["instance"]), partial(mixture, components=["instance"])),
    "SPATIAL_LAYER": (partial(SpatialLayerNorm, 8), partial(mixture, components=["layer"])),
    "ILN": (partial(ILN, 8, 4), partial(mixture, components=ALL[:2], gate="sigmoid", then=GROUP)),
    "UGATIT_ILN": (partial(UGATITInstanceLayerNorm, 8), ugatit),
    "SWITCHABLE of two": (partial(SwitchableNorm, 8, ALL[:2]), partial(switchable_norm, components=ALL[:2])),
    "SWITCHABLE": (partial(SwitchableNorm, 8), switchable_norm),
    "SWITCHABLE of four": (partial(SwitchableNorm, 8, ALL[::-1]), partial(switchable_norm, components=ALL[::-1])),
    "BIN": (partial(BatchInstanceNorm, 8), partial(mixture, components=["batch", "instance"], gate="projected")),
    "MIXTURE": (partial(MixtureNorm, 8, ALL, gate_scope="channel"), partial(mixture, components=ALL)),
    "MIXTURE, then": (partial(MixtureNorm, 8, ALL, PAIRS), partial(mixture, components=ALL, then=PAIRS)),
}
HAVE_BATCH = list(MEMBERS)[5:]
members = pytest.mark.parametrize("member", MEMBERS)
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def build(member, training=True, dtype=torch.float64):
    make, formula = MEMBERS[member]
    layer = randomize(make(dtype=dtype)).train(training)
    return layer, definition(formula, layer)


def results(function, layer, x, rounding=torch.float64):
    """The output and the gradients in x and every parameter, for a random cotangent."""
    leaf = x.detach().requires_grad_()
    y = function(leaf)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [y, *torch.autograd.grad(y, [leaf, *layer.parameters()], cotangent.to(rounding).to(y.dtype))]


def assert_same(actual, expected, tolerance=1e-9):
    """Equal, but for a part of the largest value of each tensor."""
    for one, other in zip(actual, expected, strict=True):
        size = other.detach().abs().amax().clamp(min=1.0).double()
        torch.testing.assert_close(one.double() / size, other.double() / size, rtol=0, atol=tolerance)


@members
@modes
@pytest.mark.parametrize(("shape", "memory_format"), SHAPES, ids=str)
def test_members_in_any_shape(member, training, shape, memory_format):
    (layer, truth), x = build(member, training), sample(shape, memory_format)
    actual = results(layer, layer, x)
    assert_same(actual, results(truth, layer, x))
    assert actual[0].stride() == actual[1].stride() == x.stride(), "the memory format is lost"


PAIRED = [["instance", "layer"], ["batch", GROUP], [PAIRS, GROUP]]
GATED = [(components, gate) for components in PAIRED for gate in ("sigmoid", "clip", "projected", "softmax")]
GATED += [(components, "softmax") for components in (["layer"], ["batch"], [GROUP], ALL[1:], ALL)]


@pytest.mark.parametrize(("components", "gate"), GATED)
@pytest.mark.parametrize("gate_scope", ["layer", "channel"])
@pytest.mark.parametrize("options", [{}, {"then": PAIRS}, {"unbiased": True, "then": GROUP}, {"unbiased": True}])
def test_every_mixture(components, gate, gate_scope, options):
    options = {"components": components, "gate": gate} | options
    layer = MixtureNorm(8, **options, gate_scope=gate_scope, affine=gate_scope == "channel", dtype=torch.float64)
    x, truth = sample((3, 8, 4, 3)), definition(partial(mixture, **options), layer)
    for training in (True, False):
        randomize(layer).train(training)
        assert_same(results(layer, layer, x), results(truth, layer, x))


# Inputs and cotangents are rounded already and statistics are float32's: what is left is to round the result, by half a
# unit of the last place of its largest value. In float32 sums and products add some units to it.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 0.52 * 2**-10, torch.bfloat16: 0.52 * 2**-7}
DTYPES = [*((dtype, torch.float32) for dtype in TOLERANCE), (torch.float16, torch.float16)]


@members
@modes
@pytest.mark.parametrize(("dtype", "parameters"), DTYPES, ids=str)
def test_lower_precision(member, training, dtype, parameters):
    layer, _ = build(member, training, parameters)
    exact, x = copy.deepcopy(layer).double(), sample(*SHAPES[-1]).to(dtype)
    actual = results(layer, layer, x, dtype)
    expected = results(definition(MEMBERS[member][1], exact), exact, x.double(), dtype)
    assert actual[0].dtype == actual[1].dtype == dtype
    assert_same(actual[:2], expected[:2], TOLERANCE[dtype])
    assert_same(actual[2:], expected[2:], TOLERANCE[parameters])


@pytest.mark.parametrize("member", ["BIN", "UGATIT_ILN", "SWITCHABLE", "MIXTURE, then"])
def test_first_and_second_derivatives(member):
    layer, x = build(member)[0], sample((2, 8, 2)).requires_grad_()
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


@pytest.mark.parametrize("momentum", [0.1, 0.3])
@pytest.mark.parametrize(("batch_norm", "dims"), [(nn.BatchNorm1d, 0), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3)])
def test_new_gates_are_torchs_batch_norm(batch_norm, dims, momentum):
    """Batches of several sizes tell running variances that are unbiased from others."""
    ours, torchs = (norm(8, momentum=momentum, dtype=torch.float64) for norm in (BatchInstanceNorm, batch_norm))
    for seed in range(4):
        x = sample((seed + 2, 8, *(seed + 3,) * dims), seed=seed)
        assert_same(*([norm(x), norm.running_mean, norm.running_var] for norm in (ours, torchs)))
    assert_same([ours.eval()(x)], [torchs.eval()(x)])


def test_running_statistics_of_switchable_norm():
    layer, x = randomize(SwitchableNorm(8, momentum=0.3, dtype=torch.float64)), sample((3, 8, 5))
    pairs = zip((layer.running_mean, layer.running_var), switchable_moments(x, "batch"), strict=True)
    expected = [0.7 * old + 0.3 * new[0] for old, new in pairs]
    layer(x)
    assert_same([layer.running_mean, layer.running_var], expected)


@pytest.mark.parametrize("member", HAVE_BATCH)
def test_what_leaves_running_statistics_alone(member):
    layer, _ = build(member)
    before = [buffer.clone() for buffer in layer.buffers()]
    assert layer(torch.empty(0, 8, 4, 4)).shape == (0, 8, 4, 4)
    layer.eval()(sample((2, 8, 5)))
    assert_same(layer.buffers(), before, tolerance=0.0)
    y = layer.train()(sample((1, 8, 1, 1)))
    assert all(tensor.isfinite().all() for tensor in (y, *layer.buffers())), "the variance of one value"


def test_projected_gates_are_moved_back_after_the_step():
    """As the authors' own optimizer does it: outputs and gradients tell no difference."""
    (ours, _), (theirs, truth) = build("BIN"), build("BIN")
    theirs.running_mean, theirs.running_var = ours.running_mean, ours.running_var
    for seed in range(6):
        x = sample((3, 8, 5, 6), seed=seed)
        pair = results(ours.train(), ours, x), results(truth, theirs.train(), x)
        assert_same(*pair)
        for layer, (_, _, *gradients) in zip((ours, theirs), pair, strict=True):
            for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
                parameter.grad = gradient
        torch.optim.SGD(ours.parameters(), 0.04).step()
        for parameter in theirs.parameters():
            parameter.data.sub_(0.04 * parameter.grad)
        assert (ours.rho != theirs.rho).any(), "no gate has left [0, 1]"
        theirs.rho.data.clamp_(0, 1)
        theirs.eval()
        assert_same([ours.eval()(x)], [truth(x)])
    ours.train()
    ours.rho.data.add_(1)
    ours(ours(x)).sum().backward()  # used twice, with gates outside


@pytest.mark.parametrize("shape", [(2, 8, 5), (1, 8, 12), (4, 8, 1)], ids=str)
def test_what_the_gate_interpolates(shape):
    """Closed forms, exactly: with so large an eps no other form is near."""
    x, eps, gate = sample(shape, seed=len(shape)), 0.1, 0.3

    def iln(gate, num_groups):
        layer = ILN(8, num_groups, gate="clip", eps=eps, affine=False, dtype=torch.float64)
        nn.init.constant_(layer.rho, gate)
        return layer(x)

    variances = x.var((1, 2), correction=0, keepdim=True)
    slope = gate / (x.var(2, correction=0, keepdim=True) + eps).sqrt() + (1 - gate) / (variances + eps).sqrt()
    pairs = [
        (iln(1.0, None), standardize(x, "instance", eps=eps)),
        (iln(0.0, None), standardize(x, "layer", eps=eps)),
        (iln(0.0, 4), standardize(x, GROUP, eps=eps * (variances + eps))),
        (iln(gate, 8), standardize(x, "instance", eps=eps / slope**2)),
    ]
    assert_same(*zip(*pairs, strict=True), tolerance=1e-12)


@members
@pytest.mark.parametrize("seed", range(3))
def test_what_the_layers_are_invariant_to(member, seed):
    layer = randomize(MEMBERS[member][0](eps=0.0, dtype=torch.float64))
    x, scale, shift = (sample(shape, seed=seed) for shape in ((3, 8, 4, 5), (3, 1, 1, 1), (3, 1, 1, 1)))
    scales = torch.linspace(0.5, 2, 8, dtype=torch.float64).view(8, 1, 1)
    of_samples, of_channels = ((layer(y) - layer(x)).abs().max() < 1e-9 for y in (scale.abs() * x + shift, scales * x))
    assert (of_samples, of_channels) == (member not in HAVE_BATCH, member in ("BIN", "INSTANCE"))


@members
@modes
def test_samples_see_each_other_only_in_the_batch(member, training):
    layer, x = build(member, training)[0], sample((3, 8, 4, 5)).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y[0], x, sample((8, 4, 5), seed=2))
    alone = not (training and member in HAVE_BATCH)
    assert (gradient[1:] == 0).all() == alone
    assert torch.allclose(layer(x[:1]), y[:1], rtol=0, atol=1e-12) == alone


@members
@modes
def test_copies_and_scripts(member, training):
    layer, _ = build(member, training)
    loaded = MEMBERS[member][0](dtype=torch.float64).train(training)
    loaded.load_state_dict(layer.state_dict())
    twins = [loaded, copy.deepcopy(layer), torch.jit.script(copy.deepcopy(layer))]
    expected = results(layer, layer, x := sample((3, 8, 4, 5)))
    for twin in twins:
        assert_same(results(twin, twin, x), expected)
        assert_same(twin.buffers(), layer.buffers())
    assert isinstance(layer(MetaTensor(x)), MetaTensor)
    assert {type(buffer) for buffer in layer.buffers()} <= {torch.Tensor}


@members
def test_initial_values(member):
    layer = MEMBERS[member][0]()
    zeros = dict.fromkeys(("bias", "running_mean", "num_batches_tracked"), 0)
    values = zeros | {"rho": {"BIN": 1, "UGATIT_ILN": 0}.get(member, 0.5)}
    for _ in range(2):
        assert all((tensor == values.get(name, 1)).all() for name, tensor in layer.state_dict().items())
        randomize(layer).reset_parameters()
    shapes = {"ILN": (1,), "BIN": (8,), "UGATIT_ILN": (8,), "MIXTURE": (4, 8), "MIXTURE, then": (4, 1)}
    assert (None if layer.rho is None else layer.rho.shape) == shapes.get(member)


NORMS = [
    ("SPATIAL_LAYER", "SpatialLayerNorm(8)"),
    (["BIN", {"affine": False}], "BatchInstanceNorm(8, gate=projected per channel, affine=False)"),
    ("UGATIT_ILN", "UGATITInstanceLayerNorm(8, gate=projected per channel)"),
    (["SWITCHABLE", {"components": ["layer", "batch"]}], "SwitchableNorm(8)"),
    (["MIXTURE", {"components": [[*GROUP], "batch"]}], "MixtureNorm(8, group(4) + batch, gate=softmax)"),
    (["MIXTURE", {"components": ["layer"], "then": [*PAIRS]}], "MixtureNorm(8, layer, num_groups=2)"),
]


@pytest.mark.parametrize(("norm", "text"), NORMS)
def test_unet_of_a_configuration(norm, text):
    sizes = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [8, 16], "strides": [2]}
    unet = {"_target_": "UNet", "num_res_units": 1, "norm": norm} | sizes
    network = ConfigParser({"unet": unet}).get_parsed_content("unet")
    layers = [module for module in network.modules() if isinstance(module, MixtureNorm)]
    assert [layer.num_features for layer in layers] == [8, 16, 2]
    assert repr(layers[0]) == text
    network(torch.randn(2, 1, 16, 16)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


WRONG = [
    ({"components": []}, r"components is \[\]; it must be a list"),
    ({"components": ["instence"]}, "component 'instence' is unknown; choose of instance, layer, group and batch"),
    ({"components": ["group", {"num_groups": 4}]}, "component .* is unknown; choose of"),  # a list too few
    ({"components": [["layer", {"num_groups": 4}]]}, r"Only group norm has any, its num_groups: write \("),
    ({"components": [["group", {"groups": 4}]]}, "has arguments it cannot have"),
    ({"components": [["group", {"num_groups": 3}]], "strict": True}, "8 channels cannot .* Take num_groups=2"),
    ({"num_features": 1, "components": [["group", {"num_groups": 2}]], "strict": True}, "^1 channel cannot"),
    ({"then": "batch"}, "batch norm cannot follow a blend, only a group norm can"),
    ({"components": ALL, "gate": "clip"}, "gate 'clip' weighs two components, not 4; take 'softmax'"),
    ({"num_features": 1, "then": ["group", {"num_groups": "alive"}], "strict": True}, "take strict=False"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        MixtureNorm(**{"num_features": 8} | arguments)


def test_group_policies():
    assert [ILN(channels, "auto").num_groups for channels in (1, 16, 24, 34, 40, 64)] == [1, 16, 12, 2, 10, 16]
    assert [ILN(channels, "alive").num_groups for channels in (1, 2, 7, 16, 24, 34)] == [1, 1, 1, 8, 12, 2]
