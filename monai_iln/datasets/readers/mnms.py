"""M&Ms and M&Ms-2: short-axis cines of several vendors, in NIfTI.

M&Ms has ``A0S9V9_sa.nii.gz`` and ``A0S9V9_sa_gt.nii.gz`` with all times, and a table that names those at ED and ES.
M&Ms-2 has a file for each: ``001_SA_ED.nii.gz``, ``001_SA_ED_gt.nii.gz``.
"""

from __future__ import annotations

import re

from monai_iln.datasets.readers.matching import Files, PairCollector, PairedFiles, find_volumes
from monai_iln.datasets.readers.plan import Plan
from monai_iln.datasets.readers.structures import Label, find_structures
from monai_iln.datasets.readers.volumes import plan_pairs

#: The values of the label files.
VALUES = {"left-ventricle": (1,), "myocardium": (2,), "right-ventricle": (3,)}
_NAME = re.compile(r"(?P<subject>.+)_sa(?:_(?P<phase>ed|es))?(?P<gt>_gt)?", re.IGNORECASE)


def holds(files: Files) -> bool:
    """Whether there is a label that is named as here."""
    return any(match["gt"] for _, match in find_volumes(files, _NAME))


def plan(files: Files, label: Label) -> Plan:
    """Plan to read the labelled frames, see :func:`~monai_iln.datasets.readers.folders.read_folders`."""
    return plan_pairs(find_pairs(files), find_structures(label, VALUES))


def find_pairs(files: Files) -> PairedFiles:
    """The images and labels, and what the table says about the subjects."""
    collector = PairCollector()
    for path, match in find_volumes(files, _NAME):
        collector.add(match["subject"], (match["phase"] or "").upper(), path, is_label=bool(match["gt"]))
    return collector.with_tables(files)
