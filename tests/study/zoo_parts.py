"""What many configurations of MONAI's model zoo share: the sections that one bundle took from another."""

BOTH = ["image", "label"]
BOTH_PRED = ["pred", "label"]
CPU_OR_GPU = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
SEEDED = ["$monai.utils.set_determinism(seed=123)", "$setattr(torch.backends.cudnn, 'benchmark', True)"]
PRED_AND_LABEL = "$monai.handlers.from_engine(['pred', 'label'])"
LOSS = "$monai.handlers.from_engine(['loss'], first=True)"


def target(class_name, /, **arguments):
    return {"_target_": class_name, **arguments}


def compose(transforms):
    return target("Compose", transforms=transforms)


def loader(dataset, batch_size, shuffle, num_workers=0):
    return target("DataLoader", dataset=dataset, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers)


def start(dataset_dir):
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


def network(network_def, loss, lr=1e-2, **optimizer):
    """Network, loss and optimizer: these four ids are the same in almost all of the zoo."""
    adam = target("torch.optim.Adam", params="$@network.parameters()", lr=lr, **optimizer)
    return {"network_def": network_def, "network": "$@network_def.to(@device)", "loss": loss, "optimizer": adam}


def discrete(classes):
    """Probabilities, then one channel for each class: of the prediction and of the label."""
    return compose(
        [
            target("Activationsd", keys="pred", softmax=True),
            target("AsDiscreted", keys=BOTH_PRED, argmax=[True, False], to_onehot=classes),
        ]
    )


def train(transforms, data, metric, *, postprocessing, random=(), batch_size=2, workers=0, epochs=300, amp=False):
    """The section ``train`` of spleen_ct_segmentation, prostate_mri_anatomy, swin_unetr_btcv_segmentation, ..."""
    return {
        "deterministic_transforms": transforms,
        "random_transforms": list(random),
        "preprocessing": compose("$@train#deterministic_transforms + @train#random_transforms"),
        "dataset": target("CacheDataset", data=data, transform="@train#preprocessing", cache_rate=1.0, num_workers=4),
        "dataloader": loader("@train#dataset", batch_size, True, workers),
        "inferer": target("SimpleInferer"),
        "postprocessing": postprocessing,
        "handlers": [
            target("ValidationHandler", validator="@validate#evaluator", epoch_level=True, interval="@val_interval"),
            target("StatsHandler", tag_name="train_loss", output_transform=LOSS),
            target("TensorBoardStatsHandler", log_dir="@output_dir", tag_name="train_loss", output_transform=LOSS),
        ],
        "key_metric": metric,
        "trainer": target(
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


def validate(data, metric, inferer, *, batch_size=1, workers=0, amp=False, saver=None, **evaluator):
    """The section ``validate`` of the same bundles: the best weights go to ``models/model.pt``."""
    save = {"save_key_metric": True, "key_metric_filename": "model.pt", **(saver or {})}
    return {
        "preprocessing": compose("%train#deterministic_transforms"),
        "dataset": target("CacheDataset", data=data, transform="@validate#preprocessing", cache_rate=1.0),
        "dataloader": loader("@validate#dataset", batch_size, False, workers),
        "inferer": inferer,
        "postprocessing": "%train#postprocessing",
        "handlers": [
            target("StatsHandler", iteration_log=False),
            target("TensorBoardStatsHandler", log_dir="@output_dir", iteration_log=False),
            target("CheckpointSaver", save_dir="@ckpt_dir", save_dict={"model": "@network"}, **save),
        ],
        "key_metric": metric,
        "evaluator": target(
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


def metric(name, handler, /, **arguments):
    return {name: target(handler, output_transform=PRED_AND_LABEL, **arguments)}


TRAIN_ACCURACY = metric("train_accuracy", "ignite.metrics.Accuracy")
VAL_ACCURACY = metric("val_accuracy", "ignite.metrics.Accuracy")
VAL_DICE = metric("val_mean_dice", "MeanDice", include_background=False)


def pairs(part):
    return f"$[{{'image': i, 'label': l}} for i, l in zip(@images{part}, @labels{part})]"


def flips(dims):
    return [target("RandFlipd", keys=BOTH, prob=0.5, spatial_axis=axis) for axis in range(dims)]


def load(*more):
    """What every segmentation begins with."""
    return [
        target("LoadImaged", keys=BOTH),
        target("EnsureChannelFirstd", keys=BOTH),
        *more,
        target("EnsureTyped", keys=BOTH),
    ]
