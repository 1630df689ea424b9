"""The figures of a study's report. Numbers in, a matplotlib figure out; nothing is read or written here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from monai_iln.study.report.wording import shorten

_LINE = 0.115  # inches, of a label of the smallest size
WIDTH = 8.0  # inches, of every figure: the width of the page's text
INK, GREY, FAINT = "#1f2933", "#6b7280", "#d1d5db"
REFERENCE_COLOR = "#d55e00"
# Okabe and Ito's palette for all kinds of colour vision (its yellow is too pale on white), then two of Tol's.
_COLORS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d", "#882255", "#332288")
_LEADER = {"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
_DASHES = ("-", "--", "-.", ":")
_STYLE = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}

_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Give a drawing function the look of this report, and leave everyone else's matplotlib as it is."""

    @functools.wraps(draw)
    def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return wrapper


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure with a canvas of its own, so that no window system is asked for one."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def method_colors(methods: Sequence[str], reference: str) -> dict[str, str]:
    """A colour for each method, the reference's always the same.

    Example:
        >>> method_colors(["IN", "ILN"], "ILN")
        {'IN': '#0072b2', 'ILN': '#d55e00'}
    """
    others = [method for method in methods if method != reference]
    colors = {method: _COLORS[number % len(_COLORS)] for number, method in enumerate(others)}
    return {method: colors.get(method, REFERENCE_COLOR) for method in methods}


def _dashes(colors: Mapping[str, str]) -> dict[str, str]:
    """A second mark of each method, for eyes and printers that see no colour; the reference is drawn through."""
    others = [method for method, color in colors.items() if color != REFERENCE_COLOR]
    return dict.fromkeys(colors, "-") | {m: _DASHES[1 + n % 3] for n, m in enumerate(others)}


@styled
def draw_gate_functions() -> Figure:
    """The paper's Figure 1: the functions that make a weight between 0 and 1 of a trained parameter."""
    figure = new_figure(2.3, 4.2)
    axes = figure.subplots()
    rho = np.linspace(-6, 6, 601)
    axes.plot(rho, np.clip(rho, 0, 1), color=_COLORS[0], linestyle="--", label="Clip")
    axes.plot(rho, 1 / (1 + np.exp(-rho)), color=REFERENCE_COLOR, label="Sigmoid")
    axes.plot(0.5, 1 / (1 + np.exp(-0.5)), "o", color=REFERENCE_COLOR, markersize=4)
    axes.plot(0.5, 0.5, "o", color=_COLORS[0], markersize=4)
    axes.set(xlabel="\N{GREEK SMALL LETTER RHO}", ylabel="weight of instance norm", xlim=(-6, 6), ylim=(-0.03, 1.03))
    axes.grid()
    axes.legend(loc="lower right")
    return figure


