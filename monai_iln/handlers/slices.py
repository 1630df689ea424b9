"""Stacks as the slices they consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor


def slices_from_engine(keys: Sequence[str]) -> Callable[[Any], tuple[list[Tensor], ...]]:
    """An ``output_transform`` for metrics per slice: stacks ``(C, H, W, Z)`` to lists of ``(C, H, W)``, key by key."""

    def transform(output: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], ...]:
        return tuple([slice_ for item in output for slice_ in item[key].unbind(-1)] for key in keys)

    return transform


def slice_number(item: Mapping[str, Any], index: int) -> int:
    """The number of a slice in the series it comes from, where the datalist tells; else from 1 on."""
    return int(item["slices"][index]) if "slices" in item else index + 1


def file_of(tensor: Tensor | None) -> str:
    """The absolute path of the file that an image was loaded from; empty where its meta data do not tell."""
    name = getattr(tensor, "meta", {}).get("filename_or_obj", "")
    return str(Path(name).absolute()) if name else ""
