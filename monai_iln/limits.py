"""Which numbers an option or an argument takes, said once: to read it, to check it, and to tell the rule."""

from __future__ import annotations

import argparse
import math
import numbers
from dataclasses import dataclass
from typing import Any

from monai_iln.errors import require


@dataclass(frozen=True)
class Limits:
    """A range of numbers. As the ``type`` of an option it reads them, and refuses others while options are read.

    Attributes:
        least: The smallest of the numbers.
        most: The largest. Without it there is none, but infinity is no number of the range.
        whole: Whether they are whole numbers.
        open: Whether ``least`` itself is no number of the range.

    Example:
        >>> Limits(1).holds(0), Limits(0, whole=False).holds(float("nan"))
        (False, False)
        >>> str(Limits(0, 1, whole=False, open=True))
        'a number above 0, at most 1'
    """

    least: float
    most: float | None = None
    whole: bool = True
    open: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is a number of the range. True and false are none."""
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        if not self.whole:
            try:
                value = float(value)
            except OverflowError:  # a whole number of hundreds of digits
                return False
        above = self.least < value if self.open else self.least <= value
        below = value < math.inf if self.most is None else value <= self.most
        return bool(above and below)

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is no number of the range.

        Args:
            name: The name of the argument.
            value: The value.

        Raises:
            UserError: If it is none.

        Example:
            >>> Limits(1).check("jobs", 0)
            Traceback (most recent call last):
                ...
            monai_iln.errors.UserError: jobs 0: it must be a whole number, 1 or more. Remedy: choose one.
        """
        require(self.holds(value), f"{name} {value!r}", f"it must be {self}", "choose one")

    def __call__(self, text: str) -> Any:
        """Read an option."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        if not self.holds(value):
            raise argparse.ArgumentTypeError(f"got {text!r}, and it must be {self}. Choose one")
        return value

    def __str__(self) -> str:
        """The rule, for people."""
        kind = "a whole number" if self.whole else "a number"
        if self.open:
            most = "" if self.most is None else f", at most {self.most:,}"
            return f"{kind} above {self.least:,}{most}"
        if self.most is None:
            return f"{kind}, {self.least:,} or more"
        return f"{kind} from {self.least:,} to {self.most:,}"


_NUMBERS = {
    "batch_size": Limits(1),
    "epochs": Limits(1),
    "learning_rate": Limits(0, whole=False),
    "num_workers": Limits(0),
    "phase": Limits(1),
    "pixdim": Limits(0, whole=False, open=True),
    "roi_size": Limits(1, 2**31 - 1),
    "structures": Limits(1, 255),  # of a mask in bytes
    "val_interval": Limits(1),
    "validation_every": Limits(1),
}
_OF_EACH_AXIS, _MAY_BE_NONE = ("pixdim", "roi_size"), ("phase", "pixdim", "validation_every")
_WHOLE_AXIS = -1  # of MONAI's sizes


def check_numbers(**given: Any) -> None:
    """Refuse numbers that mean nothing. This is for the ``initialize`` of a bundle.

    Args:
        given: The values of its configuration, by their ids.

    Raises:
        UserError: If one of them is out of its range, or a size has not one number for each of two or three axes.

    Example:
        >>> check_numbers(roi_size=[144, -1], phase=None)
        >>> check_numbers(roi_size=[0, 0])
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: roi_size [0, 0]: it must have a number for each of 2 or 3 axes, and each must be ...
    """
    for name, value in given.items():
        limits = _NUMBERS[name]
        if value is None and name in _MAY_BE_NONE:
            continue
        if name not in _OF_EACH_AXIS:
            limits.check(name, value)
            continue
        rule = f"it must have a number for each of 2 or 3 axes, and each must be {limits}"
        numbers_of_axes = list(value) if isinstance(value, (list, tuple)) else []
        is_size = len(numbers_of_axes) in (2, 3)
        if name == "roi_size":
            rule += f", or {_WHOLE_AXIS} for the whole axis"
            numbers_of_axes = [number for number in numbers_of_axes if number != _WHOLE_AXIS]
        require(is_size and all(map(limits.holds, numbers_of_axes)), f"{name} {value!r}", rule, "choose others")


TIMEOUT = Limits(0, 86_400, whole=False, open=True)
"""Seconds to wait: sockets take no more than some years."""

SEED = Limits(0, 2**32 - 1)
"""The seeds that NumPy takes."""
