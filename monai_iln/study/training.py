"""One run of a study on any bundle: its own trainer and evaluator, with another norm, other data, seed and rate.

Nothing of the bundle is edited. It works in a folder of its own in which everything but its results is a link, and what
a study changes is changed in the objects that its configuration makes.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.utils import instantiate, set_determinism
from monai.utils.enums import CompInitMode
from torch import nn

from monai_iln.errors import DivergedError, find_user_error, require
from monai_iln.files import write_json
from monai_iln.run_files import CASE, DATALIST, LENGTH, OVERRIDES, WEIGHTS
from monai_iln.study.cases import Cases, image_of, read_cases
from monai_iln.study.grid import Run

BUNDLE = "bundle"
"""The folder of a run in which the bundle works."""

_OWN_FOLDERS = ("models", "eval")  # of a bundle, where its results go
_ANY_LENGTH = 32  # of an example input, where any will do
_SHIPPED = ("model.pt", "model.ts")
_OUTPUTS = {"ckpt_dir": "models", "output_dir": "eval"}


def train_and_evaluate(run: Run, folder: Path, scratch: Path, device: str | None) -> tuple[str | None, float]:
    """Train a bundle, and evaluate the weights that its validation chose on held-out and on test subjects.

    Args:
        run: The run.
        folder: The folder of the study, which holds its datalist.
        scratch: The folder that the run leaves its files in.
        device: The device, if it is not the bundle's own.

    Returns:
        The message of a training that diverged, else ``None``, and the seconds of the evaluation.

    Raises:
        UserError: If the bundle does not do what its properties promise.
    """
    cases = read_cases(folder / DATALIST).of_split(run.split)
    parts = cases.split(run.fold, run.validation_every)
    _let_loaders_start()
    opened = OpenBundle(run, scratch / BUNDLE, device)
    write_json(scratch / OVERRIDES, opened.overrides)
    try:
        opened.start({"train_dataset_data": _items(cases, parts["training"]),
                      "val_dataset_data": _items(cases, parts["validation"])})  # fmt: skip
        _train(opened, scratch)
        begun = time.perf_counter()
        for part in ("validation", "test"):
            opened.start({"val_dataset_data": _items(cases, parts[part])})
            _evaluate(opened, scratch, cases, parts[part], part)
        return None, time.perf_counter() - begun
    except Exception as error:
        diverged = find_user_error(error)
        if isinstance(diverged, DivergedError):
            return str(diverged), 0.0
        raise
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
    cases = read_cases(folder / DATALIST).of_split(run.split)
    numbers = cases.split(run.fold, run.validation_every)["test"]
    if run.trial_steps is not None:
        numbers = numbers[:1]
    weights = folder / run.path / WEIGHTS
    require(weights.is_file(), f"{weights}: no such file", "robustness is measured from it", "do the run again")
    _let_loaders_start()
    opened = OpenBundle(run, scratch / BUNDLE, device)
    try:
        opened.start({"val_dataset_data": _items(cases, numbers)})
        _evaluate(opened, folder / run.path, cases, numbers, "test", "monai_iln.handlers.SaveRobustness")
    finally:
        opened.close()


def _let_loaders_start() -> None:
    """Let the data loaders of a bundle start processes as in any program: joblib's workers cannot."""
    if (multiprocessing.get_start_method(allow_none=True) or "").startswith("loky"):
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)


