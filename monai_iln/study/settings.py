"""The settings of a study, as its configuration holds them, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from monai_iln.errors import check_keys, count, require
from monai_iln.extras import require_extra
from monai_iln.limits import SEED, Limits

FIRST_SEEDS = 3
"""The seeds that a sequential study starts with: with fewer its rule would stop by luck."""


def _key(default: Any, help: str, metavar: str) -> Any:
    """Make a field with its metadata."""
    metadata = {"help": help, "metavar": metavar}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Study:
    """What ``configs/cross_validation.yaml`` holds, one field for each of its keys.

    The metadata of a field tell what it is, ``help``, and give an example of it in YAML, ``metavar``.
    """

    bundle: str | None = _key(
        None,
        "The folder of any MONAI bundle, which is trained as it is. Without it, the bundle is that of the first file "
        "of the training, and files are relative to the study's configuration.",
        "DIR",
    )
    datalist: str | None = _key(
        None,
        "The cases: a JSON file in the form of the Medical Segmentation Decathlon. Without it, those of the bundle's "
        "own configuration.",
        "FILE",
    )
    subject: str | None = _key(
        None,
        "The key of an item that holds its subject, or a regular expression whose first group is the subject in the "
        "path of an image. Without it the key is subject, or each item is a subject of its own.",
        "'patient([0-9]+)'",
    )
    num_folds: int = _key(5, "The number of folds, where the items of a datalist have none.", "5")
    splits: str | None = _key(
        None,
        "Whether the folds are made anew for each seed, 'new', or all seeds share 'one' split. By default they are new "
        "where the items of a datalist have no folds. New ones show smaller differences at the same cost.",
        "one",
    )
    validation_every: int | None = _key(
        None,
        "The number of training subjects of which one is held out for the validation; by default that of the bundle, "
        "or 5 where it has none.",
        "5",
    )
    properties: Mapping[str, str] | None = _key(
        None,
        "The ids of a bundle's configuration by the names of MONAI's properties, where a study does not find them.",
        "{train_dataset_data: train_datalist}",
    )
    pattern: str | None = _key(
        None, "A regular expression of the names of the norms to replace in a bundle; all by default.", "'^encoder'"
    )
    training: Sequence[str] | None = _key(
        None,
        "The configuration files of the training, relative to the folder configs of the bundle or to the study's "
        "configuration; train.yaml or train.json by default.",
        "[train.yaml]",
    )
    evaluation: Sequence[str] | None = _key(
        None,
        "The files that are laid over the training to evaluate the weights that it leaves; evaluate.yaml by default "
        "for a bundle whose ids are those of the grid, and none for others, which their own evaluator evaluates.",
        "[evaluate.yaml]",
    )
    distributed: Sequence[str] = _key(
        ("multi_gpu_train.yaml",),
        "The files that are laid over the training under torchrun, relative to the first file of the training.",
        "[multi_gpu_train.yaml]",
    )
    dataset_dir: str | None = _key(
        None,
        "The folder of the datalist, whose name is that of the data set. It is another way to say datalist.",
        "DIR",
    )
    datasets: Mapping[str, str] | None = _key(None, "Several datalists by name, instead of one.", "{LV: DIR, RV: DIR}")
    methods: str | Sequence[Any] | Mapping[str, Any] = _key(
        ("ILN", "IN", "LN", "GN4", "GN16", "None"),
        "The norms to compare: names with commas between them, a list of names and of norm specifications, a mapping "
        "of names to specifications, or 'paper' for the eleven methods of the paper. The method own leaves a bundle's "
        "network as it is.",
        "[ILN, IN, [GROUP, {num_groups: 8}]]",
    )
    reference: str | None = _key(None, "The method that the others are compared with; the first by default.", "ILN")
    folds: Sequence[int] | None = _key(None, "The test folds; all by default.", "[0, 1]")
    learning_rates: Sequence[float] | None = _key(
        None, "The initial learning rates; the training's own by default.", "[0.01, 0.002]"
    )
    seeds: Sequence[int] = _key((0,), "The seeds of the training.", "[0, 1, 2]")
    margin: float | None = _key(
        None,
        "The difference of mean scores that does not matter: methods are practically equal where the 90 % interval of "
        "theirs lies within it. The default is 0.01 of a score between 0 and 1, and none of other scores.",
        "0.02",
    )
    half_width: float | None = _key(
        None,
        "The wanted half-width of the 95 % intervals against the reference. The study starts with three seeds and adds "
        "one to all methods until every interval is as narrow, or max_seeds are used. It never stops because something "
        "is significant: who looks often finds false differences often.",
        "0.015",
    )
    max_seeds: int = _key(8, "The largest number of seeds of a study with half_width.", "8")
    power: bool = _key(
        False,
        "Tells from the runs so far which difference grids of other sizes would find, what they cost, and how many "
        "seeds an answer takes, and runs nothing.",
        "true",
    )
    overrides: Mapping[str, Any] = _key(
        {},
        "Values of the training by their ids, or of a bundle by the names of its properties, alike for all runs: "
        "trainer#amp is the trainer's argument amp.",
        "{max_epochs: 20}",
    )
    robustness: bool = _key(
        True,
        "Measures, from the finished weights of a bundle, the scores under changes of its test images: of intensity, "
        "place and size. Finished runs that lack it get it, too.",
        "false",
    )
    output_dir: str = _key("study", "The folder of the study.", "DIR")
    jobs: int | None = _key(
        None,
        "The number of runs at a time; by default one for each core, or on GPUs as many as their memory and the cores "
        "allow.",
        "4",
    )
    backend: str = _key("loky", "Where the runs go: loky is this machine, ray a cluster.", "ray")
    address: str | None = _key(None, "The address of the Ray cluster. Without it one is started here.", "HOST:PORT")
    gpus_per_run: float = _key(0, "The share of a GPU that Ray reserves for each run.", "0.5")
    attempts: int = _key(2, "The number of times that a run is tried before it counts as failed.", "2")
    tracking: str | Mapping[str, Any] | None = _key(
        None, "Tracks every run by MONAI's handler: mlflow, or a file or mapping of the handler's settings.", "mlflow"
    )
    dry_run: bool = _key(False, "Prints the plan and an estimate of its time, and runs nothing of it.", "true")
    redo_changed: bool = _key(
        False, "Does finished runs again whose configuration or data have changed; else they are refused.", "true"
    )

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that the study may need: those that it names and, if it is sequential, up to its budget."""
        seeds = list(self.seeds)
        while self.half_width is not None and len(seeds) < self.max_seeds:
            seeds.append(max(seeds) + 1)
        return seeds

    @property
    def first_seeds(self) -> list[int]:
        """The seeds that it starts with."""
        if self.half_width is None:
            return list(self.seeds)
        return self.all_seeds[: max(FIRST_SEEDS, len(self.seeds))]


