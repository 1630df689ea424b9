"""Other norms for a network that has none to choose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from monai_iln.errors import UserError, first_of
from monai_iln.norms.factory import REGISTERED, fit_norm, make_norm, norm_class
from monai_iln.norms.kalman import BatchKalmanNorm

SPATIAL_DIMS: dict[type[nn.Module], int] = {
    nn.BatchNorm1d: 1,
    nn.BatchNorm2d: 2,
    nn.BatchNorm3d: 3,
    nn.InstanceNorm1d: 1,
    nn.InstanceNorm2d: 2,
    nn.InstanceNorm3d: 3,
}
NORMS: tuple[type[nn.Module], ...] = (
    *SPATIAL_DIMS, nn.GroupNorm, nn.SyncBatchNorm, *REGISTERED.values(), BatchKalmanNorm,
)  # fmt: skip


class Replacement(NamedTuple):
    """What became of one norm of a network.

    Attributes:
        name: The name of the norm in the network, with dots.
        old: The ``repr`` of the norm that was there.
        new: The ``repr`` of the one that is there now; ``None`` if nothing was replaced.
        affine_kept: Whether the new norm has the weight and bias of the old one.
        note: The reason why nothing was replaced, or what was lost; empty if there is nothing to say.
    """

    name: str
    old: str
    new: str | None
    affine_kept: bool
    note: str


ALREADY = "already as asked for"
OF_THE_CLASS = "already of the class asked for"
OTHER_CLASS = "its class is not in from_"

# What all norms mean the same by; a gate is worth something only to a norm of the same gate.
COMMON = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def replace_norm(
    model: nn.Module,
    norm: Any,
    from_: tuple[type[nn.Module], ...] = NORMS,
    spatial_dims: int | None = None,
    pattern: str | None = None,
) -> list[Replacement]:
    """Replace the norms of a finished network, in place; for networks that hard-code them.

    Parameters and buffers that both norms have in the same shape move over, so that trained weights, their device,
    dtype and ``requires_grad`` stay. What only the new norm has takes device and dtype from the old one, or from its
    surroundings if that has no tensors, and is frozen if all of the old one was. Training mode stays. A norm used in
    two places is replaced by one in both. Doing it again replaces nothing. Where the groups of ``"GROUP"`` do not
    divide a layer's channels, it gets the largest divisor below, as ILN does.

    Replace before the optimizer is made, and before the network is compiled, scripted or wrapped for several devices.
    Code that looks for the class of a norm later on, like MONAI's ``AHNet.copy_from`` or the folding of batch norms
    into convolutions, no longer finds it. Hooks on a replaced norm are lost, and so are running statistics where the
    new norm has none: a trained network needs some more training. ``eps`` is that of the new norm.

    Args:
        model: The network.
        norm: The norm specification as everywhere in MONAI, a name or ``(name, {arguments})``; or a class or function
            that makes a layer from a number of channels. ``nn.Identity`` leaves the norms out.
        from_: The classes to replace, not their subclasses, which may do more than normalize. Without it, torch's
            batch, synchronized batch, instance and group norm, and the norms of this package. Not ``nn.LayerNorm``: it
            normalizes the last axes, in transformers the channels of each token.
        spatial_dims: The number of spatial axes, where the old norm's class does not tell it. Without it, the dimension
            of the convolutions next to such a norm is taken. Only norms with a class per dimension need it.
        pattern: A regular expression. Only norms are replaced in whose name it is found, by :func:`re.search`; of a
            norm used in two places, in one of its names.

    Returns:
        What became of every norm, also of those that were left as they are, in the order of the network's modules.

    Raises:
        UserError: If the model itself is such a norm, the norm specification or the pattern is wrong, a dimension
            cannot be told, or the model has no norm to replace. The model is unchanged then.

    Example:
        >>> from monai.networks.nets import AttentionUnet
        >>> network = AttentionUnet(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16), strides=(2,))
        >>> report = replace_norm(network, ("ILN", {"num_groups": 4}))
        >>> report[0].old
        'BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, ...track_running_stats=True)'
        >>> report[0].new
        'InstanceLayerNorm(8, num_groups=4, gate=sigmoid)'
        >>> [entry.old for entry in report if not entry.affine_kept]
        ['InstanceNorm2d(8, eps=1e-05, momentum=0.1, affine=False, ...track_running_stats=False)']
        >>> [entry.name for entry in replace_norm(network, "BATCH", pattern="^model.0") if entry.new]
        ['model.0.conv.0.adn.N', 'model.0.conv.1.adn.N']
    """
    if not isinstance(from_, tuple) or not all(isinstance(kind, type) for kind in from_):
        raise UserError(f"from_ is {from_!r}; it must be a tuple of classes, for example (torch.nn.BatchNorm2d,).")
    if type(model) in from_:
        raise UserError(
            f"the model itself is a {type(model).__name__}; only what is inside of a model can be replaced in place. "
            "Make the layer with monai_iln.norms.make_norm instead."
        )
    wanted = _classes(norm)
    chosen = _matching(model, from_, pattern)
    new_norms: dict[nn.Module, nn.Module] = {}
    places: dict[str, nn.Module] = {}
    report: list[Replacement] = []
    already = False
    # Every place by its name, also the second one of a shared norm. Nothing is changed before all norms could be made.
    for name, old in model.named_modules(remove_duplicate=False):
        if not _is_norm(old, from_):
            continue
        if old not in chosen:
            report.append(Replacement(name, repr(old), None, False, f"its name does not match {pattern!r}"))
            continue
        note = _why_not(old, from_, wanted)
        already = already or type(old) in wanted
        if not note:
            if old not in new_norms:
                dims = spatial_dims if len(wanted) > 1 else 1  # any will do where there is one class for all
                new_norms[old] = _make_like(old, name, model, norm, dims)
            if _settings(old) == _settings(new_norms[old]):
                note, already = ALREADY, True
        if note:
            report.append(Replacement(name, repr(old), None, False, note))
        else:
            places[name] = new = new_norms[old]
            report.append(Replacement(name, repr(old), repr(new), *_what_was_kept(old, new)))
    if not places and not already:
        left = "".join(f" {entry.name} is a {entry.old}: {entry.note}." for entry in report[:3])
        raise UserError(
            f"the {type(model).__name__} has no norm to replace.{left} Looked for were "
            f"{', '.join(kind.__name__ for kind in from_)}: name the class of its norms in from_."
        )
    for name, new in places.items():
        model.set_submodule(name, new)
    return report


def _is_norm(module: nn.Module, from_: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is to be replaced, or looks like a norm and is to be reported."""
    kind = type(module)
    of_weights = kind.__module__.startswith("torch.nn.utils.")  # such as a parametrization
    return isinstance(module, from_) or ("Norm" in kind.__name__ and not of_weights and not list(module.children()))


