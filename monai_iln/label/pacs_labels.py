"""Which images of a PACS have a label: the DICOM segmentations that reference them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from monai_iln.datasets.formats.dicom import quiet_pydicom
from monai_iln.label.pacs_series import PacsStack
from monai_iln.label.segmentations import find_structures

_SERIES, _SEGMENTS, _FRAMES, _INSTANCE = "00081115", "00620002", "52009230", "00080018"
_REFERENCE = "00081155"
_TIMES = ("00080023", "00080033")  # of the content
_NUMBERS = ("00200011", "00200013")  # of the series and the instance: who stores twice in a second counts on


class PacsLabel(NamedTuple):
    """A DICOM segmentation.

    Attributes:
        time: When it was made.
        numbers: The SeriesNumber and the InstanceNumber, 0 where it has none.
        study: The StudyInstanceUID.
        series: The SeriesInstanceUID.
        instance: The SOPInstanceUID.
        structures: The names of its structures that are known.
    """

    time: str
    numbers: tuple[int, ...]
    study: str
    series: str
    instance: str
    structures: frozenset[str]


def find_labels(client: Any, stacks: Sequence[PacsStack], names: Collection[str]) -> dict[str, list[PacsLabel]]:
    """Find the DICOM segmentations of known structures in the studies of some stacks.

    A segmentation belongs to the stack that holds every image that it references.

    Args:
        client: The client of the PACS.
        stacks: The stacks.
        names: The names of the structures.

    Returns:
        The labels of each image that has some, in the order in which they were made; those of one time by their numbers
        and UIDs, in whatever order the PACS names them.
    """
    by_study: dict[str, list[PacsStack]] = defaultdict(list)
    for stack in stacks:
        by_study[stack.study].append(stack)
    found: dict[str, list[PacsLabel]] = defaultdict(list)
    for series in client.search_for_series(search_filters={"Modality": "SEG"}):
        study, uid = (series[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
        if study not in by_study:
            continue
        for header in client.retrieve_series_metadata(study, uid):
            label = _read_label(study, uid, header, names)
            references = {*_references(header.get(_FRAMES))} or {*_references(header.get(_SERIES))}
            for stack in by_study[study]:
                if label.structures and references and references <= {*stack.instances}:
                    found[stack.image_id].append(label)
    return {image_id: sorted(labels, key=lambda label: label[:-1]) for image_id, labels in found.items()}


def _read_label(study: str, series: str, header: Mapping[str, Any], names: Collection[str]) -> PacsLabel:
    by_value = dict(enumerate(names, start=1))
    with quiet_pydicom() as pydicom:
        segments = pydicom.Dataset.from_json({tag: header[tag] for tag in (_SEGMENTS,) if tag in header})
        found = find_structures(segments, by_value).values()
    known = frozenset(by_value[value] for value in found)
    time = " ".join(str(_first(header, tag) or "") for tag in _TIMES)
    numbers = tuple(int(_first(header, tag) or 0) for tag in _NUMBERS)
    return PacsLabel(time, numbers, study, series, header[_INSTANCE]["Value"][0], known)


def _first(header: Mapping[str, Any], tag: str) -> Any:
    """The first value of an element of DICOM's JSON, or ``None``."""
    return (header.get(tag, {}).get("Value") or [None])[0]


def _references(element: Any) -> Iterator[str]:
    """The SOPInstanceUIDs that an element of DICOM's JSON references, at any depth."""
    if isinstance(element, list):
        for part in element:
            yield from _references(part)
    elif isinstance(element, Mapping):
        for tag, value in element.items():
            if tag == _REFERENCE:
                yield from value.get("Value", [])
            else:
                yield from _references(value)
