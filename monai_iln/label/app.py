"""The MONAI Label app of the folders that :func:`monai_iln.label.write_app` writes.

MONAI Label's tasks for bundles do the work. This module adds three things: everything that a user can mend is answered
with a message instead of a bare status 500; images and labels are checked before they are used; what fails without a
GPU or with ``pretrained: false`` works. The server looks for a class whose direct base is ``MONAILabelApp``.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from monai_iln import __version__
from monai_iln.datasets.ranges import RANGE_KEY
from monai_iln.errors import UserError, find_user_error, hide_tracebacks
from monai_iln.files import new_file
from monai_iln.networks import load_weights
from monai_iln.run_files import WEIGHTS
from monai_iln.transforms import LoadStackd

try:
    from fastapi import HTTPException
    from monailabel.config import settings
    from monailabel.datastore.local import LocalDatastore
    from monailabel.interfaces.app import MONAILabelApp
    from monailabel.interfaces.exception import MONAILabelException
    from monailabel.interfaces.tasks.batch_infer import BatchInferTask
    from monailabel.tasks.infer.bundle import BundleInferTask
    from monailabel.tasks.train.bundle import BundleTrainTask
    from monailabel.utils.others.generic import file_ext
except ImportError as error:
    raise UserError(
        f"MONAI Label cannot be imported ({error}). An app runs in an environment with monailabel, best one of its "
        "own: install it there, with monai_iln."
    ) from error

logger = logging.getLogger(__name__)


class LabelApp(MONAILabelApp):
    """All bundles under ``model`` in the app's folder, each to infer with and to train."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundles = sorted(path.parent.parent for path in Path(app_dir).resolve().glob("model/*/models/model.pt"))
        if not self.bundles:
            raise UserError(f"{app_dir}: no bundle with weights in its folder model. Write the app again.")
        super().__init__(
            app_dir, studies, conf, "monai_iln", "Bundles with instance-layer normalization", version=__version__
        )

    def init_datastore(self) -> Any:
        if self.studies.startswith(("http://", "https://")):
            return super().init_datastore()
        return _Datastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, Any]:
        return {path.name: _Infer(path, self.conf) for path in self.bundles}

    def init_trainers(self) -> dict[str, Any]:
        tasks = {path.name: _Train(path, self.conf) for path in self.bundles}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_batch_infer(self) -> Any:
        return _BatchInfer()

    def bundle_path(self, model: str | None) -> Any:
        # The server asks for it before it starts a task: the only place to refuse one before that.
        if model is not None and model not in self._infers:
            raise HTTPException(404, f"model {model}: not here. There are {', '.join(self._infers)}: choose one.")
        return super().bundle_path(model)

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> Any:
        image = request.get("image")
        self.bundle_path(request.get("model"))
        with _answer_user_errors():
            studies = datastore or self.datastore()
            if isinstance(image, str) and not (Path(image).exists() or studies.get_image_uri(image)):
                raise HTTPException(
                    404, f"image {image}: not among the studies. GET /datastore/?output=all lists them."
                )
            return super().infer(request, datastore)

    def train(self, request: Mapping[str, Any]) -> Any:
        if self._server_mode:  # the client asked for run_sync and waits
            with _answer_user_errors():
                return super().train(request)
        hide_tracebacks(own_process=True)  # of which the server keeps the end of the output
        return super().train(request)


@contextmanager
def _answer_user_errors() -> Iterator[None]:
    """Answer mistakes that the client can mend with a message; the server would answer 500 and nothing else."""
    try:
        yield
    except HTTPException:
        raise
    except MONAILabelException as error:
        raise HTTPException(404, error.msg) from error
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        raise HTTPException(422, str(user_error)) from error


class _Datastore(LocalDatastore):
    """Checks labels when they are submitted. The server's own takes any file, and a training would find out."""

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> Any:
        with _answer_user_errors():
            if image := self.get_image_uri(image_id):
                _load_label(image, label_filename)
            return super().save_label(image_id, label_filename, label_tag, label_info)


def _load_label(image: str, label: str) -> Any:
    """Load a label, and refuse one that does not lie on its image."""
    return LoadStackd(["image", "label"])({"image": image, "label": label})["label"]


def _checkpoint(bundle: Path, request: Mapping[str, Any]) -> Path:
    """The checkpoint that a request names: a name, or a list of names whose first is meant."""
    names = _checkpoints(bundle)
    asked = request.get("model_filename") or WEIGHTS
    name = asked if isinstance(asked, str) else asked[0]
    if name not in names:
        raise UserError(f"checkpoint {name}: not one of {bundle.name}, which has {', '.join(names)}: choose one.")
    return bundle / "models" / name


