"""The stacks that inference is to segment."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from monai_iln.datasets.datalist import FILE_NAME, read_datalist
from monai_iln.datasets.formats.listing import is_dicom, list_files
from monai_iln.datasets.formats.volumes import without_type
from monai_iln.datasets.readers.layouts import LABEL_FOLDERS
from monai_iln.errors import UserError

_STACK_NAME = re.compile(r".+\.(nii|nii\.gz|nrrd|nhdr|mha|mhd)", re.IGNORECASE)
_LABEL_NAME = re.compile(r"(?P<image>.+)_(gt|labels?|masks?|seg)", re.IGNORECASE)


def find_stacks(path: Path | str) -> list[str]:
    """Find the stacks that inference is to segment.

    Args:
        path: A file, a folder with a datalist (its images are taken), a folder with files below it, or a folder with
            the DICOM files of one stack in and below it. Files are those of NIfTI, NRRD and MetaImage.

    Returns:
        The paths of the files, or of the one DICOM folder.

    Raises:
        UserError: If there is nothing of the kind, images and labels are mixed, or two files of a folder have one name:
            their masks would overwrite each other.
    """
    path = Path(path)
    if path.is_file():
        return [str(path)]
    files: list[Path] = []
    found: list[Path] = []
    if (path / FILE_NAME).is_file():
        found = [Path(item["image"]) for item in read_datalist(path)]
    elif path.is_dir():
        files = list_files(path)
        found = [file for file in files if _STACK_NAME.fullmatch(file.name)]
    stems = list(map(without_type, found))
    if files:
        _refuse_labels(path, found, stems)
    names = Counter(stems)
    twins = [name for name, count in names.items() if count > 1]
    if twins:
        raise UserError(
            f"{path}: {len(twins)} names occur more than once in a folder, the first is {twins[0]}. Masks are named "
            "after the images and would overwrite each other: keep one file of each."
        )
    if found:
        return [str(file) for file in found]
    if any(map(is_dicom, files)):
        return [str(path)]
    raise UserError(
        f"{path}: no stack found. It must be a NIfTI file, a folder with .nii, .nii.gz, .nrrd or .mha files, or a "
        "folder with the DICOM files of one short-axis stack."
    )


def _refuse_labels(path: Path, files: Sequence[Path], stems: Sequence[Path]) -> None:
    """Refuse labels among images: they would be segmented as if they were images."""
    known = set(stems)
    pairs = zip(files, stems, strict=True)
    labels = [file for file, stem in pairs if _is_label(file.relative_to(path), stem, known)]
    if 0 < len(labels) < len(files):
        raise UserError(
            f"{path}: {len(labels)} of {len(files)} files are labels, by their folders or their names, such as "
            f"{labels[0]}. Images are segmented, and labels are none: give a folder with the images alone, or one that "
            "monai-iln prepare has made."
        )


def _is_label(place: Path, stem: Path, stems: Collection[Path]) -> bool:
    """Whether a file lies in a folder of labels, or is named as the label of a file beside it."""
    if any(part.casefold() in LABEL_FOLDERS for part in place.parts[:-1]):
        return True
    match = _LABEL_NAME.fullmatch(stem.name)
    return match is not None and stem.with_name(match["image"]) in stems


def find_stacks_folder(path: Path | str) -> str:
    """Find the folder that the stacks of :func:`find_stacks` have in common. Their masks keep what lies below it.

    Args:
        path: The path, as for :func:`find_stacks`.

    Returns:
        The absolute path of the folder, or ``path`` where no stack is found: whoever loads them is told why.
    """
    try:
        folders = [str(Path(file).absolute().parent) for file in find_stacks(path)]
    except UserError:
        return str(path)
    return os.path.commonpath(folders)
