"""Does a collection arrive whole or not at all, whatever the server and its archive do?"""

from __future__ import annotations

import io
import multiprocessing
import re
import socket
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from cxr.errors import ConfigurationError, DataError
from cxr.sources.download import ensure_collection, fetch

NOISE = np.random.default_rng(0).bytes(400_000)
CONTENT = {"metadata.csv": b"patientid\n1\n", "images/a.png": NOISE, "images/more/b.png": b"b"}


def pack(members: dict[str, bytes], top: str = "collection-master/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        if top:
            archive.writestr(top, b"")
        for name, content in members.items():
            archive.writestr(top + name, content)
    return buffer.getvalue()


WHOLE = pack(CONTENT)


@dataclass
class Behaviour:
    """What the server serves, how it misbehaves, and what it has been asked."""

    body: bytes = WHOLE
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True  # whether If-Range is looked at
    length: bool = True
    status: int = 200
    cuts: list[int] = field(default_factory=list)  # bytes after which the first, second, ... answer breaks off
    busy: int = 0  # answers with 503 first
    on_request: Callable[[Behaviour], None] | None = None
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)  # Range, If-Range
    sent: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        do = self.behaviour
        asked = self.headers.get("Range")
        do.asked.append((asked, self.headers.get("If-Range")))
        if do.on_request is not None:
            do.on_request(do)
        self.close_connection = True
        if do.status != 200 or do.busy:
            self.send_response(do.status if not do.busy else 503)
            do.busy = max(do.busy - 1, 0)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        validators = (do.etag, do.modified)
        if do.ranges and asked and (not do.if_range or self.headers.get("If-Range") in validators):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(do.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(do.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(do.body) - 1}/{len(do.body)}")
        else:
            self.send_response(200)
        if do.length:
            self.send_header("Content-Length", str(len(do.body) - start))
        if do.etag is not None:
            self.send_header("ETag", do.etag)
        if do.modified is not None:
            self.send_header("Last-Modified", do.modified)
        self.end_headers()
        content = do.body[start:]
        if do.cuts:
            content = content[: do.cuts.pop(0)]
        self.wfile.write(content)
        do.sent += len(content)


@dataclass
class Server:
    address: str
    do: Behaviour


@pytest.fixture
def server() -> Iterator[Server]:
    do = Behaviour()
    handler = type("Bound", (Handler,), {"behaviour": do})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Server(f"http://127.0.0.1:{httpd.server_address[1]}/collection.zip", do)
        httpd.shutdown()
        thread.join()


def get(server: Server, target: Path, **options: object) -> None:
    arguments = {"size_hint": "half a megabyte", "required": "metadata.csv", "progress": False, "retry_pause": 0.0}
    fetch(server.address, target, **(arguments | options))  # type: ignore[arg-type]


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(call: Callable[[], None]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_collection_arrives_without_its_top_folder_and_leaves_nothing_beside_it(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "data" / "collection"
    get(server, target, progress=True)
    assert files_in(target) == CONTENT
    assert {p.name for p in target.parent.iterdir()} <= {"collection", ".collection.lock"}
    said = capfd.readouterr()
    assert "half a megabyte" in said.err
    assert server.address in said.err
    assert "\x1b" not in said.err  # no terminal, no bar
    assert said.out == ""


def test_an_archive_without_one_top_folder_keeps_its_folders(server: Server, tmp_path: Path) -> None:
    server.do.body = pack(CONTENT, top="")
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == CONTENT


def test_a_transfer_that_breaks_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.do.cuts = [100_000, 100_000]
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == CONTENT
    assert server.do.asked == [(None, None), ("bytes=100000-", '"one"'), ("bytes=200000-", '"one"')]
    assert server.do.sent == len(WHOLE)


def test_the_next_call_goes_on_where_the_last_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.do.cuts = [150_000, 0, 0, 0, 0, 0, 0, 0]
    message = refused(lambda: get(server, tmp_path / "c"))
    assert all(word in message for word in (str(tmp_path / "c"), server.address, "experiment=demo"))
    assert not (tmp_path / "c").exists()
    server.do.cuts.clear()
    server.do.asked.clear()
    get(server, tmp_path / "c")
    assert server.do.asked == [("bytes=150000-", '"one"')]
    assert files_in(tmp_path / "c") == CONTENT


def test_a_date_serves_where_the_server_gives_no_strong_tag(server: Server, tmp_path: Path) -> None:
    server.do.etag, server.do.modified = 'W/"weak"', "Wed, 01 Jul 2020 10:00:00 GMT"
    server.do.cuts = [100_000]
    get(server, tmp_path / "c")
    assert server.do.asked[1] == ("bytes=100000-", server.do.modified)
    assert files_in(tmp_path / "c") == CONTENT


def test_without_any_sign_of_the_version_it_starts_again(server: Server, tmp_path: Path) -> None:
    server.do.etag = 'W/"weak"'
    server.do.cuts = [100_000]
    get(server, tmp_path / "c")
    assert server.do.asked == [(None, None), (None, None)]
    assert files_in(tmp_path / "c") == CONTENT


def test_a_server_that_ignores_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.do.ranges = False
    server.do.cuts = [100_000, 300_000]
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == CONTENT
    assert server.do.sent == 400_000 + len(WHOLE)


def test_a_server_that_always_breaks_off_at_one_place_is_given_up(server: Server, tmp_path: Path) -> None:
    server.do.ranges = False
    server.do.cuts = [100_000] * 100
    refused(lambda: get(server, tmp_path / "c"))
    assert len(server.do.asked) < 10


@pytest.mark.parametrize("if_range", [True, False])
def test_an_archive_that_changes_on_the_way_is_never_patched_together(
    server: Server, tmp_path: Path, if_range: bool
) -> None:
    changed = {"metadata.csv": b"patientid\n2\n", "images/a.png": NOISE[::-1]}

    def change(do: Behaviour) -> None:
        if len(do.asked) == 2:
            do.body, do.etag = pack(changed), '"two"'

    server.do.if_range = if_range
    server.do.cuts = [100_000]
    server.do.on_request = change
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == changed


@pytest.mark.parametrize(
    ("changed", "etag"),
    [
        ({**CONTENT, "images/a.png": NOISE[::-1]}, '"two"'),  # as long as before: only the tag tells
        ({**CONTENT, "images/a.png": NOISE[::-1] + NOISE}, '"one"'),  # the tag stays: only the length tells
    ],
)
def test_one_sign_of_a_change_is_enough(server: Server, tmp_path: Path, changed: dict[str, bytes], etag: str) -> None:
    def change(do: Behaviour) -> None:
        if len(do.asked) == 2:
            do.body, do.etag = pack(changed), etag

    assert (len(pack(changed)) == len(WHOLE)) == (etag == '"two"')
    server.do.if_range = False
    server.do.cuts = [100_000]
    server.do.on_request = change
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == changed


def test_an_archive_that_shrinks_on_the_way_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    shrunk = {"metadata.csv": b"patientid\n2\n"}

    def shrink(do: Behaviour) -> None:
        if len(do.asked) == 2:
            do.body, do.etag = pack(shrunk), '"two"'

    server.do.if_range = False
    server.do.cuts = [100_000]
    server.do.on_request = shrink
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == shrunk


def test_a_half_of_another_address_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.do.cuts = [150_000, 0, 0, 0, 0, 0, 0, 0]
    refused(lambda: get(server, tmp_path / "c"))
    server.do.cuts.clear()
    server.do.asked.clear()
    get(Server(server.address + "?v=2", server.do), tmp_path / "c")
    assert server.do.asked == [(None, None)]
    assert files_in(tmp_path / "c") == CONTENT


def test_a_whole_archive_that_was_not_yet_unpacked_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    blocked = tmp_path / ".c.fetching" / "unpacked"
    blocked.parent.mkdir()
    blocked.write_text("in the way of the folder")
    refused(lambda: get(server, tmp_path / "c"))
    blocked.unlink()
    get(server, tmp_path / "c")
    assert len(server.do.asked) == 1
    assert files_in(tmp_path / "c") == CONTENT


def test_a_server_that_tells_no_length(server: Server, tmp_path: Path) -> None:
    server.do.length = False
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == CONTENT


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.do.busy = 2
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == CONTENT


@pytest.mark.parametrize("length", [True, False])
def test_a_truncated_archive_is_refused_and_fetched_anew_by_the_next_call(
    server: Server, tmp_path: Path, length: bool
) -> None:
    server.do.length = length
    server.do.body = WHOLE[:-1000]
    assert "no whole zip or tar" in refused(lambda: get(server, tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    server.do.body = WHOLE
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == CONTENT


def test_a_flipped_bit_is_found(server: Server, tmp_path: Path) -> None:
    body = bytearray(WHOLE)
    body[len(body) // 2] ^= 1
    server.do.body = bytes(body)
    assert "no whole zip or tar" in refused(lambda: get(server, tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def link(name: str, target: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("top/metadata.csv", "patientid\n")
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
        archive.writestr(f"{name}/planted", "through the link")
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("top/metadata.csv", "one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("top/metadata.csv", "two")
    return buffer.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent": (lambda: pack({"metadata.csv": b"", "../../planted": b"x"}), "leads out"),
    "absolute": (lambda: pack({"top/metadata.csv": b"", "/tmp/planted": b"x"}, top=""), "leads out"),
    "drive": (lambda: pack({"top/metadata.csv": b"", "C:/planted": b"x"}, top=""), "leads out"),
    "drive below the top": (lambda: pack({"metadata.csv": b"", "C:/planted": b"x"}), "leads out"),
    "backslash": (lambda: pack({"metadata.csv": b"", "..\\planted": b"x"}), "leads out"),
    "link": (lambda: link("top/images", "/tmp"), "link"),
    "twice": (twice, "stands twice"),
    "file and folder": (lambda: pack({"metadata.csv": b"", "images": b"x", "images/planted": b"x"}), "both a file"),
    "bomb": (lambda: pack({"metadata.csv": b"", "planted": bytes(20_000_000)}), "unfold"),
    "another thing": (lambda: pack({"something.csv": b""}), "metadata.csv"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_before_anything_is_written(server: Server, tmp_path: Path, kind: str) -> None:
    make, named = HOSTILE[kind]
    server.do.body = make()
    data_dir = tmp_path / "deep" / "data"
    message = refused(lambda: get(server, data_dir / "c"))
    assert named in message
    assert "refused" in message
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left <= {"deep/data/.c.lock", "deep/data/.c.fetching/archive.json"}
    assert not (data_dir / "c").exists()


@pytest.mark.parametrize("status", [404, 403, 410])
def test_an_address_that_holds_nothing_is_one_line(server: Server, tmp_path: Path, status: int) -> None:
    server.do.status = status
    message = refused(lambda: get(server, tmp_path / "c"))
    assert all(word in message for word in (str(status), str(tmp_path / "c"), server.address, "experiment=demo"))
    assert len(server.do.asked) == 1


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_without_a_network_it_is_one_line(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{closed_port()}/collection.zip"
    message = refused(
        lambda: ensure_collection(
            tmp_path / "c", address, download=True, required="metadata.csv", size_hint="much", progress=False
        )
    )
    assert all(word in message for word in (str(tmp_path / "c"), address, "experiment=demo"))


def test_what_may_not_be_fetched_is_not(server: Server, tmp_path: Path) -> None:
    message = refused(
        lambda: ensure_collection(
            tmp_path / "c", server.address, download=False, required="metadata.csv", size_hint="much"
        )
    )
    assert all(word in message for word in (str(tmp_path / "c"), server.address, "experiment=demo", "data.download"))
    assert server.do.asked == []


def test_a_collection_that_is_there_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("mine")
    for download in (True, False):
        ensure_collection(tmp_path, server.address, download=download, required="metadata.csv", size_hint="much")
    assert server.do.asked == []
    assert files_in(tmp_path) == {"metadata.csv": b"mine"}


def test_a_folder_with_something_else_in_it_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "c"
    target.mkdir()
    (target / "thesis.doc").write_text("mine")
    message = refused(lambda: get(server, target))
    assert "move it away" in message
    assert server.do.asked == []
    assert files_in(target) == {"thesis.doc": b"mine"}


def test_an_empty_folder_is_filled(server: Server, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    get(server, tmp_path / "c")
    assert files_in(tmp_path / "c") == CONTENT


def test_a_place_that_cannot_be_written_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "cannot be written" in refused(lambda: get(server, tmp_path / "file" / "c"))


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/c.zip", "collection.zip"])
def test_only_addresses_of_the_web_are_fetched(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(address)):
        fetch(address, tmp_path / "c", size_hint="much", progress=False)


def fetch_in_a_job(address: str, target: str, start: Barrier) -> None:
    start.wait(60)
    fetch(address, Path(target), size_hint="much", required="metadata.csv", progress=False)


def test_concurrent_jobs_fetch_once(server: Server, tmp_path: Path) -> None:
    second = threading.Event()

    def hold_the_first(do: Behaviour) -> None:
        # Long enough for the other job, which starts at the same moment, to ask too if nothing stops it.
        if len(do.asked) > 1:
            second.set()
        second.wait(1.0)

    server.do.on_request = hold_the_first
    context = multiprocessing.get_context("spawn")
    target, start = tmp_path / "c", context.Barrier(2)
    jobs = [context.Process(target=fetch_in_a_job, args=(server.address, str(target), start)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(server.do.asked) == 1
    assert files_in(target) == CONTENT
