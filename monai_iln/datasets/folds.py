"""Subject-wise folds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from monai_iln.errors import UserError, count


def assign_folds(subjects: Mapping[str, str], num_folds: int = 3, seed: int = 0) -> dict[str, int]:
    """Deal subjects into folds of equal size (to within one), at random, the strata spread evenly.

    Larger folds come last: 45 subjects are dealt 15/15/15 and 37 subjects 12/12/13, as in the ILN paper.

    Args:
        subjects: The stratum, for example the pathology, of every subject.
        num_folds: The number of folds. With one there is nothing to train on while it is tested.
        seed: The seed of the shuffle. The order of ``subjects`` plays no role.

    Returns:
        The fold of every subject, from 0.

    Raises:
        UserError: If there are fewer subjects than folds, no fold, or a seed out of range.

    Example:
        >>> sorted(assign_folds({"a": "sick", "b": "sick", "c": "well", "d": "well"}, num_folds=2).values())
        [0, 0, 1, 1]
    """
    if num_folds < 1 or len(subjects) < num_folds:
        raise UserError(
            f"{count(len(subjects), 'subject')} cannot fill {count(num_folds, 'fold')}. There must be at least one "
            "fold, and a subject in each: choose fewer folds or add subjects."
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: a seed is a whole number from 0 to 2^32 - 1. Choose one of those.")
    names = sorted(subjects)
    strata = [subjects[name] for name in names]
    if num_folds == 1:
        return dict.fromkeys(names, 0)
    # Stratification needs every stratum in every fold; a smaller one leaves only the plain shuffle.
    can_stratify = min(Counter(strata).values()) >= num_folds
    splitter = StratifiedKFold if can_stratify else KFold
    splits = splitter(num_folds, shuffle=True, random_state=seed).split(np.zeros(len(names)), strata)
    parts = sorted((members for _, members in splits), key=len)
    return {names[i]: fold for fold, members in enumerate(parts) for i in members}


def listed_folds(subjects: Mapping[str, str], lists: Sequence[Sequence[str]]) -> dict[str, int]:
    """Folds as somebody lists them, a published split for example.

    Args:
        subjects: Every subject that there is.
        lists: The subjects of fold 0, of fold 1, and so on. Subjects that are not there are passed over, for a part of
            a data set has the folds of the whole.

    Returns:
        The fold of every subject, from 0.

    Raises:
        UserError: If a subject is in no fold or in two.

    Example:
        >>> listed_folds({"a": "", "b": ""}, [["b"], ["a", "c"]])
        {'a': 1, 'b': 0}
    """
    folds: dict[str, int] = {}
    for fold, members in enumerate(lists):
        for member in members:
            name = normalize("NFC", member)  # as subjects are called
            if folds.setdefault(name, fold) != fold:
                raise UserError(
                    f"{name} is listed in the folds {folds[name]} and {fold}. A subject has one: choose it."
                )
    missing = sorted(subjects.keys() - folds.keys())
    if missing:
        unknown = sorted(folds.keys() - subjects.keys())
        strange = ""
        if unknown:
            strange = f" No subject is called {', '.join(unknown[:3])}."
        raise UserError(
            f"{len(missing)} of {len(subjects)} subjects are in no fold, such as {', '.join(missing[:3])}.{strange} "
            "Every subject has one: add them to the lists."
        )
    return {name: folds[name] for name in sorted(subjects)}


def read_fold_lists(path: Path | str) -> list[list[str]]:
    """Read lists of subjects for :func:`listed_folds`.

    Args:
        path: The JSON file, such as ``[["SC-N-02", "SC-N-03"], ["SC-N-05"], ...]``.

    Raises:
        UserError: If it cannot be read or holds anything else.
    """
    try:
        lists = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        if not isinstance(lists, list) or not all(isinstance(fold, list) for fold in lists):
            raise TypeError("no list of lists")
        if not all(isinstance(name, str) for fold in lists for name in fold):
            raise TypeError("a subject that is no text")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as folds ({error}). It holds one list of subjects for each fold, as JSON: "
            '[["SC-N-02", "SC-N-03"], ["SC-N-05"]]. Write it so.'
        ) from error
    return lists
