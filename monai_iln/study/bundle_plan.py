"""The plan of a study: methods x folds x learning rates x seeds x datalists, checked before anything runs."""

from __future__ import annotations

import copy
import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_iln.configuration import read_configuration
from monai_iln.errors import require
from monai_iln.run_files import DATALIST
from monai_iln.study.bundles import GRID_IDS, OUTPUT_IDS, OWN_IMAGES, Bundle, find_bundle, makes, values_of_grid
from monai_iln.study.grid import Data, Plan, Run, hash_of
from monai_iln.study.named_methods import name_methods
from monai_iln.study.settings import Study
from monai_iln.study.trial import read_data, try_methods

_IN_UNIT_INTERVAL = ("dice", "iou", "accuracy", "auc", "f1", "precision", "recall", "confusion")


def plan_bundle(study: Study, folder: Path = Path(), distributed: bool = False) -> Plan:
    """List all runs of a study, after everything that they need has been tried.

    Args:
        study: The settings of the study.
        folder: The folder of the study's configuration file. Files of the bundle are relative to it, unless the study
            names the bundle.
        distributed: If true, the processes of ``torchrun`` share every run.

    Raises:
        UserError: If something cannot be run. Methods that build the same network are such a thing.
    """
    bundle = _find(study, folder)
    evaluation, shared = _overlays(study, bundle, folder, distributed)
    methods = name_methods(study.methods)
    known = study.reference is None or study.reference in methods
    require(known, f"reference {study.reference!r}", f"methods are {list(methods)}", "choose one")
    parser = read_configuration(bundle.files, bundle.overrides)
    read_configuration((*bundle.files, *evaluation), {})  # tells which of them cannot be read
    laid_over = [ConfigParser.load_config_file(file) for file in evaluation]
    every = _validation_every(study, bundle, parser.config)
    with tempfile.TemporaryDirectory() as scratch:
        data = read_data(study, bundle, Path(scratch))
        surveys, rate, unvalidated = try_methods(study, bundle, methods, next(iter(data.values())), Path(scratch))
    common: dict[str, Any] = {
        "training": bundle.files + shared,
        "evaluation": evaluation,
        "bundle": bundle,
        "pattern": study.pattern,
        "validation_every": every,
    }
    config = copy.deepcopy(parser.config)
    decisive = laid_over  # on its own: laid over the training, it would hide what it replaces of it
    if not bundle.takes_grid:
        decisive = [every, study.pattern, dict(bundle.ids), _hash_scripts(bundle.folder), *laid_over]
    runs = []
    for name, its in data.items():
        datalist = DATALIST if len(data) == 1 else f"{Path(DATALIST).stem}_{name}.json"
        protocol = hash_of({**config, **values_of_grid(bundle, {})}, decisive, its.described["sha256"])
        hashed = [its.described["sha256"], its.described["structures"]]
        for own in _grid(study, name, its, every, [float(one) for one in study.learning_rates or [rate]]):
            for method, norm in methods.items():
                values = {"norm": norm, **own}
                decided = values if bundle.takes_grid else {"study": values}
                run = Run(
                    dataset=name,
                    method=method,
                    **values,
                    **common,
                    overrides={**bundle.overrides, **values_of_grid(bundle, {**values, "dataset_dir": its.source})},
                    config_hash=hash_of({**config, **decided}, decisive, hashed),
                    protocol_hash=protocol,
                    data=its.described,
                    datalist=datalist,
                )
                runs.append(run)
    for part in laid_over:
        parser.update(part)
    metric = None if makes(parser, OWN_IMAGES) else _metric(parser, bundle)
    return Plan(runs, data, surveys, metric, unvalidated)


