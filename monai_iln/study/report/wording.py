"""Numbers and lists as a reader wants them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

NONE = "\N{EN DASH}"  # what stands in a table where there is no number


def number(value: float | None, decimals: int = 3, sign: bool = False) -> str:
    """A number for reading; a dash where there is none.

    Example:
        >>> number(-0.25, 2), number(float("nan"))
        ('−0.25', '–')
    """
    if value is None or pd.isna(value):
        return NONE
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "\N{MINUS SIGN}")


def minus(sentence: str) -> str:
    """A sentence with minus signs before its negative numbers, where it has hyphens.

    Example:
        >>> minus("a 3-D network: -0.1 to 0.2")
        'a 3-D network: −0.1 to 0.2'
    """
    return re.sub(r"(?<=\s)-(?=\d)", "\N{MINUS SIGN}", sentence)


def p_value(value: float) -> str:
    """A p value for reading."""
    return NONE if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def slug(*names: str) -> str:
    """A name for a file.

    Example:
        >>> slug("dice", "LV", "left ventricle")
        'dice-LV-left_ventricle'
    """
    return "-".join("".join(sign if sign.isalnum() else "_" for sign in name) for name in names if name)


def join(words: Sequence[str], last: str = "and") -> str:
    """Words as in a sentence.

    Example:
        >>> join(["a", "b", "c"])
        'a, b and c'
    """
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def shorten(name: str, length: int) -> str:
    """A name that fits where it is drawn.

    Example:
        >>> shorten("GROUP-num_groups-8", 10)
        'GROUP-num…'
    """
    return name if len(name) <= length else name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def count(number: int, what: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "fold"), count(3, "fold")
        ('1 fold', '3 folds')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
