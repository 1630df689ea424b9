"""What ``torch.compile`` makes of the operator on a GPU: in Triton's interpreter, and as the compiler sees it."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need triton: pip install triton")

from monai_iln.errors import UserError
from monai_iln.norms.backends import cuda_compiled, reference
from monai_iln.norms.coefficients import BATCH, Mixture

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ILN = Mixture([8, 1], 4, False, False, 1e-3, "sigmoid", False)
MIXTURES = {
    "sigmoid": ILN,
    "projected": ILN._replace(gate="projected", num_groups=0),
    "one gate for each channel": ILN._replace(gate="softmax", per_channel=True),
    "one component": ILN._replace(components=[1], num_groups=0),
    "unbiased": ILN._replace(unbiased=True, num_groups=0),
    "batch": ILN._replace(components=[BATCH, 8]),
    "groups": ILN._replace(components=[4, 2]),
    "statistics": ILN._replace(components=[8, 1, BATCH], blend_statistics=True, unbiased=True, gate="softmax"),
}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Torch wraps kernels for its compiler; what Triton interprets it does not know."""
    if DEVICE == "cpu":
        monkeypatch.setattr(cuda_compiled, "wrap_triton", lambda kernel: kernel)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE)


def make(mixture, shape=(2, 8, 5, 6), affine=True, dtype=torch.float64):
    """An input of channels that differ, and the parameters of a layer."""
    channels = shape[1]
    spread = torch.linspace(0.5, 2, channels, dtype=torch.float64, device=DEVICE).view(-1, *[1] * (len(shape) - 2))
    rho = None
    if len(mixture.components) > 1:
        gates = channels if mixture.per_channel else 1
        rows = (2, len(mixture.components)) if mixture.blend_statistics else (len(mixture.components),)
        rho = random(*rows, gates, seed=1) if mixture.gate == "softmax" else random(gates, seed=1)
    weight, bias = (random(channels, seed=seed) - 0.4 for seed in (2, 3)) if affine else (None, None)
    running = (random(channels, seed=5), random(channels, seed=6) + 0.5)
    x = spread * (6 * random(*shape) - 2 + spread)
    return [None if t is None else t.to(dtype) for t in (x, rho, weight, bias, *running)]


def results(backend, operands, mixture, dtype=None):
    """The output and all gradients, for a random cotangent."""
    operands = [None if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for t in operands]
    y, moments = backend.forward(*operands, mixture)
    leaves = [t for t in operands[:4] if t is not None]
    return [y, moments, *torch.autograd.grad(y, leaves, (2 * random(*y.shape, seed=4) - 1).to(y.dtype))]


def check(operands, mixture, tolerance=1e-9):
    actual = results(cuda_compiled, operands, mixture)
    for one, truth in zip(actual, results(reference, operands, mixture, torch.float64), strict=True):
        size = truth.abs().max().clamp(min=1.0)
        torch.testing.assert_close(one.double() / size, truth / size, rtol=0, atol=tolerance)
    return actual


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_mixtures(mixture):
    check([*make(mixture)[:4], None, None], mixture)


@pytest.mark.parametrize("name", ["batch", "statistics"])
def test_running_statistics(name):
    check(make(MIXTURES[name]), MIXTURES[name])


@pytest.mark.parametrize("shape", [(3, 8, 7), (1, 8, 3, 4, 5), (5, 8, 1, 1)], ids=str)
def test_shapes(shape):
    check([*make(ILN, shape)[:4], None, None], ILN)


def test_channels_last():
    operands = [*make(ILN)[:4], None, None]
    operands[0] = operands[0].contiguous(memory_format=torch.channels_last)
    check(operands, ILN)


