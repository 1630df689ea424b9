"""Cines for a PACS: two as series of their own, one in a series for each slice, a phase as a viewer needs it."""

from __future__ import annotations

import io
from pathlib import Path

from orthanc import Orthanc

from monai_iln.datasets.formats.dicom import quiet_pydicom
from monai_iln.datasets.phantom import write_phantom


def find_cines(data: Path, folder: Path) -> list[list[Path]]:
    """The files of two cines."""
    if not list(data.glob("SCD_IMAGES_01/*/CINESAX_*")):
        print(f"no Sunnybrook in {data}: phantoms stand in for it")
        data = write_phantom(folder / "raw", subjects=2, slices=7, phases=6)
    folders = sorted(data.glob("SCD_IMAGES_01/*/CINESAX_*"))[:2]
    return [sorted(folder.glob("*.dcm")) for folder in folders]


class Cine:
    """What was sent to the PACS as one series."""

    def __init__(self, headers: list) -> None:
        self.study, self.series = (str(headers[0][key].value) for key in ("StudyInstanceUID", "SeriesInstanceUID"))
        slices: dict[tuple, list] = {}
        for header in sorted(headers, key=lambda header: float(header.TriggerTime)):
            slices.setdefault(tuple(header.ImagePositionPatient), []).append(str(header.SOPInstanceUID))
        self.slices = len(slices)
        self.phases = len(headers) // len(slices)
        self.first = [images[0] for images in slices.values()]  # of the first phase

    def phase(self, number: int) -> str:
        return f"{self.series}_phase{number:0{len(str(self.phases))}}"


def fill(pacs: Orthanc, cines: list[list[Path]]) -> tuple[list[Cine], Cine]:
    """Two cines, and the first phase of the second as a series of a study of its own, as viewers need it."""
    known = []
    with quiet_pydicom() as pydicom:
        for files in cines:
            pacs.upload(file.read_bytes() for file in files)
            headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
            known.append(Cine(headers))
        alone = []
        study, series = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
        for file in cines[1]:
            image = pydicom.dcmread(file)
            if str(image.SOPInstanceUID) in known[1].first:
                image.StudyInstanceUID, image.SeriesInstanceUID = study, series
                image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
                image.StudyDate, image.SeriesDescription = "20200101", "one phase"
                alone.append(image)
        pacs.upload(map(to_bytes, alone))
    return known, Cine(alone)


def part(pacs: Orthanc, files: list[Path]) -> Cine:
    """The same images in a study of their own, with a series for each slice, as many scanners store a cine."""
    images, series = [], {}
    with quiet_pydicom() as pydicom:
        study = pydicom.uid.generate_uid()
        for file in files:
            image = pydicom.dcmread(file)
            place = tuple(image.ImagePositionPatient)
            image.StudyInstanceUID = study
            image.SeriesInstanceUID = series.setdefault(place, pydicom.uid.generate_uid())
            image.SeriesNumber = 1 + list(series).index(place)
            image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
            images.append(image)
        pacs.upload(map(to_bytes, images))
    return Cine(images)


def to_bytes(dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()
