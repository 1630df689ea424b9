"""Download of the data that are public without registration: Sunnybrook Cardiac Data, in both layouts."""

from __future__ import annotations

import hashlib
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pooch
import requests
from tqdm import tqdm

from monai_iln.errors import UserError

HOME = "https://www.cardiacatlas.org/sunnybrook-cardiac-data/"
_MIRROR_HOME = "https://github.com/mshunshin/SegNetCMR"
CHECKSUM_FILE = "checksums.txt"
_PAUSES = (1.0, 2.0, 4.0)  # seconds between tries
_MIN_BYTES_PER_SECOND = 1000  # slower than any line that could bring 2 GB: a server that only drips
_CHUNK = 1024  # requests waits until it has so much, so a drip is seen only after as many bytes
_AGAIN = (408, 416, 425, 429)  # statuses below 500 that may pass


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


def download_sunnybrook(
    output: Path | str,
    layout: str = "dicom",
    *,
    mirror: str | None = None,
    checksums: Mapping[str, str] | Path | None = None,
    timeout: float = 30.0,
    progress: bool = False,
) -> Path:
    """Download the Sunnybrook Cardiac Data. What is there already and right is not fetched again.

    An interrupted download goes on where it stopped, in the same call or the next. Files get their names only when
    they are whole and their checksums right; a wrong one that has such a name is renamed to end in ``.wrong``.
    ``checksums.txt`` beside them says what was got, for ``sha256sum -c``.

    Args:
        output: folder, made where it is missing. It may be given to ``prepare`` as it is.
        layout: ``"dicom"``, DICOM and contours from the Cardiac Atlas Project, some 2 GB, or ``"png"``, the 805
            labelled frames as 8-bit images from SegNetCMR on GitHub, some 35 MB.
        mirror: address of a folder with files of the same names, to be used instead.
        checksums: the SHA-256 of files by their names, or a file of them as ``sha256sum`` writes it; they go before
            those that are known here.
        timeout: seconds after which a silent server is given up.
        progress: whether to show a bar for each file.

    Returns:
        The folder.

    Raises:
        UserError: if a file cannot be had or is not the right one, or the folder cannot be written.
    """
    output = Path(output)
    if layout not in FILES:
        raise UserError(f"layout {layout!r}: Sunnybrook data can be downloaded as {' or '.join(FILES)}. Choose one.")
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise UserError(
            f"{mirror}: no address of a mirror. It starts with http:// or https://. Data that are on this machine "
            "need no download: give them to monai-iln prepare sunnybrook --source."
        )
    expected = read_checksums(checksums) if isinstance(checksums, Path) else dict(checksums or {})
    files = [file._replace(sha256=expected.pop(file.name, file.sha256)) for file in FILES[layout]]
    if expected:
        raise UserError(
            f"checksums: {sorted(expected)[0]} is no file of the layout {layout}. Its files are "
            f"{', '.join(file.name for file in files)}: give the checksums of those."
        )
    if mirror is not None:
        files = [file._replace(url=f"{mirror.rstrip('/')}/{file.name}") for file in files]
    pooch.get_logger().setLevel("WARNING")  # it would tell of every file, and of checksums that are not known
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file in files:
            _fetch(file, output, timeout, progress)
        listing = "".join(f"{pooch.file_hash(str(output / file.name))}  {file.name}\n" for file in files)
        (output / CHECKSUM_FILE).write_text(listing)
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error}). Free the disk, or choose another folder. What has come so far is "
            "kept: run the same command again to go on."
        ) from error
    return output


