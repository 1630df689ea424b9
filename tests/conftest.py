"""Small data in the real layouts, and the real data where they are."""

import gc
import importlib.util
import logging
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from filelock import FileLock

from monai_iln.datasets import prepare_sunnybrook, read_sunnybrook
from monai_iln.datasets.phantom import write_phantom

# One thread for each process that runs tests, and each that these start: more than there are cores only wait for one
# another, at full speed.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of processes import this package: one compiles it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which some versions of other packages do
# Imported once, and not by every process that is forked from the server.
mp.get_context("forkserver").set_forkserver_preload(
    ["matplotlib.pyplot", "monai.engines", "numba", "pandas", "torch._dynamo", "torch.utils.tensorboard"]
)


def pytest_collection_finish():
    """Keep what is imported and collected out of every later collection of garbage, which would take a second."""
    gc.freeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of all processes that run the tests."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if folder.name.startswith("popen-") else folder  # one of several


@pytest.fixture(scope="session", autouse=True)
def cache(base):
    """The user's cache, for these processes and those that they start: what is compiled for one is there for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        yield


@pytest.fixture(scope="session")
def run_ranks():
    """A function that runs another in so many processes, with its rank and a folder, and lets none outlive it."""

    def run(work, folder, world, seconds):
        processes = mp.start_processes(work, (str(folder),), world, join=False, start_method="forkserver")
        deadline = time.monotonic() + seconds
        try:
            while not processes.join(timeout=1):
                assert time.monotonic() < deadline, "the ranks wait for one another"
        finally:
            for process in processes.processes:
                process.kill()
                process.join()

    return run


REAL = Path(__file__).parents[2] / "shared" / "data" / "sunnybrook"


@pytest.fixture(scope="session")
def shared(base):
    """A function that makes a folder once for all processes that run the tests. Copy before changing anything."""

    def make(name, write):
        folder = base / "shared" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                write(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def official(shared):
    """Six small phantoms in Sunnybrook's official layout. Copy before changing anything."""
    return shared("phantom/official", lambda folder: write_phantom(folder, slices=6, phases=4, size=96))


@pytest.fixture(scope="session")
def stacks(official):
    return read_sunnybrook(official).stacks


@pytest.fixture(scope="session")
def prepared(official, shared):
    """The phantoms as NIfTI stacks with a datalist of three folds."""
    return shared("prepared/phantoms", lambda folder: prepare_sunnybrook(official, folder))


@pytest.fixture(scope="session")
def mirror_source(shared):
    return shared("phantom/mirror", lambda folder: write_phantom(folder, layout="png", slices=6, phases=4, size=96))


@pytest.fixture
def mirror(mirror_source, tmp_path):
    """The phantoms as the SegNetCMR mirror has them: 8-bit images and masks of the labelled frames."""
    return shutil.copytree(mirror_source, tmp_path / "mirror")


@pytest.fixture(scope="session")
def real():
    if not REAL.is_dir():
        pytest.skip(f"the real Sunnybrook data are not at {REAL}")
    return REAL


@pytest.fixture
def program(monkeypatch):
    """Sets the name of this program; what belongs to the process is put back in the end."""
    handlers = {handler: handler.filters[:] for handler in [*logging.getLogger().handlers, logging.lastResort]}
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield lambda name: monkeypatch.setattr(sys, "argv", [name])
    for handler, filters in handlers.items():
        handler.filters[:] = filters
    for number, usual in signals.items():
        signal.signal(number, usual)


@pytest.fixture
def missing(monkeypatch):
    """Makes a package look as if it were not installed, to a part of ours that was not imported yet."""

    def hide(package, part):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest)
        )
        monkeypatch.delitem(sys.modules, package, raising=False)
        parent, _, name = part.rpartition(".")
        monkeypatch.delitem(sys.modules, part, raising=False)
        monkeypatch.delitem(vars(sys.modules[parent]), name, raising=False)

    return hide


@pytest.fixture(scope="session")
def real_mirror(real):
    """What is read from the PNG mirror of the real data. Copy before changing anything."""
    return read_sunnybrook(real, layout="png")
