"""What is kept of a subject that was prepared, without its images. Records lie on disk, and are read one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from monai_iln.datasets.quality.inspection import Frame, Portrait
from monai_iln.datasets.stacks import Finding
from monai_iln.datasets.unfinished import Results

Item = TypeVar("Item")


class Anew(Iterable[Item]):
    """Items that are made anew whenever somebody goes through them, so that they are never all in memory.

    Args:
        make: A function that makes them.

    Example:
        >>> numbers = Anew(lambda: iter(range(3)))
        >>> list(numbers), sum(numbers)
        ([0, 1, 2], 3)
    """

    def __init__(self, make: Callable[[], Iterator[Item]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Item]:
        return self._make()


class StackRecord(NamedTuple):
    """A stack without its images.

    Attributes:
        subject: The subject.
        phase: The phase.
        stratum: The stratum of the subject.
        slices: The numbers of its slices.
        files: The files of its slices.
        digests: The digests of its images, see :func:`~monai_iln.datasets.quality.inspection.digest_images`.
    """

    subject: str
    phase: str
    stratum: str
    slices: list[int]
    files: list[str]
    digests: list[str]

    def frames(self) -> list[Frame]:
        """Its slices."""
        files = self.files or [""] * len(self.slices)
        return [Frame(self.subject, self.phase, number, file) for number, file in zip(self.slices, files, strict=True)]


@dataclass(frozen=True)
class SubjectRecord:
    """A subject that was read and written.

    Attributes:
        stacks: The stacks that were read.
        items: The items of the stacks that were written, for the datalist.
        findings: The findings about the subject.
        portrait: The numbers by which it is compared with others.
        label_values: The values of its label files, see :class:`~monai_iln.datasets.readers.plan.SubjectOutput`.
    """

    stacks: list[StackRecord]
    items: list[dict[str, Any]]
    findings: list[Finding]
    portrait: Portrait | None
    label_values: list[list[int]]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SubjectRecord:
        """The record that :func:`prepare_subject` has returned as JSON."""
        portrait = None
        if document["portrait"] is not None:
            contrast, shape, centre, side = document["portrait"]
            portrait = Portrait(contrast, tuple(shape), tuple(centre), side)
        return cls(
            [StackRecord(*stack) for stack in document["stacks"]],
            document["items"],
            [Finding(*finding) for finding in document["findings"]],
            portrait,
            document["label_values"],
        )


class Records:
    """The records of all subjects, in the order of their names.

    Args:
        first: The results of :func:`~monai_iln.datasets.pipeline.prepare_subject`.
        again: Those of the subjects that were prepared once more, which count instead.
    """

    def __init__(self, first: Results, again: Results | None = None) -> None:
        self.first = first
        self._again = dict[str, Path]()
        if again is not None:
            self._again = {name: again.file(place) for place, name in enumerate(again.names)}

    def __iter__(self) -> Iterator[tuple[str, SubjectRecord]]:
        for place, name in enumerate(self.first.names):
            file = self._again.get(name, self.first.file(place))
            yield name, SubjectRecord.from_json(json.loads(file.read_text(encoding="utf-8")))

    @property
    def stacks(self) -> Iterable[StackRecord]:
        """The stacks that were read."""
        return Anew(lambda: (stack for _, record in self for stack in record.stacks))

    @property
    def findings(self) -> Iterable[Finding]:
        """The findings about subjects."""
        return Anew(lambda: (finding for _, record in self for finding in record.findings))

    @property
    def label_values(self) -> Iterable[list[int]]:
        """The values of all label files."""
        return Anew(lambda: (values for _, record in self for values in record.label_values))
