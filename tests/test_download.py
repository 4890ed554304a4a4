"""Downloads against a server on the loopback address; no test touches any other address."""

import gzip
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnamamba.data_prep.downloads.catalogue import (
    RemoteFile,
    addresses,
    dataset,
    datasets,
    describe_checks,
    find_problem,
)
from dnamamba.data_prep.downloads.transfer import CHUNK_BYTES, RENEWING_BYTES, Patience, download
from dnamamba.errors import InputError

CONTENT = random.Random(1).randbytes(200_000)
QUICK = Patience(timeout_s=0.3, waits_s=(0.0, 0.01, 0.01))


@dataclass
class Server:
    """What the server serves and how it misbehaves; `cuts` and `codes` are used up one a request.

    cuts: bytes of the body after which the connection is closed.
    codes: error codes to answer with; 0 answers properly.
    stall_after: bytes after which it goes silent.
    """

    content: bytes = CONTENT
    etag: str | None = '"v1"'
    last_modified: str | None = None
    honours_range: bool = True
    honours_if_range: bool = True
    sends_length: bool = True
    cuts: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    stall_after: int | None = None
    pause_s: float = 0.0
    missing: tuple[str, ...] = ()
    redirect_to: str | None = None
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def remote(self, name: str = "genome.bin", **known: object) -> RemoteFile:
        return RemoteFile(name, f"{self.url}/folder/{name}", **known)


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append((self.path, self.headers.get("Range")))
            server.conditions.append(self.headers.get("If-Range"))
            code = server.codes.pop(0) if server.codes else 0
            if self.path in server.missing:
                code = 404
            if code:
                self.send_error(code)
                return
            if server.redirect_to is not None:
                self.send_response(302)
                self.send_header("Location", server.redirect_to)
                self.end_headers()
                return
            start = self._start()
            if start > len(server.content) or start == len(server.content) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send_headers(start)
            self._send_body(server.content[start:])

        def _start(self) -> int:
            wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
            current = server.etag or server.last_modified
            changed = condition is not None and condition != current
            if wanted is None or not server.honours_range or (changed and server.honours_if_range):
                return 0
            return int(wanted.removeprefix("bytes=").removesuffix("-"))

        def _send_headers(self, start: int) -> None:
            size = len(server.content)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if server.sends_length:
                self.send_header("Content-Length", str(size - start))
            if server.etag:
                self.send_header("ETag", server.etag)
            if server.last_modified:
                self.send_header("Last-Modified", server.last_modified)
            self.end_headers()

        def _send_body(self, body: bytes) -> None:
            if server.cuts:
                body = body[: server.cuts.pop(0)]
            if server.stall_after is not None:
                self.wfile.write(body[: server.stall_after])
                server.stall_after = None
                server.done.wait(2)
                return
            for i in range(0, len(body), 10_000):
                self.wfile.write(body[i : i + 10_000])
                time.sleep(server.pause_s)

        def handle(self) -> None:
            # A client that goes away is part of these tests.
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    settings = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(settings)) as listening:
        settings.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield settings
        settings.done.set()
        listening.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def leave_partial(
    folder: Path, server: Server, data: bytes, validator: str | None = '"v1"', url: str = ""
) -> Path:
    """What an interrupted download leaves behind."""
    folder.mkdir(exist_ok=True)
    part = folder / "genome.bin.part"
    part.write_bytes(data)
    state = {
        "url": url or server.remote().url,
        "validator": validator,
        "total": len(server.content),
    }
    (folder / "genome.bin.part.json").write_text(json.dumps(state))
    return part


# Whole downloads


