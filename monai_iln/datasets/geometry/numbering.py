"""Which slice and phase a frame of a cine shows, told by its number and its place. The two must not contradict."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from monai_iln.datasets.formats.dicom import Frame
from monai_iln.datasets.geometry.series import MAX_PHASES, SAME_SLICE_MM, Misfits, measure_distances, split_places

_CYCLE = 8  # phases of a slice by which a series is known to be a whole cine
_USUAL_PHASES = 20
# The part of a series' frames, and the number in a short one of ten and more, that may contradict the others. Beyond
# it the numbers follow another rule.
_MOST_MISPLACED, _MOST_IN_SHORT = 0.05, 2

_Places = dict[Frame, tuple[int, int]]  # slice and phase of every frame, from 0


class Numbering(NamedTuple):
    """The slices and phases of a series.

    Attributes:
        places: The slice and the phase, from 0, and the frame, by InstanceNumber.
        phases: The number of phases in a cycle.
        misplaced: The frames whose header contradicts the others, each with what was measured. They have no place.
    """

    places: dict[int, tuple[int, int, Frame]]
    phases: int
    misplaced: Misfits


def number_frames(frames: Sequence[Frame]) -> Numbering:
    """Tell slice and phase of every frame, and find the frames whose header contradicts the others.

    InstanceNumbers decide where they run through the phases of one slice after the other, or through the slices of one
    phase after the other, even if files are missing: each slice of the numbers then lies at a place of its own. A few
    frames may contradict that. These are misplaced, and so are frames that share a number or lie beside their slice,
    and files that have one another's names. Where the numbers follow no such rule, the order of the frames in their
    slices decides.

    Args:
        frames: The frames of one series.
    """
    exchanged = _exchanged(frames)
    # Under the names that they should have, they still help to find the rule.
    renamed = {frame: replace(frame, instance=number) for frame, number in exchanged.items()}
    frames = [renamed.get(frame, frame) for frame in frames]
    # Both the phases of a slice and the slices come in the order of their numbers.
    slices = [sorted(place, key=lambda f: f.instance) for place in split_places(frames)]
    slices.sort(key=lambda s: s[0].instance)
    rule, contradicting = _find_rule(slices)
    misplaced: Misfits = []
    if rule is None:
        places = {frame: (s, p) for s, slice_ in enumerate(slices) for p, frame in enumerate(slice_)}
    else:
        places = {frame: rule.place(frame) for frame in frames if frame not in contradicting}
        places |= _on_the_row(contradicting, rule, places)
        misplaced += [(frame, _contradiction(frame, rule, places)) for frame in contradicting if frame not in places]
    for find in (_repeated, _beside):
        found = find(places)
        misplaced += found
        for frame, _ in found:
            del places[frame]
    places = {frame: place for frame, place in places.items() if frame not in renamed.values()}
    misplaced = [(frame, detail) for frame, detail in misplaced if frame not in renamed.values()]
    misplaced += [(frame, f"its header has the number of the file named {own}") for frame, own in exchanged.items()]
    phases = rule.phases if rule else _most(slices)
    return Numbering({frame.instance: (*place, frame) for frame, place in places.items()}, phases, misplaced)


@dataclass(frozen=True)
class _Rule:
    """A way in which frames are numbered.

    Attributes:
        first: The number of the first frame.
        length: The frames in a run of numbers: the phases of a slice, or the slices of a phase.
        by_slice: Whether a run is a slice. Otherwise it is a phase.
        phases: The number of phases in a cycle.
    """

    first: int
    length: int
    by_slice: bool
    phases: int

    def place(self, frame: Frame) -> tuple[int, int]:
        """The slice and the phase of a frame. One of them is negative before the first frame."""
        run, step = divmod(frame.instance - self.first, self.length)
        return (run, step) if self.by_slice else (step, run)


def _most(slices: Sequence[Sequence[Frame]]) -> int:
    return max(map(len, slices), default=1)


def _usual_lengths(slices: Sequence[Sequence[Frame]]) -> list[int]:
    """The phases that a cycle probably has: as many as a slice, unless a copy may hold the labelled frames alone."""
    lengths = sorted({*map(len, slices)}, reverse=True)
    return lengths if _most(slices) >= _CYCLE else [_USUAL_PHASES, *lengths]


def _rules(slices: Sequence[Sequence[Frame]]) -> Iterator[_Rule]:
    """All rules that the numbers may follow, the likely ones first."""
    most, lowest = _most(slices), min((slice_[0].instance for slice_ in slices), default=1)
    lengths = [*_usual_lengths(slices), *range(1, MAX_PHASES + 1)]
    # InstanceNumbers count from 1, some file names from 0; some series begin anywhere.
    for length, first in (*product(lengths, (1, 0)), *product(lengths, (lowest,))):
        yield _Rule(first, length, True, length)
    for length, first in product((len(slices), len(slices) - 1 or 1), (1, 0, lowest)):  # one misplaced seems a slice
        yield _Rule(first, length, False, most)


def _find_rule(slices: Sequence[Sequence[Frame]]) -> tuple[_Rule | None, list[Frame]]:
    """The rule that no frame contradicts, or the fewest do, if these are few; and those frames."""
    frames = [(frame, index) for index, slice_ in enumerate(slices) for frame in slice_]
    allowed = max(int(_MOST_MISPLACED * len(frames)), min(_MOST_IN_SHORT, len(frames) // 5))
    if len(slices) == 1:  # there is nothing that a number could contradict
        allowed = 0
    usual, is_short = _usual_lengths(slices), _most(slices) < _CYCLE
    found: list[tuple[_Rule, list[Frame]]] = []
    for rule in _rules(slices):
        wrong = _contradicting(rule, frames, allowed)
        if wrong is not None:
            found.append((rule, wrong))
        if wrong == []:
            break

    def doubt(candidate: tuple[_Rule, list[Frame]]) -> int:
        rule, wrong = candidate
        # An odd rule may fit all frames of a short series, the wrong one among them.
        is_odd = rule.length not in usual or (is_short and rule.first not in (1, 0))
        return len(wrong) + (_MOST_IN_SHORT + 1) * is_odd

    return min(found, key=doubt, default=(None, []))


def _contradicting(rule: _Rule, frames: Sequence[tuple[Frame, int]], allowed: int) -> list[Frame] | None:
    """The frames that contradict a rule, ``None`` if they are more than allowed. Each comes with its slice by place."""
    places = [rule.place(frame) for frame, _ in frames]
    claims = Counter((slice_, index) for (slice_, _), (_, index) in zip(places, frames, strict=True))
    by_place = Counter(index for _, index in frames)
    if len(claims) - len(by_place) > allowed:  # at least so many contradict it
        return None
    homes = _homes(claims)
    wrong = [
        frame
        for (slice_, phase), (frame, index) in zip(places, frames, strict=True)
        if homes.get(slice_) != index or slice_ < 0 or not 0 <= phase < rule.phases
    ]
    gaps = max(homes, default=0) - min(homes, default=0) + 1 - len(homes)
    if len(wrong) > allowed or (gaps > len(wrong) and max(by_place.values(), default=0) < _CYCLE):
        return None
    return wrong


def _homes(claims: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """Join slices of the numbers and places one to one by the most frames. Where two claim equally, none has it."""
    homes: dict[int, int] = {}
    for slice_, index in sorted(claims, key=lambda claim: -claims[claim]):
        free = [claim for claim in claims if claim[0] not in homes and claim[1] not in homes.values()]
        rivals = [(s, i) for s, i in free if (s == slice_ or i == index) and claims[s, i] == claims[slice_, index]]
        if rivals == [(slice_, index)]:
            homes[slice_] = index
    return homes


def _on_the_row(doubted: Sequence[Frame], rule: _Rule, places: _Places) -> _Places:
    """The doubted frames that lie where the even row of the other slices has the slice of their number.

    In a copy with the labelled frames alone, two frames of a slice may lie apart: this one is right.
    """
    slices = sorted({slice_ for slice_, _ in places.values()})
    if len(slices) < 3:
        return {}
    centres = [np.median([f.position for f, place in places.items() if place[0] == s], axis=0) for s in slices]
    slope, start = np.polyfit(slices, centres, 1)
    found = {}
    for frame in doubted:
        slice_, phase = rule.place(frame)
        distance = np.linalg.norm(start + slope * slice_ - np.asarray(frame.position))
        if slice_ not in slices and slice_ >= 0 and 0 <= phase < rule.phases and distance < SAME_SLICE_MM:
            found[frame] = slice_, phase
    return found


def _contradiction(frame: Frame, rule: _Rule, places: _Places) -> str:
    """What a frame's number says against where it lies."""
    slice_ = rule.place(frame)[0]
    others = [other for other, place in places.items() if place[0] == slice_]
    if others:
        (distance,) = measure_distances([frame], others)
        return f"its number {frame.instance} is of slice {slice_ + 1}, and it lies {distance:.1f} mm off"
    return f"its number {frame.instance} is of none of the slices"


