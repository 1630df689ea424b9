"""The gates of a network in the course of its training."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_iln.errors import UserError
from monai_iln.files import new_file
from monai_iln.handlers.ranks import is_first
from monai_iln.norms.gates import LayerGates, plot_gates, read_gates
from monai_iln.run_files import GATES, GATES_PICTURE


class SaveGates:
    """Saves the weight that each layer's gate gives its components to ``gates.csv``, and draws it to ``gates.png``.

    Attach it to the trainer. Gates are read before the first iteration, in even steps, and after the last iteration. A
    reading has one line for each layer and component: ``weight`` is the median over channels, ``low`` and ``high``
    are the quartiles, all the same for a gate per layer; ``dead`` is 1 where the norm after the gate undoes it. Lines
    are written as they are read, the picture at the end. A network without gates leaves no files.

    Args:
        network: The network that is trained. It may be wrapped for distributed training.
        output_dir: The folder of the files. It is made if it is missing.
        readings: The number of readings, roughly, over the whole training.
    """

    def __init__(self, network: nn.Module, output_dir: str, readings: int = 200) -> None:
        self.network = network
        self.output_dir = Path(output_dir)
        self.readings = readings
        self.history: list[tuple[int, dict[str, LayerGates]]] = []
        self._step = 1
        self._has_begun = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iterate)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        iterations = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
        self._step = max(1, -(-iterations // self.readings))
        if not engine.state.iteration:  # a training that is resumed adds to its file
            self.history.clear()
        self._has_begun = False

    def _begin(self, engine: Engine) -> None:
        if not self._has_begun:  # not when the engine starts: a later handler may load weights then
            self._has_begun = True
            self._read(engine.state.iteration)

    def _iterate(self, engine: Engine) -> None:
        if engine.state.iteration % self._step == 0:
            self._read(engine.state.iteration)

    def _finish(self, engine: Engine) -> None:
        if not self.history:
            return
        if self.history[-1][0] != engine.state.iteration:
            self._read(engine.state.iteration)
        with new_file(self.output_dir / GATES_PICTURE) as partial:
            plot_gates(self.history, partial)

    def _read(self, iteration: int) -> None:
        if not is_first():
            return
        network = self.network
        if isinstance(network, DistributedDataParallel):  # else every layer is called module.something
            network = cast(nn.Module, network.module)
        try:
            gates = read_gates(network)
        except UserError:  # the network has none
            return
        rows = []
        for layer, reading in gates.items():
            for component, weights in reading["weights"].items():
                quartiles = [f"{value:.6g}" for value in np.quantile(weights, (0.25, 0.5, 0.75))]
                rows.append((iteration, layer, component, *quartiles, int(reading["dead"])))
        self.history.append((iteration, gates))
        self.output_dir.mkdir(parents=True, exist_ok=True)
        goes_on = iteration > 0 and (self.output_dir / GATES.name).is_file()  # which a resumed training may lack
        save = GATES.append if goes_on else GATES.write
        save(self.output_dir, rows)
