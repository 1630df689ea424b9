"""The tables of several bundles joined, without their networks."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_iln.cine import segment
from monai_iln.cine.curves import measure_curve
from monai_iln.cine.files import MeasuredCine, read_tables, write_tables
from monai_iln.errors import UserError

TIMES = (0.0, 40.0, 80.0)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measure one cine by bundles, of which each marks structures in so many rows of each phase."""
    cine = np.random.default_rng(0).integers(0, 99, (32, 32, 8, 3)).astype(np.int16)
    affine = np.diag([1.5, 1.5, 8.0, 1.0])
    nib.save(nib.Nifti1Image(cine, affine), tmp_path / "P1.nii")

    def measure(slices=None, given=None, **bundles):
        given = [] if given is None else given

        def infer(bundle, dataset_dir, output_dir, slices=None):
            given.append(slices)
            mask = np.zeros(cine.shape, np.uint8)
            for value, rows in enumerate(bundles[bundle.name].values(), start=1):
                for phase, count in enumerate(rows):
                    mask[8 : 8 + count, 8 * value : 8 * value + 8, 1:7, phase] = value
            home = tmp_path / "out" / bundle.name
            home.mkdir(parents=True)
            nib.save(nib.Nifti1Image(mask, affine), home / "P1_pred.nii.gz")
            curves = [
                measure_curve(mask == value, affine, TIMES, dataset_dir, structure)
                for value, structure in enumerate(bundles[bundle.name], start=1)
            ]
            write_tables(home, [MeasuredCine(curves, ["P1_pred.nii.gz"] * len(curves))])

        monkeypatch.setattr(segment, "_infer", infer)
        folders = [tmp_path / name for name in bundles]
        for folder in folders:
            folder.mkdir()
        segment.segment_cines(tmp_path / "P1.nii", folders, tmp_path / "out", slices)
        (cine_,) = read_tables(tmp_path / "out").values()
        return {curve.structure: curve for curve in cine_.curves}

    return measure


def test_one_structure_of_two_bundles_stays_two(measured):
    curves = measured(one={"left ventricle": (16, 12, 8)}, two={"left ventricle": (15, 8, 12)})
    assert list(curves) == ["left ventricle, one", "left ventricle, two"]
    found = [[round(volume * 1000 / (8 * 6 * 18)) for volume in curve.volumes_ml] for curve in curves.values()]
    assert found == [[16, 12, 8], [15, 8, 12]]
    assert [curve.es for curve in curves.values()] == [3, 2]


@pytest.mark.parametrize(("rows", "doubts"), [((15, 11, 8), ()), ((16, 12, 12), ("stroke",))])
def test_the_stroke_volumes_of_both_ventricles(measured, rows, doubts):
    curves = measured(left={"left ventricle": (16, 12, 8)}, right={"right ventricle": rows})
    assert [curve.doubts for curve in curves.values()] == [doubts, doubts]


def test_each_structure_is_drawn_in_its_own_mask(measured, monkeypatch):
    drawn = []
    monkeypatch.setattr(segment, "write_pictures", lambda stem, pixels, masks, curves: drawn.extend(masks))
    measured(one={"left ventricle": (16, 12, 8), "myocardium": (9, 9, 7)}, two={"right ventricle": (5, 6, 7)})
    assert [mask.sum(axis=(0, 1, 2)).tolist() for mask in drawn] == [
        [48 * rows for rows in beat] for beat in ((16, 12, 8), (9, 9, 7), (5, 6, 7))
    ]


def test_a_key_in_the_output_is_refused_before_long_work(tmp_path, monkeypatch):
    """It lies in the folder of no bundle, so no inference refuses it."""
    monkeypatch.setattr(segment, "_infer", lambda *_, **__: pytest.fail("it was segmented"))
    for folder in ("left", "right", "out"):
        (tmp_path / folder).mkdir()
    key = tmp_path / "out" / "key.csv"
    with pytest.raises(UserError, match="key.csv: lies in .*out"):
        segment.segment_cines(tmp_path, [tmp_path / "left", tmp_path / "right"], tmp_path / "out", anonymize=key)


