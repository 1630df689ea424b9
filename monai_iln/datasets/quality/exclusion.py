"""Stacks without the slices that a finding excludes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from monai_iln.datasets.stacks import Finding, Stack


def exclude_slices(
    stacks: Sequence[Stack], findings: Sequence[Finding], actions: Mapping[str, str]
) -> tuple[list[Stack], list[Finding]]:
    """Take out the slices that a finding excludes.

    Args:
        stacks: The stacks of a data set.
        findings: All findings about them.
        actions: The action for each reason, see :func:`~monai_iln.datasets.quality.reasons.choose_actions`.

    Returns:
        The stacks that are left, and a finding for each in which a gap between slices is left.
    """
    out = {(f.subject, f.phase, f.slice) for f in findings if actions[f.reason] == "exclude"}
    kept, gaps = [], []
    for stack in stacks:
        if {(stack.subject, stack.phase, None), (stack.subject, "", None)} & out:
            continue
        good = [i for i, number in enumerate(stack.slices) if (stack.subject, stack.phase, number) not in out]
        if len(good) == len(stack.slices):
            kept.append(stack)
        elif good:
            kept.append(_take(stack, good))
            if len({*np.diff(good)}) > 1:
                detail = "exclusion leaves a gap between the slices: the affine holds their mean step"
                gaps.append(Finding("uneven-slices", stack.subject, stack.phase, None, kept[-1].file(0), detail))
    return kept, gaps


def _take(stack: Stack, indices: Sequence[int]) -> Stack:
    """Some of the slices. The affine's step grows where one between them is missing."""
    affine = stack.affine.copy()
    affine[:3, 3] += affine[:3, 2] * indices[0]
    if len(indices) > 1:
        affine[:3, 2] *= (indices[-1] - indices[0]) / (len(indices) - 1)
    pool = stack.pool
    return replace(
        stack,
        image=stack.image[..., indices],
        label=stack.label[..., indices],
        pool=pool if pool is None else pool[..., indices],
        affine=affine,
        slices=tuple(stack.slices[index] for index in indices),
        files=tuple(stack.files[index] for index in indices if stack.files),
    )
