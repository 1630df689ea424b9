"""Masks as DICOM segmentations: what their segments are called and coded, and where their frames lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from monai_iln.datasets.formats.dicom import quiet_pydicom
from monai_iln.errors import UserError

# SNOMED CT, as in DICOM's context groups for the heart.
_CODES = {
    "left ventricle": "87878005",
    "right ventricle": "53085002",
    "myocardium": "74281007",
    "left atrium": "82471001",
    "right atrium": "73829009",
}
_STRUCTURE = "123037004"  # anatomical structure, of which no more is known
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
_MOST_APART = 0.25  # of a voxel, as everywhere


def describe_segments(names: Mapping[int, str], model: str) -> list[dict[str, Any]]:
    """Describe the segments of a mask as MONAI Label's writer of DICOM segmentations takes them.

    Args:
        names: The name of each structure, by its value in the mask, without the background.
        model: The name of the model.
    """
    return [
        {
            "name": name,
            "model_name": model,
            "segmentAttribute": {
                "labelID": value,
                "SegmentLabel": name,
                "SegmentDescription": name,
                "SegmentAlgorithmType": "SEMIAUTOMATIC",
                "SegmentAlgorithmName": model,
                "SegmentedPropertyCategoryCodeSequence": _code(_STRUCTURE, "Anatomical Structure"),
                "SegmentedPropertyTypeCodeSequence": _code(_CODES.get(name.lower(), _STRUCTURE), name.capitalize()),
                "recommendedDisplayRGBValue": list(_COLOURS[place % len(_COLOURS)]),
            },
        }
        for place, (value, name) in enumerate(sorted(names.items()))
    ]


def _code(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


def name_values(
    values: Sequence[int], info: Mapping[str, Any], structures: Mapping[str, Mapping[int, str]]
) -> tuple[str, dict[int, str]]:
    """Name the values of a mask: as the client does, or else as the one model that knows them.

    Args:
        values: The values, without that of the background.
        info: What the client says of its label: ``label_info``, a list with ``name`` and ``idx`` of each segment, and
            ``model``. It may be empty.
        structures: The names of what each model outlines, by their values in its masks.

    Returns:
        The model, and the name of each value.

    Raises:
        UserError: If there is no value, no model knows them all, or several do, or the client names another structure
            that is known.
    """
    if not values:
        raise UserError("the label is empty. A DICOM segmentation holds a segment at least: draw one.")
    told = _told_names(info)
    foreign = {*_CODES, *(name.lower() for names in structures.values() for name in names.values())}
    fitting = {}
    for model, names in structures.items():
        is_meant = info.get("model") in (None, model)
        others = [value for value in values if told.get(value) in foreign - {names.get(value, "").lower()}]
        if is_meant and not others and all(value in names for value in values):
            fitting[model] = {value: names[value] for value in values}
    agreeing = {
        model: names
        for model, names in fitting.items()
        if all(told.get(value) == name.lower() for value, name in names.items())
    }
    chosen = agreeing or fitting
    if len(chosen) != 1:
        known = "; ".join(f"{model}: {dict(names)}" for model, names in structures.items())
        called = [f"{value} as {told[value]}" for value in values if told.get(value) in foreign]
        raise UserError(
            f"the label holds the values {', '.join(called) or list(values)}, which "
            f"{'several models' if chosen else 'no model'} of the app can mean ({known}). Correct it, or name the "
            'model in params: {"model": NAME}.'
        )
    return next(iter(chosen.items()))


def _told_names(info: Mapping[str, Any]) -> dict[int, str]:
    """What the client calls each value."""
    told = info.get("label_info") or []
    try:
        return {int(entry.get("idx") or place): str(entry["name"]).lower() for place, entry in enumerate(told, start=1)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"label_info {told!r}: it is a list of segments, each with its name and its value, such as "
            '{"name": "left ventricle", "idx": 1}. Correct it, or leave it out.'
        ) from error


def find_structures(segmentation: Any, names: Mapping[int, str]) -> dict[int, int]:
    """Find which segments of a DICOM segmentation are structures that a model knows, by their codes or their labels.

    Args:
        segmentation: The data set of the file, or its metadata.
        names: The name of each structure, by its value in masks.

    Returns:
        The value in masks of each segment, by its SegmentNumber.
    """
    values = {name.lower(): value for value, name in names.items()}
    values |= {_CODES[name]: value for name, value in values.items() if name in _CODES}
    found = {}
    for segment in segmentation.get("SegmentSequence") or []:
        codes = segment.get("SegmentedPropertyTypeCodeSequence") or [{}]
        keys = (str(codes[0].get("CodeValue")), str(segment.get("SegmentLabel")).lower())
        known = [values[key] for key in keys if key in values]
        if known:
            found[int(segment.SegmentNumber)] = known[0]
    return found


def read_segmentation(file: Path, image: Path, names: Mapping[int, str]) -> nib.Nifti1Image:
    """Read a DICOM segmentation as a mask on the grid of its image.

    Args:
        file: The DICOM file.
        image: The NIfTI file of the stack that it was drawn on.
        names: The name of each structure, by its value in the mask.

    Raises:
        UserError: If it holds none of the structures, a frame does not lie on a slice of the image, or its values mean
            something else than a part of a pixel.
    """
    grid = nib.load(image)
    mask = np.zeros(grid.shape, np.uint8)
    with quiet_pydicom() as pydicom:
        segmentation = pydicom.dcmread(file)
        values = find_structures(segmentation, names)
        if not values:
            labels = [str(segment.get("SegmentLabel")) for segment in segmentation.get("SegmentSequence") or []]
            raise UserError(f"segments {', '.join(labels)}: none is one of {', '.join(names.values())}")
        least = _least_value(segmentation)
        planes = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        for plane, own in zip(planes, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
            groups = {element.keyword: element.value for part in (shared, own) for element in part}
            value = values.get(int(groups["SegmentIdentificationSequence"][0].ReferencedSegmentNumber))
            if value is None or not plane.any():
                continue
            slice_ = _find_slice(groups, plane.shape, grid)
            is_marked = least <= plane.T
            mask[..., slice_][is_marked] = value
    return nib.Nifti1Image(mask, grid.affine)


def _least_value(segmentation: Any) -> float:
    """The least value of a pixel that counts as marked: any above 0, or half of what a whole pixel has."""
    kind = str(segmentation.get("SegmentationType", "BINARY"))
    if kind not in ("BINARY", "FRACTIONAL"):
        raise UserError(f"a segmentation of the type {kind}, and only BINARY and FRACTIONAL are read")
    return float(segmentation.get("MaximumFractionalValue", 255)) / 2 if kind == "FRACTIONAL" else 1.0


def _find_slice(groups: Mapping[str, Any], shape: Sequence[int], grid: nib.Nifti1Image) -> int:
    """The slice of an image that a frame lies on, pixel on pixel."""
    position = np.array(groups["PlanePositionSequence"][0].ImagePositionPatient, dtype=float)
    along = np.array(groups["PlaneOrientationSequence"][0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    down, right = (float(size) for size in groups["PixelMeasuresSequence"][0].PixelSpacing)
    rows, columns = shape
    corners = np.array([position, position + along[0] * right * (columns - 1), position + along[1] * down * (rows - 1)])
    places = apply_affine(np.linalg.inv(grid.affine), corners * (-1, -1, 1))
    slice_ = round(float(places[0, 2]))
    expected = np.array([(0, 0, slice_), (columns - 1, 0, slice_), (0, rows - 1, slice_)])
    if tuple(grid.shape[:2]) != (columns, rows) or not 0 <= slice_ < grid.shape[2]:
        raise UserError(f"a frame of {columns} x {rows} pixels on slice {slice_ + 1} of an image of {grid.shape}")
    if np.abs(places - expected).max() > _MOST_APART:
        raise UserError("a frame does not lie on a slice of the image")
    return slice_
