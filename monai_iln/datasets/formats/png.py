"""Grey images in PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.dicom import MAX_PIXELS
from monai_iln.errors import UserError
from monai_iln.extras import require_extra


class Picture(NamedTuple):
    """A picture.

    Attributes:
        grey: The grey values ``(H, W)``, of 16 bits if the file has so many.
        has_colours: Whether the file has colours or transparency, which the grey values do not tell. A palette of greys
            and three equal channels are none.
    """

    grey: NDArray[Any]
    has_colours: bool


def read_picture(path: Path) -> Picture:
    """Read a picture as grey values.

    Args:
        path: The file.

    Raises:
        UserError: If the file cannot be read, is damaged or too large.
    """
    require_extra("reading PNG images", "data", "PIL")
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()  # the checksum of every chunk, which decoding does not look at
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            if image.mode.startswith("I"):  # 16 bits, which convert would clip to 8
                return Picture(np.asarray(image), has_colours=False)
            grey = np.asarray(image.convert("L"), dtype=np.uint8)
            alike = np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
            return Picture(grey, has_colours=not np.array_equal(np.asarray(image.convert("RGBA")), alike))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # PIL calls a broken PNG a SyntaxError
        raise UserError(f"{path}: cannot be read as an image ({error}). Copy or download it again.") from error
