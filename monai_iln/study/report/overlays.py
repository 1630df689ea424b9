"""The paper's Figure 2: test images with truth red, prediction green and their overlap yellow."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from monai_iln.study.report.document import Block, Picture, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import SIDE_BY_SIDE, WIDTH, groups_of_methods, method_colors, new_figure, styled
from monai_iln.study.report.wording import join, place, shorten, slug
from monai_iln.study.statistics import METRICS, Metric

_RANKS = ("worst", "median", "best")


@dataclass(frozen=True)
class Tile:
    """One picture: what it shows, where it comes from, and the pixels or why there are none."""

    method: str
    rank: str
    caption: str
    pixels: NDArray[np.float32] | None
    problem: str = ""


def blocks(results: Results) -> list[Block]:
    """The pictures of each data set and structure, and what is missing of them.

    There are none where no mask of the truth is recorded.
    """
    shown = results.shown[has_masks(results.shown)]
    found: list[Block] = []
    colors = method_colors(results.methods, results.reference)
    for dataset, structure in results.parts:
        images = results.part(shown, dataset, structure)
        tiles = []
        for method in results.shown_methods:
            picked = pick_images(images[images["method"] == method], results.metric)
            tiles += [make_tile(results.folder, rank, row, results.metric) for rank, row in picked.items()]
        where = place(dataset, structure)
        if missing := [tile for tile in tiles if tile.pixels is None]:
            of = " of Figure 2" if results.is_of_ventricles else ""
            said = f"{where}: {len(missing)} of the {len(tiles)} pictures{of} are missing; {missing[0].problem}."
            found.append(absent(said))
        drawn = {tile.method for tile in tiles if tile.pixels is not None}
        methods = [method for method in results.shown_methods if method in drawn]
        for number, group in enumerate(groups_of_methods(methods), 1):
            drawn_now = [tile for tile in tiles if tile.method in group]
            said = "; ".join(f"{tile.method} {tile.rank}: {tile.caption}".replace("\n", ", ") for tile in drawn_now)
            found.append(
                Picture(
                    slug("overlays", dataset, structure, str(number)),
                    f"{results.figure(2)}{where}: worst, median and best test {results.unit} of {join(group)} by "
                    f"{results.metric.name}, among those in which the truth is not empty. Truth red, prediction green, "
                    "overlap yellow.",
                    f"Segmented images. {said}.",
                    draw_overlays(drawn_now, colors),
                )
            )
    return found


def has_masks(images: pd.DataFrame) -> pd.Series[bool]:
    """Which images have masks of truth and prediction to draw. A truth that is the image itself is none."""
    recorded = (images[["image", "truth", "prediction"]] != "").all(axis=1)
    return recorded & (images["truth"] != images["image"]) & images["truth_pixels"].notna()


def pick_images(images: pd.DataFrame, metric: Metric = METRICS["dice"]) -> dict[str, pd.Series]:
    """The worst, the median and the best image by a metric, among those in which the truth is not empty.

    Of equal ones the one with the largest truth comes first.

    Args:
        images: The test images of one method, with the columns of ``images.csv``.
        metric: The metric.

    Returns:
        The rows by ``"worst"``, ``"median"`` and ``"best"``; fewer if there are fewer images.
    """
    usable = images[images[metric.column].notna()]
    if usable.empty:
        return {}
    if (usable["truth_pixels"] > 0).any():
        usable = usable[usable["truth_pixels"] > 0]
    goodness = usable[metric.column] if metric.higher_is_better else -usable[metric.column]
    order = usable.assign(goodness=goodness, smaller=-usable["truth_pixels"]).sort_values(
        ["goodness", "smaller", "subject", "phase", "slice"], kind="stable"
    )
    last = len(order) - 1
    places = {"worst": 0, "median": last // 2, "best": last}
    if last < 2:
        del places["median"]
    if last < 1:
        del places["worst"]
    return {rank: order.iloc[place] for rank, place in places.items()}


def make_tile(folder: Path, rank: str, row: pd.Series, metric: Metric = METRICS["dice"]) -> Tile:
    """Read image, truth and prediction of one row of ``images`` and lay them over one another.

    Args:
        folder: The folder of the study.
        rank: The place that the picture stands for, such as ``"worst"``.
        row: The row.
        metric: The metric to name.

    Returns:
        The tile; without pixels, and with the problem, where the files do not hold what was recorded.
    """
    shown = ""
    if not pd.isna(row["slice"]):
        shown = f"slice {row['slice']:g}"
    tile = Tile(str(row["method"]), rank, _caption(row, shown, metric), None)
    if any(pd.isna(row[key]) or not row[key] for key in ("image", "truth", "prediction")):
        return replace(tile, problem="no files are recorded")
    paths = (row["image"], row["truth"], Path(row["run"]) / row["prediction"])  # absolute ones stay so in the folder
    try:
        image, truth, prediction = (_read(folder / path) for path in paths)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        return replace(tile, problem=f"a file cannot be read: {error}")
    if not image.shape == truth.shape == prediction.shape:
        shapes = f"{image.shape}, {truth.shape} and {prediction.shape}"
        return replace(tile, problem=f"image, truth and prediction have different shapes: {shapes}")
    is_stack = pd.isna(row["index"])
    if not is_stack:
        scored = slice(int(row["index"]), int(row["index"]) + 1)
        image, truth, prediction = image[..., scored], truth[..., scored], prediction[..., scored]
    true_class = _class_of(truth, row["truth_pixels"])
    predicted_class = _class_of(prediction, row["predicted_pixels"], first=true_class)
    if true_class is None or predicted_class is None or image.size == 0:
        return replace(tile, problem="the masks do not hold the numbers of pixels that were recorded")
    true, predicted = truth == true_class, prediction == predicted_class
    layer = int(np.argmax((true | predicted).sum(axis=(0, 1))))  # of a stack the fullest slice
    if is_stack:
        tile = replace(tile, caption=_caption(row, f"slice {layer + 1} of the stack", metric))
    return replace(tile, pixels=overlay(image[..., layer], predicted[..., layer], true[..., layer]))


def _caption(row: pd.Series, shown: str, metric: Metric) -> str:
    what = " ".join(filter(None, (row["subject"], row["phase"], shown)))
    return f"{what}\n{metric.name} {row[metric.column]:.{metric.decimals}f}"


def _read(path: Path) -> NDArray[np.generic]:
    """A stack of slices: of several channels the first, and of a single image one slice."""
    array: NDArray[np.generic] = np.asanyarray(nibabel.load(path).dataobj)
    if array.ndim == 4:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    return array


def _class_of(mask: NDArray[np.generic], pixels: float, first: float | None = None) -> float | None:
    """The class that has so many pixels, for records name a structure and not its class; -1 where there are none.

    Args:
        mask: The classes, 0 for the background.
        pixels: The number of pixels of the structure.
        first: The class to try first.
    """
    if pixels == 0:
        return -1.0
    classes = [float(value) for value in np.unique(mask) if value != 0]
    for value in sorted(classes, key=lambda value: value != first):
        if (mask == value).sum() == pixels:
            return value
    return None


@styled
def draw_overlays(tiles: Sequence[Tile], colors: Mapping[str, str]) -> Figure:
    """Tiles of at most four methods: a column a method, a row a rank.

    Args:
        tiles: The tiles; those with pixels are drawn.
        colors: The colours by method.
    """
    methods = list(dict.fromkeys(tile.method for tile in tiles))
    present = {tile.rank for tile in tiles}
    ranks = [rank for rank in _RANKS if rank in present]
    width = WIDTH * max(len(methods), 2) / SIDE_BY_SIDE
    figure = new_figure((WIDTH / SIDE_BY_SIDE + 0.34) * len(ranks) + 0.25, width)
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
