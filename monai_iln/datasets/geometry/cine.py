"""Stacks out of DICOM frames: which frames belong together, and the order of slices and phases.

Names of files and folders decide nothing. Study, size, kind of image, orientation and pixel spacing tell what can be
one stack; positions tell slices; times and numbers tell phases.
"""

from __future__ import annotations

import filecmp
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from monai_iln.datasets.formats.dicom import Frame
from monai_iln.datasets.geometry.phases import order_phases
from monai_iln.datasets.geometry.series import Misfits, find_misfits, split_places, without_idle_uids
from monai_iln.errors import first_of

SAME_COSINE = 1e-3  # a difference of directions that shifts the corner of an image by less than 0.3 mm
SAME_SIZE = 1e-3  # relative difference of pixel spacings
_SAME_ECHO = 0.05  # relative difference of echo times
_MANY = 8  # frames of a series beside which one that differs is a stray

Slice = list[Frame]


@dataclass(frozen=True)
class Cine:
    """Parallel slices, in one phase or in several.

    Attributes:
        slices: The frames of each slice in order of phase, slices in order along their normal.
        key: The element that told the order of phases; empty if there is one phase, or if none does.
        notes: What was decided, as sentences that name files.
        misfits: Frames whose header does not fit with those of their series.
        strays: Single frames of another kind, size or direction than the many others of their series.
    """

    slices: list[Slice]
    key: str = ""
    notes: list[str] = field(default_factory=list)
    misfits: Misfits = field(default_factory=list)
    strays: Misfits = field(default_factory=list)

    @property
    def frames(self) -> list[Frame]:
        """All frames."""
        return [frame for slice_ in self.slices for frame in slice_]

    @property
    def counts(self) -> list[int]:
        """The number of phases of each slice."""
        return [len(slice_) for slice_ in self.slices]

    @property
    def series(self) -> set[tuple[str, int]]:
        """The SeriesInstanceUIDs and SeriesNumbers of the frames."""
        return {(frame.series_uid, frame.series_number) for frame in self.frames}

    @property
    def series_uids(self) -> set[str]:
        """The SeriesInstanceUIDs of the frames."""
        return {uid for uid, _ in self.series}

    def describe(self) -> str:
        """Description, orientation, slices, phases, series and the first file, in a line."""
        first, numbers = self.slices[0][0], sorted({number for _, number in self.series})
        normal = np.abs(first.normal)
        plane = ("sagittal", "coronal", "axial")[int(normal.argmax())]
        phases = " to ".join(str(count) for count in sorted({min(self.counts), max(self.counts)}))
        parts = [
            first.description or "without description",
            plane if normal.max() > 0.95 else f"oblique, nearest to {plane}",
            f"slices: {len(self.slices)}",
            f"phases: {phases}",
            "/".join(part for part in first.kind if part.isalpha() and not part.startswith("MONOCHROME")),
            f"SeriesNumber {numbers[0]}" if len(numbers) == 1 else f"SeriesNumbers {numbers[0]} to {numbers[-1]}",
            f"UID {first.series_uid or 'of no use'}" if len(self.series_uids) == 1 else f"{len(self.series_uids)} UIDs",
            f"first file {first.path.parent.name}/{first.path.name}",
        ]
        return ", ".join(part for part in parts if part)


def drop_copies(frames: Iterable[Frame]) -> tuple[list[Frame], list[str]]:
    """Leave out files that are the same as another, byte by byte.

    Args:
        frames: Frames of any files.

    Returns:
        The frames of the other files, and the copies in a sentence.
    """
    originals: dict[tuple[object, ...], list[Path]] = defaultdict(list)
    copies: dict[Path, Path] = {}
    frames = list(frames)
    for frame in frames:
        if frame.index:
            continue
        twins = originals[frame.uid, frame.instance, frame.position, frame.series_uid]
        original = next((twin for twin in twins if filecmp.cmp(twin, frame.path, shallow=False)), None)
        if original is None:
            twins.append(frame.path)
        else:
            copies[frame.path] = original
    told = [f"{copy} is a copy of {original}" for copy, original in copies.items()]
    return [frame for frame in frames if frame.path not in copies], _shortened(told, "passed over")


