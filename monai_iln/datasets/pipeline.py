"""Subjects on their way from raw data to stacks: read, inspected and written one by one, on many cores.

Of a subject that is written only a record is kept in memory: what was found, where its stacks are, and the few numbers
by which it is compared with others. What the comparison excludes is written again.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.quality.exclusion import exclude_slices
from monai_iln.datasets.quality.inspection import Frame, Portrait, inspect_subject
from monai_iln.datasets.quality.report import MOST_TILES, FlaggedFrame, draw_frame
from monai_iln.datasets.quality.subjects import (
    find_candidates,
    find_images,
    find_masks,
    find_same_images,
    labelled_frames,
    measure_fit,
    tell_other_subject,
)
from monai_iln.datasets.readers.plan import Overview, Plan, StackName, SubjectOutput, refuse_twins
from monai_iln.datasets.stack_files import refuse_shared_files, remove_stack, write_stack
from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.datasets.unfinished import map_resumably, writing
from monai_iln.errors import UserError
from monai_iln.names import require_visible
from monai_iln.parallel import Workers, run_in_parallel


class Renamer(NamedTuple):
    """Calls files by their names in the archives that they come from, not in a folder that will be gone.

    Attributes:
        temporary: The folders of unpacked archives.
        shown: The name that such a folder has for the user.
    """

    temporary: tuple[str, ...]
    shown: str

    def text(self, text: str) -> str:
        """A message with these names."""
        for folder in self.temporary:
            text = text.replace(f"{folder}/", "").replace(folder, self.shown)
        return text

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise the errors of the user's with these names."""
        try:
            yield
        except UserError as error:
            raise UserError(self.text(str(error))) from error

    def finding(self, finding: Finding) -> Finding:
        """A finding with these names."""
        return finding._replace(file=self.text(finding.file), detail=self.text(finding.detail))

    def stack(self, stack: Stack) -> Stack:
        """A stack with these names."""
        return replace(stack, files=tuple(map(self.text, stack.files)))


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


@dataclass(frozen=True)
class SubjectTask:
    """What is to be done with one subject.

    Attributes:
        read: The function that reads it.
        renamer: The names of files for the user.
        folder: The folder to write into.
        actions: The action for each reason.
        written_as: The name of the subject in what is written, which may be a pseudonym.
        findings: The findings of the comparison with other subjects.
    """

    read: Callable[[], SubjectOutput]
    renamer: Renamer
    folder: Path
    actions: Mapping[str, str]
    written_as: str
    findings: tuple[Finding, ...] = ()


def prepare_subject(task: SubjectTask) -> dict[str, Any]:
    """Read, inspect and write one subject, without the slices that a finding excludes.

    Args:
        task: The subject.

    Returns:
        The record of the subject, as JSON has it.

    Raises:
        UserError: If the subject cannot be read at all, or a file cannot be written.
    """
    with task.renamer.errors():
        output = task.read()
    stacks = list(map(task.renamer.stack, output.stacks))
    inspection = inspect_subject(stacks)
    findings = [*map(task.renamer.finding, output.findings), *inspection.findings, *task.findings]
    good, gaps = exclude_slices(stacks, findings, task.actions)
    with writing(task.folder):
        for stack in stacks:
            remove_stack(replace(stack, subject=task.written_as), task.folder)
        items = [write_stack(replace(stack, subject=task.written_as), task.folder) for stack in good]
    records = [
        StackRecord(stack.subject, stack.phase, stack.stratum, list(stack.slices), list(stack.files), digests)
        for stack, digests in zip(stacks, inspection.images, strict=True)
    ]
    return {
        "stacks": records,
        "items": items,
        "findings": findings + gaps,
        "portrait": inspection.portrait,
        "label_values": [list(values) for values in output.label_values],
    }


