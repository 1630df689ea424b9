"""The paper's Figure 2: test images with truth red, prediction green and their overlap yellow."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from monai_iln.overlays import overlay
from monai_iln.study.report.document import Block, Picture, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import (
    INK,
    LEAST_SIZE,
    REFERENCE_COLOR,
    SIDE_BY_SIDE,
    WIDTH,
    groups_of_methods,
    new_figure,
    styled,
)
from monai_iln.study.report.wording import join, place, shorten, slug
from monai_iln.study.statistics import METRICS, Metric

_PICTURE = ".png"
_RANKS = ("worst", "median", "best")
_CASE = ["subject", "phase", "slice", "image"]


@dataclass(frozen=True)
class Tile:
    """One picture: what it shows, where it comes from, and the pixels or why there are none.

    Attributes:
        method: The method whose prediction it shows.
        rank: The place that the case has among all cases, such as ``"worst"``.
        case: The name of the case.
        score: The metric and its value.
        pixels: The picture, if there is one.
        problem: The reason if there is none.
    """

    method: str
    rank: str
    case: str
    score: str
    pixels: NDArray[np.float32] | None
    problem: str = ""


def blocks(results: Results) -> list[Block]:
    """The pictures of each data set and structure, and what is missing of them.

    There are none where no mask of the truth is recorded.
    """
    shown = results.shown[has_masks(results.shown)]
    found: list[Block] = []
    mean = results.metric.mean
    for dataset, structure in results.parts:
        images = results.part(shown, dataset, structure)
        picked = pick_cases(images, results.metric)
        tiles = [
            make_tile(results.folder, rank, row, results.metric)
            for rank, case in picked.items()
            for _, row in case.iterrows()
        ]
        drawn_rows = pd.concat(picked.values()) if picked else images
        where = place(dataset, structure)
        if missing := [tile for tile in tiles if tile.pixels is None]:
            of = " of Figure 2" if results.is_of_ventricles else ""
            said = f"{where}: {len(missing)} of the {len(tiles)} pictures{of} are missing; {missing[0].problem}."
            found.append(absent(said))
        drawn = {tile.method for tile in tiles if tile.pixels is not None}
        methods = [method for method in results.shown_methods if method in drawn]
        for number, group in enumerate(groups_of_methods(methods), 1):
            drawn_now = [tile for tile in tiles if tile.method in group]
            said = "; ".join(f"{tile.rank}, {tile.case}, {tile.method}: {tile.score}" for tile in drawn_now)
            found.append(
                Picture(
                    slug("overlays", dataset, structure, str(number)),
                    f"{results.figure(2)}{where}: the worst, median and best test {results.unit} by {mean} "
                    f"over all methods and seeds, where the truth is not empty, with the predictions of {join(group)} "
                    f"(lowest seed). Truth red, prediction green, overlap yellow.{_slice_words(drawn_rows)}",
                    f"Segmented images. {said}.",
                    draw_overlays(drawn_now, results.reference),
                )
            )
    return found


def _slice_words(rows: pd.DataFrame) -> str:
    """What a picture shows of a volume, whose score is of the whole."""
    if rows["slice"].notna().all():
        return ""
    return " Of a volume it is the slice with most of the truth; the score is of all of it."


def has_masks(images: pd.DataFrame) -> pd.Series[bool]:
    """Which images have masks of truth and prediction to draw, or a picture of both.

    A truth that is the image itself is none.
    """
    recorded = (images[["image", "truth", "prediction"]] != "").all(axis=1) & (images["truth"] != images["image"])
    drawn = images["prediction"].astype(str).str.endswith(_PICTURE)
    return (recorded | drawn) & images["truth_pixels"].notna()


def pick_cases(images: pd.DataFrame, metric: Metric = METRICS["dice"]) -> dict[str, pd.DataFrame]:
    """The worst, the median and the best case, the same for all methods.

    A case counts by the mean of its scores over methods and seeds, if its truth is not empty and no method lacks it. Of
    equal ones that with the largest truth comes first.

    Args:
        images: The test images of one data set and structure, with the columns of ``images.csv``.
        metric: The metric.

    Returns:
        By ``"worst"``, ``"median"`` and ``"best"``, the row of each method with the lowest seed; fewer if there are
        fewer cases.
    """
    usable = images[images[metric.column].notna()]
    if (usable["truth_pixels"] > 0).any():
        usable = usable[usable["truth_pixels"] > 0]
    if usable.empty:
        return {}
    cases = usable.groupby(_CASE, dropna=False, as_index=False).agg(
        score=(metric.column, "mean"), truth=("truth_pixels", "max"), methods=("method", "nunique")
    )
    cases = cases[cases["methods"] == cases["methods"].max()]
    goodness = cases["score"] if metric.higher_is_better else -cases["score"]
    # Rounded, for the mean of equal scores depends on their order by its last digit.
    order = cases.assign(goodness=goodness.round(9), smaller=-cases["truth"]).sort_values(
        ["goodness", "smaller", *_CASE], kind="stable"
    )
    last = len(order) - 1
    places = {"worst": 0, "median": last // 2, "best": last}
    if last < 2:
        del places["median"]
    if last < 1:
        del places["worst"]
    rows = usable.sort_values("seed", kind="stable").drop_duplicates([*_CASE, "method"])
    return {rank: order.iloc[[place]][_CASE].merge(rows, on=_CASE) for rank, place in places.items()}


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
    score = f"{metric.name} {row[metric.column]:.{metric.decimals}f}"
    tile = Tile(str(row["method"]), rank, _case(row, shown), score, None)
    if str(row["prediction"]).endswith(_PICTURE):  # which the run has drawn of a case
        return _with_pixels(tile, folder / row["run"] / row["prediction"])
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
    # Of a stack the slice with most of the truth, which is the same for all methods.
    layer = int(np.argmax((true if true.any() else predicted).sum(axis=(0, 1))))
    if is_stack:
        tile = replace(tile, case=_case(row, f"slice {layer + 1} of the stack"))
    return replace(tile, pixels=overlay(image[..., layer], predicted[..., layer], true[..., layer]))


def _with_pixels(tile: Tile, path: Path) -> Tile:
    try:
        return replace(tile, pixels=imread(path)[..., :3])
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for a damaged PNG are many
        return replace(tile, problem=f"a file cannot be read: {error}")


def _case(row: pd.Series, shown: str) -> str:
    return " ".join(filter(None, (row["subject"], row["phase"], shown)))


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
def draw_overlays(tiles: Sequence[Tile], reference: str) -> Figure:
    """Tiles of at most four methods: a column a method, a row a case.

    Args:
        tiles: The tiles; those with pixels are drawn.
        reference: The method to highlight.
    """
    methods = list(dict.fromkeys(tile.method for tile in tiles))
    present = {tile.rank for tile in tiles}
    ranks = [rank for rank in _RANKS if rank in present]
    columns = max(len(methods), 2)  # with one there is no room for the names of the cases
    tile_width = WIDTH / SIDE_BY_SIDE
    figure = new_figure((tile_width + 0.45) * len(ranks) + 0.25, tile_width * columns)
    grid = figure.subplots(len(ranks), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for tile in tiles:
        axes = grid[ranks.index(tile.rank)][methods.index(tile.method)]
        if tile.pixels is None:
            axes.text(0.5, 0.5, "not drawn", ha="center", va="center", transform=axes.transAxes)
        else:
            axes.imshow(tile.pixels, interpolation="nearest")
        axes.set_title(f"\n{tile.score}", fontsize=LEAST_SIZE)
    cases = {tile.rank: tile.case for tile in tiles}
    for row, rank in zip(grid, ranks, strict=True):
        # It is wider than its tile, which must not become wider for it.
        _write_above(row[0], f"{rank}: {cases[rank]}", 14, fontsize=LEAST_SIZE, in_layout=False)
    for axes, method in zip(grid[0], methods, strict=False):
        color = REFERENCE_COLOR if method == reference else INK
        _write_above(axes, shorten(method, 17), 28, fontsize=9, fontweight="bold", color=color)
    return figure


def _write_above(axes: Axes, text: str, height: float, **properties: Any) -> None:
    """Write above the title of a tile, so many points above the picture."""
    axes.annotate(
        text,
        (0, 1),
        xytext=(0, height),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        **properties,
    )
