"""Ignite handlers that MONAI lacks: training curves, Dice per image, overlays."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.handlers import from_engine
from monai.metrics import compute_dice
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from monai_iln.errors import UserError

_DRAWN_PIXELS = 96  # side of an overlay's tile: the heart and its surroundings
_TILES_PER_ROW = 12
_MOST_TILES = 40 * _TILES_PER_ROW  # what a PNG and an eye can take


def slices_from_engine(keys: Sequence[str]) -> Callable[[Any], tuple[list[Tensor], ...]]:
    """An ``output_transform`` for metrics per slice: stacks ``(C, H, W, Z)`` to lists of ``(C, H, W)``, key by key."""

    def transform(output: Sequence[dict[str, Tensor]]) -> tuple[list[Tensor], ...]:
        return tuple([slice_ for item in output for slice_ in item[key].unbind(-1)] for key in keys)

    return transform


class TrainingCurves:
    """Progress bar, one printed line an epoch, and curves of training loss and validation Dice.

    Attach it to the trainer after the ``ValidationHandler``. ``curves.csv`` and ``curves.png`` are written anew after
    every epoch. A loss that is not finite ends the training with a ``UserError``.

    Args:
        evaluator: the validating engine; its key metric is drawn.
        output_dir: folder of the two files; made if missing.
    """

    def __init__(self, evaluator: Engine, output_dir: str) -> None:
        self.evaluator = evaluator
        self.output_dir = Path(output_dir)
        self.rows: list[tuple[int, float, float | None]] = []
        self._losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iterate)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        epochs, iterations = engine.state.max_epochs or 0, engine.state.epoch_length or 0
        self._bar = tqdm(total=epochs * iterations, initial=engine.state.iteration, desc="Training", unit="batch")

    def _iterate(self, engine: Engine) -> None:
        loss = float(from_engine("loss", first=True)(engine.state.output))
        if not np.isfinite(loss):
            raise UserError(
                f"training: the loss is {loss} in epoch {engine.state.epoch}. It diverged, and what follows is "
                "worthless: choose a lower learning rate, or another norm."
            )
        self._losses.append(loss)
        self._bar.update()

    def _finish_epoch(self, engine: Engine) -> None:
        epoch, loss = engine.state.epoch, float(np.mean(self._losses))
        validated = self.evaluator.state.epoch == epoch  # a validation runs as the epoch of the trainer
        dice = float(self.evaluator.state.metrics[self.evaluator.state.key_metric_name]) if validated else None
        self._losses.clear()
        self.rows.append((epoch, loss, dice))
        said = "" if dice is None else f", validation Dice {dice:.3f}"
        tqdm.write(f"epoch {epoch}/{engine.state.max_epochs}: loss {loss:.3f}{said}")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / "curves.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("epoch", "loss", "val_mean_dice"), *self.rows])
        self._draw()

    def _draw(self) -> None:
        epochs, losses, _ = zip(*self.rows, strict=True)
        validated = [(epoch, dice) for epoch, _, dice in self.rows if dice is not None]
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(epochs, losses, color="tab:blue")
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
        figure.savefig(self.output_dir / "curves.png", dpi=120)

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        self._bar.close()
        if error is not None:
            raise error


class SaveImageDice:
    """Dice of every slice with its subject, phase and number, to ``images.csv``, and a summary in print.

    Attach it to an evaluator whose batches hold whole stacks and whose output has one-hot ``pred`` and ``label`` of two
    classes. A slice without truth scores 1 where nothing is predicted and 0 otherwise.

    Args:
        output_dir: folder of the file; made if missing.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            truth, prediction = output["label"].movedim(-1, 0), output["pred"].movedim(-1, 0)
            dice = compute_dice(prediction, truth, include_background=False, ignore_empty=False).flatten()
            for index, value in enumerate(dice.tolist()):
                self.rows.append(
                    {
                        "subject": item["subject"],
                        "phase": item["phase"],
                        "slice": _number(item, index),
                        "truth_pixels": int(truth[index, 1].sum()),
                        "predicted_pixels": int(prediction[index, 1].sum()),
                        "dice": round(value, 6),
                    }
                )

    def _write(self, engine: Engine) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / "images.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        subjects: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            subjects[row["subject"]].append(row["dice"])
        scores = np.array([row["dice"] for row in self.rows])
        print(
            f"Dice {scores.mean():.3f} ± {scores.std(ddof=1):.3f}, median {np.median(scores):.3f}, below 0.5: "
            f"{(scores < 0.5).mean():.1%}, over {len(scores)} images of {len(subjects)} subjects. Worst first:"
            if len(scores) > 1
            else f"Dice {scores[0]:.3f} of 1 image"
        )
        for subject, values in sorted(subjects.items(), key=lambda pair: float(np.mean(pair[1]))):
            print(f"  {subject!s:14s} {np.mean(values):.3f}  ({len(values)} images, worst {min(values):.3f})")
        print(f"per image: {self.output_dir / 'images.csv'}")


