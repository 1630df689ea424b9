"""What the paper published: its protocol, and its Tables 1 to 3.

Source: Zhou et al., *U-Net Training with Instance-Layer Normalization*, 2019,
https://doi.org/10.1007/978-3-030-37969-8_13. Column ``LV-1`` tests on the first group of subjects, ``LV-2`` on the
second, and so on. The groups were drawn at random and are not published: other studies have other folds. A cell is the
mean and the standard deviation of Dice over test images.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

COLUMNS = ("RV-1", "RV-2", "RV-3", "LV-1", "LV-2", "LV-3")

DICE: dict[str, tuple[tuple[float, float], ...]] = {
    "Clip": ((0.702, 0.295), (0.707, 0.299), (0.666, 0.319), (0.900, 0.099), (0.864, 0.184), (0.804, 0.246)),
    "Sigmoid": ((0.692, 0.304), (0.724, 0.284), (0.675, 0.301), (0.903, 0.118), (0.888, 0.135), (0.828, 0.189)),
    "Softmax": ((0.688, 0.290), (0.720, 0.279), (0.664, 0.323), (0.895, 0.151), (0.866, 0.153), (0.827, 0.228)),
    "None": ((0.688, 0.296), (0.678, 0.318), (0.661, 0.323), (0.899, 0.134), (0.872, 0.167), (0.784, 0.280)),
    "IN": ((0.709, 0.266), (0.715, 0.278), (0.655, 0.327), (0.905, 0.114), (0.876, 0.131), (0.836, 0.207)),
    "LN": ((0.702, 0.287), (0.718, 0.270), (0.662, 0.309), (0.898, 0.120), (0.858, 0.187), (0.793, 0.262)),
    "GN4": ((0.679, 0.303), (0.701, 0.291), (0.671, 0.309), (0.908, 0.113), (0.841, 0.196), (0.800, 0.255)),
    "ILN": ((0.714, 0.290), (0.737, 0.267), (0.680, 0.305), (0.919, 0.098), (0.893, 0.127), (0.827, 0.211)),
}

IMAGES = {"RV": 6082, "LV": 805}  # over all three folds
SUBJECTS = {"RV": 37, "LV": 45}
LEARNING_RATES = (1.5, 1.0, 0.5, 0.1, 0.05)
FOLDS = 3
ROTATIONS = {
    "RV": tuple(range(-30, 31, 10)),
    "LV": tuple(range(-60, 61, 2)),
}  # degrees; an epoch has every image at each
TRAINING: dict[str, Any] = {
    "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "optimizer": {"_target_": "torch.optim.SGD", "momentum": 0.9},
    "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.2},
    "lr_per_epoch": True,
    "epochs": 2,
    "batch_size": 1,
    "roi_size": [256, 256],
    "standardize": False,
    "largest_component": False,
    "random_transforms": [],
    "validation_every": None,
    "network_def": {
        "_target_": "monai_iln.networks.PaperUNet",
        "spatial_dims": 2,
        "features": [16, 32, 64, 128, 256],
        "act": "RELU",
    },
}
"""The paper's training, by the ids of a bundle's configuration."""
_WALLS = {"myocardium", "epicardium", "wall"}
_NO_NAMES = {"class", "label", "structure", "cavity"}
TIME_RATIO = 36.5 / 34.8  # ILN to IN, 200 iterations on a Titan Xp


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        number: The number that the paper gives it.
        title: The methods that it compares.
        rows: The label in the table and the name of each method, in the paper's order.
    """

    number: int
    title: str
    rows: tuple[tuple[str, str], ...]


TABLES = (
    PaperTable(
        1,
        "Clip, sigmoid or softmax to combine instance and layer norm",
        (("Clip", "Clip"), ("Sigmoid", "Sigmoid"), ("Softmax", "Softmax")),
    ),
    PaperTable(
        2, "Without and with group norm after the combination", (("No (Sigmoid)", "Sigmoid"), ("Yes (ILN)", "ILN"))
    ),
    PaperTable(
        3,
        "No norm, instance, layer and group norm, and ILN",
        (("None", "None"), ("IN", "IN"), ("LN", "LN"), ("GN4", "GN4"), ("ILN", "ILN")),
    ),
)


def published_dice(method: str, column: str) -> tuple[float, float] | None:
    """Mean and standard deviation of Dice that the paper gives, or ``None``.

    Args:
        method: The paper's name of a method, such as ``"GN4"``.
        column: The data set and the test group, such as ``"LV-1"``.

    Example:
        >>> published_dice("ILN", "LV-1")
        (0.919, 0.098)
        >>> published_dice("ILN", "ACDC-1") is None
        True
    """
    if method not in DICE or column not in COLUMNS:
        return None
    return DICE[method][COLUMNS.index(column)]


def published_group(dataset: str) -> str | None:
    """The paper's name of a data set: its LV images are Sunnybrook's; its RV images are private.

    Example:
        >>> published_group("sunnybrook"), published_group("ACDC")
        ('LV', None)
    """
    name = dataset.upper()
    if "SUNNYBROOK" in name:
        return "LV"
    return name if name in SUBJECTS else None


def may_be_cavity(structure: str, ventricle: str) -> bool:
    """Whether a structure may be the cavity of a ventricle: its name says so, or names nothing.

    Example:
        >>> [may_be_cavity(name, "LV") for name in ("endocardium", "class 1", "RV", "LV myocardium", "aorta")]
        [True, True, False, False, False]
    """
    return ventricle_of(structure) == ventricle or not _words(structure) - _NO_NAMES


def ventricle_of(structure: str) -> str | None:
    """The ventricle whose cavity a structure is, by the paper's name.

    Example:
        >>> ventricle_of("right-ventricle"), ventricle_of("endocardium"), ventricle_of("LV myocardium")
        ('RV', 'LV', None)
    """
    words = _words(structure)
    if words & _WALLS:
        return None
    if "rv" in words or {"right", "ventricle"} <= words:
        return "RV"
    if words & {"lv", "endocardium"} or {"left", "ventricle"} <= words:
        return "LV"
    return None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", name.lower()))
