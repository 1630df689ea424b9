"""The writers against the real layouts and against the truth that the phantom itself knows.

Files are read with what others wrote (pydicom, nibabel, PIL, NumPy), not with this project's readers.
"""

import csv
import shlex
from collections import defaultdict
from dataclasses import replace
from itertools import groupby

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from phantom_layouts import ALL_LAYOUTS
from PIL import Image, ImageDraw
from scipy import ndimage

from monai_iln.cli import main
from monai_iln.datasets import read_folders, read_sunnybrook
from monai_iln.datasets.phantom import LAYOUTS, contoured, phantom_truth, write_phantom
from monai_iln.datasets.phantom.heart import contraction, end_systole, make_heart
from monai_iln.datasets.phantom.image import _measured, _scan, render
from monai_iln.datasets.phantom.layouts import WRITERS
from monai_iln.errors import UserError

SMALL = {"subjects": 4, "slices": 6, "phases": 5, "size": 96}
SQUARE, LANDSCAPE = (96, 96), (81, 96)
ED, ES = 5, 2  # phases of SMALL


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Four phantoms in every layout."""
    folder = tmp_path_factory.mktemp("layouts")
    return {name: write_phantom(folder / name, layout=layout, **SMALL) for name, layout in ALL_LAYOUTS.items()}


def truths(layout, **numbers):
    known = phantom_truth(layout=ALL_LAYOUTS[layout], **{**SMALL, **numbers})
    return {(truth.subject, truth.phase): truth for truth in known}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(path, shape):
    mask = Image.new("L", shape[::-1], 0)
    ImageDraw.Draw(mask).polygon([tuple(point) for point in np.loadtxt(path)], outline=1, fill=1)
    return np.asarray(mask) > 0


def slices_of(truth, structure):
    """The mask of every slice, by its number."""
    return dict(zip(truth.slices, np.moveaxis(truth.masks[structure], -1, 0), strict=True))


def assert_contours_are(folder, kind, structure, truth, phase, shape=SQUARE):
    """One file a slice of the structure, on the half-pixel grid, that fills to the truth; and no other in the phase."""
    files = {int(path.name.split("-")[-3]): path for path in folder.glob(f"*-{kind}contour-manual.txt")}
    found = {number: path for number, path in files.items() if (number - phase) % SMALL["phases"] == 0}
    expected = {
        (slice_ - 1) * SMALL["phases"] + phase: mask
        for slice_, mask in slices_of(truth, structure).items()
        if mask.any()
    }
    assert found.keys() == expected.keys()
    for number, path in found.items():
        points = np.loadtxt(path)
        np.testing.assert_array_equal(2 * points, np.round(2 * points))
        np.testing.assert_array_equal(fill(path, shape), expected[number])


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_the_seed_decides_everything(tmp_path, layout):
    small = {"layout": ALL_LAYOUTS[layout], "subjects": 1, "slices": 4, "phases": 2, "size": 96}
    one, again, other = (contents(write_phantom(tmp_path / str(k), seed=k // 2, **small)) for k in (0, 1, 2))
    assert one == again
    images = {path for path in one if path.suffix in (".dcm", ".png", ".gz", ".img", ".nrrd")}
    assert images
    assert not any(other.get(path) == one[path] for path in images)


@pytest.mark.slow
def test_a_subject_is_the_same_in_every_layout_and_company(written, tmp_path):
    official = pydicom.dcmread(written["official"] / "SCD_IMAGES_01/SCD0090201/CINESAX_300/IM-0003-0015.dcm")
    for path in ("challenge/challenge_validation/SC-HF-NI-2/IM-0024-0015.dcm", "arterys/final_data/dicoms/*/15.dcm"):
        copy = pydicom.dcmread(sorted(written["official"].parent.glob(path))[-1 if "*" not in path else 1])
        np.testing.assert_array_equal(copy.pixel_array, official.pixel_array)
    more = write_phantom(tmp_path / "more", **{**SMALL, "subjects": 2})
    assert (more / "SCD_IMAGES_01/SCD0090201/CINESAX_300/IM-0003-0015.dcm").read_bytes() == (
        written["official"] / "SCD_IMAGES_01/SCD0090201/CINESAX_300/IM-0003-0015.dcm"
    ).read_bytes()


def test_subjects_differ(written):
    hearts = [make_heart(index, 0, SQUARE, 6, 5) for index in range(8)]
    for quantity in ("radius", "wall", "ejection", "length", "septum", "right"):
        assert len({getattr(heart, quantity) for heart in hearts}) == 8
    others = [make_heart(0, 1, SQUARE, 6, 5), make_heart(1, 0, SQUARE, 6, 5)]
    assert len({heart.dice(1).random() for heart in (hearts[0], *others)}) == 3, "textures and noise, too"
    frames = [path.read_bytes() for path in written["official"].glob("SCD_IMAGES_01/*/CINESAX_300/IM-0003-0015.dcm")]
    assert len(set(frames)) == 4


# Sunnybrook


def test_official(written):
    folder = written["official"]
    assert (
        (folder / "scd_patientdata.csv").read_bytes().startswith(b"\xef\xbb\xbfPatientID,OriginalID,Gender,Age,Pathol")
    )
    with (folder / "scd_patientdata.csv").open(encoding="utf-8-sig") as file:
        table = {row["OriginalID"]: row["PatientID"] for row in csv.DictReader(file)}
    assert list(table) == ["SC-HF-I-901", "SC-HF-NI-902", "SC-HYP-903", "SC-N-904"]
    for subject, patient in table.items():
        images = folder / "SCD_IMAGES_01" / patient
        assert sorted(path.name for path in images.glob("CINESAX_300/*")) == [
            f"IM-0003-{n:04d}.dcm" for n in range(1, 31)
        ]
        assert sorted(path.name for path in images.glob("Localizers_1/*")) == [f"IM-0020-000{n}.dcm" for n in (1, 2, 3)]
        assert (folder / "SCD_ManualContours" / subject).is_dir()


@pytest.mark.parametrize("layout", ["official", "challenge"])
def test_expert_contours_are_the_truth(written, layout):
    with_papillaries = 0
    for (subject, phase), truth in truths(layout).items():
        (folder,) = written[layout].glob(f"S*/**/{subject}/contours-manual/IRCCI-expert")
        assert_contours_are(folder, "i", "endocardium", truth, ED if phase == "ED" else ES)
        if phase == "ED":
            assert_contours_are(folder, "o", "epicardium", truth, ED)
            if any(folder.glob("*p1*")):
                with_papillaries += 1
                assert_contours_are(folder, "p1", "papillary1", truth, ED)
                assert_contours_are(folder, "p2", "papillary2", truth, ED)
    assert with_papillaries == 2
    numbers = [
        int(path.name.split("-")[2]) for path in written[layout].rglob("*[op12]contour*") if "i" not in path.name[13]
    ]
    assert {number % SMALL["phases"] for number in numbers} == {0}, "epicardium and papillary muscles at ED only"


def test_headers_as_in_real_data(written):
    folder = next(written["official"].glob("SCD_IMAGES_01/*/CINESAX_300"))
    frames = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    assert [frame.InstanceNumber for frame in frames] == list(range(1, 31))
    normal = np.cross(frames[0].ImageOrientationPatient[:3], frames[0].ImageOrientationPatient[3:])
    depths = [round(float(normal @ np.array(frame.ImagePositionPatient, float)), 2) for frame in frames]
    slices = [depth for depth, _ in groupby(depths)]
    np.testing.assert_allclose(np.diff(slices), frames[0].SpacingBetweenSlices, atol=0.02)
    assert len(slices) == 6
    assert len({frame.SOPInstanceUID for frame in frames}) == 30
    localizer = pydicom.dcmread(next(folder.parent.glob("Localizers_1/*")))
    assert localizer.SeriesInstanceUID == frames[0].SeriesInstanceUID, "as in the wild"
    assert localizer.ImageOrientationPatient != frames[0].ImageOrientationPatient
    for frame in frames:
        assert frame.pixel_array.dtype == np.int16
        assert frame.pixel_array.shape == SQUARE
        assert frame.pixel_array.min() == 0
        assert 300 < frame.pixel_array.max() < 2700
        assert (frame.SeriesDescription, frame.StudyDescription) == ("", "PHANTOM")
        assert frame.PatientName == f"PHANTOM^{frame.PatientID}", "nobody takes it for a person"


def test_pixels_are_as_large_as_real_ones_where_the_image_allows():
    hearts = [make_heart(index, 0, (192, 192), 8, 10) for index in range(20)]
    assert all(1.21 <= heart.pixel <= 1.56 for heart in hearts)
    assert {heart.step for heart in hearts} == {8.0, 10.0}


def test_challenge(written):
    folder = written["challenge"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "Sunnybrook Cardiac MR Database ContoursPart1",
        "Sunnybrook Cardiac MR Database ContoursPart2",
        "Sunnybrook Cardiac MR Database ContoursPart3",
        "challenge_online",
        "challenge_training",
        "challenge_validation",
    ]
    part = folder / "Sunnybrook Cardiac MR Database ContoursPart3" / "TrainingDataContours"
    assert sorted(path.name for path in part.iterdir()) == ["SC-HF-I-01", "SC-N-04"], "padded"
    assert sorted(path.name for path in folder.glob("challenge_training/*")) == ["SC-HF-I-1", "SC-N-4"], "not padded"
    series = defaultdict(list)
    for path in sorted((folder / "challenge_training/SC-HF-I-1").iterdir()):
        series[path.name[:7]].append(pydicom.dcmread(path))
    assert {prefix: len(frames) for prefix, frames in series.items()} == {"IM-0003": 3, "IM-0004": 30, "IM-0005": 10}
    assert len({frame.SeriesInstanceUID for frames in series.values() for frame in frames}) == 1
    assert len({frame.SOPInstanceUID for frames in series.values() for frame in frames}) == 43
    whole, repeat = series["IM-0004"], series["IM-0005"]
    assert whole[0].ImageOrientationPatient == repeat[0].ImageOrientationPatient != series["IM-0003"][0]
    assert [frame.InstanceNumber for frame in repeat] == list(range(1, 11)), "numbers that the stack has, too"
    assert repeat[0].ImagePositionPatient == whole[15].ImagePositionPatient


def test_arterys(written):
    data = written["arterys"] / "final_data"
    assert (data / "link.csv").read_text(encoding="utf-8").splitlines()[:2] == [
        "patient_id,original_id",
        "SCD0000101,SC-HF-I-1",
    ]
    names = sorted((path.name for path in (data / "dicoms/SCD0000101").iterdir()), key=lambda name: int(name[:-4]))
    assert names == [f"{number}.dcm" for number in range(1, 31)]
    assert pydicom.dcmread(data / "dicoms/SCD0000101/17.dcm").InstanceNumber == 17
    for (subject, phase), truth in truths("arterys").items():
        contours = data / "contourfiles" / subject
        assert_contours_are(contours / "i-contours", "i", "endocardium", truth, ED if phase == "ED" else ES)
        if phase == "ED":
            assert_contours_are(contours / "o-contours", "o", "epicardium", truth, ED)
    assert all(path.name.startswith("IM-0001-") for path in data.rglob("*contour-manual.txt"))


def test_png(written):
    data = written["png"] / "Data"
    assert {path.parent.relative_to(data).as_posix() for path in data.rglob("*.png")} == {
        f"{part}/{kind}/Sunnybrook_Part{number}"
        for part, number in (("Train", 1), ("Train", 2), ("Test", 3))
        for kind in ("Images", "Labels")
    }
    expected = {
        f"{subject}-IM-0001-{(slice_ - 1) * 20 + (20 if phase == 'ED' else 8):04d}.dcm.png": mask
        for (subject, phase), truth in truths("png").items()
        for slice_, mask in slices_of(truth, "endocardium").items()
    }
    labels = {path.name: path for path in data.rglob("*.png") if "Labels" in path.parts}
    assert labels.keys() == expected.keys() == {path.name for path in data.rglob("*.png") if "Images" in path.parts}
    for name, path in labels.items():
        image = Image.open(str(path).replace("Labels", "Images"))
        label = Image.open(path)
        assert (image.mode, label.mode, image.size, label.size) == ("RGB", "RGB", SQUARE, SQUARE)
        assert np.ptp(np.asarray(image), axis=2).max() == 0, "grey"
        assert (np.asarray(image).min(), np.asarray(image).max()) == (0, 255)
        np.testing.assert_array_equal(np.asarray(label)[..., 0], np.where(expected[name], 255, 0))


# Right ventricle


@pytest.mark.parametrize(("layout", "suffix"), [("chla", ".nii.gz"), ("analyze", ".img")])
def test_chla_and_analyze(written, layout, suffix):
    folder = written[layout]
    counts = {}
    for (subject, phase), truth in truths(layout).items():
        image, label = (nib.load(folder / subject / f"{subject}_{phase}{kind}{suffix}") for kind in ("", "_rv"))
        assert image.get_data_dtype() == label.get_data_dtype() == np.uint8
        assert image.shape == label.shape == (*SQUARE, len(truth.slices))
        assert np.asarray(image.dataobj).max() == 255
        np.testing.assert_array_equal(np.asarray(label.dataobj), truth.masks["right"].swapaxes(0, 1))
        assert list(truth.slices) == sorted(truth.slices, reverse=True), "apex first"
        heart = make_heart(int(subject[-2:]) - 1, 0, SQUARE, 6, 5)
        np.testing.assert_allclose(image.header.get_zooms(), (heart.pixel, heart.pixel, heart.step), rtol=1e-6)
        np.testing.assert_array_equal(image.affine, label.affine)
        counts[subject, phase] = len(truth.slices)
        if layout == "chla":
            np.testing.assert_allclose(image.affine, np.diag([-heart.pixel, -heart.pixel, heart.step, 1]), rtol=1e-6)
            assert (image.header["qform_code"], image.header["sform_code"]) == (0, 2)
        else:
            assert (folder / subject / f"{subject}_{phase}.hdr").stat().st_size == 348
    assert any(counts[subject, "ED"] != counts[subject, "ES"] for subject, _ in counts)
    empty = truths(layout)["subject04", "ED"].masks["right"]
    assert not empty[..., 0].any()
    assert empty[..., 1:].any(axis=(0, 1)).all()


def test_slicer(written):
    """The voxels and sizes of ``chla``, read with ITK."""
    paths = sorted(written["chla"].rglob("*.nii.gz"))
    assert len(paths) == 16
    for path in paths:
        ending = ".mha" if "_rv" in path.name else ".nrrd"
        twin = SimpleITK.ReadImage(written["slicer"] / path.parent.name / path.name.replace(".nii.gz", ending))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(twin).T, nib.load(path).dataobj)
        np.testing.assert_allclose(twin.GetSpacing(), nib.load(path).header.get_zooms(), rtol=1e-6)


def test_chla_index(written):
    with (written["chla"] / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == "subject,phase,disease,split,slices,rv_slices,dx,dy,dz,rv_px"
    for row in rows:
        mask = truths("chla")[f"subject{int(row['subject']):02d}", row["phase"]].masks["right"]
        used = mask.any(axis=(0, 1)).sum()
        assert [int(row[key]) for key in ("slices", "rv_slices", "rv_px")] == [mask.shape[2], used, mask.sum()]


def labels_of(truth, right, muscle, left):
    labels = np.where(truth.masks["right"], right, 0)
    labels[truth.masks["epicardium"]] = muscle
    labels[truth.masks["endocardium"]] = left
    return labels.swapaxes(0, 1)


def assert_placed_alike(first, *others):
    """All lie where the DICOM files of the same subject do: not axes but an oblique plane."""
    for other in others:
        np.testing.assert_array_equal(other.affine, first.affine)
        assert other.shape[:3] == first.shape[:3] == (*LANDSCAPE[::-1], 6)
    assert np.abs(first.affine[:3, :3]).min() > 1e-3
    assert np.linalg.det(first.affine[:3, :3]) > 0
    np.testing.assert_allclose(first.get_qform(), first.get_sform(), atol=1e-3)


def assert_sform_is_not_set(cine, frame, label):
    """As in the real files: unit steps with code 2, no qform, sizes in pixdim; the label's are rounded."""
    for volume in (cine, frame, label):
        assert (int(volume.header["sform_code"]), int(volume.header["qform_code"])) == (2, 0)
        np.testing.assert_array_equal(volume.affine, np.diag([-1, -1, 1, 1]))
        assert volume.shape[:3] == (*LANDSCAPE[::-1], 6)
    zooms, rounded = (np.array(volume.header.get_zooms()[:3]) for volume in (frame, label))
    np.testing.assert_array_equal(cine.header.get_zooms()[:3], zooms)
    assert zooms.min() > 1.1
    assert 0 < np.abs(zooms - rounded).max() < 1e-3


