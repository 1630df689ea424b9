"""Batch statistics over two ranks: two processes, with gloo on this machine, against one with the whole batch."""

import os
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_iln import ILN
from monai_iln.norms.family import BatchInstanceNorm
from monai_iln.norms.layers import MixtureNorm

pytestmark = pytest.mark.slow

WORLD, SECONDS = 2, 60
THREE = ["layer", "batch", "instance"]
# A layer, what is added to the input, and the dtype.
LAYERS = {
    "BIN": (partial(BatchInstanceNorm, 8, sync=True), 0.0, torch.float64),
    "BIN of a large mean": (partial(BatchInstanceNorm, 8, sync=True), 1e4, torch.float32),
    "BIN in half precision": (partial(BatchInstanceNorm, 8, sync=True), 0.0, torch.bfloat16),
    "BIN without sync": (partial(BatchInstanceNorm, 8), 0.0, torch.float64),
    "mixture": (partial(MixtureNorm, 8, THREE, ("group", {"num_groups": 4}), sync=True), 0.0, torch.float64),
    "unbiased mixture": (partial(MixtureNorm, 8, THREE, unbiased=True, sync=True), 0.0, torch.float64),
}
# Samples of each rank.
SPLITS = {"uneven": (4, 1), "none on one": (3, 0), "no positions on one": (3, 0)}
# In float32 both means are rounded, by 2^-24 of what is added to the input; in bfloat16 both outputs, by half a unit of
# the last place.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-7 * 1e4, torch.bfloat16: 2**-7}


def part(tensor, split, rank):
    """What a rank gets of a tensor. Where it gets images without positions, it gets two."""
    own = tensor.split(SPLITS[split])[rank]
    if rank == 1 and split == "no positions on one":
        own = tensor[:2, :, :0]
    return own


def randomized(make, dtype):
    layer = make(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    for seed, tensor in enumerate(layer.state_dict().values()):
        tensor.copy_(0.8 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) + 0.1)
    return layer


def batch(split, offset, dtype):
    """Inputs that differ between samples, and with them between ranks, and a cotangent."""
    x, cotangent = torch.randn(2, sum(split), 8, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ramp = torch.linspace(0.5, 2, sum(split), dtype=torch.float64).view(-1, 1, 1, 1)
    return (x * ramp + 3 * ramp + offset).to(dtype), cotangent.to(dtype)


def step(layer, x, cotangent):
    """Output, gradients of x and of the parameters, and running statistics."""
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    gradients = torch.autograd.grad(y, [leaf, *layer.parameters()], cotangent)
    return {"output": y.detach(), "x": gradients[0], "parameters": gradients[1:], "running": list(layer.buffers())}


def network():
    torch.manual_seed(0)
    norms = ILN(8, 4), BatchInstanceNorm(8, sync=True)
    return nn.Sequential(nn.Conv2d(1, 8, 3), norms[0], nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), norms[1]).double()


def train(model, x):
    """Two steps of an optimizer, which move gates beyond [0, 1]."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) ** 3 + model(x)).mean().backward()
        optimizer.step()
    return model.state_dict()


def images():
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return x * torch.linspace(0.5, 2, 4, dtype=torch.float64).view(4, 1, 1, 1)


def work(rank, folder):
    """What a rank does; the tests look at the results."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of this machine resolves to
    timeout = timedelta(seconds=SECONDS / 2)
    dist.init_process_group("gloo", f"file://{folder}/meet", timeout, WORLD, rank)
    found = {}
    for name, (make, offset, dtype) in LAYERS.items():
        for split, sizes in SPLITS.items():
            layer = randomized(make, dtype)
            x, cotangent = (part(tensor, split, rank) for tensor in batch(sizes, offset, dtype))
            found[name, split] = step(layer, x, cotangent)
            if rank == 0:  # evaluation waits for nobody
                found[name, split]["evaluation"] = layer.eval()(x).detach()
    empty = BatchInstanceNorm(8, sync=True)
    empty(torch.empty(0, 8, 4))
    found["empty"] = list(empty.buffers())
    # Of images of different sizes every position counts the same.
    alone = MixtureNorm(8, ["batch"], sync=True, dtype=torch.float64)
    found["sizes"] = alone(torch.arange(8.0 * (2 + rank), dtype=torch.float64).view(1, 8, 2 + rank) ** 2).detach()
    found["trained"] = train(DistributedDataParallel(network()), images()[2 * rank : 2 * rank + 2])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, run_ranks):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, folder, WORLD, SECONDS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def distance(ranks, name, split):
    """How far two ranks are from one process, in units of the largest value of each tensor."""
    make, offset, dtype = LAYERS[name]
    expected = step(randomized(make, dtype), *batch(SPLITS[split], offset, dtype))
    found = [rank[name, split] for rank in ranks]
    pairs = [(torch.cat([rank[key] for rank in found if rank[key].numel()]), expected[key]) for key in ("output", "x")]
    pairs += [(sum(both), one) for *both, one in zip(*(r["parameters"] for r in (*found, expected)), strict=True)]
    pairs += [(one, other) for rank in found for one, other in zip(rank["running"], expected["running"], strict=True)]
    distances = [(one - other).abs().max() / other.abs().max().clamp(min=1) for one, other in pairs]
    return torch.stack(distances).max().item()  # NaN if any is


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "BIN without sync"])
def test_ranks_are_one_batch(ranks, name, split):
    assert distance(ranks, name, split) < TOLERANCE[LAYERS[name][2]]


def test_without_sync_they_are_not(ranks):
    assert distance(ranks, "BIN without sync", "uneven") > 0.1


@pytest.mark.parametrize("split", SPLITS)
def test_evaluation_waits_for_nobody(ranks, split):
    make, offset, dtype = LAYERS["BIN"]
    layer, (x, cotangent) = randomized(make, dtype), batch(SPLITS[split], offset, dtype)
    step(layer, x, cotangent)
    expected = layer.eval()(x)
    torch.testing.assert_close(ranks[0]["BIN", split]["evaluation"], expected[: SPLITS[split][0]])


def test_an_empty_batch_on_all_ranks_leaves_the_statistics_alone(ranks):
    for rank in ranks:
        torch.testing.assert_close(rank["empty"], [torch.zeros(8), torch.ones(8), torch.tensor(0)])


def test_positions_count_the_same(ranks):
    x = torch.cat([torch.arange(8.0 * size, dtype=torch.float64).view(1, 8, size) ** 2 for size in (2, 3)], 2)
    found = torch.cat([rank["sizes"] for rank in ranks], 2)
    torch.testing.assert_close(found, nn.functional.batch_norm(x, None, None, training=True))


def test_a_step_of_distributed_data_parallel(ranks):
    """Ranks agree, and equal one process: the mean of the gradients is the gradient of the mean over all samples."""
    one, other = (rank["trained"] for rank in ranks)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    trained = {name.removeprefix("module."): tensor for name, tensor in one.items()}
    torch.testing.assert_close(trained, dict(train(network(), images())), rtol=1e-9, atol=1e-9)
