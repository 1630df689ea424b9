"""Segmentations as the zoo has them, nested under ``train`` and ``validate``."""

import json

from zoo_data import names_of
from zoo_parts import (
    BOTH,
    BOTH_PRED,
    CPU_OR_GPU,
    SEEDED,
    TRAIN_ACCURACY,
    VAL_ACCURACY,
    VAL_DICE,
    compose,
    discrete,
    flips,
    load,
    metric,
    network,
    pairs,
    start,
    target,
    train,
    validate,
)

RAS = target("Orientationd", keys=BOTH, axcodes="RAS")
WINDOWS = target("SlidingWindowInferer", roi_size=[16, 16, 16], sw_batch_size=4, overlap=0.5)


def unet(spatial_dims, out_channels, norm):
    return target(
        "UNet",
        spatial_dims=spatial_dims,
        in_channels=1,
        out_channels=out_channels,
        channels=[4, 8, 16] if spatial_dims == 3 else [8, 16, 32],
        strides=[2, 2],
        num_res_units=2,
        norm=norm,
    )


def crop(size):
    return target(
        "RandCropByPosNegLabeld",
        keys=BOTH,
        label_key="label",
        spatial_size=size,
        pos=1,
        neg=1,
        num_samples=4,
        image_key="image",
        image_threshold=0,
    )


def spleen(bundle):
    """spleen_ct_segmentation: 300 epochs, validated every fifth, mixed precision, workers, patches, sliding windows."""
    transforms = load(
        RAS,
        target("Spacingd", keys=BOTH, pixdim=[1.5, 1.5, 2.0], mode=["bilinear", "nearest"]),
        target("ScaleIntensityRanged", keys="image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
    )
    loss = target("DiceCELoss", include_background=False, to_onehot_y=True, softmax=True, squared_pred=True)
    amp, post = {"workers": 1, "amp": True}, discrete(2)
    return {
        **start("/workspace/data/Task09_Spleen"),
        "val_interval": 5,
        **network(unet(3, 2, "batch"), loss),
        "train": train(
            transforms, pairs("[:-3]"), TRAIN_ACCURACY, postprocessing=post, random=[crop([16, 16, 16])], **amp
        ),
        "validate": {
            **validate(pairs("[-3:]"), VAL_DICE, WINDOWS, additional_metrics="@validate#additional_metrics", **amp),
            "additional_metrics": VAL_ACCURACY,
        },
        "initialize": SEEDED,
        "run": ["$@train#trainer.run()"],
    }


def short_axis_3label(bundle):
    """The task of ventricular_short_axis_3label, in YAML and with the ids of pancreas_ct_dints_segmentation.

    As in the latter, what is run is called ``training``, and the seed is set in it: there is no ``initialize``.
    """
    transforms = load(target("ScaleIntensityd", keys="image"))
    loss = target("DiceLoss", include_background=False, to_onehot_y=True, softmax=True)
    augmentation = [*flips(2), target("RandGaussianNoised", keys="image", prob=0.5, std=0.05)]
    return {
        **start("/workspace/data/short_axis"),
        **network(unet(2, 4, ["INSTANCE", {"affine": True}]), loss),
        "train": train(
            transforms,
            pairs("[:-6]"),
            TRAIN_ACCURACY,
            postprocessing=discrete(4),
            random=augmentation,
            batch_size=6,
            epochs=50,
        ),
        "validate": validate(pairs("[-6:]"), VAL_DICE, target("SimpleInferer"), batch_size=6),
        "training": [*SEEDED, "$@train#trainer.run()"],
    }


def dynunet(bundle):
    """spleen_deepedit_annotation without its clicks: DynUNet, a schedule, two steps to run, a loader of old weights.

    The number of channels is an expression, the norm's argument is ``norm_name``, and ``run`` needs the place of a
    handler in the list.
    """
    transforms = load(RAS, target("ScaleIntensityRanged", keys="image", a_min=-175, a_max=250, b_min=0, b_max=1))
    dynunet_def = target(
        "DynUNet",
        spatial_dims=3,
        in_channels="$@number_intensity_ch",
        out_channels="$len(@label_names)",
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 8, 16],
        norm_name="instance",
        deep_supervision=False,
        res_block=True,
    )
    trained = train(
        transforms,
        pairs("[:-3]"),
        metric("train_dice", "MeanDice"),
        postprocessing=discrete("$len(@label_names)"),
        random=flips(3),
        epochs=500,
        amp=True,
    )
    trained["handlers"] = [
        target(
            "CheckpointLoader",
            _disabled_="$not @finetune",
            load_path="@finetune_model_path",
            load_dict={"model": "@network"},
        ),
        target("LrScheduleHandler", lr_scheduler="@lr_scheduler", print_lr=True),
        *trained["handlers"],
    ]
    validated = validate(pairs("[-3:]"), metric("val_mean_dice", "MeanDice"), target("SimpleInferer"), amp=True)
    validated["handlers"].insert(
        0,
        target(
            "EarlyStopHandler",
            _disabled_="$not @early_stop",
            trainer=None,
            patience=1,
            score_function="$lambda x: x.state.metrics['val_mean_dice']",
            min_delta=0.01,
        ),
    )
    return {
        **start("/workspace/Datasets/MSD_datasets/Task09_Spleen"),
        "label_names": {"spleen": 1, "background": 0},
        "finetune": False,
        "finetune_model_path": "$@bundle_root + '/models/model.pt'",
        "early_stop": False,
        "number_intensity_ch": 1,
        **network(dynunet_def, target("DiceCELoss", to_onehot_y=True, softmax=True)),
        "lr_scheduler": target("torch.optim.lr_scheduler.StepLR", optimizer="@optimizer", step_size=1000, gamma=0.1),
        "train": trained,
        "validate": validated,
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": [
            "$@validate#handlers#0.set_trainer(trainer=@train#trainer) if @early_stop else None",
            "$@train#trainer.run()",
        ],
    }


