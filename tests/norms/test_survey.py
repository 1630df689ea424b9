"""What a survey tells of a network: counts that are known, and fingerprints that tell networks apart."""

import copy
import json

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.networks import nets
from torch import nn

from monai_iln import ILN
from monai_iln.errors import UserError
from monai_iln.networks import PaperUNet
from monai_iln.norms import apply_and_survey, apply_method, survey_norms


def unet(dims=2, classes=3, **arguments):
    return nets.UNet(dims, 1, classes, channels=(8, 16, 32), strides=(2, 2), num_res_units=2, **arguments)


def spleen():
    """The UNet of MONAI's spleen tutorial."""
    return nets.UNet(3, 1, 2, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2, norm="BATCH")


def survey(network, method, example=None, pattern=None):
    return apply_and_survey(network, method, example, pattern)[1]


def fingerprint(method, make=unet, **arguments):
    return survey(make(), method, **arguments)["fingerprint"]


@pytest.mark.parametrize(
    ("make", "gates", "dead"), [(nets.SegResNet, 25, 11), (spleen, 17, 5), (lambda: PaperUNet(norm="BATCH"), 22, 5)]
)
def test_dead_gates(make, gates, dead):
    found = survey(make(), "ILN")
    assert (found["norms"], found["gates"], found["dead_gates"]) == (gates, gates, dead)
    assert found["kinds"] == {"InstanceLayerNorm": gates}
    alive = survey(make(), ("ILN", {"num_groups": "alive"}))
    assert (alive["gates"], alive["dead_gates"]) == (gates, 0)
    assert survey(make(), ("ILN", {"num_groups": None}))["dead_gates"] == 0
    assert survey(make(), "BATCH")["gates"] == 0
    assert survey(make(), "SPATIAL_LAYER")["gates"] == 0  # a mixture of one has none
    assert survey(make(), ("GROUP", {"num_groups": 16}))["one_channel_groups"] == dead
    assert survey(make(), "ILN")["one_channel_groups"] == survey(make(), "INSTANCE")["one_channel_groups"] == 0


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("own", {"InstanceNorm2d": 9}),
        ("BATCH", {"BatchNorm2d": 9}),
        (None, {}),
        ("WEIGHT", {}),
        (nn.Identity, {}),
        ("BATCH_KALMAN", {"BatchKalmanNorm": 9}),
        (lambda channels: nn.PReLU(channels), {"PReLU": 9}),  # whatever is put in the place of the norms
    ],
)
def test_kinds(method, kinds):
    network, found = apply_and_survey(unet(), method, torch.zeros(1, 1, 16, 16))
    assert isinstance(network, nets.UNet)
    assert found["kinds"] == kinds
    assert found["norms"] == sum(kinds.values())
    assert found["left"] == []
    assert json.loads(json.dumps(found)) == found


class BatchNormAct(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def mixed():
    shared, left = nn.BatchNorm2d(8), nn.LayerNorm(8)
    inner = nn.Sequential(shared)
    return nn.Sequential(inner, nn.Conv2d(8, 8, 1), left, BatchNormAct(8), shared, ILN(8), left)


LAST_AXES = ["2", "normalizes the last axes of its input, not channels at axis 1"]
OF_ANOTHER_CLASS = ["3", "its class may do more than normalize"]


@pytest.mark.parametrize(
    ("method", "pattern", "left"),
    [
        ("ILN", None, [LAST_AXES, OF_ANOTHER_CLASS]),  # the last one is as asked for, not left
        (None, None, [LAST_AXES, OF_ANOTHER_CLASS]),
        ("WEIGHT", None, [LAST_AXES, OF_ANOTHER_CLASS]),
        ("own", None, []),
        (BatchNormAct, None, [LAST_AXES]),
        ("ILN", "^4", [[name, "its name does not match '^4'"] for name in ("2", "3", "5")]),
    ],
)
def test_what_was_left(method, pattern, left):
    network = mixed()
    found = survey(network, method, None, pattern)
    assert found["left"] == left
    assert network[0][0] is network[4]  # and has one name in the survey


def test_weight_normalization_twice_leaves_nothing():
    """What computes a weight is no norm, though its class is called so."""
    network = apply_method(unet(), "WEIGHT")
    assert survey(network, "WEIGHT")["left"] == []
    assert survey(network, "own")["norms"] == 0


LAST = "model.2.0.adn.N"  # has the channels of the output
UPPER = "model.1.submodule.2"
# Have 8 channels, of 16 groups.
EIGHT = [f"model.0.conv.unit{unit}.adn.N" for unit in (0, 1)] + [f"{UPPER}.0.adn.N", f"{UPPER}.1.conv.unit0.adn.N"]
MIXED = {"components": ["batch", ["group", {"num_groups": 4}]]}


@pytest.mark.parametrize(
    ("method", "regrouped"),
    [
        (("group", {"num_groups": 8}), [[LAST, 8, 3]]),
        (("ILN", {"num_groups": 8}), [[LAST, 8, 3]]),
        ("ILN", [*([name, 16, 8] for name in EIGHT), [LAST, 16, 3]]),
        (("ILN", {"num_groups": "auto"}), []),
        (("ILN", {"num_groups": None}), []),
        (("group", {"num_groups": 1}), []),
        ("BATCH", []),
        (None, []),
        ("WEIGHT", []),
        (("MIXTURE", MIXED), [[LAST, 4, 3]]),
        (("MIXTURE", {**MIXED, "then": ["group", {"num_groups": 8}]}), [[LAST, 4, 3], [LAST, 8, 3]]),
    ],
)
def test_regrouped(method, regrouped):
    network, found = apply_and_survey(unet(), method)
    assert found["regrouped"] == regrouped
    for name, _, taken in regrouped[-1:]:
        layer = network.get_submodule(name)
        assert taken in (layer.num_groups, *getattr(layer, "components", ()))


def test_what_is_done_again_is_regrouped_again():
    network = unet()
    first = survey(network, ("group", {"num_groups": 8}))
    assert survey(network, ("group", {"num_groups": 8})) == first


def test_parameters_are_those_that_are_trained():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    network.append(network[2])  # counts once
    assert survey(network, "own")["parameters"] == 40 + 8 + 10
    assert survey(network, "ILN")["parameters"] == 40 + 9 + 10
    network[0].requires_grad_(False)
    assert survey(network, "own")["parameters"] == 9 + 10
    assert survey(network, None)["parameters"] == 10


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")  # what torch says of any of them
def test_lazy_layers():
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.LazyBatchNorm2d())
    found = survey(network, "ILN", torch.zeros(1, 1, 8, 8))
    assert found["parameters"] == 9  # the convolution has none yet
    assert [name for name, _ in found["left"]] == ["2"]


