"""Batch Kalman normalization against its formulas, and its predictions against random maps as its authors draw them."""

import copy
import math

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from monai_iln.errors import UserError
from monai_iln.norms import BatchKalmanNorm, apply_method, update_bn
from monai_iln.norms.kalman_moments import Ended, FromNorm, Rectified
from monai_iln.norms.kalman_paths import predict_norms

CONVOLUTIONS = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


def plain_moments(x):
    axes = [0, *range(2, x.dim())]
    mean = x.mean(axes, keepdim=True)
    return mean.flatten(), (x - mean).square().mean(axes)


def plain_prediction(mean, variance, convolution):
    """The moments of a rectified normal, then through the weights, one output and one input at a time."""
    deviation = variance.sqrt()
    above = 0.5 * (1 + torch.erf(mean / deviation / math.sqrt(2)))
    density = torch.exp(-((mean / deviation) ** 2) / 2) / math.sqrt(2 * math.pi)
    first = mean * above + deviation * density
    second = (mean**2 + variance) * above + mean * deviation * density
    means, variances = [], []
    for weight, bias in zip(convolution.weight, convolution.bias, strict=True):
        means.append(bias + sum(weight[i].sum() * first[i] for i in range(len(first))))
        variances.append(sum((weight[i] ** 2).sum() * (second[i] - first[i] ** 2) for i in range(len(first))))
    return torch.stack(means), torch.stack(variances)


def plain_blend(mean, variance, predicted_mean, predicted_variance, gain):
    return (
        gain * predicted_mean + (1 - gain) * mean,
        gain * predicted_variance + (1 - gain) * variance + gain * (1 - gain) * (mean - predicted_mean) ** 2,
    )


def plain_norm(x, mean, variance, norm):
    shape = [1, -1] + [1] * (x.dim() - 2)
    normal = (x - mean.view(shape)) / (variance + norm.eps).sqrt().view(shape)
    return normal * norm.weight.view(shape) + norm.bias.view(shape)


def three_norms(dims, seed=0):
    """Convolutions, norms and ReLUs in turn, of whose predictions none is far off."""
    torch.manual_seed(seed)
    convolution, norm = CONVOLUTIONS[dims]
    network = nn.Sequential(
        *(convolution(1, 3, 3), norm(3), nn.ReLU()),
        *(convolution(3, 4, 3, stride=2), norm(4), nn.ReLU()),
        *(convolution(4, 2, 2), norm(2)),
    ).double()
    for module in network:
        for parameter in module.parameters():
            centre, spread = (1.0, 0.3) if isinstance(module, norm) else (0.02, 1 / math.sqrt(parameter[0].numel()))
            nn.init.normal_(parameter, centre, spread)
    return network


@pytest.mark.parametrize("gain", [0.0, 0.05, 0.9, 1.0])
@pytest.mark.parametrize("dims", [2, 3])
def test_formulas(dims, gain):
    """Outputs, running averages and gradients, in training; the running averages in evaluation."""
    network = three_norms(dims)
    plain = copy.deepcopy(network)
    x = (2 * torch.randn(2, 1, *[13] * dims).double() + 1).requires_grad_()
    apply_method(network, ("BATCH_KALMAN", {"gain": gain}), x)
    y = network(x)
    cotangent = torch.randn_like(y)
    y.backward(cotangent)

    z, expected = x.detach().clone().requires_grad_(), []
    h = plain[0](z)
    mean, variance = plain_moments(h)
    expected.append((mean, variance))
    h = plain_norm(h, mean, variance, plain[1]).relu()
    for number in (3, 6):
        h = plain[number](h)
        predicted = plain_prediction(mean, variance, plain[number])
        assert (predicted[1] / plain_moments(h)[1]).mean() < 50
        mean, variance = plain_blend(*plain_moments(h), *predicted, gain)
        expected.append((mean, variance))
        h = plain_norm(h, mean, variance, plain[number + 1])
        h = h.relu() if number == 3 else h
    h.backward(cotangent)

    torch.testing.assert_close(y, h)
    torch.testing.assert_close(x.grad, z.grad)
    for (name, parameter), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")
    norms = [network[number] for number in (1, 4, 7)]
    for norm, (mean, variance) in zip(norms, expected, strict=True):
        torch.testing.assert_close(norm.running_mean, 0.1 * mean)
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance)
    network.eval()
    h = x
    for number, module in enumerate(network):
        running = number in (1, 4, 7) and (module.running_mean, module.running_var)
        h = plain_norm(h, *running, plain[number]) if running else module(h)
    torch.testing.assert_close(network(x), h)


