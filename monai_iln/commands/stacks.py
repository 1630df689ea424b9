"""``monai-iln stacks``: cines split into stacks, a file for each phase."""

from __future__ import annotations

import argparse
import shlex

from monai_iln.commands.options import add_output, describe


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Split cines into stacks, a NIfTI file for each phase, named SUBJECT_PHASE.\n"
        "Files tell the number of a phase, and not which is ED and which ES. A table beside the cines may tell it (ACDC's\n"
        "Info.cfg, M&Ms' CSV); else --bundle does: it segments all phases and takes the largest and smallest volume.",
        "monai-iln stacks SCD_IMAGES_01 --output studies",
        "monai-iln stacks SCD_IMAGES_01 --output studies --phases ED ES --bundle lv_short_axis_iln",
    )
    parser.add_argument("source", metavar="SOURCE", help="the cines, as for monai-iln cine")
    add_output(parser, "the folder to make")
    parser.add_argument(
        "--phases",
        nargs="+",
        metavar="PHASE",
        help="the phases to write: numbers, counted from 1, or ED and ES (default: all)",
    )
    parser.add_argument("--bundle", metavar="NAME", help="the bundle that finds ED and ES: its folder, or its name")
    parser.add_argument("--series", metavar="VALUE", help="the stack, as for monai-iln cine")
    parser.set_defaults(run=_split)


def _split(options: argparse.Namespace) -> None:
    from monai_iln.datasets.cine_stacks import write_phases

    extremes = None
    if options.bundle is not None:
        from monai_iln.cines import find_extremes

        extremes = find_extremes(options.source, options.bundle, options.series)
    written = write_phases(
        options.source, options.output, phases=options.phases, extremes=extremes, series=options.series
    )
    print(
        f"{options.output}: complete, {len(written)} stacks. Next, with an app of monai-iln label-app: monailabel "
        f"start_server --app DIR --studies {shlex.quote(str(options.output))} --host 127.0.0.1"
    )
