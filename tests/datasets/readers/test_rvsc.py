import shutil

import pytest

from monai_iln.datasets import read_folders
from monai_iln.datasets.phantom import phantom_truth, write_phantom
from monai_iln.errors import UserError

SMALL = {"subjects": 3, "slices": 6, "phases": 5, "size": 128}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("rvsc") / "data", layout="rvsc", **SMALL)


@pytest.fixture
def data(written, tmp_path):
    return shutil.copytree(written, tmp_path / "data")


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("label", ["right-ventricle", "epicardium", "myocardium"])
def test_truth(written, label):
    reading = read_folders([written], label=label)
    assert reading.findings == []
    truths = {(truth.subject, truth.phase): truth for truth in phantom_truth(layout="rvsc", **SMALL)}
    assert [(stack.subject, stack.phase) for stack in reading.stacks] == sorted(truths)
    for stack in reading.stacks:
        truth = truths[stack.subject, stack.phase]
        inner, outer = truth.masks["right"], truth.masks["right_outer"]
        mask = {"right-ventricle": inner, "epicardium": outer, "myocardium": outer & ~inner}[label]
        assert stack.slices == truth.slices
        assert not stack.thick_wall
        assert dice(stack.label > 0, mask) > (0.6 if label == "myocardium" else 0.85)  # the wall is two pixels thin
        assert dice(stack.cavity > 0, inner) > 0.85


def test_a_contour_of_the_list_that_is_missing(data):
    contours = sorted((data / "patient02" / "P02contours-manual").iterdir())
    lost = contours[-1]
    lost.unlink()
    (finding,) = read_folders([data]).findings
    assert (finding.reason, finding.subject) == ("no-label", "P02")
    assert finding.detail == f"names {lost.name}, which is not there"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "utf-16"])
def test_a_list_may_have_a_byte_order_mark(data, encoding):
    listing = data / "patient02" / "P02list.txt"
    name = "P02-0999-icontour-manual.txt"
    listing.write_text(f"{name}\r\n", encoding=encoding)
    (finding,) = read_folders([data]).findings
    assert finding.detail == f"names {name}, which is not there"


def test_images_without_contours_and_the_reverse(data):
    shutil.rmtree(data / "patient01" / "P01contours-manual")
    shutil.rmtree(data / "patient02" / "P02dicom")
    reading = read_folders([data])
    assert {stack.subject for stack in reading.stacks} == {"P03"}
    assert {(finding.reason, finding.subject) for finding in reading.findings} == {
        ("no-label", "P01"),
        ("no-image", "P02"),
    }


def test_numbers_are_those_of_the_names(data):
    """A missing frame moves none of the others."""
    whole = {(s.subject, s.phase): s for s in read_folders([data]).stacks}
    (data / "patient01" / "P01dicom" / "P01-0001.dcm").unlink()
    for stack in read_folders([data]).stacks:
        assert stack.slices == whole[stack.subject, stack.phase].slices
        assert (stack.label == whole[stack.subject, stack.phase].label).all()


@pytest.mark.parametrize(
    ("other", "lost"), [(15, {("ED", 2), ("ED", 4)}), (7, {("ED", 2), ("ES", 2)}), (6, {("ED", 2)})]
)
def test_files_that_have_one_anothers_names(data, other, lost):
    """The frame of slice 2 at ED is called as another one, and that as this."""
    whole = {(s.subject, s.phase): s for s in read_folders([data]).stacks}
    folder = data / "patient01" / "P01dicom"
    one, two = folder / "P01-0005.dcm", folder / f"P01-{other:04d}.dcm"
    contents = one.read_bytes(), two.read_bytes()
    one.write_bytes(contents[1])
    two.write_bytes(contents[0])
    reading = read_folders([data])
    told = {(f.reason, f.subject, f.file) for f in reading.findings}
    assert {("misplaced-frame", "P01", str(path)) for path in (one, two)} <= told
    assert any(f.detail == "frame 5 is misplaced" for f in reading.findings)
    for stack in reading.stacks:
        truth = whole[stack.subject, stack.phase]
        kept = [truth.slices.index(number) for number in stack.slices]
        assert (stack.image == truth.image[..., kept]).all()
        if stack.subject == "P01":
            left_out = {number for phase, number in lost if phase == stack.phase}
            assert {*truth.slices} - {*stack.slices} == left_out


def test_mistakes(data):
    with pytest.raises(UserError, match="label 'left-ventricle': RVSC has right-ventricle, epicardium, myocardium"):
        read_folders([data], label="left-ventricle")
    contour = sorted((data / "patient02" / "P02contours-manual").iterdir())[0]
    shutil.copy(contour, data)
    with pytest.raises(UserError, match="the same frame as .* A frame has one contour of a kind"):
        read_folders([data])
