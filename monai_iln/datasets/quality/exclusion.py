"""What is done about bad data: reasons, the default of each, and stacks without what is excluded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.errors import UserError


class Reason(NamedTuple):
    """Why a frame is doubtful; ``action`` is ``"left out"`` where there is nothing to train on, else the default."""

    action: str
    meaning: str


#: All reasons, with what is done by default: *exclude* where a mask is surely or very probably wrong, *keep* where the
#: good frames of real data look so, too.
REASONS = {
    "unreadable": Reason("left out", "a file is missing, truncated, damaged or holds what it must not"),
    "no-image": Reason("left out", "there is a label, but no image of that number or subject"),
    "no-label": Reason("left out", "there is an image, but no label"),
    "not-drawn": Reason("left out", "the chosen structure was not outlined there"),
    "mismatch": Reason("left out", "image and label differ in size or geometry, or from the rest of the subject"),
    "label-values": Reason("left out", "the label holds values that the data set does not define"),
    "empty-label": Reason("left out", "the label of a whole phase is empty"),
    "third-phase": Reason("left out", "labelled in a phase that is neither ED nor ES"),
    "outside-image": Reason("exclude", "the contour leaves the image"),
    "broken-outline": Reason("exclude", "the contour has a gap or a spike: points are missing or damaged"),
    "epicardium": Reason("exclude", "the epicardium does not contain the endocardium: one of the two is wrong"),
    "copied-contour": Reason("exclude", "byte for byte the contour of another subject or frame"),
    "same-image": Reason("exclude", "the image is identical to another frame's: one of the two labels is wrong"),
    "background": Reason("exclude", "the mask lies in the background: in air, outside the body or in a lung"),
    "displaced": Reason("exclude", "no blood pool under the mask, in this frame or in most frames of the subject"),
    "other-subject": Reason("exclude", "the subject's masks fit the images of another subject better than its own"),
    "same-mask": Reason("keep", "the mask is identical to another frame's of the subject"),
    "low-contrast": Reason("keep", "the blood pool under the mask is hard to tell from its surroundings"),
    "area-jump": Reason("keep", "the area is out of line with the neighbouring slices, or grows in systole"),
    "not-inspected": Reason("keep", "the label encloses no cavity by which it could be compared with its image"),
    "uneven-slices": Reason("keep", "the labelled slices are not evenly spaced; the affine holds their mean step"),
}


def actions(keep: Collection[str] = (), exclude: Collection[str] = ()) -> dict[str, str]:
    """What is done for each reason: the defaults, but for those named.

    Raises:
        UserError: if a name is no reason, is named twice, or stands for frames of which there is nothing to keep.
    """
    free = [name for name, reason in REASONS.items() if reason.action != "left out"]
    for name in [*keep, *exclude]:
        if name not in free or (name in keep and name in exclude):
            raise UserError(
                f"{name!r} to be kept or excluded: each reason can be given once, and is one of {', '.join(free)}. "
                "Choose from those."
            )
    chosen = {name: reason.action for name, reason in REASONS.items()}
    return chosen | dict.fromkeys(keep, "keep") | dict.fromkeys(exclude, "exclude")


def excluded(
    stacks: Sequence[Stack], findings: Sequence[Finding], chosen: Mapping[str, str]
) -> tuple[list[Stack], list[Finding]]:
    """The stacks without the slices that a finding excludes, and findings where that leaves a gap between slices."""
    out = {(f.subject, f.phase, f.slice) for f in findings if chosen[f.reason] == "exclude"}
    kept, gaps = [], []
    for stack in stacks:
        whole = (stack.subject, stack.phase, None) in out
        indices = [i for i, n in enumerate(stack.slices) if not whole and (stack.subject, stack.phase, n) not in out]
        if len(indices) == len(stack.slices):
            kept.append(stack)
        elif indices:
            kept.append(_take(stack, indices))
            if len({*np.diff(indices)}) > 1:
                detail = "exclusion leaves a gap between the slices: the affine holds their mean step"
                gaps.append(Finding("uneven-slices", stack.subject, stack.phase, None, kept[-1].file(0), detail))
    return kept, gaps


def _take(stack: Stack, indices: Sequence[int]) -> Stack:
    """Some of the slices; the step of the affine grows where one between them is missing."""
    affine = stack.affine.copy()
    affine[:3, 3] += affine[:3, 2] * indices[0]
    if len(indices) > 1:
        affine[:3, 2] *= (indices[-1] - indices[0]) / (len(indices) - 1)
    return replace(
        stack,
        image=stack.image[..., indices],
        label=stack.label[..., indices],
        pool=None if stack.pool is None else stack.pool[..., indices],
        affine=affine,
        slices=tuple(stack.slices[index] for index in indices),
        files=tuple(stack.files[index] for index in indices) if stack.files else (),
    )
