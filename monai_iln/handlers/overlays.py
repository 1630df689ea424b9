"""Overlays of truth and prediction."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from monai_iln.handlers.slices import file_of, phase_of, slice_number
from monai_iln.overlays import MOST_TILES, as_bytes, contact_sheet, overlay

if TYPE_CHECKING:
    from PIL.Image import Image

Tile = tuple[str, NDArray[np.uint8]]
# Of a stack: what it is called, the file that tells it from others of that name, and its phase if it is one of a cine.
Key = tuple[str, str, int | str]
_DOUBTED = np.array([1.0, 0.5, 0.0], np.float32)  # orange
_DOUBTED_INK = "#b04a00"  # as dark as text
_FRAME_PIXELS = 3
_GOLDEN = (1 + 5**0.5) / 2
_NOTE = "green: the mask; orange frame: look here; red: removed, for it does not touch the rest"
_NOTE_OF_TRUTH = "red: truth; green: prediction; yellow: both"
_NOTE_WITHOUT_TRUTH = "green: the mask"

_MOST_LETTERS = 20  # of a title, which leave room for the number of a slice


class _Sample:
    """Tiles that were added, a share of them where they are many: at most 960, however many were added.

    Multiples of the golden ratio, of which only the fraction counts, fall evenly on [0, 1): those below a bound belong
    to tiles that are evenly spaced. Every eighth tile would not do: of stacks of eight slices it is always the first.
    """

    def __init__(self) -> None:
        self.tiles: list[tuple[Key, Tile]] = []
        self._places: list[float] = []
        self._added, self._share = 0, 1.0

    def add(self, key: Key, tile: Tile) -> None:
        place = self._added * _GOLDEN % 1
        self._added += 1
        if place < self._share:
            self.tiles.append((key, tile))
            self._places.append(place)
        if len(self.tiles) > 2 * MOST_TILES:
            self._share /= 2
            kept = [place < self._share for place in self._places]
            self.tiles = list(itertools.compress(self.tiles, kept))
            self._places = list(itertools.compress(self._places, kept))


@dataclass
class _Stack:
    """What the sheet needs of a stack: how many slices it has and how many are doubted, and the tiles of a sample."""

    slices: int
    doubted: int
    has_truth: bool
    tiles: list[Tile] = field(default_factory=list)
    doubted_tiles: list[Tile] = field(default_factory=list)


class SaveOverlay:
    """Draws a contact sheet of the slices: truth red, prediction green, both yellow.

    Without truth it shows the prediction alone. Of more than 480 slices it shows 480, evenly spaced, and says so;
    memory does not grow with their number. A slice is called by subject and phase where the item has them, else by its
    file, with its folders where two files have one name.

    Where the output has the ``doubts`` of :class:`monai_iln.transforms.DoubtSlices`, a doubted slice has an orange
    frame and says why, and what was removed from it is red. Of more than 480 slices it then shows those that are
    doubted, and of the phases of a cine no others either. Where nothing is to be shown, there is no file,
    and one of an earlier run is removed.

    Attach it to an evaluator whose batches hold whole stacks. While a training validates, the sheet is redrawn only
    when the key metric is the best so far, so that it shows what the saved model does.

    Args:
        path: The PNG file. Its folder is made if it is missing.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._begin()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _begin(self) -> None:
        self._stacks: dict[Key, _Stack] = {}
        self._sample, self._doubted = _Sample(), _Sample()

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            layers = [_array(output["image"][0]), _foreground(output["pred"])]
            has_truth = output.get("label") is not None
            if has_truth:
                layers.append(_foreground(output["label"]))
            elif any("removed" in row["doubts"] for row in output.get("doubts", ())):
                layers.append(_removed(output))
            file = file_of(output["image"])
            name = f"{item['subject']} {item['phase']}" if "subject" in item else file or "slice"
            # Without a file nothing tells one stack from another of that name.
            phase = phase_of(item)
            key = name, file or f"{idist.get_rank()} {len(self._stacks)}", phase
            doubts = [row["doubts"] for row in output.get("doubts", ())] or [""] * layers[0].shape[-1]
            shown = [index for index, told in enumerate(doubts) if told or not phase]
            self._stacks[key] = _Stack(len(shown), sum(map(bool, doubts)), has_truth)
            for index in shown:
                caption, tile = str(slice_number(item, index)), overlay(*(layer[..., index] for layer in layers))
                if doubts[index]:
                    told = doubts[index].replace(" ", ", ")
                    caption, tile = _frame(caption, tile, f"phase {phase}: {told}" if phase else told)
                    self._doubted.add(key, (caption, as_bytes(tile)))
                self._sample.add(key, (caption, as_bytes(tile)))

    def _write(self, engine: Engine) -> None:
        if engine.state.metrics and engine.state.best_metric_epoch != engine.state.epoch:
            return
        for key, tile in self._sample.tiles:
            self._stacks[key].tiles.append(tile)
        for key, tile in self._doubted.tiles:
            self._stacks[key].doubted_tiles.append(tile)
        stacks = gather(self._stacks)
        if not is_first():
            return
        if not any(stack.slices for stack in stacks.values()):
            self.path.unlink(missing_ok=True)  # of an earlier run, of other stacks
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(self.path) as partial:
            _sheet(stacks).save(partial)


