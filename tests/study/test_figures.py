"""What the figures show: read back from the drawn artists, and compared with numbers known beforehand."""

import itertools
from dataclasses import replace

import matplotlib
import nibabel
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from monai_iln.study.report import (
    comparisons,
    gates,
    learning_curves,
    learning_rates,
    overlays,
    positions,
    ranks,
    style,
    volumes,
)
from monai_iln.study.statistics import METRICS, Agreement, Ranking
from monai_iln.study.verdicts import Verdict


def line(axes, index=0):
    return np.column_stack(axes.lines[index].get_data())


def gate_table(ends, dead=(), components=("instance", "layer"), spread=0.0):
    rows = []
    for number, end in enumerate(ends):
        for iteration in (0, 10, 20):
            weight = 0.6 + (end - 0.6) * iteration / 20
            for place, component in enumerate(components):
                value = weight if place == 0 else 1 - weight
                row = (iteration, f"layer{number}", component, value - spread, value, value + spread)
                rows.append((*row, int(number in dead and iteration == 20)))
    return pd.DataFrame(rows, columns=["iteration", "layer", "component", "low", "weight", "high", "dead"])


def test_style_stays_in_the_figures():
    before = dict(matplotlib.rcParams)
    gates.draw_gate_functions()
    assert dict(matplotlib.rcParams) == before


def test_colors_tell_methods_apart():
    methods = [f"method {number}" for number in range(9)]
    colors = style.method_colors(methods, "method 4")
    assert len(set(colors.values())) == 9
    assert colors["method 4"] == style.REFERENCE_COLOR


def test_gate_functions():
    axes = gates.draw_gate_functions().axes[0]
    clip, sigmoid = (dict(np.round(line(axes, index), 6)) for index in (0, 1))
    assert [clip[x] for x in (-3.0, 0.0, 0.5, 1.0, 3.0)] == [0, 0, 0.5, 1, 1]
    assert [round(sigmoid[x], 4) for x in (-2.0, 0.0, 2.0)] == [0.1192, 0.5, 0.8808]


def test_gate_curves_are_those_of_the_first_component():
    axes = gates.draw_gate_curves(gate_table([0.9, 0.2, 0.4], dead={1})).axes[0]
    assert [round(line(axes, index)[-1, 1], 6) for index in range(3)] == [0.9, 0.2, 0.4]
    assert [drawn.get_linestyle() for drawn in axes.lines] == ["-", "--", "-"]
    assert to_hex(axes.lines[1].get_color()) == style.GREY
    assert [text.get_text() for text in axes.texts] == ["layer0", "layer1 (dead)", "layer2"]
    assert not axes.collections
    assert "instance" in axes.get_ylabel()


def test_long_names_of_layers_keep_their_ends():
    table = gate_table([0.9, 0.2], dead={1})
    table["layer"] = "encoder.blocks." * 4 + table["layer"]
    axes = gates.draw_gate_curves(table).axes[0]
    labels = [text.get_text() for text in axes.texts]
    assert [label[-12:] for label in labels] == ["locks.layer0", "ayer1 (dead)"]
    assert all(label.startswith("\N{HORIZONTAL ELLIPSIS}") and len(label) < 36 for label in labels)


def test_gate_curves_of_other_components_and_of_channels():
    axes = gates.draw_gate_curves(gate_table([0.9, 0.2], components=("batch", "layer"), spread=0.05)).axes[0]
    assert "batch" in axes.get_ylabel()
    assert round(line(axes)[-1, 1], 6) == 0.9
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (round(band.max(), 6), round(band.min(), 6)) == (0.95, 0.55)


@pytest.mark.parametrize(
    "ends", [[0.5] * 22, list(np.linspace(0, 1, 22)), [0.0] * 12 + [1.0] * 10, [0.7], [0.9, 0.1, 0.5]]
)
def test_labels_of_gate_curves_do_not_overlap(ends):
    figure = gates.draw_gate_curves(gate_table(ends))
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [Text.get_window_extent(label) for label in axes.texts]  # the label's own would include its line
    order = np.argsort(ends, kind="stable")
    heights = [(boxes[index].y0 + boxes[index].y1) / 2 for index in order]
    assert heights == sorted(heights)
    letters = 6.5 / 72 * figure.dpi  # height of a line
    assert all(above - below >= letters for below, above in itertools.pairwise(heights))
    assert min(heights) >= axes.bbox.y0 - 1
    assert max(heights) <= axes.bbox.y1 + 1


