"""One run of a study: a bundle's own trainer and evaluator, with another norm, other data, seed and rate."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.utils import instantiate
from monai.utils.enums import CompInitMode

from monai_iln.errors import DivergedError, find_user_error, require
from monai_iln.files import write_json
from monai_iln.run_files import CASE, LENGTH, OVERRIDES, WEIGHTS
from monai_iln.study.bundles import OWN_IMAGES, makes
from monai_iln.study.cases import Cases, image_of, read_cases
from monai_iln.study.grid import Run
from monai_iln.study.open_bundle import OpenBundle

BUNDLE = "bundle"
"""The folder of a run in which the bundle works."""


def train_and_evaluate(
    run: Run, folder: Path, scratch: Path, device: str | None = None, tracking: Any = None
) -> tuple[str | None, float]:
    """Train a bundle, and evaluate the weights that its validation chose on held-out and on test subjects.

    Args:
        run: The run.
        folder: The folder of the study, which holds its datalist.
        scratch: The folder that the run leaves its files in.
        device: The device, if it is not the bundle's own.
        tracking: The tracking of the training as :class:`~monai_iln.study.settings.Study` has it.

    Returns:
        The message of a training that diverged, else ``None``, and the seconds of the evaluation.

    Raises:
        UserError: If the bundle does not do what its properties promise.
    """
    cases = read_cases(folder / run.datalist).of_split(run.split)
    parts = cases.split(run.fold, run.validation_every)
    _let_loaders_start()
    rank = idist.get_rank()
    opened = OpenBundle(run, scratch / (f"{BUNDLE}_{rank}" if rank else BUNDLE), device)
    if rank == 0:
        write_json(scratch / OVERRIDES, opened.overrides)
    try:
        opened.start(_values(opened, cases, parts, "validation"), tracking=tracking)
        _train(opened, scratch)
        idist.barrier()  # the weights are there
        begun = time.perf_counter()
        for part in ("validation", "test"):
            if parts[part]:
                opened.start(_values(opened, cases, parts, part), part)
                _evaluate(opened, scratch, cases, parts[part], part)
        return None, time.perf_counter() - begun
    except Exception as error:
        diverged = find_user_error(error)
        if isinstance(diverged, DivergedError):
            return str(diverged), 0.0
        raise
    finally:
        opened.close()


def try_scores(run: Run, cases: Cases, scratch: Path) -> None:
    """Score two test cases as a run does, by a network that is not trained.

    Args:
        run: The run.
        cases: The cases of the study.
        scratch: The folder to work in.

    Raises:
        UserError: If nothing tells a score of each case.
    """
    parts = cases.split(run.fold, run.validation_every)
    parts["test"] = parts["test"][:2]  # schedules may ask how long the training is
    opened = OpenBundle(run, scratch / BUNDLE)
    try:
        opened.start(_values(opened, cases, parts, "test"), "test")
        torch.save(opened.network.state_dict(), scratch / WEIGHTS)
        _evaluate(opened, scratch, cases, parts["test"], "test")
    finally:
        opened.close()


def measure_robustness(run: Run, folder: Path, scratch: Path, device: str | None) -> None:
    """Score the test subjects of a finished run under changes of their images, and leave the table in its folder.

    Args:
        run: The run. Of a trial, only one case is scored.
        folder: The folder of the study.
        scratch: The folder to work in.
        device: The device, if it is not the bundle's own.

    Raises:
        UserError: If the evaluator has no inferer, or its weights are gone.
    """
    cases = read_cases(folder / run.datalist).of_split(run.split)
    parts = cases.split(run.fold, run.validation_every)
    if run.trial_steps is not None:
        parts["test"] = parts["test"][:1]
    weights = folder / run.path / WEIGHTS
    require(weights.is_file(), f"{weights}: no such file", "robustness is measured from it", "do the run again")
    _let_loaders_start()
    opened = OpenBundle(run, scratch / BUNDLE, device)
    try:
        # The training's own evaluator, on the test subjects: what is laid over it for the evaluation saves images.
        opened.start(_values(opened, cases, {**parts, "validation": parts["test"]}, "test"))
        _evaluate(opened, folder / run.path, cases, parts["test"], "test", "SaveRobustness")
    finally:
        opened.close()


def _values(opened: OpenBundle, cases: Cases, parts: Mapping[str, Sequence[int]], part: str) -> dict[str, Any]:
    """What a bundle gets of the cases: all parts where it has an id for them, else items to train and validate on."""
    items = {name: _items(cases, numbers) for name, numbers in parts.items()}
    if "parts" in opened.bundle.ids:
        return {"parts": items}
    return {"train_dataset_data": items["training"], "val_dataset_data": items[part]}


def _let_loaders_start() -> None:
    """Let the data loaders of a bundle start processes as in any program: joblib's workers cannot."""
    if (multiprocessing.get_start_method(allow_none=True) or "").startswith("loky"):
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)


