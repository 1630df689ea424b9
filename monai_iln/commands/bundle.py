"""``monai-iln bundle``: a bundle of this package, ready to run."""

from __future__ import annotations

import argparse
import shlex
import warnings

from monai_iln.bundle import BUNDLES, write_bundle
from monai_iln.commands.options import add_output, describe
from monai_iln.extras import MissingExtraError, require_extra


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Write a bundle with its configurations, trained weights and documentation.",
        "monai-iln bundle lv_short_axis_iln --output lv",
    )
    names = "; ".join(f"{name}: {meaning}" for name, meaning in BUNDLES.items())
    parser.add_argument("name", metavar="NAME", help=f"the bundle to write. {names}")
    add_output(parser, "the folder to make")
    parser.set_defaults(run=_write)


def _write(options: argparse.Namespace) -> None:
    folder = write_bundle(options.name, options.output)
    try:  # now: without them MONAI ends in a traceback, before anything of the bundle is read
        require_extra("python -m monai.bundle", "bundle", "fire", "yaml")
    except MissingExtraError as error:
        warnings.warn(str(error), stacklevel=2)
    print(
        f"{folder}: complete. Next: cd {shlex.quote(str(folder))} && python -m monai.bundle run "
        "--config_file configs/inference.yaml --dataset_dir STACK. Its docs/README.md tells the rest."
    )
