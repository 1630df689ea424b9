"""Helpers for the gates of a network: what an optimizer, a record and a reader get of them."""

import importlib.util
import json
import sys

import pytest
import torch
from torch import nn

from monai_iln.errors import UserError
from monai_iln.networks import PaperUNet
from monai_iln.norms import ILN, make_norm, parameter_groups, plot_gates, read_gates
from monai_iln.norms.projection import clip

CONTENTS = [("ILN", ["rho"]), ("BIN", ["rho"]), ("SWITCHABLE", ["mean_weight", "var_weight"])]


class NotOurs(nn.Module):
    """A layer with a parameter that is named like a gate."""

    def __init__(self):
        super().__init__()
        self.rho = nn.Parameter(torch.ones(3))


def mixed():
    """Two dead layers, one of them a shared one, one alive with a gate per channel, and one of another kind."""
    shared = ILN(16)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), shared, shared, ILN(16), ILN(16, "alive", gate_scope="channel"), make_norm("BIN", 2, 16)
    )


def names_of(model, parameters):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]


@pytest.mark.parametrize(("norm", "gates"), CONTENTS)
def test_groups_hold_each_parameter_once(norm, gates):
    model = nn.Sequential(nn.Conv2d(1, 16, 3), NotOurs(), make_norm(norm, 2, 16))
    rest, gated = parameter_groups(model, lr=0.5, gate_lr_multiplier=4, weight_decay=0.1)
    assert names_of(model, rest["params"]) == ["0.weight", "0.bias", "1.rho", "2.weight", "2.bias"]
    assert names_of(model, gated["params"]) == [f"2.{gate}" for gate in gates]
    assert (rest["lr"], rest["weight_decay"], gated["lr"], gated["weight_decay"]) == (0.5, 0.1, 2.0, 0.0)


def test_groups_of_a_network_add_up():
    model = PaperUNet(norm="ILN")
    sizes = [sum(parameter.numel() for parameter in group["params"]) for group in parameter_groups(model, lr=0.1)]
    assert sizes == [2161858, 22]


def test_groups_of_shared_and_frozen_layers():
    model = mixed()
    model[3].requires_grad_(False)
    model.append(make_norm("BIN", 2, 16))
    model[6].rho = model[5].rho
    groups = parameter_groups(model, lr=0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert names_of(model, groups[1]["params"]) == ["1.rho", "3.rho", "4.rho", "5.rho"]
    torch.optim.AdamW(groups)  # which warns of a parameter that is there twice


def test_a_step_moves_gates_by_the_multiple():
    x = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = {}
    for multiplier in (1.0, 10.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 16, 3), ILN(16, 4)).double()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = torch.optim.SGD(parameter_groups(model, 1e-3, multiplier, weight_decay=0.5))
        model(x).pow(3).mean().backward()
        optimizer.step()
        for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
            steps.setdefault(name, []).append(parameter.detach() - old)
    torch.testing.assert_close(steps["1.rho"][1], 10 * steps["1.rho"][0])
    assert steps["1.rho"][0].abs() > 1e-6
    torch.testing.assert_close(steps["0.weight"][1], steps["0.weight"][0])


def test_gates_do_not_decay():
    layer = ILN(16, 4)
    optimizer = torch.optim.SGD(parameter_groups(layer, lr=0.1, weight_decay=0.5))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert layer.rho.item() == 0.5
    assert (layer.weight < 1).all()


