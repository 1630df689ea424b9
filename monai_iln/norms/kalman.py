"""Batch Kalman normalization: the layer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_iln.errors import require
from monai_iln.norms.kalman_moments import Ended, Moments, Statistics
from monai_iln.norms.moments import working_dtype
from monai_iln.norms.operator import _is_dispatched
from monai_iln.norms.running import RunningStatistics

GAIN = 0.9
"""The authors' gain for micro-batches of two. For one batch of 128 they take 0.05."""

TRUSTED_RATIO = 100.0
"""A prediction whose variance is so many times that of the batch, or more, is not used."""


class BatchKalmanNorm(RunningStatistics):
    r"""Batch Kalman normalization: the batch's statistics, blended with those that the layer before predicts.

    .. math::
        \mu = r\,\hat\mu + (1 - r)\,m, \qquad
        \sigma^2 = r\,\hat\sigma^2 + (1 - r)\,v + r (1 - r) (m - \hat\mu)^2, \qquad
        y = \gamma_c \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta_c

    with :math:`m, v` the mean and the biased variance of the batch, :math:`\hat\mu, \hat\sigma^2` the prediction and
    :math:`r` the gain. Where the mean over channels of :math:`\hat\sigma^2 / v` is 100 or more, :math:`m` and :math:`v`
    are taken. Evaluation uses running averages of :math:`\mu` and :math:`\sigma^2`.

    A layer that has been told of no layer before it is batch norm, but for its running variance, which is biased.
    :func:`~monai_iln.norms.apply_method` makes these layers and tells each what comes before it.

    Args:
        num_features: The channels ``C`` of the input.
        gain: The gain :math:`r`, from 0 to 1.
        eps: The number added to every variance.
        momentum: The weight of the new batch in the running averages. With ``None`` they are plain averages.
        affine: Learns ``weight`` and ``bias``.
        device: The device of the parameters.
        dtype: The dtype of the parameters.

    Shape:
        ``(N, C, *spatial)`` with any number of spatial axes; the output has the input's shape and dtype.

    Raises:
        UserError: If the gain is not in [0, 1], or in training an input's axis 1 is not ``num_features``.

    Source:
        Wang et al., *Batch Kalman Normalization*, 2018, arXiv:1802.03133, and its authors' code.

    Example:
        >>> BatchKalmanNorm(8)(torch.randn(2, 8, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and does not know these
        weight: Tensor | None
        bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        gain: float = GAIN,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_range = isinstance(gain, (int, float)) and 0 <= gain <= 1
        require(in_range, f"gain {gain!r}", "it weighs the prediction against the batch", "choose a number from 0 to 1")
        self.num_features, self.gain, self.eps, self.momentum = num_features, float(gain), eps, momentum
        self.affine = affine
        for name in ("weight", "bias"):
            self.register_parameter(name, None)
            if affine:
                setattr(self, name, nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)))
        self._init_running_stats(num_features, device, dtype)
        self.reset_parameters()
        self.prediction: Statistics | None = None
        self.number = 0
        self.ended = Ended()

    def reset_parameters(self) -> None:
        """Set ``weight`` to 1, ``bias`` to 0, and forget all batches."""
        for tensor, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if tensor is not None:
                nn.init.constant_(tensor, value)
        self.reset_running_stats()

    def follow(self, prediction: Statistics | None, number: int, ended: Ended) -> None:
        """Tell this layer what comes before it.

        Args:
            prediction: The statistics that predict those of its input; ``None`` if nothing does.
            number: The place of this layer among the norms, in the order in which they are called, from 0.
            ended: The statistics that the norms of the network ended with, which all of them share.
        """
        self.prediction, self.number, self.ended = prediction, number, ended

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            self._begin_pass()
        if not self.training or x.numel() == 0:  # nothing has no statistics
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self._forward_in_training(x)

    @torch.jit.unused
    def _forward_in_training(self, x: Tensor) -> Tensor:
        fits = x.dim() > 1 and x.shape[1] == self.num_features
        require(fits, f"input of shape {list(x.shape)}", f"it must be (N, {self.num_features}, *spatial)", "change it")
        axes, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        working = x.to(working_dtype(x))
        batch_mean = _plain(working).mean(axes)  # statistics would carry a MetaTensor's history along
        centred = working - batch_mean.view(shape)
        mean, variance = self._blend(batch_mean, _plain(centred).square().mean(axes))
        self._end_with(mean, variance)
        self._move(mean.detach(), variance.detach())
        slope = (variance + self.eps).rsqrt()
        if self.weight is not None:
            slope = slope * self.weight
        offset = (batch_mean - mean) * slope
        if self.bias is not None:
            offset = offset + self.bias
        return torch.addcmul(offset.view(shape), centred, slope.view(shape)).to(x.dtype)

    @torch.jit.unused
    def _begin_pass(self) -> None:
        """Forget the pass before where a new one begins, also where the first norm is frozen, in evaluation mode."""
        if self.number == 0:
            self.ended.clear()
            self.ended.unrecorded.clear()

    def _end_with(self, mean: Tensor, variance: Tensor) -> None:
        """Tell the norms that follow what this one ended with."""
        self.ended[self.number] = mean, variance
        is_frozen = self.affine and not any(parameter.requires_grad for parameter in self.parameters())
        if torch.is_grad_enabled() or is_frozen:  # no gradient is lost
            self.ended.unrecorded.discard(self.number)
        else:
            self.ended.unrecorded.add(self.number)

    def _blend(self, mean: Tensor, variance: Tensor) -> Moments:
        """The statistics of the batch, blended with the prediction."""
        if self.prediction is None:
            return mean, variance
        try:
            with torch.autocast(mean.device.type, enabled=False):
                predicted_mean, predicted_variance = self.prediction.moments(self.ended)
        except KeyError:  # this pass left out a norm that comes before
            return mean, variance
        rest = 1 - self.gain
        spread = self.gain * rest * (mean - predicted_mean).square()
        trusted = (predicted_variance / variance).detach().mean() < TRUSTED_RATIO
        return (
            torch.where(trusted, self.gain * predicted_mean + rest * mean, mean),
            torch.where(trusted, self.gain * predicted_variance + rest * variance + spread, variance),
        )

    def extra_repr(self) -> str:
        follows = "predicted" if self.prediction is not None else "not predicted"
        return f"{self.num_features}, gain={self.gain:g}, {follows}"


def _plain(x: Tensor) -> Tensor:
    """``x`` without a class such as ``MetaTensor``. One that sees operators stays: ``torch.export`` traces with it."""
    return x if type(x) is Tensor or _is_dispatched(type(x)) else x.as_subclass(Tensor)
