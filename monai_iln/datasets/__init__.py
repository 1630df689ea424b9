"""Data sets: files in, a datalist out."""

from monai_iln.datasets.datalist import (
    check_datalist,
    describe_datalist,
    find_stacks,
    read_datalist,
    slice_items,
    split_datalist,
)
from monai_iln.datasets.prepare import phantom_datalist, prepare_right_ventricle, prepare_sunnybrook
from monai_iln.datasets.quality.exclusion import REASONS
from monai_iln.datasets.quality.inspection import inspect_stacks
from monai_iln.datasets.readers.folders import read_right_ventricle
from monai_iln.datasets.readers.sunnybrook import read_sunnybrook
from monai_iln.datasets.stacks import DataWarning, Finding, Reading, Stack

__all__ = [
    "REASONS",
    "DataWarning",
    "Finding",
    "Reading",
    "Stack",
    "check_datalist",
    "describe_datalist",
    "find_stacks",
    "inspect_stacks",
    "phantom_datalist",
    "prepare_right_ventricle",
    "prepare_sunnybrook",
    "read_datalist",
    "read_right_ventricle",
    "read_sunnybrook",
    "slice_items",
    "split_datalist",
]
