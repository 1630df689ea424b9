"""Every number that a reader sees is compared with one computed here, from the files of a fake study."""

import base64
import csv
import json
import pickle
import re
import statistics
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from make_study import make_study
from matplotlib.text import Text

from monai_iln.study.records import read_records
from monai_iln.study.report import document, write_report
from monai_iln.study.report.comparisons import comparison_sentence
from monai_iln.study.report.published import COLUMNS, DICE, TABLES, published_dice
from monai_iln.study.report.wording import join
from monai_iln.study.statistics import select_images, subject_scores
from monai_iln.study.verdicts import judge

pytestmark = pytest.mark.slow  # reports are painted

PAPER_TEXT = """
Clip 0.702±0.295 0.707±0.299 0.666±0.319 0.900±0.099 0.864±0.184 0.804±0.246
Sigmoid 0.692±0.304 0.724±0.284 0.675±0.301 0.903±0.118 0.888±0.135 0.828±0.189
Softmax 0.688±0.290 0.720±0.279 0.664±0.323 0.895±0.151 0.866±0.153 0.827±0.228
None 0.688±0.296 0.678±0.318 0.661±0.323 0.899±0.134 0.872±0.167 0.784±0.280
IN 0.709±0.266 0.715±0.278 0.655±0.327 0.905±0.114 0.876±0.131 0.836±0.207
LN 0.702±0.287 0.718±0.270 0.662±0.309 0.898±0.120 0.858±0.187 0.793±0.262
GN4 0.679±0.303 0.701±0.291 0.671±0.309 0.908±0.113 0.841±0.196 0.800±0.255
ILN 0.714±0.290 0.737±0.267 0.680±0.305 0.919±0.098 0.893±0.127 0.827±0.211
"""
METHODS = ("ILN", "Clip", "Sigmoid", "IN", "None")
NESTED, PAPER, PUBLISHED = "Nested:", "Paper's rule:", "Published"


class Page(HTMLParser):
    """Tables by caption as lists of rows, texts, pictures, and everything that could be loaded from outside.

    Every opened element must be closed, in order, as a browser need not guess then.
    """

    TEXTS = frozenset({"p", "li", "pre", "figcaption", "h1", "h2"})

    def __init__(self, text):
        super().__init__()
        self.tables, self.images, self.tags, self.links, self.elements = {}, [], set(), [], []
        self.texts, self.styles, self.script, self._open, self._rows = [], "", "", [], None
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.elements.append((tag, attrs, tuple(self._open)))
        self.links += [attrs[key] for key in ("href", "src", "srcset", "action", "data", "poster") if key in attrs]
        if tag == "img":
            self.images.append(attrs)
        elif tag not in ("meta", "link", "wbr", "br"):
            self._open.append(tag)
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "b" and "table" in self._open:
            self._rows[-1][-1] += "*"
        elif tag in self.TEXTS and "nav" not in self._open:
            self.texts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self.texts[-1]] = self._rows

    def handle_data(self, data):
        if "style" in self._open:
            self.styles += data
        elif "script" in self._open:
            self.script += data
        elif "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data
        elif self.TEXTS & set(self._open) and "nav" not in self._open:
            self.texts[-1] += data

    def table(self, start):
        found = [rows for caption, rows in self.tables.items() if caption.startswith(start)]
        assert len(found) == 1, (start, list(self.tables))
        return found[0]

    @property
    def text(self):
        return "\n".join(self.texts)


def blocks(rows):
    """The rows below each heading row, by the heading's first words, as method -> cells."""
    found = {}
    for row in rows[1:]:
        if len(row) == 1:
            current = found.setdefault(row[0].split(": ")[0].split(" in ")[0], {})
        else:
            current[row[0]] = row[1:]
    return found


def write(folder, records):
    path = write_report(folder, records)
    assert path == folder / "report" / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def study(shared):
    def paint(folder):
        diverged = [("None", 0, 1.0), ("IN", 2, 0.1)]
        records = make_study(folder / "study", METHODS, rates=(0.1, 0.5, 1.0), subjects=4, diverged=diverged)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(document, "_DPI", 50)
            page = write(folder / "study", records)
        (folder / "made.pickle").write_bytes(pickle.dumps((records, page)))

    folder = shared("study_report", paint)
    return folder / "study", *pickle.loads((folder / "made.pickle").read_bytes())