def group_cines(frames: Sequence[Frame]) -> list[Cine]:
    """Sort frames into stacks.

    Series of one orientation, size and kind that lie side by side are one stack, such as a series for each slice. A
    slice that was acquired again is taken from the last acquisition. Whole stacks at one place stay apart.

    Args:
        frames: The frames of any number of series.

    Returns:
        The stacks, in order of their SeriesNumbers.
    """
    cines = []
    for family in _families(without_idle_uids(frames)):
        misfits = [misfit for group in _comparable(family) for misfit in find_misfits(group)]
        left_out = {id(frame) for frame, _ in misfits}
        piles = _piles([frame for frame in family if id(frame) not in left_out])
        known = set[str]().union(*(pile.series_uids for pile in piles))
        for pile in piles:
            strange = known - pile.series_uids  # a misfit may be all that its series has
            own = [(frame, detail) for frame, detail in misfits if frame.series_uid not in strange]
            cines.append(_in_order(replace(pile, misfits=own)))
    return sorted(_without_strays(cines), key=lambda one: _age(one.frames))


def _comparable(family: Sequence[Frame]) -> list[list[Frame]]:
    """The frames that one may contradict: those of its series, or all if no series has more than two."""
    groups = _by_series(family)
    return [list(family)] if max(map(len, groups)) < 3 else groups