class OpenBundle:
    """A bundle at work for a run.

    Args:
        run: The run.
        root: The folder that the bundle works in. It is made.
        device: The device, if it is not the bundle's own.
    """

    def __init__(self, run: Run, root: Path, device: str | None = None) -> None:
        assert run.bundle is not None
        self.run, self.bundle, self.root = run, run.bundle, root
        self.overrides: dict[str, Any] = dict(run.overrides)
        if device is not None and "device" in self.bundle.ids:
            self.overrides[self.bundle.ids["device"]] = f"$torch.device('{device}')"
        mirror(self.bundle.folder, root)
        self.path, self.writes_bytecode = list(sys.path), sys.dont_write_bytecode
        sys.path.insert(0, str(root))  # where a bundle has its scripts
        sys.dont_write_bytecode = True  # it would go beside them

    def start(self, data: Mapping[str, Any]) -> None:
        """Read the configuration anew, and make the network with the method's norms and the run's seed.

        Args:
            data: The values of properties.
        """
        files = [str(self.root / Path(file).relative_to(self.bundle.folder)) for file in self.bundle.files]
        workflow = ConfigWorkflow(files, workflow_type="train", **self.overrides)
        parser = workflow.parser
        parser["bundle_root"] = str(self.root)
        for name, subfolder in _OUTPUTS.items():
            if name in parser:
                parser[name] = str(self.root / subfolder)
        for name, value in data.items():
            parser[self.bundle.ids[name]] = value
        workflow.initialize()
        parser.parse(reset=True)  # a bundle that sets a seed may have made its network already
        set_determinism(seed=self.run.seed)
        self.workflow = workflow
        self.network: nn.Module = self.get("network_def")
        require(
            isinstance(self.network, nn.Module),
            f"network_def makes a {type(self.network).__name__}",
            "it is the network that the bundle trains",
            "name its id with --properties '{network_def: ID}'",
        )
        self.network, self.survey = apply_and_survey(self.network, self.run.norm, self._example(), self.run.pattern)

    def get(self, name: str) -> Any:
        """What the configuration makes of a property; ``None`` where it has none."""
        place = self.bundle.ids.get(name)
        return None if place is None else self.workflow.parser.get_parsed_content(place)

    def make_trainer(self) -> Any:
        """The trainer, with the run's learning rate. Groups of parameters keep the ratios of their rates."""
        optimizer = self.get("optimizer") if "optimizer" in self.bundle.ids else None
        if optimizer is not None and self.run.learning_rate > 0:
            first = float(optimizer.param_groups[0]["lr"])
            for group in optimizer.param_groups:  # before a schedule is made, which starts from what it finds
                share = 1.0 if group["lr"] == first else float(group["lr"]) / first
                group["lr"] = self.run.learning_rate * share
        trainer = self.get("trainer")
        own = {id(parameter) for parameter in self.network.parameters()}
        trained = getattr(trainer, "network", None)
        require(
            trained is None or not own or any(id(parameter) in own for parameter in trained.parameters()),
            f"the trainer's network and {self.bundle.ids['network_def']}",
            "a study compares norms of the network that is trained",
            "name the id of that network with --properties '{network_def: ID}'",
        )
        return trainer

    def attach(self, engine: Any, target: str, **arguments: Any) -> None:
        """Attach a handler, by its dotted name: the towers of this package know one another only by configuration."""
        instantiate(target, CompInitMode.DEFAULT, **arguments).attach(engine)

    def close(self) -> None:
        """Let the bundle end its work, and remove the folder that it worked in."""
        workflow = getattr(self, "workflow", None)
        if workflow is not None:
            workflow.finalize()
        sys.path[:], sys.dont_write_bytecode = self.path, self.writes_bytecode
        for name in [name for name, module in sys.modules.items() if self._has(module)]:
            del sys.modules[name]  # another run looks for the rest of a package where it has the bundle itself
        shutil.rmtree(self.root, ignore_errors=True)

    def _has(self, module: Any) -> bool:
        """Whether a module comes from the scripts of the bundle."""
        places = [getattr(module, "__file__", None), *vars(module).get("__path__", ())]
        return any(place is not None and Path(place).is_relative_to(self.root) for place in places)

    def _example(self) -> torch.Tensor | None:
        """An input of the network, of zeros, as the bundle's metadata describe it; ``None`` where they do not."""
        inputs = self.workflow.parser.get("_meta_#network_data_format#inputs", None)
        if not isinstance(inputs, Mapping) or not inputs:
            return None
        first = next(iter(inputs.values()))
        try:
            lengths = [_length(length) for length in first["spatial_shape"]]
            return torch.zeros(1, int(first["num_channels"]), *lengths)
        except (KeyError, TypeError, ValueError):
            return None


def _length(length: Any) -> int:
    """A length of an input, which metadata tell as a number, "*" for any, or a multiple of something such as "16*n"."""
    if length == "*":
        return _ANY_LENGTH
    factors = [int(factor) for factor in str(length).replace("**p", "").split("*") if factor.strip() not in ("n", "p")]
    smallest = math.prod(factors)
    return smallest * max(1, round(_ANY_LENGTH / smallest)) if "n" in str(length) else smallest


def apply_and_survey(network: nn.Module, method: Any, example: Any, pattern: str | None) -> tuple[nn.Module, Any]:
    """Do to a network what a method says, and tell what was done."""
    made: tuple[nn.Module, Any] = instantiate(
        "monai_iln.norms.apply_and_survey",
        CompInitMode.DEFAULT,
        network=network,
        method=method,
        example=example,
        pattern=pattern,
    )
    return made


def mirror(bundle: Path, root: Path) -> None:
    """Make a folder in which everything of a bundle is a link, but the folders where it writes.

    Weights that the bundle comes with are left out: some bundles go on from them, and they fit one norm alone.

    Args:
        bundle: The folder of the bundle.
        root: The folder to make.
    """
    root.mkdir(parents=True)
    for path in sorted(bundle.iterdir()):
        if path.name in _OWN_FOLDERS and path.is_dir():
            ignored = shutil.ignore_patterns(*_SHIPPED)
            shutil.copytree(path, root / path.name, copy_function=os.symlink, ignore=ignored)
        else:
            (root / path.name).symlink_to(path)


def _items(cases: Cases, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [{**cases.items[number], CASE: place} for place, number in enumerate(numbers)]


def _train(opened: OpenBundle, scratch: Path) -> None:
    trainer = opened.make_trainer()
    evaluator = opened.get("evaluator")
    network = opened.network
    opened.attach(trainer, "monai_iln.handlers.SaveCost", network=network, output_dir=str(scratch), evaluator=evaluator)
    opened.attach(trainer, "monai_iln.handlers.TrainingCurves", evaluator=evaluator, output_dir=str(scratch))
    opened.attach(trainer, "monai_iln.handlers.SaveGates", network=network, output_dir=str(scratch))
    path = scratch / WEIGHTS
    opened.attach(evaluator, "monai_iln.handlers.SaveWeights", network=network, path=str(path))
    epochs, length = trainer.state.max_epochs, trainer.state.epoch_length
    write_json(scratch / LENGTH, {"epochs": epochs, "epoch_length": length})
    if opened.run.trial_steps is not None:
        trainer.state.max_epochs, trainer.state.epoch_length = 1, min(length, opened.run.trial_steps)
    trainer.run()
    if not path.is_file():  # it never validated, or has no key metric
        torch.save(network.state_dict(), path)


def _evaluate(
    opened: OpenBundle,
    folder: Path,
    cases: Cases,
    numbers: Sequence[int],
    part: str,
    saver: str = "monai_iln.handlers.SaveCaseScores",
) -> None:
    """Evaluate the weights that lie in a folder, where a handler saves what it finds."""
    instantiate(
        "monai_iln.networks.load_weights", CompInitMode.DEFAULT, network=opened.network, path=str(folder / WEIGHTS)
    )
    evaluator = opened.get("evaluator")
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
