"""The report of studies of any task: their metric, the winner, what is unfair, and what is hidden."""

import copy
import itertools
import re
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from make_study import make_study
from test_study_report import Page

from monai_iln.study.records import read_records
from monai_iln.study.report import fairness, provenance, winners, write_report
from monai_iln.study.report.comparisons import comparison_sentence
from monai_iln.study.report.overlays import has_masks, pick_cases
from monai_iln.study.report.results import Results
from monai_iln.study.report.scores import _with_best
from monai_iln.study.statistics import metric_of, rank, subject_scores
from monai_iln.study.verdicts import Verdict, judge

pytestmark = pytest.mark.usefixtures("unpainted")

DICE = {"name": "val_mean_dice", "higher_is_better": True, "in_unit_interval": True}
ACCURACY = {"name": "val_acc", "higher_is_better": True, "in_unit_interval": True}
ERROR = {"name": "val_mae", "higher_is_better": False, "in_unit_interval": False}
METHODS = ("ILN", "IN", "GN16")
HEART = re.compile(r"heart|ventric|\bED\b|\bES\b|EDV|ejection|position|base|apex|cavity|paper", re.IGNORECASE)


def survey(kind, parameters=1000, affine=True, **others):
    counts = {"norms": 9, "kinds": {kind: 9}, "dead_gates": 0, "gates": 0, "parameters": parameters, "affine": affine}
    return counts | {"left": [], "regrouped": [], "flops": 2_340_000_000, "fingerprint": kind} | others


SURVEYS = {
    "ILN": survey("InstanceLayerNorm", 1018, gates=9, dead_gates=9, left=[["out.norm", "it has one channel"]]),
    "IN": survey("InstanceNorm3d", affine=False, left=[["out.norm", "it has one channel"]]),
    "GN16": survey("GroupNorm", regrouped=[["a.norm", 16, 8], ["b.norm", 16, 8]]),
}


def report(folder, **arguments):
    """The page of a made study, as its files have it."""
    make_study(folder, **{"methods": METHODS, "rates": (0.1,), "pictures": False} | arguments)
    path = write_report(folder, read_records(folder))
    return Page(path.read_text(encoding="utf-8"))


def results_of(folder, **arguments):
    make_study(folder, **{"methods": METHODS, "rates": (0.1,), "pictures": False} | arguments)
    return Results.of(folder, read_records(folder))


@pytest.mark.slow
@pytest.mark.usefixtures("laid_out")
def test_a_three_dimensional_study_of_another_organ(tmp_path):
    page = report(tmp_path, datasets={"liver": ["liver", "tumour"]}, metric=DICE, subjects=4, pictures=True)
    titles = [text for text in page.texts if text in ("Surface distances", "Pictures and gates", "Training")]
    assert titles == ["Surface distances", "Pictures and gates", "Training"]
    everything = page.text + str(page.tables) + str([image["alt"] for image in page.images])
    told = everything.replace("CrossValidationWorkflow", "").replace("InstanceNorm", "")
    assert not HEART.search(told), HEART.search(told)
    assert "Figure" not in everything
    assert sum(image["alt"].startswith("Segmented images") for image in page.images) == 2
    assert page.table("All methods (liver)")[0] == ["Method", *(f"fold {fold} (8)" for fold in (0, 1, 2)), "all"]
    overview = page.table("Mean Dice over the folds, of every structure.")
    assert overview[0] == ["Method", "liver", "tumour", "mean"]
    for _, *cells in overview[1:]:
        liver, tumour, mean = (float(cell.strip("*")) for cell in cells)
        assert mean == pytest.approx((liver + tumour) / 2, abs=0.0011)
    first = page.texts[page.texts.index("In short") + 1]
    assert first.startswith("Best on liver over its 2 structures is ILN, by mean Dice (")


