"""The workflow as MONAI's command line and as Python programs use it."""

import json
import logging
import subprocess
import sys
import warnings

import pytest
import torch
from monai.bundle.scripts import run_workflow
from running import CONFIG, settings_of

import monai_iln.study
from monai_iln.errors import UserError
from monai_iln.study import CrossValidationWorkflow
from monai_iln.study.workflow import report

MONAI = "/somewhere/monai/bundle/__main__.py"
WORKFLOW = "monai_iln.study.CrossValidationWorkflow"


@pytest.mark.slow
def test_it_runs_from_monais_command_line(study, prepared):
    folder, _ = study
    options = [f"--{key}={json.dumps(value)}" for key, value in settings_of(prepared, folder).items()]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run_workflow", WORKFLOW, "--config_file", str(CONFIG), *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 runs, 6 finished, 0 to do" in done.stdout


def test_a_report_of_no_study_is_one_message(tmp_path):
    with pytest.raises(UserError, match="no study"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("methods: [ILN", "not a configuration"), ("- 1", "it must hold keys and values"), (None, "no such file")],
)
def test_a_wrong_configuration_is_one_message(tmp_path, text, message):
    file = tmp_path / "study.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        CrossValidationWorkflow(str(file))


@pytest.mark.filterwarnings("ignore:parsing config_file")  # MONAI warns of configurations that others wrote
@pytest.mark.parametrize("lacking", [False, True])
def test_monais_command_line_prints_one_line(program, missing, monkeypatch, capsys, lacking):
    program(MONAI)
    monkeypatch.delitem(vars(monai_iln.study), "CrossValidationWorkflow", raising=False)
    message = "error: 'metods' is no key of a study. Did you mean 'methods'?"
    if lacking:
        missing("pandas", "monai_iln.study.workflow")
        message = 'error: monai_iln.study needs pandas, which is not installed. Run: pip install "monai-iln[study]"'
    with pytest.raises(UserError) as caught:
        run_workflow(WORKFLOW, config_file=str(CONFIG), metods=["ILN"])
    sys.excepthook(caught.type, caught.value, caught.tb)
    told = capsys.readouterr().err
    assert told.startswith(message)
    assert told.count("\n") == 1


def test_constructing_it_changes_nothing_else():
    def state():
        root = logging.getLogger()
        filters = [handler.filters[:] for handler in [*root.handlers, logging.lastResort]]
        return sys.excepthook, root.handlers[:], root.filters[:], filters, warnings.filters[:], torch.get_num_threads()

    before = state()
    CrossValidationWorkflow(str(CONFIG))
    with pytest.raises(UserError, match="Did you mean 'methods'"):
        CrossValidationWorkflow(str(CONFIG), metods=["ILN"])
    assert state() == before
