"""DICOM files in the layouts of scanners and archives, with random pixels, under names that say nothing."""

import hashlib

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset, validate_file_meta
from pydicom.sequence import Sequence
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SLICES, PHASES, ROWS, COLUMNS = 5, 4, 9, 7
SPACING, STEP = (1.5, 1.25), 8.0
AXES = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])  # of rows and of columns
NORMAL = np.cross(*AXES)
ORIGIN = np.array([-60.0, 30.0, 95.0])
LAYOUTS = {}  # writers of one short-axis cine; each takes a folder and random pixels (slices, phases, rows, columns)


def random_cine(seed=0, slices=SLICES, phases=PHASES):
    values = np.random.default_rng(seed).integers(5, 3000, (slices, phases, ROWS, COLUMNS), dtype=np.uint16)
    values[:, :, 0, 0] = (
        np.arange(slices)[:, None] * 100 + np.arange(phases) + 10
    )  # says where it belongs, for a person
    return values


def uid(*words):
    return generate_uid(entropy_srcs=[str(word) for word in words])


def place(slice_):
    return ORIGIN + NORMAL * STEP * slice_


def numbers(values):
    return [f"{value:.6f}" for value in values]


def header(pixels, **elements):
    """A file of one grey image. An element that is ``None`` is left out."""
    dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset())
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    given = {
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "PatientID": "X",
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid("series"),
        "SeriesNumber": 3,
        "FrameOfReferenceUID": uid("reference"),
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "EchoTime": "1.2",
        "SliceThickness": "8",
        "PixelSpacing": numbers(SPACING),
        "ImageOrientationPatient": numbers(AXES.ravel()),
        "ImagePositionPatient": numbers(place(0)),
        "InstanceNumber": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **elements,
    }
    for keyword, value in given.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[-2:]
        dataset.PixelData = pixels.tobytes()
    dataset.SOPInstanceUID = elements.get("SOPInstanceUID") or uid(*elements.values(), pixels)
    return dataset


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.FileMetaInformationGroupLength = 0  # computed when the file is written
    validate_file_meta(dataset.file_meta)
    if pydicom.__version__ < "3":  # which does not look at the transfer syntax
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.save_as(path)
    return path


def hashed(*words):
    return hashlib.md5(repr(words).encode()).hexdigest()


def frame(folder, pixels, slice_, phase, name=None, **elements):
    """One image of a cine, 40 ms a phase."""
    given = {
        "ImagePositionPatient": numbers(place(slice_)),
        "TriggerTime": f"{40 * phase + 11}",
        "InstanceNumber": slice_ * PHASES + phase + 1,
    } | elements
    return save(header(pixels, **given), folder / (name or hashed(slice_, phase, given)))


def layout(function):
    LAYOUTS[function.__name__] = function
    return function


@layout
def one_series(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase)


def images(cine):
    return [(index, cine[index]) for index in np.ndindex(cine.shape[:2])]


@layout
def phase_by_phase(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase, InstanceNumber=phase * len(cine) + slice_ + 1)


@layout
def a_series_for_each_slice(folder, cine):
    """As Siemens scanners have it: numbers and times begin again in each series."""
    for (slice_, phase), pixels in images(cine):
        series = {"SeriesInstanceUID": uid("slice", slice_), "SeriesNumber": 10 + slice_, "InstanceNumber": phase + 1}
        times = {"TriggerTime": f"{(40 + slice_) * phase}", "AcquisitionTime": f"1201{10 + slice_}.25"}
        frame(folder, pixels, slice_, phase, SeriesDescription=f"cine_sax_{slice_}", **series, **times)


@layout
def uk_biobank(folder, cine):
    """A folder of files named by UIDs; the slices are series that count from the apex, against the normal."""
    for (slice_, phase), pixels in images(cine):
        number = len(cine) - slice_
        series = {"SeriesInstanceUID": uid("b", number), "SeriesNumber": 20 + number, "InstanceNumber": phase + 1}
        name = f"1.3.12.2.1107.5.2.18.{number}.{phase}.dcm"
        frame(folder, pixels, slice_, phase, name, SeriesDescription=f"CINE_segmented_SAX_b{number}", **series)


@layout
def kaggle(folder, cine):
    """A folder for each slice, numbered by series and not by place."""
    for (slice_, phase), pixels in images(cine):
        number = 5 + (slice_ * 3) % len(cine)
        series = {"SeriesInstanceUID": uid("sax", number), "SeriesNumber": number, "InstanceNumber": phase + 1}
        frame(folder / f"sax_{number}", pixels, slice_, phase, f"IM-{4500 + number}-{phase + 1:04d}.dcm", **series)


