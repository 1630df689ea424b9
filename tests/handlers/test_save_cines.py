import csv
import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from engines import AFFINE, disc, evaluate
from matplotlib.figure import Figure
from matplotlib.text import Text
from monai.data import MetaTensor
from PIL import Image, ImageDraw

from monai_iln.cine.curves import DOUBTS
from monai_iln.cine.files import read_tables
from monai_iln.cine.pictures import find_limits, scale_grey
from monai_iln.handlers import SaveCines, SaveDoubts, SaveOverlay
from monai_iln.run_files import PHASES, SLICES, SUBJECTS
from monai_iln.transforms import DoubtSlicesd

VOXEL_ML = 2 * 1.5 * 8 / 1000
RADII = (15, 13, 11, 9, 12, 14)
EMPTY = torch.zeros(64, 64)


def phases(name="P1", radii=RADII, first=1, slices=8, step=40.0, inner=0, **item):
    """Items and outputs of all phases of a cine: a cylinder that beats, and one within it of a second class."""
    times = [step * phase for phase in range(len(radii))]
    made = []
    for number, radius in enumerate(radii, start=1):
        layers = [EMPTY] * first + [disc(radius) + (disc(inner) if inner else 0)] * (slices - 1 - first) + [EMPTY]
        mask = torch.stack(layers, dim=-1)[None]
        image = MetaTensor(torch.rand(mask.shape) + mask, affine=AFFINE)
        image.meta["filename_or_obj"] = f"/data/{name}/cine.nii.gz"
        output = {"image": image, "pred": MetaTensor(mask, affine=AFFINE)}
        made.append(({"cine_phase": number, "cine_times": times, **item}, output))
    return made


def pixels(radius):
    return int(disc(radius).sum())


def test_a_mask_of_all_phases_and_its_numbers(tmp_path, capsys):
    saver = SaveCines(str(tmp_path / "out"), ["left ventricle"], data_root_dir="/data")
    evaluate(saver, *phases())
    mask = nib.load(tmp_path / "out" / "P1" / "cine_pred.nii.gz")
    assert mask.shape == (64, 64, 8, 6)
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
    assert (mask.header.get_zooms()[3], mask.header.get_xyzt_units()) == (40, ("mm", "msec"))
    assert mask.get_data_dtype() == np.uint8
    areas = np.asanyarray(mask.dataobj).sum(axis=(0, 1))
    np.testing.assert_array_equal(areas[1:7], [[pixels(radius) for radius in RADII]] * 6)
    rows = PHASES.read_rows(tmp_path / "out")
    expected = [6 * pixels(radius) * VOXEL_ML for radius in RADII]
    np.testing.assert_allclose([float(row["volume_ml"]) for row in rows], expected, atol=5e-4)
    assert [row["name"] for row in rows] == ["ED", "", "", "ES", "", ""]
    assert [row["time_ms"] for row in rows] == ["0.0", "40.0", "80.0", "120.0", "160.0", "200.0"]
    (subject,) = SUBJECTS.read_rows(tmp_path / "out")
    assert (subject["ed_phase"], subject["es_phase"], subject["doubts"]) == ("1", "4", "")
    fraction = 100 * (1 - pixels(9) / pixels(15))
    assert float(subject["ef_percent"]) == pytest.approx(fraction, abs=1e-3)
    assert subject["mask"] == "P1/cine_pred.nii.gz"
    assert f"cine: left ventricle: EDV {expected[0]:.1f} ml (phase 1)" in capsys.readouterr().out


def test_what_is_doubted_stands_beside_the_number(tmp_path, capsys):
    evaluate(SaveCines(str(tmp_path)), *phases(first=0))
    assert [row["doubts"] for row in PHASES.read_rows(tmp_path)] == ["edge"] * 6
    assert SUBJECTS.read_rows(tmp_path)[0]["doubts"] == "edge"
    assert "%; DOUBTED: edge\n" in capsys.readouterr().out
    evaluate(SaveCines(str(tmp_path)), *phases(first=0, slice_range="1-"))
    assert SUBJECTS.read_rows(tmp_path)[0]["doubts"] == ""
    evaluate(SaveCines(str(tmp_path)), *phases(first=0, cine_doubts="shifted axes"))
    assert SUBJECTS.read_rows(tmp_path)[0]["doubts"] == "edge shifted axes"


