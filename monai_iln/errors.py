"""The one kind of error that is meant for users."""

from __future__ import annotations

import difflib
import logging
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

_MOST_SHOWN = 40  # names in a message
_MOST_DETAILS = 3
_USUAL_FORMAT = warnings.formatwarning


class UserError(ValueError):
    """A mistake that the user can mend.

    The message says what was got, the rule it breaks, and the remedy. Command line and bundles print it
    without a traceback; from Python it is an ordinary ``ValueError``.
    """


class DivergedError(UserError):
    """A training whose loss is not finite: the settings are wrong, not the data or the program."""


def require(holds: bool, got: str, rule: str, remedy: str) -> None:
    """Raise a :class:`UserError` unless a condition holds.

    Args:
        holds: The condition.
        got: The input, as the message names it.
        rule: The rule that it breaks.
        remedy: The way out, as an order to the user.

    Raises:
        UserError: If the condition does not hold.

    Example:
        >>> require(2 < 1, "epochs 0", "there must be at least one", "choose 1 or more")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: epochs 0: there must be at least one. Remedy: choose 1 or more.
    """
    if not holds:
        raise UserError(f"{got}: {rule}. Remedy: {remedy}.")


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
            raise UserError(f"{key!r} is no {what}.{did_you_mean(key, known)} There are: {', '.join(shown)}.")


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
    """Find the user error that an exception is or comes from. MONAI wraps what is raised in a configuration."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


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


def is_monai_command() -> bool:
    """Whether this process is ``python -m monai.bundle``."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def hide_tracebacks(own_process: bool = False) -> None:
    """From now on, ``python -m monai.bundle`` prints the message of a :class:`UserError` and no traceback.

    And of a warning of ours a line without the place in the code.

    This is for the first line of a bundle's ``initialize``: ``$monai_iln.errors.hide_tracebacks()``. In another program
    it changes nothing: there the caller catches exceptions.

    Args:
        own_process: Does so in any program. This is for a process that was started for one task.
    """
    if not own_process and not is_monai_command():
        return
    sys.excepthook = _print_user_error
    warnings.formatwarning = _format_warning
    # Engines log what passes through them before they raise it on. A filter that is there already is not added again.
    for handler in filter(None, [*logging.getLogger().handlers, logging.lastResort]):
        handler.addFilter(_is_not_of_a_user_error)


def _print_user_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    user_error = find_user_error(error)
    if user_error is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"error: {user_error}", file=sys.stderr)


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **source: Any) -> str:
    if category.__module__.startswith("monai_iln."):
        return f"warning: {message}\n"
    return _USUAL_FORMAT(message, category, *place, **source)


def _is_not_of_a_user_error(record: logging.LogRecord) -> bool:
    return find_user_error(sys.exc_info()[1]) is None
