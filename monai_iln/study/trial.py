"""What is tried before the first run of a study: its data are read, and its network is made with every method."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_iln.configuration import read_configuration
from monai_iln.errors import UserError, find_user_error, require, root_cause
from monai_iln.handlers.cases import NoCaseScoresError
from monai_iln.names import require_visible
from monai_iln.run_files import DATALIST
from monai_iln.study import training
from monai_iln.study.bundles import Bundle, values_of_grid
from monai_iln.study.cases import Cases, make_cases, read_cases, require_files
from monai_iln.study.gpus import forget_memory
from monai_iln.study.grid import Data, Run
from monai_iln.study.named_methods import check_names
from monai_iln.study.open_bundle import OpenBundle
from monai_iln.study.progress import ScoresProgress
from monai_iln.study.settings import Study
from monai_iln.study.worker import logged


def read_data(study: Study, bundle: Bundle, scratch: Path) -> dict[str, Data]:
    """Read the data sets by their names."""
    given: dict[str | None, Path | None] = {None: None if study.datalist is None else Path(study.datalist).resolve()}
    if study.datasets is not None:
        check_names([str(name) for name in study.datasets], "data set")
        given = {str(name): Path(path).resolve() for name, path in study.datasets.items()}
    elif study.dataset_dir is not None:
        folder = Path(study.dataset_dir).resolve()
        _require_datalist(folder, bundle)
        given = {folder.name.removesuffix(".json"): folder}
        require_visible(folder.name, "data set")
    found = {}
    for name, path in given.items():
        with _tried(bundle, "its data"):
            data = _data_of_grid(bundle, path) if bundle.takes_grid else _data_of(study, bundle, path, scratch)
        if name is None:
            name = data.cases.name
            check_names([name], "name of a datalist")
        found[name] = data
    return found


def _require_datalist(path: Path, bundle: Bundle) -> None:
    """Tell the study's ``dataset_dir`` from that of a bundle, where it names no datalist."""
    own = bundle.ids.get("dataset_dir")
    require(
        bundle.takes_grid or own is None or not path.is_dir() or (path / DATALIST).is_file(),
        f"dataset_dir {path}: no {DATALIST} lies there",
        "this key names the cases of a study, and not the folder of the bundle's own list",
        f"give the cases with --datalist FILE, or the folder with --overrides '{{{own}: {path}}}'",
    )


def _data_of_grid(bundle: Bundle, path: Path | None) -> Data:
    """The data as a bundle with the ids of the grid describes them. Without a path it makes its own."""
    source = None if path is None else str(path)
    overrides = {**bundle.overrides, "bundle_root": str(bundle.folder), "dataset_dir": source}
    parser = read_configuration(bundle.files, overrides)
    described = dict(parser.get_parsed_content("data"))
    made = Path(source or parser.get_parsed_content("datalist"))
    cases = read_cases(made)
    return Data(cases if path is not None else replace(cases, name=made.name), described, source)


def _data_of(study: Study, bundle: Bundle, path: Path | None, scratch: Path) -> Data:
    """The data of a datalist, or those that the bundle's own configuration lists."""
    if path is not None:
        cases = read_cases(path, study.subject, study.num_folds)
        return Data(cases, cases.describe(), str(path))
    with _opened(_trial(study, bundle, "OWN", {}), scratch / "own") as opened:
        cases = _own_cases(study, opened)
    return Data(cases, cases.describe(), f"the configuration of {bundle.folder}")


def _trial(study: Study, bundle: Bundle, norm: Any, described: Mapping[str, Any]) -> Run:
    """A run that is only opened."""
    overrides = dict(bundle.overrides)
    if "norm" in (taken := values_of_grid(bundle, {"norm": norm})):
        overrides["norm"] = taken["norm"]
    seed, pattern = study.seeds[0], study.pattern
    return Run("", "", norm, 0, 0.0, seed, bundle.files, (), overrides, "", "", described, bundle, pattern)


@contextlib.contextmanager
def _opened(run: Run, root: Path) -> Iterator[OpenBundle]:
    """A bundle whose network is made, and what it prints thrown away."""
    with contextlib.closing(OpenBundle(run, root)) as opened, logged(None):
        opened.start({}, surveyed=True)
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


def try_methods(
    study: Study, bundle: Bundle, methods: Mapping[str, Any], data: Data, scratch: Path
) -> tuple[dict[str, Any], float, tuple[int, int] | None]:
    """Build the network with every method.

    Returns:
        What each method does to the network, the bundle's own learning rate, and the lengths that
        :meth:`~monai_iln.study.open_bundle.OpenBundle.unvalidated` tells.
    """
    surveys, rate, unvalidated = {}, 0.0, None
    for number, (method, norm) in enumerate(tqdm(methods.items(), desc="Methods", unit="network", leave=False)):
        run = _trial(study, bundle, norm, data.described)
        with (
            _tried(bundle, f"its network with the method {method}"),
            _opened(run, scratch / str(number)) as opened,
        ):
            surveys[method] = opened.survey
            if number == 0:
                rate, unvalidated = opened.own_rate(), opened.unvalidated()
    require(
        rate > 0 or study.learning_rates is None,
        "learning_rates",
        "the trainer's configuration has no optimizer to set them in",
        "name its id with --properties '{optimizer: ID}', or leave them out",
    )
    _refuse_twins(surveys)
    return surveys, rate, unvalidated


def try_scores(run: Run, data: Data) -> None:
    """Refuse a study whose evaluator tells no score of a case: all of its runs would train for nothing.

    One run tells it for all: whether the kind of the metric, and the loader and transforms of the validation, tell
    cases apart depends on neither method nor data set.

    What else goes wrong with two cases and an untrained network may be due to these: the first run tells it.

    Args:
        run: A run of the study.
        data: Its data.

    Raises:
        NoCaseScoresError: If nothing tells a score of each case.
    """
    with tempfile.TemporaryDirectory() as scratch, ScoresProgress():
        try:
            with logged(None):
                training.try_scores(run, data.cases.of_split(run.split), Path(scratch))
        except Exception as error:  # of the bundle, which may raise anything
            refused = find_user_error(error)
            if isinstance(refused, NoCaseScoresError):
                raise refused from None
        finally:
            forget_memory()


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
    require_files(f"the configuration of {opened.bundle.folder}", "the current folder", list(items.values()))
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
