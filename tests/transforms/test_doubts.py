"""What is doubted: discs of known areas and centres, with logits of known probability."""

import math

import numpy as np
import pytest
import torch

from monai_iln.errors import UserError
from monai_iln.transforms import DoubtSlices, DoubtSlicesd, KeepSlices, LargestComponent

SIZE = 64


def disc(radius, centre=(32, 32)):
    rows, columns = np.ogrid[:SIZE, :SIZE]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def logits_of(*slices, probability=0.99):
    """Logits of two classes, whose second has this probability where a slice is marked, and 0.01 elsewhere."""
    marked = torch.as_tensor(np.stack(slices, axis=-1))
    high, low = (math.log(p / (1 - p)) for p in (probability, 0.01))
    foreground = torch.where(marked, high, low)[None].double()
    return torch.cat([torch.zeros_like(foreground), foreground])


def doubts(*slices, named="", kept=None, **options):
    logits = logits_of(*slices, **options)
    mask = logits.argmax(0, keepdim=True) if kept is None else kept
    return DoubtSlices()(mask, logits, named)


def words(rows):
    return [row["doubts"] for row in rows]


EMPTY = np.zeros((SIZE, SIZE), bool)
HEART = [EMPTY, disc(14), disc(16), disc(15), disc(12), EMPTY]


def test_a_heart_within_its_stack_is_not_doubted():
    rows = doubts(*HEART)
    assert words(rows) == [""] * 6
    assert [row["slice"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["pixels"] for row in rows] == [int(slice_.sum()) for slice_ in HEART]
    assert [row["probability"] for row in rows] == [None, 0.99, 0.99, 0.99, 0.99, None]
    ratio = HEART[3].sum() / HEART[4].sum()
    assert rows[4]["area_ratio"] == pytest.approx(ratio, abs=1e-4)
    assert rows[4]["shift"] == 0
    assert rows[0]["area_ratio"] is None
    assert {row["removed_pixels"] for row in rows} == {0}


def test_the_edge_of_the_stack():
    assert words(doubts(*HEART[1:-1])) == ["edge", "", "", "edge"]


@pytest.mark.parametrize(
    ("named", "found"),
    [("1-", ["", "", "", "edge"]), ("-4", ["edge", "", "", ""]), ("1-4", [""] * 4), ("2-3", [""] * 4)],
)
def test_an_end_that_was_named_is_no_edge(named, found):
    slices = HEART[1:-1]
    kept = KeepSlices(named)(logits_of(*slices).argmax(0, keepdim=True))
    assert words(doubts(*slices, named=named, kept=kept)) == found


def test_alone():
    assert words(doubts(EMPTY, disc(10), EMPTY)) == ["", "alone", ""]
    assert words(doubts(EMPTY, EMPTY, disc(10))) == ["", "", "edge alone"]


def test_a_stack_of_one_slice_has_no_neighbours_and_no_edge():
    assert words(doubts(disc(10))) == [""]
    assert words(doubts(disc(10), probability=0.9)) == ["unsure"]


@pytest.mark.parametrize(("radius", "found"), [(15, ""), (23, "jump"), (8, "jump")])
def test_a_jump_of_area_counts_against_the_nearer_neighbour(radius, found):
    rows = doubts(EMPTY, disc(15), disc(radius), disc(14), EMPTY)
    assert rows[2]["doubts"] == found
    areas = [disc(one).sum() for one in (15, radius, 14)]
    assert rows[2]["area_ratio"] == pytest.approx(
        min(max(areas[1], one) / min(areas[1], one) for one in (areas[0], areas[2])), abs=1e-4
    )


@pytest.mark.parametrize(("columns", "found"), [(6, ""), (9, "jump")])  # of a radius of 15: 0.4, 0.6
def test_a_jump_of_place(columns, found):
    rows = doubts(EMPTY, disc(15), disc(15), disc(15, (32, 32 + columns)), EMPTY)
    assert words(rows) == ["", "", "", found, ""]
    assert rows[3]["shift"] == pytest.approx(columns / math.sqrt(disc(15).sum() / math.pi), abs=1e-4)


def test_unsure():
    assert words(doubts(*HEART, probability=0.93)) == ["", *["unsure"] * 4, ""]
    assert words(doubts(*HEART, probability=0.95)) == [""] * 6


def test_what_the_component_removed_is_told():
    slices = [*HEART, disc(5), EMPTY]
    rows = doubts(*slices, kept=LargestComponent()(logits_of(*slices).argmax(0, keepdim=True)))
    assert words(rows) == ["", "", "", "", "", "", "removed", ""]
    assert [row["removed_pixels"] for row in rows] == [0] * 6 + [int(disc(5).sum()), 0]
    assert rows[6]["pixels"] == 0


def test_what_a_person_has_left_out_is_not_doubted():
    slices = [disc(12), *HEART[1:], disc(5)]
    kept = KeepSlices("3-5")(logits_of(*slices).argmax(0, keepdim=True))
    rows = doubts(*slices, named="3-5", kept=kept)
    assert words(rows) == [""] * 7
    assert rows[0]["removed_pixels"] == disc(12).sum()


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("", ["", "", "", "empty", "", "", ""]),
        ("1-6", ["empty", "", "", "empty", "", "empty", ""]),
        ("1-", ["empty", "", "", "empty", "", "", ""]),
        ("-7", ["", "", "", "empty", "", "empty", "empty"]),
    ],
)
def test_nothing_where_the_heart_should_be(named, found):
    rows = doubts(EMPTY, disc(14), disc(16), EMPTY, disc(15), EMPTY, EMPTY, named=named)
    assert [word.replace("alone", "") for word in words(rows)] == found


@pytest.mark.parametrize(("named", "found"), [("2-3", ["", "empty", "empty"]), ("-2", ["empty", "empty", ""])])
def test_nothing_at_all_in_named_slices(named, found):
    assert words(doubts(EMPTY, EMPTY, EMPTY, named=named)) == found


def test_an_empty_stack():
    rows = doubts(EMPTY, EMPTY)
    assert words(rows) == ["empty", "empty"]
    assert words(doubts(EMPTY)) == ["empty"]
    assert [row["pixels"] for row in rows] == [0, 0]


def test_all_classes_count_as_one():
    logits = torch.cat([logits_of(*HEART), logits_of(*HEART)[1:] - 1])
    (rows,) = [DoubtSlices()(logits.argmax(0, keepdim=True), logits)]
    inside = logits.softmax(0)[:, 32, 32, 1]
    assert rows[1]["probability"] == pytest.approx(1 - float(inside[0]), abs=1e-4)


def test_the_dictionary_version_adds_the_list():
    logits = logits_of(*HEART[1:])
    item = {"pred": logits.argmax(0, keepdim=True), "logits": logits}
    assert words(DoubtSlicesd("pred")(item)["doubts"]) == ["edge", "", "", "", ""]
    assert words(DoubtSlicesd("pred")(item | {"slice_range": "1-4"})["doubts"]) == [""] * 5


@pytest.mark.parametrize("mask", [torch.zeros(1, 4, 4, 3), torch.zeros(2, SIZE, SIZE, 6), torch.zeros(SIZE, SIZE, 6)])
def test_mask_and_logits_are_of_one_stack(mask):
    with pytest.raises(UserError, match="They are of one stack"):
        DoubtSlices()(mask, logits_of(*HEART))
