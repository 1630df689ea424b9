"""A bundle that finds boxes, with the ids and habits of lung_nodule_ct_detection of MONAI's model zoo, and its data.

A detector holds the network, and trainer and evaluator are classes of the bundle's scripts. A batch is a list of images
of several shapes, and a list of boxes belongs to each. The zoo's key metric ranks the boxes of all cases together.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from zoo_parts import CPU_OR_GPU, PRED_AND_LABEL, compose, target

CASES = 8
FIRST_LOSS = "$lambda x: monai.handlers.from_engine(['loss'], first=True)(x)[0]"

SCRIPTS = '''
import torch
from ignite.metrics import Metric
from monai.data.box_utils import box_iou
from monai.engines import SupervisedEvaluator, Trainer
from monai.engines.utils import IterationEvents
from torch import nn


class Network(nn.Module):
    """Scores each cell of four by four pixels, and predicts the box around what lies there."""

    def __init__(self):
        super().__init__()
        layers = []
        for before, after in ((1, 8), (8, 16)):
            layers += [nn.Conv2d(before, after, 3, 2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(8, 16), nn.ReLU())
        self.boxes = nn.Conv2d(16, 5, 1)

    def forward(self, images):
        return self.boxes(self.head(self.body(images)))


class Detector(nn.Module):
    """Turns lists of images and targets into losses in training, and images into boxes else."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, targets=None):
        maps = [self.network(image[None])[0] for image in images]
        if self.training:
            return sum(self.loss(one, its) for one, its in zip(maps, targets)) / len(maps)
        return [self.found(one) for one in maps]

    def anchors(self, one):
        grid = torch.stack(torch.meshgrid(*map(torch.arange, one.shape[1:]), indexing="ij")).float()
        centre = 4 * grid + 2
        return torch.cat([centre - 4, centre + 4]) + one[1:]

    def loss(self, one, its):
        hit = torch.zeros_like(one[0])
        cells = ((its["box"][:, :2] + its["box"][:, 2:]) / 8).long()
        hit[cells[:, 0], cells[:, 1]] = 1
        off = self.anchors(one)[:, cells[:, 0], cells[:, 1]].T - its["box"]
        scored = nn.functional.binary_cross_entropy_with_logits(one[0], hit, pos_weight=torch.tensor(20.0))
        return scored + off.abs().mean() / 10

    def found(self, one):
        best = one[0].flatten().topk(2)
        boxes = self.anchors(one).flatten(1)[:, best.indices].T
        return {"box": boxes, "label": torch.zeros(2).long(), "label_scores": best.values.sigmoid()}


class DetectionTrainer(Trainer):
    def __init__(self, detector, optimizer, train_data_loader, train_handlers, **kwargs):
        super().__init__(data_loader=train_data_loader, handlers=train_handlers, **kwargs)
        self.detector, self.optimizer = detector, optimizer

    def _iteration(self, engine, batch):
        items = [item for crops in batch for item in crops]
        targets = [{key: item[key] for key in ("box", "label")} for item in items]
        self.detector.train()
        self.optimizer.zero_grad()
        loss = self.detector([item["image"] for item in items], targets)
        engine.state.output = {"image": items, "label": targets, "loss": loss}
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        loss.backward()
        self.optimizer.step()
        return engine.state.output


def lists(batch, device, non_blocking, **kwargs):
    return [item["image"] for item in batch], [{key: item[key] for key in ("box", "label")} for item in batch]


class DetectionEvaluator(SupervisedEvaluator):
    def __init__(self, **kwargs):
        super().__init__(prepare_batch=lists, **kwargs)

    def _register_decollate(self):
        @self.on(IterationEvents.MODEL_COMPLETED)
        def _decollate(engine):
            output = engine.state.output
            rows = zip(*(output[key] for key in ("image", "label", "pred")))
            engine.state.output = [dict(zip(("image", "label", "pred"), row)) for row in rows]


class DetectionInferer:
    def __init__(self, detector):
        self.detector = detector

    def __call__(self, inputs, network):
        self.detector.network = network
        self.detector.training = network.training
        return self.detector(inputs)


def share_found(pred, label):
    return float((box_iou(label["box"].float(), pred["box"].float()).amax(dim=1) > 0.3).float().mean())


class Recall(Metric):
    """The share of boxes that are found, the mean over cases."""

    def reset(self):
        self.total, self.count = 0.0, 0

    def update(self, output):
        self.total += sum(map(share_found, *output))
        self.count += len(output[0])

    def compute(self):
        return self.total / self.count


class ListedRecall(Recall):
    """The same from a list of the scores."""

    def reset(self):
        self.scores = []

    def update(self, output):
        self.scores += map(share_found, *output)

    def compute(self):
        return sum(self.scores) / len(self.scores)


