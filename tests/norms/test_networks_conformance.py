"""ILN in every network and block of MONAI that takes a norm, and the page of the documentation that says so.

``python tests/norms/test_networks_conformance.py`` writes the page anew; it needs einops, as some networks do.
"""

import contextlib
import copy
import functools
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.networks import blocks, nets
from monai.utils import OptionalImportError
from monai_networks import BLOCKS, EXCLUDED, LARGE, NETWORKS, NO_ARGUMENT, norm_arguments

from monai_iln import ILN

pytestmark = [
    # MONAI annotates empty lists of DynUNet in its __init__; scripting works.
    pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level annotations"),
    # Quicknat takes a batch of one-dimensional images for one image, before it fails.
    pytest.mark.filterwarnings("ignore:input's size at dim=0 does not match num_features"),
]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "networks.md"
COMMAND = "python tests/norms/test_networks_conformance.py"

CASES = [*NETWORKS, *BLOCKS]
EACH = {f"{case.name}-{d}d": (case, d) for case in CASES for d in case.dims}
LIGHT = {name: each for name, each in EACH.items() if not each[0].heavy}
OTHER_DIMS = {f"{case.name}-{d}d": (case, d) for case in CASES for d in {1, 2, 3} - set(case.dims)}

# Four groups leave the gate alive in layers of 8 channels; with the 16 groups of the default it would be dead.
ALIVE = ("ILN", {"num_groups": 4})
# What MONAI cannot do with batch norm, it cannot do with ILN either.
BASELINE = "batch"


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """For tensors this small more threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextlib.contextmanager
def skip_without_optional_packages():
    """Some networks need einops, which MONAI asks for only when they are made or called."""
    try:
        yield
    except OptionalImportError as error:
        pytest.skip(str(error).splitlines()[0])


def build(builder, *arguments):
    with skip_without_optional_packages():
        return builder(*arguments)


def make(case, d, norm, seed=0):
    torch.manual_seed(seed)
    return build(case.build, d, norm)


def make_inputs(case, d):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in case.shapes(d)]


def tensors(output):
    """All tensors of a nested output."""
    if isinstance(output, torch.Tensor):
        return [output]
    output = output.values() if isinstance(output, dict) else output
    return [tensor for part in output if part is not None for tensor in tensors(part)]


def call(case, network, inputs):
    torch.manual_seed(2)  # variational networks draw noise
    with skip_without_optional_packages():
        return tensors(case.forward(network, *inputs))


@torch.no_grad()
def predict(case, network, inputs):
    return call(case, network.eval(), inputs)


def normalizations(network):
    """The types of the normalization layers, without 1d to 3d, and how many of each."""
    leaves = (type(m).__name__ for m in network.modules() if not any(m.children()))
    return Counter(re.sub(r"\dd$", "", name) for name in leaves if "norm" in name.lower())


def coverage(network):
    found = normalizations(network)
    ours = found.pop("InstanceLayerNorm", 0)
    return "none" if not ours else "part" if found else "all", frozenset(found)


def script(case, d, norm):
    network, inputs = make(case, d, norm), make_inputs(case, d)
    scripted = torch.jit.script(network)
    if not case.heavy:
        expected = predict(case, network, inputs)
        torch.testing.assert_close(predict(case, scripted, inputs), expected, rtol=1e-4, atol=1e-4)


def autocast(case, d, norm):
    network, inputs = make(case, d, norm), make_inputs(case, d)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(output.isfinite().all() for output in predict(case, network, inputs))


def channels_last(case, d, norm):
    network, inputs = make(case, d, norm), make_inputs(case, d)
    expected = predict(case, network, inputs)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[d]
    arranged = [x.to(memory_format=layout) if x.dim() == d + 2 else x for x in inputs]
    actual = predict(case, network.to(memory_format=layout), arranged)
    # Other layouts sum in another order, and every norm passes the differences on enlarged.
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


CHECKS = {"TorchScript": script, "autocast": autocast, "channels_last": channels_last}


def checked_dims(case, check):
    """Scripts are slow to compile and the same in all dimensions; the layout does not exist in one."""
    if check == "TorchScript":
        return case.dims[-1:] if 2 not in case.dims else (2,)
    if case.heavy:
        return ()
    return tuple(d for d in case.dims if check == "autocast" or d > 1)


@functools.cache
def failure(case, d, check, with_iln=True):
    """What the check raises, or ``None``. Kept, because the page of the documentation asks again."""
    try:
        CHECKS[check](case, d, ALIVE if with_iln else BASELINE)
    except Exception as error:
        return error
    return None


CHECKED = {
    f"{c.name}-{d}d-{check}": pytest.param(c, d, check, marks=[pytest.mark.slow] * (check == "TorchScript"))
    for c in CASES
    for check in CHECKS
    for d in checked_dims(c, check)
}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "d"), EACH.values(), ids=EACH)
def test_training(case, d):
    network, inputs = make(case, d, ALIVE), make_inputs(case, d)
    assert coverage(network) == (case.coverage, case.remaining)
    outputs = call(case, network, [x.requires_grad_() for x in inputs])
    assert all(output.isfinite().all() for output in outputs)
    outputs = [output for output in outputs if output.requires_grad]
    generator = torch.Generator().manual_seed(3)
    # Random, because norms are blind to the gradient of a plain sum.
    torch.autograd.backward(outputs, [torch.randn(output.shape, generator=generator) for output in outputs])
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    for name, layer in network.named_modules():
        if isinstance(layer, ILN):
            assert layer.rho.grad is not None, name
            assert layer.gate_is_dead or layer.rho.grad.count_nonzero(), name


@pytest.mark.parametrize(("case", "d"), LIGHT.values(), ids=LIGHT)
def test_default_arguments_and_state_dict(case, d):
    network, inputs = make(case, d, "ILN"), make_inputs(case, d)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():  # the norms' too: they start the same in every network
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected = predict(case, network, inputs)
    assert all(output.isfinite().all() for output in expected)
    fresh = make(case, d, "ILN", seed=5)
    fresh.load_state_dict(network.state_dict())
    torch.testing.assert_close(predict(case, fresh, inputs), expected)


@pytest.mark.parametrize(("case", "d", "check"), CHECKED.values(), ids=CHECKED)
def test_what_works_with_batch_norm_works_with_iln(case, d, check):
    error = failure(case, d, check)
    if check in case.cannot:
        assert error is not None, f"MONAI can do {check} by now: take it out of the case's `cannot`"
        assert failure(case, d, check, with_iln=False) is not None, f"{check}: batch norm can, ILN cannot"
    elif error is not None:
        raise error


@pytest.mark.parametrize(("case", "d"), OTHER_DIMS.values(), ids=OTHER_DIMS)
def test_monai_does_not_support_the_other_dimensions(case, d):
    make(case, case.dims[0], BASELINE)  # skips where a package is missing
    inputs = [torch.zeros(()).expand(shape) for shape in case.shapes(d)]
    # Each network fails in its own way, most of them somewhere inside of torch: there is no message to expect.
    with pytest.raises((ValueError, RuntimeError, IndexError, NotImplementedError)):
        predict(case, make(case, d, BASELINE), inputs)


@pytest.mark.parametrize("builder", LARGE.values(), ids=[network.__name__ for network in LARGE])
def test_large_networks_are_covered(builder):
    with torch.device("meta"):
        assert coverage(build(builder, ALIVE)) == ("all", frozenset())


def test_no_class_with_a_norm_argument_is_forgotten():
    exported = {value for module in (nets, blocks) for value in vars(module).values() if inspect.isclass(value)}
    with_norm = {c for c in exported if issubclass(c, torch.nn.Module) and norm_arguments(c)}
    known = {case.network for case in CASES} | set(LARGE) | {c for group in EXCLUDED.values() for c in group}
    forgotten = sorted(c.__name__ for c in with_norm - known)
    assert not forgotten, f"add them to a table of tests/norms/monai_networks.py: {', '.join(forgotten)}"


def test_mednext_drops_a_norm_that_it_does_not_know():
    assert not normalizations(blocks.MedNeXtBlock(8, 8, norm_type="ILN"))


def types_text(types):
    return ", ".join(f"`{name}`" for name in sorted(types))


def check_text(case, check):
    dims = checked_dims(case, check)
    if not dims:
        return "not tested" if case.heavy else "—"
    if not any(failure(case, d, check) for d in dims):
        return "yes"
    return "MONAI cannot" if any(failure(case, d, check, with_iln=False) for d in dims) else "no"


def describe(case):
    kind, types = coverage(make(case, case.dims[-1], ALIVE))
    stays = f": {types_text(types)} stays" if types else ""
    dims = ", ".join(f"{d}-D" for d in case.dims)
    return [f"`{case.argument}`", dims, kind + stays, *(check_text(case, check) for check in CHECKS)]


def describe_fixed(builder):
    with torch.device("meta"):
        return [types_text(normalizations(build(builder)))]


def row(name, describer, subject):
    """A line of a table; where a package that the network needs is missing, the line that the page already has."""
    start = f"| `{name}` | "
    try:
        return start + " | ".join(describer(subject)) + " |"
    except pytest.skip.Exception:
        return next(line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(start))


def table(head, rows):
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def render():
    head = ["Argument", "Dimensions", "Coverage", *CHECKS]
    networks = table(["Network", *head], [row(case.name, describe, case) for case in NETWORKS])
    small = table(["Block", *head], [row(case.name, describe, case) for case in BLOCKS])
    fixed = [row(name, describe_fixed, builder) for name, builder in NO_ARGUMENT.items()]
    excluded = [f"- {types_text(c.__name__ for c in group)}: {reason}." for reason, group in EXCLUDED.items()]
    return f"""# Networks