def test_several_structures_are_measured_one_by_one(tmp_path):
    evaluate(SaveCines(str(tmp_path), ["wall"]), *phases(inner=5))
    rows = SUBJECTS.read_rows(tmp_path)
    assert [row["structure"] for row in rows] == ["wall", "structure 2"]
    assert float(rows[1]["edv_ml"]) == pytest.approx(6 * pixels(5) * VOXEL_ML, abs=5e-4)
    assert float(rows[0]["edv_ml"]) == pytest.approx(6 * (pixels(15) - pixels(5)) * VOXEL_ML, abs=5e-4)


def test_cines_and_stacks_in_one_run(tmp_path):
    (item, stack), *_ = phases("P3")
    del item["cine_phase"]
    saver = SaveCines(str(tmp_path), data_root_dir="/data")
    evaluate(saver, *phases("P1"), (item, stack), *phases("P2", radii=(9, 15)))
    cines = read_tables(tmp_path)
    assert list(cines) == ["/data/P1/cine.nii.gz", "/data/P2/cine.nii.gz"]
    assert [len(cine.curves[0].volumes_ml) for cine in cines.values()] == [6, 2]
    assert not (tmp_path / "P3").exists()


def test_a_failure_leaves_the_numbers_of_the_cines_before(tmp_path):
    (item, broken), *_ = phases("P3")
    del broken["image"]
    with pytest.raises(KeyError):
        evaluate(SaveCines(str(tmp_path), data_root_dir="/data"), *phases("P1"), *phases("P2"), (item, broken))
    cines = read_tables(tmp_path)
    assert list(cines) == ["/data/P1/cine.nii.gz", "/data/P2/cine.nii.gz"]
    assert [len(cine.curves[0].volumes_ml) for cine in cines.values()] == [6, 6]


def test_another_run_has_its_own_cines(tmp_path):
    saver = SaveCines(str(tmp_path), data_root_dir="/data")
    evaluate(saver, *phases("P1", radii=(9, 15)))
    evaluate(saver, *phases("P2", radii=(9, 15)))
    assert list(read_tables(tmp_path)) == ["/data/P2/cine.nii.gz"]


def test_without_a_cine_nothing_is_written(tmp_path):
    (item, stack), *_ = phases()
    del item["cine_phase"]
    evaluate(SaveCines(str(tmp_path / "out")), (item, stack))
    assert not (tmp_path / "out").exists()


def test_unknown_times(tmp_path):
    evaluate(SaveCines(str(tmp_path)), *phases(step=float("nan")))
    assert {row["time_ms"] for row in PHASES.read_rows(tmp_path)} == {""}
    mask = nib.load(tmp_path / "cine_pred.nii.gz")
    assert mask.header.get_xyzt_units() == ("mm", "unknown")
    (cine,) = read_tables(tmp_path).values()
    assert np.isnan(cine.curves[0].times_ms).all()


def test_tables_are_read_as_they_were_written(tmp_path):
    evaluate(SaveCines(str(tmp_path), ["wall"]), *phases(inner=5, first=0))
    (cine,) = read_tables(tmp_path).values()
    rows = SUBJECTS.read_rows(tmp_path)
    assert [f"{curve.ejection_fraction:.2f}" for curve in cine.curves] == [
        f"{float(row['ef_percent'] or 'nan'):.2f}" for row in rows
    ]
    assert [curve.doubts for curve in cine.curves] == [("edge",), ("edge",)]


