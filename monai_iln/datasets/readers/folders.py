"""Short-axis stacks in public layouts, such as ACDC, M&Ms, EMIDEC, nnU-Net's and RVSC, and in folders of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from monai_iln.datasets.formats.listing import FileList
from monai_iln.datasets.readers.dataset_json import FILE_NAME as DATASET_JSON
from monai_iln.datasets.readers.layouts import FOLDER_LAYOUTS
from monai_iln.datasets.readers.matching import Files
from monai_iln.datasets.readers.patterns import find_by_pattern
from monai_iln.datasets.readers.plan import Plan
from monai_iln.datasets.readers.structures import Label, find_structures, list_labels
from monai_iln.datasets.readers.volumes import plan_pairs
from monai_iln.datasets.stacks import ReaderOutput
from monai_iln.errors import UserError


class _Reader(Protocol):
    """A module of :data:`~monai_iln.datasets.readers.layouts.FOLDER_LAYOUTS`."""

    def holds(self, files: Files) -> bool: ...

    def plan(self, files: Files, label: Label) -> Plan: ...


def read_folders(
    sources: Sequence[Path],
    *,
    label: Label = "right-ventricle",
    layout: str | None = None,
    image: str | None = None,
    mask: str | None = None,
    progress: bool = False,
) -> ReaderOutput:
    r"""Read every labelled frame, one stack for each subject and phase.

    Layouts:

    - *acdc*: ``patient001/Info.cfg``, ``patient001_frame01.nii.gz``, ``patient001_frame01_gt.nii.gz``.
    - *mnms*: ``A0S9V9_sa.nii.gz``, ``A0S9V9_sa_gt.nii.gz`` of all times; ``001_SA_ED.nii.gz``, ``001_SA_ED_gt.nii.gz``.
    - *emidec*: ``Case_P001/Images/Case_P001.nii.gz``, ``Case_P001/Contours/Case_P001.nii.gz``.
    - *nnunet*: ``imagesTr/patient001_ED_0000.nii.gz``, ``labelsTr/patient001_ED.nii.gz``, ``dataset.json``.
    - *rvsc*: DICOM and contours, see :mod:`monai_iln.datasets.readers.rvsc`.
    - *pictures*: ``P1/ED/images/001.png``, ``P1/ED/masks/001.png``, see :mod:`monai_iln.datasets.readers.pictures`.
    - *folders*, any other: a folder of volumes for each subject, named after it. A file of few whole numbers is a
      label. It belongs to the image with the same numbers and phase in its name, or whose name it extends, and most
      words in common. A name in several formats is read once, hidden files are not read.

    Phases are *ED* and *ES* where a name, ``Info.cfg`` or a table says so. Of a cine with two labelled times and no
    table, the one with the larger cavity is *ED*, and so it is of two frames in nnU-Net's data. Else the phase is what
    tells the names apart, or *1*.

    Tables are CSV files in the sources with a column for the subject (``subject``, ``External code``...). Strata come
    from them (``disease``, ``Pathology``, ``Vendor``...), and the times ``ED`` and ``ES`` of a cine.

    Args:
        sources: Folders, or single files.
        label: One of :data:`~monai_iln.datasets.readers.layouts.STRUCTURES`, another structure that the data set names
            (*emidec*: ``infarction``, ``no-reflow``; *nnunet*: as in ``dataset.json``), or a value of the files. In
            *folders* and *pictures* a name stands for all values but 0, so labels with several values need the number.
            Several structures make one map, with the values 1, 2, ... in their order; where two overlap, the later one
            counts, and a phase without one of the ventricles or the myocardium is left out.
        layout: One of :data:`~monai_iln.datasets.readers.layouts.FOLDER_LAYOUTS`, or ``None`` to find out.
        image: A pattern for the paths of images below a source, where the rule of *folders* does not find them, such as
            ``"{subject}/{phase}.nii.gz"``. Without ``{phase}`` there is one phase; ``*`` is any part of a name.
        mask: A pattern for the paths of labels.
        progress: Shows a bar.

    Returns:
        The stacks, and a finding for whatever could not be used: there may be no stack at all. A stack has all slices
        of its frame, those without the structure too. Axes and affine are those of the files (see
        :func:`~monai_iln.datasets.formats.volumes.read_volume` for Analyze), but slices always come last.

    Raises:
        UserError: If a source does not exist or holds nothing of the kind, options contradict it or one another, or two
            frames are of one subject and phase.

    Example:
        >>> output = read_folders([Path("ACDC/training")], label="myocardium")  # doctest: +SKIP
        >>> len(output.stacks)  # doctest: +SKIP
        200
    """
    return plan_folders(sources, label=label, layout=layout, image=image, mask=mask).read(progress)


read_right_ventricle = read_folders  # the former name


def plan_folders(
    sources: Sequence[Path],
    *,
    label: Label = "right-ventricle",
    layout: str | None = None,
    image: str | None = None,
    mask: str | None = None,
) -> Plan:
    """Plan to read every labelled frame, see :func:`read_folders`."""
    labels = list_labels(label)
    label = labels[0] if len(labels) == 1 else tuple(labels)
    files = FileList([Path(source) for source in sources])
    if image is None and mask is None:
        return _choose_reader(files, sources, layout).plan(files, label)
    if image is None or mask is None or layout not in (None, "folders"):
        raise UserError(
            f"image pattern {image or 'none'}, mask pattern {mask or 'none'}, layout {layout or 'folders'}: patterns "
            "come as a pair, and for the layout folders alone. Give both, and no other layout."
        )
    return plan_pairs(find_by_pattern(files, image, mask), find_structures(label, {}))


def _choose_reader(files: Files, sources: Sequence[Path], layout: str | None) -> _Reader:
    if layout is not None and layout not in FOLDER_LAYOUTS:
        raise UserError(f"layout {layout!r}: not known. It is one of {', '.join(FOLDER_LAYOUTS)}: choose one, or none.")
    where = ", ".join(map(str, sources)) or "no source"
    readers = {name: _load(module) for name, module in FOLDER_LAYOUTS.items()}
    found = [name for name, reader in readers.items() if reader.holds(files)]
    published = [name for name in found if name != "folders"]
    if layout is None and len(published) > 1:
        raise UserError(f"{where}: holds the layouts {' and '.join(published)}. Choose one with --layout.")
    if layout is None and found == ["folders"] and any(path.name == DATASET_JSON for path in files):
        raise UserError(
            f"{where}: holds a {DATASET_JSON}, but no images named as nnU-Net names them. A decathlon list is read by "
            "monai-iln prepare decathlon: use that, or choose --layout folders."
        )
    if not found or layout not in (None, *found):
        names = ", ".join(sorted({path.name for path in files})[:5]) or "none"
        other = f", or the layout {found[-1]}" if found else ""
        raise UserError(
            f"{where}: no data of the layout {layout or ' or '.join(FOLDER_LAYOUTS)}; files there are {names}. Images "
            "and labels must be volumes (.nii, .nii.gz, .hdr, .nrrd, .mha) or PNG pictures, named as the layout has "
            f"them: give the folder that holds them{other}."
        )
    return readers[layout or [*published, "folders"][0]]


def _load(module: str) -> _Reader:
    return cast("_Reader", import_module(f"{__package__}.{module}"))
