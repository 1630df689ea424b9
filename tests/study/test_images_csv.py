"""The reference page of images.csv, and the two scripts that go on from it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from make_study import make_study

from monai_iln.run_files import ALL_IMAGES, IMAGES, RUNS
from monai_iln.study.records import read_records, write_tables
from monai_iln.study.statistics import choose_rates, metric_of, select_images, subject_scores

PAGES = Path(__file__).parents[2] / "docs" / "reference"
ERROR = {"name": "val_mae", "higher_is_better": False, "in_unit_interval": False}
DIFFERENCE = re.compile(r"^(?:method)?(\w+) +(-?\d+\.\d+) +(-?\d+\.\d+) +(-?\d+\.\d+)", re.MULTILINE)


@pytest.fixture(scope="module", params=[None, ERROR], ids=["dice", "error"])
def study(tmp_path_factory, request):
    """A balanced study, in which the effects of the model are the differences of the means."""
    folder = tmp_path_factory.mktemp("study")
    methods = ("ILN", "IN", "None")  # the last is a name, and no missing value
    options = {"rates": (0.1, 1.0), "subjects": 4, "pictures": False, "metric": request.param}
    make_study(folder, methods, masks=request.param is None, **options)
    write_tables(folder, read_records(folder))
    return folder


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: [float(value) for value in numbers] for name, *numbers in DIFFERENCE.findall(done.stdout)}


@pytest.fixture(scope="module")
def in_python(study):
    """What the script in Python finds."""
    return run(sys.executable, PAGES / "analyze_images.py", study)


def test_page_has_every_column_in_order():
    page = (PAGES / "images-csv.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.MULTILINE)
    assert tuple(name for name, _ in rows) == ALL_IMAGES.columns
    assert {name for name, kind in rows if kind == "text"} == set(ALL_IMAGES.texts)


@pytest.mark.slow
def test_script_in_python_finds_the_differences_of_the_chosen_rates(study, in_python):
    records = read_records(study)
    metric = metric_of(records.study)
    chosen = select_images(records.images, choose_rates(records.runs, "nested", metric))
    assert set(chosen["learning_rate"]) == {0.1, 1.0}  # else the choice would not be tested
    means = subject_scores(chosen.astype({"structure": str, "method": str}), metric).mean()
    assert set(in_python) == {"IN", "None"}
    for method, (difference, low, high) in in_python.items():
        assert difference == pytest.approx(means[method] - means["ILN"], abs=1e-4)
        assert low < difference < high


def test_script_in_r_names_columns_that_there_are():
    text = (PAGES / "analyze_images.R").read_text(encoding="utf-8")
    code = re.sub(r"#.*|\"[^\"]*\"|'[^']*'", "", text)
    used = set(re.findall(r"(?:runs|rates|images|scores|part)\$(\w+)", code))
    for formula in re.findall(r"\w+ ~ [\w +|()]+", code):
        used |= set(re.findall(r"[a-z]\w+", formula))
    assert used <= {*ALL_IMAGES.columns, *RUNS.columns}
    assert {"score", "method", "subject", "run", "validation_score"} <= used
    assert all(code.count(left) == code.count(right) for left, right in ("()", "{}", "[]"))


def has_r():
    found = shutil.which("Rscript")
    return found is not None and subprocess.run([found, "-e", "library(lme4)"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_script_in_r_agrees_with_that_in_python(study, in_python):
    if not has_r():
        pytest.skip("R with lme4 is not installed")
    in_r = run("Rscript", PAGES / "analyze_images.R", study)
    assert set(in_python) == set(in_r) == {"IN", "None"}
    for method, numbers in in_python.items():
        width = numbers[2] - numbers[1]
        assert in_r[method] == pytest.approx(numbers, abs=0.1 * width)


def test_a_run_leaves_out_the_score_where_it_is_dice():
    assert "score" not in IMAGES.columns
    assert ALL_IMAGES.columns[-1] == "score"
