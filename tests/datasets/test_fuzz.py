"""Damaged data of every layout: each ends in a message or a finding, and what is read is the truth.

``MONAI_ILN_FUZZ=10000 pytest tests/datasets/test_fuzz.py`` damages so many files of each layout.
"""

import gzip
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import phantom_folders
import pydicom
import pytest
from dicom_layouts import LAYOUTS as DICOM_LAYOUTS
from dicom_layouts import random_cine
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from phantom_layouts import ALL_LAYOUTS

from monai_iln.datasets import check_datalist, inspect_stacks, read_folders, read_sunnybrook
from monai_iln.datasets.formats.volumes import read_volume
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.prepare import prepare_decathlon, prepare_sunnybrook
from monai_iln.datasets.quality.reasons import choose_actions
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import UserError

EXAMPLES = int(os.environ.get("MONAI_ILN_FUZZ", "150"))
ACTIONS = choose_actions()
LAYOUTS = {**ALL_LAYOUTS, **phantom_folders.LAYOUTS}
LEFT = ("official", "challenge", "arterys", "png")
LABELS = {"emidec": "left-ventricle"}  # of the others it is the right ventricle
SMALL = {"subjects": 2, "slices": 6, "phases": 2, "size": 96}
ALLOWED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # to shrink a failure takes minutes and says little more
    derandomize=EXAMPLES <= 1000,  # the same examples in every run of the tests, others when run at length
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def read(layout, folder):
    if layout in LEFT:
        return read_sunnybrook(folder)
    return read_folders([folder], label=LABELS.get(layout, "right-ventricle"))


class Data(NamedTuple):
    """A layout, its files, those of them that hold labels, and what is read from them undamaged."""

    layout: str
    folder: Path
    files: list[Path]
    labels: set[Path]
    truth: dict[tuple[str, str, int], tuple[Any, Any]]

    def __repr__(self):
        return self.layout


@pytest.fixture(scope="module", params=LAYOUTS)
def data(request, tmp_path_factory):
    folder = write_phantom(tmp_path_factory.mktemp("fuzz") / "data", layout=LAYOUTS[request.param], **SMALL)
    reading = read(request.param, folder)
    truth = {
        (stack.subject, stack.phase, number): (stack.image[..., index], stack.label[..., index])
        for stack in reading.stacks
        for index, number in enumerate(stack.slices)
    }
    assert truth
    # Files of labels first: the frames of a cine that nobody labelled would have nearly all the damage otherwise.
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    words = ("contour", "Contours", "Labels", "labelsTr", "masks", "_gt", "_rv", ".txt")
    labels = [file for file in files if any(word in str(file) for word in words)]
    labelled = {Path(file).relative_to(folder) for stack in reading.stacks for file in stack.files}
    return Data(request.param, folder, [*labels, *sorted(labelled), *files], {*labels}, truth)


def damage(draw, content):
    """Bytes as they come from bad disks, broken downloads, careless editors and mean strangers."""
    kind = draw(st.sampled_from(["flip", "truncate", "zeros", "insert", "text", "empty", "repeat"]))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    if draw(st.booleans()):
        place = min(place, draw(st.integers(0, 600)))  # headers come first
    if kind == "flip":
        data = bytearray(content)
        for _ in range(draw(st.integers(1, 8))):
            if data:
                data[(place + draw(st.integers(0, 64))) % len(data)] ^= draw(st.integers(1, 255))
        return bytes(data)
    if kind == "truncate":
        return content[:place]
    if kind == "zeros":
        length = draw(st.integers(1, 4096))
        return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=64)) + content[place:]
    if kind == "text":
        return (
            content[:place]
            + draw(st.sampled_from([b"-1", b"9", b"nan", b"1e308", b"\n", b"\0"]))
            + content[place + 1 :]
        )
    return b"" if kind == "empty" else content + content


def alike(one, other):
    """A digit or a point of a contour less, which nobody can notice, moves its edge by a little."""
    return (one != other).sum() <= 12 + 0.2 * (int(one.sum()) + int(other.sum()))


