import csv
import statistics

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image

from monai_iln import handlers
from monai_iln.errors import UserError
from monai_iln.handlers import SaveImageDice, SaveOverlay, TrainingCurves, overlay, slices_from_engine


def disc(radius, size=64):
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - 32) ** 2 + (columns - 32) ** 2 <= radius**2).float()


def one_hot(mask):
    return torch.stack([1 - mask, mask])


def evaluation(handler, truth, prediction, item):
    """Run one stack through an engine as MONAI's evaluator presents it, decollated."""
    output = {"image": torch.rand(1, *truth.shape[1:]), "label": truth, "pred": prediction}

    def step(engine, _):
        engine.state.batch = [item]
        return [output]

    engine = Engine(step)
    handler.attach(engine)
    engine.run([0], 1)
    return engine


def test_slices_from_engine():
    stacks = [{"pred": torch.rand(2, 4, 4, 3)}, {"pred": torch.rand(2, 5, 5, 2)}]
    (slices,) = slices_from_engine(["pred"])(stacks)
    assert [tuple(slice_.shape) for slice_ in slices] == [(2, 4, 4)] * 3 + [(2, 5, 5)] * 2
    torch.testing.assert_close(slices[4], stacks[1]["pred"][..., 1])


def test_dice_of_every_image(tmp_path, capsys):
    empty = torch.zeros(64, 64)
    truth = torch.stack([disc(10), disc(8), empty, empty], dim=-1)
    predicted = torch.stack([disc(10), disc(4), empty, disc(3)], dim=-1)
    item = {"subject": "SC-N-901", "phase": "ED", "slices": [torch.tensor([n]) for n in (3, 4, 5, 6)]}
    evaluation(SaveImageDice(str(tmp_path / "new")), one_hot(truth), one_hot(predicted), item)
    with (tmp_path / "new" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    small, large = disc(4).sum().item(), disc(8).sum().item()
    assert [float(row["dice"]) for row in rows] == pytest.approx([1, 2 * small / (small + large), 1, 0], abs=1e-6)
    assert [row["slice"] for row in rows] == ["3", "4", "5", "6"]
    assert {row["subject"] for row in rows} == {"SC-N-901"}
    assert int(rows[1]["truth_pixels"]) == large
    assert int(rows[1]["predicted_pixels"]) == small
    scores = [float(row["dice"]) for row in rows]
    printed = capsys.readouterr().out
    assert f"Dice {statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}, " in printed
    assert "below 0.5: 50.0%, over 4 images of 1 subjects" in printed


def test_summary_is_by_subject_worst_first(tmp_path, capsys):
    handler, good, bad = SaveImageDice(str(tmp_path)), disc(10)[..., None], disc(5)[..., None]
    outputs = {"SC-A": (good, good), "SC-B": (bad, good), "SC-C": (good, good)}

    def step(engine, name):
        engine.state.batch = [{"subject": name, "phase": "ED"}]
        return [{"label": one_hot(outputs[name][0]), "pred": one_hot(outputs[name][1])}]

    engine = Engine(step)
    handler.attach(engine)
    for _ in range(2):  # a second run starts anew
        engine.run(list(outputs), 1)
        printed = capsys.readouterr().out
        assert "median 1.000, below 0.5: 33.3%, over 3 images of 3 subjects. Worst first:" in printed
        assert [line.split()[0] for line in printed.splitlines()[1:4]] == ["SC-B", "SC-A", "SC-C"]


def test_overlay_colours():
    truth, prediction = torch.zeros(20, 20), torch.zeros(20, 20)
    truth[5:10, 5:10] = 1
    prediction[5:10, 8:13] = 1
    image = torch.zeros(20, 20)
    image[0, 0] = 100.0
    rgb = overlay(image, prediction, truth)
    assert rgb.shape == (20, 20, 3)
    for place, colour in {(6, 6): (1, 0, 0), (6, 11): (0, 1, 0), (6, 9): (1, 1, 0), (15, 15): (0, 0, 0)}.items():
        np.testing.assert_array_equal(rgb[place] > 0, np.array(colour, bool))
    np.testing.assert_array_equal(overlay(image, prediction)[6, 6], 0)


def test_overlay_is_cropped_around_the_heart():
    truth = torch.zeros(256, 256)
    truth[200:220, 30:50] = 1
    prediction = truth.clone()
    prediction[:20, 200:] = 1  # far off
    rgb = overlay(torch.rand(256, 256), prediction, truth)
    assert rgb.shape == (96, 96, 3)
    yellow = (rgb[..., 0] > rgb[..., 2] + 0.1) & (rgb[..., 1] > rgb[..., 2] + 0.1)
    assert yellow.sum() == 400


def test_contact_sheet(tmp_path):
    truth = torch.stack([disc(10), disc(8), disc(6)], dim=-1)
    path = tmp_path / "new" / "overlay.png"
    evaluation(SaveOverlay(str(path)), one_hot(truth), one_hot(truth), {"subject": "SC-N-901", "phase": "ED"})
    assert yellow(path) > 100


def test_large_contact_sheets_are_thinned_and_start_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(handlers, "_MOST_TILES", 12)
    handler = SaveOverlay(str(tmp_path / "overlay.png"))
    stack = {"image": torch.rand(1, 8, 8, 40), "pred": torch.zeros(1, 8, 8, 40)}

    def step(engine, depth):
        engine.state.batch = [{}]
        return [{key: value[..., :depth] for key, value in stack.items()}]

    engine = Engine(step)
    handler.attach(engine)
    engine.run([40], 1)
    assert len(handler.tiles) == 40
    with Image.open(handler.path) as sheet:
        assert sheet.height < 2 * 1.45 * 120, "one row"
    engine.run([5], 1)
    assert len(handler.tiles) == 5


def yellow(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return ((pixels[..., 0] - pixels[..., 2] > 60) & (pixels[..., 1] - pixels[..., 2] > 60)).sum()


def test_while_training_the_sheet_shows_the_best_epoch(tmp_path):
    path, truth = tmp_path / "overlay.png", one_hot(disc(8)[..., None])
    output = {"image": torch.rand(1, 64, 64, 1), "label": truth, "pred": truth}

    def step(engine, _):
        engine.state.batch = [{"subject": "SC-N-901", "phase": "ED"}]
        return [output]

    def validate(epoch, best):
        engine = Engine(step)
        SaveOverlay(str(path)).attach(engine)

        @engine.on(Events.EPOCH_COMPLETED)
        def score(engine):
            engine.state.metrics, engine.state.epoch, engine.state.best_metric_epoch = {"dice": 0.5}, epoch, best

        engine.run([0], 1)
        return path.exists()

    assert not validate(epoch=3, best=2)
    assert validate(epoch=3, best=3)


def test_curves(tmp_path, capsys):
    validator = Engine(lambda *_: None)
    validator.state.metrics = {"val_mean_dice": 0.0}
    validator.state.key_metric_name = "val_mean_dice"
    losses = [0.0, 0.0]
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(batch)}])

    @trainer.on(Events.EPOCH_COMPLETED(every=2))
    def validate(engine):
        validator.state.epoch = engine.state.epoch
        validator.state.metrics["val_mean_dice"] = engine.state.epoch / 10

    TrainingCurves(validator, str(tmp_path)).attach(trainer)

    @trainer.on(Events.EPOCH_STARTED)
    def change(engine):
        losses[:] = [float(engine.state.epoch), engine.state.epoch + 1.0]

    trainer.run(losses, max_epochs=4)
    with (tmp_path / "curves.csv").open() as file:
        assert list(csv.reader(file))[1:] == [
            ["1", "1.5", ""],
            ["2", "2.5", "0.2"],
            ["3", "3.5", ""],
            ["4", "4.5", "0.4"],
        ]
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert "epoch 4/4: loss 4.500, validation Dice 0.400" in capsys.readouterr().out


def test_divergence_ends_the_training(tmp_path):
    trainer = Engine(lambda engine, batch: [{"loss": torch.tensor(float("nan"))}])
    TrainingCurves(Engine(lambda *_: None), str(tmp_path)).attach(trainer)
    with pytest.raises(UserError, match="the loss is nan in epoch 1"):
        trainer.run([1], max_epochs=1)


def test_an_error_in_training_is_not_swallowed(tmp_path):
    def fail(*_):
        raise RuntimeError("out of memory")

    trainer = Engine(fail)
    TrainingCurves(Engine(lambda *_: None), str(tmp_path)).attach(trainer)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run([1], max_epochs=1)
