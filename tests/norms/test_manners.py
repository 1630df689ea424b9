"""What torch's own norms go along with, so do these: sharding, tracing, transforms, averaging, pruning, odd devices."""

import copy
import io
import pickle
import sys
import threading
from functools import partial

import pytest
import torch
import torch.distributed as dist
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet, UNet
from monai.networks.utils import convert_to_torchscript
from torch import nn
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from monai_iln import ILN
from monai_iln.errors import UserError
from monai_iln.norms import (
    BatchInstanceNorm,
    MixtureNorm,
    SpatialLayerNorm,
    SwitchableNorm,
    UGATITInstanceLayerNorm,
    parameter_groups,
    read_gates,
    update_bn,
)
from monai_iln.norms.projection import clip_gate

FOUR = ["instance", "layer", "batch", ("group", {"num_groups": 4})]
MEMBERS = {
    "ILN": partial(ILN, 8, 4),
    "SPATIAL_LAYER": partial(SpatialLayerNorm, 8),
    "UGATIT_ILN": partial(UGATITInstanceLayerNorm, 8),
    "BIN": partial(BatchInstanceNorm, 8),
    "SWITCHABLE": partial(SwitchableNorm, 8),
    "MIXTURE": partial(MixtureNorm, 8, FOUR),
}
members = pytest.mark.parametrize("member", MEMBERS)
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sample(*shape, seed=0, dtype=torch.float64):
    """An input whose samples and channels differ in mean and scale."""
    samples, channels = (torch.linspace(0.5, 2, size, dtype=torch.float64) for size in shape[:2])
    ramp = (samples[:, None] * channels).reshape(*shape[:2], *[1] * (len(shape) - 2))
    return (ramp * random(*shape, seed=seed) + 2 * ramp).to(dtype)


def build(member, training=True, dtype=torch.float64):
    """A layer whose parameters and buffers are no ones and zeros."""
    layer = MEMBERS[member](dtype=dtype).train(training)
    for seed, tensor in enumerate(layer.state_dict().values()):
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return layer


def results(layer, x, cotangent, function=None):
    """The output and the gradients in x and in each parameter."""
    leaf = x.detach().requires_grad_()
    y = (layer if function is None else function)(leaf)
    return [y.detach(), *torch.autograd.grad(y, [leaf, *layer.parameters()], cotangent)]


# Sharding.


@members
@modes
def test_the_storage_of_a_parameter_stays_resizable(member, training):
    layer = build(member, training, torch.float32)
    layer(sample(2, 8, 3, 3, dtype=torch.float32).requires_grad_()).backward(random(2, 8, 3, 3, dtype=torch.float32))
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.untyped_storage().resize_(0)


@pytest.fixture
def mesh(tmp_path):
    """One process that is a group by itself."""
    dist.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


SHARDED = {
    "FSDP2": lambda network, mesh: fully_shard(network, mesh=mesh),
    "FSDP1": lambda network, mesh: FullyShardedDataParallel(
        network, device_mesh=mesh, device_id=torch.device("cpu"), use_orig_params=True
    ),
}


def full(state):
    """Whole tensors by their names, whoever keeps them in parts."""
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}


@pytest.mark.filterwarnings("ignore:.*NO_SHARD:FutureWarning")  # torch's own, of a group of one
@pytest.mark.filterwarnings("ignore:.*NO_SHARD:UserWarning")  # likewise
@pytest.mark.parametrize("shard", SHARDED.values(), ids=SHARDED)
def test_sharded_networks_train_like_whole_ones(mesh, shard):
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(1, 8, 3), ILN(8, 4), nn.Conv2d(8, 8, 1), BatchInstanceNorm(8), SwitchableNorm(8))
    sharded = shard(copy.deepcopy(whole), mesh)
    for network in (whole, sharded):
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for sign in (-1, -1, 1, 1):  # gates leave [0, 1] on the way
            optimizer.zero_grad()
            network(random(2, 1, 8, 8, dtype=torch.float32)).backward(sign * random(2, 8, 6, 6, dtype=torch.float32))
            optimizer.step()
    torch.testing.assert_close(full(sharded.state_dict()), dict(whole.state_dict()))
    assert (whole[3].rho != 1).any(), "no gate has come back"


