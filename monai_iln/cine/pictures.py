"""Pictures of segmented cines: volume curves beside the slices at ED and ES, and films with contours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.cine.curves import DOUBTS, VolumeCurve
from monai_iln.datasets.cines import frame_ms
from monai_iln.extras import require_extra
from monai_iln.files import new_file
from monai_iln.overlays import as_bytes, crop_window
from monai_iln.run_files import CINE_FILM, CINE_PICTURE

if TYPE_CHECKING:
    from PIL import Image

COLOURS = ("#ff8c1a", "#35a7ff", "#4cd964", "#ff5fa2")  # of structures, seen on grey and on white; then again
_SCALE = 1.5  # of a pixel, so that a contour is thinner than one
_LINE_PIXELS, _LETTER_PIXELS = 22, 15
_USUAL_MS = 50.0  # of a phase whose time is not known
_PAPER, _INK, _DOUBTED_INK = "#181818", "#e6e6e6", "#ff6b6b"
_ROW_TILES = 6
_MOST_INCHES = 5.0  # of the slices in a picture, where they are few
_NUMBERS_POINTS = 300  # of all numbers of slices side by side
_DPI = 200  # of twelve slices side by side, a pixel of a contour stays one
_SHADES = 56  # of grey in a film


def write_pictures(
    stem: Path, pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], curves: Sequence[VolumeCurve]
) -> None:
    """Write the two pictures of a cine, see :func:`draw_curves` and :func:`write_film`.

    Args:
        stem: The path of the files without ``_cine.png`` and ``_cine.gif``.
        pixels: An array ``(rows, columns, slices, phases)``.
        masks: An array of this shape for each structure.
        curves: The curve of each structure.
    """
    draw_curves(stem.with_name(stem.name + CINE_PICTURE), pixels, masks, curves)
    write_film(stem.with_name(stem.name + CINE_FILM), pixels, masks, curves)


def find_limits(pixels: NDArray[Any]) -> tuple[float, float]:
    """Find the grey values that are drawn black and white: the 1st and 99th percentile."""
    low, high = np.percentile(pixels, (1, 99))
    return float(low), float(high)


def scale_grey(pixels: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Scale grey values to bytes.

    Args:
        pixels: An array of any shape.
        limits: The values that become 0 and 255.

    Example:
        >>> scale_grey(np.array([0.0, 50.0, 300.0]), (0.0, 100.0)).tolist()
        [0, 127, 255]
    """
    low, high = limits
    grey = (pixels.astype(np.float32) - low) / max(high - low, 1e-12)
    return as_bytes(np.nan_to_num(grey))


def draw_curves(
    path: Path, pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], curves: Sequence[VolumeCurve]
) -> None:
    """Draw the volume curves of a cine with their numbers and what is doubted, above its slices at ED and ES.

    Args:
        path: The PNG file.
        pixels: An array ``(rows, columns, slices, phases)``.
        masks: An array of this shape for each structure.
        curves: The curve of each structure. The first of them tells which phases are shown.
    """
    require_extra("a volume curve", "bundle", "matplotlib", "PIL")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, window = curves[0], _find_window(masks)
    rows = []
    for phase in (first.ed, first.es):
        tiles = _tiles(pixels[..., phase - 1], [mask[..., phase - 1] for mask in masks], window)
        rows.append(_mosaic(tiles, len(tiles)))
    strip = np.concatenate(rows)
    height = min(10 * strip.shape[0] / strip.shape[1], _MOST_INCHES)
    figure = Figure(figsize=(10, 4.6 + height), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(4, height))
    for curve, colour in zip(curves, cycle(COLOURS), strict=False):
        _draw_curve(above, curve, colour)
    above.set_title(Path(first.stack).name, loc="left", fontsize=10, parse_math=False)
    above.set(
        ylim=(0, 1.12 * max(curve.edv_ml for curve in curves) or 1), ylabel="volume (ml)", xlabel=_axis_of(first)[1]
    )
    above.xaxis.get_major_locator().set_params(integer=True)  # there is no half phase
    above.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=9)
    above.spines[["top", "right"]].set_visible(False)
    below.imshow(strip)
    heights = [(place + 0.5) * len(rows[0]) for place in range(2)]
    below.set_yticks(heights, [f"ED, phase {first.ed}", f"ES, phase {first.es}"], fontsize=8)  # 20 slices are thin rows
    count = pixels.shape[2]
    width, size = rows[0].shape[1] / count, min(10, _NUMBERS_POINTS / count)
    below.set_xticks([(index + 0.5) * width for index in range(count)], range(1, count + 1), fontsize=size)
    whose = f", at ED and ES of the {first.structure}" if len(curves) > 1 else ""
    below.set_xlabel(f"slice{whose}", parse_math=False)
    below.tick_params(length=0)
    below.spines[:].set_visible(False)
    with new_file(path) as partial:
        figure.savefig(partial, dpi=_DPI)


def _axis_of(curve: VolumeCurve) -> tuple[Sequence[float], str]:
    """Where the phases of a curve stand, and what that counts."""
    if any(map(math.isnan, curve.times_ms)):
        return range(1, len(curve.volumes_ml) + 1), "phase"
    return curve.times_ms, "time after the first phase (ms)"


