"""The methods ranked over subjects."""

from __future__ import annotations

import warnings

import numpy as np
from matplotlib.figure import Figure
from scikit_posthocs import critical_difference_diagram

from monai_iln.study.report.document import Block, Picture, Text, absent
from monai_iln.study.report.results import Results
from monai_iln.study.report.style import GREY, INK, REFERENCE_COLOR, new_figure, styled
from monai_iln.study.report.wording import p_value, place, slug
from monai_iln.study.statistics import ALPHA, MIN_SUBJECTS, Ranking, rank


def blocks(results: Results) -> list[Block]:
    """A sentence and a critical-difference diagram for each data set and structure."""
    found: list[Block] = [
        Text(
            "Ranks within subjects, by Friedman's and Nemenyi's tests. They know nothing of folds and trainings: what "
            "they tell apart is the models that were trained, and another training may rank the methods otherwise."
        )
    ]
    for dataset, structure in results.parts:
        scores = results.scores(dataset, structure)
        where = place(dataset, structure)
        if (dataset, structure) in results.unlearned:
            found.append(absent(f"{where}: no method learned it, so they are not ranked."))
            continue
        if scores.shape[1] < 3:
            found.append(absent(f"{where}: fewer than three methods have finished runs, so they are not ranked."))
            continue
        ranking = rank(scores, results.metric)
        found.append(Text(f"{where}: {ranking_sentence(ranking)}"))
        if ranking.nemenyi.isna().to_numpy().any():
            found.append(absent("Too few subjects have all methods for a critical-difference diagram."))
            continue
        found.append(
            Picture(
                slug("ranks", dataset, structure),
                f"{where}: critical-difference diagram. Methods that a grey bar joins are not told apart by "
                f"Nemenyi's test; the critical difference of the average ranks is {ranking.critical_difference:.2f}.",
                f"Average ranks: {_listed(ranking)}.",
                draw_ranks(ranking, results.reference),
            )
        )
    return found


def ranking_sentence(ranking: Ranking) -> str:
    """What a ranking found, in a sentence."""
    text = f"Average ranks over {ranking.subjects} subjects (1 is best): {_listed(ranking)}; "
    if len(ranking.average_ranks) < 3:
        return f"{text}Friedman's test needs three methods."
    if ranking.subjects < MIN_SUBJECTS:
        return f"{text}too few subjects to test."
    if np.isnan(ranking.p):
        return f"{text}no evidence of a difference, for the methods tie for every subject."
    test = f"Friedman test, {p_value(ranking.p)}"
    if ranking.p >= ALPHA:
        return f"{text}no evidence of a difference ({test})."
    methods = list(ranking.average_ranks)
    pairs = zip(*np.nonzero(np.triu(ranking.nemenyi.to_numpy() < ALPHA, 1)), strict=True)
    apart = "; ".join(f"{methods[first]} and {methods[second]}" for first, second in pairs) or "no single pair"
    critical = f"critical difference {ranking.critical_difference:.2f}"
    return f"{text}the methods differ ({test}), by Nemenyi's test {apart} ({critical})."


def _listed(ranking: Ranking) -> str:
    ordered = sorted(ranking.average_ranks.items(), key=lambda pair: pair[1])
    return ", ".join(f"{name} {value:.2f}" for name, value in ordered)


@styled
def draw_ranks(ranking: Ranking, reference: str) -> Figure:
    """Critical-difference diagram: average ranks, and bars over methods that Nemenyi's test does not tell apart.

    Args:
        ranking: A ranking of at least two methods, with ``nemenyi`` defined.
        reference: The method to highlight.
    """
    ranks = ranking.average_ranks
    figure = new_figure(1.1 + 0.2 * len(ranks))
    axes = figure.subplots()
    colors = dict.fromkeys(ranks, INK)
    if reference in colors:
        colors[reference] = REFERENCE_COLOR
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own deprecated calls; the drawing is tested
        critical_difference_diagram(
            ranks,
            ranking.nemenyi.clip(0, 1),
            ax=axes,
            color_palette=colors,
            label_fmt_left="{label:.20}  {rank:.2f}\N{NO-BREAK SPACE}",
            label_fmt_right="\N{NO-BREAK SPACE}{rank:.2f}  {label:.20}",
            label_props={"fontsize": 8.5},
            marker_props={"s": 22},
            elbow_props={"linewidth": 0.9},
            crossbar_props={"color": GREY, "linewidth": 3.5, "solid_capstyle": "round"},
            text_h_margin=0.02 * (max(ranks.values()) - min(ranks.values())),
        )
    axes.spines["top"].set_visible(True)  # the axis: this report's style leaves it out elsewhere
    low, high = axes.get_xlim()
    axes.set_title("average rank, 1 is best", fontsize=8.5, loc="center", pad=14)
    step = 0.5 if high - low < 4 else 1
    axes.set_xticks(step * np.arange(np.ceil(low / step), np.floor(high / step) + 1))
    return figure