def test_a_sharded_layer_that_is_called_past_its_wrapper_says_so(mesh):
    """The wrapper makes parameters whole before it calls the layer. Torch's norms refuse what it has not, as well."""
    sharded = fully_shard(nn.Sequential(ILN(8, 4)), mesh=mesh)
    with pytest.raises(UserError, match=r"rho is a DTensor of 1 number on cpu;.*part.*fully_shard.*full_tensor\(\)"):
        sharded[0](random(2, 8, 3, 3, dtype=torch.float32))


# Projected gates.


class Authors(nn.Module):
    """The definition of U-GAT-IT's norm with the clamp that its authors call after each step."""

    def __init__(self):
        super().__init__()
        self.rho = nn.Parameter(torch.zeros(8, dtype=torch.float64))

    def forward(self, x):
        parts = []
        for axes in ((2, 3), (1, 2, 3)):
            variance, mean = torch.var_mean(x, axes, keepdim=True)
            parts.append((x - mean) / (variance + 1e-5).sqrt())
        return self.rho[:, None, None] * parts[0] + (1 - self.rho[:, None, None]) * parts[1]


def ugatit():
    return UGATITInstanceLayerNorm(8, affine=False, dtype=torch.float64)


def signs(steps=40):
    return [1.0 if step < steps // 2 else -1.0 for step in range(steps)]


def fit(layer, optimizer, after=lambda: None, grad=None):
    """Twenty steps one way and twenty back; the gates after each."""
    x, cotangent = sample(2, 8, 5, 5), random(2, 8, 5, 5, seed=1)
    path = []
    for sign in signs():
        optimizer.zero_grad()
        if grad is None:
            layer(x).backward(sign * cotangent)
        else:
            layer.rho.grad = grad(layer, x, sign * cotangent)
        optimizer.step()
        after()
        path.append(gates_of(layer))
    return torch.stack(path)


def gates_of(layer):
    """The parameter behind the gates, whatever its name is now."""
    (rho,) = layer.parameters()
    return rho.detach().clone()


def functional_gradient(layer, x, cotangent):
    def loss(rho):
        return (torch.func.functional_call(layer, {"rho": rho}, (x,)) * cotangent).sum()

    return torch.func.grad(loss)(layer.rho.detach())


def pruned(layer):
    return prune.identity(layer, "rho")


WAYS = {
    "training": (lambda layer: layer, None),
    "evaluation": (lambda layer: layer.eval(), None),
    "torch.func": (lambda layer: layer, functional_gradient),
    "pruning": (pruned, None),
    "a copy": (copy.deepcopy, None),
    "a pickle": (lambda layer: pickle.loads(pickle.dumps(layer)), None),
}
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.05),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "Adam": partial(torch.optim.Adam, lr=0.2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("prepare", "grad"), WAYS.values(), ids=WAYS)
def test_gates_go_where_their_authors_take_them(prepare, grad, optimizer):
    authors, layer = Authors(), prepare(ugatit())
    truth = fit(authors, optimizer(authors.parameters()), lambda: authors.rho.data.clamp_(0, 1))
    path = fit(layer, optimizer(layer.parameters()), grad=grad)
    torch.testing.assert_close(path, truth)
    assert {0.0, 1.0} <= set(truth.flatten().tolist()), "no gate has met a bound"


# torch's own: its compiler makes an instance of every function that has a gradient in Python.
# dynamo makes an object of each autograd function that it meets, against torch's own advice.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.slow
def test_compiled_gates_go_where_their_authors_take_them():
    authors, layer = Authors(), ugatit()
    optimizers = [torch.optim.SGD(one.parameters(), 0.05) for one in (authors, layer)]
    truth = fit(authors, optimizers[0], lambda: authors.rho.data.clamp_(0, 1))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    path = fit(layer, optimizers[1], grad=lambda _, x, g: results(layer, x, g, compiled)[2])
    torch.testing.assert_close(path, truth)


