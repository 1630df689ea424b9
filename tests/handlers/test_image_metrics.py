import csv
import statistics

import nibabel as nib
import numpy as np
import pytest
import torch
from engines import AFFINE, disc, evaluate, one_hot, stack
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from monai_iln.errors import UserError
from monai_iln.handlers import SaveImageMetrics, slices_from_engine
from monai_iln.handlers.metrics import positions, surface_distances

HEADER = (
    "part,subject,phase,slice,index,position,structure,dice,hd95_mm,asd_mm,truth_pixels,predicted_pixels,"
    "truth_ml,predicted_ml,image,truth,prediction"
)


def read(folder):
    with (folder / "images.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scored(folder, *stacks, **options):
    evaluate(SaveImageMetrics(str(folder), **options), *stacks)
    return read(folder)


def classes(*masks):
    """One-hot of masks that do not overlap."""
    return torch.stack([1 - sum(masks), *masks])


def brute_force(truth, prediction, spacing):
    """HD95 and ASD from the definition: all distances between all pixels of the two edges."""
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * spacing for mask in (truth, prediction)]
    distances = cdist(*edges)
    there, back = distances.min(axis=1), distances.min(axis=0)
    return max(np.percentile(there, 95), np.percentile(back, 95)), np.concatenate([there, back]).mean()


def test_slices_from_engine():
    stacks = [{"pred": torch.rand(2, 4, 4, 3)}, {"pred": torch.rand(2, 5, 5, 2)}]
    (slices,) = slices_from_engine(["pred"])(stacks)
    assert [tuple(slice_.shape) for slice_ in slices] == [(2, 4, 4)] * 3 + [(2, 5, 5)] * 2
    torch.testing.assert_close(slices[4], stacks[1]["pred"][..., 1])


def test_a_line_for_every_image(tmp_path, capsys):
    empty = torch.zeros(64, 64)
    truth = torch.stack([disc(10), disc(8), empty, empty], dim=-1)
    predicted = torch.stack([disc(10), disc(4), empty, disc(3)], dim=-1)
    item, output = stack(one_hot(truth), one_hot(predicted))
    item["slices"] = [torch.tensor([n]) for n in (3, 4, 5, 6)]
    rows = scored(tmp_path / "new", (item, output), structures=["left ventricle"])
    assert (tmp_path / "new" / "images.csv").read_text().splitlines()[0] == HEADER
    small, large = disc(4).sum().item(), disc(8).sum().item()
    assert [float(row["dice"]) for row in rows] == pytest.approx([1, 2 * small / (small + large), 1, 0], abs=1e-6)
    assert [row["slice"] for row in rows] == ["3", "4", "5", "6"]
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
    constant = {"part": "test", "subject": "SC-N-901", "phase": "ED", "structure": "left ventricle"}
    constant |= {"image": "/data/images/SC-N-901_ED.nii.gz", "truth": "/data/labels/SC-N-901_ED.nii.gz"}
    constant |= {"prediction": "predictions/SC-N-901_ED.nii.gz"}
    for row in rows:
        assert {key: row[key] for key in constant} == constant
    assert (rows[1]["truth_pixels"], rows[1]["predicted_pixels"]) == (str(int(large)), str(int(small)))
    # A pixel is 2 x 1.5 x 8 mm = 24 mm3 = 0.024 ml.
    assert float(rows[1]["truth_ml"]) == pytest.approx(0.024 * large, abs=1e-6)
    assert float(rows[1]["predicted_ml"]) == pytest.approx(0.024 * small, abs=1e-6)
    assert [row["hd95_mm"] for row in rows[2:]] == [row["asd_mm"] for row in rows[2:]] == ["", ""]
    scores = [float(row["dice"]) for row in rows]
    printed = capsys.readouterr().out
    assert f"Dice {statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}, " in printed
    assert "below 0.5: 50.0%, over 4 images of 1 subject." in printed