@pytest.mark.parametrize(
    ("slices", "expected"), [("2-7", ["2-7", "2-7"]), (["2-7"], ["2-7", "2-7"]), (["2-7", "3-"], ["2-7", "3-"])]
)
def test_slices_of_all_bundles_or_of_each(measured, slices, expected):
    given = []
    measured(slices, given, one={"left ventricle": (16, 12, 8)}, two={"right ventricle": (15, 11, 8)})
    assert given == expected


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (["2-7", "3-4", "5-6"], "slices 2-7 3-4 5-6, where the number of bundles is 2: slices are"),
        (["2-7", "2-9"], "P1.nii: has 8 slices, and 2-9 goes beyond the last"),
        ("nine", "slices nine: neither a range of slices"),
    ],
)
def test_slices_are_checked_before_long_work(measured, slices, message):
    given = []
    with pytest.raises(UserError, match=message):
        measured(slices, given, one={"left ventricle": (16, 12, 8)}, two={"right ventricle": (15, 11, 8)})
    assert not given


def test_a_stack_of_one_phase_is_refused_before_long_work(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "_infer", lambda *_, **__: pytest.fail("it was segmented"))
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 5), np.int16), np.diag([1.5, 1.5, 8.0, 1.0])), tmp_path / "P1.nii")
    (tmp_path / "left").mkdir()
    with pytest.raises(UserError, match="P1.nii: no cine among the stacks"):
        segment.segment_cines(tmp_path / "P1.nii", [tmp_path / "left"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("the second bundle has no weights")])
@pytest.mark.parametrize("there", [False, True])
def test_what_is_interrupted_leaves_the_folder_as_it_was(tmp_path, monkeypatch, error, there):
    def infer(bundle, dataset_dir, output_dir):
        if bundle.name == "right":
            raise error
        Path(output_dir).mkdir(parents=True)
        (Path(output_dir) / "P1_pred.nii.gz").touch()
        (tmp_path / "out" / "overlay.png").touch()

    monkeypatch.setattr(segment, "_infer", infer)
    monkeypatch.setattr(segment, "_require_cines", lambda *_: None)
    for name in ("left", "right", "out")[: 2 + there]:
        (tmp_path / name).mkdir()
    with pytest.raises((KeyboardInterrupt, UserError)):
        segment.segment_cines(tmp_path, [tmp_path / "left", tmp_path / "right"], tmp_path / "out")
    assert (tmp_path / "out").exists() == there
    assert not list(tmp_path.glob("out/*"))


def test_what_is_said_of_extremes_names_no_file_that_is_gone(tmp_path, monkeypatch, capsys):
    """The measurement lies in a temporary folder."""
    affine = np.diag([1.5, 1.5, 8.0, 1.0])
    cine = np.random.default_rng(0).integers(0, 99, (32, 32, 8, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(cine, affine), tmp_path / "P1.nii")
    (tmp_path / "bundle").mkdir()

    def infer(bundle, dataset_dir, output_dir):
        mask = np.zeros(cine.shape, bool)
        for phase, count in enumerate((9, 4, 6)):
            mask[8 : 8 + count, 8:16, :, phase] = True
        print(f"masks: {output_dir}")
        print("warning: a large part was removed")
        home = Path(output_dir)
        home.mkdir()
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), home / "P1_pred.nii.gz")
        curve = measure_curve(mask, affine, TIMES, dataset_dir, "left ventricle")
        write_tables(home, [MeasuredCine([curve], ["P1_pred.nii.gz"])])

    monkeypatch.setattr(segment, "_infer", infer)
    found = segment.find_extremes(tmp_path / "P1.nii", tmp_path / "bundle")
    assert list(found.values()) == [{"ED": 1, "ES": 2}]
    said = capsys.readouterr().out
    assert "masks:" not in said
    assert "warning: a large part was removed" in said
    assert "DOUBTED: edge" in said
