"""DICOM files of a phantom, with what real Sunnybrook headers hold and readers use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset, validate_file_meta
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from monai_iln.datasets.phantom.heart import Heart
from monai_iln.datasets.phantom.image import render

_AXIAL = np.eye(3)


class Study:
    """Writes the series of one subject.

    All series share one SeriesInstanceUID, and the descriptions are empty: both are so in the wild.
    """

    def __init__(self, heart: Heart, patient: str) -> None:
        self.heart = heart
        self.template = _template(heart, patient)

    def short_axis(self, folder: Path, name: str, *, slices: Iterable[int], number: int, first: int = 1) -> None:
        """Write every phase of some slices, numbered slice by slice.

        Args:
            folder: The folder to write into.
            name: The name of a file, with a place for the number, such as ``"IM-0003-{:04d}.dcm"``.
            slices: The slices, from 0.
            number: The SeriesNumber.
            first: The number of the first frame. 1 begins the cycle after end diastole, which comes last, as in
                Sunnybrook; 0 begins with end diastole, as in RVSC.
        """
        heart = self.heart
        phases = range(first, heart.phases + first)
        for place, slice_ in enumerate(slices):
            position = heart.origin + heart.axes[2] * heart.step * slice_
            frames = render(heart, slice_, [phase or heart.phases for phase in phases])
            for phase in phases:
                instance = place * heart.phases + phase
                time = 800 * ((phase - 1) % heart.phases) / heart.phases
                path = folder / name.format(instance)
                self._write(path, frames[phase or heart.phases], number, instance, position, heart.axes, time)

    def other_views(self, folder: Path, name: str, *, count: int, number: int) -> None:
        """Write images of another view, such as localizers and long axes: turned frames with axial headers."""
        pixels = np.rot90(render(self.heart, self.heart.slices // 2, [1])[1])
        for instance in range(1, count + 1):
            position = np.array([-120.0, -120.0, 15.0 * instance])
            self._write(folder / name.format(instance), pixels, number, instance, position, _AXIAL, 0.0)

    def _write(
        self,
        path: Path,
        pixels: NDArray[np.int16],
        number: int,
        instance: int,
        position: NDArray[np.float64],
        axes: NDArray[np.float64],
        time: float,
    ) -> None:
        dataset = self.template
        uid = generate_uid(entropy_srcs=[str(self.heart.seed), dataset.PatientID, str(number), str(instance)])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
        dataset.SeriesNumber = number
        dataset.InstanceNumber = instance
        dataset.TriggerTime = f"{time:.3f}"
        dataset.ImagePositionPatient = [f"{value:.4f}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.6f}" for axis in axes[:2] for value in axis]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.tobytes()
        validate_file_meta(dataset.file_meta)  # adds what every file holds
        dataset.save_as(path)


def _template(heart: Heart, patient: str) -> FileDataset:
    dataset = FileDataset("", {}, preamble=b"\0" * 128, file_meta=FileMetaDataset(), is_implicit_VR=False)
    dataset.file_meta.FileMetaInformationGroupLength = 0  # computed when the file is written
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[patient, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, "series"])
    dataset.Modality = "MR"
    dataset.Manufacturer = "monai_iln"
    dataset.StudyDescription = "PHANTOM"
    dataset.SeriesDescription = ""
    dataset.PatientID = patient
    dataset.PatientName = f"PHANTOM^{patient}"  # as viewers and archives show it
    dataset.SliceThickness = dataset.SpacingBetweenSlices = heart.step
    dataset.CardiacNumberOfImages = heart.phases
    dataset.PixelSpacing = [heart.pixel, heart.pixel]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    return dataset
