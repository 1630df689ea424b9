import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from monai_iln.datasets import DataWarning, read_sunnybrook
from monai_iln.datasets.contours import rasterize, read_contour
from monai_iln.datasets.dicom import Frame, read_stack, split_slices, stack_affine, uneven_steps
from monai_iln.errors import UserError


@pytest.fixture
def copied(official, tmp_path):
    return shutil.copytree(official, tmp_path / "copy")


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def test_official_layout(official, stacks):
    assert len({stack.subject for stack in stacks}) == 6
    for ed, es in zip(stacks[::2], stacks[1::2], strict=True):
        assert (ed.subject, ed.phase, es.phase) == (es.subject, "ED", "ES")
        assert ed.label.mean() > es.label.mean()
        for stack in (ed, es):
            assert stack.image.shape == stack.label.shape == (96, 96, len(stack.slices))
            assert list(stack.slices) == sorted(stack.slices)
            area = stack.label.sum(axis=(0, 1))
            assert area[-1] < area.max()  # the apex comes last
            blood, around = (stack.image[stack.label == value].mean() for value in (1, 0))
            assert blood > 1.5 * around  # image and mask belong together
    contours = Counter(path.parents[2].name for path in official.glob("SCD_Man*/*/*/*/*icontour*"))
    assert contours == {
        ed.subject: len(ed.slices) + len(es.slices) for ed, es in zip(stacks[::2], stacks[1::2], strict=True)
    }


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
    assert not uneven_steps(frames)
    assert uneven_steps([frames[0], frames[1], replace(frames[2], position=(-24.0, 20.0, 30.0))])


def test_slices_and_phases_come_from_geometry():
    axes = {"row_direction": (1.0, 0.0, 0.0), "column_direction": (0.0, 1.0, 0.0), "spacing": (1.0, 1.0)}
    # Two phases of three slices 2 mm apart, from feet to head, each position with the jitter of a written header.
    frames = [
        Frame(Path("x"), 2 * k + p, ("s",), (4, 4), (0.0, 0.0, -2.0 * k + 0.01 * p), **axes, slice_step=2.0)
        for k in range(3)
        for p in (2, 1)
    ]
    slices = split_slices(frames)
    assert [[frame.instance for frame in slice_] for slice_ in slices] == [[1, 2], [3, 4], [5, 6]]


def test_values_are_rescaled_where_the_header_asks_for_it(copied, stacks):
    for path in first(copied, "SCD_IMAGES_01/*").glob("CINESAX_300/*.dcm"):
        header = pydicom.dcmread(path)
        header.RescaleSlope, header.RescaleIntercept = 2, -5
        header.save_as(path)
    np.testing.assert_array_equal(read_sunnybrook(copied)[0].image, 2.0 * stacks[0].image - 5)


def test_mirror_holds_the_same_frames(mirror, stacks):
    copies = read_sunnybrook(mirror)
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
    np.testing.assert_array_equal(read_sunnybrook(copied)[0].image, stacks[0].image)


def test_two_whole_series_are_ambiguous(copied):
    folder = first(copied, "SCD_IMAGES_01/*/CINESAX_300")
    shutil.copytree(folder, folder.with_name("copy"))
    with pytest.raises(UserError, match="2 series hold all the frames .* exactly one must"):
        read_sunnybrook(copied)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_sunnybrook(tmp_path / "none")


def test_wrong_layout(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"not one of the layouts; it holds holiday\.jpg\. .*official.*png"):
        read_sunnybrook(tmp_path)


def test_layout_not_there(official):
    with pytest.raises(UserError, match="not the layout png, only official"):
        read_sunnybrook(official, "png")


def test_two_layouts_need_a_choice(copied, mirror, stacks):
    shutil.move(mirror, copied / "SegNetCMR")
    with pytest.raises(UserError, match="holds the layouts official and png. Choose one with --layout"):
        read_sunnybrook(copied)
    assert len(read_sunnybrook(copied, "png")) == len(read_sunnybrook(copied, "official")) == len(stacks)


