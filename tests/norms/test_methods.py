"""Methods that turn a network into a network: weight normalization, no norm, and how all of them behave."""

import copy
import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from monai.bundle import ConfigParser
from monai.networks import nets
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from monai_iln import ILN
from monai_iln.errors import UserError
from monai_iln.networks import PaperUNet, load_weights
from monai_iln.norms import BatchKalmanNorm, apply_method, method_specification
from monai_iln.norms.replace import NORMS

BUNDLES = Path(__file__).parents[2] / "bundles"
METHODS = ["WEIGHT", "BATCH_KALMAN"]


def dynunet(dims, **arguments):
    return nets.DynUNet(dims, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), (4, 4, 8), norm_name="INSTANCE", **arguments)


NETWORKS = {
    "PaperUNet": lambda dims: PaperUNet(dims, 1, 2, (4, 8), norm="BATCH"),
    "UNet": lambda dims: nets.UNet(dims, 1, 2, (4, 8, 8), (2, 2), norm="BATCH"),
    "UNet with residual units": lambda dims: nets.UNet(dims, 1, 2, (4, 8, 8), (2, 2), num_res_units=2, norm="BATCH"),
    "DynUNet": dynunet,
    "DynUNet with residual blocks": lambda dims: dynunet(dims, res_block=True),
    "SegResNet": lambda dims: nets.SegResNet(dims, 8, 1, 2, blocks_down=(1, 2), blocks_up=(1,)),
    "AttentionUnet": lambda dims: nets.AttentionUnet(dims, 1, 2, channels=(4, 8), strides=(2,)),
}


def image(dims, batch=2, seed=0):
    return torch.randn(batch, 1, *[16] * dims, generator=torch.Generator().manual_seed(seed))


def layers(network, kinds):
    return [module for module in network.modules() if isinstance(module, kinds)]


