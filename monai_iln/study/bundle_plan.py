"""The plan of a study: its cases, what each method does to its network, and its runs."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_iln.configuration import read_configuration
from monai_iln.errors import UserError, find_user_error, require, root_cause
from monai_iln.run_files import DATALIST
from monai_iln.study.bundles import GRID_IDS, OUTPUT_IDS, Bundle, find_bundle, makes
from monai_iln.study.cases import Cases, make_cases, read_cases
from monai_iln.study.grid import Plan, Run, hash_of
from monai_iln.study.settings import Study, check_names, name_methods
from monai_iln.study.training import OWN_IMAGES, OpenBundle
from monai_iln.study.worker import logged

_IN_UNIT_INTERVAL = ("dice", "iou", "accuracy", "auc", "f1", "precision", "recall", "confusion")


class _Data(NamedTuple):
    """A data set of a study.

    Attributes:
        cases: The cases.
        described: Its description, see :meth:`~monai_iln.study.cases.Cases.describe`.
        source: Where it comes from; ``None`` if the training makes it.
    """

    cases: Cases
    described: Mapping[str, Any]
    source: str | None


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
    evaluated = read_configuration((*bundle.files, *evaluation), {})
    every = _validation_every(study, bundle, parser.config)
    with tempfile.TemporaryDirectory() as scratch:
        data = _read_data(study, bundle, Path(scratch))
        surveys, rate = _try(study, bundle, methods, next(iter(data.values())), Path(scratch))
    rates = [float(rate) for rate in study.learning_rates or [rate]]
    # Laid over the training, the evaluation would hide what it replaces of it.
    decisive = [ConfigParser.load_config_file(file) for file in evaluation]
    if not bundle.takes_grid:
        decisive = [every, study.pattern, dict(bundle.ids), _hash_scripts(bundle.folder), *decisive]
    runs = []
    for name, its in data.items():
        folds = _choose_folds(study, name, its, every)
        protocol = hash_of({**parser.config, **_of_grid(bundle, {})}, decisive, its.described["sha256"])
        for fold, seed, rate, (method, norm) in itertools.product(folds, study.seeds, rates, methods.items()):
            own: dict[str, Any] = {"norm": norm, "fold": fold, "learning_rate": rate, "seed": seed}
            decided = {"study": own} if not bundle.takes_grid else own
            run = Run(
                dataset=name,
                method=method,
                **own,
                training=bundle.files + shared,
                evaluation=evaluation,
                overrides={**bundle.overrides, **_of_grid(bundle, {**own, "dataset_dir": its.source})},
                config_hash=hash_of(
                    {**parser.config, **decided}, decisive, [its.described["sha256"], its.described["structures"]]
                ),
                protocol_hash=protocol,
                data=its.described,
                bundle=bundle,
                pattern=study.pattern,
                validation_every=every,
                datalist=DATALIST if len(data) == 1 else f"{Path(DATALIST).stem}_{name}.json",
            )
            runs.append(run)
    return Plan(
        runs,
        {name: its.cases for name, its in data.items()},
        {name: its.source for name, its in data.items()},
        surveys,
        None if makes(evaluated, OWN_IMAGES) else _metric(parser, bundle),
    )


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


def _of_grid(bundle: Bundle, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the ids of the grid, where a bundle has them. The method own leaves the norm as it is."""
    if not bundle.takes_grid:
        return {}
    own = str(values.get("norm")).strip().upper() == "OWN"
    return {key: values.get(key) for key in GRID_IDS if key != "norm" or not own}


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


def _read_data(study: Study, bundle: Bundle, scratch: Path) -> dict[str, _Data]:
    """Read the data sets by their names."""
    given: dict[str | None, Path | None] = {None: None if study.datalist is None else Path(study.datalist).resolve()}
    if study.datasets is not None:
        check_names([str(name) for name in study.datasets], "data set")
        given = {str(name): Path(path).resolve() for name, path in study.datasets.items()}
    elif study.dataset_dir is not None:
        folder = Path(study.dataset_dir).resolve()
        given = {folder.name.removesuffix(".json"): folder}
    found = {}
    for name, path in given.items():
        with _tried(bundle, "its data"):
            data = _data_of_grid(bundle, path) if bundle.takes_grid else _data_of(study, bundle, path, scratch)
        name = name or data.cases.name
        check_names([name], "name of a datalist")
        found[name] = data
    return found


def _data_of_grid(bundle: Bundle, path: Path | None) -> _Data:
    """The data as a bundle with the ids of the grid describes them. Without a path it makes its own."""
    source = None if path is None else str(path)
    overrides = {**bundle.overrides, "bundle_root": str(bundle.folder), "dataset_dir": source}
    parser = read_configuration(bundle.files, overrides)
    described = dict(parser.get_parsed_content("data"))
    made = Path(source or parser.get_parsed_content("datalist"))
    cases = read_cases(made)
    return _Data(cases if path is not None else replace(cases, name=made.name), described, source)


