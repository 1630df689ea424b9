"""Text contours and their masks."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_iln.errors import UserError, count
from monai_iln.extras import require_extra

Points = NDArray[np.float64]
Mask = NDArray[np.uint8]
ContourFiles = Mapping[int, Mapping[str, Path]]  # by the number of the frame and the kind of contour

#: Names as IM-0001-0048-icontour-manual.txt: i endocardium, o epicardium, p1 and p2 papillary muscles.
FILE_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{1,9})-(?P<kind>[iop]\d?)contour-manual\.txt", re.IGNORECASE)

MAX_COORDINATE = 1e5  # pixels; beyond it PIL's integers overflow
MAX_SIDE = 4096  # pixels of what is rasterized
_MAX_BYTES = 1 << 20  # real contours have 2 to 20 kB
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path, encoding: str) -> str:
    """Read a text file. Where it has a byte-order mark, as Windows editors leave, that tells the encoding.

    Args:
        path: The file.
        encoding: The encoding without a mark.

    Raises:
        OSError: If the file cannot be read.
        UnicodeError: If it holds anything that is not in the encoding.
    """
    content = path.read_bytes()
    marked = [name for mark, name in _MARKS.items() if content.startswith(mark)]
    return content.decode(*marked or [encoding])


def read_contour(path: Path | str) -> Points:
    """Read the points of a contour file: one ``x y`` pair a line, in pixels.

    Args:
        path: The text file, in ASCII, or in UTF-8 or UTF-16 with a byte-order mark. ``x`` counts columns, ``y`` rows,
            from the top left. The polygon need not be closed.

    Returns:
        The points, shape ``(P, 2)`` with ``P >= 3``, columns x and y.

    Raises:
        UserError: If the file cannot be read, holds anything but pairs of finite numbers, or fewer than three.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        lines = read_text(path, "ascii").splitlines()
        points = np.array([line.split() for line in lines if line.strip()], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a contour ({error}). A contour file holds one 'x y' pair of numbers a line. "
            "Download it again, or remove it to go without this frame."
        ) from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not (np.abs(points) < MAX_COORDINATE).all():
        raise UserError(
            f"{path}: {count(len(points), 'point')}. A contour needs at least three 'x y' pairs of numbers in the "
            "range of an image, one pair a line. Download the file again, or remove it to go without this frame."
        )
    return points


def rasterize(points: Points, shape: tuple[int, int]) -> Mask:
    """Fill a polygon, its outline included.

    Rasterizers differ on real contours by up to 6 % Dice. This is ``PIL.ImageDraw.polygon(outline=1, fill=1)``, the
    convention of the published Sunnybrook masks, which it reproduces exactly.

    Args:
        points: An array ``(P, 2)`` of columns x and rows y in pixels.
        shape: The rows and columns of the mask.

    Returns:
        A ``uint8`` mask of 0 and 1.

    Example:
        >>> int(rasterize(np.array([[1, 1], [3, 1], [3, 3], [1, 3]]), (5, 5)).sum())
        9
    """
    require_extra("drawing contours", "data", "PIL")
    from PIL import Image, ImageDraw

    mask = Image.new("L", (shape[1], shape[0]), 0)
    ImageDraw.Draw(mask).polygon(points.astype(np.float64).ravel().tolist(), outline=1, fill=1)
    return np.asarray(mask, dtype=np.uint8).copy()


def bounds(points: Points) -> tuple[Points, tuple[int, int]]:
    """A corner above and left of points, and the rows and columns that hold them from there."""
    low = np.floor(points.min(axis=0))
    width, height = np.minimum(points.max(axis=0) - low, MAX_SIDE).astype(int) + 2
    return low, (int(height), int(width))
