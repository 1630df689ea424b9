"""The exclusion report: a table of all findings, and a contact sheet to judge them by."""

from __future__ import annotations

from collections import Counter, defaultdict
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
    rows = [(f.subject, f.phase, f.slice or "", actions[f.reason], f.reason, f.detail, f.file) for f in ordered]
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
    """A line for each reason that occurs: how often, what is done, in whom, and what it means.

    Args:
        findings: All findings.
        actions: The action for each reason.
    """
    counts = Counter(f.reason for f in findings)
    lines = []
    for reason in (name for name in REASONS if counts[name]):
        subjects = sorted({f.subject or "unknown" for f in findings if f.reason == reason})
        shown = ", ".join(subjects[:4])
        if len(subjects) > 4:
            shown += f" and {len(subjects) - 4} more"
        meaning = REASONS[reason].meaning
        lines.append(f"{reason}: {counts[reason]} ({actions[reason]}) in {shown}. {meaning[0].upper()}{meaning[1:]}.")
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
    reasons: dict[tuple[str, str, int | None], list[str]] = defaultdict(list)
    for finding in findings:
        if actions[finding.reason] in _COLOURS:
            reasons[finding.subject, finding.phase, finding.slice].append(finding.reason)
    frames = []
    for stack in stacks:
        for index, number in enumerate(stack.slices):
            found = dict.fromkeys(reasons.get((stack.subject, stack.phase, number), []))
            if found:
                title = f"{stack.subject} {stack.phase} slice {number}"
                action = min(actions[reason] for reason in found)  # "exclude" comes before "keep"
                shown = ", ".join(found)[:_MOST_LETTERS]
                image, mask = stack.image[..., index], stack.cavity[..., index]
                frames.append(_FlaggedFrame(title, action, shown, image, mask))
    return sorted(frames, key=lambda frame: frame.action)
