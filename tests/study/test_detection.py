"""A study on a bundle that finds boxes: its network is held by a detector, and its batches are lists."""

import contextlib
import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.metrics import Accuracy, EpochMetric, Metric
from monai.inferers import SimpleInferer
from zoo_detection import CASES, write_boxes, write_detection

from monai_iln.errors import UserError
from monai_iln.handlers.cases import NoCaseScoresError, SaveCaseScores
from monai_iln.handlers.changed_inferer import ChangedInferer
from monai_iln.handlers.changes import BATCH, CHANGES
from monai_iln.run_files import RECORD, ROBUSTNESS, UNCHANGED
from monai_iln.study import CrossValidationWorkflow, training
from monai_iln.study.records import read_records

# MONAI warns so where a bundle asks for a GPU that is not there.
pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_boxes(tmp_path_factory.mktemp("boxes") / "data")


@pytest.fixture
def study(tmp_path, data):
    def make(bundle, **keys):
        keys = {"methods": "IN,own", "num_folds": 2, "overrides": {"max_epochs": 8}, "jobs": 1, **keys}
        keys = {"datalist": str(data / "dataset.json"), **keys}
        return CrossValidationWorkflow(bundle=str(bundle), output_dir=str(tmp_path / "study"), **keys)

    return make


def test_norms_within_a_detector_are_replaced_and_counted(study, tmp_path):
    workflow = study(write_detection(tmp_path), methods="IN,GN4,own")
    workflow.initialize()
    kinds = {method: its["kinds"] for method, its in workflow.plan.surveys.items()}
    own = {"BatchNorm2d": 2, "GroupNorm": 1}
    assert kinds == {"IN": {"InstanceNorm2d": 3}, "GN4": {"GroupNorm": 3}, "own": own}


@pytest.mark.slow
@pytest.mark.usefixtures("laid_out")
def test_a_detector_is_studied_from_plan_to_report(study, tmp_path, capsys):
    workflow = study(write_detection(tmp_path))
    workflow.initialize()
    workflow.run()
    assert "could not be measured" not in capsys.readouterr().out
    records = read_records(workflow.folder)
    assert list(records.runs["status"]) == ["finished"] * 4
    tested = records.images[records.images["part"] == "test"]
    assert tested.groupby(["method", "image"], observed=True).size().tolist() == [1] * 2 * CASES
    assert set(tested["structure"]) == {"all"}
    assert set(tested["score"]) <= {0.0, 0.5, 1.0}  # of a case with one box or two
    assert tested["score"].mean() > 0.25  # an image has a hundred places for two boxes
    assert tested["dice"].isna().all()
    changed = ROBUSTNESS.read(workflow.folder / records.runs["run"].iloc[0])
    assert set(changed["change"]) == {UNCHANGED, "gain", "offset", "bias field"}
    assert changed["score"].notna().all()
    weights = torch.load(workflow.folder / records.runs["run"].iloc[0] / "model.pt", weights_only=True)
    assert records.runs["method"].iloc[0] == "IN"
    assert not any("running_mean" in key for key in weights)
    page = (workflow.folder / "report" / "report.md").read_text()
    assert "recall" in page
    assert not any(word in page for word in ("Dice", "Segmented", "urface distance", "olume"))


@pytest.mark.parametrize("metric", ["Recall", "ListedRecall"])
def test_a_metric_that_adds_up_cases_is_taken(study, tmp_path, metric):
    workflow = study(write_detection(tmp_path, metric))
    workflow.initialize()
    assert workflow.plan.metric["name"] == f"val_{metric.lower()}"


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_metric_of_all_cases_together_ends_before_any_run(study, tmp_path, dry_run):
    workflow = study(write_detection(tmp_path, "RankedPrecision"), dry_run=dry_run)
    message = (
        "key metric 'val_rankedprecision': a study needs a score of each case, and RankedPrecision keeps all outputs"
    )
    with pytest.raises(UserError, match=message):
        workflow.initialize()
    assert not workflow.folder.exists()


def test_a_metric_of_ignite_that_waits_for_all_cases_scores_none():
    metric = EpochMetric(lambda predictions, labels: 1.0, output_transform=lambda output: output[0])
    saver = SaveCaseScores("", ["a"], ["a.nii.gz"], {"auc": metric}, "test")
    saver.attach(Engine(lambda engine, batch: None))
    assert saver._score_alone((torch.ones(1), torch.ones(1))) != 1.0
    assert saver._together


class Kept(Metric):
    """Keeps something of each case, and empties its list in place."""

    def __init__(self, keep, score):
        self.kept = []
        super().__init__(output_transform=lambda its: its[0])
        self.keep, self.score = keep, score

    def reset(self):
        self.kept.clear()

    def update(self, output):
        self.kept.append(self.keep(output))

    def compute(self):
        return sum(map(self.score, self.kept)) / len(self.kept)


@pytest.mark.parametrize(
    ("keep", "score", "together"),
    [
        (lambda box: float(box[0, 0]), float, False),
        (lambda box: (float(box[0, 0]), 1.0), lambda pair: pair[0], False),
        (lambda box: [float(box[0, 0])], lambda row: row[0], False),
        (lambda box: box[0], lambda scores: float(scores[0]), False),  # of classes
        (lambda box: box, lambda boxes: float(boxes[0, 0]), True),
        (lambda box: {"boxes": box.tolist()}, lambda its: its["boxes"][0][0], True),
    ],
)
def test_what_a_metric_keeps_tells_whether_it_scores_a_case(keep, score, together):
    metric = Kept(keep, score)
    saver = SaveCaseScores("", ["a", "b"], ["a.nii.gz", "b.nii.gz"], {"one": metric}, "test")
    saver.attach(Engine(lambda engine, batch: None))
    metric.update(torch.full((3, 4), 5.0))
    scores = [saver._score_alone(torch.full((3, 4), value)) for value in (1.0, 2.0)]
    assert saver._together is together
    assert together or scores == [1.0, 2.0]
    assert metric.compute() == 5.0, "the evaluator's own goes on"


