"""A study on bundles that nobody prepared for it, written as MONAI's model zoo writes them."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from zoo import train_file, write_bundle
from zoo_data import write_data

from monai_iln.errors import UserError
from monai_iln.study import CrossValidationWorkflow
from monai_iln.study.bundles import find_bundle
from monai_iln.study.cases import make_cases, read_cases
from monai_iln.study.open_bundle import OpenBundle
from monai_iln.study.records import read_records
from monai_iln.study.report import document
from monai_iln.study.workflow import describe_methods

# MONAI warns of what the zoo's bundles do, as it would without a study.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Orientationd.__init__.labels:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*nvImageCodec:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.GradScaler:FutureWarning"),
]

ITEMS = [{"image": f"/data/patient{number // 2}_{number % 2}.nii.gz", "label": number} for number in range(8)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of data by their kind, written once."""
    folder = tmp_path_factory.mktemp("data")
    return {kind: write_data(kind, folder / kind) for kind in ("spleen", "short_axis", "classification", "regression")}


def study(tmp_path, name, data, **keys):
    bundle = write_bundle(name, tmp_path)
    keys = {"num_folds": 3, "folds": [0], "overrides": {"max_epochs": 1}, "jobs": 1, "robustness": False, **keys}
    keys = {"datalist": str(data / "dataset.json"), **keys}
    return CrossValidationWorkflow(bundle=str(bundle), output_dir=str(tmp_path / "study"), **keys)


def run(workflow):
    workflow.initialize()
    workflow.run()
    return read_records(workflow.folder)


def test_a_plan_tells_that_nothing_is_validated(tmp_path, data, capsys):
    overrides = {"max_epochs": 2, "val_interval": 5}
    workflow = study(tmp_path, "short_axis_3label", data["short_axis"], overrides=overrides, methods=["IN"])
    workflow.initialize()
    assert workflow.plan.unvalidated == (5, 2)
    assert "Nothing is validated in 2 epochs, with 5 between two validations" in describe_methods(workflow.plan)
    assert "validated" not in describe_methods(replace(workflow.plan, unvalidated=None))
    once = SimpleNamespace(get={"val_interval": 5, "max_epochs": 5}.get)  # after the last epoch
    assert OpenBundle.unvalidated(once) is None


def test_the_folder_of_a_bundles_own_list_is_no_datalist(tmp_path, data):
    folder = {"datalist": None, "dataset_dir": str(tmp_path)}
    workflow = study(tmp_path, "short_axis_3label", data["short_axis"], **folder)
    with pytest.raises(UserError, match=f"or the folder with --overrides '{{dataset_dir: {tmp_path}}}'"):
        workflow.initialize()


