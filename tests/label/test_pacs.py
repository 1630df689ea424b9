"""Series of a PACS and DICOM segmentations, without a PACS: what the server makes of one is dicomweb_round.py's."""

import importlib
import json
import sys
from unittest.mock import MagicMock

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset, validate_file_meta
from pydicom.filereader import dcmread
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.errors import UserError
from monai_iln.files import write_json
from monai_iln.label.pacs_labels import find_labels
from monai_iln.label.pacs_series import OneSliceError, join_series, remember_series, split_series
from monai_iln.label.segmentations import describe_segments, name_values, read_segmentation

LEFT, RIGHT = {1: "left ventricle"}, {1: "right ventricle"}
MODELS = {"left": LEFT, "right": RIGHT}


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    """The images of one subject: a cine of 4 slices and 3 phases, and localizers of the same SeriesInstanceUID."""
    folder = write_phantom(tmp_path_factory.mktemp("pacs") / "raw", subjects=1, slices=4, phases=3, size=96)
    return sorted(folder.glob("SCD_IMAGES_01/*/*/*.dcm"))


def headers(files):
    """The headers as DICOMweb tells them."""
    return [json.loads(dcmread(file, stop_before_pixels=True).to_json()) for file in files]


def test_repeated_positions_mean_phases(subject):
    cine = [file for file in subject if "CINESAX" in file.parent.name]
    stacks = split_series("1.2", "1.3", headers(reversed(cine)))
    assert [stack.image_id for stack in stacks] == ["1.3_phase1", "1.3_phase2", "1.3_phase3"]
    by_uid = {str(dcmread(file).SOPInstanceUID): dcmread(file) for file in cine}
    for number, stack in enumerate(stacks, start=1):
        images = [by_uid[uid] for uid in stack.instances]
        assert [image.InstanceNumber for image in images] == [number, number + 3, number + 6, number + 9]
        assert (stack.study, stack.series) == ("1.2", "1.3")


def test_one_phase_is_the_series(subject):
    cine = [file for file in subject if "CINESAX" in file.parent.name]
    (stack,) = split_series("1.2", "1.3", [header for header in headers(cine) if phase_of(header) == 1])
    assert stack.image_id == "1.3"
    assert len(stack.instances) == 4


def phase_of(header):
    return (header["00200013"]["Value"][0] - 1) % 3 + 1


def test_localizers_in_the_series_of_a_cine_are_passed_over(subject):
    assert {file.parent.name for file in subject} > {"CINESAX_300"}
    assert len(split_series("1.2", "1.3", headers(subject))) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.pop(4), "2 to 3 images for each of 4 slices"),
        (lambda told: [header.pop(tag) for header in told for tag in ("00181060", "00200013")], "nothing tells their"),
        (lambda told: [header.pop("00200032") for header in told], "does not tell where it lies"),
        (lambda told: told[0].update({"00080060": {"vr": "CS", "Value": ["SEG"]}}), "which is no image"),
    ],
)
def test_no_stack(subject, change, message):
    told = headers(file for file in subject if "CINESAX" in file.parent.name)
    change(told)
    with pytest.raises(UserError, match=message):
        split_series("1.2", "1.3", told)


@pytest.fixture
def stack(subject, tmp_path):
    """The first phase as a NIfTI file, and its files."""
    files = [file for file in subject if "CINESAX" in file.parent.name and phase_of(headers([file])[0]) == 1]
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pixels, affine = read_stack(tmp_path)
    nib.save(nib.Nifti1Image(pixels.transpose(1, 0, 2), affine[:, [1, 0, 2, 3]]), tmp_path / "image.nii.gz")
    return tmp_path / "image.nii.gz", files


