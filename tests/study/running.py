"""Small studies through the command line, in this process: their workers are started once for all tests."""

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

from monai_iln.cli import main

CONFIG = Path(__file__).parents[2] / "bundles" / "lv_short_axis_iln" / "configs" / "cross_validation.yaml"
SMALL = {
    "training": ["train.yaml"],
    "methods": ["ILN", "None"],
    "learning_rates": [0.01],
    "overrides": {
        "validation_every": 5,
        "epochs": 1,
        "batch_size": 4,
        "roi_size": [48, 48],
        "network_def#features": [8, 16],
    },
    "jobs": 2,
}


def settings_of(prepared, folder, **settings):
    return SMALL | {"dataset_dir": str(prepared), "output_dir": str(folder)} | settings


def arguments(prepared, folder, **settings):
    """The arguments of ``monai-iln``."""
    options = [f"--{key}={json.dumps(value)}" for key, value in settings_of(prepared, folder, **settings).items()]
    return ["study", "--config_file", str(CONFIG), *options]


def command(prepared, folder, **settings):
    """The same for a process of its own."""
    return [sys.executable, "-m", "monai_iln", *arguments(prepared, folder, **settings)]


def run(prepared, folder, **settings):
    return run_here(arguments(prepared, folder, **settings))


def run_here(given):
    """Exit status and output of ``monai-iln``, without what goes to the terminal itself."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")
        status = main(given)
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())
