"""The names of our norms in MONAI's norm factory."""

from __future__ import annotations

import inspect
from typing import Any

from monai.networks.layers.factories import Norm, split_args
from monai.networks.layers.utils import get_norm_layer
from torch import nn

from monai_iln import norms
from monai_iln.errors import UserError, did_you_mean
from monai_iln.norms.components import GROUPS, fit_groups
from monai_iln.registration import CLASS_NAMES, add_norms

REGISTERED: dict[str, type[nn.Module]] = {name: getattr(norms, kind) for name, kind in CLASS_NAMES.items()}
"""The classes of this package by their names in MONAI's factory."""


def register() -> None:
    """Make the norms known to MONAI by name. Importing ``monai_iln`` does so; doing it again changes nothing.

    Raises:
        RuntimeError: If another package has taken one of the names; MONAI itself would overwrite it in silence.
    """
    add_norms(Norm)


register()  # whatever has become of the finder that does so when MONAI is imported


def check_norm(norm: Any) -> None:
    """Refuse what MONAI's norm factory would refuse, in words that help.

    Args:
        norm: The norm specification: a registered name, a ``(name, {arguments})`` pair, or ``None`` for no norm.

    Raises:
        UserError: If it has another form, or the name is not registered.

    Example:
        >>> check_norm(("ILN", {"num_groups": 8}))
        >>> check_norm("INL")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: norm 'INL' is unknown. Did you mean 'ILN'? The norms with a name are: ...
    """
    if norm is None:
        return
    name, arguments = norm, {}
    if isinstance(norm, (tuple, list)) and len(norm) == 2:
        name, arguments = norm
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UserError(
            f"norm {norm!r} has no valid form. It must be a name or a pair of a name and its arguments, for example "
            '"ILN" or ["ILN", {"num_groups": 8}].'
        )
    names = sorted(Norm.names)
    if name.strip().upper() not in names:
        hint = did_you_mean(name.strip(), names)
        raise UserError(f"norm {name!r} is unknown.{hint} The norms with a name are: {', '.join(names)}.")


def norm_class(norm: Any, spatial_dims: int) -> type[nn.Module]:
    """The class that a norm specification names, for inputs with ``spatial_dims`` spatial axes.

    Raises:
        UserError: If MONAI does not know the norm, or the norm is ``None``.

    Example:
        >>> norm_class("BATCH", 2)
        <class 'torch.nn.modules.batchnorm.BatchNorm2d'>
    """
    check_norm(norm)
    if norm is None:
        raise UserError("norm None names no layer. Give a norm, for example 'ILN'.")
    name, _ = split_args(norm)
    kind: type[nn.Module] = Norm[name, spatial_dims]
    return kind


def fit_norm(norm: Any, num_features: int) -> Any:
    """The norm specification that a layer of so many channels can take.

    Torch's group norm raises where its groups do not divide the channels. Here it gets the largest divisor below, as
    the norms of this package take it by themselves. All other norms stay as they are.

    Args:
        norm: The norm specification, a name or ``(name, {arguments})``.
        num_features: The number of channels.

    Raises:
        UserError: If MONAI does not know the norm, the norm is ``None``, or fewer than one group is asked for.

    Example:
        >>> fit_norm(("GROUP", {"num_groups": 8}), 3), fit_norm(("GROUP", {"num_groups": 8}), 32)
        (('GROUP', {'num_groups': 3}), ('GROUP', {'num_groups': 8}))
    """
    kind = norm_class(norm, 2)
    name, arguments = split_args(norm)
    asked = arguments.get("num_groups")
    is_group_norm = isinstance(kind, type) and issubclass(kind, nn.GroupNorm)
    if not is_group_norm or not isinstance(asked, int):
        return norm
    return name, {**arguments, "num_groups": fit_groups(num_features, asked)}


def asked_groups(norm: Any) -> list[int]:
    """The numbers of groups that a norm specification asks for, also by default; no policies such as ``"alive"``.

    Example:
        >>> asked_groups("ILN"), asked_groups(("GROUP", {"num_groups": 8})), asked_groups("BATCH")
        ([16], [8], [])
        >>> asked_groups(("MIXTURE", {"components": ["instance", ("group", {"num_groups": 4})], "then": "group"}))
        [4, 16]
    """
    parameters = inspect.signature(norm_class(norm, 2)).parameters
    _, arguments = split_args(norm)
    asked = []
    if "num_groups" in parameters:
        asked.append(arguments.get("num_groups", parameters["num_groups"].default))
    for component in (*arguments.get("components", ()), arguments.get("then")):
        name, its_arguments = (component, {}) if isinstance(component, (str, type(None))) else component
        if str(name).strip().lower() == "group":
            asked.append(its_arguments.get("num_groups", GROUPS))
    return [number for number in asked if isinstance(number, int)]


def make_norm(norm: Any, spatial_dims: int, num_features: int) -> nn.Module:
    """The layer that a norm specification describes.

    Args:
        norm: The norm specification as everywhere in MONAI, a name or ``(name, {arguments})``.
        spatial_dims: The number of spatial axes of the layer's input: 1, 2 or 3.
        num_features: The number of channels of the layer's input.

    Raises:
        UserError: If MONAI does not know the norm, the norm is ``None``, or its arguments do not fit it.

    Example:
        >>> make_norm(("ILN", {"num_groups": 8}), spatial_dims=2, num_features=32)
        InstanceLayerNorm(32, num_groups=8, gate=sigmoid)
        >>> make_norm(("ILN", {"num_group": 8}), spatial_dims=2, num_features=32)
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: norm ('ILN', {'num_group': 8}): ... Its arguments are num_features, num_groups, ...
    """
    kind = norm_class(norm, spatial_dims)
    try:
        layer: nn.Module = get_norm_layer(norm, spatial_dims=spatial_dims, channels=num_features)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        known = ", ".join(inspect.signature(kind).parameters)
        raise UserError(f"norm {norm!r}: {error}. Its arguments are {known}.") from error
    return layer