def test_a_loop_without_an_optimizer_leads_back():
    """Nobody projects there: gates stop one step outside of [0, 1], and return with the first step."""
    layer, x, cotangent = ugatit(), sample(2, 8, 5, 5), random(2, 8, 5, 5, seed=1)
    rho, path = layer.rho.detach() + 0.5, []
    for sign in signs():
        layer.rho.data.copy_(rho)
        rho = rho - 0.05 * functional_gradient(layer, x, sign * cotangent)
        path.append(rho)
    gradient = (path[0] - 0.5).abs().max()
    assert 0 < max(-torch.stack(path).min(), torch.stack(path).max() - 1) <= gradient
    outside = (path[19] < 0) | (path[19] > 1)
    assert outside.any()
    assert ((path[20] - 0.5).abs() < (path[19] - 0.5).abs())[outside].all()


@pytest.mark.parametrize("transform", [lambda f: f, torch.func.vmap], ids=["plainly", "vmap"])
def test_the_gradient_of_a_clipped_gate(transform):
    rho = torch.tensor([-0.5, -0.5, 0.0, 0.0, 0.3, 1.0, 1.0, 1.5, 1.5], dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 0.0], dtype=torch.float64)  # descent subtracts
    clipped = transform(clip_gate)(rho)
    torch.testing.assert_close(clipped, torch.tensor([0, 0, 0, 0, 0.3, 1, 1, 1, 1], dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(clipped, rho, grad)[0], expected)


@pytest.mark.parametrize("make", [ugatit, lambda: pruned(ugatit())], ids=["rho", "pruned"])
def test_what_is_saved_lies_inside(make):
    layer, x = make(), sample(2, 8, 5, 5)
    (gate,) = layer.parameters()
    gate.data.copy_(torch.linspace(-1, 2, 8))
    expected = layer(x)
    assert gate.min() == -1, "a forward changes no parameter"
    saved = layer.state_dict()["rho_orig" if "rho_orig" in dict(layer.named_parameters()) else "rho"]
    torch.testing.assert_close(saved, torch.linspace(-1, 2, 8, dtype=torch.float64).clamp(0, 1))
    assert saved.data_ptr() == gate.data_ptr(), "what writes into a state dictionary writes into the layer"
    torch.testing.assert_close(layer(x), expected)


def test_a_trace_holds_no_function_in_python():
    layer = MixtureNorm(8, gate="projected", gate_scope="channel", dtype=torch.float64)
    x, file = sample(2, 8, 5, 5), io.BytesIO()
    layer.rho.data.copy_(torch.linspace(-1, 2, 8))
    torch.jit.save(torch.jit.trace(layer, x), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), layer(x))


def test_saving_between_a_forward_and_its_gradient():
    layer, x = ugatit(), sample(2, 8, 5, 5)
    layer.rho.data.fill_(1.5)
    y = layer(x)
    layer.state_dict()
    y.backward(random(2, 8, 5, 5))


def test_what_is_averaged_lies_inside():
    authors, layer = Authors(), ugatit()
    average, optimizer = AveragedModel(layer), torch.optim.SGD(layer.parameters(), 0.05)
    truth = fit(authors, torch.optim.SGD(authors.parameters(), 0.05), lambda: authors.rho.data.clamp_(0, 1))
    fit(layer, optimizer, lambda: average.update_parameters(layer))
    torch.testing.assert_close(average.module.rho.detach(), truth.mean(0))


def test_a_step_moves_the_gates_of_no_other_layer():
    stepped, other, clip = ugatit(), ugatit(), MixtureNorm(8, gate="clip")
    for layer in (stepped, other, clip):
        layer.rho.data.fill_(2.0)
        layer.rho.grad = torch.zeros_like(layer.rho)
    torch.optim.SGD([*stepped.parameters(), *clip.parameters()], 0.1).step()
    assert [layer.rho.max().item() for layer in (stepped, other, clip)] == [1.0, 2.0, 2.0]


# Who watches: dispatch modes, derivatives forwards, torch.fx.


def test_steps_while_another_thread_makes_layers():
    layer, other = BatchInstanceNorm(4), BatchInstanceNorm(4)
    copies, errors = [copy.copy(other) for _ in range(1000)], []
    optimizer = torch.optim.SGD([layer.rho], 0.1)
    layer.rho.grad = torch.zeros(4)
    done = threading.Event()

    def step():
        try:
            while not done.is_set():
                optimizer.step()
        except RuntimeError as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=step)
        thread.start()
        for _ in range(20000):
            copies.append(copy.copy(other))
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not errors


