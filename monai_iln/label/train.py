"""A training on the labels that were submitted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monailabel.tasks.train.bundle import BundleTrainTask

from monai_iln.errors import UserError, count
from monai_iln.files import write_json
from monai_iln.label.checkpoints import class_names, find_checkpoint, list_checkpoints
from monai_iln.label.stacks import hold_out, load_label
from monai_iln.run_files import FINE_TUNING

logger = logging.getLogger(__name__)

FINE_TUNE = "configs/fine_tune.yaml"
"""What is laid over the training of a bundle, so that it replaces no weights by worse ones."""


class Train(BundleTrainTask):
    """Trains a bundle on the stacks that have a final label."""

    def __init__(self, bundle: Path, conf: dict[str, str]) -> None:
        super().__init__(str(bundle), conf)
        self.bundle = bundle
        self._weights: Path | None = None
        self._held_out = 0
        self._compares = self.is_valid() and (bundle / FINE_TUNE).is_file()
        if self._compares:
            files = [self.bundle_config_path, str(bundle / FINE_TUNE)]
            self.bundle_config = self._load_bundle_config(str(bundle), files)
            self.bundle_config_path: Any = files

    def stats(self) -> dict[str, Any]:
        """What came of the last training; nothing without one, or while it runs."""
        file = self.bundle / "eval" / FINE_TUNING
        if not file.is_file():
            return {}
        outcome = json.loads(file.read_text(encoding="utf-8"))
        best = outcome["best"] if outcome["better"] else outcome["before"]
        return {"best_metric": best, **outcome}  # 3D Slicer shows this one

    def config(self) -> dict[str, Any]:
        return {**super().config(), "model_filename": list_checkpoints(self.bundle)}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> Any:
        self._weights = find_checkpoint(self.bundle, request) if request.get("pretrained", True) else None
        if not self._compares:
            logger.warning(
                f"{self.bundle.name} has no {FINE_TUNE}: its weights are replaced whatever they score. Write the app "
                "again to have them compared."
            )
        result = super().__call__(request, datastore)
        if self._compares and not self._held_out:
            self._doubt_outcome()
        return result

    def _doubt_outcome(self) -> None:
        """Tell that nothing but trained stacks judged, behind what came of it."""
        file = self.bundle / "eval" / FINE_TUNING
        if not file.is_file():  # processes of several GPUs failed, of which MONAI Label says nothing
            return
        outcome = json.loads(file.read_text(encoding="utf-8"))
        outcome["told"] += ". Only stacks that were trained on judged: hold some out to know (val_split, two stacks)"
        write_json(file, outcome)
        print(outcome["told"], flush=True)

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Any) -> list[dict[str, str]]:
        items: list[dict[str, str]] = super()._fetch_datalist(request, datastore)
        if not items:
            raise UserError("no stack has a label with the tag 'final'. A training needs at least one: submit some.")
        names = class_names(self.bundle)
        for item in items:
            found = torch.unique(load_label(item["image"], item["label"])).tolist()
            if not set(found) <= set(names):
                raise UserError(
                    f"{item['label']}: holds the values {found[:8]}. {self.bundle.name} knows {names}: correct "
                    "the label, or serve the structures of other models from a folder of studies of their own."
                )
        return sorted(items, key=lambda item: item["image"])  # phases of a heart side by side

    def _partition_datalist(
        self, datalist: list[dict[str, str]], request: Mapping[str, Any], shuffle: bool = False
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        share = request.get("val_split", 0.2)
        if not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise UserError(f"val_split {share!r}: a share of the stacks is held out. Choose from 0 to below 1.")
        training, held_out = hold_out(datalist, share)
        self._held_out = len(held_out)
        logger.info(f"{count(len(datalist), 'labelled stack')}, of which {len(held_out)} held out for validation")
        if not held_out:
            logger.warning("No stack is held out: the best epoch is chosen on the stacks that are trained on")
            return datalist, datalist
        return training, held_out

    def _load_checkpoint(self, model_pytorch: str, pretrained: bool, train_handlers: list[Any]) -> None:
        """Does nothing: MONAI Label's raises a TypeError without pretrained weights. See :meth:`_update_overrides`."""

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        if self._weights is not None:
            overrides["weights"] = str(self._weights)
        if self._compares:
            overrides.setdefault("weights", "$None")  # MONAI passes over an override that is None itself
        elif self._weights is not None:
            overrides["network"] = "$monai_iln.networks.load_weights(@network_def, @weights).to(@device)"
        return overrides
