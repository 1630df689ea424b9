"""Pictures of the cases of any bundle: image, true and predicted mask of one slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from monai_iln.extras import require_extra
from monai_iln.files import new_file
from monai_iln.overlays import as_bytes, overlay
from monai_iln.run_files import OVERLAYS


def save_pictures(folder: Path, number: int, image: Any, truth: Tensor, prediction: Tensor) -> list[str]:
    """Draw each class of a case, with truth in red, prediction in green, and their overlap in yellow.

    Of a volume it is the slice of the last axis with most of the truth, or without truth, most of the prediction.

    Args:
        folder: The folder of the run.
        number: The number of the case.
        image: The image, ``(C, H, W)`` or ``(C, H, W, D)``, of which the first channel is drawn.
        truth: The true mask, one-hot with the background first, ``(K + 1, H, W)`` or ``(K + 1, H, W, D)``.
        prediction: The predicted mask, as ``truth``.

    Returns:
        The pictures of the classes, as paths from the folder. There are none if the image has another size than the
        masks, as where postprocessing turns these alone back.
    """
    if not isinstance(image, Tensor) or image.shape[1:] != truth.shape[1:]:
        return []
    require_extra("a picture of a case", "data", "PIL")
    from PIL import Image

    (folder / OVERLAYS).mkdir(parents=True, exist_ok=True)
    pictures = []
    for place, (true, predicted) in enumerate(zip(truth[1:], prediction[1:], strict=True), 1):
        layers = [image[0], predicted, true]
        if true.dim() == 3:
            fullest = int((true if true.any() else predicted).sum(dim=(0, 1)).argmax())
            # The first axis of MONAI's arrays points to the right. The second one points up in volumes, and in
            # pictures of two axes down.
            layers = [layer[..., fullest].flip(1) for layer in layers]
        shown = [layer.detach().as_subclass(Tensor).cpu().float().T.numpy() for layer in layers]
        pictures.append(f"{OVERLAYS}/{number:05d}_{place}.png")
        with new_file(folder / pictures[-1]) as partial:
            Image.fromarray(as_bytes(overlay(*shown))).save(partial)
    return pictures
