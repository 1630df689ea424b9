import numpy as np
import pytest
import torch
from engines import disc, evaluate, one_hot
from monai.data import MetaTensor
from PIL import Image

from monai_iln.handlers import SaveDoubts, SaveOverlay
from monai_iln.run_files import SLICES
from monai_iln.transforms import DoubtSlicesd, LargestComponent

SMALL, LARGE, EMPTY = disc(7), disc(15), torch.zeros(64, 64)


def inferred(*slices, name="one_ED"):
    """An item and an output of inference."""
    logits = 20 * one_hot(torch.stack(slices, dim=-1)) - 10
    image = MetaTensor(torch.rand(1, *logits.shape[1:]), meta={"filename_or_obj": f"/data/{name}.nii.gz"})
    output = {"image": image, "logits": logits, "pred": LargestComponent()(logits.argmax(0, keepdim=True))}
    return {"image": image}, DoubtSlicesd("pred")(output)


def test_a_line_for_each_slice(tmp_path, capsys):
    folder = tmp_path / "new"
    whole = inferred(EMPTY, LARGE, LARGE, EMPTY)
    doubted = inferred(LARGE, LARGE, EMPTY, SMALL, name="two_ED")
    evaluate(SaveDoubts(str(folder)), whole, doubted)
    rows = SLICES.read_rows(folder)
    assert [row["doubts"] for row in rows] == ["", "", "", "", "edge", "", "", "removed"]
    assert [row["stack"] for row in rows] == ["/data/one_ED.nii.gz"] * 4 + ["/data/two_ED.nii.gz"] * 4
    assert [row["slice"] for row in rows] == ["1", "2", "3", "4"] * 2
    assert rows[0]["probability"] == ""
    assert rows[7]["removed_pixels"] == str(int(SMALL.sum()))
    output = capsys.readouterr().out
    assert output == f"doubted: 2 of 8 slices (edge 1, removed 1): {folder / 'slices.csv'}\n"


def test_a_heart_in_two_parts_is_a_warning(tmp_path, capsys):
    evaluate(SaveDoubts(str(tmp_path)), inferred(LARGE, LARGE, EMPTY, LARGE, SMALL))
    warning, summary = capsys.readouterr().out.splitlines()
    share = (LARGE.sum() + SMALL.sum()) / (3 * LARGE.sum() + SMALL.sum())
    assert warning.startswith(f"warning: /data/one_ED.nii.gz: {share:.0%} of what was marked, in the slices 4, 5, does")
    assert "largest_component False of inference.yaml" in warning
    assert summary.startswith("doubted: 3 of 5 slices (removed 2, edge 1)")


def test_nothing_doubted(tmp_path, capsys):
    evaluate(SaveDoubts(str(tmp_path)), inferred(EMPTY, LARGE, LARGE, EMPTY))
    assert capsys.readouterr().out.startswith("doubted: 0 of 4 slices: ")


def colours(path):
    """Whether each tile has an orange frame, and whether it shows red within."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)[18:174]
    orange = (abs(pixels - [255, 127, 0]) < 12).all(axis=-1)
    red = pixels[..., 0] - pixels[..., 1:].max(axis=-1) > 60
    lefts = range(0, pixels.shape[1], 156)
    frames = [orange[:, left : left + 12].any() for left in lefts]
    return frames, [red[12:-12, left + 12 : left + 144].any() for left in lefts]


def test_where_not_all_slices_fit_the_doubted_ones_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_iln.handlers.overlays.MOST_TILES", 7)
    path = tmp_path / "overlay.png"
    stacks = [inferred(EMPTY, LARGE, LARGE, EMPTY), inferred(LARGE, LARGE, EMPTY, SMALL, name="two_ED")]
    evaluate(SaveOverlay(str(path)), *stacks)
    framed, red = colours(path)
    assert framed[:2] == [True, True]
    assert red[:2] == [False, True]
    assert not any(framed[2:]), "no tile, but the end of the note above"


@pytest.mark.parametrize(
    ("slices", "framed", "red"),
    [
        ((EMPTY, LARGE, LARGE, EMPTY), [False] * 4, [False] * 4),
        ((LARGE, LARGE, EMPTY, EMPTY), [True, False, False, False], [False] * 4),
        ((EMPTY, LARGE, LARGE, EMPTY, SMALL), [False] * 4 + [True], [False] * 4 + [True]),
    ],
)
def test_doubted_slices_stand_out(tmp_path, slices, framed, red):
    path = tmp_path / "overlay.png"
    evaluate(SaveOverlay(str(path)), inferred(*slices))
    assert colours(path) == (framed, red)