def test_file_arrives_whole_with_nothing_left_beside_it(server, tmp_path):
    remote = server.remote(size=len(CONTENT), md5=md5(CONTENT), sha256=sha256(CONTENT))
    steps = []
    path = download(remote, tmp_path / "new" / "folder", progress=lambda *step: steps.append(step))
    assert path == tmp_path / "new" / "folder" / "genome.bin"
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["genome.bin"]
    assert steps[0] == (0, len(CONTENT))
    assert steps[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_sizes_around_a_chunk(server, tmp_path, size):
    server.content = random.Random(size).randbytes(size)
    assert download(server.remote(), tmp_path).read_bytes() == server.content


def test_name_on_disk_is_ours_not_the_servers(server, tmp_path):
    remote = replace(server.remote(), name="mine.bin")
    assert download(remote, tmp_path).name == "mine.bin"
    assert server.asked == [("/folder/genome.bin", None)]


def test_a_server_that_tells_no_length_is_believed_at_the_end(server, tmp_path):
    server.sends_length = False
    steps = []
    path = download(server.remote(), tmp_path, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert steps[-1] == (len(CONTENT), None)


def test_a_known_size_shows_a_cut_that_the_server_hides(server, tmp_path):
    server.sends_length = False
    server.cuts = [50_000]
    path = download(server.remote(size=len(CONTENT)), tmp_path, patience=QUICK)
    assert path.read_bytes() == CONTENT
    assert server.asked[1][1] == "bytes=50000-"


# Interruptions


def test_a_connection_closed_early_is_taken_up_where_it_broke(server, tmp_path):
    server.cuts = [30_000, 50_000]
    said = []
    path = download(server.remote(), tmp_path, say=said.append, patience=QUICK)
    assert path.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=30000-", "bytes=80000-"]
    assert "closed the connection after 30,000 of 200,000 bytes; trying again in 0 s" in said[0]


def test_after_some_tries_the_partial_file_is_kept_and_the_way_on_said(server, tmp_path):
    server.cuts = [1_000] * 4
    with pytest.raises(InputError, match=r"4,000 bytes are kept in .*genome\.bin\.part") as caught:
        download(server.remote(), tmp_path, patience=QUICK)
    assert len(server.asked) == 1 + len(QUICK.waits_s)
    assert "--mirror URL" in str(caught.value)
    assert "run it again" in str(caught.value)
    assert not (tmp_path / "genome.bin").exists()
    assert download(server.remote(), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=4000-"


def test_a_connection_that_keeps_dropping_but_gets_on_is_not_given_up(server, tmp_path):
    server.content = bytes(RENEWING_BYTES * 8 + 5)
    server.cuts = [RENEWING_BYTES] * 8
    path = download(server.remote(), tmp_path, patience=replace(QUICK, waits_s=(0.0,)))
    assert path.stat().st_size == len(server.content)


def test_a_server_that_always_starts_over_and_drops_is_given_up(server, tmp_path):
    server.content = bytes(RENEWING_BYTES * 3)
    server.honours_range = False
    server.cuts = [RENEWING_BYTES * 2] * 100
    with pytest.raises(InputError, match="closed the connection after 2,097,152 of 3,145,728"):
        download(server.remote(), tmp_path, patience=QUICK)
    assert len(server.asked) <= 2 * (1 + len(QUICK.waits_s))


def test_silence_is_a_timeout_and_tried_again(server, tmp_path):
    server.stall_after = 40_000
    said = []
    path = download(server.remote(), tmp_path, say=said.append, patience=QUICK)
    assert path.read_bytes() == CONTENT
    assert "sent nothing for 0.3 s" in said[0]
    assert server.asked[1][1] == "bytes=40000-"


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.codes = [503, 429, 0]
    assert download(server.remote(), tmp_path, patience=QUICK).read_bytes() == CONTENT


def test_ctrl_c_keeps_the_partial_file(server, tmp_path):
    said = []

    def press_ctrl_c(done: int, total: int | None) -> None:
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.remote(), tmp_path, progress=press_ctrl_c, say=said.append)
    kept = (tmp_path / "genome.bin.part").stat().st_size
    assert 0 < kept <= len(CONTENT)
    assert f"stopped; {kept:,} bytes are kept" in said[0]
    assert download(server.remote(), tmp_path).read_bytes() == CONTENT


def test_a_killed_process_is_taken_up_by_the_next(server, tmp_path):
    server.pause_s = 0.05
    remote = server.remote(sha256=sha256(CONTENT))
    code = (
        "from pathlib import Path\n"
        "from dnamamba.data_prep.downloads.transfer import download\n"
        "from dnamamba.data_prep.downloads.catalogue import RemoteFile\n"
        f"download({remote!r}, Path({str(tmp_path)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    part = tmp_path / "genome.bin.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 0) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    server.pause_s = 0
    assert download(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == f"bytes={kept}-"


# Resuming what lies there


def test_a_partial_file_is_continued(server, tmp_path):
    leave_partial(tmp_path, server, CONTENT[:123_456])
    steps = []
    path = download(server.remote(), tmp_path, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/folder/genome.bin", "bytes=123456-")]
    assert server.conditions == ['"v1"']
    assert steps[0] == (123_456, len(CONTENT))


def test_a_resumed_file_is_hashed_whole(server, tmp_path):
    leave_partial(tmp_path, server, b"?" + CONTENT[1:100_000])
    with pytest.raises(InputError, match=f"sha256 is [0-9a-f]{{64}}, expected {sha256(CONTENT)}"):
        download(server.remote(sha256=sha256(CONTENT)), tmp_path)


@pytest.mark.parametrize("honours_if_range", [True, False])
def test_a_file_changed_on_the_server_is_begun_again(server, tmp_path, honours_if_range):
    leave_partial(tmp_path, server, CONTENT[:100_000])
    server.content, server.etag = CONTENT[::-1], '"v2"'
    server.honours_if_range = honours_if_range
    said = []
    path = download(server.remote(), tmp_path, say=said.append)
    assert path.read_bytes() == CONTENT[::-1]
    assert server.asked[0][1] == "bytes=100000-"
    assert "starting over" in said[0]


def test_a_file_that_grew_is_begun_again_even_under_its_old_etag(server, tmp_path):
    leave_partial(tmp_path, server, CONTENT[:100_000])
    server.content = CONTENT[::-1] + b"more"
    assert download(server.remote(), tmp_path).read_bytes() == server.content


def test_a_file_that_changes_between_two_tries_is_not_spliced(server, tmp_path):
    server.cuts = [80_000]
    newer = CONTENT[::-1]

    def change(text: str) -> None:
        server.content, server.etag = newer, '"v2"'

    assert download(server.remote(), tmp_path, say=change, patience=QUICK).read_bytes() == newer


def test_last_modified_serves_where_there_is_no_strong_etag(server, tmp_path):
    server.etag, server.last_modified = None, "Sat, 01 Jan 2022 00:00:00 GMT"
    leave_partial(tmp_path, server, CONTENT[:10], validator=server.last_modified)
    assert download(server.remote(), tmp_path).read_bytes() == CONTENT
    assert server.asked[0][1] == "bytes=10-"
    assert server.conditions == [server.last_modified]
    server.etag = 'W/"weak"'
    server.cuts = [20]
    download(server.remote(), tmp_path, force=True, patience=QUICK)
    assert server.asked[-1][1] == "bytes=20-"


def test_a_server_that_ignores_ranges_sends_it_all_again(server, tmp_path):
    server.honours_range = False
    leave_partial(tmp_path, server, CONTENT[:100_000])
    said = []
    assert download(server.remote(), tmp_path, say=said.append).read_bytes() == CONTENT
    assert "starting over" in said[0]


def test_a_partial_file_that_was_whole_already_is_only_checked(server, tmp_path):
    leave_partial(tmp_path, server, CONTENT)
    path = download(server.remote(md5=md5(CONTENT)), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/folder/genome.bin", f"bytes={len(CONTENT)}-")]


def test_a_partial_file_longer_than_the_file_is_begun_again(server, tmp_path):
    leave_partial(tmp_path, server, CONTENT + b"more")
    assert download(server.remote(), tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [f"bytes={len(CONTENT) + 4}-", None]


@pytest.mark.parametrize("state", [None, "not json", "[1]"])
def test_bytes_of_unknown_origin_are_kept_only_where_a_checksum_judges(server, tmp_path, state):
    def spoil() -> None:
        part = leave_partial(tmp_path, server, CONTENT[:1000])
        part.with_name(part.name + ".json").unlink()
        if state is not None:
            part.with_name(part.name + ".json").write_text(state)

    spoil()
    download(server.remote(), tmp_path)
    assert server.asked[-1][1] is None
    spoil()
    download(server.remote(md5=md5(CONTENT)), tmp_path, force=True)
    assert server.asked[-1][1] == "bytes=1000-"
    assert (tmp_path / "genome.bin").read_bytes() == CONTENT


def test_another_address_goes_on_only_where_a_checksum_judges(server, tmp_path):
    elsewhere = "http://127.0.0.1:9/folder/genome.bin"
    leave_partial(tmp_path, server, CONTENT[:500], validator='"other"', url=elsewhere)
    download(server.remote(md5=md5(CONTENT)), tmp_path)
    assert server.asked[-1][1] == "bytes=500-"
    leave_partial(tmp_path, server, CONTENT[:500], validator='"other"', url=elsewhere)
    download(server.remote(), tmp_path, force=True)
    assert server.asked[-1][1] is None


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(0, 70_000), max_size=3),
    honours_range=st.booleans(),
    sends_length=st.booleans(),
    has_etag=st.booleans(),
)
def test_whatever_breaks_the_file_ends_up_right(
    server, tmp_path, cuts, honours_range, sends_length, has_etag
):
    server.cuts = list(cuts)
    server.honours_range, server.sends_length = honours_range, sends_length
    server.etag = '"v1"' if has_etag else None
    patience = replace(QUICK, waits_s=(0.0,) * 3)
    remote = server.remote(size=len(CONTENT), md5=md5(CONTENT))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert download(remote, tmp_path / "out", patience=patience).read_bytes() == CONTENT
    assert os.listdir(tmp_path / "out") == ["genome.bin"]


# Wrong content


def test_a_corrupted_byte_is_found_and_the_file_moved_aside(server, tmp_path):
    server.content = CONTENT[:77] + bytes([CONTENT[77] ^ 1]) + CONTENT[78:]
    expected = f"md5 is {md5(server.content)}, expected {md5(CONTENT)}"
    with pytest.raises(InputError, match=expected):
        download(server.remote(md5=md5(CONTENT)), tmp_path)
    assert os.listdir(tmp_path) == ["genome.bin.bad"]
    server.content = CONTENT
    assert download(server.remote(md5=md5(CONTENT)), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] is None


def test_a_wrong_size_is_told_before_anything_is_downloaded(server, tmp_path):
    with pytest.raises(InputError, match="offers 200,000 bytes, expected 5"):
        download(server.remote(size=5), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_wrong_size_is_found_where_the_server_tells_none(server, tmp_path):
    server.sends_length = False
    with pytest.raises(InputError, match="it has 200,000 bytes, expected 199,999"):
        download(server.remote(size=199_999), tmp_path)


def test_an_error_page_is_not_taken_for_a_gzip_file(server, tmp_path):
    server.content = b"<html>please log in</html>"
    with pytest.raises(InputError, match="not a whole gzip file"):
        download(server.remote("genome.fa.gz"), tmp_path)
    server.content = gzip.compress(b">chr1\nACGT\n")
    assert download(server.remote("genome.fa.gz"), tmp_path).name == "genome.fa.gz"


def test_a_short_gzip_file_without_a_known_length_is_found(server, tmp_path):
    server.content = gzip.compress(CONTENT)[:-100]
    with pytest.raises(InputError, match="not a whole gzip file"):
        download(server.remote("genome.fa.gz"), tmp_path)


def test_an_empty_file_is_refused(server, tmp_path):
    server.content = b""
    with pytest.raises(InputError, match="it is empty"):
        download(server.remote(), tmp_path)


# What is there already


@pytest.mark.parametrize("known", [{"md5": md5(CONTENT)}, {"size": len(CONTENT)}, {}])
def test_a_good_file_is_not_downloaded_again(server, tmp_path, known):
    (tmp_path / "genome.bin").write_bytes(CONTENT)
    said = []
    path = download(server.remote(**known), tmp_path, say=said.append)
    assert path.read_bytes() == CONTENT
    assert server.asked == []
    assert "is there already" in said[0]
    assert ("no published checksum is known" in said[0]) == ("md5" not in known)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"md5": md5(CONTENT)}, "md5 is .* expected"),
        ({"size": len(CONTENT)}, "it has 4 bytes, expected 200,000"),
    ],
)
def test_another_file_of_that_name_is_left_alone(server, tmp_path, known, message):
    (tmp_path / "genome.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=message):
        download(server.remote(**known), tmp_path)
    assert (tmp_path / "genome.bin").read_bytes() == b"mine"
    assert server.asked == []


def test_force_replaces_a_file_but_only_by_a_good_one(server, tmp_path):
    (tmp_path / "genome.bin").write_bytes(b"mine")
    server.codes = [404]
    with pytest.raises(InputError, match="HTTP 404"):
        download(server.remote(), tmp_path, force=True)
    assert (tmp_path / "genome.bin").read_bytes() == b"mine"
    assert download(server.remote(), tmp_path, force=True).read_bytes() == CONTENT


def test_a_folder_in_the_way_is_named(server, tmp_path):
    (tmp_path / "genome.bin").mkdir()
    with pytest.raises(InputError, match="is in the way"):
        download(server.remote(), tmp_path)


# Refusals


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (404, "is not there"),
        (403, "may not be read"),
        (418, "unexpected answer"),
        (204, "unexpected answer"),
    ],
)
def test_a_refusal_is_told_at_once(server, tmp_path, code, message):
    server.codes = [code] * 9
    with pytest.raises(InputError, match=rf"{message} \(HTTP {code}\).*--mirror URL.*by hand"):
        download(server.remote(), tmp_path, patience=QUICK)
    assert len(server.asked) == 1


