"""Where the Sunnybrook Cardiac Data lie, and their checksums. Importing this table imports nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

HOME = "https://www.cardiacatlas.org/sunnybrook-cardiac-data/"
MIRROR_HOME = "https://github.com/mshunshin/SegNetCMR"


class RemoteFile(NamedTuple):
    """A file of a data set.

    Attributes:
        name: The file's name here.
        url: The address from which it comes.
        sha256: The SHA-256 of the file.
        content: The SHA-256 of a listing, as ``sha256sum`` writes it, of the PNG files below ``Data`` in an archive
            whose own bytes are not stable.
    """

    name: str
    url: str
    sha256: str | None = None
    content: str | None = None


# The Cardiac Atlas Project publishes links (their tokens are part of the public address) but no checksums. Both are
# those that torch-em has in torch_em/data/datasets/medical/scd.py. We could check two independently: a second project
# recorded that of SCD_IMAGES_01.zip, and the table's is that of a public copy once its line ends are CR LF.
_SHARE = "https://www.cardiacatlas.org/share/download.php?id={}&token={}&download"
_LINKS = {
    "scd_patientdata.csv": _SHARE.format(66, "Y1D66ieUdbXFlqmZ4icHJheJy44MXUPY"),
    "SCD_ManualContours.zip": _SHARE.format(61, "gFjv8psvCQu2vDYldUW9TYUIDic11fDt"),
    "SCD_IMAGES_01.zip": _SHARE.format(98, "kUVtCTMzfjlHwunzFYST7yNGFnlUtV7W"),
    "SCD_IMAGES_02.zip": _SHARE.format(99, "2euh4WH03DynHi9Y5elb2HSWJaJIeWER"),
    "SCD_IMAGES_03.zip": _SHARE.format(100, "eT37AbXslu1JQp1GSZy2BmmWzWmXDdfx"),
    "SCD_IMAGES_04.zip": _SHARE.format(101, "Qn0dY2lHTyTIBF5qNHRkbHdUSnWnS4Yy"),
    "SCD_IMAGES_05.zip": _SHARE.format(102, "nYALJl6kS6cj5jgK9R8CKDpgQwZn1pm3"),
}
_SHA256 = {
    "scd_patientdata.csv": "c39eb11924d021e8ec51bb984daa57d1adadcc8eb7e342640181ce151dae5ded",
    "SCD_ManualContours.zip": "93d8e06dfa53fc384e78810aeac86c336b5bdecbff1c9c175ec9254851cc2162",
    "SCD_IMAGES_01.zip": "708ce04db1ac33948a00b9052d44e9548c6807121a4841f4c35080d6db127b72",
    "SCD_IMAGES_02.zip": "ea97bd11dfc1154bdcf02b6466c00637bc7e0dc04b5ddc3d94d68a7cd7a3e6a5",
    "SCD_IMAGES_03.zip": "5b065fadef1b523bbabfec0d85327f375f743f2dd72810a5927b21b834b45deb",
    "SCD_IMAGES_04.zip": "2a8d7054d9b89b5af4c9764b4b04eecee57b61b71b69f5ac69ec12629e9a615c",
    "SCD_IMAGES_05.zip": "e65a818fe89c665c344317222a052360e210936c81f89ceb9d36e8e3c6e2d6e9",
}
# GitHub packs an archive anew whenever it likes: of the mirror we know the 1610 PNG files, not the archive.
_MIRROR = RemoteFile(
    "SegNetCMR-master.zip",
    f"{MIRROR_HOME}/archive/refs/heads/master.zip",
    content="03121125bef1627fbc4038a6fcb59501ca57c595b7ecd160a933b096d7a962fe",
)

#: The files of each layout.
FILES: Mapping[str, tuple[RemoteFile, ...]] = {
    "dicom": tuple(RemoteFile(name, link, _SHA256[name]) for name, link in _LINKS.items()),
    "png": (_MIRROR,),
}