def _items(cases: Cases, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {**cases.items[number], "subject": cases.subjects[number], "fold": cases.folds[number], CASE: place}
        for place, number in enumerate(numbers)
    ]


def _train(opened: OpenBundle, scratch: Path) -> None:
    trainer = opened.make_trainer()
    evaluator = opened.get("evaluator")
    network = opened.network
    opened.attach(trainer, "SaveCost", network=network, output_dir=str(scratch), evaluator=evaluator)
    opened.attach(trainer, "TrainingCurves", evaluator=evaluator, output_dir=str(scratch))
    opened.attach(trainer, "SaveGates", network=network, output_dir=str(scratch))
    path = scratch / WEIGHTS
    opened.attach(evaluator, "SaveWeights", network=network, path=str(path))
    epochs, length = trainer.state.max_epochs, trainer.state.epoch_length
    ends: list[float] = []  # of steps
    if opened.run.trial_steps is not None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: ends.append(time.perf_counter()))
        trainer.state.max_epochs, trainer.state.epoch_length = 1, min(length, opened.run.trial_steps)
    trainer.run()
    if idist.get_rank() > 0:
        return
    told = {"epochs": epochs, "epoch_length": length}
    if opened.run.trial_steps is not None:
        told |= {**_try_validation(opened, evaluator, epochs), "seconds_between_steps": time_of_step(ends)}
    write_json(scratch / LENGTH, told)
    if not path.is_file():  # it never validated, or has no key metric
        torch.save(network.state_dict(), path)


def time_of_step(ends: Sequence[float]) -> float | None:
    """The mean time from the end of a step to that of the next, loading included; ``None`` of a single step.

    The first step makes much that stays, and in the second the memory is measured: they do not count where others do.
    """
    warm = ends[1:] if len(ends) > 2 else ends
    return (warm[-1] - warm[0]) / (len(warm) - 1) if len(warm) > 1 else None


def _try_validation(opened: OpenBundle, evaluator: Any, epochs: int) -> dict[str, Any]:
    """How often a training validates, and how long that takes where the one epoch of a trial had no validation."""
    interval = int(opened.get("val_interval") or 1)
    told: dict[str, Any] = {"validations": epochs // interval}
    if interval > 1:
        start = time.perf_counter()
        evaluator.run()
        told["validation_seconds"] = time.perf_counter() - start
    return told


def _evaluate(
    opened: OpenBundle,
    folder: Path,
    cases: Cases,
    numbers: Sequence[int],
    part: str,
    saver: str = "SaveCaseScores",
) -> None:
    """Evaluate the weights that lie in a folder, where a handler saves what it finds."""
    instantiate(
        "monai_iln.networks.load_weights", CompInitMode.DEFAULT, network=opened.network, path=str(folder / WEIGHTS)
    )
    evaluator = opened.get("evaluator")
    if saver == "SaveCaseScores" and makes(opened.workflow.parser, OWN_IMAGES):
        evaluator.run()
        return
    opened.attach(
        evaluator,
        saver,
        output_dir=str(folder),
        subjects=[cases.subjects[number] for number in numbers],
        images=[image_of(cases.items[number]) or str(number) for number in numbers],
        metric=opened.get("val_key_metric"),
        part=part,
        structures=cases.structures,
    )
    evaluator.run()
