"""Which contour a finding is about, on contours of circles; the readers' tests show them at work."""

import numpy as np
import pytest

from monai_iln.datasets.quality.contours import check_contours, copied_contours


def circle(radius, centre=40.0):
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


INNER, OUTER, APART = circle(10), circle(16), circle(16, centre=70)


def write(folder, subject, outlines):
    """The files of one frame, number 7."""
    folder = folder / subject
    folder.mkdir()
    for kind, points in outlines.items():
        np.savetxt(folder / f"{kind}.txt", points, fmt="%.2f")
    return {7: {kind: folder / f"{kind}.txt" for kind in outlines}}


def found(subject, contours, outlines, copies=()):
    findings = check_contours(subject, contours, {7: outlines}, (96, 96), copies)
    return [(found.finding.reason, found.kinds) for found in findings]


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (INNER, OUTER, []),
        (INNER, APART, [("epicardium", ("i", "o"))]),
        (INNER, APART[:60], [("broken-outline", ("o",)), ("epicardium", ("o",))]),
        (circle(10, centre=70)[:60], OUTER, [("broken-outline", ("i",)), ("epicardium", ("i",))]),
        (INNER, APART + 20, [("outside-image", ("o",)), ("epicardium", ("o",))]),
        (INNER[:60], APART[:60], [("broken-outline", ("i",)), ("broken-outline", ("o",)), ("epicardium", ("i", "o"))]),
    ],
    ids=["a pair", "no pair", "broken o", "broken i", "o outside the image", "both broken"],
)
def test_of_a_pair_that_does_not_fit_the_one_that_is_doubted_anyway_is_wrong(tmp_path, inner, outer, expected):
    outlines = {"i": inner, "o": outer}
    assert found("A", write(tmp_path, "A", outlines), outlines) == expected


@pytest.mark.parametrize(
    ("thief", "copied"),
    [({"i": INNER, "o": APART}, "o"), ({"i": circle(10, centre=70), "o": OUTER}, "i")],
)
def test_of_a_pair_that_does_not_fit_the_copy_is_wrong(tmp_path, thief, copied):
    owner = {"o": {"i": circle(10, centre=70), "o": APART}, "i": {"i": circle(10, centre=70), "o": APART}}[copied]
    contours = {"A": write(tmp_path, "A", owner), "B": write(tmp_path, "B", thief)}
    copies = list(copied_contours(contours))
    assert [(found.finding.subject, found.finding.reason, found.kinds) for found in copies] == [
        ("B", "copied-contour", (copied,))
    ]
    assert found("B", contours["B"], thief, copies) == [("epicardium", (copied,))]
    assert found("A", contours["A"], owner) == []


def test_papillary_muscles_are_about_themselves(tmp_path):
    outlines = {"i": INNER, "o": OUTER, "p1": circle(3)[:60]}
    assert found("A", write(tmp_path, "A", outlines), outlines) == [("broken-outline", ("p1",))]
