"""MONAI Label's real server as a client sees it, and checks that tell a line each."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import requests

MODEL, OTHER = "lv_short_axis_iln", "rv_short_axis_iln"
failed: list[str] = []


def check(name: str, holds: bool, detail: object = "") -> None:
    told = "ok" if holds else "FAILED"
    details = "" if detail == "" else f": {detail}"
    print(f"{told:8}{name}{details}", flush=True)
    if not holds:
        failed.append(name)


class Server:
    """A server of its own on a free port of the loopback interface, and what a client asks of it."""

    def __init__(self, app: Path, studies: Path, log: Path, *conf: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = Path(sys.executable).parent  # MONAI Label's script takes python from the path
        command = [folder / "monailabel", "start_server", "--app", app, "--studies", studies, "--host", "127.0.0.1"]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log.open("w")
        self.process = subprocess.Popen(
            [*map(str, command), "--port", str(port), *conf],
            env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds: float = 90) -> None:
        for _ in range(int(2 * seconds)):
            time.sleep(0.5)
            try:
                return requests.get(f"{self.url}/info/", timeout=60).raise_for_status()
            except requests.ConnectionError:
                if self.process.poll() is not None:
                    break
        raise SystemExit(f"the server does not answer:\n{Path(self.log.name).read_text()[-3000:]}")

    def stop(self) -> None:
        os.killpg(self.process.pid, 15)  # its script runs it as a child
        self.process.wait(30)
        self.log.close()

    def get(self, path: str) -> dict:
        return requests.get(f"{self.url}{path}", timeout=60).json()

    def post(self, path: str, **params: object) -> requests.Response:
        return requests.post(f"{self.url}{path}", json=params or None, timeout=60)

    def infer(self, image: str, model: str = MODEL, output: str = "image", **params: object) -> requests.Response:
        return requests.post(
            f"{self.url}/infer/{model}",
            params={"image": image, "output": output},
            data={"params": json.dumps(params)},
            timeout=120,
        )

    def mask(self, image: str, model: str = MODEL, **params: object) -> nib.Nifti1Image:
        answer = self.infer(image, model, **params)
        if answer.status_code != 200:
            raise SystemExit(f"{image}, {model}: {answer.status_code} {answer.text}")
        return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))

    def submit(self, image: str, label: Path, tag: str = "final") -> requests.Response:
        with label.open("rb") as file:
            return requests.put(
                f"{self.url}/datastore/label", params={"image": image, "tag": tag}, files={"label": file}, timeout=60
            )

    def withdraw(self, image: str) -> None:
        requests.delete(f"{self.url}/datastore/label", params={"id": image, "tag": "final"}, timeout=60)

    def finish(self, path: str, **params: object) -> tuple[str, str]:
        """Start a task and wait for it: its status, and the last line that it printed."""
        answer = self.post(path, **params)
        if answer.status_code != 200:
            return str(answer.status_code), answer.text
        where = "/train/" if path.startswith("/train") else "/batch/infer"
        while (task := self.get(where))["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        return task["status"], (task["details"] or [""])[-1]


@contextmanager
def serve(app: Path, studies: Path, *conf: str) -> Iterator[Server]:
    begun = time.perf_counter()
    server = Server(app, studies, app.parent / f"{app.name}.log", *conf)
    try:
        server.wait()
        check(f"{app.name}: the server answers", True, f"after {time.perf_counter() - begun:.0f} s")
        yield server
    finally:
        server.stop()


def refused(name: str, answer: requests.Response, status: int, *words: str) -> None:
    message = answer.json().get("detail", "") if answer.headers["content-type"] == "application/json" else answer.text
    plain = isinstance(message, str) and "Traceback" not in message
    told = plain and all(word in message for word in words)
    check(f"refused: {name}", answer.status_code == status and told, f"{answer.status_code} {message}")


def ended(name: str, result: tuple[str, str], *words: str) -> None:
    check(f"refused: {name}", result[0] == "ERROR" and all(word in result[1] for word in words), " ".join(result))
