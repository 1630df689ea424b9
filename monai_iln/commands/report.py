"""``monai-iln report``: tables and report of a study, again."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_iln.commands.options import describe


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(parser, "Write tables and report of a study again, finished or under way.", "monai-iln report study")
    parser.add_argument("folder", type=Path, help="the output_dir of the study")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from monai_iln.study import report

    report.report(options.folder)
