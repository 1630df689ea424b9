"""Reads configurations of bundles and checks their ids and values, which MONAI does not do."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        UserError: If a file is missing or no configuration, if an override names an id that there is not, or if
            :func:`check_values` refuses its value.
    """
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file. A training needs the files of its bundle: correct their names.")
    parser = _Files()
    try:
        parser.read_config(list(files))
    except Exception as error:  # the parser of YAML has exceptions of its own
        raise UserError(f"{', '.join(files)}: not a configuration ({error}). Correct it.") from error
    _check_ids(parser, overrides)
    check_values(parser, overrides)
    parser.update(dict(overrides))
    return parser


class _Files(ConfigParser):
    """Parses a file once while its bytes stay the same: the plan of a study asks for the same files again and again."""

    @classmethod
    def load_config_file(cls, filepath: Any, **kwargs: Any) -> dict[str, Any]:
        return copy.deepcopy(_parse(str(filepath), Path(filepath).read_bytes()))


@functools.lru_cache(maxsize=32)
def _parse(file: str, content: bytes) -> dict[str, Any]:
    return ConfigParser.load_config_file(file)  # type: ignore[no-any-return]


def check_values(parser: ConfigParser, overrides: Mapping[str, Any]) -> None:
    """Refuse overrides of the wrong kind, before anything is built of them.

    True or false, a number and a text do not replace one another. No text replaces true or false of an argument that
    the configuration leaves at its default: ``"false"`` would be true. What counts something is a whole number, and
    what is instantiated exists. ``None``, expressions (``$``) and references (``@``) may be anything.

    Args:
        parser: The configuration that they are to override.
        overrides: The new values by their ids.

    Raises:
        UserError: If there is such a value.

    Example:
        >>> check_values(ConfigParser({"epochs": 20}), {"epochs": "x"})
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: override epochs 'x': the configuration has 20 there. Give a number, ...
    """
    for key, value in overrides.items():
        if key in parser:
            _check_kind(key, value, parser[key])
        elif _kind(value) is str and isinstance(default := _default(parser, key), bool):
            _check_kind(key, value, default, _BY_DEFAULT)
        for place, part in _parts(key, value):
            name = place.rpartition("#")[2]
            if name == "_target_" and isinstance(part, str):
                _find_called(part)
            elif isinstance(part, Mapping) and isinstance(part.get("_target_"), str):
                _check_component(place, part)
            elif name in _COUNTS or name.endswith("batch_size"):
                _check_count(place, part, least=1)
            elif name.endswith("num_workers"):
                _check_count(place, part, least=0)


# What a value is, if it is neither None nor an expression nor several values.
_KINDS = {
    bool: "true or false, without quotes",
    float: "a number, without quotes (in YAML 1.0e-3, not 1e-3)",
    str: "a text",
}
_COUNTS = ("epochs", "max_epochs", "num_epochs", "epoch_length", "val_interval", "num_samples")


_BY_DEFAULT = "the argument is {} by default"


def _check_kind(key: str, value: Any, old: Any, what_is: str = "the configuration has {} there") -> None:
    kind = _kind(old)
    if kind is not None and _kind(value) not in (None, kind):
        raise UserError(f"override {key} {_as_yaml(value)}: {what_is.format(_as_yaml(old))}. Give {_KINDS[kind]}.")


def _check_component(place: str, component: Mapping[str, Any]) -> None:
    """Refuse texts for arguments of a component that are true or false by default."""
    defaults = _arguments(component["_target_"]) or {}
    for argument, value in component.items():
        default = defaults.get(argument)
        if isinstance(default, bool) and _kind(value) is str:
            _check_kind(f"{place}#{argument}", value, default, _BY_DEFAULT)


def _check_count(place: str, value: Any, least: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    is_open = value is None or (isinstance(value, str) and _kind(value) is None)
    got = f"override {place} {_as_yaml(value)}"
    require(is_whole or is_open, got, "it counts something", f"give a whole number, {least} or more")


def _kind(value: Any) -> type | None:
    if isinstance(value, bool):
        return bool
    if isinstance(value, (int, float)):  # 0 and 0.5 may both be a rate
        return float
    if isinstance(value, str) and not value.startswith(("$", "@", "%")):
        return str
    return None


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


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


def _find_called(target: str) -> Any:
    """Find what a ``_target_`` names. ``None`` stands for what is not known yet: an expression, or a bundle's script.

    Raises:
        UserError: If there is no such thing.
    """
    top = target.partition(".")[0]
    if _kind(target) is None or (top != target and top not in sys.modules):
        return None
    path = target
    modules = _locator().get_component_module_name(target)
    if modules:  # of several, MONAI takes the first
        path = f"{modules if isinstance(modules, str) else modules[0]}.{target}"
    called = locate(path)
    require(
        callable(called), f"_target_ {target!r}", "it names nothing that can be called", "correct the configuration"
    )
    return called


@functools.cache
def _locator() -> ComponentLocator:
    return ComponentLocator()  # which looks into all of MONAI


def _default(parser: ConfigParser, key: str) -> Any:
    """The default of an argument that a configuration leaves out; ``None`` where it is not known."""
    parent, _, argument = key.rpartition("#")
    target = parser.get(f"{parent}#_target_")
    arguments = None if target is None else _arguments(str(target))
    return None if arguments is None else arguments.get(argument)


def _default_of(parameter: inspect.Parameter) -> Any:
    """The default of an argument; ``None`` where a text may stand as well, as in ``bool | str``."""
    return None if "str" in str(parameter.annotation) else parameter.default


def _arguments(target: str) -> dict[str, Any] | None:
    """The arguments of a ``_target_``, with their defaults.

    ``None`` stands for any: it hands on whatever it gets, or is not known.
    """
    called = _find_called(target)
    if called is None:
        return None
    chain: list[Any] = [called]
    if isinstance(called, type):
        chain = [base for base in called.__mro__[:-1] if "__init__" in vars(base)]
    found: dict[str, Any] = {}
    for one in chain:  # a class with **kwargs hands them to the next
        try:
            parameters = inspect.signature(one).parameters.values()
        except ValueError:  # written in C, without a signature
            return None
        named = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        found = {parameter.name: _default_of(parameter) for parameter in named} | found
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return found
    return None


def ids_of(config: Any, prefix: str = "") -> list[str]:
    """List all ids of a configuration, as the command line of MONAI writes them."""
    return [place for key, value in _children(config) for place, _ in _parts(prefix + key, value)]


def _parts(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value and all that it holds, with their ids."""
    yield place, value
    for key, child in _children(value):
        yield from _parts(f"{place}#{key}", child)


def _children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, list):
        return [(str(index), child) for index, child in enumerate(value)]
    return []


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
