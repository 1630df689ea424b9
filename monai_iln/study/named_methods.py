"""The methods of a study by their names, which name folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai_iln.errors import UserError, require
from monai_iln.names import require_visible

PAPER: dict[str, Any] = {
    "ILN": ["ILN", {"num_groups": 16}],
    "Clip": ["ILN", {"gate": "clip", "num_groups": None}],
    "Sigmoid": ["ILN", {"gate": "sigmoid", "num_groups": None}],
    "Softmax": ["ILN", {"gate": "softmax", "num_groups": None}],
    "None": None,
    "IN": ["INSTANCE", {"affine": True}],
    "LN": ["SPATIAL_LAYER", {}],
    "GN4": ["GROUP", {"num_groups": 4}],
    "GN16": ["GROUP", {"num_groups": 16}],
    "BN": ["BATCH", {}],
    "BIN": ["BIN", {}],
}
"""The paper's methods by their names in its tables, and the relatives that it leaves out."""


def name_methods(methods: Any) -> dict[str, Any]:
    """Give every method of a study a name.

    Args:
        methods: The methods as :class:`~monai_iln.study.settings.Study` has them.

    Returns:
        The norm specifications by the names of their methods.

    Raises:
        UserError: If ``methods`` is no list or mapping, or a name occurs twice or cannot name a folder.

    Example:
        >>> name_methods(["IN", "SWITCHABLE", ["GROUP", {"num_groups": 8}]])
        {'IN': ['INSTANCE', {'affine': True}], 'SWITCHABLE': 'SWITCHABLE', 'GROUP-num_groups-8': ['GROUP', ...]}
    """
    if methods == "paper":
        return dict(PAPER)
    if isinstance(methods, str):
        methods = [name.strip() for name in methods.split(",")]
    if isinstance(methods, Mapping):
        named = [(name, _specification(spec)) for name, spec in methods.items()]
    elif isinstance(methods, (list, tuple)):
        named = [(_name(spec), _specification(spec)) for spec in methods]
    else:
        raise UserError(
            f"methods {methods!r}: it must be a list of norms, a mapping of names to norms, or 'paper'. Write "
            "methods: [ILN, IN]."
        )
    require(bool(named), f"methods {methods!r}", "a study needs at least one", "write methods: [ILN, IN]")
    names = [str(name) for name, _ in named]
    check_names(names, "method")
    return {name: spec for name, (_, spec) in zip(names, named, strict=True)}


def check_names(names: Sequence[str], what: str) -> None:
    """Refuse names that cannot name folders beside one another.

    Args:
        names: The names.
        what: The kind of thing that has such names, for the message.

    Raises:
        UserError: If there is such a name.
    """
    folded = [name.casefold() for name in names]
    for name in names:
        require_visible(name, what)
        good = 0 < len(name) <= 100 and not name.startswith(".") and not set(name) & set('/\\:*?"<>|\0')
        require(good, f"{what} {name[:120]!r}", "its name names a folder", "rename it, shortly and without slashes")
        require(folded.count(name.casefold()) == 1, f"{what} {name!r}", "it occurs twice", "give it another name")


def _name(spec: Any) -> str:
    if spec is None or isinstance(spec, str):
        return str(spec)
    try:
        name, arguments = spec
        return "-".join([str(name), *(f"{key}-{value}" for key, value in dict(arguments).items())])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"method {spec!r} has no valid form. It must be a name or a pair of a name and its arguments, for example "
            "ILN or [ILN, {num_groups: 8}]."
        ) from error


def _specification(method: Any) -> Any:
    if isinstance(method, str):
        return PAPER.get(method, method)
    return method
