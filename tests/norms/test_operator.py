"""The operator against the definition, and as torch sees it: checked, compiled, traced, transformed, checkpointed."""

import itertools
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from monai_iln import ILN
from monai_iln.errors import UserError
from monai_iln.norms import BatchInstanceNorm, SpatialLayerNorm, UGATITInstanceLayerNorm
from monai_iln.norms.backends import dispatcher, reference
from monai_iln.norms.coefficients import BATCH, Mixture
from monai_iln.norms.operator import KERNELS, choose_backend, load_kernels, mixture_norm, mixture_norm_reference

cpu = load_kernels("cpu")[0]  # those that numba compiles, where it is installed
SHAPES = {"1d": (3, 8, 7), "2d": (3, 8, 5, 6), "3d": (2, 8, 3, 4, 5), "no space": (5, 8), "one pixel": (2, 8, 1, 1)}
COMPONENTS = {
    "instance + layer": [8, 1],
    "layer": [1],
    "instance + layer + group": [8, 1, 4],
    "batch + instance": [BATCH, 8],
    "instance + layer + batch": [8, 1, BATCH],
    "group + group": [2, 4],
}


def random(*shape, seed):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.2


def make(shape, components=(8, 1), num_groups=4, statistics=False, unbiased=False, running=False, gates=1):
    """Operands of the operator, with channels that differ in mean and scale."""
    channels = torch.linspace(0.3, 2, shape[1], dtype=torch.float64).view(-1, *[1] * (len(shape) - 2))
    x = channels * (4 * random(*shape, seed=0) - 2 + channels)
    rho = random(*((2, len(components), 1) if statistics else (len(components), gates)), seed=1)
    weight, bias, mean, variance = (random(shape[1], seed=seed) for seed in (2, 3, 4, 5))
    mixture = Mixture(list(components), num_groups, statistics, unbiased, 1e-3, "softmax", gates > 1 and not statistics)
    return x, rho, weight, bias, mean if running else None, variance if running else None, mixture


def results(function, operands, dtype=torch.float64):
    """The output and the gradients in x, rho, weight and bias for a random cotangent."""
    leaves = [operand.detach().to(dtype).requires_grad_() for operand in operands[:4]]
    y = function(*leaves, *operands[4:])
    y = y[0] if isinstance(y, tuple) else y
    cotangent = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6)).to(dtype)
    return [y, *torch.autograd.grad(y, leaves, cotangent)]


def assert_same(actual, expected, tolerance=1e-9):
    for one, other in zip(actual, expected, strict=True):
        size = other.abs().max().clamp(min=1.0).double()
        torch.testing.assert_close(one.double() / size, other.double() / size, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("components", COMPONENTS.values(), ids=COMPONENTS)
@pytest.mark.parametrize("num_groups", [0, 4, 8])
def test_every_mixture(shape, components, num_groups):
    for statistics, unbiased, running in itertools.product([False, True], repeat=3):
        gates = 1 if num_groups else 8
        operands = make(shape, components, num_groups, statistics, unbiased, running, gates)
        assert_same(results(mixture_norm, operands), results(mixture_norm_reference, operands))


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [((3, 8, 5, 6), torch.channels_last), ((2, 8, 3, 4, 5), torch.channels_last_3d)],
)
def test_channels_last(shape, memory_format):
    x, *others = make(shape)
    operands = (x.contiguous(memory_format=memory_format), *others)
    actual = results(mixture_norm, operands)
    assert_same(actual, results(mixture_norm_reference, (x, *others)))
    assert actual[0].is_contiguous(memory_format=memory_format)
    assert actual[1].is_contiguous(memory_format=memory_format)


