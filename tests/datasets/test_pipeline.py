"""Subjects that are prepared one by one give what they gave together, however they are shared among processes."""

import csv
import filecmp
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_iln.datasets import (
    DataWarning,
    inspect_stacks,
    prepare_decathlon,
    prepare_folders,
    prepare_sunnybrook,
    read_sunnybrook,
)
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.quality.inspection import Frame
from monai_iln.datasets.quality.subjects import find_candidates, find_same_images
from monai_iln.datasets.unfinished import StoppedError
from monai_iln.errors import UserError
from monai_iln.files import read_csv
from monai_iln.parallel import Workers


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """Six phantoms, of whom two have exchanged their masks, and one has an image of another's."""
    folder = write_phantom(tmp_path_factory.mktemp("data") / "png", layout="png", slices=6, phases=4, size=128)
    names = sorted({path.name.split("-IM-")[0] for path in folder.rglob("*.png")})
    masks = {path.name: path for path in folder.rglob("Labels/*/*.png")}
    for name, path in masks.items():
        if name.startswith(names[0]):
            other = masks.get(name.replace(names[0], names[1]))
            if other is not None:
                one, two = path.read_bytes(), other.read_bytes()
                path.write_bytes(two)
                other.write_bytes(one)
    images = {path.name: path for path in folder.rglob("Images/*/*.png")}
    one = next(name for name in sorted(images) if name.startswith(names[2]))
    shutil.copy(images[one], images[one.replace(names[2], names[3])])
    return folder, names


def prepare(source, output, **options):
    with pytest.warns(DataWarning):
        prepare_sunnybrook(source, output, folds=2, **options)
    return output


def assert_equal_folders(one, other):
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert (
        filecmp.cmpfiles(one, other, files, shallow=False) == ([*files], [], [])
        or [file for file in files if (one / file).read_bytes() != (other / file).read_bytes()] == []
    )


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(exchanged, tmp_path):
    source, _ = exchanged
    assert_equal_folders(
        prepare(source, tmp_path / "one", workers=Workers(1)), prepare(source, tmp_path / "two", workers=Workers(2))
    )


