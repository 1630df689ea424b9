"""The options of ``monai-iln study`` and ``monai-iln report``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from monai_iln.study.settings import Study


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two commands; what they leave in ``run`` is to be called with the result."""
    study = commands.add_parser(
        "study",
        help="cross-validate norms on a datalist and report which is better",
        description="Every option but --config_file is a key of the configuration and overrides it, written as in "
        "YAML: --methods '[ILN, IN]' --folds '[0]' --overrides '{epochs: 1}'.",
    )
    study.add_argument(
        "--config_file", type=Path, nargs="+", required=True, metavar="FILE", help="the study's, and overlays"
    )
    for item in fields(Study):
        flag = {"nargs": "?", "const": "true"} if item.type == "bool" else {}
        study.add_argument(f"--{item.name}", type=_value, default=argparse.SUPPRESS, metavar="YAML", **flag)  # type: ignore[arg-type]
    study.set_defaults(run=_study)
    report = commands.add_parser("report", help="write tables and report of a study again, finished or under way")
    report.add_argument("folder", type=Path, help="output_dir of the study")
    report.set_defaults(run=_report)


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not YAML") from error


def _study(options: argparse.Namespace) -> None:
    from monai_iln.study.workflow import CrossValidationWorkflow  # here: MONAI takes seconds to import

    known = {item.name for item in fields(Study)}
    given = {key: value for key, value in vars(options).items() if key in known}
    workflow = CrossValidationWorkflow([str(file) for file in options.config_file], **given)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _report(options: argparse.Namespace) -> None:
    from monai_iln.study.workflow import report

    report(options.folder)