def has_hole(victim, label, truth):
    """Whether voxels became background in a file without a checksum, which nobody can notice either."""
    return victim.suffix == ".img" and bool((label <= truth).all())


@pytest.mark.slow
@ALLOWED
@given(choice=st.data())
def test_damaged_files(data, choice):
    layout, folder, files, labels, truth = data
    victim = files[choice.draw(st.integers(0, len(files) - 1))]
    content = (folder / victim).read_bytes()
    damaged = damage(choice.draw, content)
    try:
        (folder / victim).write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reading = read(layout, folder)
            findings = [*reading.findings, *inspect_stacks(reading.stacks)]
    except UserError as error:
        assert len(str(error)) > 40  # noqa: PT017
        return
    finally:
        (folder / victim).write_bytes(content)
    suspected = {(f.subject, f.phase, f.slice) for f in findings if f.action(ACTIONS) == "exclude"}
    seen = set()
    for stack in reading.stacks:
        for index, number in enumerate(stack.slices):
            key = stack.subject, stack.phase, number
            image, label = truth.get(key, (None, None))
            seen.add(key)
            assert image is not None, f"{key} does not exist"
            assert stack.label.max() <= 1
            if key not in suspected and victim in labels:
                assert stack.label[..., index].shape == label.shape
                found = stack.label[..., index]
                assert alike(found, label) or has_hole(victim, found, label), key
            elif key not in suspected:
                np.testing.assert_array_equal(stack.label[..., index], label)
                if (folder / victim).with_suffix("") not in {Path(file).with_suffix("") for file in stack.files}:
                    np.testing.assert_array_equal(stack.image[..., index], image)
    missing = {subject for subject, _, _ in truth.keys() - seen}
    assert missing <= {finding.subject for finding in findings}, "nothing is lost in silence"


def change_header(draw, header):
    """One wrong value, as an editor, an anonymizer or a scanner leaves it."""
    kind = draw(st.sampled_from(["place", "number", "orientation", "spacing", "step", "series"]))
    if kind == "place":
        place = [float(value) for value in header.ImagePositionPatient]
        place[draw(st.integers(0, 2))] += draw(st.sampled_from([-200.0, -8.0, -1.0, 1.0, 8.0, 30.0]))
        header.ImagePositionPatient = place
    elif kind == "number":
        header.InstanceNumber = draw(st.integers(-1, 60) | st.sampled_from([1000, 2**31]))
    elif kind == "orientation":
        turned = [float(value) for value in header.ImageOrientationPatient]
        turned[draw(st.integers(0, 5))] += draw(st.sampled_from([0.002, -0.01, 1.0]))
        header.ImageOrientationPatient = [round(value, 6) for value in turned]
    elif kind == "spacing":
        header.PixelSpacing = [2 * float(value) for value in header.PixelSpacing]
    elif kind == "step":
        header.SpacingBetweenSlices = header.SliceThickness = draw(st.sampled_from(["1", "0", "-8", "800"]))
    else:
        header.SeriesInstanceUID = "1.2.3"


@pytest.mark.slow
@ALLOWED
@given(choice=st.data())
def test_one_wrong_header(data, choice):
    """It costs its frame and, where nothing says which of the two is wrong, the other one of its slice; by name."""
    layout, folder, files, _, truth = data
    frames = [file for file in files if file.suffix == ".dcm"]
    if not frames:
        pytest.skip(f"{layout} holds no DICOM files")
    victim = folder / frames[choice.draw(st.integers(0, len(frames) - 1))]
    content = victim.read_bytes()
    header = pydicom.dcmread(victim)
    change_header(choice.draw, header)
    try:
        header.save_as(victim)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            stacks, findings = read(layout, folder)
    finally:
        victim.write_bytes(content)
    seen = set()
    for stack in stacks:
        for index, number in enumerate(stack.slices):
            key = stack.subject, stack.phase, number
            seen.add(key)
            assert key in truth, f"{key} does not exist"
            for found, expected in zip((stack.image, stack.label), truth[key], strict=True):
                np.testing.assert_array_equal(found[..., index], expected)
    lost = truth.keys() - seen
    assert len(lost) <= 2
    assert not lost or victim.name in " ".join(f"{finding.file} {finding.detail}" for finding in findings)


