"""From raw data to a datalist in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from monai_iln.datasets.datalist import FILE_NAME, write_datalist
from monai_iln.datasets.folds import assign_folds, listed_folds, read_fold_lists
from monai_iln.datasets.formats.archives import unpacked
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.quality.exclusion import actions, excluded
from monai_iln.datasets.quality.inspection import inspect_stacks
from monai_iln.datasets.quality.report import TABLE, summary, write_report
from monai_iln.datasets.readers.folders import read_right_ventricle
from monai_iln.datasets.readers.sunnybrook import read_sunnybrook
from monai_iln.datasets.stacks import DataWarning, Reading
from monai_iln.errors import UserError
from monai_iln.files import new_folder, require_new

Sources = Path | str | Sequence[Path | str]


def prepare_sunnybrook(
    sources: Sources,
    output: Path | str,
    *,
    label: str = "endocardium",
    layout: str | None = None,
    folds: int | Path | str | Sequence[Sequence[str]] = 3,
    seed: int = 0,
    keep: Collection[str] = (),
    exclude: Collection[str] = (),
    progress: bool = False,
) -> Path:
    """Turn Sunnybrook data into NIfTI stacks and a datalist.

    Args:
        sources: folders or zip archives with the raw data, see
            :func:`~monai_iln.datasets.readers.sunnybrook.read_sunnybrook`.
        output: folder to make; it must not exist, or be empty. It appears whole or not at all, with ``images``,
            ``labels``, ``datalist.json`` and the exclusion report, ``exclusions.csv`` and ``exclusions.png``.
        label: the structure that is labelled 1.
        layout: ``"dicom"`` or ``"png"``; ``None`` finds out.
        folds: how many folds to deal the subjects into, balanced over the pathologies; or who is in which, as lists or
            a file of them, see :func:`~monai_iln.datasets.folds.read_fold_lists`. Frames are excluded afterwards, so
            that what is excluded moves nobody to another fold.
        seed: of the folds.
        keep: reasons of :data:`~monai_iln.datasets.quality.exclusion.REASONS` that shall exclude nothing.
        exclude: reasons that shall exclude, though by default they do not.
        progress: whether to show bars.

    Returns:
        The path of the datalist.

    Raises:
        UserError: for unusable data, output or options.

    Warns:
        DataWarning: for every reason for which something was left out, excluded or found doubtful.
    """

    def read(paths: Sequence[Path]) -> Reading:
        return read_sunnybrook(paths, label=label, layout=layout, progress=progress)

    return _prepare(read, sources, output, "Sunnybrook Cardiac Data", label, folds, seed, keep, exclude, progress)


def prepare_right_ventricle(
    sources: Sources,
    output: Path | str,
    *,
    label: str | int = "right-ventricle",
    layout: str | None = None,
    image: str | None = None,
    mask: str | None = None,
    folds: int | Path | str | Sequence[Sequence[str]] = 3,
    seed: int = 0,
    keep: Collection[str] = (),
    exclude: Collection[str] = (),
    progress: bool = False,
) -> Path:
    """Turn right-ventricle data, or any with one folder a subject, into NIfTI stacks and a datalist.

    ``label``, ``layout``, ``image`` and ``mask`` are those of
    :func:`~monai_iln.datasets.readers.folders.read_right_ventricle`, all others those of :func:`prepare_sunnybrook`.
    """

    def read(paths: Sequence[Path]) -> Reading:
        return read_right_ventricle(paths, label=label, layout=layout, image=image, mask=mask, progress=progress)

    name = f"value {label}" if isinstance(label, int) else label
    return _prepare(read, sources, output, "Cardiac MRI", name, folds, seed, keep, exclude, progress)


def _prepare(
    read: Callable[[Sequence[Path]], Reading],
    sources: Sources,
    output: Path | str,
    name: str,
    label: str,
    folds: int | Path | str | Sequence[Sequence[str]],
    seed: int,
    keep: Collection[str],
    exclude: Collection[str],
    progress: bool,
) -> Path:
    output, chosen = Path(output), actions(keep, exclude)
    require_new(output)
    lists = read_fold_lists(folds) if isinstance(folds, (str, Path)) else folds
    if isinstance(lists, int):  # before the work: are these numbers possible at all?
        assign_folds({str(number): "" for number in range(max(lists, 1))}, lists, seed)
    paths = [Path(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
    with unpacked(paths, progress) as roots:
        temporary = [str(root) for root in roots if root not in paths]

        def shown(text: str) -> str:  # files of archives by their names there, not in a folder that is gone
            for folder in temporary:
                text = text.replace(f"{folder}/", "").replace(folder, ", ".join(map(str, paths)))
            return text

        try:
            stacks, findings = read(roots)
        except UserError as error:
            raise UserError(shown(str(error))) from error
    stacks = [replace(stack, files=tuple(map(shown, stack.files))) for stack in stacks]
    findings = [f._replace(file=shown(f.file), detail=shown(f.detail)) for f in findings]
    findings += inspect_stacks(stacks, progress)
    good, gaps = excluded(stacks, findings, chosen)
    findings += gaps
    for line in summary(findings, chosen):
        warnings.warn(DataWarning(line), stacklevel=3)
    if not good:
        first = f" The first finding is: {findings[0].detail}." if findings else " No labels were found."
        raise UserError(
            f"{', '.join(map(str, paths))}: of {len(stacks)} stacks with a label none is left.{first} Correct or add "
            "what is missing, or keep what is right with --keep REASON."
        )
    strata = {stack.subject: stack.stratum for stack in stacks}
    dealt = assign_folds(strata, lists, seed) if isinstance(lists, int) else listed_folds(strata, lists)
    with new_folder(output) as folder:
        write_report(folder, stacks, findings, chosen)
        write_datalist(good, folder, name=name, labels=("background", label), folds=dealt, progress=progress)
    if findings:
        frames = sum(len(stack.slices) for stack in stacks) - sum(len(stack.slices) for stack in good)
        detail = f"{frames} frames excluded, {len(findings)} findings in all: see {output / TABLE}."
        warnings.warn(DataWarning(detail), stacklevel=3)
    return output / FILE_NAME


def phantom_datalist(folder: Path | str, ventricle: str) -> str:
    """A datalist of phantoms for a training without data: made under ``folder`` once, and said so every time.

    Args:
        folder: gets ``phantoms_raw`` (in the layout of a public data set) and ``phantoms`` (stacks and datalist).
        ventricle: ``"left"`` or ``"right"``, the one that is labelled.

    Returns:
        The folder of the datalist.
    """
    layout, prepare = {"left": ("official", prepare_sunnybrook), "right": ("chla", prepare_right_ventricle)}[ventricle]
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
