"""The paper's Figure 2: test images with truth red, prediction green and their overlap yellow."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nibabel
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from monai_iln.overlays import overlay
from monai_iln.study.report.figures import WIDTH, new_figure, styled
from monai_iln.study.report.wording import shorten

_COLUMNS = 4  # methods beside one another


@dataclass(frozen=True)
class Tile:
    """One picture: what it shows, where it comes from, and the pixels or why there are none."""

    method: str
    rank: str
    caption: str
    pixels: NDArray[np.float32] | None
    problem: str = ""


def pick_images(images: pd.DataFrame) -> dict[str, pd.Series]:
    """The worst, the median and the best image by Dice, among those in which the truth is not empty.

    Of equal ones the one with the largest truth comes first.

    Args:
        images: test images of one method, columns as in ``images.csv``.

    Returns:
        rows by ``"worst"``, ``"median"`` and ``"best"``; fewer if there are fewer images.
    """
    usable = images[images["dice"].notna()]
    marked = usable[usable["truth_pixels"] > 0]
    usable = marked if len(marked) else usable
    if usable.empty:
        return {}
    order = usable.assign(smaller=-usable["truth_pixels"]).sort_values(
        ["dice", "smaller", "subject", "phase", "slice"], kind="stable"
    )
    places = {"worst": 0, "median": (len(order) - 1) // 2, "best": len(order) - 1}
    places = {"best": 0} if len(order) == 1 else places if len(order) > 2 else {"worst": 0, "best": 1}
    return {rank: order.iloc[place] for rank, place in places.items()}


def make_tile(folder: Path, rank: str, row: pd.Series) -> Tile:
    """Read image, truth and prediction of one row of ``images`` and lay them over one another.

    Args:
        folder: of the study.
        rank: what the picture stands for, such as ``"worst"``.
        row: of ``images``.
    """
    method, place = str(row["method"]), "" if pd.isna(row["slice"]) else f"slice {row['slice']:g}"
    caption = _caption(row, place)
    if any(pd.isna(row[key]) or not row[key] for key in ("image", "truth", "prediction")):
        return Tile(method, rank, caption, None, "no files are recorded")
    try:
        image, truth, prediction = (
            _read(folder / path)
            for path in (row["image"], row["truth"], Path(row["run"]) / row["prediction"])  # absolute ones stay so
        )
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        return Tile(method, rank, caption, None, f"a file cannot be read: {error}")
    if not image.shape == truth.shape == prediction.shape:
        shapes = f"{image.shape}, {truth.shape} and {prediction.shape}"
        return Tile(method, rank, caption, None, f"image, truth and prediction have different shapes: {shapes}")
    scored = slice(None) if pd.isna(row["index"]) else slice(int(row["index"]), int(row["index"]) + 1)
    true_class = _class_of(truth[..., scored], row["truth_pixels"])
    predicted_class = _class_of(prediction[..., scored], row["predicted_pixels"], first=true_class)
    if true_class is None or predicted_class is None or image[..., scored].size == 0:
        return Tile(method, rank, caption, None, "the masks do not hold the numbers of pixels that were recorded")
    masks = truth[..., scored] == true_class, prediction[..., scored] == predicted_class
    layer = int(np.argmax((masks[0] | masks[1]).sum(axis=(0, 1))))  # of a stack the fullest slice
    if pd.isna(row["index"]):
        caption = _caption(row, f"slice {layer + 1} of the stack")
    pixels = overlay(image[..., scored][..., layer], masks[1][..., layer], masks[0][..., layer])
    return Tile(method, rank, caption, pixels)


def _caption(row: pd.Series, place: str) -> str:
    return f"{' '.join(filter(None, (row['subject'], row['phase'], place)))}\nDice {row['dice']:.3f}"


def _read(path: Path) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.asanyarray(nibabel.load(path).dataobj)
    if array.ndim == 4:  # channels come last; the first is drawn
        array = array[..., 0]
    return array[..., None] if array.ndim == 2 else array


def _class_of(mask: NDArray[np.generic], pixels: float, first: float | None = None) -> float | None:
    """The class that has so many pixels, for records name a structure and not its class; -1 where there are none.

    Args:
        mask: of classes, 0 for the background.
        pixels: of the structure.
        first: the class to try first.
    """
    if pixels == 0:
        return -1.0
    classes = [float(value) for value in np.unique(mask) if value != 0]
    for value in sorted(classes, key=lambda value: value != first):
        if (mask == value).sum() == pixels:
            return value
    return None


@styled
def draw_overlays(tiles: Sequence[Tile], colors: dict[str, str]) -> Figure:
    """Tiles of at most four methods: a column a method, a row a rank.

    Args:
        tiles: those with pixels are drawn.
        colors: of the methods' names.
    """
    methods = list(dict.fromkeys(tile.method for tile in tiles))
    ranks: list[str] = [rank for rank in ("worst", "median", "best") if rank in {tile.rank for tile in tiles}]
    width = WIDTH * max(len(methods), 2) / _COLUMNS
    figure = new_figure((WIDTH / _COLUMNS + 0.34) * len(ranks) + 0.25, width)
    grid = figure.subplots(len(ranks), len(methods), squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for tile in tiles:
        axes = grid[ranks.index(tile.rank)][methods.index(tile.method)]
        if tile.pixels is None:
            axes.text(0.5, 0.5, "not drawn", ha="center", va="center", transform=axes.transAxes)
        else:
            axes.imshow(tile.pixels, interpolation="nearest")
        axes.set_title(f"{tile.rank}: {tile.caption}", fontsize=7, loc="left", linespacing=1.25)
    for axes, method in zip(grid[0], methods, strict=True):
        axes.annotate(
            shorten(method, 20),
            (0, 1),
            xytext=(0, 24),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=10,
            fontweight="bold",
            color=colors.get(method, matplotlib.rcParams["text.color"]),
            va="bottom",
        )
    return figure


def groups_of_methods(methods: Sequence[str]) -> list[list[str]]:
    """Methods in groups that fit beside one another.

    Example:
        >>> groups_of_methods(["a", "b", "c", "d", "e"])
        [['a', 'b', 'c', 'd'], ['e']]
    """
    return [list(methods[start : start + _COLUMNS]) for start in range(0, len(methods), _COLUMNS)]
