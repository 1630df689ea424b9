"""Scores under changes of the test images: measured after the runs, and told in the report."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from make_study import make_study
from test_study_report import Page
from zoo import write_bundle
from zoo_data import write_data

from monai_iln.handlers.changes import BATCH
from monai_iln.handlers.changes import CHANGES as MEASURED
from monai_iln.run_files import ROBUSTNESS, ROBUSTNESS_FAILURE, UNCHANGED, WEIGHTS
from monai_iln.study import CrossValidationWorkflow, robustness, scheduler
from monai_iln.study.records import read_records, unfinished_path
from monai_iln.study.report import document, write_report
from monai_iln.study.report import robustness as report_robustness
from monai_iln.study.report.results import Results
from monai_iln.study.report.robustness import CHANGES, draw_robustness, lines
from monai_iln.study.report.robustness_means import judge, margin_of, read

DICE = {"name": "val_mean_dice", "higher_is_better": True, "in_unit_interval": True}
ERROR = {"name": "val_mae", "higher_is_better": False, "in_unit_interval": False}


# measured


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study without it, as an earlier version left it."""
    folder = tmp_path_factory.mktemp("robustness")
    write_data("short_axis", folder / "data")
    write_bundle("short_axis_3label", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "_png", lambda figure: b"")
        command(folder, robustness=False)
    return folder


@pytest.fixture
def old(finished, tmp_path):
    shutil.copytree(finished / "study", tmp_path / "study")
    for name in ("data", "short_axis_3label"):
        (tmp_path / name).symlink_to(finished / name)  # the paths of the cases are resolved
    return tmp_path


def command(folder, **keys):
    keys = {"num_folds": 3, "folds": [0], "overrides": {"max_epochs": 1}, "jobs": 1, "methods": "BN,own", **keys}
    workflow = CrossValidationWorkflow(
        bundle=str(folder / "short_axis_3label"),
        datalist=str(folder / "data" / "dataset.json"),
        subject="(short_axis_[0-9]+)",
        output_dir=str(folder / "study"),
        **keys,
    )
    workflow.initialize()
    workflow.run()
    return workflow


def run_folders(folder):
    return sorted(path.parent for path in (folder / "study").rglob("run.json"))


@pytest.mark.slow
def test_a_study_of_before_gets_it_without_training(old, capsys):
    stamps = {path: path.stat().st_mtime_ns for run in run_folders(old) for path in run.iterdir()}
    assert not list(old.rglob(ROBUSTNESS.name))
    assert "## Robustness" not in (old / "study/report/report.md").read_text()
    leftover = run_folders(old)[0].with_name(".seed_0.dead")
    leftover.mkdir()
    workflow = command(old)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not leftover.exists()
    records = read_records(workflow.folder)
    for run in run_folders(old):
        assert {path.name for path in run.iterdir()} - {path.name for path in stamps} == {ROBUSTNESS.name}
        table = ROBUSTNESS.read(run)
        assert set(table["change"]) == {UNCHANGED, BATCH, *MEASURED}
        own = records.images[records.images["run"] == run.relative_to(workflow.folder).as_posix()]
        test = own[own["part"] == "test"]
        means = test.groupby("image", observed=True)["score"].mean()
        unchanged = table[table["change"] == UNCHANGED].set_index("image")["score"]
        assert unchanged.to_dict() == pytest.approx(means.to_dict(), abs=1e-6)
        assert table["subject"].nunique() == 4
    assert "## Robustness" in (old / "study/report/report.md").read_text()
    once = {run: (run / ROBUSTNESS.name).stat().st_mtime_ns for run in run_folders(old)}
    command(old)  # nothing is measured twice
    assert {run: (run / ROBUSTNESS.name).stat().st_mtime_ns for run in run_folders(old)} == once
    assert "could not be measured" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_fails_leaves_the_run_as_it_is_and_is_tried_again(old, capsys):
    lame, other = run_folders(old)
    weights = (lame / WEIGHTS).read_bytes()
    (lame / WEIGHTS).unlink()
    workflow = command(old)
    said = f"{workflow.runs[0]}: robustness could not be measured: {lame / WEIGHTS}: no such file"
    assert said in capsys.readouterr().out
    assert "no such file" in json.loads((lame / ROBUSTNESS_FAILURE).read_text())["traceback"]
    assert not (lame / ROBUSTNESS.name).exists()
    assert (other / ROBUSTNESS.name).is_file()
    assert list(read_records(workflow.folder).runs["status"]) == ["finished"] * 2
    (lame / WEIGHTS).write_bytes(weights)
    command(old)
    assert (lame / ROBUSTNESS.name).is_file()
    assert not (lame / ROBUSTNESS_FAILURE).exists()


