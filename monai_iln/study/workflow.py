"""The study as a workflow of MONAI's bundles."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import yaml
from monai.bundle import BundleWorkflow, ConfigParser

from monai_iln.cluster import connect_to_ray
from monai_iln.errors import UserError, is_monai_command, require
from monai_iln.extras import require_extra
from monai_iln.files import write_json
from monai_iln.machine import describe_commit, describe_versions
from monai_iln.run_files import STUDY
from monai_iln.study.bundle_plan import plan_bundle
from monai_iln.study.estimate import count_jobs, estimate_seconds
from monai_iln.study.grid import Plan, Run
from monai_iln.study.named_methods import name_methods
from monai_iln.study.plan_words import describe, describe_methods
from monai_iln.study.progress import duration
from monai_iln.study.protocol import describe_protocol
from monai_iln.study.records import find_runs
from monai_iln.study.report import report
from monai_iln.study.scheduler import (
    forget_failures,
    locked,
    measure_robustness,
    pending,
    run_all,
    run_on_all_ranks,
)
from monai_iln.study.settings import Study, read_settings
from monai_iln.study.sizing import describe_power, stopping_sentence, widest_interval
from monai_iln.study.trial import try_scores


class CrossValidationWorkflow(BundleWorkflow):
    """Train and evaluate a bundle with several norms over all folds, and report which one is better.

    Every run is the bundle's own training. Finished runs are kept: the same command goes on where it was interrupted,
    and extends a study whose grid has grown.

    Args:
        config_file: The study's configuration, such as a bundle's ``configs/cross_validation.yaml``, or several, of
            which later ones overlay earlier ones. The bundle's files are looked for beside the first. With ``bundle``
            among the other keys no file is needed.
        override: Other values of its keys, see :class:`~monai_iln.study.settings.Study`.

    Raises:
        UserError: If a key is unknown, or something could not be run. This is told before anything runs.

    Example:
        ``python -m monai.bundle run_workflow --workflow_name monai_iln.study.CrossValidationWorkflow
        --config_file configs/cross_validation.yaml --dataset_dir DIR``
    """

    def __init__(self, config_file: str | Sequence[str] = (), **override: Any) -> None:
        logger = logging.getLogger("monai.bundle.workflows")
        level, logger.level = logger.level, logging.WARNING  # that a study has no properties is as it must be
        super().__init__(workflow_type=None)
        logger.setLevel(level)
        files = [config_file] if isinstance(config_file, (str, Path)) else list(config_file)
        self.config_folder = Path(files[0]).parent if files else Path()
        self.study: Study = read_settings(_merge([*_read(files), override]))
        require(
            bool(files) or self.study.bundle is not None,
            "no configuration and no bundle",
            "a study needs one of them",
            "give --bundle DIR, or --config_file FILE",
        )
        self.folder = Path(self.study.output_dir).resolve()
        self.plan = Plan([])

    @property
    def runs(self) -> list[Run]:
        """The runs of the plan."""
        return self.plan.runs

    def initialize(self) -> None:
        """Check everything, and make the plan. With ``power`` there is none: records tell, and nothing runs."""
        if self.study.power:
            return
        if self.study.backend == "ray":
            require_extra("backend 'ray'", "ray", "ray")
        if self.study.address is not None and not self.study.dry_run:  # now: to plan takes longer
            connect_to_ray(self.study.address, self.study.jobs, self.study.gpus_per_run)
        distributed = int(os.environ.get("WORLD_SIZE", 1)) > 1  # torchrun
        if distributed and idist.get_world_size() == 1:
            idist.initialize("nccl" if torch.cuda.is_available() else "gloo")
        self.plan = plan_bundle(self.study, self.config_folder, distributed)
        first = self.runs[0]
        if self.plan.metric is not None and not distributed and not find_runs(self.folder):  # whose scores would tell
            try_scores(first, self.plan.data[first.dataset])

    def run(self) -> None:
        """Do what is missing, then write tables and report.

        Raises:
            UserError: If :func:`~monai_iln.study.scheduler.pending` refuses something, and in the end if runs failed.
        """
        if self.study.power:
            print(describe_power(self.folder, count_jobs(self.study, self.folder)))
            return
        if self.study.dry_run:
            self._estimate()
            return
        leads = idist.get_rank() == 0
        with locked(self.folder) if leads else contextlib.nullcontext():
            todo = pending(self.runs, self.folder, self.study.redo_changed)
            idist.barrier()  # all have looked before anything is done
            if leads:
                self._tell_plan(todo)
            try:
                self._run_seeds(self.study.first_seeds)
            except KeyboardInterrupt as error:
                error.args = ("Every finished run is kept: give the same command again to go on.",)
                raise

    def _run_seeds(self, seeds: list[int]) -> None:
        """Do the runs of some seeds and, of a sequential study, of one more as long as its rule asks for it."""
        leads = idist.get_rank() == 0
        while len(seeds) < len(self.study.all_seeds) and not self._lacks(self.study.all_seeds[len(seeds)]):
            seeds = self.study.all_seeds[: len(seeds) + 1]  # an earlier start has been there already
        while True:
            runs = [run for run in self.runs if run.seed in seeds]
            if leads:
                self._write_study(seeds)
                forget_failures(runs, self.folder)
            todo = pending(runs, self.folder, self.study.redo_changed)
            if idist.get_world_size() > 1:
                run_on_all_ranks(todo, self.study, self.folder)
            else:
                run_all(todo, self.study, self.folder)
                self._measure_robustness(runs)
            if leads:
                report(self.folder)
            if self.study.half_width is None:
                return
            width, which = widest_interval(self.folder)
            print(stopping_sentence(width, which, self.study, len(seeds)))
            if not width > self.study.half_width or len(seeds) >= len(self.study.all_seeds):
                return
            seeds = self.study.all_seeds[: len(seeds) + 1]

    def _lacks(self, seed: int) -> bool:
        """Whether a run of a seed is not finished."""
        return bool(pending([run for run in self.runs if run.seed == seed], self.folder, self.study.redo_changed))

    def _measure_robustness(self, runs: Sequence[Run]) -> None:
        if self.study.robustness:
            for line in measure_robustness(runs, self.study, self.folder):
                print(line)

    def _estimate(self) -> None:
        """Print the plan and how long it would take."""
        if idist.get_world_size() > 1:
            raise UserError("dry_run: under torchrun it would estimate nothing. Start it without.")
        todo = pending(self.runs, self.folder, self.study.redo_changed)
        self._tell_plan(todo)
        if todo:
            seconds, source = estimate_seconds(todo, self.folder, self.study, self.plan.data)
            print(f"estimated time: {duration(seconds)}, from {source}")

    def _tell_plan(self, todo: Sequence[Run]) -> None:
        print(describe(self.runs, todo))
        print(describe_methods(self.plan))

    def finalize(self) -> None:
        """Leave the process group, if ``torchrun`` made one."""
        idist.finalize()

    def _get_property(self, name: str, property: dict[str, Any]) -> Any:
        raise AttributeError(f"a study has no {name}: each of its runs is a training that has")

    def _set_property(self, name: str, property: dict[str, Any], value: Any) -> Any:
        raise AttributeError(f"a study has no {name}: set it for its runs, by 'overrides'")

    def _write_study(self, seeds: Sequence[int]) -> None:
        """Write the grid to ``study.json``, so that the folder can be read without its configuration."""
        methods = name_methods(self.study.methods)
        first = self.runs[0]
        for dataset, datalist in {run.dataset: run.datalist for run in self.runs}.items():
            self.plan.data[dataset].cases.write(self.folder / datalist)
        folds: dict[str, list[int]] = {}
        for dataset, fold in sorted({(run.dataset, run.fold) for run in self.runs}):
            folds.setdefault(dataset, []).append(fold)
        document = {
            "format": 1,
            "methods": methods,
            "reference": self.study.reference or next(iter(methods)),
            "folds": folds,
            "learning_rates": sorted({run.learning_rate for run in self.runs}, reverse=True),
            "seeds": list(seeds),
            "margin": self.study.margin,
            "datasets": {run.dataset: {**run.data, "path": self.plan.data[run.dataset].source} for run in self.runs},
            "training": [Path(file).name for file in first.training],
            "overrides": dict(self.study.overrides),
            "preset": "paper" if self.study.methods == "paper" else None,
            "bundle": first.bundle.folder.name,
            "surveys": self.plan.surveys,
            "epochs_and_rates_share_validation": self.plan.epochs_and_rates_share_validation,
            "command": _command(),
            "working_dir": os.path.relpath(Path.cwd(), self.folder),  # an absolute one may name the user
            "versions": describe_versions(),
            "commit": describe_commit(),
        }
        if first.bundle.takes_grid:
            document["protocol"] = describe_protocol(first.training, first.overrides)
        if self.plan.metric is not None:
            document["metric"] = self.plan.metric
        write_json(self.folder / STUDY, document)


def _command() -> str:
    """Name the command that this process was started with."""
    program = Path(sys.argv[0])
    name = program.name
    if is_monai_command():
        name = "python -m monai.bundle"
    elif name == "__main__.py":
        name = f"python -m {program.parent.name}"
    return f"{name} {shlex.join(sys.argv[1:])}"


def _read(files: Sequence[str | Path]) -> list[Mapping[str, Any]]:
    parts = []
    for file in files:
        if not Path(file).is_file():
            raise UserError(
                f"{file}: no such file. Give the configuration of a study, as configs/cross_validation.yaml."
            )
        try:
            part = ConfigParser.load_config_file(file)
        except (ValueError, yaml.YAMLError) as error:
            raise UserError(f"{file}: not a configuration ({error}). Correct it.") from error
        if not isinstance(part, Mapping):
            raise UserError(f"{file}: it must hold keys and values. See a bundle's configs/cross_validation.yaml.")
        parts.append(part)
    return parts


def _merge(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay later keys over earlier ones, and do so within ``overrides``."""
    merged: dict[str, Any] = {}
    for part in parts:
        both = [merged.get("overrides"), part.get("overrides")]
        merged |= part
        if all(isinstance(overrides, Mapping) for overrides in both):
            merged["overrides"] = {**both[0], **both[1]}  # type: ignore[dict-item]
    return merged