def test_acdc(written):
    for subject in sorted({subject for subject, _ in truths("acdc")}):
        folder = written["acdc"] / subject
        lines = (folder / "Info.cfg").read_text().splitlines()
        info = dict(line.split(": ") for line in lines)
        assert [line.split(":")[0] for line in lines] == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        assert (info["ED"], info["ES"], info["NbFrame"]) == ("1", "3", "5")
        cine = nib.load(folder / f"{subject}_4d.nii.gz")
        assert cine.shape == (96, 81, 6, 5)
        assert cine.get_data_dtype() == np.int16
        for phase in ("ED", "ES"):
            number = int(info[phase])
            frame, label = (nib.load(folder / f"{subject}_frame{number:02d}{kind}.nii.gz") for kind in ("", "_gt"))
            assert_sform_is_not_set(cine, frame, label)
            np.testing.assert_array_equal(frame.dataobj, cine.dataobj[..., number - 1])
            np.testing.assert_array_equal(label.dataobj, labels_of(truths("acdc")[subject, phase], 1, 2, 3))
    assert {path.name for path in folder.iterdir()} == {
        "Info.cfg",
        "patient004_4d.nii.gz",
        *(f"patient004_frame{n}{kind}.nii.gz" for n in ("01", "03") for kind in ("", "_gt")),
    }


