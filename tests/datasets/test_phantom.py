import csv
from itertools import groupby

import numpy as np
import pydicom
import pytest

from monai_iln.datasets import phantom
from monai_iln.datasets.contours import rasterize, read_contour
from monai_iln.datasets.phantom import contraction, end_systole, write_phantom
from monai_iln.errors import UserError


def test_the_seed_decides_everything(tmp_path):
    small = {"subjects": 1, "slices": 4, "phases": 2, "size": 96}
    one, again, other = (write_phantom(tmp_path / name, **small, seed=s) for name, s in (("a", 1), ("b", 1), ("c", 2)))
    files = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
    assert len(files) == 8 + 3 + 2 + 2 + 2 + 1
    assert [path.relative_to(again) for path in sorted(again.rglob("*")) if path.is_file()] == files
    assert all((one / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert not all(
        (other / file).exists() and (one / file).read_bytes() == (other / file).read_bytes() for file in files
    )


def test_layout(official):
    with (official / "scd_patientdata.csv").open(encoding="utf-8-sig") as file:
        table = list(csv.DictReader(file))
    assert [row["OriginalID"] for row in table][:4] == ["SC-HF-I-901", "SC-HF-NI-902", "SC-HYP-903", "SC-N-904"]
    for row in table:
        images = official / "SCD_IMAGES_01" / row["PatientID"]
        assert len(list((images / "CINESAX_300").glob("IM-0003-*.dcm"))) == 6 * 4
        assert len(list((images / "Localizers_1").glob("*.dcm"))) == 3
        assert (official / "SCD_ManualContours" / row["OriginalID"]).is_dir()


def test_headers_as_in_real_data(official):
    folder = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
    frames = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    assert [frame.InstanceNumber for frame in frames] == list(range(1, 25))
    normal = np.cross(frames[0].ImageOrientationPatient[:3], frames[0].ImageOrientationPatient[3:])
    depths = [round(float(normal @ np.array(frame.ImagePositionPatient, float)), 2) for frame in frames]
    slices = [depth for depth, _ in groupby(depths)]
    np.testing.assert_allclose(np.diff(slices), frames[0].SpacingBetweenSlices, atol=0.02)
    assert len(slices) == 6
    for frame in frames:
        assert frame.pixel_array.dtype == np.int16
        assert frame.pixel_array.min() == 0
        assert 500 < frame.pixel_array.max() < 3000
        assert frame.SeriesDescription == ""
        assert frame.StudyDescription == "PHANTOM"


def test_contours_lie_on_the_half_pixel_grid_and_outline_the_pool(official):
    for path in official.glob("SCD_ManualContours/*/*/*/*icontour*"):
        points = read_contour(path)
        np.testing.assert_array_equal(2 * points, np.round(2 * points))
    for path in official.glob("SCD_ManualContours/*/*/*/*ocontour*"):
        inner = rasterize(read_contour(path.with_name(path.name.replace("ocontour", "icontour"))), (96, 96))
        outer = rasterize(read_contour(path), (96, 96))
        assert not (inner & ~outer).any()
        assert outer.sum() > 1.2 * inner.sum()


def test_contour_and_image_agree():
    """A mask is the analytic pool: rounding to the half-pixel grid and rasterizing cost little."""
    subject = phantom._make_subject(0, 192, np.random.default_rng(0))
    inner, _ = phantom._radii(subject, 2, 8, 10, 10)
    rows, columns = np.mgrid[:192, :192]
    down, right = rows - subject.centre[0], columns - subject.centre[1]
    truth = np.hypot(down, right) <= phantom._outline(subject, inner, np.arctan2(down, right))
    mask = rasterize(phantom._polygon(subject, inner), (192, 192))
    assert 2 * (truth & (mask > 0)).sum() / (truth.sum() + mask.sum()) > 0.97


def test_physiology(stacks):
    fractions = {}
    for ed, es in zip(stacks[::2], stacks[1::2], strict=True):
        fractions[ed.subject] = 1 - es.label.sum() / ed.label.sum()
        area = ed.label.sum(axis=(0, 1))
        assert area[-1] < 0.5 * area[0], "the cavity tapers to the apex"
    assert all(0.1 < fraction < 0.9 for fraction in fractions.values())
    failing = [fraction for subject, fraction in fractions.items() if "-HF-" in subject]
    assert max(failing) < min(fraction for subject, fraction in fractions.items() if "-HF-" not in subject)


@pytest.mark.parametrize("phases", [2, 3, 10, 20])
def test_cycle(phases):
    course = [contraction(phase, phases) for phase in range(1, phases + 1)]
    assert course[-1] == pytest.approx(0)
    assert course[end_systole(phases) - 1] == pytest.approx(1)
    assert max(course) == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong", [{"subjects": 0}, {"subjects": 100}, {"slices": 3}, {"phases": 1}, {"size": 64}, {"seed": -1}]
)
def test_numbers_out_of_range(tmp_path, wrong):
    with pytest.raises(UserError, match="Choose numbers in these ranges"):
        write_phantom(tmp_path / "out", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        write_phantom(tmp_path)

    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(phantom, "_write_contours", disk_full)
    with pytest.raises(UserError, match="No space left"):
        write_phantom(tmp_path / "new", subjects=1, slices=4, phases=2, size=96)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