def test_every_layout_of_input_and_gradient():
    wide = torch.randn(2, 8, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layouts = {
        "sliced": lambda t: t.repeat_interleave(2, 3)[..., ::2],
        "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
        "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "contiguous": lambda t: t,
    }
    x, *others = make((2, 8, 6, 10))
    expected = results(mixture_norm_reference, (x, *others))
    for input_layout, grad_layout in itertools.product(layouts.values(), repeat=2):
        twin = input_layout(x).detach().requires_grad_()
        y, *_ = mixture_norm(twin, *others)
        truth = torch.autograd.grad(mixture_norm_reference(x.requires_grad_(), *others)[0], x, wide)
        assert_same([y, *torch.autograd.grad(y, twin, grad_layout(wide))], [expected[0], *truth])


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 1, 1)])
@pytest.mark.parametrize("num_groups", [None, 4, 8])
@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_one_pixel_in_single_precision(shape, num_groups, eps):
    """Nothing varies there, so slopes are large, and what they multiply must be 0 exactly."""
    x, cotangent = random(*shape, seed=0), random(*shape, seed=1)
    layer = ILN(8, num_groups, eps=eps)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype).requires_grad_()
        gradients += torch.autograd.grad(layer.to(dtype)(leaf), leaf, cotangent.to(dtype))
    assert_same(gradients[:1], gradients[1:], tolerance=1e-6)


def test_infinity_warns_nobody():
    x = torch.randn(2, 8, 4, 4)
    x[0, 0, 0, 0] = torch.inf
    assert ILN(8, 4)(x.requires_grad_())[1].isfinite().all()


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_large_mean_costs_no_digits(offset, memory_format):
    x, *others = make((2, 8, 32, 32))
    x = (x + offset).float().contiguous(memory_format=memory_format)  # rounded: that is the input, in both precisions
    actual = results(mixture_norm, (x, *others), torch.float32)
    assert_same(actual, results(mixture_norm_reference, (x, *others)), tolerance=1e-5)


def test_a_sum_beyond_the_range_spares_the_other_channels():
    """The definition's mean is infinite there, and its gradient is no number."""
    x, *others = make((2, 8, 5, 6), [8, 1, BATCH])
    x[0, 1] = 3e37
    y, grad_x, *_ = results(mixture_norm_reference, (x, *others), torch.float32)
    there = [c for c in range(8) if c != 1]
    assert y[0, there].isfinite().all()
    assert y[1].isfinite().all()
    assert grad_x[:, there].isfinite().all()
    assert (
        mixture_norm_reference(x.float(), *(t if t is None else t.float() for t in others[:5]), others[5])[1][
            :, :, there
        ]
        .isfinite()
        .all()
    )


def test_nothing_and_nan():
    empty = ILN(8, 4)(torch.empty(0, 8, 4, 4, requires_grad=True))
    assert torch.autograd.grad(empty, empty, torch.empty_like(empty))[0].shape == (0, 8, 4, 4)
    x = torch.randn(2, 8, 4, 4)
    x[1, 3, 2, 2] = torch.nan
    y = ILN(8, 4)(x)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()  # through the layer part


@pytest.mark.slow
# Since torch 2.14 opcheck itself reads .grad of tensors that it has computed. No line of ours does.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_opcheck(statistics, dtype):
    operands = make((2, 8, 3, 4), [8, 1, BATCH], statistics=statistics)
    x, *tensors = (None if t is None else t.to(dtype).requires_grad_() for t in operands[:6])
    arguments = (x, *tensors, *operands[6])
    torch.library.opcheck(torch.ops.monai_iln.mixture_norm.default, arguments, rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        y, moments = torch.ops.monai_iln.mixture_norm(*arguments)
        arguments = (torch.randn_like(y), x.detach(), moments, *(t if t is None else t.detach() for t in tensors))
    torch.library.opcheck(torch.ops.monai_iln.mixture_norm_backward.default, (*arguments, *operands[6]))


@pytest.mark.slow
def test_first_and_second_derivatives():
    *leaves, _, _, mixture = make((2, 4, 3, 2), [4, 1], 2)
    leaves = [leaf.requires_grad_() for leaf in leaves]

    def function(*inputs):
        return mixture_norm(*inputs, None, None, mixture)[0]

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def layer_results(function, layer, x):
    leaf = x.detach().clone().requires_grad_()
    y = function(leaf)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(6)).to(y.dtype)
    return [y, *torch.autograd.grad(y, [leaf, *layer.parameters()], cotangent)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_has_no_graph_break(backend):
    layer = ILN(8, 4)
    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=True)
    for size in (6, 9):
        x = torch.randn(2, 8, size, size, generator=torch.Generator().manual_seed(size))
        assert_same(layer_results(compiled, layer, x), layer_results(layer, layer, x), tolerance=1e-5)


