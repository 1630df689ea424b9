"""The course of a training: how far it is, printed lines, losses and the key metric of the validation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from monai_iln.errors import DivergedError, require
from monai_iln.files import new_file, write_json
from monai_iln.handlers.ranks import is_first, mean_over_ranks
from monai_iln.run_files import CURVES, CURVES_PICTURE, LOSSES, PROGRESS

_PROGRESS_SECONDS = 3.0


class TrainingCurves:
    """Shows a progress bar, prints a line an epoch, and saves curves of the training loss and the key metric.

    Attach it to the trainer after the ``ValidationHandler``. Any engine will do whose output is a loss, a dictionary
    with a ``loss``, or a list of such dictionaries, of which the first counts. After every epoch ``curves.csv``
    (``epoch``, ``loss``, ``val_mean_dice``, which is the key metric, whatever its name) and ``curves.png`` are written
    anew, and the epoch's lines are added to ``losses.csv`` (``iteration``, ``loss``). Losses are means over the ranks.

    While the training runs, ``progress.json`` tells every few seconds how far it is: ``epoch`` of ``epochs``,
    ``iteration`` of ``iterations``, the last ``loss``, when it ``started``, and the ``seconds`` since then and those
    ``left``; ``null`` is what is not known. The file is removed when the training ends.

    A loss that is not finite ends the training with a :class:`~monai_iln.errors.DivergedError`; ``losses.csv`` then
    ends before it. It ends all ranks in the same iteration: they would wait for each other for ever.

    Args:
        evaluator: The engine that validates, if there is one. Its key metric is drawn, if it has one.
        output_dir: The folder of the files. It is made if it is missing.

    Raises:
        UserError: In the first iteration, if the trainer's output has no loss.
    """

    def __init__(self, evaluator: Engine | None, output_dir: str) -> None:
        self.evaluator = evaluator
        self.output_dir = Path(output_dir)
        self.rows: list[tuple[int, float, float | None]] = []
        self._losses: list[float] = []  # of this epoch
        self._last = 0  # iteration of the last of them
        self._bar: Any = None
        self._begun = self._told = 0.0  # by the clock that never goes back
        self._done = 0  # iterations before this start

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iterate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        self._done = engine.state.iteration
        self._losses.clear()
        if not self._done:  # a training that goes on adds to its rows
            self.rows.clear()
        self._bar = tqdm(
            total=_iterations(engine), initial=self._done, desc="Training", unit="batch", disable=not is_first()
        )
        if not is_first():
            return
        self._started, self._begun = time.time(), time.monotonic()
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if not self._done or not (self.output_dir / LOSSES.name).is_file():  # a resumed training adds to its file
            LOSSES.write(self.output_dir)
        self._tell(engine)

    def _iterate(self, engine: Engine) -> None:
        (loss,) = mean_over_ranks([_loss_of(engine.state.output)])  # one that is not finite ends them all, at once
        if not np.isfinite(loss):
            raise DivergedError(
                f"training: the loss is {loss} in epoch {engine.state.epoch}. It diverged, and what follows is "
                "worthless: choose a lower learning rate, or another norm."
            )
        self._losses.append(loss)
        self._last = engine.state.iteration
        if self._bar is not None:
            self._bar.update()
        if is_first() and time.monotonic() - self._told >= _PROGRESS_SECONDS:
            self._tell(engine)

    def _tell(self, engine: Engine) -> None:
        """Write how far the training is."""
        self._told = time.monotonic()
        iteration, iterations = engine.state.iteration, _iterations(engine)
        seconds, left = self._told - self._begun, None
        if iterations is not None and iteration > self._done:
            left = round(seconds / (iteration - self._done) * (iterations - iteration), 1)
        progress = {
            "epoch": engine.state.epoch,
            "epochs": engine.state.max_epochs,
            "iteration": iteration,
            "iterations": iterations,
            "loss": self._losses[-1] if self._losses else None,
            "started": self._started,
            "seconds": round(seconds, 1),
            "left": left,
        }
        write_json(self.output_dir / PROGRESS, progress)

    def _finish_epoch(self, engine: Engine) -> None:
        losses = list(self._losses)
        self._losses.clear()
        if not is_first():
            return
        epoch, loss = engine.state.epoch, float(np.mean(losses))
        line, score = f"epoch {epoch}/{engine.state.max_epochs}: loss {loss:.3f}", None
        name = self._metric()
        # A validation runs as the epoch of the trainer.
        if self.evaluator is not None and name is not None and self.evaluator.state.epoch == epoch:
            score = float(self.evaluator.state.metrics[name])
            line += f", {in_words(name)} {score:.3f}"
        tqdm.write(line)
        self.rows.append((epoch, loss, score))
        self._add_losses(losses)
        CURVES.write(self.output_dir, self.rows)
        self._draw()

    def _metric(self) -> str | None:
        """Name the key metric of the evaluator, which MONAI's engines have from their start."""
        return getattr(getattr(self.evaluator, "state", None), "key_metric_name", None)

    def _add_losses(self, losses: list[float]) -> None:
        first = self._last - len(losses) + 1
        LOSSES.append(self.output_dir, ((iteration, f"{loss:.6g}") for iteration, loss in enumerate(losses, first)))

    def _draw(self) -> None:
        epochs, losses, _ = zip(*self.rows, strict=True)
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        marker = "o" if len(epochs) == 1 else ""  # a line of one point shows nothing
        axes.plot(epochs, losses, color="tab:blue", marker=marker)
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))  # there is no half epoch
        if min(losses) >= 0:
            axes.set_ylim(0, None)
        axes.set_ylabel("training loss", color="tab:blue")
        name = self._metric()
        if name is not None:
            self._draw_scores(axes.twinx(), name)
        with new_file(self.output_dir / CURVES_PICTURE) as partial:
            figure.savefig(partial, dpi=120)

    def _draw_scores(self, axes: Any, name: str) -> None:
        axes.set_ylabel(in_words(name), color="tab:orange")
        validated = [(epoch, score) for epoch, _, score in self.rows if score is not None]
        if all(0 <= score <= 1 for _, score in validated):
            axes.set_ylim(0, 1)
        if not validated:
            return
        axes.plot(*zip(*validated, strict=True), color="tab:orange")
        better = getattr(self.evaluator, "metric_cmp_fn", lambda new, best: new > best)  # of MONAI's engines
        epoch, score = reduce(lambda best, new: new if better(new[1], best[1]) else best, validated)
        axes.plot(epoch, score, "o", color="tab:orange")
        # On the side of the worse scores: at the other the border of the picture may be.
        beside = 7 if better(score - 1, score) else -14
        axes.annotate(f"{score:.3f}", (epoch, score), xytext=(0, beside), textcoords="offset points", ha="center")

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
        if is_first() and self._losses:  # of an unfinished epoch
            self._add_losses(self._losses)
            self._losses.clear()
        if is_first():
            (self.output_dir / PROGRESS).unlink(missing_ok=True)
        if error is not None:
            raise error


def _iterations(engine: Engine) -> int | None:
    """Count the iterations of a whole training. Without the length of an epoch they are not known."""
    state = engine.state
    if getattr(state, "max_iters", None) is not None:
        return int(state.max_iters)
    if state.epoch_length is None or state.max_epochs is None:
        return None
    return int(state.max_epochs * state.epoch_length)


def _loss_of(output: Any) -> float:
    """Take the loss out of a trainer's output. One with several elements counts as their mean."""
    if isinstance(output, (list, tuple)) and len(output):  # one for each item of the batch, all with the same loss
        output = output[0]
    if isinstance(output, Mapping):
        got = f"a trainer whose output holds {', '.join(map(str, output)) or 'nothing'}"
        require("loss" in output, got, "curves are of its 'loss'", "let its step return one under this name")
        output = output["loss"]
    return float(torch.as_tensor(output).detach().cpu().double().mean())


def in_words(metric: str) -> str:
    """What a reader calls a metric.

    Args:
        metric: The name of the metric.
    """
    return "validation Dice" if "dice" in metric.casefold() else metric
