"""Phantoms: small synthetic short-axis studies, in layouts that the readers know.

They stand in for real data in a first trial and in tests, where their truth is known. Both ventricles contract, the
left one holds papillary muscles; around them lies a thorax, and the frames have coil shading, blur and Rician noise.
Their Dice says nothing about patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monai_iln.datasets.progress import track
from monai_iln.errors import UserError
from monai_iln.extras import require_extra
from monai_iln.files import new_folder
from monai_iln.limits import Limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from monai_iln.datasets.phantom.heart import Heart
    from monai_iln.datasets.phantom.layouts import Layout

__all__ = ["LAYOUTS", "PhantomTruth", "phantom_truth", "write_phantom"]

#: The layouts, and the data that each of them is like.
LAYOUTS = {
    "official": "Sunnybrook: DICOM, text contours, and a table of patients",
    "png": "Sunnybrook's mirror: 8-bit images and masks of the labelled frames",
    "chla": "children's right ventricles: a NIfTI stack each for ED and ES",
    "acdc": "ACDC: NIfTI cines, labelled frames, and Info.cfg",
    "rvsc": "right-ventricle challenge of 2012: DICOM and text contours",
    "mnms": "M&Ms: NIfTI cines, labels of all times, and a table",
}

#: What the numbers of :func:`write_phantom` may be. A heart is made in memory.
LIMITS = {
    "subjects": Limits(1, 99_999),
    "slices": Limits(4, 1_000),
    "phases": Limits(2, 1_000),
    "size": Limits(96, 4_096),
    "seed": Limits(0),
}


@dataclass(frozen=True)
class PhantomTruth:
    """The structures of one phase of one phantom.

    Attributes:
        subject: The subject, as the layout's labels call it.
        phase: ``"ED"`` or ``"ES"``.
        slices: The numbers in the cine, from 1 at the base, of the slices below, in the order of the layout's files.
        masks: An array rows x columns x slices for each of ``endocardium``, ``epicardium``, ``papillary1``,
            ``papillary2``, ``right`` (the right ventricle's cavity) and ``right_outer`` (with its free wall).
    """

    subject: str
    phase: str
    slices: tuple[int, ...]
    masks: dict[str, NDArray[np.bool_]]


def write_phantom(
    output: Path | str,
    *,
    layout: str | Layout = "official",
    subjects: int = 6,
    slices: int = 8,
    phases: int = 10,
    size: int = 192,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write phantoms as a public data set distributes its studies.

    A subject is the same in every layout. For the left ventricle there is Sunnybrook, as ``official`` (contours of
    endocardium at ED and ES and of epicardium at ED, papillary muscles in some subjects) and as ``png``; for the right
    one ``chla``, ``acdc``, ``rvsc`` and ``mnms``.

    Frames are numbered ``(slice - 1) * phases + phase``; in ``png`` as if there were 20 phases, ED the last of them.

    Args:
        output: The folder to make. It must not exist, or be empty. It appears whole or not at all.
        layout: One of :data:`LAYOUTS`, or a :class:`~monai_iln.datasets.phantom.layouts.Layout`.
        subjects: The number of subjects, 1 to 99,999. They cycle through the four pathology groups.
        slices: The number of slices, 4 to 1,000, base to apex. The first and the last lie beyond the left ventricle.
        phases: The number of phases in a cycle, 2 to 1,000. The last is end diastole, at two fifths is end systole.
        size: The number of columns, 96 to 4,096. There are as many rows, or 27 for every 32 columns in ``acdc``,
            ``rvsc`` and ``mnms``.
        seed: The seed of everything that is random, not negative.
        progress: Shows a bar.

    Returns:
        The folder.

    Raises:
        UserError: If ``output`` is in use or cannot be written, there is no such layout, or a number is out of range.

    Example:
        >>> import tempfile
        >>> folder = write_phantom(Path(tempfile.mkdtemp()) / "phantom", subjects=1, slices=4, phases=2, size=96)
        >>> len(list(folder.glob("SCD_IMAGES_01/*/CINESAX_300/*.dcm")))
        8
    """
    form = _find_layout(layout)
    hearts = _make_hearts(form, subjects, slices, phases, size, seed, progress)
    with new_folder(Path(output)) as folder:
        form.write(folder, hearts)
    return Path(output)


def phantom_truth(
    *,
    layout: str | Layout = "official",
    subjects: int = 6,
    slices: int = 8,
    phases: int = 10,
    size: int = 192,
    seed: int = 0,
) -> Iterator[PhantomTruth]:
    """The truth behind :func:`write_phantom`, called with the same arguments: by subject, ED before ES.

    Yields:
        The truth of one phase, of the slices that the layout labels (Sunnybrook, RVSC) or stores (the others).

    Raises:
        UserError: If :func:`write_phantom` would raise it.

    Example:
        >>> ed, es = phantom_truth(subjects=1, slices=6, phases=4, size=96)
        >>> ed.subject, ed.phase, bool(ed.masks["endocardium"].sum() > es.masks["endocardium"].sum())
        ('SC-HF-I-901', 'ED', True)
    """
    form = _find_layout(layout)
    hearts = _make_hearts(form, subjects, slices, phases, size, seed)
    return _truths(form, hearts)


def _truths(layout: Layout, hearts: Iterable[Heart]) -> Iterator[PhantomTruth]:
    for heart in hearts:
        for name, phase in heart.labelled_phases.items():
            slices = layout.slices(heart, phase)
            numbers = tuple(slice_ + 1 for slice_ in slices)
            yield PhantomTruth(layout.name(heart), name, numbers, heart.masks(slices, phase))


def _find_layout(layout: str | Layout) -> Layout:
    require_extra("a phantom", "data", "PIL", "pydicom", "scipy", "tqdm")
    from monai_iln.datasets.phantom.layouts import WRITERS

    if not isinstance(layout, str):
        return layout
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout}: there is no such layout. Choose one of {', '.join(LAYOUTS)}.")
    return WRITERS[layout]


def _make_hearts(
    layout: Layout, subjects: int, slices: int, phases: int, size: int, seed: int, progress: bool = False
) -> Iterator[Heart]:
    """The subjects, each made when it is asked for; numbers out of range are refused before."""
    from monai_iln.datasets.phantom.heart import make_heart

    given = {"subjects": subjects, "slices": slices, "phases": phases, "size": size, "seed": seed}
    for name, number in given.items():
        LIMITS[name].check(name, number)
    rows = size * 27 // 32 if layout.landscape else size
    indices = track(range(subjects), "Phantoms", "subject", progress)
    return (make_heart(index, seed, (rows, size), slices, phases) for index in indices)