def test_learning_curves():
    losses = pd.DataFrame({"iteration": np.arange(1, 101), "loss": 1.0})
    losses.loc[49, "loss"] = 50.0  # one outlier, which a running median passes over
    curves = pd.DataFrame({"epoch": [1, 2], "val_mean_dice": [0.5, 0.8]})
    left, right = learning_curves.draw_learning_curves(
        {"ILN": losses, "IN": losses}, {"IN": curves}, ["ILN", "IN"], "ILN"
    ).axes
    assert line(left)[:, 1].max() == 1
    assert len(left.lines) == 2
    assert line(right).tolist() == [[1, 0.5], [2, 0.8]]
    assert left.lines[1].get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    assert len(learning_curves.draw_learning_curves({"ILN": losses}, {}, ["ILN"], "ILN").axes) == 1


def test_the_legend_of_curves_names_a_method_that_begins_with_an_underscore():
    curves = {name: pd.DataFrame({"iteration": [1, 2], "loss": [0.5, 0.4]}) for name in ("_own", "IN")}
    figure = learning_curves.draw_learning_curves(curves, {}, ["_own", "IN"], "_own")
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_own", "IN"]


def test_the_legend_of_many_methods_leaves_room_for_the_curves():
    curve = pd.DataFrame({"iteration": [1, 2], "loss": 1.0, "epoch": [1, 2], "val_mean_dice": [0.5, 0.8]})
    methods = [f"GROUP (num_groups={number}, affine=False)" for number in range(11)]
    curves = dict.fromkeys(methods, curve)
    figure = learning_curves.draw_learning_curves(curves, curves, methods, methods[0])
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_position().height * figure.get_figheight() > 1.8  # inches
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.02


def test_rates_mark_what_diverged():
    scores = pd.DataFrame(
        [("ILN", 0.1, 0.8, 0, 3), ("ILN", 1.0, 0.9, 0, 3), ("IN", 0.1, 0.7, 0, 3), ("IN", 1.0, np.nan, 3, 3)],
        columns=["method", "learning_rate", "score", "diverged", "runs"],
    )
    first, second = learning_rates.draw_rates(scores, ["ILN", "IN"], "ILN").axes
    own = next(drawn for drawn in first.lines if to_hex(drawn.get_color()) == style.REFERENCE_COLOR)
    assert np.column_stack(own.get_data()).tolist() == [[0.1, 0.8], [1.0, 0.9]]
    assert [drawn.get_marker() for drawn in first.lines].count("x") == 0
    cross = next(drawn for drawn in second.lines if drawn.get_marker() == "x")
    assert cross.get_xdata() == [1.0]
    low, high = second.get_ylim()
    assert low < cross.get_ydata()[0] < 0.7 < 0.9 < high
    assert [text.get_text() for text in second.texts] == ["3/3"]


def comparison(other, difference, low, high, p, structure="LV"):
    answer = "unknown"
    if p < 0.05:
        answer = "better" if difference > 0 else "worse"
    values = {"low": low, "high": high, "p": p, "p_holm": p, "answer": answer}
    return Verdict("a", structure, "dice", "ILN", other, 9, 3, 2, 0.9, 0.8, difference, **values)


