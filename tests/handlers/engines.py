"""What the tests of the handlers share: stacks, and engines that present them as MONAI's do."""

import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

# Voxels of 2 x 1.5 x 8 mm, turned by 30 degrees in the plane: the lengths of the columns.
TURN = np.array([[np.sqrt(0.75), -0.5, 0], [0.5, np.sqrt(0.75), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN * [2.0, 1.5, 8.0]
AFFINE[:3, 3] = [-100, 20, 5]


def disc(radius, size=64, centre=(32, 32)):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2).float()


def one_hot(mask):
    return torch.stack([1 - mask, mask])


def stack(truth, prediction, name="SC-N-901", affine=AFFINE, folder="/data", phase="ED"):
    """An item and an output of the evaluator, with the files that the images came from."""
    image = MetaTensor(torch.rand(1, *truth.shape[1:]), affine=affine)
    image.meta["filename_or_obj"] = f"{folder}/images/{name}_{phase}.nii.gz"
    label = MetaTensor(truth, affine=affine)
    label.meta["filename_or_obj"] = f"{folder}/labels/{name}_{phase}.nii.gz"
    item = {"subject": name, "phase": phase}
    return item, {"image": image, "label": label, "pred": MetaTensor(prediction, affine=affine)}


def evaluate(handler, *stacks):
    """Run stacks through an engine as MONAI's evaluator presents them, decollated; the engine."""

    def step(engine, number):
        item, output = stacks[number]
        engine.state.batch = [item]
        return [output]

    engine = Engine(step)
    handler.attach(engine)
    engine.run(range(len(stacks)), 1)
    return engine
