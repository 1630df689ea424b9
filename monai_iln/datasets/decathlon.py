"""From a decathlon list to a datalist over the same volumes, in one call."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from monai_iln.datasets.begin import Folds, begin, check_folds, deal, work_key
from monai_iln.datasets.datalist import FILE_NAME, check_item, write_items
from monai_iln.datasets.formats.volumes import read_header, read_voxels
from monai_iln.datasets.quality.report import summarize, write_table
from monai_iln.datasets.readers.decathlon import DecathlonList, read_decathlon
from monai_iln.datasets.readers.matching import FilePair
from monai_iln.datasets.stacks import DataWarning, Finding
from monai_iln.datasets.unfinished import map_resumably, resumable_folder, writing
from monai_iln.errors import UserError
from monai_iln.parallel import Workers


def prepare_decathlon(
    source: Path | str,
    output: Path | str,
    *,
    subject: str = "{subject}",
    folds: Folds = 3,
    seed: int = 0,
    workers: Workers | None = None,
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
        folds: The folds, as for :func:`~monai_iln.datasets.prepare.prepare_sunnybrook`.
        seed: The seed of the folds.
        workers: The processes that share the work. ``None`` is one for each core.
        progress: Shows a bar.

    Returns:
        The path of the datalist.

    Raises:
        UserError: If the list, the output or an option cannot be used, or no volume is left.

    Warns:
        DataWarning: For every reason for which volumes were left out.
    """
    output, actions = begin(output, (), ())
    folds = check_folds(folds, seed)
    listed = read_decathlon(Path(source), subject)
    key = work_key([listed.pairs, listed.labels], (file for pair in listed.pairs for file in (pair.image, pair.label)))
    with resumable_folder(output, key, "volume") as folder:
        items, findings = _look_into(listed, folder, workers or Workers(), progress)
        for line in summarize(findings, actions):
            warnings.warn(DataWarning(line), stacklevel=2)
        if not items:
            first = next(finding for finding in findings if actions[finding.reason] != "keep")
            raise UserError(
                f"{source}: of {len(listed.pairs)} volumes none is left. The first finding is: {first.detail}"
            )
        fold_of = deal({pair.subject: "" for pair in listed.pairs}, folds, seed)
        with writing(folder):
            write_table(folder, sorted(findings, key=attrgetter("subject")), actions)
            items = [item | {"fold": fold_of[item["subject"]]} for item in items]
            described = {"name": listed.name, "labels": listed.labels, "modality": listed.modality}
            write_items(folder, items, count=len(items), **described)
    return output / FILE_NAME


def _look_into(
    listed: DecathlonList, folder: Path, workers: Workers, progress: bool
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The items that training can read, and everything that is wrong with the volumes."""
    pairs = {str(pair.image): pair for pair in listed.pairs}
    looks = map_resumably(
        partial(_look_at, values=list(listed.labels)),
        [*pairs],
        pairs.__getitem__,
        folder,
        workers,
        title="Checking",
        unit="volume",
        progress=progress,
    )
    items: dict[str, dict[str, Any]] = {}
    owners: dict[str, list[str]] = defaultdict(list)
    findings = []
    for image, look in looks:
        findings += [Finding(*finding) for finding in look["findings"]]
        if look["item"] is not None:
            items[image] = look["item"]
            owners[look["item"]["sha256"]["image"]].append(image)
    for twins in owners.values():
        if len(twins) > 1:
            for image in twins:
                detail = f"identical: {', '.join(twins)}"
                findings.append(_tell(pairs[image], "same-image", pairs[image].image, detail))
                del items[image]
    return list(items.values()), findings


def _tell(pair: FilePair, reason: str, path: Path, detail: str) -> Finding:
    return Finding(reason, pair.subject, pair.phase, None, str(path), detail)


def _look_at(pair: FilePair, values: Sequence[int]) -> dict[str, Any]:
    """The item of a pair, ``None`` if training cannot read it, and the findings about it."""
    item: dict[str, Any] = {"image": str(pair.image), "label": str(pair.label)}
    try:
        headers = read_header(pair.image), read_header(pair.label)
        hashes = check_item(item, values)
        label = read_voxels(headers[1])
    except UserError as error:
        return {"item": None, "findings": [_tell(pair, "unreadable", pair.label, str(error))]}
    if (label != np.rint(label)).any():  # the reader that a training has may not round, as those here do
        detail = "holds values that are not whole numbers, if only by rounding"
        return {"item": None, "findings": [_tell(pair, "label-values", pair.label, detail)]}
    doubts = [
        _tell(pair, "contradictory-header", header.path, f"{header.doubt}. The file stays as it is")
        for header in headers
        if header.doubt
    ]
    return {"item": item | {"sha256": hashes, "subject": pair.subject, "phase": pair.phase}, "findings": doubts}