def brats(bundle):
    """brats_mri_segmentation: three overlapping classes as channels, a list of data in ``configs``, no ``dataset_dir``.

    The interval of validation is ``num_interval_per_valid``, the data are under ``data_file_base_dir``.
    """
    items = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names_of("brats")]
    listed = {"training": items[:-3], "validation": items[-3:]}
    (bundle / "configs" / "datalist.json").write_text(json.dumps(listed, indent=4))
    read = "$monai.data.load_decathlon_datalist(@data_list_file_path, data_list_key='{}', base_dir=@data_file_base_dir)"
    classes = compose(
        [target("Activationsd", keys="pred", sigmoid=True), target("AsDiscreted", keys="pred", threshold=0.5)]
    )
    split = target("SplitDimd", keys=BOTH_PRED, output_postfixes=["tc", "wt", "et"])
    segresnet = target(
        "SegResNet", blocks_down=[1, 1], blocks_up=[1], init_filters=8, in_channels=4, out_channels=3, dropout_prob=0.2
    )
    transforms = [
        target("LoadImaged", keys=BOTH),
        target("EnsureChannelFirstd", keys="image"),
        target("ConvertToMultiChannelBasedOnBratsClassesd", keys="label"),
        target("NormalizeIntensityd", keys="image", nonzero=True, channel_wise=True),
        target("EnsureTyped", keys=BOTH, dtype="$torch.float32"),  # not there: its loss fails on labels of bool today
    ]
    augmentation = [target("RandSpatialCropd", keys=BOTH, roi_size=[24, 24, 24], random_size=False), *flips(3)]
    trained = train(
        transforms,
        "@train_datalist",
        metric("train_mean_dice", "MeanDice", include_background=True),
        postprocessing=classes,
        random=augmentation,
        batch_size=1,
        epochs="@epochs",
        amp="@amp",
    )
    trained["dataset"] = target("Dataset", data="@train_datalist", transform="@train#preprocessing")
    trained["handlers"][0]["interval"] = "@num_interval_per_valid"
    trained["handlers"].insert(0, target("LrScheduleHandler", lr_scheduler="@lr_scheduler", print_lr=True))
    validated = validate(
        "@val_datalist",
        metric("val_mean_dice", "MeanDice", include_background=True),
        {**WINDOWS, "roi_size": [24, 24, 24]},
        amp="@amp",
        additional_metrics="@validate#additional_metrics",
    )
    validated["dataset"] = target("Dataset", data="@val_datalist", transform="@validate#preprocessing")
    validated["postprocessing"] = compose([*classes["transforms"], split])
    of_part = "$monai.handlers.from_engine(['pred_{0}', 'label_{0}'])"
    validated["additional_metrics"] = {
        f"val_mean_dice_{part}": target("MeanDice", include_background=True, output_transform=of_part.format(part))
        for part in ("tc", "wt", "et")
    }
    loss = target("DiceLoss", smooth_nr=0, smooth_dr=1e-5, squared_pred=True, to_onehot_y=False, sigmoid=True)
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": "/workspace/brats_mri_segmentation",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "data_list_file_path": "$@bundle_root + '/configs/datalist.json'",
        "data_file_base_dir": "/workspace/data/medical/brats2018challenge",
        "train_datalist": read.format("training"),
        "val_datalist": read.format("validation"),
        "device": CPU_OR_GPU,
        "epochs": 300,
        "num_interval_per_valid": 1,
        "learning_rate": 0.01,
        "amp": True,
        **network(segresnet, loss, lr="@learning_rate", weight_decay=1e-5),
        "lr_scheduler": target("torch.optim.lr_scheduler.CosineAnnealingLR", optimizer="@optimizer", T_max="@epochs"),
        "train": trained,
        "validate": validated,
        "training": [*SEEDED, "$@train#trainer.run()"],
    }


def hippocampus(bundle):
    """spleen_ct_segmentation for the Decathlon's Task04: anterior and posterior hippocampus, MRI, 1 mm.

    Alone it takes the first 29 volumes of the folder, 20 to train with.
    """
    transforms = load(
        RAS,
        target("NormalizeIntensityd", keys="image", nonzero=True),
        target("ResizeWithPadOrCropd", keys=BOTH, spatial_size=[48, 64, 48]),
    )
    config = start("/workspace/data/Task04_Hippocampus")
    for key in ("images", "labels"):
        config[key] += "[:29]"
    loss = target("DiceCELoss", include_background=False, to_onehot_y=True, softmax=True)
    return {
        **config,
        **network(unet(3, 3, "batch"), loss),
        "train": train(
            transforms,
            pairs("[:-9]"),
            TRAIN_ACCURACY,
            postprocessing=discrete(3),
            batch_size=1,
            random=[*flips(1), target("RandShiftIntensityd", keys="image", prob=0.5, offsets=0.1)],
            epochs=3,
        ),
        "validate": validate(pairs("[-9:]"), VAL_DICE, target("SimpleInferer")),
        "initialize": SEEDED,
        "run": ["$@train#trainer.run()"],
    }
