import hashlib
import io
import random
import socket
import threading
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from monai_iln.datasets import download
from monai_iln.datasets.download import FILES, RemoteFile, download_sunnybrook, read_checksums
from monai_iln.errors import UserError


def zip_bytes(files):
    with io.BytesIO() as packed:
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return packed.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


TABLE = b"\xef\xbb\xbfPatientID,OriginalID\r\n"
DATA = zip_bytes({"SCD0000101/IM-0003-0001.dcm": random.Random(0).randbytes(200_000)})
PNGS = {f"{side}/{name}.png": bytes([number]) for number, side in enumerate(("Train", "Test")) for name in "ab"}
PNG = zip_bytes({f"SegNetCMR-master/Data/{name}": content for name, content in PNGS.items()} | {"logo.png": b""})
CONTENT = sha256("".join(f"{sha256(PNGS[name])}  {name}\n" for name in sorted(PNGS)).encode())
HTML = b"\n<!DOCTYPE html><html><p>Please log in" + b" " * 300_000


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; for each request of a file, the next of ``server.plans[name]`` says how."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = "" if "//" in self.path else self.path.rpartition("/")[2]
        plan = self.server.plans.get(name, [])
        manner = plan.pop(0) if plan else "well"
        self.server.requests.append((name, self.headers["Range"]))
        with suppress(ConnectionError):  # the client had enough
            getattr(self, f"answer_{manner}")(self.server.files.get(name))
        self.close_connection = True

    def send(self, status, content, length=None, **headers):
        self.send_response(status)
        self.send_header("Connection", "close")
        if length is not False:
            self.send_header("Content-Length", str(len(content) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.server.sent += len(content)  # before the client has it all, and looks
        self.wfile.write(content)

    def wanted(self, content):
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        return (206 if start else 200), content[start:], f"bytes {start}-{len(content) - 1}/{len(content)}"

    def answer_well(self, content):
        if content is None:
            return self.send(404, b"none")
        status, rest, content_range = self.wanted(content)
        if not rest:
            return self.send(416, b"", Content_Range=f"bytes */{len(content)}")
        return self.send(status, rest, Content_Range=content_range)

    def answer_die(self, content):
        status, rest, content_range = self.wanted(content)
        self.send(status, rest[: len(rest) // 2], len(rest), Content_Range=content_range)

    def answer_die_unseen(self, content):
        """Neither a length nor chunks: the end of the connection is the end of the file."""
        self.protocol_version = "HTTP/1.0"
        self.send(200, content[: len(content) // 2], False)

    def answer_from_0(self, content):
        self.send(206, content, Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}")

    def answer_from_10(self, content):
        self.send(206, content[10:], Content_Range=f"bytes 10-{len(content) - 1}/{len(content)}")

    def answer_all_as_part(self, content):
        self.send(200, content, Content_Range=self.wanted(content)[2])

    def answer_whole(self, content):
        self.send(200, content)

    def answer_chunked(self, content):
        self.send(200, b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content), False, Transfer_Encoding="chunked")

    def answer_404(self, _):
        self.send(404, b"none")

    def answer_500(self, _):
        self.send(500, b"oh")

    def answer_redirect(self, _):
        self.send(302, b"", Location="/elsewhere" + self.path)

    def answer_circle(self, _):
        self.send(302, b"", Location=self.path)

    def answer_page(self, _):
        self.send(200, HTML)

    def answer_hang(self, _):
        self.server.over.wait()

    def answer_hang_later(self, content):
        self.send(200, content[:5000], len(content))
        self.server.over.wait()

    def answer_drip(self, content):
        self.send(200, b"", len(content))
        for place in range(300):
            self.wfile.write(content[place : place + 1])
            if self.server.over.wait(0.01):
                return


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {"scd_patientdata.csv": TABLE, "data.zip": DATA, "png.zip": PNG}
    server.plans, server.requests, server.sent, server.over = {}, [], 0, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/folder"
    files = {
        "dicom": (
            RemoteFile("scd_patientdata.csv", f"{server.url}/scd_patientdata.csv", sha256(TABLE)),
            RemoteFile("data.zip", f"{server.url}/data.zip", sha256(DATA)),
        ),
        "png": (RemoteFile("png.zip", f"{server.url}/png.zip", content=CONTENT),),
    }
    monkeypatch.setattr(download, "FILES", files)
    monkeypatch.setattr(download, "_PAUSES", (0, 0))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def output(tmp_path):
    return tmp_path / "downloads" / "sunnybrook"


def resumes_at_half(header):
    """Requests keeps the last chunk for itself if it is not full."""
    return 0 <= len(DATA) // 2 - int(header.removeprefix("bytes=").removesuffix("-")) < download._CHUNK


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fails(match, *arguments, **options):
    with pytest.raises(UserError, match=match) as caught:
        download_sunnybrook(*arguments, **options)
    return str(caught.value)


def test_download_and_again(server, output, capfd, monkeypatch):
    [handler] = download.pooch.get_logger().handlers
    monkeypatch.setattr(handler, "stream", io.StringIO())
    assert download_sunnybrook(output, progress=True) == output
    assert {name: (output / name).read_bytes() for name in names(output)} == {
        "checksums.txt": f"{sha256(TABLE)}  scd_patientdata.csv\n{sha256(DATA)}  data.zip\n".encode(),
        "data.zip": DATA,
        "scd_patientdata.csv": TABLE,
    }
    told = capfd.readouterr().err
    assert "data.zip: 100%" in told
    assert handler.stream.getvalue() == ""
    server.requests.clear()
    download_sunnybrook(output)
    assert server.requests == []
    assert capfd.readouterr() == ("", "")
    assert read_checksums(output / "checksums.txt") == {"scd_patientdata.csv": sha256(TABLE), "data.zip": sha256(DATA)}


def test_mirror(server, output, monkeypatch):
    monkeypatch.setattr(
        download, "FILES", {"png": (RemoteFile("png.zip", "http://127.0.0.1:9/none", content=CONTENT),)}
    )
    download_sunnybrook(output, "png", mirror=server.url + "/")
    assert server.requests == [("png.zip", None)]
    fails("/data: no address of a mirror. It starts with http", output, "png", mirror="/data")
    monkeypatch.setattr(time, "sleep", pytest.fail)  # trying again is no use
    fails("InvalidURL", output / "new", "png", mirror="http://:x")


@pytest.mark.parametrize("manner", ["whole", "chunked", "redirect"])
def test_servers_of_all_kinds(server, output, manner):
    server.plans["data.zip"] = [manner]
    download_sunnybrook(output)
    assert (output / "data.zip").read_bytes() == DATA


def test_interrupted_downloads_go_on(server, output):
    server.plans["data.zip"] = ["die"]
    download_sunnybrook(output)
    (_, whole), (_, rest) = server.requests[1:]
    assert whole is None
    assert resumes_at_half(rest)
    assert 0 <= server.sent - len(TABLE) - len(DATA) < download._CHUNK  # nothing but a chunk was sent twice
    assert (output / "data.zip").read_bytes() == DATA
    assert names(output) == ["checksums.txt", "data.zip", "scd_patientdata.csv"]


def test_interrupted_downloads_go_on_in_the_next_call(server, output):
    server.plans["data.zip"] = ["die", "404"]
    fails("data.zip: data.zip cannot be had from there .*404.*what has come is kept", output)
    assert names(output) == ["data.zip.part", "scd_patientdata.csv"]
    download_sunnybrook(output)
    assert resumes_at_half(server.requests[-1][1])
    assert (output / "data.zip").read_bytes() == DATA


def test_a_server_that_always_cuts(server, output):
    server.plans["data.zip"] = ["die"] * 3
    fails("data.zip cannot be had.*(IncompleteRead|connection ended)", output)
    assert 0 <= len(DATA) * 7 / 8 - (output / "data.zip.part").stat().st_size < 3 * download._CHUNK
    assert names(output) == ["data.zip.part", "scd_patientdata.csv"]


def test_a_cut_that_requests_does_not_see(server, output, monkeypatch):
    """Before urllib3 2 nothing compared the length."""
    iter_content = download.requests.Response.iter_content

    def quiet(self, size):
        with suppress(download.requests.ConnectionError, download.requests.exceptions.ChunkedEncodingError):
            yield from iter_content(self, size)

    monkeypatch.setattr(download.requests.Response, "iter_content", quiet)
    server.plans["scd_patientdata.csv"] = ["die"] * 3
    fails(r"the connection ended after \d+ of 2\d bytes", output)


@pytest.mark.parametrize(("manner", "times"), [("whole", 1), ("from_0", 1), ("all_as_part", 1), ("from_10", 2)])
def test_servers_that_cannot_go_on(server, output, manner, times):
    """A zip may have anything before it, so its own checks would let a part before the whole pass."""
    output.mkdir(parents=True)
    (output / "png.zip.part").write_bytes(PNG[:100])
    server.plans["png.zip"] = [manner]
    download_sunnybrook(output, "png")
    assert (output / "png.zip").read_bytes() == PNG
    assert [header for _, header in server.requests] == ["bytes=100-", None][:times]


# Older pytest would name the tests after all the bytes, which differ by the second in which the archive was written.
@pytest.mark.parametrize("part", [DATA, DATA + b"more", b"other" * 100], ids=["whole", "longer", "other"])
def test_parts_of_something_else(server, output, part):
    output.mkdir(parents=True)
    (output / "data.zip.part").write_bytes(part)
    download_sunnybrook(output)
    assert (output / "data.zip").read_bytes() == DATA
    assert names(output) == ["checksums.txt", "data.zip", "scd_patientdata.csv"]


def test_statuses(server, output):
    server.plans["scd_patientdata.csv"] = ["500", "500"]
    download_sunnybrook(output)
    assert [name for name, _ in server.requests].count("scd_patientdata.csv") == 3
    for manner, times in (("404", 1), ("500", 3)):
        server.requests.clear()
        server.plans["scd_patientdata.csv"] = [manner] * 5
        message = fails(f"HTTPError: {manner}", output / manner)
        assert len(server.requests) == times
        for part in (f"{server.url}/scd_patientdata.csv", "--mirror", "browser", download.HOME, "prepare", "--source"):
            assert part in message
    server.plans["scd_patientdata.csv"] = ["circle"] * 200
    fails("TooManyRedirects", output / "circle")


def test_no_server(server, output):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    fails("cannot be had.*Connection refused", output, mirror=f"http://127.0.0.1:{port}")
    assert names(output) == []


@pytest.mark.parametrize("manner", ["hang", "hang_later", "drip"])
def test_silent_servers(server, output, manner, monkeypatch):
    monkeypatch.setattr(download, "_CHUNK", 10)
    server.plans["data.zip"] = [manner] * 5
    start = time.monotonic()
    fails("data.zip cannot be had.*timed out", output, timeout=0.3)
    assert time.monotonic() - start < 2
    assert len(server.requests) == 2
    assert names(output) == ["data.zip.part", "scd_patientdata.csv"][manner == "hang" :]


@pytest.mark.parametrize("name", ["scd_patientdata.csv", "data.zip"])
def test_wrong_checksums(server, output, name):
    """A whole file of another content is never left under its name, nor is it tried again."""
    server.files[name] = zip_bytes({"other": b""})
    fails(f"{name} cannot be had from there .SHA256 hash.*known hash", output)
    assert names(output) == ["scd_patientdata.csv"][: name == "data.zip"]
    assert [requested for requested, _ in server.requests].count(name) == 1


@pytest.mark.parametrize(("layout", "name"), [("dicom", "data.zip"), ("png", "png.zip")])
def test_wrong_files_that_are_there(server, output, layout, name):
    output.mkdir(parents=True)
    (output / name).write_bytes(server.files[name][:-1])
    server.plans[name] = ["404"]
    fails("404", output, layout)
    assert name not in names(output)
    assert (output / f"{name}.wrong").read_bytes() == server.files[name][:-1]
    (output / name).write_bytes(server.files[name][:-1])
    download_sunnybrook(output, layout)
    assert (output / name).read_bytes() == server.files[name]


@pytest.mark.parametrize(("layout", "name"), [("dicom", "scd_patientdata.csv"), ("png", "png.zip")])
def test_login_pages(server, output, layout, name):
    server.plans[name] = ["page"]
    fails("a web page came instead", output, layout)
    assert names(output) == []


def test_the_mirror_on_github(server, output):
    """Its archive may be packed anew, its images may not change."""
    download_sunnybrook(output, "png")
    assert names(output) == ["checksums.txt", "png.zip"]
    server.requests.clear()
    download_sunnybrook(output, "png")
    assert server.requests == []
    server.files["png.zip"] = zip_bytes({f"Data/{name}": PNGS[name] for name in reversed(PNGS)})
    download_sunnybrook(output / "anew", "png")
    for change, count in (({"Train/a.png": b"other"}, 4), ({"Train/c.png": b""}, 5)):
        server.files["png.zip"] = zip_bytes({f"Data/{name}": content for name, content in (PNGS | change).items()})
        fails(f"holds {count} PNG files, not all as they were", output / "other", "png")
        assert names(output / "other") == []


def test_damaged_archives(server, output):
    damaged = PNG.replace(b"Data/Train/a.png", b"Data/Train/a.png" + b"\0")  # nothing is where it should be
    flipped = bytearray(PNG)
    flipped[PNG.index(b"a.png") + 5] ^= 1  # the content of the first file
    for content, match in (
        (damaged, "no zip archive"),
        (bytes(flipped), "a damaged zip archive.*a.png"),
        (b"", "no zip"),
    ):
        server.files["png.zip"] = content
        server.plans["png.zip"] = ["whole"]
        fails(match, output, "png")
        assert names(output) == []
    server.files["png.zip"] = PNG
    server.plans["png.zip"] = ["die_unseen"] * 3
    fails("no zip archive, or a damaged one", output, "png")
    assert names(output) == []


def test_checksums_of_the_user(server, output, tmp_path):
    server.files["data.zip"] = zip_bytes({"repacked": b""})
    own = {"data.zip": sha256(server.files["data.zip"])}
    download_sunnybrook(output, checksums=own)
    listing = tmp_path / "listing"
    listing.write_text(f"\n{own['data.zip'].upper()} *data.zip\n")
    server.requests.clear()
    download_sunnybrook(output, checksums=listing)
    assert server.requests == []
    fails("known hash", output / "other", checksums={"data.zip": "0" * 64})
    fails("checksums: typo.zip is no file of the layout dicom. Its files are scd", output, checksums={"typo.zip": ""})
    for text, match in (("0" * 63 + "  a", "the line '000"), ("a.zip\n", "the line 'a.zip'")):
        listing.write_text(text)
        fails(match, output, checksums=listing)
    fails("none: cannot be read", output, checksums=tmp_path / "none")


def test_full_disk_and_bad_arguments(server, output, monkeypatch, tmp_path):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    real = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode="r", **o: Full() if mode == "wb" else real(path, mode, **o))
        fails("sunnybrook: cannot be written .*No space left.*run the same command again", output)
    assert names(output) == []
    (tmp_path / "file").write_text("")
    fails("file: cannot be written", tmp_path / "file")
    (output / "data.zip").mkdir()
    fails("sunnybrook/data.zip: cannot be written .*Is a directory", output)
    fails("layout 'other': .* dicom or png", output, "other")


def test_the_table_of_files():
    for layout, files in FILES.items():
        assert len({file.name for file in files}) == len({file.url for file in files}) == len(files)
        for file in files:
            assert file.url.startswith("https://")
            assert len(file.sha256 or file.content) == 64
            assert (file.sha256 is None) == (layout == "png")


def test_checksums_of_the_real_data(real):
    """What we hold of the files is what the table says."""
    table = (real / "scd_patientdata.csv").read_bytes()
    assert sha256(table.replace(b"\n", b"\r\n")) == FILES["dicom"][0].sha256
    pngs = real / "SegNetCMR" / "Data"
    found = {path.relative_to(pngs).as_posix(): path.read_bytes() for path in pngs.rglob("*.png")}
    assert len(found) == 1610
    listing = "".join(f"{sha256(found[name])}  {name}\n" for name in sorted(found))
    assert sha256(listing.encode()) == FILES["png"][0].content