def test_a_film_with_a_contour(tmp_path):
    evaluate(SaveCines(str(tmp_path)), *phases())
    with Image.open(tmp_path / "cine_cine.gif") as film:
        assert film.n_frames == 6
        reach = []
        for number in range(6):
            film.seek(number)
            assert film.info["duration"] == 40
            frame = np.asarray(film.convert("RGB")).astype(int)
            tile = frame[:96, 96:192]  # the second slice
            orange = (abs(tile - [255, 140, 26]) < 8).all(axis=-1)
            reach.append(int(np.ptp(orange.nonzero()[0])))
    radii = [size / 3 for size in reach]  # 1.5 pixels a pixel
    np.testing.assert_allclose(radii, RADII, atol=0.8)


@pytest.mark.parametrize(("step", "told"), [(37.0, 40), (44.0, 40), (7.0, 20), (float("nan"), 50)])
def test_a_film_lasts_as_long_as_the_beat(tmp_path, step, told):
    evaluate(SaveCines(str(tmp_path)), *phases(step=step))
    with Image.open(tmp_path / "cine_cine.gif") as film:
        assert film.info["duration"] == told


def test_a_film_tells_phases_and_volumes(tmp_path, monkeypatch):
    written = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, **options: written.append(text) or draw(self, place, text),
    )
    evaluate(SaveCines(str(tmp_path), ["heart"]), *phases(first=0))
    volumes = [7 * pixels(radius) * VOXEL_ML for radius in RADII]
    names = ["ED", "", "", "ES", "", ""]
    expected = []
    for number, (volume, name) in enumerate(zip(volumes, names, strict=True), start=1):
        expected += [*map(str, range(1, 9)), f"phase {number} of 6", f"heart: {volume:.0f} ml {name}"]
        expected.append("heart DOUBTED: edge")
    assert written == expected