What each network and block of MONAI makes of `norm="ILN"`. This page is made by its test: `{COMMAND}`.

- **Coverage**: which normalization layers follow the argument. Those that stay can be exchanged with `replace_norm`.
- **TorchScript**, **autocast** (bfloat16 on the CPU), **channels_last**: whether the network gives what it should with
  ILN. "MONAI cannot" means that it fails with batch norm just the same.

## Networks with a norm argument

{networks}

Larger ones of the same build, with the same argument, all covered: {types_text(c.__name__ for c in LARGE)}.

## Blocks with a norm argument

{small}

## No argument: use `replace_norm`

Their normalization is written into the code. `monai_iln.norms.replace_norm` exchanges it.

{table(["Network", "Its normalization"], fixed)}

## Arguments that take no norm specification

{chr(10).join(excluded)}
"""


@pytest.mark.slow
def test_page_is_up_to_date():
    assert PAGE.read_text("utf-8") == render(), f"docs/reference/networks.md is stale: run `{COMMAND}` to write it anew"


POOLED = torch.nn.functional.adaptive_avg_pool2d(torch.randn(2, 8, 5, 5), 1).flatten(1)
EDGES = {
    "1x1 bottleneck, batch 1": (ILN(8, 4), torch.randn(1, 8, 1, 1)),
    "one pixel, one channel a group": (ILN(8, 8), torch.randn(2, 8, 1, 1)),
    "after global pooling": (ILN(8, 4), POOLED),
    "no samples": (ILN(8, 4), torch.randn(0, 8, 4, 4)),
    **{f"{c} channels": (ILN(c), torch.randn(2, c, 3, 3)) for c in (1, 3, 7, 17)},
    **{f"{c} channels, one pixel": (ILN(c), torch.randn(1, c, 1)) for c in (1, 3, 7, 17)},
    "constant, far from zero": (ILN(8, 4), torch.full((2, 8, 4, 4), 1e4)),
    "every other pixel": (ILN(8, 4), torch.randn(2, 8, 8, 8)[..., ::2]),
    "expanded": (ILN(8, 4), torch.randn(2, 8, 1, 4).expand(2, 8, 4, 4)),
    "MetaTensor": (ILN(8, 4), MetaTensor(torch.randn(2, 8, 4, 4))),
}


@pytest.mark.parametrize(("layer", "x"), EDGES.values(), ids=EDGES)
def test_edge_shapes(layer, x):
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    results = []
    for dtype in (torch.float32, torch.float64):
        twin, leaf = copy.deepcopy(layer).to(dtype), x.detach().to(dtype).requires_grad_()
        y = twin(leaf)
        assert y.shape == x.shape
        results.append([y, *torch.autograd.grad(y, [leaf, *twin.parameters()], cotangent.to(dtype))])
        assert all(result.isfinite().all() for result in results[-1])
    for single, double in zip(*results, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), "utf-8")
