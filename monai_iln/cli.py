"""The command line, ``monai-iln`` or ``python -m monai_iln``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from monai_iln import __version__
from monai_iln.benchmark.command import add_options as add_benchmark_options
from monai_iln.datasets import DataWarning
from monai_iln.datasets.command import add_commands as add_data_commands
from monai_iln.errors import UserError
from monai_iln.label.command import add_options as add_label_options
from monai_iln.study.command import add_commands as add_study_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; ``None`` takes those of the process.

    Returns:
        The exit status: 0, 1 after a user's mistake, which is told in one message, or 130 if interrupted.
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
        except KeyboardInterrupt:
            print("interrupted; what is half done has no final name", file=sys.stderr)
            return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="monai-iln", description="Instance-layer normalization for MONAI.")
    parser.add_argument("--version", action="version", version=f"monai-iln {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_data_commands(commands)
    add_study_commands(commands)
    add_label_options(commands.add_parser("label-app", help="write a MONAI Label app with trained bundles"))
    add_benchmark_options(commands.add_parser("benchmark", help="time norms and networks against one another"))
    return parser


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"warning: {message}", file=sys.stderr)  # beside the bar, not in it
