"""Sunnybrook Cardiac Data: short-axis cine MRI of 45 subjects with contours of the left ventricle at ED and ES.

The same data are about in several layouts, all of them read here, whole or in part:

========== ========================================================= ===============================================
copy       images                                                    labels
========== ========================================================= ===============================================
official   ``SCD_IMAGES_01/SCD0000101/CINESAX_300/IM-0003-0048.dcm`` ``SCD_ManualContours/SC-HF-I-01/contours-manual/``
                                                                     ``IRCCI-expert/IM-0001-0048-icontour-manual.txt``
challenge  ``challenge_training/SC-HF-I-1/IM-0004-0048.dcm``         as above, elsewhere
arterys    ``dicoms/SCD0000101/48.dcm``                              ``contourfiles/SC-HF-I-1/i-contours/IM-0001-...``
png        ``Images/Sunnybrook_Part1/SC-HF-I-01-IM-0001-0048.dcm.png``, masks under the same names in ``Labels``
========== ========================================================= ===============================================

The first three are one layout, *dicom*: DICOM files and text contours anywhere below the source, joined by folders that
are named after subjects, or after patients that a CSV table (``scd_patientdata.csv``, ``link.csv``) joins to subjects.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_iln.datasets.formats.contours import FILE_NAME
from monai_iln.datasets.formats.listing import FileList, Sources, is_dicom, list_sources
from monai_iln.datasets.formats.png import read_picture
from monai_iln.datasets.readers.contoured import plan_cines
from monai_iln.datasets.readers.labelled import LabelledFrame, make_stacks, name_phases
from monai_iln.datasets.readers.layouts import CONTOURED_STRUCTURES, SUNNYBROOK_LAYOUTS
from monai_iln.datasets.readers.plan import Overview, Plan, SubjectOutput
from monai_iln.datasets.stacks import Finding, ReaderOutput
from monai_iln.errors import UserError, count
from monai_iln.files import read_csv

_PNG_NAME = re.compile(r"(?P<subject>.+)-IM-\d+-(?P<number>\d{1,9})\.dcm\.png")
_SUBJECT = re.compile(r".*[A-Za-z].*-\d+")
_PNG_PHASES = 20  # the mirror keeps the numbering of the cine series, 20 phases a slice, without their headers

SubjectContours = dict[str, dict[int, dict[str, Path]]]  # by subject, number of the frame and kind of contour


class Files(Mapping[Path, tuple[str, ...]]):
    """Every file of the sources, and the names of the folders in which it lies, that of the source first."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._files = FileList(sources)
        self._sources = {source for source in sources if not source.is_dir()}

    def __getitem__(self, file: Path) -> tuple[str, ...]:
        source = self._files[file]
        return () if file in self._sources else (source.name, *file.relative_to(source).parts[:-1])

    def __iter__(self) -> Iterator[Path]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_sunnybrook(
    sources: Sources,
    *,
    label: str = "endocardium",
    layout: str | None = None,
    progress: bool = False,
) -> ReaderOutput:
    """Read every labelled frame, one stack for each subject and phase.

    Args:
        sources: Folders that hold the data somewhere below. Images and contours may lie in different ones.
        label: ``"endocardium"`` (what it encloses), ``"epicardium"``, ``"myocardium"`` (between the two) or
            ``"papillary-muscles"``. The last three were outlined on some frames only, mostly at ED. The mirror has the
            first alone.
        layout: ``"dicom"`` or ``"png"``, or ``None`` to find out.
        progress: Shows a bar.

    Returns:
        The stacks by subject, ED before ES, slices in the order of the series (base to apex), and what was found wrong.
        The mirror does not know sizes: its affine is the identity.

    Raises:
        UserError: If a source is missing, the sources hold none of the layouts or both, no subject has image and label,
            or tables or contours contradict one another.
    """
    return plan_sunnybrook(sources, label=label, layout=layout).read(progress)


