"""``monai-iln phantom``: synthetic hearts in the layout of a data set."""

from __future__ import annotations

import argparse
import shlex

from monai_iln.commands.options import add_output, describe
from monai_iln.datasets.phantom import LAYOUTS, LIMITS

_SUNNYBROOK = ("official", "png")  # the layouts that 'monai-iln prepare sunnybrook' reads
_NUMBERS = {
    "subjects": (6, "the number of hearts"),
    "slices": (8, "the number of slices of each heart"),
    "phases": (10, "the number of phases of the cycle"),
    "size": (192, "the rows and columns of an image, in pixels"),
    "seed": (0, "the seed that the hearts follow from"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Write phantoms, synthetic hearts with known truth, as the files of a public data set.",
        "monai-iln phantom --output hearts --layout acdc --subjects 10",
    )
    add_output(parser, "the folder to make")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="official", help="the data set to imitate (default: official)"
    )
    for name, (default, meaning) in _NUMBERS.items():
        meaning += f" (default: {default})"
        parser.add_argument(f"--{name}", type=LIMITS[name], default=default, metavar="N", help=meaning)
    parser.set_defaults(run=_phantom)


def _phantom(options: argparse.Namespace) -> None:
    from monai_iln.datasets.phantom import write_phantom

    numbers = {name: getattr(options, name) for name in _NUMBERS}
    folder = write_phantom(options.output, layout=options.layout, **numbers, progress=True)
    reader = "sunnybrook" if options.layout in _SUNNYBROOK else "folders"
    print(f"{folder}: complete. Next: monai-iln prepare {reader} --source {shlex.quote(str(folder))} --output DIR")