def test_a_compiled_gradient_sums_over_the_map_twice():
    """Sums of the cotangent, and of its product with the centred map; instance norm has the same two."""
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    layer, x = ILN(8, 4), torch.randn(2, 8, 6, 6, requires_grad=True)
    torch.compile(layer, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))(x).sum().backward()
    sizes = [
        node.args[0].meta["val"].numel()
        for node in graphs[1].graph.find_nodes(op="call_function", target=torch.ops.aten.sum.dim_IntList)
    ]
    assert sizes.count(x.numel()) == 2


def test_functional_transforms():
    layer = ILN(8, 4, dtype=torch.float64)
    x = random(3, 2, 8, 4, 4, seed=0)
    torch.testing.assert_close(torch.vmap(layer)(x), torch.stack([layer(sample) for sample in x]))
    gradient = torch.func.grad(lambda leaf: (layer(leaf) ** 3).sum())(x[0])
    leaf = x[0].clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad((layer(leaf) ** 3).sum(), leaf)[0])


def test_the_operator_itself_under_transforms():
    operands = make(SHAPES["2d"])
    y, gradient, *_ = results(mixture_norm_reference, operands)
    cotangent = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    def loss(x):
        return (torch.ops.monai_iln.mixture_norm(x, *operands[1:6], *operands[6])[0] * cotangent).sum()

    torch.testing.assert_close(torch.func.grad(loss)(operands[0]), gradient)
    tangent = random(*y.shape, seed=7)
    torch.testing.assert_close(torch.func.jvp(loss, (operands[0],), (tangent,))[1], (gradient * tangent).sum())


@pytest.mark.parametrize("differentiated", [True, False])
def test_what_is_left_of_a_transform(differentiated):
    """Torch wraps tensors within transforms; one that a hook has kept is still wrapped afterwards."""
    layer, x, kept = ILN(8, 4), torch.randn(2, 8, 4, 4), []
    torch.func.grad(lambda leaf: kept.append(leaf) or (leaf**2).sum())(x)
    with torch.set_grad_enabled(differentiated):
        torch.testing.assert_close(layer(kept[0]), layer(x))


def test_checkpointing():
    layer = ILN(8, 4)
    x = torch.randn(2, 8, 6, 6)
    recomputed = layer_results(lambda leaf: checkpoint(layer, leaf, use_reentrant=False), layer, x)
    assert_same(recomputed, layer_results(layer, layer, x), tolerance=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [partial(ILN, 8, 4), partial(BatchInstanceNorm, 8)])
def test_hooks_of_saved_tensors_may_change_dtypes(norm, dtype):
    layer, x = norm(), torch.randn(2, 8, 6, 6)

    def apply(leaf):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.to(dtype), lambda tensor: tensor):
            return layer(leaf)

    assert_same(layer_results(apply, layer, x), layer_results(layer, layer, x), tolerance=1e-5)


