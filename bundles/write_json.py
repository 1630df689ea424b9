"""Write the configurations of the bundles as JSON, too: some tools of MONAI look for train.json and its kin alone.

Usage: python bundles/write_json.py. The YAML files, which have comments, are the ones to edit.
"""

import json
from pathlib import Path

import yaml

NAMES = ("train", "evaluate", "inference", "multi_gpu_train")


def as_json(path: Path) -> str:
    """The JSON of a YAML file."""
    return json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")), indent=2) + "\n"


if __name__ == "__main__":
    for bundle in filter(Path.is_dir, Path(__file__).parent.iterdir()):
        for name in NAMES:
            path = bundle / "configs" / f"{name}.yaml"
            path.with_suffix(".json").write_text(as_json(path), encoding="utf-8")
