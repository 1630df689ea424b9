"""The settings of a study, as its configuration holds them, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any

from monai_iln.errors import UserError, check_keys, require

PAPER: dict[str, Any] = {
    "ILN": ["ILN", {"num_groups": 16}],
    "Clip": ["ILN", {"gate": "clip", "num_groups": None}],
    "Sigmoid": ["ILN", {"gate": "sigmoid", "num_groups": None}],
    "Softmax": ["ILN", {"gate": "softmax", "num_groups": None}],
    "None": None,
    "IN": ["INSTANCE", {"affine": True}],
    "LN": ["SPATIAL_LAYER", {}],
    "GN4": ["GROUP", {"num_groups": 4}],
    "GN16": ["GROUP", {"num_groups": 16}],
    "BN": ["BATCH", {}],
    "BIN": ["BIN", {}],
}
"""The paper's methods by their names in its tables, and the relatives that it leaves out."""


@dataclass(frozen=True)
class Study:
    """What ``configs/cross_validation.yaml`` holds, one attribute for each of its keys.

    Attributes:
        training: configuration files of the bundle's training, relative to the folder of the study's own.
        evaluation: files that, on top of them, evaluate the weights it leaves.
        distributed: files that, on top of them, spread the training over the processes of ``torchrun``; relative to
            the first file of the training.
        dataset_dir: folder of the datalist; ``None`` for what the training makes for itself (phantoms).
        datasets: several of them by name, instead of ``dataset_dir``.
        methods: ``"paper"`` for all of :data:`PAPER`; a list of its names and of norm specifications; or a mapping of
            names to norm specifications.
        reference: the method that the others are compared with.
        folds: test folds; ``None`` for all.
        learning_rates: initial learning rates.
        seeds: of the training.
        overrides: of the training, by id, alike for all runs.
        output_dir: folder of the study.
        jobs: runs at a time; ``None`` for one for each core, or on a GPU one for each GPU.
        backend: of joblib: ``"loky"`` for processes of this machine, ``"ray"`` for a cluster.
        address: of the Ray cluster; ``None`` starts one here.
        gpus_per_run: share of a GPU that Ray reserves for each run.
        attempts: how often a run is tried before it is reported as failed.
        tracking: ``"mlflow"`` to track every run by MONAI's handler, or a file or mapping of its settings.
        dry_run: print the plan and an estimate of its time, and run nothing of it.
        redo_changed: redo finished runs whose configuration or data have changed; otherwise they are refused.
    """

    training: Sequence[str] = ("train.yaml",)
    evaluation: Sequence[str] = ("evaluate.yaml",)
    distributed: Sequence[str] = ("multi_gpu_train.yaml",)
    dataset_dir: str | None = None
    datasets: Mapping[str, str] | None = None
    methods: Any = ("ILN", "IN", "LN", "GN4", "GN16", "None")
    reference: str | None = None
    folds: Sequence[int] | None = None
    learning_rates: Sequence[float] | None = None
    seeds: Sequence[int] = (0,)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    output_dir: str = "study"
    jobs: int | None = None
    backend: str = "loky"
    address: str | None = None
    gpus_per_run: float = 0
    attempts: int = 2
    tracking: Any = None
    dry_run: bool = False
    redo_changed: bool = False


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _is_list(value: Any, *kinds: type) -> bool:
    return _is(value, list, tuple) and len(value) > 0 and all(_is(item, *kinds) for item in value)


def _is_map(value: Any, *kinds: type) -> bool:
    return _is(value, Mapping) and all(_is(key, str) and _is(item, *kinds) for key, item in value.items())


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "training": (lambda v: _is_list(v, str), "a list of files"),
    "evaluation": (lambda v: _is_list(v, str), "a list of files"),
    "distributed": (lambda v: v in ([], ()) or _is_list(v, str), "a list of files"),
    "dataset_dir": (lambda v: _is(v, str, type(None)), "a folder"),
    "datasets": (lambda v: v is None or (_is_map(v, str) and bool(v)), "a mapping of names to folders"),
    "reference": (lambda v: _is(v, str, type(None)), "the name of a method"),
    "folds": (lambda v: v is None or _is_list(v, int), "a list of whole numbers, at least one"),
    "learning_rates": (
        lambda v: v is None or (_is_list(v, int, float) and all(0 < rate < math.inf for rate in v)),
        "a list of numbers above 0 (in YAML 1.0e-3, not 1e-3)",
    ),
    "seeds": (lambda v: _is_list(v, int), "a list of whole numbers, at least one"),
    "overrides": (lambda v: _is_map(v, object), "a mapping of ids of the training to values"),
    "output_dir": (lambda v: _is(v, str) and v != "", "a folder"),
    "jobs": (lambda v: v is None or (_is(v, int) and v > 0), "a whole number, 1 or more"),
    "backend": (lambda v: v in ("loky", "ray"), "loky or ray"),
    "address": (lambda v: _is(v, str, type(None)), "HOST:PORT"),
    "gpus_per_run": (lambda v: _is(v, int, float) and v >= 0, "a number, 0 or more"),
    "attempts": (lambda v: _is(v, int) and v > 0, "a whole number, 1 or more"),
    "dry_run": (lambda v: _is(v, bool), "true or false"),
    "redo_changed": (lambda v: _is(v, bool), "true or false"),
}


