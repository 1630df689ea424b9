"""A list of volumes in the form of the Medical Segmentation Decathlon, which knows neither subjects nor folds.

``dataset.json`` names ``imagesTr/la_003.nii.gz`` and ``labelsTr/la_003.nii.gz`` under ``training``. The volumes may
show anything, in three dimensions and with several structures: nothing here takes them for slices of a heart.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from monai_iln.datasets.formats.archives import SUFFIXES
from monai_iln.datasets.formats.volumes import without_type
from monai_iln.datasets.readers.dataset_json import FILE_NAME, DatasetJson, read_dataset_json
from monai_iln.datasets.readers.matching import FilePair
from monai_iln.datasets.readers.patterns import compile_pattern
from monai_iln.errors import UserError


class DecathlonList(NamedTuple):
    """A list of volumes.

    Attributes:
        name: The name of the data set.
        labels: The names of the label values.
        modality: The modalities by channel, as the list has them; empty if it has none.
        pairs: The images with their labels, subjects and phases.
    """

    name: str
    labels: dict[int, str]
    modality: Any
    pairs: list[FilePair]


def read_decathlon(source: Path, subject: str = "{subject}") -> DecathlonList:
    """Read the labelled volumes of a list. None of them is opened.

    Args:
        source: The file, or the folder that holds it as ``dataset.json``.
        subject: The pattern that tells the subject from the name of an image without its type. ``*`` is any part of it,
            and ``{phase}`` tells several images of a subject apart; without it the phase is *1*. An item's own
            ``subject`` goes before the pattern.

    Raises:
        UserError: If there is no list, it is damaged, an item has no image and label, a file is named twice, folds are
            there already, a name does not match the pattern, or two images are of one subject and phase.
    """
    path = source / FILE_NAME if source.is_dir() else source
    if path.name.lower().endswith(SUFFIXES):
        raise UserError(
            f"{source}: an archive. The datalist points at the volumes where they are: unpack it, and give the folder."
        )
    dataset = read_dataset_json(path)
    items = dataset.document.get("training")
    if not isinstance(items, list) or not items:
        raise UserError(f"{path}: lists nothing under 'training'. Labelled volumes are named there: add them.")
    pairs = [_read_item(dataset, number, item, subject) for number, item in enumerate(items)]
    twice = [
        file
        for file, count in Counter(file for pair in pairs for file in (pair.image, pair.label)).items()
        if count > 1
    ]
    if twice:
        raise UserError(
            f"{path}: names {twice[0]} more than once. A label belongs to one image, and an image is one volume: "
            "correct the list."
        )
    known: dict[tuple[str, str], FilePair] = {}
    for pair in pairs:
        twin = known.setdefault((pair.subject.casefold(), pair.phase.casefold()), pair)
        if twin is not pair:
            raise UserError(
                f"{twin.image} and {pair.image}: both are subject {pair.subject} at {pair.phase}, by the pattern "
                f"{subject!r}. Write {{phase}} where the names of a subject differ, such as '{{subject}}_{{phase}}'."
            )
    names = {values[0]: name for name, values in dataset.labels.items() if len(values) == 1}
    title = str(dataset.document.get("name") or path.absolute().parent.name)
    modality = dataset.document.get("modality", dataset.document.get("channel_names", {}))
    return DecathlonList(title, names, modality, pairs)


def _read_item(dataset: DatasetJson, number: int, item: Any, pattern: str) -> FilePair:
    """The files of an item, and whose they are."""
    files = [item.get(key) for key in ("image", "label")] if isinstance(item, dict) else []
    if not files or not all(isinstance(file, str) for file in files):
        raise UserError(
            f"{dataset.path}: item {number} under 'training' is {str(item)[:100]}. It names one image and one label, "
            "each as text, and an image has one channel: correct it."
        )
    if "fold" in item:
        raise UserError(
            f"{dataset.path}: item {number} has a fold already. Use the list as it is, after 'monai-iln check', or "
            "remove its folds."
        )
    image, label = ((dataset.path.parent / str(file)).absolute() for file in files)
    match = compile_pattern(pattern).fullmatch(normalize("NFC", without_type(image).name))
    if match is None:
        raise UserError(
            f"{pattern!r}: does not match {image.name} of item {number}. The pattern is compared with the whole name "
            "without its type, and * is any part of it: correct it."
        )
    subject = normalize("NFC", str(item.get("subject", match["subject"])))
    return FilePair(subject, match.groupdict().get("phase") or "1", image, label)