def test_without_weight_and_bias():
    check([*make(ILN, affine=False)[:4], None, None], ILN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    """Of the parameters, too; the input is rounded before it is compared."""
    operands = [*make(ILN, dtype=dtype)[:4], None, None]
    tolerance = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    assert {t.dtype for t in check(operands, ILN, tolerance)} == {dtype, torch.float32}


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # the interpreter is NumPy's
def test_squares_beyond_the_range():
    """Such a channel becomes 0 and counts for no other, as in the definition in the same dtype."""
    operands = [*make(ILN, dtype=torch.float32)[:4], None, None]
    operands[0][:, 3] *= 1e25
    actual, expected = (results(backend, operands, ILN) for backend in (cuda_compiled, reference))
    assert actual[0].isfinite().all()
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # the interpreter is NumPy's
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_sample(value):
    operands = [*make(ILN, dtype=torch.float32)[:4], None, None]
    operands[0][1, 2, 3, 4] = value
    y, _, grad_x, *_ = results(cuda_compiled, operands, ILN)
    for result in (y, grad_x):
        assert result[0].isfinite().all()
        assert result[1].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight[:4], "weight of 4 numbers for an input of 8 channels: it must have 8"),
        (lambda weight: weight.to("meta"), "weight is on meta: the input is on c.*, and so must its layer be"),
    ],
)
def test_a_parameter_that_does_not_fit(change, message):
    operands = [*make(ILN)[:4], None, None]
    operands[2] = change(operands[2])
    with pytest.raises(UserError, match=message):
        cuda_compiled.forward(*operands, ILN)


# The compiler knows Triton's functions, and not what its interpreter makes of them: a process without it. Triton tells
# torch what a kernel writes by compiling it, for which it wants to know the kind of GPU; nothing runs on it.
COMPILE = """
import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from triton.backends.compiler import GPUTarget
from monai_iln.norms import operator
from monai_iln.norms.backends import cuda_compiled
from monai_iln.norms.layers import InstanceLayerNorm
from monai_iln.norms.family import BatchInstanceNorm

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 80, 32)

triton.runtime.driver.set_active(Driver())
operator._device_type = lambda x: "cuda"
cuda_compiled.works = lambda device: True
WRAPPER = torch.ops.higher_order.triton_kernel_wrapper_functional

def describe(graph, x):
    kernels, sums = [], 0
    for node in graph.graph.nodes:
        if node.target is WRAPPER:
            tensors = node.kwargs["tensors_to_clone"]
            kernel = torch._higher_order_ops.triton_kernel_wrap.kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            if not isinstance(kernel, triton.JITFunction):  # one whose number of warps is set is a list of settings
                kernel = kernel.fn
            kernels.append(kernel.__name__ + ":" + "+".join(sorted(tensors)))
        if node.target in (torch.ops.aten.sum.dim_IntList, torch.ops.aten.var_mean.correction):
            sums += node.args[0].meta["val"].numel() == x.numel()
    print(*([sums, *kernels] if kernels else ["the definition"]))

def keep(graph, _):
    describe(graph, x)
    [output] = graph.graph.find_nodes(op="output")
    values = [None if node is None else node.meta["val"] for node in output.args[0]]
    def fake(*_):
        return [torch.zeros(v.shape, dtype=v.dtype) if isinstance(v, torch.Tensor) else v for v in values]
    return make_boxed_func(fake)

for layer in (InstanceLayerNorm(8, num_groups=4), BatchInstanceNorm(8)):
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    compiled = torch.compile(layer, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    compiled(x).sum().backward()
for x in (torch.randn(2, 8), torch.randn(0, 8, 6, 6)):  # which the definition has
    torch._dynamo.reset()
    torch.compile(InstanceLayerNorm(8, num_groups=4), backend=aot_autograd(fw_compiler=keep))(x)
layer, x = InstanceLayerNorm(8, num_groups=4), torch.randn(3, 2, 8, 6, 6)
for function in (torch.func.vmap(lambda x: layer(x)), torch.func.grad(lambda x: layer(x[0]).square().sum())):
    torch._dynamo.reset()
    torch.compile(function, backend=aot_autograd(fw_compiler=keep), fullgraph=True)(x)
for strict in (False, True):
    program = torch.export.export(layer, (x[0],), strict=strict)
    print("exported", *{str(node.target) for node in program.graph.nodes if "monai" in str(node.target)})
"""


@pytest.mark.slow
def test_what_the_compiler_sees():
    """Kernels and what each writes, between two reductions over the map; and nothing of it where others want more."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    parameters = "grad_bias+grad_rho+grad_weight"
    assert run.stdout.splitlines() == [
        "1 coefficients:scratch",
        f"2 coefficients_backward:scratch parameter_gradients:{parameters}",
        "1 coefficients:scratch",
        f"2 coefficients_backward:scratch pool_backward:scratch parameter_gradients:{parameters}",
        *["the definition"] * 4,  # no space, no samples, vmap, grad
        *["exported"] * 2,
    ]
