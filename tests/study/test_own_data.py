"""The page on studies, word for word, in one fold: somebody else's 3-D datalist, two structures, MONAI's UNet."""

import re
import shutil
from pathlib import Path

import pytest
from running import run_here

from monai_iln.study.records import read_records

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "study.md"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, text = PAGE.read_text(encoding="utf-8").split("## Data, network and dimensions of your own")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names = ["volume.yaml", "volume_evaluate.yaml", "study.yaml"]
    for name, block in zip(names, blocks, strict=True):
        (tmp_path / name).write_text(block)
    (python,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(python, {})
    shutil.copytree(
        ROOT / "bundles" / "lv_short_axis_iln",
        tmp_path / "bundle",
        ignore=shutil.ignore_patterns("data", "eval", "models"),
    )
    return tmp_path


@pytest.mark.usefixtures("unpainted")
def test_the_pages_study_runs(workplace):
    done = run_here(["study", "--config_file", "study.yaml", "--folds", "[0]", "--robustness", "false"])
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(workplace / "study")
    failed = records.runs[records.runs["status"] != "finished"]
    assert len(failed) == 0, failed["message"].to_list()
    assert len(records.runs) == 4
    test = records.images[records.images["part"] == "test"]
    assert set(test["structure"]) == {"liver", "tumour"}
    assert len(test) == 4 * 3 * 2, "methods x volumes x structures"
    assert test["index"].isna().all()
    assert (test["truth_ml"] / test["truth_pixels"]).round(9).dropna().unique() == [0.0045], "1.5 x 1.5 x 2 mm"
    report = (workplace / "study" / "report" / "report.html").read_text(encoding="utf-8")
    assert "tumour" in report
