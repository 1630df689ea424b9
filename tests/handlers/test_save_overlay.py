import itertools

import numpy as np
import pytest
import torch
from engines import disc, evaluate, one_hot, stack
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image

from monai_iln.handlers import SaveOverlay
from monai_iln.handlers.overlays import _titles
from monai_iln.overlays import contact_sheet


def test_contact_sheet(tmp_path):
    truth = torch.stack([disc(10), disc(8), disc(6)], dim=-1)
    path = tmp_path / "new" / "overlay.png"
    evaluate(SaveOverlay(str(path)), stack(one_hot(truth), one_hot(truth)))
    assert yellow(path) > 100


def test_a_sheet_says_what_its_colours_mean(tmp_path, drawn):
    truth = torch.stack([disc(10), disc(8)], dim=-1)
    evaluate(SaveOverlay(str(tmp_path / "overlay.png")), stack(one_hot(truth), one_hot(truth)))
    assert drawn[-1][1]["note"] == "red: truth; green: prediction; yellow: both"
    run(SaveOverlay(str(tmp_path / "overlay.png")), 3)
    assert drawn[-1][1]["note"] == "green: the mask"


def run(handler, *depths, doubts=lambda number: ""):
    """Draw stacks of so many slices."""
    slices = itertools.count()

    def step(engine, depth):
        engine.state.batch = [{}]
        rows = [{"doubts": doubts(next(slices))} for _ in range(depth)]
        return [{"image": torch.rand(1, 8, 8, depth), "pred": torch.zeros(1, 8, 8, depth), "doubts": rows}]

    engine = Engine(step)
    handler.attach(engine)
    engine.run(depths, 1)


@pytest.fixture
def drawn(monkeypatch):
    """What the sheets of at most twelve tiles are drawn of: their tiles and all else."""
    sheets = []
    monkeypatch.setattr("monai_iln.overlays.MOST_TILES", 12)
    monkeypatch.setattr("monai_iln.handlers.overlays.MOST_TILES", 12)
    monkeypatch.setattr("monai_iln.handlers.overlays._removed", lambda output: np.zeros(output["image"].shape[1:]))
    monkeypatch.setattr(
        "monai_iln.handlers.overlays.contact_sheet",
        lambda tiles, **rest: sheets.append(([caption for caption, _ in tiles], rest)) or contact_sheet(tiles, **rest),
    )
    return sheets


def test_large_contact_sheets_are_thinned_and_start_anew(tmp_path, drawn):
    handler = SaveOverlay(str(tmp_path / "overlay.png"))
    run(handler, 30, 10)
    captions, rest = drawn[-1]
    assert 12 <= len(captions) <= 24
    assert rest["total"] == 40
    with Image.open(handler.path) as sheet:
        assert sheet.height < 2 * 172, "one row"
    run(handler, 5)
    assert len(drawn[-1][0]) == 5


def test_memory_for_a_sheet_does_not_grow(tmp_path, drawn):
    handler = SaveOverlay(str(tmp_path / "overlay.png"))
    run(handler, *[10] * 100, doubts=lambda number: "edge" * (number % 4 == 0))
    captions, rest = drawn[-1]
    assert 12 <= len(captions) <= 24
    assert all(caption.endswith("\nedge") for caption in captions)
    assert rest["total"] == 250
    assert rest["note"].startswith("The 250 doubted of 1000 slices. ")


def test_not_the_same_place_of_every_stack_is_shown(tmp_path, drawn):
    run(SaveOverlay(str(tmp_path / "overlay.png")), *[8] * 60)
    assert len({caption.split()[1] for caption in drawn[-1][0]}) > 4


def test_a_few_doubted_of_many_are_all_shown(tmp_path, drawn):
    doubted = (3, 4, 77, 91)
    run(SaveOverlay(str(tmp_path / "overlay.png")), *[10] * 10, doubts=lambda number: "edge" * (number in doubted))
    assert [caption.split()[1] for caption in drawn[-1][0]] == ["4", "5", "8", "2"]


def test_titles():
    assert _titles(["SC-N-02 ED", "slice"]) == {"SC-N-02 ED": "SC-N-02 ED", "slice": "slice"}
    assert _titles(["/data/ED.nii.gz"]) == {"/data/ED.nii.gz": "ED"}
    assert _titles(["/data/a.nii", "/data/b.c.nii.gz"]) == {"/data/a.nii": "a", "/data/b.c.nii.gz": "b.c"}
    assert _titles(["/data/series 3"]) == {"/data/series 3": "series 3"}
    files = ["/data/subject01/ED.nii.gz", "/data/subject02/rest/ED.nii.gz"]
    assert [*_titles(files).values()] == ["subject01/ED", "subject02/rest/ED"]
    files = [f"/data/subject02/subject02_{phase}.nii.gz" for phase in ("ED", "ES")]
    files.append("/data/subject17/subject17_ED.nii.gz")
    assert [*_titles(files).values()] == ["subject02_ED", "subject02_ES", "subject17_ED"], "folders tell nothing more"
    assert [*_titles([f"/data/{'x' * 30}1.nii"]).values()] == ["…" + "x" * 18 + "1"]


def test_stacks_of_one_name_are_told_apart(tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(
        "monai_iln.handlers.overlays.contact_sheet",
        lambda tiles, **_: captions.extend(caption for caption, _ in tiles) or Image.new("RGB", (1, 1)),
    )
    image = torch.rand(1, 8, 8, 2)
    stacks = [MetaTensor(image, meta={"filename_or_obj": f"{tmp_path}/{name}/ED.nii.gz"}) for name in ("P1", "P2")]

    def step(engine, stack):
        engine.state.batch = [{}]
        return [{"image": stack, "pred": torch.zeros(1, 8, 8, 2)}]

    engine = Engine(step)
    SaveOverlay(str(tmp_path / "overlay.png")).attach(engine)
    engine.run(stacks, 1)
    assert captions == ["P1/ED 1", "P1/ED 2", "P2/ED 1", "P2/ED 2"]


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
