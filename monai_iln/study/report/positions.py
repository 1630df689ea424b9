"""Dice by position in the heart, and the distances between the surfaces, of studies that have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_iln.errors import count
from monai_iln.study.report.document import Block, Picture, Row, Section, Table
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import method_colors, new_figure, styled
from monai_iln.study.report.wording import number, place, quartiles, shorten, slug

_POSITIONS = ("base", "mid", "apex")
_QUARTILES = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}


def section(results: Results) -> Section:
    """Boxes and a table of Dice by position, and a table of distances; empty where nothing is recorded of either."""
    found: list[Block] = []
    titles = []
    placed = results.shown[(results.shown["position"] != "") & results.shown["dice"].notna()]
    if len(placed):
        titles.append("By position in the heart")
        found += _position_blocks(results, placed)
    if results.shown[["hd95_mm", "asd_mm"]].notna().any(axis=None):
        titles.append("distances" if titles else "Surface distances")
        found.append(_distances_table(results))
    return Section(", and ".join(titles), found)


def _position_blocks(results: Results, placed: pd.DataFrame) -> list[Block]:
    present = set(placed["position"])
    positions = [name for name in _POSITIONS if name in present]
    positions += sorted(present - set(_POSITIONS))
    table = _positions_table(results, placed, positions)
    found: list[Block] = []
    for dataset, structure in results.parts:
        images = results.part(placed, dataset, structure)
        if images.empty:
            continue
        medians = results.part(table.frame, dataset, structure)
        medians = medians[medians["method"] == results.reference]
        said = ", ".join(f"{row['position']} {number(row['median_dice'])}" for row in medians.to_dict("records"))
        found.append(
            Picture(
                slug("positions", dataset, structure),
                f"{place(dataset, structure)}: Dice by position: median, quartiles, 5th to 95th percentile of the "
                "images.",
                f"Boxes of Dice by position and method. Medians of {results.reference}: {said or 'none'}.",
                draw_positions(images, positions, results.shown_methods, results.reference),
            )
        )
    return [*found, table]


def _positions_table(results: Results, placed: pd.DataFrame, positions: Sequence[str]) -> Table:
    rows: list[Row] = []
    records: list[dict[str, Any]] = []
    for dataset, structure in results.parts:
        images = results.part(placed, dataset, structure)
        if images.empty:
            continue
        rows.append(Row([place(dataset, structure)], heading=True))
        for method in results.shown_methods:
            own = images[images["method"] == method]
            cells = [method]
            for position in positions:
                dice = own.loc[own["position"] == position, "dice"]
                cells.append(quartiles(dice))
                key: dict[str, Any] = {
                    "dataset": dataset,
                    "structure": structure,
                    "method": method,
                    "position": position,
                }
                records.append(key | {"scores": len(dice), "mean_dice": dice.mean()} | _quartiles(dice, "dice"))
            rows.append(Row(cells))
    caption = "Dice by position in the heart: median (quartiles) over test images."
    return Table("positions", caption, ["Method", *positions], rows, pd.DataFrame(records))


def _distances_table(results: Results) -> Table:
    """Distances between the surfaces, with the number of images in which they are undefined."""
    rows, records = [], []
    for dataset, structure in results.parts:
        images = results.part(results.shown, dataset, structure)
        if images[["hd95_mm", "asd_mm"]].isna().all(axis=None):
            continue
        rows.append(Row([place(dataset, structure)], heading=True))
        for method in results.methods_of(images):
            scores = images[images["method"] == method]
            undefined = int(scores["hd95_mm"].isna().sum())
            cells = [method]
            record: dict[str, Any] = {"dataset": dataset, "structure": structure, "method": method}
            for metric in ("hd95_mm", "asd_mm"):
                cells.append(quartiles(scores[metric], 2))
                record |= _quartiles(scores[metric], metric)
            rows.append(Row([*cells, f"{undefined} of {len(scores)}"]))
            records.append({**record, "undefined": undefined, "scores": len(scores)})
    caption = (
        f"Surface distances in mm: median (quartiles) over the test {results.unit}s in which they are defined, which "
        "takes something to be there and something to be predicted."
    )
    header = ["Method", "HD95, mm", "ASD, mm", "Undefined"]
    return Table("distances", caption, header, rows, pd.DataFrame(records))


def _quartiles(values: pd.Series[float], metric: str) -> dict[str, Any]:
    return {f"{name}_{metric}": values.quantile(share) for name, share in _QUARTILES.items()}


@styled
def draw_positions(images: pd.DataFrame, positions: Sequence[str], methods: Sequence[str], reference: str) -> Figure:
    """Boxes of Dice by position in the heart, a panel each.

    Args:
        images: The scores for one data set and structure, with the columns ``subject``, ``phase``, ``slice``,
            ``position``, ``method`` and ``dice``. A box spans the quartiles, the lines go from the 5th to the 95th
            percentile.
        positions: The positions, left to right.
        methods: The methods, top to bottom.
        reference: The method to highlight.
    """
    figure = new_figure(0.8 + 0.23 * len(methods))
    colors = method_colors(methods, reference)
    panels = figure.subplots(1, len(positions), squeeze=False, sharey=True)[0]
    for axes, position in zip(panels, positions, strict=True):
        chosen = images[images["position"] == position]
        for height, method in enumerate(methods):
            values = chosen.loc[chosen["method"] == method, "dice"].dropna()
            if len(values):
                _draw_box(axes, values, height, colors[method])
        images_of_it = count(len(chosen.drop_duplicates(["subject", "phase", "slice"])), "image")
        axes.set_title(f"{position} ({images_of_it})")
        axes.set(xlabel="Dice", xlim=(-0.02, 1.02), xticks=(0, 0.5, 1))
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(methods)), [shorten(method, 24) for method in methods])
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    return figure


def _draw_box(axes: Axes, values: pd.Series[float], height: int, color: str) -> None:
    lowest, low, middle, high, highest = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95])
    axes.plot([lowest, low], [height, height], color=color, linewidth=1)
    axes.plot([high, highest], [height, height], color=color, linewidth=1)
    axes.barh(height, high - low, left=low, height=0.62, facecolor=color + "38", edgecolor=color, linewidth=0.9)
    axes.plot([middle, middle], [height - 0.31, height + 0.31], color=color, linewidth=2.2, solid_capstyle="butt")
