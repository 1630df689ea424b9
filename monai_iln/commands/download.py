"""``monai-iln download``: data that are public without registration."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from monai_iln.commands.options import add_output, describe
from monai_iln.datasets.sunnybrook_files import FILES
from monai_iln.limits import TIMEOUT


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the data sets as subcommands; what they leave in ``run`` is to be called with the result."""
    example = "monai-iln download sunnybrook --output downloads --layout png"
    describe(parser, "Fetch data that are public without registration.", example)
    data = parser.add_subparsers(required=True, metavar="DATASET").add_parser(
        "sunnybrook", help="Sunnybrook Cardiac Data"
    )
    describe(data, "Fetch the Sunnybrook Cardiac Data. Run it again to go on where it was interrupted.", example)
    add_output(data, "the folder to fill")
    data.add_argument(
        "--layout",
        choices=FILES,
        default="dicom",
        help="the official DICOM archives, or the PNG mirror, which is 50 times smaller (default: dicom)",
    )
    data.add_argument("--mirror", metavar="URL", help="the address of another folder with the same files")
    data.add_argument(
        "--checksums", type=Path, metavar="FILE", help="a file of expected SHA-256, as sha256sum writes them"
    )
    data.add_argument(
        "--timeout",
        type=TIMEOUT,
        default=30.0,
        metavar="SECONDS",
        help="the longest time without an answer, before the download is tried again (default: 30)",
    )
    data.set_defaults(run=_download)


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
    print(f"{folder}: complete. Next: monai-iln prepare sunnybrook --source {shlex.quote(str(folder))} --output DIR")
