"""Statistics of a batch that is spread over the ranks of ``torch.distributed``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether there is another rank to pool with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def moments_over_ranks(mean: Tensor, variance: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel over the samples of all ranks, differentiable.

    Args:
        mean: The mean of each (sample, channel) of this rank, ``(N, C)``; ``N`` may differ between ranks, and be 0.
        variance: The biased variance of each (sample, channel).
        size: The number of positions behind each mean; it may differ between ranks.

    Returns:
        Mean and variance, ``(C,)``, and the number of values behind each, a scalar tensor.
    """
    count = mean.new_full((1,), float(mean.shape[0] * size))
    total = _sum_over_ranks(torch.cat((mean.sum(0) * size, count)))
    count = total[-1].clamp(min=1)  # 0 if no rank has any
    pooled_mean = total[:-1] / count
    # The mean first and the deviations from it second: two messages, but no digit lost to E[x^2] - mean^2.
    squares = (variance + (mean - pooled_mean).square()).sum(0) * size
    return pooled_mean, _sum_over_ranks(squares) / count, total[-1].detach()


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the gradients: every rank's loss depends on every rank's input."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(tensor)  # type: ignore[no-untyped-call]
    return total
