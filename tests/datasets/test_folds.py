from collections import Counter

import pytest

from monai_iln.datasets.folds import assign_folds
from monai_iln.errors import UserError

SUBJECTS = {
    f"{group}-{i}": group for group, size in {"I": 12, "NI": 12, "HYP": 12, "N": 9}.items() for i in range(size)
}


def test_the_paper_s_sizes_with_every_pathology_spread_evenly():
    folds = assign_folds(SUBJECTS)
    assert Counter(folds.values()) == {0: 15, 1: 15, 2: 15}
    spread = Counter((fold, SUBJECTS[subject]) for subject, fold in folds.items())
    assert set(spread.values()) == {4, 3}
    assert all(spread[fold, "N"] == 3 for fold in range(3))


def test_seed_decides_and_order_does_not():
    assert assign_folds(SUBJECTS) == assign_folds(dict(reversed(SUBJECTS.items())))
    assert assign_folds(SUBJECTS) != assign_folds(SUBJECTS, seed=1)


def test_strata_smaller_than_the_folds():
    folds = assign_folds({"a": "1", "b": "2", "c": "3", "d": "4"}, num_folds=2)
    assert Counter(folds.values()) == {0: 2, 1: 2}


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(UserError, match=f"seed {seed}: a seed is"):
        assign_folds(SUBJECTS, seed=seed)


@pytest.mark.parametrize(("count", "num_folds"), [(2, 3), (0, 3), (5, 1)])
def test_impossible_folds(count, num_folds):
    with pytest.raises(UserError, match=f"{count} subjects cannot fill {num_folds} folds.*choose fewer folds"):
        assign_folds({str(i): "" for i in range(count)}, num_folds)
