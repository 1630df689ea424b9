"""EMIDEC: one late-enhancement stack of each case, in NIfTI, with the infarction.

``Case_P001/Images/Case_P001.nii.gz`` and ``Case_P001/Contours/Case_P001.nii.gz`` are image and label. N stands for a
normal case, P for a pathological one. Beside them lies a text about each case, ``Case P001.txt``, which is not read.
Labels are not compared with the brightness of images.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from monai_iln.datasets.readers.matching import Files, PairCollector, PairedFiles, find_volumes
from monai_iln.datasets.readers.plan import Plan, SubjectOutput
from monai_iln.datasets.readers.structures import Label, find_structures
from monai_iln.datasets.readers.tables import SubjectInfo
from monai_iln.datasets.readers.volumes import plan_pairs

#: The values of the label files, as the challenge counts them: 2 alone is normal muscle, 3 an infarction without the
#: no-reflow in it.
VALUES = {"left-ventricle": (1,), "myocardium": (2, 3, 4), "infarction": (3, 4), "no-reflow": (4,)}
_NAME = re.compile(r"(?P<subject>case_(?P<group>[np]?)\d+)", re.IGNORECASE)
_GROUPS = {"n": "normal", "p": "pathological"}


def holds(files: Files) -> bool:
    """Whether there is a label that is named as here."""
    return any(path.parent.name.casefold() == "contours" for path, _ in find_volumes(files, _NAME))


def plan(files: Files, label: Label) -> Plan:
    """Plan to read the labelled stacks, see :func:`~monai_iln.datasets.readers.folders.read_folders`."""
    pairs = plan_pairs(find_pairs(files), find_structures(label, VALUES))
    subjects = {subject: partial(_read_subject, read) for subject, read in pairs.subjects.items()}
    return replace(pairs, subjects=subjects)


def _read_subject(read: Callable[[], SubjectOutput]) -> SubjectOutput:
    """Read a case. An infarction is as bright as blood: what inspection knows of cines would exclude good cases."""
    output = read()
    return output._replace(stacks=[replace(stack, pool=np.zeros_like(stack.label)) for stack in output.stacks])


def find_pairs(files: Files) -> PairedFiles:
    """The images and labels, and the group of each case by its name."""
    collector = PairCollector()
    subjects: dict[str, SubjectInfo] = {}
    for path, match in find_volumes(files, _NAME):
        folder = path.parent.name.casefold()
        if folder in ("images", "contours"):
            collector.add(match["subject"], "", path, is_label=folder == "contours")
            subjects[match["subject"]] = {"group": _GROUPS.get(match["group"].casefold(), "")}
    return PairedFiles(*collector.pairs(), subjects)
