"""The simulated world is as it is told, and what is counted in it is counted right."""

import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_iln.cli import main
from monai_iln.errors import UserError
from monai_iln.study import simulation
from monai_iln.study.chance import Components, estimate_chance
from monai_iln.study.simulation import APPROACHES, World, draw, simulate
from monai_iln.study.simulation_files import as_text

NONE = Components(0.0, 0.0, 0.0, 0.0)
SMALL = World(subjects=18, methods=3)
RATES = ("coverage", "false_alarms", "family_wise", "power", "wrong_equal", "right_equal", "half_width")


def bootstrap_mean(values):
    """The BCa interval of a mean, as scipy has it."""
    interval = stats.bootstrap((np.ravel(values),), np.mean, n_resamples=9999, method="BCa", rng=0).confidence_interval
    return interval.low, interval.high


def differences(world, seeds, design, seed=0):
    scores, folds = draw(world, seeds, design, np.random.default_rng(seed))
    assert scores.shape == (world.methods, seeds, world.subjects)
    return scores[0] - scores[1], folds


# the world


def test_subjects_are_the_same_in_all_trainings_and_the_rest_is_not():
    d, _ = differences(World(6000, methods=2, sd=replace(NONE, subject=0.03)), 3, "new splits")
    assert (d == d[0]).all()
    assert d.std() == pytest.approx(0.03, rel=0.03)
    d, _ = differences(World(6000, methods=2, sd=replace(NONE, subject=1e-9, residual=0.03)), 3, "new splits")
    assert d.std(axis=1) == pytest.approx(0.03, rel=0.03)
    assert np.corrcoef(d)[0, 1] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("design", ["one split", "new splits"])
def test_the_luck_of_a_fold_lasts_as_long_as_its_split(design):
    d, folds = differences(World(4000, 1000, 2, replace(NONE, subject=1e-9, fold=0.02)), 2, design)
    luck = np.array([[row[fold == f].mean() for f in range(1000)] for row, fold in zip(d, folds, strict=True)])
    assert luck.std(axis=1) == pytest.approx(0.02, rel=0.1)
    assert np.abs(d - np.take_along_axis(luck, folds, axis=1)).max() < 1e-7
    assert (folds[0] == folds[1]).all() == (design == "one split")
    together = np.corrcoef(luck)[0, 1]
    assert together == pytest.approx(1 if design == "one split" else 0, abs=0.1)
    assert (np.bincount(folds[1]) == 4).all()


def test_the_luck_of_a_training_is_shared_by_its_subjects_and_new_for_each_seed():
    d, folds = differences(World(4000, 1000, 2, replace(NONE, subject=1e-9, training=0.02)), 2, "one split")
    luck = np.array([[row[folds[0] == f].mean() for f in range(1000)] for row in d])
    assert luck.std(axis=1) == pytest.approx(0.02, rel=0.1)
    assert np.corrcoef(luck)[0, 1] == pytest.approx(0, abs=0.1)
    assert np.abs(d - luck[:, folds[0]]).max() < 1e-7


@pytest.mark.parametrize("part", ["subject", "residual"])
def test_heavy_tails_have_the_same_standard_deviation_and_far_values(part):
    sd = replace(NONE, **{part: 0.03})
    d, _ = differences(World(200_000, methods=2, sd=sd, heavy_tails=True), 1, "one split", seed=3)
    assert d.std() == pytest.approx(0.03, rel=0.1)
    assert stats.kurtosis(d, axis=None) > 1
    usual, _ = differences(World(200_000, methods=2, sd=sd), 1, "one split")
    assert abs(stats.kurtosis(usual, axis=None)) < 0.1


def test_the_last_method_alone_may_be_noisier():
    world = World(6000, 1000, 3, Components(0.0, 0.0, 0.01, 0.03), noisy=4.0)
    scores, folds = draw(world, 1, "one split", np.random.default_rng(0))
    means = np.array([[scores[k, 0, folds[0] == f].mean() for f in range(1000)] for k in range(3)])
    rest = scores[:, 0] - means[:, folds[0]]
    assert (means.std(axis=1) / means[0].std())[1:] == pytest.approx([1, 4], rel=0.1)
    assert (rest.std(axis=1) / rest[0].std())[1:] == pytest.approx([1, 4], rel=0.1)


