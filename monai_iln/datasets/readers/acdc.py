"""ACDC: a cine of each patient and two labelled frames beside it, in NIfTI.

``patient001/Info.cfg`` names the frames at ED and ES. ``patient001_frame01.nii.gz`` and
``patient001_frame01_gt.nii.gz`` are image and label of one.
"""

from __future__ import annotations

import re

from monai_iln.datasets.readers.matching import Files, PairCollector, PairedFiles, find_volumes
from monai_iln.datasets.readers.plan import Plan
from monai_iln.datasets.readers.structures import Label, find_structures
from monai_iln.datasets.readers.tables import INFO_NAME, SubjectInfo, read_info
from monai_iln.datasets.readers.volumes import plan_pairs
from monai_iln.datasets.stacks import Finding

#: The values of the label files.
VALUES = {"right-ventricle": (1,), "myocardium": (2,), "left-ventricle": (3,)}
_NAME = re.compile(r"(?P<subject>.+)_frame(?P<frame>\d+)(?P<gt>_gt)?", re.IGNORECASE)


def holds(files: Files) -> bool:
    """Whether there is an ``Info.cfg`` and a volume that is named as here."""
    return any(path.name.casefold() == INFO_NAME for path in files) and any(find_volumes(files, _NAME))


def plan(files: Files, label: Label) -> Plan:
    """Plan to read the labelled frames, see :func:`~monai_iln.datasets.readers.folders.read_folders`."""
    return plan_pairs(find_pairs(files), find_structures(label, VALUES))


def find_pairs(files: Files) -> PairedFiles:
    """The images and labels at ED and at ES, by what ``Info.cfg`` says of the patient."""
    info_files = {path.parent: path for path in files if path.name.casefold() == INFO_NAME}
    collector = PairCollector()
    subjects: dict[str, SubjectInfo] = {}
    findings = []
    for path, match in find_volumes(files, _NAME):
        subject, frame = match["subject"], int(match["frame"])
        if subject not in subjects:
            # Some copies hold every file in a folder that is named like it.
            near = [info_files[folder] for folder in list(path.parents)[:2] if folder in info_files]
            info_file = [*near, path.parent / "Info.cfg"][0]
            subjects[subject] = read_info(info_file)
            if not subjects[subject]:
                detail = "must be a text file that names two different frames as ED and ES"
                findings.append(Finding("unreadable", subject, "", None, str(info_file), detail))
        if not subjects[subject]:
            continue
        phases = {int(subjects[subject][phase]): phase.upper() for phase in ("ed", "es")}
        if frame in phases:
            collector.add(subject, phases[frame], path, is_label=bool(match["gt"]))
        else:
            detail = f"frame {frame}, but {' and '.join(f'{phase} is {time}' for time, phase in phases.items())}"
            findings.append(Finding("third-phase", subject, "", None, str(path), detail))
    pairs, without_partner = collector.pairs()
    return PairedFiles(pairs, findings + without_partner, subjects)