def test_a_model_without_gates_has_one_group():
    (group,) = parameter_groups(nn.Sequential(nn.Conv2d(1, 4, 3), make_norm("SPATIAL_LAYER", 2, 4)), lr=0.1)
    assert len(group["params"]) == 4
    assert group["name"] == "rest"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": "1e-3"}, "lr '1e-3': it must be a number, 0 or more. Remedy: in YAML write 1.0e-3"),
        ({"lr": -1.0}, "lr -1.0: it must be a number, 0 or more"),
        ({"lr": 0.1, "gate_lr_multiplier": float("nan")}, "gate_lr_multiplier nan"),
        ({"lr": 0.1, "weight_decay": None}, "weight_decay None"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        parameter_groups(ILN(16), **arguments)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(UserError, match="ReLU: it has no parameters. Remedy: "):
        parameter_groups(nn.ReLU(), lr=0.1)


def test_read_gates():
    model = mixed()
    with torch.no_grad():
        model[4].rho.copy_(torch.arange(16))
    gates = read_gates(model)
    assert {name: layer["dead"] for name, layer in gates.items()} == {"1": True, "3": True, "4": False, "5": False}
    assert gates["4"]["weights"]["instance"] == pytest.approx(torch.arange(16).sigmoid().tolist())
    assert gates["5"]["weights"] == {"batch": [1.0] * 16, "instance": [0.0] * 16}
    assert json.loads(json.dumps(gates)) == gates


def test_read_gates_of_every_kind():
    third = pytest.approx([1 / 3])
    assert read_gates(make_norm("SWITCHABLE", 2, 8)) == {
        "SwitchableNorm": {
            "weights": {
                f"{name} {of}": third for of in ("mean", "variance") for name in ("instance", "layer", "batch")
            },
            "dead": False,
        }
    }
    # Of one channel, instance and layer norm are the same, and each still has its weight.
    one_channel = read_gates(ILN(1))["InstanceLayerNorm"]
    assert list(one_channel["weights"]) == ["instance", "instance (2)"]
    assert one_channel["dead"]


def test_the_paper_unet_has_five_dead_gates():
    dead = {name for name, layer in read_gates(PaperUNet(norm="ILN")).items() if layer["dead"]}
    assert dead == {"encoder.0.1", "encoder.0.4", "upsample_norm.3.0", "decoder.3.1", "decoder.3.4"}
    assert not any(layer["dead"] for layer in read_gates(PaperUNet(norm=("ILN", {"num_groups": "alive"}))).values())


def test_no_gates_to_read():
    with pytest.raises(UserError, match="PaperUNet: it has no gates. Remedy: .*ILN"):
        read_gates(PaperUNet(norm="INSTANCE"))


def test_a_dollar_sign_in_the_name_of_a_layer(tmp_path):
    history = [(0, {r"$\frac$": read_gates(mixed())["1"]})]
    plot_gates(history, tmp_path / "gates.png")


def test_plot_gates(tmp_path):
    model, history = mixed(), []
    for iteration in range(4):
        with torch.no_grad():
            model[1].rho.add_(0.3)
            model[4].rho.add_(0.2 * torch.randn(16))
        history.append((10 * iteration, read_gates(model)))
    path = tmp_path / "new" / "gates.png"
    figure = plot_gates(json.loads(json.dumps(history)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    styles = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert styles == {"1 (dead)": "--", "3 (dead)": "--", "4": "-", "5": "-"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(styles)
    first = axes.lines[0]
    assert first.get_xdata().tolist() == [0, 10, 20, 30]
    assert first.get_ydata() == pytest.approx(torch.sigmoid(0.5 + 0.3 * torch.arange(1, 5)).tolist())
    assert len(axes.collections) == 1, "a band for the layer whose channels differ"
    assert axes.get_ylabel() == "weight of first component"
    assert "median" in axes.get_title(loc="left")


def test_plot_of_one_reading_and_of_layers_that_come_later():
    late = [(0, read_gates(nn.Sequential(ILN(32)))), (1, read_gates(nn.Sequential(ILN(32), ILN(64))))]
    (axes,) = plot_gates(late).axes
    assert [(list(line.get_xdata()), line.get_marker()) for line in axes.lines] == [([0, 1], ""), ([1], "o")]
    assert axes.get_ylabel() == "weight of instance"


def test_a_plot_without_matplotlib_is_one_message(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'plot_gates needs matplotlib, .*pip install "monai-iln\[plot\]"'):
        plot_gates([(0, read_gates(nn.Sequential(ILN(32))))])


@pytest.mark.parametrize("history", [[], [(0, {})]])
def test_nothing_to_plot(history):
    with pytest.raises(UserError, match="history is empty: .* Remedy: collect read_gates"):
        plot_gates(history)


def test_clipped_gates_have_their_gradient_at_the_ends():
    """It is 1 in the closed interval; that of torch's clamp is 0 at its ends since torch 2.14."""
    rho = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(clip(rho), rho, torch.tensor([2.0, -3.0, 5.0, 7.0, 11.0], dtype=torch.float64))
    assert grad.tolist() == [0.0, -3.0, 5.0, 7.0, 0.0]
    assert clip(rho).tolist() == [0.0, 0.0, 0.3, 1.0, 1.0]