def read_checksums(path: Path) -> dict[str, str]:
    """The SHA-256 of files by their names, from a file as ``sha256sum`` writes it.

    Raises:
        UserError: if the file is missing or has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Give a text file as sha256sum writes it.") from error
    checksums = {}
    for line in filter(str.strip, lines):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S.*)", line)
        if match is None:
            raise UserError(
                f"{path}: the line {line[:100]!r}. Each is a SHA-256, two spaces and a file name, as sha256sum writes "
                "it: mend or remove the line."
            )
        checksums[match[2].strip()] = match[1]
    return checksums


class _WrongFileError(Exception):
    """What came is whole, but not what it should be."""


def _fetch(file: RemoteFile, folder: Path, timeout: float, progress: bool) -> None:
    """Get one file, by as many tries as make sense."""
    path, part = folder / file.name, folder / f"{file.name}.part"
    wrong = path.with_name(f"{file.name}.wrong")
    if file.sha256 is None and path.exists():  # else pooch compares the checksum
        try:
            _check(file, path)
        except _WrongFileError:
            path.replace(wrong)
    pauses = iter(_PAUSES)
    while True:
        resumed = part.exists()
        cause: Exception
        try:
            pooch.retrieve(
                file.url,
                known_hash=file.sha256 and f"sha256:{file.sha256}",
                fname=file.name,
                path=folder,
                downloader=_downloader(file, part, timeout, progress),
            )
            return
        except requests.RequestException as error:
            what = f"{type(error).__name__}: {error}"
            cause = error
            status = None if error.response is None else error.response.status_code
            if status is None:  # a server that is silent once is silent again; ValueErrors are of impossible addresses
                again = "timed out" not in what and not isinstance(error, ValueError)
            else:
                again = status >= 500 or status in _AGAIN
        except (_WrongFileError, ValueError) as error:  # pooch removes a file of wrong checksum, and raises ValueError
            what, cause, again = str(error), error, resumed  # the two parts may be of different files
        pause = next(pauses, None) if again else None
        if pause is None:
            if path.exists():  # with a wrong checksum: it must not be taken for the file
                path.replace(wrong)
            raise UserError(
                f"{file.url}: {file.name} cannot be had from there ({what}). It must come whole and as it was "
                f"published. Try again later (what has come is kept), try another --mirror, or get {file.name} with a "
                f"browser, from {_MIRROR_HOME if file.content else HOME} or another place that you trust, and give it "
                "to monai-iln prepare sunnybrook --source."
            ) from cause
        time.sleep(pause)


def _downloader(file: RemoteFile, part: Path, timeout: float, progress: bool) -> Callable[[str, str, Any], None]:
    """What pooch calls to bring a file: goes on with what is there, and hands it over only when it is whole."""

    def download(url: str, target: str, _: Any) -> None:
        start = part.stat().st_size if part.exists() else 0
        # Without "identity", parts of a file that is packed for the way would not fit together.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == 416:  # the part is as long as the file, or longer
                part.unlink(missing_ok=True)
            response.raise_for_status()
            if not _goes_on(response, start):
                start = 0
            _write(response, file.name, part, start, timeout, progress)
        try:
            _check(file, part)
        except _WrongFileError:
            part.unlink()
            raise
        part.replace(target)

    return download


def _goes_on(response: requests.Response, start: int) -> bool:
    """Whether the answer is the rest of the file; many servers send all of it whatever they are asked for."""
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _write(response: requests.Response, name: str, part: Path, start: int, timeout: float, progress: bool) -> None:
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None
    begin, size = time.monotonic(), start
    with (
        part.open("ab" if start else "wb") as target,
        tqdm(desc=name, total=total, initial=start, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        for chunk in response.iter_content(_CHUNK):
            target.write(chunk)
            bar.update(len(chunk))
            size += len(chunk)
            elapsed = time.monotonic() - begin
            if elapsed > timeout and size - start < _MIN_BYTES_PER_SECOND * elapsed:
                raise requests.Timeout(f"timed out: {size - start} bytes in {elapsed:.0f} seconds")
    if total is not None and size < total:
        raise requests.ConnectionError(f"the connection ended after {size} of {total} bytes")


def _check(file: RemoteFile, path: Path) -> None:
    """Refuse what is not the file, as far as its content tells."""
    with path.open("rb") as opened:
        head = opened.read(100).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        raise _WrongFileError("a web page came instead, maybe one that asks for a login")
    if not file.name.endswith(".zip"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            listing = "" if damaged or file.content is None else _list_content(archive)
    except Exception as error:  # zipfile raises many kinds on damaged archives, OSError among them
        raise _WrongFileError(f"no zip archive, or a damaged one: {error}") from error
    if damaged:
        raise _WrongFileError(f"a damaged zip archive: {damaged}")
    if file.content not in (None, hashlib.sha256(listing.encode()).hexdigest()):
        raise _WrongFileError(f"the archive holds {len(listing.splitlines())} PNG files, not all as they were")


def _list_content(archive: zipfile.ZipFile) -> str:
    matches = (re.search(r"(?:^|/)Data/(.*\.png)$", name) for name in archive.namelist())
    found = sorted((match[1], match.string) for match in matches if match)
    return "".join(f"{hashlib.sha256(archive.read(path)).hexdigest()}  {name}\n" for name, path in found)
