"""A round through MONAI Label's real server, on phantoms: infer, label, train, infer; and what it has to refuse.

    python tests/label/round.py [--bundles DIR] [--picture FILE] [--keep DIR]

In the environment that .ci/label makes. A line for each check; exits with 1 if one fails. The bundles' own weights,
trained on real hearts, outline the cavity of the left ventricle. Here the truth is another convention, cavity and
myocardium, as a user's may be: an honest rise of the Dice, however good the weights are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
import SimpleITK
import torch
from server import MODEL, OTHER, Server, check, ended, failed, refused, serve

from monai_iln.datasets import prepare_right_ventricle
from monai_iln.datasets.formats.volumes import read_volume
from monai_iln.datasets.phantom import write_phantom
from monai_iln.label import write_app
from monai_iln.overlays import contact_sheet, overlay

UNSEEN = "patient004_ED"
LABELLED = [f"patient{number:03}_{phase}" for number in (1, 2, 3) for phase in ("ED", "ES")]
ENDINGS = (".nii.gz", ".nrrd", ".mha")
BAD = {"planar", "cine", "cut"}


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
        phase = server.mask("cine", phase=2)
        check("a phase of a cine", alike(phase, image) and bool((voxels(phase) == voxels(first)).all()))
        for suffix in ENDINGS:
            answer = server.infer(UNSEEN, result_extension=suffix)
            (folder / f"mask{suffix}").write_bytes(answer.content)
            there = read_volume(folder / f"mask{suffix}")
            same = bool((there[0] == voxels(first)).all() and np.allclose(there[1], image.affine, atol=1e-3))
            check(f"the same mask as {suffix}", same)
            answer = server.submit(UNSEEN, folder / f"mask{suffix}")
            check(f"and it is taken as a label: {suffix}", answer.status_code == 200, answer.text)
        stored = [path.name for path in (studies / "labels" / "final").iterdir()]
        check("the last one replaces the others", stored == [f"{UNSEEN}{ENDINGS[-1]}"], stored)
        server.withdraw(UNSEEN)
        next_samples(server)
        answers = [server.submit(name, labelled(labels, name, folder)).status_code for name in LABELLED]
        check("labels are taken, in NIfTI, NRRD and MetaImage", answers == [200] * len(LABELLED))
        begun = time.perf_counter()
        result = server.finish(f"/train/{MODEL}", max_epochs=epochs)
        seconds = time.perf_counter() - begun
        check("training", result[0] == "DONE", f"{seconds:.0f} s" if result[0] == "DONE" else " ".join(result))
        stats = server.get("/info/")["train_stats"][MODEL]
        check("what came of it is told", stats["better"] and "better by" in stats["told"], stats["told"])
        after = server.mask(UNSEEN)
        scores = [dice(mask, truth) for mask in (first, after)]
        check(
            "the trained weights are used: Dice rises", scores[1] > scores[0] + 0.05, "{:.3f} to {:.3f}".format(*scores)
        )
        check("shape and affine of the image again", alike(after, image))
        for name in ("first.pt", "shipped.pt"):
            again = server.mask(UNSEEN, model_filename=name)
            check(f"the old weights on request: {name}", bool((voxels(again) == voxels(first)).all()))
        names = server.get("/info/")["models"][MODEL]["config"]["model_filename"]
        check("the shipped weights are offered", "shipped.pt" in names, names)
        check("and the new ones", bool((voxels(server.mask(UNSEEN)) == voxels(after)).all()))
        if picture is not None:
            draw(picture, *(voxels(stack) for stack in (image, first, truth, after)))
        batch(server, studies)
        refusals(server, studies, labels)
        no_worse(server, folder, models, labels)
        trainings(server, models, studies, labels)


def labelled(labels: Path, name: str, folder: Path) -> Path:
    """The file of a label, in each format in turn."""
    file = labels / f"{name}.nii.gz"
    suffix = ENDINGS[LABELLED.index(name) % len(ENDINGS)]
    if suffix == ".nii.gz":
        return file
    label = SimpleITK.ReadImage(file)
    for key in label.GetMetaDataKeys():  # of NIfTI, which ITK warns of
        label.EraseMetaData(key)
    SimpleITK.WriteImage(label, folder / f"{name}{suffix}")
    return folder / f"{name}{suffix}"


def next_samples(server: Server) -> None:
    """The stacks that are offered; never what is no stack."""
    for strategy in ("least_sure", "random"):
        begun = time.perf_counter()
        answers = [server.post(f"/activelearning/{strategy}").json() for _ in range(5)]
        seconds = (time.perf_counter() - begun) / len(answers)
        offered = [answer["id"] for answer in answers]
        check(f"next samples: {strategy}", not BAD & set(offered), f"{offered}, {seconds:.1f} s each")
        check("not the same one again and again", strategy == "random" or len(set(offered)) == len(offered))
    refused("strategy that is not there", server.post("/activelearning/first"), 404, "least_sure", "random")


def no_worse(server: Server, folder: Path, models: Path, labels: Path) -> None:
    """A training on the model's own masks, which no weights can follow better, leaves everything as it was."""
    for name in LABELLED:
        nib.save(server.mask(name), folder / "own.nii.gz")
        server.submit(name, folder / "own.nii.gz")
    before = {path.name: path.read_bytes() for path in models.glob("*.pt")}
    status, _ = server.finish(f"/train/{MODEL}", max_epochs=2)
    told = server.get("/info/")["train_stats"][MODEL]["told"]
    check("a training that makes nothing better", status == "DONE" and "no better than before" in told, told)
    after = {path.name: path.read_bytes() for path in models.glob("*.pt")}
    check("all weights are as they were", after == before)
    for name in LABELLED:
        server.submit(name, labels / f"{name}.nii.gz")


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
    refused("slices that are not there", server.infer(UNSEEN, slices="2-99"), 422, f"{UNSEEN}: has")
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
    good = sorted(set(stored) - BAD)
    check("batch on a CPU: all that are stacks", status == "DONE" and done == good, f"{len(done)} in {seconds:.0f} s")


