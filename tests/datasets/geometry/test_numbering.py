"""The slice and phase of a frame, from its number and its place, on headers alone."""

import random
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest

from monai_iln.datasets.formats.dicom import Frame
from monai_iln.datasets.geometry.numbering import number_frames

AXES = {"row_direction": (1.0, 0.0, 0.0), "column_direction": (0.0, 1.0, 0.0), "spacing": (1.0, 1.0)}


def frame(number, depth):
    return Frame(Path(f"{number}.dcm"), number, ("s",), (4, 4), (0.0, 0.0, depth), **AXES, slice_step=8.0)


def series(number, slices=3, phases=4, first=1):
    """A cine 8 mm apart. A function numbers it, from 0, by slice and phase."""
    return [frame(number(s, p) + first, 8.0 * s) for s, p in product(range(slices), range(phases))]


def slice_by_slice(slices=3, phases=4, first=1):
    return series(lambda s, p: phases * s + p, slices, phases, first)


def phase_by_phase(slices=3, phases=4, first=1):
    return series(lambda s, p: slices * p + s, slices, phases, first)


def sample(frames, count):
    return random.Random(0).sample(frames, count)


def places(frames):
    numbering = number_frames(frames)
    return {number: place[:2] for number, place in numbering.places.items()}


def test_slices_and_phases_come_from_geometry():
    # Two phases of three slices 2 mm apart, from feet to head, each position with the jitter of a written header.
    frames = [frame(2 * k + p, -2.0 * k + 0.01 * p) for k in range(3) for p in (2, 1)]
    assert places(frames) == {1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 1), 5: (2, 0), 6: (2, 1)}


@pytest.mark.parametrize("first", [1, 0, 3])
@pytest.mark.parametrize("phases", [4, 20])
def test_numbers_tell_slice_and_phase(phases, first):
    expected = [(s, p) for s in range(3) for p in range(phases)]
    for numbered in (slice_by_slice, phase_by_phase):
        frames = numbered(phases=phases, first=first)
        found = number_frames(frames)
        assert [found.places[frame.instance][:2] for frame in frames] == expected
        assert (found.phases, found.misplaced) == (phases, [])


@pytest.mark.parametrize("numbered", [slice_by_slice, phase_by_phase])
@pytest.mark.parametrize("missing", [(0, 4), (5,), (11,)])
@pytest.mark.parametrize("first", [1, 0])
def test_files_may_be_missing(numbered, missing, first):
    frames = numbered(first=first)
    whole = places(frames)
    kept = [frame for index, frame in enumerate(frames) if index not in missing]
    if first == 1 or 0 not in missing:  # without number 0 nothing tells that numbers begin there
        assert places(kept) == {frame.instance: whole[frame.instance] for frame in kept}


