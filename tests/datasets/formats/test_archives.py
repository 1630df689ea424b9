import gzip
import io
import os
import random
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_iln.datasets.formats import archives
from monai_iln.datasets.formats.archives import extract, unpacked
from monai_iln.errors import TerminatedError, UserError

NOISE = random.Random(0).randbytes(3000)
FILES = {"a/one.dcm": NOISE, "a/b/two.txt": b"1 2\n" * 500, "empty": b""}


def make_zip(path, files, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def make_tar(path, files, **attributes):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content))
    return path


def make(path, files):
    return (make_zip if path.suffix == ".zip" else make_tar)(path, files)


def packed(name, files):
    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder) / name, files).read_bytes()


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


kinds = pytest.mark.parametrize("kind", archives.SUFFIXES)


def refused(archive, match):
    """The archive is refused, and nothing of it is left, neither under the final name nor beside it."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(UserError, match=match) as caught:
        extract(archive, archive.parent / "output")
    assert sorted(archive.parent.rglob("*")) == before
    assert str(archive) in str(caught.value)


@kinds
def test_what_was_packed_comes_out(tmp_path, kind):
    extract(make(tmp_path / f"data{kind}", FILES), tmp_path / "output", progress=True)
    assert tree(tmp_path / "output") == FILES
    assert stat.S_IMODE((tmp_path / "output").stat().st_mode) == 0o755


def test_a_gzip_that_the_browser_unpacked_already(tmp_path):
    archive = make_tar(tmp_path / "data.tar", FILES).rename(tmp_path / "data.tar.gz")
    extract(archive, tmp_path / "output")
    assert tree(tmp_path / "output") == FILES


@kinds
def test_empty_folders_back_slashes_and_clutter(tmp_path, kind):
    names = ["a\\b\\IM-0001.dcm", "__MACOSX/a/x", "a/.DS_Store", "a/._IM-0001.dcm", "./c/./d"]
    archive = make(tmp_path / f"data{kind}", dict.fromkeys(names, b"x"))
    extract(archive, tmp_path / "output")
    assert tree(tmp_path / "output") == {"a/b/IM-0001.dcm": b"x", "c/d": b"x"}


def test_folder_members(tmp_path):
    extract(make_zip(tmp_path / "data.zip", {"a/": b"", "b\\": b""}), tmp_path / "from_zip")
    extract(make_tar(tmp_path / "data.tar", {"a/": b"", "b": b""}, type=tarfile.DIRTYPE), tmp_path / "from_tar")
    for folder in ("from_zip", "from_tar"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir() if path.is_dir()) == ["a", "b"]


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "a/..",
        "..\\x",
        "/etc/x",
        "\\x",
        "//host/x",
        "C:\\x",
        "c:x",
        "a/C:/x",
        "a\nb",
        "a/" * archives.MAX_DEPTH + "x",
    ],
)
@kinds
def test_paths_that_leave_the_folder(tmp_path, kind, name):
    refused(make(tmp_path / f"data{kind}", {"good": b"1", name: b"2"}), "leaves the folder")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_links_and_devices_in_a_zip(tmp_path, kind):
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    refused(make_zip(tmp_path / "data.zip", {"good": b"1", info: b"/etc/passwd"}), "'link' is a link")


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ],
)
def test_links_and_devices_in_a_tar(tmp_path, kind):
    refused(make_tar(tmp_path / "data.tar", {"link": b""}, type=kind, linkname="/etc/passwd"), "'link' is a link")


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "a/b"), ("a", "a/b/c"), ("a/b", "a"), ("a/b", "a\\b"), ("a/b", "a/./b")]
)
@kinds
def test_names_that_collide(tmp_path, kind, names):
    path = tmp_path / f"data{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(names[0], b"1")
            file.filelist[0].filename, file.NameToInfo = "-", {}  # writing one name twice warns
            file.writestr(names[1], b"2")
            file.filelist[0].filename = names[0]
    else:
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as file:
            for name in names:
                file.addfile(tarfile.TarInfo(name))
    refused(path, "has a name that another")


def test_encrypted_zip(tmp_path):
    path = make_zip(tmp_path / "data.zip", {"secret": NOISE})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    refused(path, "'secret' is encrypted.*password")


@kinds
def test_cut_archives(tmp_path, kind):
    path = make(tmp_path / f"data{kind}", {"a": NOISE, "b": NOISE[::-1]})
    whole = path.read_bytes()
    # A tar ends with 10 KiB of zeros, of which one block is enough.
    end = len(whole.rstrip(b"\0")) + 512 if kind == ".tar" else len(whole)
    for length in [0, 1, 2, 100, 511, 512, 513, 3000, *range(end - 512, end, 50), end - 1]:
        path.write_bytes(whole[:length])
        refused(path, "damaged, incomplete.*Download it again")


@kinds
def test_a_damaged_byte_in_the_content(tmp_path, kind):
    path = make(tmp_path / f"data{kind}", {"a": NOISE})
    data = bytearray(path.read_bytes())
    data[len(data) // 3 if kind != ".tar" else 148] ^= 1  # a plain tar has checksums of headers only
    path.write_bytes(data)
    refused(path, "damaged, incomplete")


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path):
    path = make_tar(tmp_path / "data.tar", {"a": b"1", "b": b"2"})
    data = bytearray(path.read_bytes())
    data[1024 + 148] ^= 1
    path.write_bytes(data)
    refused(path, "damaged, incomplete")


def test_a_tar_header_that_fills_the_memory(tmp_path, monkeypatch):
    path = make_tar(tmp_path / "data.tar", {"a": b""}, pax_headers={"comment": "x" * 2000})
    extract(path, tmp_path / "whole")
    monkeypatch.setattr(archives, "MAX_HEADER_BYTES", 1000)
    refused(path, r"a header of 20\d\d bytes")


@kinds
def test_a_login_page_is_no_archive(tmp_path, kind):
    path = tmp_path / f"data{kind}"
    path.write_text("<!DOCTYPE html>" + "<p>Please log in</p>" * 100)
    refused(path, "no such archive as its name says.*login")


def test_missing_archive_and_used_output(tmp_path):
    with pytest.raises(UserError, match="none.zip: no such file"):
        extract(tmp_path / "none.zip", tmp_path / "output")
    with pytest.raises(UserError, match="not an empty folder"):
        extract(make_zip(tmp_path / "data.zip", FILES), tmp_path)


@kinds
def test_bombs(tmp_path, monkeypatch, kind):
    path = make(tmp_path / f"data{kind}", {"a": bytes(50_000), "b": bytes(50_000)})
    for name, value, match in [
        ("MAX_BYTES", 99_999, "more than 99999 bytes"),
        ("MAX_MEMBERS", 1, "more than 1 files"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(archives, name, value)
            refused(path, match)
    monkeypatch.setattr(archives, "MIN_BOMB_BYTES", 60_000)
    monkeypatch.setattr(archives, "MAX_RATIO", 1 if kind == ".tar" else 5)
    if kind == ".tar":
        extract(path, tmp_path / "output")  # not packed at all
    else:
        refused(path, "more than 5 times its")


def test_bombs_are_measured_not_believed(tmp_path, monkeypatch):
    """A header that says 10 bytes: at most those come out, and the checksum tells."""
    path = make_zip(tmp_path / "data.zip", {"a": bytes(50_000)})
    data = path.read_bytes()
    path.write_bytes(data.replace((50_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(path, "damaged")
    monkeypatch.setattr(archives, "MAX_BYTES", 40_000)
    path.write_bytes(data)
    monkeypatch.setattr(archives._Budget, "expect", lambda self, size: None)
    refused(path, "more than 40000 bytes")


def test_a_bomb_after_the_end_of_a_tar(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)
    path = tmp_path / "data.tar.gz"
    make_tar(path, {"a": b"1"})
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(200_000)))
    refused(path, "more than 100000 bytes")


@kinds
def test_nested_archives_share_the_budget(tmp_path, monkeypatch, kind):
    inner = {f"part{number}{kind}": packed(f"part{kind}", {"data": bytes(50_000)}) for number in range(3)}
    path = make_zip(tmp_path / "data.zip", inner)
    monkeypatch.setattr(archives, "MAX_BYTES", 150_000)
    refused(path, "more than 150000 bytes")
    monkeypatch.setattr(archives, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    refused(path, "more than 5 files")


@kinds
def test_nested_archives(tmp_path, kind):
    deep = packed("deep.zip", {"x": b"1"})
    inner = packed(f"inner{kind}", {"deep.zip": deep, "inner.txt": b"2"})
    extract(make(tmp_path / f"data{kind}", {f"a/inner{kind}": inner, "b": b"3"}), tmp_path / "output")
    assert tree(tmp_path / "output") == {"a/inner/deep.zip": deep, "a/inner/inner.txt": b"2", "b": b"3"}


@kinds
def test_nested_archives_are_checked_alike(tmp_path, kind):
    path = tmp_path / f"data{kind}"
    for content, match in [
        (packed("inner.zip", {"../x": b""}), "inner.zip: '../x' is a path that leaves"),
        (b"PK", "inner.zip: damaged"),
    ]:
        refused(make(path, {"a/inner.zip": content}), match)
    refused(make(path, {"inner.zip": packed("inner.zip", {"x": b""}), "inner/y": b""}), "inner, which is there already")


@kinds
def test_archives_without_a_name_are_files(tmp_path, kind):
    files = {name: packed("inner.zip", {"x": b""}) for name in (".zip", "..zip", "...zip", "a/...zip", ".tar.gz")}
    extract(make(tmp_path / f"data{kind}", files), tmp_path / "output")
    assert tree(tmp_path / "output") == files
    with unpacked([make_zip(tmp_path / "...zip", {"x": b""})]) as sources:
        assert sources == [tmp_path / "...zip"]


@kinds
def test_a_folder_that_repeats_the_name_is_not_doubled(tmp_path, kind):
    names = {"data/one": b"1", "data/data/two": b"2", "__MACOSX/x": b""}
    extract(make(tmp_path / f"data{kind}", names), tmp_path / "data")
    assert tree(tmp_path / "data") == {"one": b"1", "data/two": b"2"}
    inner = {"in.zip": packed("in.zip", {"in/in/x": b"1"})}
    extract(make(tmp_path / f"other{kind}", inner), tmp_path / "other")
    assert tree(tmp_path / "other") == {"in/in/x": b"1"}


def test_full_disk(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "data.zip", {"a": NOISE})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
        refused(path, "unpacks to 0.0 GB or more, 0.0 GB are free.*TMPDIR")

    def full(self, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives._Budget, "add_bytes", full)
    with pytest.raises(UserError, match="output: cannot be written .*No space left"):
        extract(path, tmp_path / "output")
    assert sorted(tmp_path.iterdir()) == [path]


def test_unpacked_sources(tmp_path):
    source, other = tmp_path / "source", tmp_path / "other"
    for folder in (source / "below", source / "images", other):
        folder.mkdir(parents=True)
    make_zip(source / "contours.ZIP", {"c.txt": b"c"})
    make_zip(source / "images.zip", {"never": b""})  # unpacked already: images is there
    make_zip(source / "._contours.zip", {"never": b""})
    make_zip(source / "below" / "below.zip", {"never": b""})
    table = source / "table.csv"
    table.write_text("a,b")
    tar = make_tar(tmp_path / "more.tar.gz", {"more/m.txt": b"m"})
    with unpacked([source, tar, tar, source / "contours.ZIP", table, other]) as sources:
        *given, temporary = sources
        assert given == [source, table, other]
        assert tree(temporary) == {"contours/c.txt": b"c", "more/m.txt": b"m"}
    assert not temporary.exists()
    with unpacked([source / "images.zip"]) as (temporary,):  # asked for by name
        assert tree(temporary) == {"images/never": b""}
    with unpacked([other, table]) as sources:
        assert sources == [other, table]


def test_the_temporary_folder_goes_whatever_happens(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    good = make_zip(tmp_path / "good.zip", FILES)
    with pytest.raises(UserError, match="temporary: cannot be written .*TMPDIR"), unpacked([good]):
        pass
    (tmp_path / "temporary").mkdir()

    def fail():
        with unpacked([good]) as (temporary,):
            assert temporary.parent == tmp_path / "temporary"
            raise OSError("of the reader")

    with pytest.raises(OSError, match="^of the reader$"):
        fail()
    bad = make_zip(tmp_path / "bad.zip", {"../x": b""})
    with pytest.raises(UserError, match="leaves the folder"), unpacked([good, bad]):
        pass
    assert list((tmp_path / "temporary").iterdir()) == []


def test_bad_sources(tmp_path):
    with (
        pytest.raises(UserError, match="none: cannot be read .No such file.*that exist"),
        unpacked([tmp_path / "none"]),
    ):
        pass
    one = make_zip(tmp_path / "data.zip", FILES)
    two = make_tar(tmp_path / "data.tgz", FILES)
    with pytest.raises(UserError, match="both unpack to a folder data. Each needs its own"), unpacked([one, two]):
        pass


@pytest.mark.parametrize("own_folder", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_the_official_downloads_become_the_official_layout(tmp_path, own_folder, nested):
    layout = {
        "SCD_IMAGES_01": {"SCD0000101/CINESAX_300/IM-0003-0048.dcm": NOISE},
        "SCD_ManualContours": {"SC-HF-I-01/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt": b"1 2"},
    }
    for name, files in layout.items():
        inside = {f"{name}/{path}" if own_folder else path: content for path, content in files.items()}
        make_zip(tmp_path / f"{name}.zip", {f"{name}.zip": packed("x.zip", inside)} if nested else inside)
    with unpacked([tmp_path]) as (_, temporary):
        found = tree(temporary)
    assert found == {f"{name}/{path}": files[path] for name, files in layout.items() for path in files}


def extract_or_refuse(name, data):
    """Unpack bytes of any kind; either all lies in the output or a user error is raised, and nothing lies outside."""
    with tempfile.TemporaryDirectory() as folder:
        outside, archive = Path(folder) / "outside", Path(folder) / name
        outside.mkdir()
        archive.write_bytes(data)
        try:
            extract(archive, outside / "inside" / "output")
        except UserError:
            assert tree(outside) == {}
            return None
        assert sorted(path.name for path in Path(folder).iterdir()) == sorted([name, "outside"])
        assert [path.name for path in outside.iterdir()] == ["inside"]
        assert [path.name for path in (outside / "inside").iterdir()] == ["output"]
        assert not any(path.is_symlink() for path in outside.rglob("*"))
        return tree(outside / "inside" / "output")


names = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.lists(
        st.sampled_from(["..", ".", "", "/", "\\", "C:", "a", "b", "é", "x.zip", "\0", "~", "NUL", " ", "-rf"]),
        min_size=1,
        max_size=6,
    ).map("/".join),
).filter(lambda name: name.partition("\0")[0])  # zipfile cannot write an empty name


@settings(max_examples=60, deadline=None, database=None)
@given(
    # zipfile ends a name at its first NUL, and warns of a name that comes twice.
    names=st.lists(names, min_size=1, max_size=4, unique_by=lambda name: name.partition("\0")[0]),
    kind=st.sampled_from([".zip", ".tar"]),
)
def test_no_name_escapes(names, kind):
    extract_or_refuse(f"data{kind}", packed(f"data{kind}", dict.fromkeys(names, b"content")))


WHOLE = {kind: packed(f"data{kind}", FILES | {"in.zip": packed("in.zip", FILES)}) for kind in archives.SUFFIXES}


@settings(max_examples=80, deadline=None, database=None)
@given(data=st.data(), kind=st.sampled_from(archives.SUFFIXES))
def test_no_damage_escapes(data, kind):
    whole = bytearray(WHOLE[kind])
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    extract_or_refuse(f"data{kind}", bytes(whole[:length]))


def test_damage_of_a_zip_is_seen_or_harmless():
    """Where damage goes unseen, the content is right, at the least of the files that are there."""
    whole = packed("data.zip", {"a/one": b"1" * 20, "two": b"2"})
    for place in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        found = extract_or_refuse("data.zip", bytes(damaged))
        assert found is None or sorted(map(zlib.crc32, found.values())) in (
            sorted(map(zlib.crc32, (b"1" * 20, b"2"))),
            [zlib.crc32(b"1" * 20)],
            [zlib.crc32(b"2")],
            [],
        )


def test_a_name_too_long_for_the_disk(tmp_path):
    refused(make_zip(tmp_path / "data.zip", {"a/" + "n" * 300: b""}), "is too long a name for the disk.*shorter names")


def test_what_is_no_file_or_may_not_be_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "scans.zip")
    with pytest.raises(UserError, match="scans.zip: a pipe"), unpacked([tmp_path / "scans.zip"]):
        pass

    def forbid(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", forbid)
    with pytest.raises(UserError, match="data.zip: Permission denied. Give yourself"):
        extract(tmp_path / "data.zip", tmp_path / "output")


def test_a_termination_takes_the_temporary_folder_away(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    archive = make_zip(tmp_path / "good.zip", FILES)
    with pytest.raises(TerminatedError), unpacked([archive]):
        raise TerminatedError(15)
    assert list(tmp_path.iterdir()) == [archive]
