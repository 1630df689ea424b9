"""Segment a NIfTI stack with an exported bundle and without torch: with numpy, scipy, nibabel and onnxruntime.

    python onnx_inference.py model.onnx stack.nii.gz mask.nii.gz

It does what configs/inference.yaml of the bundle does: decide the geometry, scale every slice, bring it to standard
orientation and 1.4 mm a pixel, take the 144 x 144 pixels in the middle, run the network, bring the logits back to the
stack's grid, take the largest. docs/how-to/deploy.md says how to export model.onnx.

Headers contradict themselves in more ways than an example should copy (those of ACDC do). So it asks the function that
everything else asks. That part of monai_iln needs numpy alone: pip install --no-deps monai-iln.
"""

from __future__ import annotations

import argparse

import nibabel as nib
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, label

from monai_iln.datasets.geometry.grids import is_unit
from monai_iln.datasets.geometry.headers import decide_geometry

PIXEL_MM = 1.4
SIZE = 144  # pixels that the network sees, in both directions
BATCH = 8  # slices at a time
DOWN, RIGHT = np.array([0, -1, -1]) / np.sqrt(2), np.array([-1, 0, 0])  # of a screen, in RAS

Array = NDArray[np.float32]
Turn = tuple[bool, slice, slice]  # whether to exchange rows and columns, then how to run through them


def scale_slices(stack: Array) -> Array:
    """Scale every slice to [0, 1] by its own minimum and maximum, and a constant one to 0."""
    low = stack.min(axis=(0, 1), keepdims=True)
    span = stack.max(axis=(0, 1), keepdims=True) - low
    return (stack - low) / np.where(span > 0, span, 1)


def standard_grid(affine: NDArray[np.float64]) -> tuple[Turn, NDArray[np.float64]]:
    """Find the turn to the orientation of a screen, and then the step from one new pixel to the next, in old ones."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if is_unit(sizes).all():  # a stack that does not know its geometry stays as it is
        return (False, slice(None), slice(None)), np.ones(2)
    down, right = DOWN @ affine[:3, :2] / sizes[:2], RIGHT @ affine[:3, :2] / sizes[:2]
    exchange = bool(abs(down[1]) + abs(right[0]) > abs(down[0]) + abs(right[1]))
    rows, columns = (1, 0) if exchange else (0, 1)
    forward, backward = slice(None), slice(None, None, -1)
    turn = exchange, backward if down[rows] < 0 else forward, backward if right[columns] < 0 else forward
    return turn, PIXEL_MM / sizes[[rows, columns]]


def resample(stack: Array, steps: NDArray[np.float64], shape: tuple[int, int]) -> Array:
    """Bring rows and columns to another grid with the same centre, linearly; beyond the border its pixels go on."""
    centre, new_centre = (np.array(stack.shape[:2]) - 1) / 2, (np.array(shape) - 1) / 2
    matrix, offset = np.diag([*steps, 1]), [*(centre - steps * new_centre), 0]
    return affine_transform(stack, matrix, offset, (*shape, stack.shape[2]), order=1, mode="nearest")


def overlap(size: int) -> tuple[slice, slice]:
    """Find where `size` pixels and the SIZE in their middle meet: the place in the former, and in the latter."""
    first, new_first = max(size // 2 - SIZE // 2, 0), max((SIZE - size) // 2, 0)
    shared = min(size, SIZE)
    return slice(first, first + shared), slice(new_first, new_first + shared)


def segment(session: onnxruntime.InferenceSession, stack: Array, affine: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Find the class of every voxel of a stack (rows, columns, slices)."""
    (exchange, *order), steps = standard_grid(affine)
    upright = scale_slices(stack.swapaxes(0, 1) if exchange else stack)[tuple(order)]
    old_shape = upright.shape[:2]
    shape = tuple(max(1, round(size)) for size in (old_shape / steps).tolist())
    image = resample(upright, steps, shape)
    (rows, new_rows), (columns, new_columns) = overlap(shape[0]), overlap(shape[1])
    middle = np.zeros((stack.shape[2], 1, SIZE, SIZE), np.float32)
    middle[:, 0, new_rows, new_columns] = np.moveaxis(image[rows, columns], 2, 0)

    name = session.get_inputs()[0].name
    logits = np.concatenate([session.run(None, {name: middle[i : i + BATCH]})[0] for i in range(0, len(middle), BATCH)])

    restored = []
    for channel in np.moveaxis(logits, (1, 0), (0, 3)):  # outside of the middle all logits are 0, and class 0 wins
        whole = np.zeros((*shape, stack.shape[2]), np.float32)
        whole[rows, columns] = channel[new_rows, new_columns]
        restored.append(resample(whole, 1 / steps, old_shape))
    mask = np.argmax(restored, axis=0).astype(np.uint8)[tuple(order)]
    for slice_ in np.moveaxis(mask, 2, 0):
        components, count = label(slice_, structure=np.ones((3, 3)))
        if count > 1:
            slice_[components != np.bincount(components.ravel())[1:].argmax() + 1] = 0
    components, count = label(mask, structure=np.ones((3, 3, 3)))
    if count > 1:
        mask[components != np.bincount(components.ravel())[1:].argmax() + 1] = 0
    return mask.swapaxes(0, 1) if exchange else mask


def main() -> None:
    """Read, segment, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the exported network")
    parser.add_argument("stack", help="the NIfTI stack to segment")
    parser.add_argument("mask", help="the NIfTI mask to write")
    arguments = parser.parse_args()
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    stack = nib.load(arguments.stack)
    if len(stack.shape) != 3:
        raise SystemExit(
            f"{arguments.stack}: shape {stack.shape}. A stack has three axes: split a cine into its phases."
        )
    geometry = decide_geometry(stack.header)
    if geometry.doubt:
        print(f"{arguments.stack}: {geometry.doubt}.")
    mask = segment(session, stack.get_fdata(dtype=np.float32), geometry.affine)
    nib.save(nib.Nifti1Image(mask, geometry.affine), arguments.mask)
    print(f"{arguments.mask}: {np.count_nonzero(mask)} of {mask.size} voxels are marked")


if __name__ == "__main__":
    main()
