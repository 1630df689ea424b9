"""The names of our norms in MONAI's norm factory."""

from __future__ import annotations

import difflib
from typing import Any

from monai.networks.layers.factories import Norm

from monai_iln.errors import UserError
from monai_iln.norms.modules import InstanceLayerNorm

REGISTERED = {"ILN": InstanceLayerNorm}


def register() -> None:
    """Make the norms known to MONAI by name. Doing it again changes nothing.

    Raises:
        RuntimeError: if another package has taken one of the names; MONAI itself would overwrite it in silence.
    """
    for name, norm in REGISTERED.items():
        if name in Norm.names:
            taken = Norm[name, 2]
            if taken is not norm:
                raise RuntimeError(
                    f"monai_iln: the norm name {name!r} is already taken in MONAI's factory by {taken!r}. "
                    "Two packages cannot share it: import only one of them."
                )
            continue
        Norm.add_factory_class(name, norm)


def check_norm(norm: Any) -> None:
    """Refuse what MONAI's norm factory would refuse, in words that help.

    Args:
        norm: a norm specification: a registered name, a ``(name, {arguments})`` pair, or ``None`` for no norm.

    Raises:
        UserError: if it has another form, or the name is not registered.

    Example:
        >>> check_norm(("ILN", {"num_groups": 8}))
        >>> check_norm("INL")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: norm 'INL' is unknown. Did you mean 'ILN'? MONAI's norms are: ...
    """
    if norm is None:
        return
    name, arguments = norm if isinstance(norm, (tuple, list)) and len(norm) == 2 else (norm, {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UserError(
            f"norm {norm!r} has no valid form. It must be a name or a pair of a name and its arguments, for example "
            '"ILN" or ["ILN", {"num_groups": 8}].'
        )
    names = sorted(Norm.names)
    if name.strip().upper() not in names:
        near = difflib.get_close_matches(name.strip().upper(), names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"norm {name!r} is unknown.{hint} MONAI's norms are: {', '.join(names)}.")