def _checkpoints(bundle: Path) -> list[str]:
    """The names of all checkpoints of a bundle, the default first."""
    names = sorted(path.name for path in (bundle / "models").glob("*.pt"))
    return sorted(names, key=lambda name: name != WEIGHTS)


def _class_names(bundle: Path) -> dict[int, str]:
    """The name of each value of a bundle's masks."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    prediction = next(iter(metadata["network_data_format"]["outputs"].values()))
    return {int(value): name for value, name in prediction["channel_def"].items()}


class _Infer(BundleInferTask):
    def __init__(self, bundle: Path, conf: dict[str, str]) -> None:
        super().__init__(str(bundle), conf, type="segmentation")
        self.bundle = bundle
        self.dimension = 3  # a stack, whatever the network sees of it
        self.labels = {name: value for value, name in _class_names(bundle).items() if name.lower() != "background"}
        self.config()

    def config(self) -> dict[str, Any]:
        self._config["model_filename"] = _checkpoints(self.bundle)  # the first is what a request without one gets
        self._config["slices"] = ""  # all
        return self._config  # type: ignore[no-any-return]

    def __call__(self, request: Mapping[str, Any], callbacks: Any = None) -> Any:
        return super().__call__({**request, RANGE_KEY: str(request.get("slices") or "")}, callbacks)

    def _get_network(self, device: str, data: Mapping[str, Any] | None) -> Any:
        # MONAI Label loads what fits of a file and leaves the rest random, and tells two files only by their times.
        file = _checkpoint(self.bundle, data or {})
        state = file.stat()
        version = (file, state.st_mtime_ns, state.st_size)
        if self._networks.get(device, (None, None))[1] != version:
            network = load_weights(copy.deepcopy(self.network), file).to(device).eval()
            self._networks[device] = (network, version)
        return self._networks[device][0]

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> Any:
        doubted = [row for row in data.get("doubts", ()) if row["doubts"]]
        data[self.output_json_key] = {**data.get(self.output_json_key, {}), "doubted_slices": doubted}
        ending = extension or data.get("result_extension") or file_ext(data["image_path"])
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


class _Train(BundleTrainTask):
    def __init__(self, bundle: Path, conf: dict[str, str]) -> None:
        super().__init__(str(bundle), conf)
        self.bundle = bundle
        self._weights: Path | None = None

    def config(self) -> dict[str, Any]:
        return {**super().config(), "model_filename": _checkpoints(self.bundle)}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> Any:
        self._weights = _checkpoint(self.bundle, request) if request.get("pretrained", True) else None
        return super().__call__(request, datastore)

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Any) -> list[dict[str, str]]:
        items: list[dict[str, str]] = super()._fetch_datalist(request, datastore)
        if not items:
            raise UserError("no stack has a label with the tag 'final'. A training needs at least one: submit some.")
        class_names = _class_names(self.bundle)
        for item in items:
            found = torch.unique(_load_label(item["image"], item["label"])).tolist()
            if not set(found) <= set(class_names):
                raise UserError(
                    f"{item['label']}: holds the values {found[:8]}. {self.bundle.name} knows {class_names}: correct "
                    "the label, or serve the structures of other models from a folder of studies of their own."
                )
        return sorted(items, key=lambda item: item["image"])  # phases of a heart side by side

    def _partition_datalist(
        self, datalist: list[dict[str, str]], request: Mapping[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        share = request.get("val_split", 0.2)
        if not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise UserError(f"val_split {share!r}: a share of the stacks is held out. Choose from 0 to below 1.")
        held_out = 0
        if share > 0:
            held_out = min(max(1, round(share * len(datalist))), len(datalist) - 1)
        logger.info(f"{len(datalist)} labelled stacks, of which {held_out} held out for validation")
        if not held_out:
            logger.warning("No stack is held out: the best epoch is chosen on the stacks that are trained on")
            return datalist, datalist
        return datalist[:-held_out], datalist[-held_out:]

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[Any]) -> None:
        """Does nothing: MONAI Label's raises a TypeError without pretrained weights. See :meth:`_update_overrides`."""

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        if self._weights is not None:
            overrides["weights"] = str(self._weights)
            overrides["network"] = "$monai_iln.networks.load_weights(@network_def, @weights).to(@device)"
        return overrides


class _BatchInfer(BatchInferTask):
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