def test_autocast():
    network = nn.Sequential(nn.Conv2d(1, 8, 3), ILN(8, 4), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 3))
    with torch.autocast("cpu", torch.bfloat16):
        y = network(torch.randn(2, 1, 12, 12))
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_what_is_exported_needs_no_package():
    layer, x = ILN(8, 4), torch.randn(2, 8, 4, 4)
    for graph in (torch.jit.trace(layer, x).graph, torch.jit.script(layer).inlined_graph):
        assert "monai_iln::" not in str(graph)
    assert "monai_iln" not in str(torch.export.export(layer, (x,)).graph)


def test_who_takes_the_operator(monkeypatch):
    calls = []
    for backend in (reference, cpu):
        monkeypatch.setattr(backend, "forward", partial(spy, calls, backend, backend.forward))
    layer, x = ILN(8, 4), torch.randn(2, 8, 4, 4)
    layer(x)
    layer(MetaTensor(x))
    assert calls == [cpu, cpu]
    layer.to("meta")(x.to("meta"))
    assert calls == [cpu, cpu, reference]


# A kernel has nothing but addresses. What is there instead of a parameter, or behind it, must not be read.
@pytest.mark.parametrize("differentiated", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(4)}, "weight of 4 numbers for an input of 8 channels: it must have 8"),
        ({"bias": torch.ones(16)}, "bias of 16 numbers"),
        ({"rho": torch.ones(8)}, "rho of 8 numbers for an input of 8 channels: it must have 1"),
        ({"weight": torch.ones(1)}, "weight of 1 number for an input of 8 channels: it must have 8"),
        ({"rho": torch.ones(0)}, "rho is a Parameter of 0 numbers"),
        ({"weight": torch.ones(8, device="meta")}, "weight is a Parameter of 8 numbers on meta"),
        ({"rho": torch.ones(1, device="meta")}, "rho is a Parameter of 1 number on meta.*move the layer there"),
    ],
)
def test_parameters_that_do_not_fit(change, message, differentiated):
    layer = ILN(8, 4)
    for name, tensor in change.items():
        setattr(layer, name, nn.Parameter(tensor))
    with torch.set_grad_enabled(differentiated), pytest.raises(UserError, match=message):
        layer(torch.randn(2, 8, 4, 4))


@pytest.mark.parametrize("change", [{"components": [16, 1]}, {"components": [8, 3]}, {"num_groups": 3}])
def test_groups_that_do_not_divide_the_channels(change):
    *operands, mixture = make((2, 8, 4, 4))
    with pytest.raises(UserError, match="groups in an input of 8 channels: they must divide the channels"):
        mixture_norm(*operands, mixture._replace(**change))


def test_batch_norm_takes_both_running_statistics_or_none():
    x, rho, weight, bias, mean, _, mixture = make((2, 8, 4, 4), (8, BATCH), running=True)
    with pytest.raises(UserError, match="one of running_mean and running_var: batch norm takes both or none"):
        mixture_norm(x, rho, weight, bias, mean, None, mixture)


def spy(calls, backend, forward, *operands):
    calls.append(backend)
    return forward(*operands)


def test_who_is_chosen():
    x = torch.randn(2, 8, 4, 4)
    assert choose_backend(x) is cpu
    assert choose_backend(x.to("meta")) is reference
    assert choose_backend(MetaTensor(x)) is cpu  # the layer gives back a MetaTensor, as torch functions do
    assert isinstance(ILN(8, 4)(MetaTensor(x)), MetaTensor)
    torch.func.vmap(lambda sample: require(choose_backend(sample) is reference) or sample)(x)
    torch.jit.trace(lambda sample: require(choose_backend(sample) is reference) or sample, x, check_trace=False)
    with forward_ad.dual_level():
        assert choose_backend(x) is reference
    with TorchDispatchMode():
        assert choose_backend(x) is dispatcher
    with torch.device("meta"):  # a mode, but one that asks for no operators
        assert choose_backend(x) is cpu


def require(condition):
    assert condition


