"""The components of a blend by their names, and the number of groups that fits a number of channels."""

from __future__ import annotations

from typing import Any

from monai_iln.errors import UserError
from monai_iln.norms.coefficients import BATCH

GROUPS = 16
POLICIES = ("auto", "alive")


def parse_component(component: Any, num_features: int, strict: bool) -> int:
    """The number of groups that a named normalization pools, or :data:`~monai_iln.norms.coefficients.BATCH`.

    Raises:
        UserError: If there is no such normalization, or it takes no such argument.

    Example:
        >>> parse_component("instance", 32, strict=True), parse_component(["group", {"num_groups": 4}], 32, strict=True)
        (32, 4)
    """
    name, arguments = component, {}
    if isinstance(component, (tuple, list)) and len(component) == 2:
        name, arguments = component
    if isinstance(name, str):
        name = name.strip().lower()
    known = ("num_groups",) if name == "group" else ()
    if not isinstance(arguments, dict) or not set(arguments) <= set(known):
        raise UserError(
            f"component {component!r} has arguments it cannot have. Only group norm has any, its num_groups: write "
            '("group", {"num_groups": 4}).'
        )
    if name == "group":
        return fit_groups(num_features, arguments.get("num_groups", GROUPS), strict)
    pooled = {"instance": num_features, "layer": 1, "batch": BATCH}
    if not isinstance(name, str) or name not in pooled:
        raise UserError(f"component {component!r} is unknown; choose of instance, layer, group and batch.")
    return pooled[name]


def counted(number: int, noun: str) -> str:
    """A number of things, for people.

    Example:
        >>> counted(1, "channel"), counted(2, "channel")
        ('1 channel', '2 channels')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def component_name(component: int, num_features: int) -> str:
    """The inverse of :func:`parse_component`, for people."""
    named = {BATCH: "batch", 1: "layer", num_features: "instance"}
    return named.get(component, f"group({component})")


def fit_groups(num_features: int, num_groups: int | str, strict: bool = False) -> int:
    """The number of groups for ``num_features`` channels.

    Args:
        num_features: The number of channels.
        num_groups: A number, for the largest divisor of the channels not above it. ``"auto"``: the same with 16.
            ``"alive"``: the same, of those divisors that leave at least two channels a group, which keeps the gate of
            a blend before it alive.
        strict: Raises where the divisor is not the number itself, or where one channel cannot be kept alive.

    Raises:
        UserError: If ``num_groups`` is none of these, or for ``strict``.

    Example:
        >>> [fit_groups(16, policy) for policy in (16, "auto", "alive")], fit_groups(24, 16), fit_groups(7, "alive")
        ([16, 16, 8], 12, 1)
    """
    is_policy = isinstance(num_groups, str) and num_groups in POLICIES
    is_number = isinstance(num_groups, int) and not isinstance(num_groups, bool) and num_groups >= 1
    if not (is_policy or is_number):
        raise UserError(
            f"num_groups is {num_groups!r}; it must be a whole number from 1, one of {', '.join(POLICIES)}, or, in "
            "ILN, None to leave the group norm out."
        )
    wanted = num_groups if isinstance(num_groups, int) else GROUPS
    most = num_features // 2 if num_groups == "alive" else num_features
    fitting = next((g for g in range(min(wanted, most), 0, -1) if num_features % g == 0), 1)
    if strict and isinstance(num_groups, int) and fitting != num_groups:
        raise UserError(
            f"{counted(num_features, 'channel')} cannot be divided into {num_groups} equal groups, as strict=True asks "
            f"for. Take num_groups={fitting}, which divides them, or strict=False, which does so by itself."
        )
    if strict and num_groups == "alive" and num_features == 1:
        raise UserError("one channel cannot be shared out to groups of two: take strict=False, or another norm here.")
    return fitting
