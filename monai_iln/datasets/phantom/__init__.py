"""Phantoms: small synthetic short-axis studies, in every layout that the readers know.

They stand in for real data in a first trial and in tests, where their truth is known. Both ventricles contract, the
left one holds papillary muscles; around them lies a thorax, and the frames have coil shading, blur and Rician noise.
Their Dice says nothing about patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monai_iln.datasets.phantom import contoured, volumes
from monai_iln.datasets.phantom.heart import Heart, make_heart
from monai_iln.errors import UserError
from monai_iln.files import new_folder

__all__ = ["LAYOUTS", "PhantomTruth", "phantom_truth", "write_phantom"]


@dataclass(frozen=True)
class _Layout:
    write: Callable[[Path, Iterable[Heart]], None]
    name: Callable[[Heart], str]
    slices: Callable[[Heart, int], list[int]]  # labelled or stored in a phase, from 0, in the order of the files
    landscape: bool = False  # fewer rows than columns, as scanners store a rectangular field of view


def _with_left(heart: Heart, phase: int) -> list[int]:
    return heart.labelled("endocardium", phase)


def _with_right(heart: Heart, phase: int) -> list[int]:
    return heart.labelled("right", phase)


def _all_slices(heart: Heart, _: int) -> list[int]:
    return list(range(heart.slices))


LAYOUTS = {
    "official": _Layout(contoured.write_official, contoured.late_name, _with_left),
    "challenge": _Layout(contoured.write_challenge, contoured.padded_name, _with_left),
    "arterys": _Layout(contoured.write_arterys, contoured.plain_name, _with_left),
    "png": _Layout(contoured.write_png, contoured.late_name, _with_left),
    "chla": _Layout(volumes.write_chla, volumes.chla_name, volumes.chla_slices),
    "analyze": _Layout(volumes.write_analyze, volumes.chla_name, volumes.chla_slices),
    "acdc": _Layout(volumes.write_acdc, volumes.acdc_name, _all_slices, landscape=True),
    "rvsc": _Layout(contoured.write_rvsc, contoured.right_name, _with_right, landscape=True),
    "mnms": _Layout(volumes.write_mnms, volumes.mnms_name, _all_slices, landscape=True),
}


@dataclass(frozen=True)
class PhantomTruth:
    """What is where in one phase of one phantom.

    Args:
        subject: as the layout's labels call it.
        phase: ``"ED"`` or ``"ES"``.
        slices: numbers in the cine, from 1 at the base, of the slices below, in the order of the layout's files.
        masks: for each of ``endocardium``, ``epicardium``, ``papillary1``, ``papillary2``, ``right`` (the right
            ventricle's cavity) and ``right_outer`` (with its free wall) an array rows x columns x slices.
    """

    subject: str
    phase: str
    slices: tuple[int, ...]
    masks: dict[str, NDArray[np.bool_]]


def write_phantom(
    output: Path | str,
    *,
    layout: str = "official",
    subjects: int = 6,
    slices: int = 8,
    phases: int = 10,
    size: int = 192,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write phantoms as a public data set distributes its studies.

    A subject is the same in every layout. Left ventricle, from Sunnybrook: ``official`` (DICOM, text contours of
    endocardium at ED and ES and of epicardium at ED, papillary muscles in some subjects, patient table), ``challenge``
    (the older folders, several series in each), ``arterys`` (DICOM files named by number alone) and ``png`` (8-bit
    images and masks). Right ventricle: ``chla`` and ``analyze`` (a stack each for ED and ES), ``acdc``, ``rvsc`` and
    ``mnms``.

    Frames are numbered ``(slice - 1) * phases + phase``; in ``png`` as if there were 20 phases, ED the last of them.

    Args:
        output: folder to make; it must not exist, or be empty. It appears whole or not at all.
        layout: one of the above.
        subjects: 1 to 99; they cycle through the four pathology groups.
        slices: at least 4, base to apex; the first and the last lie beyond the left ventricle.
        phases: at least 2 a cycle; the last is end diastole, at two fifths is end systole.
        size: columns, 96 or more; as many rows, or 27 for every 32 columns in ``acdc``, ``rvsc`` and ``mnms``.
        seed: everything follows from it; not negative.
        progress: whether to show a bar.

    Returns:
        ``output``.

    Raises:
        UserError: if ``output`` is in use or cannot be written, there is no such layout, or a number is out of range.

    Example:
        >>> import tempfile
        >>> folder = write_phantom(Path(tempfile.mkdtemp()) / "phantom", subjects=1, slices=4, phases=2, size=96)
        >>> len(list(folder.glob("SCD_IMAGES_01/*/CINESAX_300/*.dcm")))
        8
    """
    hearts = _hearts(layout, subjects, slices, phases, size, seed)
    with new_folder(Path(output)) as folder:
        LAYOUTS[layout].write(folder, tqdm(hearts, desc="Phantoms", unit="subject", disable=not progress))
    return Path(output)


def phantom_truth(
    *, layout: str = "official", subjects: int = 6, slices: int = 8, phases: int = 10, size: int = 192, seed: int = 0
) -> Iterator[PhantomTruth]:
    """What :func:`write_phantom` labels if called with the same arguments: by subject, ED before ES.

    Yields:
        The truth of one phase, of the slices that the layout labels (Sunnybrook, RVSC) or stores (the others).

    Raises:
        UserError: as :func:`write_phantom` does.

    Example:
        >>> ed, es = phantom_truth(subjects=1, slices=6, phases=4, size=96)
        >>> ed.subject, ed.phase, bool(ed.masks["endocardium"].sum() > es.masks["endocardium"].sum())
        ('SC-HF-I-901', 'ED', True)
    """
    hearts = _hearts(layout, subjects, slices, phases, size, seed)
    form = LAYOUTS[layout]
    stored = (
        (heart, name, phase, form.slices(heart, phase))
        for heart in hearts
        for name, phase in heart.labelled_phases.items()
    )
    return (
        PhantomTruth(form.name(heart), name, tuple(number + 1 for number in numbers), heart.masks(numbers, phase))
        for heart, name, phase, numbers in stored
    )


def _hearts(layout: str, subjects: int, slices: int, phases: int, size: int, seed: int) -> list[Heart]:
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout}: there is no such layout. Choose one of {', '.join(LAYOUTS)}.")
    if not (1 <= subjects <= 99 and slices >= 4 and phases >= 2 and size >= 96 and seed >= 0):
        raise UserError(
            f"phantom of {subjects} subjects, {slices} slices, {phases} phases, size {size}, seed {seed}: there must "
            "be 1 to 99 subjects, at least 4 slices, at least 2 phases, a size of at least 96 and "
            "no negative seed. Choose numbers in these ranges."
        )
    shape = (size * 27 // 32 if LAYOUTS[layout].landscape else size, size)
    return [make_heart(index, seed, shape, slices, phases) for index in range(subjects)]
