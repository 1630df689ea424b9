"""What every preparation begins with: what is refused before the work, its key, and the folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_iln.datasets.checked import Stamps, stamp
from monai_iln.datasets.folds import assign_folds, listed_folds, read_fold_lists
from monai_iln.datasets.quality.reasons import choose_actions
from monai_iln.extras import require_extra
from monai_iln.files import require_new

_WORK_FORMAT = 2  # one more whenever work that was begun by an older version cannot go on

Folds = int | Path | str | Sequence[Sequence[str]]


def work_key(work: Any, files: Iterable[Path]) -> str:
    """A text that is another for other work: what is asked for, and the files with their sizes and times."""
    digest = hashlib.sha256(json.dumps([_WORK_FORMAT, work], default=str).encode())
    for file in files:
        # A list may name what is no name of a file.
        digest.update(f"{file}{_look_up(file)}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _look_up(file: Path) -> Stamps:
    """The size and the times of a file, nothing if it is not there."""
    try:
        return stamp([file])
    except (OSError, ValueError):  # told when it is read
        return {}


def begin(output: Path | str, keep: Collection[str], exclude: Collection[str]) -> tuple[Path, dict[str, str]]:
    """The output and the actions, refused before the work if they cannot be used."""
    require_extra("monai-iln prepare", "data", "PIL", "pydicom", "scipy", "tqdm")
    actions = choose_actions(keep, exclude)
    require_new(Path(output))
    return Path(output), actions


def check_folds(folds: Folds, seed: int) -> int | Sequence[Sequence[str]]:
    """The number or the lists of folds. Impossible numbers are refused before the work."""
    if isinstance(folds, (str, Path)):
        return read_fold_lists(folds)
    if isinstance(folds, int):
        assign_folds({str(number): "" for number in range(max(folds, 1))}, folds, seed)
    return folds


def deal(strata: Mapping[str, str], folds: int | Sequence[Sequence[str]], seed: int) -> dict[str, int]:
    """The fold of every subject."""
    return assign_folds(strata, folds, seed) if isinstance(folds, int) else listed_folds(strata, folds)
