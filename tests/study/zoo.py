"""Small bundles written as MONAI's model zoo writes them, by people who never heard of this package.

Ids, handlers and habits are those of the bundles named beside each function, of
https://github.com/Project-MONAI/model-zoo. Only networks, images and numbers of epochs are small.
``dataset_dir`` points to a folder of somebody else's machine, as theirs does: give your own.
"""

import json
from pathlib import Path

import yaml

BOTH = ["image", "label"]
BOTH_PRED = ["pred", "label"]
CPU_OR_GPU = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
SEEDED = ["$monai.utils.set_determinism(seed=123)", "$setattr(torch.backends.cudnn, 'benchmark', True)"]
PRED_AND_LABEL = "$monai.handlers.from_engine(['pred', 'label'])"
LOSS = "$monai.handlers.from_engine(['loss'], first=True)"
LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""


def write_bundle(name: str, folder: str | Path) -> Path:
    """Writes the bundle ``name`` (a key of ``BUNDLES``) into ``folder/name`` and returns that folder."""
    maker, kind, suffix = BUNDLES[name]
    bundle = Path(folder) / name
    for part in ("configs", "docs", "models"):
        (bundle / part).mkdir(parents=True, exist_ok=True)
    config = maker(bundle)
    text = json.dumps(config, indent=4) if suffix == "json" else yaml.safe_dump(config, sort_keys=False)
    (bundle / "configs" / f"train.{suffix}").write_text(text)
    (bundle / "configs" / "metadata.json").write_text(json.dumps(_metadata(name, kind), indent=4))
    (bundle / "configs" / "logging.conf").write_text(LOGGING)
    (bundle / "docs" / "README.md").write_text(f"# Model overview\nA small network for the task {name}.\n")
    return bundle


def train_file(bundle: Path) -> Path:
    """The training configuration of a bundle, JSON or YAML."""
    return next((bundle / "configs").glob("train.*"))


def _metadata(name, kind):
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "complete the model package"},
        "monai_version": "1.4.0",
        "pytorch_version": "2.4.0",
        "numpy_version": "1.24.4",
        "required_packages_version": {"nibabel": "5.2.1", "pytorch-ignite": "0.4.11"},
        "name": name,
        "task": f"A task of the kind {kind}",
        "description": "A small network, trained on a few images",
        "authors": "MONAI team",
        "copyright": "Copyright (c) MONAI Consortium",
        "network_data_format": {"inputs": {}, "outputs": {}},
    }


def _target(name, **arguments):
    return {"_target_": name, **arguments}


def _compose(transforms):
    return _target("Compose", transforms=transforms)


def _loader(dataset, batch_size, shuffle, num_workers=0):
    return _target("DataLoader", dataset=dataset, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers)


