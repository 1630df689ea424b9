"""A round through MONAI Label's real server with a real PACS, Orthanc, and its viewer, OHIF, all on the loopback.

    python tests/label/dicomweb_round.py [--bundles DIR] [--data DIR] [--picture FILE] [--keep DIR]

In the environment that .ci/label makes, with Debian's orthanc, orthanc-dicomweb and chromium. The cines are those of
Sunnybrook, if DIR holds them, or phantoms. A line for each check; exits with 1 if one fails.
"""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
from cines import Cine, fill, find_cines, part, to_bytes
from monailabel.config import settings
from ohif import CHROMIUM, connect, open_viewer, run_model
from orthanc import Orthanc, find_orthanc, serve_orthanc
from round import voxels
from server import MODEL, OTHER, Server, check, failed, refused, serve

from monai_iln.datasets.formats.dicom import quiet_pydicom
from monai_iln.errors import UserError
from monai_iln.label import write_app
from monai_iln.label.pacs import Pacs, open_client

_TICKS = itertools.count()
REAL = Path(__file__).parents[3] / "shared" / "data" / "sunnybrook"
SEG, STUDY, SERIES = "Modality=SEG", "0020000D", "0020000E"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=Path, default=Path(__file__).parents[2] / "bundles")
    parser.add_argument("--data", type=Path, default=REAL, help="folder with SCD_IMAGES_01 of Sunnybrook")
    parser.add_argument("--picture", type=Path, help="PNG file of the viewer")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for what is otherwise removed")
    options = parser.parse_args()
    if not find_orthanc() or not CHROMIUM.exists():
        print("Orthanc or Chromium is not installed: apt-get install orthanc orthanc-dicomweb chromium. Skipped.")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server is left behind
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        os.environ["MONAI_LABEL_DICOMWEB_CACHE_PATH"] = str(folder / "cache")
        app = write_app(folder / "dicomweb_app", [options.bundles / MODEL, options.bundles / OTHER])
        with serve_orthanc(folder) as pacs:
            files = find_cines(options.data, folder)
            cines, alone = fill(pacs, files)
            filters(pacs, folder)
            parted = part(pacs, files[0])
            with serve(app, pacs.studies) as server:
                name = lists(server, cines, alone, parted)
                masks = infers(server, cines, alone)
                joins(server, pacs, parted, name, masks[cines[0].phase(1)])
                labels(server, pacs, cines, masks)
                foreign(server, pacs, cines, masks)
                back(server, pacs, cines[0], masks)
                trains(server)
                views(server, alone, options.picture)
    print(f"{len(failed)} failed, {time.perf_counter() - begun:.0f} s")
    return 1 if failed else 0


