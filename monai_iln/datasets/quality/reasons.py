"""The reasons to doubt a frame, and what is done about each. Importing this table imports nothing else."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from monai_iln.errors import UserError


class Reason(NamedTuple):
    """A reason to doubt a frame.

    Attributes:
        action: ``"exclude"`` or ``"keep"``, which users may change, or ``"left out"`` if there is nothing to train on.
        meaning: One clause that explains the reason.
    """

    action: str
    meaning: str


#: All reasons. The default is *exclude* where a mask is surely or very probably wrong, and *keep* where good frames of
#: real data look the same.
REASONS = {
    "unreadable": Reason("left out", "a file is missing, truncated, damaged or holds what it must not"),
    "no-image": Reason("left out", "there is a label, but no image of that number or subject"),
    "no-label": Reason("left out", "there is an image, but no label"),
    "not-drawn": Reason("left out", "the chosen structure was not outlined there"),
    "mismatch": Reason("left out", "image and label differ in size, or from the rest of the subject"),
    "misplaced-frame": Reason("left out", "number or place in a frame's header contradicts the rest of its series"),
    "label-values": Reason("left out", "the label holds values that the data set does not define"),
    "empty-label": Reason("left out", "the label of a whole phase is empty"),
    "third-phase": Reason("left out", "labelled in a phase that is neither ED nor ES"),
    "outside-image": Reason("exclude", "the contour leaves the image"),
    "misplaced": Reason("exclude", "by its header, the label lies in another place than its image"),
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
    "colours": Reason("keep", "the picture has colours, of which only the brightness is taken"),
    "contradictory-header": Reason(
        "keep", "parts of a header contradict each other; the finding says what is believed"
    ),
    "uneven-slices": Reason("keep", "the labelled slices are not evenly spaced; the affine holds their mean step"),
}


def choose_actions(keep: Collection[str] = (), exclude: Collection[str] = ()) -> dict[str, str]:
    """Choose what is done for each reason.

    Args:
        keep: The reasons for which nothing is excluded.
        exclude: The reasons for which frames are excluded, though by default they are kept.

    Returns:
        The action of every reason.

    Raises:
        UserError: If a name is no reason, is given twice, or stands for frames of which there is nothing to keep.
    """
    free = [name for name, reason in REASONS.items() if reason.action != "left out"]
    for name in [*keep, *exclude]:
        if name not in free or (name in keep and name in exclude):
            raise UserError(
                f"{name!r} to be kept or excluded: each reason can be given once, and is one of {', '.join(free)}. "
                "Choose from those."
            )
    defaults = {name: reason.action for name, reason in REASONS.items()}
    return defaults | dict.fromkeys(keep, "keep") | dict.fromkeys(exclude, "exclude")
