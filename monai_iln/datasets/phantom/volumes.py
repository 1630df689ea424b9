"""Layouts whose labels are volumes: right-ventricle sets in NIfTI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from string import ascii_uppercase

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.phantom.heart import Heart
from monai_iln.datasets.phantom.image import render
from monai_iln.files import write_csv

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ACDC = {"right": 1, "myocardium": 2, "left": 3}
_MNMS = {"left": 1, "myocardium": 2, "right": 3}
_CODE_SHAPE = (26, 10, 26, 10)  # letters and digits before the P of a name in M&Ms
_CODES = 26 * 10 * 26 * 10
_CODE_STEP = 7919
_MOST_TURNS = 10_000  # subjects whose names end on the same digit
_MNMS_TABLE = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"


def chla_name(heart: Heart) -> str:
    """A subject of the children's set."""
    return f"subject{1 + heart.index:02d}"


def acdc_name(heart: Heart) -> str:
    """A subject of ACDC."""
    return f"patient{1 + heart.index:03d}"


def mnms_name(heart: Heart) -> str:
    """A code as random as the real ones, without any of theirs: those never end on P and a digit."""
    turn, digit = divmod(heart.index, 10)
    codes = _first_codes(heart.seed, digit)
    if turn < len(codes):
        code = codes[turn]
    else:  # a step that shares no divisor with the number of codes comes to all of them before it repeats one
        steps = (number * _CODE_STEP % _CODES for number in range(turn, _CODES, _MOST_TURNS))
        code = next(code for code in steps if code not in codes)
    letter, number, other_letter, other_number = np.unravel_index(code, _CODE_SHAPE)
    return f"{ascii_uppercase[letter]}{number}{ascii_uppercase[other_letter]}{other_number}P{digit}"


@lru_cache
def _first_codes(seed: int, digit: int) -> tuple[int, ...]:
    """What comes before the P for those of the first hundred subjects that have a digit: drawn, and never twice."""
    codes: list[int] = []
    for index in range(digit, 100, 10):
        drawn = np.random.default_rng([seed, index, 5]).integers(0, _CODE_SHAPE)
        code = int(np.ravel_multi_index(tuple(drawn), _CODE_SHAPE))
        while code in codes:
            code = (code + 1) % _CODES
        codes.append(code)
    return tuple(codes)


def chla_slices(heart: Heart, phase: int) -> list[int]:
    """The slices that the children's set stores of a phase: those with a right ventricle, apex first.

    Of every fifth subject, the stack at end diastole begins one slice too far, with an empty mask.
    """
    slices = heart.labelled("right", phase)[::-1]
    if heart.index % 5 == 3 and phase == heart.phases:
        slices.insert(0, slices[0] + 1)
    return slices


def write_chla(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write the converted set of children with congenital heart disease: 8 bit, an affine that is nominal."""
    rows: list[tuple[object, ...]] = []
    for heart in hearts:
        spacing = (heart.pixel, heart.pixel, heart.step)
        home = folder / chla_name(heart)
        home.mkdir()
        for name, image, mask in children(heart):
            for suffix, array in (("", image), ("_rv", mask)):
                volume = nib.Nifti1Image(columns_first(array), np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
                volume.header.set_xyzt_units("mm")
                nib.save(volume, home / f"{chla_name(heart)}_{name}{suffix}.nii.gz")
            disease, split = heart.group.pathology, ("train", "test")[heart.index % 2]
            used = int(mask.any(axis=(0, 1)).sum())
            rows.append((1 + heart.index, name, disease, split, mask.shape[2], used, *spacing, int(mask.sum())))
    header = ("subject", "phase", "disease", "split", "slices", "rv_slices", "dx", "dy", "dz", "rv_px")
    write_csv(folder / "index.csv", header, rows)


def write_acdc(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write ACDC: a cine that begins at end diastole, the two labelled frames beside, Info.cfg says which.

    As in the real files, the sform knows neither sizes nor directions, and the labels' sizes are rounded.
    """
    for heart in hearts:
        subject = acdc_name(heart)
        home = folder / subject
        home.mkdir()
        cine = _cine(heart)
        _save_without_sform(home / f"{subject}_4d.nii.gz", cine, heart)
        frames = _frame_indices(heart)
        for name, index in frames.items():
            stem = f"{subject}_frame{1 + index:02d}"
            _save_without_sform(home / f"{stem}.nii.gz", cine[..., index], heart)
            _save_without_sform(home / f"{stem}_gt.nii.gz", _labels(heart, name, _ACDC), heart, digits=3)
        info = {"ED": 1 + frames["ED"], "ES": 1 + frames["ES"], "Group": heart.group.short}
        info |= {"Height": 170.0, "NbFrame": heart.phases, "Weight": 70.0}
        (home / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in info.items()), encoding="ascii")


