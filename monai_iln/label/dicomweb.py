"""The images and labels of a PACS, as an app serves them."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from monailabel.interfaces.datastore import DefaultLabelTag

from monai_iln.datasets.formats.dicom import quiet_pydicom
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.errors import UserError
from monai_iln.label.answers import answer_user_errors
from monai_iln.label.pacs import Pacs, open_client
from monai_iln.label.pacs_series import PacsStack
from monai_iln.label.segmentations import describe_segments, name_values, read_segmentation
from monai_iln.label.stacks import load_label
from monai_iln.label.studies import LocalStudies, require_tag

logger = logging.getLogger(__name__)

_FINAL: str = DefaultLabelTag.FINAL.value


class PacsStudies(LocalStudies, DICOMWebDatastore):
    """Every stack of a PACS is an image: a series, or each phase of a cine, in one series or in one for each slice.

    MONAI Label's own takes a series for one volume and any label for that of any image. Here the images of a phase are
    fetched alone, labels are checked as those of a folder are, and their segments have codes. Final labels lie in the
    PACS; what was fetched, and other labels, in a folder.

    Args:
        url: The address of its DICOMweb.
        structures: The names of what each model outlines, by their values in its masks.

    Raises:
        UserError: If the filter names an unknown element.
    """

    def __init__(self, url: str, structures: Mapping[str, Mapping[int, str]]) -> None:
        client = open_client(url)
        cache = settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip()
        DICOMWebDatastore.__init__(self, client, {}, cache or None)
        self.structures = structures
        self.model = next(iter(structures))
        """The model whose labels :meth:`datalist` brings."""
        names = {name for known in structures.values() for name in known.values()}
        self._folder = Path(self._datastore.image_path()).resolve()
        self._pacs = Pacs(client, self._folder / "series.json", names)

    def list_images(self) -> list[str]:
        with answer_user_errors():
            return list(self._pacs.stacks())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        with answer_user_errors():
            return list(self._pacs.labels())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        with answer_user_errors():
            labelled = self._pacs.labels()
            return [image_id for image_id in self._pacs.stacks() if image_id not in labelled]

    def status(self) -> dict[str, Any]:
        return {**super().status(), "search_filter": self._pacs.search_filter, "no_stacks": self._pacs.unfit}

    def json(self) -> Any:
        known = super().json()
        for image_id in self.list_images():
            known["objects"].setdefault(image_id, {"image": {"ext": "", "info": {}}, "labels": {}})
        return known

    def get_image_uri(self, image_id: str) -> str:
        with answer_user_errors():
            return self._bring_image(image_id)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        with answer_user_errors():
            if label_tag == _FINAL and (found := self._pacs.labels().get(label_id)):
                meant = [names for names in self.structures.values() if found[-1].structures & {*names.values()}]
                self._bring_label(label_id, meant[0])
        return LocalDatastore.get_label_uri(self, label_id, label_tag)  # type: ignore[no-any-return]

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> Any:
        image = self.require_image(image_id)
        require_tag(label_tag)
        called = {image: image_id, label_filename: "the submitted label"}
        with answer_user_errors(called), tempfile.TemporaryDirectory() as folder:
            mask = load_label(image, label_filename)[0].numpy().astype(np.uint8)
            file = Path(folder) / "label.nii.gz"
            nib.save(nib.Nifti1Image(mask, nib.load(image).affine), file)
            info = dict(label_info or {})
            if label_tag == _FINAL:
                model, names = name_values(np.unique(mask[mask > 0]).tolist(), info, self.structures)
                info["SeriesInstanceUID"] = self._send_label(image_id, file, model, names)
            return LocalDatastore.save_label(self, image_id, str(file), label_tag, info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        if label_tag == _FINAL:
            raise HTTPException(422, f"label of {label_id}: lies in the PACS as a DICOM segmentation. Delete it there.")
        super().remove_label(label_id, label_tag)

    def datalist(self, full_path: bool = True) -> Any:
        """The images with a final label of :attr:`model`, after those were brought from the PACS."""
        self._pacs.forget_labels()
        for image_id in {*self._pacs.labels(), *self._datastore.objects}:
            self._bring_label(image_id, self.structures[self.model])
        self._update_datastore_file()
        return LocalDatastore.datalist(self, full_path)

    def _bring_image(self, image_id: str) -> str:
        """The file of a stack, fetched if need be; an empty text if the PACS has none of this name."""
        stack = self._pacs.find(image_id)
        if stack is None:
            return ""
        file = self._folder / f"{image_id}.nii.gz"
        if image_id not in self._datastore.objects or not file.exists():
            self._fetch_image(stack)
        return str(file)

    def _fetch_image(self, stack: PacsStack) -> None:
        """Make a NIfTI file of the images of a stack, with the axes of ITK: columns, rows, slices."""
        folder = self._folder / stack.image_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number, (series, instance) in enumerate(zip(stack.homes, stack.instances, strict=True), start=1):
            self._pacs.fetch(stack.study, series, instance, folder / f"{number:03}.dcm")
        try:
            pixels, affine = read_stack(folder)
        except UserError as error:
            reason = str(error).removeprefix(f"{folder}: ").replace(str(folder), stack.image_id)
            self._pacs.leave_out(stack.image_id, reason)
            raise UserError(f"image {stack.image_id}: {reason}") from error
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "image.nii.gz"
            nib.save(nib.Nifti1Image(pixels.transpose(1, 0, 2), affine[:, [1, 0, 2, 3]]), file)
            self.add_image(stack.image_id, str(file), self._dicom_info(stack.series))

    def _bring_label(self, image_id: str, names: Mapping[int, str]) -> None:
        """Make a file of the last label of some structures in the PACS. One that does not fit is told and left out."""
        found = [label for label in self._pacs.labels().get(image_id, []) if label.structures & {*names.values()}]
        kept = self._datastore.label(image_id, _FINAL)
        if found and kept and kept.info.get("SeriesInstanceUID") == found[-1].series:
            return
        if image_id in self._datastore.objects:
            self._datastore.objects[image_id].labels.pop(_FINAL, None)
        if not found:
            return
        image, last = self._bring_image(image_id), found[-1]
        with tempfile.TemporaryDirectory() as folder:
            file, label = Path(folder) / "label.dcm", Path(folder) / "label.nii.gz"
            self._pacs.fetch(last.study, last.series, last.instance, file)
            try:
                nib.save(read_segmentation(file, Path(image), names), label)
            except UserError as error:
                logger.error(f"{image_id}: its SEG {last.series} is left out: {error}.")
                return
            LocalDatastore.save_label(self, image_id, str(label), _FINAL, {"SeriesInstanceUID": last.series})

    def _send_label(self, image_id: str, label: Path, model: str, names: Mapping[int, str]) -> str:
        """Send a mask to the PACS as a DICOM segmentation of the images of its stack."""
        folder = self._folder / image_id
        # Not by MONAI Label's other writer, dcmqi: the server would fetch it, and it refuses headers like Sunnybrook's.
        file = Path(nifti_to_dicom_seg(str(folder), str(label), describe_segments(names, model), use_itk=False))
        with quiet_pydicom() as pydicom:
            segmentation = pydicom.dcmread(file)
            image = pydicom.dcmread(folder / "001.dcm", specific_tags=["FrameOfReferenceUID"])
        file.unlink()
        if "FrameOfReferenceUID" in image:
            segmentation.FrameOfReferenceUID = image.FrameOfReferenceUID  # pydicom-seg makes one up
        self._pacs.send(segmentation)
        self._pacs.forget_labels()
        return str(segmentation.SeriesInstanceUID)
