"""What is done to a network so that it is normalized: another norm, none, or a method that no layer alone can be."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from monai_iln.errors import check_keys, require
from monai_iln.norms.factory import norm_class
from monai_iln.norms.kalman import GAIN, BatchKalmanNorm
from monai_iln.norms.kalman_moments import Ended
from monai_iln.norms.kalman_paths import predict_norms
from monai_iln.norms.moments import working_dtype
from monai_iln.norms.replace import Replacement, left_alone, replace_norm, replaceable
from monai_iln.norms.sync import is_distributed, moments_over_ranks

OWN = "OWN"
"""The method that leaves a network with the norms that it was made with."""


def apply_method(network: nn.Module, method: Any, example: Any = None, pattern: str | None = None) -> nn.Module:
    """Normalize a network by a method, in place: what a study compares.

    Args:
        network: The network, with the norms that it was made with.
        method: A norm specification as everywhere in MONAI, or a class or function that makes a layer from a number of
            channels, for :func:`replace_norm`; ``None``, which takes the norms out; the name of a function in
            :data:`METHODS`, alone or with arguments: ``"WEIGHT"``, ``"BATCH_KALMAN"``, ``("BATCH_KALMAN", {"gain":
            0.05})``; or ``"OWN"``, which leaves the network as it is. :func:`method_specification` tells what is
            really applied: every norm has weight and bias unless the method says otherwise.
        example: An input of the network, or a tuple of its inputs. ``"BATCH_KALMAN"`` needs its shape.
        pattern: A regular expression. Only norms in whose name it is found (:func:`re.search`) are replaced or taken
            out. ``"WEIGHT"`` and ``"BATCH_KALMAN"`` take the network as a whole, and so no pattern. ``"OWN"`` ignores
            it.

    Returns:
        ``network`` itself.

    Raises:
        UserError: If the method is unknown or cannot be applied to this network, or the pattern matches none of its
            norms. The network is unchanged then.

    Example:
        >>> from monai.networks.nets import UNet
        >>> network = UNet(2, in_channels=1, out_channels=2, channels=(8, 16), strides=(2,), norm="BATCH")
        >>> network = apply_method(network, "BATCH_KALMAN", torch.zeros(1, 1, 32, 32))
        >>> [layer for layer in network.modules() if isinstance(layer, BatchKalmanNorm)]
        [BatchKalmanNorm(8, gain=0.9, not predicted), BatchKalmanNorm(16, gain=0.9, predicted)]
        >>> apply_method(network, "instance").model[0].adn.N.affine
        True
    """
    apply_and_report(network, method, example, pattern)
    return network


def apply_and_report(
    network: nn.Module, method: Any, example: Any = None, pattern: str | None = None
) -> list[Replacement]:
    """Do what :func:`apply_method` does, and tell what became of the norms.

    Returns:
        The report of :func:`replace_norm`. Where no norm comes in the place of the old ones, it has but the modules
        that look like norms and were left. It is empty for ``"OWN"``.
    """
    method = method_specification(method)
    if method == OWN:
        return []
    if names_function(method):
        name, arguments = method
        function = METHODS[name]
        known = [key for key in inspect.signature(function).parameters if key not in ("network", "example")]
        check_keys(arguments, known, f"argument of {name}")
        require(pattern is None, f"pattern {pattern!r}", f"{name} takes the network as a whole", "leave it out")
        function(network, example, **arguments)
        return left_alone(network)
    if method is None:
        return _take_norms_out(network, pattern)
    return replace_norm(network, method, pattern=pattern)


def method_specification(method: Any) -> Any:
    """The specification that is really applied where a method is named.

    The networks of a comparison should differ in their norms alone. MONAI's ``"INSTANCE"`` has no weight and bias by
    default, where batch and group norm have, so it gets them. So does any other norm, or class, whose ``affine`` is off
    by default. To leave them out, say so: ``("INSTANCE", {"affine": False})``. What a function makes stays as it is.

    Args:
        method: The method, as :func:`apply_method` takes it.

    Returns:
        A list of a name in capitals and its arguments; ``"OWN"``; ``None``; or a class or function.

    Raises:
        UserError: If there is no such method.

    Example:
        >>> method_specification("instance"), method_specification(("group", {"num_groups": 8}))
        (['INSTANCE', {'affine': True}], ['GROUP', {'num_groups': 8}])
        >>> method_specification("own"), method_specification(("INSTANCE", {"affine": False}))
        ('OWN', ['INSTANCE', {'affine': False}])
    """
    if method is None:
        return None
    if isinstance(method, type) and _lacks_affine(method):
        return partial(method, affine=True)
    if callable(method):
        return method
    name, arguments = _name_and_arguments(method)
    if name == OWN:
        check_keys(arguments, [], "argument of OWN")
        return OWN
    if name in METHODS:
        return [name, arguments]
    kind = norm_class(method, 2)  # tells what MONAI does not know
    if _lacks_affine(kind):
        arguments = {"affine": True, **arguments}
    return [name, arguments]


def names_function(method: Any) -> bool:
    """Whether a method is the name of a function in :data:`METHODS`, and no norm that a layer alone can be.

    Example:
        >>> names_function("WEIGHT"), names_function("ILN")
        (True, False)
    """
    return _name_and_arguments(method)[0] in METHODS


def _name_and_arguments(method: Any) -> tuple[str | None, dict[str, Any]]:
    """The name that a method has, in capitals, and its arguments; no name if it has another form."""
    name, arguments = method, {}
    if isinstance(method, (tuple, list)) and len(method) == 2:
        name, arguments = method
    if isinstance(name, str) and isinstance(arguments, dict):
        return name.strip().upper(), dict(arguments)
    return None, {}


def _lacks_affine(kind: Any) -> bool:
    """Whether a class has weight and bias only on request."""
    affine = inspect.signature(kind).parameters.get("affine")
    return affine is not None and affine.default is False


def weight_normalize(network: nn.Module, example: Any = None) -> nn.Module:
    r"""Take the norms out of a network, and normalize the weights of its convolutions instead.

    .. math::
        w_o = g_o \frac{v_o}{\lVert v_o \rVert}

    for each output channel :math:`o`, by torch's own parametrization. The first batch in training decides from which
    values the gain :math:`g` and the bias start: each layer's output has mean 0 and variance 1 in every channel. The
    batch goes through layer by layer, with those before already set. Ranks of ``torch.distributed`` take their batches
    together. A channel that is constant keeps the values that it has. A batch of no samples sets nothing, nor does one
    on the meta device. A channel whose weights are all 0, as at the end of diffusion networks, gets a random direction.
    Its gain is 0, and can grow.

    All convolutions take part, the last one too, but no other layers. A convolution without a bias gets one, for the
    norm behind it had one. ``initialized`` in the state of a convolution tells that this has happened, so weights that
    are loaded stay. Doing it again changes nothing. TorchScript knows no parametrization: to export a network, make it
    plain by ``torch.nn.utils.parametrize.remove_parametrizations``, after a first pass. Activations no longer work in
    place, where a norm's output was theirs to change, and now its input would be.

    Args:
        network: The network. It is changed in place.
        example: An input, which this method does not need.

    Returns:
        ``network`` itself.

    Raises:
        UserError: If the network has no convolution, or one whose weight cannot be normalized. The network is unchanged
            then.

    Source:
        Salimans and Kingma, *Weight Normalization*, 2016, arXiv:1602.07868.
    """
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, _ConvNd)}
    require(bool(convolutions), type(network).__name__, "it has no convolution", "choose another method")
    for name, module in convolutions.items():
        got = f"{name}, {type(module).__name__}"
        lazy = isinstance(module, LazyModuleMixin)
        require(not lazy, got, "it has no weight yet", "send one batch through the network first")
        grouped = isinstance(module, _ConvTransposeNd) and module.groups > 1
        require(not grouped, got, "torch cannot normalize a transposed convolution of groups", "choose another method")
        parametrized = is_parametrized(module, "weight") and not hasattr(module, "initialized")
        require(not parametrized, got, "its weight has a parametrization already", "remove that first")
    _take_norms_out(network)
    for module in convolutions.values():
        if not is_parametrized(module, "weight"):
            _parametrize(module)
    return network


def batch_kalman_normalize(
    network: nn.Module, example: Any = None, gain: float = GAIN, momentum: float | None = 0.1, eps: float = 1e-5
) -> nn.Module:
    """Replace the norms of a network by :class:`~monai_iln.norms.BatchKalmanNorm`, each told what comes before it.

    The way from norm to norm is seen in a forward pass of the example, through a copy. It leads through convolutions,
    also transposed ones, activations, pooling, interpolation, padding, sums, products and concatenations along the
    channels. Two maps are taken for independent. Where it starts from something else, such as the image or a
    transformer, the norm is batch norm as the first one is. Its ``repr`` says "not predicted" then.

    What the authors leave open, or do otherwise:

    - They draw a random map and send it through the network. Here its mean and variance are computed, so training has
      no other noise than its own. The border of the map, where a convolution sees zeros, is left out: with 32 channels
      and a kernel of 3 x 3 the mean is off by 0.02 standard deviations on 72 x 72 positions, by 0.2 on 9 x 9.
    - They split a batch into micro-batches of two and keep statistics for each. Here the batch is one micro-batch.
    - Concatenated maps have concatenated statistics, and a transposed convolution is a convolution.
    - A branch on which no norm lies, such as a convolution of the image, adds nothing to a sum. In a concatenation its
      channels have mean 0 and variance 0.
    - A shortcut around a norm has the statistics predicted for that norm. If there are none, it has the norm's own.
    - Max-pooling takes the largest of independent values, average pooling their mean, as for the authors' random map.
      Interpolation and padding keep statistics as they are.
    - A shortcut goes through the activations that lie on it, which the authors leave out of the first one.

    Weight and bias of the old norms stay. The layers keep what they end with until the next pass, and share it: wrap
    the network for several devices by ``DistributedDataParallel``, not by ``DataParallel``. Each rank has its own
    statistics. Checkpoints need ``use_reentrant=False``. Running statistics are estimated anew by
    :func:`~monai_iln.norms.update_bn`, as torch's function of that name takes its own batch norms alone.

    Args:
        network: The network. It is changed in place.
        example: An input of the network, or a tuple of its inputs. Only its shape counts.
        gain: The weight of the prediction. The authors take 0.9 for micro-batches of two, 0.05 for a batch of 128.
        momentum: The weight of a new batch in the running averages.
        eps: The number added to every variance.

    Returns:
        ``network`` itself.

    Raises:
        UserError: If there is no example or the network does not take it, if nothing can be predicted, if a norm is
            called twice in a pass, or if an argument is wrong. The network is unchanged then.

    Source:
        Wang et al., *Batch Kalman Normalization*, 2018, arXiv:1802.03133, and its authors' code.
    """

    def make(channels: int) -> nn.Module:
        return BatchKalmanNorm(channels, gain, eps, momentum)

    kind = type(network).__name__
    rule = "Batch Kalman normalization must see which norm follows which"
    require(example is not None, f"{kind} without an example", rule, "give an input of the network as example")
    make(1)  # tells wrong arguments
    norms = replaceable(network)
    require("" not in norms, kind, "it is a norm itself, not a network with norms", "give the network")
    require(bool(norms), kind, "it has no norm to replace", "make the network with norms, such as norm='BATCH'")
    predictions = predict_norms(network, norms, example)
    predicted = any(prediction is not None for prediction in predictions.values())
    require(predicted, kind, "no norm of it can be predicted from another, so this would be batch norm", "take BATCH")
    replace_norm(network, make)
    ended = Ended()
    for number, (name, prediction) in enumerate(predictions.items()):
        layer = network.get_submodule(name)
        assert isinstance(layer, BatchKalmanNorm)
        layer.follow(prediction, number, ended)
    return network


METHODS: dict[str, Callable[..., nn.Module]] = {"WEIGHT": weight_normalize, "BATCH_KALMAN": batch_kalman_normalize}
"""The functions that a method may name. Each gets a network, an example and arguments, and returns the network."""


def _take_norms_out(network: nn.Module, pattern: str | None = None) -> list[Replacement]:
    """Put nothing in the place of the norms."""
    if not replaceable(network) and pattern is None:
        return left_alone(network)
    report = replace_norm(network, nn.Identity, pattern=pattern)
    for module in network.modules():  # an activation in place would change what the norm left alone, its input
        if vars(module).get("inplace") is True:
            vars(module)["inplace"] = False
    return report


def _parametrize(convolution: _ConvNd) -> None:
    """Normalize the weight of a convolution, whose first batch decides from what gain and bias it starts."""
    weight = convolution.weight
    if convolution.bias is None:
        zeros = weight.new_zeros(convolution.out_channels)
        convolution.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
    axis = int(convolution.transposed)  # of the output channels
    weight_norm(convolution, dim=axis)
    _give_directions(convolution.parametrizations.weight.original1, axis)  # type: ignore[union-attr,arg-type]
    convolution.register_buffer("initialized", torch.tensor(False, device=weight.device))
    handle: Any = convolution.register_forward_pre_hook(_initialize, with_kwargs=True)
    convolution._initialization = handle


@torch.no_grad()
def _give_directions(direction: Tensor, axis: int) -> None:
    """Draw a direction for each output channel whose weights are all 0, which have none: 0 / 0 is no number."""
    if direction.is_meta:
        return
    rows = direction.movedim(axis, 0)
    lacking = (rows.flatten(1) == 0).all(1)
    rows[lacking] = torch.randn_like(rows[lacking])


@torch.no_grad()
def _initialize(convolution: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
    """Give gain and bias their first values, of which each channel of the output has mean 0 and variance 1."""
    if convolution.initialized.is_meta:  # it has a shape alone, and so has the batch
        return
    if convolution.initialized:  # by a file
        convolution._initialization.remove()
    if convolution.initialized or not convolution.training:
        return
    x, *others = args
    gain, bias = convolution.parametrizations.weight.original0, convolution.bias
    with torch.autocast(x.device.type, enabled=False):
        y = convolution.forward(x.to(gain.dtype), *others, **kwargs).as_subclass(Tensor)
    channels = y.movedim(-1 - len(convolution.kernel_size), 0).flatten(1).to(working_dtype(y))
    count: int | Tensor = channels.shape[1]
    if count > 0:
        variance, mean = torch.var_mean(channels, 1, correction=0)
    else:
        variance = mean = channels.new_zeros(len(channels))
    if is_distributed():
        mean, variance, count = moments_over_ranks(mean[None], variance[None], channels.shape[1])
    if count == 0:  # nothing has no statistics: the next batch is the first
        return
    varies = (variance > 1e-12 * mean.square()) & variance.isfinite()  # else it is constant but for rounding
    scale = torch.where(varies, variance, 1.0).rsqrt()
    gain.mul_(scale.view_as(gain))
    bias.copy_(torch.where(varies, (bias - mean) * scale, bias))
    convolution.initialized.fill_(True)
    convolution._initialization.remove()
