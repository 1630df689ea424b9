import json
from collections import Counter

import pytest

from monai_iln.datasets.folds import assign_folds, listed_folds, read_fold_lists
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


def test_one_stratum_smaller_than_the_folds():
    folds = assign_folds({"a": "1", "b": "1", "c": "1", "d": "2"}, num_folds=2)
    assert Counter(folds.values()) == {0: 2, 1: 2}


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(UserError, match=f"seed {seed}: a seed is"):
        assign_folds(SUBJECTS, seed=seed)


@pytest.mark.parametrize(("count", "num_folds"), [(2, 3), (0, 3), (0, 1), (5, 0)])
def test_impossible_folds(count, num_folds):
    with pytest.raises(UserError, match=rf"{count} subjects cannot fill {num_folds} folds?\..*choose fewer folds"):
        assign_folds({str(i): "" for i in range(count)}, num_folds)


def test_larger_folds_come_last():
    assert Counter(assign_folds({str(i): "" for i in range(37)}).values()) == {0: 12, 1: 12, 2: 13}
    groups = {str(i): "abc"[i % 3] for i in range(38)}
    assert Counter(assign_folds(groups, seed=3).values()) == {0: 12, 1: 13, 2: 13}


def test_lists(tmp_path):
    path = tmp_path / "folds.json"
    path.write_text('[["a", "gone"], ["c", "b"]]')
    assert listed_folds({"a": "", "b": "", "c": ""}, read_fold_lists(path)) == {"a": 0, "b": 1, "c": 1}


def test_lists_of_other_programs(tmp_path):
    """With the mark of Windows, and accents that are characters of their own."""
    path = tmp_path / "folds.json"
    path.write_text(json.dumps([["Jose\u0301"], ["b"]], ensure_ascii=False), encoding="utf-8-sig")
    assert listed_folds({"Jos\u00e9": "", "b": ""}, read_fold_lists(path)) == {"Jos\u00e9": 0, "b": 1}
    assert listed_folds({"Jos\u00e9": "", "b": ""}, [["Jose\u0301"], ["b"]]) == {"Jos\u00e9": 0, "b": 1}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([["a"], ["a", "b"]], "a is listed in the folds 0 and 1"),
        ([["a"], ["x"]], "1 of 2 subjects are in no fold, such as b"),
    ],
)
def test_lists_that_are_no_folds(lists, message):
    with pytest.raises(UserError, match=message):
        listed_folds({"a": "", "b": ""}, lists)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[["a"], [1]]', "[" * 100_000])
def test_files_that_are_no_lists(tmp_path, text):
    path = tmp_path / "folds.json"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot be read as folds"):
        read_fold_lists(path)
    with pytest.raises(UserError, match="cannot be read as folds"):
        read_fold_lists(tmp_path / "none")


def test_one_fold():
    assert assign_folds({"a": "", "b": ""}, num_folds=1) == {"a": 0, "b": 0}