def _data_of(study: Study, bundle: Bundle, path: Path | None, scratch: Path) -> _Data:
    """The data of a datalist, or those that the bundle's own configuration lists."""
    if path is not None:
        cases = read_cases(path, study.subject, study.num_folds)
        return _Data(cases, cases.describe(), str(path))
    with _opened(_trial(study, bundle, "OWN", {}), scratch / "own") as opened:
        cases = _own_cases(study, opened)
    return _Data(cases, cases.describe(), f"the configuration of {bundle.folder}")


def _choose_folds(study: Study, name: str, data: _Data, every: int | None) -> Sequence[int]:
    """The test folds of a data set, each of which leaves enough to train on."""
    there = data.described["folds"]
    folds: Sequence[int] = there if study.folds is None else study.folds
    wrong = sorted(set(folds) - set(there))
    require(not wrong, f"folds {wrong}", f"the datalist of {name} has {there}", "choose among them")
    for fold in folds:
        data.cases.split(fold, every)
    return folds


def _trial(study: Study, bundle: Bundle, norm: Any, described: Mapping[str, Any]) -> Run:
    """A run that is only opened."""
    overrides = dict(bundle.overrides)
    if "norm" in (taken := _of_grid(bundle, {"norm": norm})):
        overrides["norm"] = taken["norm"]
    seed, pattern = study.seeds[0], study.pattern
    return Run("", "", norm, 0, 0.0, seed, bundle.files, (), overrides, "", "", described, bundle, pattern)


@contextlib.contextmanager
def _opened(run: Run, root: Path) -> Iterator[OpenBundle]:
    """A bundle whose network is made, and what it prints thrown away."""
    with contextlib.closing(OpenBundle(run, root)) as opened, logged(None):
        opened.start({})
        yield opened


@contextlib.contextmanager
def _tried(bundle: Bundle, what: str) -> Iterator[None]:
    """Tell in one message that something of a bundle cannot be made."""
    try:
        yield
    except Exception as error:  # a configuration may raise anything
        told = find_user_error(error)
        raise told or UserError(
            f"{bundle.files[0]}: {what} cannot be made ({root_cause(error)}). Try the training alone first: "
            "python -m monai.bundle run."
        ) from error


def _try(
    study: Study, bundle: Bundle, methods: Mapping[str, Any], data: _Data, scratch: Path
) -> tuple[dict[str, Any], float]:
    """Build the network with every method.

    Returns:
        What each method does to the network, and the bundle's own learning rate.
    """
    surveys, rate = {}, 0.0
    for number, (method, norm) in enumerate(tqdm(methods.items(), desc="Methods", unit="network", leave=False)):
        run = _trial(study, bundle, norm, data.described)
        with (
            _tried(bundle, f"its network with the method {method}"),
            _opened(run, scratch / str(number)) as opened,
        ):
            surveys[method] = opened.survey
            if number == 0:
                rate = opened.own_rate()
    require(
        rate > 0 or study.learning_rates is None,
        "learning_rates",
        "the trainer's configuration has no optimizer to set them in",
        "name its id with --properties '{optimizer: ID}', or leave them out",
    )
    _refuse_twins(surveys)
    return surveys, rate


def _own_cases(study: Study, opened: OpenBundle) -> Cases:
    """The items that a bundle trains and validates on, each once."""
    items: dict[str, Any] = {}
    for name in ("train_dataset_data", "val_dataset_data"):
        found = opened.get(name)
        whole = isinstance(found, (list, tuple)) and all(isinstance(item, Mapping) for item in found)
        require(
            whole and len(found) > 0,
            f"{opened.bundle.ids[name]}: {str(found)[:80]}",
            "it must be a list of items such as {image: FILE, label: FILE}, and not empty",
            "give the cases with --datalist FILE, or mend the folder of the data among the overrides",
        )
        for item in found:
            items.setdefault(repr(sorted(item.items(), key=str)), dict(item))
    return make_cases(opened.bundle.folder.name, list(items.values()), (), study.subject, study.num_folds)


def _refuse_twins(surveys: Mapping[str, Any]) -> None:
    """Refuse two methods that build the same modules: a network would be compared with itself."""
    by_fingerprint: dict[str, str] = {}
    for method, survey in surveys.items():
        twin = by_fingerprint.setdefault(survey["fingerprint"], method)
        require(
            twin == method,
            f"methods {twin} and {method}",
            "both build the same network, which would be compared with itself",
            "drop one of them; own is the bundle's network as it is",
        )


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