def test_a_prediction_that_is_far_off_is_not_used():
    network = three_norms(2)
    plain = copy.deepcopy(network)
    x = torch.randn(2, 1, 13, 13).double()
    apply_method(network, "BATCH_KALMAN", x)
    h = network[:4](x)
    _, variance = plain_moments(h)
    # The prediction grows with the first convolution, the map behind the first norm does not.
    _, predicted = network[4].prediction.moments(network[4].ended)
    scale = math.sqrt(99.9 / (predicted / variance).mean().item())
    for factor, trusted in ((scale, True), (scale * 1.002, False)):
        scaled = copy.deepcopy(plain)
        scaled[0].weight.data *= factor
        scaled[0].bias.data *= factor
        scaled[1].eps = 1e-12
        apply_method(scaled, ("BATCH_KALMAN", {"eps": 1e-12}), x)
        scaled(x)
        mean, variance = scaled[4].ended[1]
        own_mean, own_variance = plain_moments(scaled[:4](x))
        assert torch.allclose(variance, own_variance) != trusted
        assert torch.allclose(mean, own_mean) != trusted


def sample(stage, moments, size=300, dims=2):
    """The moments of what a stage makes of random maps as the authors draw them, one for each norm before it."""
    torch.manual_seed(1)
    maps = [
        mean.view(1, -1, *[1] * dims)
        + variance.sqrt().view(1, -1, *[1] * dims) * torch.randn(2, len(mean), *[size] * dims, dtype=torch.float64)
        for mean, variance in moments
    ]
    with torch.no_grad():
        y = stage(*maps)
    for axis in range(2, y.dim()):  # without the border
        y = y.narrow(axis, 6, y.shape[axis] - 12 - y.shape[axis] % 2)
    return plain_moments(y)


class Branches(nn.Module):
    """Two norms, and what becomes of both."""

    def __init__(self, combine, convolution):
        super().__init__()
        self.combine, self.convolution = combine, convolution

    def forward(self, a, b):
        return self.convolution(self.combine(a, b))


def prelu(channels):
    layer = nn.PReLU(channels)
    nn.init.normal_(layer.weight)
    return layer


# What lies between one norm of four channels and the next, and the dimensions.
STAGES = {
    "convolution": (lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1)), 2),
    "stride and dilation": (lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, dilation=2, bias=False)), 2),
    "groups": (lambda: nn.Sequential(nn.LeakyReLU(0.3), nn.Conv2d(4, 6, (1, 3), groups=2)), 2),
    "in place": (lambda: nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(4, 6, 3)), 2),
    "PReLU": (lambda: nn.Sequential(prelu(1), nn.Conv2d(4, 6, 3)), 2),
    "PReLU of channels": (lambda: nn.Sequential(prelu(4), nn.Conv2d(4, 6, 3)), 2),
    "ELU": (lambda: nn.Sequential(nn.ELU(0.7), nn.Conv2d(4, 6, 3)), 2),
    "SiLU": (lambda: nn.Sequential(nn.SiLU(), nn.Conv2d(4, 6, 3)), 2),
    "transposed": (lambda: nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1)), 2),
    "transposed, stride of 2 and 3": (lambda: nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 6, (2, 4), (2, 3))), 2),
    "transposed, groups": (lambda: nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(4, 6, 5, 2, groups=2, dilation=2)), 2),
    "max-pooling": (lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3)), 2),
    "average pooling": (lambda: nn.Sequential(nn.AvgPool2d(3), nn.Conv2d(4, 6, 3)), 2),
    "dropout": (lambda: nn.Sequential(nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(4, 6, 3)).eval(), 2),
    "3-D": (lambda: nn.Sequential(nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 6, 3, padding=1)), 3),
    "3-D, transposed": (lambda: nn.Sequential(nn.ReLU(), nn.ConvTranspose3d(4, 6, 2, 2)), 3),
}
PAIRS = {
    "sum": lambda a, b: F.relu(a) + b,
    "product": lambda a, b: a * b.sigmoid(),
    "concatenation": lambda a, b: torch.cat([a.relu(), b], dim=1),
}


