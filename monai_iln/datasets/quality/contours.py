"""Faults of contours: gaps and spikes, copies, and an epicardium that does not contain its endocardium."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from monai_iln.datasets.formats.contours import MAX_SIDE, ContourFiles, Points, bounds, rasterize, read_contour
from monai_iln.datasets.stacks import Finding
from monai_iln.errors import UserError, count

_TRACED = 2.0  # pixels between points; an outline of larger steps was clicked corner by corner
_FEWEST_POINTS = 10  # in a traced outline; one around 10 pixels has 14
_MAX_STEP = (3, 3.0)  # times the median step, and so many pixels more; none of Sunnybrook has 2.3 times the median
_COVERED = (0.2, 1.0)
# The part of the endocardium's pixels. The worst of the real pairs has 1.8 %, the best of nine wrong ones 19.5 %.
_MAX_OUTSIDE_EPICARDIUM = 0.05


class ContourFinding(NamedTuple):
    """A finding about contours of one frame.

    Attributes:
        number: The number of the frame.
        kinds: The kinds of contour that it is about.
        finding: The finding.
    """

    number: int
    kinds: tuple[str, ...]
    finding: Finding


def outline_fault(points: Points) -> str:
    """Find a gap, a spike, or a line that crosses itself or goes round twice.

    By Pick's theorem a simple outline covers its area, half of its length and one, in pixels; those of Sunnybrook cover
    0.45 to 0.66 of the length besides their area.

    Args:
        points: The points of the outline.

    Returns:
        What was measured against what rule, or an empty text if nothing is wrong.

    Example:
        >>> angle = np.linspace(0, 6.2, 100)
        >>> circle = 50 + 20 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        >>> outline_fault(circle), outline_fault(circle[:60])
        ('', 'a step of 38.5 pixels between neighbours, 1.3 is usual')
    """
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    steps = np.hypot(next_x - x, next_y - y)
    usual = float(np.median(steps))
    if usual < _TRACED and len(steps) < _FEWEST_POINTS:
        return f"{count(len(steps), 'point')}, {usual:.1f} pixels apart: a traced outline has at least {_FEWEST_POINTS}"
    if steps.max() > _MAX_STEP[0] * usual + _MAX_STEP[1]:
        return f"a step of {steps.max():.1f} pixels between neighbours, {usual:.1f} is usual"
    area, length = abs(float(x @ next_y - y @ next_x)) / 2, float(steps.sum())
    low, shape = bounds(points)
    covered = int(rasterize(points - low, shape).sum())
    if max(shape) < MAX_SIDE and not area + _COVERED[0] * length <= covered <= area + _COVERED[1] * length + 2:
        return f"covers {covered} pixels, though it encloses {area:.0f} and is {length:.0f} long: it crosses itself"
    return ""


def copied_contours(contours: Mapping[str, ContourFiles]) -> Iterator[ContourFinding]:
    """Find contours that are byte copies of another subject's or frame's.

    Where one of the subjects holds the whole pair, an epicardium around its endocardium, and another does not, the copy
    is the other's.

    Args:
        contours: The contour files of each subject.
    """
    holders: dict[bytes, list[tuple[str, int, str]]] = defaultdict(list)
    for subject, numbers in contours.items():
        for number, kinds in numbers.items():
            for kind, path in kinds.items():
                with suppress(OSError):  # told when it is read as a contour
                    holders[hashlib.sha256(path.read_bytes()).digest()].append((subject, number, kind))
    for group in holders.values():
        if len(group) < 2:
            continue
        subjects = {subject for subject, _, _ in group}
        is_owner = [_is_nested(contours[subject][number]) for subject, number, _ in group]
        for (subject, number, kind), own in zip(group, is_owner, strict=True):
            if own and not all(is_owner) and len(subjects) > 1:
                continue
            others = ", ".join(sorted(subjects - {subject})) or "another frame"
            detail = f"byte for byte a contour of {others}"
            finding = _finding("copied-contour", subject, contours[subject][number][kind], detail)
            yield ContourFinding(number, (kind,), finding)


def check_contours(
    subject: str,
    contours: ContourFiles,
    points: Mapping[int, Mapping[str, Points]],
    shape: tuple[int, int] | None = None,
    copies: Iterable[ContourFinding] = (),
) -> Iterator[ContourFinding]:
    """Find broken outlines, contours outside the image, and an epicardium that does not contain its endocardium.

    Of such a pair one is wrong. It is the one that is a copy, broken or outside the image. If neither or both are,
    both are doubted.

    Args:
        subject: The subject's name.
        contours: The contour files.
        points: The points in them.
        shape: The rows and columns of the images, or ``None`` where there are none.
        copies: The copies among the contours, see :func:`copied_contours`.
    """
    doubted = {(number, kind) for number, kinds, _ in copies for kind in kinds}
    for number, kinds in sorted(points.items()):
        for kind, outline in sorted(kinds.items()):
            path = contours[number][kind]
            if fault := outline_fault(outline):
                doubted.add((number, kind))
                yield ContourFinding(number, (kind,), _finding("broken-outline", subject, path, fault))
            if shape is not None and ((outline < -0.5).any() or (outline > np.array(shape[::-1])).any()):
                (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
                detail = f"x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} in {shape[1]} x {shape[0]} pixels"
                doubted.add((number, kind))
                yield ContourFinding(number, (kind,), _finding("outside-image", subject, path, detail))
        if {"i", "o"} <= kinds.keys():
            outside = _outside_epicardium(kinds["i"], kinds["o"])
            if outside > _MAX_OUTSIDE_EPICARDIUM:
                detail = f"{outside:.0%} of the endocardium lies outside, {_MAX_OUTSIDE_EPICARDIUM:.0%} may"
                wrong = tuple(kind for kind in ("i", "o") if (number, kind) in doubted)
                if len(wrong) == 1:
                    detail += f"; the {wrong[0]} contour is doubted anyway"
                finding = _finding("epicardium", subject, contours[number]["o"], detail)
                yield ContourFinding(number, wrong or ("i", "o"), finding)


def _finding(reason: str, subject: str, path: Path, detail: str) -> Finding:
    return Finding(reason, subject, "", None, str(path), detail)


def _is_nested(kinds: Mapping[str, Path]) -> bool:
    """Whether an endocardium and an epicardium are there, one inside the other."""
    try:
        return _outside_epicardium(read_contour(kinds["i"]), read_contour(kinds["o"])) <= _MAX_OUTSIDE_EPICARDIUM
    except (KeyError, UserError):
        return False


def _outside_epicardium(inner: Points, outer: Points) -> float:
    """The fraction of the endocardium that lies outside the epicardium."""
    low, shape = bounds(np.concatenate([inner, outer]))
    endocardium, epicardium = (rasterize(points - low, shape) for points in (inner, outer))
    return float((endocardium & ~epicardium & 1).sum() / max(endocardium.sum(), 1))