def _families(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames that can be one stack by everything but their positions."""
    families: dict[tuple[object, ...], list[list[Frame]]] = defaultdict(list)
    is_told = _references_tell(frames)
    for frame in frames:
        alike = families[frame.study, frame.kind, frame.shape, is_told and frame.reference]
        for family in alike:
            if _is_alike(frame, family[0]):
                family.append(frame)
                break
        else:
            alike.append([frame])
    return [family for alike in families.values() for family in alike]


def _references_tell(frames: Sequence[Frame]) -> bool:
    """Whether FrameOfReferenceUIDs tell if the patient was moved. Some anonymizers give every file one of its own."""
    references = [{frame.reference for frame in series} for series in _by_series(frames)]
    return max(map(len, references), default=0) == 1 and len(set.union(*references)) < len(references)


def _is_alike(one: Frame, other: Frame) -> bool:
    directions = [np.array([*frame.row_direction, *frame.column_direction]) for frame in (one, other)]
    return bool(
        np.abs(directions[0] - directions[1]).max() <= SAME_COSINE
        and np.allclose(one.spacing, other.spacing, rtol=SAME_SIZE, atol=0)
        and np.isclose(one.echo_time, other.echo_time, rtol=_SAME_ECHO)
    )


def _by_series(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames of each series, the last acquired last. Series of one UID differ by their number."""
    series: dict[tuple[str, int], list[Frame]] = defaultdict(list)
    for frame in frames:
        series[frame.series_uid, frame.series_number].append(frame)
    return sorted(series.values(), key=_age)


def _age(frames: Sequence[Frame]) -> tuple[float, float]:
    times = [frame.acquisition_time for frame in frames if frame.acquisition_time is not None]
    return frames[0].series_number, min(times, default=0.0)


def _piles(frames: Sequence[Frame]) -> list[Cine]:
    """Stacks out of frames of one family: series side by side are one, series at the same places are several."""
    places = split_places(frames)
    place_of = {id(frame): place for place, members in enumerate(places) for frame in members}
    piles: list[dict[int, Slice]] = []
    for series in _by_series(frames):
        runs: dict[int, Slice] = defaultdict(list)
        for frame in series:
            runs[place_of[id(frame)]].append(frame)
        for run in _rounds(runs):
            for pile in piles:
                if not run.keys() & pile.keys() and _are_as_long(run, pile):
                    pile.update(run)
                    break
            else:
                piles.append(run)
    return _merge_repeats(piles)


def _are_as_long(one: dict[int, Slice], other: dict[int, Slice]) -> bool:
    """Whether slices have about as many phases: a series that lost a file belongs to the others, a single image not."""
    lengths = [max(len(slice_) for slice_ in pile.values()) for pile in (one, other)]
    return 2 * min(lengths) > max(lengths)


def _rounds(runs: dict[int, Slice]) -> list[dict[int, Slice]]:
    """A series, and before it what it holds of slices that were acquired again later, by AcquisitionTime."""
    usual = Counter(map(len, runs.values())).most_common(1)[0][0]
    last, before = dict(runs), {}
    for place, slice_ in runs.items():
        by_time = [frame for frame in slice_ if frame.acquisition_time is not None]
        by_time.sort(key=lambda frame: frame.acquisition_time or 0.0)
        rounds = [list(group) for _, group in groupby(by_time, key=lambda frame: frame.acquisition_time)]
        if len(slice_) > usual and len(rounds) * usual == len(slice_) and {*map(len, rounds)} == {usual}:
            before[place], last[place] = rounds[-2], rounds[-1]
    return [one for one in (before, last) if one]


def _merge_repeats(piles: Sequence[dict[int, Slice]]) -> list[Cine]:
    """Put slices that were acquired again in the place of the first ones, if they are fewer than half of a stack."""
    whole: list[tuple[dict[int, Slice], list[str]]] = []
    for pile in sorted(piles, key=len, reverse=True):
        for big, repeats in whole:
            is_part = pile.keys() <= big.keys() and 2 * len(pile) <= len(big) and _are_as_long(pile, big)
            if is_part and all(_age(pile[place]) != _age(big[place]) for place in pile):
                for place, slice_ in pile.items():
                    first, last = sorted((slice_, big[place]), key=_age)
                    big[place] = last
                    repeats.append(f"that of {last[0].path}, after that of {first[0].path}")
                break
        else:
            whole.append((dict(pile), []))
    return [
        Cine(
            [big[place] for place in sorted(big)],
            notes=_shortened(repeats, "slices acquired again are taken from the last"),
        )
        for big, repeats in whole
    ]


def _in_order(cine: Cine) -> Cine:
    """The same with the phases of each slice in order."""
    phases = order_phases(cine.slices)
    notes, misfits = [*cine.notes, *phases.notes], [*cine.misfits, *phases.misfits]
    return replace(cine, slices=phases.slices, key=phases.key, notes=notes, misfits=misfits)


def _without_strays(cines: Sequence[Cine]) -> list[Cine]:
    """The stacks, with single frames that differ from the many others of their series among the strays of those."""
    homes = {series: cine for cine in cines if len(cine.frames) >= _MANY for series in cine.series}
    kept = []
    for cine in cines:
        frame = cine.slices[0][0]
        home = homes.get((frame.series_uid, frame.series_number))
        if len(cine.frames) > 1 or home is None:
            kept.append(cine)
        else:
            home.strays.append((frame, f"unlike the other frames of its series: {_difference(frame, home.frames[0])}"))
    return kept


def _difference(one: Frame, other: Frame) -> str:
    """The first attribute in which a frame differs from another, with both values."""
    for name in ("study", "kind", "shape", "spacing", "row_direction", "column_direction", "echo_time"):
        if getattr(one, name) != getattr(other, name):
            return f"{name.replace('_', ' ')} {getattr(one, name)}, not {getattr(other, name)}"
    return "it lies elsewhere"


def _shortened(details: Sequence[str], what: str) -> list[str]:
    """One sentence of many details, or none of no details."""
    if not details:
        return []
    return [f"{what}: {first_of(details)}"]
