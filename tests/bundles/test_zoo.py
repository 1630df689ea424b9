"""What MONAI, its model zoo and other consumers ask of a bundle."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow, load, verify_metadata, verify_net_in_out
from monai.handlers import CheckpointLoader

import monai_iln
from monai_iln.networks import PaperUNet

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").glob("*_iln"))


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
        assert path.stat().st_size < 5e6, path
    assert [path.name for path in (each / "models").glob("*.pt")] == ["model.pt"]
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


@EXECUTES
def test_monai_loads_the_network_with_its_weights(each, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    network = load(each.name, bundle_dir=str(each.parent))
    weights = torch.load(each / "models" / "model.pt", weights_only=True)
    for name, value in network.state_dict().items():
        assert (value.dtype, weights[name].dtype) == (torch.float32, torch.float16)
        assert torch.equal(value, weights[name].float())


def test_monai_s_handler_loads_the_weights(each):
    """As MONAI Label's own app does, and configurations of the model zoo."""
    path = each / "models" / "model.pt"
    network = PaperUNet()
    CheckpointLoader(str(path), {"model": network})(Engine(lambda *_: None))
    weights = torch.load(path, weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, weights[name].float())


def test_from_any_folder_and_with_arguments_from_a_file(python, each, prepared, tmp_path):
    (tmp_path / "images").mkdir()
    for path in sorted((prepared / "images").iterdir())[:2]:
        shutil.copy(path, tmp_path / "images")
    arguments = {
        "config_file": str(each / "configs" / "inference.yaml"),
        "bundle_root": str(each),
        "dataset_dir": str(tmp_path / "images"),
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    done = python.run("monai.bundle", "run", "--args_file", "arguments.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    masks = {path.name.removesuffix("_pred.nii.gz") for path in (tmp_path / "out").glob("*.nii.gz")}
    assert masks == {path.name.removesuffix(".nii.gz") for path in (tmp_path / "images").iterdir()}


def test_the_message_names_this_package_where_it_is_missing(python, each):
    done = python.run(
        "monai.bundle", "run", "--config_file", "configs/inference.yaml", cwd=each, without=("monai_iln",)
    )
    assert done.returncode == 1
    assert "monai_iln" in done.stderr


@pytest.mark.parametrize("package", ["matplotlib", "tensorboard"])
@pytest.mark.parametrize("configuration", ["inference", "train"])
def test_a_missing_extra_is_one_line(python, each, configuration, package):
    options = ("--config_file", f"configs/{configuration}.yaml")
    done = python.run("monai.bundle", "run", *options, cwd=each, without=(package,))
    assert done.returncode == 1
    message = f'error: this bundle needs {package}, which is not installed. Run: pip install "monai-iln[bundle]"'
    assert done.stderr.splitlines()[-1] == message
    assert "Traceback" not in done.stderr
