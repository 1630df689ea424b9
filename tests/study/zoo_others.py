"""Bundles of the zoo with ids of their own: flat ones, and tasks other than segmentation."""

import json

from zoo_data import label_of, names_of
from zoo_parts import (
    CPU_OR_GPU,
    LOSS,
    SEEDED,
    compose,
    discrete,
    flips,
    load,
    metric,
    network,
    start,
    target,
    train,
    validate,
)


def hard_coded(bundle):
    """The flat ids of segmentation_template and ventricular_short_axis_3label, for a network without a norm argument.

    There is no ``train`` and no ``validate``, so that MONAI's ids of properties lead nowhere. Folds are a random
    partition, an epoch has a fixed number of samples, the folder of the output is named by the time, every epoch is
    saved, and ``models/model.pt`` is loaded where it exists. The evaluator has two key metrics, the trainer none.
    """
    attention_unet = target(
        "AttentionUnet",
        spatial_dims=2,
        in_channels=1,
        out_channels="@num_classes",
        channels=[8, 16, 32],
        strides=[2, 2],
    )
    loss = network(attention_unet, None, lr="@learning_rate")
    del loss["loss"]
    log = target("LogfileHandler", output_dir="@output_dir")
    saver = {"save_dir": "@output_dir", "_disabled_": "@is_not_rank0"}
    return {
        "imports": ["$import os", "$import datetime", "$import torch", "$import glob"],
        "image": "$monai.utils.CommonKeys.IMAGE",
        "label": "$monai.utils.CommonKeys.LABEL",
        "pred": "$monai.utils.CommonKeys.PRED",
        "rank": 0,
        "is_not_rank0": "$@rank > 0",
        "val_interval": 1,
        "ckpt_interval": 1,
        "num_iters": 3,
        "batch_size": 6,
        "num_epochs": 20,
        "num_substeps": 1,
        "num_workers": 0,
        "learning_rate": 0.01,
        "num_classes": 4,
        "device": CPU_OR_GPU,
        "bundle_root": ".",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "dataset_dir": "$@bundle_root + '/train_data'",
        "results_dir": "$@bundle_root + '/results'",
        "output_dir": "$datetime.datetime.now().strftime(@results_dir + '/output_%y%m%d_%H%M%S')",
        "network_def": attention_unet,
        "network": "$@network_def.to(@device)",
        "imgs": "$sorted(glob.glob(@dataset_dir+'/imagesTr/*.nii.gz'))",
        "lbls": "$[i.replace('imagesTr','labelsTr') for i in @imgs]",
        "all_pairs": "$[{@image: i, @label: l} for i, l in zip(@imgs, @lbls)]",
        "partitions": "$monai.data.partition_dataset(@all_pairs, (4, 1), shuffle=True, seed=0)",
        "train_datalist": "$@partitions[0]",
        "val_datalist": "$@partitions[1]",
        "base_transforms": load(),
        "train_transforms": [*flips(2), target("ScaleIntensityd", keys="@image")],
        "val_transforms": [target("ScaleIntensityd", keys="@image")],
        "preprocessing": compose("$@base_transforms + @train_transforms"),
        "val_preprocessing": compose("$@base_transforms + @val_transforms"),
        "train_dataset": target("Dataset", data="@train_datalist", transform="@preprocessing"),
        "val_dataset": target("Dataset", data="@val_datalist", transform="@val_preprocessing"),
        "sampler": target(
            "torch.utils.data.WeightedRandomSampler",
            weights="$torch.ones(len(@train_dataset))",
            replacement=True,
            num_samples="$@num_iters*@batch_size",
        ),
        "train_dataloader": target(
            "ThreadDataLoader",
            dataset="@train_dataset",
            batch_size="@batch_size",
            repeats="@num_substeps",
            num_workers="@num_workers",
            sampler="@sampler",
        ),
        "val_dataloader": target(
            "DataLoader", dataset="@val_dataset", batch_size="@batch_size", num_workers="@num_workers"
        ),
        "lossfn": target("DiceLoss", include_background=True, to_onehot_y=True, softmax=True),
        "optimizer": target("torch.optim.Adam", params="$@network.parameters()", lr="@learning_rate"),
        "inferer": target("SimpleInferer"),
        "postprocessing": discrete("@num_classes"),
        "val_handlers": [
            target("StatsHandler", name=None, output_transform="$lambda x: None"),
            log,
            target(
                "CheckpointSaver",
                save_dict={"model": "@network"},
                save_interval=0,
                save_final=False,
                epoch_level=False,
                save_key_metric=True,
                key_metric_name="val_mean_dice",
                **saver,
            ),
        ],
        "evaluator": target(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@val_dataloader",
            network="@network",
            postprocessing="@postprocessing",
            key_val_metric={
                **metric("val_mean_dice", "MeanDice", include_background=False),
                **metric("val_mean_iou", "MeanIoUHandler", include_background=False),
            },
            additional_metrics=metric("val_mae", "MeanAbsoluteError"),
            val_handlers="@val_handlers",
        ),
        "metriclogger": target("MetricLogger", evaluator="@evaluator"),
        "handlers": [
            "@metriclogger",
            target(
                "CheckpointLoader",
                _disabled_="$not os.path.exists(@ckpt_path)",
                load_path="@ckpt_path",
                load_dict={"model": "@network"},
            ),
            target("ValidationHandler", validator="@evaluator", epoch_level=True, interval="@val_interval"),
            target(
                "CheckpointSaver",
                save_dict={"model": "@network", "logger": "@metriclogger"},
                save_interval="@ckpt_interval",
                save_final=True,
                epoch_level=True,
                **saver,
            ),
            target("StatsHandler", name=None, tag_name="train_loss", output_transform=LOSS),
            log,
        ],
        "trainer": target(
            "SupervisedTrainer",
            max_epochs="@num_epochs",
            device="@device",
            train_data_loader="@train_dataloader",
            network="@network",
            inferer="@inferer",
            loss_function="@lossfn",
            optimizer="@optimizer",
            key_train_metric=None,
            train_handlers="@handlers",
        ),
        "run": ["$@trainer.run()"],
    }