def test_mnms(written):
    with (written["mnms"] / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == ",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight"
    known = truths("mnms")
    assert {row["External code"] for row in rows} == {subject for subject, _ in known}
    for row in rows:
        code = row["External code"]
        (folder,) = written["mnms"].rglob(code)
        image, label = (nib.load(folder / f"{code}_sa{kind}.nii.gz") for kind in ("", "_gt"))
        assert image.shape == label.shape == (96, 81, 6, 5)
        assert_placed_alike(image, label)
        values = np.asarray(label.dataobj)
        assert [frame for frame in range(5) if values[..., frame].any()] == [int(row["ED"]), int(row["ES"])] == [0, 2]
        for phase in ("ED", "ES"):
            np.testing.assert_array_equal(values[..., int(row[phase])], labels_of(known[code, phase], 3, 2, 1))


def test_rvsc(written):
    for (short, phase), truth in truths("rvsc").items():
        folder = written["rvsc"] / f"patient{short[1:]}"
        contours = folder / f"{short}contours-manual"
        for kind, structure in (("i", "right"), ("o", "right_outer")):
            assert_contours_are(contours, kind, structure, truth, 0 if phase == "ED" else ES, LANDSCAPE)
        listed = (folder / f"{short}list.txt").read_bytes().decode("ascii").split("\r\n")[:-1]
        assert listed == [f".\\{folder.name}\\{contours.name}\\{path.name}" for path in sorted(contours.iterdir())]
        assert all("icontour" in name for name in listed[::2])
        assert all("ocontour" in name for name in listed[1::2])
        frames = [pydicom.dcmread(path) for path in sorted((folder / f"{short}dicom").iterdir())]
        assert [path.name for path in sorted((folder / f"{short}dicom").iterdir())][::29] == [
            f"{short}-0000.dcm",
            f"{short}-0029.dcm",
        ]
        assert frames[0].pixel_array.shape == LANDSCAPE
        assert frames[0].CardiacNumberOfImages == 5
        assert frames[0].ImagePositionPatient == frames[4].ImagePositionPatient != frames[5].ImagePositionPatient


# Anatomy and physiology


@pytest.mark.parametrize(
    "numbers",
    [
        {"slices": 4, "phases": 2, "size": 96},
        {"slices": 6, "phases": 5, "size": 96},
        {"slices": 12, "phases": 20, "size": 192},
    ],
)
def test_anatomy(numbers):
    known = list(phantom_truth(layout="acdc", subjects=12, seed=5, **numbers))
    for truth in known:
        masks = truth.masks
        assert not (masks["endocardium"] & ~masks["epicardium"]).any()
        assert not (masks["right"] & ~masks["right_outer"]).any()
        assert not (masks["right"] & masks["epicardium"]).any(), "the ventricles keep apart"
        for name in ("papillary1", "papillary2"):
            assert not (masks[name] & ~masks["endocardium"]).any()
        for name, mask in masks.items():
            assert not mask[[0, -1]].any(), name
            assert not mask[:, [0, -1]].any(), name
            parts = [ndimage.label(mask[..., k], np.ones((3, 3)))[1] for k in range(mask.shape[2])]
            assert max(parts) <= 1, name
        areas = masks["endocardium"].sum(axis=(0, 1))
        assert areas[0] == areas[-1] == 0
        assert (np.diff(areas[areas > 0]) <= 0).all(), "the cavity tapers to the apex"
        assert areas.any()
        assert masks["right"].any()
    for ed, es in zip(known[::2], known[1::2], strict=True):
        for name in ("endocardium", "right"):
            assert not (es.masks[name].sum(axis=(0, 1)) > ed.masks[name].sum(axis=(0, 1))).any()


def test_ejection_fractions_are_those_of_the_pathologies():
    fractions, sizes, lost = defaultdict(list), [], 0
    known = list(phantom_truth(subjects=24, slices=12, phases=10, size=192, seed=1))
    for ed, es in zip(known[::2], known[1::2], strict=True):
        fractions[ed.subject.rsplit("-", 1)[0]].append(
            1 - es.masks["endocardium"].sum() / ed.masks["endocardium"].sum()
        )
        lost += len(ed.slices) - len(es.slices)
        assert es.masks["right"].sum() < 0.7 * ed.masks["right"].sum()
        sizes.append(ed.masks["right"].sum() / ed.masks["endocardium"].sum())
    assert 0.5 < np.mean(sizes) < 1.2, "the ventricles hold about as much"
    assert lost > 24, "the mitral plane descends: the base is lost at end systole"
    for group, mean in {"SC-HF-I": 0.25, "SC-HF-NI": 0.30, "SC-HYP": 0.64, "SC-N": 0.62}.items():  # of the real ones
        assert np.mean(fractions[group]) == pytest.approx(mean, abs=0.05)
    failing = max(fractions["SC-HF-I"] + fractions["SC-HF-NI"])
    assert failing < min(fractions["SC-HYP"] + fractions["SC-N"])


def test_the_wall_thickens_and_keeps_its_area():
    heart = make_heart(3, 0, (192, 192), 8, 10)
    for slice_ in range(2, 6):
        sections = [heart.section(slice_, phase) for phase in range(1, 11)]
        thickest = max(sections, key=lambda section: section.outer - section.inner)
        assert thickest is sections[end_systole(10) - 1]
        assert thickest.outer - thickest.inner > 1.2 * (sections[-1].outer - sections[-1].inner)
    for depth in (0.2, 0.5):  # at one place of the muscle, not of the scanner
        areas = []
        for phase in (4, 10):
            cuts = [heart.section(slice_, phase) for slice_ in range(1, 7)]
            areas.append(np.interp(depth, [c.depth for c in cuts], [c.outer**2 - c.inner**2 for c in cuts]))
        assert areas[0] == pytest.approx(areas[1], rel=0.05)


@pytest.mark.parametrize("phases", [2, 3, 10, 20])
def test_cycle(phases):
    course = [contraction(phase, phases) for phase in range(1, phases + 1)]
    assert course[-1] == pytest.approx(0)
    assert course[end_systole(phases) - 1] == pytest.approx(1)
    assert max(course) == pytest.approx(1)


# Images


def test_blood_is_bright_muscle_grey_and_lung_dark():
    """Ratios to the median of blood in real frames: muscle 0.26 (5 to 95 %: 0.11 to 0.6), deviation of blood 0.23."""
    for index in range(4):
        heart = make_heart(index, 0, (192, 192), 8, 10)
        image = render(heart, 3, [10])[10].astype(float)
        masks = {name: mask[..., 0] for name, mask in heart.masks([3], 10).items()}
        blood = image[ndimage.binary_erosion(masks["endocardium"], iterations=3)]
        muscle = ndimage.binary_erosion(masks["epicardium"] & ~masks["endocardium"], iterations=2)
        papillary = image[ndimage.binary_erosion(masks["papillary1"])]
        assert 0.2 < np.median(image[muscle]) / np.median(blood) < 0.45
        assert 0.1 < blood.std() / np.median(blood) < 0.4
        assert np.median(papillary) < 0.6 * np.median(blood)
        assert np.median(image[ndimage.binary_erosion(masks["right"], iterations=3)]) > 0.7 * np.median(blood)


def test_contrast_lies_where_the_labels_say():
    """Blood inside, muscle outside: the outline fits best where it is, not a pixel or two aside."""
    shifts = []
    for index in range(6):
        heart = make_heart(index, 0, (192, 192), 8, 10)
        image = render(heart, 1, [10])[10].astype(float)
        masks = {name: mask[..., 0] for name, mask in heart.masks([1], 10).items()}
        right, wall = masks["right"], masks["right_outer"] & ~masks["right"]
        assert np.median(image[wall]) < 0.7 * np.median(image[right])
        mask = masks["endocardium"]
        rim = 1.0 * (mask & ~ndimage.binary_erosion(mask, iterations=3))
        rim -= ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask)
        grid = [(down, right) for down in range(-3, 4) for right in range(-3, 4)]
        shifts.append(max(grid, key=lambda shift: (np.roll(rim, shift, (0, 1)) * image).sum()))
    assert np.abs(np.mean(shifts, axis=0)).max() < 1, shifts


