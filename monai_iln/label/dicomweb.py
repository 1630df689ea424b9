"""The images and labels of a PACS that speaks DICOMweb, as an app serves them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests
from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import nifti_to_dicom_seg
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from pydicom.datadict import tag_for_keyword

from monai_iln.datasets.formats.dicom import quiet_pydicom
from monai_iln.datasets.readers.dicom_folder import read_stack
from monai_iln.errors import UserError
from monai_iln.label.answers import answer_user_errors
from monai_iln.label.pacs_labels import PacsLabel, find_labels
from monai_iln.label.pacs_series import PacsStack, split_series
from monai_iln.label.segmentations import describe_segments, name_values, read_segmentation
from monai_iln.label.studies import load_label

logger = logging.getLogger(__name__)

_FILTER = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"


def open_client(url: str) -> DICOMwebClientX:
    """The client of a PACS, with the user, the password and the paths that MONAI Label's settings name."""
    session = None
    if "googleapis.com" in url:
        session = create_session_from_gcp_credentials()
    elif settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session = create_session_from_user_pass(
            settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        )
    return DICOMwebClientX(
        url=url.strip().rstrip("/"),
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )


class PacsStudies(DICOMWebDatastore):
    """Every stack of a PACS is an image: a series, or each phase of a series that is a cine.

    MONAI Label's own takes a series for one volume and any label for that of any image. Here the images of a phase are
    fetched alone, labels are checked as those of a folder are, and their segments have codes.

    Args:
        client: The client of the PACS.
        structures: The names of what each model outlines, by their values in its masks.

    Raises:
        UserError: If the filter names an unknown element.
    """

    def __init__(self, client: DICOMwebClientX, structures: Mapping[str, Mapping[int, str]]) -> None:
        super().__init__(client, _search_filter(), settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None)
        self.structures = structures
        self.model = next(iter(structures))  # whose labels are read
        self._known = Path(self._datastore_path) / "series.json"
        self._stacks: dict[str, PacsStack] = {}
        self._unfit: dict[str, str] = {}
        self._labels: dict[str, list[PacsLabel]] | None = None
        self._listed = -np.inf

    def list_images(self) -> list[str]:
        self._list()
        return list(self._stacks)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [image_id for image_id in self.list_images() if image_id in self._list_labels()]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return [image_id for image_id in self.list_images() if image_id not in self._list_labels()]

    def status(self) -> dict[str, Any]:
        return {**super().status(), "search_filter": self._search_filter, "no_stacks": self._unfit}

    def json(self) -> Any:
        known = super().json()
        for image_id in self.list_images():
            known["objects"].setdefault(image_id, {"image": {"ext": "", "info": {}}, "labels": {}})
        return known

    def get_image_uri(self, image_id: str) -> str:
        with answer_user_errors():
            stack = self._find(image_id)
            if stack is None:
                return ""
            file = Path(self._datastore.image_path()) / f"{image_id}.nii.gz"
            if image_id not in self._datastore.objects or not file.exists():
                self._fetch_image(stack)
            return str(file.resolve())

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        return LocalDatastore.get_label_uri(self, label_id, label_tag)  # type: ignore[no-any-return]

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> Any:
        with answer_user_errors(), tempfile.TemporaryDirectory() as folder:
            image = self.get_image_uri(image_id)
            if not image:
                raise ImageNotFoundException(f"Image {image_id} not found")
            mask = load_label(image, label_filename)[0].numpy().astype(np.uint8)
            file = Path(folder) / "label.nii.gz"
            nib.save(nib.Nifti1Image(mask, nib.load(image).affine), file)
            info = dict(label_info or {})
            if label_tag == DefaultLabelTag.FINAL:
                model, names = name_values(np.unique(mask[mask > 0]).tolist(), info, self.structures)
                info["SeriesInstanceUID"] = self._store(image_id, file, model, names)
            saved = LocalDatastore.save_label(self, image_id, str(file), label_tag, info)
            self._labels = None
            return saved

    def remove_label(self, label_id: str, label_tag: str) -> None:
        with answer_user_errors():
            if label_tag == DefaultLabelTag.FINAL:
                raise UserError(f"label {label_id}: lies in the PACS as a DICOM segmentation. Delete it there.")
            super().remove_label(label_id, label_tag)

    def datalist(self, full_path: bool = True) -> Any:
        """The images with a final label of :attr:`model`, after those are fetched from the PACS."""
        names = self.structures[self.model]
        self._labels = None
        final = str(DefaultLabelTag.FINAL.value)
        for image_id in list(self._datastore.objects):
            self._datastore.objects[image_id].labels.pop(final, None)
        for image_id, labels in self._list_labels().items():
            meant = [label for label in labels if label.structures & {*names.values()}]
            if meant:
                self._fetch_label(image_id, meant[-1], names)
        self._update_datastore_file()
        return LocalDatastore.datalist(self, full_path)

    def _list(self) -> None:
        """Ask the PACS which stacks it has, if the last answer is old."""
        if time.monotonic() - self._listed < settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY:
            return
        with self._asking():
            found = self._client.search_for_series(search_filters=self._search_filter)
            self._stacks, self._unfit, self._labels = {}, {}, None
            for series in found:
                self._add(series)
            told = f"PACS, series by {self._search_filter}: {len(found)}, of which {len(self._unfit)} are no stacks"
            if not found:
                told += f". Without the filter: {len(self._client.search_for_series())}. {_FILTER} sets it"
        logger.warning(f"{told}.")
        self._listed = time.monotonic()

    def _add(self, found: Mapping[str, Any]) -> None:
        """Take the stacks of a series into the list. What its headers tell is kept in a file."""
        study, series = (found[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
        images = found.get("00201209", {}).get("Value", [None])[0]
        known = json.loads(self._known.read_text()) if self._known.exists() else {}
        if images is None or known.get(series, {}).get("images") != images:
            entry: dict[str, Any] = {"images": images, "stacks": [], "reason": ""}
            try:
                stacks = split_series(study, series, self._client.retrieve_series_metadata(study, series))
                entry["stacks"] = [[stack.image_id, list(stack.instances)] for stack in stacks]
            except UserError as error:
                entry["reason"] = str(error)
            known[series] = entry
            self._known.write_text(json.dumps(known))
        if known[series]["reason"]:
            self._unfit[series] = known[series]["reason"]
        for image_id, instances in known[series]["stacks"]:
            self._stacks[image_id] = PacsStack(image_id, study, series, tuple(instances))

    def _find(self, image_id: str) -> PacsStack | None:
        """The stack of a name, also if it has come since the PACS was asked, or does not pass the filter."""
        self._list()
        series = image_id.partition("_phase")[0]
        if image_id not in self._stacks and series not in self._unfit:
            with self._asking():
                for found in self._client.search_for_series(search_filters={"SeriesInstanceUID": series}):
                    if found["0020000E"]["Value"][0] == series:  # others come if it holds a wildcard
                        self._add(found)
        if series in self._unfit:
            raise UserError(
                f"image {image_id}: is no short-axis stack: {self._unfit[series]}. Mend the series, or choose another."
            )
        phases = [stack.image_id for stack in self._stacks.values() if stack.series == series]
        if image_id not in self._stacks and phases:
            raise UserError(
                f"image {image_id}: a cine of {len(phases)} phases. Each phase is an image: choose from {phases[0]} to "
                f"{phases[-1]}."
            )
        return self._stacks.get(image_id)

    def _fetch_image(self, stack: PacsStack) -> None:
        """Fetch the images of a stack, and make a NIfTI file of them with the axes of ITK: columns, rows, slices."""
        folder = Path(self._datastore.image_path()) / stack.image_id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with self._asking(), quiet_pydicom():
            for number, instance in enumerate(stack.instances, start=1):
                dataset = self._client.retrieve_instance(stack.study, stack.series, instance)
                dataset.save_as(folder / f"{number:03}.dcm")
        try:
            pixels, affine = read_stack(folder)
        except UserError as error:
            raise UserError(str(error).replace(str(folder), f"image {stack.image_id}")) from error
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "image.nii.gz"
            nib.save(nib.Nifti1Image(pixels.transpose(1, 0, 2), affine[:, [1, 0, 2, 3]]), file)
            self.add_image(stack.image_id, str(file), self._dicom_info(stack.series))

    def _store(self, image_id: str, label: Path, model: str, names: Mapping[int, str]) -> str:
        """Write a mask as a DICOM segmentation of the images of its stack, and send it to the PACS."""
        folder = Path(self._datastore.image_path()) / image_id
        # Not by MONAI Label's other writer, dcmqi: the server would fetch it, and it refuses headers like Sunnybrook's.
        file = nifti_to_dicom_seg(str(folder), str(label), describe_segments(names, model), use_itk=False)
        with self._asking(), quiet_pydicom() as pydicom:
            segmentation = pydicom.dcmread(file)
            Path(file).unlink()
            image = pydicom.dcmread(next(folder.iterdir()), specific_tags=["FrameOfReferenceUID"])
            segmentation.FrameOfReferenceUID = image.get("FrameOfReferenceUID")  # pydicom-seg makes one up
            self._client.store_instances([segmentation])
        return str(segmentation.SeriesInstanceUID)

    def _list_labels(self) -> dict[str, list[PacsLabel]]:
        """The labels of each image in the PACS, the last one last."""
        self._list()
        if self._labels is None:
            known = {name for names in self.structures.values() for name in names.values()}
            with self._asking():
                self._labels = find_labels(self._client, list(self._stacks.values()), known)
        return self._labels

    def _fetch_label(self, image_id: str, label: PacsLabel, names: Mapping[int, str]) -> None:
        """Make the label of an image a file. One that does not lie on its image is told and passed over."""
        image = self.get_image_uri(image_id)
        with tempfile.TemporaryDirectory() as folder, self._asking(), quiet_pydicom():
            file = Path(folder) / "label.dcm"
            self._client.retrieve_instance(label.study, label.series, label.instance).save_as(file)
            try:
                mask = read_segmentation(file, Path(image), names)
            except UserError as error:
                logger.error(f"The SEG {label.series} of image {image_id} is passed over: {error}")
                return
            nib.save(mask, Path(folder) / "label.nii.gz")
            info = {"SeriesInstanceUID": label.series}
            LocalDatastore.save_label(
                self, image_id, str(Path(folder) / "label.nii.gz"), DefaultLabelTag.FINAL.value, info
            )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except requests.RequestException as error:
            raise UserError(
                f"the PACS {self.name()} does not answer as it should ({error}). Ask who runs it."
            ) from error


def _search_filter() -> dict[str, Any]:
    """What the user sets, or magnetic resonance; MONAI Label's default, computed tomography, finds no heart here."""
    chosen: dict[str, Any] = settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
    if _FILTER not in settings.model_fields_set:
        chosen = {"Modality": "MR"}
        os.environ[_FILTER] = json.dumps(chosen)  # for trainings, processes that are given every default as set
    for keyword in chosen:
        if tag_for_keyword(keyword) is None:
            raise UserError(
                f"{_FILTER}: {keyword} is no element of DICOM, and a PACS may pass over it and find everything. Name "
                'elements by their keywords, as in {"Modality": "MR"}.'
            )
    return chosen