def test_a_new_backend_is_a_file_and_a_line(monkeypatch):
    picky = ModuleType("monai_iln.norms.backends.picky")
    picky.takes = lambda x: x.shape[-1] == 7
    monkeypatch.setitem(sys.modules, picky.__name__, picky)
    monkeypatch.setitem(KERNELS, "cpu", [("picky", "missing_package"), ("picky", "numpy"), *KERNELS["cpu"]])
    load_kernels.cache_clear()
    try:
        assert choose_backend(torch.randn(2, 8, 7)) is picky
        assert choose_backend(torch.randn(2, 8, 6)) is cpu
    finally:
        load_kernels.cache_clear()


def test_operands_that_depend_on_one_another():
    # Tied parameters, and a weight computed from the input, as adaptive norms have it.
    layer = ILN(8, 4, dtype=torch.float64)
    x = random(2, 8, 4, 4, seed=0).requires_grad_()
    del layer.weight
    layer.weight = x.mean((0, 2, 3))
    del layer.bias
    layer.bias = layer.weight
    y = (layer(x) ** 3).sum()
    (plain,) = torch.autograd.grad(y, x, retain_graph=True)
    (differentiable,) = torch.autograd.grad(y, x, create_graph=True)
    torch.testing.assert_close(differentiable, plain)


def test_many_cotangents_at_once():
    layer = ILN(8, 4, dtype=torch.float64)
    x = random(2, 8, 3, 3, seed=0).requires_grad_()
    cotangents = random(4, 2, 8, 3, 3, seed=1)
    (batched,) = torch.autograd.grad(layer(x), x, cotangents, is_grads_batched=True)
    singly = torch.stack([torch.autograd.grad(layer(x), x, cotangent)[0] for cotangent in cotangents])
    torch.testing.assert_close(batched, singly)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_tiny_inputs_without_eps(memory_format):
    x, *others, mixture = make((2, 8, 16, 16))
    operands = ((1e-15 * x).contiguous(memory_format=memory_format), *others, mixture._replace(eps=0.0))
    actual, expected = (results(function, operands)[0] for function in (mixture_norm, mixture_norm_reference))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 8, 0, 4)])
@pytest.mark.parametrize("norm", [ILN, BatchInstanceNorm])
def test_nothing_gives_no_gradient(shape, norm):
    layer = norm(8)
    layer(torch.empty(shape, requires_grad=True)).sum().backward()
    assert all((parameter.grad == 0).all() for parameter in layer.parameters())


def test_training_may_come_between_evaluation_and_its_gradient():
    layer = BatchInstanceNorm(8)
    y = layer.eval()(torch.randn(2, 8, 4, 4, requires_grad=True))
    layer.train()(torch.randn(2, 8, 4, 4))
    y.sum().backward()


def test_projected_gates_under_transforms():
    layer, x = UGATITInstanceLayerNorm(8), torch.randn(2, 8, 4, 4)
    parameters = dict(layer.named_parameters())
    gradients = torch.func.grad(lambda p: (torch.func.functional_call(layer, p, (x,)) ** 3).sum())(parameters)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


def test_a_layer_without_gate_needs_no_tensor_of_another_device():
    layer = SpatialLayerNorm(8, device="meta")
    assert layer(torch.empty(2, 8, 4, 4, device="meta")).device.type == "meta"


@pytest.mark.parametrize(
    "gaps", [lambda x: x[:, :8], lambda x: x[..., :5], lambda x: x.narrow(2, 1, 4)], ids=["channels", "columns", "rows"]
)
@pytest.mark.parametrize("shape", [(2, 12, 6, 7), (2, 12, 6, 5, 7)], ids=["2d", "3d"])
def test_a_part_of_a_channels_last_tensor_stays_channels_last(shape, gaps):
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)]
    x = gaps(torch.randn(shape).contiguous(memory_format=layout)).requires_grad_()
    y = ILN(x.shape[1], 4)(x)
    assert y.is_contiguous(memory_format=layout)
    (grad,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert grad.is_contiguous(memory_format=layout)
