"""The values of label maps: whole numbers, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.errors import UserError

#: The most that rounding moves a value. A map of 0 to 5 that was stored in 8 bits with a slope is off by up to 0.0098.
TOLERANCE = 0.01
_LARGEST = 65535


def round_labels(array: NDArray[Any], name: object = "the label") -> NDArray[Any]:
    """Round the values of a label map, which are whole numbers but for rounding.

    Args:
        array: The label map as it is stored, such as 255 with a slope of 1/255, or 0.9999999.
        name: The name of the file, for the message.

    Returns:
        The map in whole numbers: the same array if it has an integer data type, or one of ``uint16``.

    Raises:
        UserError: If a value is further than :data:`TOLERANCE` from a whole number, or is not one of 0 to 65535.

    Example:
        >>> round_labels(np.array([0.0, 0.9999999, 2.002])).tolist()
        [0, 1, 2]
    """
    is_float = array.dtype.kind == "f"
    whole = array
    if is_float:
        whole = np.rint(array)
    wrong = (whole < 0) | (whole > _LARGEST)
    if is_float:
        wrong |= np.abs(array - whole) > TOLERANCE
    if wrong.any():
        raise UserError(
            f"{name}: {np.count_nonzero(wrong)} voxels are no labels, the first is {array[wrong][0]:.6g}. Labels are "
            f"whole numbers from 0 to {_LARGEST}, up to {TOLERANCE} of rounding. Probabilities, and masks that were "
            "resampled linearly, are none: export the mask again as a label map, or with nearest neighbours."
        )
    return whole.astype(np.uint16) if is_float else array
