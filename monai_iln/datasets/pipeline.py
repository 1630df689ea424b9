"""Subjects on their way from raw data to stacks: read, inspected and written one by one, on many cores.

Of a subject that is written only a record is kept, on disk: what was found, where its stacks are, and the few numbers
by which it is compared with others. What the comparison excludes is written again.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import merge
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.pseudonyms import hide_subjects
from monai_iln.datasets.quality.exclusion import exclude_slices
from monai_iln.datasets.quality.inspection import Frame, inspect_subject
from monai_iln.datasets.quality.report import MOST_TILES, FlaggedFrame, draw_frame, flag_frames
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
from monai_iln.datasets.records import Anew, Records, StackRecord
from monai_iln.datasets.renamer import Renamer
from monai_iln.datasets.stack_files import refuse_shared_files, remove_stack, write_stack
from monai_iln.datasets.stacks import Finding
from monai_iln.datasets.unfinished import map_resumably, writing
from monai_iln.names import require_visible
from monai_iln.parallel import Workers, run_in_parallel


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
        self._read, self._names = plan.subjects, names
        self._found: dict[str, list[Finding]] = {}  # by the comparison
        # In the order of what is written: in the order of the names, pseudonyms would tell them.
        subjects = sorted(plan.subjects, key=self.written_as)
        results = map_resumably(
            prepare_subject, subjects, self._task, folder, workers, title="Preparing", unit="subject", progress=progress
        )
        self.records = Records(results)
        self.others = list(map(renamer.finding, plan.findings))
        stacks = Anew(lambda: (StackName(one.subject, one.phase, ([*one.files, ""])[0]) for one in self.records.stacks))
        findings = Anew(lambda: chain(self.others, self.records.findings))
        with renamer.errors():
            plan.refuse(Overview(stacks, findings, self.records.label_values))
        refuse_twins(stacks)
        refuse_shared_files((self.written_as(stack.subject), stack.phase) for stack in stacks)
        self._compare(skip_other_subjects=actions["other-subject"] == "keep")

    def written_as(self, subject: str) -> str:
        """The name of a subject in what is written."""
        return self._names.get(subject, subject)

    def _task(self, subject: str) -> SubjectTask:
        findings = tuple(self._found.get(subject, ()))
        written_as = self.written_as(subject)
        return SubjectTask(self._read[subject], self.renamer, self.folder, self.actions, written_as, findings)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The subjects and the items of the stacks that were written, for the datalist, without their folds."""
        for subject, record in self.records:
            items = record.items
            if self._names:
                items = sorted(items, key=itemgetter("phase"))
            yield from ((subject, item) for item in items)

    @property
    def findings(self) -> Iterable[Finding]:
        """All findings as they are written, those of a subject together."""
        if self._names:
            return Anew(lambda: hide_subjects(self._findings_in_order(), self._names))
        return Anew(self._findings_in_order)

    def _findings_in_order(self) -> Iterator[Finding]:
        """All findings in the order of the names that their subjects have in what is written."""
        others: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.others:
            others[finding.subject].append(finding)
        own = ((name, [*others.get(name, ()), *record.findings]) for name, record in self.records)
        unread = sorted(others.keys() - self._read.keys(), key=self.written_as)
        both = merge(own, ((name, others[name]) for name in unread), key=lambda pair: self.written_as(pair[0]))
        return (finding for _, findings in both for finding in findings)

    def _compare(self, skip_other_subjects: bool) -> None:
        """Compare the subjects with one another, and write again those of which something is to be excluded."""
        found: dict[str, list[Finding]] = defaultdict(list)
        images = Anew(
            lambda: (pair for one in self.records.stacks for pair in zip(one.digests, one.frames(), strict=True))
        )
        comparisons = list(find_same_images(images))
        if not skip_other_subjects:
            comparisons += self._find_other_subjects()
        for finding in comparisons:
            found[finding.subject].append(finding)
        self._found = found
        again = self.folder / ".again"
        with writing(again):
            shutil.rmtree(again, ignore_errors=True)  # of a comparison that was stopped
            again.mkdir()
        results = map_resumably(
            prepare_subject, [*found], self._task, again, self.workers, title="", unit="", progress=False
        )
        self.records = Records(self.records.first, results)

    def _find_other_subjects(self) -> Iterator[Finding]:
        """Find subjects whose masks fit the images of another better. Only candidates are read again."""
        portraits = {name: record.portrait for name, record in self.records if record.portrait is not None}
        candidates = find_candidates(portraits)
        doubted_by: dict[str, list[str]] = defaultdict(list)
        for name, others in candidates.items():
            for other in others:
                doubted_by[other].append(name)
        fits: dict[str, dict[str, float]] = {name: {} for name in candidates}
        with tempfile.TemporaryDirectory(prefix=".masks-", dir=self.folder) as scratch:
            files = {name: Path(scratch, str(place)) for place, name in enumerate(candidates)}
            savers = [_Saver(self._task(name), file) for name, file in files.items()]
            frames = dict(zip(candidates, run_in_parallel(_save_masks, savers, self.workers), strict=True))
            comparisons = [
                _Comparison(self._task(other), [files[name] for name in names]) for other, names in doubted_by.items()
            ]
            measured = run_in_parallel(_measure_fits, comparisons, self.workers)
            for (other, names), values in zip(doubted_by.items(), measured, strict=True):
                for name, value in zip(names, values, strict=True):
                    fits[name][other] = value
            _load_masks.cache_clear()  # of this process; the others end with their work
        for name in candidates:
            yield from tell_other_subject(frames[name], portraits[name], fits[name])

    def flag(self) -> tuple[list[FlaggedFrame], int]:
        """The first frames with findings, as many as a contact sheet takes, and the number of all."""
        first: dict[str, list[FlaggedFrame]] = {"exclude": [], "keep": []}
        total = 0
        others = [finding for finding in self.others if finding.slice is not None]
        for subject, record in self.records:
            slices = [(subject, stack.phase, number) for stack in record.stacks for number in stack.slices]
            if self._names:
                slices.sort()
            own = [finding for finding in others if finding.subject == subject]
            for frame in flag_frames(slices, own + record.findings, self.actions):
                total += 1
                if len(first[frame.action]) < MOST_TILES:
                    first[frame.action].append(frame)
        return (first["exclude"] + first["keep"])[:MOST_TILES], total

    def draw(self, flagged: Sequence[FlaggedFrame]) -> dict[FlaggedFrame, NDArray[np.float32]]:
        """Draw some frames. Their subjects are read again.

        Args:
            flagged: The frames.
        """
        shown: dict[str, list[FlaggedFrame]] = defaultdict(list)
        for frame in flagged:
            shown[frame.subject].append(frame)
        drawings = [_Drawing(self._task(subject), frames) for subject, frames in shown.items()]
        pictures: dict[FlaggedFrame, NDArray[np.float32]] = {}
        for own in run_in_parallel(_draw, drawings, self.workers):
            pictures |= own
        return pictures


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
