"""Tiny instances of MONAI's networks and blocks that take a norm, and what each of them makes of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiConvolution
from monai.apps.reconstruction.networks.nets import coil_sensitivity_model, complex_unet
from monai.networks import blocks, nets
from monai.networks.nets.daf3d import Daf3dResNetBottleneck
from monai.networks.nets.restormer import Restormer
from monai.networks.nets.segresnet_ds import SegResEncoder
from monai.networks.nets.unet import CheckpointUNet
from torch import nn

Shapes = tuple[tuple[int, ...], ...]
ARGUMENTS = ("norm", "norm_name", "norm_type", "norm_layer")


def norm_arguments(network: type) -> list[str]:
    """The parameters of the class that take a norm, those of its bases too where it passes ``**kwargs`` on to them."""
    parameters = inspect.signature(network).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        parameters = {name: None for base in network.__mro__[:-1] for name in inspect.signature(base).parameters}
    return [name for name in ARGUMENTS if name in parameters]


def space(dims: int, size: int = 16) -> tuple[int, ...]:
    return (size,) * dims


def image(channels: int, size: int = 16) -> Callable[[int], Shapes]:
    """The shape of a batch of two images, as a function of the spatial dimensions."""
    return lambda d: ((2, channels, *space(d, size)),)


@dataclass(frozen=True)
class Case:
    """A network, tiny, and what it makes of its norm argument.

    Attributes:
        network: the class.
        build: makes an instance from the spatial dimensions and the norm: layers of 8 channels or more, so that four
            groups leave the gates alive, and no dropout.
        shapes: of the inputs of ``forward``, from the spatial dimensions.
        dims: the spatial dimensions that MONAI supports.
        coverage: ``"all"``, ``"part"`` or ``"none"`` of the normalization layers follow the argument.
        remaining: the other layers' types, without ``1d`` to ``3d``.
        cannot: what MONAI itself cannot do with this network, whatever the norm: names of checks.
        variant: tells two cases of one class apart.
        heavy: cannot be made small, so that only one step of training is done.
        forward: how the network is called.
    """

    network: type[nn.Module]
    build: Callable[[int, Any], nn.Module]
    shapes: Callable[[int], Shapes] = lambda d: ((2, 8, *space(d, 8)),)
    dims: tuple[int, ...] = (1, 2, 3)
    coverage: str = "all"
    remaining: frozenset[str] = frozenset()
    cannot: frozenset[str] = frozenset()
    variant: str = ""
    heavy: bool = False
    forward: Callable[..., Any] = lambda network, *inputs: network(*inputs)

    @property
    def name(self) -> str:
        return f"{self.network.__name__} ({self.variant})" if self.variant else self.network.__name__

    @property
    def argument(self) -> str:
        """The parameter that takes the norm."""
        return norm_arguments(self.network)[0]


def searched(d: int, norm: Any) -> nn.Module:
    codes = [np.ones((2, 4)), np.ones((2, 4))]
    return nets.TopologyInstance(codes, 0.25, num_blocks=2, num_depths=2, spatial_dims=d, norm_name=norm)


def search(d: int, norm: Any) -> nn.Module:
    return nets.TopologySearch(channel_mul=0.25, num_blocks=2, num_depths=2, spatial_dims=d, norm_name=norm)


def dynunet(d: int, norm: Any, **arguments: bool) -> nn.Module:
    return nets.DynUNet(d, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), (8, 8, 16), norm_name=norm, **arguments)


def swin(d: int, norm: Any) -> nn.Module:
    small = {"depths": (1,) * 4, "num_heads": (1,) * 4, "window_size": 2, "feature_size": 12}
    return nets.SwinUNETR(1, 2, norm_name=norm, spatial_dims=d, **small)


def spadenet(d: int, norm: Any) -> nn.Module:
    return nets.SPADENet(d, 1, 1, 3, space(d), [8, 8], 4, spade_intermediate_channels=8, norm=norm)


def segresnet_vae(d: int, norm: Any) -> nn.Module:
    small = {"vae_nz": 4, "init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}
    return nets.SegResNetVAE(space(d), spatial_dims=d, norm=norm, **small)


def estimate_sensitivity(network: nn.Module, kspace: torch.Tensor) -> torch.Tensor:
    """Calls the network with the mask of a fully sampled centre."""
    lines = torch.tensor([0.0] * 6 + [1.0] * 4 + [0.0] * 6)
    return network(kspace, lines.reshape([1] * (kspace.dim() - 2) + [16, 1]))


def with_list(network: nn.Module, *inputs: torch.Tensor) -> Any:
    return network(list(inputs))


def pyramid(d: int) -> Shapes:
    return (2, 16, *space(d, 8)), (2, 32, *space(d, 4))


def half_and_full(d: int) -> Shapes:
    return (2, 8, *space(d, 4)), (2, 8, *space(d, 8))


def kspace(coils: int) -> Callable[[int], Shapes]:
    return lambda d: ((2, coils, *space(d), 2),)


EFFICIENT_BLOCKS = ["r1_k3_s11_e1_i32_o16_se0.25", "r1_k3_s22_e2_i16_o24_se0.25"]
HIGHRES_LAYERS = (
    {"name": "conv_0", "n_features": 8, "kernel_size": 3},
    *({"name": f"res_{i}", "n_features": 8 * i, "kernels": (3, 3), "repeat": 1} for i in (1, 2, 3)),
    {"name": "conv_1", "n_features": 8, "kernel_size": 1},
    {"name": "conv_2", "kernel_size": 1},
)
SCRIPT, CHANNELS_LAST = frozenset({"TorchScript"}), frozenset({"channels_last"})
BATCH, INSTANCE, LAYER = (frozenset({name}) for name in ("BatchNorm", "InstanceNorm", "LayerNorm"))

NETWORKS = [
    Case(nets.AutoEncoder, lambda d, n: nets.AutoEncoder(d, 1, 1, (8, 16), (2, 2), norm=n), image(1)),
    # 32 pixels, because at one pixel a group of two channels is its own sign and the gate hardly matters.
    Case(nets.BasicUNet, lambda d, n: nets.BasicUNet(d, 1, 2, (8,) * 6, norm=n), image(1, 32)),
    Case(nets.BasicUNetPlusPlus, lambda d, n: nets.BasicUNetPlusPlus(d, 1, 2, (8,) * 6, norm=n), image(1, 32)),
    Case(CheckpointUNet, lambda d, n: CheckpointUNet(d, 1, 2, (8, 16), (2,), norm=n), image(1), cannot=SCRIPT),
    Case(nets.Classifier, lambda d, n: nets.Classifier((1, *space(d)), 2, (8, 16), (2, 2), norm=n), image(1)),
    Case(
        coil_sensitivity_model.CoilSensitivityModel,
        lambda d, n: coil_sensitivity_model.CoilSensitivityModel(d, (8,) * 6, norm=n),
        kspace(2),
        (2, 3),
        forward=estimate_sensitivity,
    ),
    Case(complex_unet.ComplexUnet, lambda d, n: complex_unet.ComplexUnet(d, (8,) * 6, norm=n), kspace(1), (2, 3)),
    Case(nets.Critic, lambda d, n: nets.Critic((1, *space(d)), (8, 16), (2, 2), dropout=0.0, norm=n), image(1)),
    Case(Daf3dResNetBottleneck, lambda d, n: Daf3dResNetBottleneck(64, 32, d, norm=n), image(64, 8)),
    Case(nets.DenseNet, lambda d, n: nets.DenseNet(d, 1, 2, 8, 8, (2, 2), norm=n), image(1)),
    Case(nets.DiNTS, lambda d, n: nets.DiNTS(searched(d, n), 1, 2, norm_name=n, spatial_dims=d), image(1), (2, 3)),
    Case(
        nets.DiNTS,
        lambda d, n: nets.DiNTS(search(d, n), 1, 2, norm_name=n, spatial_dims=d),
        image(1),
        (2, 3),
        cannot=SCRIPT,
        variant="search",
    ),
    Case(
        nets.Discriminator,
        lambda d, n: nets.Discriminator((1, *space(d)), (8, 16), (2, 2), dropout=0.0, norm=n),
        image(1),
    ),
    Case(nets.DynUNet, dynunet, image(1)),
    Case(
        nets.DynUNet,
        lambda d, n: dynunet(d, n, res_block=True, deep_supervision=True),
        image(1),
        cannot=SCRIPT,
        variant="res_block, deep_supervision",
    ),
    Case(
        nets.EfficientNet,
        lambda d, n: nets.EfficientNet(EFFICIENT_BLOCKS, d, 1, 2, 1, 1, 0.0, 32, n, drop_connect_rate=0.0),
        image(1, 32),
    ),
    Case(
        nets.FlexibleUNet,
        lambda d, n: nets.FlexibleUNet(1, 2, "efficientnet-b0", False, (8,) * 5, d, n),
        image(1, 32),
        (2, 3),
        "part",
        BATCH,
    ),
    Case(
        nets.Generator,
        lambda d, n: nets.Generator((4,), (8, *space(d, 4)), (8, 1), (2, 2), norm=n),
        lambda d: ((2, 4),),
    ),
    Case(nets.HighResBlock, lambda d, n: nets.HighResBlock(d, 8, 8, norm_type=n)),
    Case(nets.HighResNet, lambda d, n: nets.HighResNet(d, 1, 2, norm_type=n, layer_params=HIGHRES_LAYERS), image(1, 8)),
    # The only large one: it takes images of 256 x 256 and nothing else.
    Case(
        nets.HoVerNet,
        lambda d, n: nets.HoVerNet(norm=n),
        lambda d: ((1, 3, *space(d, 256)),),
        (2,),
        "part",
        BATCH,
        heavy=True,
    ),
    Case(MaisiConvolution, lambda d, n: MaisiConvolution(d, 8, 8, 2, 1, False, norm=n), dims=(3,), cannot=SCRIPT),
    Case(
        nets.MultiScalePatchDiscriminator,
        lambda d, n: nets.MultiScalePatchDiscriminator(2, 1, d, 8, 1, norm=n, minimum_size_im=16),
        image(1),
    ),
    Case(nets.PatchDiscriminator, lambda d, n: nets.PatchDiscriminator(d, 8, 1, 1, 2, norm=n), image(1)),
    Case(nets.Quicknat, lambda d, n: nets.Quicknat(2, 1, 8, norm=n), image(1, 64), (2,), "none", INSTANCE, SCRIPT),
    Case(nets.Regressor, lambda d, n: nets.Regressor((1, *space(d)), (2,), (8, 16), (2, 2), norm=n), image(1)),
    Case(
        nets.ResNet,
        lambda d, n: nets.ResNet("basic", (1, 1, 1, 1), (8, 8, 16, 16), d, 1, num_classes=2, norm=n),
        image(1),
        coverage="part",
        remaining=BATCH,
    ),
    Case(nets.ResNetBlock, lambda d, n: nets.ResNetBlock(8, 8, d, norm=n)),
    Case(nets.ResNetBottleneck, lambda d, n: nets.ResNetBottleneck(32, 8, d, norm=n), image(32, 8)),
    Case(
        nets.SPADENet,
        spadenet,
        lambda d: ((2, 3, *space(d)), (2, 1, *space(d))),
        coverage="part",
        remaining=INSTANCE,
        cannot=SCRIPT | CHANNELS_LAST,
    ),
    Case(SegResEncoder, lambda d, n: SegResEncoder(d, 8, 1, norm=n, blocks_down=(1, 1)), image(1)),
    Case(
        nets.SegResNet,
        lambda d, n: nets.SegResNet(d, 8, 1, 2, norm=n, blocks_down=(1, 1), blocks_up=(1,)),
        image(1),
        (2, 3),
    ),
    Case(
        nets.SegResNetDS, lambda d, n: nets.SegResNetDS(d, 8, 1, 2, norm=n, blocks_down=(1, 1, 1), dsdepth=2), image(1)
    ),
    Case(
        nets.SegResNetDS2,
        lambda d, n: nets.SegResNetDS2(d, 8, 1, 2, norm=n, blocks_down=(1, 1, 1)),
        image(1),
        cannot=SCRIPT,
    ),
    Case(nets.SegResNetVAE, segresnet_vae, image(1), (2, 3)),
    Case(nets.SwinUNETR, swin, image(1, 32), (2, 3), "part", LAYER, SCRIPT),
    Case(nets.TopologyInstance, searched, pyramid, (2, 3), forward=with_list),
    Case(nets.TopologySearch, search, pyramid, (2, 3), cannot=SCRIPT, forward=with_list),
    Case(nets.UNet, lambda d, n: nets.UNet(d, 1, 2, (8, 16, 16), (2, 2), num_res_units=2, norm=n), image(1)),
    Case(
        nets.UNETR,
        lambda d, n: nets.UNETR(1, 2, space(d), 8, 16, 16, 2, norm_name=n, spatial_dims=d),
        image(1),
        coverage="part",
        remaining=LAYER,
    ),
    Case(
        nets.VarAutoEncoder,
        lambda d, n: nets.VarAutoEncoder(d, (1, *space(d)), 1, 4, (8, 16), (2, 2), norm=n),
        image(1),
        cannot=CHANNELS_LAST,
    ),
    Case(nets.VoxelMorphUNet, lambda d, n: nets.VoxelMorphUNet(d, 2, 8, (8,) * 4, (8, 8), norm=n), image(2), (2, 3)),
]

BLOCKS = [
    Case(blocks.ADN, lambda d, n: blocks.ADN(in_channels=8, norm=n, norm_dim=d)),
    Case(blocks.ActiConvNormBlock, lambda d, n: blocks.ActiConvNormBlock(8, 8, spatial_dims=d, norm_name=n)),
    Case(blocks.ConvDenseBlock, lambda d, n: blocks.ConvDenseBlock(d, 8, (8, 8), norm=n)),
    Case(blocks.Convolution, lambda d, n: blocks.Convolution(d, 8, 8, norm=n)),
    Case(
        blocks.FactorizedIncreaseBlock, lambda d, n: blocks.FactorizedIncreaseBlock(8, 8, d, norm_name=n), dims=(2, 3)
    ),
    Case(blocks.FactorizedReduceBlock, lambda d, n: blocks.FactorizedReduceBlock(8, 8, d, norm_name=n), dims=(2, 3)),
    Case(blocks.P3DActiConvNormBlock, lambda d, n: blocks.P3DActiConvNormBlock(8, 8, 3, 1, norm_name=n), dims=(3,)),
    Case(blocks.ResBlock, lambda d, n: blocks.ResBlock(d, 8, norm=n)),
    Case(blocks.ResidualUnit, lambda d, n: blocks.ResidualUnit(d, 8, 8, norm=n)),
    Case(
        blocks.SPADE,
        lambda d, n: blocks.SPADE(3, 8, spatial_dims=d, hidden_channels=8, norm=n),
        lambda d: ((2, 8, *space(d, 8)), (2, 3, *space(d, 8))),
        coverage="part",
        remaining=INSTANCE,
    ),
    Case(blocks.SimpleASPP, lambda d, n: blocks.SimpleASPP(d, 8, 8, norm_type=n)),
    Case(blocks.UnetBasicBlock, lambda d, n: blocks.UnetBasicBlock(d, 8, 8, 3, 1, n)),
    Case(blocks.UnetResBlock, lambda d, n: blocks.UnetResBlock(d, 8, 16, 3, 1, n)),
    Case(blocks.UnetUpBlock, lambda d, n: blocks.UnetUpBlock(d, 8, 8, 3, 2, 2, n), half_and_full),
    Case(blocks.UnetrBasicBlock, lambda d, n: blocks.UnetrBasicBlock(d, 8, 16, 3, 1, n, res_block=True)),
    Case(blocks.UnetrPrUpBlock, lambda d, n: blocks.UnetrPrUpBlock(d, 8, 8, 1, 3, 1, 2, n, True, True), image(8, 4)),
    Case(blocks.UnetrUpBlock, lambda d, n: blocks.UnetrUpBlock(d, 8, 8, 3, 2, n, res_block=True), half_and_full),
]

# Of the same build as a network above, only large: what the norm reaches is looked at, nothing is computed.
LARGE = {
    nets.DenseNet121: lambda n: nets.DenseNet121(2, 1, 2, norm=n),
    nets.DenseNet169: lambda n: nets.DenseNet169(2, 1, 2, norm=n),
    nets.DenseNet201: lambda n: nets.DenseNet201(2, 1, 2, norm=n),
    nets.DenseNet264: lambda n: nets.DenseNet264(2, 1, 2, norm=n),
    nets.EfficientNetBN: lambda n: nets.EfficientNetBN("efficientnet-b0", False, norm=n),
    nets.EfficientNetBNFeatures: lambda n: nets.EfficientNetBNFeatures("efficientnet-b0", False, norm=n),
    nets.EfficientNetEncoder: lambda n: nets.EfficientNetEncoder("efficientnet-b0", False, norm=n),
}

# Their argument is no norm specification, or there is nothing to call.
EXCLUDED = {
    "`norm_type` is compared as a string: other than `group` and `layer` it means no norm, in silence": (
        nets.MedNeXt,
        blocks.MedNeXtBlock,
        blocks.MedNeXtDownBlock,
        blocks.MedNeXtUpBlock,
    ),
    "`norm_layer` is a class, called on tokens with the channels last": (
        nets.PatchMerging,
        nets.PatchMergingV2,
        blocks.PatchEmbed,
        blocks.HyenaTransformerBlock,
    ),
    "is `SwinUNETR` with the attention of the optional package nvsubquadratic": (nets.HyenaNDUNETR,),
    "is abstract: `TopologyInstance` and `TopologySearch` are made of it": (nets.TopologyConstruction,),
}

# The normalization is written into the code.
NO_ARGUMENT = {
    "AHNet": nets.AHNet,
    "AttentionUnet": lambda: nets.AttentionUnet(2, 1, 2, (8, 16), (2,)),
    "AutoencoderKL": lambda: nets.AutoencoderKL(2),
    "ControlNet": lambda: nets.ControlNet(2, 1),
    "DiffusionModelUNet": lambda: nets.DiffusionModelUNet(2, 1, 1),
    "GlobalNet": lambda: nets.GlobalNet([16, 16], 2, 1, 8, 1),
    "LocalNet": lambda: nets.LocalNet(2, 1, 8, (0, 1)),
    "MedNeXt": nets.MedNeXt,
    "RegUNet": lambda: nets.RegUNet(2, 1, 8, 1),
    "Restormer": Restormer,
    "SENet": lambda: nets.SENet154(spatial_dims=2, in_channels=1),
    "SEResNet": lambda: nets.SEResNet50(spatial_dims=2, in_channels=1),
    "SEResNext": lambda: nets.SEResNext50(spatial_dims=2, in_channels=1),
    "SPADEAutoencoderKL": lambda: nets.SPADEAutoencoderKL(2, 3),
    "SPADEDiffusionModelUNet": lambda: nets.SPADEDiffusionModelUNet(2, 1, 1, 3),
    "ViT": lambda: nets.ViT(1, 16, 16),
    "VISTA3D": nets.vista3d132,
    "VNet": nets.VNet,
}
