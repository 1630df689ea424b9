"""Small bundles written as MONAI's model zoo writes them, by people who never heard of this package.

Ids, handlers and habits are those of the bundles named beside each function, of
https://github.com/Project-MONAI/model-zoo. Only networks, images and numbers of epochs are small.
``dataset_dir`` points to a folder of somebody else's machine, as theirs does: give your own.
"""

import json
from pathlib import Path

import yaml
from zoo_others import classification, hard_coded, regression
from zoo_segmentation import brats, dynunet, hippocampus, short_axis_3label, spleen

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
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "num_channels": 4 if kind == "brats" else 1,
                    "spatial_shape": ["16*n"] * 3 if kind in ("spleen", "brats", "hippocampus") else ["*", "*"],
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": True,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {},
        },
    }


BUNDLES = {  # the maker, the kind of data, the form of the configuration
    "spleen": (spleen, "spleen", "json"),
    "short_axis_3label": (short_axis_3label, "short_axis", "yaml"),
    "hard_coded": (hard_coded, "short_axis", "yaml"),
    "dynunet": (dynunet, "spleen", "json"),
    "brats": (brats, "brats", "json"),
    "classification": (classification, "classification", "json"),
    "regression": (regression, "regression", "yaml"),
    "hippocampus": (hippocampus, "hippocampus", "json"),
}