def looks_like_norm(module: nn.Module) -> bool:
    """Whether a module is a norm by its class or by the name of its class; not one of weights."""
    return _is_norm(module, NORMS)


def _matching(model: nn.Module, from_: tuple[type[nn.Module], ...], pattern: str | None) -> set[nn.Module]:
    """The norms of a network of which one name matches a pattern; all without one."""
    places = model.named_modules(remove_duplicate=False)
    norms = {name: module for name, module in places if _is_norm(module, from_)}
    if pattern is None:
        return set(norms.values())
    if not isinstance(pattern, str):
        raise UserError(f"pattern is {pattern!r}; it must be a regular expression of the names of norms.")
    try:
        found = {module for name, module in norms.items() if re.search(pattern, name)}
    except re.error as error:
        raise UserError(f"pattern {pattern!r} is no regular expression: {error}. Remedy: mend it.") from error
    if not found:
        names = first_of(list(norms)) or "it has none"
        raise UserError(f"pattern {pattern!r} matches no norm of the {type(model).__name__}. Its norms are: {names}.")
    return found


def replaceable(model: nn.Module) -> dict[str, nn.Module]:
    """The norms of a network that :func:`replace_norm` replaces, by name; a shared one under each of its names."""
    places = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in places if looks_like_norm(module) and not _why_not(module, NORMS, set())}


def left_alone(model: nn.Module) -> list[Replacement]:
    """What looks like a norm in a network, and :func:`replace_norm` would not replace, with the reason."""
    left = []
    for name, module in model.named_modules(remove_duplicate=False):
        note = _why_not(module, NORMS, set()) if looks_like_norm(module) else ""
        if note:
            left.append(Replacement(name, repr(module), None, False, note))
    return left