def _draw_curve(axes: Any, curve: VolumeCurve, colour: str) -> None:
    places, _ = _axis_of(curve)
    told = replace(curve, doubts=()).tell().replace("$", r"\$")  # which would begin a formula
    told += "".join(f"\nDOUBTED, {word}: {DOUBTS[word]}" for word in curve.doubts)
    axes.plot(places, curve.volumes_ml, color=colour, marker=".", linestyle="--" if curve.doubts else "-", label=told)
    for phase in (curve.ed, curve.es):
        place, volume = places[phase - 1], curve.volumes_ml[phase - 1]
        axes.plot(place, volume, "o", color=colour, markersize=8)
        axes.annotate(
            f"{curve.name_of(phase)} {volume:.0f}",
            (place, volume),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
        )


def write_film(
    path: Path,
    pixels: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    curves: Sequence[VolumeCurve],
) -> None:
    """Write a GIF of all slices over the beat, with their numbers and the contours of the structures.

    Args:
        path: The GIF file.
        pixels: An array ``(rows, columns, slices, phases)``.
        masks: An array of this shape for each structure.
        curves: The curve of each structure.
    """
    require_extra("a film", "bundle", "PIL")
    window = _find_window(masks)
    frames = [_film_frame(pixels, masks, curves, window, phase) for phase in range(pixels.shape[3])]
    step = frame_ms(curves[0].times_ms)
    duration = _USUAL_MS if math.isnan(step) else step
    with new_file(path) as partial:
        frames[0].save(partial, save_all=True, append_images=frames[1:], duration=_whole_hundredths(duration), loop=0)


def _whole_hundredths(milliseconds: float) -> int:
    """What a GIF can tell. Below two hundredths of a second, browsers show frames slowly."""
    return max(20, 10 * round(milliseconds / 10))


def _film_frame(
    pixels: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    curves: Sequence[VolumeCurve],
    window: tuple[slice, ...],
    phase: int,
) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    tiles = _tiles(pixels[..., phase], [mask[..., phase] for mask in masks], window)
    columns = math.ceil(len(tiles) / math.ceil(len(tiles) / _ROW_TILES))
    mosaic = _mosaic(tiles, columns)
    height, width, _ = mosaic.shape
    lines = [f"phase {phase + 1} of {pixels.shape[3]}"]
    lines += [f"{curve.structure}: {curve.volumes_ml[phase]:.0f} ml {curve.name_of(phase + 1)}" for curve in curves]
    doubted = [f"{curve.structure} DOUBTED: {', '.join(curve.doubts)}" for curve in curves if curve.doubts]
    frame = Image.new("RGB", (width, height + (len(lines) + len(doubted)) * _LINE_PIXELS), _PAPER)
    frame.paste(Image.fromarray(mosaic), (0, 0))
    pen, font = ImageDraw.Draw(frame), ImageFont.load_default(_LETTER_PIXELS)
    side, _, _ = tiles[0].shape
    for index, tile in enumerate(tiles):
        place = tile.shape[1] * (index % columns) + 4, side * (index // columns) + 2
        pen.text(place, str(index + 1), fill=_INK, font=font, stroke_width=1, stroke_fill=_PAPER)
    inks = [_INK, *islice(cycle(COLOURS), len(curves)), *[_DOUBTED_INK] * len(doubted)]
    for line, (words, ink) in enumerate(zip([*lines, *doubted], inks, strict=True)):
        pen.text((4, height + line * _LINE_PIXELS + 2), words, fill=ink, font=font)
    return frame.quantize(palette=_palette(), dither=Image.Dither.NONE)


def _palette() -> Image.Image:
    """Shades of grey, and the colours as they are."""
    from PIL import Image, ImageColor

    shades = [[shade] * 3 for shade in np.linspace(0, 255, _SHADES).astype(int).tolist()]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([*shades, *map(ImageColor.getrgb, (*COLOURS, _DOUBTED_INK))]).tolist())
    return palette


def _find_window(masks: Sequence[NDArray[np.bool_]]) -> tuple[slice, ...]:
    """The square that all slices are shown in, in all phases."""
    marked = np.logical_or.reduce([mask.any(axis=(2, 3)) for mask in masks])
    return crop_window(marked, marked)


def _tiles(
    pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], window: tuple[slice, ...]
) -> list[NDArray[np.uint8]]:
    """Each slice as RGB, cut to the window, with contours."""
    from PIL import Image, ImageColor

    tiles = []
    for index in range(pixels.shape[2]):
        grey = Image.fromarray(np.ascontiguousarray(pixels[..., index][window]))
        size = round(_SCALE * grey.width), round(_SCALE * grey.height)
        tile = np.array(grey.resize(size, Image.Resampling.BICUBIC).convert("RGB"))
        for mask, colour in zip(masks, cycle(COLOURS), strict=False):
            marked = Image.fromarray(np.ascontiguousarray(mask[..., index][window])).resize(size)
            tile[_outline(np.array(marked, dtype=bool))] = ImageColor.getrgb(colour)
        tiles.append(tile)
    return tiles


def _outline(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask that have a neighbour outside of it."""
    padded = np.pad(marked, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(marked & ~inner)


def _mosaic(tiles: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Tiles of one size in rows, the first at the top left."""
    blank = np.zeros_like(tiles[0])
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.concatenate(padded[start : start + columns], axis=1) for start in range(0, len(padded), columns)]
    return np.concatenate(rows)
