"""Pictures of segmentations: one slice in colours, and sheets of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

DRAWN_PIXELS = 96  # least side of an overlay: the heart and its surroundings
_MARGIN = 12  # pixels around what is marked, where that is larger
_TILE_PIXELS = 156
_STRIP_PIXELS = 16  # for a tile's name, above it
_TILES_PER_ROW = 12
_MOST_TILES = 40 * _TILES_PER_ROW  # what a PNG and an eye can take


def overlay(image: NDArray[Any], prediction: NDArray[Any], truth: NDArray[Any] | None = None) -> NDArray[np.float32]:
    """One slice as RGB with truth in red, prediction in green and their overlap in yellow.

    Args:
        image: ``(H, W)``, any scale; drawn between its 1st and 99th percentile.
        prediction: ``(H, W)``; what is not 0 is marked.
        truth: ``(H, W)``, or ``None``.

    Returns:
        ``(h, w, 3)`` in [0, 1]: a square of 96 pixels around the truth, else around the prediction, else around the
        centre; larger where it would cut one of them.

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
    return rgb[_window(true if true.any() else marked, marked)].astype(np.float32)


def _window(centred: NDArray[np.bool_], shown: NDArray[np.bool_]) -> tuple[slice, ...]:
    """A square around the one, of at least :data:`DRAWN_PIXELS`, that holds the other."""
    places, all_places = np.argwhere(centred), np.argwhere(shown)
    centre = places.mean(axis=0) if len(places) else np.array(shown.shape) / 2
    reach = np.abs(all_places - centre).max() + _MARGIN if len(all_places) else 0
    side = int(max(DRAWN_PIXELS, 2 * reach))
    starts = [
        int(np.clip(round(middle - side / 2), 0, max(size - side, 0)))
        for middle, size in zip(centre, shown.shape, strict=True)
    ]
    return tuple(slice(start, start + side) for start in starts)


def contact_sheet(tiles: Sequence[tuple[str, NDArray[np.float32]]]) -> Image.Image:
    """Many overlays, each under its name.

    Of more than 480 it shows 480, evenly spaced, and says so. Drawing each of them as a plot of its own would take
    longer than a short training.

    Args:
        tiles: at least one pair of a name and an RGB image ``(h, w, 3)`` in [0, 1].

    Example:
        >>> contact_sheet([("slice 1", np.zeros((96, 96, 3), np.float32))] * 13).size
        (1872, 360)
    """
    shown = [tiles[i] for i in np.linspace(0, len(tiles) - 1, min(len(tiles), _MOST_TILES)).astype(int)]
    columns = min(_TILES_PER_ROW, len(shown))
    rows = -(-len(shown) // columns)
    note = f"{len(shown)} of {len(tiles)} slices" if len(shown) < len(tiles) else ""
    height = _TILE_PIXELS + _STRIP_PIXELS
    sheet = Image.new("RGB", (columns * _TILE_PIXELS, rows * height + _STRIP_PIXELS), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    pen.text((4, 1), note, fill="black", font=font)
    for index, (name, tile) in enumerate(shown):
        left, top = index % columns * _TILE_PIXELS, index // columns * height + _STRIP_PIXELS
        picture = Image.fromarray((255 * tile.clip(0, 1)).astype(np.uint8))
        scale = (_TILE_PIXELS - 4) / max(picture.size)
        width, length = (max(1, round(scale * side)) for side in picture.size)
        sheet.paste(picture.resize((width, length), Image.Resampling.BILINEAR), (left + 2, top + _STRIP_PIXELS))
        pen.text((left + _TILE_PIXELS / 2, top + 2), name, fill="black", font=font, anchor="ma")
    return sheet
