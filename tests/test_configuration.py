import json
import sys

import pytest

from monai_iln.configuration import check_command_line
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
