"""``monai-iln stacks``: cines split into stacks, a file for each phase."""

from __future__ import annotations

import argparse
import shlex

from monai_iln.commands.options import add_output, describe
from monai_iln.errors import count
from monai_iln.files import require_new


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Split cines into stacks, a NIfTI file for each phase, named SUBJECT_PHASE.\n"
        "Files tell the number of a phase, and not which is ED and which ES. ACDC's Info.cfg does; else a bundle\n"
        "segments all phases, and those of the largest and smallest volume are taken.",
        "monai-iln stacks SCD_IMAGES_01 --output studies",
        "monai-iln stacks SCD_IMAGES_01 --output studies --phases ED ES --bundle lv_short_axis_iln",
    )
    parser.add_argument("source", metavar="SOURCE", help="the cines, as for monai-iln cine")
    add_output(parser, "the folder to make")
    parser.add_argument(
        "--phases",
        nargs="+",
        metavar="PHASE",
        help="the phases to write: numbers, counted from 1, or ED and ES (default: all; ED and ES with --bundle)",
    )
    parser.add_argument("--bundle", metavar="NAME", help="the bundle that finds ED and ES: its folder, or its name")
    parser.add_argument("--series", metavar="VALUE", help="the stack, as for monai-iln cine")
    parser.set_defaults(run=_split)


def _split(options: argparse.Namespace) -> None:
    from monai_iln.datasets.cine_stacks import write_phases

    extremes, phases = None, options.phases
    if options.bundle is not None:
        from monai_iln.cine.segment import find_extremes

        require_new(options.output)  # before long work
        extremes, phases = find_extremes(options.source, options.bundle, options.series), phases or ["ED", "ES"]
    written = write_phases(options.source, options.output, phases, extremes, options.series)
    print(
        f"{options.output}: complete, {count(len(written), 'stack')}. Next, with an app of monai-iln label-app: "
        f"monailabel start_server --app DIR --studies {shlex.quote(str(options.output))} --host 127.0.0.1"
    )
