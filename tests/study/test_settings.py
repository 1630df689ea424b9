"""The keys of a study, and the names of its methods."""

import math
from dataclasses import fields

import pytest
import yaml

from monai_iln.errors import UserError
from monai_iln.study.named_methods import PAPER, name_methods
from monai_iln.study.settings import Study, read_settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metods": ["ILN"]}, "'metods' is no key of a study. Did you mean 'methods'"),
        ({"learning_rate": [0.1]}, "Did you mean 'learning_rates'"),
        ({"folds": []}, "folds \\[\\]: it must be a list of whole numbers such as"),
        ({"folds": 1}, "folds 1: it must be a list"),
        ({"folds": [1, 1]}, "an entry occurs twice"),
        ({"seeds": ["1"]}, "seeds \\['1'\\]: it must be a list of whole numbers"),
        ({"seeds": [True]}, "seeds \\[True\\]: it must be a list of whole numbers"),
        ({"learning_rates": ["1e-3"]}, "in YAML 1.0e-3, not 1e-3"),
        ({"learning_rates": [-0.1]}, "a list of numbers above 0"),
        ({"overrides": ["epochs"]}, "it must be a mapping of ids of the training to values"),
        ({"backend": "dask"}, "backend 'dask': it must be loky or ray"),
        ({"attempts": None}, "attempts None: it must be a whole number"),
        ({"dataset_dir": "a", "datasets": {"b": "b"}}, "they say the same in two ways"),
        ({"dry_run": "false"}, "dry_run 'false': it must be true or false"),
        (
            {"half_width": 0.01, "seeds": [0, 1, 2, 3], "max_seeds": 3},
            "max_seeds 3 and 4 seeds: a sequential study adds",
        ),
        ({"margin": -0.01}, "margin -0.01: it must be a number above 0"),
        ({"splits": "old"}, "splits 'old': it must be new or one"),
        ({"redo_changed": 1}, "redo_changed 1: it must be true or false"),
        ({"output_dir": None}, "output_dir None: it must be a folder"),
        ({"training": [3]}, "it must be a list of files"),
        ({"evaluation": []}, "it must be a list of files"),
        ({"overrides": {1: 2}}, "a mapping of ids"),
        ({"datasets": {"a": None}}, "a mapping of names to folders"),
        (
            {"address": "head:6379"},
            "address head:6379 with backend loky: a cluster is reached by the backend ray alone",
        ),
        ({"gpus_per_run": -1}, "it must be a number, 0 or more"),
        ({"learning_rates": [1, 1.0]}, "an entry occurs twice"),
    ],
)
def test_wrong_settings_are_one_message(config, message):
    with pytest.raises(UserError, match=message):
        read_settings(config)


@pytest.mark.parametrize(
    ("key", "taken", "refused"),
    [
        ("num_folds", 2, 1),
        ("validation_every", 1, 0),
        ("learning_rates", [5e-324], [0.0]),
        ("learning_rates", [1e308], [math.inf]),
        ("seeds", [0, 2**32 - 1], [2**32]),
        ("seeds", [0], [-1]),
        ("margin", 5e-324, 0),
        ("margin", 1e308, math.inf),
        ("half_width", 5e-324, 0),
        ("half_width", 1e308, math.inf),
        ("max_seeds", 3, 2),
        ("jobs", 1, 0),
        ("gpus_per_run", 0, -5e-324),
        ("attempts", 1, 0),
    ],
)
def test_the_last_value_that_a_key_takes(key, taken, refused):
    assert getattr(read_settings({key: taken}), key) == taken
    with pytest.raises(UserError, match=f"^{key} .*it must be"):
        read_settings({key: refused})


def test_a_sequential_study_may_begin_with_all_of_its_seeds():
    assert read_settings({"half_width": 0.01, "seeds": [0, 1, 2, 3], "max_seeds": 4}).all_seeds == [0, 1, 2, 3]


def test_overrides_may_be_of_any_kind():
    overrides = {"standardize": False, "amp": True, "validation_every": None, "roi_size": [48, 48], "epochs": 2}
    assert read_settings({"overrides": overrides}).overrides == overrides


def test_every_key_has_a_sentence_and_an_example():
    for item in fields(Study):
        assert item.metadata["help"].endswith(".")
        if item.name != "tracking":  # which needs MLflow
            others = {"backend": "ray"} if item.name == "address" else {}
            read_settings({item.name: yaml.safe_load(item.metadata["metavar"]), **others})


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
        (3, "must be a list of norms"),
        (["ILN", "ILN"], "it occurs twice"),
        ({"a/b": "ILN"}, "its name names a folder"),
        ({"..": "ILN"}, "its name names a folder"),
        ([["GROUP"]], "has no valid form"),
        ({"x" * 300: "ILN"}, "rename it, shortly"),
        ({"a": "ILN", "A": "BATCH"}, "it occurs twice"),
        ([3], "has no valid form"),
        ({"a\nb": "ILN"}, "method 'a.nb': a name holds no line breaks, tabs or other control characters"),
        ({"\x1b[2J": "ILN"}, "method '.x1b.2J': a name holds no line breaks"),
    ],
)
def test_wrong_methods_are_one_message(methods, message):
    with pytest.raises(UserError, match=message):
        name_methods(methods)
