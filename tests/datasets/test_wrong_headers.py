"""Wrong headers: what is still known is read, and what they cost is little and told."""

import gzip
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phantom_layouts import ALL_LAYOUTS

from monai_iln.datasets import read_folders, read_sunnybrook
from monai_iln.datasets.phantom import write_phantom

SMALL = {"subjects": 2, "slices": 6, "phases": 2, "size": 96}
EXAMPLES = settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def read(layout, folder):
    return read_folders([folder]) if layout == "rvsc" else read_sunnybrook(folder)


@pytest.fixture(scope="module", params=["official", "challenge", "arterys", "rvsc"])
def contoured(request, tmp_path_factory):
    """A layout of DICOM files and contours, its folder, and image and label of every slice."""
    folder = write_phantom(tmp_path_factory.mktemp("contoured") / "data", layout=ALL_LAYOUTS[request.param], **SMALL)
    truth = {
        (stack.subject, stack.phase, number): (stack.image[..., index], stack.label[..., index])
        for stack in read(request.param, folder).stacks
        for index, number in enumerate(stack.slices)
    }
    return request.param, folder, truth


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
@EXAMPLES
@given(choice=st.data())
def test_one_wrong_header(contoured, choice):
    """It costs its frame and, where nothing says which of the two is wrong, the other one of its slice; by name."""
    layout, folder, truth = contoured
    victim = choice.draw(st.sampled_from(sorted(folder.rglob("*.dcm"))))
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


@EXAMPLES
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
