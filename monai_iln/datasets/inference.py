"""The stacks that inference is to segment."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from monai_iln.datasets.datalist import FILE_NAME, read_datalist
from monai_iln.datasets.formats.dicom import read_frames
from monai_iln.datasets.formats.listing import is_dicom, list_files
from monai_iln.datasets.formats.volumes import is_cine, without_type
from monai_iln.datasets.readers.layouts import LABEL_FOLDERS
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import UserError, count, require

_STACK_NAME = re.compile(r".+\.(nii|nii\.gz|nrrd|nhdr|mha|mhd)", re.IGNORECASE)
_CINE_WORD = re.compile(r"(?<=.)[_-](4d|cine|sa|sax)$", re.IGNORECASE)
_LABEL_NAME = re.compile(r"(?P<image>.+)_(gt|labels?|masks?|seg|pred)", re.IGNORECASE)


def find_stacks(path: Path | str, series: int | str | None = None) -> list[str]:
    """Find the stacks and cines that inference is to segment.

    Of a folder in which a volume of four axes lies, labels are passed over, and so are single phases that are called as
    its subject and something behind it, such as ``P1_frame01`` beside ``P1_4d``: they were taken from it.

    DICOM files are of one study if the folders that hold them are: then the path itself is the one stack, whatever
    folders it has for its slices or series. Otherwise each folder below it is looked into in the same way.

    Args:
        path: A file, a folder with a datalist (its images are taken), a folder with files below it, or a folder with
            the DICOM files of one study, or of several, in and below it. Files are those of NIfTI, NRRD and MetaImage.
        series: The stack that is chosen of all DICOM files, if one is. Then the path itself is that stack.

    Returns:
        The paths of the files, or of the DICOM folders.

    Raises:
        UserError: If there is nothing of the kind, images and labels are mixed, or two files of a folder have one name:
            their masks would overwrite each other.
    """
    path = Path(path)
    if path.is_file():
        return [str(path)]
    require(path.is_dir(), f"{path}: no such file or folder", "stacks are read from there", "correct the path")
    files: list[Path] = []
    found: list[Path] = []
    if (path / FILE_NAME).is_file():
        found = [Path(item["image"]) for item in read_datalist(path)]
    else:
        files = list_files(path)
        found = [file for file in files if _STACK_NAME.fullmatch(file.name)]
    if files:
        found = _without_frames(path, found)
        _refuse_labels(path, found)
    twins = [name for name, count in Counter(map(without_type, found)).items() if count > 1]
    if twins:
        raise UserError(
            f"{path}: {count(len(twins), 'name', 'occurs', 'occur')} more than once in a folder, the first is "
            f"{twins[0]}. Masks are named after the images and would overwrite each other: keep one file of each."
        )
    if found:
        return [str(file) for file in found]
    studies = _find_studies(files)
    if series is not None and studies:
        return [str(path)]
    if studies:
        return list(map(str, _split_studies(path, studies)))
    raise UserError(
        f"{path}: no stack found. It must be a NIfTI file, a folder with .nii, .nii.gz, .nrrd or .mha files, or a "
        "folder with the DICOM files of one short-axis stack."
    )


def _find_studies(files: Sequence[Path]) -> dict[Path, tuple[str, ...]]:
    """The study of each folder that holds DICOM files, by the first of them that is an image of a stack."""
    studies: dict[Path, tuple[str, ...]] = {}
    for file in files:
        if studies.get(file.parent) or not is_dicom(file):
            continue
        studies.setdefault(file.parent, ())
        with suppress(UserError):  # told when the stack is read
            studies[file.parent] = read_frames(file)[0].study
    return studies


def _split_studies(folder: Path, studies: Mapping[Path, tuple[str, ...]]) -> list[Path]:
    """The folder, if it holds one study, or those below it that do."""
    known = {home: study for home, study in studies.items() if study}
    if folder in studies or len(set(known.values())) < 2:
        return [folder]
    children = sorted({folder / home.relative_to(folder).parts[0] for home in known})
    found = []
    for child in children:
        found += _split_studies(child, {home: known[home] for home in known if home.is_relative_to(child)})
    return found


def _without_frames(path: Path, found: Sequence[Path]) -> list[Path]:
    """The volumes without the labels and the single phases of cines that lie beside them."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in found:
        folders[file.parent].append(file)
    kept = set(found)
    for files in folders.values():
        labels = set(_find_labels(path, files))
        cines = {file for file in files if file not in labels and is_cine(file)}
        if cines:
            names = [name_subject(without_type(cine).name) for cine in cines]
            phases = re.compile(f"({'|'.join(map(re.escape, names))})(?![^\\W_])")  # P10 is no phase of P1
            kept -= {*labels, *(file for file in files if phases.match(without_type(file).name) and file not in cines)}
    if passed := len(found) - len(kept):  # without names, which pseudonyms may hide
        warnings.warn(f"{passed} labels and single phases beside cines are passed over.", DataWarning, stacklevel=3)
    return [file for file in found if file in kept]


def name_subject(stem: str) -> str:
    """What the name of a cine shares with those of its phases: its own without a last word that says that it is one.

    Args:
        stem: The name, without type.

    Example:
        >>> name_subject("patient001_4d"), name_subject("heart_1")
        ('patient001', 'heart_1')
    """
    return _CINE_WORD.sub("", stem)


def _refuse_labels(path: Path, files: Sequence[Path]) -> None:
    """Refuse labels, among images or alone: they would be segmented as if they were images."""
    labels = _find_labels(path, files)
    if 0 < len(labels) < len(files):
        raise UserError(
            f"{path}: {len(labels)} of {len(files)} files are labels, by their folders or their names, such as "
            f"{labels[0]}. Images are segmented, and labels are none: give a folder with the images alone, or one that "
            "monai-iln prepare has made."
        )
    if files and (labels or all(_LABEL_NAME.fullmatch(without_type(file).name) for file in files)):
        raise UserError(
            f"{path}: {count(len(files), 'file')}, and all are labels or masks, by their folders or their names, "
            f"such as {files[0]}. "
            "Images are segmented: give their folder, or give them other names if they are images."
        )


def _find_labels(path: Path, files: Sequence[Path]) -> list[Path]:
    """The files below a path that lie in a folder of labels, or are named as the label of a file beside them."""
    stems = set(map(without_type, files))

    def is_label(file: Path) -> bool:
        if any(part.casefold() in LABEL_FOLDERS for part in file.relative_to(path).parts[:-1]):
            return True
        stem = without_type(file)
        match = _LABEL_NAME.fullmatch(stem.name)
        return match is not None and stem.with_name(match["image"]) in stems

    return list(filter(is_label, files))


def find_stacks_folder(path: Path | str, series: int | str | None = None) -> str:
    """Find the folder that the stacks of :func:`find_stacks` have in common. Their masks keep what lies below it.

    Args:
        path: The path, as for :func:`find_stacks`.
        series: The stack, as for :func:`find_stacks`.

    Returns:
        The absolute path of the folder, or ``path`` where no stack is found: whoever loads them is told why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told where stacks are asked for
            folders = [str(Path(file).absolute().parent) for file in find_stacks(path, series)]
    except UserError:
        return str(path)
    return os.path.commonpath(folders)
