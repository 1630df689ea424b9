"""Download of the data that are public without registration: Sunnybrook Cardiac Data, in both layouts."""

from __future__ import annotations

import hashlib
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_iln.datasets.sunnybrook_files import FILES, HOME, MIRROR_HOME, RemoteFile
from monai_iln.errors import UserError, refusal
from monai_iln.extras import require_extra
from monai_iln.files import new_file
from monai_iln.limits import TIMEOUT

try:
    import pooch
    import requests
    from tqdm import tqdm
except ModuleNotFoundError:
    require_extra("monai-iln download", "data", "pooch", "requests", "tqdm")
    raise

CHECKSUM_FILE = "checksums.txt"
_KEPT = "What has come so far is kept: run the same command again to go on."
_PAUSES = (1.0, 2.0, 4.0)  # seconds between tries
_MIN_BYTES_PER_SECOND = 1000  # slower than any line that could bring 2 GB: a server that only drips
_CHUNK = 1024  # requests waits until it has so much, so a drip is seen only after as many bytes
_AGAIN = (408, 416, 425, 429)  # statuses below 500 that may pass


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
        output: The folder, made where it is missing. It may be given to ``prepare`` as it is.
        layout: ``"dicom"``, DICOM and contours from the Cardiac Atlas Project, some 2 GB, or ``"png"``, the 805
            labelled frames as 8-bit images from SegNetCMR on GitHub, some 35 MB.
        mirror: The address of a folder with files of the same names, to be used instead.
        checksums: The SHA-256 of files by their names, or a file of them as ``sha256sum`` writes it. They replace those
            that are known here.
        timeout: The seconds after which a silent server is given up, a day at most.
        progress: Shows a bar for each file.

    Returns:
        The folder.

    Raises:
        UserError: If an argument is out of range, a file cannot be had or is not the right one, or the folder cannot be
            written.
    """
    output = Path(output)
    TIMEOUT.check("timeout", timeout)
    if layout not in FILES:
        raise UserError(f"layout {layout!r}: Sunnybrook data can be downloaded as {' or '.join(FILES)}. Choose one.")
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise UserError(
            f"{mirror}: no address of a mirror. It starts with http:// or https://. Data that are on this machine "
            "need no download: give them to monai-iln prepare sunnybrook --source."
        )
    if isinstance(checksums, Path):
        checksums = read_checksums(checksums)
    expected = dict(checksums or {})
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
        with new_file(output / CHECKSUM_FILE) as partial:
            partial.write_text(listing)
    except OSError as error:
        raise UserError(f"{refusal(error, output)} {_KEPT}") from error
    except KeyboardInterrupt as error:
        error.args = (_KEPT,)
        raise
    return output


def read_checksums(path: Path) -> dict[str, str]:
    """The SHA-256 of files by their names, from a file as ``sha256sum`` writes it.

    Args:
        path: The file.

    Raises:
        UserError: If the file is missing or has another form.
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
    """A file that came whole, but is not the right one."""


def _fetch(file: RemoteFile, folder: Path, timeout: float, progress: bool) -> None:
    """Get one file. What may pass is tried again."""
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
            what, cause, again = f"{type(error).__name__}: {error}", error, _may_pass(error)
        except (_WrongFileError, ValueError) as error:  # pooch removes a file of wrong checksum, and raises ValueError
            what, cause, again = str(error), error, resumed  # the two parts may be of different files
        pause = next(pauses, None)
        if pause is None or not again:
            if path.exists():  # with a wrong checksum: it must not be taken for the file
                path.replace(wrong)
            home = MIRROR_HOME if file.content else HOME
            raise UserError(
                f"{file.url}: {file.name} cannot be had from there ({what}). It must come whole and as it was "
                f"published. Try again later (what has come is kept), try another --mirror, or get {file.name} with a "
                f"browser, from {home} or another place that you trust, and give it to monai-iln prepare sunnybrook "
                "--source."
            ) from cause
        time.sleep(pause)


def _may_pass(error: requests.RequestException) -> bool:
    """Whether it makes sense to try again."""
    if error.response is not None:
        status = error.response.status_code
        return status >= 500 or status in _AGAIN
    # A server that is silent once is silent again; ValueErrors are of impossible addresses.
    return "timed out" not in str(error) and not isinstance(error, ValueError)


def _downloader(file: RemoteFile, part: Path, timeout: float, progress: bool) -> Callable[[str, str, Any], None]:
    """The function by which pooch gets a file. It continues a part that is there, and hands over whole files only."""

    def download(url: str, target: str, _: Any) -> None:
        start = part.stat().st_size if part.exists() else 0
        # Without "identity", parts of a file that is packed for the way would not fit together.
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
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
    total = None
    if length.isdigit() and "Content-Encoding" not in response.headers:
        total = start + int(length)
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
            listing = ""
            if not damaged and file.content is not None:
                listing = _list_content(archive)
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
