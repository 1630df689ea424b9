"""The weights of a training."""

from __future__ import annotations

import copy
import io
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from monai_iln.errors import require
from monai_iln.files import new_file, write_json
from monai_iln.handlers.curves import in_words
from monai_iln.handlers.ranks import is_first
from monai_iln.networks import load_weights
from monai_iln.run_files import FINE_TUNING, SHIPPED


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
        >>> WeightsCheckpointLoader(network, "models/model.pt").attach(evaluator)  # doctest: +SKIP
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

    Attach it to the evaluator that validates. A validation as epoch 0, such as that of :class:`FineTuning`, saves
    nothing: it sets the bar for the others. When they pass it for the first time, the weights that were there are kept
    beside the new ones as ``shipped.pt``.

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
        self._has_bar = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        if engine.state.epoch == 0:
            self._has_bar = True
            return
        if not is_first() or (self.best and not self._is_best(engine)):
            return
        weights = io.BytesIO()  # of a file that it cannot write, torch does not say why
        torch.save(_plain(self.network).state_dict(), weights)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shipped = self.path.with_name(SHIPPED)
        if self._has_bar and self.path.is_file() and not shipped.exists():
            with new_file(shipped) as partial:
                shutil.copyfile(self.path, partial)
        with new_file(self.path) as partial:
            partial.write_bytes(weights.getbuffer())

    def _is_best(self, engine: Engine) -> bool:
        """Tell whether this validation is the best. An epoch may have several: its number alone does not tell."""
        state = engine.state
        is_best = state.best_metric_epoch == state.epoch and state.best_metric != self._best_metric
        if is_best:
            self._best_metric = state.best_metric
        return bool(is_best)


class FineTuning:
    """Starts a training from given weights, and scores those that it may replace before it does.

    Before the first epoch it loads the weights to beat, and validates them as epoch 0. :class:`SaveWeights` then saves
    an epoch only if it scores higher, so a training that makes the weights worse leaves them as they are. At the end it
    prints what came of it, and writes it to ``fine_tuning.json``:

    - ``before``: The key metric of the weights to beat.
    - ``best``: That of the best epoch, which is ``best_epoch``; ``null`` if no epoch has a score.
    - ``better``: Whether it beats ``before``, so that its weights are saved.
    - ``told``: The line that is printed.

    A file of an earlier training is removed at the start. Attach this to the trainer.

    Args:
        network: The network that is trained. It may be wrapped for distributed training.
        evaluator: The engine that validates, MONAI's, with a key metric and :class:`SaveWeights`.
        to_beat: The file of the weights to beat.
        output_dir: The folder of ``fine_tuning.json``. It is made if it is missing.
        start: The file of the weights to start from. Without one the network starts as it is.

    Raises:
        UserError: If weights are missing or of another network, see :func:`monai_iln.networks.load_weights`, or the
            evaluator has no key metric.
    """

    def __init__(
        self, network: nn.Module, evaluator: Engine, to_beat: str, output_dir: str, start: str | None = None
    ) -> None:
        self.network = network
        self.evaluator = evaluator
        self.to_beat = to_beat
        self.output_dir = Path(output_dir)
        self.start = start

        self._before = 0.0
        self._best: tuple[int, float] | None = None  # epoch and score

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._tell)
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._compare)

    def _begin(self) -> None:
        name = getattr(self.evaluator.state, "key_metric_name", None)
        require(name is not None, "an evaluator without a key metric", "weights are compared by it", "give it one")
        (self.output_dir / FINE_TUNING).unlink(missing_ok=True)
        self._best = None
        network = _plain(self.network)
        own = copy.deepcopy(network.state_dict())
        load_weights(network, self.to_beat)
        self.evaluator.run(0)
        if self.start is None:
            network.load_state_dict(own)
        else:
            load_weights(network, self.start)

    def _compare(self, engine: Engine) -> None:
        state = engine.state
        score = float(state.metrics[state.key_metric_name])
        if state.epoch == 0:
            self._before = score
            if is_first():
                tqdm.write(f"to beat: {in_words(state.key_metric_name)} {score:.3f} of {self.to_beat}")
        elif not math.isnan(score) and (self._best is None or engine.metric_cmp_fn(score, self._best[1])):
            self._best = (state.epoch, score)

    def _tell(self) -> None:
        if not is_first():
            return
        told = f"{in_words(self.evaluator.state.key_metric_name)} {self._before:.3f} before"
        outcome: dict[str, Any] = {"before": self._before, "best": None, "best_epoch": None, "better": False}
        if self._best is not None:
            epoch, best = self._best
            told += f", {best:.3f} in the best epoch, {epoch}"
            better = bool(self.evaluator.metric_cmp_fn(best, self._before))
            outcome |= {"best": best, "best_epoch": epoch, "better": better}
        if outcome["better"]:
            told += f": better by {abs(outcome['best'] - self._before):.3f}, and saved"
        else:
            told += f": no better than before, {self.to_beat} is kept"
        tqdm.write(told)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(self.output_dir / FINE_TUNING, outcome | {"told": told})


def _plain(network: nn.Module) -> nn.Module:
    """The network itself. In distributed training its wrapper calls every layer module.something."""
    return network.module if isinstance(network, DistributedDataParallel) else network
