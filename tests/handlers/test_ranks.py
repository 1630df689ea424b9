"""Handlers in two processes, with gloo on this machine, against one process that sees everything."""

import csv
import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.distributed as dist
from engines import disc, evaluate, one_hot, stack
from ignite.engine import Engine
from monai.data import DistributedSampler
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_iln import ILN
from monai_iln.errors import DivergedError
from monai_iln.handlers import SaveCost, SaveGates, SaveImageMetrics, SaveOverlay, TrainingCurves

pytestmark = pytest.mark.slow

WORLD, SECONDS = 2, 120


def stacks():
    """Three, which two ranks cannot share evenly: the sampler deals the first out twice. Either rank has one of B."""
    found = []
    dealt = [("B", "ED", (9, 7, 3)), ("B", "ES", (5, 6, 7)), ("A", "ED", (11, 7, 5))]
    for number, (name, phase, radii) in enumerate(dealt):
        truth = torch.stack([disc(radius) for radius in radii], dim=-1)
        found.append(stack(one_hot(truth), one_hot(truth.roll(number, 0)), name, phase=phase))
        found[-1][1]["image"] = found[-1][1]["image"] * 0 + number
    return found


def evaluate_share(folder, rank, world):
    everything = stacks()
    share = [everything[i] for i in DistributedSampler(everything, shuffle=False, num_replicas=world, rank=rank)]
    evaluate(SaveImageMetrics(folder, ["left ventricle"]), *share)
    evaluate(SaveOverlay(f"{folder}/overlay.png"), *share)


def train(folder, rank, world):
    network = nn.Sequential(nn.Conv2d(1, 32, 1), ILN(32))
    if world > 1:
        network = DistributedDataParallel(network)
    trainer = Engine(lambda engine, loss: [{"loss": torch.tensor(loss)}])
    for handler in (
        SaveCost(network, folder),
        TrainingCurves(Engine(lambda *_: None), folder),
        SaveGates(network, folder),
    ):
        handler.attach(trainer)
    trainer.run([1.0 + 2 * rank, 2.0, 3.0], max_epochs=2)


def diverge(folder, rank):
    """The iteration in which a rank ends, where the loss of the second alone is not a number."""
    trainer = Engine(lambda engine, loss: {"loss": loss})
    TrainingCurves(None, folder).attach(trainer)
    try:
        trainer.run([1.0, float("nan") if rank == 1 else 2.0, 3.0], max_epochs=2)
    except DivergedError:
        return trainer.state.iteration


def work(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of this machine resolves to
    os.environ["LOCAL_RANK"] = str(rank)  # as torchrun tells
    dist.init_process_group("gloo", f"file://{folder}/meet", timedelta(seconds=SECONDS / 2), WORLD, rank)
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
        # Each into a folder of its own, to see who writes what; predictions need the common one.
        evaluate_share(f"{folder}/both", rank, WORLD)
        train(f"{folder}/{rank}", rank, WORLD)
    with redirect_stderr(io.StringIO()):
        ended = diverge(f"{folder}/diverged", rank)
    with open(f"{folder}/{rank}.txt", "w") as file:  # noqa: PTH123
        file.write(printed.getvalue())
    with open(f"{folder}/{rank}-ended.txt", "w") as file:  # noqa: PTH123
        file.write(str(ended))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, run_ranks):
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(work, folder, WORLD, SECONDS)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    evaluate_share(str(folder), 0, 1)
    return folder


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_those_of_one_process(ranks, alone):
    rows = read(ranks / "both" / "images.csv")
    assert rows == read(alone / "images.csv")
    assert [row["subject"] for row in rows] == list("BBBBBBAAA"), "once each, in the order of the data"


def test_positions_are_decided_over_the_ranks(ranks):
    """End systole alone would have them the other way round."""
    rows = read(ranks / "both" / "images.csv")
    assert [(row["phase"], row["position"]) for row in rows[:6]] == [
        (phase, position) for phase in ("ED", "ES") for position in ("base", "mid", "apex")
    ]


def test_predictions_are_those_of_one_process(ranks, alone):
    names = sorted(path.name for path in (ranks / "both" / "predictions").iterdir())
    assert names == ["A_ED.nii.gz", "B_ED.nii.gz", "B_ES.nii.gz"]
    for name in names:
        found, expected = (nib.load(folder / "predictions" / name) for folder in (ranks / "both", alone))
        np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())


def test_the_contact_sheet_shows_all_stacks_once(ranks, alone):
    found, expected = (Image.open(folder / "overlay.png").convert("RGB") for folder in (ranks / "both", alone))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_losses_are_means_over_ranks(ranks):
    assert [row["loss"] for row in read(ranks / "0" / "losses.csv")] == ["2", "2", "3"] * 2
    assert [float(row["loss"]) for row in read(ranks / "0" / "curves.csv")] == pytest.approx([7 / 3] * 2)


def test_a_loss_that_is_not_finite_ends_all_ranks_at_once(ranks):
    for rank in range(WORLD):
        assert (ranks / f"{rank}-ended.txt").read_text() == "2"


def test_gates_and_cost_of_a_distributed_network(ranks):
    assert {row["layer"] for row in read(ranks / "0" / "gates.csv")} == {"1"}
    cost = json.loads((ranks / "0" / "cost.json").read_text())
    assert (cost["steps"], cost["parameters"]) == (6, 32 + 32 + 32 + 32 + 1)


def test_only_the_first_rank_prints_and_writes(ranks):
    printed = (ranks / "0.txt").read_text()
    assert "over 9 images of 2 subjects" in printed
    assert "epoch 2/2: loss 2.333" in printed
    assert (ranks / "1.txt").read_text() == ""
    assert not (ranks / "1").exists()
