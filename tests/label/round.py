"""A round through MONAI Label's real server, on phantoms: infer, label, train, infer; and what it has to refuse.

    python tests/label/round.py [--bundles DIR] [--picture FILE] [--keep DIR]

In the environment that .ci/label makes. A line for each check; exits with 1 if one fails. The bundles' own weights,
trained on real hearts, outline the cavity of the left ventricle. Here the truth is another convention, cavity and
myocardium, as a user's may be: an honest rise of the Dice, however good the weights are.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
import SimpleITK
import torch

from monai_iln.datasets import prepare_right_ventricle
from monai_iln.datasets.phantom import write_phantom
from monai_iln.label import write_app
from monai_iln.overlays import contact_sheet, overlay

MODEL, OTHER = "lv_short_axis_iln", "rv_short_axis_iln"
UNSEEN = "patient004_ED"
LABELLED = [f"patient{number:03}_{phase}" for number in (1, 2, 3) for phase in ("ED", "ES")]
failed = []


def check(name: str, holds: bool, detail: object = "") -> None:
    print(f"{'ok' if holds else 'FAILED':8}{name}{f': {detail}' if detail != '' else ''}", flush=True)
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

    def submit(self, image: str, label: Path) -> requests.Response:
        with label.open("rb") as file:
            return requests.put(
                f"{self.url}/datastore/label", params={"image": image}, files={"label": file}, timeout=60
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


def voxels(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(image.dataobj)


def dice(mask: nib.Nifti1Image, truth: nib.Nifti1Image) -> float:
    a, b = voxels(mask) > 0, voxels(truth) > 0
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def make_stacks(folder: Path) -> tuple[Path, Path]:
    """Phantoms as NIfTI stacks of the slices with a left ventricle, and labels of the whole of it."""
    write_phantom(folder / "raw", layout="acdc", subjects=4, slices=6, phases=4)
    for name, value in (("cavity", 3), ("muscle", 2)):
        prepare_right_ventricle(folder / "raw", folder / name, label=value)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for file in sorted((folder / "cavity" / "labels").iterdir()):
        cavity, muscle = (nib.load(folder / name / "labels" / file.name) for name in ("cavity", "muscle"))
        whole = (voxels(cavity) > 0) | (voxels(muscle) > 0)
        shown = np.flatnonzero((voxels(cavity) > 0).any(axis=(0, 1)))
        part = np.s_[:, :, shown[0] : shown[-1] + 1]
        nib.save(nib.load(folder / "cavity" / "images" / file.name).slicer[part], folder / "images" / file.name)
        label = nib.Nifti1Image(whole[part].astype(np.uint8), cavity.slicer[part].affine)
        nib.save(label, folder / "labels" / file.name)
    return folder / "images", folder / "labels"


def add_bad_images(studies: Path) -> None:
    """What a folder of studies may hold besides stacks."""
    good = nib.load(studies / f"{UNSEEN}.nii.gz")
    array, affine = voxels(good), good.affine
    nib.save(nib.Nifti1Image(array[:, :, 2], affine), studies / "planar.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([array] * 3, axis=-1), affine), studies / "cine.nii.gz")
    nib.save(nib.Nifti1Image(array[:, :, 2:3], affine), studies / "single.nii.gz")
    (studies / "cut.nii.gz").write_bytes((studies / f"{UNSEEN}.nii.gz").read_bytes()[:5000])
    sheared = affine.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 0]
    nib.save(nib.Nifti1Image(array, sheared), studies / "sheared.nii.gz")


def add_other_files(studies: Path) -> None:
    """The unseen stack with the header that ACDC has, and as 3D Slicer writes it."""
    stack = nib.load(studies / f"{UNSEEN}.nii.gz")
    acdc = nib.Nifti1Image(voxels(stack), None)
    acdc.header["pixdim"][1:4] = stack.header.get_zooms()
    acdc.header.set_sform(np.diag([-1, -1, 1, 1]), code=2)
    nib.save(acdc, studies / "acdc.nii.gz")
    SimpleITK.WriteImage(SimpleITK.ReadImage(studies / f"{UNSEEN}.nii.gz"), studies / "slicer.nrrd")


def refused(name: str, answer: requests.Response, status: int, *words: str) -> None:
    message = answer.json().get("detail", "") if answer.headers["content-type"] == "application/json" else answer.text
    plain = isinstance(message, str) and "Traceback" not in message
    told = plain and all(word in message for word in words)
    check(f"refused: {name}", answer.status_code == status and told, f"{answer.status_code} {message}")


def ended(name: str, result: tuple[str, str], *words: str) -> None:
    check(f"refused: {name}", result[0] == "ERROR" and all(word in result[1] for word in words), " ".join(result))


def own_app(folder: Path, bundles: Path, images: Path, labels: Path, epochs: int, picture: Path | None) -> None:
    app = write_app(folder / "app", [bundles / MODEL, bundles / OTHER])
    models = app / "model" / MODEL / "models"
    shutil.copy2(models / "model.pt", models / "first.pt")  # as the checkpoint of another fold would be
    (models / "cut.pt").write_bytes((models / "model.pt").read_bytes()[:100_000])
    torch.save({"weight": torch.zeros(3)}, models / "other.pt")
    metadata = app / "model" / OTHER / "configs" / "metadata.json"
    document = json.loads(metadata.read_text())
    document["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] = "Right Ventricle"
    metadata.write_text(json.dumps(document))
    studies = Path(shutil.copytree(images, folder / "studies"))
    add_bad_images(studies)
    add_other_files(studies)
    with serve(app, studies) as server:
        info = server.get("/info/")
        check("both models, label names as they are written", "Right Ventricle" in info["models"][OTHER]["labels"])
        names = info["models"][MODEL]["config"]["model_filename"]
        check("its checkpoints, model.pt first", names[0] == "model.pt" and {"cut.pt", "first.pt"} < {*names}, names)
        image, truth = nib.load(studies / f"{UNSEEN}.nii.gz"), nib.load(labels / f"{UNSEEN}.nii.gz")
        first = server.mask(UNSEEN)
        check("mask of integers, shape and affine of the image", alike(first, image), first.get_data_dtype())
        named_slices(server)
        check("the other model infers", alike(server.mask(UNSEEN, OTHER), image))
        sheared = nib.load(studies / "sheared.nii.gz")
        check("sheared stack: the same affine", alike(server.mask("sheared"), sheared))
        single = nib.load(studies / "single.nii.gz")
        check("stack of one slice", alike(server.mask("single"), single))
        for name, origin in (("acdc", 0), ("slicer", image.affine[:3, 3])):
            mask, affine = server.mask(name, result_extension=".nii.gz"), image.affine.copy()
            affine[:3, 3] = origin
            same = bool((voxels(mask) == voxels(first)).all() and np.allclose(mask.affine, affine, atol=1e-3))
            check(f"the same mask in the same size: {name}", same, mask.header.get_zooms())
        status = server.infer("slicer").status_code
        check("a mask in NRRD, as 3D Slicer asks for it", status == 200, status)
        ended("training without labels", server.finish(f"/train/{MODEL}", max_epochs=1), "no stack has a label")
        answers = [server.submit(name, labels / f"{name}.nii.gz").status_code for name in LABELLED]
        check("labels are taken", answers == [200] * len(LABELLED))
        begun = time.perf_counter()
        result = server.finish(f"/train/{MODEL}", max_epochs=epochs)
        seconds = time.perf_counter() - begun
        check("training", result[0] == "DONE", f"{seconds:.0f} s" if result[0] == "DONE" else " ".join(result))
        after = server.mask(UNSEEN)
        scores = [dice(mask, truth) for mask in (first, after)]
        check(
            "the trained weights are used: Dice rises", scores[1] > scores[0] + 0.05, "{:.3f} to {:.3f}".format(*scores)
        )
        check("shape and affine of the image again", alike(after, image))
        again = server.mask(UNSEEN, model_filename="first.pt")
        check("the old weights on request", bool((voxels(again) == voxels(first)).all()))
        check("and the new ones", bool((voxels(server.mask(UNSEEN)) == voxels(after)).all()))
        if picture is not None:
            draw(picture, *(voxels(stack) for stack in (image, first, truth, after)))
        batch(server, studies)
        refusals(server, studies, labels)
        trainings(server, studies, labels)


def alike(mask: nib.Nifti1Image, image: nib.Nifti1Image) -> bool:
    return bool(
        mask.shape == image.shape
        and np.allclose(mask.affine, image.affine, atol=1e-4)
        and mask.get_data_dtype() == np.uint8
        and set(np.unique(voxels(mask))) <= {0, 1}
    )


def named_slices(server: Server) -> None:
    """The slices that a person names, and those that are doubted."""
    check("slices may be named", server.get("/info/")["models"][MODEL]["config"]["slices"] == "")
    whole, named = (voxels(server.mask(UNSEEN, slices=slices)) for slices in ("", "2-3"))
    outside = np.delete(named, [1, 2], axis=2)
    check("slices that are not named are empty", named.any() and whole[..., 0].any() and not outside.any())
    doubted = server.infer(UNSEEN, output="json").json()["doubted_slices"]
    check("doubted slices are told", "edge" in doubted[0]["doubts"], [(one["slice"], one["doubts"]) for one in doubted])
    refused("slices that are not there", server.infer(UNSEEN, slices="2-99"), 422, f"{UNSEEN}.nii.gz: has")
    refused("no range of slices", server.infer(UNSEEN, slices="3"), 422, "slices '3'", "Write 2-9")
    ended(
        "the same slices of all", server.finish(f"/batch/infer/{MODEL}", slices="2-3"), "Ask for each stack by itself"
    )


def batch(server: Server, studies: Path) -> None:
    begun = time.perf_counter()
    status, _ = server.finish(f"/batch/infer/{MODEL}")
    seconds = time.perf_counter() - begun
    stored = server.get("/datastore/?output=all")["objects"]
    done = sorted(name for name, item in stored.items() if "original" in item["labels"])
    good = sorted(set(stored) - {"planar", "cine", "cut"})
    check("batch on a CPU: all that are stacks", status == "DONE" and done == good, f"{len(done)} in {seconds:.0f} s")


def refusals(server: Server, studies: Path, labels: Path) -> None:
    refused("planar image", server.infer("planar"), 422, "(192, 162)")
    refused("cine", server.infer("cine"), 422, "three axes", "split a cine into its phases")
    refused("damaged file", server.infer("cut"), 422, "cut.nii.gz")
    refused("image that is not there", server.infer("nobody"), 404, "nobody")
    refused("model that is not there", server.infer(UNSEEN, "nothing"), 404, "nothing", MODEL)
    refused("training of a model that is not there", server.post("/train/nothing"), 404, MODEL)
    refused("batch of a model that is not there", server.post("/batch/infer/nothing"), 404, MODEL)
    refused("truncated checkpoint", server.infer(UNSEEN, model_filename="cut.pt"), 422, "not a checkpoint")
    refused("weights of another network", server.infer(UNSEEN, model_filename="other.pt"), 422, "do not fit")
    refused("checkpoint that is not there", server.infer(UNSEEN, model_filename="no.pt"), 422, "first.pt")
    outside = server.infer(UNSEEN, model_filename=f"../../{OTHER}/models/model.pt")
    refused("checkpoint outside the model's folder", outside, 422, "not one of")
    stack = nib.load(labels / f"{UNSEEN}.nii.gz")
    wrong = studies.parent / "wrong.nii.gz"
    nib.save(stack.slicer[:-8, :, :], wrong)
    refused("label of another shape", server.submit(UNSEEN, wrong), 422, "shape")
    nib.save(nib.Nifti1Image(voxels(stack), _moved(stack.affine)), wrong)
    refused("label in another place", server.submit(UNSEEN, wrong), 422, "affine")
    refused("label of an image that is not there", server.submit("nobody", wrong), 404, "nobody")
    check("none of them is stored", "final" not in server.get("/datastore/?output=all")["objects"][UNSEEN]["labels"])


def _moved(affine: np.ndarray) -> np.ndarray:
    moved = affine.copy()
    moved[0, 3] += 9  # millimetres
    return moved


def trainings(server: Server, studies: Path, labels: Path) -> None:
    """Few labels, bad labels, weights that are chosen."""
    for name in LABELLED[1:]:
        server.withdraw(name)
    status, last = server.finish(f"/train/{MODEL}", max_epochs=1, pretrained=False)
    check("training of one stack, not from pretrained weights", status == "DONE", last if status != "DONE" else "")
    ended(
        "training from a truncated one", server.finish(f"/train/{MODEL}", model_filename="cut.pt"), "not a checkpoint"
    )
    final = studies / "labels" / "final"
    stack = nib.load(labels / f"{LABELLED[0]}.nii.gz")
    nib.save(nib.Nifti1Image(voxels(stack) * 3, stack.affine), final / f"{LABELLED[0]}.nii.gz")
    ended("label of unknown values", server.finish(f"/train/{MODEL}", max_epochs=1), "holds the values")
    nib.save(stack.slicer[:-8, :, :], final / f"{LABELLED[0]}.nii.gz")
    ended("label of another shape, put there by hand", server.finish(f"/train/{MODEL}", max_epochs=1), "shape")


def stock_app(folder: Path, bundles: Path, images: Path, labels: Path) -> None:
    """MONAI Label's own app for bundles."""
    command = [
        sys.executable,
        "-m",
        "monailabel.main",
        "apps",
        "--download",
        "--name",
        "monaibundle",
        "--output",
        folder,
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    app = folder / "monaibundle"
    ignore = shutil.ignore_patterns("data", "eval", "study")
    for name in (MODEL, OTHER):
        shutil.copytree(bundles / name, folder / "copies" / name, ignore=ignore)
        (app / "model").mkdir(exist_ok=True)
        (app / "model" / name).symlink_to(folder / "copies" / name)
    studies = Path(shutil.copytree(images, folder / "stock_studies"))
    conf = ("--conf", "zoo_source", "ngc", "--conf", "models", f"{MODEL},{OTHER}")
    with serve(app, studies, *conf) as server:
        found = sorted(server.get("/info/")["models"])
        check("stock app: both models", found == [MODEL, OTHER], found)
        truth = nib.load(labels / f"{UNSEEN}.nii.gz")
        masks = [server.mask(UNSEEN), server.mask(UNSEEN, OTHER)]
        for name in LABELLED:
            server.submit(name, labels / f"{name}.nii.gz")
        status, last = server.finish(f"/train/{MODEL}", max_epochs=4)
        check("stock app: training", status == "DONE", last if status != "DONE" else "")
        masks.append(server.mask(UNSEEN))
        aligned = [mask.shape == truth.shape and np.allclose(mask.affine, truth.affine, atol=1e-4) for mask in masks]
        check("stock app: shape and affine of the image", all(aligned))
        scores = [dice(mask, truth) for mask in (masks[0], masks[-1])]
        check("stock app: Dice rises", scores[1] > scores[0], "{:.3f} to {:.3f}".format(*scores))


def draw(path: Path, image: np.ndarray, first: np.ndarray, truth: np.ndarray, after: np.ndarray) -> None:
    """Two slices: the image, the mask before, the truth, the mask after."""
    tiles = []
    middle = [int(np.mean(places)) for places in np.nonzero(truth.any(axis=2))]
    window = tuple(slice(max(centre - 48, 0), max(centre - 48, 0) + 96) for centre in middle)
    for index in (0, image.shape[2] // 2):
        plane = image[..., index][window]
        for name, mask in (("image", None), ("first mask", first), ("label", truth), ("after training", after)):
            marked = np.zeros_like(plane) if mask is None else mask[..., index][window]
            tiles.append((name, overlay(plane, marked)))
    contact_sheet(tiles).save(path)
    check("picture", True, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=Path, default=Path(__file__).parents[2] / "bundles")
    parser.add_argument("--epochs", type=int, default=6, help="of the first training")
    parser.add_argument("--picture", type=Path, help="PNG file of two slices and their masks")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="folder for what is otherwise removed: data, apps, logs"
    )
    options = parser.parse_args()
    missing = [name for name in (MODEL, OTHER) if not (options.bundles / name / "models" / "model.pt").is_file()]
    if missing:
        print(f"no models/model.pt in {', '.join(missing)} under {options.bundles}: train the bundles first")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        images, labels = make_stacks(folder / "phantoms")
        own_app(folder, options.bundles, images, labels, options.epochs, options.picture)
        stock_app(folder, options.bundles, images, labels)
    print(f"{len(failed)} failed, {time.perf_counter() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
