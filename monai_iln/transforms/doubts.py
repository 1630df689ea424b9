"""Slices of a mask that a person should look at."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends
from numpy.typing import NDArray
from torch import Tensor

from monai_iln.datasets.ranges import RANGE_KEY, parse_range
from monai_iln.errors import UserError

# Set on the training subjects of both bundles, 110 stacks: of 1009 slices whose mask was good (Dice at least 0.7), one
# in fifty lies beyond each.
LEAST_PROBABILITY = 0.94
LARGEST_RATIO = 2.3
LARGEST_SHIFT = 0.5


class DoubtSlices(Transform):
    """List the slices of a mask with what makes them doubtful.

    A slice is doubted for any of these:

    - ``removed``: the network marked something here, and the largest component of the stack does not hold it.
    - ``empty``: nothing is marked, though the slice lies between marked ones or those that a person has named; or
      nothing is marked in the whole stack.
    - ``edge``: it is marked, and the first or last of the stack. Either the heart goes on, or this is not the heart.
    - ``alone``: it is marked, and no slice beside it is.
    - ``jump``: it differs from the marked slices beside it. The areas have a ratio of more than 2.3, or the centres lie
      apart by more than half the radius of a disc of the larger area; with two neighbours, the nearer one counts.
    - ``unsure``: the mean probability of what is marked is below 0.94.

    The thresholds let pass 98 % of the good masks of training subjects, each. Slices outside of a range that a person
    has named are not doubted, and an end that was named is no edge.

    Shape:
        The mask ``(1, H, W, Z)`` of classes, 0 the background, and the logits ``(C, H, W, Z)`` that it was made from,
        to a list of Z dictionaries: ``slice`` (counted from 1), ``pixels``, ``probability``, ``area_ratio``,
        ``shift``, ``removed_pixels`` and ``doubts``, whose words a space parts. What is not defined is ``None``. All
        classes count as one.

    Raises:
        UserError: If mask and logits are not of one stack, or the range is none.

    Example:
        >>> logits = torch.tensor([0.0, 9.0]).reshape(2, 1, 1, 1).expand(2, 4, 4, 3)
        >>> [slice_["doubts"] for slice_ in DoubtSlices()(logits.argmax(0, keepdim=True), logits)]
        ['edge', '', 'edge']
    """

    backend: ClassVar[list[Any]] = [TransformBackends.NUMPY]

    def __call__(self, mask: Tensor, logits: Tensor, slices: str = "") -> list[dict[str, Any]]:
        if mask.ndim != 4 or len(mask) != 1 or mask.shape[1:] != logits.shape[1:]:
            raise UserError(
                f"a mask of shape {tuple(mask.shape)} and logits {tuple(logits.shape)}. They are of one stack, "
                "(1, rows, columns, slices) and (classes, rows, columns, slices): copy the logits before the largest "
                "is taken."
            )
        marked = _array(mask[0]) != 0
        plain = torch.as_tensor(logits).detach().cpu().float()
        removed = (plain[1:].amax(0) > plain[0]).numpy() & ~marked  # of equal logits the first counts
        probability = np.zeros(marked.shape)
        probability[marked] = 1 - plain[:, torch.from_numpy(marked)].softmax(0)[0].numpy()
        first, last = parse_range(slices or "-")
        count = marked.shape[-1]
        ends = [1, count]
        if marked.any():
            ends = [*(np.flatnonzero(marked.any(axis=(0, 1))) + 1), *filter(None, (first, last))]
        heart = range(min(ends), max(ends) + 1)
        rows = []
        for index, (ratio, shift) in enumerate(_jumps(marked)):
            here = marked[..., index]
            row: dict[str, Any] = {
                "slice": index + 1,
                "pixels": int(here.sum()),
                "probability": round(float(probability[..., index][here].mean()), 4) if here.any() else None,
                "area_ratio": ratio,
                "shift": shift,
                "removed_pixels": int(removed[..., index].sum()),
            }
            on_edge = (index == 0 and first is None) or (index == count - 1 and last is None)
            if not (first or 1) <= index + 1 <= (last or count):  # outside of what a person has named
                doubts = []
            elif row["pixels"]:
                doubts = _doubts(row, on_edge, count == 1)
            else:
                doubts = _missed(row, heart)
            row["doubts"] = " ".join(doubts)
            rows.append(row)
        return rows


def _missed(row: Mapping[str, Any], heart: range) -> list[str]:
    """Name what makes a slice doubtful in which nothing is marked."""
    if row["removed_pixels"]:
        return ["removed"]
    return ["empty"] if row["slice"] in heart else []


def _doubts(row: Mapping[str, Any], on_edge: bool, single: bool) -> list[str]:
    """Name what makes a marked slice doubtful."""
    alone = row["area_ratio"] is None
    jumps = not alone and (row["area_ratio"] > LARGEST_RATIO or row["shift"] > LARGEST_SHIFT)
    rules = {
        "edge": on_edge and not single,
        "alone": alone and not single,
        "jump": jumps,
        "unsure": row["probability"] < LEAST_PROBABILITY,
    }
    return [name for name, holds in rules.items() if holds]


def _array(tensor: Any) -> NDArray[Any]:
    return torch.as_tensor(tensor).detach().cpu().numpy()


def _jumps(marked: NDArray[np.bool_]) -> list[tuple[float | None, float | None]]:
    """Compare each slice with those beside it: ratio of areas and distance of centres, of the more similar one each."""
    areas = marked.sum(axis=(0, 1))
    held = np.flatnonzero(areas).tolist()
    centres = {index: np.argwhere(marked[..., index]).mean(axis=0) for index in held}
    jumps: list[tuple[float | None, float | None]] = []
    for index, area in enumerate(areas):
        neighbours = [other for other in held if abs(other - index) == 1]
        if not area or not neighbours:
            jumps.append((None, None))
            continue
        ratios, shifts = [], []
        for other in neighbours:
            larger = max(area, areas[other])
            ratios.append(larger / min(area, areas[other]))
            shifts.append(np.linalg.norm(centres[index] - centres[other]) / np.sqrt(larger / np.pi))
        jumps.append((round(float(min(ratios)), 4), round(float(min(shifts)), 4)))
    return jumps


class DoubtSlicesd(MapTransform):
    """Dictionary version of :class:`DoubtSlices`: adds the list to the item as ``"doubts"``.

    Args:
        keys: The key of the mask.
        logits_key: The key of the logits.
        range_key: The key of the range of slices that a person has named, which an item may lack.
    """

    backend = DoubtSlices.backend

    def __init__(self, keys: str, logits_key: str = "logits", range_key: str = RANGE_KEY) -> None:
        super().__init__(keys)
        self.logits_key = logits_key
        self.range_key = range_key
        self.doubt = DoubtSlices()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        mask, logits = data[self.keys[0]], data[self.logits_key]
        return dict(data) | {"doubts": self.doubt(mask, logits, data.get(self.range_key) or "")}


DoubtSlicesD = DoubtSlicesDict = DoubtSlicesd
