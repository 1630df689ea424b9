"""What a method has made of a network, in plain numbers: which norms there are, and what differs besides."""

from __future__ import annotations

import copy
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from monai_iln.norms.components import fit_groups
from monai_iln.norms.factory import asked_groups
from monai_iln.norms.layers import MixtureNorm
from monai_iln.norms.methods import OWN, apply_and_report, method_specification, names_function
from monai_iln.norms.replace import ALREADY, OF_THE_CLASS, OTHER_CLASS, Replacement, channels_of, looks_like_norm

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Survey(TypedDict):
    """What a network is made of, ready for JSON.

    Attributes:
        norms: The number of norms in the network.
        kinds: The numbers of norms by the names of their classes.
        left: The name of each norm that the method left alone, and the reason.
        gates: The number of layers with a gate.
        dead_gates: The number of those whose gate a group norm of one channel per group undoes.
        one_channel_groups: The number of group norms with one channel per group, which are instance norm.
        regrouped: The name of each norm whose channels are not a multiple of its groups, the number of groups that was
            asked for, and the one that was taken.
        parameters: The number of parameters that are trained. Those that wait for a first batch are not counted.
        flops: The floating-point operations of a forward pass in evaluation, of convolutions and products of matrices
            alone, as ``torch.utils.flop_counter`` counts them. A norm adds none. ``None`` without an example, or where
            the pass fails.
        affine: Whether all norms have weight and bias, ``True``, or none has either, ``False``. ``None`` if some have,
            or there are no norms.
        fingerprint: A hash of the modules, their settings, and the shapes of their parameters. Two networks of one
            fingerprint differ in the values of their parameters at most.
    """

    norms: int
    kinds: dict[str, int]
    left: list[list[str]]
    gates: int
    dead_gates: int
    one_channel_groups: int
    regrouped: list[list[Any]]
    parameters: int
    flops: int | None
    affine: bool | None
    fingerprint: str


def apply_and_survey(
    network: nn.Module, method: Any, example: Any = None, pattern: str | None = None
) -> tuple[nn.Module, Survey]:
    """Normalize a network by a method, in place, and tell what it is made of then.

    Args:
        network: The network, with the norms that it was made with.
        method: The method, as :func:`~monai_iln.norms.apply_method` takes it.
        example: An input of the network, or a tuple of its inputs.
        pattern: A regular expression of the names of the norms to replace.

    Returns:
        ``network`` itself, and the survey.

    Raises:
        UserError: As :func:`~monai_iln.norms.apply_method`. The network is unchanged then.

    Example:
        >>> from monai.networks.nets import UNet
        >>> network = UNet(2, 1, 3, channels=(16, 32), strides=(2,), num_res_units=2)
        >>> network, survey = apply_and_survey(network, ("GROUP", {"num_groups": 8}), torch.zeros(1, 1, 32, 32))
        >>> survey["kinds"], survey["affine"], survey["regrouped"]
        ({'GroupNorm': 5}, True, [['model.2.0.adn.N', 8, 3]])
        >>> apply_and_survey(network, "ILN")[1]["dead_gates"]
        3
    """
    report = apply_and_report(network, method, example, pattern)
    return network, survey_norms(network, example, report, method)


def survey_norms(
    network: nn.Module, example: Any = None, report: Sequence[Replacement] = (), method: Any = OWN
) -> Survey:
    """Tell what a network is made of. The network stays as it is.

    Args:
        network: The network.
        example: An input of the network, or a tuple of its inputs. Only its shape counts.
        report: The outcome for each norm when a method was applied.
        method: The method.

    Example:
        >>> from monai_iln.networks import PaperUNet
        >>> survey = survey_norms(PaperUNet(norm="ILN"))
        >>> survey["norms"], survey["gates"], survey["dead_gates"]
        (22, 22, 5)
    """
    first_names = dict(network.named_modules())
    made = {entry.name for entry in report if entry.new}
    norms = [
        module
        for name, module in first_names.items()
        if (looks_like_norm(module) or name in made) and not isinstance(module, nn.Identity)
    ]
    gated = [layer for layer in norms if isinstance(layer, MixtureNorm) and len(layer.components) > 1]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad and not is_lazy(parameter)]
    return Survey(
        norms=len(norms),
        kinds=dict(sorted(Counter(type(norm).__name__ for norm in norms).items())),
        left=[[entry.name, _reason(entry)] for entry in report if entry.name in first_names and _is_left(entry)],
        gates=len(gated),
        dead_gates=sum(layer.gate_is_dead for layer in gated),
        one_channel_groups=sum(map(_has_one_channel_groups, norms)),
        regrouped=_regrouped(first_names, report, method),
        parameters=sum(parameter.numel() for parameter in trained),
        flops=_count_flops(network, example),
        affine=_have_affine(norms),
        fingerprint=_fingerprint(network),
    )


