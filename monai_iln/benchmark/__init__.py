"""What normalization costs: time, memory and bytes, every contestant measured in one interleaved run.

``python -m monai_iln.benchmark layer`` times one layer, ``network`` a whole training step, and ``profile`` prints where
the time of a layer goes. It is the same program as ``monai-iln benchmark``.
"""

from monai_iln.extras import require_extra


def require_drawing() -> None:
    """Refuse to measure for hours what cannot be drawn afterwards.

    Raises:
        MissingExtraError: If matplotlib or tqdm is not installed.
    """
    require_extra("benchmark", "plot", "matplotlib", "tqdm")
