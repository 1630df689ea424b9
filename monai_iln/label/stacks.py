"""Stacks as the app takes them: the files of an annotator, without options of a command line."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_iln.datasets.cines import find_phase_times
from monai_iln.datasets.formats.volumes import read_header, without_type
from monai_iln.errors import UserError, find_user_error
from monai_iln.transforms import LoadStack, LoadStackd


def require_stack(path: Path, what: str = "an image") -> None:
    """Refuse a file that holds no stack, by its header.

    Args:
        path: The file. A folder of DICOM files passes: it is judged when it is read.
        what: What the file should be, with its article.

    Raises:
        UserError: If the file is damaged, planar, or a cine.
    """
    if path.is_dir():
        return
    shape = read_header(path).shape
    if len(shape) == 4 and what == "an image":
        raise UserError(
            f"{path}: a cine of {shape[3]} phases. A mask is of one stack: give the number of its phase as the "
            "parameter 'phase', or split the cine into stacks before the server starts (monai-iln stacks)."
        )
    if len(shape) == 4:
        raise UserError(
            f"{path}: of shape {shape}. {what.capitalize()} has three axes, as its stack: export one layer, without "
            "segments that overlap."
        )


def load_label(image: str, label: str) -> Any:
    """Load a label, and refuse one that does not lie on its image.

    Args:
        image: The file of the image.
        label: The file of the label.

    Raises:
        UserError: If one of both is no stack, or they differ in shape or place.
    """
    require_stack(Path(image))
    require_stack(Path(label), "a label")
    return LoadStackd(["image", "label"])({"image": image, "label": label})["label"]


_PHASE = re.compile(r"(.+)_(?:ED|ES|(?:phase)?\d+)", re.IGNORECASE)


def hold_out(items: Sequence[dict[str, str]], share: float) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Split labelled stacks into those to train on and those that judge, the phases of a heart together.

    A heart is what the names of its phases share: ``SUBJECT_ED``, ``SUBJECT_07`` or ``UID_phase07``. Where all names
    share it, every stack counts as a heart of its own.

    Args:
        items: The stacks, each with the path of its ``image``.
        share: The share that is held out, from 0 to below 1. With a share, one heart at least judges, and one trains.

    Returns:
        The items to train on, and those held out, the last by name. One stack alone is not held out.
    """
    hearts: dict[str, list[dict[str, str]]] = {}
    for item in sorted(items, key=lambda item: item["image"]):
        name = without_type(Path(item["image"])).name
        match = _PHASE.fullmatch(name)
        hearts.setdefault(match[1] if match else name, []).append(item)
    groups = list(hearts.values())
    if len(groups) == 1:
        groups = [[item] for item in groups[0]]
    held_out: list[dict[str, str]] = []
    while share > 0 and len(groups) > 1 and len(held_out) < max(1, round(share * len(items))):
        held_out = [*groups.pop(), *held_out]
    return [item for group in groups for item in group], held_out


def why_no_stack(path: Path) -> str:
    """Tell why a file cannot be used as a stack; nothing if it can."""
    try:
        require_stack(path)
        LoadStack().read(path)
    except UserError as error:
        return str(error)
    return ""


@contextmanager
def stack_of(path: Path, phase: Any) -> Iterator[Path]:
    """Take the stack of one phase out of a cine, for as long as it is needed.

    Args:
        path: A stack, a cine with time as its last axis, or a folder of DICOM files.
        phase: The number of the phase, from 1. A stack has none: ``None`` or an empty text.

    Yields:
        The path of the stack: ``path`` itself, or a temporary file.

    Raises:
        UserError: If the phase is not there, or a cine comes without.
    """
    if phase in (None, ""):
        require_stack(path)
        yield path
        return
    count = len(find_phase_times(path))
    if count == 1:
        raise UserError(f"{path}: phase {phase} of a single stack. Only a cine has phases: leave the parameter empty.")
    if not str(phase).isdecimal() or not 1 <= int(phase) <= count:
        raise UserError(f"{path}: phase {phase}. The cine has {count}: choose a whole number from 1 to {count}.")
    pixels, grid = LoadStack(int(phase)).read(path)
    with tempfile.TemporaryDirectory() as folder:
        stack = Path(folder) / "phase.nii"
        nib.save(nib.Nifti1Image(pixels.astype(np.float32), grid.affine), stack)
        try:
            yield stack
        except Exception as error:
            user_error = find_user_error(error)
            if user_error is None:
                raise
            raise UserError(str(user_error).replace(str(stack), str(path))) from error