def test_what_is_shared_is_new_for_each_run_and_cancels():
    world = World(4000, 1000, 2, replace(NONE, subject=1e-9), shared=0.02)
    scores, folds = draw(world, 2, "one split", np.random.default_rng(0))
    luck = np.array([[row[folds[0] == f].mean() for f in range(1000)] for row in scores[0]])
    assert luck.std(axis=1) == pytest.approx(0.02, rel=0.1)
    assert np.corrcoef(luck)[0, 1] == pytest.approx(0, abs=0.1)
    assert np.abs(scores[0] - scores[1]).max() < 1e-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": 1}, "methods 1: it must be a whole number from 2 to"),
        ({"folds": 1}, "folds 1"),
        ({"subjects": 5}, "subjects 5, where there are 3 folds: there must be 6 or more"),
        ({"noisy": -1.0}, r"noisy -1\.0"),
        ({"shared": -1.0}, r"shared -1\.0"),
        ({"sd": replace(NONE, fold=-0.1)}, r"fold -0\.1"),
        ({"sd": NONE}, "a subject and a residual sd of 0"),
    ],
    ids=str,
)
def test_impossible_worlds_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        World(**change)


# the approaches


def study(world=SMALL, seeds=4, design="one split", seed=0):
    return simulation._Study(*draw(world, seeds, design, np.random.default_rng(seed)))


@pytest.mark.parametrize("heavy", [False, True])
def test_the_bootstrap_is_that_of_the_report(heavy):
    found = np.array([study(World(30, heavy_tails=heavy), seed=seed).differences(2) for seed in range(3)])
    for got, values in zip(simulation._bootstrap(found).reshape(-1, 5), found.reshape(-1, 30), strict=True):
        low, high = bootstrap_mean(values)
        assert got[:2] == pytest.approx([low, high], abs=0.12 * (high - low))
        assert got[0] < got[2] < got[3] < got[1]
        assert np.isnan(got[4])
    skewed = np.random.default_rng(0).exponential(size=(1, 1, 30))
    low, high = bootstrap_mean(skewed)
    assert simulation._bootstrap(skewed)[0, 0, :2] == pytest.approx([low, high], abs=0.05 * (high - low))
    assert high - skewed.mean() > 1.15 * (skewed.mean() - low)


def test_the_bootstrap_is_corrected_for_bias():
    below = []
    for subjects in range(8, 16):  # each number has resamples of its own, whose chance averages out
        skewed = np.random.default_rng(subjects).exponential(size=(1, 1, subjects))
        low, high = bootstrap_mean(skewed)
        below.append((simulation._bootstrap(skewed)[0, 0, 0] - low) / (high - low))
    assert np.mean(below) == pytest.approx(0, abs=0.006)


def test_the_t_test_is_over_the_means_of_folds():
    one = study()
    d = one.scores[0, :3].mean(axis=0) - one.scores[2, :3].mean(axis=0)
    expected = stats.ttest_1samp([d[one.folds[0] == fold].mean() for fold in range(3)], 0)
    got = one.over_folds(3)[1]
    assert got[:2] == pytest.approx(expected.confidence_interval(0.95))
    assert got[2:4] == pytest.approx(expected.confidence_interval(0.9))
    assert got[4] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("design", ["one split", "new splits"])
def test_the_estimate_is_that_of_the_first_seeds_for_the_reference(design):
    one = study(design=design)
    chance = estimate_chance(one.scores[:, :2], one.folds[:2], "abc")
    for got, other in zip(one.estimate(2), "bc", strict=True):
        found = chance.between("a", other)
        assert tuple(got) == (*found.interval(), *found.interval(0.9), found.p)


def test_seeds_are_added_until_the_widest_interval_is_narrow_enough():
    one = study(seeds=8, design="new splits")
    widest = {seeds: np.ptp(one.estimate(seeds)[:, :2], axis=1).max() / 2 for seeds in range(3, 9)}
    for half_width in (1.0, 0.03, 0.02, 0.015):
        expected = next((seeds for seeds in range(3, 8) if widest[seeds] <= half_width), 8)
        assert one.stop(half_width) == expected
    assert {one.stop(half_width) for half_width in (1.0, 1e-9)} == {3, 8}
    widths = np.ptp(one.estimate(3)[:, :2], axis=1) / 2
    assert one.stop(widths.max()) == 3 < one.stop(widths.mean())


