"""One stack out of folders of DICOM files, as scanners and archives write them. Pixels are compared exactly."""

import shutil
import warnings

import numpy as np
import pytest
from dicom_layouts import (
    AXES,
    COLUMNS,
    LAYOUTS,
    NORMAL,
    ORIGIN,
    PHASES,
    ROWS,
    SLICES,
    SPACING,
    STEP,
    enhanced_dataset,
    frame,
    header,
    numbers,
    place,
    random_cine,
    save,
    uid,
    write_others,
)
from pydicom.uid import UID

from monai_iln.datasets.formats.dicom import read_frames
from monai_iln.datasets.readers.dicom_folder import read_cine_folder, read_stack
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import UserError

CINE = random_cine()
AFFINE = np.eye(4)
AFFINE[:3] = np.stack([AXES[1] * SPACING[0], AXES[0] * SPACING[1], NORMAL * STEP, ORIGIN], axis=1)
AFFINE[:2] *= -1  # LPS to RAS


def truth(cine, phase):
    return np.moveaxis(cine[:, phase - 1], 0, -1)


def check(folder, cine=CINE, **chosen):
    for phase in range(1, cine.shape[1] + 1):
        pixels, affine = read_stack(folder, phase, **chosen)
        np.testing.assert_array_equal(pixels, truth(cine, phase))
    np.testing.assert_allclose(affine, AFFINE, atol=1e-3)
    pixels, _ = read_cine_folder(folder, **chosen)
    np.testing.assert_array_equal(pixels, np.moveaxis(cine, (0, 1), (2, 3)))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(name, tmp_path):
    LAYOUTS[name](tmp_path, CINE)
    check(tmp_path)
    with pytest.raises(UserError, match=rf"a cine with {PHASES} phases of {SLICES} slices"):
        read_stack(tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_phase_of_every_layout(name, tmp_path):
    LAYOUTS[name](tmp_path, CINE[:, :1])
    pixels, affine = read_stack(tmp_path)
    np.testing.assert_array_equal(pixels, truth(CINE, 1))
    np.testing.assert_allclose(affine, AFFINE, atol=1e-3)


def write_mixed(folder):
    """A study as it is exported: localizers, two long axes, the short axis slice by slice, and files without pixels."""
    LAYOUTS["a_series_for_each_slice"](folder, CINE)
    for number, angle in ((30, 0.0), (31, 0.7)):
        axes = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0]])
        for phase in range(PHASES):
            series = {"SeriesInstanceUID": uid(number), "SeriesNumber": number, "InstanceNumber": phase + 1}
            directions = {"ImageOrientationPatient": numbers(axes.ravel()), "SeriesDescription": f"LAX {number}"}
            frame(folder, random_cine(number)[0, phase], 0, phase, **series, **directions)
    for plane in range(3):
        axes = np.roll(np.eye(3), plane, axis=1)[:2]
        directions = {"ImageOrientationPatient": numbers(axes.ravel()), "TriggerTime": None}
        series = {"SeriesInstanceUID": uid("scout"), "SeriesNumber": 1, "InstanceNumber": plane}
        frame(folder, CINE[plane, 0], plane, 0, SeriesDescription="scout", **series, **directions)
    write_others(folder)


def test_a_mixed_export_is_split_and_one_stack_is_chosen(tmp_path):
    write_mixed(tmp_path)
    with pytest.raises(UserError, match=r"6 stacks:") as caught:
        read_stack(tmp_path, 1)
    message = str(caught.value)
    assert "\n  4: cine_sax_0, oblique, nearest to sagittal, slices: 5, phases: 4" in message
    assert "SeriesNumbers 10 to 14, 5 UIDs, first file " in message
    assert "\n  5: LAX 30, axial, slices: 1, phases: 4" in message
    assert "choose it with series (1 to 6, or a UID that it alone has)" in message
    with pytest.warns(DataWarning, match="4 files are passed over: .*DICOMDIR: Media Storage Directory"):
        check(tmp_path, series=4)
    with pytest.warns(DataWarning, match="4 files are passed over"):
        check(tmp_path, series=uid("slice", 2))
    for wrong in (0, 7, -1, "²", "1.2.3", uid("scout")):
        with pytest.raises(UserError, match=rf"series {wrong} is (none|more than one) of 6 stacks"):
            read_stack(tmp_path, 1, series=wrong)


