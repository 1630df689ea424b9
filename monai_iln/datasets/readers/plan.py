"""A data set as its subjects, each of which is read on its own: one after another, or on many cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from monai_iln.datasets.progress import track
from monai_iln.datasets.stacks import Finding, ReaderOutput, Stack
from monai_iln.errors import UserError


class SubjectOutput(NamedTuple):
    """The output of reading one subject.

    Attributes:
        stacks: The stacks of the subject.
        findings: Everything that was wrong with its files.
        label_values: The values beside 0 of each label file, where no value was chosen.
    """

    stacks: list[Stack]
    findings: list[Finding]
    label_values: Sequence[Sequence[int]] = ()


class StackName(NamedTuple):
    """The name of a stack.

    Attributes:
        subject: The subject.
        phase: The phase.
        file: The first file that the stack was read from.
    """

    subject: str
    phase: str
    file: str

    @classmethod
    def of(cls, stack: Stack) -> StackName:
        return cls(stack.subject, stack.phase, stack.file(0))


class Overview(NamedTuple):
    """A data set that was read, without its images.

    Attributes:
        stacks: The names of all stacks.
        findings: All findings.
        label_values: The values of the label files, see :class:`SubjectOutput`.

    One may go through each of them more than once. They need not be in memory.
    """

    stacks: Iterable[StackName]
    findings: Iterable[Finding]
    label_values: Iterable[Sequence[int]]

    @property
    def is_empty(self) -> bool:
        """Whether there is no stack."""
        return next(iter(self.stacks), None) is None


def _accept(overview: Overview) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Plan:
    """The subjects of a data set.

    Attributes:
        subjects: The function that reads each subject, by its name. It can be pickled, so that another process may
            call it.
        findings: The findings about files that are nobody's.
        refuse: A function that raises a :class:`~monai_iln.errors.UserError` if what was read makes no data set.
    """

    subjects: Mapping[str, Callable[[], SubjectOutput]]
    findings: Sequence[Finding] = field(default=())
    refuse: Callable[[Overview], None] = _accept

    def read(self, progress: bool = False) -> ReaderOutput:
        """Read all subjects, one after another.

        Args:
            progress: Shows a bar.

        Raises:
            UserError: If two stacks are of one subject and phase, or the data set is refused.
        """
        stacks: list[Stack] = []
        findings = list(self.findings)
        values: list[Sequence[int]] = []
        for subject in track(sorted(self.subjects), "Reading", "subject", progress):
            output = self.subjects[subject]()
            stacks += output.stacks
            findings += output.findings
            values += output.label_values
        names = list(map(StackName.of, stacks))
        self.refuse(Overview(names, findings, values))
        refuse_twins(names)
        return ReaderOutput(sorted(stacks, key=lambda stack: (stack.subject, stack.phase)), findings)


def refuse_twins(stacks: Iterable[StackName]) -> None:
    """Refuse two stacks of one subject and phase. Some file systems take names that differ in case for one.

    Args:
        stacks: The names of the stacks, which are gone through twice if two have one name.

    Raises:
        UserError: If two have one name.
    """
    known: set[tuple[str, str]] = set()
    for stack in stacks:
        name = stack.subject.casefold(), stack.phase.casefold()
        if name in known:
            twin = next(one for one in stacks if (one.subject.casefold(), one.phase.casefold()) == name)
            raise UserError(
                f"{twin.file} and {stack.file}: both are subject {stack.subject} at {stack.phase}. A subject has "
                "one frame for each phase and a folder of its own: give one copy, or patterns for image and mask that "
                "tell subject and phase."
            )
        known.add(name)