def test_a_metric_that_is_calculated_from_others_is_taken():
    accuracy = Accuracy(output_transform=lambda output: output[0])
    metric, engine = 1 - (accuracy + accuracy) / 2, Engine(lambda engine, batch: None)
    metric.attach(engine, "error")
    saver = SaveCaseScores("", ["a", "b"], ["a.nii.gz", "b.nii.gz"], {"error": metric}, "test")
    saver.attach(engine)
    right, wrong = ((torch.tensor([[0.9, 0.1]]), torch.tensor([label])) for label in (0, 1))
    accuracy.update(wrong)
    assert [saver._score_alone(output) for output in (right, wrong, right)] == [0.0, 1.0, 0.0]
    assert metric.compute() == 1.0, "the evaluator's own goes on"
    kept = 2 * Kept(lambda boxes: boxes, lambda boxes: float(boxes[0, 0]))
    saver = SaveCaseScores("", ["a"], ["a.nii.gz"], {"two": kept}, "test")
    saver.attach(engine)
    assert np.isnan(saver._score_alone(torch.ones(3, 4)))
    assert saver._together


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (NoCaseScoresError("no score"), True),
        (UserError("2 of 3 cases"), False),
        (RuntimeError("CUDA out of memory"), False),
    ],
)
def test_what_an_untrained_network_and_two_cases_may_be_blamed_for_is_left_to_the_first_run(
    study, tmp_path, monkeypatch, error, refused
):
    tried = []

    def fail(run, cases, scratch):
        tried.append(run)
        raise error

    monkeypatch.setattr(training, "try_scores", fail)
    workflow = study(write_detection(tmp_path))
    with pytest.raises(UserError, match="no score") if refused else contextlib.nullcontext():
        workflow.initialize()
    assert len(tried) == 1
    record = workflow.folder / "runs/boxes/IN/fold_0/lr_0.01/seed_0" / RECORD
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    workflow.initialize()
    assert len(tried) == 1, "what has run was scored"


def test_a_training_is_as_long_as_ever_while_two_cases_are_scored(study, tmp_path, monkeypatch):
    workflow, given = study(write_detection(tmp_path)), []
    monkeypatch.setattr(training, "_evaluate", lambda *_: None)
    values = training._values
    monkeypatch.setattr(training, "_values", lambda *its: given.append(its[2]) or values(*its))
    workflow.initialize()
    sizes = {part: len(numbers) for part, numbers in given[0].items()}
    assert sizes["test"] == 2
    assert sizes["training"] + sizes["validation"] == CASES // 2


def test_intensities_of_a_list_of_images_are_changed_and_nothing_is_moved():
    images = [torch.rand(1, 8, 8), torch.rand(1, 4, 12)]
    inferer, seen = ChangedInferer(SimpleInferer()), {}
    for change in (None, *CHANGES, BATCH):
        inferer.change = change
        predicted = inferer(images, lambda given: [{"image": image} for image in given])
        seen[change] = [its["image"] for its in predicted]
        assert inferer.applied == (change in (None, "gain", "offset", "bias field"))
    for others in ([torch.ones(1, 8, 8, dtype=torch.int)], [{"image": images[0]}]):
        inferer.change = "offset"
        assert inferer(others, lambda given: given) is not None
        assert not inferer.applied
    for number, image in enumerate(images):
        assert torch.equal(seen[None][number], image)
        torch.testing.assert_close(seen["gain"][number], 1.2 * image)
        torch.testing.assert_close(seen["offset"][number], image + 0.2 * image.std())
        assert float(seen["bias field"][number][0, 0, 0] / image[0, 0, 0]) == pytest.approx(1.2)
        assert all(torch.equal(seen[change][number], image) for change in ("shift", "smaller", "larger", BATCH))


def test_a_detector_of_another_instance_is_refused_by_the_plan(study, tmp_path):
    workflow = study(write_detection(tmp_path, held="$copy.deepcopy(@network_def)"))
    with pytest.raises(UserError, match="what the optimizer trains and network_def: a study compares norms of"):
        workflow.initialize()


def test_a_list_whose_images_are_elsewhere_is_read_by_the_bundle(study, tmp_path, data):
    bundle = write_detection(tmp_path)
    with pytest.raises(UserError, match="dataset.json"):
        study(bundle, datalist=None).initialize()
    workflow = study(bundle, datalist=None, overrides={"data_file_base_dir": str(data)})
    workflow.initialize()
    (its,) = workflow.plan.data.values()
    assert its.described["subjects"] == CASES
    document = json.loads((data / "dataset.json").read_text())
    assert its.cases.items[1]["box"] == document["training"][1]["box"]


def test_images_of_the_bundles_own_list_that_are_absent_are_refused_by_the_plan(study, tmp_path, data):
    bundle = write_detection(tmp_path)
    overrides = {"list": str(data / "dataset.json")}  # and the folder of the images is another machine's
    with pytest.raises(
        UserError, match=f"{CASES} of {CASES} files under 'image' are not there, such as /datasets/boxes"
    ):
        study(bundle, datalist=None, overrides=overrides).initialize()
