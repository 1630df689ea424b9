import json
import signal
import subprocess
import sys

import pytest

from monai_iln import cli
from monai_iln.cli import main
from monai_iln.errors import TerminatedError


def test_prepare(official, tmp_path, capsys):
    assert main(["prepare", "sunnybrook", "--source", str(official), "--output", str(tmp_path / "a b é")]) == 0
    document = json.loads((tmp_path / "a b é" / "datalist.json").read_text())
    slices = sum(len(item["slices"]) for item in document["training"])
    assert f"{slices} slices of 6 subjects, folds of 2/2/2 subjects" in capsys.readouterr().out


def test_folds_and_seed(mirror, tmp_path):
    def folds(*options):
        output = tmp_path / "-".join(("out", *options))
        assert main(["prepare", "sunnybrook", "--source", str(mirror), "--output", str(output), *options]) == 0
        return {
            item["subject"]: item["fold"] for item in json.loads((output / "datalist.json").read_text())["training"]
        }

    assert set(folds("--folds", "2").values()) == {0, 1}
    assert folds() != folds("--seed", "1")


def test_mistakes_are_one_message(tmp_path, official, capsys):
    assert main(["prepare", "sunnybrook", "--source", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert (
        main(["prepare", "sunnybrook", "--source", str(official), "--output", str(tmp_path / "out"), "--folds", "9"])
        == 1
    )
    errors = capsys.readouterr().err.splitlines()
    messages = [line for line in errors if line.startswith("error: ")]
    assert "No such file or directory" in messages[0]
    assert "6 subjects cannot fill 9 folds" in messages[1]
    assert len(messages) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ["study", "--metods", "ILN"],
            "--metods: no option of monai-iln study. Did you mean '--methods'? monai-iln study",
        ),
        (["study", "--metods=ILN"], "--metods=ILN: no option of monai-iln study. Did you mean '--methods'?"),
        (
            ["check", "here", "there"],
            "there: no option of monai-iln check. monai-iln check --help tells what there is.",
        ),
        (
            ["simulate"],
            "the following arguments are required: --output. monai-iln simulate --help tells what there is.",
        ),
        (
            ["simulate", "--output", "x", "--subjects", "a"],
            "argument --subjects: got 'a', and it must be a whole number",
        ),
        ([], "the following arguments are required: COMMAND. monai-iln --help tells what there is."),
        (
            ["prepare", "sunnybrook", "--source", "a", "--output", "b", "--sead", "1"],
            "--sead: no option of monai-iln prepare sunnybrook. Did you mean '--seed'? monai-iln prepare sunnybrook",
        ),
        (["benchmark", "layer", "--batch", "4"], "--batch: no option of monai-iln benchmark layer."),
        (["--verbose", "bundle", "x", "--output", "y"], "--verbose: no option of monai-iln. "),
        (["study", "--method", "ILN"], "--method: no option of monai-iln study. Did you mean '--methods'?"),
        (["label-app", "a", "--bundl", "b"], "--bundl: no option of monai-iln label-app. Did you mean '--bundle'?"),
        (["bundle", "a", "--outpu=b"], "--outpu=b: no option of monai-iln bundle. Did you mean '--output'?"),
        (["phantom", "--output", "x", "--sub=4"], "--sub=4: no option of monai-iln phantom."),
    ],
    ids=str,
)
def test_a_misspelt_command_line_is_one_message(given, told, capsys):
    assert main(given) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {told}")
    assert printed.count("\n") == 1


def test_a_command_that_is_told_can_be_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("monai_iln.datasets.download.download_sunnybrook", lambda output, *_, **__: output)
    assert main(["download", "sunnybrook", "--output", "a b"]) == 0
    assert "Next: monai-iln prepare sunnybrook --source 'a b' --output DIR" in capsys.readouterr().out


def test_each_example_has_a_line(capsys):
    with pytest.raises(SystemExit):
        main(["study", "--help"])
    _, examples = capsys.readouterr().out.split("Examples:\n")
    assert [line.split()[:2] for line in examples.splitlines()] == [["monai-iln", "study"]] * 2


def test_left_out_subjects_are_warned_of(official, tmp_path, capsys):
    import shutil

    source = shutil.copytree(official, tmp_path / "copy")
    shutil.rmtree(sorted(source.glob("SCD_ManualContours/*"))[0])
    assert main(["prepare", "sunnybrook", "--source", str(source), "--output", str(tmp_path / "out")]) == 0
    assert "no-label: 1 (left out) in SC-HF-I-901. There is an image, but no label." in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["-m", "monai_iln", "--version"], ["-m", "monai_iln", "prepare", "sunnybrook", "--help"]]
)
def test_as_a_module(command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    assert "monai-iln" in done.stdout


@pytest.mark.parametrize("name", ["folders", "right-ventricle", "rv"])
def test_the_old_names_of_folders_still_work(name, tmp_path, capsys):
    assert main(["prepare", name, "--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "no data of the layout" in capsys.readouterr().err


def test_a_warning_without_tqdm_ends_no_command(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    cli._show_warning("careful")
    assert capsys.readouterr().err == "warning: careful\n"


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (PermissionError(13, "Permission denied", "a.dcm"), 1, "error: a.dcm: Permission denied. Give yourself"),
        (OSError(28, "No space left on device"), 1, "error: the disk: No space left on device. Free the disk"),
        (KeyboardInterrupt(), 130, "interrupted. What is half done has no final name."),
        (TerminatedError(signal.SIGTERM), 143, "interrupted. What is half done has no final name."),
        (KeyboardInterrupt("Run it again to go on."), 130, "interrupted. Run it again to go on."),
    ],
)
def test_what_the_system_does_is_one_message(monkeypatch, capsys, error, status, told):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("monai_iln.datasets.datalist.check_datalist", fail)
    assert main(["check", "prepared"]) == status
    assert capsys.readouterr().err.startswith(told)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("monai_iln.datasets.datalist.check_datalist", {}.__getitem__)
    with pytest.raises(TypeError):
        main(["check", "prepared"])