def _exchanged(frames: Sequence[Frame]) -> dict[Frame, int]:
    """The files that have one another's names, with the right ones, if headers and names of the others count alike.

    A header alone that differs from its name proves nothing: the two may begin a cycle at different phases.
    """
    found: dict[Frame, int] = {}
    for group in (frames, *split_places(frames)):  # headers may count all frames, or those of each slice
        shifts = Counter(f.instance - f.header_number for f in group if f.header_number is not None)
        shift, count = shifts.most_common(1)[0] if shifts else (0, 0)
        if 2 * count <= len(group):
            continue
        owners = {f.instance: f.header_number + shift for f in group if f.header_number is not None}
        owners = {number: owner for number, owner in owners.items() if number != owner}
        while lone := owners.keys() - owners.values():  # until each of them is the owner of another's name
            for number in lone:
                del owners[number]
        found |= {frame: owners[frame.instance] for frame in group if frame.instance in owners}
    return found


def _repeated(places: _Places) -> Misfits:
    """The frames that share a number."""
    counts = Counter(frame.instance for frame in places)
    return [
        (frame, f"its number {frame.instance} is that of {counts[frame.instance]} frames")
        for frame in places
        if counts[frame.instance] > 1
    ]


def _beside(places: _Places) -> Misfits:
    """The frames that lie in the plane of their slice, but beside it."""
    slices = defaultdict(list)
    for frame, (slice_, _) in places.items():
        slices[slice_].append(frame)
    found = []
    for slice_, frames in slices.items():
        for frame, distance in zip(frames, measure_distances(frames, frames), strict=True):
            if distance > SAME_SLICE_MM:
                found.append((frame, f"it lies {distance:.1f} mm beside the other frames of slice {slice_ + 1}"))
    return found
