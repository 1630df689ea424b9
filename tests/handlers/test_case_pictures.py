"""Pictures of the cases of any bundle: which slice, which way round, and when there are none."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from monai_iln.handlers import SaveCaseScores

CLASSES = 2


def masks(*shape):
    """Truth and prediction of two classes in a corner of the first axis; in volumes most of it is in slice 2."""
    truth, prediction = torch.zeros(1, *shape), torch.zeros(1, *shape)
    truth[:, 10:20, 30:40], prediction[:, 12:20, 30:40] = 1, 1
    truth[:, 60:64, 5:9], prediction[:, 60:64, 5:9] = 2, 2
    if len(shape) == 3:
        for mask in (truth, prediction):
            mask[..., 0] = 0
            mask[:, :15, :, 1] = 0
            mask[:, :15, :, 3:] = 0
    return truth, prediction


def evaluate(folder, image, truth, prediction, part="test"):
    """What the handler leaves of one case."""
    saver = SaveCaseScores(str(folder), ["a"], ["a.nii.gz"], None, part, ["first", "second"])
    engine = Engine(lambda engine, batch: None)
    saver.attach(engine)
    engine.state.batch = [{"monai_iln_case": 7}]
    engine.state.output = [{"image": image, "pred": prediction, "label": truth}]
    saver._iterate(engine)
    return [row.get("prediction") for row in saver._measured[0]]


def marks(path):
    """Where a picture is red, green and yellow."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(path), float) / 255, -1, 0)
    is_red, is_green = red - blue > 0.3, green - blue > 0.3
    return is_red & ~is_green, is_green & ~is_red, is_red & is_green


@pytest.mark.parametrize("shape", [(96, 96), (96, 96, 5)])
def test_each_class_is_drawn_in_its_fullest_slice(tmp_path, shape):
    truth, prediction = masks(*shape)
    paths = evaluate(tmp_path, torch.zeros(3, *shape), truth, prediction)
    assert paths == ["overlays/00007_1.png", "overlays/00007_2.png"]
    red, green, yellow = (mark.sum() for mark in marks(tmp_path / paths[0]))
    assert (red, green, yellow) == (20, 0, 80)
    assert [mark.sum() for mark in marks(tmp_path / paths[1])] == [0, 0, 16]


def test_the_first_axis_points_right_and_the_second_one_up_in_volumes(tmp_path):
    rows, columns = {}, {}
    for shape in [(96, 96), (96, 96, 5)]:
        paths = evaluate(tmp_path, torch.zeros(1, *shape), *masks(*shape))
        rows[len(shape)], columns[len(shape)] = np.nonzero(marks(tmp_path / paths[0])[2])
    assert (columns[2].min(), columns[2].max(), rows[2].min(), rows[2].max()) == (12, 19, 30, 39)
    assert (columns[3].min(), columns[3].max(), rows[3].min(), rows[3].max()) == (12, 19, 95 - 39, 95 - 30)


def test_there_are_none_of_other_sizes_of_other_parts_or_without_an_image(tmp_path):
    truth, prediction = masks(96, 96)
    nothing = [None] * CLASSES
    assert evaluate(tmp_path, torch.zeros(1, 48, 48), truth, prediction) == nothing
    assert evaluate(tmp_path, None, truth, prediction) == nothing
    assert evaluate(tmp_path, torch.zeros(1, 96, 96), truth, prediction, part="validation") == nothing
    assert not list(tmp_path.iterdir())
