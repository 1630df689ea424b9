"""Where the Sunnybrook Cardiac Data lie, and their checksums. Importing this table imports nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

HOME = "https://www.cardiacatlas.org/sunnybrook-cardiac-data/"
MIRROR_HOME = "https://github.com/mshunshin/SegNetCMR"


class RemoteFile(NamedTuple):
    """A file of a data set: its name here, where it lies, and what is known of its content.

    ``sha256`` is that of the file; ``content`` that of a listing, as ``sha256sum`` writes it, of the PNG files below
    ``Data`` in an archive whose own bytes are not stable.
    """

    name: str
    url: str
    sha256: str | None = None
    content: str | None = None


def _cap(name: str, number: int, token: str, sha256: str) -> RemoteFile:
    url = f"https://www.cardiacatlas.org/share/download.php?id={number}&token={token}&download"
    return RemoteFile(name, url, sha256)


# The Cardiac Atlas Project publishes links (their tokens are part of the public address) but no checksums. Both are
# those that torch-em has in torch_em/data/datasets/medical/scd.py. We could check two independently: a second project
# recorded that of SCD_IMAGES_01.zip, and the table's is that of a public copy once its line ends are CR LF.
# GitHub packs an archive anew whenever it likes: of the mirror we know the 1610 PNG files, not the archive.
FILES: Mapping[str, tuple[RemoteFile, ...]] = {
    "dicom": (
        _cap(
            "scd_patientdata.csv",
            66,
            "Y1D66ieUdbXFlqmZ4icHJheJy44MXUPY",
            "c39eb11924d021e8ec51bb984daa57d1adadcc8eb7e342640181ce151dae5ded",
        ),
        _cap(
            "SCD_ManualContours.zip",
            61,
            "gFjv8psvCQu2vDYldUW9TYUIDic11fDt",
            "93d8e06dfa53fc384e78810aeac86c336b5bdecbff1c9c175ec9254851cc2162",
        ),
        _cap(
            "SCD_IMAGES_01.zip",
            98,
            "kUVtCTMzfjlHwunzFYST7yNGFnlUtV7W",
            "708ce04db1ac33948a00b9052d44e9548c6807121a4841f4c35080d6db127b72",
        ),
        _cap(
            "SCD_IMAGES_02.zip",
            99,
            "2euh4WH03DynHi9Y5elb2HSWJaJIeWER",
            "ea97bd11dfc1154bdcf02b6466c00637bc7e0dc04b5ddc3d94d68a7cd7a3e6a5",
        ),
        _cap(
            "SCD_IMAGES_03.zip",
            100,
            "eT37AbXslu1JQp1GSZy2BmmWzWmXDdfx",
            "5b065fadef1b523bbabfec0d85327f375f743f2dd72810a5927b21b834b45deb",
        ),
        _cap(
            "SCD_IMAGES_04.zip",
            101,
            "Qn0dY2lHTyTIBF5qNHRkbHdUSnWnS4Yy",
            "2a8d7054d9b89b5af4c9764b4b04eecee57b61b71b69f5ac69ec12629e9a615c",
        ),
        _cap(
            "SCD_IMAGES_05.zip",
            102,
            "nYALJl6kS6cj5jgK9R8CKDpgQwZn1pm3",
            "e65a818fe89c665c344317222a052360e210936c81f89ceb9d36e8e3c6e2d6e9",
        ),
    ),
    "png": (
        RemoteFile(
            "SegNetCMR-master.zip",
            "https://github.com/mshunshin/SegNetCMR/archive/refs/heads/master.zip",
            content="03121125bef1627fbc4038a6fcb59501ca57c595b7ecd160a933b096d7a962fe",
        ),
    ),
}