def test_missing_predictions_have_no_distance(tmp_path):
    (row,) = scored(tmp_path, stack(one_hot(disc(5)[..., None]), one_hot(torch.zeros(64, 64, 1))))
    assert (row["dice"], row["hd95_mm"], row["asd_mm"], row["predicted_ml"]) == ("0.0", "", "", "0.0")


def test_a_distance_by_hand(tmp_path):
    """3 rows of 2 mm and 4 columns of 1.5 mm apart."""
    truth, prediction = torch.zeros(2, 32, 32, 1)
    truth[10, 10], prediction[13, 14] = 1, 1
    (row,) = scored(tmp_path, stack(one_hot(truth), one_hot(prediction)))
    expected = np.hypot(3 * 2.0, 4 * 1.5)
    assert (float(row["hd95_mm"]), float(row["asd_mm"])) == pytest.approx((expected, expected), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(24, 30), (40, 17), (9, 10, 7)]),
    density=st.sampled_from([0.003, 0.1, 0.5, 0.95]),
    spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 1.25, 8.0])] * 3),
)
def test_distances_are_those_of_the_definition(seed, shape, density, spacing):
    """Anything, holes and masks up to the border included."""
    truth, prediction = np.random.default_rng(seed).random((2, *shape)) < density
    spacing = spacing[: len(shape)]
    found = surface_distances(truth, prediction, spacing)
    if truth.any() and prediction.any():
        assert found == pytest.approx(brute_force(truth, prediction, spacing), rel=1e-5, abs=1e-5)
    else:
        assert found == (None, None)


def test_volumes_are_one_image(tmp_path):
    generator = np.random.default_rng(0)
    truth, prediction = (torch.from_numpy(generator.random((2, 12, 14, 6)) < 0.3)).float()
    (row,) = scored(tmp_path, stack(one_hot(truth), one_hot(prediction)), per="volume")
    assert (row["slice"], row["index"], row["position"]) == ("", "", "")
    hd95, asd = brute_force(truth.bool().numpy(), prediction.bool().numpy(), (2.0, 1.5, 8.0))
    assert float(row["hd95_mm"]) == pytest.approx(hd95, abs=1e-4)
    assert float(row["asd_mm"]) == pytest.approx(asd, abs=1e-4)
    both, sizes = (truth * prediction).sum().item(), (truth.sum().item(), prediction.sum().item())
    assert float(row["dice"]) == pytest.approx(2 * both / sum(sizes), abs=1e-5)
    assert float(row["truth_ml"]) == pytest.approx(0.024 * sizes[0], abs=1e-6)


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        ([90, 80, 50, 40, 20, 10], "base base mid mid apex apex"),
        ([10, 20, 40, 50, 80, 90], "apex apex mid mid base base"),
        ([9, 7, 5, 3], "base mid mid apex"),  # the ends stay equal
        ([3, 5, 7, 9], "apex mid mid base"),
        ([9, 8, 7, 6, 5], "base base mid apex apex"),
        ([60, 10, 9, 9, 40, 40], "apex apex mid mid base base"),  # 35 to 40: the mean, not the largest
        ([0, 0, 0, 9, 9, 5, 5, 8, 8], "base base base base base mid mid apex apex"),  # of slices with truth: 9 to 8
        ([0, 0, 9, 0, 6, 3, 0], "base base base mid mid apex apex"),  # without truth: where they lie
        ([0, 3, 6, 0, 9, 0], "apex apex mid mid base base"),
        ([5, 5, 5], "base mid apex"),
        ([5, 9], "mid mid"),
        ([0, 4, 0, 9], "mid mid mid mid"),
        ([0, 0, 0, 0], "mid mid mid mid"),
    ],
)
def test_positions(areas, expected):
    for direction in ([0, 0, 8], [1, -2, -7]):
        assert positions([np.array(areas)[:, None]], [np.array(direction)]) == [expected.split()]


# SC-HF-NI-13 of Sunnybrook: at end systole the basal slices hold little, and by thirds the apex has the larger area.
DIASTOLE = [985, 1039, 1337, 1968, 2051, 1993, 1843, 1479, 1065, 338]
SYSTOLE = [815, 501, 653, 1367, 1736, 1662, 1655, 1440, 1001, 259]
RISING = [20, 25, 30]  # alone it had the apex first
DOWNWARDS = ["base", "base", "base", "mid", "mid", "mid", "mid", "apex", "apex", "apex"]


