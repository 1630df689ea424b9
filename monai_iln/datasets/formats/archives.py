"""Archives as data sources, unpacked so that nothing they hold does harm."""

from __future__ import annotations

import errno
import gzip
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, NamedTuple, NoReturn

from monai_iln.datasets.formats.listing import refuse_special
from monai_iln.errors import UserError, refusal
from monai_iln.extras import require_extra
from monai_iln.files import new_folder

if TYPE_CHECKING:
    from tqdm import tqdm

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

# Against bombs. Sunnybrook is five archives of 0.4 GB each, and images seldom pack better than 4 to 1. Deflate reaches
# 1000 to 1, and small files of zeros or text may really come near it: the ratio counts from MIN_BOMB_BYTES on.
MAX_BYTES = 64 << 30
MAX_RATIO = 200
MIN_BOMB_BYTES = 100 << 20
MAX_MEMBERS = 1_000_000
MAX_DEPTH = 100  # folders in folders; pathlib and shutil call themselves once for each
MAX_HEADER_BYTES = 256 << 10  # of a tar's extended headers, which tarfile holds in memory; real ones are below 10 KB

_CHUNK = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")
_AGAIN = "Download it again"


@contextmanager
def unpacked(sources: Sequence[Path], progress: bool = False) -> Iterator[list[Path]]:
    """Data sources as the user has them, with the archives among them unpacked for the time of a ``with`` block.

    Args:
        sources: Files, folders and archives (``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``). Archives that lie directly in
            a folder are unpacked too, unless a folder of the same name beside them shows that they already are.
        progress: Shows a bar for each archive.

    Yields:
        The files and folders as given, then, if there are archives, one temporary folder with a folder for each that
        has its name (``SCD_IMAGES_01.zip``: ``SCD_IMAGES_01``). It is removed at the end.

    Raises:
        UserError: If a source is missing, two archives have one name, or :func:`extract` refuses one.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with zipfile.ZipFile(Path(folder, "scans.zip"), "w") as file:
        ...         file.writestr("one.dcm", "pixels")
        ...     with unpacked([Path(folder)]) as (given, temporary):
        ...         print([path.relative_to(temporary).as_posix() for path in temporary.rglob("*.dcm")])
        ['scans/one.dcm']
    """
    given, archives = _sort(sources)
    if not archives:
        yield given
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix="monai-iln-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: cannot be written ({error}). Archives are unpacked there: set TMPDIR to a "
            "folder with free space."
        ) from error
    with temporary:
        for name, archive in archives.items():
            extract(archive, Path(temporary.name) / name, progress)
        yield [*given, Path(temporary.name)]


def _sort(sources: Sequence[Path]) -> tuple[list[Path], dict[str, Path]]:
    """The sources that need no unpacking, and the archives by the name of their folder."""
    given, found = [], []
    for source in sources:
        try:
            source.stat()
            if source.is_dir():
                given.append(source)
                found += [path for path in sorted(source.iterdir()) if _stem(path) and path.is_file()]
            elif _stem(source):
                found.append(source)
            else:
                given.append(source)
            refuse_special(source)
        except OSError as error:
            raise UserError(
                f"{source}: cannot be read ({error.strerror}). Give folders, files or archives ({', '.join(SUFFIXES)}) "
                "that exist."
            ) from error
    archives: dict[str, Path] = {}
    for archive in found:
        name = _stem(archive)
        if archive.parent in given and (archive.parent / name).is_dir():
            continue
        other = archives.setdefault(name, archive)
        if not other.samefile(archive):
            raise UserError(
                f"{archive} and {other}: both unpack to a folder {name}. Each needs its own: give one, or rename one."
            )
    return given, archives


def _stem(path: Path) -> str:
    """The name of the folder to which an archive unpacks, empty if the file is none."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    if not suffix or _is_clutter(path.name):
        return ""
    stem = path.name[: -len(suffix)]
    return stem if stem.strip(".") else ""  # "." and ".." would be other folders


def _is_clutter(*parts: str) -> bool:
    """Whether these parts of a path are macOS's own records, which hide among data and have their names."""
    return "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


