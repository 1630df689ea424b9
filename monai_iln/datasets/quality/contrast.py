"""The contrast between a blood pool and its wall, by which masks are compared with images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

Array = NDArray[Any]


def contrast(image: Array, mask: Array) -> float:
    r"""How much brighter a mask is than a ring around it.

    .. math:: (\mu_{mask} - \mu_{ring}) / \sqrt{\sigma_{mask}^2 + \sigma_{ring}^2}

    over intensities clipped at the 99.5th percentile; the ring starts a pixel outside the mask and is as wide as a
    64th of the image, about the wall of the left ventricle.

    Args:
        image: An array ``(H, W)``.
        mask: An array ``(H, W)``, not 0 inside.

    Returns:
        The contrast; 0 for an empty mask or one that fills the image.

    Example:
        >>> image = np.zeros((64, 64))
        >>> image[30:40, 30:40] = 1
        >>> contrast(image, image) > 10
        True
    """
    return compare(scale(image), Probe.around(mask))


class Probe(NamedTuple):
    """A mask as what is compared with an image.

    Attributes:
        window: The rows and columns around the mask.
        inside: The mask in the window.
        ring: The ring around it, in the window.
    """

    window: tuple[slice, slice]
    inside: Array
    ring: Array

    @classmethod
    def around(cls, mask: Array) -> Probe:
        """The probe of a mask ``(H, W)``."""
        width = max(2, round(max(mask.shape) / 64))
        places = np.argwhere(mask)
        window = (slice(0, 0), slice(0, 0))
        if len(places):
            starts, stops = np.maximum(places.min(axis=0) - width - 1, 0), places.max(axis=0) + width + 2
            window = (slice(starts[0], stops[0]), slice(starts[1], stops[1]))
        inside = np.asarray(mask[window]) > 0
        return cls(window, inside, binary_dilation(inside, iterations=width) & ~binary_dilation(inside))


def scale(image: Array) -> NDArray[np.float32]:
    """The image with its 99.5th percentile scaled to 1, clipped there."""
    top = float(np.percentile(image, 99.5))
    if top <= 0:
        top = 1.0
    return np.asarray(np.minimum(image.astype(np.float32) / top, 1), np.float32)


def compare(scaled: NDArray[np.float32], probe: Probe) -> float:
    """The contrast of a mask on a scaled image, see :func:`contrast`."""
    pool, wall = (scaled[probe.window][part] for part in (probe.inside, probe.ring))
    if not pool.size or not wall.size:
        return 0.0
    return float((pool.mean() - wall.mean()) / np.sqrt(pool.var() + wall.var() + 1e-4))
