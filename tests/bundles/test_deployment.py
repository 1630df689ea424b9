"""The bundles' networks exported by the commands of docs/how-to/deploy.md, and run where torch or MONAI is missing."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import fire
import monai.bundle
import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.inferers import SliceInferer

from monai_iln import extras
from monai_iln.datasets import DataWarning
from monai_iln.networks import PaperUNet, load_weights

pytestmark = [
    pytest.mark.slow,
    # torch's own: the exporter that goes by TorchScript is deprecated as a whole, and one of its helpers once more.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning:torch.onnx"),
    # torch's own: the exporter that goes by torch.export copies tree specifications that torch has deprecated.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
]

ROOT = Path(__file__).parents[2]
BUNDLES = {"lv_short_axis_iln": 0, "rv_short_axis_iln": 1}  # by which of the page's exports to ONNX
FEATURES = (16, 32)  # gates of 32 channels are alive, those of 16 are not
SMALL = {"network_def#features": list(FEATURES), "device": "cpu"}
SHAPES = [(1, 144, 144), (5, 144, 144), (3, 96, 96), (2, 97, 131), (1, 256, 256)]  # slices, rows, columns
TOLERANCE = 2e-4  # of logits around 10: exporters reorder sums in float32

# Run by a Python that lacks these packages.
WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
"""
RUN_TORCHSCRIPT = """
import numpy, torch
network = torch.jit.load(sys.argv[1])
with torch.no_grad():
    for path in sys.argv[2:]:
        numpy.save(path + ".out.npy", network(torch.from_numpy(numpy.load(path))).numpy())
"""
RUN_EXAMPLE = """
import runpy
example, model, *paths = sys.argv[1:]
for stack, mask in zip(paths[::2], paths[1::2]):
    sys.argv = [example, model, stack, mask]
    runpy.run_path(example, run_name="__main__")
"""


def run_without(blocked, code, *arguments, cwd):
    script = WITHOUT.format(blocked=set(blocked)) + code
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documented(command):
    """The arguments of the page's commands of that name, as the shell would hand them over."""
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    found = re.findall(rf"^python -m monai\.bundle ({command} .*?)\n```", page, re.MULTILINE | re.DOTALL)
    return [shlex.split(one.replace("\\\n", "")) for one in found]


def workflow(bundle, name, kind, **overrides):
    return ConfigWorkflow(
        str(bundle / "configs" / f"{name}.yaml"),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(bundle),
        **SMALL | overrides,
    )


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """Weights of a small network after seconds of training, for both bundles: their networks are the same."""
    folder = tmp_path_factory.mktemp("trained")
    short = {"epochs": 3, "batch_size": 2, "learning_rate": 0.005, "roi_size": [64, 64]}
    outputs = {"ckpt_dir": str(folder), "output_dir": str(folder / "eval")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.__excepthook__)  # the bundle sets it
        training = workflow(
            ROOT / "bundles" / "lv_short_axis_iln", "train", "train", dataset_dir=str(prepared), **outputs, **short
        )
        training.initialize()
        training.run()
    return folder / "model.pt"


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request, trained, tmp_path_factory):
    """A copy with these weights, exported by the documented commands."""
    folder = tmp_path_factory.mktemp("deploy") / request.param
    shutil.copytree(
        ROOT / "bundles" / request.param, folder, ignore=shutil.ignore_patterns("data", "eval", "models", "study")
    )
    (folder / "models").mkdir()
    shutil.copy(trained, folder / "models")
    commands = {name: getattr(monai.bundle, name) for name in ("ckpt_export", "onnx_export")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (documented("ckpt_export")[0], documented("onnx_export")[BUNDLES[request.param]]):
            fire.Fire(commands, [*command, "--network_def#features", str(list(FEATURES))])
    return folder


@pytest.fixture(scope="module")
def network(bundle):
    return load_weights(PaperUNet(features=FEATURES), bundle / "models" / "model.pt").eval()


@pytest.fixture(scope="module")
def session(bundle):
    return onnxruntime.InferenceSession(bundle / "models" / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("missing", "number"), [("onnx", 1), ("onnxscript", 0)])
def test_an_export_without_its_packages_is_one_message(python, missing, number, tmp_path):
    shutil.copytree(ROOT / "bundles" / "lv_short_axis_iln", tmp_path / "lv")
    done = python.run("monai.bundle", *documented("onnx_export")[number], cwd=tmp_path / "lv", without=(missing,))
    assert done.returncode == 1
    told = f'error: onnx_export needs {missing}, which is not installed. Run: pip install "monai-iln[onnx]"'
    assert told in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "lv" / "models" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["onnx_export"], ["onnx", "onnxscript"]),
        (["onnx_export", "--converter_kwargs", "{'dynamo': True}"], ["onnx", "onnxscript"]),
        (["onnx_export", "--converter_kwargs", "{'dynamo': False}"], ["onnx"]),
        (["ckpt_export"], None),
    ],
)
def test_what_an_export_needs(arguments, needed, monkeypatch):
    asked = []
    monkeypatch.setattr(extras, "require_extra", lambda part, extra, *modules: asked.append([*modules]))
    monkeypatch.setattr(extras, "hide_tracebacks", lambda: None)
    monkeypatch.setattr(sys, "argv", [monai.bundle.__path__[0] + "/__main__.py", *arguments])
    extras.check_export()
    assert asked == ([] if needed is None else [needed])


