"""An inferer that predicts under a change of its images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from monai_iln.handlers.changes import (
    BATCH,
    CHANGES,
    NotApplicableError,
    OtherBatches,
    Prediction,
    Windows,
    plain,
    windows_of,
)
from monai_iln.run_files import OF_INTENSITIES


def _changed(image: Tensor, change: str) -> Tensor:
    """An image ``(C, ...)`` of other intensities."""
    images = plain(image)[None]
    return CHANGES[change](Prediction(images, images, None, None, lambda _, changed, __: changed))[0]


def _are_images(inputs: Any) -> bool:
    """Whether it is a list of images whose intensities can be changed."""
    return isinstance(inputs, list) and all(isinstance(one, Tensor) and one.is_floating_point() for one in inputs)


class ChangedInferer:
    """An inferer that predicts under a change, and undoes it in what is predicted.

    Of a list of images only intensities are changed: what is predicted of it, such as boxes, cannot be moved back.

    Args:
        inferer: The inferer that predicts.

    Attributes:
        change: The name of the change; ``None`` for the prediction as it is, which comes first for each batch.
        applied: Whether the last call applied its change. It returns the prediction as it is where it did not.
        windows: The windows on the last images; ``None`` where they are taken as a whole.

    Example:
        >>> import torch
        >>> from monai.inferers import SimpleInferer
        >>> inferer, images = ChangedInferer(SimpleInferer()), torch.ones(1, 1, 8, 8)
        >>> _ = inferer(images, lambda inputs: inputs)
        >>> inferer.change = "gain"
        >>> inferer(images, lambda inputs: inputs).unique()
        tensor([1.2000])
    """

    def __init__(self, inferer: Any) -> None:
        self.inferer = inferer
        self.change: str | None = None
        self.applied = True
        self.windows: Windows | None = None
        self._others: OtherBatches | None = None

    def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        if self.change is None:
            self.applied, self.windows = True, None
            if isinstance(inputs, Tensor):
                self.windows = windows_of(self.inferer, inputs.shape[2:])
            self._unchanged = self.inferer(inputs, network, *args, **kwargs)
            return self._unchanged
        self.applied = self.change in OF_INTENSITIES and _are_images(inputs)
        if self.applied:
            return self.inferer([_changed(image, str(self.change)) for image in inputs], network, *args, **kwargs)
        unchanged = self._unchanged
        if (
            not isinstance(inputs, Tensor)
            or not isinstance(unchanged, Tensor)
            or not inputs.is_floating_point()
            or inputs.dim() < 3
        ):
            return unchanged

        def call(inferer: Any, images: Tensor, network: Any) -> Any:
            return inferer(images, network, *args, **kwargs)

        given = Prediction(plain(inputs), plain(unchanged), self.inferer, network, call)
        try:
            changed = self._predict(given)
        except NotApplicableError:
            return unchanged
        if changed.shape != unchanged.shape:
            return unchanged
        self.applied = True
        return MetaTensor(changed).copy_meta_from(unchanged) if isinstance(unchanged, MetaTensor) else changed

    def _predict(self, given: Prediction) -> Tensor:
        if self.change != BATCH:
            return CHANGES[str(self.change)](given)
        self._others = self._others or OtherBatches(given.network)
        return replace(given, network=self._others).predict(given.inputs)