def test_a_broken_server_is_given_up_after_some_tries(server, tmp_path):
    server.codes = [500] * 9
    with pytest.raises(InputError, match=r"is out of order \(HTTP 500\)"):
        download(server.remote(), tmp_path, patience=QUICK)
    assert len(server.asked) == 1 + len(QUICK.waits_s)


def test_a_part_nobody_asked_for_is_refused(server, tmp_path):
    server.codes = [206]
    with pytest.raises(InputError, match=r"unexpected answer \(HTTP 206\)"):
        download(server.remote(), tmp_path, patience=QUICK)


def test_no_network_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    remote = RemoteFile("genome.bin", "http://127.0.0.1:1/genome.bin")
    started = time.monotonic()
    with pytest.raises(InputError, match=r"cannot be read \(Connection refused\).*--mirror URL"):
        download(remote, tmp_path)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/genome.bin", "file:///etc/hostname"])
def test_redirects_lead_to_http_only(server, tmp_path, target):
    server.redirect_to = target
    with pytest.raises(InputError, match=r"unknown url type: ftp|HTTP 302"):
        download(server.remote(), tmp_path, patience=QUICK)


# Room and folders


def test_a_lack_of_room_is_told_before_the_download(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=199_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = "199,999 bytes free, but 200,000 are still needed for genome.bin"
    with pytest.raises(InputError, match=message):
        download(server.remote(size=len(CONTENT)), tmp_path)
    assert server.asked == []
    with pytest.raises(InputError, match=message):
        download(server.remote(), tmp_path)
    assert len(server.asked) == 1


def test_what_is_there_counts_for_the_room_needed(server, tmp_path, monkeypatch):
    leave_partial(tmp_path, server, CONTENT[:1000])
    usage = shutil.disk_usage(tmp_path)._replace(free=199_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert download(server.remote(size=len(CONTENT)), tmp_path).read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_told(server, tmp_path):
    (tmp_path / "genome.bin.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        download(server.remote(), tmp_path)
    assert not (tmp_path / "genome.bin").exists()


def test_a_folder_that_cannot_be_made_is_told(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        download(server.remote(), tmp_path / "file" / "folder")


# Mirrors


def test_a_mirror_replaces_host_and_folder(server, tmp_path):
    remote = RemoteFile("genome.bin", "http://127.0.0.1:1/far/away/genome.bin")
    path = download(remote, tmp_path, mirror=f"{server.url}/inner/mirror/")
    assert path.read_bytes() == CONTENT
    assert server.asked == [("/inner/mirror/genome.bin", None)]


def test_a_mirror_may_hold_the_published_name_or_ours(server, tmp_path):
    remote = RemoteFile("ours.bin", "http://127.0.0.1:1/published.bin")
    server.missing = ("/m/published.bin",)
    assert download(remote, tmp_path, mirror=f"{server.url}/m").read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/m/published.bin", "/m/ours.bin"]


def test_a_folder_of_this_machine_can_be_the_mirror(tmp_path):
    source = tmp_path / "a mirror"
    source.mkdir()
    remote = RemoteFile("genome.bin", "http://127.0.0.1:1/genome.bin", md5=md5(CONTENT))
    with pytest.raises(InputError, match="No such file"):
        download(remote, tmp_path / "out", mirror=source.as_uri())
    (source / "genome.bin").write_bytes(CONTENT)
    for mirror in (source.as_uri(), f"file://{source}"):
        path = download(remote, tmp_path / "out", mirror=mirror, force=True)
        assert path.read_bytes() == CONTENT


def test_the_next_address_is_tried_when_the_first_fails(server, tmp_path):
    first = "http://127.0.0.1:1/genome.bin"
    remote = RemoteFile("genome.bin", first, mirror_urls=(f"{server.url}/genome.bin",))
    said = []
    assert download(remote, tmp_path, say=said.append).read_bytes() == CONTENT
    assert said[0].startswith(f"{first} cannot be read")
    assert said[0].endswith(f"trying {server.url}/genome.bin")


def test_all_failing_addresses_are_named(server, tmp_path):
    remote = replace(server.remote(), mirror_urls=("http://127.0.0.1:1/genome.bin",))
    server.codes = [404]
    with pytest.raises(InputError, match=r"HTTP 404\), and .*Connection refused"):
        download(remote, tmp_path, patience=QUICK)


@pytest.mark.parametrize(
    "mirror",
    [
        "/data",
        "ftp://host/x",
        "http://",
        "http:///x",
        "file://data/x",
        "",
        "http://[::1",
        "s3://b/x",
    ],
)
def test_what_is_no_mirror_is_refused(tmp_path, mirror):
    remote = RemoteFile("genome.bin", "http://127.0.0.1:1/genome.bin")
    with pytest.raises(InputError, match="a mirror must be an http"):
        download(remote, tmp_path, mirror=mirror)


def test_a_mirror_keeps_its_query_and_escapes_its_path():
    remote = RemoteFile("genome.bin", "http://127.0.0.1:1/genome.bin")
    assert addresses(remote, "https://host/a b/%20/?token=x") == [
        "https://host/a%20b/%20/genome.bin?token=x"
    ]


def test_patience_is_checked():
    with pytest.raises(InputError, match="timeout_s must be > 0"):
        Patience(timeout_s=0)


# The registry


def test_the_registry_names_what_it_has():
    expected = "hg38 hg38-chr21 hg38-chr22 hg38-splits hg38-ml hg19 mm10 mm39"
    assert list(datasets()) == expected.split()
    with pytest.raises(
        InputError, match="no data set is called 'hg83'; there are hg38, hg38-chr21"
    ):
        dataset("hg83")


@pytest.mark.parametrize("name", datasets())
def test_every_entry_is_complete(name):
    entry = dataset(name)
    assert entry.name == name
    assert entry.description
    assert all(url.startswith("https://") for url in addresses(entry.file, None))


def test_no_two_entries_save_different_files_under_one_name():
    files = {entry.file for entry in datasets().values()}
    assert max(Counter(file.name for file in files).values()) == 1


def test_checks_are_described_as_they_are():
    assert describe_checks(dataset("hg38").file) == "size and md5 and sha256 checked"
    assert describe_checks(dataset("hg19").file) == "md5 checked"
    unknown = "; no published checksum is known"
    assert describe_checks(dataset("hg38-ml").file) == f"gzip CRC checked{unknown}"
    assert describe_checks(dataset("hg38-splits").file) == f"rows per split checked{unknown}"
    assert describe_checks(RemoteFile("a", "http://host/a")) == f"nothing checked{unknown}"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "..\\a", "C:a"])
def test_a_file_name_has_no_folders(name):
    with pytest.raises(InputError, match="must have no folders"):
        RemoteFile(name, "https://host/a")


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"url": "ftp://host/a"}, "needs http:// or https://"),
        ({"mirror_urls": ("file:///a",)}, "needs http:// or https://"),
        ({"md5": "ABC"}, "md5 must be 32 lower-case hex digits"),
        ({"sha256": "0" * 32}, "sha256 must be 64 lower-case hex digits"),
        ({"size": -1}, "size must be >= 0 bytes"),
    ],
)
def test_an_entry_is_checked_when_made(known, message):
    with pytest.raises(InputError, match=message):
        RemoteFile("a", **{"url": "https://host/a", **known})


def test_splits_are_counted(tmp_path):
    remote = RemoteFile(
        "a.bed", "http://host/a.bed", split_rows=(("train", 2), ("valid", 1), ("test", 1))
    )
    bed = tmp_path / "a.bed"
    splits = ["train", "train", "valid", "test"]
    rows = [f"chr1\t{i}\t{i + 9}\t{split}\n" for i, split in enumerate(splits)]
    bed.write_text("".join(rows))
    assert find_problem(remote, bed) is None
    bed.write_text("".join(rows[1:]))
    message = "its rows are train 1, valid 1, test 1, expected train 2, valid 1, test 1"
    assert find_problem(remote, bed) == message
    bed.write_text("<html>please log in</html>\n")
    assert "line 1 is not `chrom start end split`" in find_problem(remote, bed)
