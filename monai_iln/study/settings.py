"""The settings of a study, as its configuration holds them, checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from monai_iln.errors import UserError, require

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
        distributed: files that, on top of them, spread the training over the processes of ``torchrun``.
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


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse unknown keys, and name the nearest known one.

    Raises:
        UserError: for the first key that is not known.

    Example:
        >>> check_keys(["metods"], ["methods", "folds"], "key of a study")
        Traceback (most recent call last):
            ...
        monai_iln.errors.UserError: 'metods' is no key of a study. Did you mean 'methods'? ...
    """
    known = list(known)
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            some = ", ".join(known if len(known) < 40 else [name for name in known if "#" not in name])
            raise UserError(f"{key!r} is no {what}.{hint} There are: {some}.")


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
    for key in ("training", "evaluation", "distributed", "folds", "learning_rates", "seeds"):
        value = getattr(study, key)
        listed = isinstance(value, (list, tuple)) and (bool(value) or key in ("distributed", "evaluation"))
        optional = value is None and key in ("folds", "learning_rates")
        require(
            listed or optional, f"{key} {value!r}", "it must be a list with at least one entry", f"write {key}: [...]"
        )
        values = list(value or ())
        require(len(set(map(str, values))) == len(values), f"{key} {value!r}", "an entry occurs twice", "drop it")
    for key, kinds in (("folds", int), ("seeds", int), ("learning_rates", (int, float))):
        for value in getattr(study, key) or ():
            number = isinstance(value, kinds) and not isinstance(value, bool)
            require(number, f"{key}: {value!r}", "it must hold numbers", "in YAML write 1.0e-3, not 1e-3")
    for value in study.learning_rates or ():
        require(0 < value < float("inf"), f"learning_rates: {value!r}", "a rate is positive", "choose another")
    require(
        isinstance(study.overrides, Mapping),
        f"overrides {study.overrides!r}",
        "it must map ids to values",
        "{id: value}",
    )
    require(study.backend in ("loky", "ray"), f"backend {study.backend!r}", "it is loky or ray", "choose one")
    for key, least in (("jobs", 1), ("attempts", 1)):
        value = getattr(study, key)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        require(
            whole or (value is None and key == "jobs"),
            f"{key} {value!r}",
            "it must be a whole number, 1 or more",
            "choose one",
        )
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
    for name in names:
        good = name and not name.startswith(".") and not set(name) & set('/\\:*?"<>|\0')
        require(bool(good), f"method {name!r}", "its name names a folder", "rename it without slashes and the like")
        require(names.count(name) == 1, f"method {name!r}", "it occurs twice", "drop it, or give it another name")
    return {name: spec for name, (_, spec) in zip(names, named, strict=True)}


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