def write_mnms(folder: Path, hearts: Iterable[Heart]) -> None:
    """Write M&Ms: cine and labels of equal shape, labels empty but at the two frames that the table names, from 0."""
    rows: list[tuple[object, ...]] = []
    for heart in hearts:
        subject = mnms_name(heart)
        home = folder / "Training" / "Labeled" / subject
        home.mkdir(parents=True)
        cine, frames = _cine(heart), _frame_indices(heart)
        labels = np.zeros(cine.shape, np.uint8)
        for name, index in frames.items():
            labels[..., index] = _labels(heart, name, _MNMS)
        _save(home / f"{subject}_sa.nii.gz", cine, heart)
        _save(home / f"{subject}_sa_gt.nii.gz", labels, heart)
        vendor = (("Siemens", "A"), ("Philips", "B"), ("GE", "C"), ("Canon", "D"))[heart.index % 4]
        row = (heart.index, subject, *vendor, 1 + heart.index % 5, frames["ED"], frames["ES"], 60, heart.group.short)
        rows.append((*row, "M", 170.0, 70.0))
    header = ("", "External code", "VendorName", "Vendor", "Centre", "ED", "ES", "Age", "Pathology", "Sex")
    write_csv(folder / _MNMS_TABLE, (*header, "Height", "Weight"), rows)


def children(heart: Heart) -> Iterable[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """The 8-bit stack and the right ventricle's mask of each phase."""
    for name, phase in heart.labelled_phases.items():
        slices = chla_slices(heart, phase)
        frames = np.stack([render(heart, slice_, [phase])[phase] for slice_ in slices], axis=-1)
        image = np.round(255.0 * frames / frames.max()).astype(np.uint8)
        yield name, image, heart.masks(slices, phase)["right"].astype(np.uint8)


def _frame_indices(heart: Heart) -> dict[str, int]:
    """Places, from 0, of the labelled phases in a cine that begins at end diastole."""
    return {name: phase % heart.phases for name, phase in heart.labelled_phases.items()}


def _cine(heart: Heart) -> NDArray[np.int16]:
    """Rows x columns x slices x phases, from end diastole on."""
    phases = [phase or heart.phases for phase in range(heart.phases)]
    stacks = []
    for slice_ in range(heart.slices):
        frames = render(heart, slice_, phases)
        stacks.append(np.stack([frames[phase] for phase in phases], axis=-1))
    return np.stack(stacks, axis=2)


def _labels(heart: Heart, name: str, values: Mapping[str, int]) -> NDArray[np.uint8]:
    """One phase's label volume, rows x columns x slices. Papillary muscles count as cavity."""
    masks = heart.masks(list(range(heart.slices)), heart.labelled_phases[name])
    labels = np.zeros(masks["right"].shape, np.uint8)
    labels[masks["right"]] = values["right"]
    labels[masks["epicardium"]] = values["myocardium"]
    labels[masks["endocardium"]] = values["left"]
    return labels


def _save(path: Path, array: NDArray[np.generic], heart: Heart) -> None:
    """Write rows x columns x slices (x phases) as NIfTI, columns first, where it lies in the patient."""
    affine = np.eye(4)
    affine[:3, :3] = heart.axes.T * [heart.pixel, heart.pixel, heart.step]
    affine[:3, 3] = heart.origin
    volume = nib.Nifti1Image(columns_first(array), _LPS_TO_RAS @ affine)
    volume.header.set_xyzt_units("mm", "sec")
    if array.ndim == 4:
        volume.header["pixdim"][4] = 0.8 / heart.phases
    nib.save(volume, path)


def _save_without_sform(path: Path, array: NDArray[np.generic], heart: Heart, digits: int = 7) -> None:
    """Write rows x columns x slices (x phases) as NIfTI, columns first, with sizes in pixdim alone."""
    volume = nib.Nifti1Image(columns_first(array), None)
    header = volume.header
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][1:4] = np.round([heart.pixel, heart.pixel, heart.step], digits)
    header["quatern_d"] = 1  # a turn that is not valid, for its code is 0
    header["qform_code"], header["sform_code"] = 0, 2
    header["srow_x"], header["srow_y"], header["srow_z"] = [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]
    if array.ndim == 4:
        header["pixdim"][4] = 0.8 / heart.phases
    nib.save(volume, path)


def columns_first(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Rows x columns as NIfTI stores them."""
    return np.ascontiguousarray(np.swapaxes(array, 0, 1))
