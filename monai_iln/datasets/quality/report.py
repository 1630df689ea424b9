"""The exclusion report: a table of all findings, and a contact sheet to judge them by."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from monai_iln.datasets.quality.reasons import REASONS
from monai_iln.datasets.stacks import Finding
from monai_iln.errors import count
from monai_iln.files import new_file, write_csv
from monai_iln.overlays import contact_sheet

TABLE, SHEET = "exclusions.csv", "exclusions.png"
_COLUMNS = ("subject", "phase", "slice", "action", "reason", "detail", "file")
_OUTLINE = (0.235, 1.0, 0.353)
_TILE_PIXELS, _TILES_PER_ROW = 224, 6
MOST_TILES = 120
_MOST_LETTERS = 34  # of the reasons under a tile
_COLOURS = {"exclude": "#ff5050", "keep": "#ffcd3c"}


def write_table(folder: Path, findings: Iterable[Finding], actions: Mapping[str, str]) -> None:
    """Write ``exclusions.csv``.

    Args:
        folder: The folder to write into.
        findings: All findings, those of a subject together.
        actions: The action for each reason, see :func:`~monai_iln.datasets.quality.reasons.choose_actions`.
    """
    by_subject = groupby(findings, key=attrgetter("subject"))
    ordered = (finding for _, own in by_subject for finding in sorted(own, key=_order))
    rows = ((f.subject, f.phase, f.slice or "", f.action(actions), f.reason, f.detail, f.file) for f in ordered)
    write_csv(folder / TABLE, _COLUMNS, rows)


def _order(finding: Finding) -> tuple[str, str, int, str, str]:
    return finding.subject, finding.phase, finding.slice or 0, finding.reason, finding.file


class FlaggedFrame(NamedTuple):
    """A frame with findings.

    Attributes:
        subject: The subject.
        phase: The phase.
        slice: The number of the slice.
        action: What is done about it.
        reasons: The reasons, as they are shown.
    """

    subject: str
    phase: str
    slice: int
    action: str
    reasons: str

    @property
    def caption(self) -> str:
        """The lines under its picture."""
        return f"{self.subject} {self.phase} slice {self.slice}: {self.action}\n{self.reasons}"


def flag_frames(
    slices: Iterable[tuple[str, str, int]], findings: Sequence[Finding], actions: Mapping[str, str]
) -> list[FlaggedFrame]:
    """The frames with findings that have an image, those to be excluded first.

    Args:
        slices: The subject, the phase and the number of every slice that was read.
        findings: All findings.
        actions: The action for each reason.
    """
    by_frame: dict[tuple[str, str, int | None], list[Finding]] = defaultdict(list)
    for finding in sorted(findings, key=_order):
        if finding.action(actions) in _COLOURS:
            by_frame[finding.subject, finding.phase, finding.slice].append(finding)
    frames = []
    for place in slices:
        found = by_frame.get(place, [])
        if found:
            action = min(finding.action(actions) for finding in found)  # "exclude" comes before "keep"
            shown = ", ".join(dict.fromkeys(finding.reason for finding in found))[:_MOST_LETTERS]
            frames.append(FlaggedFrame(*place, action, shown))
    return sorted(frames, key=lambda frame: frame.action)


def draw_frame(image: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float32]:
    """The image as it would be seen, with the outline of the mask.

    Args:
        image: An array ``(H, W)``.
        mask: An array ``(H, W)``, not 0 inside.

    Returns:
        An array ``(H, W, 3)`` in [0, 1].
    """
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) ** 0.7
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    inside = mask > 0
    picture[inside & ~binary_erosion(inside)] = _OUTLINE
    return picture


def write_sheet(folder: Path, pictures: Mapping[FlaggedFrame, NDArray[np.float32]], total: int) -> None:
    """Write ``exclusions.png``.

    Args:
        folder: The folder to write into.
        pictures: At least one frame and its picture.
        total: The number of frames with findings, of which the sheet shows the first.
    """
    note = f"{count(total, 'frame')} with findings"
    if total > len(pictures):
        note += f", the first {len(pictures)} shown"
    sheet = contact_sheet(
        [(frame.caption, picture) for frame, picture in pictures.items()],
        side=_TILE_PIXELS,
        columns=_TILES_PER_ROW,
        colours=[_COLOURS[frame.action] for frame in pictures],
        note=f"{note}; outline: the mask. All: {TABLE}",
        dark=True,
    )
    with new_file(folder / SHEET) as partial:
        sheet.save(partial)


def summarize(findings: Iterable[Finding], actions: Mapping[str, str]) -> list[str]:
    """A line for each reason that occurs and what is done: how often, in whom, and what it means.

    Args:
        findings: All findings.
        actions: The action for each reason.
    """
    counts: Counter[tuple[str, str]] = Counter()
    alike = defaultdict(set)
    for finding in findings:
        kind = finding.reason, finding.action(actions)
        counts[kind] += 1
        alike[kind].add(finding.subject or "unknown")
    order, lines = list(REASONS), []
    for reason, action in sorted(alike, key=lambda pair: (order.index(pair[0]), pair[1])):
        subjects = sorted(alike[reason, action])
        shown = ", ".join(subjects[:4])
        if len(subjects) > 4:
            shown += f" and {len(subjects) - 4} more"
        count, meaning = counts[reason, action], REASONS[reason].meaning
        lines.append(f"{reason}: {count} ({action}) in {shown}. {meaning[0].upper()}{meaning[1:]}.")
    return lines
