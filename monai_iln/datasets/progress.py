"""Progress bars, for which tqdm is imported only where one is shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from monai_iln.extras import require_extra

Item = TypeVar("Item")


def track(items: Collection[Item], title: str, unit: str, shown: bool) -> Iterable[Item]:
    """The same items, and a bar that counts them if it is to be shown.

    Args:
        items: The items of work.
        title: The words before the bar.
        unit: The name of one item.
        shown: Shows the bar.

    Raises:
        MissingExtraError: If the bar is to be shown and tqdm is not installed.

    Example:
        >>> list(track([1, 2], "Counting", "number", shown=False))
        [1, 2]
    """
    if not shown:
        return items
    require_extra("a progress bar", "data", "tqdm")
    from tqdm import tqdm

    return tqdm(items, desc=title, unit=unit)