def choose(records, part):
    """The rate of each method and fold with the highest mean Dice over the images of a part, in plain Python."""
    scores = {}
    for row in records.images.to_dict("records"):
        if row["part"] == part:
            scores.setdefault((row["method"], row["fold"]), {}).setdefault(row["learning_rate"], []).append(row["dice"])
    return {key: max(rates, key=lambda rate: statistics.mean(rates[rate])) for key, rates in scores.items()}


def chosen_images(records, part="validation"):
    chosen = choose(records, part)
    rows = [row for row in records.images.to_dict("records") if row["part"] == "test"]
    return [row for row in rows if chosen[row["method"], row["fold"]] == row["learning_rate"]]


def values(rows, key, **where):
    found = [row[key] for row in rows if all(row[name] == value for name, value in where.items())]
    return [value for value in found if not (isinstance(value, float) and np.isnan(value))]


def test_published_numbers_are_those_of_the_paper():
    lines = [line.split() for line in PAPER_TEXT.strip().splitlines()]
    assert {line[0] for line in lines} == set(DICE)
    for method, *cells in lines:
        for column, cell in zip(COLUMNS, cells, strict=True):
            assert "±".join(f"{value:.3f}" for value in published_dice(method, column)) == cell
    assert [[method for _, method in table.rows] for table in TABLES] == [
        ["Clip", "Sigmoid", "Softmax"],
        ["Sigmoid", "ILN"],
        ["None", "IN", "LN", "GN4", "ILN"],
    ]


@pytest.mark.parametrize(
    ("number", "labels"),
    [
        (1, {"Clip": "Clip", "Sigmoid": "Sigmoid"}),
        (2, {"No (Sigmoid)": "Sigmoid", "Yes (ILN)": "ILN"}),
        (3, {"None": "None", "IN": "IN", "ILN": "ILN"}),
    ],
)
def test_tables_of_the_paper(study, number, labels):
    _, records, page = study
    rows = page.table(f"Table {number}.")
    assert rows[0] == ["Method", "fold 0 (24)", "fold 1 (24)", "fold 2 (24)", "all"]  # 4 subjects, 2 phases, 3 slices
    found = blocks(rows)
    for part, block in (("validation", found["Nested"]), ("test", found["Paper's rule"])):
        images = chosen_images(records, part)
        assert list(block) == list(labels)
        means = {}
        for label, method in labels.items():
            *cells, over_folds = block[label]
            folds = []
            for fold, cell in enumerate(cells):
                dice = values(images, "dice", method=method, fold=fold)
                assert cell.strip("*") == f"{statistics.mean(dice):.3f}±{statistics.stdev(dice):.3f}"
                folds.append(statistics.mean(dice))
                means[label, fold] = round(folds[-1], 3)
            means[label, 3] = round(statistics.mean(folds), 3)
            assert over_folds.strip("*") == f"{statistics.mean(folds):.3f}"
        for label, fold in means:
            best = max(means[other, fold] for other in labels)
            assert block[label][fold].startswith("*") == (means[label, fold] == best)
    for label, method in labels.items():
        paper = re.search(rf"^{method} (.*)$", PAPER_TEXT, re.M)[1].split()[3:]
        *cells, over_folds = (cell.strip("*") for cell in found["Published"][label])
        assert cells == paper
        assert over_folds == f"{statistics.mean(float(cell[:5]) for cell in paper):.3f}"


def test_the_two_rules_differ_in_the_fake_study(study):
    """Otherwise the test above would not notice if one stood for the other."""
    _, records, _ = study
    assert choose(records, "validation") != choose(records, "test")


def test_chosen_rates(study):
    _, records, page = study
    found = blocks(page.table("Chosen learning rates"))
    for name, part in (("Nested", "validation"), ("Paper's rule", "test")):
        rates = choose(records, part)
        assert found[name] == {m: [f"{rates[m, fold]:g}" for fold in (0, 1, 2)] for m in METHODS}