def test_a_missing_ray_is_told_before_anything_is_tried(tmp_path, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("monai_iln.study.workflow.plan_bundle", lambda *_: pytest.fail("it plans"))
    with pytest.raises(UserError, match="backend 'ray' needs ray"):
        study(tmp_path, "short_axis_3label", data["short_axis"], backend="ray").initialize()


def test_a_cluster_that_does_not_answer_is_told_before_anything_is_tried(tmp_path, data, monkeypatch):
    def no_answer(address, jobs, gpus):
        raise UserError(f"address {address!r}: no Ray cluster answers there")

    monkeypatch.setitem(sys.modules, "ray", object())
    monkeypatch.setattr("monai_iln.study.workflow.connect_to_ray", no_answer, raising=False)
    monkeypatch.setattr("monai_iln.study.workflow.plan_bundle", lambda *_: pytest.fail("it plans"))
    with pytest.raises(UserError, match="address 'head:6379': no Ray cluster answers there"):
        study(tmp_path, "short_axis_3label", data["short_axis"], backend="ray", address="head:6379").initialize()


def test_subjects_by_a_pattern_share_a_fold():
    cases = make_cases("eight", ITEMS, (), r"patient(\d)", 2)
    assert cases.subjects == tuple("00112233")
    assert all(cases.folds[i] == cases.folds[i + 1] for i in range(0, 8, 2))
    assert sorted(set(cases.folds)) == [0, 1]
    assert "fold" not in cases.items[0]


def test_each_item_is_a_subject_where_nothing_tells():
    assert len(set(make_cases("eight", ITEMS, (), None, 2).subjects)) == 8


@pytest.mark.parametrize(
    ("change", "subject", "message"),
    [
        ({"subject": "x"}, None, "7 items without 'subject'"),
        ({"fold": 0}, None, "each item has a whole number"),
        ({}, "name(", "no regular expression"),
        ({"image": ITEMS[1]["image"]}, r"patient(\d)", "1 image of several items"),
        ({}, "patient", "a group in brackets"),
        ({}, r"case(\d)", "does not match"),
    ],
)
def test_wrong_cases_are_one_message(change, subject, message):
    items = [{**ITEMS[0], **change}, *ITEMS[1:]]
    with pytest.raises(UserError, match=message):
        make_cases("eight", items, (), subject, 2)


def test_a_subject_in_two_folds_is_refused():
    items = [
        {**item, "subject": "one" if number < 2 else str(number), "fold": number % 2}
        for number, item in enumerate(ITEMS)
    ]
    with pytest.raises(UserError, match="subject one in the folds 0 and 1"):
        make_cases("eight", items, (), None, 2)


def test_cases_are_written_as_they_are_read(tmp_path, data):
    cases = read_cases(data["spleen"] / "dataset.json")
    cases.write(tmp_path / "datalist.json")
    again = read_cases(tmp_path / "datalist.json", num_folds=2)  # it has folds already
    assert again.describe() == cases.describe()
    assert again.split(0, 5) == cases.split(0, 5)
    parts = cases.split(0, 5)
    assert sorted(number for part in parts.values() for number in part) == list(range(len(cases.items)))
    assert all(parts.values())


def test_splits_deal_subjects_anew():
    cases = make_cases("eight", ITEMS, (), r"patient(\d)", 2)
    assert cases.of_split(0) == cases
    splits = [cases.of_split(split) for split in range(8)]
    assert len({one.folds for one in splits}) > 2
    for one in splits:
        assert all(one.folds[i] == one.folds[i + 1] for i in range(0, 8, 2))  # a subject stays whole
        assert [one.folds.count(fold) for fold in (0, 1)] == [4, 4]
    labelled = make_cases("eight", [{**item, "fold": 3 + 4 * (item["label"] > 3)} for item in ITEMS], (), r"t(\d)_", 2)
    assert set(labelled.of_split(5).folds) == {3, 7}


def given_folds(data):
    document = json.loads((data / "dataset.json").read_text())
    document["training"] = [{**item, "fold": number % 3} for number, item in enumerate(document["training"])]
    (data / "folds.json").write_text(json.dumps(document))
    return data / "folds.json"


@pytest.mark.parametrize(
    ("given", "splits", "expected"),
    [(False, None, [0, 1, 2]), (True, None, [0, 0, 0]), (False, "one", [0, 0, 0]), (True, "new", [0, 1, 2])],
)
def test_folds_are_made_anew_for_each_seed_unless_they_are_given(tmp_path, data, given, splits, expected):
    keys = {"datalist": str(given_folds(data["spleen"]))} if given else {}
    workflow = study(tmp_path, "spleen", data["spleen"], methods="IN", seeds=[0, 1, 2], splits=splits, **keys)
    workflow.initialize()
    runs = workflow.runs
    assert [run.split for run in runs] == expected
    one = study(tmp_path / "one", "spleen", data["spleen"], methods="IN", seeds=[0, 1, 2], splits="one", **keys)
    one.initialize()
    same = [run.config_hash == other.config_hash for run, other in zip(runs, one.runs, strict=True)]
    assert same == [run.split == 0 for run in runs]  # what was run with one split is not taken for another
    tested = workflow.plan.count_tested_subjects("spleen")
    assert tested > one.plan.count_tested_subjects("spleen") or max(expected) == 0


def test_references_lead_to_flat_ids(tmp_path):
    bundle = find_bundle(write_bundle("hard_coded", tmp_path), None, None, {})
    assert bundle.ids["train_dataset_data"] == "train_dataset#data"
    assert bundle.ids["val_dataset_data"] == "val_dataset#data"


def test_an_argument_of_a_property_is_overridden_wherever_it_is(tmp_path):
    folder = write_bundle("spleen", tmp_path)
    given = {"trainer#amp": True, "evaluator#to_kwargs": {"memory_format": "$torch.channels_last"}, "max_epochs": 2}
    places = {"trainer#amp": "train#trainer#amp", "evaluator#to_kwargs": "validate#evaluator#to_kwargs"}
    bundle = find_bundle(folder, None, None, given)
    assert bundle.overrides == {places.get(key, bundle.ids.get(key, key)): value for key, value in given.items()}
    with pytest.raises(UserError, match="'amb' is no argument of SupervisedTrainer. Did you mean 'amp'?"):
        find_bundle(folder, None, None, {"trainer#amb": True})
    config = json.loads(train_file(folder).read_text())
    config["trainer"] = {"_target_": "dict", "nice": True}  # an id of the bundle's own comes first
    train_file(folder).write_text(json.dumps(config))
    assert find_bundle(folder, None, None, {"trainer#quick": True}).overrides == {"trainer#quick": True}


def test_all_that_a_bundle_lacks_is_listed_at_once(tmp_path):
    folder = write_bundle("spleen", tmp_path)
    config = json.loads(train_file(folder).read_text())
    config["net"] = config.pop("network_def")
    del config["validate"]["evaluator"]
    train_file(folder).write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        find_bundle(folder, None, None, {})
    assert all(name in str(caught.value) for name in ("2 cannot be found", "network_def", "evaluator", "--properties"))
    with pytest.raises(UserError, match="evaluator") as caught:
        find_bundle(folder, None, {"network_def": "net"}, {})
    assert "network_def" not in str(caught.value)


def test_methods_that_build_the_same_network_are_refused(tmp_path, data):
    workflow = study(
        tmp_path, "short_axis_3label", data["short_axis"], methods={"a": "IN", "b": ["INSTANCE", {"affine": True}]}
    )
    with pytest.raises(UserError, match="methods a and b: both build the same network"):
        workflow.initialize()


def test_the_plan_tells_what_a_method_does(tmp_path, data, capsys):
    workflow = study(tmp_path, "spleen", data["spleen"], methods="ILN,BATCH_KALMAN,WEIGHT,own")
    workflow.initialize()
    surveys = workflow.plan.surveys
    assert surveys["ILN"]["dead_gates"] == surveys["ILN"]["gates"] == 9
    assert surveys["own"]["kinds"] == {"BatchNorm3d": 9}
    assert surveys["BATCH_KALMAN"]["kinds"] == {"BatchKalmanNorm": 9}
    assert workflow.plan.metric == {"name": "val_mean_dice", "higher_is_better": True, "in_unit_interval": True}
    workflow._tell_plan(workflow.runs)
    told = capsys.readouterr().out
    assert "9 of 9 gates of ILN are dead" in told
    assert "Nothing can be tested on spleen with one fold" in told


def test_the_plan_keeps_its_columns_under_a_long_name(tmp_path, data, capsys):
    methods = [["ILN", {"num_groups": "alive"}], "IN"]
    workflow = study(tmp_path, "short_axis_3label", data["short_axis"], methods=methods, folds=[0, 1])
    workflow.initialize()
    workflow._tell_plan(workflow.runs)
    told = capsys.readouterr().out
    head, long, short = [line for line in told.splitlines() if line.startswith(("  method ", "  ILN-", "  IN "))]
    end = head.index(" norms") + len(" norms")
    assert long[:end].endswith("alive      9")
    assert short[:end].endswith(" 9")


@pytest.mark.slow
def test_a_bundle_runs_as_it_is(tmp_path, data, monkeypatch):
    bundle = tmp_path / "spleen"
    workflow = study(tmp_path, "spleen", data["spleen"], methods="IN,own", seeds=[0, 1])
    before = {path: path.read_bytes() for path in sorted(bundle.rglob("*")) if path.is_file()}
    records = run(workflow)
    assert {path: path.read_bytes() for path in sorted(bundle.rglob("*")) if path.is_file()} == before
    assert list(records.runs["status"]) == ["finished"] * 4
    test = records.images[records.images["part"] == "test"]
    assert sorted(test.groupby("run", observed=True).size().unique()) == [4]
    scores = test[test["method"] == "IN"].groupby("seed")["score"].mean()
    assert scores.nunique() == 2  # though the bundle sets its own seed
    ours = test["dice"].to_numpy(float)
    assert ours == pytest.approx(test["score"].to_numpy(float), abs=1e-4)
    assert all((workflow.folder / row.run / row.prediction).is_file() for row in test.itertuples())
    assert list((workflow.folder / "report/figures").glob("overlays-spleen*.png"))
    weights = torch.load(workflow.folder / "runs/spleen/IN/fold_0/lr_0.01/seed_0/model.pt", weights_only=True)
    assert not any("running_mean" in key for key in weights)
    assert not list(workflow.folder.rglob("bundle"))
    workflow = study(tmp_path, "spleen", data["spleen"], methods="IN,own", seeds=[0, 1])
    workflow.initialize()
    stamps = {path: path.stat().st_mtime_ns for path in workflow.folder.rglob("run.json")}
    monkeypatch.setattr(document, "_png", lambda figure: b"")  # painted once
    workflow.run()  # nothing is done twice
    assert {path: path.stat().st_mtime_ns for path in workflow.folder.rglob("run.json")} == stamps


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted")
def test_a_rate_goes_to_the_optimizer(tmp_path, data):
    workflow = study(tmp_path, "short_axis_3label", data["short_axis"], methods="ILN", learning_rates=[1e3])
    records = run(workflow)
    (row,) = records.runs.to_dict("records")
    assert row["learning_rate"] == 1e3
    losses = pd.read_csv(workflow.folder / row["run"] / "losses.csv")
    assert row["status"] == "diverged" or losses["loss"].max() > 0.999  # Dice has no more


def test_a_schedule_with_a_rate_of_its_own_does_not_hide_a_grid_of_rates(tmp_path, data):
    one_cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "optimizer": "@optimizer", "total_steps": 1000}
    overrides = {"max_epochs": 1, "lr_scheduler": {**one_cycle, "max_lr": 0.05}}
    keys = {"methods": "IN", "overrides": overrides, "learning_rates": [0.5], "attempts": 1}
    workflow = study(tmp_path, "dynunet", data["spleen"], **keys)
    with pytest.raises(UserError, match="^1 run failed"):
        run(workflow)
    (row,) = read_records(workflow.folder).runs.to_dict("records")
    message = "learning_rates 0.5: the schedule of the bundle has a rate of its own, and starts from 0.002."
    assert row["message"].startswith(message)


@pytest.mark.slow
@pytest.mark.usefixtures("laid_out")
@pytest.mark.parametrize(
    ("name", "kind", "higher"), [("classification", "classification", True), ("regression", "regression", False)]
)
def test_any_task_with_a_score_of_each_case(tmp_path, data, name, kind, higher):
    workflow = study(tmp_path, name, data[kind], methods="ILN,IN", robustness=True)
    records = run(workflow)
    assert records.study["metric"]["higher_is_better"] is higher
    assert records.images["score"].notna().all()
    assert list(records.runs["status"]) == ["finished"] * 2
    assert (workflow.folder / "report" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", ["hard_coded", "dynunet"])
def test_norms_that_no_argument_reaches(tmp_path, data, name):
    kind = "short_axis" if name == "hard_coded" else "spleen"
    records = run(study(tmp_path, name, data[kind], methods="ILN,GN4,WEIGHT,own"))
    assert list(records.runs["status"]) == ["finished"] * 4
