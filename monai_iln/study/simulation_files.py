"""What ``monai-iln simulate`` prints and writes: a table, as text and CSV, its settings in JSON, and a picture."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from monai_iln.files import new_folder, require_new, write_csv, write_json
from monai_iln.machine import describe_commit, describe_machine, describe_versions
from monai_iln.study.report.style import COLORS, GREY, new_figure, styled
from monai_iln.study.simulation import APPROACHES, GOES_ON, World, simulate

_PANELS = {
    "coverage": ("Coverage of the 95 % interval", 0.95),
    "family_wise": ("Any false alarm among all comparisons, after Holm", 0.05),
    "power": ("Power for a difference of {difference:g}, uncorrected", None),
    "right_equal": ("Equal methods found equal within {margin:g}", None),
    "wrong_equal": ("Methods {margin:g} apart found equal within {margin:g}", 0.05),
}
_SHOWN = {
    "coverage": "how often the 95 % interval holds the truth: as near to 0.95 as can be",
    "false_alarms": "how often one comparison of equal methods is significant at 5 %",
    "family_wise": "how often any comparison of equal methods is, after Holm's correction: 0.05 or less",
    "power": "how often one comparison finds a difference of {difference:g}: the more the better",
    "wrong_equal": "how often methods that are {margin:g} apart are found equal within {margin:g}: 0.05 or less",
    "right_equal": "how often equal methods are: the more the better",
    "half_width": "the mean of half the width of the 95 % interval",
}


def write_simulation(output: Path, world: World, seeds: Sequence[int], repetitions: int, **how: Any) -> None:
    """Simulate with a progress bar, print the table, and write ``simulation.csv``, ``.json`` and ``.png``.

    Args:
        output: The folder to make.
        world: What is true.
        seeds: The numbers of seeds to look at.
        repetitions: The number of studies.
        how: The other arguments of :func:`monai_iln.study.simulation.simulate`.

    Raises:
        UserError: If the folder holds something, or a number is out of range.
    """
    require_new(output)
    with tqdm(total=repetitions, unit="study") as bar:
        table = simulate(world, seeds, repetitions=repetitions, tick=bar.update, **how)
    print(as_text(table), *_explain(**how), sep="\n")
    document = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(torch.device("cpu")),
        "versions": describe_versions(),
        "commit": describe_commit(),
        "world": {**vars(world), "sd": vars(world.sd)},
        "seeds": list(seeds),
        "repetitions": repetitions,
        **how,
    }
    with new_folder(output) as folder:
        write_csv(folder / "simulation.csv", list(table.columns), table.to_numpy().tolist())
        write_json(folder / "simulation.json", document)
        draw_rates(table, world, **how).savefig(folder / "simulation.png", dpi=130)
    print(f"{output}: simulation.csv, simulation.json and simulation.png")


def as_text(table: pd.DataFrame) -> str:
    """The table of :func:`monai_iln.study.simulation.simulate` for people, with the largest error of each column."""
    lines = [f"{'approach':44}{'seeds':>6}" + "".join(f"{name.replace('_', ' '):>14}" for name in _SHOWN)]
    for _, row in table.iterrows():
        cells = [f"{row[name]:14.4f}" if name == "half_width" else f"{row[name]:14.3f}" for name in _SHOWN]
        lines.append(f"{row['approach']:44}{row['seeds']:6.3g}" + "".join(cells).replace("nan", "  -"))
    errors = [f"{table[f'{name}_error'].max():14.4f}" for name in _SHOWN]
    lines.append(f"{'largest standard error':50}" + "".join(errors))
    return "\n".join(lines)


def _explain(difference: float, margin: float, **_: Any) -> list[str]:
    """A line for each column of the table."""
    told = (meaning.format(difference=difference, margin=margin) for meaning in _SHOWN.values())
    return [f"{name.replace('_', ' '):14}{meaning}" for name, meaning in zip(_SHOWN, told, strict=True)]


@styled
def draw_rates(table: pd.DataFrame, world: World, difference: float, margin: float, **_: Any) -> Figure:
    """Draw what the approaches do over the number of seeds: a line each, with two standard errors."""
    figure = new_figure(8.0, width=8.0)
    panels = figure.subplots(3, 2).ravel()
    numbers = sorted(table.loc[~table["approach"].str.endswith(GOES_ON), "seeds"].unique())
    for panel, (name, (title, level)) in zip(panels, _PANELS.items(), strict=False):
        if level is not None:
            panel.axhline(level, color=GREY, linewidth=0.8, linestyle=":")
        for color, approach in zip(COLORS, APPROACHES, strict=False):
            rows = table[(table["approach"] == approach) & table[name].notna()]
            if len(rows):
                style = {"ls": "none", "marker": "D"} if approach.endswith(GOES_ON) else {"marker": "o"}
                errors = 2 * rows[f"{name}_error"]
                panel.errorbar(rows["seeds"], rows[name], errors, color=color, ms=4, label=approach, **style)
        panel.set_title(title.format(difference=difference, margin=margin))
        panel.set_xscale("log", base=2)
        panel.set_xticks(numbers, [f"{number:g}" for number in numbers])
        panel.minorticks_off()
        panel.grid(axis="y")
        panel.set_xlabel("seeds")
        if name == "coverage":
            panel.set_ylim(top=1)
        else:
            panel.set_ylim(bottom=0)
    panels[-1].axis("off")
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center left", title="bars: two standard errors")
    tails = "heavy tails" if world.heavy_tails else "normal"
    sd = world.sd
    figure.suptitle(
        f"{world.methods} methods, {world.subjects} subjects, {world.folds} folds; sd of a difference: subject "
        f"{sd.subject:g}, fold {sd.fold:g}, training {sd.training:g}, rest {sd.residual:g} ({tails})",
        fontsize=9,
    )
    return figure