class PreparedSubjects:
    """The subjects of a data set in a folder, and everything that is wrong with them.

    Args:
        plan: The subjects.
        folder: The folder to write into, see :func:`~monai_iln.datasets.unfinished.resumable_folder`.
        actions: The action for each reason.
        renamer: The names of files for the user.
        names: The names that subjects have in what is written, by their own.
        workers: The processes to use.
        progress: Shows a bar.

    Raises:
        UserError: If the data set is refused, two stacks have one name, or a file cannot be written.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        actions: Mapping[str, str],
        renamer: Renamer,
        names: Mapping[str, str],
        workers: Workers,
        progress: bool = False,
    ) -> None:
        for subject in plan.subjects:
            require_visible(subject, "subject")
        self.folder, self.actions, self.renamer, self.workers = folder, actions, renamer, workers
        self.tasks = {
            subject: SubjectTask(read, renamer, folder, actions, names.get(subject, subject))
            for subject, read in sorted(plan.subjects.items())
        }
        self.records: dict[str, SubjectRecord] = {}
        done = map_resumably(
            prepare_subject, self.tasks, folder, workers, title="Preparing", unit="subject", progress=progress
        )
        for subject, document in done:
            self.records[subject] = SubjectRecord.from_json(document)
        self._others = list(map(renamer.finding, plan.findings))
        stacks = [StackName(stack.subject, stack.phase, ([*stack.files, ""])[0]) for stack in self.stacks()]
        values = [found for record in self.records.values() for found in record.label_values]
        with renamer.errors():
            plan.refuse(Overview(stacks, self.findings(), values))
        refuse_twins(stacks)
        refuse_shared_files((names.get(stack.subject, stack.subject), stack.phase) for stack in stacks)
        self._compare(skip_other_subjects=actions["other-subject"] == "keep")

    def stacks(self) -> Iterator[StackRecord]:
        """The stacks that were read."""
        for record in self.records.values():
            yield from record.stacks

    def items(self) -> list[dict[str, Any]]:
        """The items of the stacks that were written, for the datalist, without their folds."""
        return [item for record in self.records.values() for item in record.items]

    def findings(self) -> list[Finding]:
        """All findings."""
        return [*self._others, *(finding for record in self.records.values() for finding in record.findings)]

    def _compare(self, skip_other_subjects: bool) -> None:
        """Compare the subjects with one another, and write again those of which something is to be excluded."""
        found: dict[str, list[Finding]] = defaultdict(list)
        pairs = [pair for stack in self.stacks() for pair in zip(stack.digests, stack.frames(), strict=True)]
        comparisons = list(find_same_images(pairs))
        if not skip_other_subjects:
            comparisons += self._find_other_subjects()
        for finding in comparisons:
            found[finding.subject].append(finding)
        tasks = {subject: replace(self.tasks[subject], findings=tuple(own)) for subject, own in found.items()}
        documents = run_in_parallel(prepare_subject, list(tasks.values()), self.workers)
        for subject, document in zip(tasks, documents, strict=True):
            self.records[subject] = SubjectRecord.from_json(document)
        self.tasks |= tasks

    def _find_other_subjects(self) -> Iterator[Finding]:
        """Find subjects whose masks fit the images of another better. Only candidates are read again."""
        portraits = {name: record.portrait for name, record in self.records.items() if record.portrait is not None}
        candidates = find_candidates(portraits)
        doubted_by: dict[str, list[str]] = defaultdict(list)
        for name, others in candidates.items():
            for other in others:
                doubted_by[other].append(name)
        fits: dict[str, dict[str, float]] = {name: {} for name in candidates}
        with tempfile.TemporaryDirectory(prefix=".masks-", dir=self.folder) as scratch:
            files = {name: Path(scratch, str(place)) for place, name in enumerate(candidates)}
            savers = [_Saver(self.tasks[name], file) for name, file in files.items()]
            frames = dict(zip(candidates, run_in_parallel(_save_masks, savers, self.workers), strict=True))
            comparisons = [
                _Comparison(self.tasks[other], [files[name] for name in names]) for other, names in doubted_by.items()
            ]
            measured = run_in_parallel(_measure_fits, comparisons, self.workers)
            for (other, names), values in zip(doubted_by.items(), measured, strict=True):
                for name, value in zip(names, values, strict=True):
                    fits[name][other] = value
            _load_masks.cache_clear()  # of this process; the others end with their work
        for name in candidates:
            yield from tell_other_subject(frames[name], portraits[name], fits[name])

    def draw(self, flagged: Sequence[FlaggedFrame]) -> dict[FlaggedFrame, NDArray[np.float32]]:
        """Draw the first frames of many, as many as a contact sheet takes. Their subjects are read again.

        Args:
            flagged: The frames.
        """
        shown: dict[str, list[FlaggedFrame]] = defaultdict(list)
        for frame in flagged[:MOST_TILES]:
            shown[frame.subject].append(frame)
        drawings = [_Drawing(self.tasks[subject], frames) for subject, frames in shown.items()]
        pictures: dict[FlaggedFrame, NDArray[np.float32]] = {}
        for own in run_in_parallel(_draw, drawings, self.workers):
            pictures |= own
        return {frame: pictures[frame] for frame in flagged[:MOST_TILES]}


class _Saver(NamedTuple):
    """A doubtful subject, and the file that gets its masks."""

    task: SubjectTask
    path: Path


def _save_masks(saver: _Saver) -> list[Frame]:
    """Save the masks for whoever has another's images, and tell their frames."""
    stacks = list(map(saver.task.renamer.stack, saver.task.read().stacks))
    with writing(saver.path):
        joblib.dump(find_masks(stacks), saver.path)
    return labelled_frames(stacks)


_load_masks = lru_cache(maxsize=1024)(joblib.load)


class _Comparison(NamedTuple):
    """A subject, and the masks that are to be laid on its images."""

    task: SubjectTask
    masks: list[Path]


def _measure_fits(comparison: _Comparison) -> list[float]:
    images = find_images(comparison.task.read().stacks)
    return [measure_fit(_load_masks(path), images) for path in comparison.masks]


class _Drawing(NamedTuple):
    """A subject, and the frames that are to be drawn."""

    task: SubjectTask
    frames: list[FlaggedFrame]


def _draw(drawing: _Drawing) -> dict[FlaggedFrame, NDArray[np.float32]]:
    wanted = {(frame.phase, frame.slice): frame for frame in drawing.frames}
    pictures = {}
    for stack in drawing.task.read().stacks:
        for index, number in enumerate(stack.slices):
            frame = wanted.get((stack.phase, number))
            if frame is not None:
                pictures[frame] = draw_frame(stack.image[..., index], stack.cavity[..., index])
    return pictures
