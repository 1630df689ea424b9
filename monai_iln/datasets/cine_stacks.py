"""Cines split into stacks: a NIfTI file for each phase, for programs that know no fourth axis."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib

from monai_iln.datasets.cines import find_phase_times, read_cine
from monai_iln.datasets.formats.volumes import without_type
from monai_iln.datasets.inference import find_stacks, find_stacks_folder, name_subject
from monai_iln.datasets.readers.tables import INFO_NAME, read_info
from monai_iln.datasets.stack_files import refuse_shared_files, storable
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import UserError, count, first_of, require
from monai_iln.files import new_folder

Extremes = Mapping[str, Mapping[str, int]]
"""The phases at ``"ED"`` and ``"ES"``, from 1, by the absolute path of the cine."""


def write_phases(
    source: Path | str,
    output: Path | str,
    phases: Sequence[str] | None = None,
    extremes: Extremes | None = None,
    series: int | str | None = None,
) -> list[Path]:
    """Write phases of cines as files, ``SUBJECT_PHASE.nii.gz``.

    A subject is called as its file or folder is, or by its path below the source where two have one name. Files alone
    tell the number of a phase. Which is ED and which ES is known from ACDC's ``Info.cfg`` beside a cine, or from
    whoever has measured the volumes.

    Args:
        source: The cines, as for :func:`~monai_iln.datasets.find_stacks`.
        output: The folder to make. It appears whole or not at all.
        phases: The phases to write: numbers from 1, ``"ED"``, ``"ES"``. By default all, by their numbers.
        extremes: Which phases are ED and ES, where it is known.
        series: The stack, as for :func:`~monai_iln.datasets.read_cine`.

    Returns:
        The files, in order of cines and phases.

    Raises:
        UserError: If there is no cine, a phase is asked for that a cine lacks, or nobody knows its ED and ES.

    Example:
        >>> import tempfile
        >>> from monai_iln.datasets.phantom import write_phantom
        >>> folder = Path(tempfile.mkdtemp())
        >>> source = write_phantom(folder / "acdc", layout="acdc", subjects=1, slices=4, phases=4, size=96)
        >>> cine = source / "patient001" / "patient001_4d.nii.gz"
        >>> [file.name for file in write_phases(cine, folder / "studies", ["ED", "3"])]
        ['patient001_ED.nii.gz', 'patient001_3.nii.gz']
    """
    times = {stack: find_phase_times(stack, series) for stack in find_stacks(source, series)}
    cines = [stack for stack in times if len(times[stack]) > 1]
    require(bool(cines), f"{source}: no cine", "phases are split where there are several", "give a cine")
    others = [stack for stack in times if stack not in cines]
    if others:
        told = f"{source}: {count(len(others), 'stack')} of one phase passed over: {first_of(others)}."
        warnings.warn(told, DataWarning, stacklevel=2)
    plans = {cine: _name_phases(cine, len(times[cine]), phases, extremes or {}) for cine in cines}
    subjects = _name_subjects(cines, Path(find_stacks_folder(source, series)))
    refuse_shared_files((subjects[cine], name) for cine, plan in plans.items() for name in plan)
    files = []
    with new_folder(Path(output)) as folder:
        for cine, plan in plans.items():
            image = read_cine(cine, series)
            for name, number in plan.items():
                file = f"{subjects[cine]}_{name}.nii.gz"
                nifti = nib.Nifti1Image(storable(image.pixels[..., number - 1]), image.affine)
                nifti.header.set_xyzt_units("mm")
                nib.save(nifti, folder / file)
                files.append(Path(output) / file)
    return files


def _name_phases(cine: str, count: int, wanted: Sequence[str] | None, extremes: Extremes) -> dict[str, int]:
    """The numbers of the phases that are wanted of a cine, by the names that they get."""
    numbers = {str(number).zfill(len(str(count))): number for number in range(1, count + 1)}
    if wanted is None:
        return numbers
    known = extremes.get(str(Path(cine).absolute())) or _find_extremes(Path(cine), count)
    plan = {}
    for phase in wanted:
        name = phase.zfill(len(str(count))) if phase.isdecimal() else phase.upper()
        if name in ("ED", "ES") and name not in known:
            raise UserError(
                f"{cine}: phase {name}, and nothing tells which that is. An Info.cfg beside the cine would, or the "
                "curve of its volumes: give a bundle that measures it (--bundle), or the numbers of the phases."
            )
        rule = f"the phases of a cine are 1 to {count}, ED and ES"
        require(name in {*numbers, *known}, f"{cine}: phase {phase}", rule, "choose of these")
        plan[name] = numbers[name] if name in numbers else known[name]
    return plan


def _find_extremes(cine: Path, count: int) -> dict[str, int]:
    """The phases at ED and ES by ACDC's Info.cfg, which counts from 1; none without it."""
    file = next((path for path in cine.parent.iterdir() if path.name.casefold() == INFO_NAME), cine.parent / "Info.cfg")
    info = read_info(file)
    known = {name: int(info[name.lower()]) for name in ("ED", "ES") if info}
    told = ", ".join(f"{name} is phase {phase}" for name, phase in known.items())
    inside = all(1 <= phase <= count for phase in known.values())
    require(inside, f"{file}: {told}", f"{cine} has the phases 1 to {count}", "correct the numbers, or remove the file")
    return known


def _name_subjects(cines: Sequence[str], folder: Path) -> dict[str, str]:
    """What each cine is called in the names of files."""
    stems = {cine: without_type(Path(cine).absolute()) for cine in cines}
    names = {cine: name_subject(stem.name) for cine, stem in stems.items()}
    repeated = {name for name, count in Counter(names.values()).items() if count > 1}
    for cine, stem in stems.items():
        if names[cine] in repeated:
            names[cine] = "_".join(stem.relative_to(folder).parts)
    return names
