"""``monai-iln prepare``: raw data in, NIfTI stacks and a datalist out."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

from monai_iln.commands.options import COUNT, add_output, describe
from monai_iln.datasets.quality.reasons import REASONS
from monai_iln.datasets.readers.layouts import CONTOURED_STRUCTURES, FOLDER_LAYOUTS, SUNNYBROOK_LAYOUTS
from monai_iln.limits import SEED


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the kinds of data as subcommands; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Turn raw data into NIfTI stacks and datalist.json, with a report on bad data.",
        "monai-iln prepare sunnybrook --source downloads --output prepared",
        "monai-iln prepare folders --source ACDC/training --output prepared",
        "monai-iln prepare decathlon --source Task04_Hippocampus --output prepared",
    )
    datasets = parser.add_subparsers(required=True, metavar="DATASET")
    _add_sunnybrook(datasets.add_parser("sunnybrook", help="Sunnybrook Cardiac Data, left ventricle"))
    _add_folders(
        datasets.add_parser(
            "folders",
            aliases=["right-ventricle", "rv"],
            help="ACDC, M&Ms, EMIDEC, nnU-Net, RVSC, CHLA, or a folder of volumes or pictures for each subject",
        )
    )
    _add_decathlon(datasets.add_parser("decathlon", help="a list of volumes, dataset.json, without subjects or folds"))


def _add_sunnybrook(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Turn Sunnybrook data, as downloaded or from the PNG mirror, into NIfTI stacks and datalist.json.",
        "monai-iln prepare sunnybrook --source downloads --output prepared --label endocardium",
    )
    _add_common(parser)
    parser.add_argument(
        "--label",
        choices=CONTOURED_STRUCTURES,
        default="endocardium",
        help="the structure to label (default: endocardium)",
    )
    parser.add_argument(
        "--layout",
        choices=SUNNYBROOK_LAYOUTS,
        help="DICOM and text contours, or the PNG images of SegNetCMR; only needed where the source holds both",
    )
    parser.set_defaults(run=_prepare_sunnybrook)


def _add_folders(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Turn short-axis stacks, as volumes or as pictures of subjects, into NIfTI stacks and datalist.json.",
        "monai-iln prepare folders --source ACDC/training --output prepared --label left-ventricle",
        "monai-iln prepare folders --source ACDC/training --output prepared "
        "--label left-ventricle myocardium right-ventricle",
        "monai-iln prepare folders --source mine --output prepared --image '{subject}/{phase}.nii.gz' "
        "--mask '{subject}/{phase}_rv.nii.gz'",
    )
    _add_common(parser)
    parser.add_argument(
        "--label",
        type=_label,
        default=["right-ventricle"],
        nargs="+",
        metavar="NAME|VALUE",
        help="the structure to label, by its name or its value in the label files (default: right-ventricle); several "
        "make one map with the values 1, 2, ... in this order",
    )
    parser.add_argument(
        "--layout", choices=FOLDER_LAYOUTS, help="the data set; only needed where the files do not tell"
    )
    parser.add_argument("--image", metavar="PATTERN", help="the names of the images below the source, see the example")
    parser.add_argument("--mask", metavar="PATTERN", help="the names of the label files below the source")
    parser.set_defaults(run=_prepare_folders)


def _add_decathlon(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Turn a decathlon list (dataset.json) into a datalist with subjects and folds. The volumes stay as they are.",
        "monai-iln prepare decathlon --source Task04_Hippocampus --output prepared",
        "monai-iln prepare decathlon --source mine/dataset.json --output prepared --subject '{subject}_{phase}'",
    )
    parser.add_argument("--source", type=Path, required=True, metavar="PATH", help="the list, or the folder with it")
    parser.add_argument(
        "--subject",
        default="{subject}",
        metavar="PATTERN",
        help="the part of an image's name without type that is the subject; {phase} and * stand for other parts "
        "(default: the whole name)",
    )
    _add_output_and_folds(parser)
    parser.set_defaults(run=_prepare_decathlon)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        nargs="+",
        metavar="PATH",
        help="the folders or archives with the data as downloaded; several where they are apart",
    )
    _add_output_and_folds(parser)
    parser.add_argument(
        "--anonymize",
        type=Path,
        metavar="FILE",
        help="the key, a CSV of pseudonyms and subjects, made if it is missing: subjects are called by pseudonyms, and "
        "exclusions.csv names no file",
    )
    free = {name: reason.action for name, reason in REASONS.items() if reason.action != "left out"}
    for action, effect in (("keep", "exclude nothing"), ("exclude", "exclude their frames")):
        usual = ", ".join(name for name, default in free.items() if default != action)
        meaning = f"findings that shall {effect}: {usual}"
        parser.add_argument(f"--{action}", nargs="+", default=[], metavar="REASON", help=meaning)


def _add_output_and_folds(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "the folder to make")
    parser.add_argument(
        "--folds",
        type=_folds,
        default=3,
        metavar="K|FILE",
        help="the number of folds, balanced over pathologies, or a JSON file with a list of subjects for each "
        "(default: 3)",
    )
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="the seed of the folds (default: 0)")
    parser.add_argument("--jobs", type=COUNT, metavar="N", help="the number of processes (default: one a core)")
    parser.add_argument(
        "--backend", choices=("loky", "ray"), default="loky", help="this machine, or a Ray cluster (default: loky)"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="the address of the Ray cluster")


def _folds(text: str) -> int | Path:
    if os.path.exists(text) and not text.isdecimal():  # noqa: PTH110 (Path's raises for a text too long for a name)
        return Path(text)
    try:
        return int(COUNT(text))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or give a JSON file that is there") from error


def _label(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _prepare_sunnybrook(options: argparse.Namespace) -> None:
    from monai_iln.datasets import prepare_sunnybrook

    _prepare(prepare_sunnybrook, options, **_findings(options), label=options.label, layout=options.layout)


def _prepare_folders(options: argparse.Namespace) -> None:
    from monai_iln.datasets import prepare_folders

    _prepare(
        prepare_folders,
        options,
        **_findings(options),
        label=options.label,
        layout=options.layout,
        image=options.image,
        mask=options.mask,
    )


def _prepare_decathlon(options: argparse.Namespace) -> None:
    from monai_iln.datasets import prepare_decathlon

    _prepare(prepare_decathlon, options, subject=options.subject)


def _findings(options: argparse.Namespace) -> dict[str, Any]:
    """What is done about findings, and about names."""
    return {"keep": options.keep, "exclude": options.exclude, "anonymize": options.anonymize}


def _prepare(prepare: Any, options: argparse.Namespace, **own: Any) -> None:
    from monai_iln.datasets import DataWarning, read_datalist
    from monai_iln.datasets.datalist import summarize
    from monai_iln.parallel import Workers

    warnings.simplefilter("always", DataWarning)  # several are raised at one place
    datalist = prepare(
        options.source,
        options.output,
        **own,
        folds=options.folds,
        seed=options.seed,
        workers=Workers(options.jobs, options.backend, options.address),
        progress=True,
    )
    print(summarize(datalist, read_datalist(datalist)))