def test_headline_and_sentences_are_those_of_the_comparisons(study):
    _, records, page = study
    images = pd.DataFrame(chosen_images(records))
    found = judge(images, "ILN", margin=0.01, dataset="LV", structure="left ventricle")
    headline, compared = page.texts[page.texts.index("In short") + 1 :][:2]
    assert len(found) == 4
    verdicts = {"better than": [], "difference to": []}
    for row in found:
        beyond = row.answer == "unknown" and row.low * row.high > 0  # what the table does not tell
        assert (comparison_sentence(row).replace(" -", " \N{MINUS SIGN}") in page.texts) == beyond
        verdicts["better than" if row.answer == "better" else "difference to"].append(row)
        assert row.p_holm >= 0.05 or row.difference > 0  # true of this fake study
    assert all(verdicts.values())
    for phrase, rows in verdicts.items():
        told = [f"{row.other} ({row.difference:+.3f}; {row.low:.3f} to {row.high:.3f})" for row in rows]
        assert f"{phrase} {join(told)}" in headline.replace("\N{MINUS SIGN}", "-")
    ranks = subject_scores(images).rank(axis=1, ascending=False).mean()
    assert ranks.idxmin() == "ILN"
    assert headline.startswith(
        f"Best on LV, left ventricle is ILN, by mean Dice ({found[0].mean_reference:.3f}) and by mean rank "
        f"({ranks['ILN']:.2f} of 5), over 12 subjects."
    )
    assert "5 methods (ILN, Clip, Sigmoid, IN, None) on LV (12 subjects), tested on 3 folds" in compared
    assert "Of its 45 runs 43 finished and 2 diverged." in compared
    assert "runs that failed or diverged (IN 1 of 9 and None 1 of 9)." in page.text
    table = {row[0]: row for row in page.table("ILN against every other")[2:]}
    for row in found:
        p = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
        cells = table[row.other]
        assert (cells[1], cells[2], cells[3]) == ("12", f"{row.mean_reference:.3f}", f"{row.mean_other:.3f}")
        assert cells[4].replace("\N{MINUS SIGN}", "-") == f"{row.difference:+.3f}"
        assert cells[5].replace("\N{MINUS SIGN}", "-") == f"{row.low:.3f} to {row.high:.3f}"
        assert cells[7] == p
        words = {"better": "*better", "worse": "*worse", "equal": "practically equal", "unknown": "not known"}
        assert cells[8] == words[row.answer]
        assert cells[9] == f"{row.chance_of_better:.2f}"


def test_caveats(study):
    _, records, page = study
    caveats = " ".join(page.texts[page.texts.index("Before you rely on it:") + 1 :])
    gains = []
    by_test, by_validation = chosen_images(records, "test"), chosen_images(records)
    for method in METHODS:
        for fold in (0, 1, 2):
            key = {"method": method, "fold": fold}
            mean, honest = (statistics.mean(values(rows, "dice", **key)) for rows in (by_test, by_validation))
            gains.append(mean - honest)
    assert f"would raise the mean Dice of a fold by {statistics.mean(gains):.3f} on average" in caveats
    assert "With one seed" in caveats
    assert "learning rates 1, 0.5, 0.1 instead of 1.5, 1, 0.5, 0.1, 0.05" in caveats


def test_positions_and_distances(study):
    _, records, page = study
    images = chosen_images(records)
    rows = page.table("Dice by position")
    assert rows[0] == ["Method", "base", "mid", "apex"]
    for method, *cells in rows[2:]:
        for position, cell in zip(rows[0][1:], cells, strict=True):
            low, middle, high = np.percentile(values(images, "dice", method=method, position=position), (25, 50, 75))
            assert cell == f"{middle:.3f} ({low:.3f}\N{EN DASH}{high:.3f})"
    rows = page.table("Surface distances")
    assert [row[0] for row in rows[2:]] == list(METHODS)
    undefined = 0
    for method, hd95, asd, missing in rows[2:]:
        for cell, key in ((hd95, "hd95_mm"), (asd, "asd_mm")):
            assert cell.split(" ")[0] == f"{statistics.median(values(images, key, method=method)):.2f}"
        count = 72 - len(values(images, "hd95_mm", method=method))
        undefined += count
        assert missing == f"{count} of 72"
    assert undefined > 0