@layout
def interleaved(folder, cine):
    for (slice_, phase), pixels in images(cine):
        order = [*range(0, len(cine), 2), *range(1, len(cine), 2)].index(slice_)
        frame(folder, pixels, slice_, phase, InstanceNumber=order * PHASES + phase + 1)


@layout
def interleaved_series(folder, cine):
    """Every second slice in a series of its own."""
    for (slice_, phase), pixels in images(cine):
        series = {"SeriesInstanceUID": uid("half", slice_ % 2), "SeriesNumber": 4 + slice_ % 2}
        frame(folder, pixels, slice_, phase, **series)


@layout
def numbers_all_1(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase, InstanceNumber=1)


@layout
def numbers_missing(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase, InstanceNumber=None)


@layout
def numbers_empty(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase, InstanceNumber="")


@layout
def cosines_differ(folder, cine):
    rng = np.random.default_rng(1)
    for (slice_, phase), pixels in images(cine):
        frame(
            folder,
            pixels,
            slice_,
            phase,
            ImageOrientationPatient=numbers((AXES + rng.uniform(-1e-4, 1e-4, (2, 3))).ravel()),
        )


@layout
def a_reference_for_each_file(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase, FrameOfReferenceUID=uid(slice_, phase))


@layout
def a_reference_for_each_series(folder, cine):
    for (slice_, phase), pixels in images(cine):
        series = {"SeriesInstanceUID": uid(slice_), "SeriesNumber": slice_, "FrameOfReferenceUID": uid("at", slice_)}
        frame(folder, pixels, slice_, phase, **series)


@layout
def a_series_for_each_file(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase, SeriesInstanceUID=uid(slice_, phase))


@layout
def negative_steps(folder, cine):
    for (slice_, phase), pixels in images(cine):
        frame(folder, pixels, slice_, phase, SpacingBetweenSlices="-8")


@layout
def enhanced(folder, cine):
    """One file, phases after phases, the slices of each in order."""
    save(enhanced_dataset(cine, [(s, p) for p in range(cine.shape[1]) for s in range(cine.shape[0])]), folder / "file")


@layout
def enhanced_for_each_slice(folder, cine):
    for slice_ in range(len(cine)):
        frames = [(slice_, phase) for phase in range(cine.shape[1])]
        save(enhanced_dataset(cine, frames, SeriesInstanceUID=uid(slice_), SeriesNumber=slice_), folder / str(slice_))


def group(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return Sequence([dataset])


def enhanced_dataset(cine, frames, **elements):
    place_of = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness", "EchoTime")
    given = dict.fromkeys(place_of) | {"SOPClassUID": EnhancedMRImageStorage} | elements
    pixels = np.stack([cine[index] for index in frames])
    dataset = header(pixels, **given)
    dataset.NumberOfFrames = len(frames)
    shared = Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=numbers(AXES.ravel()))
    shared.PixelMeasuresSequence = group(PixelSpacing=numbers(SPACING), SliceThickness="8")
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    items = []
    for slice_, phase in frames:
        item = Dataset()
        item.PlanePositionSequence = group(ImagePositionPatient=numbers(place(slice_)))
        item.CardiacSynchronizationSequence = group(NominalCardiacTriggerDelayTime=40.0 * phase)
        item.FrameContentSequence = group(TemporalPositionIndex=phase + 1, InStackPositionNumber=slice_ + 1)
        item.MRImageFrameTypeSequence = group(FrameType=["ORIGINAL", "PRIMARY", "FUNCTION", "NONE"])
        item.PixelValueTransformationSequence = group(RescaleIntercept="5", RescaleSlope="1", RescaleType="US")
        items.append(item)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(items)
    stored = pixels - np.uint16(5)  # 5 is what rescaling adds
    dataset.PixelData = stored.tobytes()
    return dataset


def write_others(folder):
    """What lies beside images in real exports and is none."""
    classes = {
        "DICOMDIR": "1.2.840.10008.1.3.10",
        "report": "1.2.840.10008.5.1.4.1.1.88.22",
        "presentation": "1.2.840.10008.5.1.4.1.1.11.1",
    }
    for name, sop_class in classes.items():
        dataset = header(None, SOPClassUID=UID(sop_class), SeriesInstanceUID=uid(name), Modality="PR")
        save(dataset, folder / name)
    pixels = random_cine(9)[0, 0]
    segmentation = "1.2.840.10008.5.1.4.1.1.66.4"
    save(
        header(pixels, SOPClassUID=UID(segmentation), SeriesInstanceUID=uid("seg"), Modality="SEG"), folder / "SEG.dcm"
    )
