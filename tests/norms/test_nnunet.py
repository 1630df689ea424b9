"""nnU-Net names its layers in plans.json by import path; its networks are a package of their own."""

import json
import pydoc

import pytest
import torch
from torch import nn

from monai_iln import ILN
from monai_iln.norms import replace_norm

pytest.importorskip(
    "dynamic_network_architectures",
    # Its requirements name torchvision, which these networks do not need.
    reason="nnU-Net's networks are missing: pip install --no-deps dynamic-network-architectures",
)

# As nnU-Net v2 writes it, but for norm_op and the size.
PLAIN = """{
  "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
  "arch_kwargs": {
    "n_stages": 3,
    "features_per_stage": [32, 64, 320],
    "conv_op": "torch.nn.modules.conv.Conv2d",
    "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2], [2, 2]],
    "n_conv_per_stage": [1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_bias": true,
    "norm_op": "monai_iln.norms.InstanceLayerNorm",
    "norm_op_kwargs": {"eps": 1e-05, "affine": true},
    "dropout_op": null,
    "dropout_op_kwargs": null,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": true}
  },
  "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
}"""
RESIDUAL = PLAIN.replace("PlainConvUNet", "ResidualEncoderUNet").replace('n_conv_per_stage"', 'n_blocks_per_stage"')


def network_from_plans(architecture, deep_supervision):
    """What nnU-Net's get_network_from_plans does."""
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None:
            arguments[key] = pydoc.locate(arguments[key])
    network_class = pydoc.locate(architecture["network_class_name"])
    network = network_class(input_channels=1, num_classes=3, deep_supervision=deep_supervision, **arguments)
    return network.apply(network.initialize)


@pytest.mark.parametrize("plans", [PLAIN, RESIDUAL], ids=["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_training_from_plans(plans, deep_supervision):
    torch.manual_seed(0)
    network = network_from_plans(json.loads(plans), deep_supervision)
    norms = [module for module in network.modules() if isinstance(module, ILN)]
    assert {(norm.num_features, norm.num_groups) for norm in norms} == {(32, 16), (64, 16), (320, 16)}
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.99, nesterov=True)
    # Residual blocks start with the weight of their last norm at 0: its gate learns from the second step on.
    for _ in range(2):
        outputs = network(torch.randn(2, 1, 16, 16))
        outputs = outputs if deep_supervision else [outputs]
        assert [output.shape[-1] for output in outputs] == ([16, 8] if deep_supervision else [16])
        optimizer.zero_grad()
        sum(nn.functional.cross_entropy(y, torch.randint(3, (2, *y.shape[2:]))) for y in outputs).backward()
        optimizer.step()
    assert all(norm.rho.grad.isfinite() and norm.rho.grad != 0 for norm in norms)


def test_norms_of_a_finished_network():
    """Blocks and encoder are registered under several names; all of them get the same new norm."""
    plans = json.loads(PLAIN.replace("monai_iln.norms.InstanceLayerNorm", "torch.nn.InstanceNorm2d"))
    network = network_from_plans(plans, deep_supervision=False)
    report = replace_norm(network, "ILN")
    assert all(entry.affine_kept for entry in report)
    assert len([module for module in network.modules() if isinstance(module, ILN)]) == 5
    assert not [module for module in network.modules() if isinstance(module, nn.InstanceNorm2d)]
    replaced = {key for key in network.state_dict() if key.endswith("rho")}
    assert replaced == {f"{entry.name}.rho" for entry in report}
    assert replaced == {key for key in network_from_plans(json.loads(PLAIN), False).state_dict() if key.endswith("rho")}