class SaveOverlay:
    """Contact sheet of the slices: truth red, prediction green, both yellow; without truth the prediction alone.

    Of more than 480 slices it shows 480, evenly spaced, and says so.

    Attach it to an evaluator whose batches hold whole stacks. While a training validates, the sheet is redrawn only
    when the key metric is the best so far, so that it shows what the saved model does.

    Args:
        path: of the PNG file; its folder is made if missing.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.tiles: list[tuple[str, NDArray[np.float32]]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self.tiles.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, prediction = output["image"][0], _foreground(output["pred"])
            truth = None if output.get("label") is None else _foreground(output["label"])
            name = f"{item['subject']} {item['phase']}" if "subject" in item else "slice"
            for index in range(image.shape[-1]):
                truth_slice = None if truth is None else truth[..., index]
                tile = overlay(image[..., index], prediction[..., index], truth_slice)
                self.tiles.append((f"{name} {_number(item, index)}", tile))

    def _write(self, engine: Engine) -> None:
        if engine.state.metrics and engine.state.best_metric_epoch != engine.state.epoch:
            return
        tiles = [
            self.tiles[i] for i in np.linspace(0, len(self.tiles) - 1, min(len(self.tiles), _MOST_TILES)).astype(int)
        ]
        columns = min(_TILES_PER_ROW, len(tiles))
        rows = -(-len(tiles) // columns)
        figure = Figure(figsize=(1.3 * columns, 1.45 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.set_axis_off()
            if index < len(tiles):
                name, tile = tiles[index]
                axes.imshow(tile)
                axes.set_title(name, fontsize=6)
        if len(tiles) < len(self.tiles):
            figure.suptitle(f"{len(tiles)} of {len(self.tiles)} slices")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.path, dpi=120)


def _number(item: Mapping[str, Any], index: int) -> int:
    """The number of a slice in the series it comes from, where the datalist tells."""
    return int(item["slices"][index]) if "slices" in item else index + 1


def overlay(image: Tensor, prediction: Tensor, truth: Tensor | None = None) -> NDArray[np.float32]:
    """One slice as RGB with truth in red, prediction in green and their overlap in yellow.

    Args:
        image: ``(H, W)``, any scale.
        prediction: ``(H, W)`` of 0 and 1.
        truth: ``(H, W)`` of 0 and 1, or ``None``.

    Returns:
        ``(h, w, 3)`` in [0, 1], cropped around the truth, else around the prediction, else around the centre.
    """
    masks = [np.zeros(image.shape) if truth is None else _array(truth), _array(prediction), np.zeros(image.shape)]
    grey = _array(image)
    grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-12)
    colour = np.stack(masks, axis=-1)
    marked = colour.any(axis=-1)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    rgb[marked] = 0.55 * rgb[marked] + 0.45 * colour[marked]
    places = np.argwhere(masks[0] if masks[0].any() else masks[1])
    centre = places.mean(axis=0) if len(places) else np.array(image.shape) / 2
    window = []
    for middle, size in zip(centre, image.shape, strict=True):
        start = int(np.clip(middle - _DRAWN_PIXELS / 2, 0, max(size - _DRAWN_PIXELS, 0)))
        window.append(slice(start, start + _DRAWN_PIXELS))
    return rgb[tuple(window)].astype(np.float32)


def _foreground(classes: Tensor) -> Tensor:
    """``(C, H, W, Z)``, one-hot or of one channel of indices, to ``(H, W, Z)`` of 0 and 1."""
    return (classes[0] if classes.shape[0] == 1 else classes[1]) > 0


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return torch.as_tensor(tensor).detach().cpu().numpy().astype(np.float64)
