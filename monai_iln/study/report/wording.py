"""Numbers and lists as a reader wants them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

_LONGEST = 160  # bytes of the name of a file
NO_NUMBER = "\N{EN DASH}"  # what stands in a table where there is no number


def number(value: float | None, decimals: int = 3, sign: bool = False) -> str:
    """A number for reading; a dash where there is none.

    Example:
        >>> number(-0.25, 2), number(float("nan"))
        ('−0.25', '–')
    """
    if value is None or pd.isna(value):
        return NO_NUMBER
    text = f"{value:+.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    elif not sign:
        text = text.lstrip("+")
    return text.replace("-", "\N{MINUS SIGN}")


def minus(sentence: str) -> str:
    """A sentence with minus signs before its negative numbers, where it has hyphens.

    Example:
        >>> minus("a 3-D network: -0.1 to 0.2")
        'a 3-D network: −0.1 to 0.2'
    """
    return re.sub(r"(?<=\s)-(?=\d)", "\N{MINUS SIGN}", sentence)


def p_value(value: float) -> str:
    """A p value in a sentence.

    Example:
        >>> p_value(0.0001), p_value(0.0312)
        ('p < 0.001', 'p = 0.031')
    """
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.3f}"


def p_cell(value: float) -> str:
    """A p value in a table; a dash where nothing was tested."""
    if pd.isna(value):
        return NO_NUMBER
    return p_value(value).removeprefix("p ").removeprefix("= ")


def quartiles(values: pd.Series[float], decimals: int = 3) -> str:
    """Median and quartiles in a table."""
    values = values.dropna()
    if values.empty:
        return NO_NUMBER
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{number(middle, decimals)} ({number(low, decimals)}\N{EN DASH}{number(high, decimals)})"


def place(*names: str) -> str:
    """A data set and a structure, as far as they have names.

    Example:
        >>> place("LV", "endocardium"), place("hands", "")
        ('LV, endocardium', 'hands')
    """
    return ", ".join(filter(None, names))


def four_digits(value: float) -> int:
    """The number of decimals with which numbers like this one have four digits.

    Example:
        >>> four_digits(0.0123), four_digits(1.23), four_digits(1230.0)
        (5, 3, 0)
    """
    if not value or not math.isfinite(value):
        return 3
    return min(max(3 - math.floor(math.log10(abs(value))), 0), 8)


def slug(*names: str) -> str:
    """A name for a file, cut where it is longer than file systems take, with room for an ending.

    Example:
        >>> slug("dice", "LV", "left ventricle")
        'dice-LV-left_ventricle'
    """
    name = "-".join(re.sub(r"\W", "_", name) for name in names if name)
    return name.encode()[:_LONGEST].decode(errors="ignore")


def join(words: Sequence[str], last: str = "and") -> str:
    """Words as in a sentence.

    Example:
        >>> join(["a", "b", "c"])
        'a, b and c'
    """
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def capital(text: str) -> str:
    """A text that begins with a capital."""
    return text[:1].upper() + text[1:]


def shorten(name: str, length: int) -> str:
    """A name that fits where it is drawn.

    Example:
        >>> shorten("GROUP-num_groups-8", 10)
        'GROUP-num…'
    """
    if len(name) <= length:
        return name
    return name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"
