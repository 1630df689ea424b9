"""The one kind of error that is meant for users."""

from __future__ import annotations

import difflib
import errno
import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_MOST_SHOWN = 40  # names in a message
_MOST_DETAILS = 3
_TIDYING_SECONDS = 10.0
_USUAL_FORMAT = warnings.formatwarning

# What the system refuses, by no fault of the program, and what to do about it.
_FULL = "Free the disk, or choose another folder"
_FORBIDDEN = "Give yourself the permission, or choose another path"
_OF_ANOTHER_KIND = "It is a folder where a file must be, or the other way round: choose another path"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or choose another folder",
    errno.EROFS: "Choose a folder that can be written to",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EISDIR: _OF_ANOTHER_KIND,
    errno.ENOTDIR: _OF_ANOTHER_KIND,
}


class UserError(ValueError):
    """A mistake that the user can mend.

    The message says what was got, the rule it breaks, and the remedy. Command line and bundles print it
    without a traceback; from Python it is an ordinary ``ValueError``.
    """


class DivergedError(UserError):
    """A training whose loss is not finite: the settings are wrong, not the data or the program."""


class TerminatedError(KeyboardInterrupt):
    """The end that a signal asks for, SIGTERM or SIGHUP. It is treated as Ctrl-C is.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


def require(holds: bool, got: str, rule: str, remedy: str, kind: type[UserError] = UserError) -> None:
    """Raise a :class:`UserError` unless a condition holds.

    Args:
        holds: The condition.
        got: The input, as the message names it.
        rule: The rule that it breaks.
        remedy: The way out, as an order to the user.
        kind: The class of the error.

    Raises:
        UserError: If the condition does not hold.

    Example:
        >>> require(2 < 1, "epochs 0", "there must be at least one", "choose 1 or more")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: epochs 0: there must be at least one. Remedy: choose 1 or more.
    """
    if not holds:
        raise kind(f"{got}: {rule}. Remedy: {remedy}.")


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse unknown keys, and name the nearest known one.

    Args:
        given: The keys to check.
        known: The keys that there are.
        what: The name of such a key, for the message.

    Raises:
        UserError: If a key is not known.

    Example:
        >>> check_keys(["metods"], ["methods", "folds"], "key of a study")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: 'metods' is no key of a study. Did you mean 'methods'? ...
    """
    known = list(known)
    shown = known
    if len(known) >= _MOST_SHOWN:
        shown = [name for name in known if "#" not in name]  # the topmost ids of a configuration
    for key in map(str, given):
        if key not in known:
            raise UserError(f"{key!r} is no {what}.{did_you_mean(key, known)} There are: {', '.join(shown) or 'none'}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ask for the known name that is most like a misspelt one.

    Args:
        name: The misspelt name.
        known: The names that there are.

    Returns:
        The question, after a space; nothing if no name is like it.

    Example:
        >>> did_you_mean("metods", ["methods", "folds"])
        " Did you mean 'methods'?"
    """
    by_folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.45)
    return f" Did you mean {by_folded[near[0]]!r}?" if near else ""


def find_user_error(error: BaseException | None) -> UserError | None:
    """Find the user error that an exception is or comes from. MONAI wraps what is raised in a configuration.

    What the system refuses by no fault of the program, such as to write to a full disk, is made one.
    """
    refused = None
    while error is not None and not isinstance(error, UserError):
        if refused is None and isinstance(error, OSError) and error.errno in _REMEDIES:
            refused = refusal(error)
        hidden = error.__suppress_context__  # "from None" says that a program has dealt with it
        error = error.__cause__ if hidden else error.__context__
    return error or refused


def refusal(error: OSError, path: Path | None = None, under: Path | None = None) -> UserError:
    """Make a user error of what the system refuses, with the file, the cause and the remedy.

    Args:
        error: The error of the system.
        path: The file or folder that was written when it happened, if any was.
        under: The name that ``path`` has until it is whole.

    Example:
        >>> refusal(OSError(errno.ENOSPC, "No space left on device"), Path("mask.png"))
        UserError('mask.png: cannot be written (No space left on device). Free the disk, or choose another folder.')
    """
    while error.errno is None and isinstance(error.__cause__, OSError):  # pydicom wraps it in a longer one
        error = error.__cause__
    cause, remedy = error.strerror or error, _REMEDIES.get(error.errno or 0, "Mend that, or choose another path")
    name = Path(error.filename2 or error.filename or path or "the disk")
    if path is not None and under is not None and name.is_relative_to(under):
        name = path / name.relative_to(under)
    if path is not None and name.is_relative_to(path):
        return UserError(f"{name}: cannot be written ({cause}). {remedy}.")
    return UserError(f"{name}: {cause}. {remedy}.")


def root_cause(error: BaseException) -> str:
    """Tell in a line what was raised first. MONAI wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def first_of(details: Sequence[str]) -> str:
    """The first three of many details, and how many more there are.

    Args:
        details: The details.

    Example:
        >>> first_of("abcde")
        'a; b; c; and 2 more'
    """
    more = [f"and {len(details) - _MOST_DETAILS} more"] * (len(details) > _MOST_DETAILS)
    return "; ".join([*details[:_MOST_DETAILS], *more])


def count(number: int, what: str, does: str = "", do: str = "") -> str:
    """A number of things, and what one or several of them do.

    Example:
        >>> count(1, "fold"), count(3, "fold")
        ('1 fold', '3 folds')
        >>> count(1, "file", "is", "are"), count(0, "file", "is", "are")
        ('1 file is', '0 files are')
    """
    noun, verb = (what, does) if number == 1 else (f"{what}s", do)
    return f"{number} {noun} {verb}".rstrip()


def is_monai_command() -> bool:
    """Whether this process is ``python -m monai.bundle``."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def hide_tracebacks(own_process: bool = False, weights: str | None = None) -> None:
    """From now on, ``python -m monai.bundle`` prints the message of a :class:`UserError` and no traceback.

    And of a warning of ours a line without the place in the code. Ctrl-C, SIGTERM and SIGHUP end it with a line, too.

    This is for the first line of a bundle's ``initialize``: ``$monai_iln.errors.hide_tracebacks()``. In another program
    it changes nothing: there the caller catches exceptions.

    Args:
        own_process: Does so in any program. This is for a process that was started for one task.
        weights: The file of weights that a training writes. When the training is interrupted, the line tells whether
            it has.
    """
    if not own_process and not is_monai_command():
        return
    before = _identity(weights)

    def print_user_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        user_error = find_user_error(error)
        if isinstance(error, KeyboardInterrupt):
            where = weights and _tell_weights(weights, before)
            raise SystemExit(tell_interruption(error, where or ""))
        if user_error is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            print(f"error: {user_error}", file=sys.stderr)

    sys.excepthook = print_user_error
    threading.excepthook = _print_fault
    end_as_interrupted()
    warnings.formatwarning = _format_warning
    hide_told_errors()


def hide_told_errors() -> None:
    """From now on, the log does not repeat user errors and interruptions, which whoever catches them tells.

    Engines log what passes through them before they raise it on.
    """
    for handler in filter(None, [*logging.getLogger().handlers, logging.lastResort]):
        handler.addFilter(_is_not_told_otherwise)  # one that is there already is not added again


def _tell_weights(weights: str, before: tuple[int, int] | None) -> str:
    """Tell what an interrupted training has written."""
    now = _identity(weights)
    if now is None:
        return "There are no weights yet."
    if now == before:
        return f"This training has no weights yet: {weights} is as it was."
    return f"The weights of this training so far: {weights}"


def _print_fault(raised: threading.ExceptHookArgs) -> None:
    """Print what ends a thread, but no user error: that of TensorBoard hands it on to the program, which prints it."""
    if find_user_error(raised.exc_value) is None:
        threading.__excepthook__(raised)


def _identity(file: str | None) -> tuple[int, int] | None:
    """What changes when a file is replaced. ``None`` stands for no file."""
    if file is None or not Path(file).is_file():
        return None
    state = Path(file).stat()
    return state.st_ino, state.st_mtime_ns


def end_as_interrupted() -> None:
    """From now on SIGTERM and SIGHUP end this process as Ctrl-C does, so that it takes away what is half done.

    A signal that this process ignores or handles otherwise is left alone.
    """
    for number in filter(None, (signal.SIGTERM, getattr(signal, "SIGHUP", None))):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    # Another one at once would interrupt the tidying up. Later it is needed: what was raised may have been swallowed.
    if now - _last_signal.get(number, -_TIDYING_SECONDS) >= _TIDYING_SECONDS:
        _last_signal[number] = now
        raise TerminatedError(number)


_last_signal: dict[int, float] = {}


def tell_interruption(error: KeyboardInterrupt, told: str = "") -> int:
    """Print a line about an interruption.

    Args:
        error: The interruption. The line tells its text.
        told: The text for an interruption that has none.

    Returns:
        The exit status: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    told = str(error) or told or "What is half done has no final name."
    print(f"interrupted. {told}", file=sys.stderr)
    return 128 + getattr(error, "signal", signal.SIGINT)


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **source: Any) -> str:
    if category.__module__.startswith("monai_iln."):
        return f"warning: {message}\n"
    return _USUAL_FORMAT(message, category, *place, **source)


def _is_not_told_otherwise(record: logging.LogRecord) -> bool:
    error = sys.exc_info()[1]
    return not isinstance(error, KeyboardInterrupt) and find_user_error(error) is None