def test_what_the_comparison_of_subjects_excludes_is_not_written(exchanged, tmp_path):
    """As where all subjects are inspected together."""
    source, names = exchanged
    findings = inspect_stacks(read_sunnybrook(source).stacks)
    assert {f.subject for f in findings if f.reason == "other-subject"} == {*names[:2]}
    assert {f.subject for f in findings if f.reason == "same-image"} == {*names[2:4]}
    output = prepare(source, tmp_path / "out")
    with (output / "exclusions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    told = {(row["reason"], row["subject"], row["phase"], row["slice"], row["detail"]) for row in rows}
    assert told >= {(f.reason, f.subject, f.phase, str(f.slice), f.detail) for f in findings if f.slice}
    out = {(row["subject"], row["phase"], int(row["slice"])) for row in rows if row["action"] == "exclude"}
    items = json.loads((output / "datalist.json").read_text())["training"]
    assert not {(item["subject"], item["phase"], number) for item in items for number in item["slices"]} & out
    assert {path.name for path in (output / "images").iterdir()} == {Path(item["image"]).name for item in items}
    for item in items:
        assert nib.load(output / item["image"]).shape[2] == len(item["slices"])


def test_no_masks_stay_in_memory(exchanged, tmp_path):
    from monai_iln.datasets.pipeline import _load_masks

    prepare(exchanged[0], tmp_path / "out", workers=Workers(1))
    assert _load_masks.cache_info().currsize == 0


def test_what_is_kept_is_not_compared(exchanged, tmp_path, monkeypatch):
    source, _ = exchanged

    def fail(*_):
        raise AssertionError("compared")

    monkeypatch.setattr("monai_iln.datasets.pipeline.find_candidates", fail)
    output = prepare(source, tmp_path / "out", keep=["other-subject"])
    assert "other-subject" not in (output / "exclusions.csv").read_text()
    with pytest.raises(AssertionError, match="compared"):
        prepare_sunnybrook(source, tmp_path / "other")


def test_a_stopped_preparation_goes_on(exchanged, tmp_path, monkeypatch):
    source, names = exchanged
    whole = prepare(source, tmp_path / "whole")
    import monai_iln.datasets.pipeline as pipeline

    real, subjects = pipeline.inspect_subject, []

    def stop(stacks):
        subjects.append(stacks[0].subject)
        if len(subjects) == 4:
            raise KeyboardInterrupt
        return real(stacks)

    monkeypatch.setattr(pipeline, "inspect_subject", stop)
    with pytest.raises(KeyboardInterrupt, match="^3 subjects are done and kept in"):
        prepare_sunnybrook(source, tmp_path / "out", folds=2)
    assert not (tmp_path / "out").exists()
    first = prepare(source, tmp_path / "out")
    assert subjects[:4] + subjects[5:7] == names, "three are not inspected again"
    assert_equal_folders(whole, first)


def test_changed_data_begin_anew(exchanged, tmp_path, monkeypatch):
    source = shutil.copytree(exchanged[0], tmp_path / "copy")
    import monai_iln.datasets.pipeline as pipeline

    written = []
    real = pipeline.write_stack

    def write(stack, folder):
        written.append(stack.subject)
        if len({*written}) == 4:
            raise OSError(28, "No space left on device")
        return real(stack, folder)

    monkeypatch.setattr(pipeline, "write_stack", write)
    with pytest.raises(Exception, match="No space left on device.*5 subjects are done and kept"):
        prepare_sunnybrook(source, tmp_path / "out", folds=2)
    monkeypatch.setattr(pipeline, "write_stack", real)
    path = sorted(source.rglob("Images/*/*.png"))[0]
    Image.fromarray(np.asarray(Image.open(path)) // 2).save(path)
    os.utime(path, (1, 1))
    assert_equal_folders(prepare(source, tmp_path / "out"), prepare(source, tmp_path / "other"))


def test_lists_of_folds_that_do_not_fit_lose_no_work(exchanged, tmp_path):
    source, names = exchanged
    with pytest.warns(DataWarning), pytest.raises(Exception, match="6 subjects are done and kept in"):
        prepare_sunnybrook(source, tmp_path / "out", folds=[names[:2], names[2:4]])
    with pytest.warns(DataWarning):
        prepare_sunnybrook(source, tmp_path / "out", folds=[names[:2], names[2:]])


def test_an_output_within_its_source_is_no_data_before_it_is_finished(tmp_path):
    rng = np.random.default_rng(0)
    for subject in ("P1", "P2"):
        (tmp_path / "data" / subject).mkdir(parents=True)
        for name, array in (("ED", rng.integers(0, 500, (16, 16, 3))), ("ED_rv", np.ones((16, 16, 3)))):
            image = nib.Nifti1Image(array.astype(np.int16), np.diag([1.5, 1.5, 8, 1]))
            nib.save(image, tmp_path / "data" / subject / f"{name}.nii")
    output = tmp_path / "data" / "prepared"
    keep = {"keep": ["displaced", "background", "other-subject"]}
    with pytest.warns(DataWarning), pytest.raises(StoppedError, match="2 subjects are done and kept in"):
        prepare_folders(tmp_path / "data", output, folds=3, **keep)
    written = {path: path.stat().st_mtime_ns for path in Path(f"{output}.unfinished").glob("images/*")}
    with pytest.warns(DataWarning):
        prepare_folders(tmp_path / "data", output, folds=2, **keep)
    assert {row["subject"] for row in read_csv(output / "exclusions.csv").rows} <= {"P1", "P2"}
    assert {(output / "images" / path.name).stat().st_mtime_ns for path in written} == {*written.values()}


def test_a_list_of_volumes_on_two_processes(tmp_path):
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(4):
        files = {key: f"{key}_{number}.nii.gz" for key in ("image", "label")}
        pairs.append(files)
        nib.save(nib.Nifti1Image(rng.normal(size=(6, 5, 4)).astype(np.float32), np.eye(4)), tmp_path / files["image"])
        nib.save(
            nib.Nifti1Image(np.eye(6, 5, dtype=np.uint8)[..., None].repeat(4, 2), np.eye(4)), tmp_path / files["label"]
        )
    document = {"name": "x", "labels": {"0": "background", "1": "a"}, "training": pairs}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    one = prepare_decathlon(tmp_path, tmp_path / "one", folds=2, workers=Workers(1)).parent
    assert_equal_folders(one, prepare_decathlon(tmp_path, tmp_path / "two", folds=2, workers=Workers(2)).parent)


def test_stacks_that_share_a_file_are_refused_though_one_is_not_written(tmp_path):
    """Subject p is excluded for its own fault, and then compared with q: that took the file of p_1 away."""
    rows, columns, _ = np.indices((96, 96, 2))
    rng = np.random.default_rng(0)
    heart = (rows - 48) ** 2 + (columns - 48) ** 2 < 15**2
    ring = (rows - 48) ** 2 + (columns - 48) ** 2 < 22**2
    images = {name: 100 + 150 * heart - 60 * (ring & ~heart) + rng.integers(0, 9, rows.shape) for name in "abcd"}
    stacks = {
        "p_1/ED": ("a", heart),
        "q/ED": ("b", heart),
        "p/1_ED": ("b", np.roll(heart, 40, 0)),
        "r/ED": ("c", heart),
    }
    for name, (image, label) in stacks.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(images[image].astype(np.int16), np.eye(4)), f"{path}.nii.gz")
        nib.save(nib.Nifti1Image(label.astype(np.uint8), np.eye(4)), f"{path}_lv.nii.gz")
    with pytest.raises(UserError, match="2 stacks would be called p_1_ed.nii.gz"):
        prepare_folders(
            tmp_path / "source",
            tmp_path / "out",
            label=1,
            image="{subject}/{phase}.nii.gz",
            mask="{subject}/{phase}_lv.nii.gz",
            folds=2,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_images_are_the_same_by_the_whole_digest():
    """Though only the beginning of each is kept of all."""
    digests = ["ab" * 16, "ab" * 8 + "cd" * 8, "", "12" * 16, "", "ab" * 16]
    frames = [Frame(f"s{place}", "ED", 1, "") for place in range(len(digests))]
    found = {finding.subject for finding in find_same_images(list(zip(digests, frames, strict=True)))}
    assert found == {"s0", "s5"}
    assert list(find_same_images([])) == []


def test_few_are_compared_among_many():
    """The work grows with the number of doubtful subjects, not with the square of all."""
    from monai_iln.datasets.quality.inspection import Portrait

    rng = np.random.default_rng(0)
    portraits = {
        str(number): Portrait(float(rng.normal(1.6, 0.1)), (128, 128), tuple(rng.uniform(40, 80, 2)), 20.0)
        for number in range(2000)
    }
    assert find_candidates(portraits) == {}
    portraits["5"] = portraits["9"]._replace(contrast=0.2)
    portraits["6"] = portraits["6"]._replace(contrast=0.3)
    portraits["7"] = portraits["7"]._replace(contrast=0.3, shape=(64, 64))
    candidates = find_candidates(portraits)
    assert {*candidates} == {"5", "6", "7"}
    assert {"6", "9"} <= {*candidates["5"]}
    assert "7" not in candidates["5"], "masks of another size fit no image"
    assert max(map(len, candidates.values())) <= 7
    poor = {name: portrait._replace(contrast=portrait.contrast / 3) for name, portrait in portraits.items()}
    assert {*find_candidates(poor)} == {"5", "6", "7"}, "where all contrasts are low, only lower ones are doubted"
