"""The gates: the functions that make weights of trained parameters, and what the training made of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from monai_iln.run_files import GATES
from monai_iln.study.report.document import Block, Picture, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import COLORS, GREY, LEAST_SIZE, REFERENCE_COLOR, new_figure, styled
from monai_iln.study.report.wording import slug

_LINE = 0.14  # inches, of a label of the smallest size
_LONGEST = 26  # letters of a label
_LEADER = {"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}


def blocks(results: Results) -> list[Block]:
    """The paper's Figures 1 and 3, of studies with gates."""
    curves = _curves(results)
    if curves:
        return [_functions(results.figure(1)), *curves]
    if any(survey.get("gates") for survey in results.surveys.values()) and results.shown_methods:
        return [absent("The weights of the gates are not drawn: no finished run left a gates.csv.")]
    return []


def _functions(figure: str) -> Picture:
    return Picture(
        "gate_functions",
        f"{figure}Clip has no gradient outside [0, 1], sigmoid has one everywhere. Points: where training starts, "
        "\N{GREEK SMALL LETTER RHO} = 0.5.",
        "Curves of clip, which rises from 0 at 0 to 1 at 1 and is flat beyond, and of sigmoid, which is smooth.",
        draw_gate_functions(),
    )


def _curves(results: Results) -> list[Block]:
    """The weights for every method that has gates, each on the first data set that has a run of it."""
    found: list[Block] = []
    for method in results.shown_methods:
        for dataset in results.datasets:
            run = results.typical_run(method, dataset)
            if run is None or (gates := GATES.read_if_any(run)) is None:
                continue
            found.append(_picture(method, run.relative_to(results.folder), gates, results.figure(3)))
            break
    return found


def _picture(method: str, run: Path, gates: pd.DataFrame, figure: str) -> Picture:
    component = _first_component(gates)
    last = gates[gates["component"] == component].groupby("layer", sort=False, observed=True).tail(1)
    ends = last["weight"].to_numpy(float)
    dead = int((last["dead"] > 0).sum())
    told = "no gate is dead"
    if dead:
        told = f"a dashed grey line is a dead gate, which the group norm after it undoes ({dead} of {len(last)})"
    return Picture(
        slug("gates", method),
        f"{figure}{method}: weight of the {component} component in every layer, in {run.as_posix()}. Colours go "
        f"from the first layer (dark) to the last (light); {told}.",
        f"Lines of {len(last)} layers, which end between {ends.min():.2f} and {ends.max():.2f}.",
        draw_gate_curves(gates),
    )


@styled
def draw_gate_functions() -> Figure:
    """The paper's Figure 1: the functions that make a weight between 0 and 1 of a trained parameter."""
    figure = new_figure(2.3, 4.2)
    axes = figure.subplots()
    rho = np.linspace(-6, 6, 601)
    axes.plot(rho, np.clip(rho, 0, 1), color=COLORS[0], linestyle="--", label="Clip")
    axes.plot(rho, 1 / (1 + np.exp(-rho)), color=REFERENCE_COLOR, label="Sigmoid")
    axes.plot(0.5, 1 / (1 + np.exp(-0.5)), "o", color=REFERENCE_COLOR, markersize=4)
    axes.plot(0.5, 0.5, "o", color=COLORS[0], markersize=4)
    axes.set(xlabel="\N{GREEK SMALL LETTER RHO}", ylabel="weight of instance norm", xlim=(-6, 6), ylim=(-0.03, 1.03))
    axes.grid()
    axes.legend(loc="lower right")
    return figure


@styled
def draw_gate_curves(gates: pd.DataFrame) -> Figure:
    """The paper's Figure 3: the weight of the first component, layer by layer, against the iteration.

    Args:
        gates: The weights, with the columns of ``gates.csv`` and the layers in the order of the network. A line is the
            weight, a band its quartiles over channels where they differ.
    """
    component = _first_component(gates)
    rows = gates[gates["component"] == component]
    curves = {
        str(layer): curve.sort_values("iteration") for layer, curve in rows.groupby("layer", sort=False, observed=True)
    }
    height = max(2.8, 0.7 + _LINE * len(curves))
    figure = new_figure(height)
    axes = figure.subplots()
    low, high = min(0.0, rows["low"].min()), max(1.0, rows["high"].max())
    axes.set(xlabel="iteration", ylabel=f"weight of the {component} component", ylim=(low, high))
    first, last = rows["iteration"].min(), rows["iteration"].max()
    axes.set_xlim(first, max(last, first + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid()
    # Labels at the ends of the lines, pushed apart so far that each can be read.
    ends = np.array([curve["weight"].iloc[-1] for curve in curves.values()], float)
    places = _spread(ends, low, high, _LINE / (height - 0.6) * (high - low))
    heights = (places - low) / (high - low)
    # Colours beyond 0.6 are too pale on white.
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.6, max(len(curves), 2)))
    for (layer, curve), color, place in zip(curves.items(), colors, heights, strict=False):
        _draw_gate(axes, layer, curve, color, place)
    return figure


def _draw_gate(axes: Axes, layer: str, curve: pd.DataFrame, color: Sequence[float] | str, place: float) -> None:
    """A line with its band, and its name at its end.

    Args:
        axes: The axes to draw in.
        layer: The name.
        curve: The rows of the layer by iteration.
        color: The colour, unless the gate is dead.
        place: The height of the name as a share of that of the axes.
    """
    line = "-"
    if len(layer) > _LONGEST:  # names of layers differ at their ends
        layer = "\N{HORIZONTAL ELLIPSIS}" + layer[1 - _LONGEST :]
    if curve["dead"].iloc[-1]:
        layer, color, line = f"{layer} (dead)", GREY, "--"
    axes.plot(curve["iteration"], curve["weight"], linewidth=1.1, color=color, linestyle=line)
    if (curve["high"] - curve["low"]).max() > 1e-6:
        axes.fill_between(curve["iteration"], curve["low"], curve["high"], color=color, alpha=0.12, linewidth=0)
    axes.annotate(
        layer,
        (axes.get_xlim()[1], curve["weight"].iloc[-1]),
        xytext=(1.05, place),
        textcoords="axes fraction",
        va="center",
        fontsize=LEAST_SIZE,
        annotation_clip=False,
        arrowprops=_LEADER | {"color": color},
    )


def _first_component(gates: pd.DataFrame) -> str:
    """The component whose weight is drawn: ``instance`` where there is one, else the first."""
    components = list(gates["component"])
    if "instance" in components:
        return "instance"
    return str(components[0])


def _spread(values: NDArray[np.float64], low: float, high: float, gap: float) -> NDArray[np.float64]:
    """Places between two ends in the order of values, as near to them as a gap between neighbours allows.

    Least squares under order constraints, which is isotonic regression once the gaps are taken off.
    """
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    places = np.empty(len(values))
    fitted = isotonic_regression(values[order] - steps, y_min=low, y_max=high - steps[-1]) + steps
    places[order] = fitted
    return places
