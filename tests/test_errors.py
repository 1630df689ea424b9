import logging
import subprocess
import sys
import warnings

import pytest
from monai.bundle import ConfigWorkflow

from monai_iln.datasets import DataWarning
from monai_iln.errors import DivergedError, UserError, find_user_error, hide_tracebacks

MONAI = "/somewhere/monai/bundle/__main__.py"

# What an import must leave as it is. Other packages, which are not ours to judge, are imported before.
STATE = """
import importlib, logging, pkgutil, sys, warnings
import ignite, joblib, matplotlib.pyplot, monai, monai.bundle, nibabel, pandas, scikit_posthocs, torch.profiler, tqdm
import monai.handlers, monai.metrics, monai.networks.nets, monai.optimizers, statsmodels.api, yaml

def state():
    root = logging.getLogger()
    return (sys.excepthook, sys.path[:], root.level, root.handlers[:], root.filters[:], logging.lastResort.filters[:],
            warnings.filters[:], warnings.showwarning, torch.get_num_threads(), torch.initial_seed(),
            dict(matplotlib.rcParams))

before = state()
import monai_iln
skipped = ("monai_iln.label.app", "monai_iln.norms.backends.cuda_kernels")  # need packages that are not there
for module in pkgutil.walk_packages(monai_iln.__path__, "monai_iln."):
    if module.name not in skipped and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = state()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""


def wrapped(error):
    """What MONAI makes of an error in a configuration."""
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("in the depths") from cause
    except RuntimeError as outer:
        return outer


def test_a_user_error_is_found_in_the_chain():
    cause = UserError("wrong")
    middle = KeyError("middle")
    middle.__context__ = cause
    outer = RuntimeError("outer")
    outer.__cause__ = middle
    assert find_user_error(outer) is cause
    assert find_user_error(RuntimeError()) is None


def test_a_divergence_is_a_user_error():
    outer = wrapped(DivergedError("the loss is nan"))
    assert find_user_error(outer) is outer.__cause__


def test_only_user_errors_lose_their_traceback(program, capsys):
    program(MONAI)
    hide_tracebacks()
    mistake, fault = wrapped(UserError("wrong fold")), wrapped(KeyError("bug"))
    sys.excepthook(type(mistake), mistake, mistake.__traceback__)
    assert capsys.readouterr().err == "error: wrong fold\n"
    sys.excepthook(type(fault), fault, fault.__traceback__)
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "KeyError: 'bug'" in told


def test_engines_log_no_user_error(program):
    program(MONAI)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        hide_tracebacks()
        for error in (UserError("wrong fold"), KeyError("bug")):
            try:
                raise error
            except Exception:
                logging.getLogger("an engine").exception("terminated by %s", type(error).__name__)
    finally:
        logging.getLogger().removeHandler(handler)
    assert lines == ["terminated by KeyError"]


def test_other_programs_keep_their_tracebacks(program):
    program("/usr/bin/monai-iln")
    before = sys.excepthook, logging.lastResort.filters[:]
    hide_tracebacks()
    assert (sys.excepthook, logging.lastResort.filters[:]) == before


def test_a_process_of_one_task_says_so_itself(program, capsys):
    program("/usr/bin/monailabel")
    hide_tracebacks(own_process=True)
    mistake = wrapped(UserError("wrong label"))
    sys.excepthook(type(mistake), mistake, mistake.__traceback__)
    assert capsys.readouterr().err == "error: wrong label\n"


@pytest.mark.slow
def test_importing_any_module_changes_nothing_else():
    subprocess.run([sys.executable, "-c", STATE], check=True)


def test_a_bundle_names_the_command_that_installs_what_it_lacks(program, missing, tmp_path, capsys):
    program(MONAI)
    missing("matplotlib", "monai_iln.handlers")
    config = tmp_path / "train.yaml"
    config.write_text(
        "imports: [$import monai_iln, $import monai_iln.errors, $import monai_iln.handlers]\n"
        "initialize: [$monai_iln.errors.hide_tracebacks(), $monai_iln.handlers]\n"
    )
    with pytest.raises(RuntimeError) as caught:
        ConfigWorkflow(str(config), logging_file=False).initialize()
    sys.excepthook(caught.type, caught.value, caught.tb)
    assert capsys.readouterr().err == (
        'error: monai_iln.handlers needs matplotlib, which is not installed. Run: pip install "monai-iln[bundle]"\n'
    )


def test_warnings_of_ours_are_a_line(program):
    program("/somewhere/pytest")
    hide_tracebacks()
    usual = warnings.formatwarning(DataWarning("doubtful"), DataWarning, "io.py", 3)
    assert "io.py:3: DataWarning: doubtful" in usual
    program(MONAI)
    hide_tracebacks()
    assert warnings.formatwarning(DataWarning("doubtful"), DataWarning, "io.py", 3) == "warning: doubtful\n"
    assert "io.py:3: UserWarning: other" in warnings.formatwarning("other", UserWarning, "io.py", 3)