class Operators(TorchDispatchMode):
    """The names of the operators that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **kwargs or {})


@members
@modes
def test_a_dispatch_mode_sees_one_operator(member, training):
    x, cotangent = sample(2, 8, 3, 3), random(2, 8, 3, 3)
    expected = results(build(member, training), x, cotangent)
    with Operators() as operators:
        actual = results(build(member, training), x, cotangent)
    torch.testing.assert_close(actual, expected)
    names = [name for name in operators.seen if "mixture_norm" in name]
    assert names == ["monai_iln.mixture_norm.default", "monai_iln.mixture_norm_backward.default"]
    assert not [name for name in operators.seen if "native_" in name]


@members
@modes
@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_make_fx_records_no_statistics_of_its_example(member, training, pre_dispatch):
    layer = build(member, training)
    graph = make_fx(copy.deepcopy(layer), pre_dispatch=pre_dispatch)(sample(2, 8, 3, 3, seed=1))
    x = 5 * sample(2, 8, 3, 3, seed=2)
    torch.testing.assert_close(graph(x), layer(x))


def test_make_fx_of_a_gradient():
    layer, cotangent = build("MIXTURE"), random(2, 8, 3, 3)

    def gradients(x):
        return results(layer, x, cotangent)[1:]

    graph = make_fx(gradients)(sample(2, 8, 3, 3, seed=1))
    x = 5 * sample(2, 8, 3, 3, seed=2)
    torch.testing.assert_close(graph(x), gradients(x))


def test_make_fx_of_a_gradient_whose_forward_it_did_not_see():
    layer, x = build("ILN"), sample(2, 8, 3, 3).requires_grad_()
    y = layer(x)

    def backward(cotangent):
        return torch.autograd.grad(y, x, cotangent, retain_graph=True)[0]

    graph = make_fx(backward)(random(2, 8, 3, 3, seed=1))
    torch.testing.assert_close(graph(random(2, 8, 3, 3, seed=2)), backward(random(2, 8, 3, 3, seed=2)))


@members
@modes
def test_forward_derivatives_are_those_of_the_transposed(member, training):
    layer, x, cotangent = build(member, training), sample(2, 8, 3, 3), random(2, 8, 3, 3)
    expected, *gradients = results(copy.deepcopy(layer), x, cotangent)
    names, tensors = zip(*layer.named_parameters(), strict=True)
    tangents = [random(*tensor.shape, seed=seed) for seed, tensor in enumerate((x, *tensors), 1)]
    with forward_ad.dual_level():
        leaf, *duals = (forward_ad.make_dual(*pair) for pair in zip((x, *tensors), tangents, strict=True))
        y = torch.func.functional_call(layer, dict(zip(names, duals, strict=True)), (leaf,))
        y, tangent = forward_ad.unpack_dual(y)
    torch.testing.assert_close(y, expected)
    products = [(one * other).sum() for one, other in zip(gradients, tangents, strict=True)]
    torch.testing.assert_close((tangent * cotangent).sum(), torch.stack(products).sum())


def test_forward_derivatives_of_a_gradient():
    layer, x = build("ILN"), sample(1, 8, 2, 1).requires_grad_()
    cotangent, tangent = random(1, 8, 2, 1, seed=1), random(1, 8, 2, 1, seed=2)
    y = layer(x)
    with forward_ad.dual_level():  # the forward was before it
        dual = forward_ad.make_dual(cotangent, tangent)
        found = forward_ad.unpack_dual(torch.autograd.grad(y, x, dual, retain_graph=True)[0]).tangent
    torch.testing.assert_close(found, torch.autograd.grad(y, x, tangent)[0])  # it is linear in the cotangent
    forwards, backwards = (
        torch.autograd.functional.hessian(
            lambda leaf: layer(leaf).pow(3).sum(), x.detach(), vectorize=strategy == "forward-mode",
            outer_jacobian_strategy=strategy,
        )
        for strategy in ("forward-mode", "reverse-mode")
    )  # fmt: skip
    torch.testing.assert_close(forwards, backwards)


@pytest.mark.parametrize("saves", ["norm", "conv", "relu"])
def test_selective_checkpointing(saves):
    def policy(context, operator, *args, **kwargs):
        chosen.append(str(operator))
        return CheckpointPolicy.MUST_SAVE if saves in str(operator) else CheckpointPolicy.PREFER_RECOMPUTE

    chosen = []
    network = nn.Sequential(nn.Conv2d(2, 8, 3), build("ILN"), nn.ReLU(), nn.Conv2d(8, 2, 1)).double()
    x, cotangent = random(2, 2, 6, 6), random(2, 2, 4, 4)
    contexts = partial(create_selective_checkpoint_contexts, policy)
    saved = results(
        network, x, cotangent, lambda leaf: checkpoint(network, leaf, use_reentrant=False, context_fn=contexts)
    )
    torch.testing.assert_close(saved, results(network, x, cotangent))
    assert "monai_iln.mixture_norm.default" in chosen


@members
def test_norms_are_leaves_of_torch_fx(member):
    network = nn.Sequential(nn.Conv2d(2, 8, 3), build(member), nn.ReLU()).double()
    traced, x = torch.fx.symbolic_trace(network), random(2, 2, 5, 5)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
    assert type(traced.get_submodule("1")) is type(network[1])
    torch.testing.assert_close(traced(x), network(x))


def test_torch_fx_of_a_norm_alone_fails_as_torchs_does():
    for norm in (nn.BatchNorm2d(8), ILN(8)):
        with pytest.raises(torch.fx.proxy.TraceError, match="control flow"):
            torch.fx.symbolic_trace(norm)


# torch's own: it moves quantization to another package.
# torch says that its quantization will move elsewhere, and what its default settings leave open.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*reduce_range:UserWarning")
@pytest.mark.filterwarnings("ignore:Please use quant_min:UserWarning")
def test_quantization_by_torch_fx(monkeypatch):
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    # TorchScript knows operators by id. Quantization leaves ids of some that it frees: what takes their place in memory
    # is an operator to TorchScript from then on.
    builtins = torch.jit._builtins
    monkeypatch.setattr(builtins, "_builtin_table", dict(builtins._get_builtin_table()))
    net = UNet(2, 1, 2, channels=(8, 16), strides=(2,), norm=("ILN", {"num_groups": 4})).eval()
    x = random(2, 1, 16, 16, dtype=torch.float32)
    prepared = quantize_fx.prepare_fx(net, get_default_qconfig_mapping("fbgemm"), (x,))
    torch.testing.assert_close(prepared(x), net(x))
    assert [type(module) for module in prepared.modules() if isinstance(module, MixtureNorm)] == [ILN] * 2


# Running statistics.


def batches(count=5):
    return [sample(3, 4, 4, 5, seed=seed) for seed in range(count)]


def test_update_bn_does_to_ours_what_torch_does_to_its_own():
    torchs = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=0.3)).double()
    # Gates of 1 make batch norm of it.
    ours = nn.Sequential(nn.BatchNorm2d(4), BatchInstanceNorm(4, momentum=0.3)).double()
    for network in (torchs, ours):
        network.load_state_dict({"1.running_mean": torch.full((4,), 100.0)}, strict=False)
    torch.optim.swa_utils.update_bn(batches(), torchs)
    update_bn(batches(), ours)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(torchs.named_buffers()))
    assert (ours[1].momentum, ours[1].num_batches_tracked) == (0.3, 5)


def test_update_bn_of_what_a_loader_may_give():
    expected = BatchInstanceNorm(4, dtype=torch.float64)
    update_bn(batches(), expected)
    assert (expected.running_mean - 2.5).abs().max() < 2.5
    for wrap in (lambda x: [x, None], lambda x: (x, None), lambda x: {"image": x, "label": None}):
        layer = BatchInstanceNorm(4, dtype=torch.float64)
        update_bn([wrap(x) for x in batches()], layer, device="cpu")
        torch.testing.assert_close(dict(layer.named_buffers()), dict(expected.named_buffers()))
    update_bn(batches(), BatchInstanceNorm(4, dtype=torch.float64, device="meta"), device="meta")


@pytest.mark.parametrize(
    ("batch", "got"),
    [({"img": torch.ones(1)}, "dict with the keys img"), ([], "list; "), (None, "NoneType; "), ([{}], "list; ")],
)
def test_update_bn_refuses_other_batches(batch, got):
    with pytest.raises(UserError, match=f"a batch is a {got}.*Remedy"):
        update_bn([batch], BatchInstanceNorm(4))


@pytest.mark.parametrize("member", ["SWITCHABLE", "MIXTURE", "BIN"])
def test_update_bn_takes_the_mean_of_all_batches(member):
    layer = MEMBERS[member](momentum=1.0, dtype=torch.float64)
    data, last = [sample(3, 8, 4, 5, seed=seed) for seed in range(4)], []
    for x in data:  # with momentum 1 running statistics are those of the last batch
        layer(x)
        last.append([layer.running_mean.clone(), layer.running_var.clone()])
    update_bn(data, layer)
    expected = [torch.stack(tensors).mean(0) for tensors in zip(*last, strict=True)]
    torch.testing.assert_close([layer.running_mean, layer.running_var], expected)


def test_update_bn_leaves_the_rest_as_it_was():
    network = nn.Sequential(nn.Dropout(), BatchInstanceNorm(4, momentum=0.2), nn.Identity()).eval()
    network[2].train()

    def breaking():
        yield sample(2, 4, 3, 3, dtype=torch.float32)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        update_bn(breaking(), network)
    assert [module.training for module in network.modules()] == [False, False, False, True]
    assert network[1].momentum == 0.2
    update_bn(breaking(), nn.Sequential(ILN(4)))  # asks for no batch, where nothing has running statistics
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(network)[1]) is BatchInstanceNorm


def test_a_momentum_of_none_is_that_of_torch():
    ours, torchs = (norm(4, momentum=None, dtype=torch.float64) for norm in (BatchInstanceNorm, nn.BatchNorm2d))
    for seed in range(4):
        x = sample(seed + 2, 4, 3, seed + 1, seed=seed)
        torch.testing.assert_close(ours(x), torchs(x))
        torch.testing.assert_close(dict(ours.named_buffers()), dict(torchs.named_buffers()))
        loaded = BatchInstanceNorm(4, momentum=None, dtype=torch.float64)  # goes on where the saved one was
        loaded.load_state_dict(ours.state_dict())
        ours = loaded
    ours.reset_running_stats()
    torchs.reset_running_stats()
    torch.testing.assert_close(dict(ours.named_buffers()), dict(torchs.named_buffers()))


def test_states_saved_without_the_number_of_batches():
    layer = build("BIN")
    layer(sample(2, 8, 3, 3))
    state = {name: tensor for name, tensor in layer.state_dict().items() if name != "num_batches_tracked"}
    loaded = MEMBERS["BIN"](dtype=torch.float64)
    loaded.load_state_dict(state)
    assert loaded.num_batches_tracked == 0
    torch.testing.assert_close(loaded.running_mean, layer.running_mean)


@members
@pytest.mark.parametrize("momentum", [0.1, None])
def test_no_device_is_asked_for_a_number(member, momentum):
    """What asks one fails on the meta device, whose tensors have no values."""
    keywords = {"momentum": momentum} if member in ("BIN", "SWITCHABLE", "MIXTURE") else {}
    layer = MEMBERS[member](device="meta", **keywords)
    x = torch.empty(2, 8, 3, 3, device="meta", requires_grad=True)
    layer(x).backward(torch.empty_like(x))
    layer.eval()(x).backward(torch.empty_like(x))


# Pruned and parametrized gates, other devices, other ranges.

CHANGED = {
    "parametrized": lambda layer, name: parametrize.register_parametrization(layer, name, nn.Identity()),
    "weight norm": parametrizations.weight_norm,
    "pruned": prune.identity,
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
@pytest.mark.parametrize(("member", "gates"), [("ILN", ["rho"]), ("SWITCHABLE", ["mean_weight", "var_weight"])])
def test_a_gate_that_is_computed_stays_in_its_group(member, gates, change):
    network = nn.Sequential(build(member))
    before = read_gates(network)
    for gate in gates:
        change(network[0], gate)
    change(network[0], "bias")
    groups = {group["name"]: group["params"] for group in parameter_groups(network, lr=0.1)}
    rest = {name for name, parameter in network.named_parameters() if any(parameter is p for p in groups["rest"])}
    assert {name for name in rest if "bias" not in name} == {"0.weight"}
    assert len(groups["gates"]) == len(list(network.parameters())) - len(rest) >= len(gates)
    after = read_gates(network)["0"]["weights"]
    assert {name: pytest.approx(weights) for name, weights in before["0"]["weights"].items()} == after


@members
@modes
@pytest.mark.parametrize("shape", [(2, 8, 3, 3), (0, 8, 3, 3)], ids=["some", "none"])
@pytest.mark.parametrize("affine", [True, False])
def test_a_foreign_default_device(member, training, shape, affine):
    layer = MEMBERS[member](affine=affine).train(training)
    x = random(*shape, dtype=torch.float32).requires_grad_()
    cotangent = random(*shape, seed=1, dtype=torch.float32)
    with torch.device("meta"):  # any that is not the layer's
        y = layer(x)
        y.backward(cotangent)
        weights = layer.gate_weights()
    assert {tensor.device.type for tensor in (y, x.grad, weights)} == {"cpu"}
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@members
@modes
@pytest.mark.parametrize("scale", [1e19, 1e25, 1e32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_squares_beyond_the_range_of_float32(member, training, scale, memory_format):
    layer = build(member, training, torch.float32)
    x = (scale * sample(2, 8, 6, 6)).float().contiguous(memory_format=memory_format)
    cotangent = random(2, 8, 6, 6, dtype=torch.float32)
    exact = results(copy.deepcopy(layer).double(), x.double(), cotangent.double())
    actual = results(layer, x, cotangent)
    for one, other in zip(actual, exact, strict=True):
        size = other.abs().max()
        torch.testing.assert_close(one.double() / size, other / size, rtol=0, atol=1e-4)


@members
@modes
def test_squares_beyond_the_range_of_a_definition(member, training):
    """Exported, such a channel is 0, as in instance norm."""
    layer = build(member, training, torch.float32)
    x, cotangent = sample(2, 8, 6, 6, dtype=torch.float32), random(2, 8, 6, 6, dtype=torch.float32)
    scripted = torch.jit.script(layer)
    assert all(tensor.isfinite().all() for tensor in results(layer, 1e20 * x, cotangent, scripted))
    x[0, 0, 0, 0] = torch.nan
    spoiled = scripted(x)[0].isnan()
    assert spoiled[0].all()
    assert spoiled.all() == (member != "BIN"), "NaN goes as far as statistics do"


def test_one_channel_beyond_the_range_spoils_no_other():
    x = sample(2, 8, 6, 6, dtype=torch.float32)
    layer = torch.jit.script(MixtureNorm(8, ["instance", "layer"], ("group", {"num_groups": 8})))
    expected = layer(x)
    x[:, 0] *= 1e25
    y = layer(x)
    assert (y[:, 0] == 0).all()
    torch.testing.assert_close(y[:, 1:], expected[:, 1:], rtol=1e-2, atol=1e-2)  # the layer's part is another


# The tolerance that docs/how-to/deploy.md names.
@pytest.mark.parametrize("seed", range(3))
def test_torchscript_verified_by_monai(seed):
    torch.manual_seed(seed)
    network = BasicUNet(2, 1, 3, features=(8, 8, 16, 16, 32, 8), norm="ILN").eval()
    convert_to_torchscript(network, inputs=(torch.randn(1, 1, 32, 32),), verify=True, atol=1e-4)


@pytest.mark.parametrize("make", [ILN, lambda c: MixtureNorm(c, ["instance", "batch"])])
def test_an_activation_in_place_follows_on_a_meta_tensor(make):
    """As DynUNet and DenseNet have it: the output must be no view that a custom function made."""
    layer = make(4)
    x = MetaTensor(torch.randn(2, 4, 6, 6), meta={"name": "a"}).requires_grad_()
    cotangent = torch.randn(2, 4, 6, 6)
    y = layer(1 * x)
    assert isinstance(y, MetaTensor)
    assert y.meta["name"] == "a"
    (nn.functional.leaky_relu_(y) * cotangent).sum().backward()
    grads = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    x.grad = None
    layer.zero_grad()
    plain = x.detach().as_tensor().requires_grad_()
    (nn.functional.leaky_relu(layer(plain)) * cotangent).sum().backward()
    for grad, wanted in zip(grads, [plain.grad, *(parameter.grad for parameter in layer.parameters())], strict=True):
        torch.testing.assert_close(torch.as_tensor(grad).as_subclass(torch.Tensor), wanted)
    assert all(type(buffer) is torch.Tensor for buffer in layer.buffers())