def test_intervals_move_with_the_means_so_that_a_difference_need_not_be_drawn():
    for seed in range(20):
        equal = study(seed=seed)
        better = simulation._Study(equal.scores + np.array([0.01, 0, 0]).reshape(3, 1, 1), equal.folds)
        assert better.estimate(4)[:, :4] == pytest.approx(equal.estimate(4)[:, :4] + 0.01)
        assert better.over_folds(4)[:, :4] == pytest.approx(equal.over_folds(4)[:, :4] + 0.01)
        ends = [simulation._bootstrap(one.differences(4)[None])[0, :, :4] for one in (better, equal)]
        assert ends[0] == pytest.approx(ends[1] + 0.01)


# the counting


def test_rates_are_counted_over_studies_and_comparisons():
    found = np.array(
        [
            # the 95 % interval, the 90 % interval, p
            [(-0.01, 0.03, -0.005, 0.025, 0.3), (0.002, 0.03, 0.004, 0.028, 0.03)],
            [(-0.009, 0.007, -0.008, 0.006, 0.8), (0.001, 0.02, 0.003, 0.018, 0.02)],
            [(-0.06, -0.01, -0.05, -0.02, 0.01), (-0.017, -0.001, -0.016, -0.002, 0.024)],
        ]
    )
    rates = simulation._rates(found, difference=0.015, margin=0.01)
    assert rates["coverage"] == pytest.approx(2 / 6)
    assert rates["false_alarms"] == pytest.approx(4 / 6)
    assert rates["family_wise"] == pytest.approx(2 / 3)  # 0.03 is no more than 0.05 / 2
    assert rates["power"] == pytest.approx(4 / 6)
    assert rates["wrong_equal"] == pytest.approx(1 / 6)  # -0.016 and -0.002, moved by the margin
    assert rates["right_equal"] == pytest.approx(1 / 6)
    assert rates["half_width"] == pytest.approx(np.mean([0.02, 0.014, 0.008, 0.0095, 0.025, 0.008]))
    assert rates["coverage_error"] == pytest.approx(np.std([0.5, 0.5, 0], ddof=1) / np.sqrt(3))
    without_p = simulation._rates(np.where(np.arange(5) == 4, np.nan, found), 0.015, 0.01)
    assert np.isnan(without_p["family_wise"])
    assert without_p["coverage"] == rates["coverage"]


@pytest.fixture(scope="module")
def simulated():
    ticks = []
    world = World(24, 3, 4, Components(0.03, 0.01, 0.02, 0.03))
    found = simulate(world, [1, 3], half_width=0.022, repetitions=300, tick=lambda: ticks.append(1))
    assert len(ticks) == 300
    return found.set_index(["approach", "seeds"])


def test_the_table_has_a_row_for_each_approach_and_number_of_seeds(simulated):
    assert list(simulated.columns) == [name for rate in RATES for name in (rate, f"{rate}_error")]
    assert list(dict.fromkeys(simulated.index.get_level_values(0))) == list(APPROACHES)
    fixed = [key for key in simulated.index if not key[0].endswith("seeds added")]
    new = "variance components, new splits"
    assert fixed == [
        (approach, seeds) for approach in APPROACHES[:4] for seeds in (1, 3) if (approach, seeds) != (new, 1)
    ]
    added = [seeds for approach, seeds in simulated.index if approach.endswith("seeds added")]
    assert len(added) == 2
    assert 3 < added[1] < added[0] <= 8