def of_norms(number, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(number, channels, dtype=torch.float64, generator=generator)
    variances = 0.2 + torch.rand(number, channels, dtype=torch.float64, generator=generator)
    return list(zip(means, variances, strict=True))


@pytest.mark.parametrize(("make", "dims"), STAGES.values(), ids=STAGES)
def test_predictions_are_what_the_authors_sample(make, dims):
    torch.manual_seed(0)
    stage = make().double()
    channels = stage(torch.zeros(1, 4, *[16] * dims).double()).shape[1]
    norms = {"0": nn.BatchNorm2d(4), "2": nn.BatchNorm2d(channels)}
    network = nn.Sequential(norms["0"], stage, norms["2"]).double()
    prediction = predict_norms(network, norms, torch.zeros(1, 4, *[16] * dims))["2"]
    moments = of_norms(1, 4, seed=len(norms))
    mean, variance = prediction.moments(Ended(enumerate(moments)))
    sampled_mean, sampled_variance = sample(stage, moments, 300 if dims == 2 else 60, dims)
    deviation = sampled_variance.sqrt()
    # Half a million values and more. The largest of several values is not quite normal.
    rough = 0.1 if "MaxPool" in str(stage) else 0.03
    torch.testing.assert_close(mean / deviation, sampled_mean / deviation, rtol=0, atol=rough)
    torch.testing.assert_close(variance / sampled_variance, torch.ones_like(variance), rtol=0, atol=rough)


@pytest.mark.parametrize("combine", PAIRS.values(), ids=PAIRS)
def test_predictions_of_two_branches(combine):
    class TwoNorms(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(6)
            self.stage = Branches(combine, nn.LazyConv2d(6, 3))

        def forward(self, x):
            return self.last(self.stage(self.a(x), self.b(2 * x)))

    torch.manual_seed(0)
    network = TwoNorms()
    network(torch.randn(2, 4, 8, 8))
    network.double()
    norms = {name: getattr(network, name) for name in ("a", "b", "last")}
    prediction = predict_norms(network, norms, torch.zeros(1, 4, 16, 16))["last"]
    moments = of_norms(2, 4, seed=3)
    mean, variance = prediction.moments(Ended(enumerate(moments)))
    sampled_mean, sampled_variance = sample(network.stage, moments)
    deviation = sampled_variance.sqrt()
    torch.testing.assert_close(mean / deviation, sampled_mean / deviation, rtol=0, atol=0.03)
    torch.testing.assert_close(variance / sampled_variance, torch.ones_like(variance), rtol=0, atol=0.05)


def test_shortcuts():
    """The authors' residual network: norms before the convolutions, and sums that hand on what was predicted."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, padding=1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))
            self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))

        def forward(self, x):
            x = self.stem(x)
            for unit in (0, 2):
                h = self.convolutions[unit](self.norms[unit](x).relu_())
                x = x + self.convolutions[unit + 1](self.norms[unit + 1](h).relu_())
            return self.norms[4](x)

    network = Residual().double()
    found = list(
        predict_norms(
            network, {f"norms.{number}": norm for number, norm in enumerate(network.norms)}, torch.zeros(1, 1, 8, 8)
        ).values()
    )
    moments = of_norms(5, 4, seed=0)
    ended = Ended(enumerate(moments))
    assert found[0] is None
    for number in (1, 3):
        expected = plain_prediction(*moments[number - 1], network.convolutions[number - 1])
        torch.testing.assert_close(found[number].moments(ended), expected)
    # Nothing predicts what the stem makes, so a shortcut has what the first norm finds there. From then on it has what
    # was predicted, not what the norm at its beginning ends with.
    first, second = (plain_prediction(*moments[number], network.convolutions[number]) for number in (1, 3))
    expected = tuple(own + branch for own, branch in zip(moments[0], first, strict=True))
    torch.testing.assert_close(found[2].moments(ended), expected)
    expected = tuple(own + branch for own, branch in zip(expected, second, strict=True))
    torch.testing.assert_close(found[4].moments(ended), expected)


def test_what_is_not_known_adds_nothing():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.summed, self.joined = nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(4)
            self.hidden, self.changed = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            self.cut, self.weighted, self.padded = nn.BatchNorm2d(1), nn.BatchNorm2d(2), nn.BatchNorm2d(4)
            self.stacked = nn.BatchNorm2d(2)

        def forward(self, x):
            h = self.first(x)
            self.hidden(h.flip(2))
            self.changed(h.clone().cumsum_(2))
            self.cut(h[:, :1])
            self.weighted(torch.add(h, h, alpha=2))
            self.stacked(torch.cat([h, h], dim=2))
            self.padded(F.pad(h, (0, 0, 0, 0, 1, 1)))
            self.joined(torch.cat([x.flip(3), h], dim=1))
            return self.summed(h + x.flip(2))

    network = Unknown().double()
    found = predict_norms(network, dict(network.named_children()), torch.zeros(1, 2, 4, 4))
    mean, variance = of_norms(1, 2, seed=0)[0]
    ended = Ended({0: (mean, variance)})
    assert {name for name, prediction in found.items() if prediction is None} == {
        "first", "hidden", "changed", "cut", "weighted", "padded", "stacked",
    }  # fmt: skip
    torch.testing.assert_close(found["summed"].moments(ended), (mean, variance))
    nothing = torch.zeros(2).double()
    torch.testing.assert_close(
        found["joined"].moments(ended), (torch.cat([nothing, mean]), torch.cat([nothing, variance]))
    )


def test_the_way_is_that_of_training_and_leaves_no_trace():
    """Some branches are there in training alone. Whoever draws noise draws the same as without this pass."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x):
            h = self.first(x)
            return self.second(h) + torch.randn_like(h) if self.training else h

    network = Noisy().eval()
    before = torch.get_rng_state()
    assert list(predict_norms(network, dict(network.named_children()), torch.zeros(1, 2, 4, 4))) == ["first", "second"]
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training


def test_a_norm_under_two_names_is_called_twice():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    network.append(network[0])
    with pytest.raises(UserError, match="norm 0: it is called more than once in a forward pass"):
        apply_method(network, "BATCH_KALMAN", torch.zeros(1, 2, 8, 8))


def test_a_weight_that_is_computed_predicts_nothing():
    norms = {"0": nn.BatchNorm2d(2), "2": nn.BatchNorm2d(2)}
    network = nn.Sequential(norms["0"], spectral_norm(nn.Conv2d(2, 2, 3)), norms["2"])
    assert predict_norms(network, norms, torch.zeros(1, 2, 8, 8)) == {"0": None, "2": None}


def test_a_variance_of_zero_has_a_gradient():
    network = apply_method(three_norms(2).float(), "BATCH_KALMAN", torch.zeros(1, 1, 13, 13))
    network(torch.zeros(2, 1, 13, 13)).backward(torch.randn(2, 2, 4, 4))
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_no_variance_is_negative():
    """Of a large mean the difference of two squares has no digit left."""
    ended = Ended({0: (-1e4 * torch.rand(1000) - 1e4, torch.full((1000,), 1e-4))})
    _, variance = Rectified(FromNorm(0), 0.3).moments(ended)
    assert (variance >= 0).all()


def test_a_pass_without_the_norm_before_takes_the_batch():
    network = three_norms(2)
    x = torch.randn(2, 1, 13, 13).double()
    apply_method(network, "BATCH_KALMAN", x)
    network(x)
    h = torch.randn(4, 3, 9, 9).double()
    y = copy.deepcopy(network)[3:](h)  # a copy remembers nothing
    plain = F.batch_norm(network[3](h), None, None, network[4].weight, network[4].bias, True)
    torch.testing.assert_close(copy.deepcopy(network)[3:5](h), plain)
    assert y.isfinite().all()


def test_predictions_have_full_precision_under_autocast():
    network = apply_method(three_norms(2).float(), "BATCH_KALMAN", torch.zeros(1, 1, 13, 13))
    network(torch.randn(2, 1, 13, 13))
    h = torch.randn(2, 4, 5, 5)
    expected = network[4](h)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network[4](h), expected)


def test_statistics_do_not_outlive_the_next_pass():
    network = three_norms(2)
    x = torch.randn(2, 1, 13, 13).double()
    apply_method(network, "BATCH_KALMAN", x)
    for _ in range(2):  # the second would go through the graph of the first, which is gone
        network(x).square().sum().backward()
    network[:2](x)
    assert set(network[1].ended) == {0}


def test_a_first_norm_that_is_frozen_later_leaves_nothing_of_its_last_pass():
    """Statistics of an earlier pass belong to other images, and to a graph that is gone."""
    network = nn.Sequential()
    for channels in (1, 4, 4):
        network.extend([nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU()])
    apply_method(network, "BATCH_KALMAN", torch.zeros(1, 1, 12, 12))
    network(torch.randn(2, 1, 12, 12)).sum().backward()
    network[1].eval()
    fresh = copy.deepcopy(network)  # which has seen no pass
    x = torch.randn(2, 1, 12, 12)
    torch.testing.assert_close(network(x), fresh(x))
    network(x).sum().backward()


def in_segments(network, x, cuts, use_reentrant):
    """A pass of which some parts keep nothing for the gradient, and are run again when it is needed."""
    done = 0
    for start, stop in cuts:
        x = checkpoint(network[start:stop], network[done:start](x), use_reentrant=use_reentrant)
        done = stop
    return network[done:](x)


# What is checkpointed of the modules of three_norms.
CUTS = {"all": [(0, 8)], "first": [(0, 3)], "middle": [(3, 6)], "halves": [(0, 3), (3, 8)]}


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_keep_the_gradient_or_refuse(cuts, use_reentrant):
    network = apply_method(three_norms(2), "BATCH_KALMAN", torch.zeros(1, 1, 13, 13))
    twin = copy.deepcopy(network)
    x = torch.randn(2, 1, 13, 13).double().requires_grad_()
    cotangent = torch.randn_like(twin(x))
    twin(x).backward(cotangent)
    expected = [x.grad, *(parameter.grad for parameter in twin.parameters())]
    x.grad = None
    if use_reentrant and cuts != CUTS["all"]:  # predictions pass by what torch knows of
        with pytest.raises(UserError, match=r"norm [01], counted from 0, ran without gradients.*use_reentrant=False"):
            in_segments(network, x, cuts, use_reentrant).backward(cotangent)
    else:
        in_segments(network, x, cuts, use_reentrant).backward(cotangent)
        actual = [x.grad, *(parameter.grad for parameter in network.parameters())]
        torch.testing.assert_close(actual, expected)
    with torch.no_grad():  # a whole pass without gradients loses none
        network(x)
    network(x).sum().backward()


def test_only_a_pass_without_gradients_before_this_one_is_refused():
    """Not the pass before, whether the norm before is frozen now, or runs again."""
    network = apply_method(three_norms(2), "BATCH_KALMAN", torch.zeros(1, 1, 13, 13))
    x, h = torch.randn(2, 1, 13, 13).double(), torch.randn(2, 3, 11, 11).double()
    with torch.no_grad():
        network(x)
    frozen = network[4].eval()
    network(x).sum().backward()
    frozen.train()
    tail = copy.deepcopy(network)[3:]  # without the norm that begins a pass
    with torch.no_grad():
        tail(h)
    tail(h).sum().backward()


def test_a_frozen_part_may_run_without_gradients():
    """Nobody asks for the gradient that the prediction would carry there."""
    network = apply_method(three_norms(2), "BATCH_KALMAN", torch.zeros(1, 1, 13, 13))
    x = torch.randn(2, 1, 13, 13).double()
    front, back = network[:3].requires_grad_(False), network[3:]
    with torch.no_grad():
        h = front(x)
    back(h).sum().backward()
    actual = [parameter.grad for parameter in back.parameters()]
    network.zero_grad()
    network(x).sum().backward()
    torch.testing.assert_close(actual, [parameter.grad for parameter in back.parameters()])


def test_compile_has_no_graph_break():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    network = apply_method(network, "BATCH_KALMAN", torch.zeros(1, 1, 12, 12))
    twin = copy.deepcopy(network)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    x, cotangent = torch.randn(2, 1, 12, 12), torch.randn(2, 4, 8, 8)
    for function in (compiled, twin):
        (function(x) * cotangent).sum().backward()
    for parameter, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    torch.testing.assert_close(network.state_dict(), twin.state_dict())


def test_as_batch_norm():
    """Without a prediction the layer is torch's, but for the biased running variance; so are its manners."""
    layer, other = BatchKalmanNorm(3), nn.BatchNorm2d(3)
    x = 3 + torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(layer(x), other(x))
    torch.testing.assert_close(layer.running_mean, other.running_mean)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * x.var((0, 2, 3), correction=0))
    network = nn.Sequential(layer)
    update_bn([x, 2 * x], network)
    torch.testing.assert_close(layer.running_mean, 1.5 * x.mean((0, 2, 3)))
    assert layer.momentum == 0.1
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_what_looks_for_batch_norms_leaves_it():
    """It would be replaced by one, and its predictions would be gone without a word."""
    network = apply_method(three_norms(2), "BATCH_KALMAN", torch.zeros(1, 1, 13, 13))
    norms = [module for module in network if isinstance(module, BatchKalmanNorm)]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert [module for module in converted if module in norms] == norms
    assert len(norms) == 3


