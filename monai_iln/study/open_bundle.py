"""A bundle at work for a run: in a folder of its own, with the method's norms, other data, seed and rate.

Nothing of the bundle is edited. Everything in its folder but its results is a link, and what a study changes is changed
in the values of its configuration and in the objects that this makes.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import instantiate, set_determinism
from monai.utils.enums import CompInitMode
from torch import nn

from monai_iln.errors import require
from monai_iln.files import write_json
from monai_iln.run_files import OVERRIDES
from monai_iln.study.bundles import makes
from monai_iln.study.grid import Run

_OWN_FOLDERS = ("models", "eval")  # of a bundle, where its results go
_ANY_LENGTH = 32  # of an example input, where any will do
_SHIPPED = ("model.pt", "model.ts")


class OpenBundle:
    """A bundle at work for a run.

    Args:
        run: The run.
        root: The folder that the bundle works in. It is made.
        device: The device, if it is not the bundle's own.
    """

    def __init__(self, run: Run, root: Path, device: str | None = None) -> None:
        self.run, self.bundle, self.root = run, run.bundle, root
        self.overrides: dict[str, Any] = dict(run.overrides)
        if device is not None and "device" in self.bundle.ids:
            self.overrides[self.bundle.ids["device"]] = f"$torch.device('{device}')"
        mirror(self.bundle.folder, root)
        write_json(root / OVERRIDES, self.overrides)
        self.path, self.writes_bytecode = list(sys.path), sys.dont_write_bytecode
        sys.path.insert(0, str(root))  # where a bundle has its scripts
        sys.dont_write_bytecode = True  # it would go beside them

    def start(
        self, values: Mapping[str, Any], part: str | None = None, tracking: Any = None, surveyed: bool = False
    ) -> None:
        """Read the configuration anew, and make the network with the method's norms and the run's seed.

        Args:
            values: The values of properties.
            part: The part that is evaluated; ``None`` for the training.
            tracking: The tracking of the training.
            surveyed: Whether ``survey`` shall tell what the method did, for which the network is copied and run.
        """
        evaluation = self.run.evaluation if part else ()
        # What an evaluation sets comes after the overrides, which must not replace it.
        files = [*map(self._linked, self.run.training), str(self.root / OVERRIDES), *map(self._linked, evaluation)]
        outputs = self._outputs(part, tracking)
        workflow = ConfigWorkflow(files, workflow_type="train", tracking=tracking, **outputs)
        parser = workflow.parser
        if "data" in self.bundle.ids:  # which need not be checked again
            parser["data"] = dict(self.run.data)
        if part is not None and "part" in parser:
            parser["part"] = part
        for name, value in values.items():
            parser[self.bundle.ids[name]] = value
        workflow.initialize()
        parser.parse(reset=True)  # a bundle that sets a seed may have made its network already
        set_determinism(seed=self.run.seed + idist.get_rank())  # every process its own random transforms
        self.workflow = workflow
        self.network: nn.Module = self.get("network_def")
        require(
            isinstance(self.network, nn.Module),
            f"network_def makes a {type(self.network).__name__}",
            "it is the network that the bundle trains",
            "name its id with --properties '{network_def: ID}'",
        )
        method = "OWN" if self.bundle.takes_grid else self.run.norm  # it was made with the method's norms
        function = "apply_and_survey" if surveyed else "apply_method"
        applied = instantiate(
            f"monai_iln.norms.{function}",
            CompInitMode.DEFAULT,
            network=self.network,
            method=method,
            example=self._example(),
            pattern=self.run.pattern,
        )
        self.survey: Any = None
        self.network = applied
        if surveyed:
            self.network, self.survey = applied

    def _linked(self, file: str) -> str:
        """Where a file of the bundle is linked; another stays where it is."""
        path = Path(file)
        if path.is_relative_to(self.bundle.folder):
            return str(self.root / path.relative_to(self.bundle.folder))
        return file

    def _outputs(self, part: str | None, tracking: Any) -> dict[str, str]:
        """Where the bundle writes: what it leaves for the study stays, and the rest goes with its folder."""
        places = {"bundle_root": self.root, "ckpt_dir": self.root / "models", "output_dir": self.root / "eval"}
        if self.bundle.takes_grid or (part is not None and self.run.evaluation):
            places["ckpt_dir"] = places["output_dir"] = self.root.parent
        elif tracking is not None:
            places["output_dir"] = self.root.parent
        known = ("bundle_root", *self.bundle.outputs)
        return {name: str(place) for name, place in places.items() if name in known}

    def get(self, name: str) -> Any:
        """What the configuration makes of a property; ``None`` where it has none."""
        place = self.bundle.ids.get(name)
        return None if place is None else self.workflow.parser.get_parsed_content(place)

    def own_rate(self) -> float:
        """The learning rate that the bundle would train with; 0 where nothing tells.

        Raises:
            UserError: If the optimizer trains another network, which a detector may hide from all but it.
        """
        if self.bundle.takes_grid:
            return float(self.workflow.parser.get_parsed_content("learning_rate"))
        optimizer = self.get("optimizer")
        if optimizer is None:
            return 0.0
        trained = (parameter for group in optimizer.param_groups for parameter in group["params"])
        self._require_own("what the optimizer trains", trained)
        return float(optimizer.param_groups[0]["lr"])

    def unvalidated(self) -> tuple[int, int] | None:
        """The epochs between two validations and those of the training, where it ends before the first; else ``None``.

        Where the configuration does not tell them, neither does this.
        """
        interval, epochs = self.get("val_interval"), self.get("max_epochs")
        told = isinstance(interval, int) and isinstance(epochs, int)
        return (interval, epochs) if told and interval > epochs else None

    def make_trainer(self) -> Any:
        """The trainer, with the run's learning rate. Groups of parameters keep the ratios of their rates."""
        optimizer = None if self.bundle.takes_grid else self.get("optimizer")
        rate = self.run.learning_rate
        own = rate
        if optimizer is not None and rate > 0:
            own = float(optimizer.param_groups[0]["lr"])
            for group in optimizer.param_groups:  # before a schedule is made, which starts from what it finds
                share = 1.0 if group["lr"] == own else float(group["lr"]) / own
                group["lr"] = rate * share
        trainer = self.get("trainer")
        if optimizer is not None and own != rate:
            first = optimizer.param_groups[0]
            start = first.get("initial_lr", first["lr"])  # which schedules leave there
            require(
                start == rate,
                f"learning_rates {rate:g}",
                f"the schedule of the bundle has a rate of its own, and starts from {start:g}",
                "override its rates instead, or leave learning_rates out",
            )
        network = getattr(trainer, "network", None)
        self._require_own("the trainer's network", [] if network is None else network.parameters())
        return trainer

    def _require_own(self, what: str, trained: Iterable[nn.Parameter]) -> None:
        """Refuse to train another network: another instance of it, too, would be one with other norms."""
        parameters, others = {id(parameter) for parameter in self.network.parameters()}, {id(one) for one in trained}
        require(
            not others or not parameters or bool(others & parameters),
            f"{what} and {self.bundle.ids['network_def']}",
            "a study compares norms of the network that is trained",
            "name the id of that network with --properties '{network_def: ID}'",
        )

    def attach(self, engine: Any, handler: str, **arguments: Any) -> None:
        """Attach a handler of this package, unless the bundle has one of its kind.

        It is made by its dotted name: the towers of this package know one another only by configuration.
        """
        if not makes(self.workflow.parser, handler):
            instantiate(f"monai_iln.handlers.{handler}", CompInitMode.DEFAULT, **arguments).attach(engine)

    def close(self) -> None:
        """Let the bundle end its work, and remove the folder that it worked in."""
        workflow = getattr(self, "workflow", None)
        if workflow is not None and idist.get_world_size() == 1:  # several processes stay together for the next run
            workflow.finalize()
        sys.path[:], sys.dont_write_bytecode = self.path, self.writes_bytecode
        for name in [name for name, module in sys.modules.items() if self._has(module)]:
            del sys.modules[name]  # another run looks for the rest of a package where it has the bundle itself
        shutil.rmtree(self.root, ignore_errors=True)

    def _has(self, module: Any) -> bool:
        """Whether a module comes from the scripts of the bundle."""
        places = [getattr(module, "__file__", None), *vars(module).get("__path__", ())]
        inside = f"{self.root}{os.sep}"  # texts: thousands of modules are asked
        return any(str(place).startswith(inside) for place in places)

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
