"""The bare wheel in an environment that holds the core and nothing else."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def core():
    """The distributions that ``pip install monai-iln`` brings, without any extra."""
    found, waiting = {}, [Requirement(text) for text in importlib.metadata.requires("monai-iln")]
    while waiting:
        requirement = waiting.pop()
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in found:
            found[requirement.name] = distribution = importlib.metadata.distribution(requirement.name)
            waiting += [Requirement(text) for text in distribution.requires or ()]
    return found.values()


def environment():
    """The environment of a process that finds nothing of this clone by chance."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--no-cache-dir", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run([*command, "--no-index"], env=environment(), check=True)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """The Python of an environment with the wheel and the core, whose packages are links to those installed here."""
    folder = tmp_path_factory.mktemp("bare")
    source = folder / "source"  # a copy: setuptools would leave its traces in the original, and find older ones there
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("monai_iln", "bundles"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "eval", "data"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    for distribution in core():
        for top in {file.parts[0] for file in distribution.files if file.parts[0] != ".."} - {"__pycache__"}:
            source = Path(distribution.locate_file(top))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    (wheel,) = folder.glob("monai_iln-*.whl")
    pip("--python", str(python), "install", "--no-deps", str(wheel))
    return python


def run(python, code, *arguments):
    """Run a program in an environment, in a folder where it finds nothing by chance."""
    command = [str(python), "-c", code, *arguments]
    return subprocess.run(command, cwd=python.parent, env=environment(), capture_output=True, text=True, check=False)


def test_a_clone_is_found_from_the_folder_that_holds_it(tmp_path):
    """An installed clone is a path of Python's: a finder would come after a folder that has the package's name."""
    clone = tmp_path / "monai_iln"
    ignored = shutil.ignore_patterns(".git", "build", "*.egg-info", "__pycache__", "tests", "bundles", "docs")
    shutil.copytree(ROOT, clone, ignore=ignored)
    build = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=clone, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("monai_iln-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(path).decode().split() == [str(clone)]


USES = """
import sys
import torch
from monai_iln import ILN
assert ILN(8, num_groups=4)(torch.randn(2, 8, 6, 6)).shape == (2, 8, 6, 6)
assert {"monai", "nibabel", "ignite", "sklearn"}.isdisjoint(sys.modules)

from monai.networks.nets import AttentionUnet, UNet
import monai_iln
from monai_iln.networks import PaperUNet
from monai_iln.norms import make_norm, parameter_groups, read_gates, replace_norm
assert "site-packages" in monai_iln.__file__

network = UNet(2, 1, 2, (8, 16), (2,), norm=("ILN", {"num_groups": 4}))
network(torch.randn(1, 1, 16, 16)).sum().backward()
assert read_gates(network) and parameter_groups(network, 0.1)
assert all(entry.new for entry in replace_norm(AttentionUnet(2, 1, 2, (8, 16), (2,)), "ILN"))
paper = PaperUNet(spatial_dims=2, in_channels=1, out_channels=2, norm="ILN").eval()
image = torch.randn(1, 1, 32, 32)
scripted = torch.jit.script(paper)
torch.testing.assert_close(scripted(image), paper(image), rtol=1e-3, atol=1e-4)  # of a mean logit of 1
exported = torch.export.export(paper, (image,)).module()
torch.testing.assert_close(exported(image), paper(image), rtol=1e-3, atol=1e-4)

import nibabel
import numpy
from monai_iln.transforms import LargestComponentSlicewise, LoadStack, TakeSlice
nibabel.save(nibabel.Nifti1Image(numpy.ones((8, 7, 3), numpy.float32), numpy.eye(4)), "stack.nii.gz")
stack = LoadStack()("stack.nii.gz")
assert TakeSlice(1)(LargestComponentSlicewise()(stack)).shape == (1, 8, 7)
print("used")
"""


def test_layer_factory_replacement_network_and_export(bare):
    done = run(bare, USES)
    assert done.stdout.split() == ["used"], done.stderr


def test_a_bundle_is_written(bare):
    write = (
        "import sys\nfrom monai_iln.cli import main\nsys.exit(main(['bundle', 'rv_short_axis_iln', '--output', 'rv']))"
    )
    done = run(bare, write)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: python -m monai.bundle needs fire, yaml, ")
    assert done.stderr.endswith('Run: pip install "monai-iln[bundle]"\n')
    assert (bare.parent / "rv" / "models" / "model.pt").is_file()
    assert (bare.parent / "rv" / "docs" / "folds.json").is_file()


# Every part that an extra brings: what is run, and the extra that its message names.
MISSING = {
    "prepare": ("data", "prepare sunnybrook --source . --output out"),
    "phantom": ("data", "phantom --output out"),
    "download": ("data", "download sunnybrook --output out"),
    "study": ("study", "study --config_file study.yaml"),
    "report": ("study", "report ."),
    "simulate": ("study", "simulate --output out"),
    "benchmark": ("plot", "benchmark layer --rounds 1 --output out"),
}


@pytest.mark.parametrize("command", MISSING)
def test_a_command_whose_extra_is_missing_says_so(bare, command):
    extra, line = MISSING[command]
    done = run(bare, "import sys\nfrom monai_iln.cli import main\nsys.exit(main(sys.argv[1:]))", *line.split())
    assert done.returncode == 1, done.stdout
    (message,) = done.stderr.splitlines()
    assert message.startswith("error: ")
    assert message.endswith(f'Run: pip install "monai-iln[{extra}]"')
    assert not (bare.parent / "out").exists()


PARTS = {
    "from monai_iln.norms import plot_gates; plot_gates([], 'gates.png')": "plot",
    "import monai_iln.handlers": "bundle",
    "from monai_iln.study import CrossValidationWorkflow": "study",
    "from monai_iln.datasets.phantom import write_phantom; write_phantom('out')": "data",
}


def test_parts_whose_extra_is_missing_say_so(bare):
    lines = ["from monai_iln.extras import MissingExtraError"]
    for statement in PARTS:
        lines += ["try:", f"    {statement}", "except MissingExtraError as error:", "    print(error)"]
    done = run(bare, "\n".join(lines))
    assert done.returncode == 0, done.stderr
    told = [line.rpartition('"monai-iln[')[2] for line in done.stdout.splitlines()]
    assert told == [f'{extra}]"' for extra in PARTS.values()]
