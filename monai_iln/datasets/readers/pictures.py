"""Stacks as folders of pictures: PNG images of the slices, and masks of the same names in a folder beside.

``P1/ED/images/001.png`` and ``P1/ED/masks/001.png`` are image and mask of a slice; ``images/P1/ED`` and ``masks/P1/ED``
are as good. The nearest folder that is not named like a phase is the subject. Pictures have no voxel sizes: the affine
is the identity.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from monai_iln.datasets.formats.png import Picture, read_picture
from monai_iln.datasets.readers.layouts import IMAGE_FOLDERS, LABEL_FOLDERS
from monai_iln.datasets.readers.matching import PHASE_WORDS, FilePair, Files, list_volumes
from monai_iln.datasets.readers.plan import Plan, SubjectOutput
from monai_iln.datasets.readers.structures import MOST_VALUES, Label, Wanted, find_structures
from monai_iln.datasets.readers.tables import SubjectInfo, read_tables
from monai_iln.datasets.readers.volumes import LabelledVolume, make_stacks, refuse_several_values
from monai_iln.datasets.stacks import Finding
from monai_iln.errors import UserError


class _Place(NamedTuple):
    """Where a stack lies: the folder of its subject, and its phase, *1* if no folder is named so."""

    folder: Path
    phase: str


class _Slice(NamedTuple):
    """The pictures of a slice."""

    number: int
    image: Path
    mask: Path


def holds(files: Files) -> bool:
    """Whether there are pictures in a folder of masks, and no volumes that they may show."""
    return any(_kind(path) in LABEL_FOLDERS for path in files if _is_picture(path)) and not list_volumes(files)


def plan(files: Files, label: Label) -> Plan:
    """Plan to read the labelled slices, see :func:`~monai_iln.datasets.readers.folders.read_folders`."""
    wanted = find_structures(label, {})
    pictures: dict[str, dict[_Place, _Pictures]] = defaultdict(lambda: defaultdict(lambda: _Pictures({}, {})))
    for path in files:
        if _is_picture(path) and (kind := _kind(path)):
            place = _place(path)
            own = pictures[normalize("NFC", place.folder.name)][place]
            names = own.masks if kind in LABEL_FOLDERS else own.images
            twin = names.setdefault(path.stem, path)
            if twin != path:
                raise UserError(f"{twin} and {path}: both are of one slice. Give one copy.")
    infos, damaged = read_tables(files, pictures)
    subjects = {
        subject: partial(_read_subject, subject, dict(own), infos.get(subject, {}), wanted)
        for subject, own in pictures.items()
    }
    return Plan(subjects, damaged, refuse_several_values)


class _Pictures(NamedTuple):
    """The pictures of a stack by their names."""

    images: dict[str, Path]
    masks: dict[str, Path]


def _read_subject(
    subject: str, pictures: Mapping[_Place, _Pictures], info: SubjectInfo, wanted: Wanted
) -> SubjectOutput:
    findings: list[Finding] = []
    volumes = []
    for place, (images, masks) in sorted(pictures.items()):
        pair = FilePair(subject, place.phase, place.folder, place.folder)
        slices = _number(pair, _pair(pair, images, masks, findings), findings)
        volumes += _read_slices(pair, slices, findings)
    return make_stacks([[volume] for volume in volumes], info, wanted, findings)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() == ".png"


def _kind(path: Path) -> str:
    """The name of the nearest folder of images or of masks, empty if there is none."""
    names = [part.casefold() for part in path.parts[:-1]]
    return next((name for name in reversed(names) if name in IMAGE_FOLDERS | LABEL_FOLDERS), "")


def _place(path: Path) -> _Place:
    parts = list(path.parent.absolute().parts)
    marker = max(place for place, part in enumerate(parts) if part.casefold() == _kind(path))
    folder = Path(*parts[:marker], *parts[marker + 1 :])
    phase = PHASE_WORDS.get(folder.name.casefold())
    if phase is None:
        return _Place(folder, "1")
    return _Place(folder.parent, phase)


def _tell(findings: list[Finding], reason: str, pair: FilePair, number: int | None, path: Path, detail: str) -> None:
    findings.append(Finding(reason, pair.subject, pair.phase, number, str(path), detail))


def _pair(
    pair: FilePair, images: Mapping[str, Path], masks: Mapping[str, Path], findings: list[Finding]
) -> dict[str, tuple[Path, Path]]:
    """The images and masks of one name."""
    for name in sorted(images.keys() ^ masks.keys()):
        if name in images:
            _tell(findings, "no-label", pair, None, images[name], "an image, but no mask of that name")
        else:
            _tell(findings, "no-image", pair, None, masks[name], "a mask, but no image of that name")
    return {name: (images[name], masks[name]) for name in sorted(images.keys() & masks.keys())}


def _number(pair: FilePair, named: Mapping[str, tuple[Path, Path]], findings: list[Finding]) -> list[_Slice]:
    """The slices in the order of the one number in which their names differ; none if they differ in more."""
    numbers = {name: tuple(map(int, re.findall(r"\d+", name))) for name in named}
    words = {re.sub(r"\d+", "0", name) for name in named}
    columns = [set(column) for column in zip(*numbers.values(), strict=False)]
    counting = [place for place, column in enumerate(columns) if len(column) > 1] or [len(columns) - 1]
    if len(named) > 1 and (len(words) > 1 or len(counting) > 1 or len(columns[counting[0]]) < len(named)):
        detail = f"its slices are called {', '.join([*named][:3])}: names must differ in one number, which counts them"
        _tell(findings, "mismatch", pair, None, next(iter(named.values()))[0], detail)
        return []
    counted = {name: found[counting[0]] if found else 1 for name, found in numbers.items()}
    first = min(counted.values(), default=1)
    slices = sorted(_Slice(number + (first == 0), *named[name]) for name, number in counted.items())
    steps = np.diff([slice_.number for slice_ in slices])
    if len(set(steps)) > 1:
        detail = f"the slices {', '.join(str(slice_.number) for slice_ in slices)} are there: others may be missing"
        _tell(findings, "uneven-slices", pair, None, slices[0].image, detail)
    return slices


def _read_slices(pair: FilePair, slices: Sequence[_Slice], findings: list[Finding]) -> list[LabelledVolume]:
    """The slices as one volume, or none if nothing is left. What is wrong with a slice joins the findings."""
    read = [(slice_, *pictures) for slice_ in slices if (pictures := _read_slice(pair, slice_, findings))]
    shapes = Counter(image.grey.shape for _, image, _ in read)
    (usual, _), *others = shapes.most_common() or [((), 0)]
    for slice_, image, _ in read:
        if others and image.grey.shape != usual:
            detail = f"{image.grey.shape} pixels, most slices have {usual}"
            _tell(findings, "mismatch", pair, slice_.number, slice_.image, detail)
        elif image.has_colours:
            detail = "its brightness is taken; what is drawn into an image is learnt"
            _tell(findings, "colours", pair, slice_.number, slice_.image, detail)
    kept = [(slice_, image.grey, mask.grey) for slice_, image, mask in read if image.grey.shape == usual]
    if not kept:
        return []
    images = np.stack([image for _, image, _ in kept], axis=-1)
    masks = np.stack([mask for _, _, mask in kept], axis=-1)
    numbers = tuple(slice_.number for slice_, _, _ in kept)
    files = tuple(str(slice_.image) for slice_, _, _ in kept)
    return [LabelledVolume(pair, None, images, masks, np.eye(4), numbers, files)]


def _read_slice(pair: FilePair, slice_: _Slice, findings: list[Finding]) -> tuple[Picture, Picture] | None:
    """The pictures of a slice, or ``None`` if they cannot be used."""
    try:
        image, mask = read_picture(slice_.image), read_picture(slice_.mask)
    except UserError as error:
        _tell(findings, "unreadable", pair, slice_.number, slice_.mask, str(error))
        return None
    if image.grey.shape != mask.grey.shape:
        detail = f"{mask.grey.shape} pixels, its image {image.grey.shape}: they must be equal"
        _tell(findings, "mismatch", pair, slice_.number, slice_.mask, detail)
        return None
    values = len(np.unique(mask.grey))
    if mask.has_colours or values > MOST_VALUES:
        detail = (
            f"{values} values, or colours: a mask has one grey value for each structure, and edges that are not smooth"
        )
        _tell(findings, "label-values", pair, slice_.number, slice_.mask, detail)
        return None
    return image, mask