@pytest.mark.slow
def test_a_worker_that_dies_twice_is_told(old, monkeypatch, capsys):
    tried = []

    def die(runs, study, settings, task):
        assert task is robustness.measure
        tried.append([run.method for run in runs])
        for run in runs:
            unfinished_path(settings.folder / run.path, settings.token).mkdir()
        return RuntimeError("killed")

    monkeypatch.setattr(scheduler, "_execute_in_parallel", die)
    command(old)
    assert all([path.name for path in run.parent.iterdir()] == ["seed_0"] for run in run_folders(old))
    assert tried == [["BN", "own"], ["BN"], ["own"]]
    told = re.findall(r"(\S+), fold.* and 1 more: .* not be measured: its worker died twice", capsys.readouterr().out)
    assert told == ["BN"], "one reason is told once"


@pytest.mark.slow
def test_the_plan_tells_its_price(old, capsys):
    shutil.rmtree(old / "study")
    command(old, dry_run=True)
    told = capsys.readouterr().out
    assert "to measure robustness, which --robustness false leaves out" in told
    command(old, dry_run=True, robustness=False)
    assert "robustness" not in capsys.readouterr().out


# told


@pytest.fixture(autouse=True)
def _unpainted(monkeypatch):
    """Figures are not painted, and that of this section alone is laid out."""
    drawn = []

    def draw(*arguments):
        drawn.append(draw_robustness(*arguments))
        return drawn[-1]

    def png(figure):
        if figure in drawn:
            figure.draw_without_rendering()
        return b""

    monkeypatch.setattr(report_robustness, "draw_robustness", draw)
    monkeypatch.setattr(document, "_png", png)


def make(folder, moves, metric=DICE, seeds=(0,), by_seed=0.0, masks=True, wide=1, **more):
    """A study with known differences ``moves`` by method and change; subjects differ a little around them."""
    methods = tuple(moves)
    made = make_study(
        folder,
        methods=methods,
        rates=(0.1,),
        pictures=False,
        metric=metric,
        datasets={"liver": ["liver"]},
        seeds=seeds,
        **more,
    )
    for row in made.runs.to_dict("records"):
        rows = []
        for number in range(6):
            wiggle = 0.001 * wide * (number - 2.5) + by_seed * row["seed"]
            for change, move in {UNCHANGED: 0.0, **moves[row["method"]]}.items():
                score = 0.8 + 0.01 * number + (move + wiggle if change != UNCHANGED else 0)
                subject = f"s{row['fold']}{number}"
                extra = ["", "", "", "", "", 1.0]
                if masks:
                    extra = [0.1, *([0.3, 0.05] if change == "shift" else ["", ""]), 4, 0.02, 1.0]
                rows.append(("test", subject, f"{subject}.nii.gz", change, score, *extra))
        ROBUSTNESS.write(folder / row["run"], rows)
    return Results.of(folder, read_records(folder))


MOVES = {
    "ILN": {"gain": 0.001, "offset": -0.002, "smaller": -0.05, "batch": 0.0},
    "IN": {"gain": 0.02, "offset": 0.0, "smaller": -0.1, "batch": 0.0},
}


def page_of(folder):
    return Page(write_report(folder, read_records(folder)).read_text(encoding="utf-8"))


def test_names_of_changes_are_those_that_are_measured():
    assert tuple(CHANGES) == (*MEASURED, BATCH)


def test_means_are_over_subjects_and_seeds(tmp_path):
    results = make(tmp_path, MOVES, seeds=(0, 1), by_seed=0.01)
    cases = read(results)
    summary = judge(cases, results.metric, margin_of(cases, results.metric)).set_index(["method", "change"])
    row = summary.loc[("ILN", "smaller")]
    assert row["difference"] == pytest.approx(-0.05 + 0.005)
    assert (row["subjects"], row["seeds"]) == (18, 2)
    assert row["between_seeds"] == pytest.approx(0.01)
    assert row["low"] < row["difference"] < row["high"]
    spread = np.tile(0.001 * (np.arange(6) - 2.5), 3)
    assert row["sd"] == pytest.approx(np.std(spread, ddof=1))
    assert "differs by up to 0.010" in page_of(tmp_path).text


def test_several_cases_of_one_image_are_compared_each_with_itself(tmp_path):
    results = make(tmp_path, MOVES)
    expected = read(results)["difference"]
    for run in results.runs["run"]:
        table = ROBUSTNESS.read(tmp_path / run)
        table["image"], table["subject"] = "cine.nii.gz", table["subject"].str[:2]
        table.to_csv(tmp_path / run / ROBUSTNESS.name, index=False)
    found = read(Results.of(tmp_path, read_records(tmp_path)))
    np.testing.assert_allclose(found["difference"], expected, atol=1e-12)
    assert set(found["image"]) == {"cine.nii.gz"}


