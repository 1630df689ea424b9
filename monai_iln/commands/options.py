"""What the options of several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_iln.limits import Limits

COUNT = Limits(1, 2**31 - 1)
"""What counts something whose largest number only the memory or the time tells."""


def describe(parser: argparse.ArgumentParser, description: str, *examples: str) -> None:
    """Give a command's help a description and its examples, one a line."""
    parser.description = description
    parser.epilog = "\n  ".join(["Example:" if len(examples) == 1 else "Examples:", *examples])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def add_output(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add the option that names the folder to make."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=meaning)
