"""The inputs that are read, each in a small copy, and the one way to read it that a user has."""

import csv
import functools
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import phantom_folders
import SimpleITK
from dicom_layouts import LAYOUTS as CINES
from dicom_layouts import random_cine
from phantom_layouts import ALL_LAYOUTS

from monai_iln.datasets import (
    DataWarning,
    check_datalist,
    find_stacks,
    prepare_decathlon,
    prepare_folders,
    prepare_sunnybrook,
)
from monai_iln.datasets.formats.volumes import read_volume
from monai_iln.datasets.phantom import write_phantom
from monai_iln.transforms import LoadStack

SMALL = {"subjects": 3, "slices": 5, "phases": 2, "size": 96}
SHAPE = (9, 7, 5)
HINTS = ("area-jump", "low-contrast", "not-inspected", "same-mask")  # which good data give too: they tell of no damage


class Volume(NamedTuple):
    """A stack that was read: its slices by number, each as image and label, and its affine."""

    subject: str
    slices: dict[int, tuple[bytes, bytes]]
    affine: Any


class Output(NamedTuple):
    """What is read of an input: its stacks by name, and what is told about it."""

    stacks: dict[str, Volume]
    told: set[str]


class Input(NamedTuple):
    """A kind of input.

    Attributes:
        write: Writes it, undamaged, into a folder that does not exist.
        read: Reads a folder. It may make the second one.
        pack: Turns a folder into one that holds it as an archive, or is ``None``.
        alias: The other name that files have for a subject.
        folder: The name of the folder to read.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path, Path], Output]
    pack: Callable[[Path], Any] | None = None
    alias: Callable[[str], str] = str
    folder: str = "data"


def slices_of(image, label, numbers):
    """The slices by number, as bytes that are compared: type and shape are no part of the truth, the values are."""
    arrays = [np.asarray(array, np.float64) for array in (image, label)]
    return {
        number: tuple(array[..., index].tobytes() + str(array.shape[:2]).encode() for array in arrays)
        for index, number in enumerate(numbers)
    }


def items_of(datalist, name):
    """The stacks of a datalist, which passes the check."""
    stacks = {}
    for item in check_datalist(datalist):
        (image, affine), (label, _) = read_volume(item["image"]), read_volume(item["label"])
        numbers = item.get("slices", range(1, image.shape[-1] + 1))
        stacks[name(item)] = Volume(item["subject"], slices_of(image, label, numbers), affine)
    return stacks


def prepare(function, source, output):
    datalist = function(source, output, folds=1)
    with (output / "exclusions.csv").open(encoding="utf-8", newline="") as file:
        told = {" ".join(row.values()) for row in csv.DictReader(file) if row["reason"] not in HINTS}
    return Output(items_of(datalist, lambda item: f"{item['subject']} {item['phase']}"), told)


def check(source, _):
    return Output(items_of(source, lambda item: Path(item["image"]).name), set())


def infer(source, _, **options):
    """The stacks that inference loads. It tells by warnings alone."""
    stacks = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path in find_stacks(source):
            tensor = LoadStack(**options)(path)
            name = Path(path).relative_to(source).as_posix()
            slices = slices_of(tensor[0], np.zeros(tensor[0].shape), range(1, tensor.shape[-1] + 1))
            stacks[name] = Volume(name, slices, tensor.affine.numpy())
    for one in caught:
        if one.category is not DataWarning:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return Output(stacks, {str(one.message) for one in caught})


def write_prepared(folder):
    raw = folder.with_name("raw")
    write_phantom(raw, **SMALL)
    prepare_sunnybrook(raw, folder, folds=2)
    shutil.rmtree(raw)


def write_decathlon(folder):
    phantom_folders.write_decathlon(folder, ["lung_1", "lung_2", "lung_3"])


def write_stacks(folder):
    """One stack in each format, and in those with both packed and plain."""
    folder.mkdir()
    names = ("a.nii.gz", "b.nii", "c.nrrd", "d.nrrd", "e.mha", "f.mha", "g.mhd")
    for number, name in enumerate(names):
        values = np.random.default_rng(number).integers(0, 900, SHAPE).astype(np.int16)
        if ".nii" in name:
            nib.save(nib.Nifti1Image(values, np.diag([1.25, 1.5, 8.0, 1.0])), folder / name)
        else:
            volume = SimpleITK.GetImageFromArray(values.T)
            volume.SetSpacing((1.25, 1.5, 8.0))
            SimpleITK.WriteImage(volume, folder / name, useCompression=name[0] in "df")


def write_dicom(layout, folder):
    CINES[layout](folder, random_cine()[:, :2])


def pack(kind, folder):
    """Replace what a folder holds by one archive of it, links and pipes as what they are."""
    inside = folder.with_name("inside")
    folder.rename(inside)
    folder.mkdir()
    files = {
        path: str(path.relative_to(inside)) for path in inside.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    if kind == "zip":
        with zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for path, name in files.items():
                info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
                info.external_attr = path.lstat().st_mode << 16
                file.writestr(info, path.read_bytes() if path.is_file() else b"target")
    else:
        with tarfile.open(folder / f"data.{kind}", "w:gz" if kind == "tgz" else "w") as file:
            for path, name in files.items():
                file.add(path, name)
    shutil.rmtree(inside)


def patient(subject):
    """The patient in Sunnybrook's table and in the names of its folders."""
    return f"SCD{int(subject.rpartition('-')[2]):05d}01"


def plain(subject):
    """A subject's name as the challenge has it for images, without the zeros."""
    group, _, number = subject.rpartition("-")
    return f"{group}-{int(number)}"


ALIASES = {"official": patient, "arterys": patient, "challenge": plain}
SUNNYBROOK = ("official", "challenge", "arterys", "png")


def _phantom(layout, form):
    function = functools.partial(prepare_folders, label="left-ventricle" if layout == "emidec" else "right-ventricle")
    if layout in SUNNYBROOK:
        function = prepare_sunnybrook
    return Input(
        functools.partial(write_phantom, layout=form, **SMALL),
        functools.partial(prepare, function),
        alias=ALIASES.get(layout, str),
    )


PHANTOMS = {name: _phantom(name, form) for name, form in {**ALL_LAYOUTS, **phantom_folders.LAYOUTS}.items()}
INPUTS = {
    **PHANTOMS,
    **{
        f"{kind} of {name}": PHANTOMS[name]._replace(pack=functools.partial(pack, kind))
        for kind, name in (("zip", "official"), ("tar", "acdc"), ("tgz", "rvsc"), ("zip", "pictures"))
    },
    "decathlon": Input(write_decathlon, functools.partial(prepare, prepare_decathlon)),
    "check": Input(write_prepared, check, folder="prepared"),
    "stacks": Input(write_stacks, infer, folder="stacks"),
    **{
        f"dicom {name}": Input(functools.partial(write_dicom, name), functools.partial(infer, phase=2), folder="stacks")
        for name in CINES
    },
}
