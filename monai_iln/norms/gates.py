"""The gates of any network: groups for its optimizer, their values for records, their history as a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from torch import nn

from monai_iln.errors import UserError, require
from monai_iln.extras import require_extra
from monai_iln.norms.components import component_name
from monai_iln.norms.layers import MixtureNorm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Also pruned, parametrized or reparametrized: "rho_orig", "parametrizations.rho.original".
_GATE_PARAMETER = re.compile(r"(parametrizations\.)?(rho|mean_weight|var_weight)(_orig|_g|_v)?(\..*)?")
_LEGEND_ROWS = 24


class LayerGates(TypedDict):
    """What the gates of one layer say.

    Attributes:
        weights: The weight of each component, in the layer's order: one number, or one for each channel. Switchable
            norm has every component twice, for the means and for the variances.
        dead: Whether a group norm of one channel per group undoes the gates.
    """

    weights: dict[str, list[float]]
    dead: bool


def parameter_groups(
    model: nn.Module, lr: float, gate_lr_multiplier: float = 10.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    r"""Parameter groups for a torch optimizer: gates learn faster than the rest and do not decay.

    With learning rate :math:`\eta` and multiplier :math:`k`, plain gradient descent steps by
    :math:`k\,\eta\,\partial L / \partial \rho` in a gate. Decay would pull ``rho`` towards 0, which means something
    else for every kind of gate (half and half, the second component, equal weights), and never "simpler".

    A gate is a ``rho``, ``mean_weight`` or ``var_weight`` of a :class:`~monai_iln.norms.layers.MixtureNorm`, or what
    pruning or a parametrization computes it from, and not what else has such a name. Every parameter of the model is in
    exactly one group, once, also where layers or parameters are shared. Frozen ones are included: optimizers skip them,
    and unfreezing them later just works.

    Args:
        model: The network; without gates there is one group, so that a configuration may exchange its norm.
        lr: The learning rate of all but the gates.
        gate_lr_multiplier: The learning rate of the gates, as a multiple of ``lr``.
        weight_decay: The weight decay of all but the gates.

    Returns:
        Dictionaries with ``params``, ``lr``, ``weight_decay`` and ``name``: ``"rest"`` and, if there are any,
        ``"gates"``.

    Raises:
        UserError: If the model has no parameters, or a number is negative or no number.

    Source:
        The factor of 10 without decay is that of Nam & Kim, *Batch-Instance Normalization for Adaptively
        Style-Invariant Neural Networks*, 2018, arXiv:1805.07925.

    Example:
        >>> from torch.optim import SGD
        >>> model = nn.Sequential(nn.Conv2d(1, 32, 3), MixtureNorm(32))
        >>> groups = parameter_groups(model, lr=0.01, weight_decay=1e-4)
        >>> [(group["name"], len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
        [('rest', 4, 0.01, 0.0001), ('gates', 1, 0.1, 0.0)]
        >>> optimizer = SGD(groups, momentum=0.9)
    """
    for name, value in (("lr", lr), ("gate_lr_multiplier", gate_lr_multiplier), ("weight_decay", weight_decay)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(is_number and value >= 0, f"{name} {value!r}", "it must be a number, 0 or more", "in YAML write 1.0e-3")
    gates = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, MixtureNorm)
        for name, parameter in module.named_parameters()
        if _GATE_PARAMETER.fullmatch(name)
    }
    groups: list[dict[str, Any]] = [
        {"name": "rest", "params": [], "lr": lr, "weight_decay": weight_decay},
        {"name": "gates", "params": [], "lr": lr * gate_lr_multiplier, "weight_decay": 0.0},
    ]
    for parameter in model.parameters():  # which has each but once
        groups[id(parameter) in gates]["params"].append(parameter)
    groups = [group for group in groups if group["params"]]
    require(bool(groups), type(model).__name__, "it has no parameters", "give a network that has some")
    return groups


def read_gates(model: nn.Module) -> dict[str, LayerGates]:
    """The weights that every gated layer of a network gives its components, as plain numbers.

    The result holds nothing but dictionaries, lists, strings, floats and booleans, ready for JSON. A shared layer
    appears once, under its first name; layers with a single component have no gate and are left out.

    Args:
        model: A network with at least one gated :class:`~monai_iln.norms.layers.MixtureNorm`.

    Returns:
        By the layer's name as in ``model.named_modules()`` (of a model that is itself a layer, its class), the
        :class:`LayerGates`: ``weights``, which sum to 1 over the components, and ``dead``.

    Raises:
        UserError: If the network has no gate.

    Example:
        >>> from monai_iln.norms import ILN
        >>> gates = read_gates(nn.Sequential(ILN(16), nn.ReLU(), ILN(32)))
        >>> {name: layer["dead"] for name, layer in gates.items()}
        {'0': True, '2': False}
        >>> {name: [round(weight, 3) for weight in weights] for name, weights in gates["2"]["weights"].items()}
        {'instance': [0.622], 'layer': [0.378]}
    """
    gates = {
        name or layer.kind: LayerGates(weights=_weights(layer), dead=layer.gate_is_dead)
        for name, layer in model.named_modules()
        if isinstance(layer, MixtureNorm) and len(layer.components) > 1
    }
    require(bool(gates), type(model).__name__, "it has no gates", 'give it a norm that has, such as norm="ILN"')
    return gates


def plot_gates(history: Sequence[tuple[int, Mapping[str, LayerGates]]], path: Path | str | None = None) -> Figure:
    """Draw the weight of each layer's first component against the iteration.

    Colours run from the first layer to the last. Dead layers are grey and dashed. Of gates per channel the median is
    drawn, with a band between the quartiles. To see fewer layers, leave the others out of the readings.

    Args:
        history: Pairs of an iteration and the :func:`read_gates` of it; also as JSON gives them back.
        path: The file to write, in the format that its ending names; the folder is made if missing.

    Returns:
        The figure, which no window shows.

    Raises:
        UserError: If the history is empty, or matplotlib is not installed.

    Example:
        >>> from monai_iln.norms import ILN
        >>> layer, history = ILN(32), []
        >>> for iteration in range(3):
        ...     _ = layer.rho.data.add_(0.1)
        ...     history.append((iteration, read_gates(layer)))
        >>> plot_gates(history).axes[0].get_ylabel()
        'weight of instance'
    """
    require_extra("plot_gates", "plot", "matplotlib")
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = {name: layer for _, gates in history for name, layer in gates.items()}
    if not layers:
        raise UserError("the history is empty: there must be at least one reading. Remedy: collect read_gates(model).")
    columns = -(-len(layers) // _LEGEND_ROWS)
    figure = Figure(figsize=(7 + 2 * columns, max(4.0, 0.21 * min(len(layers), _LEGEND_ROWS))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, layer) in enumerate(layers.items()):
        iterations = [iteration for iteration, gates in history if name in gates]
        readings = [_first(gates[name])[1] for _, gates in history if name in gates]
        low, median, high = np.quantile(readings, (0.25, 0.5, 0.75), axis=1)
        color: Any = colormaps["viridis"](0.92 * number / max(len(layers) - 1, 1))  # its end is too pale for a line
        style, label = "-", name
        if layer["dead"]:
            color, style, label = "0.6", "--", f"{name} (dead)"
        marker = "o" if len(readings) == 1 else ""  # a line of one point shows nothing
        axes.plot(iterations, median, color=color, linestyle=style, marker=marker, label=label)
        if (low < high).any():
            axes.fill_between(iterations, low, high, color=color, alpha=0.15, linewidth=0)
    first, *others = {_first(layer)[0] for layer in layers.values()}
    axes.set(xlabel="iteration", ylabel=f"weight of {'first component' if others else first}")
    if any(len(_first(layer)[1]) > 1 for layer in layers.values()):
        axes.set_title("per channel: median, band between quartiles", fontsize="small", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside right upper", ncols=columns, fontsize="small", frameon=False)
    for text in (axes.yaxis.label, *legend.get_texts()):
        text.set_parse_math(False)  # a dollar sign in a name is a dollar sign
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    return figure


def _weights(layer: MixtureNorm) -> dict[str, list[float]]:
    rows = layer.gate_weights().detach().float().tolist()
    names = [component_name(component, layer.num_features) for component in layer.components]
    if layer.blend_statistics:
        names = [f"{name} mean" for name in names] + [f"{name} variance" for name in names]
    weights: dict[str, list[float]] = {}
    for number, (name, row) in enumerate(zip(names, rows, strict=True), 1):
        # Two components may pool the same: of a single channel, instance and layer norm do.
        weights[f"{name} ({number})" if name in weights else name] = row
    return weights


def _first(layer: LayerGates) -> tuple[str, list[float]]:
    return next(iter(layer["weights"].items()))
