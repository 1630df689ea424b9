import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_iln.datasets import (
    DataWarning,
    phantom_datalist,
    prepare,
    prepare_folders,
    prepare_sunnybrook,
    read_datalist,
)
from monai_iln.datasets.phantom import write_phantom
from monai_iln.errors import UserError


def rows(folder):
    with (folder / "exclusions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Eight phantoms, of whom the second has every mask moved by 16 pixels, and the third an unreadable one.

    Copy before changing anything.
    """
    output = tmp_path_factory.mktemp("phantom") / "faulty"
    folder = write_phantom(output, layout="png", subjects=8, slices=6, phases=4, size=128)
    names = sorted({path.name.split("-IM-")[0] for path in folder.rglob("*.png")})
    for path in sorted(folder.rglob(f"Labels/*/{names[1]}-IM*.png")):
        mask = np.roll(np.asarray(Image.open(path)), 16, axis=1)
        Image.fromarray(mask).save(path)
    bad = sorted(folder.rglob(f"Labels/*/{names[2]}-IM*.png"))[0]
    bad.write_bytes(bad.read_bytes()[:40])
    return folder, names


def test_nothing_wrong(prepared):
    assert rows(prepared) == []
    assert not (prepared / "exclusions.png").exists()
    assert sorted(path.name for path in prepared.iterdir()) == ["datalist.json", "exclusions.csv", "images", "labels"]


def test_bad_frames_are_excluded_and_reported(faulty, tmp_path):
    folder, names = faulty
    with pytest.warns(DataWarning) as caught:
        datalist = prepare_sunnybrook(folder, tmp_path / "out")
    items = read_datalist(datalist)
    assert {item["subject"] for item in items} == {*names} - {names[1]}
    table = rows(tmp_path / "out")
    assert {row["subject"] for row in table if row["action"] == "exclude"} == {names[1]}
    assert [row["subject"] for row in table if row["reason"] == "unreadable"] == [names[2]]
    messages = [str(warning.message) for warning in caught]
    assert any(message.startswith("displaced: ") and f"(exclude) in {names[1]}." in message for message in messages)
    assert any(message.startswith(f"unreadable: 1 (left out) in {names[2]}.") for message in messages)
    out = {(row["phase"], row["slice"]) for row in table if row["action"] == "exclude"}
    found = f"{len(out)} frames excluded, {len(table)} findings in all"
    assert f"{found}: see {tmp_path / 'out' / 'exclusions.csv'}." in messages

    sheet = np.asarray(Image.open(tmp_path / "out" / "exclusions.png"))
    shown = {(row["subject"], row["phase"], row["slice"]) for row in table if row["action"] in ("exclude", "keep")}
    assert sheet.shape == (18 + -(-len(shown) // 6) * (224 + 36), 6 * 224, 3)
    green = (sheet[..., 1].astype(int) - sheet[..., 0] > 60) & (sheet[..., 1] > 150)
    assert green[18 : 18 + 224, :224].sum() > 40, "the outline of the first mask"


def test_findings_can_be_kept(faulty, tmp_path):
    folder, names = faulty
    with pytest.warns(DataWarning) as caught:
        datalist = prepare_sunnybrook(folder, tmp_path / "out", keep=["displaced", "other-subject", "background"])
    assert any("displaced: " in str(warning.message) and "(keep)" in str(warning.message) for warning in caught)
    kept = {item["subject"]: item["fold"] for item in read_datalist(datalist)}
    assert {*kept} == {*names}
    with pytest.warns(DataWarning):
        datalist = prepare_sunnybrook(folder, tmp_path / "default")
    for item in read_datalist(datalist):
        assert kept[item["subject"]] == item["fold"], "exclusion moves nobody to another fold"


def test_nothing_left(tmp_path, faulty):
    source, names = faulty
    folder = shutil.copytree(source, tmp_path / "copy")
    for path in folder.rglob("*.png"):
        if not path.name.startswith(names[1]):
            path.unlink()
    with (
        pytest.warns(DataWarning),
        pytest.raises(UserError, match="of 2 stacks with a label none is left.*what is right with --keep displaced"),
    ):
        prepare_sunnybrook(folder, tmp_path / "out", folds=1)
    assert not (tmp_path / "out").exists()


def test_archives(official, prepared, tmp_path):
    """As downloaded: some archives and a table, in a folder with a space and an umlaut."""
    source = tmp_path / "wie geladen: ü"
    source.mkdir()
    for name in ("SCD_IMAGES_01", "SCD_ManualContours"):
        shutil.make_archive(str(source / name), "zip", official, name)
    shutil.copy(official / "scd_patientdata.csv", source)
    datalist = prepare_sunnybrook(source, tmp_path / "out")
    assert datalist.read_bytes() == (prepared / "datalist.json").read_bytes()
    (source / "SCD_IMAGES_01.zip").write_bytes((source / "SCD_IMAGES_01.zip").read_bytes()[:-500])
    with pytest.raises(UserError, match="SCD_IMAGES_01.zip"):
        prepare_sunnybrook(source, tmp_path / "other")


def test_files_of_archives_are_named_as_there(official, tmp_path):
    copy = shutil.copytree(official, tmp_path / "copy")
    path = next(copy.rglob("*icontour*"))
    path.write_text("nothing")
    archive = shutil.make_archive(str(tmp_path / "all"), "zip", copy)
    with pytest.warns(DataWarning):
        prepare_sunnybrook(archive, tmp_path / "out")
    (row,) = [row for row in rows(tmp_path / "out") if row["reason"] == "unreadable"]
    assert row["file"].endswith(path.relative_to(copy).as_posix())
    assert not Path(row["file"]).is_absolute()
    assert "monai-iln-" not in row["detail"], "no folder that is gone"


def test_explicit_folds(official, tmp_path):
    names = sorted(path.name for path in (official / "SCD_ManualContours").iterdir())
    (tmp_path / "folds.json").write_text(json.dumps([names[:1], names[1:]]))
    items = read_datalist(prepare_sunnybrook(official, tmp_path / "out", folds=tmp_path / "folds.json"))
    assert {item["subject"] for item in items if item["fold"] == 0} == {names[0]}


def test_output_is_refused_before_the_work(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        prepare_sunnybrook(tmp_path / "none", tmp_path)


def test_a_full_disk_leaves_nothing(official, tmp_path, monkeypatch):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", disk_full)
    with pytest.raises(UserError, match="No space left"):
        prepare_sunnybrook(official, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(official, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        prepare_sunnybrook(official, tmp_path / "locked" / "new")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_is_never_taken_for_whole(mirror, tmp_path, kind):
    """Stopped at a moment of its writing, whatever the signal: no output; the same command again does the rest."""
    output, results = tmp_path / "out", tmp_path / "out.unfinished" / ".results"
    command = [sys.executable, "-m", "monai_iln", "prepare", "sunnybrook", "--source", mirror, "--output", output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not any(results.glob("[0-9]*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(kind)
        _, errors = process.communicate(timeout=60)
    if not output.exists():
        assert process.returncode != 0
        assert "Traceback" not in errors
        done = {path.name: path.stat().st_mtime_ns for path in results.glob("[0-9]*")}
    else:
        assert len(read_datalist(output)) == 12, "it was faster than the signal"
        return
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.unfinished" / "images").iterdir()}
    assert done
    assert len(read_datalist(prepare_sunnybrook(mirror, output))) == 12
    kept = [name for name, when in written.items() if (output / "images" / name).stat().st_mtime_ns == when]
    assert len(kept) >= 2 * len(done), "what was done is not done again"


def test_acdc_is_prepared_in_its_true_size(tmp_path):
    """Its sform has unit steps; the labels of one phase were moved, and are kept by those who know better."""
    source = write_phantom(tmp_path / "acdc", layout="acdc", subjects=2, slices=5, phases=4, size=96)
    truth = nib.load(source / "patient001" / "patient001_frame01.nii.gz")
    moved = source / "patient002" / "patient002_frame03_gt.nii.gz"
    label = nib.load(moved)
    label.header["srow_x"][3] = label.header.get_zooms()[0] / 2
    nib.save(nib.Nifti1Image(label.dataobj, None, label.header), moved)
    with pytest.warns(DataWarning) as caught:
        prepared = prepare_folders(source, tmp_path / "default", folds=2).parent
    assert "contradictory-header: 8 (keep) in patient001, patient002." in str(caught[1].message)
    assert sorted(path.name for path in prepared.rglob("patient002*")) == ["patient002_ED.nii.gz"] * 2
    for path in prepared.rglob("*.nii.gz"):
        np.testing.assert_allclose(nib.load(path).header.get_zooms(), truth.header.get_zooms(), rtol=1e-6)
    assert nib.load(prepared / "images" / "patient001_ED.nii.gz").header.get_zooms()[0] > 1.1
    told = [row for row in rows(prepared) if row["reason"] == "misplaced"]
    assert [(row["subject"], row["phase"], row["action"]) for row in told] == [("patient002", "ES", "exclude")]
    assert "a corner lies 0.514 voxels from the image's; 0.25 are rounding" in told[0]["detail"]
    with pytest.warns(DataWarning) as caught:
        kept = prepare_folders(source, tmp_path / "kept", folds=2, keep=["misplaced"]).parent
    assert str(caught[0].message).startswith("misplaced: 1 (keep) in patient002.")
    assert len(list(kept.rglob("patient002*"))) == 4


def test_what_cannot_be_kept_is_not_advised(tmp_path):
    image = nib.Nifti1Image(
        np.random.default_rng(0).integers(0, 99, (20, 18, 3)).astype(np.int16), np.diag([2, 2, 9, 1])
    )
    (tmp_path / "P1").mkdir()
    nib.save(image, tmp_path / "P1" / "ED.nii")
    nib.save(nib.Nifti1Image(np.eye(20, 19, dtype=np.uint8)[..., None], image.affine), tmp_path / "P1" / "ED_rv.nii")
    with pytest.warns(DataWarning), pytest.raises(UserError, match="none is left.*they must be equal") as error:
        prepare_folders(tmp_path, tmp_path / "out", folds=1)
    assert "--keep" not in str(error.value)


def test_two_trainings_that_start_at_once_make_their_phantoms_once(tmp_path, monkeypatch):
    """As the processes of ``torchrun`` do, in a bundle that has none yet."""
    together = threading.Barrier(2, timeout=1)
    calls = []

    def write_small(output, **settings):
        calls.append(output)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()  # for the other one, if it is let in
        return write_phantom(output, **{**settings, "subjects": 3, "slices": 4, "phases": 2, "size": 96})

    monkeypatch.setattr(prepare, "write_phantom", write_small)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(phantom_datalist, [tmp_path / "data"] * 2, ["left"] * 2))
    assert calls == [tmp_path / "data" / "phantoms_raw"]
    assert folders == [str(tmp_path / "data" / "phantoms")] * 2
    assert len(read_datalist(tmp_path / "data" / "phantoms" / "datalist.json")) == 6
