import subprocess
import sys

from monai_iln.errors import DivergedError, UserError, find_user_error

PROGRAM = """
from monai_iln.errors import DivergedError, UserError, hide_tracebacks
hide_tracebacks()
try:
    raise {error}
except Exception as error:
    raise RuntimeError("in the depths") from error
"""


def run(error):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], capture_output=True, text=True, check=False
    )


def test_a_user_error_is_found_in_the_chain():
    cause = UserError("wrong")
    middle = KeyError("middle")
    middle.__context__ = cause
    outer = RuntimeError("outer")
    outer.__cause__ = middle
    assert find_user_error(outer) is cause
    assert find_user_error(RuntimeError()) is None


def test_only_user_errors_lose_their_traceback():
    mistake, fault = run("UserError('wrong fold')"), run("KeyError('bug')")
    assert mistake.returncode == fault.returncode == 1
    assert mistake.stderr == "error: wrong fold\n"
    assert "Traceback" in fault.stderr
    assert "KeyError: 'bug'" in fault.stderr


def test_a_divergence_is_a_user_error():
    outer = RuntimeError("in the depths")
    outer.__cause__ = DivergedError("the loss is nan")
    assert find_user_error(outer) is outer.__cause__