def test_variance_components_are_honest_and_subjects_alone_are_not(simulated):
    for approach, seeds in simulated.index:
        row = simulated.loc[approach, seeds]
        if approach.startswith("BCa"):
            assert row.coverage < 0.85
            assert np.isnan(row.family_wise)
        else:
            assert row.coverage == pytest.approx(0.95, abs=3 * row.coverage_error + 0.01)
            assert row.family_wise < 0.05 + 3 * row.family_wise_error + 0.01
        assert row.false_alarms == pytest.approx(1 - row.coverage)
    new, one = (simulated.loc[f"variance components, {design}"].loc[3.0] for design in ("new splits", "one split"))
    assert new.power > one.power + 0.1
    assert new.half_width < one.half_width


def test_more_seeds_than_are_added_may_be_looked_at():
    rows = simulate(SMALL, [8, 9], repetitions=2).set_index("approach").loc["BCa over subjects"]
    assert rows["seeds"].tolist() == [8, 9]
    assert rows["half_width"].nunique() == 2


def test_the_seed_decides_everything():
    first, again, other = (simulate(SMALL, [2], repetitions=4, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "no number of seeds: a study has seeds"),
        ({"seeds": [0, 2]}, "seeds 0: it must be a whole number from 1 to"),
        ({"repetitions": 1}, "repetitions 1: it must be a whole number from 2 to"),
        ({"difference": 0.0}, r"difference 0\.0: it must be a number above 0"),
        ({"margin": -0.1}, r"margin -0\.1"),
        ({"half_width": 0.0}, r"half_width 0\.0"),
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        simulate(SMALL, **change)


# the command


def command(output, *options):
    return main(
        ["simulate", "--subjects", "12", "--methods", "3", "--repetitions", "6", "--output", str(output), *options]
    )


def test_the_command_writes_table_settings_and_picture(tmp_path, capsys):
    output = tmp_path / "simulated"
    world = ["--sd_fold", "0", "--heavy_tails", "--noisy", "3", "--shared", "0.02"]
    assert command(output, "--seeds", "2", "4", "--seed", "5", *world) == 0
    printed = capsys.readouterr()
    assert "6/6" in printed.err
    sd = Components(0.03, 0.0, 0.01, 0.035)
    expected = simulate(World(12, 3, 3, sd, True, 3.0, 0.02), [2, 4], repetitions=6, seed=5)
    assert as_text(expected) in printed.out
    assert "power         how often one comparison finds a difference of 0.02" in printed.out
    pd.testing.assert_frame_equal(pd.read_csv(output / "simulation.csv"), expected)
    document = json.loads((output / "simulation.json").read_text(encoding="utf-8"))
    assert document["world"] == {
        **{"subjects": 12, "folds": 3, "methods": 3, "heavy_tails": True, "noisy": 3.0, "shared": 0.02},
        "sd": {"subject": 0.03, "fold": 0.0, "training": 0.01, "residual": 0.035},
    }
    assert (document["seeds"], document["repetitions"], document["seed"]) == ([2, 4], 6, 5)
    assert (document["difference"], document["margin"], document["half_width"]) == (0.02, 0.01, 0.015)
    assert document["machine"]["cpu"]
    assert {"commit", "date", "versions"} <= set(document)
    picture = matplotlib.image.imread(output / "simulation.png")
    assert picture.shape[0] > 700
    assert (picture[:30, [0, -1], :3] == 1).all()  # the title is not cut off
    assert picture[..., :3].std() > 0.05


def test_the_table_is_read_by_people(simulated):
    lines = as_text(simulated.reset_index()).splitlines()
    assert len(lines) == len(simulated) + 2
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:3] == ["approach", "seeds", "coverage"]
    assert "nan" not in "".join(lines)
    row = simulated.iloc[0]
    assert lines[1].split()[4:7] == [f"{row.coverage:.3f}", f"{row.false_alarms:.3f}", "-"]


def test_what_is_wrong_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("monai_iln.study.simulation_files.simulate", {}.__getitem__)
    (tmp_path / "file").touch()
    assert command(tmp_path) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert command(tmp_path / "new", "--folds", "1") == 1
    assert "argument --folds: got '1', and it must be a whole number from 2 to" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("package", ["matplotlib", "tqdm"])
def test_a_missing_extra_is_told(package, tmp_path, capsys, missing):
    missing(package, "monai_iln.study.simulation_files")
    assert command(tmp_path / "new") == 1
    assert 'pip install "monai-iln[study]"' in capsys.readouterr().err
