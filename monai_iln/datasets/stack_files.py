"""Stacks as NIfTI files, named after subject and phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.checked import hash_file
from monai_iln.datasets.stacks import Stack
from monai_iln.errors import UserError
from monai_iln.names import require_visible

_MOST = np.iinfo(np.int32).max


def write_stack(stack: Stack, folder: Path) -> dict[str, Any]:
    """Write the NIfTI files of a stack.

    Args:
        stack: The stack.
        folder: The folder to write into.

    Returns:
        The item of the stack for the datalist, without a fold: ``image`` and ``label`` (paths relative to the folder),
        ``sha256`` of both, ``subject``, ``phase`` and ``slices``.

    Raises:
        UserError: If a name holds control characters, or cannot be part of a file's name.
    """
    files = _name_files(stack)
    for key, array in (("image", storable(stack.image)), ("label", stack.label)):
        file = folder / files[key]
        file.parent.mkdir(exist_ok=True)
        nifti = nib.Nifti1Image(array, stack.affine)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, file)
    hashes = {key: hash_file(folder / file) for key, file in files.items()}
    return {**files, "sha256": hashes, "subject": stack.subject, "phase": stack.phase, "slices": list(stack.slices)}


def remove_stack(stack: Stack, folder: Path) -> None:
    """Remove the NIfTI files of a stack, if they are there."""
    for file in _name_files(stack).values():
        (folder / file).unlink(missing_ok=True)


def _name_files(stack: Stack) -> dict[str, str]:
    name = f"{stack.subject}_{stack.phase}.nii.gz"
    require_visible(name, "the name")
    if len(Path(name).parts) != 1:
        raise UserError(f"subject {stack.subject!r}: cannot name a file. Rename it without slashes.")
    return {"image": f"images/{name}", "label": f"labels/{name}"}


def refuse_shared_files(names: Iterable[tuple[str, str]]) -> None:
    """Refuse stacks that would have one file. Some file systems take names that differ in case for one.

    Args:
        names: The subject and the phase of every stack, also of those of which nothing is written: each that is
            prepared anew takes the files of its name away.

    Raises:
        UserError: If two stacks would have one file.
    """
    for file, count in Counter(f"{subject}_{phase}.nii.gz".casefold() for subject, phase in names).items():
        if count > 1:
            raise UserError(
                f"{count} stacks would be called {file}. Files are named after subject and phase: rename one."
            )


def storable(image: NDArray[Any]) -> NDArray[Any]:
    """The image without 64-bit integers, which NIfTI knows and many of its readers do not.

    Args:
        image: An array of any shape.
    """
    if image.dtype.kind not in "iu" or image.dtype.itemsize < 8:
        return image
    fits = image.min(initial=0) >= -_MOST and image.max(initial=0) <= _MOST  # the least integer has no amount
    return image.astype(np.int32 if fits else np.float64)