def train(network, steps, seed=0):
    """The losses of some steps of training."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    dims = len(layers(network, _ConvNd)[0].kernel_size)
    losses = []
    for step in range(steps):
        x = image(dims, seed=seed + step)
        loss = nn.functional.cross_entropy(network(x), (x[:, 0] > 0.5).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_networks(make, dims, method):
    """One trains, is copied, saved and loaded, and applied anew, as with any norm."""
    torch.manual_seed(0)
    network = apply_method(make(dims), method, image(dims))
    assert not layers(network, tuple(kind for kind in NORMS if kind is not BatchKalmanNorm))
    predicted = [layer.prediction is not None for layer in layers(network, BatchKalmanNorm)]
    assert not predicted or (sum(predicted) > 0.7 * len(predicted) and not predicted[0])
    train(network, 2)
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    twin = copy.deepcopy(network)
    fresh = apply_method(make(dims), method, image(dims))
    fresh.load_state_dict(network.state_dict())
    x = image(dims, seed=9)
    for other in (twin, fresh):  # training goes on alike, and evaluates alike
        torch.testing.assert_close(train(other, 2, seed=5), train(copy.deepcopy(network).train(), 2, seed=5))
        assert not torch.equal(other.eval()(x), network.eval()(x))
    torch.testing.assert_close(twin(x), fresh(x))
    assert torch.equal(network(x), network(x))
    with torch.autocast("cpu", torch.bfloat16):
        half = network.train()(x)
    half.backward(torch.randn_like(half))
    torch.testing.assert_close(half.float(), copy.deepcopy(network)(x), rtol=0.1, atol=0.15 * half.float().std().item())
    apply_method(network, method, image(dims))  # again
    assert network.state_dict().keys() == fresh.state_dict().keys()
    train(network, 1)


def test_copies_do_not_share_what_they_remember():
    network = apply_method(PaperUNet(2, 1, 2, (4, 8), norm="BATCH"), "BATCH_KALMAN", image(2))
    network(image(2))
    twin = copy.deepcopy(network)
    own, others = layers(network, BatchKalmanNorm), layers(twin, BatchKalmanNorm)
    assert own[0].ended is own[1].ended
    assert others[0].ended is others[1].ended
    assert len(own[0].ended) == len(own)
    assert len(others[0].ended) == 0
    convolutions = layers(twin, _ConvNd)
    assert others[1].prediction.weight.module is convolutions[1]


def outputs(network, x):
    """What each convolution gives, by its name."""
    found = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, _ConvNd):
            hooks.append(module.register_forward_hook(lambda _, __, y, name=name: found.setdefault(name, y.detach())))
    network(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("dims", [2, 3])
def test_the_first_batch_sets_gain_and_bias(dims):
    network = apply_method(NETWORKS["UNet with residual units"](dims).double(), "WEIGHT")
    x = 3 + 2 * image(dims, 4).double()
    for y in outputs(network, x).values():
        axes = [axis for axis in range(y.dim()) if axis != 1]
        torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), atol=1e-6, rtol=0)
        torch.testing.assert_close(y.var(axes, correction=0), torch.ones_like(y.mean(axes)), rtol=1e-6, atol=0)
    expected = copy.deepcopy(network)(x)
    network(7 * x)  # the first batch alone
    assert torch.equal(network(x), expected)


def test_the_first_batch_is_taken_in_full_precision():
    network = apply_method(nn.Sequential(nn.Conv2d(1, 4, 3)), "WEIGHT")
    twin = copy.deepcopy(network)
    twin(image(2))
    with torch.autocast("cpu", torch.bfloat16):
        network(image(2))
    torch.testing.assert_close(network.state_dict(), twin.state_dict())


def test_who_waits_for_the_first_batch_goes_when_it_has_come():
    """It would ask the device of every later batch whether it has been the first."""
    network = apply_method(nn.Sequential(nn.Conv2d(1, 4, 3)), "WEIGHT")
    fresh = copy.deepcopy(network).eval()
    network(image(2))
    assert not network[0]._forward_pre_hooks
    fresh.load_state_dict(network.state_dict())
    fresh(image(2))
    assert not fresh[0]._forward_pre_hooks


def test_a_frozen_convolution_gets_a_frozen_bias():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False).requires_grad_(False), nn.Conv2d(4, 4, 3, bias=False))
    apply_method(network, "WEIGHT")
    assert [{p.requires_grad for p in layer.parameters()} for layer in network] == [{False}, {True}]


def test_weights_are_gain_times_direction():
    network = apply_method(PaperUNet(2, 1, 2, (4, 8), norm="ILN"), "WEIGHT")
    network(image(2))
    for module in layers(network, _ConvNd):
        gain, direction = (getattr(module.parametrizations.weight, f"original{number}") for number in (0, 1))
        axis = 1 if module.transposed else 0
        assert gain.numel() == module.out_channels
        others = [other for other in range(direction.dim()) if other != axis]
        expected = gain * direction / direction.square().sum(others, keepdim=True).sqrt()
        torch.testing.assert_close(module.weight, expected)
    x = image(2, seed=3)
    before = network(x)
    for module in layers(network, _ConvNd):
        remove_parametrizations(module, "weight")
    torch.testing.assert_close(network(x), before)


def test_gain_and_bias_wait_for_training():
    network = apply_method(PaperUNet(2, 1, 2, (4, 8)), "WEIGHT").eval()
    first = copy.deepcopy(network.state_dict())
    network(image(2))
    torch.testing.assert_close(network.state_dict(), first)
    fresh = apply_method(PaperUNet(2, 1, 2, (4, 8)), "WEIGHT")
    network.train()(image(2))
    fresh.load_state_dict(network.state_dict())
    fresh.train()(5 * image(2, seed=4))
    torch.testing.assert_close(fresh.state_dict(), network.state_dict())


def test_a_pass_without_values_sets_nothing():
    network = apply_method(PaperUNet(2, 1, 2, (4, 8)), "WEIGHT").to("meta")
    assert network(image(2).to("meta")).shape == (2, 2, 16, 16)
    assert all(module._forward_pre_hooks for module in layers(network, _ConvNd))


@pytest.mark.parametrize(
    "batch", [torch.full((2, 1, 8, 8), 0.1), 5e19 * torch.cat([image(2), -image(2)])], ids=["constant", "huge"]
)
def test_a_channel_without_a_variance_keeps_gain_and_bias(batch):
    """It is 0, or infinite in float32."""
    network = apply_method(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False)), "WEIGHT")
    state = copy.deepcopy(network.state_dict())
    network(batch)
    assert network[0].initialized
    state["0.initialized"].fill_(True)
    torch.testing.assert_close(network.state_dict(), state)


@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_channel_whose_weights_are_zero_has_a_gain_of_zero(convolution):
    """As at the end of MONAI's diffusion networks. Torch's parametrization alone divides 0 by 0."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), convolution(4, 2, 3))
    axis = int(network[2].transposed)
    with torch.no_grad():
        network[2].weight.select(axis, 0).fill_(0)
        network[2].bias.fill_(3)
    kept = network[2].weight.select(axis, 1).clone()
    apply_method(network, "WEIGHT")
    torch.testing.assert_close(network[2].weight.select(axis, 1), kept)
    y = network(image(2))
    assert (y[:, 0] == 3).all()
    (y * torch.randn(y.shape)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
    gain = network[2].parametrizations.weight.original0
    assert gain.select(axis, 0).item() == 0
    assert gain.grad.select(axis, 0).item() != 0, "it can grow"


def test_a_batch_of_no_samples_is_not_the_first():
    network = apply_method(PaperUNet(2, 1, 2, (4, 8)), "WEIGHT")
    expected = copy.deepcopy(network)
    assert network(image(2, 0)).shape == (0, 2, 16, 16)
    torch.testing.assert_close(network.state_dict(), expected.state_dict())
    network(image(2))
    expected(image(2))
    assert all(layer.initialized for layer in layers(network, _ConvNd))
    torch.testing.assert_close(network.state_dict(), expected.state_dict())


def test_the_meta_device_has_no_first_batch():
    """Shapes can be asked for; weights that are loaded then are as new as they were."""
    torch.manual_seed(0)
    network = apply_method(PaperUNet(2, 1, 2, (4, 8)), "WEIGHT")
    with torch.device("meta"):
        fresh = apply_method(PaperUNet(2, 1, 2, (4, 8)), "WEIGHT")
        assert fresh(torch.empty(3, 1, 16, 16)).shape == (3, 2, 16, 16)
    fresh.load_state_dict(copy.deepcopy(network.state_dict()), assign=True)
    torch.testing.assert_close(fresh(image(2)), network(image(2)))
    assert all(layer.initialized for layer in layers(fresh, _ConvNd))


def weight_normalized():
    torch.manual_seed(0)
    return apply_method(PaperUNet(2, 1, 2, (4, 8)).double(), "WEIGHT")


# Which samples of the first batch each rank has.
SHARES = {"uneven": [[0, 1, 2], [3]], "one has none": [[0, 1, 2, 3], []]}


def state_after_first_batch(x):
    """What a rank makes of its part of the first batch, after a batch that is empty on all ranks."""
    network = DistributedDataParallel(weight_normalized())
    network(x[:0])
    assert not any(layer.initialized for layer in layers(network, _ConvNd))
    network(x)
    return network.module.state_dict()


def first_batches(rank, folder):
    """The first batch of a rank, shared out in several ways."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of this machine resolves to
    dist.init_process_group("gloo", f"file://{folder}/meet", timedelta(seconds=90), 2, rank)
    for name, shares in SHARES.items():
        torch.save(state_after_first_batch(image(2, 4)[shares[rank]].double()), f"{folder}/{name} {rank}.pt")
    # DistributedDataParallel is gone by now. If it is the last to hold the group, its end may wait for ever: it keeps
    # the interpreter's lock while it waits for a thread of the group, which may need that lock to let a tensor go.
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_take_their_first_batches_together(tmp_path, run_ranks):
    run_ranks(first_batches, tmp_path, 2, seconds=180)
    network = weight_normalized()
    network(image(2, 4).double())
    for name in SHARES:
        for rank in range(2):
            torch.testing.assert_close(torch.load(tmp_path / f"{name} {rank}.pt"), network.state_dict())


def test_norms_that_are_taken_out_leave_their_input_alone():
    """Activations work in place on what a norm made; now that is the shortcut."""
    torch.manual_seed(0)
    network = nets.SegResNet(2, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)).double()
    apply_method(network, None)
    x = image(2).double()
    block = network.down_layers[0][1]
    h = network.convInit(x)
    expected = h + block.conv2(block.conv1(h.relu()).relu())
    torch.testing.assert_close(block(network.convInit(x)), expected)


def test_other_methods():
    network = PaperUNet(2, 1, 2, (4, 8), norm="BATCH")
    assert apply_method(network, ("ILN", {"num_groups": 2})) is network
    assert len(layers(network, ILN)) == 7
    apply_method(network, "batch_kalman", image(2))
    assert len(layers(network, BatchKalmanNorm)) == 7
    apply_method(network, ("BATCH_KALMAN", {"gain": 0.25}), image(2))
    assert {layer.gain for layer in layers(network, BatchKalmanNorm)} == {0.25}
    apply_method(network, ["GROUP", {"num_groups": 2}])
    assert len(layers(network, nn.GroupNorm)) == 7
    assert not layers(apply_method(network, None), NORMS)
    assert not layers(apply_method(network, None), NORMS)
    apply_method(network, "WEIGHT")
    assert all(is_parametrized(module, "weight") for module in layers(network, _ConvNd))


@pytest.mark.parametrize("name", ["OWN", " own ", ("Own", {})])
def test_own_leaves_the_network_as_it_is(name):
    network = NETWORKS["UNet with residual units"](2)
    before, modules = repr(network), list(network.modules())
    assert apply_method(network, name, pattern="no such norm") is network
    assert repr(network) == before
    assert all(module is old for module, old in zip(network.modules(), modules, strict=True))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_class_or_a_function_makes_the_norms(make):
    expected = len(layers(make(2), NORMS))
    assert len(layers(apply_method(make(2), ILN), ILN)) == expected
    network = apply_method(make(2), lambda channels: nn.GroupNorm(1, channels))
    assert {norm.num_groups for norm in layers(network, nn.GroupNorm)} == {1}
    assert len(layers(network, nn.GroupNorm)) == expected


def test_norms_have_weight_and_bias_unless_the_method_says_otherwise():
    methods = [
        ("instance", True),
        (["Instance", {"eps": 1e-3}], True),
        (nn.InstanceNorm2d, True),
        (("INSTANCE", {"affine": False}), False),
        (lambda channels: nn.InstanceNorm2d(channels), False),
    ]
    for method, expected in methods:
        network = apply_method(NETWORKS["UNet"](2), method)
        found = layers(network, nn.InstanceNorm2d)
        assert {norm.affine for norm in found} == {expected}
        assert {norm.weight is not None for norm in found} == {expected}


def test_method_specification():
    assert method_specification(" instance ") == ["INSTANCE", {"affine": True}]
    assert method_specification(("INSTANCE", {"affine": False})) == ["INSTANCE", {"affine": False}]
    assert method_specification(["batch", {"eps": 0.1}]) == ["BATCH", {"eps": 0.1}]
    assert method_specification("iln") == ["ILN", {}]
    assert method_specification(("batch_kalman", {"gain": 0.5})) == ["BATCH_KALMAN", {"gain": 0.5}]
    assert method_specification("own") == "OWN"
    assert method_specification(None) is None
    assert method_specification(ILN) is ILN
    for method in ("instance", ("group", {"num_groups": 8}), "weight", "own", None):
        assert method_specification(method_specification(method)) == method_specification(method)
    arguments = {}
    method_specification(("INSTANCE", arguments))
    assert arguments == {}


def test_only_the_norms_of_a_pattern():
    network = NETWORKS["UNet with residual units"](2)
    count = len(layers(network, NORMS))
    apply_method(network, "ILN", pattern="unit0")
    names = {name for name, module in network.named_modules() if isinstance(module, ILN)}
    assert names
    assert all("unit0" in name for name in names)
    apply_method(network, None, pattern="unit1")
    found = layers(network, NORMS)
    assert 0 < len(found) < count
    assert not any("unit1" in name for name, module in network.named_modules() if isinstance(module, NORMS))
    assert len(layers(network, ILN)) == len(names)


def test_a_pattern_is_refused_where_it_cannot_be(method):
    network = NETWORKS["UNet"](2)
    before = repr(network)
    name = method if isinstance(method, str) else method[0]
    with pytest.raises(UserError, match=f"^pattern 'model': {name} takes the network as a whole. Remedy: leave it out"):
        apply_method(network, method, image(2), pattern="model")
    for other in ("ILN", None, nn.Identity):
        with pytest.raises(UserError, match="pattern 'nothing' matches no norm of the UNet"):
            apply_method(network, other, pattern="nothing")
    assert repr(network) == before


def test_affine_and_running_statistics_stay():
    network = PaperUNet(2, 1, 2, (4, 8), norm="BATCH")
    train(network, 1)
    state = copy.deepcopy(network.state_dict())
    apply_method(network.eval(), "BATCH_KALMAN", image(2))
    torch.testing.assert_close(network.state_dict(), state)
    assert not any(layer.training for layer in layers(network, BatchKalmanNorm))


def test_paper_unet_takes_methods_as_norm(method):
    torch.manual_seed(0)
    network = PaperUNet(3, 2, 2, (4, 8), norm=method)
    torch.manual_seed(0)
    expected = apply_method(PaperUNet(3, 2, 2, (4, 8), norm="BATCH"), method, torch.zeros(1, 2, 4, 4, 4))
    x = torch.randn(2, 2, 8, 8, 8)
    assert torch.equal(network(x), expected(x))
    kinds = layers(PaperUNet(norm=("BATCH_KALMAN", {"gain": 0.5}), features=(4, 8)), BatchKalmanNorm)
    assert {layer.gain for layer in kinds} == {0.5}


def test_paper_unet_means_the_same_by_a_name():
    for norm in ("instance", ("GROUP", {"num_groups": 8}), "ILN"):
        network = PaperUNet(2, 1, 2, (4, 12), norm=norm)
        expected = apply_method(PaperUNet(2, 1, 2, (4, 12), norm="BATCH"), norm)
        assert repr(network) == repr(expected)
        assert all(norm.weight is not None for norm in layers(network, NORMS))
    bare = PaperUNet(2, 1, 2, (4, 8), norm=("INSTANCE", {"affine": False}))
    assert all(norm.weight is None for norm in layers(bare, NORMS))
    with pytest.raises(UserError, match="norm 'OWN' is unknown"):
        PaperUNet(norm="OWN")


@pytest.mark.parametrize(("norm", "kind"), [("WEIGHT", None), ("BATCH_KALMAN", BatchKalmanNorm), ("ILN", ILN)])
def test_configuration(norm, kind):
    """Any network of a bundle, wrapped: the methods of a study are values of ``norm``."""
    parser = ConfigParser(
        {
            "norm": norm,
            "network_def": {
                "_target_": "monai_iln.norms.apply_method",
                "network": {
                    "_target_": "UNet",
                    "spatial_dims": 2,
                    "in_channels": 1,
                    "out_channels": 2,
                    "channels": [8, 16],
                    "strides": [2],
                    "norm": "BATCH",
                },
                "method": "@norm",
                "example": "$torch.zeros(1, 1, 16, 16)",
            },
            "imports": ["$import torch"],
        }
    )
    network = parser.get_parsed_content("network_def")
    found = layers(network, NORMS)
    assert {type(layer) for layer in found} == ({kind} if kind else set())


@pytest.mark.parametrize("bundle", ["lv_short_axis_iln", "rv_short_axis_iln"])
def test_bundles_take_methods_as_norm(bundle, method, tmp_path):
    """They are trained with it, and what is saved fits the network that the evaluation makes."""

    def make():
        parser = ConfigParser()
        parser.read_config(BUNDLES / bundle / "configs" / "train.yaml")
        parser.update({"norm": method, "network_def#features": [4, 8], "device": "cpu"})
        return parser.get_parsed_content("network_def")

    network = make()
    train(network, 1)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = load_weights(make(), tmp_path / "model.pt")
    torch.testing.assert_close(other.eval()(image(2)), network.eval()(image(2)))


class Twice(nn.Module):
    """Calls a norm twice."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(self.convolution(self.norm(x)))


def spectral(network):
    nn.utils.parametrizations.spectral_norm(layers(network, _ConvNd)[1])
    return network


REFUSED = {
    "no example": ("BATCH_KALMAN", NETWORKS["UNet"], None, "UNet without an example: .*give an input"),
    "another example": (
        "BATCH_KALMAN",
        NETWORKS["UNet"],
        torch.zeros(1, 3, 16, 16),
        r"shape \[1, 3, 16, 16\]: the UNet",
    ),
    "no norms": ("BATCH_KALMAN", lambda dims: nn.Sequential(nn.Conv2d(1, 1, 1)), image(2), "has no norm to replace"),
    "one norm": (
        "BATCH_KALMAN",
        lambda dims: nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
        image(2),
        "no norm of it can be predicted",
    ),
    "no parameters": (
        "BATCH_KALMAN",
        lambda dims: nn.Sequential(nn.InstanceNorm2d(1), nn.ConstantPad2d(1, 5.0), nn.Flatten()),
        image(2),
        "no norm of it can be predicted",
    ),
    "a norm itself": ("BATCH_KALMAN", lambda dims: nn.BatchNorm2d(1), image(2), "BatchNorm2d: it is a norm itself"),
    "a norm called twice": ("BATCH_KALMAN", lambda dims: Twice(), image(2), "norm norm: it is called more than once"),
    "gain": (("BATCH_KALMAN", {"gain": 2}), NETWORKS["UNet"], image(2), "gain 2: .* from 0 to 1"),
    "argument": (("BATCH_KALMAN", {"gian": 0.5}), NETWORKS["UNet"], image(2), "Did you mean 'gain'"),
    "argument of weight": (
        ("WEIGHT", {"gain": 0.5}),
        NETWORKS["UNet"],
        image(2),
        "'gain' is no argument of WEIGHT. There are: none",
    ),
    "example of a name": ("BATCH_KALMAN", NETWORKS["UNet"], "image", "example of str: .* give tensors"),
    "example of a shape": ("BATCH_KALMAN", NETWORKS["UNet"], (1, 1, 16, 16), "example of tuple: .* give tensors"),
    "example of nothing": ("BATCH_KALMAN", NETWORKS["UNet"], (), "example of tuple: .* give tensors"),
    "argument of own": (("OWN", {"gain": 0.5}), NETWORKS["UNet"], None, "'gain' is no argument of OWN"),
    "form": (3, NETWORKS["UNet"], None, "norm 3 has no valid form"),
    "name": ("WEIHGT", NETWORKS["UNet"], image(2), "norm 'WEIHGT' is unknown"),
    "no convolutions": ("WEIGHT", lambda dims: nn.Sequential(nn.BatchNorm2d(1)), None, "it has no convolution"),
    "groups": (
        "WEIGHT",
        lambda dims: nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2, groups=2)),
        None,
        "^1, ConvTranspose2d: .*of groups",
    ),
    "lazy": ("WEIGHT", lambda dims: nn.Sequential(nn.BatchNorm2d(4), nn.LazyConv2d(4, 1)), None, "send one batch"),
    "spectral": ("WEIGHT", lambda dims: spectral(NETWORKS["UNet"](dims)), None, "has a parametrization already"),
}


@pytest.mark.parametrize(("method", "make", "example", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")  # what torch says of any of them
def test_what_cannot_be_is_refused_and_nothing_changed(method, make, example, message):
    network = make(2)
    before, mode = repr(network), torch.get_rng_state()
    with pytest.raises(UserError, match=message):
        apply_method(network, method, example)
    assert repr(network) == before
    assert torch.equal(torch.get_rng_state(), mode)


def test_a_network_that_cannot_be_copied_is_refused():
    network = dynunet(2, deep_supervision=True, deep_supr_num=1)
    network(image(2))  # keeps what its heads gave
    with pytest.raises(UserError, match="DynUNet: it cannot be copied .*to a new network"):
        apply_method(network, "BATCH_KALMAN", image(2))
    assert len(layers(network, nn.InstanceNorm2d)) == 10
