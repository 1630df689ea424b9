"""One small study for all tests that only look at one."""

import json

import pytest
from filelock import FileLock
from running import run


@pytest.fixture(scope="session")
def study(prepared, tmp_path_factory):
    """The folder of a finished study, and what the command line printed. Copy before changing anything."""
    shared = tmp_path_factory.getbasetemp()
    if shared.name.startswith("popen-"):  # one of several processes that run the tests
        shared = shared.parent
    folder, printed = shared / "study" / "phantoms", shared / "study.json"
    with FileLock(shared / "study.lock"):
        if not printed.is_file():
            done = run(prepared, folder)
            assert done.returncode == 0, done.stdout + done.stderr
            printed.write_text(json.dumps(done.stdout))
    return folder, json.loads(printed.read_text())
