"""Layouts whose labels are outlines: four of Sunnybrook, and the right-ventricle challenge of 2012."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from monai_iln.datasets.phantom.dicom import Study
from monai_iln.datasets.phantom.heart import Heart
from monai_iln.datasets.phantom.image import render

_PNG_PHASES = 20  # of every slice in the mirror's numbering; other cycles are stretched to it

# The data came in three parts, whose contours count backwards.
_PARTS = (("training", "Training", 3), ("validation", "Validation", 2), ("online", "Online", 1))
# The mirror: folder and Sunnybrook part.
_MIRROR = (("Train", "Sunnybrook_Part1"), ("Train", "Sunnybrook_Part2"), ("Test", "Sunnybrook_Part3"))


def late_name(heart: Heart) -> str:
    """A subject's name with a number that no real one has."""
    return f"{heart.group.name}-{901 + heart.index}"


def padded_name(heart: Heart) -> str:
    """As the folders of the contours are named."""
    return f"{heart.group.name}-{1 + heart.index:02d}"


def plain_name(heart: Heart) -> str:
    """As the folders of the images are named."""
    return f"{heart.group.name}-{1 + heart.index}"


def right_name(heart: Heart) -> str:
    """A subject of the right-ventricle challenge."""
    return f"P{1 + heart.index:02d}"


def write_official(folder: Path, hearts: Iterable[Heart]) -> None:
    """As the Cardiac Atlas Project distributes Sunnybrook."""
    rows = []
    for heart in hearts:
        subject, patient = late_name(heart), f"SCD{901 + heart.index:05d}01"
        study = Study(heart, patient)
        images = folder / "SCD_IMAGES_01" / patient
        study.short_axis(_new(images / "CINESAX_300"), "IM-0003-{:04d}.dcm", slices=range(heart.slices), number=300)
        study.other_views(_new(images / "Localizers_1"), "IM-0020-{:04d}.dcm", count=3, number=1)
        _write_expert(folder / "SCD_ManualContours" / subject, heart)
        rows.append((patient, subject, "Male", 60, heart.group.pathology))
    _write_table(
        folder / "scd_patientdata.csv", ("PatientID", "OriginalID", "Gender", "Age", "Pathology"), rows, "-sig"
    )


def write_challenge(folder: Path, hearts: Iterable[Heart]) -> None:
    """As the challenge of 2009 distributed Sunnybrook: series mixed in one folder, numbers padded in half the names."""
    for heart in hearts:
        part, long, number = _PARTS[heart.index % len(_PARTS)]
        images = _new(folder / f"challenge_{part}" / plain_name(heart))
        study = Study(heart, plain_name(heart))
        first = 4 + 20 * heart.index
        # Three series, one UID: views along the heart, the stack, and a repeat of its middle under the same numbers.
        study.other_views(images, f"IM-{first - 1:04d}-{{:04d}}.dcm", count=3, number=1)
        study.short_axis(images, f"IM-{first:04d}-{{:04d}}.dcm", slices=range(heart.slices), number=300)
        middle = heart.slices // 2
        study.short_axis(images, f"IM-{first + 1:04d}-{{:04d}}.dcm", slices=[middle, middle + 1], number=301)
        contours = folder / f"Sunnybrook Cardiac MR Database ContoursPart{number}" / f"{long}DataContours"
        _write_expert(contours / padded_name(heart), heart)


def write_arterys(folder: Path, hearts: Iterable[Heart]) -> None:
    """As a coding exercise passed Sunnybrook on: DICOM files named by number alone, and a table of its own."""
    data = folder / "final_data"
    rows = []
    for heart in hearts:
        subject, patient = plain_name(heart), f"SCD{1 + heart.index:05d}01"
        images = _new(data / "dicoms" / patient)
        Study(heart, patient).short_axis(images, "{}.dcm", slices=range(heart.slices), number=300)
        contours = data / "contourfiles" / subject
        for kind, structure, phases in (("i", "endocardium", ("ED", "ES")), ("o", "epicardium", ("ED",))):
            _write_contours(_new(contours / f"{kind}-contours"), heart, {kind: structure}, phases)
        rows.append((patient, subject))
    _write_table(data / "link.csv", ("patient_id", "original_id"), rows)


def write_png(folder: Path, hearts: Iterable[Heart]) -> None:
    """As the SegNetCMR mirror: labelled frames alone, each scaled to 8 bit by itself, three equal channels."""
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
    """As the right-ventricle challenge of 2012: frames count from 0, end diastole comes first, paths are Windows'."""
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


def _write_expert(folder: Path, heart: Heart) -> None:
    contours = _new(folder / "contours-manual" / "IRCCI-expert")
    _write_contours(contours, heart, {"i": "endocardium"}, ("ED", "ES"))
    others = {"o": "epicardium"}
    if heart.has_papillary_contours:
        others |= {"p1": "papillary1", "p2": "papillary2"}
    _write_contours(contours, heart, others, ("ED",))


def _write_contours(folder: Path, heart: Heart, kinds: dict[str, str], phases: Iterable[str]) -> None:
    """Write the outlines of structures in labelled phases; the files say IM-0001 whatever the images say."""
    for phase in (heart.labelled_phases[name] for name in phases):
        for slice_ in range(heart.slices):
            outlines = heart.contours(slice_, phase)
            for kind, structure in kinds.items():
                if structure in outlines:
                    name = f"IM-0001-{slice_ * heart.phases + phase:04d}-{kind}contour-manual.txt"
                    np.savetxt(folder / name, outlines[structure], fmt="%.2f")


def _write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]], mark: str = "") -> None:
    with path.open("w", newline="", encoding=f"utf-8{mark}") as file:
        csv.writer(file).writerows([header, *rows])


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
