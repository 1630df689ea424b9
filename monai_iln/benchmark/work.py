"""The work that is timed: one layer, or a training step of a network, with one norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets import UNet
from torch import Tensor, nn

from monai_iln.benchmark.contestants import Contestant, benchmark_norms
from monai_iln.benchmark.measure import Phases
from monai_iln.networks import PaperUNet

CLASSES = 2


@dataclass(frozen=True)
class Platform:
    """The device, and how inputs lie on it.

    Attributes:
        device: The CPU or a CUDA device.
        dtype: The dtype of the inputs. Half precision means what it does in mixed-precision training:
            ``torch.autocast`` over parameters in float32.
        channels_last: Whether inputs, and a network's weights, are in that memory format.
    """

    device: torch.device
    dtype: torch.dtype
    channels_last: bool = False

    def random(self, shape: Sequence[int], seed: int) -> Tensor:
        """Standard normal numbers, the same ones on every device."""
        x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
        return x.to(self.device, self.dtype).contiguous(memory_format=self.memory_format(len(shape)))

    def memory_format(self, axes: int) -> torch.memory_format:
        """The memory format of tensors with that many axes."""
        if not self.channels_last:
            return torch.contiguous_format
        return torch.channels_last if axes == 4 else torch.channels_last_3d

    def autocast(self) -> AbstractContextManager[object]:
        """The context of every forward pass."""
        if self.dtype == torch.float32:
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, dtype=self.dtype)


class LayerWork:
    """Forward and backward of one layer, with a random cotangent that stays the same.

    Backward yields the gradients of the input and of all parameters without adding them to anything. The gradient of a
    mere sum would be zero by construction, and constant tensors are easier on caches than they should be.
    """

    def __init__(self, contestant: Contestant, x: Tensor, cotangent: Tensor, platform: Platform) -> None:
        with benchmark_norms():
            norm = nn.Identity()
            if contestant.norm is not None:
                norm = get_norm_layer(contestant.norm, spatial_dims=x.dim() - 2, channels=x.shape[1])
        self.layer = contestant.compile(norm.to(x.device))
        self.inputs = [x, *self.layer.parameters()]
        self.cotangent = cotangent
        self.platform = platform
        self.output: Tensor | None = None

    def forward(self) -> None:
        with self.platform.autocast():
            self.output = self.layer(self.inputs[0])

    def backward(self) -> None:
        assert self.output is not None
        output, self.output = self.output, None
        if self.cotangent.dtype != output.dtype:  # in the first run only: autocast lets some norms answer in float32
            self.cotangent = self.cotangent.to(output.dtype)
        torch.autograd.grad(output, self.inputs, self.cotangent)

    def phases(self) -> Phases:
        return {"forward": self.forward, "backward": self.backward}


class StepWork:
    """A training step: forward, cross-entropy, backward, and SGD with momentum.

    The learning rate is 0. The optimizer's work is the same, and every round starts from the same weights.
    """

    def __init__(self, network: nn.Module, x: Tensor, target: Tensor, platform: Platform) -> None:
        self.network = network
        self.x, self.target = x, target
        self.platform = platform
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)

    def step(self) -> None:
        with self.platform.autocast():
            loss = F.cross_entropy(self.network(self.x).float(), self.target)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()

    def phases(self) -> Phases:
        return {"step": self.step}


def layer_work(shape: Sequence[int], platform: Platform) -> tuple[Callable[[Contestant], Phases], Phases]:
    """A function that makes the work of a contestant on one shape, and a copy of the input beside it.

    The copy goes to memory that is there already: it shows what the machine moves, not what allocating costs.
    """
    x, cotangent = platform.random(shape, 0).requires_grad_(), platform.random(shape, 1)
    source, target = x.detach(), torch.empty_like(x.detach()).zero_()
    return lambda contestant: LayerWork(contestant, x, cotangent, platform).phases(), {
        "copy": lambda: target.copy_(source)
    }


def network_work(
    name: str, batch: int, size: int, platform: Platform
) -> tuple[Callable[[Contestant], Phases], Phases | None]:
    """A function that makes a contestant's training step: of a network with its norm, on one batch of such cubes."""
    dims = NETWORKS[name].spatial_dims
    shape = (batch, 1, *[size] * dims)
    x = platform.random(shape, 0)
    target = (torch.rand((batch, *[size] * dims), generator=torch.Generator().manual_seed(1)) < 0.5).long()

    def make(contestant: Contestant) -> Phases:
        with benchmark_norms(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same weights for all
            network = NETWORKS[name].make(contestant)
        network.to(platform.device)
        network.to(memory_format=platform.memory_format(len(shape)))  # type: ignore[call-overload]
        return StepWork(contestant.compile(network), x, target.to(platform.device), platform).phases()

    return make, None


@dataclass(frozen=True)
class Network:
    """A network to train.

    Attributes:
        make: A function that makes it with a contestant's norm.
        spatial_dims: The number of spatial axes: 2 or 3.
        batches: The usual batch sizes.
        size: The usual length of every spatial axis.
        multiple: The number that must divide the size.
    """

    make: Callable[[Contestant], nn.Module]
    spatial_dims: int
    batches: tuple[int, ...]
    size: int
    multiple: int


def _paper_unet(contestant: Contestant) -> nn.Module:
    return PaperUNet(spatial_dims=2, in_channels=1, out_channels=CLASSES, norm=contestant.norm)


def _unet3d(contestant: Contestant) -> nn.Module:
    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=CLASSES,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=2,
        norm=contestant.norm,
    )
    return network


# Multiples of 2 to the number of levels: the lowest level then has more than one position, as instance norm needs.
NETWORKS = {
    "paper_unet": Network(_paper_unet, 2, (1, 4), 256, 32),
    "unet3d": Network(_unet3d, 3, (1,), 96, 16),
}
