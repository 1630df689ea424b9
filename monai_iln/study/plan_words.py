"""The plan of a study in words: its runs, and what each method makes of the network."""

from __future__ import annotations

import json
from collections.abc import Sequence

from monai_iln.errors import count
from monai_iln.run_files import GRID
from monai_iln.study.grid import Plan, Run
from monai_iln.study.sizing import expected_power

_ERRORS = ("mae", "mse", "error", "distance", "hausdorff", "loss")  # names of metrics where lower is better


def describe(runs: Sequence[Run], todo: Sequence[Run]) -> str:
    """Tell the plan in a few lines.

    Args:
        runs: The runs of the plan.
        todo: Those that are not finished.
    """
    lines = [f"{count(len(runs), 'run')}, {len(runs) - len(todo)} finished, {len(todo)} to do"]
    for key in GRID:
        values = dict.fromkeys(str(run.key[key]) for run in runs)
        lines.append(f"  {key + ':':15s}{', '.join(values)}")
    if len({run.seed for run in runs}) > 1:
        new = len({run.split for run in runs}) > 1
        lines.append(f"  {'splits:':15s}{'a new one for each seed' if new else 'one for all seeds'}")
    given = [f"{key} {json.dumps(value, default=str)}" for key, value in runs[0].bundle.overrides.items()]
    if given:
        lines.append(f"  {'overrides:':15s}{', '.join(given)}")
    return "\n".join(lines)


def describe_methods(plan: Plan) -> str:
    """Tell what each method does to the network, and what is not fair or cannot be shown.

    Args:
        plan: The plan of a study.
    """
    lines = []
    for dataset, data in plan.data.items():
        counted = f"{count(data.described['stacks'], 'case')} of {count(data.described['subjects'], 'subject')}"
        tested = plan.count_tested_subjects(dataset)
        lines.append(f"  {'data:':15s}{dataset}, {counted}, {tested} of them tested")
    wide = max(15, *(len(method) + 1 for method in plan.surveys))
    lines += [
        "",
        f"  {'method':{wide}s}{'norms':>6s}{'left':>6s}{'gates':>7s}{'dead':>6s}{'parameters':>12s}{'MFLOPs':>9s}",
    ]
    notes = []
    for method, its in plan.surveys.items():
        flops = "" if its["flops"] is None else f"{its['flops'] / 1e6:,.0f}"
        counts = f"{its['norms']:6d}{len(its['left']):6d}{its['gates']:7d}{its['dead_gates']:6d}"
        kinds = ", ".join(f"{count} {kind}" for kind, count in its["kinds"].items())
        lines.append(f"  {method:{wide}s}{counts}{its['parameters']:12,d}{flops:>9s}  {kinds or 'no norm'}")
        if its["dead_gates"]:
            notes.append(
                f"{its['dead_gates']} of {its['gates']} gates of {method} are dead: its group norm has one channel a "
                f"group there, and is instance norm. Way out: --methods '[[ILN, {{num_groups: alive}}], ...]'."
            )
        if its["one_channel_groups"]:
            notes.append(
                f"{its['one_channel_groups']} of {its['norms']} norms of {method} are group norms with one channel a "
                "group, which is instance norm. Way out: fewer groups."
            )
        if its["regrouped"]:
            name, asked, taken = its["regrouped"][0]
            notes.append(
                f"{method} takes another number of groups in {len(its['regrouped'])} of its norms, the largest that "
                f"divides the channels: {taken} and not {asked} in {name}."
            )
        if its["left"] and method != "own":
            name, reason = its["left"][0]
            notes.append(f"{method} leaves {len(its['left'])} of the norms as they are, such as {name}: {reason}.")
    affine = {its["affine"] for its in plan.surveys.values() if its["norms"]}
    if len(affine) > 1:
        notes.append("Some methods have weight and bias in all norms, and others do not: that alone may differ.")
    notes += list(filter(None, (expected_power(plan, dataset) for dataset in plan.data)))
    metric = plan.metric or {}
    if metric.get("higher_is_better") and any(word in str(metric["name"]).lower() for word in _ERRORS):
        notes.append(
            f"The bundle takes a higher {metric['name']} for better. If it is an error or a distance, its evaluator "
            "needs a metric_cmp_fn, such as --overrides '{validate#evaluator#metric_cmp_fn: \"$lambda new, best: new "
            "< best\"}'."
        )
    if plan.unvalidated is not None:
        interval, epochs = plan.unvalidated
        notes.append(
            f"Nothing is validated in {count(epochs, 'epoch')}, with {interval} between two validations: no epoch is "
            "chosen, and the last weights are tested. Way out: --overrides '{val_interval: 1}'."
        )
    if plan.epochs_and_rates_share_validation:
        notes.append("The held-out subjects choose both the epoch and the learning rate.")
    return "\n".join([*lines, *[f"  {note}" for note in notes]])
