"""``monai-iln cine``: volumes over a heart beat, by one bundle or by those of both ventricles."""

from __future__ import annotations

import argparse

from monai_iln.bundle import BUNDLES
from monai_iln.commands.options import add_output, describe
from monai_iln.errors import UserError

_OPTIONS = {
    "series": "the stack, of several in a folder of DICOM files: its number in the list that is told, or its UID",
    "anonymize": "the table of pseudonyms, by which files and tables then call the cines",
    "device": "the device: cpu or cuda (default: the GPU if there is one)",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Segment all phases of cines: masks, volume curves, ED and ES, ejection fractions, and what is doubted.",
        "monai-iln cine patient001 --output measured",
        "monai-iln cine SCD_IMAGES_01 --bundle lv_short_axis_iln rv_short_axis_iln --output measured",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="the cines: a NIfTI, NRRD or MetaImage file of four axes, a folder of DICOM files, or one of subjects",
    )
    parser.add_argument(
        "--bundle",
        nargs="+",
        default=["lv_short_axis_iln"],
        metavar="NAME",
        help=f"the bundles: {', '.join(BUNDLES)} of this package, or folders such as ./NAME "
        "(default: lv_short_axis_iln)",
    )
    add_output(parser, "the folder to make")
    parser.add_argument(
        "--slices",
        nargs="+",
        metavar="RANGE",
        help="the slices that show the heart, counted as in the pictures: 2-9 of the one stack, or a table with the "
        "columns stack, first and last; one for all bundles, or one for each in their order",
    )
    for name, meaning in _OPTIONS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=meaning)
    parser.set_defaults(run=_measure)


def _measure(options: argparse.Namespace) -> None:
    from monai_iln.cine.curves import BEYOND_THE_HEART, DOUBTS
    from monai_iln.cine.segment import segment_cines

    given = {name: getattr(options, name) for name in _OPTIONS}
    if given["device"] is not None:
        _require_device(given["device"])
        given["device"] = f"$torch.device({given['device']!r})"
    cines = segment_cines(options.source, options.bundle, options.output, options.slices, **given)
    doubts = set()
    for name, cine in cines.items():
        print(name)
        for curve in cine.curves:
            print(f"  {curve.tell()}")
            doubts |= {*curve.doubts}
    for word in sorted(doubts):
        print(f"{word}: {DOUBTS[word]}")
    if doubts & BEYOND_THE_HEART:
        print(
            f"The pictures in {options.output} number the slices. Name those that show the ventricle: --slices 2-9 for "
            "one cine, a table with the columns stack, first and last for several; with several bundles one for all or "
            "one for each."
        )
    print(f"{options.output}: complete. subjects.csv and phases.csv hold the numbers.")


def _require_device(name: str) -> None:
    import torch

    try:
        float(torch.zeros(1, device=name))  # which one that only describes tensors cannot tell
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(f"device {name}: cannot be used ({reason}). Give cpu, or cuda where there is a GPU.") from error
