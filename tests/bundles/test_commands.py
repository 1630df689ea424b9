"""The bundles as a user runs them, by MONAI's commands."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import monai_iln
from monai_iln.datasets import prepare_folders
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.networks import PaperUNet
from monai_iln.run_files import SLICES, SUBJECTS

pytestmark = pytest.mark.slow

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").glob("*_iln"))
BUNDLE = BUNDLES[0]  # the left ventricle's; both are built from one source
SMALL = ("--epochs", "2", "--batch_size", "4", "--roi_size", "[48,48]", "--network_def#features", "[8,16]")
EVALUATE = "['configs/train.yaml','configs/evaluate.yaml']"
FINE_TUNE = "['configs/train.yaml','configs/fine_tune.yaml']"
PAPER = "['configs/train.yaml','configs/paper.yaml']"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return shutil.copytree(
        BUNDLE, tmp_path_factory.mktemp("bundle") / BUNDLE.name, ignore=shutil.ignore_patterns("data", "eval", "models")
    )


def run(python, bundle, *arguments, run_id=(), config="configs/train.yaml"):
    return python.run("monai.bundle", "run", *run_id, "--config_file", config, *arguments, cwd=bundle)


def succeed(*arguments, **keywords):
    done = run(*arguments, **keywords)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(bundle, prepared):
    """A process of its own, not a fork, as the one that every user starts."""
    process = start_training(bundle, "--dataset_dir", prepared, "--fold", "1", *SMALL)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    return bundle, output


def start_training(bundle, *options):
    command = ["-m", "monai.bundle", "run", "training", "--config_file", "configs/train.yaml"]
    path = os.pathsep.join([str(Path(monai_iln.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-u", *command, *map(str, options)],
        cwd=bundle,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def end(process, number):
    """Send a signal, and again if nothing happens: Python swallows what is raised while it collects garbage."""
    for _ in range(3):
        process.send_signal(number)
        try:
            return process.communicate(timeout=25)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    return process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_is_a_line(bundle, prepared, tmp_path, number, status):
    paths = ("--dataset_dir", prepared, "--ckpt_dir", tmp_path / "models", "--output_dir", tmp_path / "eval")
    process = start_training(bundle, *paths, *SMALL, "--epochs", "1000")
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    output, errors = end(process, number)
    assert process.returncode == status
    assert errors.endswith(f"\ninterrupted. The weights of this training so far: {tmp_path / 'models' / 'model.pt'}\n")
    assert "Traceback" not in output + errors
    assert "terminating" not in output + errors, "as engines log it"
    PaperUNet(features=(8, 16)).load_state_dict(torch.load(tmp_path / "models" / "model.pt", weights_only=True))


def test_training_leaves_weights_curves_and_overlay(trained):
    bundle, output = trained
    assert "epoch 2/2: loss " in output
    assert ", validation Dice 0." in output
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    PaperUNet(features=(8, 16)).load_state_dict(weights)
    rho = torch.cat([value for key, value in weights.items() if key.endswith("rho")])
    assert len(rho) == 7
    assert (rho != 0.5).any()
    with (bundle / "eval" / "curves.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    for name in ("curves.png", "overlay.png"):
        assert (bundle / "eval" / name).stat().st_size > 5000


def test_fine_tuning_keeps_weights_that_it_does_not_beat(python, trained, prepared, tmp_path):
    """With steps too small to change a weight every epoch scores as the start, so none is saved."""
    bundle, _ = trained
    models = Path(shutil.copytree(bundle / "models", tmp_path / "models"))
    before = (models / "model.pt").read_bytes()
    paths = ("--dataset_dir", prepared, "--ckpt_dir", models, "--output_dir", tmp_path / "eval")
    options = ("--fold", "1", *SMALL, "--learning_rate", "1e-30")
    output = succeed(python, bundle, *paths, *options, run_id=["training"], config=FINE_TUNE)
    scores = re.findall(r"validation Dice (0\.\d+)", output)
    assert len(scores) == 4  # to beat, of two epochs, and in the last line
    assert len(set(scores)) == 1
    assert f"no better than before, {models / 'model.pt'} is kept" in output
    assert [path.name for path in models.iterdir()] == ["model.pt"]
    assert (models / "model.pt").read_bytes() == before


@pytest.mark.parametrize(("weights", "rate"), [("a.pt", 0.0005), (None, 0.002)])
def test_fine_tuning_takes_small_steps_from_trained_weights(weights, rate):
    parser = ConfigParser()
    parser.read_config([BUNDLE / "configs" / "train.yaml", BUNDLE / "configs" / "fine_tune.yaml"])
    parser["weights"] = weights
    assert parser.get_parsed_content("learning_rate") == rate
    assert parser["train#handlers#5"]["_target_"].endswith("TensorBoardStatsHandler")
    assert parser["train#handlers#6"]["_target_"].endswith("FineTuning")


def test_evaluation_scores_every_image_of_the_test_fold(python, trained, prepared):
    bundle, _ = trained
    output = succeed(
        python, bundle, "--dataset_dir", prepared, "--fold", "1", *SMALL, run_id=["evaluating"], config=EVALUATE
    )
    items = [item for item in json.loads((prepared / "datalist.json").read_text())["training"] if item["fold"] == 1]
    expected = {(item["subject"], item["phase"], number) for item in items for number in item["slices"]}
    with (bundle / "eval" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["subject"], row["phase"], int(row["slice"])) for row in rows} == expected
    assert len(rows) == len(expected)
    labels = {(item["subject"], item["phase"]): nib.load(prepared / item["label"]).get_fdata() for item in items}
    assert sum(int(row["truth_pixels"]) for row in rows) == sum(label.sum() for label in labels.values())
    mean = np.mean([float(row["dice"]) for row in rows])
    assert f"Dice {mean:.3f} ± " in output
    assert (bundle / "eval" / "test_overlay.png").stat().st_size > 5000


@pytest.mark.parametrize("source", ["dicom", "nifti"])
def test_inference_keeps_the_geometry(python, trained, official, prepared, source, tmp_path):
    bundle, _ = trained
    if source == "dicom":
        path = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
        pixels, affine = read_stack(path, 2)
        arguments = ["--phase", "2", "--series", "1"]
    else:
        path = sorted((prepared / "images").iterdir())[3]
        pixels, affine = nib.load(path).get_fdata(), nib.load(path).affine
        arguments = []
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    succeed(
        python,
        bundle,
        "--dataset_dir",
        path,
        "--output_dir",
        tmp_path,
        *arguments,
        *features,
        config="configs/inference.yaml",
    )
    (mask,) = tmp_path.glob("*_pred.nii.gz")
    mask = nib.load(mask)
    assert mask.shape == pixels.shape
    np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
    values = np.asanyarray(mask.dataobj)
    assert set(np.unique(values)) <= {0, 1}
    margin = (96 - 48) // 2
    assert values[:margin].sum() == values[-margin:].sum() == 0, "nothing outside the region of interest"
    assert (tmp_path / "overlay.png").stat().st_size > 3000


def test_inference_keeps_the_folders_of_subjects(python, trained, prepared, tmp_path):
    bundle, _ = trained
    for subject, source in zip(("P1", "P2"), sorted((prepared / "images").iterdir())[::2], strict=False):
        (tmp_path / "data" / subject).mkdir(parents=True)
        shutil.copy(source, tmp_path / "data" / subject / "ED.nii.gz")
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    paths = ("--dataset_dir", tmp_path / "data", "--output_dir", tmp_path / "out")
    succeed(python, bundle, *paths, *features, config="configs/inference.yaml")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == ["P1/ED_pred.nii.gz", "P2/ED_pred.nii.gz", "overlay.png", "slices.csv"]
    for subject in ("P1", "P2"):
        image, mask = (
            nib.load(tmp_path / kind) for kind in (f"data/{subject}/ED.nii.gz", f"out/{subject}/ED_pred.nii.gz")
        )
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)


def test_inference_under_pseudonyms(python, trained, prepared, tmp_path):
    """Twice: nothing that is written or said names a patient or a file, and the names stay."""
    image = sorted((prepared / "images").iterdir())[0]
    for patient in ("Smith_John", "Jones_Mary"):
        (tmp_path / "data" / patient).mkdir(parents=True)
        shutil.copy(image, tmp_path / "data" / patient / "ED.nii.gz")
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    found = []
    for place in ("first", "second"):
        paths = ("--dataset_dir", tmp_path / "data", "--output_dir", tmp_path / place)
        key = ("--anonymize", tmp_path / "key.csv")
        done = run(python, trained[0], *paths, *key, *features, config="configs/inference.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        written = sorted((tmp_path / place).rglob("*"))
        found.append([path.name for path in written])
        told = done.stdout + done.stderr + (tmp_path / place / SLICES.name).read_text() + str(found)
        told += str([nib.load(path).header.structarr for path in written if path.suffix == ".gz"])
        assert not re.search("smith|jones", told, re.IGNORECASE)
    assert found[0] == found[1]
    stacks = {row["stack"] for row in SLICES.read_rows(tmp_path / "first")}
    assert found[0] == sorted([*(f"{stack}_pred.nii.gz" for stack in stacks), "overlay.png", "slices.csv"])
    assert len(stacks) == 2


def test_inference_does_not_depend_on_how_a_stack_is_stored(python, trained, prepared, tmp_path):
    bundle, _ = trained
    images = tmp_path / "images"
    images.mkdir()
    image = nib.load(sorted((prepared / "images").iterdir())[0])
    nib.save(image, images / "as_read.nii.gz")
    nib.save(image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]])), images / "stored.nii.gz")
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    config = "configs/inference.yaml"
    succeed(python, bundle, "--dataset_dir", images, "--output_dir", tmp_path / "out", *features, config=config)
    masks = [nib.load(tmp_path / "out" / f"{name}_pred.nii.gz") for name in ("as_read", "stored")]
    assert masks[0].get_fdata().sum() > 100
    back = masks[1].as_reoriented(np.array([[1, 1], [0, -1], [2, -1]]))
    np.testing.assert_array_equal(back.get_fdata(), masks[0].get_fdata())
    np.testing.assert_allclose(back.affine, masks[0].affine, atol=1e-4)


def test_a_cine_without_a_phase_is_segmented_whole(python, trained, official, tmp_path):
    bundle, _ = trained
    path = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    options = ("--dataset_dir", path, "--output_dir", tmp_path / "cine", *features)
    output = succeed(python, bundle, *options, config="configs/inference.yaml")
    mask = np.asanyarray(nib.load(tmp_path / "cine" / "CINESAX_300_pred.nii.gz").dataobj)
    assert mask.shape == (96, 96, 6, 4)
    (row,) = SUBJECTS.read_rows(tmp_path / "cine")
    assert f"left ventricle: EDV {float(row['edv_ml']):.1f} ml (phase {row['ed_phase']})" in output
    options = ("--dataset_dir", path, "--output_dir", tmp_path / "third", "--phase", "3", *features)
    succeed(python, bundle, *options, config="configs/inference.yaml")
    third = nib.load(tmp_path / "third" / "CINESAX_300_pred.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(third.dataobj), mask[..., 2])
    assert not (tmp_path / "third" / SUBJECTS.name).exists()


@pytest.fixture(scope="module")
def segment(python, trained):
    """Inference with the weights of two epochs."""
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")

    def infer(path, output, *options):
        paths = ("--dataset_dir", path, "--output_dir", output)
        return run(python, trained[0], *paths, *features, *options, config="configs/inference.yaml")

    return infer


def test_slices_that_a_person_names(segment, prepared, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for image in sorted((prepared / "images").iterdir())[:2]:
        shutil.copy(image, images)
    first, second = sorted(path.name.removesuffix(".nii.gz") for path in images.iterdir())
    table = tmp_path / "table.csv"
    table.write_text(f"stack,first,last\n{second},2,3\n")
    done = segment(images, tmp_path / "out", "--slices", table)
    assert done.returncode == 0, done.stdout + done.stderr
    marked = {}
    for name in (first, second):
        mask = nib.load(tmp_path / "out" / f"{name}_pred.nii.gz").get_fdata()
        marked[name] = (np.flatnonzero(mask.any(axis=(0, 1))) + 1).tolist()
        rows = [row for row in SLICES.read_rows(tmp_path / "out") if Path(row["stack"]).name == f"{name}.nii.gz"]
        assert [int(row["pixels"]) for row in rows] == mask.sum(axis=(0, 1)).tolist()
    assert set(marked[second]) == {2, 3}
    assert set(marked[first]) > {2, 3}
    assert f"slices.csv\nmasks, tables and pictures: {tmp_path / 'out'}" in done.stdout


@pytest.mark.parametrize(
    ("slices", "message"),
    [("1-99", "_ED.nii.gz: has 4 slices, and 1-99 goes beyond the last"), ("3", "slices 3: neither a range")],
)
def test_slices_that_are_not_there_are_one_message(segment, prepared, tmp_path, slices, message):
    done = segment(sorted((prepared / "images").iterdir())[0], tmp_path / "out", "--slices", slices)
    assert done.returncode == 1
    assert message in done.stderr.split("\nerror: ")[-1]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("norm", ["instance", "['GROUP', {'num_groups': 8}]", "BATCH"])
def test_another_norm_is_one_option(python, bundle, prepared, norm, tmp_path):
    paths = ("--ckpt_dir", tmp_path, "--output_dir", tmp_path)
    options = (*SMALL, *paths, "--epochs", "1", "--device", "cpu")
    succeed(python, bundle, "--dataset_dir", prepared, "--norm", norm, *options, run_id=["training"])
    assert not any(key.endswith("rho") for key in torch.load(tmp_path / "model.pt", weights_only=True))


def test_the_paper_s_protocol(python, bundle, prepared, tmp_path):
    paths = ("--ckpt_dir", tmp_path, "--output_dir", tmp_path)
    small = ("--rotations", "[0]", "--roi_size", "[96,96]", "--network_def#features", "[8,16]")
    output = succeed(python, bundle, "--dataset_dir", prepared, *small, *paths, run_id=["training"], config=PAPER)
    assert "epoch 2/2" in output
    assert (tmp_path / "model.pt").is_file()


def test_several_structures_are_trained_evaluated_and_segmented(python, bundle, tmp_path):
    raw = write_phantom(tmp_path / "raw", layout="mnms", subjects=4, slices=5, phases=4, size=96)
    prepared = prepare_folders(raw, tmp_path / "data", label=["left-ventricle", "right-ventricle"], folds=2).parent
    options = ("--structures", "2", "--roi_size", "[48,48]", "--network_def#features", "[8,16]")
    paths = ("--dataset_dir", prepared, "--output_dir", tmp_path / "out")
    weights = ("--ckpt_dir", tmp_path)
    succeed(python, bundle, *paths, *weights, *options, "--epochs", "1", run_id=["training"])
    succeed(python, bundle, *paths, *weights, *options, run_id=["evaluating"], config=EVALUATE)
    with (tmp_path / "out" / "images.csv").open() as file:
        assert {row["structure"] for row in csv.DictReader(file)} == {"left-ventricle", "right-ventricle"}
    weights = ("--ckpt_path", tmp_path / "model.pt")
    succeed(python, bundle, *paths, *weights, *options, config="configs/inference.yaml")
    assert len([*(tmp_path / "out").glob("*_pred.nii.gz")]) == 8


def transforms(parser, *ids):
    return [type(one).__name__ for id_ in ids for one in parser.get_parsed_content(id_)]


@pytest.mark.parametrize("name", ["train", "inference"])
def test_what_happens_to_images_by_default(name):
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / f"{name}.yaml")
    parser["network"] = "@network_def"
    components = ["LargestComponentSlicewised", "LargestComponentd"]
    if name == "inference":
        post = ["Invertd", "DeleteItemsd", "CopyItemsd", "Lambdad", components[0], "KeepSlicesd", components[1]]
        load = ["LoadStackd", "CopyItemsd", "ScaleIntensitySlicewised", "StandardizeInPlaned", "ResizeWithPadOrCropd"]
        assert transforms(parser, "preprocessing#transforms") == load
        assert transforms(parser, "postprocessing#transforms") == [*post, "DoubtSlicesd", "SaveStackd"]
    else:
        for part, crop in (("train", []), ("validate", ["ResizeWithPadOrCropd"])):
            assert transforms(parser, f"{part}#deterministic_transforms") == ["StandardizeInPlaned", *crop]
        post = ["Invertd", "AsDiscreted", *components, "AsDiscreted"]
        assert transforms(parser, "validate#postprocessing#transforms") == post


ANGLES = [range(-60, 61, 2), range(-30, 31, 10)]  # of the paper, for the left and the right ventricle


@pytest.mark.parametrize(("source", "angles"), [*zip(BUNDLES, ANGLES, strict=True)], ids=[one.name for one in BUNDLES])
def test_the_paper_s_protocol_in_detail(prepared, source, angles):
    parser = ConfigParser()
    parser.read_config([source / "configs" / "train.yaml", source / "configs" / "paper.yaml"])
    parser["dataset_dir"] = str(prepared)
    parser["device"] = "$torch.device('cpu')"
    slices = sum(len(item["slices"]) for item in parser.get_parsed_content("parts")["training"])
    trainer = parser.get_parsed_content("train#trainer")
    assert transforms(parser, "load", "train#deterministic_transforms") == [
        "LoadStackd",
        "ScaleIntensitySlicewised",
        "ResizeWithPadOrCropd",
    ]
    assert transforms(parser, "validate#deterministic_transforms") == ["ResizeWithPadOrCropd"]
    assert transforms(parser, "validate#postprocessing#transforms") == ["Invertd", "AsDiscreted", "AsDiscreted"]
    assert parser.get_parsed_content("rotations") == list(angles)
    assert len(trainer.data_loader.dataset) == slices * len(angles)
    assert trainer.data_loader.batch_size == 1
    (group,) = trainer.optimizer.param_groups
    assert (type(trainer.optimizer).__name__, group["lr"], group["momentum"]) == ("SGD", 0.1, 0.9)
    scheduler = parser.get_parsed_content("lr_scheduler")
    scheduler.optimizer.step()
    scheduler.step()
    assert group["lr"] == pytest.approx(0.1 / 5)
    logits, labels = torch.randn(2, 2, 4, 4), torch.randint(0, 2, (2, 1, 4, 4)).float()
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 0].long())
    torch.testing.assert_close(parser.get_parsed_content("loss")(logits, labels), expected)


@pytest.mark.parametrize("source", BUNDLES, ids=[bundle.name for bundle in BUNDLES])
def test_without_data_it_says_so_and_trains_on_phantoms(python, source, tmp_path):
    root = shutil.copytree(source, tmp_path / "fresh", ignore=shutil.ignore_patterns("data", "eval", "models"))
    output = succeed(python, root, *SMALL, "--epochs", "1", run_id=["training"])
    assert "No dataset_dir given: training on PHANTOMS" in output
    assert (root / "data" / "phantoms" / "datalist.json").is_file()
    assert (root / "models" / "model.pt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fold", "7"], "fold 7 does not exist. It has the folds [0, 1, 2]: choose one of them."),
        (["--norm", "INL"], "norm 'INL' is unknown. Did you mean 'ILN'?"),
        (
            ["--norm", "['ILN', {'num_groups': 16, 'strict': True}]", "--network_def#features", "[24,48]"],
            "24 channels cannot",
        ),
        (["--val_interval", "9"], "val_interval 9 and 2 epochs: a training needs at least one validation"),
        (["--structures", "2"], "structures 2 and labels of endocardium: the network has a channel for each"),
        (["--dataset_dir", "nowhere"], "nowhere: no such datalist."),
        (["--standardize", "false"], "standardize and largest_component are true or false"),
        (["--epoch", "2"], "'epoch' is no id of the configuration. Did you mean 'epochs'?"),
        (["--optimizer#beta=0.9"], "'beta' is no argument of torch.optim.AdamW. Did you mean 'betas'?"),
    ],
)
def test_a_mistake_is_one_message(python, bundle, prepared, arguments, message):
    done = run(python, bundle, "--dataset_dir", prepared, *SMALL, *arguments, run_id=["training"])
    assert done.returncode == 1
    assert message in done.stderr.split("\nerror: ")[-1]
    assert "Traceback" not in done.stdout + done.stderr


def test_weights_must_fit(python, trained, prepared, tmp_path):
    bundle, _ = trained
    arguments = ("--dataset_dir", prepared, "--fold", "1", *SMALL)
    for options, message in {
        ("--norm", "BATCH"): "give the same norm",
        ("--ckpt_dir", tmp_path): "no such file",
        ("--part", "validaton"): "part 'validaton': a datalist is split into training, validation, test.",
    }.items():
        done = run(python, bundle, *arguments, *options, run_id=["evaluating"], config=EVALUATE)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