def _find(study: Study, folder: Path) -> Bundle:
    """The bundle that a study names, or the one that its files are of."""
    root, files = Path(study.bundle or ""), study.training
    if study.bundle is None:
        files = [str((folder / file).resolve()) for file in study.training or ("train.yaml",)]
        root = Path(files[0]).parent.parent
    for key in study.overrides:
        require(key not in OUTPUT_IDS, f"override {key!r}", "the study itself sets it", "leave it out")
    bundle = find_bundle(root, files, study.properties, study.overrides)
    if bundle.takes_grid:
        for key in study.overrides:
            require(key not in GRID_IDS, f"override {key!r}", "the study itself sets it", "use the study's own keys")
        for key in ("pattern", "subject"):
            given, rule = getattr(study, key) is not None, "this bundle makes its norms and names its subjects itself"
            require(not given, f"{key} {getattr(study, key)!r}", rule, "leave it out")
        if study.validation_every is not None and "validation_every" in bundle.ids:
            bundle = replace(bundle, overrides={**bundle.overrides, "validation_every": study.validation_every})
    return bundle


def _overlays(study: Study, bundle: Bundle, folder: Path, distributed: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files that are laid over the training for the evaluation, and those under ``torchrun``."""
    beside = bundle.folder / "configs" if study.bundle is not None else folder
    default = ("evaluate.yaml",) if bundle.takes_grid else ()
    evaluation = tuple(str((beside / file).resolve()) for file in study.evaluation or default)
    if not distributed:
        return evaluation, ()
    require(bundle.takes_grid, "torchrun", "this bundle has no configuration for several processes", "leave it out")
    return evaluation, tuple(str(Path(bundle.files[0]).parent / file) for file in study.distributed)


def _grid(study: Study, name: str, data: Data, every: int | None, rates: Sequence[float]) -> Iterator[dict[str, Any]]:
    """What each run of a method on a data set goes through. Each fold leaves enough to train on."""
    there = data.described["folds"]
    folds: Sequence[int] = there if study.folds is None else study.folds
    wrong = sorted(set(folds) - set(there))
    require(not wrong, f"folds {wrong}", f"the datalist of {name} has {there}", "choose among them")
    new = study.splits == "new" or (study.splits is None and data.cases.dealt)
    splits = {seed: seed if new else 0 for seed in study.all_seeds}
    for fold, split in itertools.product(folds, splits.values()):
        data.cases.of_split(split).split(fold, every)
    for fold, seed, rate in itertools.product(folds, study.all_seeds, rates):
        own = {"fold": fold, "learning_rate": rate, "seed": seed}
        yield own | ({"split": splits[seed]} if splits[seed] else {})


def _hash_scripts(folder: Path) -> str:
    """Hash the code that comes with a bundle: what it does decides the result."""
    scripts = sorted(folder.glob("scripts/**/*.py"))
    return hashlib.sha256(b"".join(script.read_bytes() for script in scripts)).hexdigest()


def _validation_every(study: Study, bundle: Bundle, config: Mapping[str, Any]) -> int | None:
    """The number of training subjects of which one is held out: the study's, or the bundle's own."""
    if study.validation_every is not None:
        return study.validation_every
    every: int | None = config["validation_every"] if "validation_every" in bundle.ids and bundle.takes_grid else 5
    whole = every is None or (isinstance(every, int) and not isinstance(every, bool) and every > 0)
    require(whole, f"validation_every {every!r}", "one of so many subjects is held out", "give a whole number or null")
    return every


def _metric(parser: ConfigParser, bundle: Bundle) -> dict[str, Any]:
    """The name of the evaluator's key metric, and which of two values is better."""
    place = bundle.ids.get("val_key_metric", "")
    config = parser.get(place) if place in parser else None
    if isinstance(config, str) and config.startswith("@"):
        config = parser.get(config[1:])
    name = next(iter(config), "score") if isinstance(config, Mapping) else "score"
    compare = f"{bundle.ids['evaluator']}#metric_cmp_fn"
    higher = True
    if compare in parser:
        higher = bool(parser.get_parsed_content(compare)(1.0, 0.0))
    unit = any(word in f"{name} {config}".lower() for word in _IN_UNIT_INTERVAL)
    return {"name": str(name), "higher_is_better": higher, "in_unit_interval": unit and higher}