def extract(archive: Path, output: Path, progress: bool = False) -> None:
    """Unpack an archive, and the archives directly inside it, into a new folder.

    A single folder inside that repeats the name of the output is not doubled. What macOS adds (``__MACOSX``,
    ``.DS_Store``, ``._*``) is left out; back-slashes in names separate folders, as Windows means them. Permissions,
    owners and times are not kept.

    Args:
        archive: A ``.zip``, ``.tar``, ``.tar.gz`` or ``.tgz`` file.
        output: The folder to make. It must not exist, or be empty. It appears whole or not at all.
        progress: Shows a bar.

    Raises:
        UserError: If the archive is missing, damaged, encrypted or a bomb (see ``MAX_BYTES`` and the constants beside
            it), holds a name that leaves the folder or occurs twice, a link or a device; if the disk is full.
    """
    require_extra("unpacking archives", "data", "tqdm")
    from tqdm import tqdm

    with _reading(str(archive)):
        packed = archive.stat().st_size
    bar = tqdm(desc=f"Unpacking {archive.name}", unit="B", unit_scale=True, disable=not progress)
    with bar, new_folder(output) as folder:
        budget = _Budget(str(archive), packed, folder, bar)
        for inner in _write(archive, str(archive), folder, budget):
            name = f"{archive} > {inner.relative_to(folder)}"
            target = inner.with_name(_stem(inner))
            if target.exists():
                _refuse(name, f"unpacks to {target.name}, which is there already", "Unpack it by hand and sort it out")
            with new_folder(target) as inside:
                _write(inner, name, inside, budget)
            _undouble(target)
            inner.unlink()
        _undouble(folder, output.name)


