"""Tables of a run, as they are written and read."""

import numpy as np

from monai_iln.run_files import IMAGES


def test_names_stay_what_they_are(tmp_path):
    """A subject may be called NA or 007, and a number may be missing."""
    rows = [("test", subject, "ED", 1, 0, "mid", "heart", dice) for subject, dice in (("NA", 0.5), ("007", "nan"))]
    IMAGES.write(tmp_path, [[*row, *[""] * (len(IMAGES.columns) - len(row))] for row in rows])
    table = IMAGES.read(tmp_path)
    assert table["subject"].tolist() == ["NA", "007"]
    np.testing.assert_array_equal(table["dice"], [0.5, np.nan])
    assert table["hd95_mm"].isna().all()
