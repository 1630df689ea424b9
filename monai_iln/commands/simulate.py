"""``monai-iln simulate``: how often each kind of interval is right, where the truth is known."""

from __future__ import annotations

import argparse

from monai_iln.commands.options import add_output, describe
from monai_iln.study.simulation_limits import LIMITS

_SIZES = {
    "subjects": (44, "the number of subjects"),
    "folds": (3, "the number of folds"),
    "methods": (6, "the number of methods, the first of which is the reference"),
    "repetitions": (2000, "the number of studies"),
    "seed": (0, "the seed that all is drawn with"),
}
_NUMBERS = {
    "sd_subject": (0.03, "the standard deviation of a difference of two methods between subjects"),
    "sd_fold": (0.01, "that between folds"),
    "sd_training": (0.01, "that between trainings, shared by the subjects of a run"),
    "sd_residual": (0.035, "that of a subject between trainings, beside what is shared"),
    "noisy": (1.0, "the factor by which the trainings of the last method scatter more"),
    "shared": (0.0, "the standard deviation of what the trainings of all methods of a fold and seed have in common"),
    "difference": (0.02, "the true difference that power is told for"),
    "margin": (0.01, "the margin within which methods are practically equal"),
    "half_width": (0.015, "the half-width at which a study that began with 3 seeds gets no more of them"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Simulate studies of methods whose truth is known: how often the interval of a difference holds the truth,\n"
        "and how often a test finds it, for several numbers of seeds, with one split or a new one for each seed.",
        "monai-iln simulate --subjects 44 --folds 3 --seeds 1 2 4 8 --difference 0.02 --output simulated",
    )
    add_output(parser, "the folder to make, for simulation.csv, .json and .png")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=LIMITS["seeds"],
        default=[1, 2, 4, 8],
        metavar="N",
        help="numbers of seeds (default: 1 2 4 8)",
    )
    parser.add_argument("--heavy_tails", action="store_true", help="let a few subjects and scores lie far off")
    for name, (size, meaning) in _SIZES.items():
        _add_number(parser, name, "N", size, meaning)
    for name, (number, meaning) in _NUMBERS.items():
        _add_number(parser, name, "X", number, meaning)
    parser.set_defaults(run=_simulate)


def _add_number(parser: argparse.ArgumentParser, name: str, metavar: str, default: float, meaning: str) -> None:
    limits = LIMITS[name.removeprefix("sd_")]
    meaning += f" (default: {default})"
    parser.add_argument(f"--{name}", type=limits, default=default, metavar=metavar, help=meaning)


def _simulate(options: argparse.Namespace) -> None:
    from monai_iln.extras import require_extra

    require_extra(
        "simulate", "study", "jinja2", "matplotlib", "pandas", "scikit_posthocs", "scipy", "statsmodels", "tqdm"
    )
    from monai_iln.study.chance import Components
    from monai_iln.study.simulation import World
    from monai_iln.study.simulation_files import write_simulation

    sd = Components(options.sd_subject, options.sd_fold, options.sd_training, options.sd_residual)
    size = (options.subjects, options.folds, options.methods)
    write_simulation(
        options.output,
        World(*size, sd, options.heavy_tails, options.noisy, options.shared),
        options.seeds,
        options.repetitions,
        difference=options.difference,
        margin=options.margin,
        half_width=options.half_width,
        seed=options.seed,
    )
