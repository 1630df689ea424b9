"""Cines in every layout: which there are, their phases, and the voxels of each."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from dicom_layouts import LAYOUTS, PHASES, SLICES, frame, numbers, random_cine, uid

from monai_iln.cine.curves import DOUBTS
from monai_iln.datasets import DataWarning, find_phase_times, find_stacks, read_cine, split_phases
from monai_iln.datasets.cines import read_beat
from monai_iln.datasets.formats.dicom import read_frames
from monai_iln.datasets.formats.volumes import read_header
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.errors import UserError
from monai_iln.transforms import LoadStack, LoadStackd

CINE = random_cine()
AFFINE = np.diag([1.5, 1.25, 8.0, 1.0])


@pytest.fixture(scope="module")
def acdc(tmp_path_factory):
    return write_phantom(
        tmp_path_factory.mktemp("acdc") / "raw", layout="acdc", subjects=2, slices=5, phases=5, size=96
    )


def stacked(cine):
    """As a reader returns it: rows, columns, slices, phases."""
    return cine.transpose(2, 3, 0, 1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_cine_of_dicom_is_its_phases(name, tmp_path):
    LAYOUTS[name](tmp_path, CINE)
    cine = read_cine(tmp_path)
    assert cine.pixels.shape == (9, 7, SLICES, PHASES)
    for phase in range(PHASES):
        pixels, affine = read_stack(tmp_path, phase + 1)
        np.testing.assert_array_equal(cine.pixels[..., phase], pixels)
        np.testing.assert_allclose(cine.affine, affine, atol=1e-3)
    assert len(find_phase_times(tmp_path)) == PHASES


def test_times_are_told_by_trigger_times_alone(tmp_path):
    LAYOUTS["a_series_for_each_slice"](tmp_path / "told", CINE)
    assert find_phase_times(tmp_path / "told") == [0, 42, 84, 126], "the median of slices of 40 to 44 ms"
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path / "later", CINE[slice_, phase], slice_, phase, TriggerTime=str(40 * phase + 15 * slice_))
    assert find_phase_times(tmp_path / "later") == [0, 40, 80, 120], "each slice after its own first phase"
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path / "not told", CINE[slice_, phase], slice_, phase, TriggerTime="0")
    assert np.isnan(find_phase_times(tmp_path / "not told")).all()


def write_nifti(path, unit="msec", step=40.0):
    image = nib.Nifti1Image(stacked(CINE).astype(np.int16), AFFINE)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    nib.save(image, path)
    return path


def write_nrrd(path):
    image = SimpleITK.GetImageFromArray(stacked(CINE).astype(np.int16).T, isVector=False)
    image.SetSpacing((1.5, 1.25, 8.0, 0.04))
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("name", ["cine.nii.gz", "cine.nrrd", "cine.mha"])
def test_a_cine_in_a_file(name, tmp_path):
    path = (write_nifti if "nii" in name else write_nrrd)(tmp_path / name)
    np.testing.assert_array_equal(read_cine(path).pixels, stacked(CINE))
    np.testing.assert_allclose(find_phase_times(path), [0, 40, 80, 120])
    tensor = LoadStack(phase=2)(path)
    np.testing.assert_array_equal(tensor[0].numpy(), stacked(CINE)[..., 1])
    with pytest.raises(UserError, match=r"cine.* a cine with 4 phases.* choose it with phase \(1 to 4\)"):
        LoadStack()(path)
    with pytest.raises(UserError, match="phase 5: phases count from 1 to 4"):
        LoadStack(phase=5)(path)


@pytest.mark.parametrize("phase", [0, 2])
def test_a_stack_of_three_axes_has_one_phase(tmp_path, phase):
    path = tmp_path / "stack.nii"
    nib.save(nib.Nifti1Image(stacked(CINE)[..., 0], np.diag([1.5, 1.25, 8.0, 1.0])), path)
    with pytest.raises(UserError, match=rf"stack.nii: phase {phase}: it has three axes.* Remedy: leave phase out"):
        LoadStack(phase=phase)(path)
    np.testing.assert_array_equal(LoadStack(phase=1)(path), LoadStack()(path))


@pytest.mark.parametrize(
    ("unit", "step", "expected"),
    [
        ("msec", 40, 40),
        ("sec", 0.04, 40),
        ("usec", 40_000, 40),
        ("sec", 40, 40),
        ("unknown", 0.04, 40),
        ("unknown", 33, 33),
        ("unknown", 1, np.nan),
        ("sec", 0, np.nan),
    ],
)
def test_the_time_of_a_phase(unit, step, expected, tmp_path):
    header = read_header(write_nifti(tmp_path / "cine.nii", unit, step))
    np.testing.assert_allclose(header.frame_ms, expected, rtol=1e-6)


def test_slices_along_another_axis_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((8, 90, 90, 4), np.int16), np.diag([8.0, 1.4, 1.4, 1.0])), tmp_path / "a.nii")
    for read in (read_cine, LoadStack(phase=1)):
        with pytest.raises(UserError, match="axis 0 counts the slices"):
            read(tmp_path / "a.nii")


def test_a_stack_is_no_cine(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 3), np.int16), AFFINE), tmp_path / "a.nii")
    with pytest.raises(UserError, match="a cine has four axes"):
        read_cine(tmp_path / "a.nii")
    assert split_phases([{"image": tmp_path / "a.nii"}]) == [{"image": tmp_path / "a.nii"}]


def test_a_cine_is_read_once(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "cine.nii")
    other = shutil.copy(path, tmp_path / "other.nii")
    reads = []

    def read(path, series):
        reads.append(path.name)
        return read_cine(path, series)

    monkeypatch.setattr("monai_iln.transforms.io.read_cine", read)
    items = split_phases([{"image": str(path)}, {"image": str(other)}])
    load = LoadStackd("image")
    for item in items:
        tensor = load(item)["image"]
        np.testing.assert_array_equal(tensor[0].numpy(), stacked(CINE)[..., item["cine_phase"] - 1])
        assert tensor.meta["filename_or_obj"] == item["image"]
    assert [item["cine_phase"] for item in items] == [1, 2, 3, 4] * 2
    assert reads == ["cine.nii", "other.nii"]


def test_a_phase_that_is_asked_for_splits_nothing(tmp_path):
    path = write_nifti(tmp_path / "cine.nii")
    assert split_phases([{"image": path}], phase=2) == [{"image": path}]


def test_a_missing_frame_is_told_before_anything_is_segmented(tmp_path):
    LAYOUTS["a_series_for_each_slice"](tmp_path, CINE)
    sorted(tmp_path.iterdir())[7].unlink()
    with pytest.raises(UserError, match=r"(4, )*3(, 4)* files for the 5 slices"):
        split_phases([{"image": tmp_path}])


def test_a_missing_slice_is_told(tmp_path):
    LAYOUTS["one_series"](tmp_path, CINE[[0, 1, 3, 4]])
    for slice_, phase in np.ndindex(SLICES, PHASES):
        if slice_ != 2:
            frame(tmp_path / "gap", CINE[slice_, phase], slice_, phase)
    with pytest.raises(UserError, match=r"not evenly spaced.* 16\.0 mm between"):
        read_cine(tmp_path / "gap")


def test_the_last_of_two_acquisitions_of_a_slice(tmp_path):
    LAYOUTS["a_series_for_each_slice"](tmp_path, CINE)
    again = random_cine(3)
    for phase in range(PHASES):
        series = {"SeriesInstanceUID": uid("again"), "SeriesNumber": 20, "InstanceNumber": phase + 1}
        frame(tmp_path, again[2, phase], 2, phase, **series)
    with pytest.warns(DataWarning, match="slices acquired again are taken from the last"):
        pixels = read_cine(tmp_path).pixels
    np.testing.assert_array_equal(pixels[:, :, 2], stacked(again)[:, :, 2])
    np.testing.assert_array_equal(pixels[:, :, 3], stacked(CINE)[:, :, 3])


def write_others(folder, patient="X"):
    """Two long axes of one slice each, and localizers."""
    for number, angle in ((30, 0.0), (31, 0.7)):
        axes = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0]])
        for phase in range(PHASES):
            series = {"SeriesInstanceUID": uid(number), "SeriesNumber": number, "PatientID": patient}
            directions = {"ImageOrientationPatient": numbers(axes.ravel()), "InstanceNumber": phase + 1}
            frame(folder / f"lax_{number}", CINE[0, phase], 0, phase, **series, **directions)
    scout = {"SeriesInstanceUID": uid("scout"), "SeriesNumber": 1, "TriggerTime": None, "PatientID": patient}
    for place in range(3):
        frame(folder / "scout", CINE[0, 0], place, 0, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], **scout)


def test_the_one_cine_among_other_views_is_taken_and_told(tmp_path):
    LAYOUTS["kaggle"](tmp_path, CINE)
    write_others(tmp_path)
    assert find_stacks(tmp_path) == [str(tmp_path)]
    with pytest.warns(DataWarning, match="of 4 stacks the one cine of several slices is taken: .*slices: 5, phases: 4"):
        np.testing.assert_array_equal(read_cine(tmp_path).pixels, stacked(CINE))
    again = {"SeriesInstanceUID": uid("again"), "SeriesNumber": 40}
    for slice_, phase in np.ndindex(SLICES, PHASES):
        frame(tmp_path / "again", CINE[slice_, phase], slice_, phase, **again)
    with pytest.raises(UserError, match="5 stacks"):
        read_cine(tmp_path)
    np.testing.assert_array_equal(read_cine(tmp_path, series=uid("again")).pixels, stacked(CINE))


def test_folders_of_subjects(tmp_path):
    for subject in ("P2", "P1"):
        LAYOUTS["one_series"](tmp_path / "all" / subject / "sax", CINE)
        for path in (tmp_path / "all" / subject / "sax").iterdir():
            path.unlink()
        for slice_, phase in np.ndindex(SLICES, PHASES):
            frame(tmp_path / "all" / subject / f"sax_{slice_}", CINE[slice_, phase], slice_, phase, PatientID=subject)
        write_others(tmp_path / "all" / subject, subject)
    (tmp_path / "all" / "readme.txt").touch()
    expected = [str(tmp_path / "all" / subject) for subject in ("P1", "P2")]
    assert find_stacks(tmp_path / "all") == expected
    assert find_stacks(tmp_path) == expected
    assert find_stacks(tmp_path / "all", series=2) == [str(tmp_path / "all")]
    assert find_stacks(tmp_path / "all" / "P1" / "sax_0") == [str(tmp_path / "all" / "P1" / "sax_0")]


def test_files_beside_a_folder_of_another_subject_are_not_parted_from_them(tmp_path):
    for slice_ in range(SLICES):
        frame(tmp_path, CINE[slice_, 0], slice_, 0, PatientID="P1")
        frame(tmp_path / "P2", CINE[slice_, 1], slice_, 0, PatientID="P2")
    assert find_stacks(tmp_path) == [str(tmp_path)], "with P2 alone the files of P1 would be lost without a word"


def test_what_lies_beside_a_cine_is_passed_over(acdc, tmp_path):
    with pytest.warns(DataWarning, match="^8 labels and single phases beside cines are passed over"):
        found = find_stacks(acdc)
    assert found == [str(acdc / name / f"{name}_4d.nii.gz") for name in ("patient001", "patient002")]
    shutil.copytree(acdc / "patient001", tmp_path / "patient001")
    (tmp_path / "patient001" / "patient001_4d.nii.gz").unlink()
    with pytest.raises(UserError, match="2 of 4 files are labels"):
        find_stacks(tmp_path)


def test_labels_of_all_times_are_no_cines(tmp_path):
    raw = write_phantom(tmp_path / "mnms", layout="mnms", subjects=1, slices=4, phases=4, size=96)
    with pytest.warns(DataWarning, match="1 labels and single phases"):
        (found,) = find_stacks(raw)
    assert found.endswith("_sa.nii.gz")
    assert len(split_phases([{"image": found}])) == 4


def test_other_stacks_beside_a_cine_stay(tmp_path):
    write_nifti(tmp_path / "P1_cine.nii")
    for name in ("P2_ED", "P2_ED_gt"):
        nib.save(nib.Nifti1Image(np.zeros((9, 7, 5), np.int16), AFFINE), tmp_path / f"{name}.nii")
    with pytest.warns(DataWarning, match="^1 labels"):
        assert find_stacks(tmp_path) == [str(tmp_path / "P1_cine.nii"), str(tmp_path / "P2_ED.nii")]


def test_other_subjects_with_longer_names_stay(tmp_path):
    cines = ["P1_4d", "heart_1", "a"]
    for name in cines:
        write_nifti(tmp_path / f"{name}.nii")
    others = ["P10", "P1x_ED", "heart_2", "abc"]
    for name in [*others, "P1_frame01", "P1-ES", "P1", "heart_1_ED"]:
        nib.save(nib.Nifti1Image(np.zeros((9, 7, 5), np.int16), AFFINE), tmp_path / f"{name}.nii")
    with pytest.warns(DataWarning, match="^4 labels and single phases"):
        assert find_stacks(tmp_path) == sorted(str(tmp_path / f"{name}.nii") for name in [*cines, *others])


@pytest.mark.parametrize("names", [("P1_gt", "P2_gt"), ("P1_pred", "P2_Mask"), ("labels/P1", "masks/P2")])
def test_masks_alone_are_refused(names, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_nifti(tmp_path / f"{name}.nii")
    with pytest.raises(UserError, match="2 files, and all are labels or masks"):
        find_stacks(tmp_path)
    write_nifti(tmp_path / "other.nii")
    assert find_stacks(tmp_path / "other.nii")


def test_a_cine_of_classes_is_not_segmented(tmp_path):
    """Whatever it is called. Its phases can be split all the same."""
    path = tmp_path / "P1.nii"
    for dtype, values, is_mask in ((np.uint8, 4, True), (np.float32, 4, True), (np.uint8, 40, False)):
        mask = np.random.default_rng(0).integers(0, values, (9, 7, 5, 4)).astype(dtype)
        nib.save(nib.Nifti1Image(mask, AFFINE), path)
        np.testing.assert_array_equal(read_cine(path).pixels, mask)
        first, *_ = split_phases([{"image": path}])
        if is_mask:
            with pytest.raises(UserError, match="P1.nii: whole numbers from 0 to 3 alone: a mask has so few"):
                LoadStackd("image")(first)
        else:
            LoadStackd("image")(first)


def test_slices_that_are_not_there_are_told_before_anything_is_loaded(tmp_path):
    LAYOUTS["one_series"](tmp_path / "P1", CINE)
    path = write_nifti(tmp_path / "P2.nii")
    for cine in (tmp_path / "P1", path):
        with pytest.raises(UserError, match=f"P.*: has {SLICES} slices, and 2-{SLICES + 1} goes beyond the last"):
            split_phases([{"image": cine, "slice_range": f"2-{SLICES + 1}"}])
        assert len(split_phases([{"image": cine, "slice_range": f"2-{SLICES}"}])) == PHASES


def write_times(folder, times):
    """A cine whose slices have these trigger times."""
    for (slice_, phase), time in np.ndenumerate(np.asarray(times)):
        given = {"TriggerTime": f"{time:.6g}", "InstanceNumber": slice_ * times.shape[1] + phase + 1}
        frame(folder, CINE[slice_, phase % PHASES] + np.uint16(phase), slice_, phase, **given)
    return folder


STEADY = 20.0 + 40.0 * np.arange(16) * np.linspace(0.96, 1.04, SLICES)[:, None]  # beats that differ by 8 %


def shift(slice_, by):
    times = STEADY.copy()
    times[slice_] += by
    return times


def jump(slice_):
    """A slice without its third phase, and with one more at its end."""
    times = STEADY.copy()
    times[slice_, 2:] += 40
    return times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "doubted"),
    [(STEADY, 0), (shift(3, 15), 0), (shift(3, 41), 1), (shift(0, -41), 1), (shift([1, 3], 25), 2), (jump(2), 1)],
)
def test_slices_whose_times_do_not_agree(times, doubted, tmp_path, recwarn):
    """Their phases would be those of other moments, and no mask would tell."""
    write_times(tmp_path, times)
    beat = read_beat(tmp_path)
    assert (beat.slices, len(beat.times_ms)) == (SLICES, 16)
    assert beat.doubts == ("shifted",) * (doubted > 0)
    assert {*beat.doubts} <= DOUBTS.keys()
    assert {item["cine_doubts"] for item in split_phases([{"image": tmp_path}])} == {" ".join(beat.doubts)}
    assert not recwarn.list
    read_cine(tmp_path)
    told = " ".join(str(warning.message) for warning in recwarn.list)
    assert (f"TriggerTimes of {doubted} of {SLICES} slices do not agree" in told) == (doubted > 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unit", "phases", "step", "told"),
    [
        (1, 16, 40.0, ""),
        (1e-3, 16, 40.0, "puts 0.04 between phases: it is taken for seconds"),
        (1e-3, 4, 240.0, "it is taken for seconds"),
        (1e-5, 16, np.nan, "puts 0.0004 ms between 16 phases, which no heart does"),
        (0.25, 16, np.nan, "puts 10 ms between 16 phases, which no heart does"),
        (0.1, 4, 24.0, ""),
    ],
)
def test_trigger_times_that_no_heart_has(unit, phases, step, told, tmp_path):
    """DICOM counts them in milliseconds, and not every program does. Few phases may be a part of a beat."""
    factor = 1 if phases == 16 else 6
    write_times(tmp_path, (20 + 40 * factor * np.arange(phases) + np.zeros((SLICES, 1))) * unit)
    np.testing.assert_allclose(read_beat(tmp_path).times_ms, step * np.arange(phases), atol=1e-2)
    if told:
        with pytest.warns(DataWarning, match=told):
            read_cine(tmp_path)
    else:
        read_cine(tmp_path)


@pytest.mark.parametrize(
    ("shape", "step", "time", "doubts"),
    [
        ((90, 90, 12, 20), 8.0, 40.0, ()),
        ((90, 90, 12, 20), 8.0, 1.0, ()),
        ((90, 90, 13, 2), 8.0, 1.0, ()),
        ((90, 90, 11, 6), 8.0, 1.0, ()),
        ((90, 90, 20, 12), 8.0, 40.0, ("axes",)),
        ((90, 90, 12, 30), 8.0, 13.0, ()),
        ((90, 90, 10, 10), 8.0, 8.0, ("axes",)),
        ((90, 90, 6, 10), 26.0, 40.0, ("axes",)),
        ((90, 90, 26, 30), 8.0, 40.0, ("axes",)),
    ],
)
def test_time_along_the_third_axis_is_doubted(shape, step, time, doubts, tmp_path):
    beat = read_beat(write_sizes(tmp_path, shape, step, time))
    assert beat.doubts == doubts
    assert {*beat.doubts} <= DOUBTS.keys()
    assert (beat.slices, len(beat.times_ms)) == shape[2:]


@pytest.mark.parametrize("time", [8.0, 1.0, 0.0])
def test_time_along_the_third_axis_is_refused_where_sizes_tell_it(time, tmp_path):
    path = write_sizes(tmp_path, (90, 90, 20, 10), 40.0, time)
    for read in (read_beat, read_cine, LoadStack(phase=1)):
        with pytest.raises(UserError, match="cine.nii: .*steps of 40 along the third axis.* counts time"):
            read(path)


def write_sizes(folder, shape, step, time):
    image = nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([1.4, 1.4, step, 1.0]))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = time
    nib.save(image, folder / "cine.nii")
    return folder / "cine.nii"


def test_headers_are_read_once(tmp_path, monkeypatch):
    """As long as no file comes, goes or changes."""
    read = []
    monkeypatch.setattr(
        "monai_iln.datasets.readers.dicom_folder.read_frames", lambda path: read.append(path) or read_frames(path)
    )
    LAYOUTS["one_series"](tmp_path, CINE)
    beat = read_beat(tmp_path)
    cine = read_cine(tmp_path)
    read_stack(tmp_path, phase=1)
    read_stack(tmp_path, phase=2)
    assert len(read) <= 2 * SLICES * PHASES, "once for cines, once for stacks"
    changed = CINE + np.uint16(1)
    LAYOUTS["one_series"](tmp_path / "later", changed[:, :1])
    with pytest.raises(UserError, match="5 files for each of 5 slices"):
        read_beat(tmp_path)
    shutil.rmtree(tmp_path / "later")
    assert read_beat(tmp_path) == beat
    np.testing.assert_array_equal(read_cine(tmp_path).pixels, cine.pixels)
    for path in tmp_path.iterdir():  # the first phase comes 8 ms later, in files as long as before
        path.write_bytes(path.read_bytes().replace(b"DS\2\00011", b"DS\2\00019"))
    assert (beat.times_ms, read_beat(tmp_path).times_ms) == ([0, 40, 80, 120], [0, 32, 72, 112])
