"""The tables of measured cines: a row for each phase, and one for each cine, of each structure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from monai_iln.cine.curves import VolumeCurve
from monai_iln.run_files import PHASES, SUBJECTS


class MeasuredCine(NamedTuple):
    """The structures of one cine.

    Attributes:
        curves: The volume curve of each structure.
        masks: The file of the mask that each was measured in, relative to the folder of the tables.
    """

    curves: list[VolumeCurve]
    masks: list[str]


def write_tables(folder: Path, cines: Iterable[MeasuredCine]) -> None:
    """Write ``phases.csv`` and ``subjects.csv``.

    Args:
        folder: The folder, which must exist.
        cines: The cines.
    """
    phases: list[tuple[object, ...]] = []
    subjects: list[tuple[object, ...]] = []
    for cine in cines:
        for curve, mask in zip(cine.curves, cine.masks, strict=True):
            doubts = " ".join(curve.doubts)
            name = curve.stack, curve.structure
            for phase, (volume, time) in enumerate(zip(curve.volumes_ml, curve.times_ms, strict=True), start=1):
                phases.append((*name, phase, _cell(time), _cell(volume), curve.name_of(phase), doubts))
            sizes = curve.slices, len(curve.volumes_ml), curve.ed, curve.es
            volumes = curve.edv_ml, curve.esv_ml, curve.stroke_ml, curve.ejection_fraction
            subjects.append((*name, *sizes, *map(_cell, volumes), doubts, mask))
    PHASES.write(folder, phases)
    SUBJECTS.write(folder, subjects)


def read_tables(folder: Path) -> dict[str, MeasuredCine]:
    """Read what :func:`write_tables` has written.

    Args:
        folder: The folder.

    Returns:
        The cines by their names; none if the tables are missing.
    """
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in PHASES.read_rows(folder):
        rows.setdefault((row["stack"], row["structure"]), []).append(row)
    cines: dict[str, MeasuredCine] = {}
    for stack, subjects in groupby(SUBJECTS.read_rows(folder), key=lambda row: row["stack"]):
        cine = cines[stack] = MeasuredCine([], [])
        for subject in subjects:
            own = rows[stack, subject["structure"]]
            volumes, times = ([_number(row[name]) for row in own] for name in ("volume_ml", "time_ms"))
            doubts = tuple(subject["doubts"].split())
            slices = int(subject["slices"])
            cine.curves.append(VolumeCurve(stack, subject["structure"], tuple(volumes), tuple(times), slices, doubts))
            cine.masks.append(subject["mask"])
    return cines


def _cell(value: float) -> object:
    return "" if math.isnan(value) else round(value, 3)


def _number(cell: str) -> float:
    return float(cell or "nan")
