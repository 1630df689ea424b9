"""From raw data to a datalist in one call."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_iln.datasets.datalist import FILE_NAME, check_item, write_datalist, write_items
from monai_iln.datasets.folds import assign_folds, listed_folds, read_fold_lists
from monai_iln.datasets.formats.archives import unpacked
from monai_iln.datasets.formats.listing import Sources, list_sources
from monai_iln.datasets.formats.volumes import read_header, read_voxels
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.progress import track
from monai_iln.datasets.quality.exclusion import exclude_slices
from monai_iln.datasets.quality.inspection import inspect_stacks
from monai_iln.datasets.quality.reasons import choose_actions
from monai_iln.datasets.quality.report import TABLE, summarize, write_report
from monai_iln.datasets.readers.decathlon import DecathlonList, read_decathlon
from monai_iln.datasets.readers.folders import read_folders
from monai_iln.datasets.readers.matching import FilePair
from monai_iln.datasets.readers.structures import Label, list_labels
from monai_iln.datasets.readers.sunnybrook import read_sunnybrook
from monai_iln.datasets.stacks import DataWarning, Finding, ReaderOutput, Stack
from monai_iln.errors import UserError
from monai_iln.extras import require_extra
from monai_iln.files import new_folder, require_new

Folds = int | Path | str | Sequence[Sequence[str]]


def prepare_sunnybrook(
    sources: Sources,
    output: Path | str,
    *,
    label: str = "endocardium",
    layout: str | None = None,
    folds: Folds = 3,
    seed: int = 0,
    keep: Collection[str] = (),
    exclude: Collection[str] = (),
    progress: bool = False,
) -> Path:
    """Turn Sunnybrook data into NIfTI stacks and a datalist.

    Args:
        sources: Folders or archives with the raw data, see
            :func:`~monai_iln.datasets.readers.sunnybrook.read_sunnybrook`.
        output: The folder to make. It must not exist, or be empty. It appears whole or not at all, with ``images``,
            ``labels``, ``datalist.json`` and the exclusion report, ``exclusions.csv`` and ``exclusions.png``.
        label: The structure that is labelled 1.
        layout: ``"dicom"`` or ``"png"``, or ``None`` to find out.
        folds: The number of folds into which subjects are dealt, balanced over the pathologies; or lists of the
            subjects in each fold, or a file of such lists, see :func:`~monai_iln.datasets.folds.read_fold_lists`.
            Frames are excluded afterwards, so that an exclusion moves nobody to another fold.
        seed: The seed of the folds.
        keep: The reasons of :data:`~monai_iln.datasets.quality.reasons.REASONS` for which nothing is excluded.
        exclude: The reasons for which frames are excluded, though by default they are kept.
        progress: Shows bars.

    Returns:
        The path of the datalist.

    Raises:
        UserError: If the data, the output or an option cannot be used.

    Warns:
        DataWarning: For every reason for which something was left out, excluded or found doubtful.
    """

    def read(paths: Sequence[Path]) -> ReaderOutput:
        return read_sunnybrook(paths, label=label, layout=layout, progress=progress)

    return _prepare(read, sources, output, "Sunnybrook Cardiac Data", [label], folds, seed, keep, exclude, progress)


def prepare_folders(
    sources: Sources,
    output: Path | str,
    *,
    label: Label = "right-ventricle",
    layout: str | None = None,
    image: str | None = None,
    mask: str | None = None,
    folds: Folds = 3,
    seed: int = 0,
    keep: Collection[str] = (),
    exclude: Collection[str] = (),
    progress: bool = False,
) -> Path:
    """Turn data with a folder for each subject into NIfTI stacks and a datalist: ACDC, M&Ms, RVSC, or one's own.

    ``label``, ``layout``, ``image`` and ``mask`` are those of
    :func:`~monai_iln.datasets.readers.folders.read_folders`, all others those of :func:`prepare_sunnybrook`.
    """

    def read(paths: Sequence[Path]) -> ReaderOutput:
        return read_folders(paths, label=label, layout=layout, image=image, mask=mask, progress=progress)

    names = [f"value {one}" if isinstance(one, int) else one for one in list_labels(label)]
    return _prepare(read, sources, output, "Cardiac MRI", names, folds, seed, keep, exclude, progress)


prepare_right_ventricle = prepare_folders  # the former name


def prepare_decathlon(
    source: Path | str,
    output: Path | str,
    *,
    subject: str = "{subject}",
    folds: Folds = 3,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Turn a decathlon list without subjects or folds into a datalist over the same volumes.

    The volumes stay where they are, and as they are: three-dimensional, with all their label values. Every one is read.
    What cannot be used is left out and reported; what is left passes ``monai-iln check``, which compares the
    SHA-256 of every file from then on.

    Args:
        source: The list, or the folder that holds it as ``dataset.json``, see
            :func:`~monai_iln.datasets.readers.decathlon.read_decathlon`.
        output: The folder to make, with ``datalist.json`` and ``exclusions.csv``. It must not exist, or be empty.
        subject: The pattern that tells the subject from the name of an image, such as ``"{subject}_{phase}"``.
        folds: The folds, as for :func:`prepare_sunnybrook`; ``seed`` is that of their shuffle.
        seed: The seed of the folds.
        progress: Shows a bar.

    Returns:
        The path of the datalist.

    Raises:
        UserError: If the list, the output or an option cannot be used, or no volume is left.

    Warns:
        DataWarning: For every reason for which volumes were left out.
    """
    output, actions = _begin(output, (), ())
    folds = _check_folds(folds, seed)
    listed = read_decathlon(Path(source), subject)
    items, findings = _look_into(listed, progress)
    for line in summarize(findings, actions):
        warnings.warn(DataWarning(line), stacklevel=2)
    if not items:
        first = next(finding for finding in findings if actions[finding.reason] != "keep")
        raise UserError(f"{source}: of {len(listed.pairs)} volumes none is left. The first finding is: {first.detail}")
    fold_of = _deal({pair.subject: "" for pair in listed.pairs}, folds, seed)
    with new_folder(output) as folder:
        write_report(folder, (), findings, actions)
        items = [item | {"fold": fold_of[item["subject"]]} for item in items]
        write_items(folder, items, name=listed.name, labels=listed.labels, modality=listed.modality)
    return output / FILE_NAME


def _look_into(listed: DecathlonList, progress: bool) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The items that training can read, and everything that is wrong with the volumes."""
    items: dict[FilePair, dict[str, Any]] = {}
    owners: dict[str, list[FilePair]] = defaultdict(list)
    findings = []

    def tell(reason: str, pair: FilePair, path: Path, detail: str) -> None:
        findings.append(Finding(reason, pair.subject, pair.phase, None, str(path), detail))

    for pair in track(listed.pairs, "Checking", "volume", progress):
        item: dict[str, Any] = {"image": str(pair.image), "label": str(pair.label)}
        try:
            headers = read_header(pair.image), read_header(pair.label)
            _, label = map(read_voxels, headers)
            hashes = check_item(item, list(listed.labels))
        except UserError as error:
            tell("unreadable", pair, pair.label, str(error))
            continue
        if (label != np.rint(label)).any():  # the reader that a training has may not round, as those here do
            tell("label-values", pair, pair.label, "holds values that are not whole numbers, if only by rounding")
            continue
        for header in headers:
            if header.doubt:
                tell("contradictory-header", pair, header.path, f"{header.doubt}. The file stays as it is")
        items[pair] = item | {"sha256": hashes, "subject": pair.subject, "phase": pair.phase}
        owners[hashes["image"]].append(pair)
    for twins in owners.values():
        if len(twins) > 1:
            for pair in twins:
                tell("same-image", pair, pair.image, f"identical: {', '.join(str(twin.image) for twin in twins)}")
                del items[pair]
    return list(items.values()), findings


def _prepare(
    read: Callable[[Sequence[Path]], ReaderOutput],
    sources: Sources,
    output: Path | str,
    name: str,
    structures: Sequence[str],
    folds: Folds,
    seed: int,
    keep: Collection[str],
    exclude: Collection[str],
    progress: bool,
) -> Path:
    output, actions = _begin(output, keep, exclude)
    folds = _check_folds(folds, seed)
    paths = list_sources(sources)
    stacks, findings = _read_sources(read, paths, progress)
    findings += inspect_stacks(stacks, progress)
    good, gaps = exclude_slices(stacks, findings, actions)
    findings += gaps
    for line in summarize(findings, actions):
        warnings.warn(DataWarning(line), stacklevel=3)
    if not good:
        raise UserError(
            f"{', '.join(map(str, paths))}: of {len(stacks)} stacks with a label none is left. "
            f"{_explain_loss(findings, actions)}"
        )
    fold_of = _deal({stack.subject: stack.stratum for stack in stacks}, folds, seed)
    with new_folder(output) as folder:
        write_report(folder, stacks, findings, actions)
        write_datalist(good, folder, name=name, labels=("background", *structures), folds=fold_of, progress=progress)
    if findings:
        excluded = _count_slices(stacks) - _count_slices(good)
        detail = f"{excluded} frames excluded, {len(findings)} findings in all: see {output / TABLE}."
        warnings.warn(DataWarning(detail), stacklevel=3)
    return output / FILE_NAME


def _begin(output: Path | str, keep: Collection[str], exclude: Collection[str]) -> tuple[Path, dict[str, str]]:
    """The output and the actions, refused before the work if they cannot be used."""
    require_extra("monai-iln prepare", "data", "PIL", "pydicom", "scipy", "tqdm")
    actions = choose_actions(keep, exclude)
    require_new(Path(output))
    return Path(output), actions


def _check_folds(folds: Folds, seed: int) -> int | Sequence[Sequence[str]]:
    """The number or the lists of folds. Impossible numbers are refused before the work."""
    if isinstance(folds, (str, Path)):
        return read_fold_lists(folds)
    if isinstance(folds, int):
        assign_folds({str(number): "" for number in range(max(folds, 1))}, folds, seed)
    return folds


def _deal(strata: Mapping[str, str], folds: int | Sequence[Sequence[str]], seed: int) -> dict[str, int]:
    """The fold of every subject."""
    return assign_folds(strata, folds, seed) if isinstance(folds, int) else listed_folds(strata, folds)


def _explain_loss(findings: Sequence[Finding], actions: Mapping[str, str]) -> str:
    """Why nothing is left, and what can be done. It advises to keep only what can be kept."""
    losses = [finding for finding in findings if actions[finding.reason] != "keep"]
    if not losses:
        return "No labels were found: add them."
    told = f"The first finding is: {losses[0].detail}. Correct or add what is missing"
    excluded = sorted({finding.reason for finding in losses if actions[finding.reason] == "exclude"})
    if excluded:
        told += f", or keep what is right with --keep {' '.join(excluded)}"
    return f"{told}."


def _count_slices(stacks: Sequence[Stack]) -> int:
    return sum(len(stack.slices) for stack in stacks)


def _read_sources(
    read: Callable[[Sequence[Path]], ReaderOutput], paths: Sequence[Path], progress: bool
) -> ReaderOutput:
    """Read sources, archives among them, and call files by their names there, not in a folder that is gone."""
    with unpacked(paths, progress) as roots:
        temporary = [str(root) for root in roots if root not in paths]

        def rename(text: str) -> str:
            for folder in temporary:
                text = text.replace(f"{folder}/", "").replace(folder, ", ".join(map(str, paths)))
            return text

        try:
            stacks, findings = read(roots)
        except UserError as error:
            raise UserError(rename(str(error))) from error
    return ReaderOutput(
        [replace(stack, files=tuple(map(rename, stack.files))) for stack in stacks],
        [finding._replace(file=rename(finding.file), detail=rename(finding.detail)) for finding in findings],
    )


def phantom_datalist(folder: Path | str, ventricle: str) -> str:
    """A datalist of phantoms for a training without data: made under a folder once, and said so every time.

    Args:
        folder: The folder that gets ``phantoms_raw`` (in the layout of a public data set) and ``phantoms`` (stacks and
            datalist).
        ventricle: ``"left"`` or ``"right"``, the one that is labelled.

    Returns:
        The folder of the datalist.
    """
    layout, prepare = {"left": ("official", prepare_sunnybrook), "right": ("chla", prepare_folders)}[ventricle]
    raw, prepared = Path(folder) / "phantoms_raw", Path(folder) / "phantoms"
    print(
        f"No dataset_dir given: training on PHANTOMS, synthetic hearts in {prepared}. Their Dice says nothing about "
        "real images. For those: monai-iln prepare, then --dataset_dir DIR."
    )
    if not (prepared / FILE_NAME).is_file():
        if not raw.is_dir():
            write_phantom(raw, layout=layout, subjects=8, slices=6, progress=True)  # minutes of training on two cores
        prepare(raw, prepared, progress=True)
    return str(prepared)
