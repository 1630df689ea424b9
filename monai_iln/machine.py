"""Where something ran: without this its numbers mean nothing later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_iln.cores import usable_cores

if TYPE_CHECKING:
    import torch


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The processor, its cores and threads, and the GPU if it is the device."""
    import torch  # here: versions and the commit are described without it

    description: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
        description["cuda"] = torch.version.cuda
    return description


def describe_versions() -> dict[str, str | None]:
    """The versions of everything that decides the speed; ``None`` for what is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("monai_iln", "torch", "monai", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def describe_commit() -> dict[str, Any] | None:
    """The commit of the clone that this package runs from, and whether it was changed since; ``None`` elsewhere."""
    try:
        # An installed package may lie in a virtual environment within somebody else's repository.
        _git("ls-files", "--error-unmatch", "__init__.py")
        return {"hash": _git("rev-parse", "HEAD"), "dirty": _git("status", "--porcelain") != ""}
    except (OSError, subprocess.CalledProcessError):
        return None


def load_average() -> list[float] | None:
    """The load of the last 1, 5 and 15 minutes; ``None`` where the system does not tell."""
    if not hasattr(os, "getloadavg"):
        return None
    return [round(load, 2) for load in os.getloadavg()]


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
