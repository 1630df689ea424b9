"""Draw normalization.png: over what each normalization averages, and how ILN is put together from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

SAMPLES, CHANNELS, POSITIONS = 3, 6, 5
DEPTH = (0.42, 0.3)  # where one step along the samples goes on paper
BLUE, ORANGE = "#0072b2", "#e69f00"  # of Okabe and Ito's palette, for all kinds of colour vision

Members = Callable[[int, int], bool]


def batch(_: int, channel: int) -> bool:
    """One channel of all samples: the last, whose side is in sight."""
    return channel == CHANNELS - 1


def instance(sample: int, channel: int) -> bool:
    """One channel of one sample."""
    return sample == 0 and channel == 2


def layer(sample: int, _: int) -> bool:
    """All channels of one sample."""
    return sample == 0


def group(sample: int, channel: int) -> bool:
    """A group of channels of one sample."""
    return sample == 0 and 2 <= channel < 4


def draw_block(axes: Axes, left: float, bottom: float, members: Members, color: str, names: bool = False) -> None:
    """An activation tensor as a block of cells; the cells that share a mean and a variance are coloured."""

    def cell(sample: int, channel: int, corners: list[tuple[float, float, float]], shade: float) -> None:
        chosen = members(sample, channel)
        points = [(left + c + DEPTH[0] * n, bottom + s + DEPTH[1] * n) for n, c, s in corners]
        fill = color if chosen else "white"
        axes.add_patch(Polygon(points, facecolor=fill, alpha=shade if chosen else 1, edgecolor="0.45", linewidth=0.7))

    for c in range(CHANNELS):
        for s in range(POSITIONS):
            cell(0, c, [(0, c, s), (0, c + 1, s), (0, c + 1, s + 1), (0, c, s + 1)], 0.95)
        for n in range(SAMPLES):
            top = [(n, c, POSITIONS), (n, c + 1, POSITIONS), (n + 1, c + 1, POSITIONS), (n + 1, c, POSITIONS)]
            cell(n, c, top, 0.55)
    for n in range(SAMPLES):
        for s in range(POSITIONS):
            side = [(n, CHANNELS, s), (n + 1, CHANNELS, s), (n + 1, CHANNELS, s + 1), (n, CHANNELS, s + 1)]
            cell(n, CHANNELS - 1, side, 0.75)
    if names:
        axes.text(left + CHANNELS / 2, bottom - 0.25, "channels C", ha="center", va="top", fontsize=9)
        axes.text(left - 0.25, bottom + POSITIONS / 2, "space S", ha="right", va="center", rotation=90, fontsize=9)
        corner = (left + CHANNELS + 0.5 * SAMPLES * DEPTH[0] + 0.2, bottom + 0.5 * SAMPLES * DEPTH[1] - 0.15)
        axes.text(*corner, "samples N", ha="left", va="top", rotation=36, rotation_mode="anchor", fontsize=9)


def main() -> None:
    """Write the picture beside this file."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    top, step = 8.6, 9.2
    rows: list[tuple[str, str, Members]] = [
        ("Batch norm", "N and S, for each channel", batch),
        ("Instance norm", "S, for each sample and channel", instance),
        ("Layer norm", "C and S, for each sample", layer),
        ("Group norm", "S and the channels of a group", group),
    ]
    for number, (name, over, members) in enumerate(rows):
        draw_block(axes, number * step, top, members, BLUE, names=number == 0)
        middle = number * step + CHANNELS / 2 + 0.6
        axes.text(middle, top + 7.45, name, ha="center", fontsize=13, weight="bold")
        axes.text(middle, top + 6.65, over, ha="center", fontsize=9)
    blend: list[tuple[float, str, str, Members]] = [
        (4.6, "s  \N{MULTIPLICATION SIGN}", "instance norm", instance),
        (16.9, "+  (1 \N{MINUS SIGN} s)  \N{MULTIPLICATION SIGN}", "layer norm", layer),
        (27.6, "then", "group norm, weight and bias", group),
    ]
    for left, symbol, name, members in blend:
        draw_block(axes, left, 0, members, ORANGE)
        axes.text(left - 0.4, POSITIONS / 2, symbol, ha="right", va="center", fontsize=13)
        axes.text(left + CHANNELS / 2, -0.35, name, ha="center", va="top", fontsize=9)
    axes.text(-0.2, POSITIONS / 2, "ILN  =", ha="left", va="center", fontsize=13, weight="bold")
    axes.set_xlim(-1.2, 3 * step + CHANNELS + SAMPLES * DEPTH[0] + 0.4)
    axes.set_ylim(-1.2, top + 8.4)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(Path(__file__).with_name("normalization.png"), dpi=130)


if __name__ == "__main__":
    main()
