"""Metrics of every image, and the predictions that they are of."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from monai_iln.errors import require
from monai_iln.handlers.metrics import positions, score
from monai_iln.handlers.ranks import gather, is_first
from monai_iln.handlers.slices import file_of, slice_number

COLUMNS = (
    *("part", "subject", "phase", "slice", "index", "position", "structure", "dice", "hd95_mm", "asd_mm"),
    *("truth_pixels", "predicted_pixels", "truth_ml", "predicted_ml", "image", "truth", "prediction"),
)


class SaveImageMetrics:
    """Metrics of every image and structure to ``images.csv``, predictions to ``predictions/``, a summary in print.

    Attach it to an evaluator whose batches hold whole stacks and whose output has ``pred`` and ``label``, one-hot, with
    the affine that ``LoadImaged`` gives them. An image is a slice, or the whole stack for networks that segment
    volumes. A line has:

    - ``part``, ``subject``, ``phase``, ``slice`` (its number in the series), ``index`` (along the stack's last axis),
      ``position`` (see :func:`~monai_iln.handlers.metrics.positions`) and ``structure``. Volumes have no ``slice``,
      ``index`` and ``position``.
    - ``dice``, ``hd95_mm``, ``asd_mm``, ``truth_pixels``, ``predicted_pixels``, ``truth_ml`` and ``predicted_ml``, see
      :func:`~monai_iln.handlers.metrics.score`. Cells of undefined distances are empty.
    - ``image`` and ``truth``, the files that were read, and ``prediction``, the file that was written, relative to
      ``output_dir``: classes as 8-bit integers, with the shape and the affine of the truth.

    The lines of another part that the file holds already are kept, so that validation and test may both run. With
    several ranks, each writes the predictions of its own stacks; they need a common file system.

    Args:
        output_dir: folder of the files; made if missing.
        structures: names of the label values 1, 2, ..., also by value as a datalist has them, where value 0 is left
            out; ``None`` for "class 1", "class 2", ...
        part: of the data, ``"test"`` or ``"validation"``.
        per: what an image is, ``"slice"`` or ``"volume"``.

    Raises:
        UserError: if an argument is none of these, ``structures`` are not as many as the classes, ``label`` has no
            affine or another shape than ``pred``, or two stacks have one subject and phase.
    """

    def __init__(
        self,
        output_dir: str,
        structures: Mapping[Any, str] | Sequence[str] | None = None,
        part: str = "test",
        per: str = "slice",
    ) -> None:
        for name, value, choices in (("part", part, ("test", "validation")), ("per", per, ("slice", "volume"))):
            require(value in choices, f"{name} {value!r}", f"it must be one of {choices}", "choose one of them")
        self.output_dir = Path(output_dir)
        self.structures = _names(structures)
        self.part = part
        self.per = per
        self.stacks: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: self.stacks.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            truth, prediction, image = output["label"], output["pred"], file_of(output.get("image"))
            name = f"{item['subject']}_{item['phase']}"
            path = f"predictions/{name}.nii.gz"
            require(Path(name).name == name, f"stack {name!r}", "it cannot name a file", "rename it without slashes")
            _require_unique(path, [*(known for known, _ in self.stacks), path])
            self._check(truth, prediction, name)
            affine = truth.affine.cpu().numpy()
            spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
            scores = score(convert_to_tensor(truth), convert_to_tensor(prediction), spacing, self.per)
            files = {"image": image, "truth": file_of(truth), "prediction": path}
            known = {"part": self.part, "subject": item["subject"], "phase": item["phase"]}
            self.stacks[path, image] = [
                known | place | {"structure": structure} | numbers | files
                for place, row in zip(self._places(item, scores), scores, strict=True)
                for structure, numbers in zip(self._structures(len(row)), row, strict=True)
            ]
            _save(prediction.argmax(0).cpu().numpy(), affine, self.output_dir / path)

    def _check(self, truth: Tensor, prediction: Tensor, name: str) -> None:
        classes = len(truth)
        require(
            truth.shape == prediction.shape and truth.ndim == 4 and classes > 1,
            f"stack {name}: label {tuple(truth.shape)}, pred {tuple(prediction.shape)}",
            "both must be one-hot stacks (C, H, W, Z) of one shape",
            "use AsDiscreted with to_onehot, and Invertd for transforms that change the shape",
        )
        require(
            hasattr(truth, "affine"),
            f"stack {name}: a label without an affine",
            "distances in mm need one",
            "load it with LoadImaged, and leave set_track_meta on",
        )
        require(
            self.structures is None or len(self.structures) == classes - 1,
            f"structures {self.structures}",
            f"there must be {classes - 1}, one for each class of the output but the background",
            "give as many, or change out_channels of the network",
        )

    def _structures(self, count: int) -> list[str]:
        return self.structures or [f"class {value}" for value in range(1, count + 1)]

    def _places(self, item: Mapping[str, Any], scores: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
        """Number, index and position of the images of a stack."""
        if self.per == "volume":
            return [{"slice": None, "index": None, "position": None}]
        areas = np.array([[numbers["truth_pixels"] for numbers in row] for row in scores])
        return [
            {"slice": slice_number(item, index), "index": index, "position": position}
            for index, position in enumerate(positions(areas))
        ]

    def _write(self, engine: Engine) -> None:
        stacks = gather(self.stacks)
        if not is_first():
            return
        for path, _ in stacks:
            _require_unique(path, [path for path, _ in stacks])
        rows = [row for stack in stacks.values() for row in stack]
        file_path = self.output_dir / "images.csv"
        others = [row for row in _read(file_path) if row["part"] != self.part]
        with file_path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=COLUMNS)
            writer.writeheader()
            writer.writerows([*others, *rows])
        _print_summary(rows)
        print(f"per image: {file_path}")


def _names(structures: Mapping[Any, str] | Sequence[str] | None) -> list[str] | None:
    if isinstance(structures, Mapping):
        return [structures[value] for value in sorted(structures, key=int) if int(value) > 0]
    return None if structures is None else list(structures)


def _require_unique(path: str, paths: Sequence[str]) -> None:
    clashes = sum(path.casefold() == other.casefold() for other in paths)
    require(
        clashes == 1,
        f"{path} would be the prediction of {clashes} stacks",
        "it is named after subject and phase",
        "give every stack of the datalist another subject or phase",
    )


def _save(classes: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    """Write classes as NIfTI at once: two ranks may have been dealt the same stack."""
    nifti = nib.Nifti1Image(classes.astype(np.uint8), affine)
    nifti.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}_{path.name}")
    nib.save(nifti, unfinished)
    unfinished.replace(path)


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of an earlier file; none of one with other columns."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader) if tuple(reader.fieldnames or ()) == COLUMNS else []


def _print_summary(rows: Sequence[Mapping[str, Any]]) -> None:
    """Dice of every structure over all images, and of every subject over images and structures."""
    structures, subjects = defaultdict(list), defaultdict(list)
    for row in rows:
        structures[row["structure"]].append(row["dice"])
        subjects[row["subject"]].append(row["dice"])
    for structure, values in structures.items():
        scores, name = np.array(values), f"{structure}: " if len(structures) > 1 else ""
        end = " Worst first:" if structure == list(structures)[-1] else ""
        print(
            f"{name}Dice {scores.mean():.3f} ± {scores.std(ddof=1):.3f}, median {np.median(scores):.3f}, below 0.5: "
            f"{(scores < 0.5).mean():.1%}, over {len(scores)} images of {len(subjects)} subjects.{end}"
            if len(scores) > 1
            else f"{name}Dice {scores[0]:.3f} of 1 image"
        )
    for subject, values in sorted(subjects.items(), key=lambda pair: float(np.mean(pair[1]))):
        print(f"  {subject!s:14s} {np.mean(values):.3f}  ({len(values)} images, worst {min(values):.3f})")
