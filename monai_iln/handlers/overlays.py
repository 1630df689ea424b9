"""Overlays of truth and prediction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor

from monai_iln.datasets.formats.volumes import without_type
from monai_iln.files import new_file
from monai_iln.handlers.ranks import gather, is_first
from monai_iln.handlers.slices import file_of, slice_number
from monai_iln.overlays import MOST_TILES, contact_sheet, overlay

if TYPE_CHECKING:
    from PIL.Image import Image

Tile = tuple[str, NDArray[np.float32]]
_DOUBTED = np.array([1.0, 0.5, 0.0], np.float32)  # orange
_DOUBTED_INK = "#b04a00"  # as dark as text
_FRAME_PIXELS = 3
_NOTE = "green: the mask; orange frame: look here; red: removed, for it does not touch the rest"

_MOST_LETTERS = 20  # of a title, which leave room for the number of a slice


class SaveOverlay:
    """Draws a contact sheet of the slices: truth red, prediction green, both yellow.

    Without truth it shows the prediction alone. Of more than 480 slices it shows 480, evenly spaced, and says so. A
    slice is called by subject and phase where the item has them, else by its file, with its folders where two files
    have one name.

    Where the output has the ``doubts`` of :class:`monai_iln.transforms.DoubtSlices`, a doubted slice has an orange
    frame and says why, and what was removed from it is red. Of more than 480 slices it then shows those that are
    doubted.

    Attach it to an evaluator whose batches hold whole stacks. While a training validates, the sheet is redrawn only
    when the key metric is the best so far, so that it shows what the saved model does.

    Args:
        path: The PNG file. Its folder is made if it is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.stacks: dict[tuple[str, str], list[Tile]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self.stacks.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, prediction = _array(output["image"][0]), _foreground(output["pred"])
            layers = [image, prediction]
            if output.get("label") is not None:
                layers.append(_foreground(output["label"]))
            elif output.get("doubts") is not None:
                layers.append(_removed(output))
            file = file_of(output["image"])
            name = f"{item['subject']} {item['phase']}" if "subject" in item else file or "slice"
            tiles = []
            for index in range(image.shape[-1]):
                tile = overlay(*(layer[..., index] for layer in layers))
                tiles.append((str(slice_number(item, index)), tile))
            for index, row in enumerate(output.get("doubts", ())):
                if row["doubts"]:
                    tiles[index] = _frame(*tiles[index], row["doubts"])
            # Without a file nothing tells one stack from another of that name.
            self.stacks[name, file or f"{idist.get_rank()} {len(self.stacks)}"] = tiles

    def _write(self, engine: Engine) -> None:
        if engine.state.metrics and engine.state.best_metric_epoch != engine.state.epoch:
            return
        stacks = gather(self.stacks)
        if not is_first():
            return
        titles = _titles([name for name, _ in stacks])
        tiles = [(f"{titles[key[0]]} {number}", tile) for key, stack in stacks.items() for number, tile in stack]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(self.path) as partial:
            _sheet(tiles).save(partial)


def _sheet(tiles: list[Tile]) -> Image:
    """A sheet of all tiles; where they are too many, of those of doubted slices, if there are any."""
    doubted = [tile for tile in tiles if _is_doubted(tile)]
    if not doubted:
        return contact_sheet(tiles)
    note, shown = _NOTE, tiles
    if len(tiles) > MOST_TILES:
        note, shown = f"The {len(doubted)} doubted of {len(tiles)} slices. {_NOTE}", doubted
    colours = [_DOUBTED_INK if _is_doubted(tile) else "black" for tile in shown]
    return contact_sheet(shown, colours=colours, note=note)


def _is_doubted(tile: Tile) -> bool:
    caption, _ = tile
    return "\n" in caption


def _removed(output: Mapping[str, Any]) -> NDArray[np.float64]:
    """What was removed from slices that hold nothing any more: drawn as truth is, in red."""
    removed = _foreground(output["logits"].argmax(0, keepdim=True))
    removed[..., ["removed" not in row["doubts"] for row in output["doubts"]]] = 0
    return removed


def _frame(caption: str, pixels: NDArray[np.float32], doubts: str) -> Tile:
    """Make the tile of a doubted slice stand out, and say what is doubted."""
    framed = np.broadcast_to(_DOUBTED, pixels.shape).copy()
    inside = np.s_[_FRAME_PIXELS:-_FRAME_PIXELS]
    framed[inside, inside] = pixels[inside, inside]
    return f"{caption}\n{doubts.replace(' ', ', ')}", framed


def _titles(names: Sequence[str]) -> dict[str, str]:
    """The titles of stacks: of a file its name without type, below the folder of all where two have one name."""
    titles = dict(zip(names, names, strict=True))
    files = [Path(name) for name in names if Path(name).is_absolute()]
    stems = [without_type(file).name for file in files]
    for file, stem in zip(files, stems, strict=True):
        title = stem
        if len(set(stems)) < len(stems):
            folder = file.parent.relative_to(os.path.commonpath([other.parent for other in files]))
            title = (folder / stem).as_posix()
        if len(title) > _MOST_LETTERS:
            title = f"…{title[1 - _MOST_LETTERS :]}"
        titles[str(file)] = title
    return titles


def _foreground(classes: Tensor) -> NDArray[np.float64]:
    """Turn ``(C, H, W, Z)``, one-hot or one channel of indices, into ``(H, W, Z)`` of 0 and 1."""
    if len(classes) > 1:
        classes = classes[1:]  # without the background
    return _array(classes.any(dim=0))


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return torch.as_tensor(tensor).detach().cpu().numpy().astype(np.float64)