@styled
def draw_gate_curves(gates: pd.DataFrame) -> Figure:
    """The paper's Figure 3: the weight of the first component, layer by layer, against the iteration.

    Args:
        gates: columns ``iteration``, ``layer``, ``component``, ``low``, ``weight``, ``high`` and ``dead``; layers in
            the order of the network. A line is the weight, a band its quartiles over channels where they differ.
    """
    component = first_component(gates)
    rows = gates[gates["component"] == component]
    layers = list(dict.fromkeys(rows["layer"]))
    height = max(2.8, 0.7 + _LINE * len(layers))
    figure = new_figure(height)
    axes = figure.subplots()
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, max(len(layers), 2)))  # beyond is too pale on white
    ends, styles = [], []
    for layer, color in zip(layers, colors, strict=False):
        curve = rows[rows["layer"] == layer].sort_values("iteration")
        dead = bool(curve["dead"].iloc[-1])
        style = {"color": GREY, "linestyle": "--"} if dead else {"color": color}
        axes.plot(curve["iteration"], curve["weight"], linewidth=1.1, **style)
        if (curve["high"] - curve["low"]).max() > 1e-6:
            axes.fill_between(
                curve["iteration"], curve["low"], curve["high"], color=style["color"], alpha=0.12, linewidth=0
            )
        ends.append(float(curve["weight"].iloc[-1]))
        styles.append((layer + (" (dead)" if dead else ""), style["color"]))
    low, high = min(0.0, rows["low"].min()), max(1.0, rows["high"].max())
    axes.set(xlabel="iteration", ylabel=f"weight of the {component} component", ylim=(low, high))
    first, last = rows["iteration"].min(), rows["iteration"].max()
    last = last if last > first else first + 1
    axes.set_xlim(first, last)
    axes.grid()
    # Labels at the ends of the lines, pushed apart so far that each can be read.
    places = _spread(np.array(ends), low, high, _LINE / (height - 0.6) * (high - low))
    for (name, color), end, place in zip(styles, ends, places, strict=True):
        axes.annotate(
            name,
            (last, end),
            xytext=(1.05, (place - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize=6.5,
            color=color,
            annotation_clip=False,
            arrowprops=_LEADER | {"color": color},
        )
    return figure


def first_component(gates: pd.DataFrame) -> str:
    """The component whose weight is drawn: ``instance`` where there is one, else the first."""
    components = list(dict.fromkeys(gates["component"]))
    return "instance" if "instance" in components else str(components[0])


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


@styled
def draw_learning_curves(
    losses: Mapping[str, pd.DataFrame], validation: Mapping[str, pd.DataFrame], methods: Sequence[str], reference: str
) -> Figure:
    """Training loss against the iteration, and validation Dice against the epoch, one line a method.

    Args:
        losses: by method, columns ``iteration`` and ``loss``; drawn as a running median.
        validation: by method, columns ``epoch`` and ``val_mean_dice``. Empty where nothing was validated.
        methods: in the order of the legend.
        reference: the method to highlight.
    """
    figure = new_figure(3.2)
    colors, dashes = method_colors(methods, reference), {}
    dashes = _dashes(colors)
    panels = figure.subplots(1, 2 if validation else 1, squeeze=False)[0]
    for method in methods:
        style = {"color": colors[method], "linestyle": dashes[method], "zorder": 3 if method == reference else 2}
        if method in losses:
            curve = losses[method].sort_values("iteration")
            window = len(curve) // 40 | 1  # odd: the middle one of an even number is two
            smooth = curve["loss"].rolling(window, center=True, min_periods=1).median()
            panels[0].plot(curve["iteration"], smooth, label=method, **style)
        if method in validation:
            curve = validation[method].sort_values("epoch")
            marker = "o" if len(curve) <= 12 else None
            panels[1].plot(curve["epoch"], curve["val_mean_dice"], label=method, marker=marker, markersize=3.5, **style)
    panels[0].set(xlabel="iteration", ylabel="training loss, running median")
    panels[0].set_ylim(bottom=0)
    if validation:
        panels[1].set(xlabel="epoch", ylabel="mean Dice on validation images")
        low, high = panels[1].get_ylim()
        panels[1].set_ylim(max(low, 0), min(high, 1))
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lines = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=min(len(lines), 8))
    for axes in panels:
        axes.grid()
    return figure


@styled
def draw_rates(scores: pd.DataFrame, methods: Sequence[str], reference: str) -> Figure:
    """Dice against the learning rate: a panel a method, the others behind it in grey.

    Args:
        scores: columns ``method``, ``learning_rate``, ``dice`` (mean over the finished runs, NaN if there is none),
            ``diverged`` (number of runs that did) and ``runs``.
        methods: one panel each.
        reference: the method to highlight.
    """
    columns = min(4, len(methods))
    rows = -(-len(methods) // columns)
    figure = new_figure(0.5 + 1.55 * rows, WIDTH if columns > 2 else 1.2 + 2.4 * columns)
    colors = method_colors(methods, reference)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    rates = sorted(scores["learning_rate"].unique())
    low, high = float(scores["dice"].min()), float(scores["dice"].max())
    low, high = (0.0, 1.0) if np.isnan(low) else (low, high)
    margin = max(0.2 * (high - low), 0.02)  # below there is room for crosses
    low, high = max(0.0, low - 1.5 * margin), min(1.0, high + margin)
    for axes in grid.flat[len(methods) :]:
        axes.set_axis_off()
    for axes, method in zip(grid.flat, methods, strict=False):
        for other in methods:
            line = scores[scores["method"] == other].sort_values("learning_rate")
            own = other == method
            axes.plot(
                line["learning_rate"],
                line["dice"],
                color=colors[method] if own else FAINT,
                linewidth=1.8 if own else 0.8,
                marker="o" if own else None,
                markersize=3.5,
                zorder=3 if own else 1,
            )
            if own:
                _mark_diverged(axes, line[line["diverged"] > 0], low + 0.06 * (high - low))
        axes.set_title(shorten(method, 24), color=colors[method], fontweight="bold")
        axes.set_xscale("log")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize=7)
        axes.minorticks_off()
        axes.margins(x=0.12)
        axes.set_ylim(low, high)
        axes.grid()
    figure.supxlabel("learning rate", fontsize=8.5)
    figure.supylabel("mean Dice on test images", fontsize=8.5)
    return figure


def _mark_diverged(axes: Axes, diverged: pd.DataFrame, place: float) -> None:
    for rate, count, runs in zip(diverged["learning_rate"], diverged["diverged"], diverged["runs"], strict=True):
        axes.plot(rate, place, "x", color=INK, markersize=5.5, markeredgewidth=1.5, zorder=4)
        label = f"{int(count)}/{int(runs)}"
        axes.annotate(label, (rate, place), xytext=(0, 5), textcoords="offset points", fontsize=6.5, ha="center")
