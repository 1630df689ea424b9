"""The stack that an annotator is offered next, with tasks and studies that behave as MONAI Label's."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_iln.errors import UserError
from monai_iln.label import strategies
from monai_iln.label.checkpoints import list_checkpoints
from monai_iln.label.strategies import LEAST_SURE, LeastSure, RandomStack

SHAPE = (8, 8, 4)


class Studies:
    """Images of a folder, none of them labelled unless said so."""

    def __init__(self, folder):
        self.folder, self.labelled, self.info, self.unfit = folder, set(), {}, []

    def get_unlabeled_images(self, tag=None, labels=None):
        return [path.name for path in self.folder.iterdir() if path.name not in self.labelled]

    def list_images(self):
        return [path.name for path in self.folder.iterdir() if path.name not in self.unfit]

    def get_image_uri(self, image):
        if image in self.unfit:
            raise RuntimeError from UserError("its pixels cannot be read")
        return str(self.folder / image)

    def get_image_info(self, image):
        return self.info.get(image, {})


class Task:
    """Doubts as many slices as an image's brightness says; each checkpoint marks as many rows as it was given."""

    def __init__(self, bundle, **rows):
        self.bundle, self.rows, self.asked, self.sure = bundle, rows, [], 1.0
        (bundle / "models").mkdir(parents=True)
        for name in ("model", *rows):
            (bundle / "models" / f"{name}.pt").write_text(name)

    def __call__(self, request):
        path, name = Path(request["image"]), Path(request["model_filename"]).stem
        self.asked.append((path.name, name))
        if self.rows.get(name, 1) is None:
            raise RuntimeError from UserError("not a checkpoint")
        mask = torch.zeros(SHAPE)
        mask[: self.rows.get(name, 4)] = 1
        doubted = int(np.asarray(nib.load(path).dataobj).max())
        return None, {"pred": mask, "doubts": [self.row(number < doubted) for number in range(4)]}

    def row(self, doubted):
        return {"doubts": "edge" * doubted, "probability": None if doubted else self.sure}


def add(folder, name, doubted=0, shape=SHAPE):
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.full(shape, doubted, np.int16), np.diag([1.5, 1.5, 8, 1])), folder / f"{name}.nii")


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "studies"
    for name, doubted in (("a", 1), ("b", 3), ("c", 2)):
        add(folder, name, doubted)
    return Studies(folder)


@pytest.fixture
def bad(studies):
    add(studies.folder, "cine", 4, (*SHAPE, 3))
    add(studies.folder, "planar", 4, SHAPE[:2])
    (studies.folder / "cut.nii.gz").write_bytes(b"\x1f\x8b")
    return studies


def offer(strategy, studies, now=0, **request):
    """What is offered, noted as the server does."""
    offered = strategy(request, studies)
    studies.info[offered["id"]] = {"strategy": {LEAST_SURE: {"ts": now}}}
    return offered


def test_the_most_doubted_stack_comes_first_and_what_was_offered_last(bad, tmp_path):
    strategy = LeastSure({"heart": Task(tmp_path / "heart")})
    offered = [offer(strategy, bad, now)["id"] for now in range(1, 6)]
    assert offered == ["b.nii", "c.nii", "a.nii", "b.nii", "c.nii"]
    bad.labelled = {"b.nii", "c.nii"}
    assert strategy({}, bad) == {"id": "a.nii", "score": 0.25, "scored": 1, "unlabeled": 4}
    bad.labelled.add("a.nii")
    assert strategy({}, bad) is None


def test_checkpoints_that_disagree_count_and_shipped_weights_do_not(studies, tmp_path):
    task = Task(tmp_path / "heart", fold_1=2, broken=None, shipped=8)
    score = LeastSure({"heart": task})({}, studies)["score"]
    assert score == pytest.approx(3 / 4 + 1 - 2 * 2 / (4 + 2), abs=1e-4)
    assert {name for _, name in task.asked} == {"model", "fold_1", "broken"}


def test_the_probability_of_what_is_marked_counts(studies, tmp_path):
    task = Task(tmp_path / "heart")
    task.sure = 0.875
    assert LeastSure({"heart": task})({}, studies)["score"] == 3 / 4 + 1 / 8


@pytest.mark.parametrize("strategy", ["random", LEAST_SURE])
def test_what_the_studies_find_to_be_no_stack_is_skipped(studies, tmp_path, strategy, monkeypatch):
    """A PACS tells when the files of an image are fetched, and offers it no more."""
    studies.unfit = ["b.nii", "c.nii"]
    offer = RandomStack() if strategy == "random" else LeastSure({"model": Task(tmp_path / "bundle")})
    for _ in range(3):
        assert offer({}, studies)["id"] == "a.nii"
    monkeypatch.setattr(studies, "list_images", lambda: ["a.nii", "b.nii", "c.nii"])
    studies.unfit = ["a.nii", "b.nii", "c.nii"]
    with pytest.raises(RuntimeError):  # such as a PACS that is down
        offer({}, studies)


def test_a_stack_on_which_nothing_is_marked_is_the_least_sure(studies, tmp_path):
    add(studies.folder, "d", doubted=4)
    offered = LeastSure({"model": Task(tmp_path / "bundle")})({}, studies)
    assert (offered["id"], offered["score"]) == ("d.nii", 2.0)


def test_a_file_that_is_being_written_is_no_checkpoint(tmp_path):
    """A kill in the middle leaves one, half-written."""
    (tmp_path / "models").mkdir()
    for name in ("shipped.pt", ".4711_model.pt", "fold1.pt", "model.pt"):
        (tmp_path / "models" / name).touch()
    assert list_checkpoints(tmp_path) == ["model.pt", "fold1.pt", "shipped.pt"]


def test_a_first_checkpoint_that_fails_is_told(studies, tmp_path):
    with pytest.raises(RuntimeError):
        LeastSure({"heart": Task(tmp_path / "heart", model=None)})({}, studies)


def test_scores_are_kept_until_image_or_weights_change(studies, tmp_path):
    task = Task(tmp_path / "heart")
    strategy = LeastSure({"heart": task})
    strategy({}, studies)
    assert len(task.asked) == 3
    strategy({}, studies)
    assert len(task.asked) == 3
    add(studies.folder, "a", 4)
    assert strategy({}, studies)["id"] == "a.nii"
    assert task.asked[3:] == [("a.nii", "model")]
    (task.bundle / "models" / "model.pt").write_text("trained")
    strategy({}, studies)
    assert len(task.asked) == 7


def test_it_answers_in_time_and_goes_on_when_it_is_asked_again(studies, tmp_path, monkeypatch):
    monkeypatch.setattr(strategies, "_SECONDS", 0.0)
    strategy = LeastSure({"heart": Task(tmp_path / "heart")})
    answers = [strategy({}, studies) for _ in range(3)]
    assert [answer["scored"] for answer in answers] == [1, 2, 3]
    assert [answer["id"] for answer in answers] == ["a.nii", "b.nii", "b.nii"]


def test_the_model_may_be_named(studies, tmp_path):
    first, second = Task(tmp_path / "first"), Task(tmp_path / "second")
    LeastSure({"first": first, "second": second})({"model": "second"}, studies)
    assert (len(first.asked), len(second.asked)) == (0, 3)


def test_any_stack_but_nothing_else(bad):
    assert {RandomStack()({}, bad)["id"] for _ in range(60)} == {"a.nii", "b.nii", "c.nii"}
    bad.labelled = {"a.nii", "b.nii", "c.nii"}
    assert RandomStack()({}, bad) is None
