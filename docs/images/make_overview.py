"""Draw overview.png from what the README's first training leaves: its overlay, and the gates of its layers.

python docs/images/make_overview.py bundles/lv_short_axis_iln/eval
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import imread

from monai_iln.files import read_csv

DPI = 100
CURVES_PIXELS = 290  # the height of the gates, below the overlay
COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.92, 256)))  # its end is too pale for a line


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The iterations, and the share of instance norm there, of every layer whose gate is not dead."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in read_csv(path).rows:
        if row["component"] == "instance" and row["dead"] == "0":
            curves.setdefault(row["layer"], []).append((int(row["iteration"]), float(row["weight"])))
    return curves


def main() -> None:
    """Write the picture beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the output_dir of a training")
    folder = parser.parse_args().folder
    sheet = imread(folder / "overlay.png")
    curves = read_curves(folder / "gates.csv")

    rows, columns = sheet.shape[:2]
    size = (columns / DPI, (rows + CURVES_PIXELS) / DPI)  # one pixel of the overlay is one of the picture
    figure = Figure(figsize=size, dpi=DPI)
    FigureCanvasAgg(figure)
    top = figure.add_axes((0, CURVES_PIXELS / (rows + CURVES_PIXELS), 1, rows / (rows + CURVES_PIXELS)))
    top.imshow(sheet)
    top.axis("off")
    bottom = figure.add_axes((0.07, 0.105, 0.91, 0.49))
    for number, curve in enumerate(curves.values()):
        iterations, shares = zip(*curve, strict=True)
        bottom.plot(iterations, shares, color=COLOURS(number / (len(curves) - 1)), linewidth=1.2)
    bottom.set(xlabel="iteration", ylabel="share of instance norm")
    bottom.margins(x=0)
    bottom.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=bottom, pad=0.01, ticks=[0, 1])
    bar.ax.set_yticklabels(["first layer", "last layer"])
    figure.savefig(Path(__file__).with_name("overview.png"))


if __name__ == "__main__":
    main()