def _sheet(stacks: Mapping[Key, _Stack]) -> Image:
    """A sheet of all slices; where they are too many, of those that are doubted, if there are any."""
    total = sum(stack.slices for stack in stacks.values())
    doubted = sum(stack.doubted for stack in stacks.values())
    only_doubted = doubted > 0 and total > MOST_TILES
    titles = _titles([*dict.fromkeys(name for name, _, _ in stacks)])
    tiles = []
    for (name, _, _), stack in stacks.items():
        shown = stack.doubted_tiles if only_doubted else stack.tiles
        tiles += [(f"{titles[name]} {caption}", pixels) for caption, pixels in shown]
    if not doubted:
        has_truth = any(stack.has_truth for stack in stacks.values())
        return contact_sheet(tiles, total=total, note=_NOTE_OF_TRUTH if has_truth else _NOTE_WITHOUT_TRUTH)
    colours = [_DOUBTED_INK if _is_doubted(tile) else "black" for tile in tiles]
    if not only_doubted:
        return contact_sheet(tiles, colours=colours, note=_NOTE)
    note = f"The {doubted} doubted of {total} slices. {_NOTE}"
    return contact_sheet(tiles, total=doubted, colours=colours, note=note)


def _is_doubted(tile: Tile) -> bool:
    caption, _ = tile
    return "\n" in caption


def _removed(output: Mapping[str, Any]) -> NDArray[np.float64]:
    """What was removed from slices that hold nothing any more: drawn as truth is, in red."""
    removed = _foreground(output["logits"].max(0, keepdim=True)[1])  # argmax takes ten times as long
    removed[..., ["removed" not in row["doubts"] for row in output["doubts"]]] = 0
    return removed


def _frame(caption: str, pixels: NDArray[np.float32], doubts: str) -> tuple[str, NDArray[np.float32]]:
    """Make the tile of a doubted slice stand out, and say what is doubted."""
    framed = np.broadcast_to(_DOUBTED, pixels.shape).copy()
    inside = np.s_[_FRAME_PIXELS:-_FRAME_PIXELS]
    framed[inside, inside] = pixels[inside, inside]
    return f"{caption}\n{doubts}", framed


def _titles(names: Sequence[str]) -> dict[str, str]:
    """The titles of stacks: of a file its name without type, below the folder of all where two have one name."""
    titles = dict(zip(names, names, strict=True))
    files = [Path(name) for name in names if Path(name).is_absolute()]
    stems = [without_type(file).name for file in files]
    unique = len(set(stems)) == len(stems)
    above = None if unique else os.path.commonpath([file.parent for file in files])
    for file, stem in zip(files, stems, strict=True):
        title = stem
        if above is not None:
            title = (file.parent.relative_to(above) / stem).as_posix()
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
