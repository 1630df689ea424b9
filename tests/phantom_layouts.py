"""Phantoms in layouts that only tests need: two older copies of Sunnybrook, Analyze files, NRRD and MetaImage."""

from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import SimpleITK

from monai_iln.datasets.phantom.contoured import write_contours, write_expert_contours
from monai_iln.datasets.phantom.dicom import Study
from monai_iln.datasets.phantom.heart import Heart
from monai_iln.datasets.phantom.layouts import WRITERS, Layout, with_left
from monai_iln.datasets.phantom.volumes import children, chla_name, chla_slices, columns_first
from monai_iln.files import write_csv

# The data came in three parts, whose contours count backwards.
PARTS = (("training", "Training", 3), ("validation", "Validation", 2), ("online", "Online", 1))
#: The structures, made of the masks of a phantom.
TRUTH = {
    "right-ventricle": lambda masks: masks["right"] & ~masks["epicardium"],
    "left-ventricle": lambda masks: masks["endocardium"],
    "myocardium": lambda masks: masks["epicardium"] & ~masks["endocardium"],
}


def padded_name(heart: Heart) -> str:
    """As the folders of the contours are named."""
    return f"{heart.group.name}-{1 + heart.index:02d}"


def plain_name(heart: Heart) -> str:
    """As the folders of the images are named."""
    return f"{heart.group.name}-{1 + heart.index}"


def write_challenge(folder: Path, hearts: Iterable[Heart]) -> None:
    """As the challenge of 2009 distributed Sunnybrook: series mixed in one folder, numbers padded in half the names."""
    for heart in hearts:
        part, long, number = PARTS[heart.index % len(PARTS)]
        images = folder / f"challenge_{part}" / plain_name(heart)
        images.mkdir(parents=True)
        study = Study(heart, plain_name(heart))
        first = 4 + 20 * heart.index
        # Three series, one UID: views along the heart, the stack, and a repeat of its middle under the same numbers.
        study.other_views(images, f"IM-{first - 1:04d}-{{:04d}}.dcm", count=3, number=1)
        study.short_axis(images, f"IM-{first:04d}-{{:04d}}.dcm", slices=range(heart.slices), number=300)
        middle = heart.slices // 2
        study.short_axis(images, f"IM-{first + 1:04d}-{{:04d}}.dcm", slices=[middle, middle + 1], number=301)
        contours = folder / f"Sunnybrook Cardiac MR Database ContoursPart{number}" / f"{long}DataContours"
        write_expert_contours(contours / padded_name(heart), heart)


def write_arterys(folder: Path, hearts: Iterable[Heart]) -> None:
    """As a coding exercise passed Sunnybrook on: DICOM files named by number alone, and a table of its own."""
    data = folder / "final_data"
    rows = []
    for heart in hearts:
        subject, patient = plain_name(heart), f"SCD{1 + heart.index:05d}01"
        images = data / "dicoms" / patient
        images.mkdir(parents=True)
        Study(heart, patient).short_axis(images, "{}.dcm", slices=range(heart.slices), number=300)
        for kind, structure, phases in (("i", "endocardium", ("ED", "ES")), ("o", "epicardium", ("ED",))):
            contours = data / "contourfiles" / subject / f"{kind}-contours"
            contours.mkdir(parents=True)
            write_contours(contours, heart, {kind: structure}, phases)
        rows.append((patient, subject))
    write_csv(data / "link.csv", ("patient_id", "original_id"), rows)


def write_analyze(folder: Path, hearts: Iterable[Heart]) -> None:
    """The arrays of ``chla`` as Analyze 7.5 pairs, which hold sizes and no orientation."""
    for heart in hearts:
        home = folder / chla_name(heart)
        home.mkdir()
        for name, image, mask in children(heart):
            for suffix, array in (("", image), ("_rv", mask)):
                volume = nib.AnalyzeImage(columns_first(array), None)
                volume.header.set_zooms((heart.pixel, heart.pixel, heart.step))
                nib.save(volume, home / f"{chla_name(heart)}_{name}{suffix}.img")


def write_slicer(folder: Path, hearts: Iterable[Heart]) -> None:
    """The arrays of ``chla`` as 3D Slicer and ITK write them: images in NRRD, labels in MetaImage, in LPS."""
    for heart in hearts:
        home = folder / chla_name(heart)
        home.mkdir()
        for name, image, mask in children(heart):
            for suffix, array in ((".nrrd", image), ("_rv.mha", mask)):
                volume = SimpleITK.GetImageFromArray(columns_first(array).T)
                volume.SetSpacing((heart.pixel, heart.pixel, heart.step))
                SimpleITK.WriteImage(volume, home / f"{chla_name(heart)}_{name}{suffix}", useCompression=True)


ALL_LAYOUTS = {
    **WRITERS,
    "challenge": Layout(write_challenge, padded_name, with_left),
    "arterys": Layout(write_arterys, plain_name, with_left),
    "analyze": Layout(write_analyze, chla_name, chla_slices),
    "slicer": Layout(write_slicer, chla_name, chla_slices),
}
