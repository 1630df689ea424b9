"""The bundle in federated learning: MONAI's own client, two sites, a server that averages."""

import csv
import functools
import shutil
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.fl.client import MonaiAlgo, MonaiAlgoStats
from monai.fl.utils.constants import ExtraItems, FlStatistics, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot

from monai_iln.datasets import prepare_right_ventricle, prepare_sunnybrook, split_datalist
from monai_iln.datasets.phantom import write_phantom
from monai_iln.networks import PaperUNet
from monai_iln.transforms import LargestComponent, LargestComponentSlicewise

pytestmark = [
    pytest.mark.slow,
    # MONAI's own: it says of every bundle that a federation runs its code.
    pytest.mark.filterwarnings("ignore:executing the bundle config under:UserWarning"),
    # Ours: the right ventricles of phantoms as small as these are hard to see, and preparation says so.
    pytest.mark.filterwarnings("ignore::monai_iln.datasets.DataWarning"),
]

BUNDLES = Path(__file__).parents[2] / "bundles"
ROUNDS = 2
FEATURES = (16, 32)  # gates of 32 channels are alive
SOURCES = {
    "lv_short_axis_iln": ("official", prepare_sunnybrook),
    "rv_short_axis_iln": ("chla", prepare_right_ventricle),
}


@functools.cache
def two_sites(name, folder):
    """Two folders of data for a bundle, of other hearts and another number of them."""
    layout, prepare = SOURCES[name]
    data = []
    for seed, subjects in enumerate((3, 5)):
        raw = write_phantom(
            folder / f"raw{seed}", layout=layout, subjects=subjects, slices=6, phases=4, size=96, seed=seed
        )
        data.append(prepare(raw, folder / f"prepared{seed}").parent)
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sites")


@pytest.fixture
def join(folder, tmp_path, monkeypatch):
    """Clients of a federation, each with its data and output."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # the bundle sets it

    def make(bundle, norm, **options):
        clients = []
        for number, data in enumerate(two_sites(bundle, folder / bundle)):
            overrides = {
                "dataset_dir": str(data),
                "ckpt_dir": str(tmp_path / f"site{number}" / "models"),
                "output_dir": str(tmp_path / f"site{number}" / "eval"),
                "norm": norm,
                "fold": 0,
                "epochs": ROUNDS,  # of the whole federation; the learning rate falls over all of them
                "iterations": "$@epochs * len(@train#dataloader)",
                "batch_size": 4,
                "roi_size": [64, 64],
                "device": "cpu",
                "network_def#features": list(FEATURES),
            }
            client = MonaiAlgo(
                str(BUNDLES / bundle),
                config_train_filename="configs/train.yaml",
                train_kwargs=dict(overrides),
                config_evaluate_filename=["configs/train.yaml", "configs/evaluate.yaml"],
                eval_kwargs=dict(overrides),
                **options,
            )
            client.initialize({ExtraItems.CLIENT_NAME: f"site{number}"})
            clients.append(client)
        return clients

    return make


def start(norm):
    torch.manual_seed(0)
    return PaperUNet(features=FEATURES, norm=norm).state_dict()


def average(weights, shares):
    def mean(name):
        return sum(share * each[name] for each, share in zip(weights, shares, strict=True)) / sum(shares)

    return {name: mean(name).to(tensor.dtype) for name, tensor in weights[0].items()}


def train(client, weights):
    """One round of a client: what it sends back, copied as a network connection would."""
    client.train(ExchangeObject(weights=weights))
    sent = client.get_weights()
    return {name: tensor.clone() for name, tensor in sent.weights.items()}, sent


def dice_of(client, weights, norm):
    """What the client's evaluation must say, without its engine: mean Dice over slices of whole stacks."""
    network = PaperUNet(features=FEATURES, norm=norm).eval()
    network.load_state_dict(weights)
    metric = DiceMetric(include_background=False, ignore_empty=False)
    # How the region of interest lies in the stack is the bundle's business, and tested there.
    back = client.eval_workflow.parser.get_parsed_content("validate#postprocessing").transforms[0]
    for item in client.evaluator.data_loader.dataset:
        with torch.no_grad():
            item["pred"] = torch.stack([network(one[None])[0] for one in item["image"].unbind(-1)], dim=-1)
        pred = LargestComponent()(LargestComponentSlicewise()(back(item)["pred"].argmax(0, keepdim=True)))
        # (1, rows, columns, slices) to a batch of slices.
        metric(*(one_hot(one.permute(3, 0, 1, 2).as_tensor(), 2) for one in (pred, item["label"])))
    return metric.aggregate().item()


