"""The plan of a study on any bundle: its cases, what each method does to its network, and its runs."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_iln.configuration import read_configuration
from monai_iln.errors import UserError, find_user_error, require, root_cause
from monai_iln.study.bundles import Bundle, find_bundle
from monai_iln.study.cases import Cases, make_cases, read_cases
from monai_iln.study.grid import OUTPUT_IDS, Plan, Run, hash_of
from monai_iln.study.settings import Study, check_names, name_methods
from monai_iln.study.training import OpenBundle
from monai_iln.study.worker import logged

_IN_UNIT_INTERVAL = ("dice", "iou", "accuracy", "auc", "f1", "precision", "recall", "confusion")


def plan_bundle(study: Study) -> Plan:
    """List all runs of a study on a bundle, after everything that they need has been tried.

    Args:
        study: The settings of the study, with a bundle.

    Raises:
        UserError: If something cannot be run. Methods that build the same network are such a thing.
    """
    assert study.bundle is not None
    for key in study.overrides:
        require(key not in OUTPUT_IDS, f"override {key!r}", "the study itself sets it", "leave it out")
    bundle = find_bundle(Path(study.bundle), study.training, study.properties, study.overrides)
    methods = name_methods(study.methods)
    known = study.reference is None or study.reference in methods
    require(known, f"reference {study.reference!r}", f"methods are {list(methods)}", "choose one")
    with tempfile.TemporaryDirectory() as scratch:
        cases, surveys, rate = _try(study, bundle, methods, Path(scratch))
    check_names([cases.name], "name of a datalist")
    data = cases.describe()
    folds = data["folds"] if study.folds is None else study.folds
    wrong = sorted(set(folds) - set(data["folds"]))
    require(not wrong, f"folds {wrong}", f"the datalist of {cases.name} has {data['folds']}", "choose among them")
    new = study.splits == "new" or (study.splits is None and cases.dealt)
    splits = {seed: seed if new else 0 for seed in study.seeds}
    for fold, split in itertools.product(folds, splits.values()):
        cases.of_split(split).split(fold, study.validation_every)
    parser = read_configuration(bundle.files, bundle.overrides)
    rates = [float(rate) for rate in study.learning_rates or [rate]]
    common = [study.validation_every, study.pattern, dict(bundle.ids), _hash_scripts(bundle.folder)]
    protocol = hash_of(dict(parser.config), common, data["sha256"])
    runs = []
    for fold, seed, rate, (method, norm) in itertools.product(folds, study.seeds, rates, methods.items()):
        own: dict[str, Any] = {"norm": norm, "fold": fold, "learning_rate": rate, "seed": seed}
        if splits[seed]:
            own["split"] = splits[seed]
        run = Run(
            dataset=cases.name,
            method=method,
            **own,
            training=bundle.files,
            evaluation=(),
            overrides=dict(bundle.overrides),
            config_hash=hash_of({**parser.config, "study": own}, common, [data["sha256"], data["structures"]]),
            protocol_hash=protocol,
            data=data,
            bundle=bundle,
            pattern=study.pattern,
            validation_every=study.validation_every,
        )
        runs.append(run)
    return Plan(runs, cases, surveys, _metric(parser, bundle))


def _hash_scripts(folder: Path) -> str:
    """Hash the code that comes with a bundle: what it does decides the result."""
    scripts = sorted(folder.glob("scripts/**/*.py"))
    return hashlib.sha256(b"".join(script.read_bytes() for script in scripts)).hexdigest()


def _try(
    study: Study, bundle: Bundle, methods: Mapping[str, Any], scratch: Path
) -> tuple[Cases, dict[str, Any], float]:
    """Find the cases, and build the network with every method.

    Returns:
        The cases, what each method does to the network, and the bundle's own learning rate.
    """
    trial = Run("", "", None, 0, 0.0, study.seeds[0], bundle.files, (), dict(bundle.overrides), "", "", {}, bundle)
    surveys, rate = {}, 0.0
    cases = None if study.datalist is None else read_cases(Path(study.datalist), study.subject, study.num_folds)
    what = "its configuration"
    try:
        for number, (method, norm) in enumerate(tqdm(methods.items(), desc="Methods", unit="network", leave=False)):
            what = f"its network with the method {method}"
            method_run = replace(trial, norm=norm, pattern=study.pattern)
            with contextlib.closing(OpenBundle(method_run, scratch / str(number))) as opened, logged(None):
                opened.start({})
                surveys[method] = opened.survey
                if number == 0:
                    what = "its optimizer"
                    optimizer = opened.get("optimizer")
                    rate = 0.0 if optimizer is None else float(optimizer.param_groups[0]["lr"])
                    what = "its data"
                    cases = cases or _own_cases(study, opened)
    except Exception as error:  # a configuration may raise anything
        told = find_user_error(error)
        raise told or UserError(
            f"{bundle.files[0]}: {what} cannot be made ({root_cause(error)}). Try the training alone first: "
            "python -m monai.bundle run."
        ) from error
    assert cases is not None
    require(
        rate > 0 or study.learning_rates is None,
        "learning_rates",
        "the trainer's configuration has no optimizer to set them in",
        "name its id with --properties '{optimizer: ID}', or leave them out",
    )
    _refuse_twins(surveys)
    return cases, surveys, rate


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
