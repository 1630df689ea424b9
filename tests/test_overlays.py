"""One slice in colours."""

import numpy as np

from monai_iln.overlays import contact_sheet, overlay


def disc(shape, row, column, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_overlay_colors():
    image = np.full((120, 140), 7.0)
    image[0, 0], truth, prediction = 0, np.zeros((120, 140), bool), np.zeros((120, 140), bool)
    truth[60, 60:62] = True
    prediction[60, 61:63] = True
    tile = overlay(image, prediction, truth)
    assert tile.shape == (96, 96, 3)
    (row,) = np.unique(np.argwhere(tile.max(axis=-1) != tile.min(axis=-1))[:, 0])
    marked = tile[row][(tile[row].max(axis=-1) != tile[row].min(axis=-1))]
    red, yellow, green = marked
    assert red[0] > red[1] == red[2]
    assert green[1] > green[0] == green[2]
    assert yellow[0] == yellow[1] > yellow[2]


def test_overlay_shows_all_of_truth_and_prediction():
    shape = (256, 200)
    truth, prediction = disc(shape, 200, 40, 10), disc(shape, 90, 150, 12)
    tile = overlay(np.zeros(shape), prediction, truth)
    coloured = tile.max(axis=-1) != tile.min(axis=-1)
    assert coloured.sum() == (truth | prediction).sum()
    near = overlay(np.zeros(shape), truth, truth)
    assert near.shape[:2] == (96, 96)
    assert (near.max(axis=-1) != near.min(axis=-1)).sum() == truth.sum()


def test_without_truth_only_the_prediction_is_drawn():
    prediction = np.zeros((100, 100))
    prediction[50, 50] = 1
    rgb = overlay(np.zeros((100, 100)), prediction)
    assert (rgb[..., 0] > 0).sum() == 0
    assert (rgb[..., 1] > 0).sum() == 1


def test_a_sheet_shows_every_tile_and_says_when_it_does_not():
    green = np.zeros((96, 96, 3), np.float32)
    green[..., 1] = 1
    sheet = np.asarray(contact_sheet([("a", green)] * 13))
    tiles = (sheet == (0, 255, 0)).all(axis=-1).sum() / 152**2
    assert tiles == 13
    many = np.asarray(contact_sheet([("a", green)] * 500))
    assert (many == (0, 255, 0)).all(axis=-1).sum() / 152**2 == 480
    assert many[:16, :200].min() < 128, "480 of 500 is written above"
    assert sheet[:16, :200].min() == 255