def _is(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _is_list(value: Any, *kinds: type) -> bool:
    return _is(value, list, tuple) and len(value) > 0 and all(_is(item, *kinds) for item in value)


def _is_map(value: Any, *kinds: type) -> bool:
    return _is(value, Mapping) and all(_is(key, str) and _is(item, *kinds) for key, item in value.items())


def _number_or_none(limits: Limits) -> Callable[[Any], bool]:
    return lambda value: value is None or limits.holds(value)


_FROM_1, _ABOVE_0, _SHARE = Limits(1), Limits(0, whole=False, open=True), Limits(0, whole=False)
_MAX_SEEDS = Limits(FIRST_SEEDS, 1_000)  # each of which is planned
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bundle": (lambda v: _is(v, str, type(None)), "a folder"),
    "datalist": (lambda v: _is(v, str, type(None)), "a file"),
    "subject": (lambda v: _is(v, str, type(None)), "a key of the items, or a regular expression"),
    "num_folds": (Limits(2).holds, str(Limits(2))),
    "splits": (lambda v: v in (None, "new", "one"), "new or one"),
    "validation_every": (_number_or_none(_FROM_1), str(_FROM_1)),
    "properties": (lambda v: v is None or _is_map(v, str), "a mapping of MONAI's properties to ids"),
    "pattern": (lambda v: _is(v, str, type(None)), "a regular expression"),
    "training": (lambda v: v is None or _is_list(v, str), "a list of files"),
    "evaluation": (lambda v: v is None or _is_list(v, str), "a list of files"),
    "distributed": (lambda v: v in ([], ()) or _is_list(v, str), "a list of files"),
    "dataset_dir": (lambda v: _is(v, str, type(None)), "a folder"),
    "datasets": (lambda v: v is None or (_is_map(v, str) and bool(v)), "a mapping of names to folders"),
    "reference": (lambda v: _is(v, str, type(None)), "the name of a method"),
    "folds": (lambda v: v is None or _is_list(v, int), "a list of whole numbers such as [0]"),
    "learning_rates": (
        lambda v: v is None or (_is_list(v, int, float) and all(map(_ABOVE_0.holds, v))),
        "a list of numbers above 0 (in YAML 1.0e-3, not 1e-3)",
    ),
    "seeds": (
        lambda v: _is_list(v, int) and all(map(SEED.holds, v)),
        "a list of whole numbers such as [0], 0 or more",
    ),
    "margin": (_number_or_none(_ABOVE_0), str(_ABOVE_0)),
    "half_width": (_number_or_none(_ABOVE_0), str(_ABOVE_0)),
    "max_seeds": (_MAX_SEEDS.holds, str(_MAX_SEEDS)),
    "power": (lambda v: _is(v, bool), "true or false"),
    "overrides": (
        lambda v: _is(v, Mapping) and all(_is(key, str) for key in v),
        "a mapping of ids of the training to values",
    ),
    "robustness": (lambda v: _is(v, bool), "true or false"),
    "output_dir": (lambda v: _is(v, str) and v != "", "a folder"),
    "jobs": (_number_or_none(_FROM_1), str(_FROM_1)),
    "backend": (lambda v: v in ("loky", "ray"), "loky or ray"),
    "address": (lambda v: _is(v, str, type(None)), "HOST:PORT"),
    "gpus_per_run": (_SHARE.holds, str(_SHARE)),
    "attempts": (_FROM_1.holds, str(_FROM_1)),
    "dry_run": (lambda v: _is(v, bool), "true or false"),
    "redo_changed": (lambda v: _is(v, bool), "true or false"),
}