def images(shape):
    slices, *plane = shape
    return torch.rand(slices, 1, *plane, generator=torch.Generator().manual_seed(0))


def compare(found, network, shape):
    with torch.no_grad():
        expected = network(images(shape))
    assert (expected.argmax(1) == 1).any()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=TOLERANCE)


def test_torchscript_runs_without_the_package(bundle, network, tmp_path):
    paths = [tmp_path / f"{number}.npy" for number in range(len(SHAPES))]
    for path, shape in zip(paths, SHAPES, strict=True):
        np.save(path, images(shape).numpy())
    run_without({"monai_iln", "monai"}, RUN_TORCHSCRIPT, bundle / "models" / "model.ts", *paths, cwd=tmp_path)
    for path, shape in zip(paths, SHAPES, strict=True):
        compare(np.load(f"{path}.out.npy"), network, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_onnx_takes_every_size_and_number_of_slices(session, network, shape):
    compare(session.run(["logits"], {"image": images(shape).numpy()})[0], network, shape)


# Pixel sizes above and below 1.4 mm, a stack that is turned, one without geometry, and fields smaller and larger than
# the 144 pixels that the network sees.
GEOMETRIES = {
    "coarse": (np.diag([2.1, 2.1, 8.0, 1.0]), (96, 96)),
    "fine": (np.diag([-0.8, -0.9, 8.0, 1.0]), (96, 80)),
    "turned": (np.array([[0, -1.3, 0, 5], [1.2, 0, 2, -7], [0.5, 0, 8, 0], [0, 0, 0, 1.0]]), (96, 90)),
    "no geometry": (np.eye(4), (96, 96)),
    "large": (np.diag([-2.5, -2.5, 8.0, 1.0]), (96, 96)),
}


@pytest.fixture(scope="module")
def stacks(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stacks")
    paths = sorted((prepared / "images").iterdir())
    for (name, (affine, (rows, columns))), path in zip(GEOMETRIES.items(), paths, strict=False):
        pixels = nib.load(path).get_fdata(dtype=np.float32)[:rows, :columns]
        nib.save(nib.Nifti1Image(pixels, affine), folder / f"{name.replace(' ', '_')}.nii.gz")
    contradictory = nib.Nifti1Image(pixels, None)  # as ACDC has it
    contradictory.header["pixdim"][1:4] = 1.9, 1.9, 8
    contradictory.header.set_sform(np.diag([-1, -1, 1, 1]), code=2)
    nib.save(contradictory, folder / "contradictory.nii.gz")
    return folder


def test_the_example_agrees_with_the_bundle(bundle, stacks, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # the bundle sets it
    inference = workflow(bundle, "inference", "infer", dataset_dir=str(stacks), output_dir=str(tmp_path / "bundle"))
    inference.initialize()
    with pytest.warns(DataWarning, match=r"contradictory\.nii\.gz: .* the sizes of pixdim are believed"):
        inference.run()
    masks = {path: tmp_path / path.name for path in sorted(stacks.iterdir())}
    example = ROOT / "examples" / "onnx_inference.py", bundle / "models" / "model.onnx"
    pairs = itertools.chain.from_iterable(masks.items())
    told = run_without({"monai", "torch", "ignite", "sklearn"}, RUN_EXAMPLE, *example, *pairs, cwd=tmp_path)
    assert told.count("the sizes of pixdim are believed") == 1
    for path, mask in masks.items():
        expected = nib.load(tmp_path / "bundle" / path.name.replace(".nii", "_pred.nii"))
        found = nib.load(mask)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
        truth, marked = np.asanyarray(expected.dataobj), np.asanyarray(found.dataobj)
        assert truth.any()
        assert marked.dtype == np.uint8
        assert (marked != truth).mean() < 1e-4, path.name


def test_one_window_is_the_network_itself_and_smaller_ones_are_not(bundle, network):
    """ILN's statistics are those of the window."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.yaml")
    inferer = parser.get_parsed_content("inferer")
    slices = images((10, 144, 144)) ** 2 * torch.linspace(0, 1, 144)  # brighter to one side, as near a coil
    stack = slices.permute(1, 2, 3, 0)[None]
    with torch.no_grad():
        direct = network(slices).permute(1, 2, 3, 0)[None]
        torch.testing.assert_close(inferer(stack, network), direct, rtol=0, atol=1e-5)
        windows = SliceInferer(roi_size=(96, 96), spatial_dim=2, sw_batch_size=8, overlap=0.5)(stack, network)
    assert (windows - direct).abs().mean() > 0.01 * direct.abs().mean()
