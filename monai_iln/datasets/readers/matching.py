"""Pairs of image and label files, and the steps that every way to find them shares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from monai_iln.datasets.formats.volumes import VOLUME_NAME, is_cine
from monai_iln.datasets.readers.tables import SubjectInfo, read_tables
from monai_iln.datasets.stacks import Finding
from monai_iln.errors import UserError

Files = Mapping[Path, Path]  # every file, and the source in which it lies

#: The phases, as words in the names of files and folders.
PHASE_WORDS = {
    **dict.fromkeys(("ed", "diastole", "diastolic", "enddiastole", "enddiastolic"), "ED"),
    **dict.fromkeys(("es", "systole", "systolic", "endsystole", "endsystolic"), "ES"),
}


class FilePair(NamedTuple):
    """An image and its label.

    Attributes:
        subject: The subject.
        phase: The phase, empty where no name tells it.
        image: The file of the image.
        label: The file of the label.
        time: The time in a cine, from 0, of files that hold one frame of it.
    """

    subject: str
    phase: str
    image: Path
    label: Path
    time: int | None = None


class PairedFiles(NamedTuple):
    """The pairs of a data set.

    Attributes:
        pairs: Images with their labels.
        findings: The files without a partner, and whatever else is wrong.
        subjects: What is written about each subject.
    """

    pairs: list[FilePair]
    findings: list[Finding]
    subjects: Mapping[str, SubjectInfo]


class PairCollector:
    """Joins images and labels by subject and phase."""

    def __init__(self) -> None:
        self.images: dict[tuple[str, str], Path] = {}
        self.labels: dict[tuple[str, str], Path] = {}

    def add(self, subject: str, phase: str, path: Path, *, is_label: bool) -> None:
        """Note a file.

        Args:
            subject: The subject that it belongs to.
            phase: The phase that it shows, empty if it is not known.
            path: The file.
            is_label: True for a label, false for an image.

        Raises:
            UserError: If there is another file of its kind, subject and phase.
        """
        known = self.labels if is_label else self.images
        other = known.setdefault((subject, phase), path)
        if other != path:
            raise UserError(
                f"{other} and {path}: both are subject {subject}{phase and f' at {phase}'}. A subject has one image "
                "and one label for each phase: give one copy, or narrower patterns."
            )

    def pairs(self) -> tuple[list[FilePair], list[Finding]]:
        """The pairs, and a finding for every file without a partner."""
        pairs = [FilePair(*key, image, self.labels[key]) for key, image in self.images.items() if key in self.labels]
        paired = {pair.subject for pair in pairs}
        findings = [
            Finding("no-image", *key, None, str(path), "a label, but no image of that name")
            for key, path in self.labels.items()
            if key not in self.images
        ]
        for key, path in self.images.items():
            # A cine beside single frames is what they were taken from.
            if key not in self.labels and not (key[0] in paired and is_cine(path)):
                findings.append(Finding("no-label", *key, None, str(path), "an image, but no label of that name"))
        return pairs, findings

    def with_tables(self, files: Files) -> PairedFiles:
        """The pairs, and what the CSV files among all files say about their subjects."""
        pairs, findings = self.pairs()
        subjects, damaged = read_tables(files, {pair.subject for pair in pairs})
        return PairedFiles(pairs, findings + damaged, subjects)


def list_volumes(files: Files) -> dict[Path, Path]:
    """The volumes by path without type. Of a name in several formats the first of these counts."""
    order = {name: place for place, name in enumerate(("nii", "hdr", "img", "nrrd", "nhdr", "mha", "mhd"))}
    matches = [(path, match) for path in files if (match := VOLUME_NAME.fullmatch(path.name))]
    volumes: dict[Path, Path] = {}
    for path, match in sorted(matches, key=lambda m: (order[m[1]["type"].lower()], m[1]["gzip"] or "", m[0])):
        volumes.setdefault(path.with_name(match["stem"]), path)
    return dict(sorted(volumes.items()))


def find_volumes(files: Files, name: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """The volumes whose name, without type, matches a pattern. macOS writes accents as characters of their own."""
    for stem, path in list_volumes(files).items():
        if match := name.fullmatch(normalize("NFC", stem.name)):
            yield path, match


def below_source(path: Path, files: Files) -> str:
    """The path of a file from the source in which it lies."""
    return path.relative_to(files[path]).as_posix()