def test_noise_is_rician():
    """Rayleigh where there is no signal, nearly Gaussian and unbiased where there is much."""
    rng, measured = np.random.default_rng(0), _measured((256, 256))
    air = _scan(np.zeros((256, 256), np.float32), measured, 0.05, rng)
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.02)
    blood = _scan(np.ones((256, 256), np.float32), measured, 0.05, rng)
    assert blood.mean() == pytest.approx(1, abs=0.005)
    assert 1.45 < blood.std() / air.std() < 1.6, "1 / sqrt(2 - pi / 2)"
    assert blood.std() == pytest.approx(0.05 * np.sqrt(np.mean(measured**2)), rel=0.03)
    assert np.corrcoef(air[:, 1:].ravel(), air[:, :-1].ravel())[0, 1] > 0.03, "interpolated, as real frames are"


def test_frames_move_with_the_heart_alone():
    heart = make_heart(3, 0, (192, 192), 8, 10)
    frames = render(heart, 3, [4, 10])
    change = np.abs(frames[4].astype(float) - frames[10])
    x, y = heart.centre.astype(int)
    corner = np.s_[: y - 90, :] if y > 100 else np.s_[y + 70 :, :]
    assert change[y - 30 : y + 30, x - 30 : x + 30].mean() > 3 * change[corner].mean()
    np.testing.assert_array_equal(render(heart, 3, [4])[4], frames[4])


