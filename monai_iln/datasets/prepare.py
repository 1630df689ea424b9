"""From raw data to a datalist in one call."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from monai_iln.datasets.begin import Folds, begin, check_folds, deal, work_key
from monai_iln.datasets.datalist import FILE_NAME, write_items
from monai_iln.datasets.formats.archives import unpacked
from monai_iln.datasets.formats.listing import FileList, Sources, list_sources
from monai_iln.datasets.phantom import write_phantom
from monai_iln.datasets.pipeline import PreparedSubjects
from monai_iln.datasets.pseudonyms import draw_pseudonyms, require_apart
from monai_iln.datasets.quality.report import TABLE, summarize, write_sheet, write_table
from monai_iln.datasets.readers.folders import plan_folders
from monai_iln.datasets.readers.plan import Plan
from monai_iln.datasets.readers.structures import Label, list_labels
from monai_iln.datasets.readers.sunnybrook import plan_sunnybrook
from monai_iln.datasets.renamer import Renamer
from monai_iln.datasets.stacks import DataWarning, Finding
from monai_iln.datasets.unfinished import StoppedError, output_of, resumable_folder, writing
from monai_iln.errors import UserError, count
from monai_iln.parallel import Workers


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
    anonymize: Path | str | None = None,
    workers: Workers | None = None,
    progress: bool = False,
) -> Path:
    """Turn Sunnybrook data into NIfTI stacks and a datalist.

    Args:
        sources: Folders or archives with the raw data, see
            :func:`~monai_iln.datasets.readers.sunnybrook.read_sunnybrook`.
        output: The folder to make. It must not exist, or be empty. It appears whole or not at all, with ``images``,
            ``labels``, ``datalist.json`` and the exclusion report, ``exclusions.csv`` and ``exclusions.png``. What is
            done before a stop stays in ``OUTPUT.unfinished``, and the same call goes on there.
        label: The structure that is labelled 1.
        layout: ``"dicom"`` or ``"png"``, or ``None`` to find out.
        folds: The number of folds into which subjects are dealt, balanced over the pathologies; or lists of the
            subjects in each fold, or a file of such lists, see :func:`~monai_iln.datasets.folds.read_fold_lists`.
            Frames are excluded afterwards, so that an exclusion moves nobody to another fold.
        seed: The seed of the folds.
        keep: The reasons of :data:`~monai_iln.datasets.quality.reasons.REASONS` for which nothing is excluded.
        exclude: The reasons for which frames are excluded, though by default they are kept.
        anonymize: The key of pseudonyms, see :func:`~monai_iln.datasets.pseudonyms.draw_pseudonyms`: a table that is
            made if it is missing. Subjects get pseudonyms, and no file of the source is named. ``None`` keeps names.
        workers: The processes that share the work. ``None`` is one for each core.
        progress: Shows bars.

    Returns:
        The path of the datalist.

    Raises:
        UserError: If the data, the output or an option cannot be used.

    Warns:
        DataWarning: For every reason for which something was left out, excluded or found doubtful.
    """
    request = _Request(
        "Sunnybrook Cardiac Data", [label], folds, seed, keep, exclude, anonymize, workers or Workers(), progress
    )
    return _prepare(partial(plan_sunnybrook, label=label, layout=layout), sources, output, request)


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
    anonymize: Path | str | None = None,
    workers: Workers | None = None,
    progress: bool = False,
) -> Path:
    """Turn data with a folder for each subject into NIfTI stacks and a datalist: ACDC, M&Ms, RVSC, or one's own.

    ``label``, ``layout``, ``image`` and ``mask`` are those of
    :func:`~monai_iln.datasets.readers.folders.read_folders`, all others those of :func:`prepare_sunnybrook`.
    """
    names = [f"value {one}" if isinstance(one, int) else one for one in list_labels(label)]
    request = _Request("Cardiac MRI", names, folds, seed, keep, exclude, anonymize, workers or Workers(), progress)
    plan = partial(plan_folders, label=label, layout=layout, image=image, mask=mask)
    return _prepare(plan, sources, output, request)


prepare_right_ventricle = prepare_folders  # the former name


class _Request(NamedTuple):
    """What is asked for besides the data."""

    name: str
    structures: Sequence[str]
    folds: Folds
    seed: int
    keep: Collection[str]
    exclude: Collection[str]
    anonymize: Path | str | None
    workers: Workers
    progress: bool


def _prepare(make_plan: partial[Plan], sources: Sources, output: Path | str, request: _Request) -> Path:
    output, actions = begin(output, request.keep, request.exclude)
    if request.anonymize is not None:
        require_apart(request.anonymize, output)
    folds = check_folds(request.folds, request.seed)
    paths = list_sources(sources)
    with unpacked(paths, request.progress) as roots:
        renamer = Renamer(tuple(str(root) for root in roots if root not in paths), ", ".join(map(str, paths)))
        with renamer.errors():
            plan = make_plan(roots)
        names: dict[str, str] = {}
        if request.anonymize is not None:
            others = [finding.subject for finding in plan.findings if finding.subject]
            names = draw_pseudonyms(request.anonymize, sorted({*plan.subjects, *others}))
        work = [make_plan.func.__name__, make_plan.keywords, actions, names]
        key = work_key(work, FileList(paths))
        with resumable_folder(output, key) as folder:
            subjects = PreparedSubjects(plan, folder, actions, renamer, names, request.workers, request.progress)
            _finish(subjects, request, folds)
    return output / FILE_NAME


def _finish(subjects: PreparedSubjects, request: _Request, folds: int | Sequence[Sequence[str]]) -> None:
    """Write the report and the datalist, and tell what was found. Records are gone through one by one, and again."""
    folder, actions, findings = subjects.folder, subjects.actions, subjects.findings
    strata = {stack.subject: stack.stratum for stack in subjects.records.stacks}
    numbers = [len(stack.slices) for stack in subjects.records.stacks]
    kept = [len(item["slices"]) for _, record in subjects.records for item in record.items]
    for line in summarize(findings, actions):
        warnings.warn(DataWarning(line), stacklevel=4)
    if not kept:
        raise UserError(
            f"{subjects.renamer.shown}: of {len(numbers)} stacks with a label none is left. "
            f"{_explain_loss(findings, actions)}"
        )
    try:
        dealt = deal(strata, folds, request.seed)
    except UserError as error:  # the lists of folds may be corrected, and nothing need be read again
        raise StoppedError(str(error)) from error
    with writing(folder):
        write_table(folder, findings, actions)
        flagged, total = subjects.flag()
        if flagged:
            pictures = subjects.draw(flagged)
            shown = {frame._replace(subject=subjects.written_as(frame.subject)): frame for frame in flagged}
            write_sheet(folder, {frame: pictures[own] for frame, own in shown.items()}, total)
        labels = dict(enumerate(("background", *request.structures)))
        items = (_with_fold(item, dealt[subject]) for subject, item in subjects.items())
        write_items(folder, items, count=len(kept), name=request.name, labels=labels, modality={"0": "MRI"})
    total = sum(1 for _ in findings)
    if total:
        excluded = f"{count(sum(numbers) - sum(kept), 'frame')} excluded"
        detail = f"{excluded}, {count(total, 'finding')} in all: see {output_of(folder) / TABLE}."
        warnings.warn(DataWarning(detail), stacklevel=4)


def _with_fold(item: Mapping[str, Any], fold: int) -> dict[str, Any]:
    rest = {key: value for key, value in item.items() if key != "slices"}
    return {**rest, "fold": fold, "slices": item["slices"]}


def _explain_loss(findings: Iterable[Finding], actions: Mapping[str, str]) -> str:
    """Why nothing is left, and what can be done. It advises to keep only what can be kept."""
    first = next((finding for finding in findings if actions[finding.reason] != "keep"), None)
    if first is None:
        return "No labels were found: add them."
    told = f"The first finding is: {first.detail}. Correct or add what is missing"
    excluded = sorted({finding.reason for finding in findings if actions[finding.reason] == "exclude"})
    if excluded:
        told += f", or keep what is right with --keep {' '.join(excluded)}"
    return f"{told}."


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
        with _one_at_a_time(Path(folder)):  # torchrun starts several processes, which all come here
            if not raw.is_dir():
                write_phantom(raw, layout=layout, subjects=8, slices=6, progress=True)  # minutes of training
            if not (prepared / FILE_NAME).is_file():
                prepare(raw, prepared, progress=True)
    return str(prepared)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process in; others wait until it is done. The empty file of the lock stays."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".phantoms.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
