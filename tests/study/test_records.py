"""A study is believed only as far as its files agree with one another."""

import contextlib
import csv
import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from make_study import make_study

from monai_iln.errors import UserError
from monai_iln.run_files import ALL_IMAGES, DICE_SCORES, FAILURE, GRID, IMAGES, RECORD, RUNS, STUDY
from monai_iln.study.records import (
    failure_path,
    find_runs,
    read_failure,
    read_records,
    unfinished_path,
    write_failure,
    write_frame,
    write_tables,
)
from monai_iln.study.report import report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_study(folder, ("ILN", "IN"), folds=(0, 1), rates=(0.1,), subjects=2, pictures=False)
    return folder


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made, tmp_path / "study")


def change(study, edit):
    """Edit the images of the first run, as someone with a spreadsheet might."""
    run = find_runs(study)[0]
    table = edit(pd.read_csv(run / IMAGES.name, dtype=object))
    table.to_csv(run / IMAGES.name, index=False)
    return run


def test_a_run_that_failed_when_it_was_done_again_has_failed(study, unpainted):
    run = find_runs(study)[0]
    record = json.loads((run / RECORD).read_text())
    before = read_records(study)
    write_failure(run, {key: record[key] for key in GRID}, "the new configuration is wrong")
    found = read_records(study)
    assert len(found.runs) == len(before.runs)
    assert found.runs["status"].value_counts().to_dict() == {"finished": 3, "failed": 1}
    assert found.runs["split"].tolist() == [0] * 4
    assert run.relative_to(study).as_posix() not in set(found.images["run"])
    with pytest.raises(UserError, match="^1 run failed"):
        report(study)


def test_a_run_under_way_is_no_run_yet(study):
    """Its folder is hidden, and its record is there before the folder gets its name."""
    run = find_runs(study)[0]
    shutil.copytree(run, unfinished_path(run, "token"))
    assert len(find_runs(study)) == len(read_records(study).runs) == 4


def test_a_run_without_images_takes_nothing_from_the_others(study):
    run = change(study, lambda table: table.iloc[:0])
    record = json.loads((run / RECORD).read_text())
    nothing = {"images": {"test": 0, "validation": 0}, "scores": dict.fromkeys(record["scores"])}
    (run / RECORD).write_text(json.dumps(record | nothing))
    records = read_records(study)
    assert (len(records.runs), records.images["run"].nunique()) == (4, 3)


def test_methods_that_the_last_start_left_out_come_last(study):
    plan = json.loads((study / STUDY).read_text())
    (study / STUDY).write_text(json.dumps(plan | {"methods": {"IN": "IN"}}))
    records = read_records(study)
    assert list(records.runs["method"].unique()) == list(records.images["method"].unique()) == ["IN", "ILN"]


@pytest.mark.parametrize(("by", "told"), [("1e-12", False), ("1e-6", True)])
def test_a_score_that_differs_by_more_than_rounding_is_not_that_of_the_record(study, by, told):
    def edit(table):
        return table.assign(dice=[float(table["dice"].iloc[0]) + float(by), *table["dice"][1:]])

    change(study, edit)
    with pytest.raises(UserError, match="_dice is") if told else contextlib.nullcontext():
        read_records(study)


def test_a_column_that_someone_added_to_a_run_is_passed_over(study):
    change(study, lambda table: table.assign(mine=1))
    assert "mine" not in read_records(study).images


def test_runs_of_two_configurations_are_told(study, unpainted):
    def hashed(*hashes):
        for run, its in zip(find_runs(study), itertools.cycle(hashes), strict=False):
            (run / RECORD).write_text(json.dumps(json.loads((run / RECORD).read_text()) | {"protocol_hash": its}))
        report(study)
        return (study / "report" / "report.md").read_text()

    told = "Runs of several configurations or data are mixed on LV, which cannot be compared."
    assert told not in hashed("a")
    assert told in hashed("a", "b")


