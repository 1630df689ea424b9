"""The command line, ``monai-iln`` or ``python -m monai_iln``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_iln import __version__
from monai_iln.benchmark.command import add_options
from monai_iln.datasets import DataWarning, prepare_sunnybrook, read_datalist
from monai_iln.datasets.sunnybrook import LAYOUTS
from monai_iln.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; ``None`` takes those of the process.

    Returns:
        The exit status: 0, or 1 after a user's mistake, which is told in one message.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = _show_warning
        try:
            options.run(options)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="monai-iln", description="Instance-layer normalization for MONAI.")
    parser.add_argument("--version", action="version", version=f"monai-iln {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    prepare = commands.add_parser("prepare", help="turn raw data into NIfTI stacks and a datalist")
    datasets = prepare.add_subparsers(required=True, metavar="DATASET")
    sunnybrook = datasets.add_parser(
        "sunnybrook",
        help="Sunnybrook Cardiac Data, left ventricle",
        description="Turn Sunnybrook data, as downloaded or from the PNG mirror, into NIfTI stacks and datalist.json.",
    )
    sunnybrook.add_argument("--source", type=Path, required=True, metavar="DIR", help="the data as downloaded")
    sunnybrook.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    sunnybrook.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="official (DICOM and contours) or png (SegNetCMR); only needed where the source holds both",
    )
    sunnybrook.add_argument(
        "--folds", type=int, default=3, help="number of folds, balanced over the pathologies (default: 3)"
    )
    sunnybrook.add_argument("--seed", type=int, default=0, help="seed of the folds (default: 0)")
    sunnybrook.set_defaults(run=_prepare)
    add_options(commands.add_parser("benchmark", help="time norms and networks against one another"))
    return parser


def _prepare(options: argparse.Namespace) -> None:
    datalist = prepare_sunnybrook(
        options.source,
        options.output,
        layout=options.layout,
        num_folds=options.folds,
        seed=options.seed,
        progress=True,
    )
    items = read_datalist(datalist)
    slices = sum(len(item["slices"]) for item in items)
    folds = Counter({item["subject"]: item["fold"] for item in items}.values())
    sizes = "/".join(str(folds[fold]) for fold in sorted(folds))
    print(f"{datalist}: {slices} slices of {folds.total()} subjects, folds of {sizes} subjects")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)  # beside the bar, not in it
