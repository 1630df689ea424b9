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


@pytest.fixture(scope="session", autouse=True)
def _forkserver():
    """Workers of the studies that tests run in their own process are forked from a server that has imported MONAI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "_DEFAULT_START_METHOD", "forkserver")
        yield


@pytest.fixture
def own_workers(monkeypatch):
    """Workers of a study that only this test uses, so that it may end some. Those of the others wait meanwhile.

    What is given is a function that lists the ids of the processes.
    """
    monkeypatch.setattr(reusable_executor, "_executor", None)
    yield lambda: [*reusable_executor._executor._processes]
    reusable_executor._executor.shutdown(kill_workers=True)
