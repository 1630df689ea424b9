"""One run, and what happens to its folder."""

import pytest

from monai_iln.study import worker
from monai_iln.study.grid import Run
from monai_iln.study.records import failure_path, read_record
from monai_iln.study.worker import Place, execute


@pytest.fixture
def run():
    return Run("data", "ILN", "ILN", 0, 0.1, 0, (), (), {}, "hash", "protocol", {})


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, "token")


def make(scratch):
    (scratch / "overrides.json").write_text("{}")
    (scratch / "images.csv").write_text("part,dice\ntest,0.5\ntest,0.7\nvalidation,0.4\n")


def test_a_finished_run_gets_its_name(run, place, monkeypatch):
    monkeypatch.setattr(worker, "_train_and_evaluate", lambda run, place, scratch: (make(scratch), 1.0))
    execute(run, place)
    record = read_record(place.folder / run.path)
    assert record["status"] == "finished"
    assert record["scores"]["test_dice"] == pytest.approx(0.6)
    assert record["scores"]["validation_dice"] == 0.4
    assert [path.name for path in (place.folder / run.path).parent.iterdir()] == ["seed_0"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_orphan_whose_folder_was_taken_away_leaves_nothing(run, place, monkeypatch, fails):
    def train(run, place, scratch):
        make(scratch)
        scratch.rename(scratch.with_name("taken"))  # by a study that was started again
        scratch.mkdir()
        (scratch / "images.csv").write_text("part,dice\ntest,0.5\n")  # what it still had to write
        if fails:
            raise FileNotFoundError("model.pt")
        return None, 1.0

    monkeypatch.setattr(worker, "_train_and_evaluate", train)
    execute(run, place)
    assert read_record(place.folder / run.path) is None
    assert not failure_path(place.folder / run.path).exists()


def test_a_faster_worker_wins_and_another_configuration_is_replaced(run, place, monkeypatch):
    monkeypatch.setattr(worker, "_train_and_evaluate", lambda run, place, scratch: (make(scratch), 1.0))
    execute(run, place)
    first = read_record(place.folder / run.path)
    monkeypatch.setattr(worker, "_train_and_evaluate", lambda run, place, scratch: (make(scratch), 2.0))
    execute(run, place)
    assert read_record(place.folder / run.path) == first
    changed = Run(*(list(vars(run).values())[:9]), "another", "protocol", {})
    execute(changed, place)
    assert read_record(place.folder / run.path)["config_hash"] == "another"
