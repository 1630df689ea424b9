"""The score of every case by an evaluator's own key metric, and what else can be measured of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import EpochMetric, Metric, MetricsLambda
from monai.handlers import IgniteMetricHandler
from monai.networks import one_hot
from torch import Tensor
from torch.utils.data import SequentialSampler

from monai_iln.errors import UserError, require
from monai_iln.handlers.case_pictures import save_pictures
from monai_iln.handlers.metrics import score
from monai_iln.run_files import CASE, CASES


class NoCaseScoresError(UserError):
    """An evaluator does not tell the score of a case, whatever its network predicts."""


class SaveCaseScores:
    """Saves the score of every case and class to ``images.csv``, by the evaluator's own key metric.

    Metrics of MONAI keep the score of each case and class. Of another one, such as an accuracy or what is calculated
    from several (ignite's ``MetricsLambda``), the value for each case alone is taken, unless it keeps all outputs to
    score them together, as mAP and AUC do. Where the output has ``pred`` and ``label`` as masks, Dice, surface
    distances and volumes are measured, too, and of test cases with ``image`` a picture is drawn for each class; see
    :func:`~monai_iln.handlers.case_pictures.save_pictures`.

    Attach it to the evaluator. A line has ``part``, ``subject``, ``structure``, ``score``, and the columns of
    :func:`~monai_iln.handlers.metrics.score` where they could be measured. Lines of another part are kept.

    Args:
        output_dir: The folder of the file.
        subjects: The subject of each case, in the order of the cases.
        images: The image of each case, by which the cases of a subject are told apart.
        metric: The key metric as the evaluator has it, by name; ``None`` where there is none.
        part: The part of the data, ``"test"`` or ``"validation"``.
        structures: The names of the label values above 0; empty for "class 1", "class 2", ...

    Raises:
        NoCaseScoresError: If the metric scores all cases together, or nothing tells the cases apart.
        UserError: When the evaluator ends, if cases are missing, or nothing tells their scores.
    """

    def __init__(
        self,
        output_dir: str,
        subjects: Sequence[str],
        images: Sequence[str],
        metric: Mapping[str, Metric] | None,
        part: str,
        structures: Sequence[str] = (),
    ) -> None:
        self.output_dir = Path(output_dir)
        self.subjects = list(subjects)
        self.images = list(images)
        self.metric = next(iter((metric or {}).values()), None)
        self.part = part
        self.structures = list(structures)

    def attach(self, engine: Engine) -> None:
        self._single = _copy_of(self.metric, engine)
        self._numbers: list[int] = []
        self._alone: list[float] = []
        self._measured: list[list[dict[str, Any]]] = []
        self._together = False  # the metric scores all cases together
        self._overlap = False  # Classes that do are no values of labels, and have other names.
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iterate)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _iterate(self, engine: Engine) -> None:
        batch, output = _items(engine.state.batch), _items(engine.state.output)
        for number, one in enumerate(output):
            item = batch[number] if number < len(batch) and isinstance(batch[number], Mapping) else {}
            require(
                CASE in item or not _is_shuffled(engine),
                f"items without {CASE!r} from a loader that does not keep their order",
                "by it the evaluator's outputs are told apart",
                "let no transform of the validation drop keys of an item, or do not shuffle there",
                NoCaseScoresError,
            )
            self._numbers.append(int(item.get(CASE, len(self._numbers))))
            self._alone.append(self._score_alone(one))
            self._measured.append(self._measure(one))
            self._overlap |= _overlap(one)

    def _measure(self, output: Any) -> list[dict[str, Any]]:
        """What else is measured of a case, for each class of its masks."""
        masks = masks_of(output, len(self.structures))
        if masks is None:
            return []
        truth, prediction = masks
        pictures = []
        if self.part == "test":
            pictures = save_pictures(self.output_dir, self._numbers[-1], output.get("image"), truth, prediction)
        if truth.dim() == 3:
            truth, prediction = truth[..., None], prediction[..., None]
        spacing = getattr(output["label"], "pixdim", torch.ones(3))
        lengths = [float(length) for length in spacing[: truth.dim() - 1]] + [1.0] * (4 - len(spacing))
        (rows,) = score(truth, prediction, lengths[:3], "volume")
        for row, picture in zip(rows, pictures, strict=False):
            row["prediction"] = picture
        return rows

    def _score_alone(self, output: Any) -> float:
        """The key metric of one case; NaN where it is none of one case."""
        metric = self._single
        if metric is None:
            return float("nan")
        try:
            metric.reset()
            for part in _parts(metric):
                part.iteration_completed(SimpleNamespace(state=SimpleNamespace(output=[output])))
                self._together |= _keeps_outputs(part)
            return float("nan") if self._together else float(metric.compute())
        except (ValueError, RuntimeError, TypeError):  # metrics raise as they like
            return float("nan")

    def _require_all(self, times: int = 1) -> None:
        """Refuse an evaluation that has not scored every case so many times."""
        missing = len(set(range(len(self.subjects))) - set(self._numbers))
        require(
            missing == 0 and len(self._numbers) == times * len(self.subjects),
            f"{len(self._numbers) // times} scores of {len(self.subjects)} cases in the part {self.part}",
            "an evaluator scores every case once",
            "let its data set hold each item once (no random crops into several samples, no dropped batch)",
        )

    def _write(self, engine: Engine) -> None:
        self._require_all()
        by_class = self._scores_by_class(engine)
        rows = []
        for place, number in enumerate(self._numbers):
            measured = self._measured[place]
            names, scores = self._name(by_class[place], measured)
            for place_of_class, (name, value) in enumerate(zip(names, scores, strict=True)):
                row: dict[str, Any] = {"part": self.part, "subject": self.subjects[number], "structure": name}
                if len(measured) == len(names):
                    row |= measured[place_of_class]
                rows.append({**row, "score": value, "image": self.images[number]})
        self._save(rows)

    def _scores_by_class(self, engine: Engine) -> list[list[float]]:
        details = getattr(engine.state, "metric_details", {}).get(getattr(engine.state, "key_metric_name", None))
        if isinstance(details, (list, tuple)) and len(details) == 1:
            details = details[0]
        # Some keep more than a score of each class: ConfusionMatrix four counts, which are no scores.
        if isinstance(details, Tensor) and len(details) == len(self._numbers) and details.dim() < 3:
            table = details.detach().cpu().double().reshape(len(details), -1)
            return [[float(value) for value in row] for row in table]
        lack = "which this metric does not give"
        kind: type[UserError] = NoCaseScoresError
        if self._together:
            lack = f"and {type(self.metric).__name__} keeps all outputs to score them together, as mAP and AUC do"
        elif self._single is not None:  # some value is undefined, perhaps for what was predicted
            kind = UserError
        require(
            bool(np.isfinite(self._alone).all()),
            f"key metric {getattr(engine.state, 'key_metric_name', None)!r}",
            f"a study needs a score of each case, {lack}",
            "give the evaluator another key metric: one of MONAI with a score for each image, such as MeanDice, or one "
            "that adds up what it scores of each case, such as the share of its boxes that are found",
            kind,
        )
        return [[value] for value in self._alone]

    def _name(self, scores: list[float], measured: list[dict[str, Any]]) -> tuple[list[str], list[float]]:
        """The names of classes, and their scores. A background that is scored, too, is left out."""
        names = [] if self._overlap else self.structures
        names = names or [f"class {number}" for number in range(1, len(measured) + 1)]
        if names and len(scores) == len(names) + 1:
            scores = scores[1:]
        if len(scores) == len(names):
            return names, scores
        if len(scores) == 1:
            return ["all"], scores
        return [f"class {number}" for number in range(1, len(scores) + 1)], scores

    def _save(self, rows: list[dict[str, Any]]) -> None:
        kept: list[dict[str, Any]] = [row for row in CASES.read_rows(self.output_dir) if row["part"] != self.part]
        self.output_dir.mkdir(parents=True, exist_ok=True)
        CASES.write(self.output_dir, ([_cell(row.get(column)) for column in CASES.columns] for row in kept + rows))


def _copy_of(metric: Metric | None, engine: Engine) -> Metric | None:
    """A metric of its own for one case after another, while the evaluator's goes on with all cases.

    Metrics of MONAI have none: they keep the score of each case, or have no such score.
    """
    if metric is None or isinstance(metric, IgniteMetricHandler):
        return None
    try:
        return copy.deepcopy(metric, {id(engine): engine})  # which a MetricsLambda knows
    except Exception:  # it may hold anything, such as a lock
        # The copy of a MetricsLambda would share its parts with the evaluator's.
        return None if isinstance(metric, MetricsLambda) else copy.copy(metric)


def _parts(metric: Metric) -> list[Metric]:
    """The metric, or those of which a MetricsLambda is made, each once: it updates none of them."""
    if not isinstance(metric, MetricsLambda):
        return [metric]
    parts: dict[int, Metric] = {}
    for one in (*metric.args, *metric.kwargs.values()):
        if isinstance(one, Metric):
            parts |= {id(part): part for part in _parts(one)}
    return list(parts.values())


def _keeps_outputs(metric: Metric) -> bool:
    """Whether a metric keeps what was predicted of a case, and not what it scores of it.

    Metrics of boxes keep a dictionary or a table for each case. What keeps numbers, such as scores and their weights,
    may have a score of each case.
    """
    lists = (value for value in vars(metric).values() if isinstance(value, list))
    return isinstance(metric, EpochMetric) or any(_is_output(one) for its in lists for one in its)


def _is_output(kept: Any) -> bool:
    return isinstance(kept, Mapping) or (isinstance(kept, (Tensor, np.ndarray)) and kept.ndim > 1)


def _cell(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _items(batch: Any) -> list[Any]:
    """The items of a batch, decollated or not."""
    if isinstance(batch, (list, tuple)):
        return list(batch)
    if isinstance(batch, Mapping):
        sizes = [len(value) for value in batch.values() if isinstance(value, (Tensor, list)) and _is_batch(value)]
        count = min(sizes, default=0)
        return [{key: value[i] for key, value in batch.items() if _is_batch(value)} for i in range(count)]
    return []


def _is_batch(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.dim() > 0)


def _is_shuffled(engine: Engine) -> bool:
    sampler = getattr(engine.state.dataloader, "sampler", None)
    return sampler is not None and not isinstance(sampler, SequentialSampler)


def _overlap(output: Any) -> bool:
    """Whether a pixel of the label has several classes."""
    label = output.get("label") if isinstance(output, Mapping) else None
    return isinstance(label, Tensor) and label.dim() in (3, 4) and len(label) > 1 and bool((label.sum(dim=0) > 1).any())


def masks_of(output: Any, structures: int) -> tuple[Tensor, Tensor] | None:
    """The true and the predicted mask of a case, one-hot with the background first; ``None`` where it has none.

    Args:
        output: What an evaluator leaves of a case, with ``pred`` and ``label``.
        structures: The number of classes above 0; 0 where it is not known.
    """
    if not isinstance(output, Mapping):
        return None
    pred, label = output.get("pred"), output.get("label")
    if not isinstance(pred, Tensor) or not isinstance(label, Tensor) or pred.dim() not in (3, 4):
        return None
    truth, prediction = _one_hot(label, structures), _one_hot(pred, structures)
    if truth is None or prediction is None or truth.shape != prediction.shape:
        return None
    return truth, prediction


def _one_hot(mask: Tensor, structures: int) -> Tensor | None:
    """A mask as one channel for the background and one for each class; ``None`` where it is no mask."""
    mask = mask.detach().as_subclass(Tensor).cpu().float()
    if bool((mask != mask.round()).any()) or float(mask.min()) < 0:
        return None
    if len(mask) == 1:
        classes = max(structures, 1) + 1
        return one_hot(mask[None], classes)[0] if float(mask.max()) < classes else None
    if float(mask.max()) > 1:
        return None
    if bool((mask.sum(dim=0) == 1).all()):
        return mask
    return torch.cat([(mask.sum(dim=0, keepdim=True) == 0).float(), mask])  # of classes that may overlap
