"""The exclusion report: a table of all findings and a contact sheet to judge them by."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from monai_iln.datasets.quality.exclusion import REASONS
from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.files import write_csv

TABLE, SHEET = "exclusions.csv", "exclusions.png"
_COLUMNS = ("subject", "phase", "slice", "action", "reason", "detail", "file")
_TILE, _CAPTION, _ACROSS = 224, 44, 6  # pixels, pixels, tiles
_MAX_TILES = 120
_COLOURS = {"exclude": (255, 80, 80), "keep": (255, 205, 60)}


def write_report(folder: Path, stacks: Sequence[Stack], findings: Sequence[Finding], chosen: Mapping[str, str]) -> None:
    """Write ``exclusions.csv``, and ``exclusions.png`` where a finding has an image to show.

    Args:
        folder: to write into.
        stacks: before anything was excluded.
        findings: all of them.
        chosen: what is done for each reason, see :func:`~monai_iln.datasets.quality.exclusion.actions`.
    """
    ordered = sorted(findings, key=lambda f: (f.subject, f.phase, f.slice or 0, f.reason, f.file))
    rows = [(f.subject, f.phase, f.slice or "", chosen[f.reason], f.reason, f.detail, f.file) for f in ordered]
    write_csv(folder / TABLE, _COLUMNS, rows)
    sheet = _contact_sheet(stacks, ordered, chosen)
    if sheet is not None:
        sheet.save(folder / SHEET)


def summary(findings: Sequence[Finding], chosen: Mapping[str, str]) -> list[str]:
    """A line for each reason that occurs: how often, what is done, in whom, and what it means."""
    counts = Counter(f.reason for f in findings)
    lines = []
    for reason in (name for name in REASONS if counts[name]):
        subjects = sorted({f.subject or "unknown" for f in findings if f.reason == reason})
        shown = ", ".join(subjects[:4]) + (f" and {len(subjects) - 4} more" if len(subjects) > 4 else "")
        meaning = REASONS[reason].meaning
        lines.append(f"{reason}: {counts[reason]} ({chosen[reason]}) in {shown}. {meaning[0].upper()}{meaning[1:]}.")
    return lines


def _contact_sheet(
    stacks: Sequence[Stack], findings: Sequence[Finding], chosen: Mapping[str, str]
) -> Image.Image | None:
    """A tile for each flagged frame that has an image, those to be excluded first."""
    reasons: dict[tuple[str, str, int | None], list[str]] = defaultdict(list)
    for finding in findings:
        if chosen[finding.reason] in _COLOURS:
            reasons[finding.subject, finding.phase, finding.slice].append(finding.reason)
    frames = []
    for stack in stacks:
        for index, number in enumerate(stack.slices):
            found = list(dict.fromkeys(reasons.get((stack.subject, stack.phase, number), [])))
            if found:
                action = "exclude" if "exclude" in {chosen[reason] for reason in found} else "keep"
                frames.append((action, f"{stack.subject} {stack.phase} slice {number}", found, stack, index))
    if not frames:
        return None
    frames.sort(key=lambda frame: frame[0] != "exclude")
    shown = frames[:_MAX_TILES]
    rows = math.ceil(len(shown) / _ACROSS)
    sheet = Image.new("RGB", (_ACROSS * _TILE, rows * (_TILE + _CAPTION) + _CAPTION // 2), (24, 24, 24))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (action, name, found, stack, index) in enumerate(shown):
        x, y = number % _ACROSS * _TILE, number // _ACROSS * (_TILE + _CAPTION)
        sheet.paste(_tile(stack.image[..., index], stack.cavity[..., index]), (x, y))
        draw.text((x + 4, y + _TILE + 2), f"{name}: {action}", fill=_COLOURS[action], font=font)
        draw.text((x + 4, y + _TILE + 20), ", ".join(found)[:34], fill=(230, 230, 230), font=font)
    footer = f"{len(frames)} frames with findings" + (
        f", the first {len(shown)} shown" if len(shown) < len(frames) else ""
    )
    draw.text((4, sheet.height - 18), f"{footer}; outline: the mask. All: {TABLE}", fill=(230, 230, 230), font=font)
    return sheet


def _tile(image: NDArray[Any], mask: NDArray[Any]) -> Image.Image:
    """The image as it would be seen, with the outline of the mask."""
    low, high = np.percentile(image, (0.5, 99.5))
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1) ** 0.7
    colours = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=-1)
    inside = mask > 0
    colours[inside & ~binary_erosion(inside)] = (60, 255, 90)
    tile = Image.fromarray(colours)
    scale = _TILE / max(tile.size)
    resized = tile.resize((round(scale * tile.width), round(scale * tile.height)), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (_TILE, _TILE))
    canvas.paste(resized, ((_TILE - resized.width) // 2, (_TILE - resized.height) // 2))
    return canvas
