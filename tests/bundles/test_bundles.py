"""The bundles as a user runs them: commands in a process of their own."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow, load, verify_metadata, verify_net_in_out

import monai_iln
from monai_iln.datasets.formats.dicom import read_stack
from monai_iln.networks import PaperUNet

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").glob("*_iln"))
BUNDLE = BUNDLES[0]  # the left ventricle's; the other differs as test_the_bundles_differ_where_they_must says
SMALL = ("--epochs", "2", "--batch_size", "4", "--roi_size", "[48,48]", "--network_def#features", "[8,16]")
EVALUATE = "['configs/train.yaml','configs/evaluate.yaml']"
PAPER = "['configs/train.yaml','configs/paper.yaml']"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return shutil.copytree(
        BUNDLE, tmp_path_factory.mktemp("bundle") / BUNDLE.name, ignore=shutil.ignore_patterns("data", "eval", "models")
    )


def run(bundle, *arguments, run_id=(), config="configs/train.yaml"):
    command = [sys.executable, "-m", "monai.bundle", "run", *run_id, "--config_file", config, *map(str, arguments)]
    path = os.pathsep.join([str(Path(monai_iln.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command,
        cwd=bundle,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def succeed(*arguments, **keywords):
    done = run(*arguments, **keywords)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(bundle, prepared):
    output = succeed(bundle, "--dataset_dir", prepared, "--fold", "1", *SMALL, run_id=["training"])
    return bundle, output


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


def test_evaluation_scores_every_image_of_the_test_fold(trained, prepared):
    bundle, _ = trained
    output = succeed(bundle, "--dataset_dir", prepared, "--fold", "1", *SMALL, run_id=["evaluating"], config=EVALUATE)
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
def test_inference_keeps_the_geometry(trained, official, prepared, source, tmp_path):
    bundle, _ = trained
    if source == "dicom":
        path = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
        pixels, affine = read_stack(path, 2)
        arguments = ["--phase", "2"]
    else:
        path = sorted((prepared / "images").iterdir())[3]
        pixels, affine = nib.load(path).get_fdata(), nib.load(path).affine
        arguments = []
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    succeed(
        bundle, "--dataset_dir", path, "--output_dir", tmp_path, *arguments, *features, config="configs/inference.yaml"
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


def test_inference_does_not_depend_on_how_a_stack_is_stored(trained, prepared, tmp_path):
    bundle, _ = trained
    images = tmp_path / "images"
    images.mkdir()
    image = nib.load(sorted((prepared / "images").iterdir())[0])
    nib.save(image, images / "as_read.nii.gz")
    nib.save(image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]])), images / "stored.nii.gz")
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    config = "configs/inference.yaml"
    succeed(bundle, "--dataset_dir", images, "--output_dir", tmp_path / "out", *features, config=config)
    masks = [nib.load(tmp_path / "out" / f"{name}_pred.nii.gz") for name in ("as_read", "stored")]
    assert masks[0].get_fdata().sum() > 100
    back = masks[1].as_reoriented(np.array([[1, 1], [0, -1], [2, -1]]))
    np.testing.assert_array_equal(back.get_fdata(), masks[0].get_fdata())
    np.testing.assert_allclose(back.affine, masks[0].affine, atol=1e-4)


def test_a_cine_without_a_phase_is_one_message(trained, official):
    bundle, _ = trained
    path = next(official.glob("SCD_IMAGES_01/*/CINESAX_300"))
    features = ("--network_def#features", "[8,16]", "--roi_size", "[48,48]")
    done = run(bundle, "--dataset_dir", path, *features, config="configs/inference.yaml")
    assert done.returncode == 1
    assert done.stderr.endswith("choose it with phase (1 to 4).\n")
    assert (done.stdout + done.stderr).count("a cine with 4 phases") == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("norm", ["instance", "['GROUP', {'num_groups': 8}]", "BATCH"])
def test_another_norm_is_one_option(bundle, prepared, norm, tmp_path):
    paths = ("--ckpt_dir", tmp_path, "--output_dir", tmp_path)
    options = (*SMALL, *paths, "--epochs", "1", "--device", "cpu")
    succeed(bundle, "--dataset_dir", prepared, "--norm", norm, *options, run_id=["training"])
    assert not any(key.endswith("rho") for key in torch.load(tmp_path / "model.pt", weights_only=True))


def test_the_paper_s_protocol(bundle, prepared, tmp_path):
    paths = ("--ckpt_dir", tmp_path, "--output_dir", tmp_path)
    small = ("--rotations", "[0]", "--roi_size", "[96,96]", "--network_def#features", "[8,16]")
    output = succeed(bundle, "--dataset_dir", prepared, *small, *paths, run_id=["training"], config=PAPER)
    assert "epoch 2/2" in output
    assert (tmp_path / "model.pt").is_file()


def transforms(parser, *ids):
    return [type(one).__name__ for id_ in ids for one in parser.get_parsed_content(id_)]


@pytest.mark.parametrize("name", ["train", "inference"])
def test_what_happens_to_images_by_default(name):
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / f"{name}.yaml")
    parser["network"] = "@network_def"
    post = ["Invertd", "AsDiscreted", "LargestComponentSlicewised"]
    if name == "inference":
        load = ["LoadStackd", "ScaleIntensitySlicewised", "StandardizeInPlaned", "ResizeWithPadOrCropd"]
        assert transforms(parser, "preprocessing#transforms") == load
        assert transforms(parser, "postprocessing#transforms") == [*post, "SaveImaged"]
    else:
        for part, crop in (("train", []), ("validate", ["ResizeWithPadOrCropd"])):
            assert transforms(parser, f"{part}#deterministic_transforms") == ["StandardizeInPlaned", *crop]
        assert transforms(parser, "validate#postprocessing#transforms") == [*post, "AsDiscreted"]


def test_the_paper_s_protocol_in_detail(prepared):
    parser = ConfigParser()
    parser.read_config([BUNDLE / "configs" / "train.yaml", BUNDLE / "configs" / "paper.yaml"])
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
    assert len(trainer.data_loader.dataset) == slices * 61
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
def test_without_data_it_says_so_and_trains_on_phantoms(source, tmp_path):
    root = shutil.copytree(source, tmp_path / "fresh", ignore=shutil.ignore_patterns("data", "eval", "models"))
    output = succeed(root, *SMALL, "--epochs", "1", run_id=["training"])
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
        (["--dataset_dir", "nowhere"], "nowhere: no such datalist."),
        (["--standardize", "false"], "standardize and largest_component are true or false"),
        (["--epoch", "2"], "'epoch' is no id of the configuration. Did you mean 'epochs'?"),
        (["--optimizer#beta=0.9"], "'beta' is no argument of torch.optim.AdamW. Did you mean 'betas'?"),
    ],
)
def test_a_mistake_is_one_message(bundle, prepared, arguments, message):
    done = run(bundle, "--dataset_dir", prepared, *SMALL, *arguments, run_id=["training"])
    assert done.returncode == 1
    assert message in done.stderr.split("\nerror: ")[-1]
    assert "Traceback" not in done.stdout + done.stderr


def test_weights_must_fit(trained, prepared, tmp_path):
    bundle, _ = trained
    arguments = ("--dataset_dir", prepared, "--fold", "1", *SMALL)
    for options, message in {
        ("--norm", "BATCH"): "give the same --norm",
        ("--ckpt_dir", tmp_path): "no such file",
        ("--part", "validaton"): "part 'validaton': a datalist is split into training, validation, test.",
    }.items():
        done = run(bundle, *arguments, *options, run_id=["evaluating"], config=EVALUATE)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


# What MONAI, its model zoo and other consumers ask of a bundle


def test_the_bundles_differ_where_they_must():
    """In nothing but the ventricle's name in the configuration, and in what metadata and pages say of the data."""
    left, right = BUNDLES
    assert (left.name, right.name) == ("lv_short_axis_iln", "rv_short_axis_iln")
    names = [{str(path.relative_to(bundle)) for path in _shipped(bundle)} for bundle in BUNDLES]
    assert {name for name in names[0] ^ names[1] if "model_fold" not in name} == {"docs/folds.json"}
    differ = {name for name in names[0] & names[1] if (left / name).read_bytes() != (right / name).read_bytes()}
    assert differ == {
        "configs/metadata.json",
        "configs/train.json",
        "configs/train.yaml",
        "docs/README.md",
        "docs/data_license.txt",
        "models/model.pt",
    }
    text = [(bundle / "configs" / "train.yaml").read_text() for bundle in BUNDLES]
    assert text[0].replace("left ventricle", "right ventricle").replace("'left'", "'right'") == text[1]
    metadata = [json.loads((bundle / "configs" / "metadata.json").read_text()) for bundle in BUNDLES]
    of_the_data = {"name", "task", "data_source", "data_type", "label_classes", "pred_classes", "references"}
    assert {key for key in metadata[0] | metadata[1] if metadata[0].get(key) != metadata[1].get(key)} == of_the_data | {
        "network_data_format"
    }
    for data in metadata:
        data["network_data_format"]["outputs"]["pred"]["channel_def"].pop("1")
    assert metadata[0]["network_data_format"] == metadata[1]["network_data_format"]