def test_numbers_of_no_rule_are_in_order():
    numbers = [3, 17, 40, 41, 5, 6, 90, 300, 1000, 1001, 1002, 1003]
    frames = [frame(number, 8.0 * (index // 4)) for index, number in enumerate(numbers)]
    assert places(frames) == {
        number: divmod(index, 4) for index, number in enumerate([3, 17, 40, 41, 5, 6, 90, 300, 1000, 1001, 1002, 1003])
    }


def test_a_copy_with_the_labelled_frames_alone():
    """ED is phase 20, ES phase 8; the basal slice is labelled at ED only."""
    for numbers in ([40, 60, 80, 48, 68], [40, 60, 80], [28, 48]):
        frames = [frame(number, 8.0 * ((number - 1) // 20)) for number in numbers]
        assert number_frames(frames).phases == 20
        assert places(frames) == {n: divmod(n - 1, 20) for n in numbers}


SHIFTS = {"along": (0, 0, 1), "a slice on": (0, 0, 8), "three slices back": (0, 0, -24), "beside": (0.8, -0.6, 0)}


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize(
    "frames",
    [slice_by_slice(), slice_by_slice(first=0), phase_by_phase(), slice_by_slice(12, 20), phase_by_phase(5, 25)],
    ids=["slices", "from 0", "phases", "Sunnybrook", "25 phases"],
)
def test_a_frame_of_a_wrong_place_is_found_and_moves_no_other(frames, shift):
    whole = places(frames)
    for index in sample(range(len(frames)), 12):
        victim = frames[index]
        position = tuple(a + b for a, b in zip(victim.position, SHIFTS[shift], strict=True))
        wrong = replace(victim, position=position)
        found = number_frames([*frames[:index], wrong, *frames[index + 1 :]])
        assert [frame for frame, _ in found.misplaced] == [wrong]
        assert {number: place[:2] for number, place in found.places.items()} == {
            number: place for number, place in whole.items() if number != victim.instance
        }


@pytest.mark.parametrize(
    "frames", [slice_by_slice(), phase_by_phase(), slice_by_slice(12, 20)], ids=["slices", "phases", "Sunnybrook"]
)
def test_a_frame_of_a_wrong_number_is_found_and_moves_no_other(frames):
    whole = places(frames)
    for index in sample(range(len(frames)), 12):
        victim = frames[index]
        for number in {1, 2, len(frames) // 2, len(frames), 500, 1000} - {victim.instance}:
            wrong = replace(victim, instance=number)
            found = number_frames([*frames[:index], wrong, *frames[index + 1 :]])
            twin = next((f for f in frames if f.instance == number), None)
            in_doubt = {wrong}
            if twin is not None and twin.depth == wrong.depth:
                in_doubt.add(twin)  # of two frames of one slice with one number either may be the wrong one
            assert {frame for frame, _ in found.misplaced} == in_doubt
            lost = {frame.instance for frame in in_doubt} if len(in_doubt) == 2 else set()
            assert {n: place[:2] for n, place in found.places.items()} == {
                n: place for n, place in whole.items() if n not in {victim.instance, *lost}
            }


def test_what_was_measured_is_told():
    frames = slice_by_slice(4, 20)
    for change, message in [
        ({"position": (0.0, 0.0, 9.0)}, "its number 30 is of slice 2, and it lies 1.0 mm off"),
        ({"position": (3.0, 4.0, 8.0)}, "it lies 5.0 mm beside the other frames of slice 2"),
        ({"instance": 31}, "its number 31 is that of 2 frames"),
        ({"instance": 71}, "its number 71 is of slice 4, and it lies 16.0 mm off"),
        ({"instance": 999}, "its number 999 is of none of the slices"),
    ]:
        found = number_frames([replace(f, **change) if f.instance == 30 else f for f in frames])
        assert {detail for _, detail in found.misplaced} == {message}


def labelled_alone(first=0):
    """Two frames of each slice, as a copy with the labelled frames alone has them."""
    return [frame(20 * s + p, 8.0 * s) for s in range(first, first + 6) for p in (8, 20)]


@pytest.mark.parametrize("shift", ["along", "a slice on", "three slices back"])
@pytest.mark.parametrize("first", [0, 2])
def test_of_two_frames_of_a_slice_the_one_in_the_row_of_the_others_is_right(shift, first):
    frames = labelled_alone(first)
    for index, victim in enumerate(frames):
        wrong = replace(victim, position=(0.0, 0.0, victim.depth + SHIFTS[shift][2]))
        found = number_frames([*frames[:index], wrong, *frames[index + 1 :]])
        assert [frame for frame, _ in found.misplaced] == [wrong]
        assert {n: place[:2] for n, place in found.places.items()} == {
            f.instance: divmod(f.instance - 1, 20) for f in frames if f is not victim
        }


def test_of_two_frames_of_an_uneven_row_either_may_be_wrong():
    frames = [replace(f, position=(0.0, 0.0, f.depth**1.2)) for f in labelled_alone()]
    frames[4] = replace(frames[4], position=(0.0, 0.0, frames[4].depth + 1.0))
    found = number_frames(frames)
    assert {frame.instance for frame, _ in found.misplaced} == {48, 60}
    assert {n: place[:2] for n, place in found.places.items()} == {
        f.instance: divmod(f.instance - 1, 20) for f in frames if f.instance not in (48, 60)
    }


def test_a_wrong_number_among_labelled_frames_alone():
    frames = labelled_alone(2)
    for index, victim in enumerate(frames):
        for number in {7, 140, 224, 500, 68} - {victim.instance}:
            wrong = replace(victim, instance=number)
            found = number_frames([*frames[:index], wrong, *frames[index + 1 :]])
            assert wrong in {frame for frame, _ in found.misplaced}
            for other, place in found.places.items():
                assert place[:2] == divmod(other - 1, 20)


def test_two_series_in_one_have_no_numbers():
    frames = [*slice_by_slice(), *(replace(f, path=Path("other") / f.path) for f in slice_by_slice())]
    assert len(number_frames(frames).misplaced) == len(frames)


def named(frames, header_number):
    """Frames whose numbers are those of their names. A function gives the header's, by slice and phase from 0."""
    whole = places(frames)
    return [replace(one, header_number=header_number(*whole[one.instance])) for one in frames]


HEADERS = {  # how headers may count, beside names from 0 slice by slice; 5 phases
    "all": lambda s, p: 5 * s + p + 1,
    "each slice": lambda s, p: p + 1,
    "all, from the second phase": lambda s, p: 5 * s + (p - 1) % 5,
    "each slice, from the second phase": lambda s, p: (p - 1) % 5,
    "phases": lambda s, p: 4 * p + s,
    "slices in reverse": lambda s, p: 5 * (3 - s) + p,
    "phases in reverse": lambda s, p: 5 * s + 4 - p,
    "nothing": lambda s, p: 7,
}


@pytest.mark.parametrize("header_number", HEADERS.values(), ids=HEADERS)
def test_headers_may_count_otherwise_than_names(header_number):
    for frames in (slice_by_slice(4, 5, first=0), slice_by_slice(3, 2, first=0)):
        found = number_frames(named(frames, header_number))
        assert found.misplaced == []
        assert len(found.places) == len(frames)


@pytest.mark.parametrize(
    ("frames", "header_number", "apart"),
    [
        (slice_by_slice(5, 2, first=0), lambda s, p: 2 * s + p, True),
        (slice_by_slice(4, 5, first=0), HEADERS["all"], True),
        (slice_by_slice(4, 20, first=0), lambda s, p: p + 1, False),
    ],
    ids=["tiny", "all", "each slice"],
)
def test_files_that_have_one_anothers_names_are_found_and_move_no_other(frames, header_number, apart):
    whole = places(frames)
    pairs = [*combinations(range(len(frames)), 2)]
    for first, second in sample(pairs, min(len(pairs), 120)):
        if not apart and whole[frames[first].instance][0] != whole[frames[second].instance][0]:
            continue
        files = named(frames, header_number)
        one, other = files[first], files[second]
        files[first], files[second] = replace(other, instance=one.instance), replace(one, instance=other.instance)
        found = number_frames(files)
        assert {frame for frame, _ in found.misplaced} == {files[first], files[second]}
        assert {n: place[:2] for n, place in found.places.items()} == {
            n: place for n, place in whole.items() if n not in (one.instance, other.instance)
        }


def test_three_files_that_have_one_anothers_names():
    files = named(slice_by_slice(4, 5, first=0), HEADERS["all"])
    chosen = [files[place] for place in (3, 8, 15)]
    numbers = [frame.instance for frame in chosen]
    renamed = [replace(frame, instance=n) for frame, n in zip(chosen, (*numbers[1:], numbers[0]), strict=True)]
    found = number_frames([*(frame for frame in files if frame not in chosen), *renamed])
    assert {frame for frame, _ in found.misplaced} == {*renamed}
    assert dict(found.misplaced)[renamed[0]] == "its header has the number of the file named 3"
