"""Tables of a run, as they are written and read."""

import numpy as np
import pytest

from monai_iln.errors import UserError
from monai_iln.run_files import IMAGES, LOSSES


def test_names_stay_what_they_are(tmp_path):
    """A subject may be called NA or 007, and a number may be missing."""
    rows = [("test", subject, "ED", 1, 0, "mid", "heart", dice) for subject, dice in (("NA", 0.5), ("007", "nan"))]
    IMAGES.write(tmp_path, [[*row, *[""] * (len(IMAGES.columns) - len(row))] for row in rows])
    table = IMAGES.read(tmp_path)
    assert table["subject"].tolist() == ["NA", "007"]
    np.testing.assert_array_equal(table["dice"], [0.5, np.nan])
    assert table["hd95_mm"].isna().all()


def test_rows_are_added_all_or_none(tmp_path):
    def rows():
        yield 2, 0.25
        raise OSError(28, "No space left on device")

    LOSSES.write(tmp_path, [(1, 0.5)])
    with pytest.raises(UserError, match="/losses.csv: cannot be written .No space left"):
        LOSSES.append(tmp_path, rows())
    assert LOSSES.read_rows(tmp_path) == [{"iteration": "1", "loss": "0.5"}]
    LOSSES.append(tmp_path, [(2, 0.25)])
    assert [row["iteration"] for row in LOSSES.read_rows(tmp_path)] == ["1", "2"]


def test_a_name_that_looks_like_a_formula_stays_what_it_is(tmp_path):
    row = ["test", "=1+1", "-ED", 1, 0, "mid", "'@heart", -0.5]
    IMAGES.write(tmp_path, [[*row, *[""] * (len(IMAGES.columns) - len(row))]])
    assert ",-0.5," in (tmp_path / IMAGES.name).read_text()
    assert "test,'=1+1,'-ED,1,0,mid,''@heart" in (tmp_path / IMAGES.name).read_text()
    assert IMAGES.read(tmp_path)[["subject", "phase", "structure"]].iloc[0].tolist() == ["=1+1", "-ED", "'@heart"]
    assert IMAGES.read_rows(tmp_path)[0]["subject"] == "=1+1"
