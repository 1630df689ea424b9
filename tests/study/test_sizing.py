"""How large a study must be: its power from records, and the rule by which a sequential one stops."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from make_study import make_study

from monai_iln.errors import UserError
from monai_iln.study import CrossValidationWorkflow, sizing, workflow
from monai_iln.study.cases import Cases
from monai_iln.study.grid import Plan
from monai_iln.study.records import read_failure, write_failure
from monai_iln.study.settings import read_settings
from monai_iln.study.sizing import describe_power, expected_power, stopping_sentence, widest_interval


@pytest.fixture
def study(tmp_path):
    make_study(tmp_path, ("ILN", "IN", "LN"), rates=(0.1,), seeds=(0, 1), subjects=4, pictures=False)
    return tmp_path


def test_power_of_larger_grids(study, monkeypatch):
    monkeypatch.setattr(sizing, "_FOLDS", (3, 10, 12, 13))  # of 12 subjects
    told = describe_power(study, 2)
    lines = [line.split() for line in told.splitlines() if re.match(r"\s+\d+ ", line)]
    assert {(int(line[0]), int(line[1])) for line in lines} >= {(1, 3), (8, 3), (8, 10)}
    assert {int(line[1]) for line in lines} == {3, 10, 12}
    widths = {(int(line[0]), int(line[1])): float(line[3]) for line in lines}
    assert widths[8, 3] < widths[4, 3] < widths[2, 3]
    assert "in four of five studies" in told
    assert [line[2] for line in lines if line[0] == "1"] == ["one"] * 3
    hours = {(int(line[0]), int(line[1])): line[6:] for line in lines}
    assert hours[1, 3] != hours[8, 3]


def test_power_looks_at_the_records_alone(study, monkeypatch, capsys):
    monkeypatch.setattr(workflow, "plan_bundle", lambda *_: pytest.fail("it builds networks"))
    its = CrossValidationWorkflow(bundle="nowhere", output_dir=str(study), power=True)
    its.initialize()
    its.run()
    assert "in four of five studies" in capsys.readouterr().out


def test_power_needs_a_pilot(tmp_path):
    make_study(tmp_path, ("ILN", "IN"), rates=(0.1,), folds=(0,), pictures=False)
    with pytest.raises(UserError, match="no power can be told from its 2 runs.*run such a pilot first"):
        describe_power(tmp_path, 1)


def test_widest_interval_is_that_of_the_least_known_method(study):
    from monai_iln.study.records import read_records
    from monai_iln.study.report.results import Results

    rows = Results.of(study, read_records(study)).verdicts
    widest = max(rows, key=lambda row: row.half_width)
    assert widest_interval(study) == (widest.half_width, f"{widest.other}, LV, left ventricle")
    assert widest.half_width > min(row.half_width for row in rows)


@pytest.mark.parametrize(
    ("seeds", "half_width", "first", "all_of_them"),
    [
        ([0], None, [0], [0]),
        ([0], 0.01, [0, 1, 2], [0, 1, 2, 3, 4]),
        ([3, 1], 0.01, [3, 1, 4], [3, 1, 4, 5, 6]),
        ([0, 1, 2, 5], 0.01, [0, 1, 2, 5], [0, 1, 2, 5, 6]),
    ],
)
def test_seeds_of_a_sequential_study(seeds, half_width, first, all_of_them):
    study = read_settings({"seeds": seeds, "half_width": half_width, "max_seeds": 5})
    assert study.first_seeds == first
    assert study.all_seeds == all_of_them


@pytest.mark.parametrize(
    ("widths", "seeds"),
    [
        ([0.005], 3),
        ([0.03, 0.02, 0.009], 5),
        ([0.03] * 9, 6),  # the budget
        ([np.nan], 3),
    ],
)
def test_seeds_are_added_until_the_widest_interval_is_narrow(tmp_path, monkeypatch, capsys, widths, seeds):
    found = CrossValidationWorkflow(bundle=str(tmp_path), output_dir=str(tmp_path), half_width=0.01, max_seeds=6)
    done = []
    monkeypatch.setattr(found, "_write_study", done.append)
    monkeypatch.setattr(found, "_measure_robustness", lambda _: None)
    for name in ("run_all", "forget_failures"):
        monkeypatch.setattr(workflow, name, lambda *_: None)
    monkeypatch.setattr(workflow, "report", lambda _: None)
    found.plan = Plan([SimpleNamespace(seed=seed) for seed in range(6)])
    monkeypatch.setattr(workflow, "pending", lambda runs, *_: runs)
    monkeypatch.setattr(workflow, "widest_interval", lambda _: (widths[len(done) - 1], "IN, LV"))
    found._run_seeds(found.study.first_seeds)
    assert done == [list(range(3 + more)) for more in range(seeds - 2)]
    told = capsys.readouterr().out
    assert ("used up" in told) == (seeds == 6)
    assert told.count("all methods get another seed") == seeds - 3


def test_a_sequential_study_goes_on_with_the_seeds_that_are_finished(tmp_path, monkeypatch):
    found = CrossValidationWorkflow(bundle=str(tmp_path), output_dir=str(tmp_path), half_width=0.01, max_seeds=6)
    done = []
    found.plan = Plan([SimpleNamespace(seed=seed) for seed in range(6)])
    monkeypatch.setattr(found, "_write_study", done.append)
    for name in ("run_all", "report", "forget_failures"):
        monkeypatch.setattr(workflow, name, lambda *_: None)
    monkeypatch.setattr(workflow, "pending", lambda runs, *_: [run for run in runs if run.seed > 3])
    monkeypatch.setattr(workflow, "widest_interval", lambda _: (0.005, "IN, LV"))
    monkeypatch.setattr(found, "_measure_robustness", lambda _: None)
    found._run_seeds(found.study.first_seeds)
    assert done == [[0, 1, 2, 3]]


def test_significance_stops_nothing():
    study = read_settings({"half_width": 0.01})
    assert "another seed" in stopping_sentence(0.0101, "IN, LV", study, 3)
    assert "the study stops with 3 seeds" in stopping_sentence(0.01, "IN, LV", study, 3)


def planned(folds, seeds, split, metric=None, methods=("ILN", "IN", "LN")):
    cases = Cases("d", ({},) * 12, tuple("abcdefghijkl"), tuple(number % 3 for number in range(12)))
    runs = [
        SimpleNamespace(dataset="d", method=method, fold=fold, seed=seed, split=seed if split else 0)
        for method, fold, seed in itertools.product(methods, folds, seeds)
    ]
    return Plan(runs, {"d": SimpleNamespace(cases=cases)}, metric=metric)


def test_what_a_plan_can_show_is_told_before_its_runs():
    new, one = (expected_power(planned(range(3), range(3), split), "d") for split in (True, False))
    assert "12 subjects, 3 folds and 3 seeds of d find a difference of 0.0" in new
    least = [float(re.search(r"difference of (\S+) in", told)[1]) for told in (new, one)]
    assert least[0] < least[1]
    assert "Nothing can be tested on d with one fold" in expected_power(planned([0], [0], False), "d")
    assert expected_power(planned(range(3), [0], False, methods=["ILN"]), "d") == ""
    assert expected_power(planned(range(3), [0], False, metric={"in_unit_interval": False}), "d") == ""
    assert "degree" not in new + one
    other = {"name": "val_recall", "in_unit_interval": True}
    assert "spreads as usual for Dice" in expected_power(planned(range(3), range(3), False, metric=None), "d")
    assert "If its scores spread as Dice" in expected_power(planned(range(3), range(3), False, metric=other), "d")


def test_few_degrees_of_freedom_are_why_a_difference_is_large():
    def told(methods, folds, subjects=12):
        names = tuple("abcdefghijkl"[:subjects])
        cases = Cases("d", ({},) * subjects, names, tuple(number % folds for number in range(subjects)))
        plan = planned(range(folds), [0], False, methods=["ILN", "IN", "LN"][:methods])
        return expected_power(replace(plan, data={"d": SimpleNamespace(cases=cases)}), "d")

    assert "find a difference of 0.272 in" in told(2, 2)
    assert "find a difference of 0.133 in" in told(3, 2)
    assert "find a difference of 0.088 in" in told(2, 3)
    why = "2 methods and 2 folds tell the luck of trainings with 1 degree of freedom: with a "
    assert f"{why}fold more it would be 0.088, with a method more 0.133." in told(2, 2)
    assert "with 2 degrees of freedom" in told(3, 2)
    assert "degree" not in told(3, 3)
    assert f"{why}method more it would be" in told(2, 2, 2)


def test_a_failure_is_forgotten_when_the_plan_is_that_of_the_record_again(tmp_path, monkeypatch):
    found = CrossValidationWorkflow(bundle=str(tmp_path), output_dir=str(tmp_path))
    run = SimpleNamespace(seed=0, path=Path("runs/d/IN/fold_0/lr_0.1/seed_0"))
    found.plan = Plan([run])
    write_failure(tmp_path / run.path, {}, "another configuration is wrong")
    for name in ("pending", "run_all", "report"):
        monkeypatch.setattr(workflow, name, lambda *_: [])
    monkeypatch.setattr(found, "_write_study", lambda _: None)
    monkeypatch.setattr(found, "_measure_robustness", lambda _: None)
    found._run_seeds([0])
    assert read_failure(tmp_path / run.path) is None