def plan_sunnybrook(sources: Sources, *, label: str = "endocardium", layout: str | None = None) -> Plan:
    """Plan to read every labelled frame, see :func:`read_sunnybrook`."""
    if label not in CONTOURED_STRUCTURES:
        raise UserError(f"label {label!r}: Sunnybrook has {', '.join(CONTOURED_STRUCTURES)}. Choose one of them.")
    paths = list_sources(sources)
    files = Files(paths)
    images, contours = _png_files(files, "Images"), [file for file in files if FILE_NAME.fullmatch(file.name)]
    found = [name for name, marks in zip(SUNNYBROOK_LAYOUTS, (contours, images), strict=True) if marks]
    shown = ", ".join(map(str, paths))
    if layout is None and len(found) > 1:
        raise UserError(f"{shown}: holds the layouts {' and '.join(found)}. Choose one with --layout.")
    if not found or layout not in (None, *found):
        entries = ", ".join(sorted(entry.name for path in paths if path.is_dir() for entry in path.iterdir())[:5])
        wanted = "one of the layouts"
        if layout is not None:
            wanted = f"the layout {layout}, only {' and '.join(found) or 'none'}"
        raise UserError(
            f"{shown}: not {wanted}; it holds {entries or 'nothing'}. Sunnybrook data are DICOM files with text "
            "contours like IM-0001-0048-icontour-manual.txt (dicom), or Images and Labels with names like "
            "SC-N-02-IM-0001-0020.dcm.png (png). Give the folder above those."
        )
    if (layout or found[0]) == "dicom":
        return _plan_dicom(shown, files, label)
    if label != "endocardium":
        raise UserError(f"label {label!r}: the PNG mirror has the endocardium only. Choose that, or the DICOM data.")
    return _plan_png(images, _png_files(files, "Labels"))


def _name(subject: str) -> str:
    """One spelling of a subject: SC-HF-I-1 and SC-HF-I-01 are the same."""
    return re.sub(r"-0*(\d+)$", lambda match: f"-{int(match[1]):02d}", subject)


def _stratum(subject: str) -> str:
    """The group of pathology, with which the names begin."""
    return re.sub(r"-\d+$", "", subject)


def _plan_dicom(source: str, files: Files, label: str) -> Plan:
    contours, patients = _find_contours(files), _read_tables(files)
    folders: dict[str, set[Path]] = defaultdict(set)
    findings = []
    for folder, names in {(file.parent, names) for file, names in files.items() if is_dicom(file)}:
        for part in reversed(names):
            subject = patients.get(part, _name(part))
            if part in patients or subject in contours or subject in patients.values():
                folders[subject].add(folder)
                break
        else:
            detail = "DICOM files in no folder that is named after a subject, or after a patient in a table"
            findings.append(Finding("no-label", "", "", None, str(folder), detail))
    plan = plan_cines(contours, folders, label, stratum=_stratum)
    counts = (
        f"{count(len(contours), 'subject', 'has', 'have')} contours of any kind, "
        f"{count(len(folders), 'subject', 'has', 'have')} DICOM "
        f"files, {count(len(findings), 'folder')} of DICOM files belong to nobody"
    )
    refuse = partial(_refuse_nothing, source, label, counts)
    return Plan(plan.subjects, [*findings, *plan.findings], refuse)


def _refuse_nothing(source: str, label: str, counts: str, overview: Overview) -> None:
    """Refuse DICOM files and contours of which nobody has both."""
    if not overview.is_empty:
        return
    faults = Counter((f.reason, f.subject) for f in overview.findings if f.reason not in ("no-image", "no-label"))
    found = ", ".join(f"{count} {reason} of {subject}" for (reason, subject), count in sorted(faults.items()))
    on_the_way = f" Found on the way: {found}." if found else ""
    raise UserError(
        f"{source}: no subject has an image with a contour of the {label}. {counts}. A folder is named after the "
        "subject, or after a patient that scd_patientdata.csv or link.csv joins to one: add what is "
        f"missing.{on_the_way}"
    )


def _find_contours(files: Files) -> SubjectContours:
    """The contour files of every subject and frame; copies that are alike count once."""
    contours: SubjectContours = defaultdict(lambda: defaultdict(dict))
    for path, names in files.items():
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            continue
        folder = next((part for part in reversed(names) if _SUBJECT.fullmatch(part)), None)
        if folder is None:
            raise UserError(
                f"{path}: whose contour is it? Contours lie below a folder that is named after their subject, such as "
                "SC-HF-I-01: move it there, or remove it."
            )
        kinds = contours[_name(folder)][int(match["number"])]
        twin = kinds.setdefault(match["kind"].lower(), path)
        if twin != path and not _same_bytes(twin, path):
            raise UserError(
                f"{path}: the same frame as {twin}, but another contour. A frame has one contour of a kind: keep those "
                "of one reader, or give the folders of one copy with --source."
            )
    return contours


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() == other.read_bytes()
    except OSError as error:
        raise UserError(f"{one} or {other}: cannot be read ({error}). Copy or download it again.") from error