def unit_sform(header):
    header.set_sform(np.diag([-1, -1, 1, 1]), 2)


def unit_steps(header):
    directions = header.get_sform()
    directions[:3, :3] /= np.linalg.norm(directions[:3, :3], axis=0)
    header.set_sform(directions, 2)


def no_qform(header):
    header["qform_code"] = 0


def broken_qform(header):
    header["quatern_b"] = 3


def zero_sform(header):
    header.set_sform(np.diag([0, 0, 0, 1]), 1)


def empty_sform(header):
    header.set_sform(np.full((4, 4), np.nan), 1)


def unit_pixdim(header):
    header["pixdim"][1:4] = 1


def zero_pixdim(header):
    header["pixdim"][1:4] = 0


def no_codes(header):
    header["sform_code"] = header["qform_code"] = 0


def rounded(header):
    header["pixdim"][1:4] = np.round(header["pixdim"][1:4], 3)
    header["srow_x"][3] += 0.03


#: What happens to headers, and what is still known then: all, or the sizes alone; and whether it is told.
HEADER_FAULTS = {
    (): ("all", False),
    (rounded,): ("all", False),
    (no_qform,): ("all", False),
    (broken_qform,): ("all", True),
    (unit_sform,): ("all", True),
    (unit_steps,): ("all", True),
    (unit_steps, no_qform): ("all", True),
    (zero_sform,): ("all", True),
    (empty_sform,): ("all", True),
    (no_qform, unit_pixdim): ("all", True),
    (no_qform, zero_pixdim): ("all", True),
    (unit_sform, no_qform): ("sizes", True),
    (zero_sform, no_qform): ("sizes", True),
    (no_codes,): ("sizes", False),
}


@pytest.fixture(scope="module")
def oblique(tmp_path_factory):
    """Phantoms whose headers tell all in sform, qform and pixdim."""
    folder = write_phantom(tmp_path_factory.mktemp("oblique") / "data", layout="mnms", **SMALL)
    return folder, {(stack.subject, stack.phase): stack for stack in read_folders([folder]).stacks}


