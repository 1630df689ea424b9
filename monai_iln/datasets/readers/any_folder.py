"""Folders of one's own: a folder for each subject, in which a label belongs to the image with the nearest name.

Nothing here knows a data set. Files that find no partner become findings.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from monai_iln.datasets.formats.volumes import VOLUME_NAME, read_volume, without_type
from monai_iln.datasets.readers.matching import PHASE_WORDS, FilePair, Files, below_source, list_volumes
from monai_iln.datasets.readers.plan import Overview, Plan, SubjectOutput
from monai_iln.datasets.readers.structures import MOST_VALUES, Label, Wanted, find_structures, label_values
from monai_iln.datasets.readers.tables import SubjectInfo, read_tables
from monai_iln.datasets.readers.volumes import read_pairs, refuse_several_values
from monai_iln.datasets.stacks import Finding
from monai_iln.errors import UserError, count

_NOT_THERE = "in its folder has its numbers and phase in the name; for other folders, use patterns for image and mask"


class _Volume(NamedTuple):
    """A volume with the words of its name.

    Attributes:
        path: The file.
        place: The path below the source.
        words: The words and numbers of its name, and how often each occurs.
        kind: ``"image"``, ``"label"``, or empty if it cannot be read.
        shape: The shape of its array.
    """

    path: Path
    place: str
    words: Counter[str]
    kind: str
    shape: tuple[int, ...]

    @property
    def marks(self) -> Counter[str]:
        """The numbers and phases of the name, in which an image and its label may not differ."""
        return Counter({word: n for word, n in self.words.items() if word.isdigit() or word in PHASE_WORDS})

    def extends(self, other: _Volume) -> bool:
        """Whether the name has all words of another and more."""
        return other.words < self.words


class _Lone(NamedTuple):
    """A volume that found no partner."""

    path: Path
    reason: str
    detail: str


def holds(files: Files) -> bool:
    """Whether there are volumes."""
    return bool(list_volumes(files))


def plan(files: Files, label: Label) -> Plan:
    """Plan to read the labelled frames, see :func:`~monai_iln.datasets.readers.folders.read_folders`."""
    wanted = find_structures(label, {})
    folders: dict[str, dict[Path, list[_Candidate]]] = defaultdict(lambda: defaultdict(list))
    for path in list_volumes(files).values():
        folder = _subject_folder(path, files[path])
        folders[normalize("NFC", folder.resolve().name)][folder].append(_Candidate(path, below_source(path, files)))
    infos, damaged = read_tables(files, folders)
    subjects = {
        subject: partial(_read_subject, subject, dict(own), infos.get(subject, {}), wanted)
        for subject, own in folders.items()
    }
    return Plan(subjects, damaged, _refuse)


class _Candidate(NamedTuple):
    """A file that is an image or a label, and its path below the source."""

    path: Path
    place: str


def _read_subject(
    subject: str, folders: Mapping[Path, Sequence[_Candidate]], info: SubjectInfo, wanted: Wanted
) -> SubjectOutput:
    """Read a subject, whose name several folders may have, but only one that holds images with labels.

    Raises:
        UserError: If two folders are of the subject.
    """
    pairs: list[FilePair] = []
    findings = []
    owner: Path | None = None
    for folder, candidates in folders.items():
        matched, lone = _match([_look_at(candidate, folder) for candidate in candidates])
        if matched and owner is not None:
            raise UserError(
                f"{owner} and {folder}: both are subject {subject}, by their names. Rename one if they are two "
                "persons; give one copy if they are one, or patterns for image and mask."
            )
        if matched:
            owner = folder
        pairs += _name_phases(subject, matched)
        findings += [Finding(volume.reason, subject, "", None, str(volume.path), volume.detail) for volume in lone]
    output = read_pairs(sorted(pairs), info, wanted)
    return output._replace(findings=findings + output.findings)


def _refuse(overview: Overview) -> None:
    """Refuse labels with several values, and a folder that seems to hold several subjects."""
    subjects, phases = ({stack.subject for stack in overview.stacks}, {stack.phase for stack in overview.stacks})
    if len(subjects) == 1 and len(phases - {"ED", "ES"}) > 2:
        files = [stack.file for stack in overview.stacks]
        raise UserError(
            f"{Path(files[0]).parent}: {count(len(files), 'image')} with labels in one folder, as if of one subject. "
            "Each "
            "subject has a folder of its own: give the one above those, or say by patterns for image and mask where "
            "names tell the subject."
        )
    refuse_several_values(overview)


def _words(name: str) -> list[str]:
    """Words and numbers; imgES has two words."""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", normalize("NFC", name))
    return re.findall(r"[^\W\d_]+|\d+", separated.casefold())


def _subject_folder(path: Path, source: Path) -> Path:
    """The nearest folder that is named neither like a phase nor like a file."""
    folder = path.parent
    while folder != source and (VOLUME_NAME.fullmatch(folder.name) or set(_words(folder.name)) <= set(PHASE_WORDS)):
        folder = folder.parent
    return folder


def _look_at(candidate: _Candidate, folder: Path) -> _Volume:
    """A volume as what it is: files of few whole numbers are labels."""
    path, place = candidate
    words = Counter(_words(without_type(path.relative_to(folder)).as_posix()))
    try:
        array, _ = read_volume(path)
    except UserError:  # told when the pair is read
        return _Volume(path, place, words, "", ())
    values = label_values(array)
    is_label = values is not None and len(values) <= MOST_VALUES
    return _Volume(path, place, words, "label" if is_label else "image", array.shape)


def _match(volumes: Sequence[_Volume]) -> tuple[list[tuple[_Volume, _Volume]], list[_Lone]]:
    """Images with their labels, and the volumes without a partner."""
    images = [v for v in volumes if v.kind == "image" or (not v.kind and not any(map(v.extends, volumes)))]
    labels_of: dict[Path, list[_Volume]] = defaultdict(list)
    lone = []
    for label in (volume for volume in volumes if volume not in images):
        near = _nearest(label, images)
        if len(near) == 1:
            labels_of[near[0].path].append(label)
        elif near:
            names = ", ".join(image.path.name for image in near)
            lone.append(_Lone(label.path, "mismatch", f"belongs to {names} alike: use patterns for image and mask"))
        else:
            lone.append(_Lone(label.path, "no-image", f"no image {_NOT_THERE}"))
    pairs = []
    without = []
    for image in images:
        labels = labels_of[image.path]
        if len(labels) == 1:
            pairs.append((image, labels[0]))
        elif labels:
            names = ", ".join(label.path.name for label in labels)
            lone.append(_Lone(image.path, "mismatch", f"has the labels {names}: choose by patterns for image and mask"))
        else:
            without.append(image)
    for image in without:
        # A cine beside single frames is what they were taken from.
        if not (len(image.shape) == 4 and pairs):
            lone.append(_Lone(image.path, "no-label", f"no label {_NOT_THERE}"))
    return pairs, lone


def _nearest(label: _Volume, images: Sequence[_Volume]) -> list[_Volume]:
    """The images that a label may belong to, all equally near: of its shape if there are any."""
    fits = [image for image in images if label.extends(image) or image.marks == label.marks]
    fits = [image for image in fits if image.shape == label.shape] or fits
    scores = [(image.words & label.words).total() - (image.words - label.words).total() for image in fits]
    return [image for image, score in zip(fits, scores, strict=True) if score == max(scores)]


def _name_phases(subject: str, matched: Sequence[tuple[_Volume, _Volume]]) -> list[FilePair]:
    """The pairs of a subject with their phases: as their names say, or else what tells the names apart."""
    if not matched:
        return []
    pairs = []
    common = set.intersection(*(set(image.words) for image, _ in matched))
    for image, label in matched:
        words = [*_words(label.place), *_words(image.place)]
        named = [PHASE_WORDS[word] for word in words if word in PHASE_WORDS]
        own = "-".join(word for word in image.words if word not in common)
        pairs.append(FilePair(subject, [own, *named][-1], image.path, label.path))
    return pairs
