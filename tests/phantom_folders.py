"""Phantoms in layouts of folders that only tests need, with the faults that these layouts are known for."""

import json
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_iln.datasets.phantom.heart import Heart
from monai_iln.datasets.phantom.image import render
from monai_iln.datasets.phantom.layouts import Layout, all_slices
from monai_iln.datasets.phantom.volumes import columns_first, mnms_name

RIGHT, MUSCLE, LEFT = 1, 2, 3  # as nnU-Net's data set 27 has them
VOLUME = (9, 12, 8)  # no axis is that of slices


def emidec_name(heart: Heart) -> str:
    """Every third case is normal."""
    return f"Case_{'PPN'[heart.index % 3]}{1 + heart.index:03d}"


def infarction(muscle: NDArray[np.bool_], cavity: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of the wall in the upper left of the cavity, slice by slice."""
    rows, columns = np.indices(muscle.shape[:2])
    infarct = np.zeros_like(muscle)
    for index in range(muscle.shape[2]):
        places = np.argwhere(cavity[..., index])
        if len(places):
            row, column = places.mean(axis=0)
            infarct[..., index] = muscle[..., index] & ((rows < row) & (columns < column))[..., None].any(axis=-1)
    return infarct


def write_emidec(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write late enhancement: image and label in folders of their own, a text with a space in its name beside."""
    for heart in hearts:
        case = emidec_name(heart)
        (folder / f"{case.replace('_', ' ')}.txt").write_text("Sex: F\nAge: 61\n", encoding="ascii")
        image, masks = _stack(heart, "ED"), heart.masks(all_slices(heart, 0), heart.phases)
        muscle = masks["epicardium"] & ~masks["endocardium"]
        label = (masks["endocardium"] + 2 * muscle).astype(np.uint8)
        if "P" in case:
            infarct = infarction(muscle, masks["endocardium"])
            image[infarct] = np.median(image[masks["endocardium"]])
            label[infarct] = 3
            first = np.argmax(infarct.any(axis=(0, 1)))
            label[..., first][infarct[..., first]] = 4
        for name, array in (("Images", image), ("Contours", label)):
            _save_with_unit_steps(folder / case / name / f"{case}.nii.gz", array, heart)


def write_nnunet(folder: Path, hearts: Iterable[Heart], *, frames: bool = False) -> None:
    """Write nnU-Net's raw data. Its images come from ACDC and other sets, and have their headers.

    Args:
        folder: The folder to write into.
        hearts: The subjects.
        frames: Names phases by their frames, as ACDC does.
    """
    for heart in hearts:
        for phase, index in heart.labelled_phases.items():
            masks = heart.masks(all_slices(heart, index), index)
            label = np.zeros(masks["right"].shape, np.uint8)
            label[masks["right"]] = RIGHT
            label[masks["epicardium"]] = MUSCLE
            label[masks["endocardium"]] = LEFT
            case = f"{mnms_name(heart)}_{phase}"
            if frames:
                case = f"patient{1 + heart.index:03d}_frame{1 + index % heart.phases:02d}"
            _save_with_unit_steps(folder / "imagesTr" / f"{case}_0000.nii.gz", _stack(heart, phase), heart)
            _save_with_unit_steps(folder / "labelsTr" / f"{case}.nii.gz", label, heart)
        _save_with_unit_steps(folder / "imagesTs" / f"unknown{heart.index}_0000.nii.gz", _stack(heart, "ED"), heart)
    document = {
        "channel_names": {"0": "cineMRI"},
        "labels": {"background": 0, "RV": RIGHT, "MLV": MUSCLE, "LVC": LEFT},
        "numTraining": len(list(folder.glob("labelsTr/*"))),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(document), encoding="utf-8")


def write_decathlon(folder: Path, names: list[str], **changes: object) -> Path:
    """Write a decathlon list: ``./`` before every path, labels by value, files of macOS beside, an unlabelled test.

    Args:
        folder: The folder to make.
        names: The names of the volumes, which are noise with two structures.
        changes: What is different in ``dataset.json``.
    """
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        image, label = rng.normal(size=VOLUME).astype(np.float32), rng.integers(0, 3, VOLUME).astype(np.uint8)
        for kind, array in (("imagesTr", image), ("labelsTr", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"{name}.nii.gz")
            (folder / kind / f"._{name}.nii.gz").write_bytes(b"\0\5\x16\7")
    document = {
        "name": "LUNG",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "lung", "2": "cancer"},
        "numTraining": len(names),
        "numTest": 1,
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
        "test": ["./imagesTs/lung_003.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(document | changes), encoding="utf-8")
    return folder


def pictures_name(heart: Heart) -> str:
    """A subject whose folder has a space in its name."""
    return f"case {1 + heart.index}"


def write_pictures(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write folders of slices. Numbers are not padded, images are 8 bit in three channels or grey, masks 0 and 255."""
    for heart in hearts:
        for phase, index in heart.labelled_phases.items():
            home = folder / pictures_name(heart) / phase
            image, mask = _stack(heart, phase), heart.masks(all_slices(heart, 0), index)["right"]
            scaled = np.round(255.0 * image / image.max()).astype(np.uint8)
            for name in ("images", "masks"):
                (home / name).mkdir(parents=True)
            for place in range(heart.slices):
                file = f"slice{7 + place}.png"  # 10 comes after 9
                picture = Image.fromarray(scaled[..., place])
                picture.convert(("L", "RGB")[heart.index % 2]).save(home / "images" / file)
                Image.fromarray((255 * mask[..., place]).astype(np.uint8)).save(home / "masks" / file)


def _stack(heart: Heart, phase: str) -> NDArray[np.int16]:
    """The image of a phase, rows x columns x slices."""
    index = heart.labelled_phases[phase]
    return np.stack([render(heart, slice_, [index])[index] for slice_ in range(heart.slices)], axis=-1)


def _save_with_unit_steps(path: Path, array: NDArray[np.generic], heart: Heart) -> None:
    """Write NIfTI as ACDC and EMIDEC do: the sform has unit steps, the qform is not set, pixdim holds the sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(columns_first(array), np.diag([-1.0, -1.0, 1.0, 1.0]))
    volume.header.set_sform(volume.affine, code=2)
    volume.header.set_qform(None, code=0)
    volume.header["pixdim"][1:4] = heart.pixel, heart.pixel, heart.step
    nib.save(volume, path)


LAYOUTS = {
    "emidec": Layout(write_emidec, emidec_name, all_slices),
    "nnunet": Layout(write_nnunet, mnms_name, all_slices, landscape=True),
    "pictures": Layout(write_pictures, pictures_name, all_slices, landscape=True),
}
