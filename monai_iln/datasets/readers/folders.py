"""The right ventricle, and others: ACDC, M&Ms, M&Ms-2, RVSC, CHLA, and folders of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monai_iln.datasets.formats.listing import list_files
from monai_iln.datasets.formats.nifti import read_header, read_volume, same_place, slice_axis
from monai_iln.datasets.readers.matching import (
    ACDC_NAME,
    MNMS_NAME,
    Files,
    Found,
    Pair,
    find_acdc,
    find_by_pattern,
    find_by_rule,
    find_mnms,
    list_volumes,
    matching,
)
from monai_iln.datasets.readers.rvsc import is_rvsc, read_rvsc
from monai_iln.datasets.readers.structures import Structure, find_structure, label_values, refuse_several_values
from monai_iln.datasets.readers.tables import INFO_NAME, Row, find_stratum, find_times
from monai_iln.datasets.stacks import Finding, Reading, Stack
from monai_iln.errors import UserError

_Read = Callable[[Files, str | int, bool], Reading]


class _Frame(NamedTuple):
    """What a pair holds of one time; ``time`` counts from 0 and is ``None`` where the files hold only one."""

    pair: Pair
    time: int | None
    image: NDArray[Any]
    label: NDArray[Any]
    affine: NDArray[np.float64]


class _Layout(NamedTuple):
    """How a layout is recognised, and read."""

    holds: Callable[[Files], bool]
    read: _Read


def read_right_ventricle(
    sources: Sequence[Path],
    *,
    label: str | int = "right-ventricle",
    layout: str | None = None,
    image: str | None = None,
    mask: str | None = None,
    progress: bool = False,
) -> Reading:
    r"""Read every labelled frame, one stack for each subject and phase.

    Layouts: *acdc* (``patient001/Info.cfg``, ``patient001_frame01.nii.gz``, ``patient001_frame01_gt.nii.gz``), *mnms*
    (``A0S9V9_sa.nii.gz``, ``A0S9V9_sa_gt.nii.gz`` of all times; M&Ms-2: ``001_SA_ED.nii.gz``, ``001_SA_ED_gt.nii.gz``),
    *rvsc* (DICOM and contours, see :mod:`monai_iln.datasets.readers.rvsc`), and *folders*, any other: a folder for each
    subject, named after it. There a file of few whole numbers is a label; it belongs to the image with the same numbers
    and phase in its name, or whose name it extends, and most words in common. A name in several formats is read once,
    hidden files are not.

    Phases are *ED* and *ES* where a name, ``Info.cfg`` or a table says so. Of a cine with two labelled times and no
    table, the one with the larger cavity is *ED*. Else the phase is what tells the names apart, or *1*.

    Tables are CSV files in the sources with a column for the subject (``subject``, ``External code``...): strata come
    from them (``disease``, ``Pathology``, ``Vendor``...), and the times ``ED`` and ``ES`` of a cine.

    Args:
        sources: folders, or single files.
        label: one of :data:`~monai_iln.datasets.readers.structures.STRUCTURES`, or a value of the label files. In
            *folders* a name is for whatever is not 0: labels with several values need the number.
        layout: one of :data:`LAYOUTS`; ``None`` finds out.
        image: pattern for the paths of images below a source, where the rule of *folders* does not find them, such as
            ``"{subject}/{phase}.nii.gz"``; without ``{phase}`` there is one, ``*`` is any part of a name.
        mask: as ``image``, for the labels.
        progress: whether to show a bar.

    Returns:
        The stacks, and a finding for whatever could not be used: there may be no stack at all. A stack has all slices
        of its frame, those without the structure too; axes and affine are those of the files (see
        :func:`~monai_iln.datasets.formats.nifti.read_volume` for Analyze), but for slices, which always come last.

    Raises:
        UserError: for a source that does not exist or holds nothing of the kind, options that contradict it or one
            another, and two frames of one subject and phase.

    Example:
        >>> reading = read_right_ventricle([Path("ACDC/training")], label="myocardium")  # doctest: +SKIP
        >>> len(reading.stacks)  # doctest: +SKIP
        200
    """
    files = {file: path if path.is_dir() else path.parent for path in map(Path, sources) for file in list_files(path)}
    if image is None and mask is None:
        read = _choose_layout(files, sources, layout)
    elif image is None or mask is None or layout not in (None, "folders"):
        raise UserError(
            f"image pattern {image or 'none'}, mask pattern {mask or 'none'}, layout {layout or 'folders'}: patterns "
            "come as a pair, and for the layout folders alone. Give both, and no other layout."
        )
    else:
        read = partial(_read_volumes, find=partial(find_by_pattern, image=image, mask=mask), values={})
    stacks, findings = read(files, label, progress)
    return Reading(sorted(stacks, key=lambda stack: (stack.subject, stack.phase)), findings)


def _choose_layout(files: Files, sources: Sequence[Path], layout: str | None) -> _Read:
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"layout {layout!r}: not known. It is one of {', '.join(LAYOUTS)}: choose one, or none.")
    where = ", ".join(map(str, sources)) or "no source"
    found = [name for name in LAYOUTS if _LAYOUTS[name].holds(files)]
    published = [name for name in found if name != "folders"]
    if layout is None and len(published) > 1:
        raise UserError(f"{where}: holds the layouts {' and '.join(published)}. Choose one with --layout.")
    if not found or layout not in (None, *found):
        names = ", ".join(sorted({path.name for path in files})[:5]) or "none"
        raise UserError(
            f"{where}: no data of the layout {layout or ' or '.join(LAYOUTS)}; files there are {names}. Images and "
            "labels must be volumes (.nii, .nii.gz, .hdr and .img) named as the layout has it: give the folder that "
            f"holds them{f', or the layout {found[-1]}' if found else ''}."
        )
    return _LAYOUTS[layout or [*published, "folders"][0]].read


def _read_volumes(
    files: Files, label: str | int, progress: bool, *, find: Callable[[Files], Found], values: Mapping[str, int]
) -> Reading:
    """Read pairs of volumes; ``values`` are those of the structures where a data set defines them."""
    structure = find_structure(label, values)
    pairs, findings, rows = find(files)
    frames: list[list[_Frame]] = []
    for pair in tqdm(sorted(pairs), desc="Reading", unit="pair", disable=not progress):
        try:
            frames.append(_read_pair(pair))
        except _RefusedError as refused:
            findings.append(refused.finding)
    if structure.value is None:
        refuse_several_values([frame.label for members in frames for frame in members])
    stacks: dict[tuple[str, str], Stack] = {}
    for members in frames:
        row = rows.get(members[0].pair.subject, {})
        for frame, phase in _phases(members, row, structure):
            made = _stack(frame, phase, find_stratum(row), structure)
            if isinstance(made, Finding):
                findings.append(made)
            else:
                _add(stacks, made)
    return Reading(list(stacks.values()), findings)


class _RefusedError(Exception):
    """A pair that cannot be used."""

    def __init__(self, reason: str, pair: Pair, detail: str) -> None:
        super().__init__(detail)
        self.finding = Finding(reason, pair.subject, pair.phase, None, str(pair.label), detail)


def _read_pair(pair: Pair) -> list[_Frame]:
    """What a pair holds of every labelled time, slices last."""
    try:
        image, affine = read_volume(pair.image)
        label, label_affine = read_volume(pair.label)
        headers = read_header(pair.image), read_header(pair.label)
    except UserError as error:
        raise _RefusedError("unreadable", pair, str(error)) from error
    if image.shape != label.shape:
        raise _RefusedError("mismatch", pair, f"shape {label.shape}, its image {image.shape}: they must be equal")
    if all(header.oriented for header in headers) and not same_place(affine, label_affine):
        raise _RefusedError("mismatch", pair, "its affine is not that of its image: steps or origin differ")
    if label_values(label) is None:
        raise _RefusedError("label-values", pair, "holds values that are not whole numbers from 0 to 65535")
    try:
        last = slice_axis(image.shape, affine)
    except UserError as error:
        raise _RefusedError("mismatch", pair, str(error)) from error
    order = [*(axis for axis in range(3) if axis != last), last]
    image, label = (array.transpose(*order, *range(3, array.ndim)) for array in (image, label))
    affine[:, :3] = affine[:, order]
    if image.ndim == 3:
        return [_Frame(pair, None, image, label, affine)]
    times = np.flatnonzero(label.any(axis=(0, 1, 2)))
    if not len(times):
        raise _RefusedError("empty-label", pair, "no voxel is labelled at any time")
    return [_Frame(pair, int(t), image[..., t].copy(), label[..., t].copy(), affine) for t in times]


def _phases(members: Sequence[_Frame], row: Row, structure: Structure) -> Iterator[tuple[_Frame, str]]:
    """The frames of a pair with their phases, none for a time that the table does not name."""
    times = [frame.time for frame in members if frame.time is not None]
    if not times:
        yield members[0], members[0].pair.phase or "1"
        return
    named = find_times(row, times)
    if not named and len(times) == 2:
        masks = [(frame.label, structure.pool(frame.label)) for frame in members]
        sizes = [int((structure.mask(label) if pool is None else pool).sum()) for label, pool in masks]
        named = dict(zip(times if sizes[0] >= sizes[1] else times[::-1], ("ED", "ES"), strict=True))
    for frame, time in zip(members, times, strict=True):
        yield frame, named.get(time, "" if named else str(time + 1))


def _stack(frame: _Frame, phase: str, stratum: str, structure: Structure) -> Stack | Finding:
    pair = frame.pair
    doubt = structure.doubt(frame.label)
    if doubt:
        return Finding("label-values", pair.subject, phase, None, str(pair.label), doubt)
    if not phase:
        detail = f"labelled at time {frame.time} (from 0), which the table names neither ED nor ES"
        return Finding("third-phase", pair.subject, phase, None, str(pair.label), detail)
    label = structure.mask(frame.label)
    if not label.any():
        values = label_values(frame.label)
        detail = f"no voxel has the value {structure.value or 'of a structure'}; it holds {values}: choose one of those"
        return Finding("empty-label", pair.subject, phase, None, str(pair.label), detail)
    slices = range(1, label.shape[-1] + 1)
    return Stack(
        subject=pair.subject,
        phase=phase,
        stratum=stratum,
        image=frame.image,
        label=label,
        affine=frame.affine,
        slices=tuple(slices),
        files=tuple(str(pair.image) for _ in slices),
        pool=structure.pool(frame.label),
        thick_wall=structure.name in ("left-ventricle", "myocardium"),
    )


def _add(stacks: dict[tuple[str, str], Stack], stack: Stack) -> None:
    # Some file systems take names that differ in case for one.
    twin = stacks.setdefault((stack.subject.casefold(), stack.phase.casefold()), stack)
    if twin is not stack:
        raise UserError(
            f"{twin.files[0]} and {stack.files[0]}: both are subject {stack.subject} at {stack.phase}. A subject has "
            "one frame for each phase and a folder of its own: give one copy, or patterns for image and mask that tell "
            "subject and phase."
        )


def _holds_acdc(files: Files) -> bool:
    return any(path.name.casefold() == INFO_NAME for path in files) and any(matching(files, ACDC_NAME))


def _holds_mnms(files: Files) -> bool:
    return any(match["gt"] for _, match in matching(files, MNMS_NAME))


# A published data set is a row here; one that is no pairs of volumes brings its own function to read it.
_LAYOUTS = {
    "acdc": _Layout(
        _holds_acdc,
        partial(_read_volumes, find=find_acdc, values={"right-ventricle": 1, "myocardium": 2, "left-ventricle": 3}),
    ),
    "mnms": _Layout(
        _holds_mnms,
        partial(_read_volumes, find=find_mnms, values={"left-ventricle": 1, "myocardium": 2, "right-ventricle": 3}),
    ),
    "rvsc": _Layout(is_rvsc, read_rvsc),
    "folders": _Layout(lambda files: bool(list_volumes(files)), partial(_read_volumes, find=find_by_rule, values={})),
}
LAYOUTS = tuple(_LAYOUTS)