def write_seg(file, images, planes, codes=("87878005",), labels=("left ventricle",)):
    """A segmentation of a plane on each image, its segments in turn."""
    seg = FileDataset("", {}, preamble=bytes(128), file_meta=FileMetaDataset(), is_implicit_VR=False)
    seg.SOPClassUID, seg.SOPInstanceUID, seg.Modality = SegmentationStorage, "1.9", "SEG"
    seg.Rows, seg.Columns = planes[0].shape
    seg.NumberOfFrames = len(planes)
    seg.SamplesPerPixel, seg.PhotometricInterpretation = 1, "MONOCHROME2"
    seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation = 8, 8, 7, 0
    seg.PixelData = np.array(planes, np.uint8).tobytes()
    seg.SegmentSequence = [
        segment(n, code, label) for n, (code, label) in enumerate(zip(codes, labels, strict=True), start=1)
    ]
    shared, seg.PerFrameFunctionalGroupsSequence = Dataset(), []
    first = dcmread(images[0])
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [Dataset()], [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = first.PixelSpacing
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = first.ImageOrientationPatient
    seg.SharedFunctionalGroupsSequence = [shared]
    for place, image in enumerate(map(dcmread, images)):
        own = Dataset()
        own.PlanePositionSequence, own.SegmentIdentificationSequence = [Dataset()], [Dataset()]
        own.PlanePositionSequence[0].ImagePositionPatient = image.ImagePositionPatient
        own.SegmentIdentificationSequence[0].ReferencedSegmentNumber = place % len(codes) + 1
        own.DerivationImageSequence = [Dataset()]
        own.DerivationImageSequence[0].SourceImageSequence = [Dataset()]
        own.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = image.SOPInstanceUID
        seg.PerFrameFunctionalGroupsSequence.append(own)
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    seg.file_meta.MediaStorageSOPClassUID, seg.file_meta.MediaStorageSOPInstanceUID = SegmentationStorage, "1.9"
    validate_file_meta(seg.file_meta)
    seg.save_as(file)
    return seg


def segment(number, code, label):
    one, kind = Dataset(), Dataset()
    kind.CodeValue = code
    one.SegmentNumber, one.SegmentLabel, one.SegmentedPropertyTypeCodeSequence = number, label, [kind]
    return one


def planes_of(files):
    rng = np.random.default_rng(0)
    shape = dcmread(files[0]).pixel_array.shape
    return [(rng.random(shape) < 0.1).astype(np.uint8) for _ in files]


def test_frames_lie_on_the_slices_of_their_images(stack, tmp_path):
    image, files = stack
    planes = planes_of(files)
    write_seg(tmp_path / "seg.dcm", files[::-1], planes[::-1])
    mask = read_segmentation(tmp_path / "seg.dcm", image, LEFT)
    assert np.array_equal(mask.affine, nib.load(image).affine)
    slices = np.argsort([dcmread(file).ImagePositionPatient @ normal(files) for file in files])
    for place, number in enumerate(slices):
        assert np.array_equal(np.asarray(mask.dataobj)[..., place], planes[number].T)


def normal(files):
    across, down = np.reshape(dcmread(files[0]).ImageOrientationPatient, (2, 3)).astype(float)
    return np.cross(across, down)


def test_segments_are_known_by_code_or_label(stack, tmp_path):
    image, files = stack
    planes = planes_of(files)
    write_seg(tmp_path / "seg.dcm", files, planes, ("53085002", "0"), ("endocardium", "Left Ventricle"))
    left, right = (read_segmentation(tmp_path / "seg.dcm", image, names) for names in (LEFT, RIGHT))
    assert np.asarray(left.dataobj).sum() == planes[1].sum() + planes[3].sum()
    assert np.asarray(right.dataobj).sum() == planes[0].sum() + planes[2].sum()
    write_seg(tmp_path / "spleen.dcm", files, planes, ("78961009",), ("spleen",))
    with pytest.raises(UserError, match="spleen: none is one of left ventricle"):
        read_segmentation(tmp_path / "spleen.dcm", image, LEFT)


@pytest.mark.parametrize(
    ("elements", "least"),
    [
        ({"SegmentationType": "BINARY"}, 1),
        ({"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": 100}, 50),
        ({"SegmentationType": "FRACTIONAL"}, 128),
    ],
)
def test_of_a_fractional_segmentation_half_a_pixel_counts(stack, tmp_path, elements, least):
    image, files = stack
    planes = [plane * np.uint8(value) for plane, value in zip(planes_of(files), (1, 49, 50, 128), strict=True)]
    seg = write_seg(tmp_path / "seg.dcm", files, planes)
    for keyword, value in elements.items():
        setattr(seg, keyword, value)
    seg.save_as(tmp_path / "seg.dcm")
    found = np.asarray(read_segmentation(tmp_path / "seg.dcm", image, LEFT).dataobj).sum()
    assert found == sum((plane >= least).sum() for plane in planes)


def test_a_segmentation_of_another_type_is_refused(stack, tmp_path):
    image, files = stack
    seg = write_seg(tmp_path / "seg.dcm", files, planes_of(files))
    seg.SegmentationType = "LABELMAP"
    seg.save_as(tmp_path / "seg.dcm")
    with pytest.raises(UserError, match="type LABELMAP"):
        read_segmentation(tmp_path / "seg.dcm", image, LEFT)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_segmentation_that_lies_elsewhere_is_refused(stack, tmp_path, place):
    image, files = stack
    planes = planes_of(files)
    seg = write_seg(tmp_path / "seg.dcm", files, planes)
    position = seg.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient
    position[place] += 4
    seg.save_as(tmp_path / "moved.dcm")
    with pytest.raises(UserError, match="frame"):
        read_segmentation(tmp_path / "moved.dcm", image, LEFT)


def test_a_label_belongs_to_the_phase_that_it_references(subject, tmp_path):
    cine = [file for file in subject if "CINESAX" in file.parent.name]
    stacks = split_series("1.2", "1.3", headers(cine))
    files = [file for file in cine if str(dcmread(file).SOPInstanceUID) in stacks[1].instances]
    told = json.loads(write_seg(tmp_path / "seg.dcm", files, planes_of(files)).to_json())
    told |= {"00080023": {"vr": "DA", "Value": ["20261127"]}}
    earlier = told | {"00080023": {"vr": "DA", "Value": ["20261126"]}, "00080018": {"vr": "UI", "Value": ["1.8"]}}
    other = told | {"00620002": {"vr": "SQ", "Value": []}}
    found = find_labels(Client([told, earlier, other]), stacks, ["left ventricle"])
    assert list(found) == ["1.3_phase2"]
    assert [label.instance for label in found["1.3_phase2"]] == ["1.8", "1.9"]
    assert found["1.3_phase2"][0].structures == {"left ventricle"}
    mixed = told | {"52009230": {"vr": "SQ", "Value": [*told["52009230"]["Value"], reference(stacks[0].instances[0])]}}
    assert not find_labels(Client([mixed]), stacks, ["left ventricle"])


@pytest.mark.parametrize("turn", [1, -1])
def test_labels_of_one_second_have_an_order(subject, tmp_path, turn):
    """By the number that whoever stores them counts on, else by their UIDs, however the PACS lists them."""
    cine = [file for file in subject if "CINESAX" in file.parent.name]
    stacks = split_series("1.2", "1.3", headers(cine))
    files = [file for file in cine if str(dcmread(file).SOPInstanceUID) in stacks[0].instances]
    told = json.loads(write_seg(tmp_path / "seg.dcm", files, planes_of(files)).to_json())
    made = [
        told | {"00080018": {"vr": "UI", "Value": [uid]}, "00200013": {"vr": "IS", "Value": [number]}}
        for uid, number in (("1.95", 2), ("1.91", 10), ("1.94", 1))
    ]
    made += [told | {"00080018": {"vr": "UI", "Value": [uid]}, "00200013": {"vr": "IS"}} for uid in ("1.97", "1.96")]
    found = find_labels(Client(made[::turn]), stacks, ["left ventricle"])["1.3_phase1"]
    assert [label.instance for label in found] == ["1.96", "1.97", "1.94", "1.95", "1.91"]


def reference(uid):
    return {"00081155": {"vr": "UI", "Value": [uid]}}


class Client:
    """A PACS with one series of segmentations."""

    def __init__(self, told):
        self.told = told

    def search_for_series(self, search_filters):
        assert search_filters == {"Modality": "SEG"}
        return [{"0020000D": {"Value": [study]}, "0020000E": {"Value": ["1.4"]}} for study in ("1.2", "1.5")]

    def retrieve_series_metadata(self, study, series):
        assert (study, series) == ("1.2", "1.4")
        return self.told


@pytest.mark.parametrize(
    ("info", "model"),
    [
        ({"model": "right"}, "right"),
        ({"label_info": [{"name": "Left Ventricle", "idx": 1}]}, "left"),
        ({"label_info": [{"name": "right ventricle"}]}, "right"),
    ],
)
def test_values_are_named_as_the_client_says(info, model):
    assert name_values([1], info, MODELS) == (model, MODELS[model])


def test_values_without_a_name():
    assert name_values([1], {}, {"left": LEFT}) == ("left", LEFT)
    for values, models, message in (
        ([1], MODELS, "several models"),
        ([2], MODELS, "no model"),
        ([], MODELS, "is empty"),
    ):
        with pytest.raises(UserError, match=message):
            name_values(values, {}, models)


def test_a_series_that_lacks_a_slice(subject):
    cine = [file for file in subject if "CINESAX" in file.parent.name]
    kept = [file for file in cine if dcmread(file).InstanceNumber not in (4, 5, 6)]
    assert len(cine) - len(kept) == 3, "one slice in three phases"
    with pytest.raises(UserError, match="the slices are not evenly spaced"):
        split_series("1.2", "1.3", headers(kept))


def test_a_segment_that_is_called_as_another_structure():
    """It would get into the PACS under a name that nobody gave it."""
    for models, info in ((MODELS, {"model": "left"}), ({"left": LEFT}, {})):
        with pytest.raises(UserError, match=r"1 as right ventricle, which no model of the app can mean"):
            name_values([1], {**info, "label_info": [{"name": "Right Ventricle", "idx": 1}]}, models)
    for name in ("Segment_1", "lv corrected"):
        assert name_values([1], {"label_info": [{"name": name, "idx": 1}]}, {"left": LEFT}) == ("left", LEFT)
    segments = [{"name": "left ventricle"}, {"name": "right ventricle"}]
    assert name_values([1], {"label_info": segments}, {"left": LEFT}) == ("left", LEFT), "2 is in no voxel"


@pytest.mark.parametrize("told", ["left ventricle", ["left ventricle"], [{"name": "x", "idx": "one"}], [{"idx": 1}], 7])
def test_a_list_of_segments_that_is_none(told):
    with pytest.raises(UserError, match="label_info .*: it is a list of segments"):
        name_values([1], {"label_info": told}, MODELS)


def test_segments_have_codes():
    codes = [
        one["segmentAttribute"]["SegmentedPropertyTypeCodeSequence"]["CodeValue"]
        for one in describe_segments({1: "left ventricle", 2: "Right Ventricle", 3: "lesion"}, "model")
    ]
    assert codes == ["87878005", "53085002", "123037004"]


def test_one_slice_in_several_phases_is_refused(subject):
    """It is a part of a cine that is stored as a series for each slice: a stack of one slice helps nobody."""
    cine = [file for file in subject if "CINESAX" in file.parent.name]
    with pytest.raises(OneSliceError, match=r"one slice in 3 phases: a long axis, or a cine .*monai-iln stacks"):
        split_series("1.2", "1.3", headers(file for file in cine if dcmread(file).InstanceNumber <= 3))


def test_a_series_for_each_slice_is_one_cine(subject):
    cine = [file for file in subject if "CINESAX" in file.parent.name]
    told = {f"1.{number}": [] for number in (5, 2, 4, 3)}  # in no order
    for number, header in enumerate(headers(cine)):
        told[f"1.{2 + number // 3}"].append(header)
    stacks = join_series("1.1", told)
    assert [stack.image_id for stack in stacks] == ["1.2_phase1", "1.2_phase2", "1.2_phase3"]
    together = split_series("1.1", "1.2", headers(cine))
    assert [stack.instances for stack in stacks] == [stack.instances for stack in together]
    assert {stack.homes for stack in stacks} == {("1.2", "1.3", "1.4", "1.5")}
    assert {stack.homes for stack in together} == {("1.2",) * 4}
    long_axis = [{**header, "00200037": {"vr": "DS", "Value": [1, 0, 0, 0, 1, 0]}} for header in told["1.3"]]
    assert join_series("1.1", {"1.9": long_axis, **told}) == stacks
    told["1.4"].pop()
    with pytest.raises(UserError, match="2 to 3 images for each of 4 slices"):
        join_series("1.1", told)


@pytest.fixture
def pacs_module(monkeypatch):
    """The module that asks a PACS, without MONAI Label and the client, which have an environment of their own."""
    for name in ("dicomweb_client", "dicomweb_client.ext", "dicomweb_client.ext.gcp", "dicomweb_client.session_utils"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    for name in ("dicomweb_client.ext.gcp.session_utils", "monailabel", "monailabel.datastore"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    settings = MagicMock(MONAI_LABEL_DICOMWEB_CACHE_EXPIRY=60, MONAI_LABEL_DICOMWEB_SEARCH_FILTER={"Modality": "MR"})
    monkeypatch.setitem(sys.modules, "monailabel.config", MagicMock(settings=settings))
    monkeypatch.setitem(sys.modules, "monailabel.datastore.dicom", MagicMock())
    yield importlib.import_module("monai_iln.label.pacs")
    sys.modules.pop("monai_iln.label.pacs")


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_cine_one_of_whose_slices_is_damaged_is_not_joined(subject, tmp_path, pacs_module, is_damaged):
    """Without its first slice it would be offered as a whole one, with smaller volumes."""
    cine = headers(file for file in subject if "CINESAX" in file.parent.name)
    series = {f"1.{2 + number}": cine[3 * number : 3 * number + 3] for number in range(4)}
    if is_damaged:
        series["1.2"][1].pop("00200032")

    class Server:
        def search_for_series(self, **_):
            tags = {"0020000D": "1.1", "00201209": 3}
            return [{tag: {"Value": [value]} for tag, value in {**tags, "0020000E": name}.items()} for name in series]

        def retrieve_series_metadata(self, study, name):
            return series[name]

    pacs = pacs_module.Pacs(Server(), tmp_path / "series.json", ["left ventricle"])
    stacks = pacs.stacks()
    assert {name: len(stack.instances) for name, stack in stacks.items()} == (
        {} if is_damaged else {"1.2_phase1": 4, "1.2_phase2": 4, "1.2_phase3": 4}
    )
    assert len(pacs.unfit) == (4 if is_damaged else 0)


def list_until_it_fails(file):
    with remember_series(file) as known:
        known["1.3"] = {"images": 5}
        raise ConnectionError


def test_what_series_told_is_kept(tmp_path, monkeypatch):
    """It is read and written once for all of them, also if the PACS fails on the way."""
    file, written = tmp_path / "series.json", []

    def write(path, content):
        written.append(path)
        write_json(path, content)

    monkeypatch.setattr("monai_iln.label.pacs_series.write_json", write)
    with remember_series(file) as known:
        assert known == {}
    assert not file.exists()
    with remember_series(file) as known:
        known |= {"1.1": {"images": 3}, "1.2": {"images": 4}}
    with pytest.raises(ConnectionError):
        list_until_it_fails(file)
    with remember_series(file) as known:
        assert {series: one["images"] for series, one in known.items()} == {"1.1": 3, "1.2": 4, "1.3": 5}
    assert written == [file, file]