def refusals(server: Server, studies: Path, labels: Path) -> None:
    refused("planar image", server.infer("planar"), 422, "(192, 162)")
    refused("cine", server.infer("cine"), 422, "cine: a cine of 3 phases", "parameter 'phase'", "monai-iln stacks")
    refused("phase that is not there", server.infer("cine", phase=4), 422, "cine: phase 4", "from 1 to 3")
    refused("phase of a stack", server.infer(UNSEEN, phase=1), 422, f"{UNSEEN}: phase 1 of a single stack")
    refused("damaged file", server.infer("cut"), 422, "cut: cannot be read")
    refused("image that is not there", server.infer("nobody"), 404, "nobody")
    refused("model that is not there", server.infer(UNSEEN, "nothing"), 404, "nothing", MODEL)
    refused("training of a model that is not there", server.post("/train/nothing"), 404, MODEL)
    refused("batch of a model that is not there", server.post("/batch/infer/nothing"), 404, MODEL)
    refused(
        "truncated checkpoint",
        server.infer(UNSEEN, model_filename="cut.pt"),
        422,
        "checkpoint cut.pt",
        "not a checkpoint",
    )
    refused("weights of another network", server.infer(UNSEEN, model_filename="other.pt"), 422, "do not fit")
    refused("checkpoint that is not there", server.infer(UNSEEN, model_filename="no.pt"), 422, "first.pt")
    outside = server.infer(UNSEEN, model_filename=f"../../{OTHER}/models/model.pt")
    refused("checkpoint outside the model's folder", outside, 422, "not one of")
    stack = nib.load(labels / f"{UNSEEN}.nii.gz")
    wrong = studies.parent / "wrong.nii.gz"
    nib.save(stack.slicer[:-8, :, :], wrong)
    refused("label of another shape", server.submit(UNSEEN, wrong), 422, "the submitted label", "shape")
    nib.save(nib.Nifti1Image(voxels(stack), _moved(stack.affine)), wrong)
    refused("label in another place", server.submit(UNSEEN, wrong), 422, "its origin is", "9 mm away")
    refused("label of a cine", server.submit("cine", wrong), 422, "a cine of 3 phases")
    for tag in ("../../away", "a/b", ".hidden"):
        refused(f"tag {tag}", server.submit(UNSEEN, labels / f"{UNSEEN}.nii.gz", tag), 422, "letters, digits")
    for what, path in (("image", "image/info?image=nobody"), ("label", f"label/info?label={UNSEEN}&tag=other")):
        answer = requests.get(f"{server.url}/datastore/{path}", timeout=60)
        refused(f"details of what is not there: {what}", answer, 404, "not")
    refused("label of an image that is not there", server.submit("nobody", wrong), 404, "nobody")
    check("none of them is stored", "final" not in server.get("/datastore/?output=all")["objects"][UNSEEN]["labels"])


def _moved(affine: np.ndarray) -> np.ndarray:
    moved = affine.copy()
    moved[0, 3] += 9  # millimetres
    return moved


def trainings(server: Server, models: Path, studies: Path, labels: Path) -> None:
    """Few labels, bad labels, weights that are chosen."""
    for name in LABELLED[1:]:
        server.withdraw(name)
    before = (models / "model.pt").read_bytes()
    status, last = server.finish(f"/train/{MODEL}", max_epochs=1, pretrained=False)
    told = "Only stacks that were trained on judged" in last and "no better than before" in last
    check("training of one stack, not from pretrained weights", status == "DONE" and told, last)
    check("which is no better", (models / "model.pt").read_bytes() == before)
    outcome = json.loads((models.parent / "eval" / "fine_tuning.json").read_text())
    check("and starts from random ones", outcome["best"] < outcome["before"] - 0.2, outcome["told"])
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