def test_agreement(study):
    _, records, page = study
    images = chosen_images(records)
    rows = page.table("LV, left ventricle: bias")
    assert rows[0][:3] == ["Method", "Subjects", "EDV, ml: bias"]
    for row in rows[1:]:
        assert row[1] == "12"
        measured = {}
        for subject in {image["subject"] for image in images}:
            key = {"method": row[0], "subject": subject}
            sums = {
                (phase, side): sum(values(images, side, phase=phase, **key))
                for phase in ("ED", "ES")
                for side in ("predicted_ml", "truth_ml")
            }
            measured[subject] = sums
        for cells, ml in ((row[2:4], ("ED",)), (row[4:6], ("ES",)), (row[6:8], ("ED", "ES"))):
            differences = []
            for sums in measured.values():
                predicted, truth = (
                    sums[ml[0], side] if len(ml) == 1 else 100 * (1 - sums["ES", side] / sums["ED", side])
                    for side in ("predicted_ml", "truth_ml")
                )
                differences.append(predicted - truth)
            bias, sd = statistics.mean(differences), statistics.stdev(differences)
            assert float(cells[0].replace("\N{MINUS SIGN}", "-")) == pytest.approx(bias, abs=0.051)
            limits = [float(limit.replace("\N{MINUS SIGN}", "-")) for limit in cells[1].split(" to ")]
            assert limits == pytest.approx([bias - 1.96 * sd, bias + 1.96 * sd], abs=0.051)


@pytest.mark.usefixtures("unpainted")
def test_agreement_averages_seeds(tmp_path):
    records = make_study(tmp_path, ("ILN", "IN"), rates=(0.1,), seeds=(0, 1), pictures=False)
    page = write(tmp_path, records)
    test = [row for row in records.images.to_dict("records") if (row["part"], row["phase"]) == ("test", "ED")]
    for row in page.table("LV, left ventricle: bias")[1:]:
        predicted, truth = (sum(values(test, side, method=row[0])) for side in ("predicted_ml", "truth_ml"))
        assert row[1] == "9"
        assert float(row[2].replace("\N{MINUS SIGN}", "-")) == pytest.approx((predicted - truth) / 18, abs=0.051)


def test_rates_with_diverged_runs(study):
    _, records, page = study
    rows = page.table("LV: mean Dice on test images by learning rate")
    assert rows[0] == ["Method", "1", "0.5", "0.1"]
    for method, *cells in rows[1:]:
        means = {}
        for rate in (1.0, 0.5, 0.1):
            runs = [r for r in records.runs.to_dict("records") if (r["method"], r["learning_rate"]) == (method, rate)]
            means[rate] = statistics.mean(r["test_dice"] for r in runs if r["status"] == "finished")
        for cell, (rate, mean) in zip(cells, means.items(), strict=True):
            said = " (1/3 div.)" if (method, rate) in (("None", 1.0), ("IN", 0.1)) else ""
            best = "*" if round(mean, 3) == max(round(value, 3) for value in means.values()) else ""
            assert cell == f"{best}{mean:.3f}{said}"


def test_cost(study):
    _, records, page = study
    rows = page.table("What each method costs")
    assert rows[0][3] == "Ratio to IN"
    runs = [run for run in records.runs.to_dict("records") if run["status"] == "finished"]
    steps = {(r["method"], r["fold"], r["learning_rate"]): r["seconds_per_step"] for r in runs}
    for row in rows[1:]:
        own = {key[1:]: value for key, value in steps.items() if key[0] == row[0]}
        ratios = [value / steps[("IN", *key)] for key, value in own.items() if ("IN", *key) in steps]
        assert row[1] == ("2,161,880" if row[0] in ("ILN", "Clip", "Sigmoid") else "2,161,858")
        assert row[2].split(" ")[0] == f"{1000 * statistics.median(own.values()):.1f}"
        assert row[3] == f"{statistics.median(ratios):.2f}"
        assert row[4] == "\N{EN DASH}"
    assert "Peak memory is missing: no run measured it." in page.text
    assert "the paper reports 1.049" in page.text


def test_what_was_run(study):
    _, _, page = study
    assert page.table("Runs of each method")[5] == ["None", "None", "9", "8", "1", "0", "0"]
    facts = dict(page.table("Grid, data and machine"))
    assert facts["SHA-256 of LV"] == "ab12" * 16
    assert facts["Versions"] == "python 3.11.7, torch 2.13.0, monai 1.6.1"
    assert facts["Machine"] == "cpu Fake CPU @ 2.0 GHz, cores 2, threads 2"
    assert facts["Configuration"] == "hash " + "c0ffee" * 6
    assert page.table("Runs that did not finish")[1:] == [
        ["IN", "LV", "2", "0.1", "0", "diverged", "training: the loss is nan in epoch 1."],
        ["None", "LV", "0", "1", "0", "diverged", "training: the loss is nan in epoch 1."],
    ]


def test_html_stands_alone(study):
    folder, _, page = study
    html = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert not page.tags & {"link", "iframe", "object", "embed", "base", "video", "audio", "svg"}
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert html.count("<script") == html.count("<script>") == 1
    assert "fetch" not in page.script
    assert not re.search(r"https?://", html)
    embedded = {base64.b64decode(image["src"].split(",", 1)[1]) for image in page.images}
    files = {path.read_bytes() for path in (folder / "report" / "figures").iterdir()}
    assert embedded == files
    assert len(files) == len(page.images) > 10
    assert all(content.startswith(b"\x89PNG\r\n\x1a\n") for content in files)
    assert all(len(image["alt"]) > 20 for image in page.images)


def test_markdown_twin(study):
    folder, _, page = study
    place = folder / "report"
    text = (place / "report.md").read_text(encoding="utf-8")
    figures, tables = (re.findall(rf"\(({kind}/[^)]+)\)", text) for kind in ("figures", "tables"))
    assert sorted(figures) == sorted(path.relative_to(place).as_posix() for path in (place / "figures").iterdir())
    assert sorted(tables) == sorted(path.relative_to(place).as_posix() for path in (place / "tables").iterdir())
    assert len(tables) == len(page.tables)
    cells = page.table("Table 3.")[3]
    assert "| " + " | ".join(cell.replace("*", "**", 1) + "**" * cell.startswith("*") for cell in cells) + " |" in text


def test_csv_files_hold_unrounded_numbers(study):
    folder, records, _ = study
    with (folder / "report" / "tables" / "table_3.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"nested", "paper", "published"}
    images = chosen_images(records)
    for row in rows:
        if row["source"] == "nested" and row["test_fold"]:
            dice = values(images, "dice", method=row["method"], fold=int(row["test_fold"]))
            assert float(row["mean_dice"]) == pytest.approx(statistics.mean(dice), rel=1e-12)
            assert row["images"] == "24"


def test_figures_of_the_paper(study):
    _, _, page = study
    captions = [text for text in page.texts if text.startswith("Figure ")]
    assert [caption.split(".")[0] for caption in captions] == [*["Figure 2"] * 2, "Figure 1", *["Figure 3"] * 3]
    assert "ILN" in captions[3]
    assert "(1 of 10)" in captions[3]  # dead gates
    alt = next(image["alt"] for image in page.images if image["alt"].startswith("Segmented"))
    assert alt.count("Dice") == 12  # of four methods the worst, the median and the best


ALL_DIVERGED = [(m, f, r) for m in ("ILN", "IN", "None") for f in (0, 1, 2) for r in (0.1, 1.0)]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "said", "unsaid"), [
    ({"rates": (0.1,), "phases": ("p1",), "pictures": False},
     ["with 1 learning rate", "One learning rate, nothing chosen", "no phase is called ED or ES",
      "pictures of Figure 2 are missing", "No such file"], ["optimistic", "Chosen learning rates", "by learning rate"]),
    ({"validation": False, "methods": ("IN", "LN", "GN4"), "folds": (0,), "subjects": 2},
     ["There are no validation scores", "every score is optimistic", "one fold, and its luck",
      "1 of 3 folds of LV"], ["Nested:", "p < 0", "Figure 1", "Figure 3"]),
    ({"methods": ("ILN",), "pictures": False}, ["Only one method has finished runs", "fewer than three methods"], []),
    ({"left_out": ("ILN",), "seeds": (0, 1), "rates": (0.1,), "pictures": False},
     ["The reference, ILN, has no finished run", "Without a result by this rule: ILN."],
     ["With one seed"]),
    ({"stacks": True, "datasets": {"heart": ["LV"]}, "rates": (0.1,)}, ["Surface distances"],
     ["Table 3", "Published", "osition"]),
    ({"diverged": ALL_DIVERGED},
     ["No run has finished, so there are no test images", "no run finished at any learning rate"], ["Figure 2."]),
])  # fmt: skip
@pytest.mark.usefixtures("laid_out")
def test_partial_studies(tmp_path, arguments, said, unsaid):
    page = write(tmp_path, make_study(tmp_path, **arguments))
    everything = page.text + str(page.tables)
    for sentence in said:
        assert sentence in everything
    for sentence in unsaid:
        assert sentence not in everything
    assert not re.search(r"\bnan\b", everything.replace("the loss is nan", ""))


def test_nothing_has_been_run(tmp_path):
    study = make_study(tmp_path, left_out=("ILN", "IN", "None")).study
    columns = ["run", "dataset", "method", "fold", "learning_rate", "seed"]
    runs = pd.DataFrame(columns=[*columns, "status", "message", "test_score", "validation_score"])
    images = pd.DataFrame(columns=[*columns, "dice"])
    page = write(tmp_path, SimpleNamespace(study=study, runs=runs, images=images))
    assert "Of its 18 runs 0 finished and 18 have not been run." in page.text
    assert not page.images


@pytest.mark.usefixtures("unpainted")
def test_failed_runs_are_listed_and_text_is_escaped(tmp_path):
    name = "ACDC <b>&"
    records = make_study(tmp_path, datasets={name: ["left | ventricle"]}, rates=(0.1,))
    failed = records.runs["method"] == "None"
    images = records.images[records.images["method"] != "None"]
    runs = records.runs.assign(status=records.runs["status"].where(~failed, "failed"))
    runs["message"] = runs["message"].where(~failed, "<script>alert(1)</script> | boom")
    page = write(tmp_path, SimpleNamespace(study=records.study, runs=runs, images=images))
    assert "alert" not in page.script
    assert page.table("Runs that did not finish")[1][-1] == "<script>alert(1)</script> | boom"
    assert f"Comparison of normalization methods on {name}" in page.text
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| boom |" in text
    assert "<" not in text


@pytest.mark.usefixtures("unpainted")
def test_structures_get_tables_of_their_own(tmp_path):
    structures = ["RV cavity", "myocardium"]
    records = make_study(tmp_path, ("ILN", "IN"), {"ACDC": structures}, rates=(0.1,), pictures=False)
    page = write(tmp_path, records)
    for structure in structures:
        rows = page.table(f"All methods ({structure})")
        assert rows[0][-1] == "all"
        for method, *cells, _ in rows[2:]:
            for fold, cell in enumerate(cells):
                test = [row for row in records.images.to_dict("records") if row["part"] == "test"]
                dice = values(test, "dice", method=method, fold=fold, structure=structure)
                assert cell.strip("*") == f"{statistics.mean(dice):.3f}±{statistics.stdev(dice):.3f}"


@pytest.mark.usefixtures("unpainted")
def test_the_data_set_of_the_paper_is_known_by_its_datalist_too(tmp_path):
    records = make_study(tmp_path, datasets={"sb": ["endocardium"]}, rates=(0.1,), pictures=False)
    records.study["datasets"]["sb"]["name"] = "Sunnybrook Cardiac Data"
    page = write(tmp_path, records)
    rows = page.table("Table 3.")
    assert rows[0] == ["Method", "fold 0 (18)", "fold 1 (18)", "fold 2 (18)", "all"]
    assert blocks(rows)["Published"]["None"] == ["0.899±0.134", "0.872±0.167", "0.784±0.280", "0.852"]
    assert "on sb (Sunnybrook Cardiac Data, 9 subjects)" in page.text


@pytest.mark.usefixtures("unpainted")
def test_published_dice_stands_beside_dice_of_the_same_structure_alone(tmp_path):
    heart = {"datasets": {"LV": ["left ventricle", "right ventricle", "LV myocardium"]}, "subjects": 1}
    page = write(tmp_path / "heart", make_study(tmp_path / "heart", rates=(0.1,), pictures=False, **heart))
    assert "Published" in blocks(page.table("Table 3. No norm, instance, layer and group norm, and ILN (left"))
    for structure in ("right ventricle", "LV myocardium"):
        rows = page.table(f"Table 3. No norm, instance, layer and group norm, and ILN ({structure}")
        assert list(blocks(rows)) == ["One learning rate, nothing chosen"]
    distance = {"name": "val_distance", "higher_is_better": False}
    records = make_study(tmp_path / "other", rates=(0.1,), pictures=False, metric=distance, subjects=1)
    other = write(tmp_path / "other", records)
    assert "paper" not in other.text + str(other.tables)


@pytest.mark.usefixtures("unpainted")
def test_methods_without_validation_scores_stay_in_the_table_of_the_other_rule(tmp_path):
    records = make_study(tmp_path, pictures=False)
    records.runs.loc[records.runs["method"] == "None", "validation_score"] = np.nan
    page = write(tmp_path, records)
    found = blocks(page.table("Table 3."))
    chosen = choose(records, "test")
    dice = [
        row["dice"]
        for row in records.images.to_dict("records")
        if (row["part"], row["method"], row["fold"], row["learning_rate"]) == ("test", "None", 0, chosen["None", 0])
    ]
    assert found["Nested"]["None"] == ["\N{EN DASH}"] * 4
    assert found["Paper's rule"]["None"][0] == f"{statistics.mean(dice):.3f}±{statistics.stdev(dice):.3f}"
    assert "3 combinations of method and fold have no validation scores, hence no nested result." in page.text
    assert "Without a result by this rule: None." in page.text


@pytest.mark.usefixtures("unpainted")
def test_wide_tables_are_split_by_data_set(tmp_path):
    names = {"A": ["lv"], "B": ["lv"]}
    records = make_study(tmp_path, ("ILN", "IN"), names, folds=range(5), rates=(0.1,), subjects=1, pictures=False)
    page = write(tmp_path, records)
    for part, name in enumerate(names, 1):
        header = page.table(f"All methods (lv), part {part} of 2")[0]
        assert header == ["Method", *(f"{name}, fold {fold} (6)" for fold in range(5)), f"{name}, all"]


@pytest.mark.usefixtures("unpainted")
def test_an_older_report_leaves_nothing(tmp_path):
    records = make_study(tmp_path, ("ILN",), folds=(0,), rates=(0.1,), subjects=1, pictures=False)
    write(tmp_path, records)
    gone = tmp_path / "report" / "figures" / "gates-ILN.png"
    assert gone.is_file()
    for path in tmp_path.glob("runs/*/*/*/*/*/gates.csv"):
        path.unlink()
    write(tmp_path, records)
    assert not gone.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted")
def test_records_read_from_the_folder_give_the_same_report(tmp_path):
    records = make_study(tmp_path, rates=(0.1, 1.0), subjects=2, diverged=[("None", 0, 1.0)], pictures=False)
    page, again = write(tmp_path, records), write(tmp_path, read_records(tmp_path))
    assert again.table("Table 3.") == page.table("Table 3.")
    assert json.loads((tmp_path / "study.json").read_text())["reference"] == records.study["reference"]


def test_select_images_agrees_with_plain_python(study):
    """The rule of this file's helper is the rule of the module that the report uses."""
    from monai_iln.study.statistics import choose_rates

    _, records, _ = study
    theirs = select_images(records.images, choose_rates(records.runs, "nested"))
    assert sorted(theirs["dice"]) == sorted(row["dice"] for row in chosen_images(records))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x &lt;d `e`", "$\\frac$", "=a_$1$", "<script>$b$", "- c"])
def test_names_are_shown_as_they_are(tmp_path, monkeypatch, name):
    """Drawn as well: a dollar sign begins no formula of matplotlib's, and an equals sign none of a spreadsheet's."""
    drawn = set()

    def png(figure):
        figure.draw_without_rendering()
        texts = figure.findobj(Text)
        assert not any(name in text.get_text() and text.get_parse_math() for text in texts)
        drawn.update(text.get_text() for text in texts)
        return b""

    monkeypatch.setattr(document, "_png", png)
    structure = f"{name} of a ventricle"
    make_study(tmp_path, (name, "IN", "GN4"), {name: [structure]}, subjects=2, pictures=False)
    page = write(tmp_path, read_records(tmp_path))
    assert {name, f"{name}, {structure}"} <= drawn
    assert name not in page.script
    assert page.table(f"{name} against every other")[1] == [f"{name}, {structure}"]
    with (tmp_path / "report" / "tables" / "comparisons.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[1][rows[0].index("reference")] == name.replace("=", "'=").replace("- c", "'- c")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert not re.search(r"(?m)^- c", text)
