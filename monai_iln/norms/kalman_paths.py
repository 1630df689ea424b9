"""Batch Kalman normalization: which norm of a network follows which, seen in one forward pass."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from monai_iln.errors import UserError, require, root_cause
from monai_iln.norms import kalman_moments as moments
from monai_iln.norms.kalman_moments import Parameter, Statistics

# What leaves the values of a map as they are, or moves them to other positions.
_KEEPING = ("clone", "detach", "alias", "_to_copy", "upsample_", "reflection_pad", "replication_pad")
# What changes a view of a parameter, such as the slope of PReLU, but not its values.
_VIEWS = ("view", "_unsafe_view", "reshape", "detach", "alias", "_to_copy")
_ACTIVATIONS = (
    "sigmoid", "tanh", "gelu", "silu", "elu", "mish", "softplus", "hardtanh", "hardswish", "hardsigmoid",
)  # fmt: skip


def predict_norms(network: nn.Module, norms: dict[str, nn.Module], example: Any) -> dict[str, Statistics | None]:
    """Find what predicts the input of each norm of a network. The network stays as it is.

    Args:
        network: The network.
        norms: The norms of the network by name.
        example: An input of the network, or a tuple of its inputs. Only its shape counts.

    Returns:
        The predictions by the names of the norms, in the order in which the norms are called. ``None`` stands for a
        norm that nothing predicts, as the first. Norms that the pass leaves out are missing.

    Raises:
        UserError: If the example is no tensor, the network does not take it, or it calls a norm twice.
    """
    kind = type(network).__name__
    inputs = example if isinstance(example, (tuple, list)) else (example,)
    are_tensors = bool(inputs) and all(isinstance(one, Tensor) for one in inputs)
    rule = "it must be an input of the network, or a tuple of its inputs"
    require(are_tensors, f"example of {type(example).__name__}", rule, "give tensors")
    try:
        twin = copy.deepcopy(network).train()  # some branches are there in training alone
    except RuntimeError as error:  # some networks keep tensors of their last pass
        raise UserError(f"{kind}: it cannot be copied ({error}). Remedy: apply the method to a new network.") from error
    for name in [name for name, module in twin.named_modules() if isinstance(module, _DropoutNd)]:
        twin.set_submodule(name, nn.Identity())
    recorder = _Recorder(network, twin)
    places: dict[nn.Module, _Place] = {}
    for name, norm in norms.items():
        twin.set_submodule(name, places.setdefault(norm, _Place(name, recorder)))
    like = next(network.parameters(), inputs[0])
    inputs = [one.to(like.device, like.dtype if one.is_floating_point() else None) for one in inputs]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), recorder:
            twin(*inputs)
    except UserError:
        raise
    except Exception as error:  # whatever a network makes of an input that it does not expect
        shapes = ", ".join(str(list(one.shape)) for one in inputs)
        raise UserError(
            f"example of shape {shapes}: the {kind} does not take it ({root_cause(error)}). "
            "Remedy: give an input as in training."
        ) from error
    return recorder.predictions


class _Place(nn.Module):
    """Stands where a norm is."""

    def __init__(self, name: str, recorder: _Recorder) -> None:
        super().__init__()
        self.name, self.recorder = name, recorder

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        self.recorder.pass_norm(self.name, x, y)
        return y


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows the statistics of each tensor that follows from those of norms."""

    def __init__(self, network: nn.Module, twin: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.predictions: dict[str, Statistics | None] = {}
        self._known: dict[int, Statistics | Parameter] = {}
        self._alive: list[Tensor] = []  # so that no other tensor gets the id of one that is known
        for name, parameter in twin.named_parameters(remove_duplicate=False):
            module, _, attribute = name.rpartition(".")
            self._remember(parameter, Parameter(network.get_submodule(module), attribute))

    def pass_norm(self, name: str, x: Tensor, y: Tensor) -> None:
        """Note what predicts the input of a norm, and that its output has the statistics that it ends with."""
        rule = "it is called more than once in a forward pass, and Batch Kalman normalization takes one layer before it"
        require(name not in self.predictions, f"norm {name}", rule, "give the network a norm for each call")
        own = moments.FromNorm(len(self.predictions))
        predicted = self._statistics(x)
        self.predictions[name] = predicted
        if predicted is None:  # a shortcut around this norm starts from what the norm finds
            self._remember(x, own)
        self._remember(y, own)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        output = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(output, Tensor):
            known = self._follow(func.overloadpacket.__name__.rstrip("_"), args, kwargs or {}, output)
            self._known.pop(id(output), None)  # it may have been changed in place
            if known is not None:
                self._remember(output, known)
        return result

    def _remember(self, tensor: Tensor, known: Statistics | Parameter) -> None:
        self._known[id(tensor)] = known
        self._alive.append(tensor)

    def _statistics(self, tensor: Any) -> Statistics | None:
        known = self._known.get(id(tensor))
        return None if isinstance(known, Parameter) else known

    def _parameter(self, tensor: Any) -> Parameter | None:
        known = self._known.get(id(tensor))
        return known if isinstance(known, Parameter) else None

    def _follow(self, name: str, args: Any, kwargs: Any, output: Tensor) -> Statistics | Parameter | None:
        """What is known of an operator's output. ``None`` stands for nothing."""
        first = args[0] if args else None
        parameter = self._parameter(first)
        if parameter is not None:
            return parameter if name in _VIEWS else None
        if name == "cat":
            return self._concatenate(first, *args[1:])
        inner = self._statistics(first)
        if inner is None and name not in ("add", "mul"):
            return None
        if name in ("add", "mul"):
            return self._combine(name, inner, *args[1:], **kwargs)
        return self._follow_one(name, inner, args, output)

    def _follow_one(self, name: str, inner: Any, args: Any, output: Tensor) -> Statistics | None:
        """The same of an operator with one map as its input."""
        if name == "convolution":
            return self._convolve(inner, *args[1:])
        if name in ("relu", "leaky_relu", "_prelu_kernel"):
            return self._rectify(name, inner, args)
        if name in _ACTIVATIONS:
            return moments.Activated(inner, name, tuple(args[1:]))
        if name.startswith("max_pool"):
            return _largest(inner, math.prod(args[1]))
        if name.startswith("avg_pool"):
            return moments.Averaged(inner, math.prod(args[1]))
        dims = output.dim()
        keeps = (
            name.startswith(_KEEPING)
            or (name == "slice" and args[1:2] not in ((), (0,), (1,)))
            or (name == "constant_pad_nd" and len(args[1]) <= 2 * (dims - 2))
        )
        return inner if keeps else None

    def _convolve(
        self, inner: Statistics, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
        transposed: bool, output_padding: Any, groups: int,
    ) -> Statistics | None:  # fmt: skip
        factors, summands = self._parameter(weight), self._parameter(bias)
        if factors is None or (bias is not None and summands is None):
            return None
        return moments.Convolved(inner, factors, summands, stride, dilation, groups, transposed)

    def _rectify(self, name: str, inner: Statistics, args: Any) -> Statistics | None:
        slope: float | Parameter | None = 0.0
        if name == "leaky_relu":
            slope = float(args[1]) if len(args) > 1 else 0.01
        if name == "_prelu_kernel":
            slope = self._parameter(args[1])
        return None if slope is None else moments.Rectified(inner, slope)

    def _combine(self, name: str, one: Statistics | None, factor: Any, alpha: float = 1) -> Statistics | None:
        other = self._statistics(factor)
        if not isinstance(factor, Tensor) or alpha != 1:
            return None
        if one is not None and other is not None:
            return moments.Summed(one, other) if name == "add" else moments.Multiplied(one, other)
        return one or other if name == "add" else None

    def _concatenate(self, tensors: Any, dim: int = 0) -> Statistics | None:
        parts = [self._statistics(tensor) or tensor.shape[1] for tensor in tensors if tensor.dim() > 1]
        return moments.Concatenated(parts) if dim == 1 and not all(isinstance(part, int) for part in parts) else None


def _largest(inner: Statistics, count: int) -> Statistics:
    """Max-pooling. It commutes with a rectifier, before which values are normal."""
    if isinstance(inner, moments.Rectified):
        return moments.Rectified(_largest(inner.inner, count), inner.slope)
    return moments.Largest.of(inner, count)