def read_settings(config: Mapping[str, Any]) -> Study:
    """Check the configuration of a study.

    Args:
        config: The keys and values of the configuration.

    Returns:
        The settings.

    Raises:
        UserError: If a key is unknown, or a value is of the wrong kind.

    Example:
        >>> read_settings({"methods": ["ILN", "IN"], "seeds": [0, 1]}).seeds
        [0, 1]
    """
    check_keys(config, [item.name for item in fields(Study)], "key of a study")
    study = Study(**config)
    examples = {item.name: item.metadata["metavar"] for item in fields(Study)}
    for key, (holds, rule) in _RULES.items():
        value = getattr(study, key)
        require(holds(value), f"{key} {value!r}", f"it must be {rule}", f"write for example {key}: {examples[key]}")
    for key in ("folds", "learning_rates", "seeds", "training"):
        values = list(getattr(study, key) or ())
        require(len(set(values)) == len(values), f"{key} {values!r}", "an entry occurs twice", "drop it")
    small = study.half_width is not None and study.max_seeds < len(study.seeds)
    many = f"max_seeds {study.max_seeds} and {count(len(study.seeds), 'seed')}"
    require(
        not small, many, "a sequential study adds seeds to those that it has", "raise max_seeds, or leave seeds out"
    )
    if study.tracking == "mlflow":
        require_extra("tracking 'mlflow'", "mlflow", "mlflow")
    require(
        study.address is None or study.backend == "ray",
        f"address {study.address} with backend {study.backend}",
        "a cluster is reached by the backend ray alone",
        "give --backend ray, too, or leave the address out",
    )
    given = [key for key in ("datalist", "dataset_dir", "datasets") if getattr(study, key) is not None]
    require(len(given) < 2, " and ".join(given), "they say the same in two ways", "give one of them")
    return study