def filters(pacs: Orthanc, folder: Path) -> None:
    """A filter that finds nothing says what there is; one that names no element of DICOM is refused."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("monai_iln").addHandler(handler)
    for chosen, words in (({"Modality": "CT"}, "It has 3 series"), ({"Modalitty": "MR"}, "no element of DICOM")):
        settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER = chosen
        try:
            found = Pacs(open_client(pacs.studies), folder / "memory.json", ["left ventricle"]).stacks()
            check(f"{chosen} finds nothing", not found)
        except UserError as error:
            told.append(str(error))
        check(f"what is said of {chosen}", words in told[-1], told[-1])


def lists(server: Server, cines: list[Cine], alone: Cine, parted: Cine) -> str:
    """The default filter finds magnetic resonance, and each phase of a cine is an image.

    Returns the name of the first phase of the cine that has a series for each slice.
    """
    begun = time.perf_counter()
    status = server.get("/datastore/")
    total = sum(cine.phases for cine in [*cines, parted]) + 1
    check("each phase is an image", status["total"] == total, f"{status}, {time.perf_counter() - begun:.1f} s")
    objects = server.get("/datastore/?output=all")["objects"]
    expected = {alone.series} | {cine.phase(number) for cine in cines for number in range(1, cine.phases + 1)}
    rest = sorted({*objects} - expected)
    check("their names", {*objects} > expected)
    same = len({name.partition("_phase")[0] for name in rest})
    check("a cine with a series for each slice is one cine", (len(rest), same) == (parted.phases, 1), rest[:1])
    refused("a cine without a phase", server.infer(cines[0].series), 422, f"a cine of {cines[0].phases} phases")
    refused("a series that is not there", server.infer("1.2.3"), 404, "1.2.3")
    refused("a wildcard for a series", server.infer("*"), 404, "not among the studies")
    refused("a strategy that is not there", server.post("/activelearning/best"), 404, "best")
    return rest[0]


def joins(server: Server, pacs: Orthanc, parted: Cine, name: str, expected: nib.Nifti1Image) -> None:
    """A cine with a series for each slice gives the mask that it gives in one series, and its SEG references all."""
    mask = server.mask(name)
    check("its mask is that of the cine in one series", np.array_equal(voxels(mask), voxels(expected)))
    check("its label is taken", submit(server, name, mask, model=MODEL).status_code == 200)
    (segmentation,) = read_segmentations(pacs, parted.study)
    check("its SEG references every series", len(segmentation.ReferencedSeriesSequence) == parted.slices)


def infers(server: Server, cines: list[Cine], alone: Cine) -> dict[str, nib.Nifti1Image]:
    masks = {}
    for cine, name in [(cines[0], cines[0].phase(1)), (cines[1], cines[1].phase(1)), (alone, alone.series)]:
        begun = time.perf_counter()
        masks[name] = server.mask(name)
        seconds = time.perf_counter() - begun
        found = voxels(masks[name]).any(axis=(0, 1)).sum()
        right = masks[name].shape[2] == cine.slices and found > cine.slices / 2
        check(f"a mask of {cine.slices} slices", right, f"{masks[name].shape}, heart on {found}, {seconds:.1f} s")
    same = np.array_equal(voxels(masks[cines[1].phase(1)]), voxels(masks[alone.series]))
    check("a phase of a cine and the same as a series of its own: one mask", same)
    return masks


def submit(server: Server, name: str, mask: nib.Nifti1Image, **params: str) -> requests.Response:
    file = {"label": ("label.nii.gz", packed(mask))}
    data = {"params": json.dumps(params)}
    return requests.put(f"{server.url}/datastore/label", params={"image": name}, files=file, data=data, timeout=60)


def packed(mask: nib.Nifti1Image) -> bytes:
    return gzip.compress(nib.Nifti1Image(voxels(mask), mask.affine).to_bytes())


def labels(server: Server, pacs: Orthanc, cines: list[Cine], masks: dict[str, nib.Nifti1Image]) -> None:
    """What is saved goes into the PACS: pixel by pixel, with references to its phase and codes."""
    name = cines[0].phase(1)
    corrected = voxels(masks[name]).copy()
    corrected[40:60, 50:80, 1] = 1
    masks[name] = nib.Nifti1Image(corrected, masks[name].affine)
    check("a label is taken", submit(server, name, masks[name], model=MODEL).status_code == 200)
    check("and one of the other model", submit(server, name, masks[name], model=OTHER).status_code == 200)
    segmentations = {str(one.SegmentSequence[0].SegmentLabel): one for one in read_segmentations(pacs, cines[0].study)}
    codes = {
        label: str(one.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue)
        for label, one in segmentations.items()
    }
    check("codes", codes == {"left ventricle": "87878005", "right ventricle": "53085002"}, codes)
    left = segmentations["left ventricle"]
    sources = {
        str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        for frame in left.PerFrameFunctionalGroupsSequence
    }
    check("the SEG references the images of its phase", sources == {*cines[0].first}, f"{len(sources)} images")
    sums = sorted(int(plane.sum()) for plane in left.pixel_array)
    check("its slices are those of the label", sums == sorted(corrected.sum(axis=(0, 1)).tolist()), sums)
    with quiet_pydicom() as pydicom:
        images = [pydicom.dcmread(io.BytesIO(pacs.file(uid)), stop_before_pixels=True) for uid in cines[0].first]
    references = {str(image.get("FrameOfReferenceUID", "")) for image in images}  # Sunnybrook's files have one each
    check("its frame of reference", str(left.FrameOfReferenceUID) in references or references == {""})
    status = server.get("/datastore/")
    check("two images have a label", status["completed"] == 2, status["completed"])


def read_segmentations(pacs: Orthanc, study: str) -> list:
    """The segmentations of a study, as files."""
    found = []
    with quiet_pydicom() as pydicom:
        for series in pacs.get(f"/studies/{study}/series?{SEG}"):
            uid = series[SERIES]["Value"][0]
            for instance in pacs.get(f"/studies/{study}/series/{uid}/instances"):
                found.append(pydicom.dcmread(io.BytesIO(pacs.file(instance["00080018"]["Value"][0]))))
    return found


def foreign(server: Server, pacs: Orthanc, cines: list[Cine], masks: dict[str, nib.Nifti1Image]) -> None:
    """What does not lie on its image does not get into the PACS."""
    before = len(pacs.get(f"/series?{SEG}"))
    name, other = cines[0].phase(2), cines[1].phase(1)
    refused("a label of another patient", submit(server, name, masks[other], model=MODEL), 422, "the submitted label")
    own = masks[cines[0].phase(1)]
    moved = own.affine.copy()
    moved[:3, 3] += 9
    elsewhere = nib.Nifti1Image(voxels(own), moved)
    refused("a label in another place", submit(server, name, elsewhere, model=MODEL), 422, "the submitted label")
    refused("a label of which model", submit(server, name, own), 422, "several models")
    empty = nib.Nifti1Image(np.zeros_like(voxels(own)), own.affine)
    refused("an empty label", submit(server, name, empty, model=MODEL), 422, "is empty")
    tag = requests.put(
        f"{server.url}/datastore/label",
        params={"image": name, "tag": "../../else"},
        files={"label": ("label.nii.gz", packed(own))},
        timeout=60,
    )
    refused("a tag that leads elsewhere", tag, 422, "tag")
    check("none of them is in the PACS", len(pacs.get(f"/series?{SEG}")) == before, before)


def back(server: Server, pacs: Orthanc, cine: Cine, masks: dict[str, nib.Nifti1Image]) -> None:
    """What another program stores in the PACS is the label; what does not fit its image is left out."""
    name = cine.phase(1)
    left = next(
        one for one in read_segmentations(pacs, cine.study) if one.SegmentSequence[0].SegmentLabel == "left ventricle"
    )
    planes = left.pixel_array.copy()
    planes[3] = 0
    expected = voxels(masks[name]).sum() - left.pixel_array[3].sum()
    store_again(pacs, left, planes)
    label = fetch_label(server, name)
    check("a label corrected elsewhere comes back", voxels(label).sum() == expected, f"{expected} voxels")
    left.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence[0].ImagePositionPatient[0] += 20
    store_again(pacs, left, planes)
    names = {Path(item["image"]).name for item in server.get("/datastore/?output=train")}
    check("one in another place is left out of trainings", f"{name}.nii.gz" not in names, names)
    check("the right label again", submit(server, name, masks[name], model=MODEL).status_code == 200)
    for number in (2, 3):
        mask = server.mask(cine.phase(number))
        check(f"label of phase {number}", submit(server, cine.phase(number), mask, model=MODEL).status_code == 200)


def store_again(pacs: Orthanc, segmentation, planes: np.ndarray) -> None:
    """Store a segmentation as another one, made now."""
    with quiet_pydicom() as pydicom:
        segmentation.SeriesInstanceUID = pydicom.uid.generate_uid()
        segmentation.SOPInstanceUID = segmentation.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        segmentation.ContentDate = time.strftime("%Y%m%d")
        # Of two that are made in one second the later one counts.
        segmentation.ContentTime = f"{time.strftime('%H%M%S')}.{900_000 + next(_TICKS):06}"
        segmentation.PixelData = np.packbits(planes.astype(bool).ravel(), bitorder="little").tobytes()
        segmentation.PixelData += b"\0" * (len(segmentation.PixelData) % 2)
        pacs.upload([to_bytes(segmentation)])


def fetch_label(server: Server, name: str) -> nib.Nifti1Image:
    server.get("/datastore/?output=train")  # asks the PACS anew
    where = f"{server.url}/datastore/label"
    answer = requests.get(where, params={"label": name, "tag": "final"}, timeout=60)
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))


def trains(server: Server) -> None:
    begun = time.perf_counter()
    status, last = server.finish(f"/train/{MODEL}", max_epochs=1)
    seconds = time.perf_counter() - begun
    check("training on the labels of the PACS", status == "DONE", f"{seconds:.0f} s" if status == "DONE" else last)
    stats = server.get("/info/")["train_stats"][MODEL]
    told = {key: stats.get(key) for key in ("before", "best", "better")}
    check("the weights are not worse", stats.get("best_metric", 0) >= stats.get("before", 1), told)


def views(server: Server, alone: Cine, picture: Path | None) -> None:
    """The viewer shows the mask where the server says that it is, also in a study that holds a segmentation."""
    mask = server.mask(alone.series)
    counts = voxels(mask).sum(axis=(0, 1)).tolist()
    with open_viewer(server.url, alone.study) as page:
        connect(page)
        shown = run_model(page, MODEL)
        check("the viewer shows the mask, slice by slice", shown["counts"] == counts, shown["counts"])
        origin = mask.affine[:3, 3] * (-1, -1, 1)
        check("in its place", np.allclose(shown["origin"], origin, atol=0.01), shown["origin"])
        if picture is not None:
            page.wait_for_timeout(8000)  # until messages are gone
            page.screenshot(path=picture)
            check("picture", True, picture)
    check("its label is taken", submit(server, alone.series, mask, model=MODEL).status_code == 200)
    with open_viewer(server.url, alone.study, alone.series) as page:
        connect(page)
        shown = run_model(page, MODEL)
        check("the viewer, with a SEG in the study and the series in the address", shown["counts"] == counts)


if __name__ == "__main__":
    sys.exit(main())
