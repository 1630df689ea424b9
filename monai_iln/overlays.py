"""Pictures of segmentations: one slice in colours, and sheets of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.extras import require_extra

if TYPE_CHECKING:
    from PIL import Image

DRAWN_PIXELS = 96  # least side of an overlay: the heart and its surroundings
_MARGIN = 12  # pixels around what is marked, where that is larger
MOST_TILES = 480  # what a PNG and an eye can take
_GAP_PIXELS = 2  # around a picture
_LINE_PIXELS = 18  # for a line of text
_LETTER_PIXELS = 13
_DARK_ON_LIGHT = ("black", "white")
_LIGHT_ON_DARK = ("#e6e6e6", "#181818")


def overlay(image: NDArray[Any], prediction: NDArray[Any], truth: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """One slice as RGB with truth in red, prediction in green and their overlap in yellow.

    Args:
        image: An array ``(H, W)`` of any scale. It is drawn between its 1st and 99th percentile.
        prediction: An array ``(H, W)``, not 0 where it is to be marked.
        truth: An array as ``prediction``, or ``None``.

    Returns:
        An array ``(h, w, 3)`` in [0, 1]: a square of 96 pixels around the truth, else around the prediction, else
        around the centre; larger where it would cut one of them.

    Example:
        >>> truth = np.eye(4)
        >>> print(overlay(np.zeros((4, 4)), np.ones((4, 4)), truth)[0, :2])
        [[0.45 0.45 0.  ]
         [0.   0.45 0.  ]]
    """
    predicted = np.asarray(prediction) != 0
    true = np.zeros_like(predicted) if truth is None else np.asarray(truth) != 0
    grey = np.nan_to_num(np.asarray(image, np.float64))
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(float(high - low), 1e-12), 0, 1)
    colour = np.stack([true, predicted, np.zeros_like(true)], axis=-1).astype(np.float64)
    marked = true | predicted
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    rgb[marked] = 0.55 * rgb[marked] + 0.45 * colour[marked]
    return rgb[crop_window(true if true.any() else marked, marked)].astype(np.float32)


def crop_window(centred: NDArray[np.bool_], shown: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Find a square around what is marked in one array, of at least :data:`DRAWN_PIXELS`, that holds the other.

    Args:
        centred: An array ``(H, W)``. Without a mark the square is in the middle.
        shown: An array ``(H, W)``.

    Returns:
        The ranges of rows and columns.
    """
    places, all_places = np.argwhere(centred), np.argwhere(shown)
    centre = places.mean(axis=0) if len(places) else np.array(shown.shape) / 2
    reach = np.abs(all_places - centre).max() + _MARGIN if len(all_places) else 0
    side = int(max(DRAWN_PIXELS, 2 * reach))
    starts = [
        int(np.clip(round(middle - side / 2), 0, max(size - side, 0)))
        for middle, size in zip(centre, shown.shape, strict=True)
    ]
    return tuple(slice(start, start + side) for start in starts)


def as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture in [0, 1] as bytes, which take a quarter of the memory. One of bytes stays as it is.

    Args:
        pixels: An array of any shape.

    Example:
        >>> as_bytes(np.array([-1.0, 0.5, 1.0])).tolist()
        [0, 127, 255]
    """
    if pixels.dtype == np.uint8:
        return pixels
    return (255 * pixels.clip(0, 1)).astype(np.uint8)


def contact_sheet(
    tiles: Sequence[tuple[str, NDArray[Any]]],
    *,
    total: int = 0,
    side: int = 156,
    columns: int = 12,
    colours: Sequence[str] = (),
    note: str = "",
    dark: bool = False,
) -> Image.Image:
    """Many pictures on one sheet, each above its caption.

    Of more than 480 it shows 480, evenly spaced, and says so. Drawing each of them as a plot of its own would take
    longer than a short training.

    Args:
        tiles: At least one pair of a caption, which may have several lines, and an RGB image ``(h, w, 3)`` in [0, 1] or
            of bytes.
        total: The number of slices that the tiles are a sample of, if they are.
        side: The side of a tile in pixels.
        columns: The largest number of tiles in a row.
        colours: The colour of the first line of each caption, where it is not that of all text.
        note: A line above the tiles.
        dark: Writes light on dark.

    Example:
        >>> contact_sheet([("slice 1", np.zeros((96, 96, 3), np.float32))] * 13).size
        (1872, 366)
    """
    require_extra("a contact sheet", "data", "PIL")
    from PIL import Image, ImageDraw, ImageFont

    ink, paper = _LIGHT_ON_DARK if dark else _DARK_ON_LIGHT
    chosen = np.linspace(0, len(tiles) - 1, min(len(tiles), MOST_TILES)).astype(int)
    total = max(total, len(tiles))
    if len(chosen) < total:
        note = f"{len(chosen)} of {total} slices. {note}"
    font = ImageFont.load_default(_LETTER_PIXELS)
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    lines = max(caption.count("\n") for caption, _ in tiles) + 1
    height = side + lines * _LINE_PIXELS
    width = max(columns * side, int(font.getlength(note)) + 8)
    sheet = Image.new("RGB", (width, _LINE_PIXELS + rows * height), paper)
    pen = ImageDraw.Draw(sheet)
    pen.text((4, 1), note, fill=ink, font=font)
    for place, index in enumerate(chosen):
        caption, pixels = tiles[index]
        left, top = place % columns * side, place // columns * height + _LINE_PIXELS
        picture = Image.fromarray(as_bytes(pixels))
        scale = (side - 2 * _GAP_PIXELS) / max(picture.size)
        size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
        corner = (left + (side - size[0]) // 2, top + (side - size[1]) // 2)
        sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), corner)
        inks = [*colours[index : index + 1], *[ink] * lines]
        for line, (words, colour) in enumerate(zip(caption.split("\n"), inks, strict=False)):
            pen.text((left + 4, top + side + line * _LINE_PIXELS), words, fill=colour, font=font)
    return sheet
