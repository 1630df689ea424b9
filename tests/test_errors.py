import errno
import logging
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

import monai_iln
from monai_iln import errors
from monai_iln.datasets import DataWarning
from monai_iln.errors import (
    DivergedError,
    TerminatedError,
    UserError,
    end_as_interrupted,
    find_user_error,
    hide_tracebacks,
    refusal,
)
from monai_iln.files import write_json

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
skipped = ("monai_iln.label.", "monai_iln.norms.backends.cuda_kernels")  # need packages that are not there
for module in pkgutil.walk_packages(monai_iln.__path__, "monai_iln."):
    if not module.name.startswith(skipped) and not module.name.endswith("__main__"):
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
        for error in (UserError("wrong fold"), KeyboardInterrupt(), KeyError("bug")):
            try:
                raise error
            except BaseException:
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


def test_what_the_system_refuses_is_a_user_error():
    full = wrapped(OSError(errno.ENOSPC, "No space left on device"))
    assert str(find_user_error(full)) == ("the disk: No space left on device. Free the disk, or choose another folder.")
    closed = wrapped(PermissionError(errno.EACCES, "Permission denied", "/data/a.dcm"))
    assert str(find_user_error(closed)).startswith("/data/a.dcm: Permission denied. Give yourself the permission")
    assert find_user_error(FileNotFoundError(errno.ENOENT, "No such file", "a")) is None, "maybe a fault of the program"
    mistake = UserError("wrong")
    mistake.__cause__ = full
    assert find_user_error(mistake) is mistake


def test_what_a_program_has_dealt_with_hides_no_fault():
    def stumble():
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "/data/a.dcm")
        except OSError:
            raise KeyError("bug") from None

    with pytest.raises(KeyError) as raised:
        stumble()
    assert find_user_error(raised.value) is None


def test_a_refusal_names_the_file_and_the_first_cause():
    cause = OSError(errno.ENOSPC, "No space left on device")
    long = OSError("With tag (7fe0,0010) got exception: No space left on device\nTraceback ...")
    long.__cause__ = cause
    assert str(refusal(long, Path("out"), Path(".out-1"))).startswith(
        "out: cannot be written (No space left on device). "
    )
    copied = OSError(errno.ENOSPC, "No space left on device", "/source/a", None, ".out-1/a")
    assert str(refusal(copied, Path("out"), Path(".out-1"))).startswith("out/a: cannot be written (No space left")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (TerminatedError(signal.SIGTERM), 143),
        (TerminatedError(signal.SIGHUP), 129),
    ],
)
def test_an_interruption_is_a_line_and_a_status(program, capsys, error, status):
    program(MONAI)
    hide_tracebacks()
    with pytest.raises(SystemExit) as caught:  # from which Python takes the status
        sys.excepthook(type(error), error, None)
    assert caught.value.code == status
    assert capsys.readouterr().err == "interrupted. What is half done has no final name.\n"


def test_an_interrupted_training_tells_of_its_weights(program, capsys, tmp_path):
    program(MONAI)
    weights = tmp_path / "model.pt"

    def interrupt():
        with pytest.raises(SystemExit):
            sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
        return capsys.readouterr().err

    hide_tracebacks(weights=str(weights))
    assert interrupt() == "interrupted. There are no weights yet.\n"
    weights.touch()
    assert interrupt() == f"interrupted. The weights of this training so far: {weights}\n"
    hide_tracebacks(weights=str(weights))
    assert interrupt() == f"interrupted. This training has no weights yet: {weights} is as it was.\n"
    write_json(weights, {})
    assert interrupt() == f"interrupted. The weights of this training so far: {weights}\n"


def test_a_signal_ends_a_process_as_ctrl_c_does(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        end_as_interrupted()
        with pytest.raises(TerminatedError) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.signal == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)  # another one does not interrupt the tidying up
        monkeypatch.setattr(errors, "_TIDYING_SECONDS", 0.0)
        with pytest.raises(TerminatedError):  # unless what was raised came to nothing
            signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_as_interrupted()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "as nohup has it for SIGHUP"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_thread_hands_on_is_told_once(program, capsys):
    def write(error):
        raise error

    program(MONAI)
    hide_tracebacks()
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (full, KeyError("bug")):
        thread = threading.Thread(target=write, args=(error,))
        thread.start()
        thread.join()
    sys.excepthook(OSError, full, None)
    told = capsys.readouterr().err
    assert told.count("error: the disk: No space left on device") == 1
    assert told.count("Traceback") == 1
    assert "KeyError: 'bug'" in told


def test_one_thing_is_no_several():
    """A number stands in a message by ``count``. What is said of a part, as 1 of 3, is not meant."""
    # The number of a ``len``, not after "of", before a word in the plural.
    wrong = re.compile(
        r"(?<!of )(?<!its )(?<!subject's )(?<!the )\{len\(\w[^{}]*\)\} (?!of\b|in\b|series\b)(?:[a-z]+ )?[a-z]+s\b"
    )
    found = [
        f"{path.name}: {match[0]}"
        for path in Path(monai_iln.__file__).parent.rglob("*.py")
        for match in wrong.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []
