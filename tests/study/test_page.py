"""The page of a report as a document: contents, figures, captions, tables, colours, and what it says first."""

import itertools
import json
import re
from collections import Counter

import pandas as pd
import pytest
from make_study import make_study
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_study_report import write

from monai_iln.study.records import read_records
from monai_iln.study.report import answer, document, scores, style, winners, write_report
from monai_iln.study.report.chances import lost_runs, lost_subjects
from monai_iln.study.report.document import LEAST_SCALE, Document, Picture, Row, Section, Table, write_document
from monai_iln.study.report.results import Results
from monai_iln.study.report.winners import find_winner, winners_of
from monai_iln.study.report.wording import join, slug
from monai_iln.study.statistics import subject_scores
from monai_iln.study.verdicts import judge

pytestmark = pytest.mark.slow  # reports are painted

LONG = "InstanceLayerNorm (num_groups=alive, affine=False)"
METHODS = ("ILN", "IN", LONG, "GROUP (num_groups=8)", "None")


def answer_of(results):
    return answer.blocks(results, winners_of(results))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A study with long names and several data sets and structures: its records, its page and its figures."""
    folder, figures = tmp_path_factory.mktemp("page"), []

    def png(figure):
        figure.draw_without_rendering()
        figures.append(figure)
        return f"figure {len(figures)}".encode()

    datasets = {"LV": ["left ventricle"], "ACDC": ["left ventricle", "RV"]}
    records = make_study(folder, METHODS, datasets, folds=(0, 1), rates=(1.5, 1.0, 0.5, 0.1), seeds=(0,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "_png", png)
        page = write(folder, records)
    return Results.of(folder, records), page, figures


def found(page, tag):
    return [attrs for name, attrs, _ in page.elements if name == tag]


def test_contents_lead_to_every_section(drawn):
    _, page, _ = drawn
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert not [name for name, times in Counter(ids).items() if times > 1]
    sections = [f"#{attrs['id']}" for attrs in found(page, "section")]
    assert len(sections) > 8
    links = [attrs["href"] for tag, attrs, parents in page.elements if tag == "a" and "nav" in parents]
    assert links == 2 * sections  # beside the text, and above it on a phone
    named = {name for _, attrs, _ in page.elements for name in attrs.get("aria-labelledby", "").split()}
    assert named <= set(ids)


def test_headings_are_in_order_and_the_language_is_told(drawn):
    _, page, _ = drawn
    levels = [tag for tag, _, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels == ["h1"] + ["h2"] * len(found(page, "section"))
    assert found(page, "html") == [{"lang": "en"}]


def test_a_caption_is_never_in_what_scrolls(drawn):
    _, page, _ = drawn
    captions = [parents for tag, _, parents in page.elements if tag == "figcaption"]
    scrolled = [parents for tag, attrs, parents in page.elements if attrs.get("class") == "scroll"]
    assert len(captions) == len(scrolled) == len(found(page, "figure")) > 20
    assert all(parents[-1] == "figure" for parents in captions + scrolled)
    assert all("div" not in parents[parents.index("figure") :] for parents in captions)
    assert "caption" not in page.tags
    assert all(parents[-2:] == ("figure", "div") for tag, _, parents in page.elements if tag in ("img", "table"))


def test_no_figure_is_there_twice(drawn):
    _, page, figures = drawn
    sources = [image["src"] for image in page.images]
    assert len(sources) == len(set(sources)) == len(figures) > 15


def test_heads_of_tables_have_a_scope(drawn):
    _, page, _ = drawn
    tags = [(tag, attrs.get("scope")) for tag, attrs, _ in page.elements if tag in ("tbody", "tr", "th", "td")]
    assert {scope for tag, scope in tags if tag == "th"} == {"col", "row", "rowgroup"}
    pairs = list(itertools.pairwise(tags))
    assert all(before == ("tr", None) for before, here in pairs if here[1] in ("row", "rowgroup"))
    starts = [before for before, (_, scope) in zip(tags, pairs[1:], strict=False) if scope[1] == "rowgroup"]
    assert starts
    assert set(starts) == {("tbody", None)}


def test_texts_of_figures_are_legible_on_a_phone(drawn):
    """There a figure is drawn at the least scale, and no text is below 9 pixels."""
    _, _, figures = drawn
    sizes = {text.get_fontsize() for figure in figures for text in figure.findobj(Text) if text.get_text()}
    assert min(sizes) * 4 / 3 * LEAST_SCALE >= 9


def test_nothing_passes_the_edge_of_a_figure(drawn):
    _, _, figures = drawn
    for figure in figures:  # laid out already
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.02, figure.axes[0].get_title(loc="left")


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_contrast_by_day_and_by_night(drawn):
    _, page, _ = drawn
    modes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{ (--.*?) \}", page.styles)]
    assert len(modes) == 2
    for colors in modes:
        colors = {name: color if len(color) == 7 else "#" + 2 * color[1:] for name, color in colors.items()}
        for name, paper in itertools.product(("ink", "grey", "accent"), ("paper", "tint")):
            assert contrast(colors[name], colors[paper]) >= 4.5, (name, paper)
    assert all(contrast(color, "#ffffff") >= 3 for color in style.COLORS)
    assert all(contrast(color, "#ffffff") >= 4.5 for color in (style.INK, style.GREY, style.REFERENCE_COLOR))


def test_what_would_share_a_file_has_files_of_its_own(tmp_path):
    """Else the second figure is there twice and the first one is lost: names become the same without punctuation."""
    blocks = []
    for number, name in enumerate(("gates-GN_4", "gates-gn_4", "gates-GN_4")):
        figure = Figure(figsize=(1 + number, 1))
        blocks += [Picture(name, f"figure {number}", "alt", figure)]
        blocks += [Table(name, f"table {number}", ["a"], [Row(["1"])], pd.DataFrame({"a": [number]}))]
    write_document(Document("title", "", [Section("one", blocks[:4]), Section("two", blocks[4:])]), tmp_path)
    names = ["gates-GN_4", "gates-gn_4-2", "gates-GN_4-3"]
    tables = [pd.read_csv(tmp_path / "tables" / f"{name}.csv")["a"].tolist() for name in names]
    assert tables == [[0], [1], [2]]
    figures = [(tmp_path / "figures" / f"{name}.png").read_bytes() for name in names]
    assert len(set(figures)) == 3
    html, text = ((tmp_path / f"report.{ending}").read_text() for ending in ("html", "md"))
    assert len(set(re.findall(r"base64,([^\"]+)", html))) == 3
    assert re.findall(r"figures/(.*?)\.png", text) == names


def test_the_answer_says_which_by_how_much_how_sure_and_at_what_price(drawn):
    results, page, _ = drawn
    first = page.texts.index("The answer")
    assert page.texts[first - 2] == "Comparison of normalization methods on LV and ACDC"
    rows = page.table("The best method by mean Dice")
    assert [row[0] for row in rows] == ["", "Which norm", "By how much", "How sure", "At what price"]
    assert rows[0][1:] == ["LV, left ventricle", "ACDC, mean of 2 structures"]
    images = results.part(results.shown, "LV", "left ventricle")
    scores = subject_scores(images)
    means = scores.mean().sort_values(ascending=False)
    best, second = means.index[:2]
    assert rows[1][1].startswith(f"*{best} (mean Dice {means[best]:.3f})")
    every_pair = best != "ILN"
    rows_of = judge(images, best, margin=0.01, every_pair=every_pair)
    row = next(row for row in rows_of if row.other == second)
    unknown = [one.other for one in rows_of if one.answer == "unknown"]
    assert rows[1][1].endswith(f"; not told apart from {join(unknown)}")
    told = f"{second} ({row.difference:+.3f}; {row.low:.3f} to {row.high:.3f})"
    assert told in rows[2][1].replace("\N{MINUS SIGN}", "-")
    assert f"p = {row.p_holm:.3f} against {second}" in rows[3][1]
    assert "6 subjects, 2 folds and 1 seed. In one new training of each, it beats" in rows[3][1]
    assert rows[3][1].endswith("One seed: the luck of trainings is taken from that of folds.")
    runs = results.runs[(results.runs["dataset"] == "LV")]
    steps = runs.pivot_table(index=["fold", "learning_rate"], columns="method", values="seconds_per_step")
    other = second if best == "ILN" else "ILN"
    ratio = (steps[best] / steps[other]).median()
    assert rows[4][1].startswith(f"{ratio:.2f} times the time per step of {other}; ")
    assert rows[4][1].endswith("parameters; peak memory not measured.")


@pytest.mark.parametrize(("means", "told", "picked"), [
    ({"ILN": 0.9, "IN": 0.8, "None": 0.7}, ["IN"], False),
    ({"ILN": 0.8, "IN": 0.9}, ["ILN"], False),  # of two methods there is one pair
    ({"ILN": 0.7, "IN": 0.9, "None": 0.8}, ["None", "ILN"], True),
])  # fmt: skip
def test_the_answer_tells_of_the_second_best_and_of_the_reference(tmp_path, means, told, picked):
    records = make_study(tmp_path, tuple(means), rates=(0.1,), pictures=False)
    records.images["dice"] = records.images["score"] = records.images["method"].map(means)
    bytes_of = records.runs["method"].map({"ILN": 3, "IN": 2, "None": 1}) * 2**20
    runs = records.runs.assign(seconds_per_step=bytes_of / 2**20, peak_memory_bytes=bytes_of)
    records.runs = runs.assign(parameters=1000)
    results = Results.of(tmp_path, records)
    (table,) = answer_of(results)
    assert table.frame["other"].tolist() == told
    (sentences,) = winners.answers(results, winners_of(results))
    assert ("The scores themselves picked it" in sentences) == picked
    best = max(means, key=means.get)
    assert table.rows[0].cells[1].startswith(f"{best} (mean Dice 0.900)")
    assert all(f"{other} (+" in table.rows[1].cells[1] for other in told)
    costs = {"ILN": 3, "IN": 2, "None": 1}
    own, other = costs[best], costs[told[-1]]
    assert table.rows[3].cells[1] == (
        f"{own / other:.2f} times the time per step of {told[-1]}; 1,000 parameters; "
        f"{own} instead of {other} MiB of peak memory."
    )


def test_one_method_or_one_that_nobody_learned_has_no_answer(tmp_path):
    one = make_study(tmp_path / "one", ("ILN",), rates=(0.1,), pictures=False)
    results = Results.of(tmp_path / "one", one)
    assert answer_of(results) == winners.answers(results, winners_of(results)) == []
    records = make_study(tmp_path / "two", ("ILN", "IN"), rates=(0.1,), pictures=False)
    records.images[["dice", "score"]] = 0.01
    assert answer_of(Results.of(tmp_path / "two", records)) == []


@pytest.fixture
def seeds(tmp_path):
    """A study of two seeds with new splits and of one data set, and what makes runs of it diverge."""
    make_study(tmp_path, ("ILN", "IN", "None"), rates=(0.1,), seeds=(0, 1), pictures=False)
    for path in tmp_path.rglob("run.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"split": record["seed"]}))

    def diverge(method, fold, seed):
        (path,) = tmp_path.glob(f"runs/*/{method}/fold_{fold}/*/seed_{seed}/run.json")
        record = json.loads(path.read_text())
        nothing = {"scores": dict.fromkeys(record["scores"]), "images": {}}
        path.write_text(json.dumps(record | nothing | {"status": "diverged"}))
        path.with_name("images.csv").unlink()

    return tmp_path, diverge


@pytest.mark.usefixtures("unpainted")
def test_a_run_that_cost_a_seed_is_named(seeds):
    folder, diverge = seeds
    assert lost_runs(Results.of(folder, read_records(folder))) == []
    diverge("ILN", 2, 1)
    told = "ILN has no result on LV in fold 2 of seed 1, where it diverged: comparisons with it count 1 of 2 seeds."
    assert lost_runs(Results.of(folder, read_records(folder))) == [told]
    diverge("ILN", 0, 0)
    results = Results.of(folder, read_records(folder))
    assert lost_runs(results) == [
        "ILN has no result on LV in fold 0 of seed 0 and fold 2 of seed 1, where it diverged: comparisons with it "
        "count 0 of 2 seeds."
    ]
    page = write_report(folder, read_records(folder)).read_text(encoding="utf-8")
    assert "comparisons with it count 0 of 2 seeds." in page
    assert "(\N{EN DASH}" not in page


def test_a_run_of_another_method_costs_its_own_comparisons(seeds):
    folder, diverge = seeds
    diverge("IN", 1, 0)
    (told,) = lost_runs(Results.of(folder, read_records(folder)))
    assert told.startswith("IN has no result on LV in fold 1 of seed 0")
    assert told.endswith("comparisons with it count 1 of 2 seeds.")


@pytest.mark.usefixtures("unpainted")
def test_a_winner_is_found_once(seeds, monkeypatch):
    asked = []

    def find(images, *settings):
        asked.append(tuple(images["structure"].unique()))
        return find_winner(images, *settings)

    monkeypatch.setattr(winners, "find_winner", find)
    write_report(seeds[0], read_records(seeds[0]))
    assert asked == [("left ventricle",)]


def test_subjects_without_a_score_are_counted_and_their_methods_named(seeds):
    folder, _ = seeds
    assert lost_subjects(Results.of(folder, read_records(folder))) == []
    records = read_records(folder)
    records.images["score"] = records.images["score"].where(
        (records.images["method"] != "IN") | (records.images["subject"] != "LV-01")
    )
    records.images["dice"] = records.images["score"]
    (told,) = lost_subjects(Results.of(folder, records))
    assert told.startswith("1 of 9 subjects of LV, left ventricle have no Dice with IN: comparisons count 8. ")


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        ({"LV": [0, 1, 2]}, "Each seed has a split of its own"),
        ({"LV": [0, 1, 0]}, "seeds of LV share splits."),
        ({"LV": [0, 1, 2], "own folds": [0, 0, 0]}, "seeds of own folds share splits."),
    ],
)
def test_seeds_that_share_splits_are_told(tmp_path, splits, told):
    datasets = {name: [name] for name in splits}
    records = make_study(tmp_path, ("ILN", "IN"), datasets, rates=(0.1,), seeds=(0, 1, 2), pictures=False)
    for table in (records.runs, records.images):
        table["split"] = [splits[dataset][seed] for dataset, seed in zip(table["dataset"], table["seed"], strict=True)]
    texts = [block.text for block in scores.blocks(Results.of(tmp_path, records)) if isinstance(block, document.Text)]
    assert told in " ".join(texts)


def test_names_of_files_are_no_longer_than_file_systems_take():
    umlauts = slug("dice", "d", "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 300)
    assert umlauts.startswith("dice-d-\N{LATIN SMALL LETTER U WITH DIAERESIS}")
    assert 150 < len(umlauts.encode()) < 200
    assert slug("dice", "left ventricle") == "dice-left_ventricle"