def read_settings(config: Mapping[str, Any]) -> Study:
    """The settings of a study from its configuration.

    Raises:
        UserError: for an unknown key, or a value of the wrong kind.

    Example:
        >>> read_settings({"methods": ["ILN", "IN"], "seeds": [0, 1]}).seeds
        [0, 1]
    """
    check_keys(config, [item.name for item in fields(Study)], "key of a study")
    study = Study(**config)
    for key, (holds, rule) in _RULES.items():
        value = getattr(study, key)
        require(holds(value), f"{key} {value!r}", f"it must be {rule}", "see docs/how-to/study.md")
    for key in ("folds", "learning_rates", "seeds", "training"):
        values = list(getattr(study, key) or ())
        require(len(set(values)) == len(values), f"{key} {values!r}", "an entry occurs twice", "drop it")
    tracked = study.tracking != "mlflow" or find_spec("mlflow") is not None
    require(tracked, "tracking 'mlflow'", "MLflow is not installed", "pip install 'monai-iln[mlflow]'")
    both = study.dataset_dir is not None and study.datasets is not None
    require(not both, "dataset_dir and datasets", "they say the same in two ways", "give one of them")
    return study


def name_methods(methods: Any) -> dict[str, Any]:
    """Norm specifications by the names of their methods.

    Args:
        methods: as :attr:`Study.methods`.

    Raises:
        UserError: if it is no list or mapping, or a name occurs twice or cannot name a folder.

    Example:
        >>> name_methods(["IN", "SWITCHABLE", ["GROUP", {"num_groups": 8}]])
        {'IN': ['INSTANCE', {'affine': True}], 'SWITCHABLE': 'SWITCHABLE', 'GROUP-num_groups-8': ['GROUP', ...]}
    """
    if methods == "paper":
        return dict(PAPER)
    if isinstance(methods, Mapping):
        named = list(methods.items())
    elif isinstance(methods, (list, tuple)):
        named = [(_name(spec), PAPER.get(spec, spec) if isinstance(spec, str) else spec) for spec in methods]
    else:
        raise UserError(
            f"methods {methods!r}: it must be a list of norms, a mapping of names to norms, or 'paper'. Write "
            "methods: [ILN, IN]."
        )
    require(bool(named), f"methods {methods!r}", "a study needs at least one", "write methods: [ILN, IN]")
    names = [str(name) for name, _ in named]
    check_names(names, "method")
    return {name: spec for name, (_, spec) in zip(names, named, strict=True)}


def check_names(names: Sequence[str], what: str) -> None:
    """Refuse names that cannot name folders beside one another.

    Raises:
        UserError: for the first such name.
    """
    folded = [name.casefold() for name in names]
    for name in names:
        good = 0 < len(name) <= 100 and not name.startswith(".") and not set(name) & set('/\\:*?"<>|\0')
        require(good, f"{what} {name[:120]!r}", "its name names a folder", "rename it, shortly and without slashes")
        require(folded.count(name.casefold()) == 1, f"{what} {name!r}", "it occurs twice", "give it another name")


def _name(spec: Any) -> str:
    if spec is None or isinstance(spec, str):
        return str(spec)
    try:
        name, arguments = spec
        return "-".join([str(name), *(f"{key}-{value}" for key, value in dict(arguments).items())])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"method {spec!r} has no valid form. It must be a name or a pair of a name and its arguments, for example "
            "ILN or [ILN, {num_groups: 8}]."
        ) from error
