"""The weights of a training."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_iln.files import new_file
from monai_iln.handlers.ranks import is_first
from monai_iln.networks import load_weights


class WeightsCheckpointLoader:
    """Loads the weights of a network when an engine starts, by :func:`monai_iln.networks.load_weights`.

    Until then the file need not be there. Clients of MONAI's federated learning disable every handler of an evaluation
    with ``CheckpointLoader`` in its name, so that the weights of the server stay.

    Args:
        network: The network of the engine, without the wrapper for distributed training.
        path: The file.

    Raises:
        UserError: At the start of the engine, if the file is missing, no checkpoint, or of another network.

    Example:
        >>> WeightsCheckpointLoader(network, "models/model.pt").attach(evaluator)
    """

    def __init__(self, network: nn.Module, path: str) -> None:
        self.network = network
        self.path = path

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._load)

    def _load(self, _: Engine) -> None:
        load_weights(self.network, self.path)


class SaveWeights:
    """Saves the weights of a network after a validation, as :func:`monai_iln.networks.load_weights` loads them.

    The file appears whole or not at all: a full disk or a kill leaves the weights that were there. MONAI's
    ``CheckpointSaver`` deletes them first and writes under the final name.

    Attach it to the evaluator that validates.

    Args:
        network: The network that is trained. It may be wrapped for distributed training.
        path: The file. Its folder is made if it is missing.
        best: If true, weights are saved only if the key metric is the best so far. Otherwise the last ones stay.

    Raises:
        UserError: If the system refuses to write, for example because the disk is full.
    """

    def __init__(self, network: nn.Module, path: str, best: bool = True) -> None:
        self.network = network
        self.path = Path(path)
        self.best = best

        self._best_metric: float | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        if not is_first() or (self.best and not self._is_best(engine)):
            return
        network = self.network
        if isinstance(network, DistributedDataParallel):  # else every layer is called module.something
            network = network.module
        weights = io.BytesIO()  # of a file that it cannot write, torch does not say why
        torch.save(network.state_dict(), weights)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(self.path) as partial:
            partial.write_bytes(weights.getbuffer())

    def _is_best(self, engine: Engine) -> bool:
        """Tell whether this validation is the best. An epoch may have several: its number alone does not tell."""
        state = engine.state
        is_best = state.best_metric_epoch == state.epoch and state.best_metric != self._best_metric
        if is_best:
            self._best_metric = state.best_metric
        return bool(is_best)