@pytest.mark.slow
@pytest.mark.usefixtures("laid_out")
@pytest.mark.parametrize(("metric", "name"), [(ACCURACY, "acc"), (ERROR, "mae")])
def test_a_study_without_masks(tmp_path, metric, name):
    page = report(tmp_path, datasets={"hands": [""]}, metric=metric, masks=False, rates=(0.1, 1.0))
    everything = page.text + str(page.tables) + str([image["alt"] for image in page.images])
    assert not re.search(r"dice|distance|volume|segment|overlap|truth", everything, re.IGNORECASE)
    told = everything.replace("CrossValidationWorkflow", "")
    assert not HEART.search(told), HEART.search(told)
    assert not re.search(r"\bnan\b|hands, [.:(]", everything)
    assert f"Scores of every method and fold ({name})" in page.texts
    assert f"The score is val_{name}, of which the" in page.text
    assert f"mean {name} on test cases by learning rate" in str(page.tables)


@pytest.mark.slow
@pytest.mark.usefixtures("laid_out")
def test_of_errors_the_lowest_is_the_best(tmp_path):
    page = report(tmp_path, datasets={"ages": [""]}, metric=ERROR, masks=False, rates=(0.1, 1.0), subjects=4)
    results = Results.of(tmp_path, read_records(tmp_path))
    scores = results.scores("ages", "")
    best = scores.mean().idxmin()
    assert page.texts[page.texts.index("In short") + 1].startswith(f"Best on ages is {best}, by mean mae (")
    rows = page.table("All methods")[2:]
    for column in range(1, 5):
        cells = {row[0]: row[column] for row in rows}
        lowest = min(cells, key=lambda method: float(cells[method].strip("*").split("±")[0]))
        assert [method for method, cell in cells.items() if cell.startswith("*")] == [lowest]
    rates = page.table("ages: mean mae on test cases by learning rate")
    for row in rates[1:]:
        assert [cell.startswith("*") for cell in row[1:]] == [
            float(cell.strip("*")) == min(float(other.strip("*")) for other in row[1:]) for cell in row[1:]
        ]
    means = results.runs.groupby(["method", "fold", "learning_rate"])["validation_score"].mean()
    for (method, fold), group in means.groupby(["method", "fold"]):
        chosen = results.chosen["nested"].set_index(["method", "fold"])["learning_rate"]
        assert chosen[method, fold] == group.idxmin()[-1]


def test_worst_and_best_picture_follow_the_metric():
    same = {"method": "ILN", "seed": 0, "truth_pixels": 5.0, "subject": "a", "phase": ""}
    images = pd.DataFrame({"score": [3.0, 1.0, 2.0], "slice": [1.0, 2.0, 3.0], "image": "i", **same})
    picked = {rank: rows["score"].item() for rank, rows in pick_cases(images, metric_of({"metric": ERROR})).items()}
    assert picked == {"worst": 3.0, "median": 2.0, "best": 1.0}


def test_the_path_of_an_image_is_no_mask():
    rows = [("i", "t", "p", 3.0), ("i", "i", "p", 3.0), ("i", "", "p", 3.0), ("i", "t", "p", np.nan)]
    rows.append(("i", "", "p.png", 3.0))  # a picture of truth and prediction
    images = pd.DataFrame(rows, columns=["image", "truth", "prediction", "truth_pixels"])
    assert has_masks(images).tolist() == [True, False, False, False, True]


# the winner


def images_of(*columns, names=("ILN", "IN", "None")):
    """Images of eight subjects in four folds, whose scores with two seeds differ a little."""
    rows = []
    for name, scores in zip(names, np.array(columns, float), strict=True):
        for number, seed in itertools.product(range(8), (0, 1)):
            luck = 0.001 * ((number * 7 + seed * 5 + len(name)) % 3 - 1)
            rows.append((name, number % 4, seed, f"s{number}", scores[number] + luck))
    images = pd.DataFrame(rows, columns=["method", "fold", "seed", "subject", "dice"])
    return images.assign(dataset="d", structure="LV", part="test", learning_rate=0.1)


STEPS = np.arange(8) / 100


def as_tuples(verdicts):
    """What verdicts say. NaN is itself in a tuple, but in dataclasses it is not from Python 3.13 on."""
    return [astuple(verdict) for verdict in verdicts]