class RankedPrecision(Metric):
    """The share of right boxes among those of the highest scores of all cases."""

    def reset(self):
        self.outputs, self.targets = [], []

    def update(self, output):
        self.outputs += output[0]
        self.targets += output[1]

    def compute(self):
        best = sorted(zip(self.outputs, self.targets), key=lambda pair: -float(pair[0]["label_scores"][0]))
        return sum(share_found(*pair) for pair in best[:3]) / len(best[:3])
'''


def write_boxes(folder: str | Path) -> Path:
    """Writes images of two shapes with one or two bright boxes, and ``dataset.json``; returns the folder."""
    folder = Path(folder)
    (folder / "images").mkdir(parents=True)
    items = []
    for number in range(CASES):
        random = np.random.default_rng(number)
        image = random.normal(0, 10, (32, 32 + 8 * (number % 2)))
        corners = random.integers(2, 8, (1 + number % 2, 2)) + np.array([[0, 0], [14, 14]])[: 1 + number % 2]
        boxes = [[int(x), int(y), int(x) + 8, int(y) + 8] for x, y in corners]
        for left, top, right, bottom in boxes:
            image[left:right, top:bottom] += 100
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / "images" / f"{number}.nii.gz")
        items.append({"image": f"images/{number}.nii.gz", "box": boxes, "label": [0] * len(boxes)})
    (folder / "dataset.json").write_text(json.dumps({"name": "boxes", "training": items}))
    return folder


def write_detection(folder: str | Path, metric: str = "Recall", held: str = "@network") -> Path:
    """Writes the bundle with a key metric of its scripts and what its detector holds; returns its folder."""
    bundle = Path(folder) / "detection"
    for part in ("configs", "scripts", "models"):
        (bundle / part).mkdir(parents=True)
    (bundle / "scripts" / "__init__.py").write_text("")
    (bundle / "scripts" / "detection.py").write_text(SCRIPTS)
    inputs = {"image": {"num_channels": 1, "spatial_shape": ["8*n", "8*n"]}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": {"inputs": inputs}}))
    (bundle / "configs" / "train.json").write_text(json.dumps(_configuration(metric, held), indent=4))
    return bundle


def _own(name, /, **arguments):
    return target(f"scripts.detection.{name}", **arguments)


def _part(name, data, transforms):
    loader = target("DataLoader", dataset=f"@{name}#dataset", batch_size=2, collate_fn="$monai.data.utils.no_collation")
    dataset = target("Dataset", data=data, transform=f"@{name}#preprocessing")
    return {"preprocessing": compose(transforms), "dataset": dataset, "dataloader": loader}


def _configuration(metric, held):
    load = [
        target("LoadImaged", keys="image"),
        target("EnsureChannelFirstd", keys="image"),
        target("ScaleIntensityd", keys="image"),
        target("EnsureTyped", keys=["image", "box"]),
        target("EnsureTyped", keys="label", dtype="$torch.long"),
    ]
    crops = target("Lambda", func="$lambda item: [item]")  # as transforms that crop several samples return them
    listed = "$monai.data.load_decathlon_datalist(@list, data_list_key='training', base_dir=@data_file_base_dir)"
    return {
        "imports": ["$import copy", "$import torch"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "list": "$@data_file_base_dir + '/dataset.json'",
        "data_file_base_dir": "/datasets/boxes",
        "train_datalist": listed,
        "device": CPU_OR_GPU,
        "epochs": 300,
        "val_interval": 1,
        "network_def": _own("Network"),
        "network": "$@network_def.to(@device)",
        "detector": _own("Detector", network=held),
        "detector_ops": ["$@detector.to(@device)"],
        "optimizer": target("torch.optim.Adam", params="$@detector.network.parameters()", lr=0.01),
        "train": {
            **_part("train", "$@train_datalist[:6]", [*load, crops]),
            "handlers": [
                target(
                    "ValidationHandler", validator="@validate#evaluator", epoch_level=True, interval="@val_interval"
                ),
                target("StatsHandler", tag_name="train_loss", output_transform=FIRST_LOSS),
            ],
            "trainer": _own(
                "DetectionTrainer",
                _requires_="@detector_ops",
                max_epochs="@epochs",
                device="@device",
                train_data_loader="@train#dataloader",
                detector="@detector",
                optimizer="@optimizer",
                train_handlers="@train#handlers",
            ),
        },
        "validate": {
            **_part("validate", "$@train_datalist[6:]", load),
            "inferer": _own("DetectionInferer", detector="@detector"),
            "handlers": [target("StatsHandler", iteration_log=False)],
            "key_metric": {f"val_{metric.lower()}": _own(metric, output_transform=PRED_AND_LABEL)},
            "evaluator": _own(
                "DetectionEvaluator",
                _requires_="@detector_ops",
                device="@device",
                val_data_loader="@validate#dataloader",
                network="@network",
                inferer="@validate#inferer",
                key_val_metric="@validate#key_metric",
                val_handlers="@validate#handlers",
            ),
        },
        "run": ["$@train#trainer.run()"],
    }
