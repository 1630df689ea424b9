"""Shares values among the ranks of a distributed training or evaluation. A single process is rank 0 of 1."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

import ignite.distributed as idist
import torch

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def is_first() -> bool:
    """Tell whether this process is the one that prints and writes."""
    return bool(idist.get_rank() == 0)


def gather(own: Mapping[K, V]) -> dict[K, V]:
    """Collect what all ranks have, by key, in the order that a ``DistributedSampler`` has dealt it out.

    The items that the sampler deals out twice, so that all ranks have equally many, are there once.
    """
    world = idist.get_world_size()
    if world == 1:
        return dict(own)
    dealt: list[list[tuple[K, V]]] = [[] for _ in range(world)]
    torch.distributed.all_gather_object(dealt, list(own.items()))
    return {key: value for turn in zip_longest(*dealt) for key, value in filter(None, turn)}


def mean_over_ranks(values: Sequence[float]) -> list[float]:
    """Average each of some values over the ranks, all of which have equally many."""
    world = idist.get_world_size()
    if world == 1:
        return list(values)
    total = idist.all_reduce(torch.tensor(values, dtype=torch.float64, device=idist.device()))
    return [value / world for value in total.tolist()]
