"""Subject-wise folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from monai_iln.errors import UserError


def assign_folds(subjects: Mapping[str, str], num_folds: int = 3, seed: int = 0) -> dict[str, int]:
    """Deal subjects into folds of equal size (to within one), at random, the strata spread evenly.

    Args:
        subjects: the stratum, for example the pathology, of every subject.
        num_folds: how many folds, at least 2.
        seed: of the shuffle. The order of ``subjects`` plays no role.

    Returns:
        The fold of every subject, from 0.

    Raises:
        UserError: with fewer subjects than folds, fewer than two folds, or a seed out of range.

    Example:
        >>> sorted(assign_folds({"a": "sick", "b": "sick", "c": "well", "d": "well"}, num_folds=2).values())
        [0, 0, 1, 1]
    """
    if num_folds < 2 or len(subjects) < num_folds:
        raise UserError(
            f"{len(subjects)} subjects cannot fill {num_folds} folds. There must be at least 2 folds with a subject "
            "each: choose fewer folds or add subjects."
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: a seed is a whole number from 0 to 2^32 - 1. Choose one of those.")
    names = sorted(subjects)
    strata = [subjects[name] for name in names]
    # Stratification needs every stratum in every fold; a smaller one leaves only the plain shuffle.
    splitter = StratifiedKFold if min(Counter(strata).values()) >= num_folds else KFold
    splits = splitter(num_folds, shuffle=True, random_state=seed).split(np.zeros(len(names)), strata)
    return {names[i]: fold for fold, (_, members) in enumerate(splits) for i in members}