def _listed(bundle, kind):
    """Writes the lists of endoscopic_inbody_classification into ``label``; returns the ids that read them.

    The open files are values of the configuration, and ``finalize`` closes them.
    """
    items = [
        {"image": f"imagesTr/{name}.nii.gz", "label": label_of(kind, number)}
        for number, name in enumerate(names_of(kind))
    ]
    (bundle / "label").mkdir(exist_ok=True)
    for part, chosen in {"train": items[:-4], "val": items[-4:]}.items():
        (bundle / "label" / f"{part}_samples.json").write_text(json.dumps(chosen, indent=4))
    config = start(f"/workspace/data/{kind}")
    del config["images"], config["labels"]
    config["imports"] = ["$import torch", "$import json", "$import ignite", "$import os"]
    for part in ("train", "val"):
        config[f"{part}_json"] = f"$@bundle_root+'/label/{part}_samples.json'"
        config[f"{part}_fp"] = f"$open(@{part}_json,'r', encoding='utf8')"
        config[f"{part}_dict"] = f"$[{{**i, 'image': @dataset_dir + '/' + i['image']}} for i in json.load(@{part}_fp)]"
    return config


CLOSED = ["$@train_fp.close()", "$@val_fp.close()"]


def classification(bundle):
    """endoscopic_inbody_classification with a DenseNet instead of its SEResNet50: accuracy is the key metric."""
    transforms = [
        target("LoadImaged", keys="image"),
        target("ToTensord", keys="label"),
        target("EnsureChannelFirstd", keys="image"),
        target("NormalizeIntensityd", nonzero=True, channel_wise=True, keys="image"),
        target("EnsureTyped", keys="image"),
    ]
    dense_net = target(
        "DenseNet",
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        init_features=8,
        growth_rate=4,
        block_config=[2, 2],
        norm="batch",
    )
    one_hot = compose([target("AsDiscreted", argmax=[True, False], to_onehot=[2, 2], keys=["pred", "label"])])
    augmentation = [target("RandFlipd", spatial_axis=axis, prob=0.5, keys="image") for axis in (0, 1)]
    accuracy = "ignite.metrics.Accuracy"
    return {
        **_listed(bundle, "classification"),
        **network(dense_net, target("torch.nn.CrossEntropyLoss", reduction="sum")),
        "train": train(
            transforms,
            "@train_dict",
            metric("train_accu", accuracy),
            postprocessing=one_hot,
            random=augmentation,
            batch_size=4,
            epochs=25,
        ),
        "validate": validate("@val_dict", metric("val_accu", accuracy), target("SimpleInferer"), batch_size=4),
        "initialize": SEEDED[:1],
        "run": ["$@train#trainer.run()"],
        "finalize": CLOSED,
    }


def regression(bundle):
    """A number for each image, with the habits of mednist_reg: smaller values of the key metric are better."""
    transforms = [
        target("LoadImaged", keys="image"),
        target("EnsureChannelFirstd", keys="image"),
        target("ScaleIntensityd", keys="image"),
        target("Lambdad", keys="label", func="$lambda x: torch.as_tensor([x], dtype=torch.float32)"),
        target("EnsureTyped", keys="image"),
    ]
    regressor = target(
        "Regressor", in_shape=[1, 32, 32], out_shape=[1], channels=[4, 8, 16], strides=[2, 2, 2], norm="batch"
    )
    smaller = {"metric_cmp_fn": "$lambda x, y: x < y", "saver": {"key_metric_negative_sign": True}}
    return {
        **_listed(bundle, "regression"),
        **network(regressor, target("torch.nn.MSELoss")),
        "train": train(
            transforms,
            "@train_dict",
            metric("train_mae", "MeanAbsoluteError"),
            postprocessing=compose([target("EnsureTyped", keys=["pred", "label"])]),
            random=[target("RandFlipd", keys="image", prob=0.5, spatial_axis=0)],
            batch_size=4,
            epochs=30,
        ),
        "validate": validate(
            "@val_dict", metric("val_mae", "MeanAbsoluteError"), target("SimpleInferer"), batch_size=4, **smaller
        ),
        "initialize": SEEDED[:1],
        "run": ["$@train#trainer.run()"],
        "finalize": CLOSED,
    }