def _has_one_channel_groups(norm: nn.Module) -> bool:
    return isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels


def _is_left(entry: Replacement) -> bool:
    return entry.new is None and entry.note not in (ALREADY, OF_THE_CLASS)


def _reason(entry: Replacement) -> str:
    return "its class may do more than normalize" if entry.note == OTHER_CLASS else entry.note


def _regrouped(modules: Mapping[str, nn.Module], report: Sequence[Replacement], method: Any) -> list[list[Any]]:
    """Where another number of groups was taken than the method asks for."""
    method = method_specification(method)
    if not isinstance(method, list) or names_function(method):
        return []
    regrouped = []
    for entry in report:
        channels = channels_of(modules[entry.name]) if entry.name in modules and not _is_left(entry) else None
        for asked in asked_groups(method) if channels else ():
            taken = fit_groups(channels or 1, asked)
            if taken != asked:
                regrouped.append([entry.name, asked, taken])
    return regrouped


def _have_affine(norms: Sequence[nn.Module]) -> bool | None:
    have = [getattr(norm, key, None) is not None for norm in norms for key in ("weight", "bias")]
    if have and len(set(have)) == 1:
        return have[0]
    return None


def _count_flops(network: nn.Module, example: Any) -> int | None:
    """The operations of a pass, first on the meta device, which knows shapes alone and computes nothing."""
    if example is None:
        return None
    like = next(network.parameters(), torch.empty(0))
    for device in ("meta", like.device):
        try:
            inputs = example if isinstance(example, (tuple, list)) else (example,)
            dtypes = [like.dtype if one.is_floating_point() else one.dtype for one in inputs]
            inputs = [one.as_subclass(Tensor).to(device, dtype) for one, dtype in zip(inputs, dtypes, strict=True)]
            twin = copy.deepcopy(network).to(device).eval()
            counter = FlopCounterMode(display=False)
            with torch.random.fork_rng(devices=[]), torch.no_grad(), counter:
                twin(*inputs)
        except Exception:  # whatever a network makes of an input that it does not expect, or of no values
            continue
        return int(counter.get_total_flops())
    return None


def _fingerprint(network: nn.Module) -> str:
    """A hash of all that makes two networks different but for the values of their parameters."""
    first_names: dict[nn.Module, str] = {}
    lines = []
    for name, module in network.named_modules(remove_duplicate=False):
        if module in first_names:
            lines.append(f"{name} is {first_names[module]}")
            continue
        first_names[module] = name
        public = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        parts = [_describe(type(module)), module.extra_repr(), *map(_describe, (public, dict(tensors), hooks))]
        lines.append(f"{name}: {' '.join(parts)}")
    text = _ADDRESS.sub("", "\n".join(lines))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(value: Any) -> str:
    """A setting as text, the same in every process: values where they are plain, else what they are."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, Enum, torch.dtype)):
        return repr(value)
    if isinstance(value, Tensor):
        shape = "lazy" if is_lazy(value) else list(value.shape)
        return f"tensor({shape}, {value.dtype}, {value.requires_grad})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_describe, value)) + "]"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(map(_describe, value))) + "}"
    named = value if hasattr(value, "__qualname__") else type(value)  # a class or a function, else an object
    return f"{named.__module__}.{named.__qualname__}"
