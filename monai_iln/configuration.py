"""Reads configurations of bundles and checks their ids, which MONAI does not do."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser, run

from monai_iln.errors import UserError, check_keys, is_monai_command, require
from monai_iln.extras import require_extra


def read_configuration(files: Sequence[str], overrides: Mapping[str, Any]) -> ConfigParser:
    """Read a configuration and override some of its values.

    Args:
        files: The files. Later ones are laid over earlier ones.
        overrides: The new values by their ids.

    Raises:
        UserError: If a file is missing or no configuration, or if an override names an id that there is not.
    """
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file. A training needs the files of its bundle: correct their names.")
    parser = ConfigParser()
    try:
        parser.read_config(list(files))
    except Exception as error:  # the parser of YAML has exceptions of its own
        raise UserError(f"{', '.join(files)}: not a configuration ({error}). Correct it.") from error
    _check_ids(parser, overrides)
    parser.update(dict(overrides))
    return parser


def _check_ids(parser: ConfigParser, ids: Iterable[str]) -> None:
    known = ids_of(parser.config)
    for key in ids:
        parent, _, argument = key.rpartition("#")
        if parent in known and argument.startswith("_"):  # _disabled_ and its kin, which MONAI reads
            continue
        target = None
        if parent in known and key not in known:  # the id may be of an argument that is left at its default
            target = parser.get(f"{parent}#_target_")
        if target is None:
            check_keys([key], known, "id of the configuration")
        elif (arguments := _arguments(str(target))) is not None:
            check_keys([argument], arguments, f"argument of {target}")


def _arguments(target: str) -> list[str] | None:
    """Name the arguments of a ``_target_``. ``None`` stands for any: it hands on whatever it gets."""
    path = target
    module = ComponentLocator().get_component_module_name(target)
    if isinstance(module, str):
        path = f"{module}.{target}"
    called = locate(path)
    require(
        callable(called), f"_target_ {target!r}", "it names nothing that can be called", "correct the configuration"
    )
    chain: list[Any] = [called]
    if isinstance(called, type):
        chain = [base for base in called.__mro__[:-1] if "__init__" in vars(base)]
    names: list[str] = []
    for one in chain:  # a class with **kwargs hands them to the next
        try:
            parameters = inspect.signature(one).parameters.values()
        except ValueError:  # written in C, without a signature
            return None
        names += [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return names
    return None


def ids_of(config: Any, prefix: str = "") -> list[str]:
    """List all ids of a configuration, as the command line of MONAI writes them."""
    if isinstance(config, Mapping):
        children = [(str(key), value) for key, value in config.items()]
    elif isinstance(config, list):
        children = [(str(index), value) for index, value in enumerate(config)]
    else:
        return []
    ids = []
    for key, value in children:
        ids += [prefix + key, *ids_of(value, f"{prefix}{key}#")]
    return ids


def check_command_line() -> None:
    """Refuse ids that the configuration lacks, on the command line of ``python -m monai.bundle run``.

    MONAI adds what it does not find: with ``--flod 2``, fold 0 would run. This is for the ``initialize`` of a bundle.
    It does nothing where another program runs the configuration.

    Raises:
        MissingExtraError: If a package is missing that a bundle needs.
        UserError: If there is such an id. The message names the nearest one that there is.
    """
    if not is_monai_command() or sys.argv[1:2] != ["run"]:
        return
    # Before MONAI makes handlers that need them, and wraps what they raise.
    require_extra("this bundle", "bundle", "matplotlib", "PIL", "tensorboard", "tqdm")
    given: dict[str, Any] = {}
    for option, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        if match := re.fullmatch(r"--?([A-Za-z_][^=]*)(?:=(.*))?", option, re.DOTALL):  # one hyphen is enough for Fire
            name, value = match.groups(following)
            given[name.replace("-", "_").replace("::", "#")] = value
    if "args_file" in given:
        given = ConfigParser.load_config_file(given["args_file"]) | given
    files = given.get("config_file", ())
    if isinstance(files, str) and files.startswith(("[", "(")):
        files = ast.literal_eval(files)
    parser = ConfigParser()
    parser.read_config(files)
    own = inspect.signature(run).parameters
    _check_ids(parser, [name for name in given if name not in own])
