import csv
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from phantom_layouts import ALL_LAYOUTS
from PIL import Image

from monai_iln.datasets import read_sunnybrook
from monai_iln.datasets.formats.contours import FILE_NAME, rasterize, read_contour
from monai_iln.datasets.formats.dicom import Frame, stack_affine, uneven_steps
from monai_iln.datasets.phantom import phantom_truth, write_phantom
from monai_iln.datasets.quality.contrast import contrast
from monai_iln.datasets.quality.exclusion import exclude_slices
from monai_iln.datasets.quality.reasons import choose_actions
from monai_iln.datasets.quality.subjects import inspect_stacks
from monai_iln.datasets.readers.contoured import structure_mask
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.errors import UserError

SMALL = {"slices": 6, "phases": 4, "size": 96}
KINDS = {"endocardium": ["i"], "epicardium": ["o"], "myocardium": ["i", "o"], "papillary-muscles": ["p1", "p2"]}


@pytest.fixture
def copied(official, tmp_path):
    return shutil.copytree(official, tmp_path / "copy")


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def reasons(reading, subject=None):
    return Counter(finding.reason for finding in reading.findings if subject in (None, finding.subject))


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["official", "challenge", "arterys", "png"])
def test_every_layout_gives_the_truth(layout, tmp_path):
    source = write_phantom(tmp_path / "data", layout=ALL_LAYOUTS[layout], **SMALL)
    reading = read_sunnybrook(source)
    truths = {(truth.subject, truth.phase): truth for truth in phantom_truth(layout=ALL_LAYOUTS[layout], **SMALL)}
    assert reading.findings == []
    assert len(reading.stacks) == len(truths) == 12
    for stack in reading.stacks:
        truth = truths.pop((stack.subject.replace("-0", "-") if layout == "arterys" else stack.subject, stack.phase))
        assert stack.slices == truth.slices
        assert stack.image.shape == stack.label.shape == (96, 96, len(stack.slices))
        for index in range(len(stack.slices)):
            # The experts' contours lie on a grid of half pixels, and masks hold their outlines.
            assert dice(stack.label[..., index] > 0, truth.masks["endocardium"][..., index]) > 0.85
        assert [Path(file).exists() for file in stack.files] == [True] * len(stack.slices)
    assert not truths


def test_a_uid_of_a_series_for_each_file_tells_no_series(official, copied):
    for path in copied.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = pydicom.uid.generate_uid()
        dataset.save_as(path)
    as_it_was, anonymized = read_sunnybrook(official), read_sunnybrook(copied)
    assert anonymized.findings == as_it_was.findings == []
    for one, other in zip(as_it_was.stacks, anonymized.stacks, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)


@pytest.mark.parametrize("label", KINDS)
def test_every_structure(label, official):
    reading = read_sunnybrook(official, label=label)
    assert [stack.phase for stack in reading.stacks].count("ES") == (6 if label == "endocardium" else 0)
    contours = {
        (FILE_NAME.fullmatch(path.name)["kind"], path.parents[2].name): path for path in official.rglob("*contour*txt")
    }
    assert {stack.subject for stack in reading.stacks} == {
        subject for kind, subject in contours if kind in KINDS[label]
    }
    for stack in reading.stacks:
        assert stack.label.max() == 1
        assert (stack.cavity > 0).any(axis=(0, 1)).all()
        if label == "myocardium":
            assert not (stack.label & stack.cavity).any()
    assert set(reasons(reading)) == (set() if label == "endocardium" else {"not-drawn"})


def test_structures_from_contours():
    inner, outer = np.zeros((2, 4, 4), np.uint8)
    inner[1:3, 1:3], outer[:3, :3] = 1, 1
    both = {"i": inner, "o": outer}
    assert structure_mask("myocardium", both).sum() == 9 - 4
    assert structure_mask("myocardium", {"i": inner}) is None
    np.testing.assert_array_equal(structure_mask("papillary-muscles", {"p1": inner, "p2": outer}), outer)
    np.testing.assert_array_equal(structure_mask("papillary-muscles", {"p2": inner}), inner)
    assert structure_mask("papillary-muscles", both) is None


def test_official_layout(official, stacks):
    for ed, es in zip(stacks[::2], stacks[1::2], strict=True):
        assert (ed.subject, ed.phase, es.phase) == (es.subject, "ED", "ES")
        assert ed.label.mean() > es.label.mean()
        for stack in (ed, es):
            assert list(stack.slices) == sorted(stack.slices)
            for index in range(len(stack.slices)):  # image and mask belong together
                assert contrast(stack.image[..., index], stack.label[..., index]) > 0.5