def test_the_best_by_mean_and_by_rank_may_be_two():
    images = images_of(0.5 + STEPS, 0.49 + STEPS, 0.3 + STEPS)
    images.loc[(images["method"] == "IN") & (images["subject"] == "s0"), "dice"] = 0.95  # one subject lifts the mean
    winner = winners.find_winner(images, "ILN", margin=0.01)
    scores = subject_scores(images)
    assert (winner.by_mean, winner.by_rank, winner.subjects) == ("IN", "ILN", 8)
    assert winner.ranks == rank(scores).average_ranks
    assert winner.means["IN"] == pytest.approx(scores["IN"].mean())
    assert as_tuples(winner.verdicts) == as_tuples(judge(images, "IN", margin=0.01, every_pair=True))


def test_of_equal_mean_ranks_that_of_the_best_mean_is_named():
    images = images_of(0.5 + STEPS, 0.5 + STEPS, 0.3 + STEPS)
    images.loc[(images["method"] == "IN") & (images["seed"] == 0), "dice"] += 0.01 * (images["fold"] - 1.4)
    winner = winners.find_winner(images, "ILN")
    assert winner.ranks["ILN"] == winner.ranks["IN"]
    assert (winner.by_mean, winner.by_rank) == ("IN", "IN")


def test_a_new_training_is_told_beside_the_closest_method():
    def verdict(other, difference, chance):
        return Verdict("", "", "mae", "A", other, 6, 3, 2, 1, 1, difference, chance_of_better=chance)

    rows = [verdict("far", -0.3, 0.6), verdict("near", -0.1, 0.7), verdict("unknown", -0.05, np.nan)]
    winner = winners.Winner("A", "A", {}, {}, 6, rows)
    mae = metric_of({"metric": {"name": "mae", "higher_is_better": False}})
    (told,) = winners._next_training(winner, mae)
    assert "ahead of near with a probability of 0.70" in told


def test_the_reference_needs_no_correction_for_having_been_picked():
    images = images_of(0.6 + STEPS, 0.5 + STEPS**2, 0.3 + STEPS)
    assert as_tuples(winners.find_winner(images, "ILN").verdicts) == as_tuples(judge(images, "ILN"))
    assert as_tuples(winners.find_winner(images, "IN").verdicts) == as_tuples(judge(images, "ILN", every_pair=True))


def test_of_equal_methods_the_reference_is_named():
    images = images_of(0.6 + STEPS, 0.6 + STEPS, 0.3 + STEPS)
    images["dice"] = images["dice"].round(2)
    assert [winners.find_winner(images, name).by_mean for name in ("ILN", "IN", "None")] == ["ILN", "IN", "ILN"]


def test_the_winner_is_of_the_subjects_that_all_methods_have():
    images = images_of(0.6 + STEPS, 0.5 + STEPS, 0.3 + STEPS)
    images.loc[images["subject"].isin(["s6", "s7"]) & (images["method"] == "ILN"), "dice"] = np.nan
    images.loc[(images["subject"] == "s7") & (images["method"] == "IN"), "dice"] = 5.0
    winner = winners.find_winner(images, "None")
    assert (winner.by_mean, winner.subjects) == ("ILN", 6)
    assert winners.find_winner(images.assign(dice=images["dice"].where(images["method"] != "None")), "ILN") is None
    assert winners.find_winner(images[images["method"] == "ILN"], "ILN") is None


@pytest.mark.slow
def test_the_report_tells_of_winner_and_reference(tmp_path):
    page = report(tmp_path, methods=("None", "ILN", "IN"), subjects=4)
    headline = page.texts[page.texts.index("In short") + 1]
    assert headline.startswith("Best on LV, left ventricle is ILN, by mean Dice (")
    assert "The scores themselves picked it, so its tests are corrected over every pair of methods." in headline
    assert "None, the reference, reaches " in headline
    assert headline.index("Best on") < headline.index("None, the reference")


