import json
import sys

import pytest
from monai.bundle import ConfigParser

from monai_iln.configuration import check_command_line, check_values, read_configuration
from monai_iln.errors import UserError

PROGRAM = "/somewhere/monai/bundle/__main__.py"


@pytest.fixture
def config(tmp_path):
    """Two files of which the second is laid over the first."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    optimizer = "{_target_: torch.optim.AdamW, lr: 1}"
    others = "loader: {_target_: DataLoader}\ncall: {_target_: builtins.dict}"
    first.write_text(f"fold: 0\nstages: [{{rate: 1}}]\noptimizer: {optimizer}\n{others}\n")
    second.write_text("part: test\n")
    return first, second


def check(monkeypatch, *arguments, program=PROGRAM):
    monkeypatch.setattr(sys, "argv", [program, "run", "training", *map(str, arguments)])
    check_command_line()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fold", "1"],
        ["--fold=1", "--stages#0#rate", "-2"],
        ["--optimizer#betas", "[0.9, 0.99]", "--logging_file", "logging.conf"],
        ["--optimizer::lr", "2", "--stages#0#_disabled_", "True"],
        ["--loader#pin_memory", "True"],  # which MONAI's DataLoader hands on to torch's
        ["--call#anything", "2"],  # which nobody can check
    ],
)
def test_ids_that_are_there(monkeypatch, config, arguments):
    check(monkeypatch, "--config_file", config[0], *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flod", "1"], "'flod' is no id of the configuration. Did you mean 'fold'?"),
        (["--flod=1"], "'flod' is no id of the configuration. Did you mean 'fold'?"),
        (["--flod"], "'flod' is no id of the configuration"),
        (["-flod", "2"], "'flod' is no id of the configuration"),  # Fire takes one hyphen, too
        (["--stages#1#rate", "2"], "'stages#1#rate' is no id of the configuration. Did you mean 'stages#0#rate'?"),
        (["--optimizer#beta", "2"], "'beta' is no argument of torch.optim.AdamW. Did you mean 'betas'?"),
        (["--part", "validation"], "'part' is no id of the configuration"),
        (["--loader#pin_memry", "True"], "'pin_memry' is no argument of DataLoader. Did you mean 'pin_memory'?"),
    ],
)
def test_ids_that_are_not(monkeypatch, config, arguments, message):
    with pytest.raises(UserError) as error:
        check(monkeypatch, "--config_file", config[0], *arguments)
    assert str(error.value).startswith(message)


def test_several_files_and_arguments_from_a_file(monkeypatch, config, tmp_path):
    check(monkeypatch, "--config_file", f"['{config[0]}','{config[1]}']", "--part", "validation")
    arguments = tmp_path / "arguments.json"
    for given, known in (({"part": "test"}, True), ({"prat": "test"}, False)):
        arguments.write_text(json.dumps({"config_file": [str(file) for file in config]} | given))
        if known:
            check(monkeypatch, "--args_file", arguments)
        else:
            with pytest.raises(UserError, match="Did you mean 'part'"):
                check(monkeypatch, f"--args_file={arguments}")
    arguments.write_text(json.dumps({"config_file": "nowhere.yaml"}))
    check(monkeypatch, "--args_file", arguments, "--config-file", config[0])  # the command line has precedence


def test_other_programs_have_options_of_their_own(monkeypatch):
    check(monkeypatch, "--flod", "1", program="/usr/bin/monai-iln")
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run_workflow", "--workflow_name", "ConfigWorkflow"])
    check_command_line()


CONFIG = {
    "epochs": 20,
    "learning_rate": 1,
    "standardize": True,
    "norm": "ILN",
    "roi_size": [48, 48],
    "dataset_dir": None,
    "num_workers": "$os.cpu_count()",
    "loss": {"_target_": "DiceCELoss", "softmax": True, "lambda_dice": 1.0},
    "trainer": {"max_epochs": "@epochs", "amp": False},
    "net": {"_target_": "scripts.nets.Net", "width": 8},
    "engine": {"_target_": "SupervisedTrainer", "max_epochs": 2},
    "steps": {"_target_": "Compose", "transforms": []},
}


@pytest.mark.parametrize(
    "overrides",
    [
        {"standardize": False},
        {"standardize": "$not @other"},
        {"trainer#amp": True},
        {"learning_rate": 0.5},  # which is written as a whole number in the configuration
        {"loss#lambda_dice": 2},
        {"epochs": "@other"},
        {"epochs": None},
        {"norm": ["GROUP", {"num_groups": 8}]},
        {"norm": None},
        {"roi_size": 48},
        {"dataset_dir": "data"},
        {"num_workers": 0},
        {"trainer#max_epochs": 3},
        {"trainer#epoch_length": None},
        {"loss": {"_target_": "torch.nn.L1Loss", "reduction": "$1 / 0"}},
        {"loss#_target_": "$monai.losses.DiceLoss"},
        {"net#_target_": "scripts.nets.Other"},  # which can be imported only where the bundle runs
        {"net": {"_target_": "DenseBlock"}},  # of several modules
        {"engine#amp": True},
        {"engine#amp": "$@other"},
        {"engine#prepare_batch": "text"},  # of which the default tells no kind
        {"steps#log_stats": "logger"},  # false by default, or the name of a logger
        {"net#deep": "text"},  # whose defaults are not known
        {"loss": {"_target_": "DiceLoss", "sigmoid": True, "reduction": "mean", "squared_pred": "@other"}},
    ],
)
def test_values_of_the_right_kind(overrides):
    check_values(ConfigParser(CONFIG), overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"standardize": "false"},
            "override standardize 'false': the configuration has true there. Give true",
        ),
        ({"standardize": 0}, "override standardize 0: the configuration has true there"),
        ({"loss#softmax": "yes"}, "override loss#softmax 'yes': the configuration has true there"),
        ({"engine#amp": "yes"}, "override engine#amp 'yes': the argument is false by default. Give true or false"),
        (
            {"loss": {"_target_": "DiceLoss", "sigmoid": "no"}},
            "override loss#sigmoid 'no': the argument is false by default. Give true or false",
        ),
        (
            {"transforms": [{"_target_": "Resized", "keys": "image", "anti_aliasing": "false"}]},
            "override transforms#0#anti_aliasing 'false': the argument is false by default",
        ),
        ({"epochs": "x"}, "override epochs 'x': the configuration has 20 there. Give a number, without quotes"),
        ({"learning_rate": "1e-3"}, r"override learning_rate '1e-3': .*in YAML 1\.0e-3, not 1e-3"),
        ({"loss#lambda_dice": True}, "override loss#lambda_dice true: the configuration has 1.0 there"),
        ({"norm": 3}, "override norm 3: the configuration has 'ILN' there. Give a text"),
        ({"epochs": 0}, "override epochs 0: it counts something. Remedy: give a whole number, 1 or more"),
        ({"epochs": 2.5}, "override epochs 2.5: it counts something"),
        ({"trainer#max_epochs": -1}, "override trainer#max_epochs -1: it counts something"),
        ({"trainer#max_epochs": "x"}, "override trainer#max_epochs 'x': it counts something"),
        ({"trainer#val_interval": True}, "override trainer#val_interval true: it counts something"),
        ({"loader": {"batch_size": 0}}, "override loader#batch_size 0: it counts something"),
        ({"val_batch_size": [2]}, r"override val_batch_size \[2\]: it counts something"),
        ({"num_workers": -3}, "override num_workers -3: it counts something. Remedy: give a whole number, 0 or more"),
        ({"loss#_target_": "DiceCELos"}, "_target_ 'DiceCELos': it names nothing that can be called"),
        ({"loss": {"_target_": "torch.nn.L3Loss"}}, "_target_ 'torch.nn.L3Loss': it names nothing"),
        ({"post": [{"_target_": "monai.data"}]}, "_target_ 'monai.data': it names nothing that can be called"),
    ],
)
def test_values_of_another_kind(overrides, message):
    with pytest.raises(UserError, match=message):
        check_values(ConfigParser(CONFIG), overrides)


def test_a_configuration_is_not_read_with_such_values(config):
    assert read_configuration([str(file) for file in config], {"fold": 1})["fold"] == 1
    with pytest.raises(UserError, match="override fold 'x': the configuration has 0 there"):
        read_configuration([str(file) for file in config], {"fold": "x"})


def test_arguments_of_a_bundles_own_script_are_not_known(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("net: {_target_: scripts.nets.Net}\n")
    assert read_configuration([str(file)], {"net#depth": 3})["net#depth"] == 3


def test_a_file_is_parsed_once_while_it_stays_as_it_is(config, monkeypatch):
    parsed, load = [], ConfigParser.load_config_file

    def count(file):
        parsed.append(file)
        return load(file)

    monkeypatch.setattr(ConfigParser, "load_config_file", count)
    files = [str(file) for file in config]
    read_configuration(files, {"fold": 1})["stages"].append("another's")
    again = read_configuration(files, {})
    assert parsed == files
    assert (again["fold"], again["stages"], again["part"]) == (0, [{"rate": 1}], "test")
    config[1].write_text("part: text\n")  # as long as before
    assert read_configuration(files, {})["part"] == "text"
