"""Metrics of every image, and the predictions that they are of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from monai_iln.errors import count, require
from monai_iln.files import new_file
from monai_iln.handlers.metrics import positions, score
from monai_iln.handlers.ranks import gather, is_first
from monai_iln.handlers.slices import file_of, slice_number
from monai_iln.names import require_visible
from monai_iln.run_files import IMAGES, PREDICTIONS


class _Scored(NamedTuple):
    """What is known of a stack.

    Attributes:
        rows: The lines of its images and structures.
        areas: The pixels of truth, an array ``(images, structures)``.
        direction: The direction of its last axis in space.
    """

    rows: list[dict[str, Any]]
    areas: NDArray[np.int_]
    direction: NDArray[np.float64]


class SaveImageMetrics:
    """Saves metrics of every image and structure to ``images.csv``, predictions to ``predictions/``; prints a summary.

    Attach it to an evaluator whose batches hold whole stacks and whose output has ``pred`` and ``label``, one-hot, with
    the affine that ``LoadImaged`` gives them. An image is a slice, or the whole stack for networks that segment
    volumes. A line has:

    - ``part``, ``subject``, ``phase``, ``slice`` (its number in the series), ``index`` (along the stack's last axis),
      ``position`` (decided over all stacks of a subject, see :func:`~monai_iln.handlers.metrics.positions`) and
      ``structure``. Volumes have no ``slice``, ``index`` and ``position``.
    - ``dice``, ``hd95_mm``, ``asd_mm``, ``truth_pixels``, ``predicted_pixels``, ``truth_ml`` and ``predicted_ml``, see
      :func:`~monai_iln.handlers.metrics.score`. Cells of undefined distances are empty.
    - ``image`` and ``truth``, the files that were read, and ``prediction``, the file that was written, relative to
      ``output_dir``: classes as 8-bit integers, with the shape and the affine of the truth.

    The lines of another part that the file holds already are kept, so that validation and test may both run. With
    several ranks, each writes the predictions of its own stacks; they need a common file system.

    Args:
        output_dir: The folder of the files. It is made if it is missing.
        structures: The names of the label values 1, 2, ...; or names by value, as a datalist has them, where value 0
            is left out. ``None`` stands for "class 1", "class 2", ...
        part: The part of the data, ``"test"`` or ``"validation"``.
        per: The kind of an image, ``"slice"`` or ``"volume"``.

    Raises:
        UserError: If an argument is none of these, a structure's name holds control characters, ``structures`` are not
            as many as the classes, ``label`` has no affine or another shape than ``pred``, or two stacks have one
            subject and phase.
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
        self.structures = _in_order(structures)
        for name in self.structures or ():
            require_visible(str(name), "structure")
        self.part = part
        self.per = per
        self.stacks: dict[tuple[str, str], _Scored] = {}
        self._paths: Counter[str] = Counter()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _begin(self) -> None:
        self.stacks.clear()
        self._paths.clear()

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            truth, prediction, image = output["label"], output["pred"], file_of(output.get("image"))
            name = f"{item['subject']}_{item['phase']}"
            path = f"{PREDICTIONS}/{name}.nii.gz"
            require(Path(name).name == name, f"stack {name!r}", "it cannot name a file", "rename it without slashes")
            self._paths[path.casefold()] += 1
            _require_unique(path, self._paths)
            self._check(truth, prediction, name)
            affine = truth.affine.cpu().numpy()
            spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
            scores = score(convert_to_tensor(truth), convert_to_tensor(prediction), spacing, self.per)
            files = {"image": image, "truth": file_of(truth), "prediction": path}
            known = {"part": self.part, "subject": item["subject"], "phase": item["phase"]}
            rows = []
            for index, structures in enumerate(scores):
                for structure, numbers in zip(self._names(len(structures)), structures, strict=True):
                    rows.append(known | self._place(item, index) | {"structure": structure} | numbers | files)
            areas = np.array([[numbers["truth_pixels"] for numbers in row] for row in scores])
            self.stacks[path, image] = _Scored(rows, areas, affine[:3, 2])
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

    def _names(self, count: int) -> list[str]:
        return self.structures or [f"class {value}" for value in range(1, count + 1)]

    def _place(self, item: Mapping[str, Any], index: int) -> dict[str, Any]:
        """Tell number and index of an image. Its position is decided when all stacks of the subject are there."""
        if self.per == "volume":
            return {"slice": None, "index": None, "position": None}
        return {"slice": slice_number(item, index), "index": index, "position": None}

    def _write(self, engine: Engine) -> None:
        stacks = gather(self.stacks)
        if not is_first():
            return
        names = Counter(path.casefold() for path, _ in stacks)
        for path, _ in stacks:
            _require_unique(path, names)
        if self.per == "slice":
            _tell_positions(stacks.values())
        rows = [row for stack in stacks.values() for row in stack.rows]
        others = [row for row in IMAGES.read_rows(self.output_dir) if row["part"] != self.part]
        IMAGES.write(self.output_dir, map(itemgetter(*IMAGES.columns), [*others, *rows]))
        _print_summary(rows)
        print(f"per image: {self.output_dir / IMAGES.name}")


def _tell_positions(stacks: Iterable[_Scored]) -> None:
    """Write the positions into the lines, subject by subject."""
    subjects = defaultdict(list)
    for stack in stacks:
        subjects[stack.rows[0]["subject"]].append(stack)
    for members in subjects.values():
        found = positions([stack.areas for stack in members], [stack.direction for stack in members])
        for stack, names in zip(members, found, strict=True):
            for row in stack.rows:
                row["position"] = names[row["index"]]


def _in_order(structures: Mapping[Any, str] | Sequence[str] | None) -> list[str] | None:
    """List the names of the structures in the order of their values."""
    if structures is None:
        return None
    if isinstance(structures, Mapping):
        return [structures[value] for value in sorted(structures, key=int) if int(value) > 0]
    return list(structures)


def _require_unique(path: str, names: Mapping[str, int]) -> None:
    """Refuse a path that several stacks have, where capital letters make no difference.

    Args:
        path: The path of a prediction.
        names: The number of stacks of each path, in small letters.
    """
    clashes = names[path.casefold()]
    require(
        clashes == 1,
        f"{path} would be the prediction of {clashes} stacks",
        "it is named after subject and phase",
        "give every stack of the datalist another subject or phase",
    )


def _save(classes: NDArray[Any], affine: NDArray[np.float64], path: Path) -> None:
    """Write classes as NIfTI. Two ranks may do so for one stack."""
    nifti = nib.Nifti1Image(classes.astype(np.uint8), affine)
    nifti.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial:
        nib.save(nifti, partial)


def _print_summary(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the Dice of every structure over all images, and of every subject over images and structures."""
    structures, subjects = defaultdict(list), defaultdict(list)
    for row in rows:
        structures[row["structure"]].append(row["dice"])
        subjects[row["subject"]].append(row["dice"])
    lines = []
    for structure, values in structures.items():
        scores, line = np.array(values), f"Dice {np.mean(values):.3f}"
        if len(structures) > 1:
            line = f"{structure}: {line}"
        if len(scores) > 1:
            line += f" ± {scores.std(ddof=1):.3f}, median {np.median(scores):.3f}, below 0.5: "
            line += (
                f"{(scores < 0.5).mean():.1%}, over {count(len(scores), 'image')} of {count(len(subjects), 'subject')}."
            )
        else:
            line += " of 1 image"
        lines.append(line)
    if len(rows) > len(lines):  # more than one image
        lines[-1] += " Worst first:"
    for line in lines:
        print(line)
    for subject, values in sorted(subjects.items(), key=lambda pair: float(np.mean(pair[1]))):
        print(f"  {subject!s:14s} {np.mean(values):.3f}  ({count(len(values), 'image')}, worst {min(values):.3f})")