def test_the_legend_names_a_method_that_begins_with_an_underscore(tmp_path):
    results = make(tmp_path, {"_own": {"gain": 0.02}, "IN": {"gain": 0.0}})
    cases = read(results)
    summary = judge(cases, results.metric, margin_of(cases, results.metric))
    figure = draw_robustness(summary, ["_own", "IN"], "_own", results.metric, 0.01)
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == ["_own", "IN"]


def test_a_reader_is_told_what_is_steady_and_what_is_lost(tmp_path):
    make(tmp_path, MOVES)
    page = page_of(tmp_path)
    assert "ILN is steady under gain, offset and another batch; it loses 0.050 (" in page.text
    assert ") under a smaller field of view." in page.text
    assert "IN is steady under offset and another batch; it loses 0.100 (" in page.text
    assert "; it gains 0.020 (0.018 to 0.022) under gain." in page.text
    assert page.table("liver: mean Dice of the unchanged")[1:] == [
        ["ILN", "0.825", "+0.001", "\N{MINUS SIGN}0.002", "*\N{MINUS SIGN}0.050", "0.000"],
        ["IN", "0.825", "*+0.020", "0.000", "*\N{MINUS SIGN}0.100", "0.000"],
    ]
    assert (
        "Not measured, since the network or its inferer does not take it: a bias field, a shift and a larger"
        in page.text
    )
    assert "There is one seed, so the luck of trainings is taken from that of folds" in page.text
    assert "is marked in windows without any object: ILN 2.00 %, IN 2.00 %." in page.text
    short = page.text[page.text.index("In short") : page.text.index("Dice of every method")]
    assert "What the scores hide: mean Dice falls by 0.100 (IN) and 0.050 (ILN) under a smaller field of view." in short
    (written,) = (tmp_path / "report" / "tables").glob("robustness-liver.csv")
    assert set(pd.read_csv(written)["change"]) == {UNCHANGED, *MOVES["ILN"]}


def test_seams_are_told_where_there_are_windows(tmp_path):
    make(tmp_path, {name: {"shift": 0.0} for name in ("ILN", "IN")})
    text = page_of(tmp_path).text
    assert "Masks under a shift disagree with the unchanged ones (one minus Dice) by: ILN 0.100, IN 0.100." in text
    assert "at the borders of windows, and elsewhere: ILN 0.300 and 0.050, IN 0.300 and 0.050." in text
    assert "What the scores hide" not in text


def test_who_keeps_its_score_is_named_in_the_summary(tmp_path):
    results = make(tmp_path, {"ILN": {"larger": -0.2}, "IN": {"larger": 0.001}, "None": {"larger": -0.3}})
    assert lines(results) == [
        "What the scores hide: mean Dice falls by 0.300 (None) and 0.200 (ILN) under a larger field of view; IN keeps "
        "it."
    ]


def test_of_errors_a_rise_is_the_loss(tmp_path):
    moves = {"ILN": {"gain": -0.3, "offset": 0.0}, "IN": {"gain": 0.2, "offset": 0.001}}
    results = make(tmp_path, moves, metric=ERROR, masks=False)
    text = page_of(tmp_path).text
    assert "ILN is steady under offset; it errs less by 0.300" in text
    assert lines(results)[0].startswith("What the scores hide: mean mae rises by 0.2")
    assert lines(results)[0].endswith("(IN) under gain; ILN keeps it.")
    everything = text + str(page_of(tmp_path).tables)
    assert not re.search("seam|mask|windows", everything, re.IGNORECASE)


def test_what_may_be_chance_is_no_loss(tmp_path):
    results = make(tmp_path, {"ILN": {"gain": -0.02, "larger": -0.015}, "IN": {"gain": 0.0, "larger": 0.0}}, wide=60)
    text = page_of(tmp_path).text
    said = "ILN may change under gain (-0.020) and a larger field of view (-0.015), but the interval includes 0."
    assert said.replace("(-", "(\N{MINUS SIGN}") in text
    assert lines(results) == []


def test_one_fold_does_not_tell_a_change_from_chance(tmp_path):
    make(tmp_path, {"ILN": {"gain": -0.2}, "IN": {"gain": 0.0}}, folds=(0,))
    text = page_of(tmp_path).text.replace("\N{MINUS SIGN}", "-")
    assert "ILN may change under gain (-0.200), but one fold does not tell that from chance." in text


def test_runs_without_measurement_are_named(tmp_path):
    make(tmp_path, MOVES)
    (tmp_path / "runs/liver/IN/fold_1/lr_0.1/seed_0" / ROBUSTNESS.name).unlink()
    text = page_of(tmp_path).text
    assert "1 finished run without measurement, such as runs/liver/IN/fold_1/lr_0.1/seed_0: methods may" in text


def test_without_measurements_nothing_is_said(tmp_path):
    make_study(tmp_path, rates=(0.1,), pictures=False)
    results = Results.of(tmp_path, read_records(tmp_path))
    assert lines(results) == []
    assert "Robustness" not in page_of(tmp_path).text