@pytest.mark.usefixtures("laid_out")
def test_nobody_learned_a_class(tmp_path):
    made = make_study(
        tmp_path, METHODS, {"liver": ["liver", "tumour"]}, rates=(0.1,), pictures=False, metric=DICE, subjects=4
    )
    hopeless = made.images["structure"] == "tumour"
    made.images.loc[hopeless, "score"] *= 0.04
    page = Page(write_report(tmp_path, made).read_text(encoding="utf-8"))
    lead = page.texts[page.texts.index("In short") + 1 :][:2]
    assert lead[0].startswith("Best on liver, liver is ILN")
    assert lead[1] == "No method learned liver, tumour: every mean Dice is below 0.05."
    rows = page.table("All methods (tumour): no method learned it")
    assert not any("*" in cell for row in rows for cell in row)
    assert any("*" in cell for row in page.table("All methods (liver)") for cell in row)
    overview = page.table("Mean Dice over the folds, of every structure.")
    assert overview[0] == ["Method", "liver", "tumour (no method learned it)"]
    assert not any(row[2].startswith("*") for row in overview)
    comparisons = page.table("ILN against every other")
    assert ["liver, tumour: no method learned it"] in comparisons
    below = comparisons[comparisons.index(["liver, tumour: no method learned it"]) :]
    assert not any("*" in cell for row in below for cell in row)
    assert "liver, tumour: no method learned it, so they are not ranked." in page.text


# fair, or said


def test_dead_gates_are_said_with_the_way_out(tmp_path):
    some = SURVEYS | {"GN16": survey("Mixed", gates=17, dead_gates=5)}
    lines = fairness.lines(results_of(tmp_path, surveys=some, metric=DICE))
    assert lines[0].startswith("9 of 9 gates of ILN are dead: it is instance norm here, ")
    assert lines[1].startswith("5 of 17 gates of GN16 are dead: those layers are instance norm, ")
    assert all(line.endswith("With num_groups: alive they live.") for line in lines[:2])
    assert len(lines) == 3


def test_group_norms_that_are_instance_norm_are_said(tmp_path):
    some = copy.deepcopy(SURVEYS) | {"GN16": survey("GroupNorm", one_channel_groups=4)}
    results = results_of(tmp_path, surveys=some, metric=DICE)
    assert fairness.lines(results)[1] == (
        "4 of 9 norms of GN16 are group norms with one channel a group, which is instance norm. Fewer groups make them "
        "group norms."
    )
    assert list(winners._instance_norms(results)) == ["ILN"]
    some["GN16"]["one_channel_groups"] = 9
    told = winners._instance_norms(results_of(tmp_path / "all", surveys=some, metric=DICE))
    assert told == {"ILN": "all gates of ILN are dead", "GN16": "each group of GN16 has one channel"}
    some["ILN"]["dead_gates"] = 8  # the ninth is alive
    assert list(winners._instance_norms(results_of(tmp_path / "alive", surveys=some, metric=DICE))) == ["GN16"]
    some["IN"]["kinds"] |= {"BatchNorm2d": 1}
    assert winners._instance_norms(results_of(tmp_path / "mixed", surveys=some, metric=DICE)) == {}
    some["IN"] = survey("BatchNorm2d")
    assert winners._instance_norms(results_of(tmp_path / "none", surveys=some, metric=DICE)) == {}


def test_what_differs_besides_the_norm_is_said(tmp_path):
    diverged = [("IN", 1, 0.1)]
    results = results_of(tmp_path, surveys=SURVEYS, metric=DICE, diverged=diverged)
    assert fairness.lines(results)[-1] == (
        "Besides the norm, the methods differ in affine (ILN and GN16 with, IN without); parameters (ILN 1,018, IN and "
        "GN16 1,000); runs that failed or diverged (IN 1 of 3)."
    )
    fewer = results.runs[(results.runs["method"] != "GN16") | (results.runs["learning_rate"] == 0.1)]
    more = pd.concat([fewer, fewer[fewer["method"] == "ILN"].assign(learning_rate=1.0)])
    changed = Results(results.folder, results.study, more, results.images)
    assert "learning rates tried (ILN 2, IN and GN16 1)" in fairness.lines(changed)[-1]


def test_where_nothing_differs_that_is_said_too(tmp_path):
    alike = {method: survey(method) for method in METHODS}
    results = results_of(tmp_path, surveys=alike, metric=DICE)
    assert fairness.lines(results) == [
        "Besides the norm, nothing differs: affine, parameters and learning rates are alike, and no run broke."
    ]
    without = Results(results.folder, {**results.study, "surveys": None}, results.runs, results.images)
    assert fairness.blocks(without) == []
    assert fairness.lines(without) == ["Besides the norm, the methods differ in parameters (ILN 2,161,880, IN and GN16 "
                                       "2,161,858)."]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("laid_out")
