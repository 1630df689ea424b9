"""Commands as in a process of their own, for the price of a fork: what takes seconds to import is there already.

A server imports MONAI and other packages, but nothing of monai_iln, and forks for every command.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import monai_iln

_SERVER = """
import atexit, gc, json, os, runpy, signal, sys

import fire, matplotlib.pyplot, nibabel, numba, pydicom, scipy.ndimage, sklearn.model_selection
import torch._dynamo, torch.utils.tensorboard  # the first is what every optimizer imports
import monai.apps, monai.bundle, monai.engines, monai.handlers, monai.losses, monai.metrics, monai.networks.nets
import monai.transforms

gc.freeze()  # a collection would copy what the processes share
for line in sys.stdin:
    job = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    signal.alarm(600)
    os.chdir(job["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.modules.update(dict.fromkeys(job["without"]))
    sys.argv = [job["module"], *job["arguments"]]
    code = 0
    try:
        runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without taking apart all that was imported, which takes seconds
"""


class WarmPython:
    """The server; a context manager that ends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(monai_iln.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        # A pool of threads does not outlive a fork.
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self, module: str, *arguments: object, cwd: Path, without: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m module arguments``.

        Args:
            module: The module.
            arguments: Its arguments.
            cwd: The working directory.
            without: Names of packages that cannot be imported.
        """
        files = {name: str(self.folder / name) for name in ("stdout", "stderr")}
        job = {"module": module, "arguments": list(map(str, arguments)), "cwd": str(cwd), "without": without, **files}
        print(json.dumps(job), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline())
        texts = (Path(file).read_text(encoding="utf-8") for file in files.values())
        return subprocess.CompletedProcess(["python", "-m", module, *job["arguments"]], code, *texts)

    def __enter__(self) -> "WarmPython":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self.server.communicate()