# Mistakes


@pytest.mark.parametrize(
    "wrong",
    [
        {"subjects": 0},
        {"subjects": 100_000},
        {"slices": 3},
        {"phases": 1},
        {"size": 64},
        {"seed": -1},
    ],
)
def test_numbers_out_of_range(tmp_path, wrong):
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} .*: it must be a whole number"):
        write_phantom(tmp_path / "out", **wrong)
    with pytest.raises(UserError, match=f"^{next(iter(wrong))} .*: it must be a whole number"):
        phantom_truth(**wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_subject_has_a_name_of_its_own(layout):
    heart = make_heart(0, 3, SQUARE, 4, 2)
    indices = [*range(1100), 10_000, 33_333, 99_998]
    names = {WRITERS[layout].name(replace(heart, index=index)) for index in indices}
    assert len(names) == len(indices)


def test_names_of_a_hundred_subjects_are_those_that_they_always_had():
    heart = make_heart(0, 0, SQUARE, 4, 2)
    names = [WRITERS["mnms"].name(replace(heart, index=index)) for index in (0, 57, 98)]
    assert names == ["W9D1P0", "A9B2P7", "I0N3P8"]


def test_a_code_that_is_drawn_twice_is_given_once():
    """With this seed the subjects 2 and 32 draw the same."""
    names = [WRITERS["mnms"].name(make_heart(index, 197, SQUARE, 4, 2)) for index in (2, 32)]
    assert names[0] != names[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_99_subjects_are_read(layout, tmp_path):
    form = WRITERS[layout]
    shape = LANDSCAPE if form.landscape else SQUARE
    hearts = [make_heart(index, 0, shape, 6, 5) for index in (98, 99, 100, 99_998)]
    form.write(tmp_path, hearts)
    read = read_sunnybrook(tmp_path) if layout in ("official", "png") else read_folders([tmp_path])
    assert {stack.subject for stack in read.stacks} == {form.name(heart) for heart in hearts}


def test_every_layout_has_a_writer():
    assert list(LAYOUTS) == list(WRITERS)


def test_unknown_layout(tmp_path):
    with pytest.raises(UserError, match="layout dicom: there is no such layout. Choose one of official, png"):
        write_phantom(tmp_path / "out", layout="dicom")
    with pytest.raises(UserError, match="Choose one of official"):
        phantom_truth(layout="")


def test_a_folder_in_use_is_refused_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        write_phantom(tmp_path)

    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contoured, "write_contours", disk_full)
    with pytest.raises(UserError, match="No space left"):
        write_phantom(tmp_path / "new", subjects=1, slices=4, phases=2, size=96)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("layout", ["png", "chla"])
def test_the_command_says_what_comes_next(tmp_path, capsys, layout):
    """And what it says reads the phantoms."""
    folder = tmp_path / "my hearts"
    numbers = ["--subjects", "3", "--slices", "4", "--phases", "2", "--size", "96"]
    assert main(["phantom", "--output", str(folder), "--layout", layout, *numbers]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}: complete. Next: monai-iln prepare ")
    command = shlex.split(said.partition("Next: monai-iln ")[2])
    assert command[-1] == "DIR"
    assert main([*command[:-1], str(tmp_path / "prepared")]) == 0
