"""nnU-Net's raw data: the training part of a set of short-axis stacks, whose ``dataset.json`` names the labels.

``imagesTr/patient001_ED_0000.nii.gz`` and ``labelsTr/patient001_ED.nii.gz`` are image and label of a case; 0000 is the
channel. A word of the case is the phase, ``ED`` or ``ES``, or ``frame01``, the number of a frame in its cine. The rest
is the subject.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from monai_iln.datasets.readers.dataset_json import FILE_NAME, read_dataset_json
from monai_iln.datasets.readers.matching import PHASE_WORDS, FilePair, Files, PairCollector, PairedFiles, find_volumes
from monai_iln.datasets.readers.plan import Plan
from monai_iln.datasets.readers.structures import Label, Values, find_structures, hyphened
from monai_iln.datasets.readers.volumes import plan_pairs
from monai_iln.errors import UserError

_IMAGE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_CASE = re.compile(r"(?P<case>.+)")
_FRAME = re.compile(r"frame[_-]?(?P<number>\d{1,4})", re.IGNORECASE)
_PHASE = re.compile(rf"(^|[_\-. ])(?P<word>{'|'.join(PHASE_WORDS)}|{_FRAME.pattern})(?=[_\-. ]|$)", re.IGNORECASE)
_FOLDERS = ("imagesTr", "labelsTr")
#: What such sets call the structures of :data:`~monai_iln.datasets.readers.layouts.STRUCTURES`.
_NAMES = {
    **dict.fromkeys(
        ("rv", "rvc", "rv-cavity", "right-ventricle-cavity", "right-ventricular-cavity"), "right-ventricle"
    ),
    **dict.fromkeys(("lv", "lvc", "lv-cavity", "left-ventricle-cavity", "left-ventricular-cavity"), "left-ventricle"),
    **dict.fromkeys(("myo", "mlv", "lvm", "lv-myocardium", "left-ventricular-myocardium"), "myocardium"),
}


def holds(files: Files) -> bool:
    """Whether there is a ``dataset.json``, and an image that is named as here."""
    return bool(_descriptions(files)) and any(
        path.parent.name == _FOLDERS[0] for path, _ in find_volumes(files, _IMAGE)
    )


def plan(files: Files, label: Label) -> Plan:
    """Plan to read the labelled stacks, see :func:`~monai_iln.datasets.readers.folders.read_folders`."""
    wanted = find_structures(label, read_values(files))
    return plan_pairs(find_pairs(files), wanted)


def read_values(files: Files) -> Values:
    """The values of the structures, by the names of ``dataset.json`` or, where they are known, by the usual ones.

    Raises:
        UserError: If there are several files of this kind, it cannot be read, or it names several channels.
    """
    path, *others = _descriptions(files)
    if others:
        raise UserError(f"{path} and {others[0]}: two data sets. Labels mean what one file says: give one of them.")
    dataset = read_dataset_json(path)
    channels = dataset.document.get("channel_names", dataset.document.get("modality", {}))
    if isinstance(channels, (dict, list)) and len(channels) > 1:
        raise UserError(
            f"{path}: images of {len(channels)} channels, {channels}. A stack has one: give a data set of one channel."
        )
    # What nnU-Net calls ignore has no meaning: here it is a value that no label may have.
    labels = {hyphened(name): values for name, values in dataset.labels.items() if any(values) and name != "ignore"}
    usual = Counter(_NAMES.get(name, name) for name in labels)
    single = [name for name, values in labels.items() if len(values) == 1]  # a region LV may hold the wall
    renamed = {name: _NAMES[name] for name in single if name in _NAMES and usual[_NAMES[name]] == 1}
    return {renamed.get(name, name): values for name, values in labels.items()}


def find_pairs(files: Files) -> PairedFiles:
    """The images and labels, and what tables say about the subjects.

    Raises:
        UserError: If an image has a second channel, or two are of one subject and phase.
    """
    collector = PairCollector()
    for folder, pattern in zip(_FOLDERS, (_IMAGE, _CASE), strict=True):
        for path, match in find_volumes(files, pattern):
            if path.parent.name != folder:
                continue
            if match.groupdict().get("channel", "0000") != "0000":
                raise UserError(f"{path}: channel {match['channel']} of a case. A stack has one: remove the others.")
            collector.add(*_read_case(match["case"]), path, is_label=folder == _FOLDERS[1])
    paired = collector.with_tables(files)
    return paired._replace(pairs=[*map(_with_time, paired.pairs)])


def _read_case(case: str) -> tuple[str, str]:
    """The subject and the phase of a case. A frame that no word calls ED or ES is its own phase so far."""
    words = [match["word"] for match in _PHASE.finditer(case)]
    subject = _PHASE.sub("", case).strip("_-. ")
    named = [PHASE_WORDS[word.casefold()] for word in words if word.casefold() in PHASE_WORDS]
    if not subject:
        return case, ""
    return subject, ["", *words[-1:], *named][-1]


def _with_time(pair: FilePair) -> FilePair:
    """The pair, of which the number of its frame is the time, as in a cine."""
    match = _FRAME.fullmatch(pair.phase)
    if match is None:
        return pair
    return pair._replace(phase="", time=int(match["number"]) - 1)


def _descriptions(files: Files) -> list[Path]:
    return [path for path in files if path.name == FILE_NAME]