def test_magnitude_and_phase_images_of_one_series_are_two_stacks(tmp_path):
    LAYOUTS["one_series"](tmp_path, CINE)
    flow = random_cine(5)
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path, flow[slice_, phase], slice_, phase, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])
    with pytest.raises(UserError, match=r"2 stacks:\n.*ORIGINAL/PRIMARY/M/ND.*\n.*ORIGINAL/PRIMARY/P/ND"):
        read_stack(tmp_path, 1)
    check(tmp_path, series=1)
    check(tmp_path, flow, series="2")


def test_an_image_type_of_one_value(tmp_path):
    for slice_, kind in ((0, "ORIGINAL"), (1, "DERIVED")):
        frame(tmp_path, CINE[slice_, 0], slice_, 0, f"{slice_}.dcm", ImageType=kind)
    with pytest.raises(UserError, match=r"2 stacks:\n.*, ORIGINAL, SeriesNumber 3.*\n.*, DERIVED, SeriesNumber 3"):
        read_stack(tmp_path)


def test_two_echoes_of_one_series_are_two_stacks(tmp_path):
    late = random_cine(5)
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path, CINE[slice_, phase], slice_, phase, EchoTime="1.10")
        frame(tmp_path, late[slice_, phase], slice_, phase, EchoTime="5.5")
    with pytest.raises(UserError, match="2 stacks"):
        read_stack(tmp_path, 1)
    check(tmp_path, series=1)
    check(tmp_path, late, series=2)


def test_two_patients_are_two_stacks(tmp_path):
    LAYOUTS["kaggle"](tmp_path / "a", CINE[:3])
    for slice_, phase in np.ndindex(2, PHASES):
        frame(tmp_path / "b", CINE[slice_, phase], slice_ + 3, phase, PatientID="Y")
    with pytest.raises(UserError, match="2 stacks"):
        read_stack(tmp_path, 1)


def test_a_slice_acquired_again_is_taken_from_the_last(tmp_path):
    LAYOUTS["a_series_for_each_slice"](tmp_path, CINE)
    again = random_cine(3)
    for phase in range(PHASES):
        series = {"SeriesInstanceUID": uid("again"), "SeriesNumber": 20, "InstanceNumber": phase + 1}
        frame(tmp_path, again[2, phase], 2, phase, **series)
    expected = CINE.copy()
    expected[2] = again[2]
    with pytest.warns(DataWarning, match="slices acquired again are taken from the last: that of .*, after that of "):
        check(tmp_path, expected)


def test_a_slice_acquired_again_within_its_series(tmp_path):
    again = random_cine(3)
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path, CINE[slice_, phase], slice_, phase, AcquisitionTime=f"12010{slice_}")
    for phase in range(PHASES):
        frame(tmp_path, again[2, phase], 2, phase, AcquisitionTime="120200", InstanceNumber=100 + phase)
    expected = CINE.copy()
    expected[2] = again[2]
    with pytest.warns(DataWarning, match="slices acquired again"):
        check(tmp_path, expected)


def test_a_whole_stack_acquired_again_is_another(tmp_path):
    LAYOUTS["one_series"](tmp_path, CINE)
    again = random_cine(3)
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path, again[slice_, phase], slice_, phase, SeriesInstanceUID=uid("again"), SeriesNumber=8)
    with pytest.raises(UserError, match="2 stacks"):
        read_stack(tmp_path, 1)
    check(tmp_path, series=1)
    check(tmp_path, again, series=uid("again"))