def test_a_picture_of_curves(tmp_path):
    evaluate(SaveCines(str(tmp_path)), *phases())
    with Image.open(tmp_path / "cine_cine.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (abs(colours.astype(int) - [255, 140, 26]) < 12).all(axis=1).sum() > 500


@pytest.fixture
def told(monkeypatch):
    """The texts of the pictures of curves."""
    texts, save = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        save(figure, *arguments, **options)
        texts.extend(text.get_text() for text in figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", savefig)
    return texts


def test_of_several_structures_the_picture_tells_whose_phases_it_shows(tmp_path, told):
    evaluate(SaveCines(str(tmp_path)), *phases(radii=(9, 15, 12)))
    assert {"ED, phase 2", "ES, phase 1", "slice"} <= {*told}
    evaluate(SaveCines(str(tmp_path), ["left", "right"]), *phases(radii=(9, 15, 12), inner=3))
    assert "slice, at ED and ES of the left" in told


def test_a_picture_tells_what_its_doubts_mean(tmp_path, told):
    evaluate(SaveCines(str(tmp_path)), *phases(first=0))
    (line,) = (text for text in told if "DOUBTED" in text)
    assert line.endswith(f"EF 64 %\nDOUBTED, edge: {DOUBTS['edge']}")


def test_phases_of_unknown_times_are_whole_numbers(tmp_path, told):
    evaluate(SaveCines(str(tmp_path)), *phases(step=float("nan"), radii=(9, 15, 12)))
    assert "phase" in told
    assert not [text for text in told if text.startswith(("1.", "2."))]


def test_few_slices_fill_no_page(tmp_path):
    evaluate(SaveCines(str(tmp_path)), *phases(slices=3))
    with Image.open(tmp_path / "cine_cine.png") as picture:
        assert picture.height < picture.width


@pytest.mark.parametrize("slices", [3, 12, 30, 60])
def test_no_words_beside_the_slices_touch(tmp_path, monkeypatch, slices):
    boxes, save = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        save(figure, *arguments, **options)
        figure.draw_without_rendering()  # in the resolution that boxes are told in
        below = figure.axes[1]
        for axis in (below.xaxis, below.yaxis):
            boxes.append([label.get_window_extent() for label in axis.get_ticklabels()])

    monkeypatch.setattr(Figure, "savefig", savefig)
    evaluate(SaveCines(str(tmp_path)), *phases(radii=(9, 15), slices=slices))
    numbers, names = boxes
    assert len(numbers) == slices
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(numbers))
    assert names[0].y0 > names[1].y1, "ED stands above ES"


def test_more_structures_than_colours(tmp_path):
    """Colours come again, and none is left undrawn."""
    items = phases(radii=(9, 15))
    for _, output in items:
        for value in range(2, 7):
            output["pred"][0, value * 8, :8, 2:5] = value
    evaluate(SaveCines(str(tmp_path)), *items)
    assert len(SUBJECTS.read_rows(tmp_path)) == 6
    with Image.open(tmp_path / "cine_cine.gif") as film:
        film.seek(1)
        colours = np.asarray(film.convert("RGB")).reshape(-1, 3)
    assert (colours == [53, 167, 255]).all(axis=1).sum() > 60, "that of the second and the sixth"


def test_names_that_begin_no_formula(tmp_path):
    """Matplotlib takes what stands between two dollars for one, and fails on most."""
    evaluate(SaveCines(str(tmp_path), [r"$\left$"]), *phases(r"P1 $\bad$"))
    evaluate(SaveCines(str(tmp_path), [r"$\left$", r"$\right$"]), *phases(inner=3))
    items = phases()
    for _, output in items:
        output["image"].meta["filename_or_obj"] = r"/data/P1 $\bad$.nii.gz"
    evaluate(SaveCines(str(tmp_path)), *items)
    assert (tmp_path / r"P1 $\bad$_cine.png").stat().st_size > 10_000


def doubted(*radii):
    items = []
    for item, output in phases(radii=radii, first=0):
        logits = torch.cat([10 - 20 * output["pred"], 20 * output["pred"] - 10])
        items.append((item, DoubtSlicesd("pred")({**output, "logits": logits})))
    return items


def test_doubted_slices_tell_their_phase(tmp_path):
    items = doubted(9, 15, 12)
    evaluate(SaveDoubts(str(tmp_path)), *items)
    rows = SLICES.read_rows(tmp_path)
    assert [row["phase"] for row in rows] == ["1"] * 8 + ["2"] * 8 + ["3"] * 8
    assert [(row["phase"], row["slice"]) for row in rows if row["doubts"]] == [("1", "1"), ("2", "1"), ("3", "1")]
    evaluate(SaveOverlay(str(tmp_path / "overlay.png")), *items)
    with Image.open(tmp_path / "overlay.png") as sheet:
        assert sheet.width < 1.5 * 3 * 156 + 300, "the three that are doubted, not all 24"
        assert sheet.height < 2 * 156 + 80


def test_a_cine_without_doubts_has_no_overlay(tmp_path):
    items = [(item, {**output, "doubts": [{"doubts": ""}] * 8}) for item, output in phases()]
    evaluate(SaveOverlay(str(tmp_path / "overlay.png")), *items)
    assert not (tmp_path / "overlay.png").exists()
    evaluate(SaveOverlay(str(tmp_path / "overlay.png")), *doubted(9, 15))
    assert (tmp_path / "overlay.png").exists()
    evaluate(SaveOverlay(str(tmp_path / "overlay.png")), *items)
    assert not (tmp_path / "overlay.png").exists(), "that of another cine"


def test_names_that_a_spreadsheet_would_run(tmp_path):
    evaluate(SaveCines(str(tmp_path), ["=1+1"]), *phases())
    with (tmp_path / "subjects.csv").open() as file:
        assert next(csv.DictReader(file))["structure"] == "'=1+1"


def test_grey_values_lie_between_two_percentiles():
    """Of the first phase, whatever the scanner counts in."""
    assert find_limits(np.arange(101.0) * 30) == (30, 2970)
    assert scale_grey(np.array([0, 30, 1500, 2970, 3000]), (30, 2970)).tolist() == [0, 0, 127, 255, 255]
