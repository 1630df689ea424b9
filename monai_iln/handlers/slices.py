"""Stacks as the slices that they consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_iln.datasets.cines import PHASE_KEY
from monai_iln.transforms.io import PSEUDONYM


def slices_from_engine(keys: Sequence[str]) -> Callable[[Any], tuple[list[Tensor], ...]]:
    """Make an ``output_transform`` for metrics per slice.

    Args:
        keys: The keys of the engine's output, whose values are stacks ``(C, H, W, Z)``.

    Returns:
        A function from the output to a list of slices ``(C, H, W)`` for each key.
    """

    def transform(output: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], ...]:
        return tuple([slice_ for item in output for slice_ in item[key].unbind(-1)] for key in keys)

    return transform


def slice_number(item: Mapping[str, Any], index: int) -> int:
    """Number a slice as in the series that it comes from, where the datalist tells; else from 1 on."""
    if "slices" in item:
        return int(item["slices"][index])
    return index + 1


def phase_of(item: Mapping[str, Any]) -> int | str:
    """Find the phase of a cine that an item is, counted from 1; an empty text for a stack of one phase."""
    if PHASE_KEY not in item:
        return ""
    return int(item[PHASE_KEY])


def file_of(tensor: Tensor | None) -> str:
    """Find the absolute path of the file that an image was loaded from, or the name that it has in its place.

    Returns:
        The path or the name; nothing where the meta data do not tell.
    """
    meta = getattr(tensor, "meta", {})
    if PSEUDONYM in meta:
        return str(meta[PSEUDONYM])
    name = meta.get("filename_or_obj", "")
    return str(Path(name).absolute()) if name else ""