def _read_tables(files: Files) -> dict[str, str]:
    """The subject of every patient, from all CSV tables that have a column for either."""
    subjects: dict[str, str] = {}
    owners: dict[str, str] = {}
    for path in files:
        if path.suffix.lower() != ".csv":
            continue
        for patient, subject in _read_table(path):
            if subjects.setdefault(patient, subject) != subject or owners.setdefault(subject, patient) != patient:
                raise UserError(
                    f"{path}: {patient} and {subject} are joined, but to others elsewhere in the tables. Subjects and "
                    "image folders belong together one to one, or images of one person end up in two folds: correct "
                    "the table."
                )
    return subjects


def _read_table(path: Path) -> Iterator[tuple[str, str]]:
    try:
        table = read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as a table ({error}). Download it from the same place as the images, or remove it."
        ) from error
    columns = {re.sub(r"\W|_", "", name).lower(): name for name in table.columns}
    if {"patientid", "originalid"} <= columns.keys():
        for row in table.rows:
            patient, subject = row[columns["patientid"]], row[columns["originalid"]]
            if patient and subject:
                yield patient.strip(), _name(subject.strip())


def _png_files(files: Files, kind: str) -> list[Path]:
    """The ``"Images"`` or the ``"Labels"`` of the mirror: the nearest folder with one of these names decides."""
    found = []
    for path, folders in files.items():
        kinds = [name for name in folders if name in ("Images", "Labels")]
        if _PNG_NAME.fullmatch(path.name) and kinds[-1:] == [kind]:
            found.append(path)
    return found


def _plan_png(images: Sequence[Path], labels: Sequence[Path]) -> Plan:
    frames: dict[str, dict[int, Path]] = defaultdict(dict)
    findings = []
    for path in {*labels} - {_label_of(image) for image in images}:
        subject, _ = _split_png_name(path)
        detail = "a mask without an image of its name"
        findings.append(Finding("no-image", subject, "", None, str(path), detail))
    for path in images:
        subject, number = _split_png_name(path)
        twin = frames[subject].setdefault(number, path)
        if twin != path and not _same_bytes(twin, path):
            raise UserError(
                f"{path}: the same frame as {twin}, but another image. A frame must be there once: keep one."
            )
    subjects = {subject: partial(_read_png_subject, subject, numbers) for subject, numbers in frames.items()}
    return Plan(subjects, findings, partial(_refuse_no_mask, images[0].parent))


def _refuse_no_mask(folder: Path, overview: Overview) -> None:
    if overview.is_empty:
        raise UserError(f"{folder}: no image with a mask. {next(iter(overview.findings)).detail}")


def _read_png_subject(subject: str, frames: Mapping[int, Path]) -> SubjectOutput:
    labelled, unusable = [], []
    for number, path in sorted(frames.items()):
        slice_, phase = divmod(number - 1, _PNG_PHASES)
        try:
            picture, mask = read_picture(path), _read_mask(path)
        except UserError as error:
            unusable.append(Finding("unreadable", subject, "", slice_ + 1, str(path), str(error)))
            continue
        if picture.has_colours:
            detail = "its brightness is taken; what is drawn into an image is learnt"
            unusable.append(Finding("colours", subject, "", slice_ + 1, str(path), detail))
        labelled.append(LabelledFrame(slice_, phase, picture.grey, mask, mask, path))
    names = name_phases(labelled, _PNG_PHASES)
    stacks, findings = make_stacks(subject, _stratum(subject), labelled, names, lambda _: np.eye(4))
    return SubjectOutput(stacks, unusable + findings)


def _split_png_name(path: Path) -> tuple[str, int]:
    """The subject and the number of the frame, from the name of a file of the mirror."""
    match = _PNG_NAME.fullmatch(path.name)
    assert match is not None  # _png_files has looked
    return _name(match["subject"]), int(match["number"])


def _label_of(image: Path) -> Path:
    parts = list(image.parts)
    parts[len(parts) - 1 - parts[::-1].index("Images")] = "Labels"
    return Path(*parts)


def _read_mask(image: Path) -> NDArray[np.uint8]:
    path = _label_of(image)
    mask = read_picture(path).grey
    values = np.unique(mask)
    if not np.isin(values, (0, 255)).all():
        raise UserError(f"{path}: holds the values {values[:5]}. A mask holds 0 and 255 only: export it again.")
    return (mask > 0).astype(np.uint8)