def test_a_patient_who_was_moved_has_two_stacks(tmp_path):
    for slice_, phase in np.ndindex(SLICES, PHASES):
        series = {"SeriesInstanceUID": uid(slice_), "SeriesNumber": slice_}
        frame(tmp_path, CINE[slice_, phase], slice_, phase, FrameOfReferenceUID=uid(slice_ > 2), **series)
    with pytest.raises(UserError, match="2 stacks"):
        read_stack(tmp_path, 1)


def test_single_images_beside_a_cine_are_another_stack(tmp_path):
    LAYOUTS["one_series"](tmp_path, CINE)
    for slice_ in (5, 6):
        frame(tmp_path, CINE[0, 0], slice_, 0, SeriesInstanceUID=uid("late"), SeriesNumber=9)
    with pytest.raises(UserError, match=r"(?s)1: .*slices: 5, phases: 4.*2: .*slices: 2, phases: 1,"):
        read_stack(tmp_path, 1)
    check(tmp_path, series=1)


def test_single_images_of_a_few_slices_are_no_acquisition_again(tmp_path):
    LAYOUTS["one_series"](tmp_path, CINE)
    for slice_ in (1, 2):
        late = {"SeriesInstanceUID": uid("late"), "SeriesNumber": 9, "SeriesDescription": "late enhancement"}
        frame(tmp_path, CINE[0, 0], slice_, 0, **late)
    with pytest.raises(UserError, match=r"(?s)1: .*slices: 5, phases: 4.*2: late .*slices: 2, phases: 1,"):
        read_stack(tmp_path, 1)
    check(tmp_path, series=1)


@pytest.mark.parametrize("name", ["one_series", "uk_biobank"])
def test_copies_are_passed_over(name, tmp_path):
    LAYOUTS[name](tmp_path, CINE)
    (first, *_) = sorted(tmp_path.iterdir())
    shutil.copy(first, tmp_path / "zzz copy.dcm")
    shutil.copytree(tmp_path, tmp_path / "backup")
    with pytest.warns(DataWarning, match=rf"passed over: .*backup.* is a copy of .* and {SLICES * PHASES - 1} more"):
        check(tmp_path)


def test_what_has_no_series_belongs_to_none(tmp_path):
    LAYOUTS["a_series_for_each_file"](tmp_path, CINE)
    directory = header(None, SOPClassUID=UID("1.2.840.10008.1.3.10"), SeriesInstanceUID=None, Modality=None)
    save(directory, tmp_path / "DICOMDIR")
    with pytest.warns(DataWarning, match="1 file is passed over: .*DICOMDIR: Media Storage Directory"):
        check(tmp_path)


def test_a_missing_file_is_told_with_the_counts(tmp_path):
    LAYOUTS["a_series_for_each_slice"](tmp_path, CINE)
    sorted(tmp_path.iterdir())[7].unlink()
    with pytest.raises(UserError, match=r"(4, )*3(, 4)* files for the 5 slices.*Every slice must be there"):
        read_stack(tmp_path, 1)


def test_a_copy_that_was_changed_is_told_as_one_too_many(tmp_path):
    for (slice_, phase), path in files(tmp_path):
        frame(tmp_path, CINE[slice_, phase], slice_, phase, path.name, SOPInstanceUID=uid(path.name))
    frame(tmp_path, CINE[2, 1], 2, 1, "again.dcm", SOPInstanceUID=uid("2_1.dcm"), PatientName="another")
    message = r"4, 4, 5, 4, 4 files .*: too many for that of \S+: (2_1.dcm and again|again.dcm and 2_1).dcm have one"
    with pytest.raises(UserError, match=message):
        read_stack(tmp_path, 1)


def test_a_missing_slice_is_told_with_its_place(tmp_path):
    for slice_, phase in np.ndindex(SLICES, PHASES):
        if slice_ != 2:
            frame(tmp_path, CINE[slice_, phase], slice_, phase, f"{slice_}_{phase}.dcm")
    with pytest.raises(UserError, match=r"16\.0 mm between those of 1_0.dcm and 3_0.dcm, 8\.0 mm between most"):
        read_stack(tmp_path, 1)


