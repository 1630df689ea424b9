"""Masks of one stack, or of all."""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from fastapi import HTTPException
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.tasks.infer.bundle import BundleInferTask

from monai_iln.datasets.formats.volumes import without_type
from monai_iln.datasets.ranges import RANGE_KEY
from monai_iln.errors import UserError
from monai_iln.files import new_file
from monai_iln.label.checkpoints import class_names, find_checkpoint, list_checkpoints
from monai_iln.label.stacks import stack_of
from monai_iln.networks import load_weights

logger = logging.getLogger(__name__)


class Infer(BundleInferTask):
    """Makes the mask of a stack."""

    def __init__(self, bundle: Path, conf: dict[str, str]) -> None:
        super().__init__(str(bundle), conf, type="segmentation")
        self.bundle = bundle
        self.dimension = 3  # a stack, whatever the network sees of it
        self.labels = {name: value for value, name in class_names(bundle).items() if name.lower() != "background"}
        self.config()

    def config(self) -> dict[str, Any]:
        self._config["model_filename"] = list_checkpoints(self.bundle)  # the first is what a request without one gets
        self._config["slices"] = ""  # all
        self._config["phase"] = ""  # of a cine
        return self._config  # type: ignore[no-any-return]

    def __call__(self, request: Mapping[str, Any], callbacks: Any = None) -> Any:
        image = Path(request["image"])
        ending = image.name.removeprefix(without_type(image).name) or ".nii.gz"
        with stack_of(image, request.get("phase")) as stack:
            own = {
                "image": str(stack),
                "result_extension": request.get("result_extension") or ending,
                RANGE_KEY: str(request.get("slices") or ""),
            }
            return super().__call__({**request, **own}, callbacks)

    def _get_network(self, device: str, data: Mapping[str, Any] | None) -> Any:
        # MONAI Label loads what fits of a file and leaves the rest random, and tells two files only by their times.
        file = find_checkpoint(self.bundle, data or {})
        state = file.stat()
        version = (file, state.st_mtime_ns, state.st_size)
        if self._networks.get(device, (None, None))[1] != version:
            network = load_weights(copy.deepcopy(self.network), file).to(device).eval()
            self._networks[device] = (network, version)
        return self._networks[device][0]

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> Any:
        doubted = [row for row in data.get("doubts", ()) if row["doubts"]]
        data[self.output_json_key] = {**data.get(self.output_json_key, {}), "doubted_slices": doubted}
        ending = extension or data["result_extension"]
        if ending not in (".nii", ".nii.gz"):
            return super().writer(data, extension, dtype or data.get("result_dtype") or np.uint8)
        # MONAI Label's writers straighten the affine of a sheared stack, or fail on a stack of one slice.
        mask = np.asarray(data[self.output_label_key]).astype(np.uint8)
        affine = np.asarray(data[f"{self.output_label_key}_meta_dict"]["affine"])
        handle, name = tempfile.mkstemp(suffix=ending)
        os.close(handle)
        try:
            with new_file(Path(name)) as partial:
                nib.save(nib.Nifti1Image(mask, affine), partial)
        except UserError:
            Path(name).unlink()
            raise
        return name, data[self.output_json_key]


class InferAll(BatchInferTask):
    """Makes the masks of many stacks; what fails for one does not stop the others."""

    def __call__(self, request: Mapping[str, Any], datastore: Any, infer: Callable[..., Any]) -> Any:
        def infer_or_tell(request: Mapping[str, Any], datastore: Any) -> Any:
            try:
                return infer(request, datastore)
            except HTTPException as error:  # one image fails, the others go on
                logger.error(f"{request['image']}: {error.detail}")
                return {"error": error.detail}

        if request.get("slices"):
            raise UserError(
                f"slices {request['slices']} of all images: those of one stack are not those of another. Ask for each "
                "stack by itself."
            )
        several = bool(request.get("multi_gpu", True)) and torch.cuda.is_available()
        return super().__call__({**request, "multi_gpu": several}, datastore, infer_or_tell)
