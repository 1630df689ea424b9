"""Grey images in PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.dicom import MAX_PIXELS
from monai_iln.errors import UserError
from monai_iln.extras import require_extra


def read_grey(path: Path) -> NDArray[Any]:
    """Read an image as grey values, of 16 bits if the file has so many.

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
                return np.asarray(image)
            return np.asarray(image.convert("L"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # PIL calls a broken PNG a SyntaxError
        raise UserError(f"{path}: cannot be read as an image ({error}). Copy or download it again.") from error