def _start(dataset_dir):
    """The head of spleen_ct_segmentation and all that were copied from it: the data are globbed."""
    return {
        "imports": ["$import glob", "$import os", "$import ignite"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": dataset_dir,
        "images": "$list(sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz')))",
        "labels": "$list(sorted(glob.glob(@dataset_dir + '/labelsTr/*.nii.gz')))",
        "val_interval": 1,
        "device": CPU_OR_GPU,
    }


def _network(network_def, loss, lr=1e-2, **optimizer):
    adam = _target("torch.optim.Adam", params="$@network.parameters()", lr=lr, **optimizer)
    return {"network_def": network_def, "network": "$@network_def.to(@device)", "loss": loss, "optimizer": adam}


def _discrete(classes):
    """Probabilities, then one channel for each class: of the prediction and of the label."""
    return _compose(
        [
            _target("Activationsd", keys="pred", softmax=True),
            _target("AsDiscreted", keys=BOTH_PRED, argmax=[True, False], to_onehot=classes),
        ]
    )


def _train(transforms, data, metric, *, postprocessing, random=(), batch_size=2, workers=0, epochs=300, amp=False):
    """The section ``train`` of spleen_ct_segmentation, prostate_mri_anatomy, swin_unetr_btcv_segmentation, ..."""
    return {
        "deterministic_transforms": transforms,
        "random_transforms": list(random),
        "preprocessing": _compose("$@train#deterministic_transforms + @train#random_transforms"),
        "dataset": _target("CacheDataset", data=data, transform="@train#preprocessing", cache_rate=1.0, num_workers=4),
        "dataloader": _loader("@train#dataset", batch_size, True, workers),
        "inferer": _target("SimpleInferer"),
        "postprocessing": postprocessing,
        "handlers": [
            _target("ValidationHandler", validator="@validate#evaluator", epoch_level=True, interval="@val_interval"),
            _target("StatsHandler", tag_name="train_loss", output_transform=LOSS),
            _target("TensorBoardStatsHandler", log_dir="@output_dir", tag_name="train_loss", output_transform=LOSS),
        ],
        "key_metric": metric,
        "trainer": _target(
            "SupervisedTrainer",
            max_epochs=epochs,
            device="@device",
            train_data_loader="@train#dataloader",
            network="@network",
            loss_function="@loss",
            optimizer="@optimizer",
            inferer="@train#inferer",
            postprocessing="@train#postprocessing",
            key_train_metric="@train#key_metric",
            train_handlers="@train#handlers",
            amp=amp,
        ),
    }


def _validate(data, metric, inferer, *, batch_size=1, workers=0, amp=False, saver=None, **evaluator):
    """The section ``validate`` of the same bundles: the best weights go to ``models/model.pt``."""
    save = {"save_key_metric": True, "key_metric_filename": "model.pt", **(saver or {})}
    return {
        "preprocessing": _compose("%train#deterministic_transforms"),
        "dataset": _target("CacheDataset", data=data, transform="@validate#preprocessing", cache_rate=1.0),
        "dataloader": _loader("@validate#dataset", batch_size, False, workers),
        "inferer": inferer,
        "postprocessing": "%train#postprocessing",
        "handlers": [
            _target("StatsHandler", iteration_log=False),
            _target("TensorBoardStatsHandler", log_dir="@output_dir", iteration_log=False),
            _target("CheckpointSaver", save_dir="@ckpt_dir", save_dict={"model": "@network"}, **save),
        ],
        "key_metric": metric,
        "evaluator": _target(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@validate#dataloader",
            network="@network",
            inferer="@validate#inferer",
            postprocessing="@validate#postprocessing",
            key_val_metric="@validate#key_metric",
            val_handlers="@validate#handlers",
            amp=amp,
            **evaluator,
        ),
    }


def _metric(name, target, **arguments):
    return {name: _target(target, output_transform=PRED_AND_LABEL, **arguments)}


TRAIN_ACCURACY = _metric("train_accuracy", "ignite.metrics.Accuracy")
VAL_ACCURACY = _metric("val_accuracy", "ignite.metrics.Accuracy")
VAL_DICE = _metric("val_mean_dice", "MeanDice", include_background=False)


def _pairs(part):
    return f"$[{{'image': i, 'label': l}} for i, l in zip(@images{part}, @labels{part})]"


def _load(*more):
    """What every bundle for volumes begins with."""
    return [
        _target("LoadImaged", keys=BOTH),
        _target("EnsureChannelFirstd", keys=BOTH),
        *more,
        _target("EnsureTyped", keys=BOTH),
    ]


def spleen(bundle):
    """spleen_ct_segmentation: 300 epochs, validated every fifth, mixed precision, workers, patches, sliding windows."""
    transforms = _load(
        _target("Orientationd", keys=BOTH, axcodes="RAS"),
        _target("Spacingd", keys=BOTH, pixdim=[1.5, 1.5, 2.0], mode=["bilinear", "nearest"]),
        _target("ScaleIntensityRanged", keys="image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
    )
    crop = _target(
        "RandCropByPosNegLabeld",
        keys=BOTH,
        label_key="label",
        spatial_size=[16, 16, 16],
        pos=1,
        neg=1,
        num_samples=4,
        image_key="image",
        image_threshold=0,
    )
    unet = _target(
        "UNet",
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        channels=[4, 8, 16],
        strides=[2, 2],
        num_res_units=2,
        norm="batch",
    )
    loss = _target(
        "DiceCELoss", include_background=False, to_onehot_y=True, softmax=True, squared_pred=True, batch=True
    )
    windows = _target("SlidingWindowInferer", roi_size=[16, 16, 16], sw_batch_size=4, overlap=0.5)
    amp = {"workers": 1, "amp": True}
    return {
        **_start("/workspace/data/Task09_Spleen"),
        "val_interval": 5,
        **_network(unet, loss),
        "train": _train(transforms, _pairs("[:-3]"), TRAIN_ACCURACY, postprocessing=_discrete(2), random=[crop], **amp),
        "validate": {
            **_validate(_pairs("[-3:]"), VAL_DICE, windows, additional_metrics="@validate#additional_metrics", **amp),
            "additional_metrics": VAL_ACCURACY,
        },
        "initialize": SEEDED,
        "run": ["$@train#trainer.run()"],
    }


def short_axis_3label(bundle):
    """The task of ventricular_short_axis_3label, in YAML as pancreas_ct_dints_segmentation is.

    As there, what is run is called ``training``, and the seed is set in it: neither ``initialize`` nor ``run`` exists.
    """
    transforms = _load(_target("ScaleIntensityd", keys="image"))
    flips = [
        _target("RandFlipd", keys=BOTH, prob=0.5, spatial_axis=0),
        _target("RandRotate90d", keys=BOTH, prob=0.5),
        _target("RandGaussianNoised", keys="image", prob=0.5, std=0.05),
    ]
    unet = _target(
        "UNet",
        spatial_dims=2,
        in_channels=1,
        out_channels=4,
        channels=[8, 16, 32],
        strides=[2, 2],
        num_res_units=2,
        norm=["INSTANCE", {"affine": True}],
    )
    loss = _target("DiceLoss", include_background=False, to_onehot_y=True, softmax=True)
    train = _train(
        transforms, _pairs("[:-6]"), TRAIN_ACCURACY, postprocessing=_discrete(4), random=flips, batch_size=6, epochs=50
    )
    return {
        **_start("/workspace/data/short_axis"),
        **_network(unet, loss),
        "train": train,
        "validate": _validate(_pairs("[-6:]"), VAL_DICE, _target("SimpleInferer"), batch_size=6),
        "training": [*SEEDED, "$@train#trainer.run()"],
    }


BUNDLES = {  # the maker, the kind of data, the form of the configuration
    "spleen": (spleen, "spleen", "json"),
    "short_axis_3label": (short_axis_3label, "short_axis", "yaml"),
}
