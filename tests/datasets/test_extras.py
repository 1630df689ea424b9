"""What a fresh process loads, and what it says where the extra ``data`` is not installed."""

import subprocess
import sys

# Reads and checks a datalist, then asks for what needs the extra, in a process that cannot find its packages.
SCRIPT = """
import sys
from importlib.machinery import PathFinder

EXTRA = {"PIL", "SimpleITK", "pooch", "pydicom", "requests", "tqdm"}


class WithoutExtra(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in EXTRA else super().find_spec(name, path, target)


sys.meta_path = [WithoutExtra if finder is PathFinder else finder for finder in sys.meta_path]

import monai_iln.datasets
from monai_iln.datasets import REASONS, DataWarning
from monai_iln.datasets.phantom import LAYOUTS, write_phantom
from monai_iln.datasets.readers.layouts import CONTOURED_STRUCTURES, FOLDER_LAYOUTS, SUNNYBROOK_LAYOUTS
from monai_iln.datasets.sunnybrook_files import FILES

loaded = {"numpy", "nibabel", "scipy", "sklearn", "torch", "monai", *EXTRA} & sys.modules.keys()
assert not loaded, f"tables load {loaded}"

folder = sys.argv[1]
items = monai_iln.datasets.check_datalist(folder)
assert len(monai_iln.datasets.find_stacks(folder)) == len(items) == 12
assert monai_iln.datasets.describe_datalist(folder)["stacks"] == 12
assert sum(map(len, monai_iln.datasets.split_datalist(folder, 0).values())) == 12

from monai_iln.datasets.formats.contours import rasterize
from monai_iln.datasets.formats.dicom import read_stack
from monai_iln.datasets.formats.volumes import read_volume
from monai_iln.extras import MissingExtraError
from monai_iln.overlays import contact_sheet


def download():
    from monai_iln.datasets.download import download_sunnybrook


for needs in (
    lambda: write_phantom("new"),
    lambda: monai_iln.datasets.prepare_sunnybrook(folder, "new"),
    lambda: monai_iln.datasets.prepare_folders(folder, "new"),
    lambda: monai_iln.datasets.check_datalist(folder, progress=True),
    lambda: rasterize(monai_iln.datasets.datalist.np.eye(3)[:, :2], (3, 3)),
    lambda: read_stack(folder),
    lambda: read_volume("stack.nrrd"),
    lambda: contact_sheet([]),
    download,
):
    try:
        needs()
    except MissingExtraError as error:
        assert str(error).endswith('Run: pip install "monai-iln[data]"'), error
        assert "\\n" not in str(error)
    else:
        raise AssertionError("done without the extra")
assert not {"torch", "monai"} & sys.modules.keys()
"""


def test_tables_load_nothing_and_a_missing_extra_is_one_line(prepared, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(prepared)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
