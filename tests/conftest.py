"""Small data in the real layouts, and the real data where they are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_iln.datasets import prepare_sunnybrook, read_sunnybrook
from monai_iln.datasets.phantom import write_phantom

REAL = Path(__file__).parents[2] / "shared" / "data" / "sunnybrook"


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """Six small phantoms in Sunnybrook's official layout. Copy before changing anything."""
    return write_phantom(tmp_path_factory.mktemp("phantom") / "official", slices=6, phases=4, size=96)


@pytest.fixture(scope="session")
def stacks(official):
    return read_sunnybrook(official)


@pytest.fixture(scope="session")
def prepared(official, tmp_path_factory):
    """The phantoms as NIfTI stacks with a datalist of three folds."""
    return prepare_sunnybrook(official, tmp_path_factory.mktemp("prepared") / "phantoms").parent


@pytest.fixture
def mirror(stacks, tmp_path):
    """The phantoms as the SegNetCMR mirror has them: 8-bit RGB images and masks of the labelled frames."""
    source = tmp_path / "mirror"
    for stack in stacks:
        for index, number in enumerate(stack.slices):
            name = f"{stack.subject}-IM-0001-{(number - 1) * 20 + {'ED': 20, 'ES': 8}[stack.phase]:04d}.dcm.png"
            image, mask = stack.image[..., index].astype(float), stack.label[..., index] * 255
            grey = np.round(255 * (image - image.min()) / np.ptp(image))
            for folder, array in (("Images", grey), ("Labels", mask)):
                path = source / "Data" / "Train" / folder / "Sunnybrook_Part1" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).convert("RGB").save(path)
    return source


@pytest.fixture(scope="session")
def real():
    if not REAL.is_dir():
        pytest.skip(f"the real Sunnybrook data are not at {REAL}")
    return REAL