def test_images_without_contours_and_the_reverse_are_reported(copied, stacks):
    shutil.rmtree(first(copied, "SCD_ManualContours/*"))
    shutil.rmtree(sorted(copied.glob("SCD_IMAGES_01/*"))[-1])
    with pytest.warns(DataWarning) as caught:
        left = read_sunnybrook(copied)
    assert len(left) == len(stacks) - 4
    messages = sorted(str(warning.message) for warning in caught)
    assert [message.split(" left out: ")[1].split(" (")[0] for message in messages] == [
        "a DICOM series without contours.",
        "contours without images",
    ] or len(messages) == 2
    shutil.rmtree(copied / "SCD_ManualContours")
    with pytest.warns(DataWarning), pytest.raises(UserError, match="no subject has both images and contours"):
        read_sunnybrook(copied)


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.01, 0.0])
def test_truncated_dicom(copied, keep):
    contour = first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*")
    subject = contour.parents[2].name
    with (copied / "scd_patientdata.csv").open(encoding="utf-8-sig") as file:
        patient = next(row["PatientID"] for row in csv.DictReader(file) if row["OriginalID"].split("-")[-1] in subject)
    path = first(copied, f"SCD_IMAGES_01/{patient}/CINESAX_300/*{contour.name[8:12]}.dcm")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError, match=rf"{path.name}: .*(truncated|cannot be read as a DICOM image).*Download"):
        read_sunnybrook(copied)


def test_empty_contour(copied):
    first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*").write_text("")
    with pytest.raises(UserError, match="0 points. A contour needs at least three"):
        read_sunnybrook(copied)


def test_two_readers(copied):
    folder = first(copied, "SCD_ManualContours/*/contours-manual/IRCCI-expert")
    shutil.copytree(folder, folder.with_name("second-reader"))
    with pytest.raises(UserError, match="the same frame as .* keep the contours of one reader"):
        read_sunnybrook(copied)


def test_contour_of_a_missing_frame(copied):
    contour = first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*")
    shutil.copy(contour, contour.with_name("IM-0001-9999-icontour-manual.txt"))
    with pytest.raises(UserError, match="0 series hold all the frames .* to 9999"):
        read_sunnybrook(copied)


def test_third_phase(copied):
    contours = sorted(first(copied, "SCD_ManualContours/*").glob("*/*/*icontour*"))
    number = int(contours[0].name[8:12])
    taken = {int(path.name[8:12]) % 4 for path in contours}
    free = next(n for n in range(number, number + 4) if n % 4 not in taken)
    shutil.copy(contours[0], contours[0].with_name(f"IM-0001-{free:04d}-icontour-manual.txt"))
    with pytest.raises(UserError, match="labelled frames in 3 phases"):
        read_sunnybrook(copied)


def test_one_image_folder_for_two_subjects(copied):
    table = copied / "scd_patientdata.csv"
    text = table.read_text(encoding="utf-8-sig")
    second, third = (line.split(",")[0] for line in text.splitlines()[1:3])
    table.write_text(text.replace(third, second))
    with pytest.raises(UserError, match=f"{second} occurs more than once"):
        read_sunnybrook(copied)


def test_one_subject_in_two_folders(copied):
    folder = first(copied, "SCD_ManualContours/*")
    shutil.copytree(folder, folder.with_name(folder.name.replace("-9", "-09")))
    with pytest.raises(UserError, match="A subject has one folder"):
        read_sunnybrook(copied)


def test_end_diastole_is_told_on_common_slices(copied, stacks):
    """Two large basal slices alone, left at end systole, must not outweigh a whole end-diastolic stack."""
    folder = first(copied, "SCD_ManualContours/*/contours-manual/IRCCI-expert")
    systole = [path for path in sorted(folder.glob("*icontour*")) if int(path.name[8:12]) % 4]
    for path in systole[2:]:
        path.unlink()
    ed, es = read_sunnybrook(copied)[:2]
    assert (ed.slices, es.slices) == (stacks[0].slices, stacks[1].slices[:2])


def test_contour_outside_the_image(copied):
    path = first(copied, "SCD_ManualContours/*/contours-manual/*/*icontour*")
    path.write_text("500 500\n510 500\n510 510\n")
    with pytest.raises(UserError, match=rf"frame {int(path.name[8:12])} covers no pixel"):
        read_sunnybrook(copied)


