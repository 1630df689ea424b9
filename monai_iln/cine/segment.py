"""Cines segmented by bundles: their own inference, and both ventricles of a heart joined."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from monai_iln.bundle import find_bundle
from monai_iln.cine.curves import compare_strokes
from monai_iln.cine.files import MeasuredCine, read_tables, write_tables
from monai_iln.cine.pictures import find_limits, scale_grey, write_pictures
from monai_iln.datasets.cines import PHASE_KEY, read_cine, split_phases
from monai_iln.datasets.formats.volumes import read_volume
from monai_iln.datasets.inference import find_stacks
from monai_iln.datasets.pseudonyms import name_stacks, require_apart
from monai_iln.datasets.ranges import add_ranges
from monai_iln.datasets.stacks import DataWarning
from monai_iln.errors import hide_told_errors, require
from monai_iln.extras import require_extra
from monai_iln.files import emptied_unless_filled
from monai_iln.run_files import MASK_ENDING

_SIDES = ("left ventricle", "right ventricle")


def segment_cines(
    source: Path | str,
    bundles: Sequence[Path | str],
    output: Path | str,
    slices: str | Sequence[str] | None = None,
    **options: Any,
) -> dict[str, MeasuredCine]:
    """Segment cines by the inference of one bundle or several, and measure them.

    One bundle writes into ``output`` what its ``inference.yaml`` writes. Of several, each writes into a folder there of
    its own, and ``output`` itself gets tables and pictures of all structures. Where one is a left and one a right
    ventricle, their stroke volumes are compared. A structure that several bundles segment is called after them, too.

    Args:
        source: The cines, as for :func:`~monai_iln.datasets.find_stacks`.
        bundles: The folders of the bundles, or names of this package's.
        output: The folder to make. It is there whole or not at all, unless the program is killed.
        slices: The slices that show the heart, see :func:`~monai_iln.datasets.add_ranges`: for all bundles, or for
            each of them in their order.
        options: Further ids of the inference with their values, such as ``series`` and ``anonymize``.

    Returns:
        The measured cines by their names.

    Raises:
        UserError: If there is no cine, ``output`` is in use, the slices are not those of the cines, or an inference
            raises it.

    Example:
        >>> cines = segment_cines("patient001", ["lv_short_axis_iln"], "measured")  # doctest: +SKIP
        >>> cines["patient001"].curves[0].ejection_fraction  # doctest: +SKIP
        57.1
    """
    output = Path(output)
    with emptied_unless_filled(output):
        return _segment(source, bundles, output, slices, options)


def _segment(
    source: Path | str,
    bundles: Sequence[Path | str],
    output: Path,
    slices: str | Sequence[str] | None,
    options: Mapping[str, Any],
) -> dict[str, MeasuredCine]:
    """What :func:`segment_cines` does."""
    folders = [find_bundle(bundle) for bundle in bundles]
    names = [folder.name for folder in folders]
    alone = len(set(names)) == len(names)
    require(alone, f"bundles {', '.join(names)}", "each has a folder of its name in the output", "rename one")
    given = {key: value for key, value in options.items() if value is not None}
    if "anonymize" in given:
        require_apart(given["anonymize"], output)  # an inference knows its own folder alone
    ranges = _share_out(slices, len(folders))
    _require_cines(source, given.get("series"), ranges)
    homes = [output / name for name in names] if len(names) > 1 else [output]
    for folder, home, own in zip(folders, homes, ranges, strict=True):
        named = {} if own is None else {"slices": own}
        _infer(folder, dataset_dir=str(source), output_dir=str(home), **given, **named)
    tables = [read_tables(home) for home in homes]
    if len(homes) == 1:
        return tables[0]
    joined = _join(tables, [home.name for home in homes])
    series = given.get("series")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the inference has told
        hidden = name_stacks(source, given.get("anonymize"), output, series)
        for stack in find_stacks(source, series):
            name = hidden.get(stack, str(Path(stack).absolute()))
            if name in joined:
                _draw(output, joined[name], read_cine(stack, series).pixels)
    write_tables(output, joined.values())
    return joined


def _share_out(slices: str | Sequence[str] | None, bundles: int) -> Sequence[str | None]:
    """The slices that each bundle gets."""
    if slices is None or isinstance(slices, str):
        return [slices] * bundles
    require(
        len(slices) in (1, bundles),
        f"slices {' '.join(slices)}, where the number of bundles is {bundles}",
        "slices are those of all bundles, or each bundle has its own",
        "give one range or table, or one for each bundle",
    )
    return list(slices) * (bundles // len(slices))


def _require_cines(source: Path | str, series: int | str | None, ranges: Sequence[str | None]) -> None:
    """Refuse stacks of one phase, and slices that are not there, before anything is segmented."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the inference tells
        stacks = [{"image": stack} for stack in find_stacks(source, series)]
        for slices in dict.fromkeys(ranges):
            items = split_phases(add_ranges(stacks, slices, source), series=series)
    found, rule = f"{source}: no cine among the stacks", "volumes over a beat need several phases"
    require(
        any(PHASE_KEY in item for item in items),
        found,
        rule,
        "give a cine; configs/inference.yaml of a bundle, as monai-iln bundle writes it, segments stacks of one phase",
    )


