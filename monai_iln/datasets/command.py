"""The options of ``monai-iln download``, ``prepare``, ``check`` and ``phantom``, and what follows from them."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from monai_iln.datasets import phantom, sunnybrook_files
from monai_iln.datasets.datalist import check_datalist, read_datalist, slice_items
from monai_iln.datasets.prepare import prepare_folders, prepare_sunnybrook
from monai_iln.datasets.quality.reasons import REASONS
from monai_iln.datasets.readers.layouts import CONTOURED_STRUCTURES, FOLDER_LAYOUTS, SUNNYBROOK_LAYOUTS


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four commands; what they leave in ``run`` is to be called with the result."""
    _add_download(commands.add_parser("download", help="fetch data that are public without registration"))
    _add_prepare(commands.add_parser("prepare", help="turn raw data into NIfTI stacks and a datalist"))
    check = commands.add_parser("check", help="look into every file that a datalist names")
    check.add_argument("datalist", type=Path, help="datalist.json, or its folder")
    check.set_defaults(run=_check)
    _add_phantom(commands.add_parser("phantom", help="write synthetic hearts in the layout of a data set"))


def _add_download(parser: argparse.ArgumentParser) -> None:
    data = parser.add_subparsers(required=True, metavar="DATASET").add_parser(
        "sunnybrook",
        help="Sunnybrook Cardiac Data",
        description="Fetch the Sunnybrook Cardiac Data. Run it again to go on where it was interrupted.",
    )
    data.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to fill")
    data.add_argument(
        "--layout", choices=sunnybrook_files.FILES, default="dicom", help="default: dicom; png is 50 times smaller"
    )
    data.add_argument("--mirror", metavar="URL", help="address of a folder with the same files")
    data.add_argument("--checksums", type=Path, metavar="FILE", help="expected SHA-256, as sha256sum writes them")
    data.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: 30")
    data.set_defaults(run=_download)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--source",
        type=Path,
        required=True,
        nargs="+",
        metavar="PATH",
        help="folders or archives with the data as downloaded; several where they are apart",
    )
    common.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    common.add_argument(
        "--folds",
        type=_folds,
        default=3,
        metavar="K|FILE",
        help="number of folds, balanced over pathologies, or a JSON file with a list of subjects for each (default: 3)",
    )
    common.add_argument("--seed", type=int, default=0, help="seed of the folds (default: 0)")
    free = [name for name, reason in REASONS.items() if reason.action != "left out"]
    for action, verb in (("keep", "exclude nothing"), ("exclude", "exclude")):
        usual = ", ".join(name for name in free if REASONS[name].action != action)
        common.add_argument(
            f"--{action}", nargs="+", default=[], metavar="REASON", help=f"findings that shall {verb}, such as {usual}"
        )
    datasets = parser.add_subparsers(required=True, metavar="DATASET")
    left = datasets.add_parser(
        "sunnybrook",
        parents=[common],
        help="Sunnybrook Cardiac Data, left ventricle",
        description="Turn Sunnybrook data, as downloaded or from the PNG mirror, into NIfTI stacks and datalist.json.",
    )
    left.add_argument("--label", choices=CONTOURED_STRUCTURES, default="endocardium", help="default: endocardium")
    left.add_argument(
        "--layout",
        choices=SUNNYBROOK_LAYOUTS,
        help="DICOM and text contours, or PNG images (SegNetCMR); only needed where the source holds both",
    )
    left.set_defaults(run=_prepare, prepare=prepare_sunnybrook, options=("label", "layout"))
    right = datasets.add_parser(
        "folders",
        aliases=["right-ventricle", "rv"],
        parents=[common],
        help="a folder for each subject: ACDC, M&Ms, RVSC, or one's own NIfTI or Analyze files",
        description="Turn data with a folder for each subject into NIfTI stacks and datalist.json.",
    )
    right.add_argument(
        "--label",
        type=_label,
        default="right-ventricle",
        help="name or value of the structure (default: right-ventricle)",
    )
    right.add_argument("--layout", choices=FOLDER_LAYOUTS, help="only needed where it cannot be told")
    right.add_argument("--image", metavar="PATTERN", help="such as '{subject}/{phase}.nii.gz', below the source")
    right.add_argument("--mask", metavar="PATTERN", help="such as '{subject}/{phase}_rv.nii.gz'")
    right.set_defaults(run=_prepare, prepare=prepare_folders, options=("label", "layout", "image", "mask"))


def _add_phantom(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--layout", choices=phantom.LAYOUTS, default="official", help="default: official")
    for name, default in (("subjects", 6), ("slices", 8), ("phases", 10), ("size", 192), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    parser.set_defaults(run=_phantom)


def _folds(text: str) -> int | Path:
    return int(text) if text.lstrip("-").isdigit() else Path(text)


def _label(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _download(options: argparse.Namespace) -> None:
    from monai_iln.datasets.download import download_sunnybrook

    folder = download_sunnybrook(
        options.output,
        options.layout,
        mirror=options.mirror,
        checksums=options.checksums,
        timeout=options.timeout,
        progress=True,
    )
    print(f"{folder}: complete. Next: monai-iln prepare sunnybrook --source {folder} --output DIR")


def _prepare(options: argparse.Namespace) -> None:
    named: dict[str, Any] = {name: getattr(options, name) for name in options.options}
    datalist = options.prepare(
        options.source,
        options.output,
        **named,
        folds=options.folds,
        seed=options.seed,
        keep=options.keep,
        exclude=options.exclude,
        progress=True,
    )
    _summarize(datalist, read_datalist(datalist))


def _check(options: argparse.Namespace) -> None:
    _summarize(options.datalist, check_datalist(options.datalist, progress=True))


def _summarize(datalist: Path, items: list[dict[str, Any]]) -> None:
    folds = Counter({item["subject"]: item["fold"] for item in items}.values())
    sizes = "/".join(str(folds[fold]) for fold in sorted(folds))
    slices = len(slice_items(items))
    print(f"{datalist}: {slices} slices of {folds.total()} subjects, folds of {sizes} subjects")


def _phantom(options: argparse.Namespace) -> None:
    numbers = {name: getattr(options, name) for name in ("subjects", "slices", "phases", "size", "seed")}
    print(phantom.write_phantom(options.output, layout=options.layout, **numbers, progress=True))
