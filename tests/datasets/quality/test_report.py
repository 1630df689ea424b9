import csv

import numpy as np
import pytest
from PIL import Image

from monai_iln.datasets.quality.exclusion import exclude_slices
from monai_iln.datasets.quality.reasons import choose_actions
from monai_iln.datasets.quality.report import draw_frame, flag_frames, summarize, write_sheet, write_table
from monai_iln.datasets.stacks import Finding, Stack

TILE, CAPTION, NOTE = 224, 36, 18
PAPER = 24
RED, YELLOW = (255, 80, 80), (255, 205, 60)


def stack(subject, place, slices=2, shape=(60, 90)):
    """A grey landscape with a mask of 10 x 20 pixels at a place."""
    label = np.zeros((*shape, slices), np.uint8)
    row, column = place
    label[row : row + 10, column : column + 20] = 1
    image = np.linspace(0, 100, shape[1])[None, :, None] * np.ones((*shape, slices))
    return Stack(subject, "ED", "", image, label, np.eye(4), tuple(range(1, slices + 1)))


def finding(reason, subject, slice_, detail="measured", about_label=True):
    return Finding(reason, subject, "ED", slice_, f"{subject}.dcm", detail, about_label)


@pytest.fixture
def sheet(tmp_path):
    stacks = [stack("A", (5, 10)), stack("B", (40, 60))]
    findings = [
        finding("area-jump", "A", 1),
        finding("displaced", "B", 2),
        finding("area-jump", "B", 2),
        finding("unreadable", "C", None, "broken, with a comma"),
    ]
    write_report(tmp_path, stacks, findings, choose_actions())
    with Image.open(tmp_path / "exclusions.png") as image:
        return np.asarray(image), tmp_path


def write_report(folder, stacks, findings, actions):
    """As prepare does, of stacks that are in memory."""
    images = {(s.subject, s.phase, number): (s, i) for s in stacks for i, number in enumerate(s.slices)}
    write_table(folder, findings, actions)
    flagged = flag_frames(images, findings, actions)
    pictures = {}
    for frame in flagged[:120]:
        own, index = images[frame[:3]]
        pictures[frame] = draw_frame(own.image[..., index], own.cavity[..., index])
    if flagged:
        write_sheet(folder, pictures, len(flagged))


def outline(tile):
    rows, columns = np.nonzero((tile[..., 1] > 200) & (tile[..., 0] < 120))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_tiles_show_the_frames_as_they_are_those_to_be_excluded_first(sheet):
    image, _ = sheet
    assert image.shape == (NOTE + TILE + CAPTION, 2 * TILE, 3), "there are two tiles"
    scale, left = (TILE - 4) / 90, 2
    top = (TILE - round(60 * scale)) // 2
    for number, (row, column) in enumerate([(40, 60), (5, 10)]):
        tile = image[NOTE : NOTE + TILE, number * TILE : (number + 1) * TILE]
        across = [left + column * scale, left + (column + 20) * scale]
        expected = [top + row * scale, top + (row + 10) * scale, *across]
        np.testing.assert_allclose(outline(tile), expected, atol=3)
        assert tile[top + 10, -8].mean() > tile[top + 10, 8].mean(), "brighter to the right, as the image is"
        assert (tile[: top - 3] == PAPER).all()


def test_captions_say_what_is_done(sheet):
    image, _ = sheet
    for number, colour, other in ((0, RED, YELLOW), (1, YELLOW, RED)):
        caption = image[NOTE + TILE :, number * TILE : (number + 1) * TILE].reshape(-1, 3)
        assert (caption == colour).all(axis=1).sum() > 20
        assert not (caption == other).all(axis=1).any()


def test_the_table_holds_everything(sheet):
    _, folder = sheet
    with (folder / "exclusions.csv").open(newline="", encoding="utf-8") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("A", "ED", "1", "keep", "area-jump", "measured", "A.dcm"),
        ("B", "ED", "2", "keep", "area-jump", "measured", "B.dcm"),
        ("B", "ED", "2", "exclude", "displaced", "measured", "B.dcm"),
        ("C", "ED", "", "left out", "unreadable", "broken, with a comma", "C.dcm"),
    ]


def test_what_is_not_about_the_label_excludes_nothing(tmp_path):
    stacks = [stack("A", (5, 10)), stack("B", (40, 60))]
    findings = [finding("copied-contour", "A", 1), finding("copied-contour", "B", 1, about_label=False)]
    findings += [finding("copied-contour", "B", 2, about_label=False), finding("displaced", "B", 2)]
    actions = choose_actions(exclude=["area-jump"])
    kept, _ = exclude_slices(stacks, findings, actions)
    assert [(s.subject, s.slices) for s in kept] == [("A", (2,)), ("B", (1,))]
    write_report(tmp_path, stacks, findings, actions)
    with (tmp_path / "exclusions.csv").open(newline="", encoding="utf-8") as file:
        told = [(row["subject"], row["slice"], row["action"]) for row in csv.DictReader(file)]
    assert told == [("A", "1", "exclude"), ("B", "1", "keep"), ("B", "2", "keep"), ("B", "2", "exclude")]
    lines = summarize(findings, actions)
    assert [line.split(". ")[0] for line in lines] == [
        "copied-contour: 1 (exclude) in A",
        "copied-contour: 2 (keep) in B",
        "displaced: 1 (exclude) in B",
    ]
    assert finding("unreadable", "A", 1, about_label=False).action(actions) == "left out"


def test_no_image_no_sheet(tmp_path):
    write_report(
        tmp_path, [stack("A", (5, 10))], [finding("unreadable", "A", 1), finding("displaced", "Z", 1)], choose_actions()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["exclusions.csv"]


def test_more_frames_than_anybody_looks_at(tmp_path):
    many = stack("A", (5, 10), slices=130)
    write_report(tmp_path, [many], [finding("displaced", "A", number) for number in many.slices], choose_actions())
    with Image.open(tmp_path / "exclusions.png") as sheet:
        assert sheet.size == (6 * TILE, NOTE + 20 * (TILE + CAPTION))


def test_summary():
    findings = [finding("displaced", name, 1) for name in "EDCBA"] + [finding("displaced", "A", 2)]
    lines = summarize([*findings, finding("unreadable", "", None)], choose_actions(keep=["displaced"]))
    assert lines[0].startswith("unreadable: 1 (left out) in unknown. A file is missing")
    assert lines[1].startswith("displaced: 6 (keep) in A, B, C, D and 1 more. No blood pool")
    assert summarize([], choose_actions()) == []
