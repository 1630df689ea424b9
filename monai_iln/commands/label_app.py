"""``monai-iln label-app``: a folder that a MONAI Label server runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from monai_iln.commands.options import describe


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Write a folder that a MONAI Label server runs, with copies of trained bundles.",
        "monai-iln label-app apps/heart --bundle bundles/lv_short_axis_iln bundles/rv_short_axis_iln",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="the folders of bundles with weights, models/model.pt",
    )
    parser.set_defaults(run=_write)


def _write(options: argparse.Namespace) -> None:
    from monai_iln.label.folder import write_app

    folder = write_app(options.folder, options.bundle)
    print(
        f"{folder}: complete. Next, in MONAI Label's own environment: "
        f"monailabel start_server --app {shlex.quote(str(folder))} --studies DIR --host 127.0.0.1"
    )