@pytest.mark.parametrize(
    ("stacks", "directions", "expected"),
    [
        ([DIASTOLE, SYSTOLE], [8, 8], [DOWNWARDS, DOWNWARDS]),
        ([SYSTOLE, DIASTOLE], [8, 9], [DOWNWARDS, DOWNWARDS]),
        ([DIASTOLE, SYSTOLE[::-1]], [8, -8], [DOWNWARDS, DOWNWARDS[::-1]]),
        ([DIASTOLE[::-1], SYSTOLE], [8, -8], [DOWNWARDS[::-1], DOWNWARDS]),
        ([DIASTOLE, RISING], [8, 8], [DOWNWARDS, ["base", "mid", "apex"]]),
        ([RISING, DIASTOLE], [-8, 8], [["apex", "mid", "base"], DOWNWARDS]),
        ([[9, 90], DIASTOLE], [8, 8], [["mid", "mid"], DOWNWARDS]),
        ([[5, 5, 5], [5, 5, 5]], [8, -8], [["base", "mid", "apex"], ["apex", "mid", "base"]]),
    ],
)
def test_positions_of_a_subject(stacks, directions, expected):
    areas = [np.array(stack)[:, None] for stack in stacks]
    assert positions(areas, [np.array([0.3, 0, step]) for step in directions]) == expected


def test_positions_are_decided_once_a_subject(tmp_path):
    """A stack that is stored in reverse has its base at the other end; another subject counts for itself."""
    down, up = (torch.stack([disc(radius) for radius in radii], -1) for radii in ((12, 9, 4), (6, 7, 8)))
    turned = AFFINE @ np.diag([1, 1, -1, 1])
    masks = [(down, "A", "ED", AFFINE), (up, "B", "ED", AFFINE), (up, "A", "ES", AFFINE), (up, "A", "MD", turned)]
    rows = scored(
        tmp_path,
        *(stack(one_hot(m), one_hot(m), name, affine, phase=phase) for m, name, phase, affine in masks),
    )
    found = {}
    for row in rows:
        found.setdefault((row["subject"], row["phase"]), []).append(row["position"])
    down, up = ["base", "mid", "apex"], ["apex", "mid", "base"]
    assert found == {("A", "ED"): down, ("B", "ED"): up, ("A", "ES"): down, ("A", "MD"): up}


def test_positions_go_by_the_first_structure(tmp_path):
    """By the second the other end were the base; and it alone is in two of the six slices, which count."""
    first = [disc(radius, centre=(20, 20)) for radius in (3, 5, 8, 10)] + [torch.zeros(64, 64)] * 2
    second = [disc(radius, centre=(45, 45)) for radius in (4, 6, 8, 10, 12, 14)]
    truth = classes(torch.stack(first, -1), torch.stack(second, -1))
    rows = scored(tmp_path, stack(truth, truth), structures={"0": "background", "2": "RV", "1": "LV"})
    assert [row["structure"] for row in rows] == ["LV", "RV"] * 6
    # Thirds of all six: areas of the first (29 + 81) / 2 at one end, 0 at the other.
    for structure in ("LV", "RV"):
        found = [row["position"] for row in rows if row["structure"] == structure]
        assert found == ["base", "base", "mid", "mid", "apex", "apex"]


def test_several_structures(tmp_path, capsys):
    left, right = disc(9, centre=(20, 20))[..., None], disc(6, centre=(45, 45))[..., None]
    miss = disc(6, centre=(45, 20))[..., None]
    rows = scored(tmp_path, stack(classes(left, right), classes(left, miss)))
    assert [(row["structure"], float(row["dice"])) for row in rows] == [("class 1", 1), ("class 2", 0)]
    assert [int(row["truth_pixels"]) for row in rows] == [int(left.sum()), int(right.sum())]
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["class 1: Dice 1.000 of 1 image", "class 2: Dice 0.000 of 1 image"]
    found = nib.load(tmp_path / "predictions" / "SC-N-901_ED.nii.gz").get_fdata()
    np.testing.assert_array_equal(found, (left + 2 * miss).numpy())


