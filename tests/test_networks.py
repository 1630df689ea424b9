import math

import pytest
import torch
from torch import nn

from monai_iln import ILN
from monai_iln.errors import UserError
from monai_iln.networks import PaperUNet, load_weights

NORMS = [None, "ILN", "instance", ("GROUP", {"num_groups": 16}), "BATCH", ("ILN", {"num_groups": 8, "gate": "softmax"})]


def parameters(**arguments):
    return sum(parameter.numel() for parameter in PaperUNet(**arguments).parameters())


def test_the_paper_s_numbers():
    assert parameters(norm=("instance", {"affine": True})) == 2_161_858
    assert parameters(norm="ILN") == 2_161_880
    layers = [module for module in PaperUNet(norm="ILN").modules() if isinstance(module, ILN)]
    assert len(layers) == 22
    assert sum(layer.gate_is_dead for layer in layers) == 5  # those of 16 channels


def test_every_convolution_but_the_last_has_norm_and_activation():
    order = []
    network = PaperUNet(features=(8, 16, 32))
    for module in network.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, ILN, nn.ReLU)):
            module.register_forward_hook(lambda module, *_: order.append(type(module).__name__))
    network(torch.randn(1, 1, 16, 16))
    up = ["ConvTranspose2d", "InstanceLayerNorm", "ReLU"]
    block = ["Conv2d", "InstanceLayerNorm", "ReLU"] * 2
    assert order == block * 3 + (up + block) * 2 + ["Conv2d"]


def test_the_paper_s_initialisation():
    torch.manual_seed(0)
    for module in PaperUNet().modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            bound = math.sqrt(2 / (9 * module.out_channels))
            assert module.weight.abs().max() <= 2 * bound
            if module.weight.numel() > 5000:
                # A normal truncated at two deviations keeps 0.88 of its deviation.
                assert module.weight.std().item() == pytest.approx(0.8796 * bound, rel=0.03)
            assert (module.bias == 0.1).all()


@pytest.mark.parametrize("spatial_dims", [1, 3])
def test_initialisation_in_other_dimensions(spatial_dims):
    torch.manual_seed(0)
    network = PaperUNet(spatial_dims, features=(64, 128), norm=None)
    bound = math.sqrt(2 / (3**spatial_dims * 128))
    assert network.encoder[1][0].weight.std().item() == pytest.approx(0.8796 * bound, rel=0.03)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
def test_every_norm_in_every_dimension(norm, spatial_dims):
    network = PaperUNet(spatial_dims, in_channels=2, out_channels=3, features=(16, 32), norm=norm, act="PRELU")
    assert network(torch.randn(2, 2, *[8] * spatial_dims)).shape == (2, 3, *[8] * spatial_dims)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (50, 37), (33, 16)])
def test_any_size(size):
    assert PaperUNet(features=(4, 8, 8, 8, 8), norm=None)(torch.randn(1, 1, *size)).shape == (1, 2, *size)


def test_weights_come_back(tmp_path):
    saved, loaded = (PaperUNet(features=(4, 8)) for _ in range(2))
    x = torch.randn(1, 1, 16, 16)
    assert not torch.equal(saved(x), loaded(x))
    for content in (saved.state_dict(), {"model": saved.state_dict(), "optimizer": {}}):
        torch.save(content, tmp_path / "model.pt")
        assert load_weights(loaded, tmp_path / "model.pt") is loaded
        torch.testing.assert_close(saved(x), loaded(x))
        loaded = PaperUNet(features=(4, 8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file. Weights come from a training"),
        (b"", "not a checkpoint"),
        (b"hello", "not a checkpoint"),
        ([1, 2], "not a checkpoint"),
        ({"weights": {}}, "do not fit the network"),
        (PaperUNet(features=(4, 8), norm="BATCH").state_dict(), "give the same norm"),
        (PaperUNet(features=(4, 16)).state_dict(), "do not fit the network"),
    ],
)
def test_wrong_weights(tmp_path, content, message):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_weights(PaperUNet(features=(4, 8)), path)


def test_errors():
    with pytest.raises(UserError, match="Did you mean 'ILN'"):
        PaperUNet(norm="INL")
    with pytest.raises(UserError, match=r"'num_group'.*num_groups"):
        PaperUNet(norm=("ILN", {"num_group": 8}))
    with pytest.raises(UserError, match="48 channels cannot be divided into 32 equal groups"):
        PaperUNet(features=(48, 96), norm=("ILN", {"num_groups": 32, "strict": True}))
    with pytest.raises(UserError, match="at least two levels"):
        PaperUNet(features=(16,))


def test_weights_that_are_cut_or_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    network = PaperUNet(features=(4, 8))
    torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="model.pt: not a checkpoint"):
        load_weights(network, path)

    def forbid(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", forbid)
    with pytest.raises(UserError, match="model.pt: Permission denied. Give yourself the permission"):
        load_weights(network, path)