def test_differences():
    rows = [comparison("IN", 0.1, 0.05, 0.15, 0.01), comparison("LN", -0.02, -0.05, 0.01, 0.6)]
    rows += [comparison("IN", -0.1, -0.2, -0.05, 0.0001, "RV"), comparison("LN", np.nan, np.nan, np.nan, np.nan, "RV")]
    upper, lower = comparisons.draw_differences(rows).axes
    assert [label.get_text() for label in upper.get_yticklabels()] == ["IN", "LN"]
    assert [label.get_text() for label in lower.get_yticklabels()] == ["IN"]
    zero, interval, point, interval_2, point_2 = upper.lines
    assert list(zero.get_xdata()) == [0, 0]
    assert (list(interval.get_xdata()), list(point.get_xdata())) == ([0.05, 0.15], [0.1])
    assert (list(interval_2.get_xdata()), list(point_2.get_xdata())) == ([-0.05, 0.01], [-0.02])
    assert to_hex(point.get_markerfacecolor()) == style.REFERENCE_COLOR
    assert point_2.get_markerfacecolor() == "white"
    assert to_hex(lower.lines[2].get_markerfacecolor()) == style.INK  # found, but the reference is worse
    assert [text.get_text() for text in upper.texts] == ["+0.100  p = 0.010", "\N{MINUS SIGN}0.020  p = 0.600"]
    assert [text.get_text() for text in lower.texts] == ["\N{MINUS SIGN}0.100  p < 0.001"]


def test_the_axis_of_differences_is_read_whole_under_a_long_name():
    rows = [replace(comparison("IN", 0.1, 0.05, 0.15, 0.01), reference="ILN-num_groups-alive-and-so-on")]
    figure = comparisons.draw_differences(rows)
    figure.canvas.draw()
    drawn = figure.axes[0].xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= drawn.x0
    assert drawn.x1 <= figure.bbox.x1


def test_the_margin_is_a_band_and_what_is_equal_is_grey():
    equal = replace(comparison("IN", 0.002, -0.004, 0.008, 0.6), answer="equal")
    (axes,) = comparisons.draw_differences([equal], margin=0.01).axes
    assert [text.get_text() for text in axes.texts] == ["+0.002  equal"]  # whatever p is
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (-0.01, 0.02)
    assert to_hex(axes.lines[2].get_markerfacecolor()) == style.GREY
    assert not comparisons.draw_differences([equal]).axes[0].patches


def test_ranks_join_what_is_not_told_apart():
    names = ["ILN", "IN", "LN"]
    nemenyi = pd.DataFrame([[1, 0.5, 0.001], [0.5, 1, 0.2], [0.001, 0.2, 1]], names, names)
    ranking = Ranking(dict(zip(names, [1.2, 2.0, 2.8], strict=True)), 20, 9.0, 0.01, 0.7, nemenyi)
    axes = ranks.draw_ranks(ranking, "ILN").axes[0]
    assert sorted(round(float(dots.get_offsets()[0][0]), 6) for dots in axes.collections) == [1.2, 2.0, 2.8]
    bars = [drawn for drawn in axes.lines if drawn.get_linewidth() > 3]
    assert sorted(tuple(np.round([min(bar.get_xdata()), max(bar.get_xdata())], 6)) for bar in bars) == [
        (1.2, 2.0),
        (2.0, 2.8),
    ]
    assert {" ".join(text.get_text().split()) for text in axes.texts} == {"ILN 1.20", "IN 2.00", "2.80 LN"}


def test_agreement():
    names = ["edv_truth", "edv_predicted", "ef_truth", "ef_predicted"]
    values = pd.DataFrame(
        [("ILN", 100.0, 110.0, 50.0, 48.0), ("IN", 90.0, 80.0, 60.0, 61.0)], columns=["method", *names]
    )
    agreements = {
        ("ILN", "edv"): Agreement(2, 3.0, 2.0, -0.92, 6.92, 1.0, 5.0),
        ("ILN", "ef"): Agreement(2, -2.04, 1.0, -4.0, -0.1, -3.0, -1.0),
        ("IN", "edv"): Agreement(1, -10.0, np.nan, np.nan, np.nan, np.nan, np.nan),
    }
    figure = volumes.draw_agreement(values, agreements, ["ILN", "IN"], "ILN")
    assert len(figure.axes) == 4  # no ESV is known
    edv, ef, other, _ = figure.axes
    assert edv.collections[0].get_offsets().tolist() == [[105.0, 10.0]]
    assert [drawn.get_ydata()[0] for drawn in edv.lines[1:]] == [3.0, -0.92, 6.92]
    assert [drawn.get_linestyle() for drawn in edv.lines[1:]] == ["-", "--", "--"]
    assert ef.get_title() == "" == ef.get_title(loc="right")
    assert ef.get_title(loc="left") == "ILN: EF \N{MINUS SIGN}2.0 %"
    assert [drawn.get_ydata()[0] for drawn in other.lines[1:]] == [-10.0]  # of one subject there are no limits