def without_counts(run):
    """Make the record one of an earlier version, which counted nothing."""
    record = json.loads((run / RECORD).read_text())
    del record["images"]
    (run / RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda table: table.iloc[: len(table) * 2 // 3], "rows of the part"),
        (lambda table: table[table["part"] == "test"], "0 rows of the part validation"),
        (lambda table: pd.concat([table, table.iloc[:3]]), "3 of its 27 rows twice"),
        (lambda table: table.drop(columns="dice"), "lacks the columns dice"),
        (lambda table: table.iloc[:0], "0 rows of the part test"),
        (lambda table: table.assign(dice="0.5"), "test_dice is 0.5, and run.json says"),
        (lambda table: table.assign(hd95_mm="far"), "hd95_mm is 'far' in row 1, and must be a number"),
        (lambda table: table.assign(dice=["nan", *table["dice"][1:]]), "dice is empty in row 1"),
        (lambda table: table.assign(truth_pixels=""), "truth_pixels is empty in row 1"),
        (lambda table: table.assign(subject=["", *table["subject"][1:]]), "subject is empty in row 1"),
    ],
)
def test_images_that_are_not_those_of_the_record(study, edit, why):
    run = change(study, edit)
    with pytest.raises(UserError) as raised:
        read_records(study)
    message = str(raised.value)
    assert str(run / IMAGES.name) in message
    assert why in message
    assert "delete its folder, and the study will do the run again" in message


@pytest.mark.parametrize("edit", [lambda table: table.iloc[: len(table) * 2 // 3], lambda table: table.iloc[:0]])
def test_earlier_records_count_nothing_and_have_a_mean(study, edit):
    runs = find_runs(study)
    for run in runs:
        without_counts(run)
    assert len(read_records(study).runs) == len(runs)
    change(study, edit)
    with pytest.raises(UserError, match="_dice is .* and run.json says"):
        read_records(study)


def test_a_folder_holds_its_own_run(study):
    first, second, *_ = find_runs(study)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with pytest.raises(UserError, match=f"it is the record of {first.relative_to(study).as_posix()}"):
        read_records(study)


def test_a_record_that_lacks_what_tells_its_run(study):
    path = find_runs(study)[0] / RECORD
    record = json.loads(path.read_text())
    del record["seed"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="not the record of a run .it lacks seed."):
        read_records(study)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"scores": []}, "its scores is [], and must be of another kind"),
        ({"cost": None}, "its cost is None, and must be of another kind"),
        ({"scores": {"test_dice": "good"}}, "its scores are {'test_dice': 'good'}, and must be numbers"),
        ({"status": "weird"}, "its status is 'weird'"),
        ({"images": None}, "its images are None, and must be numbers"),
        ({"images": {"training": 3}}, "0 rows of the part training, and run.json counts 3"),
    ],
)
def test_a_record_of_another_kind(study, values, why):
    path = find_runs(study)[0] / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError) as raised:
        read_records(study)
    assert why in str(raised.value)
    assert "delete its folder" in str(raised.value)


def test_a_failure_of_another_kind(study):
    run = find_runs(study)[0]
    write_failure(run, {}, "wrong")
    path = failure_path(run) / FAILURE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"grid": None}))
    with pytest.raises(UserError, match="not the failure of a run .its grid is None"):
        read_failure(run)


def test_each_text_is_held_once(study):
    images = read_records(study).images
    assert {str(images[column].dtype) for column in ALL_IMAGES.texts} == {"category"}
    assert list(images["method"].unique()) == ["ILN", "IN"]


def test_a_run_that_lacks_what_others_have(study):
    """Runs on volumes have no position, and some have no files."""
    run = change(study, lambda table: table.assign(position="", image=""))
    images = read_records(study).images
    own = images["run"] == run.relative_to(study).as_posix()
    assert images.loc[own, ["position", "image"]].isna().all(axis=None)
    assert set(images.loc[~own, "position"]) == {"base", "mid", "apex"}


ACCURACY = {"name": "val_acc", "higher_is_better": True, "in_unit_interval": True}
ERROR = {"name": "val_mae", "higher_is_better": False, "in_unit_interval": False}


def test_the_score_of_our_own_runs_is_dice(study):
    assert "score" not in pd.read_csv(find_runs(study)[0] / IMAGES.name)
    records = read_records(study)
    np.testing.assert_array_equal(records.images["score"], records.images["dice"])
    for name, dice in DICE_SCORES.items():
        np.testing.assert_array_equal(records.runs[name], records.runs[dice])


