"""The towers do not import one another: the contracts in pyproject.toml."""

import subprocess
import sys
from pathlib import Path


def test_import_contracts():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
