"""``monai-iln study``: norms compared by a bundle's own training."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from monai_iln.commands.options import describe
from monai_iln.errors import UserError
from monai_iln.study.settings import Study


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Cross-validate norms by a bundle's own training, and report which is better.\n"
        "Every option but --config_file is a key of the configuration and overrides it, written as in YAML.",
        "monai-iln study --bundle DIR --datalist FILE --methods ILN,IN,GN16 --dry_run",
        "monai-iln study --config_file configs/cross_validation.yaml --dataset_dir prepared --methods '[ILN, IN]' "
        "--folds '[0]' --overrides '{epochs: 1}' --dry_run",
    )
    parser.add_argument(
        "--config_file",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="the study's configuration, and files to lay over it; not needed with --bundle",
    )
    for item in fields(Study):
        told = f"{item.metadata['help']} Example: {item.metadata['metavar']}"
        flag: dict[str, Any] = {"nargs": "?", "const": "true"} if item.type == "bool" else {}
        parser.add_argument(
            f"--{item.name}",
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=told.replace("%", "%%"),
            **flag,
        )
    parser.set_defaults(run=_study)


def _study(options: argparse.Namespace) -> None:
    from monai_iln.study import CrossValidationWorkflow

    known = {item.name for item in fields(Study)}
    given = {key: _value(key, text) for key, text in vars(options).items() if key in known}
    workflow = CrossValidationWorkflow([str(file) for file in options.config_file], **given)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _value(key: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"--{key} {text!r}: it is not YAML. Write lists as '[ILN, IN]', mappings as '{{epochs: 1}}'."
        ) from error
