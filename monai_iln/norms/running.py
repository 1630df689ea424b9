"""Running statistics of batch norm: kept by a layer, and estimated anew for averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from monai_iln.errors import UserError
from monai_iln.norms.moments import batch_moments


def move_average(running: Tensor, batch: Tensor, num_batches: Tensor, momentum: float | None) -> None:
    """Move a running average, in place, towards the last of so many batches; without a momentum it is their mean."""
    batch = batch.to(running.dtype)
    if momentum is None:  # a quotient of tensors: no device must be asked for the number
        running.add_((batch - running) / num_batches)
    else:
        running.lerp_(batch, momentum)


class RunningStatistics(nn.Module):
    """A layer that may keep running statistics, in buffers of the names and the meaning that torch's batch norms have.

    Attributes:
        running_mean: The mean of each channel over batches, ``(C,)``, or ``None``.
        running_var: The same for the unbiased variance.
        num_batches_tracked: The number of batches so far, a scalar, or ``None``.
        momentum: The weight of a new batch; ``None`` takes the mean of all batches.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and does not know these
        running_mean: Tensor | None
        running_var: Tensor | None
        num_batches_tracked: Tensor | None
        momentum: float | None

    _version = 2  # num_batches_tracked came with it

    def _init_running_stats(self, num_features: int | None, device: Any, dtype: Any) -> None:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, None)
        if num_features is not None:
            self.running_mean = torch.empty(num_features, device=device, dtype=dtype)
            self.running_var = torch.empty_like(self.running_mean)
            self.num_batches_tracked = torch.empty((), device=device, dtype=torch.long)

    def reset_running_stats(self) -> None:
        """Forget all batches: set the running mean to 0, the variance to 1, and their number to 0."""
        for tensor, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if tensor is not None:
                tensor.fill_(value)

    def _running_statistics(self) -> tuple[Tensor | None, Tensor | None]:
        """Copies of the running statistics, if there are any: training, which moves them, may precede the gradient."""
        mean, variance = self.running_mean, self.running_var
        if mean is None or variance is None:
            return None, None
        return mean.clone(), variance.clone()

    def _track(self, mean: Tensor, variance: Tensor, size: int) -> None:
        """Move the running statistics towards those of a batch, given as moments over ``size`` positions."""
        count = size * mean.shape[0]
        batch_mean, batch_var = batch_moments(mean, variance)
        self._move(batch_mean, batch_var * (count / max(count - 1, 1)))

    def _move(self, batch_mean: Tensor, batch_var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        move_average(self.running_mean, batch_mean, self.num_batches_tracked, self.momentum)
        move_average(self.running_var, batch_var, self.num_batches_tracked, self.momentum)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        key = prefix + "num_batches_tracked"
        if local_metadata.get("version", 1) < 2 and self.num_batches_tracked is not None and key not in state_dict:
            state_dict[key] = torch.zeros((), dtype=torch.long, device="cpu")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@torch.no_grad()
def update_bn(loader: Iterable[Any], model: nn.Module, device: torch.device | str | int | None = None) -> None:
    """Estimate the running statistics of a network anew, from one pass over data; for averaged weights.

    It does what :func:`torch.optim.swa_utils.update_bn` does, for torch's batch norms and for all norms here that have
    running statistics. Torch's own passes over ours without a word, because it looks for subclasses of its batch norm.
    Ours are none: what else looks for them, such as ``SyncBatchNorm.convert_sync_batchnorm``, would take them for plain
    batch norms.

    Statistics become the mean of those of all batches, each of the same weight. A network without any stays as it is.

    Args:
        loader: The batches: images, or a sequence whose first element they are, or a dictionary with ``"image"``.
        model: The network.
        device: The device that images are moved to; without it they stay where they are.

    Raises:
        UserError: If a batch is none of these.

    Example:
        >>> from monai_iln.norms import BatchInstanceNorm
        >>> from torch.optim.swa_utils import AveragedModel
        >>> averaged = AveragedModel(nn.Sequential(nn.Conv2d(1, 4, 3), BatchInstanceNorm(4)))
        >>> update_bn([torch.randn(2, 1, 8, 8) for _ in range(5)], averaged)
        >>> averaged.module[1].num_batches_tracked
        tensor(5)
    """
    modes = [(module, module.training) for module in model.modules()]
    layers: list[Any] = [module for module, _ in modes if _tracks_batches(module)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    try:
        model.train()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        for batch in loader:
            images = _images(batch)
            model(images if device is None else images.to(device))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training


def _tracks_batches(module: nn.Module) -> bool:
    return isinstance(module, (_BatchNorm, RunningStatistics)) and module.running_mean is not None


def _images(batch: Any) -> Tensor:
    images = batch
    if isinstance(batch, Mapping):
        images = batch.get("image")
    if isinstance(batch, (list, tuple)):
        images = batch[0] if batch else None
    if not isinstance(images, Tensor):
        keys = f" with the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
        rule = "it must be images, a sequence whose first element they are, or a dictionary with 'image'"
        raise UserError(f"update_bn: a batch is a {type(batch).__name__}{keys}; {rule}. Remedy: change the loader.")
    return images
