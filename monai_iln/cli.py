"""The command line, ``monai-iln`` or ``python -m monai_iln``."""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from monai_iln import __version__
from monai_iln.errors import UserError, did_you_mean, end_as_interrupted, find_user_error, tell_interruption

COMMANDS = {
    "download": "fetch data that are public without registration",
    "prepare": "turn raw data into NIfTI stacks and a datalist",
    "check": "look into every file that a datalist names",
    "phantom": "write synthetic hearts in the layout of a data set",
    "cine": "segment cines: volume curves, ED and ES, ejection fractions",
    "stacks": "split cines into stacks, a file for each phase",
    "bundle": "write a bundle with trained weights, ready to run",
    "study": "cross-validate norms on a datalist and report which is better",
    "report": "write tables and report of a study again, finished or under way",
    "label-app": "write a MONAI Label app with trained bundles",
    "simulate": "try the intervals of a comparison where the truth is known",
    "benchmark": "time norms and networks against one another",
}
"""The subcommands, each a file of :mod:`monai_iln.commands`, and what they do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments without the program's name; ``None`` takes those of the process.

    Returns:
        The exit status: 0, 1 after a user's mistake, which is told in one message, 130 if interrupted, or 143 if
        terminated.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # the process is this command's
        end_as_interrupted()
    try:
        command = next((text for text in given if not text.startswith("-")), "")
        options = _parser(command).parse_args(given)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            options.run(options)
    except Exception as error:
        told = find_user_error(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        return tell_interruption(error)
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one message, as all others, and which takes no shortened options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)  # what a later option is called must not change what is meant

    def error(self, message: str) -> NoReturn:
        stop = "" if message.endswith("?") else "."
        raise UserError(f"{message}{stop} {self.prog} --help tells what there is.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here: the parser of a command would leave it to the one above, which has others."""
        if self._subparsers is None:  # before what is required is missed, which may be misspelt
            self._refuse(text for text in itertools.takewhile("--".__ne__, args) if self._is_unknown(text))
        options, unknown = super().parse_known_args(args, namespace)
        self._refuse(sorted(unknown, key=lambda text: not text.startswith("-")))
        return options, unknown

    def _is_unknown(self, text: str) -> bool:
        return text.startswith("--") and text.partition("=")[0] not in self._option_string_actions

    def _refuse(self, unknown: Iterable[str]) -> None:
        """Refuse the first text that is no option, if there is one."""
        for text in unknown:
            near = did_you_mean(text.partition("=")[0], self._option_string_actions)
            self.error(f"{text}: no option of {self.prog}{near and '.' + near}")


def _parser(chosen: str) -> argparse.ArgumentParser:
    """The parser, with the options of the chosen command alone: those of the others need not be imported."""
    parser = _Parser(
        prog="monai-iln",
        description="Instance-layer normalization for MONAI: the data, the bundles and the studies to measure it with.",
        epilog="monai-iln COMMAND --help tells the options of a command, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"monai-iln {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == chosen:
            importlib.import_module(f"monai_iln.commands.{name.replace('-', '_')}").add_options(command)
    return parser


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    told = f"warning: {message}"
    bars = sys.modules.get("tqdm")  # without it there is no bar that the warning could break
    if bars is None:
        print(told, file=sys.stderr)
    else:
        bars.tqdm.write(told, file=sys.stderr)
