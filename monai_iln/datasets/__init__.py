"""Data sets: files in, a datalist out."""

from monai_iln.datasets.datalist import (
    DataWarning,
    Stack,
    find_stacks,
    read_datalist,
    slice_items,
    split_datalist,
    write_datalist,
)
from monai_iln.datasets.prepare import phantom_datalist, prepare_sunnybrook
from monai_iln.datasets.sunnybrook import read_sunnybrook

__all__ = [
    "DataWarning",
    "Stack",
    "find_stacks",
    "phantom_datalist",
    "prepare_sunnybrook",
    "read_datalist",
    "read_sunnybrook",
    "slice_items",
    "split_datalist",
    "write_datalist",
]