@pytest.mark.parametrize(("metric", "masks"), [(ACCURACY, False), (ERROR, False), (None, True)])
def test_runs_of_any_metric_are_read_and_written(tmp_path, metric, masks):
    """Cases of other tasks have no slice, phase or position, and where there are no masks no Dice and no pixels."""
    metric = metric or {"name": "val_mean_dice", "higher_is_better": True, "in_unit_interval": True}
    made = make_study(
        *(tmp_path, ("ILN", "IN")), folds=(0, 1), rates=(0.1,), subjects=2, pictures=False, metric=metric, masks=masks
    )
    records = read_records(tmp_path)
    assert len(records.images) == len(made.images) == 32  # of each subject two cases
    assert records.images["dice"].isna().all() != masks
    assert records.images[["phase", "slice", "index", "position"]].isna().all(axis=None)
    np.testing.assert_allclose(sorted(records.images["score"]), sorted(made.images["score"]), rtol=1e-12)
    np.testing.assert_allclose(sorted(records.runs["test_score"]), sorted(made.runs["test_score"]), rtol=1e-12)
    write_tables(tmp_path, records)
    pd.testing.assert_frame_equal(ALL_IMAGES.read(tmp_path), records.images)
    summary = json.loads((tmp_path / "summary.json").read_text())
    for run, row in records.runs.set_index("run").iterrows():
        found = summary[run]["left ventricle"]
        assert found["mean"] == pytest.approx(row["test_score"])
        assert len(found["cases"]) == 2  # subjects


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda table: table.assign(score="0.5"), "test_score is 0.5, and run.json says"),
        (lambda table: table.assign(score="far"), "score is 'far' in row 1, and must be a number"),
        (lambda table: table.assign(subject=["", *table["subject"][1:]]), "subject is empty in row 1"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "1 of its 5 rows twice"),
        (lambda table: table.iloc[:3], "rows of the part"),
        (lambda table: table.drop(columns="score"), "phase is empty in row 1"),
    ],
)
def test_cases_that_are_not_those_of_the_record(tmp_path, edit, why):
    options = {"folds": (0, 1), "rates": (0.1,), "subjects": 1, "pictures": False, "metric": ERROR, "masks": False}
    make_study(tmp_path, ("ILN", "IN"), **options)
    change(tmp_path, edit)
    with pytest.raises(UserError) as raised:
        read_records(tmp_path)
    assert why in str(raised.value)


def test_cases_without_a_file_of_one_subject_are_not_one_case_twice(tmp_path):
    options = {"folds": (0, 1), "rates": (0.1,), "subjects": 1, "pictures": False, "metric": ERROR, "masks": False}
    make_study(tmp_path, ("ILN", "IN"), **options)
    change(tmp_path, lambda table: table.assign(image="", structure=""))
    records = read_records(tmp_path)
    write_tables(tmp_path, records)
    run = find_runs(tmp_path)[0].relative_to(tmp_path).as_posix()
    assert list(json.loads((tmp_path / "summary.json").read_text())[run]) == [""]


def test_tables_hold_what_the_runs_do(study):
    records = read_records(study)
    write_tables(study, records)
    pd.testing.assert_frame_equal(ALL_IMAGES.read(study), records.images)
    found = RUNS.read(study)
    np.testing.assert_array_equal(found["test_dice"], records.runs["test_dice"])
    summary = json.loads((study / "summary.json").read_text())
    for run, row in records.runs.set_index("run").iterrows():
        assert summary[run]["left ventricle"]["mean"] == pytest.approx(row["test_dice"])
        assert summary[run]["left ventricle"]["images"] == 12


def test_a_table_of_pandas_holds_no_formulas(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_iln.study.records._ROWS_AT_ONCE", 2)  # of three
    frame = pd.DataFrame({"method": ["=1+1", "IN", None], "change": [-0.5, np.nan, 2], "images": [1, 2, 3]})
    write_frame(tmp_path / "table.csv", frame.astype({"method": "category"}))
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["method", "change", "images"], ["'=1+1", "-0.5", "1"], ["IN", "", "2"], ["", "2.0", "3"]]
