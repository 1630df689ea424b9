import copy

import pytest
import torch
from monai.networks.nets import AHNet, AttentionUnet, DynUNet, ResNet, SEResNet50, VNet
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from monai_iln import ILN
from monai_iln.errors import UserError
from monai_iln.norms import make_norm, replace_norm

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# What has its norms hard-coded, with a small input.
NETWORKS = {
    "AttentionUnet": (lambda: AttentionUnet(2, 1, 2, channels=(8, 16, 32), strides=(2, 2)), (2, 1, 16, 16)),
    "VNet": (lambda: VNet(spatial_dims=2), (2, 1, 32, 32)),
    "ResNet": (
        lambda: ResNet("basic", [1, 1, 1, 1], [8, 16, 16, 16], spatial_dims=3, n_input_channels=1, num_classes=2),
        (2, 1, 16, 16, 16),
    ),
    "SENet": (lambda: SEResNet50(layers=(1, 1, 1, 1), spatial_dims=2, in_channels=1, num_classes=2), (2, 1, 64, 64)),
    "AHNet": (lambda: AHNet(layers=(1, 1, 1, 1), spatial_dims=2, psp_block_num=0), (1, 1, 64, 64)),
}


class Block(nn.Module):
    """Like a block of torchvision's ResNet."""

    def __init__(self, channels, norm_layer=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = norm_layer(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm_layer(channels)

    def forward(self, x):
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


def network(norm_layer=nn.BatchNorm2d):
    """Norms with weights that tell them apart."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), norm_layer(8), nn.Sequential(Block(8, norm_layer), Block(8, norm_layer)))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0, generator=torch.Generator().manual_seed(len(name)))
    return model


def norms(model, kinds=ILN):
    return [module for module in model.modules() if isinstance(module, kinds)]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS)
def test_networks_with_hard_coded_norms(make, shape):
    torch.manual_seed(0)
    model = make()
    old = norms(model, (*BATCH_NORMS, nn.InstanceNorm2d))
    trained = {id(norm.weight) for norm in old if norm.weight is not None}
    report = replace_norm(model, ("ILN", {"num_groups": 4}))
    assert not norms(model, (*BATCH_NORMS, nn.InstanceNorm2d))
    assert len(norms(model)) == len(old)
    assert {entry.name for entry in report} == {n for n, m in model.named_modules() if isinstance(m, ILN)}
    assert trained <= {id(norm.weight) for norm in norms(model)}
    y = model(torch.randn(shape))
    y = y[0] if isinstance(y, tuple) else y
    y.backward(torch.randn_like(y))
    assert all(norm.rho.grad.isfinite() for norm in norms(model))
    state = copy.deepcopy(model.state_dict())
    again = replace_norm(model, ("ILN", {"num_groups": 4}))
    assert [(entry.new, entry.note) for entry in again] == [(None, "already as asked for")] * len(old)
    torch.testing.assert_close(model.state_dict(), state)


def test_report():
    model = network()
    old = repr(model[1])
    report = replace_norm(model, "ILN")
    assert [entry.name for entry in report] == ["1", "2.0.bn1", "2.0.bn2", "2.1.bn1", "2.1.bn2"]
    first = report[0]
    assert (first.old, first.new, first.affine_kept) == (old, repr(model[1]), True)
    assert first.note == "lost: running_mean, running_var, num_batches_tracked"


@pytest.mark.parametrize("norm", ["BATCH", ("INSTANCE", {"affine": True}), ("GROUP", {"num_groups": 2}), "SYNCBATCH"])
def test_there_and_back(norm):
    """Parameters move, whatever the norms are."""
    model = network()
    model[1].running_mean.fill_(3.0)
    parameters = dict(model.named_parameters())
    replace_norm(model, "ILN")
    replace_norm(model, norm, spatial_dims=2)
    assert not norms(model)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    if norm != "SYNCBATCH":  # runs on a GPU only
        model(torch.randn(2, 1, 9, 9)).mean().backward()


def test_running_statistics_move_where_both_have_them():
    model = network()
    model[1].running_mean.fill_(3.0)
    entry = replace_norm(model, "SYNCBATCH")[0]
    assert (model[1].running_mean == 3).all()
    assert entry.note == ""


def test_equal_norms_give_equal_outputs():
    x = torch.randn(2, 1, 12, 12)
    model = network(lambda channels: nn.InstanceNorm2d(channels, affine=True))
    expected = model(x)
    assert all(entry.new is None for entry in replace_norm(model, ("INSTANCE", {"affine": True})))
    torch.testing.assert_close(model(x), expected)
    # One group a channel is instance norm, and back again.
    assert all(entry.affine_kept for entry in replace_norm(model, ("GROUP", {"num_groups": 8})))
    torch.testing.assert_close(model(x), expected)
    assert all(entry.affine_kept for entry in replace_norm(model, ("INSTANCE", {"affine": True})))
    torch.testing.assert_close(model(x), expected)
    replace_norm(model, ("ILN", {"num_groups": 8}))  # a dead gate: instance norm but for eps
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


def test_other_arguments_of_the_same_norm():
    model = network()
    replace_norm(model, ("ILN", {"num_groups": 8}))
    nn.init.constant_(model[1].rho, 0.7)
    replace_norm(model, ("ILN", {"num_groups": 4, "eps": 1e-3}))
    assert {(norm.num_groups, norm.eps) for norm in norms(model)} == {(4, 1e-3)}
    assert model[1].rho.item() == pytest.approx(0.7)
    assert replace_norm(model, ("ILN", {"num_groups": 4, "eps": 1e-5}))[0].new is not None


def test_a_gate_of_another_shape_begins_anew():
    model = network()
    replace_norm(model, "ILN")
    nn.init.constant_(model[1].rho, 0.7)
    entry = replace_norm(model, ("ILN", {"gate_scope": "channel"}))[0]
    assert (model[1].rho.shape, model[1].rho.unique().item()) == ((8,), 0.5)
    assert entry.note == "lost: rho"


def test_affine_that_cannot_be_kept():
    entry = replace_norm(network(), "INSTANCE")[0]  # affine=False is torch's default
    assert not entry.affine_kept
    assert "lost: weight, bias" in entry.note
    entry = replace_norm(network(nn.InstanceNorm2d), "ILN")[0]
    assert not entry.affine_kept
    assert entry.note == "the old norm had no weight and bias"


def test_training_mode_dtype_device_and_freezing_are_kept():
    model = network().double().eval()
    model[2][0].train().requires_grad_(False)
    replace_norm(model, "ILN")
    frozen = norms(model[2][0])
    for norm in norms(model):
        assert norm.training == (norm in frozen)
        assert {p.requires_grad for p in norm.parameters()} == {norm not in frozen}
        assert {p.dtype for p in norm.parameters()} == {torch.float64}
    assert model(torch.randn(2, 1, 9, 9, dtype=torch.float64)).dtype == torch.float64
    partly = network()
    partly[1].bias.requires_grad_(False)  # what only the new norm has is trained, as the rest is
    replace_norm(partly, "ILN")
    assert {name: p.requires_grad for name, p in partly[1].named_parameters()} == {
        "rho": True, "weight": True, "bias": False,
    }  # fmt: skip
    bare = network(nn.InstanceNorm2d).to("meta", torch.bfloat16)  # these norms have no tensor of their own
    replace_norm(bare, "ILN")
    assert {(p.device.type, p.dtype) for p in bare.parameters()} == {("meta", torch.bfloat16)}


def test_a_shared_norm_stays_shared():
    shared = nn.BatchNorm2d(8)
    model = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(1, 8, 3), shared), "b": nn.Sequential(shared), "c": shared})
    report = replace_norm(model, "ILN")
    assert [entry.name for entry in report] == ["a.1", "b.0", "c"]
    assert model["a"][1] is model["b"][0] is model["c"]
    assert len(norms(model)) == 1


def test_norms_that_are_left():
    class BatchNormAct(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    class BatchNormOfNoNumber(nn.Module):
        pass

    model = nn.ModuleList(
        [nn.BatchNorm2d(8), nn.LayerNorm(8), nn.LazyBatchNorm2d(), BatchNormAct(8), nn.InstanceNorm2d(8)]
    )
    model.append(BatchNormOfNoNumber())
    report = replace_norm(model, "ILN", from_=(nn.BatchNorm2d, nn.LayerNorm, BatchNormOfNoNumber))
    left = {entry.name: entry.note for entry in report if entry.new is None}
    assert left == {
        "1": "normalizes the last axes of its input, not channels at axis 1",
        "2": "lazily initialized: send one batch through the network first",
        "3": "its class is not in from_",
        "4": "its class is not in from_",
        "5": "has neither num_features nor num_channels",
    }
    assert len(norms(model)) == 1
    assert replace_norm(model, "ILN", from_=(nn.BatchNorm2d,))[0].note == "already of the class asked for"
    assert replace_norm(model, "ILN", from_=(BatchNormAct,))[3].new is not None


def test_what_has_norm_in_its_name_and_is_none_is_not_reported():
    class PreNormBlock(nn.Sequential):
        """A norm and what follows it."""

    model = nn.Sequential(
        PreNormBlock(nn.BatchNorm2d(1), weight_norm(nn.Conv2d(1, 8, 3))), spectral_norm(nn.Conv2d(8, 8, 1))
    )
    assert [entry.name for entry in replace_norm(model, "ILN")] == ["0.0"]


@pytest.mark.parametrize(("dims", "kind"), [(1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d)])
def test_spatial_dimensions_come_from_the_convolutions_or_the_caller(dims, kind):
    convolution = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose3d)[dims - 1]
    nested = nn.Sequential(nn.Sequential(convolution(1, 8, 1), nn.Sequential(nn.GroupNorm(2, 8))), nn.Conv2d(8, 8, 1))
    replace_norm(nested, "BATCH")
    assert type(nested[0][1][0]) is kind
    alone = nn.Sequential(nn.GroupNorm(2, 8))
    replace_norm(alone, "BATCH", spatial_dims=dims)
    assert type(alone[0]) is kind


def test_errors():
    with pytest.raises(UserError, match=r"the model itself is a BatchNorm2d.*make_norm"):
        replace_norm(nn.BatchNorm2d(8), "ILN")
    with pytest.raises(UserError, match="Sequential has no norm to replace. Looked for were BatchNorm1d, .*in from_"):
        replace_norm(nn.Sequential(nn.Conv2d(1, 8, 3)), "ILN")
    with pytest.raises(UserError, match=r"0 is a LayerNorm\(.*normalizes the last axes"):
        replace_norm(nn.Sequential(nn.LayerNorm(8)), "ILN")
    with pytest.raises(UserError, match="must be a tuple of classes"):
        replace_norm(network(), "ILN", from_=nn.BatchNorm2d)
    with pytest.raises(UserError, match="Did you mean 'ILN'"):
        replace_norm(network(), "INL")
    with pytest.raises(UserError, match="names no layer"):
        replace_norm(network(), None)
    for around in ([], [nn.Conv2d(1, 1, 1), nn.Conv3d(1, 1, 1)]):
        with pytest.raises(UserError, match=r"^1\.0, GroupNorm.*give spatial_dims"):
            replace_norm(nn.Sequential(nn.Identity(), nn.Sequential(nn.GroupNorm(2, 8)), *around), "BATCH")


def test_an_error_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(7))
    with pytest.raises(UserError, match=r"^1, BatchNorm2d.*7 channels cannot be divided into 4 equal groups"):
        replace_norm(model, ("ILN", {"num_groups": 4, "strict": True}))
    assert len(norms(model, nn.BatchNorm2d)) == 2


def test_a_class_or_a_function_makes_the_norms():
    model = network()
    parameters = dict(model.named_parameters())
    report = replace_norm(model, lambda channels: nn.GroupNorm(2, channels))
    assert {entry.new for entry in report} == {repr(nn.GroupNorm(2, 8))}
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert {entry.note for entry in replace_norm(model, lambda channels: nn.GroupNorm(2, channels))} == {
        "already as asked for"
    }
    assert {entry.new for entry in replace_norm(model, ILN)} == {repr(ILN(8))}
    report = replace_norm(model, nn.Identity)
    assert {(entry.new, entry.affine_kept) for entry in report} == {("Identity()", False)}
    assert not norms(model, (ILN, nn.GroupNorm))
    model(torch.randn(2, 1, 9, 9))


def test_a_class_that_makes_no_norm_of_channels_leaves_the_model_as_it_was():
    model = network()
    with pytest.raises(UserError, match=r"^1, BatchNorm2d\(8, .*num_channels"):
        replace_norm(model, nn.GroupNorm)
    with pytest.raises(UserError, match=r"^1, BatchNorm2d\(8, .*made None for it; it must return a layer"):
        replace_norm(model, lambda channels: None)
    assert len(norms(model, nn.BatchNorm2d)) == 5


def test_a_gate_moves_only_to_a_gate_that_means_the_same():
    def trained():
        model = nn.Sequential(nn.Conv2d(1, 8, 3), make_norm("UGATIT_ILN", 2, 8))
        nn.init.constant_(model[1].rho, 0.25)
        return model

    other, same = trained(), trained()
    assert "rho" in replace_norm(other, "BIN")[0].note
    assert (other[1].rho == 1).all()
    replace_norm(same, ("UGATIT_ILN", {"eps": 1e-3}))
    assert (same[1].rho == 0.25).all()


def test_groups_that_do_not_divide_the_channels():
    """The largest divisor is taken. MONAI's factory still raises."""
    model = nn.Sequential(nn.BatchNorm2d(32), nn.BatchNorm2d(12), nn.BatchNorm2d(11), nn.BatchNorm2d(3)).double()
    report = replace_norm(model, ("group", {"num_groups": 8, "eps": 0.1}))
    assert [(norm.num_groups, norm.eps) for norm in model] == [(8, 0.1), (6, 0.1), (1, 0.1), (3, 0.1)]
    assert "GroupNorm(6, 12" in report[1].new
    x = torch.randn(2, 12, 5, 5, dtype=torch.float64)
    groups = x.view(2, 6, -1)
    expected = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(model[1](x), expected.view_as(x))
    with pytest.raises(UserError, match="divisible by num_groups"):
        make_norm(("group", {"num_groups": 8}), 2, 12)
    with pytest.raises(UserError, match="num_groups is 0; it must be a whole number from 1"):
        replace_norm(model, ("group", {"num_groups": 0}))


def test_only_the_norms_of_a_pattern():
    model = network()
    report = replace_norm(model, "ILN", pattern=r"\.bn1$")
    assert {name for name, module in model.named_modules() if isinstance(module, ILN)} == {"2.0.bn1", "2.1.bn1"}
    left = {entry.name: entry.note for entry in report if entry.new is None}
    assert left == dict.fromkeys(["1", "2.0.bn2", "2.1.bn2"], "its name does not match '\\\\.bn1$'")
    assert {entry.note for entry in replace_norm(model, "ILN", pattern=r"\.bn1$") if entry.name in ("2.0.bn1",)} == {
        "already as asked for"
    }


def test_a_pattern_that_matches_one_name_of_a_shared_norm():
    """DynUNet has its blocks under two names; its forward goes by the second."""
    model = DynUNet(2, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), (4, 4, 8), norm_name="INSTANCE")
    replace_norm(model, "ILN", pattern="^input_block")
    assert len(norms(model)) == 2
    assert model.skip_layers.downsample is model.input_block
    assert len({id(norm) for _, norm in model.named_modules(remove_duplicate=False) if isinstance(norm, ILN)}) == 2
    shared = nn.BatchNorm2d(8)
    twice = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared), "c": nn.BatchNorm2d(8)})
    replace_norm(twice, "ILN", pattern="b")
    assert twice["a"][0] is twice["b"][0]
    assert len(norms(twice)) == 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("bn3", r"pattern 'bn3' matches no norm of the Sequential. Its norms are: 1; 2\.0\.bn1; .*and 2 more"),
        ("(", r"pattern '\(' is no regular expression: .*mend it"),
        (3, "pattern is 3; it must be a regular expression"),
    ],
)
def test_wrong_patterns_leave_the_model_as_it_was(pattern, message):
    model = network()
    with pytest.raises(UserError, match=message):
        replace_norm(model, "ILN", pattern=pattern)
    assert not norms(model)
    with pytest.raises(UserError, match="Its norms are: it has none"):
        replace_norm(nn.Sequential(nn.Conv2d(1, 1, 1)), "ILN", pattern="bn")