def test_the_table_of_methods(tmp_path):
    page = report(tmp_path, surveys=SURVEYS, metric=DICE)
    rows = page.table("What each method makes of the network")
    dash = "\N{EN DASH}"
    assert rows[1:] == [
        ["ILN", "9 InstanceLayerNorm", "with", "9 of 9", "0", "1", "1,018", "2,340"],
        ["IN", "9 InstanceNorm3d", "without", dash, "0", "1", "1,000", "2,340"],
        ["GN16", "9 GroupNorm", "with", dash, "2", "0", "1,000", "2,340"],
    ]
    assert "ILN and IN: left alone: out.norm (it has one channel)." in page.texts
    assert "GN16: groups that divide the channels: 8 instead of 16 in a.norm and b.norm." in page.texts


def test_a_survey_may_lack_what_it_could_not_find(tmp_path):
    page = report(tmp_path, surveys={"ILN": {}, "IN": survey("X", affine=None, flops=None)}, metric=DICE)
    rows = page.table("What each method makes of the network")
    dash = "\N{EN DASH}"
    assert rows[1] == ["ILN", "none", dash, dash, "0", "0", dash, dash]
    assert rows[2] == ["IN", "9 X", dash, dash, "0", "0", "1,000", dash]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False, None])
def test_subjects_that_chose_epoch_and_rate(tmp_path, shared):
    plan = {} if shared is None else {"epochs_and_rates_share_validation": shared}
    page = report(tmp_path, metric=DICE, **plan)
    assert ("The same held-out subjects chose the epoch and the learning rate of a run" in page.text) == bool(shared)


def test_what_one_seed_and_one_fold_can_show_is_said(tmp_path):
    page = report(tmp_path / "one", metric=DICE)
    assert "With one seed, folds stand for folds and trainings together" in page.text
    assert "finds a difference of" in page.text
    page = report(tmp_path / "fold", metric=DICE, folds=(0,))
    assert "there is one fold, and its luck cannot be told" in page.text


# words


@pytest.mark.parametrize("structures", [["liver"], ["liver", "tumour"]])
def test_that_little_was_learned_is_said_once(structures, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_iln.study.metric._LOW", 1.1)
    report(tmp_path, datasets={"CT": structures}, metric=DICE, margin=0.5)
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert html.count("practically equal to") > 1
    assert html.count("learned little") == 1


def test_the_command_is_told_with_the_folder_that_its_paths_are_relative_to(tmp_path):
    told = [
        block.text for block in provenance.blocks(results_of(tmp_path, command="monai-iln study --datalist a"))[-2:]
    ]
    assert "this command does what is missing" in told[0]
    placed = results_of(tmp_path / "placed", command="monai-iln study --datalist a", working_dir="..")
    told = [block.text for block in provenance.blocks(placed)[-2:]]
    assert "this command, given in .. (as seen from the folder of the study), does what is missing" in told[0]
    assert told[1] == "monai-iln study --datalist a"


def test_sentences_name_the_metric():
    metric = metric_of({"metric": ERROR})
    images = images_of(np.arange(1.0, 9), np.arange(3.0, 11), names=("ILN", "IN")).rename(columns={"dice": "score"})
    (row,) = judge(images, "ILN", metric)
    assert row.answer == "better"
    assert row.chance_of_better > 0.99  # of the lower error
    sentence = comparison_sentence(row, metric)
    assert sentence.startswith("mae of ILN 4.500, of IN 6.500: difference -2.000 (95 % interval")
    assert sentence.endswith("ILN is better (p < 0.001 after Holm's correction).")


def test_bold_is_the_lowest_of_errors():
    class Fake:
        metric = metric_of({"metric": ERROR})
        unlearned = frozenset()

    lines = [[{"mean": 2.0}, {}], [{"mean": 1.0}, {"mean": 5.0}]]
    rows = _with_best(Fake, ["a", "b"], lines, [("d", "", 0), ("d", "", 1)])
    assert [row.bold for row in rows] == [frozenset(), frozenset({1, 2})]
