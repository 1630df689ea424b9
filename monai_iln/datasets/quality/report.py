"""The exclusion report: a table of all findings, and a contact sheet to judge them by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from monai_iln.datasets.quality.reasons import REASONS
from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.files import write_csv
from monai_iln.overlays import contact_sheet

TABLE, SHEET = "exclusions.csv", "exclusions.png"
_COLUMNS = ("subject", "phase", "slice", "action", "reason", "detail", "file")
_OUTLINE = (0.235, 1.0, 0.353)
_TILE_PIXELS, _TILES_PER_ROW = 224, 6
_MOST_TILES = 120
_MOST_LETTERS = 34  # of the reasons under a tile
_COLOURS = {"exclude": "#ff5050", "keep": "#ffcd3c"}


def write_report(
    folder: Path, stacks: Sequence[Stack], findings: Sequence[Finding], actions: Mapping[str, str]
) -> None:
    """Write ``exclusions.csv``, and ``exclusions.png`` where a finding has an image to show.

    Args:
        folder: The folder to write into.
        stacks: The stacks before anything was excluded.
        findings: All findings about them.
        actions: The action for each reason, see :func:`~monai_iln.datasets.quality.reasons.choose_actions`.
    """
    ordered = sorted(findings, key=lambda f: (f.subject, f.phase, f.slice or 0, f.reason, f.file))
    rows = [(f.subject, f.phase, f.slice or "", f.action(actions), f.reason, f.detail, f.file) for f in ordered]
    write_csv(folder / TABLE, _COLUMNS, rows)
    flagged = _flagged_frames(stacks, ordered, actions)
    if flagged:
        note = f"{len(flagged)} frames with findings"
        if len(flagged) > _MOST_TILES:
            note += f", the first {_MOST_TILES} shown"
        shown = flagged[:_MOST_TILES]
        sheet = contact_sheet(
            [(f"{frame.title}: {frame.action}\n{frame.reasons}", frame.draw()) for frame in shown],
            side=_TILE_PIXELS,
            columns=_TILES_PER_ROW,
            colours=[_COLOURS[frame.action] for frame in shown],
            note=f"{note}; outline: the mask. All: {TABLE}",
            dark=True,
        )
        sheet.save(folder / SHEET)


def summarize(findings: Sequence[Finding], actions: Mapping[str, str]) -> list[str]:
    """A line for each reason that occurs and what is done: how often, in whom, and what it means.

    Args:
        findings: All findings.
        actions: The action for each reason.
    """
    alike = defaultdict(list)
    for finding in findings:
        alike[finding.reason, finding.action(actions)].append(finding)
    order, lines = list(REASONS), []
    for reason, action in sorted(alike, key=lambda pair: (order.index(pair[0]), pair[1])):
        subjects = sorted({f.subject or "unknown" for f in alike[reason, action]})
        shown = ", ".join(subjects[:4])
        if len(subjects) > 4:
            shown += f" and {len(subjects) - 4} more"
        count, meaning = len(alike[reason, action]), REASONS[reason].meaning
        lines.append(f"{reason}: {count} ({action}) in {shown}. {meaning[0].upper()}{meaning[1:]}.")
    return lines


class _FlaggedFrame(NamedTuple):
    """A frame with findings."""

    title: str
    action: str
    reasons: str
    image: NDArray[Any]
    mask: NDArray[Any]

    def draw(self) -> NDArray[np.float32]:
        """The image as it would be seen, with the outline of the mask."""
        low, high = np.percentile(self.image, (0.5, 99.5))
        grey = np.clip((self.image - low) / max(float(high - low), 1e-6), 0, 1) ** 0.7
        picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
        inside = self.mask > 0
        picture[inside & ~binary_erosion(inside)] = _OUTLINE
        return picture


def _flagged_frames(
    stacks: Sequence[Stack], findings: Sequence[Finding], actions: Mapping[str, str]
) -> list[_FlaggedFrame]:
    """The frames with findings that have an image, those to be excluded first."""
    by_frame: dict[tuple[str, str, int | None], list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.action(actions) in _COLOURS:
            by_frame[finding.subject, finding.phase, finding.slice].append(finding)
    frames = []
    for stack in stacks:
        for index, number in enumerate(stack.slices):
            found = by_frame.get((stack.subject, stack.phase, number), [])
            if found:
                title = f"{stack.subject} {stack.phase} slice {number}"
                action = min(finding.action(actions) for finding in found)  # "exclude" comes before "keep"
                shown = ", ".join(dict.fromkeys(finding.reason for finding in found))[:_MOST_LETTERS]
                image, mask = stack.image[..., index], stack.cavity[..., index]
                frames.append(_FlaggedFrame(title, action, shown, image, mask))
    return sorted(frames, key=lambda frame: frame.action)