def test_positions():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"subject": np.arange(40), "phase": "ED", "slice": 1.0, "dice": rng.uniform(size=40)})
    images = pd.concat([table.assign(method=name, position="apex") for name in ("ILN", "IN")])
    images.loc[images["method"] == "IN", "dice"] /= 2
    (axes,) = positions.draw_positions(images, ["apex"], ["ILN", "IN"], "ILN").axes
    for place, (box, factor) in enumerate(zip(axes.patches, (1, 0.5), strict=True)):
        low, high = np.percentile(table["dice"] * factor, (25, 75))
        assert (box.get_x(), box.get_x() + box.get_width()) == pytest.approx((low, high))
        whiskers = [drawn.get_xdata() for drawn in axes.lines[3 * place : 3 * place + 2]]
        expected = np.percentile(table["dice"] * factor, (5, 95))
        assert (min(whiskers[0]), max(whiskers[1])) == pytest.approx(tuple(expected))
        assert axes.lines[3 * place + 2].get_xdata() == pytest.approx([np.median(table["dice"]) * factor] * 2)
    assert axes.get_title(loc="left") == "apex (40 images)"


def disc(shape, row, column, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def scored(rows, **columns):
    """Images of methods: a row for each method, slice, Dice, number of pixels and seed."""
    table = pd.DataFrame(rows, columns=["method", "slice", "dice", "truth_pixels", "seed"])
    return table.assign(subject="a", phase="ED", image="i", **columns)


def picked(images, metric=METRICS["dice"]):
    """The slices by rank and method, with the seed of each."""
    return {
        rank: {row["method"]: (row["slice"], row["seed"]) for _, row in rows.iterrows()}
        for rank, rows in overlays.pick_cases(images, metric).items()
    }


def test_the_cases_are_the_same_for_all_methods():
    """The mean over methods picks them: here the worst of ILN is 1, that of IN is 2, and that of both is 3."""
    dice = {"ILN": [0.1, 0.9, 0.3, 0.8, 0.9], "IN": [0.9, 0.2, 0.3, 0.8, 0.9]}
    rows = [(method, place + 1, value, 5, 0) for method, scores in dice.items() for place, value in enumerate(scores)]
    assert picked(scored(rows)) == {
        "worst": {"ILN": (3, 0), "IN": (3, 0)},
        "median": {"ILN": (2, 0), "IN": (2, 0)},
        "best": {"ILN": (5, 0), "IN": (5, 0)},
    }
    lower = replace(METRICS["dice"], higher_is_better=False)
    assert picked(scored(rows), lower)["worst"] == {"ILN": (5, 0), "IN": (5, 0)}


def test_cases_without_truth_or_without_a_method_are_not_picked():
    rows = [("ILN", 1, 0.0, 0, 0), ("ILN", 2, 0.0, 5, 0), ("ILN", 3, 0.0, 9, 0), ("ILN", 4, 0.4, 5, 0)]
    rows += [("ILN", 5, 0.7, 5, 0), ("ILN", 6, 0.9, 5, 0), ("ILN", 7, 1.0, 0, 0), ("ILN", 8, np.nan, 5, 0)]
    places = {rank: cases["ILN"][0] for rank, cases in picked(scored(rows)).items()}
    # Without truth nothing counts: neither the 1.0 nor the first 0.0. Of two zeros the larger miss is the worst.
    assert places == {"worst": 3, "median": 4, "best": 6}
    both = [*rows, ("IN", 4, 0.1, 5, 0), ("IN", 5, 0.1, 5, 0)]
    assert picked(scored(both)) == {"worst": {"ILN": (4, 0), "IN": (4, 0)}, "best": {"ILN": (5, 0), "IN": (5, 0)}}
    assert list(picked(scored(rows[4:5]))) == ["best"]
    assert picked(scored(rows[7:])) == {}


def test_the_mean_of_a_case_is_over_seeds_and_its_picture_of_the_lowest():
    rows = [("ILN", 1, 0.9, 5, 1), ("ILN", 1, 0.5, 5, 0), ("ILN", 2, 0.6, 5, 1), ("ILN", 2, 0.6, 5, 0)]
    assert picked(scored(rows)) == {"worst": {"ILN": (2, 0)}, "best": {"ILN": (1, 0)}}


def test_stacks_are_told_apart_by_their_images():
    rows = [(method, np.nan, value, 5, 0) for value in (0.2, 0.8) for method in ("ILN", "IN")]
    images = scored(rows).assign(image=["a", "a", "b", "b"])
    cases = overlays.pick_cases(images)
    assert {rank: sorted(rows["image"]) for rank, rows in cases.items()} == {"worst": ["a", "a"], "best": ["b", "b"]}


@pytest.fixture
def row(tmp_path):
    """A stack of three slices with two structures; the prediction numbers the classes the other way round."""
    shape = (64, 64)
    truth, prediction = np.zeros((*shape, 3), np.uint8), np.zeros((*shape, 3), np.uint8)
    for index, radius in enumerate((4, 6, 8)):
        truth[disc(shape, 20, 20, radius), index] = 1
        truth[disc(shape, 44, 44, radius - 1), index] = 2
        prediction[disc(shape, 21, 20, radius), index] = 2
        prediction[disc(shape, 44, 44, radius - 2), index] = 1
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    image = np.random.default_rng(0).normal(size=truth.shape)
    for path, array in ((tmp_path / "i.nii.gz", image), (tmp_path / "t.nii.gz", truth), (run / "p.nii.gz", prediction)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    return pd.Series(
        {
            "run": "runs/r",
            "method": "ILN",
            "subject": "S1",
            "phase": "ED",
            "slice": 7.0,
            "index": 1.0,
            "dice": 0.8765,
            "truth_pixels": float(disc(shape, 20, 20, 6).sum()),
            "predicted_pixels": float(disc(shape, 21, 20, 6).sum()),
            "image": str(tmp_path / "i.nii.gz"),
            "truth": str(tmp_path / "t.nii.gz"),
            "prediction": "p.nii.gz",
        }
    )


def colours(pixels):
    """Numbers of red, green and yellow pixels."""
    red, green, blue = np.moveaxis(np.asarray(pixels, float), -1, 0)
    marked_red, marked_green = red - blue > 0.4, green - blue > 0.4
    return [int(n.sum()) for n in (marked_red & ~marked_green, marked_green & ~marked_red, marked_red & marked_green)]


def test_tile_is_the_slice_and_structure_of_its_row(tmp_path, row):
    tile = overlays.make_tile(tmp_path, "worst", row)
    truth, prediction = disc((64, 64), 20, 20, 6), disc((64, 64), 21, 20, 6)
    assert colours(tile.pixels) == [
        (truth & ~prediction).sum(),
        (prediction & ~truth).sum(),
        (truth & prediction).sum(),
    ]
    assert (tile.case, tile.score) == ("S1 ED slice 7", "Dice 0.876")


def test_tile_of_a_stack_is_its_fullest_slice(tmp_path, row):
    sums = {"truth_pixels": 0.0, "predicted_pixels": 0.0}
    for radius in (4, 6, 8):
        sums["truth_pixels"] += disc((64, 64), 44, 44, radius - 1).sum()
        sums["predicted_pixels"] += disc((64, 64), 44, 44, radius - 2).sum()
    stack = pd.Series({**row.to_dict(), **sums, "index": np.nan, "slice": np.nan})
    tile = overlays.make_tile(tmp_path, "best", stack)
    outer, inner = disc((64, 64), 44, 44, 7).sum(), disc((64, 64), 44, 44, 6).sum()
    assert colours(tile.pixels) == [outer - inner, 0, inner]
    assert tile.case == "S1 ED slice 3 of the stack"


def test_of_two_structures_of_one_size_the_tile_shows_the_one_of_the_truth(tmp_path, row):
    prediction = np.zeros((64, 64, 3), np.uint8)
    prediction[..., 1] = 1 * disc((64, 64), 44, 44, 6) + 2 * disc((64, 64), 20, 20, 6)
    truth = np.zeros((64, 64, 3), np.uint8)
    truth[..., 1] = 1 * disc((64, 64), 44, 44, 5) + 2 * disc((64, 64), 20, 20, 6)
    nibabel.save(nibabel.Nifti1Image(prediction, np.eye(4)), tmp_path / "runs" / "r" / "p.nii.gz")
    nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), tmp_path / "t.nii.gz")
    tile = overlays.make_tile(tmp_path, "best", row)
    assert colours(tile.pixels) == [0, 0, row["truth_pixels"]]


