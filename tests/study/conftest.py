"""One small study for all tests that only look at one."""

import pytest
from running import run


@pytest.fixture(scope="session")
def study(prepared, tmp_path_factory):
    """The folder of a finished study, and what the command line said. Copy before changing anything."""
    folder = tmp_path_factory.mktemp("study") / "phantoms"
    done = run(prepared, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done
