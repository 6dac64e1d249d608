"""Which bytes does a file hold?  SHA-256 of many files, each hashed once for as long as it does not change."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

# What a file was like when it was hashed: size in bytes, mtime and ctime in nanoseconds. The ctime is there because
# archivers and copiers set the mtime back, so that another file of the same size can have the same one.
_State = tuple[int, int, int]

_BATCH: Final = 500  # placeholders in one query: below the limit of every sqlite
_FLUSH: Final = 5000  # files between two writes: what an interrupted run keeps
# A file that is written twice within the resolution of the clock has the same state for both contents: as git does
# with its index, what changed just now is not remembered.
_SETTLED_NS: Final = 2_000_000_000


def sha256_of(paths: Sequence[str], memo_path: str | Path, *, progress: bool = True) -> list[str | None]:
    """Hashes files, in parallel threads.

    Args:
        paths: absolute paths.
        memo_path: an sqlite file that remembers digests by path, size, mtime and ctime; made where it is missing.
            Any number of processes may share it; where it cannot be used, everything is hashed.
        progress: shows a bar on a terminal.

    Returns:
        64 hexadecimal digits per path, in order; None for a file that cannot be read.
    """
    memo = _recall(paths, Path(memo_path))
    console = Console(stderr=True)
    digests: list[str | None] = []
    fresh: list[tuple[bytes, int, int, int, str]] = []
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 2)) as pool:
        results = track(
            pool.map(lambda path: _fingerprint(path, memo.get(path)), paths),
            "Fingerprinting",
            total=len(paths),
            console=console,
            disable=not (progress and console.is_terminal and len(memo) < len(paths)),
        )
        for path, (state, digest) in zip(paths, results, strict=True):
            digests.append(digest)
            if state is not None and digest is not None:
                fresh.append((os.fsencode(path), *state, digest))
            if len(fresh) >= _FLUSH:
                _remember(fresh, Path(memo_path))
                fresh = []
    _remember(fresh, Path(memo_path))
    return digests


def _fingerprint(path: str, known: tuple[_State, str] | None) -> tuple[_State | None, str | None]:
    """The digest of a file, and its state where that is new and worth remembering."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path for each of a million files costs more than the open
            before = _state(file.fileno())
            if known is not None and known[0] == before:
                return None, known[1]
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            settled = _state(file.fileno()) == before and time.time_ns() - max(before[1:]) > _SETTLED_NS
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None, None
    return (before if settled else None), digest


def _state(descriptor: int) -> _State:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _connect(memo_path: Path) -> sqlite3.Connection:
    memo_path.parent.mkdir(parents=True, exist_ok=True)
    # Not WAL: it needs shared memory, which a cache folder on a network has not.
    connection = sqlite3.connect(memo_path, timeout=60.0)
    # Paths are bytes: a name on disk need not be text.
    connection.execute(
        "CREATE TABLE IF NOT EXISTS digests"
        " (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 TEXT) WITHOUT ROWID"
    )
    return connection


def _recall(paths: Sequence[str], memo_path: Path) -> dict[str, tuple[_State, str]]:
    memo: dict[str, tuple[_State, str]] = {}
    try:
        with closing(_connect(memo_path)) as connection:
            for start in range(0, len(paths), _BATCH):
                names = [os.fsencode(path) for path in paths[start : start + _BATCH]]
                marks = ",".join("?" * len(names))
                rows = connection.execute(f"SELECT * FROM digests WHERE path IN ({marks})", names)
                memo |= {os.fsdecode(path): ((size, mtime, ctime), digest) for path, size, mtime, ctime, digest in rows}
    except (sqlite3.OperationalError, OSError):
        return {}  # busy or not readable: everything is hashed
    except (sqlite3.DatabaseError, ValueError):
        # No database, or not ours: a memo holds nothing that cannot be computed again.
        memo_path.unlink(missing_ok=True)
        return {}
    return memo


def _remember(rows: Sequence[tuple[bytes, int, int, int, str]], memo_path: Path) -> None:
    if not rows:
        return
    try:
        with closing(_connect(memo_path)) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", rows)
    except (sqlite3.DatabaseError, OSError):
        return  # a memo that cannot be written costs time, nothing else