def test_patient_table(copied):
    table = copied / "scd_patientdata.csv"
    text = table.read_text(encoding="utf-8-sig")
    table.write_text("\n".join(text.splitlines()[:2]))
    with pytest.raises(UserError, match=r"scd_patientdata\.csv: .* is missing"):
        read_sunnybrook(copied)
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="must hold the columns PatientID and OriginalID"):
        read_sunnybrook(copied)
    table.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_sunnybrook(copied)


def test_damaged_mirror(mirror):
    label = first(mirror, "Data/*/Labels/*/*.png")
    Image.new("L", (96, 96), 100).save(label)
    with pytest.raises(UserError, match=r"holds the values \[100\]. A mask holds 0 and 255 only"):
        read_sunnybrook(mirror)
    Image.new("L", (64, 96)).save(label)
    with pytest.raises(UserError, match=r"sizes \[\(96, 64\), \(96, 96\)\]"):
        read_sunnybrook(mirror)
    label.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_sunnybrook(mirror)
    label.unlink()
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_sunnybrook(mirror)


def test_a_folder_above_may_be_called_images(mirror, stacks):
    moved = mirror.parent / "Images" / "of mine"
    moved.parent.mkdir()
    mirror.rename(moved)
    assert len(read_sunnybrook(moved)) == len(stacks)


def test_duplicate_frame_in_the_mirror(mirror):
    image = first(mirror, "Data/*/Images/*/*.png")
    other = mirror / "Data" / "Test" / "Images" / image.name
    other.parent.mkdir(parents=True)
    shutil.copy(image, other)
    with pytest.raises(UserError, match="the same frame as"):
        read_sunnybrook(mirror)


def test_read_stack(official, stacks, tmp_path):
    folder = first(official, "SCD_IMAGES_01/*/CINESAX_300")
    with pytest.raises(UserError, match=r"a cine with 4 phases of 6 slices.*phase \(1 to 4\)"):
        read_stack(folder)
    with pytest.raises(UserError, match="phase 5 of 4"):
        read_stack(folder, 5)
    with pytest.raises(UserError, match="no such folder"):
        read_stack(tmp_path / "none")
    with pytest.raises(UserError, match=r"no \.dcm file"):
        read_stack(tmp_path)
    with pytest.raises(UserError, match="A stack is one series"):
        read_stack(folder.parent, 1)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    lost = sorted(damaged.iterdir())[5]
    lost.unlink()
    with pytest.raises(UserError, match="3 to 4 files for each of 6 slices"):
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


def test_real_mirror(real):
    stacks = read_sunnybrook(real, "png")
    assert sum(stack.image.shape[-1] for stack in stacks) == 805
    assert len({stack.subject for stack in stacks}) == 45
    with (real / "manifest.csv").open() as file:
        known = {(row["case"], row["ed_or_es"], int(row["slice_1based"])) for row in csv.DictReader(file)}
    assert {(stack.subject, stack.phase, number) for stack in stacks for number in stack.slices} == known


def test_real_layouts_agree(real):
    mirror = {(stack.subject, stack.phase): stack for stack in read_sunnybrook(real, "png")}
    with pytest.warns(DataWarning):
        official = read_sunnybrook(real, "official")
    compared = 0
    for stack in official:
        twin = mirror[stack.subject, stack.phase]
        assert stack.slices == twin.slices
        np.testing.assert_array_equal(stack.label, twin.label)
        low, high = stack.image.min(axis=(0, 1)), stack.image.max(axis=(0, 1))
        grey = 255 * (stack.image.astype(float) - low) / (high - low)
        assert np.abs(grey - twin.image).max() <= 1
        compared += len(stack.slices)
    assert compared == 36


def test_real_contours_give_the_mirror_s_masks(real):
    """Also of the subjects whose DICOM files are not here."""
    mirror = {
        (stack.subject, number, stack.phase): stack.label[..., index]
        for stack in read_sunnybrook(real, "png")
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