@pytest.mark.parametrize(
    ("bundle", "norm", "state"),
    [
        ("lv_short_axis_iln", "BIN", {"rho", "running_mean", "running_var", "num_batches_tracked"}),
        ("lv_short_axis_iln", "BATCH", {"running_mean", "running_var", "num_batches_tracked"}),
        ("rv_short_axis_iln", "ILN", {"rho"}),
    ],
)
def test_two_rounds_of_federated_averaging(join, tmp_path, bundle, norm, state):
    clients = join(bundle, norm, send_weight_diff=False)
    weights = first = start(norm)
    scores = []
    for learning_rate in (0.001, 0):  # half of a cosine from 0.002, and its end
        sent, shares = [], []
        for client in clients:
            local, exchange = train(client, weights)
            assert exchange.weight_type == WeightType.WEIGHTS
            assert local.keys() == weights.keys()
            sent.append(local)
            shares.append(exchange.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS])
            assert client.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(learning_rate, abs=1e-9)
        assert shares[1] > shares[0] > 0  # the second has more data
        assert any(not torch.equal(sent[0][name], sent[1][name]) for name in weights)
        weights = average(sent, shares)
        scores.append([client.evaluate(ExchangeObject(weights=weights)).metrics["val_mean_dice"] for client in clients])
        for client, score in zip(clients, scores[-1], strict=True):
            for name, tensor in client.evaluator.network.state_dict().items():
                assert torch.equal(tensor, weights[name])
            assert score == pytest.approx(dice_of(client, weights, norm), abs=1e-4)

    assert {name.split(".")[-1] for name in weights} - {"weight", "bias"} == state
    alive = [name for name in weights if "rho" in name and name.startswith("encoder.1")]
    buffers = [name for name in weights if "running" in name]
    for name in alive + buffers:
        assert not torch.equal(weights[name], first[name]), name
    for number in range(2):
        output = tmp_path / f"site{number}" / "eval"
        with (output / "curves.csv").open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        assert len(losses) == ROUNDS
        assert losses[1] < losses[0]
        assert (output / "images.csv").is_file()
    for client in clients:
        client.finalize()


def test_differences_are_what_the_weights_changed_by(join):
    bundle, norm = "lv_short_axis_iln", "BIN"
    weights = start(norm)
    whole, _ = train(join(bundle, norm, send_weight_diff=False)[0], weights)
    difference, exchange = train(join(bundle, norm, send_weight_diff=True)[0], weights)
    assert exchange.weight_type == WeightType.WEIGHT_DIFF
    assert difference.keys() == weights.keys()
    for name, tensor in difference.items():
        torch.testing.assert_close(weights[name] + tensor, whole[name], rtol=1e-4, atol=1e-5)


SITE = {"batch_size": 4, "device": "cpu", "epochs": 1, "network_def#features": list(FEATURES), "roi_size": [64, 64]}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of a bundle without weights, and a working directory outside it."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # the bundle sets it
    name = "lv_short_axis_iln"
    ignored = shutil.ignore_patterns("data", "eval", "models")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return shutil.copytree(BUNDLES / name, tmp_path / name, ignore=ignored)


def test_a_plain_client_works_in_any_folder(elsewhere, folder):
    """With the files that MONAI takes by default, and phantoms that it finds; the framework names the site's folder."""
    data = two_sites("lv_short_axis_iln", folder / "lv_short_axis_iln")[0]
    shutil.copytree(data, elsewhere / "data" / "phantoms")
    client = MonaiAlgo(elsewhere.name, send_weight_diff=False, train_kwargs=dict(SITE), eval_kwargs=dict(SITE))
    client.initialize({ExtraItems.CLIENT_NAME: "site", ExtraItems.APP_ROOT: str(elsewhere.parent)})
    weights = start("ILN")
    before = client.evaluate(ExchangeObject(weights=weights)).metrics["val_mean_dice"]
    assert before == pytest.approx(dice_of(client, weights, "ILN"), abs=1e-4)
    sent, _ = train(client, weights)
    # Now there is a model.pt of the training: it must not replace what the server sends.
    assert (elsewhere / "models" / "model.pt").is_file()
    client.evaluate(ExchangeObject(weights=weights))
    for name, tensor in client.evaluator.network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in sent.items())
    assert not list(Path.cwd().iterdir()), "everything lies in the bundle"
    client.finalize()


@pytest.mark.filterwarnings("ignore")  # MONAI's own: its analysis has old defaults, and four processes on any machine
def test_statistics_of_a_site(elsewhere, folder):
    data = two_sites("lv_short_axis_iln", folder / "lv_short_axis_iln")[1]
    files = "$[{{'image': item['image'], 'label': item['label']}} for item in @parts['{}']]"
    parts = {"train#dataset#data": files.format("training"), "validate#dataset#data": files.format("validation")}
    training = ConfigWorkflow(
        str(elsewhere / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(data),
        device="cpu",
        **parts,
    )
    client = MonaiAlgoStats(str(elsewhere), workflow=training)
    client.initialize({ExtraItems.CLIENT_NAME: "site", ExtraItems.APP_ROOT: str(elsewhere.parent)})
    found = client.get_data_stats({FlStatistics.HIST_BINS: 10, FlStatistics.HIST_RANGE: [0, 1000]}).statistics
    parts = split_datalist(data, 0)
    counts = {name: found[name][FlStatistics.DATA_COUNT] for name in ("train", "eval")}
    assert counts == {"train": len(parts["training"]), "eval": len(parts["validation"])}
    assert all(found[name][FlStatistics.FAIL_COUNT] == 0 for name in counts)