def _undouble(folder: Path, name: str = "") -> None:
    """Lift what lies in the only folder of a folder, if both have one name."""
    entries = list(folder.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name == (name or folder.name):
        inner = entries[0].rename(folder / f".{entries[0].name}")  # it may hold its own name once more
        for path in list(inner.iterdir()):
            path.rename(folder / path.name)
        inner.rmdir()


class _Budget:
    """Counts what comes out of one archive and of those inside it, and refuses too much: headers can lie."""

    def __init__(self, name: str, packed: int, folder: Path, bar: tqdm[NoReturn]) -> None:
        self.name, self.packed, self.folder, self.bar = name, packed, folder, bar
        self.written = self.members = 0

    def expect(self, size: int) -> None:
        """Refuse at once what will not fit on the disk."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            _refuse(
                self.name,
                f"unpacks to {size / 1e9:.1f} GB or more, {free / 1e9:.1f} GB are free in {self.folder.parent}",
                "Free the disk, or choose another folder (for temporary ones with TMPDIR)",
            )
        self.bar.total = (self.bar.total or 0) + size

    def add_member(self) -> None:
        self.members += 1
        if self.members > MAX_MEMBERS:
            self._refuse_bomb(f"holds more than {MAX_MEMBERS} files")

    def add_bytes(self, size: int) -> None:
        self.written += size
        self.bar.update(size)
        if self.written > MAX_BYTES:
            self._refuse_bomb(f"unpacks to more than {MAX_BYTES} bytes")
        if self.written > max(MIN_BOMB_BYTES, MAX_RATIO * self.packed):
            self._refuse_bomb(f"unpacks to more than {MAX_RATIO} times its {self.packed} bytes")

    def _refuse_bomb(self, what: str) -> NoReturn:
        _refuse(self.name, f"{what}, as archives do that are made to fill a disk", "If you trust it, unpack it by hand")


class _Member(NamedTuple):
    """A member of an archive."""

    name: str
    is_folder: bool
    is_plain: bool
    open: Callable[[], IO[bytes]]


def _write(archive: Path, name: str, folder: Path, budget: _Budget) -> list[Path]:
    """Write the files of one archive, and return the archives among them."""
    archives = []
    list_members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    with closing(list_members(archive, name, budget)) as members:
        for member in members:
            budget.add_member()
            parts = _safe_parts(member.name, name)
            if not parts or _is_clutter(*parts):
                continue
            if not member.is_plain:
                _refuse(name, f"{member.name!r} is a link, a device or otherwise no plain file", "Unpack it by hand")
            path = folder.joinpath(*parts)
            try:
                if member.is_folder:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                target = path.open("xb")
            except (FileExistsError, NotADirectoryError) as error:
                _refuse(name, f"{member.name!r} has a name that another file or folder has", _AGAIN, error)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                what = f"{member.name[:100]!r}... is too long a name for the disk"
                _refuse(name, what, "Unpack it by hand, under shorter names", error)
            with target, closing(_read(member, name)) as chunks:
                for chunk in chunks:
                    budget.add_bytes(len(chunk))
                    target.write(chunk)
            if _stem(path):
                archives.append(path)
    return archives


def _safe_parts(member_name: str, name: str) -> tuple[str, ...]:
    """The parts of a member's path, if it stays inside the folder on every system."""
    path = member_name.replace("\\", "/")
    parts = PurePosixPath(path).parts
    is_strange = len(parts) > MAX_DEPTH or any(_DRIVE.match(part) or min(part) < " " for part in parts)
    if path.startswith("/") or ".." in parts or is_strange:
        what = f"{path[:100]!r} is a path that leaves the folder, or is unusual beyond use"
        _refuse(name, what, "If you trust it, unpack it by hand")
    return parts


def _read(member: _Member, name: str) -> Generator[bytes, None, None]:
    with _reading(name), member.open() as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _zip_members(archive: Path, name: str, budget: _Budget) -> Generator[_Member, None, None]:
    with _reading(name), zipfile.ZipFile(archive) as file:
        budget.expect(sum(info.file_size for info in file.infolist()))
        for info in file.infolist():
            if info.flag_bits & 1:
                _refuse(name, f"{info.filename!r} is encrypted", "Unpack it by hand with its password")
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
            is_folder = info.filename.endswith(("/", "\\"))
            is_plain = kind in (0, (stat.S_IFREG, stat.S_IFDIR)[is_folder])
            yield _Member(info.filename, is_folder, is_plain, partial(file.open, info))


def _tar_members(archive: Path, name: str, budget: _Budget) -> Generator[_Member, None, None]:
    with _reading(name), archive.open("rb") as packed:
        is_gzip = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        budget.expect(archive.stat().st_size)
        # Nothing is extracted by tarfile, so it needs no filter: _write makes the files, from plain members only.
        with (
            gzip.GzipFile(fileobj=packed) if is_gzip else packed as stream,
            tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictHeader) as file,
        ):
            for info in file:
                is_plain = info.isdir() or (info.isreg() and not info.issparse())
                yield _Member(info.name, info.isdir(), is_plain, partial(_open_member, file, info))
            while rest := stream.read(_CHUNK):  # gzip compares its checksum at the very end
                budget.add_bytes(len(rest))


def _open_member(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = file.extractfile(info)
    assert stream is not None  # it is None for what is no plain file
    return stream


class _StrictHeader(tarfile.TarInfo):
    """A tar header that does not pass for the end of the archive when it is damaged or cut, nor fills the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictHeader:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the block of zeros that ends every archive
            raise tarfile.ReadError(f"{error} where a header is due") from error
        if not (header.isreg() or header.isdir()) and header.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{name}: no such file. Give an archive that exists.") from error
    except PermissionError as error:
        raise refusal(error) from error
    except Exception as error:  # zipfile, tarfile, zlib and lzma raise a dozen kinds on damaged archives
        what = f"damaged, incomplete or no such archive as its name says ({type(error).__name__}: {error})"
        _refuse(name, what, f"{_AGAIN}; a page that asks for a login is at times saved under its name", error)


def _refuse(name: str, what: str, remedy: str, cause: Exception | None = None) -> NoReturn:
    raise UserError(f"{name}: {what}. Nothing of it is kept. {remedy}.") from cause
