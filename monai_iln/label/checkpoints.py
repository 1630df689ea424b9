"""The checkpoints of a bundle in an app, and what its masks mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_iln.errors import UserError
from monai_iln.run_files import WEIGHTS


def find_checkpoint(bundle: Path, request: Mapping[str, Any]) -> Path:
    """The checkpoint that a request names: a name, or a list of names whose first is meant."""
    names = list_checkpoints(bundle)
    asked = request.get("model_filename") or WEIGHTS
    name = asked if isinstance(asked, str) else asked[0]
    if name not in names:
        raise UserError(f"checkpoint {name}: not one of {bundle.name}, which has {', '.join(names)}: choose one.")
    return bundle / "models" / name


def list_checkpoints(bundle: Path) -> list[str]:
    """The names of all checkpoints of a bundle, the default first."""
    found = (path.name for path in (bundle / "models").glob("*.pt"))
    names = [name for name in found if not name.startswith(".")]  # those are being written
    return sorted(names, key=lambda name: (name != WEIGHTS, name))


def class_names(bundle: Path) -> dict[int, str]:
    """The name of each value of a bundle's masks."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    prediction = next(iter(metadata["network_data_format"]["outputs"].values()))
    return {int(value): name for value, name in prediction["channel_def"].items()}
