"""The U-Net of the ILN paper, and the way to load its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.layers.factories import Conv, Pool
from monai.networks.layers.utils import get_act_layer
from torch import Tensor, nn

from monai_iln.errors import UserError, refusal
from monai_iln.norms import apply_method, make_norm, method_specification, names_function
from monai_iln.norms.factory import fit_norm


class PaperUNet(nn.Module):
    r"""The U-Net of the ILN paper: max-pooling, transposed convolutions, a norm behind every one of them.

    Two 3x3 convolutions a level, up-sampling by a 3x3 transposed convolution of stride 2, skip
    concatenation, a final 1x1 convolution. Every convolution but the last is followed by ``norm`` and ``act``: with
    five levels :math:`5 \cdot 2 + 4 \cdot 3 = 22` norm layers. In 2-D, with one input channel and two output
    channels, it has 2,161,858 parameters with affine instance norm and 22 more with ILN. MONAI's ``UNet`` (strided
    convolutions) and ``BasicUNet`` (18 norm layers) are other networks.

    Weights start from a normal distribution of standard deviation :math:`\sqrt{2 / (3^d C)}`, with :math:`C` the
    output channels and :math:`d` the spatial dimensions, truncated at two deviations; biases of convolutions at 0.1.

    Args:
        spatial_dims: The number of spatial axes: 1, 2 or 3.
        in_channels: The channels of the input.
        out_channels: The channels of the output (classes).
        features: The channels of each level, from full resolution down.
        norm: The norm specification as everywhere in MONAI, a name or ``(name, {arguments})``; ``None`` for no norm; or
            another method of :func:`~monai_iln.norms.apply_method`, ``"WEIGHT"`` or ``"BATCH_KALMAN"``. It means the
            same as there: ``"INSTANCE"`` has weight and bias, and a group norm takes the largest divisor.
        act: The activation as everywhere in MONAI.

    Shape:
        ``(N, in_channels, *spatial)`` to ``(N, out_channels, *spatial)``, any spatial size.

    Raises:
        UserError: For a norm or norm arguments that MONAI does not know, or fewer than two levels.

    Source:
        Zhou et al., *U-Net Training with Instance-Layer Normalization*, 2019, doi:10.1007/978-3-030-37969-8_13.

    Example:
        >>> network = PaperUNet(spatial_dims=2, in_channels=1, out_channels=2, norm=("ILN", {"num_groups": 8}))
        >>> network(torch.randn(1, 1, 64, 64)).shape
        torch.Size([1, 2, 64, 64])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        norm: Any = "ILN",
        act: Any = "RELU",
    ) -> None:
        super().__init__()
        if len(features) < 2:
            raise UserError(f"PaperUNet: features is {tuple(features)!r}; a U-Net needs at least two levels.")

        norm = method_specification(norm)
        first_norm = "BATCH" if names_function(norm) else norm  # marks the places for such a method

        def normalized(convolution: nn.Module, channels: int) -> list[nn.Module]:
            layers = [convolution]
            if first_norm is not None:
                layers.append(make_norm(fit_norm(first_norm, channels), spatial_dims, channels))
            return [*layers, get_act_layer(act)]

        def two_convolutions(channels_in: int, channels: int) -> nn.Sequential:
            convolution = Conv[Conv.CONV, spatial_dims]
            return nn.Sequential(
                *normalized(convolution(channels_in, channels, 3, padding=1), channels),
                *normalized(convolution(channels, channels, 3, padding=1), channels),
            )

        transposed = Conv[Conv.CONVTRANS, spatial_dims]
        levels = list(zip(features[-2::-1], features[:0:-1], strict=True))  # (channels, channels below), bottom up
        self.encoder = nn.ModuleList(
            two_convolutions(below, channels)
            for below, channels in zip((in_channels, *features), features, strict=False)
        )
        # ceil_mode keeps the odd row: what the transposed convolutions double then covers the skip connection.
        self.pool = Pool[Pool.MAX, spatial_dims](2, ceil_mode=True)
        self.upsample = nn.ModuleList(
            transposed(below, c, 3, stride=2, padding=1, output_padding=1) for c, below in levels
        )
        self.upsample_norm = nn.ModuleList(nn.Sequential(*normalized(nn.Identity(), c)[1:]) for c, _ in levels)
        self.decoder = nn.ModuleList(two_convolutions(2 * c, c) for c, _ in levels)
        self.head = Conv[Conv.CONV, spatial_dims](features[0], out_channels, 1)
        self.apply(_initialize)
        if names_function(norm):
            apply_method(self, norm, torch.zeros(1, in_channels, *[2 ** len(features)] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, encode in enumerate(self.encoder):
            if level > 0:
                x = self.pool(x)
            x = encode(x)
            skips.append(x)
        for level, (up, norm, decode) in enumerate(zip(self.upsample, self.upsample_norm, self.decoder, strict=True)):
            skip = skips[-2 - level]
            x = up(x)
            for axis in range(2, x.dim()):  # an output_size would be a constant to exporters
                x = x.narrow(axis, 0, skip.shape[axis])
            x = decode(torch.cat([skip, norm(x)], dim=1))
        output: Tensor = self.head(x)
        return output


def load_weights(network: nn.Module, path: Path | str) -> nn.Module:
    """Load what a bundle's training saved, on whatever device the network is.

    That is the weights as they are, or under ``"model"`` as MONAI's ``CheckpointSaver`` has them beside something else.

    Args:
        network: A network of the same configuration as in training, its norm included. Settings without parameters,
            such as the groups of a norm, are not in the file and cannot be checked.
        path: The checkpoint.

    Returns:
        ``network`` itself.

    Raises:
        UserError: If the file is missing, no such checkpoint, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Weights come from a training: run it first, or give the right path.")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        weights = dict(saved.get("model", saved))
    except PermissionError as error:
        raise refusal(error) from error
    except Exception as error:  # unpickling raises nearly anything on a file that is no pickle
        reason, *_ = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: not a checkpoint ({reason}). It must hold a network's weights: train again."
        ) from error
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise UserError(
            f"{path}: these weights do not fit the network ({reason}). Network and norm must be those of the training: "
            "give the same norm and the same network."
        ) from error
    return network


def _initialize(module: nn.Module) -> None:
    """The paper's start: truncated normal weights with a fan of 3^d * output channels, biases 0.1."""
    if isinstance(module, nn.modules.conv._ConvNd):
        spatial_dims = module.weight.dim() - 2
        std = math.sqrt(2.0 / (3**spatial_dims * module.out_channels))
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.constant_(module.bias, 0.1)
