"""Downloads against a real local server, with and without Range, that can break off."""

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mini_datasets
import numpy as np
import pytest

from itaclip.errors import InputError
from itaclip.runtime import download
from itaclip.runtime.download import Download, fetch, human_size

CONTENT = np.random.default_rng(7).integers(0, 256, 300_007, np.uint8).tobytes()
SHA1 = "sha1:" + hashlib.sha1(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; notes the Range header of every request.

    Attributes:
        ranges: whether Range is understood.
        break_after: bytes after which a connection is cut, one entry per request.
        statuses: error codes to answer first.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.break_after = []
        self.statuses = []
        self.requests = []
        self.slow = 0  # seconds before an answer

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/folder/file.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.slow:
            time.sleep(server.slow)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = int(asked[len("bytes=") : -1]) if asked and server.ranges else 0
        if start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = server.content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if server.break_after:
            data = data[: server.break_after.pop(0)]
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(server, folder, lines=None, mirror=None, verify=False, **fields):
    fields = {"url": server.url, "checksum": SHA1, **fields}
    say = (lambda line: None) if lines is None else lines.append
    otherwise = "pass it with --raw, or name a --mirror"
    download = Download("file.bin", **fields)
    return fetch(download, folder, mirror=mirror, verify=verify, otherwise=otherwise, say=say)


def test_says_where_from_and_how_large_and_leaves_one_file(server, tmp_path):
    lines = []
    path = get(server, tmp_path / "new", lines, size=len(CONTENT), checksum=MD5)
    assert path.read_bytes() == CONTENT
    assert lines == [f"downloading {server.url} (300.0 kB) to {path}"]
    assert os.listdir(tmp_path / "new") == ["file.bin"]
    get(server, tmp_path / "new", lines)
    assert len(server.requests) == 1  # not fetched again


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_broken_connection_is_continued(server, tmp_path, size):
    server.break_after = [100_000, 50_000]
    assert get(server, tmp_path, size=size).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=150000-"]


def test_interrupted_run_is_continued_by_the_next(server, tmp_path):
    server.break_after = [100_000] + [0] * (download.ATTEMPTS - 1)
    with pytest.raises(InputError, match=r"broke off .*run the same command again"):
        get(server, tmp_path)
    assert os.listdir(tmp_path) == ["file.bin.part"]
    server.requests.clear()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=100000-"]
    assert os.listdir(tmp_path) == ["file.bin"]


def test_server_without_range_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"other bytes")
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=11-"]


def test_damaged_part_starts_again(server, tmp_path):
    lines = []
    (tmp_path / "file.bin.part").write_bytes(b"x" * 1000)
    assert get(server, tmp_path, lines).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-", None]
    assert "starting again" in lines[-1]


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_part_that_is_complete_or_too_long(server, tmp_path, length):
    (tmp_path / "file.bin.part").write_bytes((CONTENT + b"abcde")[:length])
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == (1 if length == len(CONTENT) else 2)


def test_wrong_checksum_is_refused(server, tmp_path):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match=f"{SHA1[5:]} was expected; .*was deleted"):
        get(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_wrong_size_is_refused(server, tmp_path):
    with pytest.raises(InputError, match="expected 12 bytes, but got 300007"):
        get(server, tmp_path, size=12)
    assert os.listdir(tmp_path) == []


def test_server_errors(server, tmp_path):
    server.statuses = [404]
    with pytest.raises(InputError, match=r"answers 404 .*--raw, or name a --mirror"):
        get(server, tmp_path)
    server.statuses = [503, 503]  # passes
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    server = Server()
    server.server_close()
    with pytest.raises(InputError, match="refused"):
        get(server, tmp_path)


def test_mirror_replaces_the_place_only(server, tmp_path):
    mirror = server.url.rpartition("/")[0] + "/"
    path = get(server, tmp_path, mirror=mirror, url="http://nowhere.invalid/a/file.bin")
    assert path.read_bytes() == CONTENT


def test_full_disk_is_noticed_beforehand(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"300.0 kB are needed, but only 1.0 kB are free"):
        get(server, tmp_path)


def test_a_file_that_differs_goes_only_when_the_right_one_is_verified(server, tmp_path):
    """And even then it is kept: it may be the user's own."""
    (tmp_path / "file.bin").write_bytes(b"my own")
    server.statuses = [404]
    with pytest.raises(InputError, match="answers 404"):
        get(server, tmp_path, verify=True)
    assert os.listdir(tmp_path) == ["file.bin"]
    assert (tmp_path / "file.bin").read_bytes() == b"my own"
    assert get(server, tmp_path, verify=True).read_bytes() == CONTENT
    assert (tmp_path / "file.bin.other1").read_bytes() == b"my own"
    get(server, tmp_path, verify=True)
    assert len(server.requests) == 2  # the right one is not fetched again


def test_the_next_address_is_tried(server, tmp_path):
    lines = []
    server.statuses = [404]
    path = get(server, tmp_path, lines, others=(server.url,))
    assert path.read_bytes() == CONTENT
    assert "answers 404 Not Found" in lines[1] and f"now trying {server.url}" in lines[1]


def test_two_that_fetch_the_same_file_fetch_it_once(server, tmp_path):
    server.slow = 0.05
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: get(server, tmp_path), range(2)))
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert server.requests == [None]
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_link_in_the_way_is_not_followed(server, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/file.bin.part").symlink_to(victim)
    with pytest.raises(InputError, match=r"file\.bin\.part: cannot be written"):
        get(server, tmp_path / "new")
    assert victim.read_bytes() == b"mine"


def test_no_checksum_is_said(server, tmp_path):
    lines = []
    get(server, tmp_path, lines, checksum=None)
    assert "no checksum is published for file.bin" in lines[1]


def test_preparation_fetches_what_is_missing(server, tmp_path, monkeypatch, capsys):
    """ADE20K from nothing: the archive comes from the (mirrored) net, and its checksum counts."""
    import dataclasses

    from itaclip.data.preparation import ade
    from itaclip.data.preparation.command import prepare_benchmarks
    from itaclip.data.preparation.settings import Settings

    raw = mini_datasets.make_ade(tmp_path / "served")
    server.content = (raw / "ADEChallengeData2016.zip").read_bytes()
    mirror = server.url.rpartition("/")[0]
    options = {"data_root": tmp_path / "data", "mirror": mirror}
    assert prepare_benchmarks(["ade20k"], Settings(**options)) == 2
    assert "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7 was expected" in capsys.readouterr().err
    true = "sha1:" + hashlib.sha1(server.content).hexdigest()
    monkeypatch.setattr(ade, "ARCHIVE", dataclasses.replace(ade.ARCHIVE, checksum=true))
    assert prepare_benchmarks(["ade20k"], Settings(**options)) == 0
    mask = tmp_path / "data/ade/ADEChallengeData2016/annotations/validation/ADE_val_00000002.png"
    assert (mini_datasets.read(mask) == mini_datasets.ADE_MASKS["ADE_val_00000002"]).all()
    # The archive may go once it is extracted: nothing is fetched again.
    (tmp_path / "data/downloads/ADEChallengeData2016.zip").unlink()
    count = len(server.requests)
    assert prepare_benchmarks(["ade20k"], Settings(**options)) == 0
    assert len(server.requests) == count


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1_999_639_040, "2.0 GB"), (18e9, "18.0 GB")]
)
def test_human_size(size, text):
    assert human_size(int(size)) == text
