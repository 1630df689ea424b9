"""Learning curves of the runs that stand for the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_iln.run_files import CURVES, LOSSES
from monai_iln.study.report.document import Block, Picture, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import WIDTH, legend_name, method_colors, method_dashes, new_figure, styled
from monai_iln.study.report.wording import join, slug
from monai_iln.study.statistics import METRICS, Metric


def blocks(results: Results, dataset: str) -> list[Block]:
    """The curves of one data set."""
    losses: dict[str, pd.DataFrame] = {}
    validation: dict[str, pd.DataFrame] = {}
    for method in results.shown_methods:
        run = results.typical_run(method, dataset)
        if run is None:
            continue
        loss, curve = LOSSES.read_if_any(run), CURVES.read_if_any(run)
        if loss is not None:
            losses[method] = loss
        if curve is not None and curve["val_mean_dice"].notna().any():
            validation[method] = curve.dropna(subset="val_mean_dice")
    if not losses:
        return [absent(f"{dataset}: no learning curves, for no chosen run left a losses.csv.")]
    methods = [method for method in results.shown_methods if method in losses or method in validation]
    found: list[Block] = []
    drawn = f"Training loss and validation {results.metric.name}"
    if not validation:
        found.append(absent(f"{dataset}: nothing was validated during training, so only the loss is drawn."))
        drawn = "Training loss"
    picture = Picture(
        slug("learning_curves", dataset),
        f"{dataset}: one run a method, the chosen one of the first fold.",
        f"{drawn} of {join(methods)}.",
        draw_learning_curves(losses, validation, methods, results.reference, results.metric),
    )
    return [*found, picture]


@styled
def draw_learning_curves(
    losses: Mapping[str, pd.DataFrame],
    validation: Mapping[str, pd.DataFrame],
    methods: Sequence[str],
    reference: str,
    metric: Metric = METRICS["dice"],
) -> Figure:
    """Training loss against the iteration, and the validation score against the epoch, one line a method.

    Args:
        losses: The losses by method, with the columns ``iteration`` and ``loss``; drawn as a running median.
        validation: The scores by method, with the columns ``epoch`` and ``val_mean_dice``. Empty where nothing was
            validated.
        methods: The methods, in the order of the legend.
        reference: The method to highlight.
        metric: The metric of the validation.
    """
    names = {method: legend_name(method, 24) for method in methods}
    columns = int(WIDTH / (0.6 + 0.07 * max(map(len, names.values()))))  # inches: of a line with its gaps, of a letter
    figure = new_figure(2.6 + 0.18 * -(-len(names) // columns))
    colors = method_colors(methods, reference)
    dashes = method_dashes(colors)
    panels = figure.subplots(1, 1 + bool(validation), squeeze=False)[0]
    lines: dict[str, Artist] = {}
    for method in methods:
        style = {"color": colors[method], "linestyle": dashes[method], "zorder": 2 + (method == reference)}
        if method in losses:
            curve = losses[method].sort_values("iteration")
            window = len(curve) // 40 | 1  # odd: the middle one of an even number is two
            smooth = curve["loss"].rolling(window, center=True, min_periods=1).median()
            (lines[method],) = panels[0].plot(curve["iteration"], smooth, **style)
        if method in validation:
            curve = validation[method].sort_values("epoch")
            points = {"marker": "o" if len(curve) <= 12 else None, "markersize": 3.5}
            (lines[method],) = panels[1].plot(curve["epoch"], curve["val_mean_dice"], **points, **style)
    panels[0].set(xlabel="iteration", ylabel="training loss, running median")
    panels[0].set_ylim(bottom=0)
    if validation:
        panels[1].set(xlabel="epoch", ylabel=f"{metric.mean} in validation")
        if metric.in_unit_interval:
            low, high = panels[1].get_ylim()
            panels[1].set_ylim(max(low, 0), min(high, 1))
        panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in panels:
        axes.grid()
    shown = [names[method] for method in lines]
    figure.legend(lines.values(), shown, loc="outside lower center", ncols=min(len(shown), columns))
    return figure
