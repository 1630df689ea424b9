import json

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.networks.layers import Norm
from monai.networks.nets import SegResNet, UNet

from monai_iln import ILN, registration
from monai_iln.errors import UserError
from monai_iln.norms import check_norm, register

UNET = {
    "_target_": "UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [8, 16],
    "strides": [2],
    "num_res_units": 1,
    "norm": ["ILN", {"num_groups": 8}],
}


def layers(network):
    return [module for module in network.modules() if isinstance(module, ILN)]


def test_python_configuration():
    network = UNet(**{key: value for key, value in UNET.items() if key != "_target_"})
    # The last block has 2 channels, which 8 groups do not divide.
    assert {layer.num_groups for layer in layers(network)} == {8, 2}
    network(torch.randn(1, 1, 16, 16)).square().sum().backward()
    assert all(layer.rho.grad is not None for layer in layers(network))


@pytest.mark.parametrize(("suffix", "dump"), [("json", json.dumps), ("yaml", yaml.safe_dump)])
def test_file_configuration(tmp_path, suffix, dump):
    file = tmp_path / f"train.{suffix}"
    file.write_text(dump({"network_def": UNET}))
    parser = ConfigParser()
    parser.read_config(file)
    found = layers(parser.get_parsed_content("network_def"))
    assert [layer.num_groups for layer in found] == [8, 8, 2]


@pytest.mark.parametrize("name", ["ILN", "iln", " Iln "])
def test_spelling(name):
    assert layers(SegResNet(spatial_dims=3, init_filters=8, norm=name))


def test_registering_again_changes_nothing():
    register()
    assert Norm["ILN"] is ILN


def test_a_taken_name_is_refused(monkeypatch):
    monkeypatch.setitem(registration.CLASS_NAMES, "BATCH", "InstanceLayerNorm")
    with pytest.raises(RuntimeError, match="'BATCH' is already taken .*BatchNorm2d"):
        register()


@pytest.mark.parametrize("norm", [None, "ILN", "batch", ("GROUP", {"num_groups": 4}), ["iln", {}]])
def test_known_norms(norm):
    check_norm(norm)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("INL", "'INL' is unknown. Did you mean 'ILN'"),
        (("instnce", {}), "Did you mean 'INSTANCE'"),
        ("zzz", r"'zzz' is unknown. The norms with a name are: BATCH, "),
        ({"name": "ILN"}, "no valid form"),
        (("ILN", 8), "no valid form"),
    ],
)
def test_unknown_norms(norm, message):
    with pytest.raises(UserError, match=message):
        check_norm(norm)
