"""One small study for all tests that only look at one, and workers for tests that end some."""

import json

import pytest
from joblib.externals.loky import reusable_executor
from joblib.externals.loky.backend import context
from running import run

from monai_iln.study.report import document


@pytest.fixture(scope="session")
def study(prepared, shared):
    """The folder of a finished study, and what the command line printed. Copy before changing anything."""

    def train(folder):
        done = run(prepared, folder / "phantoms")
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "printed.json").write_text(json.dumps(done.stdout))

    folder = shared("study", train)
    return folder / "phantoms", json.loads((folder / "printed.json").read_text())


@pytest.fixture
def unpainted(monkeypatch):
    """Figures of reports are made and not painted, for tests that look at no picture."""
    monkeypatch.setattr(document, "_png", lambda figure: b"")


@pytest.fixture
def laid_out(unpainted, monkeypatch):
    """Figures are laid out, which warns of what does not fit, and not painted."""

    def png(figure):
        figure.draw_without_rendering()
        return b""

    monkeypatch.setattr(document, "_png", png)


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers of a study that are forked from a server, at once: one that dies costs no import of MONAI.

    Those of the other tests wait meanwhile. What is given is a function that lists the ids of the processes.
    """
    monkeypatch.setattr(context, "_DEFAULT_START_METHOD", "forkserver")
    monkeypatch.setattr(reusable_executor, "_executor", None)
    yield lambda: [*reusable_executor._executor._processes]
    reusable_executor._executor.shutdown(kill_workers=True)
