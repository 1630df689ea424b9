"""Masks, volumes and pictures of whole cines, of which an engine sees one phase at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.folder_layout import FolderLayout
from numpy.typing import NDArray
from tqdm import tqdm

from monai_iln.cine.curves import measure_curve
from monai_iln.cine.files import MeasuredCine, write_tables
from monai_iln.cine.pictures import find_limits, scale_grey, write_pictures
from monai_iln.datasets.cines import DOUBTS_KEY, PHASE_KEY, TIMES_KEY, frame_ms
from monai_iln.datasets.ranges import RANGE_KEY, parse_range
from monai_iln.files import new_file
from monai_iln.handlers.ranks import gather, is_first
from monai_iln.handlers.slices import file_of
from monai_iln.run_files import MASK_ENDING


@dataclass
class _Cine:
    """The phases of a cine so far. Grey values are between the 1st and 99th percentile of the first phase."""

    path: str
    times: list[float]
    affine: NDArray[np.float64]
    limits: tuple[float, float]
    named_ends: tuple[bool, bool]
    doubts: list[str]
    masks: list[NDArray[np.uint8]] = field(default_factory=list)
    pixels: list[NDArray[np.uint8]] = field(default_factory=list)


class SaveCines:
    """Saves the masks of each cine as one file, its volume curves as tables, and pictures; prints the numbers.

    Attach it to an evaluator whose batches have the items of :func:`monai_iln.datasets.split_phases`, the phases of a
    cine one after the other, and whose output has ``image`` and ``pred``, a mask of classes. Stacks of one phase are
    none of its business. It writes, below ``output_dir``:

    - for each cine a mask with four axes, with the cine's affine and the time of a phase, ``NAME_pred.nii.gz``; its
      curves above the slices at ED and ES, ``NAME_cine.png``; and a film, ``NAME_cine.gif``,
    - ``phases.csv`` with a line for each phase and ``subjects.csv`` with a line for each cine, of each structure; see
      :class:`monai_iln.cine.curves.VolumeCurve` for what they hold.

    Without a cine it writes nothing. The tables grow by every cine: what fails later leaves those numbers.
    With several ranks all phases of a cine must come to one of them. The first writes the tables, at the end those of
    all ranks.

    Args:
        output_dir: The folder of the files. It is made if it is missing.
        structures: The names of the classes 1, 2, ... of the masks. Others are called after their number.
        data_root_dir: The folder of the cines. Files are written into folders like theirs below it.
    """

    def __init__(self, output_dir: str, structures: Sequence[str] = (), data_root_dir: str = "") -> None:
        self.output_dir = Path(output_dir)
        self.structures = list(structures)
        self.layout = FolderLayout(output_dir, parent=False, makedirs=True, data_root_dir=data_root_dir)
        self._cine: _Cine | None = None
        self._measured: dict[str, MeasuredCine] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self._measured.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            if PHASE_KEY not in item:
                continue
            if int(item[PHASE_KEY]) == 1:
                self._cine = _begin(item, output)
            cine = self._cine
            assert cine is not None
            cine.masks.append(_array(output["pred"][0]).astype(np.uint8))
            cine.pixels.append(scale_grey(_array(output["image"][0]), cine.limits))
            if len(cine.masks) == len(cine.times):
                self._finish(cine, file_of(output["image"]))
                self._cine = None

    def _finish(self, cine: _Cine, name: str) -> None:
        """Write the files of a cine whose phases are all there."""
        mask, pixels = np.stack(cine.masks, axis=-1), np.stack(cine.pixels, axis=-1)
        classes = range(1, max(len(self.structures), int(mask.max()), 1) + 1)
        masks = [mask == value for value in classes]
        curves = [
            measure_curve(one, cine.affine, cine.times, name, structure, cine.named_ends, cine.doubts)
            for one, structure in zip(masks, self._names(len(masks)), strict=True)
        ]
        stem = Path(self.layout.filename(subject=cine.path))
        file = stem.with_name(stem.name + MASK_ENDING)
        _save_mask(mask, cine, file)
        write_pictures(stem, pixels, masks, curves)
        self._measured[name] = MeasuredCine(curves, [os.path.relpath(file, self.output_dir)] * len(curves))
        if is_first():
            write_tables(self.output_dir, self._measured.values())
        for curve in curves:
            tqdm.write(f"{stem.name}: {curve.tell()}")

    def _names(self, count: int) -> list[str]:
        return [*self.structures, *(f"structure {value}" for value in range(len(self.structures) + 1, count + 1))]

    def _write(self, engine: Engine) -> None:
        measured = gather(self._measured)
        if is_first() and measured:
            write_tables(self.output_dir, measured.values())


def _begin(item: Mapping[str, Any], output: Mapping[str, Any]) -> _Cine:
    """A cine of which the first phase has come."""
    first, last = parse_range(item.get(RANGE_KEY) or "-")
    return _Cine(
        path=str(output["image"].meta["filename_or_obj"]),
        times=[float(time) for time in item[TIMES_KEY]],
        affine=_array(output["pred"].affine).astype(np.float64),
        limits=find_limits(_array(output["image"][0])),
        named_ends=(first is not None, last is not None),
        doubts=item.get(DOUBTS_KEY, "").split(),
    )


def _save_mask(mask: NDArray[np.uint8], cine: _Cine, file: Path) -> None:
    step = frame_ms(cine.times)
    nifti = nib.Nifti1Image(mask, cine.affine)
    nifti.header.set_xyzt_units("mm", None if math.isnan(step) else "msec")
    nifti.header["pixdim"][4] = 1 if math.isnan(step) else step
    with new_file(file) as partial:
        nib.save(nifti, partial)


def _array(tensor: Any) -> NDArray[Any]:
    return torch.as_tensor(tensor).detach().cpu().numpy()