def test_affine_is_that_of_the_dicom_headers(official, stacks):
    stack = stacks[0]
    folder = first(official, "SCD_IMAGES_01/*/CINESAX_300")
    frames = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    for row, column, index in [(0, 0, 0), (5, 17, len(stack.slices) - 1)]:
        frame = next(f for f in frames if f.InstanceNumber == (stack.slices[index] - 1) * 4 + 1)
        x, y = np.array(frame.ImageOrientationPatient[:3]), np.array(frame.ImageOrientationPatient[3:])
        lps = (
            np.array(frame.ImagePositionPatient, float)
            + y * frame.PixelSpacing[0] * row
            + x * frame.PixelSpacing[1] * column
        )
        ras = stack.affine @ [row, column, index, 1]
        np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-3)


def test_affine_of_pixels_that_are_not_square():
    axes = {"row_direction": (0.0, 1.0, 0.0), "column_direction": (0.0, 0.0, -1.0)}
    frames = [
        Frame(Path("x"), k, ("s",), (4, 4), (-8.0 * k, 20.0, 30.0), **axes, spacing=(1.2, 1.5), slice_step=9.0)
        for k in range(3)
    ]
    # LPS to RAS turns the first two axes. A row further is 1.2 mm down, a column further 1.5 mm to the back.
    expected = [[0, 0, 8, 0], [0, -1.5, 0, -20], [-1.2, 0, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(stack_affine(frames), expected, atol=1e-12)
    np.testing.assert_allclose(stack_affine(frames[:1])[:3, 2], [9, 0, 0], atol=1e-12)
    sheared = [replace(f, position=(-8.0 * k, 20.0 + k, 30.0)) for k, f in enumerate(frames)]
    np.testing.assert_allclose(stack_affine(sheared)[:3, 2], [8, -1, 0], atol=1e-12)
    assert not uneven_steps(frames)
    assert uneven_steps([frames[0], frames[1], replace(frames[2], position=(-24.0, 20.0, 30.0))])


FAULTS = {
    "spacing": ("PixelSpacing", ["2", "2"], "mismatch"),
    "orientation": ("ImageOrientationPatient", ["1", "0", "0", "0", "1", "0"], "no-image"),
    "series": ("SeriesInstanceUID", "1.2.3", "no-image"),
    "number": ("InstanceNumber", "99", "misplaced-frame"),
    "number of another": ("InstanceNumber", "1", "misplaced-frame"),
    "no number": ("InstanceNumber", None, "unreadable"),
    "place beside": (30, None, "misplaced-frame"),
    "place of another": (10, None, "misplaced-frame"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_header_costs_its_frame_alone_and_is_named(copied, stacks, fault):
    path = frame_of(copied, sorted(copied.glob("SCD_ManualContours/*/contours-manual/*/*icontour*"))[1])
    header = pydicom.dcmread(path)
    tag, value, reason = FAULTS[fault]
    if value is not None or isinstance(tag, str):
        setattr(header, tag, value)
    else:  # so many millimetres to the side, or along the normal
        axes = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        axis = {30: axes[0], 10: np.cross(*axes)}[tag]
        header.ImagePositionPatient = [f"{v:.4f}" for v in np.array(header.ImagePositionPatient, float) + tag * axis]
    header.save_as(path)
    reading = read_sunnybrook(copied)
    named = [finding for finding in reading.findings if path.name in f"{finding.file} {finding.detail}"]
    assert [finding.reason for finding in named] == [reason]
    assert set(reasons(reading)) <= {reason, "no-image", "uneven-slices"}
    lost = 0
    for stack, whole in zip(reading.stacks, stacks, strict=True):
        kept = [whole.slices.index(number) for number in stack.slices]
        lost += len(whole.slices) - len(kept)
        np.testing.assert_array_equal(stack.image, whole.image[..., kept])
        np.testing.assert_array_equal(stack.label, whole.label[..., kept])
        np.testing.assert_allclose(stack.affine[:3, :2], whole.affine[:3, :2])
    assert lost == 1


def test_slices_lie_in_the_stack_as_they_lie_in_the_body(copied, stacks):
    """Acquired interleaved: 1, 3, 5, 2, 4, 6."""
    folder = first(copied, "SCD_IMAGES_01/*/CINESAX_300")
    frames = {header.InstanceNumber: header for header in map(pydicom.dcmread, folder.glob("*.dcm"))}
    places = {slice_: frames[4 * slice_ + 1].ImagePositionPatient for slice_ in range(6)}
    for number, header in frames.items():
        header.ImagePositionPatient = places[[0, 2, 4, 1, 3, 5][(number - 1) // 4]]
        header.save_as(folder / f"IM-0003-{number:04d}.dcm")
    stack = read_sunnybrook(copied).stacks[0]
    assert stack.slices == (4, 2, 5, 3)
    np.testing.assert_array_equal(stack.image[..., 1], stacks[0].image[..., 0])
    step = np.array(places[1], float) - np.array(places[0], float)
    np.testing.assert_allclose(stack.affine[:3, 2], step * [-1, -1, 1], atol=1e-3)


def test_linked_folders(official, stacks, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for path in official.iterdir():
        (links / path.name).symlink_to(path)
    (links / "round").symlink_to(links)
    assert len(read_sunnybrook(links).stacks) == len(stacks)


def test_images_of_16_bits(mirror):
    image = first(mirror, "Data/*/Images/*/*.png")
    with Image.open(image) as file:
        grey = np.asarray(file.convert("L")).astype(np.uint16) * 16
    Image.fromarray(grey).save(image)
    stack, index = next((s, s.files.index(str(image))) for s in read_sunnybrook(mirror).stacks if str(image) in s.files)
    np.testing.assert_array_equal(stack.image[..., index], grey)


def test_colours_of_the_mirror_are_told(mirror):
    image = first(mirror, "Data/*/Images/*/*.png")
    colours = np.asarray(Image.open(image).convert("RGB")).copy()
    colours[5, 5] = 0, 255, 0
    Image.fromarray(colours).save(image)
    assert [(f.reason, f.file) for f in read_sunnybrook(mirror).findings] == [("colours", str(image))]


def test_values_are_rescaled_where_the_header_asks_for_it(copied, stacks):
    for path in first(copied, "SCD_IMAGES_01/*").glob("CINESAX_300/*.dcm"):
        header = pydicom.dcmread(path)
        header.RescaleSlope, header.RescaleIntercept = 2, -5
        header.save_as(path)
    np.testing.assert_array_equal(read_sunnybrook(copied).stacks[0].image, 2.0 * stacks[0].image - 5)


def test_mirror_holds_the_same_frames(mirror, stacks):
    copies = read_sunnybrook(mirror).stacks
    assert len(copies) == len(stacks)
    for copy, stack in zip(copies, stacks, strict=True):
        assert (copy.subject, copy.phase, copy.slices) == (stack.subject, stack.phase, stack.slices)
        np.testing.assert_array_equal(copy.label, stack.label)
        assert copy.image.dtype == np.uint8


def test_short_axis_series_is_found_by_evidence(copied, stacks):
    folder = first(copied, "SCD_IMAGES_01/*/CINESAX_300")
    folder.rename(folder.with_name("anything"))
    decoy = folder.with_name("CINESAX_300")
    decoy.mkdir()
    for path in sorted((folder.with_name("anything")).glob("*.dcm"))[:4]:
        shutil.copy(path, decoy)
    np.testing.assert_array_equal(read_sunnybrook(copied).stacks[0].image, stacks[0].image)


def shift(path, rows):
    header = pydicom.dcmread(path)
    header.PixelData = np.roll(header.pixel_array, rows, axis=0).tobytes()
    header.save_as(path)


def test_of_two_whole_series_the_one_whose_blood_is_enclosed(copied, stacks):
    folder = first(copied, "SCD_IMAGES_01/*/CINESAX_300")
    copy = shutil.copytree(folder, folder.with_name("AAA"))
    assert read_sunnybrook(copied).findings == [], "copies alike are one series"
    for path in copy.iterdir():
        shift(path, 20)
    reading = read_sunnybrook(copied)
    assert reading.findings == []
    np.testing.assert_array_equal(reading.stacks[0].image, stacks[0].image)


def test_blood_counts_more_than_a_missing_file(copied, stacks):
    folder = first(copied, "SCD_IMAGES_01/*/CINESAX_300")
    for path in shutil.copytree(folder, folder.with_name("AAA")).iterdir():
        shift(path, 20)
    frame_of(copied, first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*")).unlink()
    reading = read_sunnybrook(copied)
    assert reasons(reading) == {"no-image": 1}
    np.testing.assert_array_equal(reading.stacks[1].image, stacks[1].image[..., 1:])
    np.testing.assert_array_equal(reading.stacks[0].image, stacks[0].image)


def test_two_series_that_fit_alike_are_ambiguous(copied):
    folder = first(copied, "SCD_IMAGES_01/*/CINESAX_300")
    for path in shutil.copytree(folder, folder.with_name("copy")).iterdir():
        header = pydicom.dcmread(path)
        header.PixelData = (header.pixel_array + 1).astype(np.int16).tobytes()
        header.save_as(path)
    reading = read_sunnybrook(copied)
    finding = next(f for f in reading.findings if f.reason == "no-image")
    assert "2 series hold the contoured frames and fit them alike" in finding.detail
    assert finding.subject not in {stack.subject for stack in reading.stacks}


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_sunnybrook(tmp_path / "none")


def test_dicom_files_without_a_suffix(copied, stacks):
    for path in copied.rglob("*.dcm"):
        path.rename(path.with_suffix(""))
    (first(copied, "SCD_IMAGES_01/*") / "DICOMDIR").write_bytes(b"no frame")
    reading = read_sunnybrook(copied)
    assert (len(reading.stacks), reading.findings) == (len(stacks), [])


def test_what_macos_leaves_is_no_data(copied, mirror, stacks):
    for path in [*copied.rglob("*.dcm"), *copied.rglob("*.txt"), *mirror.rglob("*.png")]:
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    shutil.copytree(first(copied, "SCD_ManualContours/*"), copied / "__MACOSX" / "SC-HF-I-777")
    for source in (copied, mirror):
        reading = read_sunnybrook(source)
        assert (len(reading.stacks), reading.findings) == (len(stacks), [])


def test_a_folder_that_cannot_be_read_is_not_passed_over(copied, monkeypatch):
    locked, scan = first(copied, "SCD_IMAGES_01/*"), os.scandir

    def scandir(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=f"{locked.name}: cannot be read .Permission denied"):
        read_sunnybrook(copied)


def test_wrong_label(official, mirror):
    with pytest.raises(UserError, match="label 'aorta': Sunnybrook has endocardium"):
        read_sunnybrook(official, label="aorta")
    with pytest.raises(UserError, match="the PNG mirror has the endocardium only"):
        read_sunnybrook(mirror, label="epicardium")


def test_wrong_layout(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"not one of the layouts; it holds holiday\.jpg\. .*dicom.*png"):
        read_sunnybrook(tmp_path)


def test_layout_not_there(official):
    with pytest.raises(UserError, match="not the layout png, only dicom"):
        read_sunnybrook(official, layout="png")


def test_two_layouts_need_a_choice(copied, mirror, stacks):
    shutil.move(mirror, copied / "SegNetCMR")
    with pytest.raises(UserError, match="holds the layouts dicom and png. Choose one with --layout"):
        read_sunnybrook(copied)
    for layout in ("png", "dicom"):
        assert len(read_sunnybrook(copied, layout=layout).stacks) == len(stacks)


def test_images_and_contours_may_lie_apart(copied, stacks):
    parts = [copied / name for name in ("SCD_IMAGES_01", "SCD_ManualContours", "scd_patientdata.csv")]
    assert len(read_sunnybrook(parts).stacks) == len(stacks)


def test_images_without_contours_and_the_reverse_are_reported(copied, stacks):
    unlabelled = first(copied, "SCD_ManualContours/*")
    shutil.rmtree(unlabelled)
    shutil.rmtree(sorted(copied.glob("SCD_IMAGES_01/*"))[-1])
    reading = read_sunnybrook(copied)
    assert len(reading.stacks) == len(stacks) - 4
    assert reasons(reading) == {"no-label": 1, "no-image": 1}
    assert reasons(reading, unlabelled.name) == {"no-label": 1}
    shutil.rmtree(copied / "SCD_IMAGES_01")
    with pytest.raises(UserError, match="no subject has an image with a contour of the endocardium. 5 subjects have"):
        read_sunnybrook(copied)


def frame_of(copied, contour):
    """The DICOM file of a contour, found as a reader of the documentation would."""
    with (copied / "scd_patientdata.csv").open(encoding="utf-8-sig") as file:
        number = str(int(contour.parents[2].name.split("-")[-1]))
        patient = next(row["PatientID"] for row in csv.DictReader(file) if row["OriginalID"].endswith(f"-{number}"))
    return first(copied, f"SCD_IMAGES_01/{patient}/CINESAX_300/*{contour.name[8:12]}.dcm")


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.01, 0.0])
def test_a_truncated_dicom_file_costs_its_frame_alone(copied, stacks, keep):
    contour = first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*")
    path = frame_of(copied, contour)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    reading = read_sunnybrook(copied)
    finding = next(f for f in reading.findings if f.reason == "unreadable")
    assert finding.file == str(path)
    assert "Download" in finding.detail
    read = sum(len(stack.slices) for stack in reading.stacks)
    assert read == sum(len(stack.slices) for stack in stacks) - 1
    subject = contour.parents[2].name
    for stack in reading.stacks:
        twin = next(s for s in stacks if (s.subject, s.phase) == (stack.subject, stack.phase))
        kept = [twin.slices.index(number) for number in stack.slices]
        np.testing.assert_array_equal(stack.image, twin.image[..., kept])
        np.testing.assert_array_equal(stack.label, twin.label[..., kept])
        assert len(kept) == len(twin.slices) or stack.subject == subject


@pytest.mark.parametrize("text", ["", "500 500\n510 500\n510 510\n"])
def test_a_bad_contour_costs_its_frame_alone(copied, stacks, text):
    path = first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*")
    path.write_text(text)
    reading = read_sunnybrook(copied)
    found = set(reasons(reading)) - {"epicardium"}  # there may be one around the frame, and now nothing in it
    assert found == ({"outside-image"} if text else {"unreadable"})
    assert sum(len(stack.slices) for stack in reading.stacks) == sum(len(stack.slices) for stack in stacks) - 1


def test_two_readers(copied):
    folder = first(copied, "SCD_ManualContours/*/contours-manual/IRCCI-expert")
    other = shutil.copytree(folder, folder.with_name("second-reader"))
    assert read_sunnybrook(copied).findings == [], "copies alike are one contour"
    path = first(other, "*icontour*")
    path.write_text(path.read_text() + "5 5\n")
    with pytest.raises(UserError, match="the same frame as .* keep those of one reader"):
        read_sunnybrook(copied)


def test_contour_of_a_missing_frame(copied, stacks):
    contour = first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*")
    shutil.copy(contour, contour.with_name("IM-0001-9999-icontour-manual.txt"))
    reading = read_sunnybrook(copied)
    assert [f.detail for f in reading.findings if f.reason == "no-image"] == ["CINESAX_300 has no frame 9999"]
    assert reasons(reading)["copied-contour"] == 2, "the contour of another frame under its number"
    assert len(reading.stacks) == len(stacks)


def test_third_phase(copied, stacks):
    contours = sorted(first(copied, "SCD_ManualContours/*").glob("*/*/*icontour*"))
    number = int(contours[0].name[8:12])
    taken = {int(path.name[8:12]) % 4 for path in contours}
    free = next(n for n in range(number, number + 4) if n % 4 not in taken)
    shutil.copy(contours[0], contours[0].with_name(f"IM-0001-{free:04d}-icontour-manual.txt"))
    reading = read_sunnybrook(copied)
    assert reasons(reading) == {"third-phase": 1, "copied-contour": 2}
    assert [s.slices for s in reading.stacks] == [s.slices for s in stacks]


@pytest.mark.parametrize("phase", ["ED", "ES"])
def test_a_lone_phase_is_told_by_its_place_in_the_cycle(copied, stacks, phase):
    folder = first(copied, "SCD_ManualContours/*/contours-manual/IRCCI-expert")
    for path in folder.glob("*contour*"):
        if (int(path.name[8:12]) % 4 == 0) == (phase == "ES"):
            path.unlink()
    lone, *_ = read_sunnybrook(copied).stacks
    assert (lone.subject, lone.phase, lone.slices) == (stacks[0].subject, phase, stacks[phase == "ES"].slices)


def test_copied_contours_are_the_thief_s(copied):
    """The owner's pair fits; the other subject's endocardium sticks out of the copy."""
    names = ["SC-HF-I-901", "SC-N-904"]
    owner, thief = (copied / "SCD_ManualContours" / name / "contours-manual" / "IRCCI-expert" for name in names)
    for path in thief.glob("*ocontour*"):
        moved = read_contour(path.with_name(path.name.replace("ocontour", "icontour"))) + 30
        np.savetxt(path.with_name(path.name.replace("ocontour", "icontour")), moved, fmt="%.2f")
        if (owner / path.name).exists():
            shutil.copy(owner / path.name, path)
    reading = read_sunnybrook(copied)
    copies = [finding for finding in reading.findings if finding.reason == "copied-contour"]
    assert {finding.subject for finding in copies} == {"SC-N-904"}
    assert all(finding.phase == "ED" and finding.slice for finding in copies)
    assert reasons(reading, "SC-N-904")["epicardium"] >= len(copies) > 1
    assert reasons(reading, "SC-HF-I-901") == {}


@pytest.mark.parametrize(("kind", "wrong"), [("o", ("epicardium", "myocardium")), ("i", ("endocardium", "myocardium"))])
@pytest.mark.parametrize("label", KINDS)
def test_a_finding_excludes_what_it_is_about(copied, label, kind, wrong):
    """One subject has contours of another: the label that does without them loses no frame."""
    names = [("SC-N-904", "SC-HF-I-901"), ("SC-HF-I-901", "SC-N-904")][kind == "i"]
    owner, thief = (copied / "SCD_ManualContours" / name / "contours-manual" / "IRCCI-expert" for name in names)
    before = read_sunnybrook(copied, label=label)
    for outer in thief.glob("*ocontour*"):  # at ED, where there are pairs
        path = outer.with_name(outer.name.replace("ocontour", f"{kind}contour"))
        if (owner / path.name).exists():
            shutil.copy(owner / path.name, path)
    reading = read_sunnybrook(copied, label=label)
    told = [finding for finding in reading.findings if finding.reason in ("copied-contour", "epicardium")]
    assert {finding.subject for finding in told} == {names[1]}
    assert {finding.reason for finding in told} == {"copied-contour", "epicardium"}
    assert {finding.about_label for finding in told} == {label in wrong}
    findings = [*reading.findings, *inspect_stacks(reading.stacks)]
    kept, _ = exclude_slices(reading.stacks, findings, choose_actions())
    whole, left = ({(s.subject, s.phase, n) for s in stacks for n in s.slices} for stacks in (before.stacks, kept))
    doubted = whole & {(finding.subject, finding.phase, finding.slice) for finding in told}
    if label in wrong:
        assert doubted
        assert not doubted & left
    else:
        assert left == whole


def test_a_whole_copied_subject_is_both_subjects_fault(copied):
    owner, thief = (copied / "SCD_ManualContours" / name for name in ("SC-HF-I-901", "SC-HF-I-905"))
    shutil.rmtree(thief)
    shutil.copytree(owner, thief)
    assert {f.subject for f in read_sunnybrook(copied).findings if f.reason == "copied-contour"} == {
        "SC-HF-I-901",
        "SC-HF-I-905",
    }


def test_one_image_folder_for_two_subjects(copied):
    table = copied / "scd_patientdata.csv"
    text = table.read_text(encoding="utf-8-sig")
    second, third = (line.split(",")[0] for line in text.splitlines()[1:3])
    table.write_text(text.replace(third, second))
    with pytest.raises(UserError, match=f"{second} and .* are joined, but to others elsewhere"):
        read_sunnybrook(copied)
    table.write_text(text)
    subject = text.splitlines()[1].split(",")[1]
    (copied / "link.csv").write_text(f"patient_id,original_id\nSCD9999901,{subject}\n")
    with pytest.raises(UserError, match=r"csv: SCD\d+ and SC-HF-I-901 are joined, but to others elsewhere"):
        read_sunnybrook(copied)


def test_one_subject_under_two_spellings(tmp_path):
    source = write_phantom(tmp_path / "data", layout=ALL_LAYOUTS["challenge"], subjects=1, **SMALL)
    assert first(source, "challenge_training/*").name == "SC-HF-I-1"
    padded = first(source, "Sunnybrook*/*/*")
    assert padded.name == "SC-HF-I-01"
    shutil.copytree(padded, padded.with_name("SC-HF-I-1"))
    assert [stack.subject for stack in read_sunnybrook(source).stacks] == ["SC-HF-I-01"] * 2


def test_end_diastole_is_told_on_common_slices(copied, stacks):
    """Two large basal slices alone, left at end systole, must not outweigh a whole end-diastolic stack."""
    folder = first(copied, "SCD_ManualContours/*/contours-manual/IRCCI-expert")
    systole = [path for path in sorted(folder.glob("*icontour*")) if int(path.name[8:12]) % 4]
    for path in systole[2:]:
        path.unlink()
    ed, es = read_sunnybrook(copied).stacks[:2]
    assert (ed.slices, es.slices) == (stacks[0].slices, stacks[1].slices[:2])


def test_patient_table(copied):
    table = copied / "scd_patientdata.csv"
    text = table.read_text(encoding="utf-8-sig")
    table.write_text("\n".join(text.splitlines()[:2]))
    reading = read_sunnybrook(copied)
    assert len({stack.subject for stack in reading.stacks}) == 1
    assert reasons(reading) == {"no-image": 5, "no-label": 10}, "two folders of each patient who is no subject"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="a patient that scd_patientdata.csv or link.csv joins to one"):
        read_sunnybrook(copied)
    table.write_bytes(b"PatientID,OriginalID\n\xff\xfe")
    with pytest.raises(UserError, match="cannot be read as a table"):
        read_sunnybrook(copied)


def test_damaged_mirror(mirror, stacks):
    label = first(mirror, "Data/*/Labels/*/*.png")
    total = sum(len(stack.slices) for stack in stacks)

    def check(reason, detail):
        reading = read_sunnybrook(mirror)
        assert [finding.reason for finding in reading.findings] == [reason]
        assert detail in reading.findings[0].detail
        assert sum(len(stack.slices) for stack in reading.stacks) == total - 1

    Image.new("L", (96, 96), 100).save(label)
    check("unreadable", "holds the values [100]. A mask holds 0 and 255 only")
    Image.new("L", (64, 96)).save(label)
    check("mismatch", "image (96, 96) and mask (96, 64)")
    Image.new("L", (96, 96)).save(label)
    check("outside-image", "covers no pixel")
    content = label.read_bytes()
    place = content.index(b"IEND") - 8  # the checksum of the pixels
    label.write_bytes(content[:place] + bytes(4) + content[place + 4 :])
    check("unreadable", "cannot be read as an image")
    label.write_bytes(b"\x89PNG\r\n\x1a\n")
    check("unreadable", "cannot be read as an image")
    label.unlink()
    check("unreadable", "cannot be read as an image")


def test_a_folder_above_may_be_called_images(mirror, stacks):
    moved = mirror.parent / "Images" / "of mine"
    moved.parent.mkdir()
    mirror.rename(moved)
    assert len(read_sunnybrook(moved).stacks) == len(stacks)


def test_a_mask_without_an_image(mirror, stacks):
    lost = first(mirror, "Data/*/Images/*/*.png")
    lost.unlink()
    reading = read_sunnybrook(mirror)
    assert [(f.reason, f.subject, Path(f.file).name) for f in reading.findings] == [
        ("no-image", lost.name.split("-IM-")[0], lost.name)
    ]
    assert sum(len(s.slices) for s in reading.stacks) == sum(len(s.slices) for s in stacks) - 1


def test_duplicate_frame_in_the_mirror(mirror, stacks):
    image = first(mirror, "Data/*/Images/*/*.png")
    other = mirror / "Data" / "Another" / "Images" / image.name
    other.parent.mkdir(parents=True)
    shutil.copy(image, other)
    assert len(read_sunnybrook(mirror).stacks) == len(stacks)
    Image.new("L", (96, 96)).save(other)
    with pytest.raises(UserError, match="the same frame as"):
        read_sunnybrook(mirror)


def test_a_frame_that_claims_to_be_enormous(copied, stacks):
    path = frame_of(copied, first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*"))
    header = pydicom.dcmread(path)
    header.Rows = header.Columns = 65535
    header.save_as(path)
    reading = read_sunnybrook(copied)
    assert "claims 65535 x 65535 pixels" in next(f for f in reading.findings if f.reason == "unreadable").detail
    assert len(reading.stacks) == len(stacks)


def test_read_stack(official, stacks, tmp_path):
    folder = first(official, "SCD_IMAGES_01/*/CINESAX_300")
    with pytest.raises(UserError, match=r"a cine with 4 phases of 6 slices.*phase \(1 to 4\)"):
        read_stack(folder)
    with pytest.raises(UserError, match="phase 5 of 4"):
        read_stack(folder, 5)
    with pytest.raises(UserError, match="no such folder"):
        read_stack(tmp_path / "none")
    with pytest.raises(UserError, match="no DICOM file"):
        read_stack(tmp_path)
    with pytest.raises(UserError, match=r"\d stacks:\n  1: without description"):
        read_stack(folder.parent, 1)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    lost = sorted(damaged.iterdir())[5]
    lost.unlink()
    with pytest.raises(UserError, match="4, 3, 4, 4, 4, 4 files for the 6 slices"):
        read_stack(damaged, 1)
    for path in sorted(damaged.iterdir())[4:7]:
        path.unlink()
    with pytest.raises(UserError, match="not evenly spaced"):
        read_stack(damaged, 1)
    whole, affine = read_stack(folder, 1)
    assert whole.shape == (96, 96, 6)
    stack = next(stack for stack in stacks if stack.subject == "SC-HF-I-901" and stack.phase == "ED")
    planes = [number - 1 for number in stack.slices]
    same = [np.array_equal(read_stack(folder, phase)[0][..., planes], stack.image) for phase in (1, 2, 3, 4)]
    assert same == [False, False, False, True], "ED is the last phase"
    np.testing.assert_allclose(affine[:3, :3], stack.affine[:3, :3], atol=1e-3)


@pytest.fixture(scope="module")
def real_dicom(real):
    return read_sunnybrook(real, layout="dicom")


def test_real_mirror(real, real_mirror):
    stacks, findings = real_mirror
    assert findings == []
    assert sum(stack.image.shape[-1] for stack in stacks) == 805
    assert len({stack.subject for stack in stacks}) == 45
    with (real / "manifest.csv").open() as file:
        known = {(row["case"], row["ed_or_es"], int(row["slice_1based"])) for row in csv.DictReader(file)}
    assert {(stack.subject, stack.phase, number) for stack in stacks for number in stack.slices} == known


def test_real_layouts_agree(real_mirror, real_dicom):
    mirror = {(stack.subject, stack.phase): stack for stack in real_mirror.stacks}
    compared = 0
    for stack in real_dicom.stacks:
        twin = mirror[stack.subject, stack.phase]
        assert stack.slices == twin.slices
        np.testing.assert_array_equal(stack.label, twin.label)
        low, high = stack.image.min(axis=(0, 1)), stack.image.max(axis=(0, 1))
        grey = 255 * (stack.image.astype(float) - low) / (high - low)
        assert np.abs(grey - twin.image).max() <= 1
        compared += len(stack.slices)
    assert compared == 54  # of SC-HF-I-01 and -02, and of -05, whose contours only the arterys copy has


def test_real_copied_contours_are_found(real_dicom):
    found = Counter((f.subject, f.reason) for f in real_dicom.findings)
    assert found == {
        ("SC-HF-I-06", "copied-contour"): 9,
        ("SC-HF-I-06", "epicardium"): 9,
        **{(name, "no-image"): 1 for name in ("SC-HF-I-04", "SC-HF-I-06", "SC-HF-I-09")},
        **{(name, "no-image"): 1 for name in ("SC-HF-NI-11", "SC-HYP-08", "SC-N-03")},
    }


def test_real_contours_of_another_subject_cost_their_own_label_alone(real, tmp_path):
    """SC-HF-I-05 with the epicardial contours of SC-HF-I-01, as the arterys copy has it for SC-HF-I-06."""
    contours = tmp_path / "contourfiles"
    shutil.copytree(real / "arterys_contours" / "final_data" / "contourfiles" / "SC-HF-I-1", contours / "SC-HF-I-1")
    shutil.copytree(real / "arterys_contours" / "final_data" / "contourfiles" / "SC-HF-I-5", contours / "SC-HF-I-5")
    owner, thief = (sorted(contours.glob(f"{name}/o-contours/*")) for name in ("SC-HF-I-1", "SC-HF-I-5"))
    for path, target in zip(owner, thief, strict=False):
        shutil.copy(path, target)
    sources = [contours, real / "SCD_IMAGES_01", real / "scd_patientdata.csv"]
    lost, copies = {}, set()
    for label in ("endocardium", "epicardium"):
        stacks, findings = read_sunnybrook(sources, label=label)
        kept, _ = exclude_slices(stacks, findings, choose_actions())
        whole, left = (sum(len(s.slices) for s in found if s.subject == "SC-HF-I-05") for found in (stacks, kept))
        lost[label] = whole - left
        copies |= {(f.subject, f.phase, f.slice) for f in findings if f.reason == "copied-contour"}
    assert lost["endocardium"] == 0
    assert {(subject, phase) for subject, phase, _ in copies} == {("SC-HF-I-05", "ED")}
    assert lost["epicardium"] >= len(copies) == 9


def test_real_contours_give_the_mirror_s_masks(real, real_mirror):
    """Also of the subjects whose DICOM files are not here."""
    mirror = {
        (stack.subject, number, stack.phase): stack.label[..., index]
        for stack in real_mirror.stacks
        for index, number in enumerate(stack.slices)
    }
    compared = 0
    with (real / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            if row["icontour"]:
                mask = rasterize(read_contour(real / row["icontour"]), (256, 256))
                np.testing.assert_array_equal(mask, mirror[row["case"], int(row["slice_1based"]), row["ed_or_es"]])
                compared += 1
    assert compared == 140
