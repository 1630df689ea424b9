"""Sunnybrook Cardiac Data: short-axis cine MRI of 45 subjects with contours of the left ventricle at ED and ES.

Two layouts are read. *official*: DICOM folders, text contours and the patient table as the Cardiac Atlas Project
distributes them. *png*: the SegNetCMR mirror, 8-bit images and masks of the labelled frames alone.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from monai_iln.datasets.contours import rasterize, read_contour
from monai_iln.datasets.datalist import DataWarning, Stack
from monai_iln.datasets.dicom import Frame, find_series, read_pixels, split_slices, stack_affine, uneven_steps
from monai_iln.errors import UserError

LAYOUTS = ("official", "png")
_PNG_NAME = re.compile(r"(?P<subject>.+)-IM-\d+-(?P<instance>\d+)\.dcm\.png")
_CONTOUR_NAME = re.compile(r"IM-\d+-(?P<instance>\d+)-icontour-manual\.txt")
_PNG_PHASES = 20  # the mirror keeps the numbering of the cine series, 20 phases a slice, without their headers


def read_sunnybrook(source: Path | str, layout: str | None = None, progress: bool = False) -> list[Stack]:
    """Read every labelled frame, one stack for each subject and phase.

    Args:
        source: the folder with ``SCD_IMAGES_*``, ``SCD_ManualContours`` and ``scd_patientdata.csv`` (official), or with
            the mirror's ``Images`` and ``Labels`` folders somewhere below (png).
        layout: ``"official"`` or ``"png"``; ``None`` finds out.
        progress: whether to show a bar.

    Returns:
        Stacks by subject, ED before ES, slices in the order of the series (base to apex). Of the two labelled phases
        ED is the one with the larger cavity. The mirror does not know sizes: its affine is the identity.

    Raises:
        UserError: if the folder is missing or has neither layout or both, or a file is damaged or inconsistent.

    Warns:
        DataWarning: for every subject left out because it has images or contours only.
    """
    source = Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder. Give the folder that holds the Sunnybrook data.")
    found = [name for name in LAYOUTS if _MARKS[name](source)]
    if layout is None and len(found) > 1:
        raise UserError(f"{source}: holds the layouts {' and '.join(found)}. Choose one with --layout.")
    if not found or layout not in (None, *found):
        entries = ", ".join(sorted(entry.name for entry in source.iterdir())[:5]) or "nothing"
        wanted = (
            "one of the layouts" if layout is None else f"the layout {layout}, only {' and '.join(found) or 'none'}"
        )
        raise UserError(
            f"{source}: not {wanted}; it holds {entries}. Sunnybrook data are either SCD_IMAGES_*, SCD_ManualContours "
            "and scd_patientdata.csv (official) or Images and Labels with names like SC-N-02-IM-0001-0020.dcm.png "
            "(png). Give the folder above those."
        )
    return _READERS[layout or found[0]](source, progress)


def _read_png(source: Path, progress: bool) -> list[Stack]:
    frames: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(source.rglob("*.dcm.png")):
        match = _PNG_NAME.fullmatch(path.name)
        if match is None or not _is_image(path):
            continue
        subject, instance = match["subject"], int(match["instance"])
        if instance in frames[subject]:
            raise UserError(
                f"{path}: the same frame as {frames[subject][instance]}. A frame must be there once: remove one copy."
            )
        frames[subject][instance] = path
    stacks = []
    for subject, images in tqdm(sorted(frames.items()), desc="Sunnybrook", unit="subject", disable=not progress):
        places = {instance: divmod(instance - 1, _PNG_PHASES) for instance in images}
        pixels = {instance: _read_grey(path) for instance, path in images.items()}
        masks = {instance: _read_mask(path) for instance, path in images.items()}
        stacks += _make_stacks(subject, places, pixels, masks, lambda _: np.eye(4))
    return stacks


def _is_image(path: Path) -> bool:
    """Whether a file of the mirror is an image, not a mask: the nearest of the two folder names tells."""
    return next((part for part in reversed(path.parts) if part in ("Images", "Labels")), None) == "Images"


def _read_grey(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), dtype=np.uint8)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:  # PIL calls a broken PNG a SyntaxError
        raise UserError(f"{path}: cannot be read as an image ({error}). Copy or download it again.") from error


def _read_mask(image: Path) -> NDArray[np.uint8]:
    parts = list(image.parts)
    parts[len(parts) - 1 - parts[::-1].index("Images")] = "Labels"
    mask = _read_grey(Path(*parts))
    values = np.unique(mask)
    if not np.isin(values, (0, 255)).all():
        raise UserError(f"{Path(*parts)}: holds the values {values[:5]}. A mask holds 0 and 255 only: export it again.")
    return (mask > 0).astype(np.uint8)


def _read_official(source: Path, progress: bool) -> list[Stack]:
    folders = {path.name: path for path in sorted(source.glob("SCD_IMAGES_*/*")) if path.is_dir()}
    contours = _find_contours(source)
    patients = _read_patient_table(source)
    left_out = sorted(_padded(original) for original, patient in patients.items() if patient in folders)
    stacks = []
    for subject in tqdm(sorted(contours), desc="Sunnybrook", unit="subject", disable=not progress):
        patient = patients.get(_unpadded(subject))
        if patient is None:
            raise UserError(
                f"{source / 'scd_patientdata.csv'}: {subject} is missing. The table must name the image folder of "
                "every subject with contours: add the row, or remove the contours."
            )
        if patient not in folders:
            warnings.warn(DataWarning(f"{subject} left out: contours without images ({patient})."), stacklevel=3)
            continue
        left_out.remove(_padded(_unpadded(subject)))
        frames = _short_axis(folders[patient], subject, set(contours[subject]))
        numbered = {frame.instance: (s, p) for s, row in enumerate(split_slices(frames)) for p, frame in enumerate(row)}
        by_instance = {frame.instance: frame for frame in frames}
        pixels = {instance: read_pixels(by_instance[instance]) for instance in contours[subject]}
        masks = {i: rasterize(read_contour(path), by_instance[i].shape) for i, path in contours[subject].items()}
        places = {instance: numbered[instance] for instance in contours[subject]}
        stacks += _make_stacks(subject, places, pixels, masks, _affine_of(subject, by_instance))
    for subject in left_out:
        warnings.warn(DataWarning(f"{subject} left out: a DICOM series without contours."), stacklevel=3)
    if not stacks:
        raise UserError(
            f"{source}: no subject has both images and contours. SCD_ManualContours/<subject>/contours-manual must "
            "hold contours of the subjects in SCD_IMAGES_*: download the missing part."
        )
    return stacks


def _find_contours(source: Path) -> dict[str, dict[int, Path]]:
    contours: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(source.glob("SCD_ManualContours/*/contours-manual/*/*icontour*.txt")):
        match = _CONTOUR_NAME.fullmatch(path.name)
        if match is None:
            continue
        subject, instance = path.parents[2].name, int(match["instance"])
        twin = next((name for name in contours if name != subject and _unpadded(name) == _unpadded(subject)), None)
        if twin is not None:
            raise UserError(f"{path.parents[2]}: the same subject as {twin}. A subject has one folder: keep one.")
        if instance in contours[subject]:
            raise UserError(
                f"{path}: the same frame as {contours[subject][instance]}. A frame has one endocardial contour: "
                "keep the contours of one reader."
            )
        contours[subject][instance] = path
    return contours


def _read_patient_table(source: Path) -> dict[str, str]:
    """The image folder of every unpadded subject id."""
    path = source / "scd_patientdata.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(_unpadded(row["OriginalID"]), row["PatientID"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read ({error!r}). It must hold the columns PatientID and OriginalID, which join images "
            "and contours: download it from the same place as the images."
        ) from error
    for column in map(list[str], zip(*rows, strict=True)):
        doubled = [value for value, count in Counter(column).items() if count > 1]
        if doubled:
            raise UserError(
                f"{path}: {doubled[0]} occurs more than once. Subjects and image folders belong together one to one, "
                "or images of one person end up in two folds: correct the table."
            )
    return dict(rows)


def _unpadded(subject: str) -> str:
    return re.sub(r"-0*(\d+)$", r"-\1", subject)


def _padded(subject: str) -> str:
    return re.sub(r"-0*(\d+)$", lambda match: f"-{int(match[1]):02d}", subject)


def _short_axis(folder: Path, subject: str, contoured: set[int]) -> list[Frame]:
    """The one series that holds every contoured number once and is a stack; names prove nothing."""
    series = find_series(folder)
    candidates = [
        frames
        for frames in series
        if contoured <= {frame.instance for frame in frames}
        and len({frame.instance for frame in frames}) == len(frames)
        and len(split_slices(frames)) > 1
    ]
    if len(candidates) != 1:
        found = "; ".join(f"{frames[0].path.parent.name} with {len(frames)} files" for frames in series) or "no series"
        raise UserError(
            f"{folder}: {len(candidates)} series hold all the frames {min(contoured)} to {max(contoured)} that the "
            f"contours of {subject} name; exactly one must. Found {found}. Add the missing files, or remove the wrong "
            "series or contours."
        )
    return candidates[0]


def _affine_of(subject: str, frames: Mapping[int, Frame]) -> Callable[[list[int]], NDArray[np.float64]]:
    def affine(instances: list[int]) -> NDArray[np.float64]:
        members = [frames[instance] for instance in instances]
        if uneven_steps(members):
            warnings.warn(
                DataWarning(f"{subject}: its labelled slices are not evenly spaced; the affine holds the mean step."),
                stacklevel=2,
            )
        return stack_affine(members)

    return affine


def _make_stacks(
    subject: str,
    places: Mapping[int, tuple[int, int]],
    pixels: Mapping[int, NDArray[Any]],
    masks: Mapping[int, NDArray[np.uint8]],
    affine: Callable[[list[int]], NDArray[np.float64]],
) -> list[Stack]:
    """Sort labelled frames into an ED and an ES stack; ``places`` are their (slice, phase), from 0."""
    sizes = {array.shape for array in (*pixels.values(), *masks.values())}
    if len(sizes) > 1:
        raise UserError(f"{subject}: images and masks of sizes {sorted(sizes)}. A subject has one: remove the others.")
    phases: dict[int, list[int]] = defaultdict(list)
    for instance in sorted(places, key=lambda i: places[i]):
        phases[places[instance][1]].append(instance)
    if len(phases) != 2:
        counts = ", ".join(f"phase {phase + 1}: {len(members)}" for phase, members in sorted(phases.items()))
        raise UserError(
            f"{subject}: labelled frames in {len(phases)} phases ({counts}). Sunnybrook labels exactly two, ED and ES: "
            "correct the frame numbers, or remove the subject."
        )

    empty = [instance for instance, mask in masks.items() if not mask.any()]
    if empty:
        raise UserError(
            f"{subject}: the contour or mask of frame {empty[0]} covers no pixel of the image. A labelled frame shows "
            "the ventricle: check that contour and image belong together, or remove the contour."
        )
    first, second = phases.values()
    # Base and apex may be labelled in one phase only: compare what both have.
    common = {places[instance][0] for instance in first} & {places[instance][0] for instance in second}

    def cavity(instances: Iterable[int]) -> int:
        return int(sum(masks[i].sum() for i in instances if places[i][0] in common or not common))

    ordered = sorted(phases.values(), key=cavity, reverse=True)
    return [
        Stack(
            subject=subject,
            phase=name,
            stratum=re.sub(r"-\d+$", "", subject),
            image=np.stack([pixels[instance] for instance in instances], axis=-1),
            label=np.stack([masks[instance] for instance in instances], axis=-1),
            affine=affine(instances),
            slices=tuple(places[instance][0] + 1 for instance in instances),
        )
        for name, instances in zip(("ED", "ES"), ordered, strict=True)
    ]


_MARKS: dict[str, Callable[[Path], bool]] = {
    "official": lambda source: any(source.glob("SCD_IMAGES_*")) or (source / "SCD_ManualContours").is_dir(),
    "png": lambda source: any(map(_is_image, source.rglob("*.dcm.png"))),
}
_READERS = {"official": _read_official, "png": _read_png}
