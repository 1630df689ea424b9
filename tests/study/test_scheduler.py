"""Studies on small phantoms: what they leave, and what survives kills, failures and changes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import SMALL, command, run

from monai_iln.run_files import (
    ALL_IMAGES,
    CURVES,
    CURVES_PICTURE,
    GATES,
    GATES_PICTURE,
    IMAGES,
    LOCK,
    LOG,
    LOSSES,
    OVERLAY,
    OVERRIDES,
    PREDICTIONS,
    RECORD,
    ROBUSTNESS,
    STUDY,
    SUMMARY,
    WEIGHTS,
)
from monai_iln.study import estimate
from monai_iln.study.records import find_runs, read_record, read_records

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unpainted")]

SHORT = {"folds": [0, 1], "robustness": False}  # for what is not about the end of a study
EXACT = ["part", "subject", "phase", "slice", "structure", "dice", "hd95_mm", "truth_pixels", "predicted_pixels"]


def start(prepared, folder, **settings):
    return subprocess.Popen(
        command(prepared, folder, **settings), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def run_and_meanwhile(work, prepared, folder, **settings):
    """Run a study here, and do something as soon as a run is under way; what both return."""

    def meanwhile():
        wait_for(lambda: list(folder.rglob(".seed_*")))
        return work()

    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(meanwhile)
        return run(prepared, folder, **settings), other.result()


def test_every_run_leaves_a_record_of_every_test_image(study, prepared):
    folder, printed = study
    records = read_records(folder)
    assert list(records.runs["status"]) == ["finished"] * 6
    assert list(dict.fromkeys(records.runs["method"])) == ["ILN", "None"]
    items = json.loads((prepared / "datalist.json").read_text())["training"]
    expected = {(item["subject"], item["phase"], number) for item in items for number in item["slices"]}
    for _, images in records.images[records.images["part"] == "test"].groupby("method"):
        found = list(zip(images["subject"], images["phase"], images["slice"].astype(int), strict=True))
        assert set(found) == expected
        assert len(found) == len(expected), "every image is tested once"
    for _, row in records.runs.iterrows():
        images = records.images[(records.images["run"] == row["run"])]
        assert row["test_dice"] == pytest.approx(images.loc[images["part"] == "test", "dice"].mean())
        assert row["validation_dice"] == pytest.approx(images.loc[images["part"] == "validation", "dice"].mean())
        folds = {item["subject"]: item["fold"] for item in items}
        assert {folds[subject] == row["fold"] for subject in images.loc[images["part"] == "test", "subject"]} == {True}
        assert {folds[subject] == row["fold"] for subject in images.loc[images["part"] != "test", "subject"]} == {False}
        assert row["steps"] > 0
        assert row["seconds_per_step"] > 0
    assert "6 runs, 0 finished, 6 to do" in printed
    assert "  overrides:     validation_every 5, epochs 1, batch_size 4, roi_size [48, 48]," in printed
    assert (folder / "report" / "report.html").stat().st_size > 10_000
    pd.testing.assert_frame_equal(ALL_IMAGES.read(folder), records.images)
    assert records.study["working_dir"] == os.path.relpath(Path.cwd(), folder), "which names nobody"
    summary = json.loads((folder / SUMMARY).read_text())
    first = records.runs.iloc[0]
    assert summary[first["run"]]["endocardium"]["mean"] == pytest.approx(first["test_dice"])
    assert not list(folder.rglob(".seed_*")), "nothing unfinished is left"
    left = {path.name for path in find_runs(folder)[0].iterdir()}
    assert left == {
        *(table.name for table in (CURVES, GATES, IMAGES, LOSSES, ROBUSTNESS)),
        *(CURVES_PICTURE, GATES_PICTURE, LOG, OVERLAY, OVERRIDES, PREDICTIONS, RECORD, WEIGHTS),
        *("tensorboard", f"test_{OVERLAY}", f"validation_{OVERLAY}"),
    }


def test_the_same_command_does_nothing_twice(study, prepared):
    folder, _ = study
    before = {path: path.stat().st_mtime_ns for path in folder.rglob(RECORD)}
    done = run(prepared, folder)
    assert done.returncode == 0, done.stderr
    assert "6 runs, 6 finished, 0 to do" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob(RECORD)} == before


def test_a_changed_configuration_is_refused(study, prepared):
    folder, _ = study
    overrides = SMALL["overrides"] | {"epochs": 2}
    done = run(prepared, folder, overrides=overrides)
    assert done.returncode == 1
    assert "6 finished runs are of another configuration" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(prepared, folder, overrides=overrides, methods=["IN"])
    assert "6 finished runs are of another configuration" in done.stderr, "of other methods too, if they would be mixed"
    done = run(prepared, folder, overrides=overrides, redo_changed=True, dry_run=True)
    assert "6 runs, 0 finished, 6 to do" in done.stdout
    assert "estimated time: " in done.stdout
    assert "rror" not in done.stderr.replace("UserWarning", ""), done.stderr
    assert len(read_records(folder).runs) == 6, "a dry run deletes nothing"


@pytest.mark.parametrize(("interval", "validations"), [(1, 4), (3, 1)])
def test_a_dry_run_counts_the_validations(prepared, tmp_path, monkeypatch, interval, validations):
    lengths = []

    def read(path):
        record = read_record(path)
        lengths.append(record and record["length"])
        return record

    monkeypatch.setattr(estimate, "read_record", read)
    overrides = SMALL["overrides"] | {"epochs": 4, "val_interval": interval}
    done = run(prepared, tmp_path / "study", overrides=overrides, dry_run=True, robustness=False)
    assert "estimated time" in done.stdout
    assert lengths[-1]["validations"] == validations
    assert ("validation_seconds" in lengths[-1]) == (interval > 1)  # the one epoch of the trial had none


def test_redoing_deletes_nothing_before_its_successor_is_there(study, prepared, tmp_path):
    folder = tmp_path / "study"
    old = [path for path in find_runs(study[0]) if path.parent.parent.name == "fold_0"]
    for path in old:
        shutil.copytree(path, folder / path.relative_to(study[0]))
    overrides = SMALL["overrides"] | {"epochs": 2}
    settings = {"folds": [0], "overrides": overrides, "redo_changed": True, "robustness": False}
    done, runs = run_and_meanwhile(lambda: read_records(folder).runs, prepared, folder, **settings)
    assert done.returncode == 0, done.stderr
    assert len(runs) == len(old) == 2
    records = {path: read_record(path) for path in find_runs(folder)}
    assert [record["overrides"]["epochs"] for record in records.values()] == [2, 2]
    first, second = records
    shutil.rmtree(first)  # as if the study had been killed between the two
    shutil.copytree(old[0], first)
    done = run(prepared, folder, **settings)
    assert "2 runs, 1 finished, 1 to do" in done.stdout
    assert read_record(first)["overrides"]["epochs"] == 2
    assert read_record(second) == records[second]


def test_a_bad_run_takes_nothing_else_down(prepared, tmp_path, capfd):
    folder = tmp_path / "study"
    diverging = {"learning_rates": [1e10, 0.01], "methods": ["None"], "folds": [0]}
    done = run(prepared, folder, **diverging)
    assert done.returncode == 0, done.stderr
    records = read_records(folder)
    assert dict(zip(records.runs["learning_rate"], records.runs["status"], strict=True)) == {
        1e10: "diverged",
        0.01: "finished",
    }
    assert "rate 1e+10, seed 0: diverged" in capfd.readouterr().err


def test_a_failed_run_is_tried_again_and_told(prepared, tmp_path):
    folder = tmp_path / "study"
    overrides = SMALL["overrides"] | {"loss": {"_target_": "torch.nn.L1Loss", "reduction": "$1 / 0"}}
    done = run(prepared, folder, overrides=overrides, folds=[0])
    assert done.returncode == 1
    assert "error: 2 runs failed, see above. Mend the cause; the same command does what is missing." in done.stderr
    assert "Traceback" not in done.stderr
    records = read_records(folder)
    assert list(records.runs["status"]) == ["failed", "failed"]
    assert "ZeroDivisionError" in records.runs["message"].iloc[0]
    assert (folder / "report" / "report.html").is_file()


def test_overrides_do_not_replace_what_the_evaluation_sets(study, prepared, tmp_path):
    folder = tmp_path / "study"
    overrides = SMALL["overrides"] | {"network": "$@network_def.to(@device)"}  # as it is in the training
    done = run(prepared, folder, overrides=overrides, folds=[0], methods=["ILN"], robustness=False)
    assert done.returncode == 0, done.stderr
    found, expected = read_records(folder), read_records(study[0])
    scores = expected.runs[(expected.runs["method"] == "ILN") & (expected.runs["fold"] == 0)]["test_dice"]
    assert list(found.runs["test_dice"]) == list(scores), "the trained weights, not new ones"


def test_a_worker_that_always_dies_is_alone_to_blame(prepared, tmp_path, own_workers):
    poison = tmp_path / "poison.yaml"
    poison.write_text("initialize:\n  - $@learning_rate < 0.4 or os._exit(1)\n  - $@network\n")
    folder = tmp_path / "study"
    settings = {
        "training": ["train.yaml", str(poison)],
        "learning_rates": [0.5, 0.01],
        "folds": [0],
        "methods": ["ILN"],
        "robustness": False,
    }
    done = run(prepared, folder, **settings)
    assert done.returncode == 1
    runs = read_records(folder).runs
    assert dict(zip(runs["learning_rate"], runs["status"], strict=True)) == {0.5: "failed", 0.01: "finished"}
    assert "its worker died 2 times" in done.stdout


def assert_undisturbed(folder, study):
    """A short study has the records that its folds have in one that nothing disturbed."""
    found, whole = read_records(folder), read_records(study[0])
    runs, images = (table[table["fold"].isin(SHORT["folds"])] for table in (whole.runs, whole.images))
    assert list(found.runs["run"]) == list(runs["run"])
    assert list(found.runs["config_hash"]) == list(runs["config_hash"])
    expected = images[EXACT].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.images[EXACT], expected, check_categorical=False)  # of fewer subjects


def test_ended_twice_and_started_again(study, prepared, tmp_path):
    """A study that was terminated, as clusters do, and then killed, leaves the records of one that was not."""
    folder = tmp_path / "study"
    process = start(prepared, folder, **SHORT)
    wait_for(lambda: list(folder.rglob(".seed_*")), process)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    last = told.splitlines()[-1]
    assert last == "interrupted. Every finished run is kept: give the same command again to go on."
    assert "Traceback" not in told
    time.sleep(1)  # workers that lived on would write
    assert not list(folder.rglob(".seed_*"))
    process = start(prepared, folder, **SHORT)
    wait_for(lambda: list(folder.rglob(".seed_*")), process)
    time.sleep(3)
    assert process.poll() is None, "it is killed while it works"
    process.kill()  # its workers are not told
    process.communicate()
    done = run(prepared, folder, **SHORT)
    assert done.returncode == 0, done.stderr
    assert_undisturbed(folder, study)
    assert not list(folder.rglob(".seed_*"))


def test_a_killed_worker_costs_no_run(study, prepared, tmp_path, own_workers):
    folder = tmp_path / "study"
    done, _ = run_and_meanwhile(lambda: os.kill(own_workers()[0], signal.SIGKILL), prepared, folder, **SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_undisturbed(folder, study)


def test_two_studies_in_one_folder_are_refused(prepared, tmp_path):
    from filelock import FileLock

    folder = tmp_path / "study"
    folder.mkdir()
    (folder / STUDY).write_text("{}")
    with FileLock(folder / LOCK):
        done = run(prepared, folder)
    assert done.returncode == 1
    assert (folder / STUDY).read_text() == "{}", "that of the other"
    assert "another process runs this study" in done.stderr


def test_two_ranks_train_what_one_does(prepared, tmp_path):
    """The same seed, the same batches: weights differ by the order of sums only, so Dice nearly not at all."""
    settings = {
        "training": ["train.yaml", "paper.yaml"],
        "methods": ["ILN"],
        "folds": [0],
        "overrides": SMALL["overrides"] | {"rotations": [0], "epochs": 2},
    }
    alone = run(prepared, tmp_path / "one", robustness=False, **settings)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    together = subprocess.run(
        [*launcher, *command(prepared, tmp_path / "two", **settings)[1:]],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert together.returncode == 0, together.stdout + together.stderr
    one, two = read_records(tmp_path / "one"), read_records(tmp_path / "two")
    assert list(one.runs["config_hash"]) == list(two.runs["config_hash"])
    losses = [LOSSES.read(find_runs(folder)[0])["loss"] for folder in (tmp_path / "one", tmp_path / "two")]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    np.testing.assert_allclose(two.images["dice"], one.images["dice"], atol=0.02)
