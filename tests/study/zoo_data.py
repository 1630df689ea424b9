"""Small synthetic data in the form of the Medical Segmentation Decathlon, for the bundles of ``zoo``."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SUBJECTS = 12
SIZE = 32
SQUARE, CUBE = (SIZE, SIZE), (SIZE, SIZE, SIZE)
SPACING = (1.5, 1.5, 2.0)  # of the zoo's CT bundles, so that their Spacingd has nothing to do


def names_of(kind: str) -> list[str]:
    """The names of the images of a kind, without their ending: two slices for each subject of ``short_axis``."""
    subjects = [f"{kind}_{number:03d}" for number in range(1, SUBJECTS + 1)]
    if kind == "short_axis":
        return [f"{subject}_slice{slice_}" for subject in subjects for slice_ in (1, 2)]
    return subjects


def label_of(kind: str, number: int) -> int | float:
    """The label of the image ``number`` of a kind whose labels are numbers: a class, or the radius of a disk."""
    return number % 2 if kind == "classification" else 0.2 + 0.02 * number


def write_data(kind: str, folder: str | Path) -> Path:
    """Writes ``dataset.json``, ``imagesTr`` and, for segmentations, ``labelsTr``; returns the folder.

    Kinds: ``spleen`` (3-D, one class), ``short_axis`` (2-D, three classes, two slices a subject), ``brats`` (3-D, four
    channels, the labels 1, 2 and 4), ``hippocampus`` (3-D, two classes, of many shapes), ``classification`` (2-D, a
    class) and ``regression`` (2-D, a number).
    """
    folder = Path(folder)
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    items = [_write_item(kind, number, name, folder) for number, name in enumerate(names_of(kind))]
    listed = {"name": kind, "numTraining": len(items), "training": items}
    (folder / "dataset.json").write_text(json.dumps(listed, indent=1))
    return folder


def _write_item(kind: str, number: int, name: str, folder: Path) -> dict[str, object]:
    random = np.random.default_rng(number)
    image, label = MAKERS[kind](random, number)
    item: dict[str, object] = {"image": f"./imagesTr/{name}.nii.gz", "label": label}
    affine = np.diag([*SPACING, 1.0])
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / "imagesTr" / f"{name}.nii.gz")
    if isinstance(label, np.ndarray):
        item["label"] = f"./labelsTr/{name}.nii.gz"
        (folder / "labelsTr").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / "labelsTr" / f"{name}.nii.gz")
    return item


def _distance(random, shape):
    """The distance of each pixel from a centre near the middle; 1 is half of ``SIZE``."""
    centre = random.uniform(0.4, 0.6, len(shape)) * shape
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.linalg.norm(grid - centre, axis=-1) / (SIZE / 2)


def _spleen(random, number):
    label = _distance(random, CUBE) < random.uniform(0.35, 0.5)
    return np.where(label, 100.0, 0.0) + random.normal(0, 20, label.shape), label


def _short_axis(random, number):
    distance = _distance(random, SQUARE)
    label = np.digitize(-distance, [-0.7, -0.5, -0.3])  # three rings, as blood, muscle and the rest
    return label * 50.0 + random.normal(0, 10, label.shape), label


def _brats(random, number):
    label = np.array([0, 2, 1, 4])[np.digitize(-_distance(random, CUBE), [-0.7, -0.5, -0.3])]
    channels = np.stack([label * weight + 1.0 for weight in (1.0, 0.5, 2.0, -1.0)], -1)
    return channels + random.normal(0, 0.2, channels.shape), label


def _hippocampus(random, number):
    shape = random.integers([31, 40, 24], [44, 60, 48])
    inside = _distance(random, shape) < 0.6
    label = inside * np.where(np.arange(shape[1]) < shape[1] // 2, 1, 2)[None, :, None]
    return np.where(inside, 90.0, 50.0) + label * 10 + random.normal(0, 8, shape), label


def _classification(random, number):
    distance, label = _distance(random, SQUARE), label_of("classification", number)
    ring = (distance < 0.6) & (distance > 0.3 * label)
    return ring * 100.0 + random.normal(0, 10, ring.shape), label


def _regression(random, number):
    label = label_of("regression", number)
    disk = _distance(random, SQUARE) < label
    return disk * 100.0 + random.normal(0, 10, disk.shape), label


MAKERS = {
    "spleen": _spleen,
    "short_axis": _short_axis,
    "brats": _brats,
    "hippocampus": _hippocampus,
    "classification": _classification,
    "regression": _regression,
}
