"""The look of a report's figures: their size, colours and marks."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_iln.study.report.wording import shorten

WIDTH = 6.0  # inches, of every figure but the smallest
LEAST_SIZE = 8  # points, of any text: what the page needs to keep it legible on a phone, see document.LEAST_SCALE
SIDE_BY_SIDE = 4  # methods beside one another
INK, GREY, FAINT = "#1f2933", "#6b7280", "#d1d5db"
REFERENCE_COLOR = "#c24e00"
# Of the palettes of Okabe and Ito and of Tol for all kinds of colour vision, those with a contrast of 3 to white. The
# colour of the reference is Okabe and Ito's vermilion, so dark that text can have it (4.8).
COLORS = ("#0072b2", "#009e73", "#aa4499", "#997700", "#6699cc", "#4d4d4d", "#882255", "#332288")
_DASHES = ("--", "-.", ":")
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
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
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
    """Make an empty figure with a canvas of its own, so that no window system is asked for one."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def method_colors(methods: Sequence[str], reference: str) -> dict[str, str]:
    """A colour for each method, the reference's always the same.

    Example:
        >>> method_colors(["IN", "ILN"], "ILN")
        {'IN': '#0072b2', 'ILN': '#c24e00'}
    """
    others = [method for method in methods if method != reference]
    colors = {method: COLORS[number % len(COLORS)] for number, method in enumerate(others)}
    return {method: colors.get(method, REFERENCE_COLOR) for method in methods}


def method_dashes(colors: Mapping[str, str]) -> dict[str, str]:
    """A second mark of each method, for eyes and printers that see no colour; the reference is drawn through."""
    others = [method for method, color in colors.items() if color != REFERENCE_COLOR]
    dashes = {method: _DASHES[number % len(_DASHES)] for number, method in enumerate(others)}
    return dict.fromkeys(colors, "-") | dashes


def legend_name(method: str, length: int) -> str:
    """A method's name that fits into a legend, from which matplotlib leaves out what begins with an underscore.

    Example:
        >>> legend_name("_own", 20), legend_name("GROUP-num_groups-8", 10)
        (' _own', 'GROUP-num…')
    """
    return re.sub("^_", " _", shorten(method, length))


def groups_of_methods(methods: Sequence[str]) -> list[list[str]]:
    """Methods in groups that fit beside one another.

    Example:
        >>> groups_of_methods(["a", "b", "c", "d", "e"])
        [['a', 'b', 'c', 'd'], ['e']]
    """
    return [list(methods[start : start + SIDE_BY_SIDE]) for start in range(0, len(methods), SIDE_BY_SIDE)]