def test_a_slice_too_many_is_told_with_its_place(tmp_path):
    for slice_, depth in enumerate((0, 1, 2, 2.4, 3, 4)):
        position = {"ImagePositionPatient": numbers(place(depth)), "SeriesInstanceUID": uid(slice_)}
        frame(tmp_path, CINE[0, 0], 0, 0, f"{depth}.dcm", SeriesNumber=slice_, **position)
    with pytest.raises(UserError, match=r"(3\.2 mm between those of 2.dcm and 2.4.dcm|2.4.dcm lies 3\.2 mm beside)"):
        read_stack(tmp_path)


def files(folder):
    """The files of a cine, by slice and phase."""
    for slice_, phase in np.ndindex(SLICES, PHASES):
        yield (slice_, phase), folder / f"{slice_}_{phase}.dcm"


@pytest.mark.parametrize("layout", ["series", "slices"])
@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"ImagePositionPatient": numbers(place(2) + NORMAL)}, r"2_1.dcm lies 1\.0 mm apart from its slice"),
        ({"ImagePositionPatient": numbers(place(2) + AXES[0])}, r"2_1.dcm lies 1\.0 mm beside the other frames"),
        ({"InstanceNumber": 77}, r"2_1.dcm its number 77 does not belong to its slice and time"),
        ({"TriggerTime": "111"}, "2_1.dcm its number .* does not belong to its slice and time"),
        ({"TriggerTime": "500"}, "2_1.dcm (its number|has TriggerTime and InstanceNumber that tell different phases)"),
        ({"PixelSpacing": ["1.5", "1.5"]}, r"(2_1.dcm, unlike .* spacing \(1.5, 1.5\)|2 stacks.*2_1.dcm)"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}, "(2_1.dcm, unlike .* direction|2 stacks.*2_1.dcm)"),
        ({"BitsStored": 16, "HighBit": 15}, "(2_1.dcm, unlike .* kind|2 stacks.*2_1.dcm)"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "(2_1.dcm, unlike .* kind|2 stacks.*2_1.dcm)"),
        ({"PhotometricInterpretation": "RGB"}, "2_1.dcm: a picture in RGB"),
        ({"ImagePositionPatient": None}, "2_1.dcm: an image that does not tell where it lies"),
        ({"Modality": "SR"}, "2_1.dcm: MR Image Storage, which is no image"),
        ({"SeriesInstanceUID": uid("changed")}, "(?s)(3, 4, 4 files|2 stacks.*2_1.dcm)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_one_wrong_header_is_named(elements, message, layout, tmp_path):
    for (slice_, phase), path in files(tmp_path):
        given = {}
        if layout == "slices":
            given |= {"SeriesInstanceUID": uid(slice_), "SeriesNumber": slice_, "InstanceNumber": phase + 1}
        if (slice_, phase) == (2, 1):
            given |= elements
        frame(tmp_path, CINE[slice_, phase], slice_, phase, path.name, **given)
    with pytest.raises(UserError, match=f"(?s){message}"):
        read_stack(tmp_path, 1)


def test_one_slice_that_lies_apart_is_named(tmp_path):
    for slice_ in range(SLICES):
        shift = NORMAL if slice_ == 2 else 0
        position = numbers(place(slice_) + shift)
        series = {"SeriesInstanceUID": uid(slice_), "SeriesNumber": slice_}
        frame(tmp_path, CINE[slice_, 0], slice_, 0, f"{slice_}.dcm", ImagePositionPatient=position, **series)
    with pytest.raises(UserError, match=r"/2.dcm lies 1\.0 mm beside the even row of the other slices"):
        read_stack(tmp_path)


@pytest.mark.parametrize(
    ("times", "key"),
    [
        (lambda phase: {"TriggerTime": None, "TemporalPositionIdentifier": phase + 1}, "TemporalPositionIdentifier"),
        (lambda phase: {"TriggerTime": "0", "AcquisitionTime": f"12000{phase}.5"}, "AcquisitionTime"),
        (lambda phase: {"TriggerTime": ""}, "InstanceNumber"),
        (lambda phase: {"TriggerTime": None if phase == 1 else str(phase)}, "InstanceNumber"),
    ],
)
def test_which_key_orders_phases(times, key, tmp_path):
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path, CINE[slice_, phase], slice_, phase, **times(phase))
    with pytest.warns(DataWarning, match=f"phases are in order of {key}, because TriggerTime is missing or the same"):
        check(tmp_path)


