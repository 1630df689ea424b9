"""Text contours and their masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from monai_iln.errors import UserError

Points = NDArray[np.float64]
Mask = NDArray[np.uint8]

#: Names as IM-0001-0048-icontour-manual.txt: i endocardium, o epicardium, p1 and p2 papillary muscles.
FILE_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{1,9})-(?P<kind>[iop]\d?)contour-manual\.txt", re.IGNORECASE)

#: The structures that contours outline, and the kinds of contour that each of them needs.
STRUCTURES = {
    "endocardium": ("i",),
    "epicardium": ("o",),
    "myocardium": ("i", "o"),
    "papillary-muscles": ("p1", "p2"),
}

_MAX_BYTES = 1 << 20  # real contours have 2 to 20 kB
_MAX_SIDE = 4096  # pixels, of what is rasterized
_TRACED = 2.0  # pixels between points; an outline of larger steps was clicked corner by corner
_FEWEST = 10  # points of a traced outline; one around 10 pixels has 14
_MAX_STEP = (3, 3.0)  # times the median step, and so many pixels more; none of Sunnybrook has 2.3 times the median
_COVERED = (0.2, 1.0)
MAX_COORDINATE = 1e5  # pixels; beyond it PIL's integers overflow


def read_contour(path: Path | str) -> Points:
    """Read the points of a contour file: one ``x y`` pair a line, in pixels.

    Args:
        path: the text file. ``x`` counts columns, ``y`` rows, from the top left; the polygon need not be closed.

    Returns:
        The points, shape ``(P, 2)`` with ``P >= 3``, columns x and y.

    Raises:
        UserError: if the file cannot be read, holds anything but pairs of finite numbers, or fewer than three.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
        points = np.array([[float(value) for value in row] for row in rows], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a contour ({error}). A contour file holds one 'x y' pair of numbers a line. "
            "Download it again, or remove it to go without this frame."
        ) from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not (np.abs(points) < MAX_COORDINATE).all():
        raise UserError(
            f"{path}: {len(points)} points. A contour needs at least three 'x y' pairs of numbers in the range of an "
            "image, one pair a line. Download the file again, or remove it to go without this frame."
        )
    return points


def rasterize(points: Points, shape: tuple[int, int]) -> Mask:
    """Fill a polygon, its outline included.

    Rasterizers differ on real contours by up to 6 % Dice. This is ``PIL.ImageDraw.polygon(outline=1, fill=1)``, the
    convention of the published Sunnybrook masks, which it reproduces exactly.

    Args:
        points: ``(P, 2)``, columns x and y in pixels.
        shape: rows and columns of the mask.

    Returns:
        ``uint8`` mask of 0 and 1.

    Example:
        >>> rasterize(np.array([[1, 1], [3, 1], [3, 3], [1, 3]]), (5, 5)).sum()
        np.uint64(9)
    """
    mask = Image.new("L", (shape[1], shape[0]), 0)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], outline=1, fill=1)
    return np.asarray(mask, dtype=np.uint8).copy()


def bounds(points: Points) -> tuple[Points, tuple[int, int]]:
    """A corner above and left of points, and rows and columns enough to rasterize them from there."""
    low = np.floor(points.min(axis=0))
    width, height = np.minimum(points.max(axis=0) - low, _MAX_SIDE).astype(int) + 2
    return low, (int(height), int(width))


def outline_fault(points: Points) -> str:
    """What a drawn outline cannot look like: a gap, a spike, or a line that crosses itself or goes round twice.

    By Pick's theorem a simple outline covers its area, half of its length and one, in pixels; those of Sunnybrook cover
    0.45 to 0.66 of the length besides their area.

    Returns:
        What was measured against what rule; empty if nothing is wrong.

    Example:
        >>> angle = np.linspace(0, 6.2, 100)
        >>> circle = 50 + 20 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        >>> outline_fault(circle), outline_fault(circle[:60])
        ('', 'a step of 38.5 pixels between neighbours, 1.3 is usual')
    """
    (x, y), (next_x, next_y) = points.T, np.roll(points, -1, axis=0).T
    steps = np.hypot(next_x - x, next_y - y)
    usual = float(np.median(steps))
    if usual < _TRACED and len(steps) < _FEWEST:
        return f"{len(steps)} points, {usual:.1f} pixels apart: a traced outline has at least {_FEWEST}"
    if steps.max() > _MAX_STEP[0] * usual + _MAX_STEP[1]:
        return f"a step of {steps.max():.1f} pixels between neighbours, {usual:.1f} is usual"
    area, length = abs(float(x @ next_y - y @ next_x)) / 2, float(steps.sum())
    low, shape = bounds(points)
    covered = int(rasterize(points - low, shape).sum())
    if max(shape) < _MAX_SIDE and not area + _COVERED[0] * length <= covered <= area + _COVERED[1] * length + 2:
        return f"covers {covered} pixels, though it encloses {area:.0f} and is {length:.0f} long: it crosses itself"
    return ""


def structure_mask(structure: str, masks: Mapping[str, Mask]) -> Mask | None:
    """The mask of a structure from the masks of its contours.

    Args:
        structure: a key of :data:`STRUCTURES`. Myocardium is the epicardium without the endocardium; papillary muscles
            are one or two.
        masks: those there are, by kind of contour: ``"i"``, ``"o"``, ``"p1"``, ``"p2"``.

    Returns:
        ``uint8`` mask of 0 and 1, or ``None`` where a contour that it needs was not drawn.
    """
    drawn = [masks[kind] for kind in STRUCTURES[structure] if kind in masks]
    if structure == "papillary-muscles":
        return np.bitwise_or.reduce(drawn) if drawn else None
    if len(drawn) < len(STRUCTURES[structure]):
        return None
    return drawn[0] if len(drawn) == 1 else np.where(drawn[0] > 0, 0, drawn[1]).astype(np.uint8)
