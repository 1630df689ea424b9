"""What a PACS holds, asked by DICOMweb: its stacks and their labels."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from pydicom.datadict import tag_for_keyword

from monai_iln.datasets.formats.dicom import quiet_pydicom
from monai_iln.errors import UserError
from monai_iln.label.pacs_labels import PacsLabel, find_labels
from monai_iln.label.pacs_series import OneSliceError, PacsStack, join_series, remember_series, split_series

logger = logging.getLogger(__name__)

_FILTER = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"
_STUDY, _SERIES, _COUNT = "0020000D", "0020000E", "00201209"


class Pacs:
    """The stacks of a PACS and their labels.

    Both lists are kept for as long as MONAI Label's setting says, two hours unless it is changed.

    Args:
        client: The client.
        memory: The file that keeps what the headers of each series told.
        structures: The names of the structures whose labels count.
    """

    def __init__(self, client: DICOMwebClientX, memory: Path, structures: Collection[str]) -> None:
        self.client = client
        self.search_filter = _search_filter()
        self.unfit: dict[str, str] = {}
        """Why a series or an image is no stack, by its name."""
        self._memory = memory
        self._structures = structures
        self._stacks: dict[str, PacsStack] = {}
        self._slices: dict[str, dict[str, Any]] = defaultdict(dict)  # by study: series of one slice, and their sizes
        self._damaged: dict[str, set[Any]] = defaultdict(set)  # by study: the sizes of series that are no stacks
        self._labels: dict[str, list[PacsLabel]] | None = None
        self._listed = float("-inf")

    def stacks(self) -> dict[str, PacsStack]:
        """All stacks that pass the filter, and those that were asked for, by their names."""
        if time.monotonic() - self._listed > settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY:
            with self._asking(), remember_series(self._memory) as known:
                found = self.client.search_for_series(search_filters=self.search_filter)
                self._stacks, self.unfit, self._labels = {}, {}, None
                self._slices.clear()
                self._damaged.clear()
                for series in found:
                    self._add(series, known)
                self._join(known)
                told = f"PACS: {len(found)} series pass {self.search_filter}, {len(self.unfit)} of them are no stacks"
                if not found:
                    told += f". It has {len(self.client.search_for_series())} series. {_FILTER} sets the filter"
            logger.warning(f"{told}.")
            self._listed = time.monotonic()
        return self._stacks

    def find(self, image_id: str) -> PacsStack | None:
        """Find the stack of a name, also if it has come since, or does not pass the filter.

        Raises:
            UserError: If it names a series that is no stack, or a cine without a phase.
        """
        known = self.stacks()
        series = image_id.partition("_phase")[0]
        homes = {home for stack in known.values() for home in stack.homes}
        if not {image_id, series} & {*known, *self.unfit, *homes}:
            with self._asking(), remember_series(self._memory) as memory:
                for found in self.client.search_for_series(search_filters={"SeriesInstanceUID": series}):
                    if found[_SERIES]["Value"][0] == series:  # others come if it holds a wildcard
                        self._add(found, memory)
        if reason := self.unfit.get(image_id) or self.unfit.get(series):
            raise UserError(f"image {image_id}: no short-axis stack: {reason}. Mend the series, or choose another.")
        phases = [stack.image_id for stack in known.values() if series in stack.homes]
        if image_id not in known and phases:
            raise UserError(
                f"image {image_id}: a cine of {len(phases)} phases. Each phase is an image: choose from {phases[0]} to "
                f"{phases[-1]}."
            )
        return known.get(image_id)

    def labels(self) -> dict[str, list[PacsLabel]]:
        """The labels of each image that has some, the last one last."""
        stacks = self.stacks()
        if self._labels is None:
            with self._asking():
                self._labels = find_labels(self.client, list(stacks.values()), self._structures)
        return self._labels

    def forget_labels(self) -> None:
        """Ask for labels again when they are needed next."""
        self._labels = None

    def leave_out(self, image_id: str, reason: str) -> None:
        """Offer an image no more, because its files are not what its headers tell."""
        self._stacks.pop(image_id, None)
        self.unfit[image_id] = reason

    def fetch(self, study: str, series: str, instance: str, file: Path) -> None:
        """Fetch a file."""
        with self._asking(), quiet_pydicom():
            self.client.retrieve_instance(study, series, instance).save_as(file)

    def send(self, dataset: Any) -> None:
        """Send a file."""
        with self._asking(), quiet_pydicom():
            self.client.store_instances([dataset])

    def _add(self, found: Mapping[str, Any], known: dict[str, Any]) -> None:
        """Take the stacks of a series into the list, and into what is known of each."""
        study, series = (found[tag]["Value"][0] for tag in (_STUDY, _SERIES))
        images = found.get(_COUNT, {}).get("Value", [None])[0]
        if images is None or known.get(series, {}).get("images") != images or "is_slice" not in known[series]:
            headers = self.client.retrieve_series_metadata(study, series)
            known[series] = {"images": images, "stacks": [], "reason": "", "is_slice": False}
            try:
                stacks = split_series(study, series, headers)
                known[series]["stacks"] = [[stack.image_id, list(stack.instances)] for stack in stacks]
            except UserError as error:
                known[series] |= {"reason": str(error), "is_slice": isinstance(error, OneSliceError)}
        if known[series]["reason"]:
            self.unfit[series] = known[series]["reason"]
        if known[series]["is_slice"]:
            self._slices[study][series] = images
        elif known[series]["reason"]:
            self._damaged[study].add(images)
        for image_id, instances in known[series]["stacks"]:
            self._stacks[image_id] = PacsStack(image_id, study, series, tuple(instances), (series,) * len(instances))

    def _join(self, known: dict[str, Any]) -> None:
        """Take the cines into the list that are stored as a series for each slice."""
        for study, slices in self._slices.items():
            name = f"{study} joined"
            if len(slices) < 2 or self._damaged[study] & {*slices.values()}:  # one may be a slice of the cine
                continue
            if None in slices.values() or known.get(name, {}).get("images") != slices:
                headers = {series: self.client.retrieve_series_metadata(study, series) for series in slices}
                known[name] = {"images": dict(slices), "stacks": []}
                with suppress(UserError):  # each series has its own reason
                    known[name]["stacks"] = [
                        [stack.image_id, stack.series, list(stack.instances), list(stack.homes)]
                        for stack in join_series(study, headers)
                    ]
            for image_id, series, instances, homes in known[name]["stacks"]:
                self._stacks[image_id] = PacsStack(image_id, study, series, tuple(instances), tuple(homes))
                for home in homes:
                    self.unfit.pop(home, None)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except requests.RequestException as error:
            raise UserError(
                f"the PACS {self.client.base_url} does not do what it is asked ({error}). Ask who runs it."
            ) from error


def open_client(url: str) -> DICOMwebClientX:
    """The client of a PACS, with the user, the password and the paths that MONAI Label's settings name.

    Args:
        url: The address of its DICOMweb.
    """
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
