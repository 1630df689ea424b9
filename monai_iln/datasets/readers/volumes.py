"""Stacks from pairs of volumes: what ACDC, M&Ms and folders of one's own have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.labels import round_labels
from monai_iln.datasets.formats.volumes import read_header, read_voxels
from monai_iln.datasets.geometry.grids import MOST_VOXELS, displacement, slice_axis
from monai_iln.datasets.readers.matching import FilePair, PairedFiles
from monai_iln.datasets.readers.plan import Overview, Plan, SubjectOutput
from monai_iln.datasets.readers.structures import Wanted, label_values
from monai_iln.datasets.readers.tables import SubjectInfo, find_stratum, find_times
from monai_iln.datasets.stacks import Finding, Stack
from monai_iln.errors import UserError


class LabelledVolume(NamedTuple):
    """An image and its label at one time.

    Attributes:
        pair: The files, and whose they are.
        time: The time, from 0, or ``None`` where the files hold only one.
        image: An array ``(H, W, Z)``.
        label: An array ``(H, W, Z)`` of the values in the file.
        affine: The affine to RAS millimetres.
        slices: The numbers of the slices, from 1; empty if they are all of one file.
        files: The files of the slices; empty if they are all of one file.
    """

    pair: FilePair
    time: int | None
    image: NDArray[Any]
    label: NDArray[Any]
    affine: NDArray[np.float64]
    slices: tuple[int, ...] = ()
    files: tuple[str, ...] = ()

    def finding(self, reason: str, phase: str, detail: str) -> Finding:
        return Finding(reason, self.pair.subject, phase, None, str(self.pair.label), detail)


def plan_pairs(paired: PairedFiles, wanted: Wanted) -> Plan:
    """Plan to read pairs of volumes, one stack for each subject and phase.

    Args:
        paired: The pairs, and what is known about their subjects.
        wanted: The structures of the label files that are labelled 1, 2, ... in the stacks.
    """
    pairs: dict[str, list[FilePair]] = defaultdict(list)
    for pair in sorted(paired.pairs):
        pairs[pair.subject].append(pair)
    subjects = {
        subject: partial(read_pairs, own, paired.subjects.get(subject, {}), wanted) for subject, own in pairs.items()
    }
    return Plan(subjects, paired.findings, refuse_several_values)


def read_pairs(pairs: Sequence[FilePair], info: SubjectInfo, wanted: Wanted) -> SubjectOutput:
    """Read the pairs of one subject.

    Args:
        pairs: The pairs.
        info: The information about the subject, from tables.
        wanted: The structures of the label files that are labelled 1, 2, ... in the stacks.
    """
    findings: list[Finding] = []
    cine: list[LabelledVolume] = []
    groups = [cine]
    for pair in pairs:
        volumes = _read_pair(pair, findings)
        if pair.time is None:
            groups.append(volumes)
        else:  # frames in files of their own are named together, as in a cine
            cine += volumes
    return make_stacks([volumes for volumes in groups if volumes], info, wanted, findings)


def make_stacks(
    groups: Collection[Sequence[LabelledVolume]], info: SubjectInfo, wanted: Wanted, findings: list[Finding]
) -> SubjectOutput:
    """Name the phases of one subject's volumes and take the structures that are wanted, one stack for each phase.

    Args:
        groups: The volumes, those of one cine together.
        info: The information about the subject, from tables.
        wanted: The structures of the label files that are labelled 1, 2, ... in the stacks.
        findings: The findings so far. Those of this function join them.
    """
    stacks, values = [], []
    for volumes in groups:
        for volume, phase in _name_phases(volumes, info, wanted):
            if wanted.first.values is None:
                values.append(label_values(volume.label) or ())
            stack = _make_stack(volume, phase, find_stratum(info), wanted)
            if isinstance(stack, Finding):
                findings.append(stack)
            else:
                stacks.append(stack)
    return SubjectOutput(stacks, findings, values)


def refuse_several_values(overview: Overview) -> None:
    """Refuse labels of which most have several values: one must be chosen. If only a few have, those are damaged.

    Args:
        overview: The data set that was read.

    Raises:
        UserError: If most have several values.
    """
    counts = Counter(frozenset(found) - {0} for found in overview.label_values)
    several = {values: count for values, count in counts.items() if len(values) > 1}
    if several and 2 * sum(several.values()) >= counts.total() - counts[frozenset()]:
        shown = ", ".join(map(str, sorted(frozenset().union(*several))))
        raise UserError(
            f"{sum(several.values())} of {counts.total()} labels have several values beside 0: {shown}. "
            "Which of them are learnt? Choose one or several numbers with --label."
        )


def _read_pair(pair: FilePair, findings: list[Finding]) -> list[LabelledVolume]:
    """The labelled times of a pair, slices last; none if it cannot be used. What is wrong joins the findings."""

    def tell(reason: str, detail: str, path: Path = pair.label) -> list[LabelledVolume]:
        findings.append(Finding(reason, pair.subject, pair.phase, None, str(path), detail))
        return []

    try:
        headers = read_header(pair.image), read_header(pair.label)
        image, label = map(read_voxels, headers)
    except UserError as error:
        return tell("unreadable", str(error))
    if image.shape != label.shape:
        return tell("mismatch", f"shape {label.shape}, its image {image.shape}: they must be equal")
    try:
        label = round_labels(label, pair.label)
    except UserError as error:
        return tell("label-values", str(error))
    affine = headers[0].affine
    try:
        last = slice_axis(image.shape, affine)
    except UserError as error:
        return tell("mismatch", str(error))
    for header in headers:
        if header.doubt:
            tell("contradictory-header", header.doubt, header.path)
    distance = displacement(affine, headers[1].affine, image.shape)
    if distance > MOST_VOXELS and all(header.oriented for header in headers):
        tell("misplaced", f"a corner lies {distance:.3g} voxels from the image's; {MOST_VOXELS} are rounding")
    order = [*(axis for axis in range(3) if axis != last), last]
    image, label = (array.transpose(*order, *range(3, array.ndim)) for array in (image, label))
    affine[:, :3] = affine[:, order]
    if image.ndim == 3:
        return [LabelledVolume(pair, pair.time, image, label, affine)]
    times = np.flatnonzero(label.any(axis=(0, 1, 2)))
    if not len(times):
        return tell("empty-label", "no voxel is labelled at any time")
    return [LabelledVolume(pair, int(t), image[..., t].copy(), label[..., t].copy(), affine) for t in times]


def _name_phases(
    volumes: Sequence[LabelledVolume], info: SubjectInfo, wanted: Wanted
) -> Iterator[tuple[LabelledVolume, str]]:
    """The volumes of a pair or a cine with their phases. A time that the table does not name has none."""
    times = [volume.time for volume in volumes if volume.time is not None]
    if not times:
        yield volumes[0], volumes[0].pair.phase or "1"
        return
    names = find_times(info, times)
    if not names and len(times) == 2:
        first, second = (int(wanted.first.cavity(volume.label).sum()) for volume in volumes)
        diastole_first = times if first >= second else times[::-1]
        names = dict(zip(diastole_first, ("ED", "ES"), strict=True))
    if not names:
        names = {time: str(time + 1) for time in times}
    for volume, time in zip(volumes, times, strict=True):
        yield volume, names.get(time, "")


def _make_stack(volume: LabelledVolume, phase: str, stratum: str, wanted: Wanted) -> Stack | Finding:
    if doubt := wanted.first.doubt(volume.label):
        return volume.finding("label-values", phase, doubt)
    if not phase:
        detail = f"labelled at time {volume.time} (from 0), which the table names neither ED nor ES"
        return volume.finding("third-phase", phase, detail)
    if missing := wanted.missing(volume.label):
        values, found = missing[0].values, label_values(volume.label)
        sought = " or ".join(map(str, values)) if values else "of a structure"
        detail = f"no voxel has the value {sought}; it holds {found}: choose one of those"
        return volume.finding("empty-label", phase, detail)
    label = wanted.label_map(volume.label)
    depth = label.shape[-1]
    return Stack(
        subject=volume.pair.subject,
        phase=phase,
        stratum=stratum,
        image=volume.image,
        label=label,
        affine=volume.affine,
        slices=volume.slices or tuple(range(1, depth + 1)),
        files=volume.files or (str(volume.pair.image),) * depth,
        pool=wanted.pool(volume.label),
        thick_wall=wanted.thick_wall,
    )
