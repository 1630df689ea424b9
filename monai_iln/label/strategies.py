"""Which stack an annotator is offered next."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monai_iln.errors import find_user_error
from monai_iln.label.checkpoints import list_checkpoints
from monai_iln.label.stacks import why_no_stack
from monai_iln.run_files import SHIPPED

logger = logging.getLogger(__name__)

LEAST_SURE = "least_sure"
_SECONDS = 10.0  # that an annotator waits for stacks to be scored; the others are scored when the next is asked for


class RandomStack:
    """Offers any stack without a label. What is no stack is skipped."""

    def __init__(self) -> None:
        self._random = np.random.default_rng()

    def info(self) -> dict[str, str]:
        """What the server tells of it."""
        return {"description": "Any stack without a label"}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> Any:
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        for image in self._random.permutation(sorted(images)).tolist():
            path = _find_file(datastore, image)
            if path and _is_stack(image, path):
                return {"id": image}
        return None


class LeastSure:
    """Offers first the stack without a label whose mask is least sure.

    A stack scores the share of its slices that are doubted, see :class:`monai_iln.transforms.DoubtSlices`; plus one
    minus the mean probability of what is marked; plus, where a model has several checkpoints, how much their masks
    disagree: one minus the mean Dice between the first and each of the others. ``shipped.pt`` does not count; where it
    differs, it was improved on. What is no stack is skipped.

    A score is kept for as long as neither image nor checkpoints change. When asked, it scores for ten seconds at most,
    first what has no score, then what has one of earlier weights, and offers the best of what it knows. What was
    offered before comes last.

    Args:
        infers: The tasks that make masks, by model.
    """

    def __init__(self, infers: Mapping[str, Any]) -> None:
        self.infers = infers
        self._scores: dict[tuple[str, str], tuple[Any, float | None]] = {}  # by model and image: version and score

    def info(self) -> dict[str, str]:
        """What the server tells of it."""
        return {"description": "The stack without a label whose mask is least sure"}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> Any:
        model = request.get("model") or next(iter(self.infers))
        task = self.infers[model]
        images = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        checkpoints = [name for name in list_checkpoints(task.bundle) if name != SHIPPED]
        weights = [_version(task.bundle / "models" / name) for name in checkpoints]
        deadline = time.monotonic() + _SECONDS
        for image in sorted(images, key=lambda image: (model, image) in self._scores):
            path = _find_file(datastore, image)
            version = (path and _version(path), weights)
            if self._scores.get((model, image), (None,))[0] == version:
                continue
            score = self._score(task, path, checkpoints) if path and _is_stack(image, path) else None
            self._scores[model, image] = (version, score)
            if time.monotonic() > deadline:
                break
        known = {image: self._scores.get((model, image), (None, None))[1] for image in images}
        offered = {image: score for image, score in known.items() if score is not None}
        if not offered:
            return None
        best = max(offered, key=lambda image: (-_offered_at(datastore, image), offered[image]))
        return {"id": best, "score": offered[best], "scored": len(offered), "unlabeled": len(images)}

    def _score(self, task: Any, path: Path, checkpoints: list[str]) -> float:
        """Score a stack."""
        masks, doubted = [], 0.0
        for name in checkpoints:
            request = {"image": str(path), "model_filename": name, "skip_writer": True, "logging": "ERROR"}
            try:
                _, data = task(request)
            except Exception as error:
                if find_user_error(error) is None or name == checkpoints[0]:
                    raise
                logger.warning(f"{name} is left out: {find_user_error(error)}")
                continue
            masks.append(np.asarray(data["pred"]) != 0)  # (H, W, Z), as MONAI Label restores it
            if name == checkpoints[0]:
                doubted = float(np.mean([bool(row["doubts"]) for row in data["doubts"]]))
                sure = [row["probability"] for row in data["doubts"] if row["probability"] is not None]
                doubted += 1 - float(np.mean(sure or [0.0]))
        disagreement = np.mean([1 - _dice(masks[0], other) for other in masks[1:]]) if masks[1:] else 0.0
        return round(float(doubted + disagreement), 4)


def _find_file(datastore: Any, image: str) -> Path | None:
    """The file of an image; ``None`` if the studies have just found that it is none, as those of a PACS may."""
    try:
        return Path(datastore.get_image_uri(image))
    except Exception as error:
        if find_user_error(error) is None or image in datastore.list_images():
            raise
        logger.info(f"{image} is skipped: {find_user_error(error)}")
        return None


def _is_stack(image: str, path: Path) -> bool:
    reason = why_no_stack(path)
    if reason:
        logger.info(f"{image} is skipped: {reason}")
    return not reason


def _offered_at(datastore: Any, image: str) -> int:
    """When a stack was offered last, as the server keeps it; 0 if it never was."""
    return int(datastore.get_image_info(image).get("strategy", {}).get(LEAST_SURE, {}).get("ts", 0))


def _version(path: Path) -> tuple[str, int, int]:
    """What changes when a file does."""
    state = path.stat()
    return str(path), state.st_mtime_ns, state.st_size


def _dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1)) if a.any() or b.any() else 1.0
