"""Folders of pictures against the phantoms' own truth."""

import shutil

import numpy as np
import pytest
from phantom_folders import LAYOUTS
from PIL import Image

from monai_iln.datasets import DataWarning, check_datalist, prepare_folders, read_folders
from monai_iln.datasets.formats.png import read_picture
from monai_iln.datasets.phantom import phantom_truth, write_phantom
from monai_iln.errors import UserError

SMALL = {"layout": LAYOUTS["pictures"], "subjects": 2, "slices": 5, "phases": 4, "size": 96}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "pictures", **SMALL)


@pytest.fixture
def copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def faults(reading):
    return [(f.reason, f.subject, f.phase, f.slice) for f in reading.findings]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(seed=0, shape=(12, 14)):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def drawing(value=255, shape=(12, 14)):
    mask = np.zeros(shape, np.uint8)
    mask[3:8, 4:9] = value
    return mask


def write(folder, names, image="images", mask="masks"):
    for seed, name in enumerate(names):
        save(folder / image / name, picture(seed))
        save(folder / mask / name, drawing())


def test_truth(source):
    reading = read_folders([source])
    assert reading.findings == []
    known = {(truth.subject, truth.phase): truth.masks["right"] for truth in phantom_truth(**SMALL)}
    assert [(stack.subject, stack.phase) for stack in reading.stacks] == sorted(known)
    for stack in reading.stacks:
        np.testing.assert_array_equal(stack.label, known[stack.subject, stack.phase])
        assert stack.slices == (7, 8, 9, 10, 11)
        assert [file.rsplit("/", 1)[-1] for file in stack.files] == [f"slice{n}.png" for n in stack.slices]
        for index, file in enumerate(stack.files):
            np.testing.assert_array_equal(stack.image[..., index], np.asarray(Image.open(file).convert("L")))
        np.testing.assert_array_equal(stack.affine, np.eye(4))


def test_a_datalist(source, tmp_path):
    items = check_datalist(prepare_folders(source, tmp_path / "out", folds=2))
    assert [(item["subject"], item["phase"]) for item in items][:2] == [("case 1", "ED"), ("case 1", "ES")]


@pytest.mark.parametrize(
    ("image", "mask", "phase"),
    [
        ("P1/images", "P1/masks", "1"),
        ("images/P1", "masks/P1", "1"),
        ("Images/P1/es", "Labels/P1/es", "ES"),
        ("data/P1/Diastole/img", "data/P1/Diastole/gt", "ED"),
        ("images/train/P1/images", "images/train/P1/masks", "1"),
    ],
)
def test_places(tmp_path, image, mask, phase):
    write(tmp_path, ["1.png", "2.png"], image, mask)
    reading = read_folders([tmp_path])
    assert reading.findings == []
    assert [(stack.subject, stack.phase, stack.slices) for stack in reading.stacks] == [("P1", phase, (1, 2))]


@pytest.mark.parametrize(
    ("names", "slices"),
    [
        (["0.png", "1.png", "2.png"], (1, 2, 3)),
        (["IM-8.png", "IM-9.png", "IM-10.png"], (8, 9, 10)),
        (["2024-01-31 (1).png", "2024-01-31 (2).png"], (1, 2)),
        (["only.png"], (1,)),
        (["P1_0004.png"], (4,)),
    ],
)
def test_order(tmp_path, names, slices):
    write(tmp_path / "P1", names)
    (stack,) = read_folders([tmp_path]).stacks
    assert stack.slices == slices
    for index, seed in enumerate(range(len(names))):
        np.testing.assert_array_equal(stack.image[..., index], picture(seed))


@pytest.mark.parametrize(
    "names", [["apex.png", "base.png"], ["1_2.png", "2_1.png"], ["1.png", "01.png"], ["a1.png", "2.png"]]
)
def test_names_that_do_not_count(tmp_path, names):
    write(tmp_path / "P1", names)
    reading = read_folders([tmp_path])
    assert reading.stacks == []
    assert faults(reading) == [("mismatch", "P1", "1", None)]
    assert "must differ in one number" in reading.findings[0].detail


def test_gaps_are_told(tmp_path):
    write(tmp_path / "P1", ["1.png", "2.png", "4.png"])
    reading = read_folders([tmp_path])
    assert faults(reading) == [("uneven-slices", "P1", "1", None)]
    assert reading.stacks[0].slices == (1, 2, 4)


