"""Every number that an option takes: nonsense is refused while the options are read, before anything is imported."""

import argparse
import math
import os
import re

import numpy as np
import pytest
from monai.bundle import ConfigParser

from monai_iln.bundle import find_bundle
from monai_iln.cli import main
from monai_iln.commands.prepare import _folds
from monai_iln.datasets.download import download_sunnybrook
from monai_iln.datasets.phantom import phantom_truth, write_phantom
from monai_iln.errors import UserError, find_user_error
from monai_iln.limits import SEED, Limits, check_numbers
from monai_iln.study.settings import read_settings
from monai_iln.study.simulation import World, simulate

SIMULATE, PHANTOM = ["simulate", "--output", "new"], ["phantom", "--output", "new"]
PREPARE = ["prepare", "folders", "--source", "none", "--output", "new"]
OPTIONS = [
    *((SIMULATE, name) for name in ("subjects", "folds", "methods", "repetitions", "seeds")),
    *((SIMULATE, name) for name in ("sd_subject", "sd_fold", "sd_training", "sd_residual", "noisy", "shared")),
    *((SIMULATE, name) for name in ("difference", "margin", "half_width", "seed")),
    *((PHANTOM, name) for name in ("subjects", "slices", "phases", "size", "seed")),
    *((PREPARE, name) for name in ("folds", "seed", "jobs")),
    (["download", "sunnybrook", "--output", "new"], "timeout"),
    *((["benchmark", "layer"], name) for name in ("shape", "seconds", "threads", "rounds", "warmup")),
    *((["benchmark", "network"], name) for name in ("batch", "size", "threads", "rounds", "warmup", "seconds")),
    *((["benchmark", "profile"], name) for name in ("shape", "threads", "rounds", "warmup")),
]
NAMES = [f"{command[0]} {command[1] if command[0] == 'benchmark' else ''} {name}" for command, name in OPTIONS]
MAY_BE_0 = {"seed", "warmup", "sd_subject", "sd_fold", "sd_training", "sd_residual", "noisy", "shared"}
UNBOUNDED = {(command[0], name) for command in (SIMULATE, PHANTOM) for name in ("seed",)}
UNBOUNDED |= {("benchmark", "seconds"), ("benchmark", "warmup")}


@pytest.mark.parametrize(("command", "name"), OPTIONS, ids=NAMES)
def test_nonsense_is_refused_while_options_are_read(command, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = ["-1", "nan", "inf", "1e400", "x", ""]
    if name not in MAY_BE_0:
        wrong.append("0")
    if (command[0], name) not in UNBOUNDED:
        wrong.append("9" * 30)
    for text in wrong:
        assert main([*command, f"--{name}={text}"]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"error: argument --{name}: got {text!r}, and it must be a ")
        assert "Choose one" in told
        assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_folds_may_be_a_file_that_is_there(tmp_path, capsys):
    assert main([*PREPARE, "--folds", str(tmp_path / "splits.json")]) == 1
    assert "or give a JSON file that is there" in capsys.readouterr().err
    (tmp_path / "splits.json").write_text("[]")
    assert main([*PREPARE[:-1], str(tmp_path / "new"), "--folds", str(tmp_path / "splits.json")]) == 1
    assert "argument --folds" not in capsys.readouterr().err


def test_folds_may_come_through_a_pipe(tmp_path):
    """As the shell's <(...) gives them: a name that is no regular file."""
    os.mkfifo(tmp_path / "folds")
    assert _folds(str(tmp_path / "folds")) == tmp_path / "folds"
    with pytest.raises(argparse.ArgumentTypeError, match="or give a JSON file that is there"):
        _folds("a" * 10_000)  # which no file can be called


def test_sizes_of_the_whole_axis_and_none():
    check_numbers(roi_size=[-1, 144, -1], pixdim=None)
    with pytest.raises(UserError, match="or -1 for the whole axis"):
        check_numbers(roi_size=[-2, 144])
    with pytest.raises(UserError, match="pixdim .-1, 1."):
        check_numbers(pixdim=[-1, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: simulate(World(), seeds=[0]),
        lambda: simulate(World(), seed=-1),
        lambda: simulate(World(), margin=math.inf),
        lambda: World(noisy=math.inf),
        lambda: download_sunnybrook("new", timeout=-1),
        lambda: phantom_truth(slices=10**30),
        lambda: write_phantom("new", subjects=True),
        lambda: read_settings({"gpus_per_run": math.inf}),
        lambda: read_settings({"learning_rates": [10**400]}),
        lambda: read_settings({"half_width": 0.1, "max_seeds": 10**9}),
    ],
)
def test_the_functions_have_the_same_limits(call):
    with pytest.raises(UserError, match="it must be a .*Remedy: "):
        call()


@pytest.mark.parametrize("name", ["lv_short_axis_iln", "rv_short_axis_iln"])
@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("inference", {"roi_size": [0, 0]}),
        ("inference", {"roi_size": [144]}),
        ("inference", {"pixdim": [1.4, math.nan]}),
        ("inference", {"structures": 0}),
        ("inference", {"phase": "ED"}),
        ("train", {"roi_size": 144}),
        ("train", {"epochs": 2.5}),
        ("train", {"batch_size": 0}),
        ("train", {"learning_rate": math.nan}),
        ("train", {"validation_every": -1}),
        ("train", {"num_workers": -1}),
        ("train", {"val_interval": 0}),
    ],
    ids=str,
)
def test_bundles_refuse_numbers_before_anything_is_read(name, file, wrong):
    parser = ConfigParser()
    parser.read_config(str(find_bundle(name) / "configs" / f"{file}.yaml"))
    parser.update({"bundle_root": "nowhere", **wrong})
    with pytest.raises(RuntimeError) as raised:  # in which MONAI wraps it
        parser.get_parsed_content("initialize")
    assert re.match(f"{next(iter(wrong))} .* must be a ", str(find_user_error(raised.value)))


@pytest.mark.parametrize(
    ("limits", "taken", "refused", "rule"),
    [
        (Limits(1), [1, 10**400, np.int64(3)], [0, 1.0, True, "1", None], "a whole number, 1 or more"),
        (Limits(2, 5), [2, 5], [1, 6], "a whole number from 2 to 5"),
        (Limits(0, whole=False), [0, 1e308, np.float32(0.5)], [-5e-324, math.nan, 10**400], "a number, 0 or more"),
        (Limits(0, 1, whole=False, open=True), [5e-324, 1], [0, 1.01, math.inf], "a number above 0, at most 1"),
        (SEED, [0, 2**32 - 1], [-1, 2**32], "a whole number from 0 to 4,294,967,295"),
    ],
)
def test_what_a_range_holds(limits, taken, refused, rule):
    assert str(limits) == rule
    assert [limits.holds(value) for value in taken] == [True] * len(taken)
    assert [limits.holds(value) for value in refused] == [False] * len(refused)
