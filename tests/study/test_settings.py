"""The keys of a study, and the names of its methods."""

import pytest

from monai_iln.errors import UserError
from monai_iln.study.settings import PAPER, name_methods, read_settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metods": ["ILN"]}, "'metods' is no key of a study. Did you mean 'methods'"),
        ({"learning_rate": [0.1]}, "Did you mean 'learning_rates'"),
        ({"folds": []}, "folds \\[\\]: it must be a list with at least one entry"),
        ({"folds": 1}, "folds 1: it must be a list"),
        ({"folds": [1, 1]}, "an entry occurs twice"),
        ({"seeds": ["1"]}, "seeds: '1': it must hold numbers"),
        ({"seeds": [True]}, "seeds: True: it must hold numbers"),
        ({"learning_rates": ["1e-3"]}, "in YAML write 1.0e-3, not 1e-3"),
        ({"learning_rates": [-0.1]}, "a rate is positive"),
        ({"overrides": ["epochs"]}, "it must map ids to values"),
        ({"backend": "dask"}, "backend 'dask': it is loky or ray"),
        ({"jobs": 0}, "jobs 0: it must be a whole number, 1 or more"),
        ({"attempts": None}, "attempts None: it must be a whole number"),
        ({"dataset_dir": "a", "datasets": {"b": "b"}}, "they say the same in two ways"),
    ],
)
def test_wrong_settings_are_one_message(config, message):
    with pytest.raises(UserError, match=message):
        read_settings(config)


def test_the_paper_has_eleven_methods():
    assert name_methods("paper") == PAPER
    assert len(PAPER) == 11


def test_methods_have_names():
    assert name_methods(["GN4", "instance", ["GROUP", {"num_groups": 2}]]) == {
        "GN4": ["GROUP", {"num_groups": 4}],
        "instance": "instance",
        "GROUP-num_groups-2": ["GROUP", {"num_groups": 2}],
    }
    assert name_methods({"mine": ["GROUP", {"num_groups": 8}], "none": None}) == {
        "mine": ["GROUP", {"num_groups": 8}],
        "none": None,
    }


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "at least one"),
        ("ILN", "must be a list of norms"),
        (["ILN", "ILN"], "it occurs twice"),
        ({"a/b": "ILN"}, "its name names a folder"),
        ({"..": "ILN"}, "its name names a folder"),
        ([["GROUP"]], "has no valid form"),
        ([3], "has no valid form"),
    ],
)
def test_wrong_methods_are_one_message(methods, message):
    with pytest.raises(UserError, match=message):
        name_methods(methods)