def test_tile_of_a_case_is_what_its_run_has_drawn(tmp_path, row):
    drawn = np.random.default_rng(0).integers(0, 255, (96, 120, 3), np.uint8)
    path = tmp_path / "runs" / "r" / "0.png"
    Image.fromarray(drawn).save(path)
    case = pd.Series({**row.to_dict(), "truth": "", "prediction": path.name, "index": np.nan, "slice": np.nan})
    tile = overlays.make_tile(tmp_path, "best", case)
    np.testing.assert_allclose(tile.pixels, drawn / 255, atol=1e-6)
    path.write_bytes(path.read_bytes()[:60])
    assert "cannot be read" in overlays.make_tile(tmp_path, "best", case).problem
    path.unlink()
    assert "No such file" in overlays.make_tile(tmp_path, "best", case).problem


def test_tile_without_a_prediction_shows_the_truth(tmp_path, row):
    tile = overlays.make_tile(tmp_path, "worst", pd.Series({**row.to_dict(), "predicted_pixels": 0.0}))
    assert colours(tile.pixels) == [row["truth_pixels"], 0, 0]


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda path: path.unlink(), "No such file"),
    (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read"),
    (lambda path: path.write_bytes(path.read_bytes()[:40] + b"x" * 20 + path.read_bytes()[60:]), "cannot be read"),
    (lambda path: path.write_bytes(b"no image"), "cannot be read"),
    (lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((5, 5, 3)), np.eye(4)), path), "different shapes"),
    (lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64, 3)), np.eye(4)), path), "numbers of pixels"),
])  # fmt: skip
def test_tile_says_what_is_wrong_with_a_file(tmp_path, row, spoil, said):
    spoil(tmp_path / "runs" / "r" / "p.nii.gz")
    tile = overlays.make_tile(tmp_path, "worst", row)
    assert tile.pixels is None
    assert said in tile.problem


def test_overlays_are_laid_out_by_method_and_rank(tmp_path, row):
    tiles = [overlays.make_tile(tmp_path, rank, row) for rank in ("worst", "median", "best")]
    bad = overlays.Tile("IN", "best", "S1 ED slice 7", "Dice 0", None, "gone")
    figure = overlays.draw_overlays([*tiles, bad], "ILN")
    assert len(figure.axes) == 6
    assert [len(axes.images) for axes in figure.axes] == [1, 0, 1, 0, 1, 0]
    assert [axes.get_title(loc="left").strip() for axes in figure.axes] == [
        *["Dice 0.876", ""] * 2,
        "Dice 0.876",
        "Dice 0",
    ]
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    case = "S1 ED slice 7"
    assert texts == [
        [f"worst: {case}", "ILN"],
        ["IN"],
        [f"median: {case}"],
        [],
        [f"best: {case}"],
        ["not drawn"],
    ]
    names = [figure.axes[0].texts[1], figure.axes[1].texts[0]]
    assert [text.get_color() for text in names] == [style.REFERENCE_COLOR, style.INK]
