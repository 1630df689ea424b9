"""The course of a training: progress bar, printed lines, losses and validation Dice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.handlers import from_engine
from tqdm import tqdm

from monai_iln.errors import DivergedError
from monai_iln.files import new_file
from monai_iln.handlers.ranks import is_first, mean_over_ranks
from monai_iln.run_files import CURVES, CURVES_PICTURE, LOSSES


class TrainingCurves:
    """Shows a progress bar, prints a line an epoch, and saves curves of training loss and validation Dice.

    Attach it to the trainer after the ``ValidationHandler``. After every epoch ``curves.csv`` (``epoch``, ``loss``,
    ``val_mean_dice``) and ``curves.png`` are written anew, and the epoch's lines are added to ``losses.csv``
    (``iteration``, ``loss``). Losses are means over the ranks.

    A loss that is not finite ends the training with a :class:`~monai_iln.errors.DivergedError`; ``losses.csv`` then
    ends before it.

    Args:
        evaluator: The engine that validates. Its key metric is drawn.
        output_dir: The folder of the files. It is made if it is missing.
    """

    def __init__(self, evaluator: Engine, output_dir: str) -> None:
        self.evaluator = evaluator
        self.output_dir = Path(output_dir)
        self.rows: list[tuple[int, float, float | None]] = []
        self._losses: list[float] = []  # of this epoch
        self._last = 0  # iteration of the last of them
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iterate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        epochs, iterations, done = engine.state.max_epochs or 0, engine.state.epoch_length or 0, engine.state.iteration
        self._losses.clear()
        self._bar = tqdm(total=epochs * iterations, initial=done, desc="Training", unit="batch", disable=not is_first())
        if is_first() and not done:  # a training that is resumed adds to its file
            self.output_dir.mkdir(parents=True, exist_ok=True)
            LOSSES.write(self.output_dir)

    def _iterate(self, engine: Engine) -> None:
        loss = float(from_engine("loss", first=True)(engine.state.output))
        if not np.isfinite(loss):
            raise DivergedError(
                f"training: the loss is {loss} in epoch {engine.state.epoch}. It diverged, and what follows is "
                "worthless: choose a lower learning rate, or another norm."
            )
        self._losses.append(loss)
        self._last = engine.state.iteration
        if self._bar is not None:
            self._bar.update()

    def _finish_epoch(self, engine: Engine) -> None:
        losses = mean_over_ranks(self._losses)
        self._losses.clear()
        if not is_first():
            return
        epoch, loss = engine.state.epoch, float(np.mean(losses))
        line, dice = f"epoch {epoch}/{engine.state.max_epochs}: loss {loss:.3f}", None
        if self.evaluator.state.epoch == epoch:  # a validation runs as the epoch of the trainer
            dice = float(self.evaluator.state.metrics[self.evaluator.state.key_metric_name])
            line += f", validation Dice {dice:.3f}"
        tqdm.write(line)
        self.rows.append((epoch, loss, dice))
        self._add_losses(losses)
        CURVES.write(self.output_dir, self.rows)
        self._draw()

    def _add_losses(self, losses: list[float]) -> None:
        first = self._last - len(losses) + 1
        LOSSES.append(self.output_dir, ((iteration, f"{loss:.6g}") for iteration, loss in enumerate(losses, first)))

    def _draw(self) -> None:
        epochs, losses, _ = zip(*self.rows, strict=True)
        validated = [(epoch, dice) for epoch, _, dice in self.rows if dice is not None]
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        marker = "o" if len(epochs) == 1 else ""  # a line of one point shows nothing
        axes.plot(epochs, losses, color="tab:blue", marker=marker)
        axes.set(xlabel="epoch", ylim=(0, None))
        axes.set_ylabel("training loss", color="tab:blue")
        right = axes.twinx()
        right.set_ylabel("validation Dice", color="tab:orange")
        right.set_ylim(0, 1)
        if validated:
            right.plot(*zip(*validated, strict=True), color="tab:orange")
            epoch, dice = max(validated, key=lambda pair: pair[1])
            right.plot(epoch, dice, "o", color="tab:orange")
            right.annotate(f"{dice:.3f}", (epoch, dice), xytext=(0, -14), textcoords="offset points", ha="center")
        with new_file(self.output_dir / CURVES_PICTURE) as partial:
            figure.savefig(partial, dpi=120)

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._bar is not None:
            self._bar.close()
        if is_first() and self._losses:  # of an unfinished epoch, and this rank's own: the others may be gone
            self._add_losses(self._losses)
            self._losses.clear()
        if error is not None:
            raise error
