"""What an evaluator's own score of every case becomes under changes of its image."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data.utils import dense_patch_slices
from torch import Tensor

from monai_iln.errors import require
from monai_iln.handlers.cases import SaveCaseScores, masks_of
from monai_iln.handlers.changed_inferer import ChangedInferer
from monai_iln.handlers.changes import BATCH, CHANGES, Windows
from monai_iln.run_files import ROBUSTNESS, UNCHANGED


class SaveRobustness(SaveCaseScores):
    r"""Saves the score of every case under changes of its image to ``robustness.csv``.

    The evaluator keeps its loader, its postprocessing and its key metric. Its loader gives every batch several times.
    Its inferer predicts it as it is, then under each change of :data:`~monai_iln.handlers.changes.CHANGES`, and last
    among other images of a batch. What a change moves is moved back before the score.

    Attach it to an evaluator that is not used otherwise. A line has ``part``, ``subject``, ``image``, ``change``, and

    - ``score``, the mean over classes; Dice where the key metric is of slices and not of cases;
    - of masks :math:`P` without and :math:`Q` with the change, ``disagreement``
      :math:`1 - 2|P \cap Q| / (|P| + |Q|)`, the mean over classes above 0 that either has; for shifted windows also
      ``near_borders`` of windows and ``elsewhere``;
    - ``empty_windows``, the number of windows side by side without any class in the truth, and ``marked``, the share of
      their voxels in which a class is predicted;
    - ``seconds`` from the batch to the score, for each case.

    A change that has no meaning for an image, or that the network does not take, has no line.

    Args:
        output_dir: The folder of the file.
        subjects: The subject of each case, in the order of the cases.
        images: The image of each case, by which the cases of a subject are told apart.
        metric: The key metric as the evaluator has it, by name; ``None`` where there is none.
        part: The part of the data, ``"test"`` or ``"validation"``.
        structures: The names of the label values above 0.

    Raises:
        UserError: If the evaluator has no inferer, or does not predict by it. When it ends, as :class:`SaveCaseScores`.
    """

    def __init__(
        self,
        output_dir: str,
        subjects: Sequence[str],
        images: Sequence[str],
        metric: Mapping[str, Metric] | None,
        part: str = "test",
        structures: Sequence[str] = (),
    ) -> None:
        super().__init__(output_dir, subjects, images, metric, part, structures)
        self.changes = [UNCHANGED, *CHANGES, BATCH]

    def attach(self, engine: Engine) -> None:
        require(
            hasattr(engine, "inferer") and hasattr(engine, "data_loader"),
            f"an evaluator of the class {type(engine).__name__}",
            "its inferer is what predicts changed images",
            "take MONAI's SupervisedEvaluator, or leave robustness out",
        )
        self._inferer = engine.inferer = ChangedInferer(engine.inferer)
        engine.data_loader = _Repeated(engine.data_loader, len(self.changes))
        engine.state.epoch_length *= len(self.changes)
        self._lines: list[dict[str, Any] | None] = []
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        super().attach(engine)

    def _begin(self, engine: Engine) -> None:
        self._change = self.changes[(engine.state.iteration - 1) % len(self.changes)]
        self._inferer.change = None if self._change == UNCHANGED else self._change
        self._inferer.applied = False  # as long as nobody asks it
        if self._change == UNCHANGED:
            self._predicted: list[Tensor | None] = []
        self._place = 0
        self._begun = time.perf_counter()

    def _iterate(self, engine: Engine) -> None:
        before = len(self._lines)
        super()._iterate(engine)
        lines = self._lines[before:]
        seconds = (time.perf_counter() - self._begun) / max(1, len(lines))
        for line in filter(None, lines):
            line["seconds"] = round(seconds, 6)

    def _measure(self, output: Any) -> list[dict[str, Any]]:
        masks = masks_of(output, len(self.structures))
        line: dict[str, Any] = {"change": self._change}
        if masks is None:
            predicted, classes = None, 0
        else:
            truth, predicted = (mask[1:].bool() for mask in masks)
            classes = len(predicted)
            line |= self._compare(truth, predicted)
        if self._change == UNCHANGED:
            self._predicted.append(predicted)
        self._place += 1
        self._lines.append(line if self._inferer.applied else None)
        return [{}] * classes

    def _score_alone(self, output: Any) -> float:
        """The key metric of one case or, where it is none of one case, as of slices, Dice of the whole."""
        score = super()._score_alone(output)
        masks = None if np.isfinite(score) else masks_of(output, len(self.structures))
        if masks is None:
            return score
        truth, predicted = (mask[1:].bool() for mask in masks)
        return 1 - (disagreement(truth, predicted) or 0.0)

    def _compare(self, truth: Tensor, predicted: Tensor) -> dict[str, Any]:
        windows = self._inferer.windows
        if windows is not None and windows.shape != truth.shape[1:]:
            return self._disagreement(predicted, None)
        return self._disagreement(predicted, windows) | _marked(truth, predicted, windows)

    def _disagreement(self, predicted: Tensor, windows: Windows | None) -> dict[str, Any]:
        if self._change == UNCHANGED:
            return {"disagreement": 0.0}
        before = self._predicted[self._place]
        if before is None or before.shape != predicted.shape:
            return {}
        measured = {"disagreement": disagreement(before, predicted)}
        if windows is not None and self._change == "shift":
            near = windows.near_borders()
            measured["near_borders"] = disagreement(before & near, predicted & near)
            measured["elsewhere"] = disagreement(before & ~near, predicted & ~near)
        return measured

    def _write(self, engine: Engine) -> None:
        self._require_all(len(self.changes))
        require(
            any(line is not None for line in self._lines),
            f"an evaluator of the class {type(engine).__name__}",
            "it does not predict by its inferer, which is what predicts changed images",
            "let its network be called by engine.inferer, or leave robustness out",
        )
        rows = []
        for place, scores in enumerate(self._scores_by_class(engine)):
            line, number = self._lines[place], self._numbers[place]
            if line is None:
                continue
            known = [one for one in self._name(scores, self._measured[place])[1] if np.isfinite(one)]
            line |= {"score": float(np.mean(known)) if known else None, "part": self.part}
            line |= {"subject": self.subjects[number], "image": self.images[number]}
            rows.append([line.get(column) for column in ROBUSTNESS.columns])
        self.output_dir.mkdir(parents=True, exist_ok=True)
        ROBUSTNESS.write(self.output_dir, rows)


class _Repeated:
    """A loader that gives every batch several times."""

    def __init__(self, loader: Any, times: int) -> None:
        self.loader, self.times = loader, times
        self.sampler = getattr(loader, "sampler", None)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield from map(copy.deepcopy, itertools.repeat(batch, self.times))  # what one does to it, no other sees


def disagreement(first: Tensor, second: Tensor) -> float | None:
    r"""One minus Dice, :math:`1 - 2|P \cap Q| / (|P| + |Q|)`, the mean over classes.

    Args:
        first: The masks :math:`P`, of bool, ``(classes, ...)``.
        second: The masks :math:`Q`, of the same shape.

    Returns:
        The mean over the classes that either mask holds; ``None`` where there is none.

    Example:
        >>> masks = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool()
        >>> disagreement(masks, masks.roll(1, 1))
        0.5
    """
    sizes = (first.flatten(1).sum(dim=1) + second.flatten(1).sum(dim=1)).double()
    common = (first & second).flatten(1).sum(dim=1).double()
    there = sizes > 0
    if not bool(there.any()):
        return None
    return float((1 - 2 * common[there] / sizes[there]).mean())


def _marked(truth: Tensor, predicted: Tensor, windows: Windows | None) -> dict[str, Any]:
    """The number of windows without an object, and the share of their voxels that are marked."""
    shape = tuple(truth.shape[1:])
    roi = shape if windows is None else windows.roi
    there, marked = truth.any(dim=0), predicted.any(dim=0)
    shares = [
        float(marked[part].float().mean()) for part in dense_patch_slices(shape, roi, roi) if not there[part].any()
    ]
    return {"empty_windows": len(shares), "marked": float(torch.tensor(shares).mean()) if shares else None}