def test_the_prediction_is_written_as_it_was_scored(tmp_path):
    truth = torch.stack([disc(9), disc(7), disc(5)], dim=-1)[:, :50]
    prediction = truth.roll(2, 0)
    rows = scored(tmp_path, stack(one_hot(truth), one_hot(prediction)))
    mask = nib.load(tmp_path / rows[0]["prediction"])
    assert mask.get_data_dtype() == np.uint8
    assert mask.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), prediction.numpy())
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["SC-N-901_ED.nii.gz"]


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = one_hot(disc(9)[..., None])
    (row,) = scored(tmp_path, stack(mask, mask, folder="data"))
    assert row["image"] == str(tmp_path / "data" / "images" / "SC-N-901_ED.nii.gz")
    assert row["truth"] == str(tmp_path / "data" / "labels" / "SC-N-901_ED.nii.gz")


def test_two_parts_in_one_file(tmp_path):
    good, bad = one_hot(disc(9)[..., None]), one_hot(disc(3)[..., None])
    scored(tmp_path, stack(good, good, "B"), stack(good, good, "C"), part="validation")
    scored(tmp_path, stack(good, good, "A"), part="test")
    rows = scored(tmp_path, stack(good, bad, "B"), part="validation")  # anew: C is gone
    assert [(row["part"], row["subject"], row["dice"] == "1.0") for row in rows] == [
        ("test", "A", True),
        ("validation", "B", False),
    ]
    assert (tmp_path / "images.csv").read_text().count("part") == 1


def test_a_file_of_another_kind_is_replaced(tmp_path):
    (tmp_path / "images.csv").write_text("subject,dice\nA,0.5\n")
    mask = one_hot(disc(9)[..., None])
    assert [row["subject"] for row in scored(tmp_path, stack(mask, mask, "B"))] == ["B"]


def test_summary_is_by_subject_worst_first(tmp_path, capsys):
    good, bad = one_hot(disc(10)[..., None]), one_hot(disc(5)[..., None])
    handler = SaveImageMetrics(str(tmp_path))
    stacks = [stack(good, good, "SC-A"), stack(bad, good, "SC-B"), stack(good, good, "SC-C")]
    for _ in range(2):  # a second run starts anew
        evaluate(handler, *stacks)
        printed = capsys.readouterr().out
        assert "median 1.000, below 0.5: 33.3%, over 3 images of 3 subjects. Worst first:" in printed
        assert [line.split()[0] for line in printed.splitlines()[1:4]] == ["SC-B", "SC-A", "SC-C"]


@pytest.mark.parametrize("options", [{"part": "tests"}, {"per": "stack"}])
def test_unknown_choices_are_refused(tmp_path, options):
    with pytest.raises(UserError, match="it must be one of"):
        SaveImageMetrics(str(tmp_path), **options)


def test_wrong_stacks_are_refused(tmp_path):
    mask = one_hot(disc(9)[..., None])
    item, output = stack(mask, mask)
    bare = output | {"label": mask}
    smaller = output | {"pred": output["pred"][:, :50]}
    indices = {key: value[:1] for key, value in output.items()}
    for stacks, options, message in [
        ([(item, bare)], {}, "label without an affine: distances in mm need one"),
        ([(item, smaller)], {}, r"label \(2, 64, 64, 1\), pred \(2, 50, 64, 1\): both must be one-hot"),
        ([(item, indices)], {}, "both must be one-hot"),
        ([(item, output)], {"structures": ["LV", "RV"]}, "there must be 1"),
        ([(item, output)] * 2, {}, "the prediction of 2 stacks"),
        ([(item | {"subject": "a/b"}, output)], {}, "it cannot name a file"),
    ]:
        with pytest.raises(UserError, match=message):
            scored(tmp_path, *stacks, **options)
