"""Data sets: files in, a datalist out."""

from typing import TYPE_CHECKING

from monai_iln.lazy import lazy_getattr

if TYPE_CHECKING:
    from monai_iln.datasets.cine_stacks import write_phases
    from monai_iln.datasets.cines import find_phase_times, read_cine, split_phases
    from monai_iln.datasets.datalist import check_datalist, read_datalist
    from monai_iln.datasets.decathlon import prepare_decathlon
    from monai_iln.datasets.inference import find_stacks, find_stacks_folder
    from monai_iln.datasets.prepare import (
        phantom_datalist,
        prepare_folders,
        prepare_right_ventricle,
        prepare_sunnybrook,
    )
    from monai_iln.datasets.pseudonyms import name_stacks
    from monai_iln.datasets.quality.reasons import REASONS
    from monai_iln.datasets.quality.subjects import inspect_stacks
    from monai_iln.datasets.ranges import add_ranges
    from monai_iln.datasets.readers.folders import read_folders, read_right_ventricle
    from monai_iln.datasets.readers.sunnybrook import read_sunnybrook
    from monai_iln.datasets.splits import describe_datalist, slice_items, split_datalist
    from monai_iln.datasets.stacks import DataWarning, Finding, ReaderOutput, Reading, Stack

__all__ = [
    "REASONS",
    "DataWarning",
    "Finding",
    "ReaderOutput",
    "Reading",
    "Stack",
    "add_ranges",
    "check_datalist",
    "describe_datalist",
    "find_phase_times",
    "find_stacks",
    "find_stacks_folder",
    "inspect_stacks",
    "name_stacks",
    "phantom_datalist",
    "prepare_decathlon",
    "prepare_folders",
    "prepare_right_ventricle",
    "prepare_sunnybrook",
    "read_cine",
    "read_datalist",
    "read_folders",
    "read_right_ventricle",
    "read_sunnybrook",
    "slice_items",
    "split_datalist",
    "split_phases",
    "write_phases",
]

# A command's help, and whoever reads a datalist, do not wait for what the readers need.
__getattr__ = lazy_getattr(
    __name__,
    {
        "REASONS": "quality.reasons",
        "DataWarning": "stacks",
        "Finding": "stacks",
        "ReaderOutput": "stacks",
        "Reading": "stacks",
        "Stack": "stacks",
        "add_ranges": "ranges",
        "check_datalist": "datalist",
        "describe_datalist": "splits",
        "find_phase_times": "cines",
        "find_stacks": "inference",
        "find_stacks_folder": "inference",
        "inspect_stacks": "quality.subjects",
        "name_stacks": "pseudonyms",
        "phantom_datalist": "prepare",
        "prepare_decathlon": "decathlon",
        "prepare_folders": "prepare",
        "prepare_right_ventricle": "prepare",
        "prepare_sunnybrook": "prepare",
        "read_cine": "cines",
        "read_datalist": "datalist",
        "read_folders": "readers.folders",
        "read_right_ventricle": "readers.folders",
        "read_sunnybrook": "readers.sunnybrook",
        "slice_items": "splits",
        "split_datalist": "splits",
        "split_phases": "cines",
        "write_phases": "cine_stacks",
    },
)
