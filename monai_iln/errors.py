"""The one kind of error that is meant for users."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterable
from types import TracebackType


class UserError(ValueError):
    """A mistake that the user can mend.

    The message says what was got, the rule it breaks, and the remedy. Command line and bundles print it
    without a traceback; from Python it is an ordinary ``ValueError``.
    """


class DivergedError(UserError):
    """A training whose loss is not finite: not a mistake of the data or of the program, but of the settings."""


def require(holds: bool, got: str, rule: str, remedy: str) -> None:
    """Raise a :class:`UserError` unless a condition holds; for the ``initialize`` of a bundle.

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

    Raises:
        UserError: for the first key that is not known.

    Example:
        >>> check_keys(["metods"], ["methods", "folds"], "key of a study")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: 'metods' is no key of a study. Did you mean 'methods'? ...
    """
    known = list(known)
    for key in map(str, given):
        if key not in known:
            some = ", ".join(known if len(known) < 40 else [name for name in known if "#" not in name])
            raise UserError(f"{key!r} is no {what}.{did_you_mean(key, known)} There are: {some}.")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names what is most like a misspelt name, after a space; empty if nothing is like it.

    Example:
        >>> did_you_mean("metods", ["methods", "folds"])
        " Did you mean 'methods'?"
    """
    by_folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.45)
    return f" Did you mean {by_folded[near[0]]!r}?" if near else ""


def find_user_error(error: BaseException | None) -> UserError | None:
    """The user error that an exception is or comes from; MONAI wraps what is raised in a configuration."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def root_cause(error: BaseException) -> str:
    """What was raised first, in a line; MONAI wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def hide_tracebacks() -> None:
    """From now on, a program that dies of a :class:`UserError` prints its message, once, and nothing else.

    For the first line of a bundle's ``initialize``: ``$monai_iln.errors.hide_tracebacks()``.
    """

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        user_error = find_user_error(error)
        if user_error is None:
            sys.__excepthook__(kind, error, traceback)
        else:
            print(f"error: {user_error}", file=sys.stderr)

    sys.excepthook = hook
    # Engines log what passes through them before they raise it on. A filter that is there already is not added again.
    for handler in filter(None, [*logging.getLogger().handlers, logging.lastResort]):
        handler.addFilter(_not_a_user_error)


def _not_a_user_error(record: logging.LogRecord) -> bool:
    return find_user_error(sys.exc_info()[1]) is None