class Choosing(nn.Module):
    """Goes by the values of its input."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.norm(self.convolution(x))
        return x if bool(x.sum() > 0) else -x


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 5), nn.BatchNorm1d(5)

    def forward(self, a, b):
        return self.norm(self.linear(a) + b)


def one_convolution():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


CONVOLUTION = 2 * 9 * 4 * 8 * 8  # a product and a sum for each weight and position


@pytest.mark.parametrize(
    ("make", "example", "flops"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), torch.zeros(1, 1, 10, 10), CONVOLUTION),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), torch.zeros(2, 1, 10, 10), 2 * CONVOLUTION),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).double(),
            (torch.zeros(1, 1, 10, 10),),
            CONVOLUTION,
        ),
        (one_convolution, MetaTensor(torch.zeros(1, 1, 10, 10)), CONVOLUTION),
        (one_convolution, torch.empty(1, 1, 10, 10, device="meta"), CONVOLUTION),  # nothing is computed
        (Choosing, torch.zeros(1, 1, 10, 10), CONVOLUTION),
        (Two, (torch.zeros(2, 3), torch.zeros(2, 5)), 2 * 2 * 3 * 5),
        (Two, [torch.zeros(2, 3), torch.zeros(1, dtype=torch.long)], 2 * 2 * 3 * 5),
        (Two, torch.zeros(2, 3), None),  # an input is missing
        (unet, torch.zeros(1, 3, 16, 16), None),  # too many channels
        (unet, "image", None),
        (unet, (), None),
        (unet, None, None),
    ],
)
def test_flops(make, example, flops):
    for method in ("own", "ILN", None, "BATCH"):
        assert survey(make(), method, example)["flops"] == flops


@pytest.mark.parametrize("method", ["ILN", "BATCH", "WEIGHT", "BATCH_KALMAN"])
def test_a_survey_changes_nothing(method):
    torch.manual_seed(0)
    example = torch.randn(2, 1, 16, 16)
    network, plain = apply_method(unet(dropout=0.5), method, example), unet()
    network.model[0].eval()
    state, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    modes = [module.training for module in network.modules()]
    hooks = [len(module._forward_pre_hooks) for module in network.modules()]
    found = survey_norms(network, example)
    assert found["flops"] == survey_norms(plain, example)["flops"]
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in network.modules()] == modes
    assert [len(module._forward_pre_hooks) for module in network.modules()] == hooks
    assert survey_norms(network, example) == found


def test_affine():
    assert survey(unet(), "INSTANCE")["affine"] is True
    assert survey(unet(), ("INSTANCE", {"affine": False}))["affine"] is False
    assert survey(unet(), "own")["affine"] is False  # MONAI's default
    assert survey(unet(), "ILN", pattern="unit0")["affine"] is None
    assert survey(unet(), None)["affine"] is None
    assert survey(unet(), lambda channels: nn.GroupNorm(1, channels, bias=False))["affine"] is None


SAME = [
    (("ILN", {"num_groups": 16}), ("ILN", {"num_groups": "auto"})),
    ("iln", ILN),
    ("instance", ["INSTANCE", {"affine": True}]),
    ("own", ("INSTANCE", {"affine": False})),
    (("group", {"num_groups": 32}), ("group", {"num_groups": 64})),  # as many as channels, everywhere
    (None, nn.Identity),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_modules_have_one_fingerprint(one, other):
    torch.manual_seed(0)
    first = fingerprint(one)
    torch.manual_seed(1)
    assert fingerprint(other) == first
    assert len(first) == 16


@pytest.mark.slow
def test_other_modules_have_another_fingerprint():
    example = torch.zeros(1, 1, 16, 16)
    methods = [
        "own", None, "WEIGHT", "BATCH_KALMAN", ("BATCH_KALMAN", {"gain": 0.5}), "instance", ("instance", {"eps": 1e-3}),
        ("group", {"num_groups": 16}), ("group", {"num_groups": 32}), ("group", {"num_groups": 4}), "BATCH",
        "SYNCBATCH", ("BATCH", {"momentum": 0.2}), "ILN", ("ILN", {"num_groups": "alive"}),
        ("ILN", {"num_groups": None}), ("ILN", {"gate": "clip"}), ("ILN", {"gate": "softmax"}),
        ("ILN", {"gate_scope": "channel"}), "BIN", ("BIN", {"sync": True}), "UGATIT_ILN",
        "SWITCHABLE", "SPATIAL_LAYER", "MIXTURE",
        ("MIXTURE", {"initial_gate": 0.25}), ("MIXTURE", {"components": ["instance", "batch"]}),
        lambda channels: nn.GroupNorm(1, channels),
    ]  # fmt: skip
    found = [fingerprint(method, example=example) for method in methods]
    found += [fingerprint("ILN", pattern="unit0"), fingerprint("ILN", pattern="unit1")]
    found += [fingerprint("ILN", lambda: unet(classes=4)), fingerprint("ILN", lambda: unet(act="RELU"))]
    assert len(set(found)) == len(found)


def test_what_a_fingerprint_sees():
    class Settings(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def extra_repr(self):
            return str(self.value)

    class Silent(Settings):
        def extra_repr(self):
            return ""

    def seen(value, kind=Silent):
        return survey_norms(kind(value))["fingerprint"]

    class Thing:
        pass

    assert seen(Thing()) == seen(Thing())  # not where in memory it is
    assert seen(Thing(), Settings) == seen(Thing(), Settings)
    assert seen({"b", "a", "c"}) == seen({"c", "b", "a"})
    assert seen([torch.rand(1)]) == seen([torch.rand(1)])  # values are not settings
    plain = [1, 1.5, "1", None, True, [1], {"a": 1}, {"a": 2}]
    values = [*plain, torch.relu, torch.sigmoid, nn.ReLU, Thing(), torch.rand(2)]
    assert len({seen(value) for value in values}) == len(values)

    def hooked(module):
        module.register_forward_pre_hook(lambda module, args: None)
        return module

    shared = nn.Conv2d(1, 1, 1)
    networks = [
        nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)),
        nn.Sequential(shared, shared),
        nn.Sequential(hooked(nn.Conv2d(1, 1, 1)), nn.Conv2d(1, 1, 1)),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 1, 1)), nn.Conv2d(1, 1, 1)),
        nn.Sequential(nn.Conv2d(1, 1, 1).requires_grad_(False), nn.Conv2d(1, 1, 1)),
        nn.ModuleDict({"a": nn.Conv2d(1, 1, 1), "b": nn.Conv2d(1, 1, 1)}),
    ]
    found = [survey_norms(network)["fingerprint"] for network in networks]
    assert len(set(found)) == len(found)
    assert survey_norms(networks[0].eval())["fingerprint"] == found[0]


def test_configuration():
    """A worker has it by its dotted name."""
    definition = {"_target_": "PaperUNet", "norm": "BATCH", "features": [4, 8]}
    definition["_target_"] = "monai_iln.networks.PaperUNet"
    config = {
        "_target_": "monai_iln.norms.apply_and_survey",
        "network": definition,
        "method": ["ILN", {"num_groups": 4}],
    }
    network, found = ConfigParser({"surveyed": config}).get_parsed_content("surveyed")
    assert isinstance(network, PaperUNet)
    assert found["kinds"] == {"InstanceLayerNorm": 7}


def test_errors_are_those_of_the_method():
    with pytest.raises(UserError, match="norm 'INL' is unknown"):
        apply_and_survey(unet(), "INL")
    with pytest.raises(UserError, match="matches no norm"):
        apply_and_survey(unet(), "ILN", pattern="nothing")