class TestColours:
    def test_palettes_of_greys_and_equal_channels_are_none(self, copy):
        path = copy / "case 1" / "ED" / "images" / "slice8.png"
        grey = np.asarray(Image.open(path))
        for mode in ("P", "RGB", "RGBA", "LA"):
            Image.fromarray(grey).convert(mode).save(path)
            read = read_picture(path)
            np.testing.assert_array_equal(read.grey, grey)
            assert not read.has_colours
        inverse = Image.fromarray(255 - grey, "P")
        inverse.putpalette([value for value in range(255, -1, -1) for _ in range(3)])
        inverse.save(path)
        np.testing.assert_array_equal(read_picture(path).grey, grey)
        assert read_folders([copy]).findings == []

    @pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
    def test_images_with_colours_are_told(self, copy, mode):
        path = copy / "case 1" / "ED" / "images" / "slice8.png"
        colour = np.asarray(Image.open(path).convert("RGB")).copy()
        colour[10, 10] = 255, 0, 0
        Image.fromarray(colour).convert(mode).save(path)
        reading = read_folders([copy])
        assert faults(reading) == [("colours", "case 1", "ED", 8)]
        assert len(reading.stacks) == 4
        with pytest.warns(DataWarning) as caught:
            prepare_folders(copy, copy.parent / "out", folds=2)
        assert any(str(warning.message).startswith("colours: 1 (keep) in case 1.") for warning in caught)

    def test_transparency_is_told(self, copy):
        path = copy / "case 1" / "ED" / "images" / "slice8.png"
        clear = np.asarray(Image.open(path).convert("RGBA")).copy()
        clear[10, 10, 3] = 0
        Image.fromarray(clear).save(path)
        assert faults(read_folders([copy])) == [("colours", "case 1", "ED", 8)]

    def test_masks_with_colours_are_left_out(self, copy):
        path = copy / "case 1" / "ED" / "masks" / "slice8.png"
        mask = np.asarray(Image.open(path).convert("RGB")).copy()
        Image.fromarray(mask * np.uint8([1, 0, 0])).save(path)
        reading = read_folders([copy])
        assert faults(reading) == [("label-values", "case 1", "ED", 8)]
        assert reading.stacks[0].slices == (7, 9, 10, 11)

    def test_sixteen_bits(self, tmp_path):
        deep = picture().astype(np.uint16) * 100
        save(tmp_path / "P1" / "images" / "1.png", deep)
        save(tmp_path / "P1" / "masks" / "1.png", drawing())
        (stack,) = read_folders([tmp_path]).stacks
        np.testing.assert_array_equal(stack.image[..., 0], deep)


class TestFaults:
    @pytest.mark.parametrize(("lost", "reason"), [("images", "no-image"), ("masks", "no-label")])
    def test_lone_files(self, copy, lost, reason):
        (copy / "case 2" / "ES" / lost / "slice7.png").unlink()
        reading = read_folders([copy])
        assert faults(reading) == [(reason, "case 2", "ES", None)]
        assert reading.stacks[3].slices == (8, 9, 10, 11)

    @pytest.mark.parametrize("which", ["images", "masks"])
    def test_damage(self, copy, which):
        path = copy / "case 2" / "ES" / which / "slice7.png"
        path.write_bytes(path.read_bytes()[:-40])
        reading = read_folders([copy])
        assert faults(reading) == [("unreadable", "case 2", "ES", 7)]
        assert str(path) in reading.findings[0].detail

    def test_a_mask_of_another_size(self, copy):
        save(copy / "case 1" / "ED" / "masks" / "slice9.png", drawing())
        assert faults(read_folders([copy])) == [("mismatch", "case 1", "ED", 9)]

    def test_a_slice_of_another_size(self, copy):
        for name, array in (("images", picture()), ("masks", drawing())):
            save(copy / "case 1" / "ED" / name / "slice9.png", array)
        assert faults(read_folders([copy])) == [("mismatch", "case 1", "ED", 9)]

    def test_smooth_edges(self, copy):
        path = copy / "case 1" / "ED" / "masks" / "slice8.png"
        mask = Image.open(path)
        mask.resize((200, 200), Image.Resampling.BICUBIC).resize(mask.size, Image.Resampling.BICUBIC).save(path)
        reading = read_folders([copy])
        assert faults(reading) == [("label-values", "case 1", "ED", 8)]
        assert "edges that are not smooth" in reading.findings[0].detail

    def test_nothing_of_a_subject_can_be_read(self, copy):
        for path in (copy / "case 1").rglob("*.png"):
            path.write_bytes(b"")
        reading = read_folders([copy])
        assert {stack.subject for stack in reading.stacks} == {"case 2"}
        assert {fault[:2] for fault in faults(reading)} == {("unreadable", "case 1")}

    def test_one_subject_in_two_folders(self, tmp_path):
        for site in "ab":
            write(tmp_path / site / "P1", ["1.png"])
        with pytest.raises(UserError, match="both are subject P1 at 1"):
            read_folders([tmp_path])

    def test_one_slice_twice(self, tmp_path):
        write(tmp_path / "P1", ["1.png", "1.PNG"])
        with pytest.raises(UserError, match="both are of one slice"):
            read_folders([tmp_path])


def test_several_structures(tmp_path):
    for subject in ("P1", "P2"):
        save(tmp_path / subject / "images" / "1.png", picture())
        mask = drawing(100)
        mask[0, 0] = 200
        save(tmp_path / subject / "masks" / "1.png", mask)
    with pytest.raises(UserError, match="2 of 2 labels have several values beside 0: 100, 200"):
        read_folders([tmp_path])
    (stack, _) = read_folders([tmp_path], label=[200, 100]).stacks
    np.testing.assert_array_equal(stack.label[..., 0], (mask == 200) + 2 * (mask == 100))


def test_tables(copy):
    (copy / "t.csv").write_text("subject,disease\n1,TOF\n2,TGA\n")
    assert [stack.stratum for stack in read_folders([copy]).stacks] == ["TOF", "TOF", "TGA", "TGA"]


def test_volumes_go_before_pictures_of_them(tmp_path, copy):
    (copy / "scan.nii.gz").touch()
    with pytest.raises(UserError, match="no data of the layout pictures.*layout folders"):
        read_folders([copy], layout="pictures")
