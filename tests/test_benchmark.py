import contextlib
import gc
import importlib.util
import itertools
import json
import runpy
import sys

import matplotlib.image
import pytest
import torch
from monai.networks.layers.factories import Norm
from torch import nn

from monai_iln import ILN, machine
from monai_iln.benchmark import contestants, require_drawing
from monai_iln.benchmark.contestants import NAMES, ComposedILN, benchmark_norms, find_contestants
from monai_iln.benchmark.measure import interleave, peak_memory, rotation
from monai_iln.benchmark.plot import save_plot
from monai_iln.benchmark.records import Result, Setting, gigabytes_per_second, ratios, summarize
from monai_iln.benchmark.report import document, table
from monai_iln.benchmark.work import NETWORKS, Platform, layer_work, network_work
from monai_iln.cli import main
from monai_iln.errors import UserError

CPU = torch.device("cpu")
UNCOMPILED = [name for name in NAMES if not name.endswith("compiled")]


@pytest.fixture(autouse=True, scope="module")
def _little_garbage_to_look_through():
    """A benchmark collects garbage before it measures: not that of all tests before, which takes seconds each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def made_up(**times):
    return Setting("made up", [Result(name, {"forward": list(values)}) for name, values in times.items()])


def test_every_round_runs_each_once_in_a_rotating_order():
    calls = []
    entries = {name: {"run": lambda name=name: calls.append(name)} for name in "ABC"}
    ticks = []
    times = interleave(entries, CPU, rounds=5, warmup=1, tick=lambda: ticks.append(len(calls)))
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert rounds == ["ABC", "BCA", "CAB", "CBA", "BAC", "ACB"]
    assert ticks == [6, 9, 12, 15, 18]  # not after the warm-up
    assert {name: len(phases["run"]) for name, phases in times.items()} == {"A": 5, "B": 5, "C": 5}


def test_everyone_runs_behind_everyone():
    neighbours = set()
    for number in range(8):
        order = rotation("ABCD", number)
        neighbours |= set(itertools.pairwise(order))
    assert len(neighbours) > 4 + 3  # a mere rotation has 4


def test_seconds_end_the_rounds_but_one_is_timed():
    times = interleave({"A": {"run": lambda: None}}, CPU, rounds=50, warmup=0, seconds=1e-9)
    assert len(times["A"]["run"]) == 1


def test_garbage_collection_rests_and_comes_back():
    seen = []
    interleave({"A": {"run": lambda: seen.append(gc.isenabled())}}, CPU, rounds=2, warmup=0)
    assert seen == [False, False]
    assert gc.isenabled()

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        interleave({"A": {"run": fail}}, CPU, rounds=2, warmup=0)
    assert gc.isenabled()


def test_arithmetic():
    # A load doubled both times of the third round, and in the first it hit the reference alone.
    ours, reference = [2.0, 3.0, 6.0, 3.5], [4.0, 2.0, 4.0, 2.0]
    found = ratios(ours, reference)
    assert found.of_minima == 1.0
    assert found.of_medians == pytest.approx(3.25 / 3)
    assert found.paired == 1.5
    assert summarize([7.0]).upper_quartile == 7.0
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_bandwidth():
    results = [Result("instance", {"forward": [3.0, 2.0]}), Result("none", {"forward": [0.1]})]
    setting = Setting("layer", results, tensor_bytes=4_000_000, floor_tensors={"forward": 3})
    assert gigabytes_per_second(setting, results[0], "forward") == pytest.approx(6.0)
    assert gigabytes_per_second(setting, results[1], "forward") is None
    assert gigabytes_per_second(made_up(instance=[1.0]), results[0], "forward") is None


def test_table():
    text = table(made_up(instance=[2.0, 2.0], ILN=[3.0, 5.0]))
    row = next(line for line in text.splitlines() if line.split()[0:1] == ["ILN"])
    assert row.split() == ["ILN", "3.000", "4.000", "3.500", "-", "4.500", "1.50", "2.00", "2.00"]
    assert "no ratios: 'instance'" in table(made_up(ILN=[3.0, 5.0]))


def test_who_did_not_run_is_told_everywhere(tmp_path):
    setting = Setting("made up", [Result("instance", {"step": [1.0]}), Result("ILN compiled", not_run="no compiler")])
    assert "not run: ILN compiled: no compiler" in table(setting)
    assert document(setting)["results"][1]["not_run"] == "no compiler"
    save_plot([setting], "caption", tmp_path / "a.png")
    save_plot([Setting("nobody", [Result("ILN", not_run="why: $\\frac$")])], "caption", tmp_path / "b.png")
    assert "not run: ILN: why" in table(Setting("nobody", [Result("ILN", not_run="why")]))


@pytest.mark.parametrize("shape", [(2, 32, 5, 4), (1, 24, 3, 4, 5)])
def test_composed_is_iln(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 1
    cotangent = torch.randn(shape, generator=generator, dtype=torch.float64)
    composed, layer = ComposedILN(shape[1]).double(), ILN(shape[1]).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    composed.load_state_dict(layer.state_dict())
    found = []
    for module in (composed, layer):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        by_name = dict(sorted(module.named_parameters()))
        found.append([y, *torch.autograd.grad(y, [leaf, *by_name.values()], cotangent)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_memory_of_known_work():
    x = torch.zeros(10_000)  # 40 kB
    tolerance = 1000  # scalars and the like

    assert peak_memory({"none": lambda: x.add_(1)}, CPU) < tolerance
    assert abs(peak_memory({"two at once": lambda: (x + 1) * (x.sum() > 0)}, CPU) - 80_000) < tolerance
    assert abs(peak_memory({"one after the other": lambda: (x + 1, None)[1]}, CPU) - 40_000) < tolerance
    kept = []
    phases = {"keep": lambda: kept.append(x + 1), "add": lambda: kept.append(kept[0] + 1), "drop": kept.clear}
    assert abs(peak_memory(phases, CPU) - 80_000) < tolerance
    kept.append(x + 1)  # the release of what was there before counts for nothing
    assert abs(peak_memory({"drop": kept.clear, "new": lambda: x + 1}, CPU) - 40_000) < tolerance


@pytest.mark.parametrize("name", UNCOMPILED)
def test_layers_give_back_what_they_take(name):
    platform = Platform(CPU, torch.float32)
    make, copy = layer_work((2, 6, 4, 4), platform)
    (contestant,) = find_contestants([name])
    phases = make(contestant)
    for function in [*phases.values(), *phases.values(), *copy.values()]:
        function()
    assert phases["forward"].__self__.output is None
    assert list(phases) == ["forward", "backward"]


def test_half_precision_and_channels_last():
    platform = Platform(CPU, torch.bfloat16, channels_last=True)
    make, _ = layer_work((2, 4, 3, 3, 3), platform)
    for contestant in find_contestants(UNCOMPILED):
        phases = make(contestant)
        work = phases["forward"].__self__
        assert work.inputs[0].dtype == torch.bfloat16
        assert work.inputs[0].is_contiguous(memory_format=torch.channels_last_3d)
        assert all(parameter.dtype == torch.float32 for parameter in work.layer.parameters())
        for function in phases.values():
            function()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_norm_and_keep_their_weights(name):
    make, _ = network_work(name, 1, NETWORKS[name].multiple, Platform(CPU, torch.float32))
    weights = []
    for contestant, kind in (("none", nn.Identity), ("composed", ComposedILN)):
        step = make(find_contestants([contestant])[0])["step"]
        network = step.__self__.network
        norms = [module for module in network.modules() if "Norm" in type(module).__name__ or type(module) is kind]
        assert all(isinstance(norm, kind) for norm in norms)
        before = [parameter.detach().clone() for parameter in network.parameters()]
        step()
        assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
        weights.append([tensor for tensor in before if tensor.dim() > 2])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_norms_of_the_benchmark_are_forgotten():
    names, documentation = set(Norm.names), Norm.__doc__
    with contextlib.suppress(RuntimeError), benchmark_norms():
        assert len(set(Norm.names) - names) == 2
        raise RuntimeError
    assert set(Norm.names) == names
    assert Norm.__doc__ == documentation


@pytest.mark.slow
def test_layer_command(tmp_path, capsys, monkeypatch):
    def no_compiler(module, **_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(contestants.torch, "compile", no_compiler)
    threads = torch.get_num_threads()
    output = tmp_path / "a b é"
    command = ["benchmark", "layer", "--shape", "2", "4", "6", "6", "--shape", "1", "4", "3", "3", "3"]
    command += ["--rounds", "3", "--warmup", "1", "--threads", "1", "--output", str(output)]
    assert main(command) == 0
    assert torch.get_num_threads() == threads
    said = capsys.readouterr().out
    assert "layer 2x4x6x6" in said
    assert "not run: ILN compiled: RuntimeError: no C++ compiler" in said
    assert "copying a tensor" in said

    report = json.loads((output / "benchmark.json").read_text(encoding="utf-8"))
    assert report["machine"]["threads"] == 1
    assert report["versions"]["torch"] == torch.__version__
    assert {"before", "after"} == report["load_average"].keys()
    assert report["options"] == {
        "shape": [[2, 4, 6, 6], [1, 4, 3, 3, 3]],
        "contestants": None,
        "seconds": None,
        "device": "cpu",
        "dtype": "float32",
        "memory_format": "contiguous",
        "threads": 1,
        "rounds": 3,
        "warmup": 1,
    }
    assert [setting["name"] for setting in report["settings"]] == ["layer 2x4x6x6", "layer 1x4x3x3x3"]
    results = {result["contestant"]: result for result in report["settings"][0]["results"]}
    assert list(results) == [*contestants.DEFAULTS, "copy"]
    iln = results["ILN"]
    assert [len(times) for times in iln["times_ms"].values()] == [3, 3, 3]
    assert iln["times_ms"]["forward+backward"][1] == pytest.approx(
        iln["times_ms"]["forward"][1] + iln["times_ms"]["backward"][1]
    )
    assert iln["peak_bytes"] > 0
    reference = results["instance"]["summary_ms"]["forward"]["ratios_to_instance"]
    assert reference == {"of_minima": 1, "of_medians": 1, "paired": 1}
    assert results["ILN compiled"]["times_ms"] == {}
    image = matplotlib.image.imread(output / "benchmark.png")
    assert image.shape[0] > 300
    assert image.std() > 0

    assert main(command) == 1
    assert "Nothing is overwritten" in capsys.readouterr().err


@pytest.mark.slow
def test_network_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(contestants.torch, "compile", lambda module, **_: module)
    command = ["benchmark", "network", "--size", "16", "--batch", "1", "--rounds", "1", "--warmup", "0"]
    command += ["--network", "unet3d", "--seconds", "60", "--output", str(tmp_path / "out")]
    assert main([*command, "--contestants", "instance", "ILN compiled"]) == 0
    assert "unet3d, batch 1, 16x16x16" in capsys.readouterr().out
    (setting,) = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))["settings"]
    assert [list(result["times_ms"]) for result in setting["results"]] == [["step"], ["step"]]


def test_profile_command(capsys):
    assert (
        main(["benchmark", "profile", "--shape", "2", "4", "6", "6", "--contestant", "composed", "--rounds", "2"]) == 0
    )
    assert "aten::native_group_norm" in capsys.readouterr().out


def test_a_contestant_that_cannot_be_profiled(capsys, monkeypatch):
    def no_compiler(module, **_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(contestants.torch, "compile", no_compiler)
    assert main(["benchmark", "profile", "--shape", "2", "4", "6", "6", "--contestant", "ILN compiled"]) == 1
    assert "ILN compiled cannot run here (RuntimeError: no C++ compiler)" in capsys.readouterr().err


MISTAKES = {
    "layer --contestants iln": "contestant 'iln' is unknown. Did you mean 'ILN'?",
    "layer --shape 8 32": "shape 8x32: it holds batch, channels and one to three spatial lengths",
    "layer --shape 8 0 4 4": "argument --shape: got '0', and it must be a whole number from 1 to 2,147,483,647",
    "layer --shape 8 4 1 1": "a norm over one position is zero",
    "layer --shape 8 4 5 --memory-format channels_last": "channels_last needs two or three spatial axes",
    "layer --shape 8 64 1000000 1000000": "no memory for its input",
    "layer --device nowhere": "torch knows no such device",
    "layer --device meta": "only two kinds can be timed",
    "layer --device cuda:99": "torch sees",
    "layer --rounds 0": "argument --rounds: got '0', and it must be a whole number from 1 to",
    "layer --warmup -1": "argument --warmup: got '-1', and it must be a whole number, 0 or more. Choose one.",
    "layer --threads 0": "argument --threads: got '0'",
    "layer --seconds 0": "argument --seconds: got '0', and it must be a number above 0. Choose one.",
    "network --size 100": "size 100: paper_unet takes multiples of 32. Remedy: choose 96.",
    "network --batch 0": "argument --batch: got '0'",
    "profile --contestant norm": "contestant 'norm' is unknown",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_are_one_message(command, capsys):
    assert main(["benchmark", *command.split()]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert MISTAKES[command] in errors[0]


def test_without_its_extra_nothing_is_measured(monkeypatch):
    for name in ("matplotlib", "tqdm"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'matplotlib, tqdm, .*pip install "monai-iln\[plot\]"'):
        require_drawing()


def test_outside_a_clone_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "__init__.py"))
    assert machine.describe_commit() is None


def test_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "layer", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("monai_iln.benchmark", run_name="__main__")
    assert "usage: monai-iln benchmark layer" in capsys.readouterr().out