@pytest.mark.parametrize("affine", [True, False])
def test_parameters_begin_as_those_of_batch_norm(affine):
    layer, other = BatchKalmanNorm(3, affine=affine), nn.BatchNorm2d(3, affine=affine)
    for _ in range(2):
        torch.testing.assert_close(layer.state_dict(), other.state_dict())
        for tensor in layer.state_dict().values():
            tensor.fill_(7)
        layer.reset_parameters()


def test_no_device_is_asked_for_the_number_of_batches():
    layer, other = BatchKalmanNorm(3, momentum=None), nn.BatchNorm2d(3, momentum=None)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(layer(x), other(x))
        torch.testing.assert_close(layer.running_mean, other.running_mean)
    layer.to("meta")(torch.empty(2, 3, 4, 4, device="meta"))  # its tensors have no values


def test_an_empty_batch_changes_nothing():
    layer = BatchKalmanNorm(3)
    layer(torch.empty(0, 3, 5, 5, requires_grad=True)).sum().backward()
    assert (layer.running_mean == 0).all()
    assert (layer.running_var == 1).all()
    assert (layer.weight.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_meta_tensors_keep_their_class_and_meta(training, dtype):
    """As torch's norms do, and what a layer remembers is no such tensor."""
    layer, twin, other = BatchKalmanNorm(3).train(training), BatchKalmanNorm(3).train(training), nn.BatchNorm2d(3)
    plain = torch.randn(2, 3, 5, 5).to(dtype)
    x = MetaTensor(plain, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])), meta={"subject": "one"})
    x.requires_grad_()
    y, torchs = layer(x), other(x)
    assert type(y) is type(torchs) is MetaTensor
    assert y.dtype == torchs.dtype == dtype
    assert y.meta["subject"] == torchs.meta["subject"] == "one"
    assert torch.equal(y.affine, torchs.affine)
    torch.testing.assert_close(y.as_tensor(), twin(plain), rtol=0, atol=0)
    cotangent = torch.randn(2, 3, 5, 5).to(dtype)
    z = plain.clone().requires_grad_()
    (expected,) = torch.autograd.grad(twin(z), z, cotangent)
    (grad,) = torch.autograd.grad(y, x, cotangent)
    torch.testing.assert_close(grad.as_subclass(torch.Tensor), expected)
    remembered = [layer.running_mean, layer.running_var, *(m for moments in layer.ended.values() for m in moments)]
    assert {type(tensor) for tensor in remembered} == {torch.Tensor}


def test_export_in_training():
    network = apply_method(three_norms(2), "BATCH_KALMAN", torch.zeros(1, 1, 13, 13)).float()
    x = torch.randn(2, 1, 13, 13)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), network(x))
    torch.testing.assert_close(exported.state_dict(), network.state_dict())


def test_export():
    network = three_norms(2).float()
    x = torch.randn(2, 1, 13, 13)
    apply_method(network, "BATCH_KALMAN", x)
    network(x)
    network.eval()
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))
    torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), network(x))
