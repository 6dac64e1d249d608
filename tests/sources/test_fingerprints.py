from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from cxr.sources.fingerprints import sha256_of

# Files of the standard library were written long ago, so their digests are worth remembering.
SETTLED = sorted(str(path) for path in Path(json.__file__).parent.glob("*.py"))


def plain(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def remembered(memo_path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(memo_path)) as connection:
        return {os.fsdecode(path): digest for path, digest in connection.execute("SELECT path, sha256 FROM digests")}


def poison(memo_path: Path, path: str, digest: str) -> None:
    """Makes the memo hold a digest for a file as it is now, so that a look at the memo shows."""
    status = Path(path).stat()
    row = (os.fsencode(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest)
    with closing(sqlite3.connect(memo_path)) as connection, connection:
        connection.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", row)


def test_digests_come_in_the_order_of_the_paths_and_are_remembered(tmp_path: Path) -> None:
    memo_path = tmp_path / "cache" / "memo.sqlite"
    paths = [*reversed(SETTLED), SETTLED[0]]

    assert sha256_of(paths, memo_path) == [plain(path) for path in paths]
    assert remembered(memo_path) == {path: plain(path) for path in SETTLED}

    poison(memo_path, SETTLED[0], "from the memo")
    assert sha256_of(SETTLED[:2], memo_path) == ["from the memo", plain(SETTLED[1])]


def test_a_file_that_changed_is_hashed_again_even_with_its_old_size_and_time(tmp_path: Path) -> None:
    memo_path, path = tmp_path / "memo.sqlite", tmp_path / "image.png"
    path.write_bytes(b"before")
    sha256_of([str(path)], memo_path)
    poison(memo_path, str(path), "before")
    status = path.stat()

    path.write_bytes(b"after!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert sha256_of([str(path)], memo_path) == [hashlib.sha256(b"after!").hexdigest()]


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    memo_path, path = tmp_path / "memo.sqlite", tmp_path / "image.png"
    path.write_bytes(b"now")

    sha256_of([str(path), SETTLED[0]], memo_path)

    assert list(remembered(memo_path)) == [SETTLED[0]]


def test_what_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    paths = [str(tmp_path / "missing.png"), str(tmp_path), "bad\0name", SETTLED[0]]

    assert sha256_of(paths, tmp_path / "memo.sqlite") == [None, None, None, plain(SETTLED[0])]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_name_that_is_no_text_is_hashed_and_recalled(tmp_path: Path) -> None:
    memo_path, path = tmp_path / "memo.sqlite", os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.png")
    Path(path).write_bytes(b"x")

    assert sha256_of([path], memo_path) == [hashlib.sha256(b"x").hexdigest()]
    poison(memo_path, path, "known")
    assert sha256_of([path], memo_path) == ["known"]


@pytest.mark.parametrize("content", [b"this is no database at all, and longer than a header" * 50, b""])
def test_a_memo_that_is_no_database_costs_nothing_but_time(tmp_path: Path, content: bytes) -> None:
    memo_path = tmp_path / "memo.sqlite"
    memo_path.write_bytes(content)

    assert sha256_of(SETTLED, memo_path) == [plain(path) for path in SETTLED]
    assert len(remembered(memo_path)) == len(SETTLED)


def test_a_memo_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    assert sha256_of(SETTLED, tmp_path / "file" / "memo.sqlite") == [plain(path) for path in SETTLED]


def test_processes_share_a_memo(tmp_path: Path) -> None:
    memo_path = str(tmp_path / "memo.sqlite")

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        answers = list(pool.map(sha256_of, [SETTLED] * 6, [memo_path] * 6))

    assert answers == [[plain(path) for path in SETTLED]] * 6
    assert len(remembered(Path(memo_path))) == len(SETTLED)
