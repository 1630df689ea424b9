"""``monai-iln check``: whether a datalist and its files belong together."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_iln.commands.options import describe


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Look into every file that a datalist names: hashes, shapes, geometry, label values, and one fold a subject.",
        "monai-iln check prepared",
    )
    parser.add_argument("datalist", type=Path, help="the file datalist.json, or its folder")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> None:
    from monai_iln.datasets.datalist import check_datalist, summarize

    print(summarize(options.datalist, check_datalist(options.datalist, progress=True)))