def _shipped(bundle):
    """The files of a bundle but for what its runs leave there."""
    folders = ("configs", "docs", "models")
    return [
        bundle / "LICENSE",
        *(path for folder in folders for path in (bundle / folder).rglob("*") if path.is_file()),
    ]


@pytest.fixture(params=BUNDLES, ids=[bundle.name for bundle in BUNDLES])
def each(request):
    return request.param


def test_the_rules_of_the_model_zoo(each):
    for name in (
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.yaml",
        "configs/train.yaml",
        "configs/evaluate.yaml",
        "configs/multi_gpu_train.yaml",
        "configs/logging.conf",
        "docs/README.md",
        "docs/data_license.txt",
        "models/model.pt",
    ):
        assert (each / name).is_file(), name
    for path in _shipped(each):
        assert path.stat().st_size < 25e6, path
    for path in (each / "configs").glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert config
        assert not any(isinstance(value, str) and value.startswith("/") for value in config.values()), path
    parser = ConfigParser(yaml.safe_load((each / "configs" / "train.yaml").read_text()))
    for key in (
        *("bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "network_def"),
        *("train#trainer", "train#trainer#max_epochs", "train#dataset", "train#dataset#data", "train#handlers"),
        *("validate#evaluator", "validate#handlers", "validate#dataset", "validate#dataset#data"),
    ):
        assert key in parser, key
    parser = ConfigParser(yaml.safe_load((each / "configs" / "inference.yaml").read_text()))
    for key in ("bundle_root", "device", "network_def", "inferer", "output_dir"):
        assert key in parser, key


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")  # of the schema
def test_metadata(each, tmp_path):
    path = each / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["monai_iln"] == monai_iln.__version__
    kinds = dict.fromkeys(("schema", "task", "description", "authors", "copyright"), "string")
    kinds |= dict.fromkeys(("required_packages_version", "network_data_format", "changelog"), "object")
    schema = {key: {"type": kind, "minLength": 1, "minProperties": 1} for key, kind in kinds.items()}
    schema |= {f"{name}version": {"pattern": r"^\d+\.\d+"} for name in ("", "monai_", "pytorch_", "numpy_")}
    # MONAI would fetch the schema of the metadata; it takes a file that is there instead. These are its required keys.
    (tmp_path / "schema.json").write_text(json.dumps({"properties": schema, "required": list(schema)}))
    verify_metadata(meta_file=str(path), filepath=str(tmp_path / "schema.json"))


def test_network_takes_and_gives_what_the_metadata_say(each):
    files = {
        "meta_file": str(each / "configs" / "metadata.json"),
        "config_file": str(each / "configs" / "inference.yaml"),
    }
    verify_net_in_out("network_def", **files, bundle_root=str(each), device="cpu")


EXECUTES = pytest.mark.filterwarnings(
    "ignore:parsing config_file:UserWarning"
)  # MONAI's, of configurations not one's own


@EXECUTES
@pytest.mark.parametrize(("name", "kind"), [("train", "train"), ("inference", "infer")])
def test_the_properties_that_monai_looks_for(each, name, kind, monkeypatch, prepared):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # the bundle sets it
    workflow = create_workflow(
        config_file=str(each / "configs" / f"{name}.yaml"),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(each),
        dataset_dir=str(prepared),
    )
    assert isinstance(workflow, ConfigWorkflow)
    assert workflow.check_properties() == []


def test_json_is_the_yaml(each):
    writer = runpy.run_path(str(each.parent / "write_json.py"))
    for name in writer["NAMES"]:
        path = each / "configs" / f"{name}.yaml"
        assert path.with_suffix(".json").read_text() == writer["as_json"](path), "run: python bundles/write_json.py"


@EXECUTES
def test_monai_loads_the_network_with_its_weights(each, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    network = load(each.name, bundle_dir=str(each.parent))
    weights = torch.load(each / "models" / "model.pt", weights_only=True)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, weights[name])


def test_from_any_folder_and_with_arguments_from_a_file(each, prepared, tmp_path):
    arguments = {
        "config_file": str(each / "configs" / "inference.yaml"),
        "bundle_root": str(each),
        "dataset_dir": str(prepared / "images"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    command = [sys.executable, "-m", "monai.bundle", "run", "--args_file", "arguments.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    masks = {path.name.removesuffix("_pred.nii.gz") for path in (tmp_path / "out").glob("*.nii.gz")}
    assert masks == {path.name.removesuffix(".nii.gz") for path in (prepared / "images").iterdir()}


def test_without_the_package_the_message_names_it(each, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['monai_iln'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"],
        cwd=each,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode != 0
    assert "monai_iln" in done.stderr.splitlines()[-1], done.stderr
