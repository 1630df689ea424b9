"""Changes of images whose effect on a prediction is known."""

import itertools

import ignite.metrics
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanAbsoluteError, MeanDice, from_engine
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose
from torch import nn

from monai_iln.errors import UserError
from monai_iln.handlers import SaveRobustness, robustness
from monai_iln.handlers.changed_inferer import ChangedInferer
from monai_iln.handlers.changes import BATCH, CHANGES, Prediction, windows_of
from monai_iln.handlers.robustness import disagreement
from monai_iln.run_files import CASE, ROBUSTNESS

GEOMETRIC = ("shift", "smaller", "larger")
PRED = from_engine(["pred", "label"])


def images(shape=(1, 1, 12, 16, 12), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predict(inferer, network, given, *names):
    """What is predicted under changes, and whether they were applied."""
    changed = ChangedInferer(inferer)
    changed(given, network)
    found = []
    for name in names:
        changed.change = name
        found.append(changed(given, network))
        assert changed.applied, name
    return found


class Seen(nn.Module):
    """A network that returns what it sees, and remembers its shapes."""

    def __init__(self, takes=lambda shape: True):
        super().__init__()
        self.takes, self.shapes = takes, []

    def forward(self, inputs):
        if not self.takes(inputs.shape[2:]):
            raise RuntimeError("sizes of tensors must match")
        self.shapes.append(tuple(inputs.shape[2:]))
        return inputs.clone()


# what a change is


def test_intensities():
    given = images((2, 3, 8, 9)) + 5
    gain, offset, field = predict(SimpleInferer(), Seen(), given, "gain", "offset", "bias field")
    assert torch.equal(gain, given * 1.2)
    deviations = np.std(given.numpy(), axis=(2, 3), ddof=1, keepdims=True)
    np.testing.assert_allclose(offset.numpy(), given.numpy() + 0.2 * deviations, rtol=1e-12)
    rows, columns = (1 + np.cos(np.linspace(0, np.pi, length)) * 0.1 for length in (8, 9))
    expected = given.numpy() * (rows[:, None] + columns[None, :] - 1)
    np.testing.assert_allclose(field.numpy(), expected, rtol=1e-12)
    ratio = (field / given)[0, 0]
    assert (float(ratio[0, 0]), float(ratio[-1, -1])) == pytest.approx((1.2, 0.8))


@pytest.mark.parametrize("shape", [(1, 1, 21), (2, 2, 15, 22), (1, 1, 12, 17, 9)])
@pytest.mark.parametrize("windows", [False, True])
def test_what_moved_is_moved_back(shape, windows):
    given, network = images(shape), Seen()
    inferer = SlidingWindowInferer([7] * (len(shape) - 2), 3, 0.5) if windows else SimpleInferer()
    predicted = predict(inferer, network, given, *GEOMETRIC)
    for one in predicted:
        torch.testing.assert_close(one, given, rtol=0, atol=1e-12)
    assert len(set(network.shapes)) == 3  # as it is and shifted, smaller, larger


def test_sizes_are_those_that_the_network_takes():
    network = Seen(lambda shape: all(length % 16 == 0 for length in shape))
    predict(SimpleInferer(), network, images((1, 1, 48, 64, 48)), "smaller", "larger")
    assert network.shapes == [(48, 64, 48), (32, 48, 32), (80, 96, 80)]
    network = Seen(lambda shape: all(length % 4 == 0 for length in shape))
    predict(SlidingWindowInferer((16, 16), 4), network, images((1, 1, 32, 40)), "smaller", "larger")
    assert sorted(set(network.shapes)) == [(12, 12), (16, 16), (24, 24)]


def test_a_size_that_the_network_does_not_take_is_not_applied():
    changed, given = ChangedInferer(SimpleInferer()), images((1, 1, 12, 12))
    network = Seen(lambda shape: tuple(shape) == (12, 12))
    unchanged = changed(given, network)
    for name in ("smaller", "larger"):
        changed.change = name
        assert changed(given, network) is unchanged
        assert not changed.applied


def test_more_image_is_filled_with_its_border():
    given, network = images((1, 2, 8, 8)), Seen()
    given[:, 0, [0, -1]] = given[:, 0, :, [0, -1]] = 3.0
    given[:, 1, [0, -1]] = given[:, 1, :, [0, -1]] = -1.0
    given[0, 0, 0, 0] = 100.0  # one bright voxel is not the border
    kept = []

    def keep(inputs):
        kept.append(inputs)
        return network(inputs)

    predict(SimpleInferer(), keep, given, "larger", "shift")
    _, larger, moved = kept
    outside = torch.ones(12, 12, dtype=torch.bool)
    outside[2:10, 2:10] = False
    assert torch.equal(larger[0, 0][outside].unique(), torch.tensor([3.0], dtype=torch.float64))
    assert torch.equal(larger[0, 1][outside].unique(), torch.tensor([-1.0], dtype=torch.float64))
    assert torch.equal(larger[..., 2:10, 2:10], given)
    assert torch.equal(moved[..., 2:, 2:], given[..., :6, :6])
    assert (moved[0, 0, :2] == 3).all()


def test_the_border_is_all_outermost_voxels():
    given = images((2, 1, 5, 6, 7))
    edges = [given.numpy().take(end, axis).reshape(2, -1) for axis in (2, 3, 4) for end in (0, -1)]
    values = np.sort(np.concatenate(edges, axis=1), axis=1)
    expected = values[:, (values.shape[1] - 1) // 2]  # of two in the middle the lower one
    filled = Prediction(given, given, SimpleInferer(), Seen(), None).fill((3, 3, 3))
    assert filled.shape == (2, 1, 3, 3, 3)
    assert (filled.numpy() == expected.reshape(2, 1, 1, 1, 1)).all()


def test_a_part_that_is_predicted_alone_leaves_the_rest_as_it_is():
    def network(inputs):
        return inputs - inputs.mean(dim=(2, 3), keepdim=True)

    given = images((1, 1, 16, 16))
    smaller, shifted = predict(SimpleInferer(), network, given, "smaller", "shift")
    expected = network(given)
    expected[..., 2:14, 2:14] = network(given[..., 2:14, 2:14])
    torch.testing.assert_close(smaller, expected, rtol=0, atol=1e-12)
    assert torch.equal(shifted[..., 12:, :], network(given)[..., 12:, :])
    assert not torch.equal(shifted[..., :12, :12], network(given)[..., :12, :12])


@pytest.mark.parametrize(("rows", "overlap", "start"), [(24, 0.5, 2), (12, 0.0, 4)], ids=["room", "just enough room"])
def test_windows_shift_by_half_a_step(rows, overlap, start):
    def network(inputs):
        return inputs - inputs.mean(dim=(2, 3), keepdim=True)

    inferer, given = SlidingWindowInferer((8, 8), 2, overlap), images((1, 1, rows, 8))
    (shifted,) = predict(inferer, network, given, "shift")
    expected = inferer(given, network)
    expected[:, :, start:] = inferer(given[:, :, start:], network)
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(shifted, inferer(given, network))


def test_borders_of_windows():
    windows = windows_of(SlidingWindowInferer((8, 16), 2, 0.5), (16, 16))
    assert (windows.roi, windows.step) == ((8, 16), (4, 16))
    rows = windows.near_borders()
    assert (rows == rows[:, :1]).all()
    assert rows[:, 0].nonzero().flatten().tolist() == [3, 4, 7, 8, 11, 12]
    assert windows_of(SlidingWindowInferer((4, 4), 2, 0.9), (9, 9)).step == (1, 1)
    assert windows_of(SlidingWindowInferer((16, 16)), (16, 12)) is None
    assert windows_of(SimpleInferer(), (64, 64)) is None


def test_what_is_known_of_an_image_stays_with_its_prediction():
    given = MetaTensor(images((1, 1, 8, 8)), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    for one in predict(SimpleInferer(), Seen(), given, *CHANGES):
        assert isinstance(one, MetaTensor)
        assert torch.equal(one.affine, given.affine)


# norms


def network_with(norm):
    """A convolution of single voxels, a norm, and two classes."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 1), norm, nn.ReLU(), nn.Conv3d(4, 2, 1)).double()
    network.train()(images(seed=1))  # running statistics
    return network.eval()


def moved(network, *names, batch=1):
    """How far predictions move under changes."""
    given = images((batch, 1, 12, 16, 12))
    unchanged = network(given)
    return [float((one - unchanged).detach().abs().max()) for one in predict(SimpleInferer(), network, given, *names)]


def test_instance_norm_after_the_first_convolution_ignores_gain_and_offset():
    assert max(moved(network_with(nn.InstanceNorm3d(4, eps=1e-12)), "gain", "offset")) < 1e-7
    assert min(moved(network_with(nn.BatchNorm3d(4)), "gain", "offset")) > 0.01


def test_batch_norm_ignores_what_else_is_in_the_window():
    assert max(moved(network_with(nn.BatchNorm3d(4)), *GEOMETRIC)) < 1e-12
    assert min(moved(network_with(nn.InstanceNorm3d(4)), *GEOMETRIC)) > 0.01


def test_only_statistics_of_the_batch_depend_on_the_batch():
    assert moved(network_with(nn.BatchNorm3d(4, track_running_stats=False)), BATCH, batch=2)[0] > 0.01
    for norm in (nn.BatchNorm3d(4), nn.InstanceNorm3d(4)):
        assert moved(network_with(norm), BATCH, batch=2)[0] < 1e-12


@pytest.mark.parametrize("tracks", [False, True])
def test_a_single_image_is_predicted_beside_the_one_before(tracks):
    network, changed = network_with(nn.BatchNorm3d(4, track_running_stats=tracks)), ChangedInferer(SimpleInferer())
    pair = images((2, 1, 12, 16, 12))
    for place in (0, 1):
        changed.change = None
        changed(pair[place : place + 1], network)
        changed.change = BATCH
        predicted = changed(pair[place : place + 1], network)
        assert changed.applied == (place == 1)
    torch.testing.assert_close(predicted, network(pair)[1:], rtol=0, atol=1e-12)


# the evaluator


def evaluator_of(items, network, metric, inferer=None, batch_size=1, post=None):
    loader = DataLoader(Dataset(items), batch_size=batch_size)
    return SupervisedEvaluator("cpu", loader, network, inferer=inferer, postprocessing=post, key_val_metric=metric)


def cases(count=3, shape=(16, 16)):
    """Images whose object is bright, and an object in the first quarter alone."""
    items = []
    for number in range(count):
        label = torch.zeros(1, *shape)
        label[:, 1:6, 1 + number : 7] = 1
        image = label + 0.25 * images((1, *shape), seed=number).float()
        items.append({"image": image, "label": label, CASE: number})
    return items


class Threshold(nn.Module):
    """Marks what is brighter than 0.55, or than the mean."""

    def __init__(self, of_window):
        super().__init__()
        self.of_window = of_window

    def forward(self, inputs):
        level = inputs.mean(dim=(2, 3), keepdim=True) + 0.2 if self.of_window else 0.55
        return torch.cat([level - inputs, inputs - level], dim=1)


def segmentation(folder, network, inferer=None, items=None, metric=None, **options):
    metric = {"dice": metric or MeanDice(include_background=False, output_transform=PRED)}
    post = Compose([AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=2)])
    items = items or cases()
    evaluator = evaluator_of(items, network, metric, inferer, post=post, **options)
    names = [f"s{number}" for number in range(len(items))]
    SaveRobustness(str(folder), names, [f"{name}.png" for name in names], metric).attach(evaluator)
    evaluator.run()
    return ROBUSTNESS.read(folder)


def dice_by_hand(image, label, level=0.55):
    marked = image > level
    return 2 * float((marked & (label > 0)).sum()) / float(marked.sum() + label.sum())


@pytest.mark.parametrize("batch_size", [1, 2])
def test_scores_are_those_of_changed_images(tmp_path, batch_size):
    table = segmentation(tmp_path, Threshold(False), batch_size=batch_size)
    for number, item in enumerate(cases()):
        rows = table[table["subject"] == f"s{number}"].set_index("change")
        image, label = item["image"], item["label"]
        by_hand = {"unchanged": image, "gain": image * 1.2, "offset": image + 0.2 * image.std()}
        for change, changed in by_hand.items():
            assert rows["score"][change] == pytest.approx(dice_by_hand(changed, label), abs=1e-6)
            both = torch.stack([image > 0.55, changed > 0.55])
            assert rows["disagreement"][change] == pytest.approx(disagreement(*both), abs=1e-6)
        assert (rows["score"][list(GEOMETRIC)] == rows["score"]["unchanged"]).all()
        assert rows["disagreement"]["gain"] > 0
        assert (rows["seconds"] > 0).all()
        assert (rows["image"] == f"s{number}.png").all()
    # An image alone has none before it in the first batch, nor in the first batch of one.
    assert table.loc[table["change"] == BATCH, "subject"].tolist() == [["s1", "s2"], ["s0", "s1"]][batch_size - 1]


def test_windows_without_the_object_and_seams(tmp_path):
    inferer = SlidingWindowInferer((8, 8), 2, 0.0)
    by_content = segmentation(tmp_path / "a", Threshold(True), inferer).set_index(["subject", "change"])
    by_value = segmentation(tmp_path / "b", Threshold(False), inferer).set_index(["subject", "change"])
    assert (by_content["empty_windows"] == 3).all()  # of the four
    assert (by_value["marked"].xs("unchanged", level=1) < 0.05).all()
    item = cases()[0]["image"][0]
    corners = [item[:8, 8:], item[8:, :8], item[8:, 8:]]
    share = np.mean([float((part - part.mean() > 0.2).float().mean()) for part in corners])
    assert by_content["marked"]["s0", "unchanged"] == pytest.approx(share, abs=1e-6)
    assert share > 0.05
    shifted = by_content.xs("shift", level=1)
    assert shifted[["near_borders", "elsewhere"]].notna().all(axis=None)
    assert (by_value.xs("shift", level=1)[["disagreement", "near_borders"]].fillna(0) == 0).all(axis=None)
    others = by_content.drop(index="shift", level=1)
    assert others[["near_borders", "elsewhere"]].isna().all(axis=None)


def test_seams_are_told_from_the_rest(tmp_path):
    class Edge(nn.Module):
        """Marks everything but the outermost voxels of a window."""

        def forward(self, inputs):
            marked = torch.zeros_like(inputs)
            marked[..., 1:-1, 1:-1] = 1
            return torch.cat([1 - marked, marked], dim=1)

    table = segmentation(tmp_path, Edge(), SlidingWindowInferer((8, 8), 2, 0.0), cases(shape=(24, 24)))
    rows = table[table["change"] == "shift"]
    assert (rows["near_borders"] > 5 * rows["elsewhere"]).all()
    assert (rows["elsewhere"] < rows["disagreement"]).all()


def test_a_number_for_each_image(tmp_path):
    class Mean(nn.Module):
        def forward(self, inputs):
            return inputs.mean(dim=(2, 3))

    items = [{"image": torch.full((1, 8, 8), 2.0 + n), "label": torch.tensor([2.0]), CASE: n} for n in range(3)]
    metric = {"mae": MeanAbsoluteError(output_transform=PRED)}
    evaluator = evaluator_of(items, Mean(), metric, batch_size=3)
    SaveRobustness(str(tmp_path), ["a", "b", "c"], ["a", "b", "c"], metric).attach(evaluator)
    evaluator.run()
    table = ROBUSTNESS.read(tmp_path)
    scores = table.pivot_table(index="subject", columns="change", values="score", observed=True)
    assert scores["unchanged"].tolist() == pytest.approx([0, 1, 2])
    assert scores["gain"].tolist() == pytest.approx([0.4, 1.6, 2.8])
    assert scores["larger"].tolist() == pytest.approx([0, 1, 2])
    assert table[["disagreement", "near_borders", "empty_windows", "marked"]].isna().all(axis=None)
    assert len(table) == 3 * (2 + len(CHANGES))


def test_a_metric_of_one_case_is_the_score_and_not_dice(tmp_path):
    def pairs(output):
        return tuple(torch.stack([one[key].as_subclass(torch.Tensor) for one in output]) for key in ("pred", "label"))

    metric = ignite.metrics.MeanAbsoluteError(output_transform=pairs)
    table = segmentation(tmp_path, Threshold(False), metric=metric)
    # In both classes; ignite divides by the number of cases, not of pixels.
    wrong = [2 * int(((item["image"] > 0.55) != (item["label"] > 0)).sum()) for item in cases()]
    assert max(wrong) > 1
    assert table.loc[table["change"] == "unchanged", "score"].tolist() == pytest.approx(wrong)


def test_the_time_of_a_batch_is_shared_by_its_cases(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(robustness.time, "perf_counter", lambda: float(next(clock)))
    table = segmentation(tmp_path, Threshold(False), batch_size=2)
    assert table.loc[table["change"] == "gain", "seconds"].tolist() == [0.5, 0.5, 1.0]


def test_a_case_that_is_not_scored_is_told(tmp_path):
    metric = {"mae": MeanAbsoluteError(output_transform=PRED)}
    evaluator = evaluator_of(cases(3), Seen(), metric)
    SaveRobustness(str(tmp_path), list("abcd"), list("abcd"), metric).attach(evaluator)
    with pytest.raises(UserError, match="3 scores of 4 cases in the part test"):
        evaluator.run()


def test_what_a_transform_does_to_a_batch_no_other_change_sees(tmp_path):
    class InPlace(nn.Module):
        def forward(self, inputs):
            return Threshold(False)(inputs.mul_(1.1))

    table = segmentation(tmp_path, InPlace()).set_index(["change", "subject"])["score"]
    for number, item in enumerate(cases()):
        assert table["gain", f"s{number}"] == pytest.approx(dice_by_hand(item["image"] * 1.32, item["label"]), abs=1e-6)


def test_an_output_that_is_no_tensor_has_no_changes(tmp_path):
    class Two(nn.Module):
        def forward(self, inputs):
            return [inputs, inputs]

    changed = ChangedInferer(SimpleInferer())
    changed(images((1, 1, 8, 8)), Two())
    for name in (*CHANGES, BATCH):
        changed.change = name
        changed(images((1, 1, 8, 8)), Two())
        assert not changed.applied


def test_a_background_that_is_scored_too_is_left_out(tmp_path):
    with_background = MeanDice(include_background=True, output_transform=PRED)
    scores = [
        segmentation(tmp_path / str(number), Threshold(False), metric=metric)["score"].tolist()
        for number, metric in enumerate((None, with_background))
    ]
    assert scores[0] == scores[1]


def test_an_evaluator_that_does_not_ask_its_inferer_is_refused(tmp_path):
    class Bypassed(SupervisedEvaluator):
        def _iteration(self, engine, batch):
            inferer, self.inferer = self.inferer, SimpleInferer()
            output = super()._iteration(engine, batch)
            self.inferer = inferer
            return output

    metric = {"mae": MeanAbsoluteError(output_transform=PRED)}
    evaluator = Bypassed("cpu", DataLoader(Dataset(cases(1))), Seen(), key_val_metric=metric)
    SaveRobustness(str(tmp_path), ["a"], ["a"], metric).attach(evaluator)
    with pytest.raises(UserError, match="it does not predict by its inferer"):
        evaluator.run()


def test_an_evaluator_without_an_inferer_is_refused(tmp_path):
    class Engine:
        pass

    with pytest.raises(UserError, match="its inferer is what predicts changed images"):
        SaveRobustness(str(tmp_path), ["a"], ["a"], None).attach(Engine())


def test_disagreement_skips_classes_that_nobody_marks():
    first = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    second = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert disagreement(first, second) == pytest.approx(((1 - 2 / 3) + 1) / 2)
    assert disagreement(first[1:2], second[1:2]) is None