def _classes(norm: Any) -> set[type[nn.Module]]:
    """The classes that a norm may have; none if only a function knows."""
    if isinstance(norm, type):
        return {norm}
    if callable(norm):
        return set()
    return {norm_class(norm, dims) for dims in (1, 2, 3)}


def _why_not(old: nn.Module, from_: tuple[type[nn.Module], ...], wanted: set[type[nn.Module]]) -> str:
    """Why a norm cannot be replaced; empty if it can."""
    if isinstance(old, LazyModuleMixin):
        return "lazily initialized: send one batch through the network first"
    if isinstance(old, nn.LayerNorm):
        return "normalizes the last axes of its input, not channels at axis 1"
    if type(old) not in from_:
        return OF_THE_CLASS if type(old) in wanted else OTHER_CLASS
    if channels_of(old) is None:
        return "has neither num_features nor num_channels"
    return ""


def _make_like(old: nn.Module, name: str, model: nn.Module, norm: Any, spatial_dims: int | None) -> nn.Module:
    """A new norm in place of an old one, with its tensors where they fit."""
    channels = channels_of(old) or 0
    try:
        if callable(norm):
            new: nn.Module = norm(channels)
        else:
            dims = _spatial_dims(old, name, model, spatial_dims)
            new = make_norm(fit_norm(norm, channels), dims, channels)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}, {old!r}: {error}") from error
    if not isinstance(new, nn.Module):
        raise UserError(f"{name}, {old!r}: {norm!r} made {new!r} for it; it must return a layer.")
    tensors = (tensor for module in _outwards(model, name) for _, tensor in _tensors(module))
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    if like is not None:
        new.to(like.device, like.dtype)
    trained = list(old.parameters())
    new.requires_grad_(not trained or any(parameter.requires_grad for parameter in trained))
    for olds, news in (
        (old.named_parameters(recurse=False), dict(new.named_parameters(recurse=False))),
        (old.named_buffers(recurse=False), dict(new.named_buffers(recurse=False))),
    ):
        for key, tensor in olds:
            means_the_same = key in COMMON or _gates(old) == _gates(new)
            if means_the_same and key in news and news[key].shape == tensor.shape:
                setattr(new, key, tensor)
    return new.train(old.training)


def _gates(module: nn.Module) -> tuple[Any, ...]:
    """What a gate of that norm means."""
    return type(module), getattr(module, "components", None), getattr(module, "gate", None)


def _what_was_kept(old: nn.Module, new: nn.Module) -> tuple[bool, str]:
    """Whether the parameters of the old norm are the new one's, and a note on what is missing."""
    lost = [key for key, tensor in _tensors(old) if getattr(new, key, None) is not tensor]
    affine = {key for key, _ in old.named_parameters()}
    if not affine:
        return False, "the old norm had no weight and bias"
    return affine.isdisjoint(lost), f"lost: {', '.join(lost)}" if lost else ""


def _spatial_dims(old: nn.Module, name: str, model: nn.Module, spatial_dims: int | None) -> int:
    """Spatial axes of a norm's input: from its class, as given, or those of the nearest convolutions."""
    for kind, dims in SPATIAL_DIMS.items():
        if isinstance(old, kind):
            return dims
    if spatial_dims is not None:
        return spatial_dims
    for module in _outwards(model, name):
        found = {len(inner.kernel_size) for inner in module.modules() if isinstance(inner, _ConvNd)}
        if len(found) == 1:
            return found.pop()
        if found:
            break
    raise UserError("neither its class nor the convolutions around it tell the spatial dimensions: give spatial_dims.")


def _outwards(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The module of that name, then the modules around it, up to the model."""
    while name:
        yield model.get_submodule(name)
        name = name.rpartition(".")[0]
    yield model


def channels_of(module: nn.Module) -> int | None:
    """The channels of a norm's input, if it tells them."""
    channels = getattr(module, "num_features", getattr(module, "num_channels", None))
    if isinstance(channels, int):
        return channels
    return None


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """All that tells two norms apart but the values of their tensors."""
    arguments = {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}
    return type(module), arguments, {key: tensor.shape for key, tensor in _tensors(module)}
