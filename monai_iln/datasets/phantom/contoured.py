"""Layouts whose labels are outlines: two of Sunnybrook, and the right-ventricle challenge of 2012."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from monai_iln.datasets.phantom.dicom import Study
from monai_iln.datasets.phantom.heart import Heart
from monai_iln.datasets.phantom.image import render
from monai_iln.files import write_csv

_PNG_PHASES = 20  # of every slice in the mirror's numbering; other cycles are stretched to it

# The mirror: folder and Sunnybrook part.
_MIRROR = (("Train", "Sunnybrook_Part1"), ("Train", "Sunnybrook_Part2"), ("Test", "Sunnybrook_Part3"))


def late_name(heart: Heart) -> str:
    """A subject's name with a number that no real one has."""
    return f"{heart.group.name}-{901 + heart.index}"


def right_name(heart: Heart) -> str:
    """A subject of the right-ventricle challenge."""
    return f"P{1 + heart.index:02d}"


def write_official(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write Sunnybrook as the Cardiac Atlas Project distributes it."""
    rows = []
    for heart in hearts:
        subject, patient = late_name(heart), f"SCD{901 + heart.index:05d}01"
        study = Study(heart, patient)
        images = folder / "SCD_IMAGES_01" / patient
        study.short_axis(_new(images / "CINESAX_300"), "IM-0003-{:04d}.dcm", slices=range(heart.slices), number=300)
        study.other_views(_new(images / "Localizers_1"), "IM-0020-{:04d}.dcm", count=3, number=1)
        write_expert_contours(folder / "SCD_ManualContours" / subject, heart)
        rows.append((patient, subject, "Male", 60, heart.group.pathology))
    columns = ("\ufeffPatientID", "OriginalID", "Gender", "Age", "Pathology")  # with the mark that Excel leaves
    write_csv(folder / "scd_patientdata.csv", columns, rows)


def write_png(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write Sunnybrook as the SegNetCMR mirror: labelled frames alone, each scaled to 8 bit, three equal channels."""
    for heart in hearts:
        half, part = _MIRROR[heart.index % len(_MIRROR)]
        images, labels = (_new(folder / "Data" / half / kind / part) for kind in ("Images", "Labels"))
        for phase in heart.labelled_phases.values():
            slices = heart.labelled("endocardium", phase)
            masks = heart.masks(slices, phase)["endocardium"]
            for place, slice_ in enumerate(slices):
                frame = render(heart, slice_, [phase])[phase].astype(np.float64)
                grey = np.round(255 * (frame - frame.min()) / np.ptp(frame))
                number = slice_ * _PNG_PHASES + round(phase * _PNG_PHASES / heart.phases)
                name = f"{late_name(heart)}-IM-0001-{number:04d}.dcm.png"
                for target, pixels in ((images, grey), (labels, 255 * masks[..., place])):
                    Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(target / name)


def write_rvsc(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write the right-ventricle challenge of 2012: frames count from 0, end diastole first, paths are Windows'."""
    for heart in hearts:
        short, home = right_name(heart), folder / f"patient{1 + heart.index:02d}"
        images = _new(home / f"{short}dicom")
        study = Study(heart, short)
        study.short_axis(images, f"{short}-{{:04d}}.dcm", slices=range(heart.slices), number=1, first=0)
        contours = _new(home / f"{short}contours-manual")
        names = []
        for phase in (0, heart.labelled_phases["ES"]):
            for slice_ in heart.labelled("right", phase or heart.phases):
                points = heart.contours(slice_, phase or heart.phases)
                for kind, structure in (("i", "right"), ("o", "right_outer")):
                    name = f"{short}-{slice_ * heart.phases + phase:04d}-{kind}contour-manual.txt"
                    np.savetxt(contours / name, points[structure], fmt="%.2f")
                    names.append(name)
        lines = [f".\\{home.name}\\{contours.name}\\{name}\r\n" for name in sorted(names)]
        (home / f"{short}list.txt").write_bytes("".join(lines).encode("ascii"))


def write_expert_contours(folder: Path, heart: Heart) -> None:
    """Write what Sunnybrook's experts outlined in a subject."""
    contours = _new(folder / "contours-manual" / "IRCCI-expert")
    write_contours(contours, heart, {"i": "endocardium"}, ("ED", "ES"))
    others = {"o": "epicardium"}
    if heart.has_papillary_contours:
        others |= {"p1": "papillary1", "p2": "papillary2"}
    write_contours(contours, heart, others, ("ED",))


def write_contours(folder: Path, heart: Heart, kinds: Mapping[str, str], phases: Iterable[str]) -> None:
    """Write the outlines of structures in labelled phases. The files say IM-0001 whatever the images say.

    Args:
        folder: The folder to write into.
        heart: The subject.
        kinds: The structure that each kind of contour outlines.
        phases: The names of the phases.
    """
    for phase in (heart.labelled_phases[name] for name in phases):
        for slice_ in range(heart.slices):
            outlines = heart.contours(slice_, phase)
            for kind, structure in kinds.items():
                if structure in outlines:
                    name = f"IM-0001-{slice_ * heart.phases + phase:04d}-{kind}contour-manual.txt"
                    np.savetxt(folder / name, outlines[structure], fmt="%.2f")


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
