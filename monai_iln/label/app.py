"""The MONAI Label app of the folders that :func:`monai_iln.label.write_app` writes.

MONAI Label's tasks for bundles do the work. This module adds three things: everything that a user can mend is answered
with a message instead of a bare status 500; images and labels are checked before they are used; what fails without a
GPU or with ``pretrained: false`` works. The server looks for a class whose direct base is ``MONAILabelApp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_iln import __version__
from monai_iln.errors import UserError, hide_tracebacks

try:
    from fastapi import HTTPException
    from monailabel.config import settings
    from monailabel.interfaces.app import MONAILabelApp

    from monai_iln.label.answers import answer_user_errors
    from monai_iln.label.checkpoints import class_names
    from monai_iln.label.dicomweb import PacsStudies
    from monai_iln.label.infer import Infer, InferAll
    from monai_iln.label.strategies import LEAST_SURE, LeastSure, RandomStack
    from monai_iln.label.studies import LocalStudies
    from monai_iln.label.train import Train
except ImportError as error:
    raise UserError(
        f"MONAI Label cannot be imported ({error}). An app runs in an environment with monailabel, best one of its "
        "own: install it there, with monai_iln."
    ) from error


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
        return LocalStudies(
            self.studies,
            settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _init_dicomweb_datastore(self) -> Any:
        models = {path.name: class_names(path) for path in self.bundles}
        structures = {model: {value: name for value, name in names.items() if value} for model, names in models.items()}
        return PacsStudies(self.studies, structures)

    def init_infers(self) -> dict[str, Any]:
        return {path.name: Infer(path, self.conf) for path in self.bundles}

    def init_trainers(self) -> dict[str, Any]:
        tasks = {path.name: Train(path, self.conf) for path in self.bundles}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Any]:
        return {LEAST_SURE: LeastSure(self._infers), "random": RandomStack()}

    def init_batch_infer(self) -> Any:
        return InferAll()

    def bundle_path(self, model: str | None) -> Any:
        # The server asks for it before it starts a task: the only place to refuse one before that.
        if model is not None and model not in self._infers:
            raise HTTPException(404, f"model {model}: not here. There are {', '.join(self._infers)}: choose one.")
        return super().bundle_path(model)

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> Any:
        image = request.get("image")
        self.bundle_path(request.get("model"))
        names = {f"{bundle}/models/": "checkpoint " for bundle in self.bundles}
        if isinstance(image, str) and not Path(image).exists():
            names[(datastore or self.datastore()).require_image(image)] = image
        with answer_user_errors(names):
            return super().infer(request, datastore)

    def next_sample(self, request: Mapping[str, Any]) -> Any:
        strategy = request.get("strategy") or "random"
        if strategy not in self._strategies:
            raise HTTPException(
                404, f"strategy {strategy}: not here. There are {', '.join(self._strategies)}: choose one."
            )
        self.bundle_path(request.get("model"))
        with answer_user_errors():
            return super().next_sample(request)

    def scoring(self, request: Mapping[str, Any], datastore: Any = None) -> Any:
        with answer_user_errors():
            return super().scoring(request, datastore)

    def train(self, request: Mapping[str, Any]) -> Any:
        if isinstance(self.datastore(), PacsStudies):
            self.datastore().model = request["model"]  # whose labels are fetched
        if self._server_mode:  # the client asked for run_sync and waits
            with answer_user_errors():
                return super().train(request)
        hide_tracebacks(own_process=True)  # of which the server keeps the end of the output
        return super().train(request)