def test_keys_that_disagree(tmp_path):
    for slice_, phase in np.ndindex(SLICES, PHASES):
        number = slice_ * PHASES + PHASES - phase
        frame(tmp_path, CINE[slice_, phase], slice_, phase, InstanceNumber=number)
    with pytest.warns(DataWarning, match="TriggerTime ordered phases, InstanceNumber does otherwise in 5 slices"):
        check(tmp_path)


def test_a_time_that_nothing_confirms(tmp_path):
    for slice_, phase in np.ndindex(SLICES, PHASES):
        time = 40 * phase if (slice_, phase) != (2, 1) else -3
        frame(tmp_path, CINE[slice_, phase], slice_, phase, f"{slice_}_{phase}.dcm", InstanceNumber=1, TriggerTime=time)
    with pytest.warns(DataWarning, match="TriggerTime alone orders phases, and is uneven in the slice of .*2_0.dcm"):
        read_stack(tmp_path, 1)


def test_nothing_tells_the_order(tmp_path):
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path, CINE[slice_, phase], slice_, phase, InstanceNumber=1, TriggerTime=None)
    with pytest.raises(UserError, match="4 files for each of 5 slices, and nothing tells their order"):
        read_stack(tmp_path, 1)


def test_folders_without_a_stack(tmp_path):
    with pytest.raises(UserError, match="no DICOM file"):
        read_stack(tmp_path)
    write_others(tmp_path)
    with pytest.raises(UserError, match=r"no image of a stack: .*which is no image.*and 1 more"):
        read_stack(tmp_path)


def test_an_enhanced_file_that_does_not_fit(tmp_path):
    frames = list(np.ndindex(SLICES, PHASES))
    dataset = enhanced_dataset(CINE, frames)
    dataset.NumberOfFrames = 3
    path = save(dataset, tmp_path / "file")
    with pytest.raises(UserError, match="3 frames, but headers of 20"):
        read_stack(tmp_path, 1)
    del dataset.PerFrameFunctionalGroupsSequence
    save(dataset, path)
    with pytest.raises(UserError, match="3 frames, of which the file does not tell the places"):
        read_stack(tmp_path, 1)
    save(enhanced_dataset(CINE, frames[:7]), path)
    with pytest.raises(UserError, match=r"4, 3 files for the 2 slices"):
        read_stack(tmp_path, 1)


def test_what_a_frame_of_an_enhanced_file_lacks_is_not_taken_from_another(tmp_path):
    dataset = enhanced_dataset(CINE, list(np.ndindex(SLICES, PHASES)))
    group = dataset.PerFrameFunctionalGroupsSequence[6]
    del group.CardiacSynchronizationSequence
    path = save(dataset, tmp_path / "file")
    assert [frame.trigger_time for frame in read_frames(path)][5:8] == [40.0, None, 120.0]
    del group.PlanePositionSequence
    save(dataset, path)
    with pytest.raises(UserError, match="no attribute 'ImagePositionPatient'"):
        read_stack(tmp_path, 1)


def test_a_folder_without_warnings_is_quiet(tmp_path):
    LAYOUTS["uk_biobank"](tmp_path, CINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(tmp_path)


def test_a_single_image(tmp_path):
    save(header(CINE[0, 0]), tmp_path / "only.dcm")
    pixels, affine = read_stack(tmp_path)
    assert pixels.shape == (ROWS, COLUMNS, 1)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-3)