@settings(ALLOWED, max_examples=max(EXAMPLES // 3, 50))
@given(faults=st.tuples(*[st.sampled_from(list(HEADER_FAULTS))] * 2))
def test_headers_that_contradict_themselves(oblique, faults):
    """What one part of a header still knows is read, every file is told, and image and label go together."""
    folder, truth = oblique
    label = sorted(folder.rglob("*_gt.nii.gz"))[0]
    paths = label.with_name(label.name.replace("_gt", "")), label
    contents = [path.read_bytes() for path in paths]
    try:
        for path, changes in zip(paths, faults, strict=True):
            content = gzip.decompress(path.read_bytes())
            header = nib.Nifti1Header(content[:348])
            header["qform_code"] = 1
            for change in changes:
                change(header)
            path.write_bytes(gzip.compress(header.binaryblock + content[348:], 1))
        reading = read_folders([folder])
    finally:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
    known, told = zip(*(HEADER_FAULTS[changes] for changes in faults), strict=True)
    assert len(reading.stacks) == len(truth)
    for stack in reading.stacks:
        whole = truth[stack.subject, stack.phase]
        np.testing.assert_array_equal(stack.image, whole.image)
        np.testing.assert_array_equal(stack.label, whole.label)
        sizes, expected = (np.linalg.norm(one.affine[:3, :3], axis=0) for one in (stack, whole))
        np.testing.assert_allclose(sizes, expected, rtol=1e-3)
        if known[0] == "all":
            np.testing.assert_allclose(stack.affine, whole.affine, atol=0.04)
    doubts = {finding.file for finding in reading.findings if finding.reason == "contradictory-header"}
    assert doubts == {str(path) for path, is_told in zip(paths, told, strict=True) if is_told}
    if known == ("all", "all"):
        assert "misplaced" not in {finding.reason for finding in reading.findings}


@pytest.fixture(scope="module")
def datalist(tmp_path_factory):
    raw = write_phantom(tmp_path_factory.mktemp("raw") / "data", **SMALL)
    return prepare_sunnybrook(raw, tmp_path_factory.mktemp("prepared") / "data", folds=2).parent


@pytest.mark.slow
@ALLOWED
@given(choice=st.data())
def test_damaged_datalists(datalist, choice):
    """Whatever is damaged is refused, or what is read is what was written."""
    files = [Path("datalist.json"), *(p.relative_to(datalist) for p in datalist.rglob("*.nii.gz"))]
    victim = choice.draw(st.sampled_from(files))
    whole = check_datalist(datalist)
    content = (datalist / victim).read_bytes()
    damaged = damage(choice.draw, content)
    assume(damaged != content)
    try:
        (datalist / victim).write_bytes(damaged)
        items = check_datalist(datalist)
    except UserError:
        return
    finally:
        (datalist / victim).write_bytes(content)
    assert victim.name == "datalist.json", "a damaged image or label has another hash"
    assert [(item["image"], item["label"]) for item in items] == [(item["image"], item["label"]) for item in whole]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = phantom_folders.write_decathlon(tmp_path_factory.mktemp("decathlon") / "Task06", ["l_1", "l_2", "l_3"])
    truth = {str(path): read_volume(path)[0] for path in folder.rglob("l_*")}
    return folder, {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}, truth


@pytest.mark.slow
@ALLOWED
@given(choice=st.data())
def test_damaged_lists_of_volumes(volumes, tmp_path_factory, choice):
    """What is left passes the check, names the files that belong together, and the rest is reported."""
    folder, whole, truth = volumes
    victim = choice.draw(st.sampled_from([folder / "dataset.json", *sorted(whole)]))
    output = tmp_path_factory.mktemp("out") / "out"
    try:
        victim.write_bytes(damage(choice.draw, whole[victim]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            items = check_datalist(prepare_decathlon(folder, output, folds=1))
        told = (output / "exclusions.csv").read_text(encoding="utf-8", errors="replace")
        kept = {item[key]: read_volume(item[key])[0] for item in items for key in ("image", "label")}
    except UserError as error:
        assert len(str(error)) > 40  # noqa: PT017
        return
    finally:
        victim.write_bytes(whole[victim])
    for item in items:
        assert Path(item["image"]).name == Path(item["label"]).name
    if victim.name != "dataset.json":
        for path, array in kept.items():
            np.testing.assert_array_equal(array, truth[path])
        assert len(items) == 3 or victim.name in told, "nothing is lost in silence"


@pytest.mark.slow
@ALLOWED
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["training", "labels", "image", "label", "fold"]) | st.text(max_size=3), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json(tmp_path, document):
    (tmp_path / "datalist.json").write_text(json.dumps(document))
    with pytest.raises(UserError):
        check_datalist(tmp_path)


def test_paths_with_anything_in_them(tmp_path, official, stacks):
    folder = tmp_path / "a b%20ü 日本 'x' [1] {2}"
    shutil.copytree(official, folder)
    assert len(read_sunnybrook(folder).stacks) == len(stacks)
    assert len(check_datalist(prepare_sunnybrook(folder, tmp_path / "o ü [2]"))) == len(stacks)


CINES = ("one_series", "kaggle", "numbers_missing", "enhanced", "enhanced_for_each_slice")
if EXAMPLES > 1000:
    CINES = tuple(DICOM_LAYOUTS)


@pytest.fixture(scope="module", params=CINES)
def dicom(request, tmp_path_factory):
    """A short-axis cine in a layout of DICOM, one phase of it, and what is read of them."""
    folder = tmp_path_factory.mktemp("dicom")
    for phases in (4, 1):
        DICOM_LAYOUTS[request.param](folder / str(phases), random_cine()[:, :phases])
    return folder, {phases: read_stack(folder / str(phases), 1)[1] for phases in (4, 1)}


# Elements, and what may stand there by mistake. The slope of one slice may be what it likes, so it is not among them.
WRONG = {
    "ImagePositionPatient": [[0, 0, 0], [-60, 30, 94], [-59, 30, 95], [-66.4, 34.8, 95], [1e9, 0, 0], "", None],
    "ImageOrientationPatient": [[1, 0, 0, 0, 1, 0], [0.6, 0.8, 0, 0, 0.01, -1], [0, 0, 0, 0, 0, 0], "", None],
    "PixelSpacing": [[1.25, 1.5], [1.5, 1.3], [0, 0], [-1.5, 1.25], "", None],
    "InstanceNumber": [0, 1, 3, 7, 99, -4, "", None],
    "TriggerTime": ["0", "11", "60", "91", "500", "-3", "", None],
    "AcquisitionTime": ["120000", "x", "", None],
    "SeriesInstanceUID": ["1.2.3", "", None],
    "StudyInstanceUID": ["1.2.3", None],
    "SOPInstanceUID": ["1.2.3", None],
    "FrameOfReferenceUID": ["1.2.3", None],
    "SOPClassUID": ["1.2.840.10008.5.1.4.1.1.66.4", "1.2.3", None],
    "SeriesNumber": [0, 4, 99, "", None],
    "PatientID": ["Y", "", None],
    "ImageType": [["ORIGINAL", "PRIMARY", "P"], "", None],
    "EchoTime": ["2.4", "", None],
    "Modality": ["SR", "CT", None],
    "Rows": [7, 8, 10, 0, None],
    "Columns": [9, 6, 8, None],
    "BitsAllocated": [8, 12, 32, None],
    "BitsStored": [16, 8, 0, None],
    "HighBit": [15, None],
    "PixelRepresentation": [1, 7, None],
    "PhotometricInterpretation": ["MONOCHROME1", "RGB", "PALETTE COLOR", "", None],
    "SamplesPerPixel": [3, 0, None],
    "NumberOfFrames": ["2", "0"],
}


def change(draw, path):
    """One wrong value in a header."""
    keyword = draw(st.sampled_from(sorted(WRONG)))
    value = draw(st.sampled_from(WRONG[keyword]))
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(path)
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
        dataset.save_as(path)


@pytest.mark.slow
@ALLOWED
@given(choice=st.data())
def test_damaged_dicom(dicom, choice):
    """A stack is read as it is, or a message tells the file or the folder; a damaged pixel stays within its image."""
    phases = choice.draw(st.sampled_from([1, 4]))
    phase = choice.draw(st.integers(1, phases))
    folder, place = dicom[0] / str(phases), dicom[1][phases]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    victim = choice.draw(st.sampled_from(files))
    content = victim.read_bytes()
    expected = np.moveaxis(random_cine()[:, phase - 1], 0, -1)
    is_header = choice.draw(st.booleans())
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if is_header:
                change(choice.draw, victim)
            else:
                victim.write_bytes(damage(choice.draw, content))
            told.clear()
            pixels, affine = read_stack(folder, phase)
    except UserError as error:
        assert str(folder) in str(error)  # noqa: PT017
        return
    finally:
        victim.write_bytes(content)
    assert {one.category for one in told} <= {DataWarning}
    if pixels.shape != expected.shape:
        assert any(victim.name in str(one.message) for one in told), "a slice was left out in silence"
        return
    np.testing.assert_allclose(affine, place, atol=1.0)
    if any("is uneven" in str(one.message) for one in told):
        return
    if len(files) > 1:  # one file may be another picture as a whole
        wrong = (pixels != expected).any(axis=(0, 1))
        assert wrong.sum() <= (not is_header), "a wrong header leaves pixels as they are, damage stays in its image"