def find_extremes(source: Path | str, bundle: Path | str, series: int | str | None = None) -> dict[str, dict[str, int]]:
    """Find which phases of cines are ED and ES, by the volume that a bundle measures, and print it with doubts.

    Args:
        source: The cines, as for :func:`segment_cines`.
        bundle: The bundle.
        series: The stack, as for :func:`~monai_iln.datasets.read_cine`.

    Returns:
        The numbers of the phases, from 1, by ``"ED"`` and ``"ES"``, by the absolute path of the cine.
    """
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as said:
        cines = segment_cines(source, [bundle], Path(folder) / "measured", series=series)
    for line in said.getvalue().splitlines():
        if folder not in line:  # what lies there is gone
            print(line)
    for name, cine in cines.items():
        print(f"{name}: {cine.curves[0].tell()}")
    curves = {name: cine.curves[0] for name, cine in cines.items()}
    return {name: {"ED": curve.ed, "ES": curve.es} for name, curve in curves.items()}


def _infer(bundle: Path, **values: Any) -> None:
    """Run the inference of a bundle, as ``python -m monai.bundle run`` does."""
    require_extra("a bundle", "bundle", "yaml", "matplotlib", "PIL", "tqdm")
    from monai.bundle import ConfigWorkflow

    configuration = bundle / "configs" / "inference.yaml"
    got, rule = f"{bundle}: no configs/inference.yaml", "cines are segmented by the inference of a bundle"
    require(configuration.is_file(), got, rule, "give the folder of a bundle, such as monai-iln bundle writes")
    workflow = ConfigWorkflow(str(configuration), workflow_type="infer", bundle_root=str(bundle), **values)
    workflow.initialize()
    hide_told_errors()
    workflow.run()
    workflow.finalize()


def _join(tables: Sequence[Mapping[str, MeasuredCine]], folders: Sequence[str]) -> dict[str, MeasuredCine]:
    """The structures of every cine, of all bundles, with stroke volumes compared."""
    joined: dict[str, MeasuredCine] = {}
    for table, folder in zip(tables, folders, strict=True):
        for name, cine in table.items():
            own = joined.setdefault(name, MeasuredCine([], []))
            own.curves.extend(cine.curves)
            own.masks.extend(f"{folder}/{mask}" for mask in cine.masks)
    for cine in joined.values():
        structures = [curve.structure for curve in cine.curves]
        for place, (curve, mask) in enumerate(zip(cine.curves, cine.masks, strict=True)):
            if structures.count(curve.structure) > 1:  # rows of tables are told apart by stack and structure
                cine.curves[place] = replace(curve, structure=f"{curve.structure}, {Path(mask).parts[0]}")
        places = [structures.index(side) for side in _SIDES if structures.count(side) == 1]
        if len(places) == 2:
            left, right = places
            cine.curves[left], cine.curves[right] = compare_strokes(cine.curves[left], cine.curves[right])
    return joined


def _draw(output: Path, cine: MeasuredCine, pixels: NDArray[Any]) -> None:
    """Write the pictures of all structures of a cine."""
    masks = []
    for place, file in enumerate(cine.masks):
        labels, _ = read_volume(output / file)
        masks.append(labels == 1 + cine.masks[:place].count(file))
    stem = output.joinpath(*Path(cine.masks[0].removesuffix(MASK_ENDING)).parts[1:])
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_pictures(stem, scale_grey(pixels, find_limits(pixels[..., 0])), masks, cine.curves)
