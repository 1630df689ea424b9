"""An Orthanc of its own on the loopback interface: a PACS that speaks DICOMweb, with a folder that goes with it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

_PLUGINS = Path("/usr/lib/orthanc")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def find_orthanc() -> str:
    """The program, or nothing if it or its DICOMweb is not installed."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    return program if program and list(_PLUGINS.glob("libOrthancDicomWeb.so*")) else ""


class Orthanc:
    """What a test asks of a running Orthanc. ``url`` is its root, ``studies`` that of DICOMweb."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.studies = f"{url}/dicom-web"

    def upload(self, files: Iterable[bytes]) -> None:
        for file in files:
            requests.post(f"{self.url}/instances", data=file, timeout=60).raise_for_status()

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.studies}{path}", headers={"Accept": "application/dicom+json"}, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else []

    def file(self, instance_uid: str) -> bytes:
        """The DICOM file of an instance."""
        found = requests.post(f"{self.url}/tools/lookup", data=instance_uid, timeout=60).json()
        return requests.get(f"{self.url}/instances/{found[0]['ID']}/file", timeout=60).content


@contextmanager
def serve_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc with its data and its log in a folder, and stop it at the end whatever happens."""
    port = free_port()
    plugin = next(_PLUGINS.glob("libOrthancDicomWeb.so*"))
    configuration = {
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "Plugins": [str(plugin)],
        "HttpPort": port,
        "RemoteAccessAllowed": False,  # Debian's version cannot bind to one interface: it refuses the others
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc").mkdir()
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("w") as log:
        command = [find_orthanc(), str(folder / "orthanc.json")]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            server = Orthanc(f"http://127.0.0.1:{port}")
            for _ in range(60):
                time.sleep(0.5)
                try:
                    requests.get(f"{server.url}/system", timeout=10).raise_for_status()
                    break
                except requests.ConnectionError:
                    if process.poll() is not None:
                        raise SystemExit(f"Orthanc does not start:\n{(folder / 'orthanc.log').read_text()}") from None
            yield server
        finally:
            process.terminate()
            process.wait(30)
