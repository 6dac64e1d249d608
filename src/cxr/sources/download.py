"""How does a collection that is not there get there, whole or not at all?"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cxr.errors import ConfigurationError, DataError
from cxr.sources.archive import DamagedArchiveError, RefusedArchiveError, unpack

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16  # bytes
MAX_FAILURES = 4  # attempts in a row that bring nothing new
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)

_Bar: TypeAlias = Callable[[str, int, int | None], None]


def absent(root: Path, address: str, why: str) -> DataError:
    """The one line that says that a collection is not there, how to get it, and what works without it."""
    return DataError(
        f"no collection in {root}: {why}; fetch {address} by hand and unpack it there, or try experiment=demo"
    )


def ensure_collection(
    root: Path, address: str, *, download: bool, required: str, size_hint: str, progress: bool = True
) -> None:
    """Fetch a collection where it is not there yet; a collection that is there is never touched.

    Args:
        root: folder of the collection.
        address: where its archive is, zip or tar.
        download: whether it may be fetched.
        required: the file by which the collection is known, relative to ``root``.
        size_hint: its size in words, said before anything is fetched.
        progress: whether to speak and, on a terminal, to draw a bar.

    Raises:
        DataError: where it is absent and may not, or cannot, be fetched.
    """
    if (root / required).is_file():
        return
    if not download:
        raise absent(root, address, f"there is no {required}, and data.download=false")
    fetch(address, root, required=required, size_hint=size_hint, progress=progress)


def fetch(
    address: str,
    target_dir: Path,
    *,
    size_hint: str,
    required: str | None = None,
    progress: bool = True,
    retry_pause: float = 1.0,
) -> None:
    """Fetch a zip or tar archive and unpack it as ``target_dir``; the folder appears when it is whole.

    A transfer that breaks is taken up where it broke, within a call and by the next one, if the server can (RFC 9110,
    section 14: ranges, If-Range); else it starts again. All members are checked before the first is written. Concurrent
    calls fetch once: the others wait, and find the folder. A single folder at the top of the archive is left out.

    Args:
        address: http or https address of the archive.
        target_dir: the folder to make; it must not exist, or be empty.
        size_hint: the size in words.
        required: a file that the archive has to hold.
        progress: whether to speak and, on a terminal, to draw a bar.
        retry_pause: seconds before the second attempt; doubled before each further one.

    Raises:
        ConfigurationError: where the address is not one of the web.
        DataError: where nothing can be fetched, or what came is damaged or not to be trusted.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigurationError(f"address: {address!r} is no http or https address of an archive")
    console = Console(stderr=True, quiet=not progress, soft_wrap=True, highlight=False, markup=False)
    target_dir = target_dir.absolute()
    work_dir = target_dir.with_name(f".{target_dir.name}.fetching")
    try:
        target_dir.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target_dir.with_name(f".{target_dir.name}.lock"), target_dir, console):
            if _stands(target_dir, required):
                return
            work_dir.mkdir(exist_ok=True)
            console.print(f"{target_dir} is not there: fetching {size_hint} from {address}")
            with _bar(console) as bar:
                archive_path = _download(address, target_dir, work_dir, bar, retry_pause)
                _unpack(archive_path, work_dir / "unpacked", address, required, bar)
            if target_dir.exists():
                target_dir.rmdir()
            (work_dir / "unpacked").rename(target_dir)
            shutil.rmtree(work_dir, ignore_errors=True)
    except OSError as error:
        why = error.strerror if error.strerror else _words(error)
        raise absent(target_dir, address, f"it cannot be written ({why})") from error


@contextmanager
def _locked(lock_path: Path, target_dir: Path, console: Console) -> Iterator[None]:
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"{target_dir}: another job is fetching it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _stands(target_dir: Path, required: str | None) -> bool:
    if not target_dir.exists() or (target_dir.is_dir() and not any(target_dir.iterdir())):
        return False
    if required is not None and not (target_dir / required).is_file():
        raise DataError(
            f"{target_dir}: is there, but holds no {required}; move it away and run again, to have it fetched"
        )
    return True


@contextmanager
def _bar(console: Console) -> Iterator[_Bar]:
    """A bar that is told (what, bytes done, bytes in all or None); drawn on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:

        def tell(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield tell


@dataclass(frozen=True)
class _Transfer:
    """What has to be known of a half-fetched archive to go on with it; kept beside it."""

    address: str
    validator: str | None
    total: int | None


class _BrokenError(Exception):
    """The transfer broke; another attempt may bring the rest."""


class _UnreachableError(_BrokenError):
    """There was not even a connection."""


def _download(address: str, target_dir: Path, work_dir: Path, bar: _Bar, retry_pause: float) -> Path:
    path, note_path = work_dir / "archive", work_dir / "archive.json"
    furthest = start = _size(path)
    failures = 0
    while True:
        try:
            _attempt(address, path, note_path, bar)
        except _BrokenError as error:
            # Only what no attempt has reached before counts: a server that always starts again and always breaks off
            # must not keep us for ever.
            failures = 0 if _size(path) > furthest else failures + 1
            furthest = max(furthest, _size(path))
            offline = isinstance(error, _UnreachableError) and furthest == start
            if offline or failures >= MAX_FAILURES:
                raise absent(target_dir, address, f"it could not be fetched ({error})") from error
            time.sleep(retry_pause * 2 ** max(failures - 1, 0))
        except HTTPError as error:
            raise absent(target_dir, address, f"the server answers {error.code} {error.reason}") from error
        else:
            return path


def _attempt(address: str, path: Path, note_path: Path, bar: _Bar) -> None:
    """Bring the rest of the archive, or all of it; raises ``_BrokenError`` where it is still not whole."""
    done, note = _size(path), _read_note(note_path, address)
    if note is None or note.validator is None:
        done = 0
    elif done == note.total:
        return
    headers = {"User-Agent": "cxr", "Accept-Encoding": "identity"}
    if done and note is not None and note.validator is not None:
        headers |= {"Range": f"bytes={done}-", "If-Range": note.validator}
    try:
        response = urlopen(Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:
            note_path.unlink(missing_ok=True)
            raise _BrokenError("the server has no such range") from error
        if error.code in RETRIED_STATUS:
            raise _BrokenError(f"{error.code} {error.reason}") from error
        raise
    except URLError as error:
        raise _UnreachableError(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _BrokenError(_words(error)) from error

    with response:
        if response.status == 206:
            total = _continued(response.headers, done, note, note_path)
        else:
            done = 0
            total = _whole_number(response.headers.get("Content-Length"))
            # Before the first byte: what lies there from now on is of this transfer.
            path.unlink(missing_ok=True)
            note = _Transfer(address, _validator(response.headers), total)
            note_path.write_text(json.dumps(asdict(note)))
        with path.open("ab") as file:
            done = _receive(response, file, done, total, bar)
    if total is not None and done != total:
        raise _BrokenError(f"it broke off after {done} of {total} bytes")
    if total is None and note is not None:
        note_path.write_text(json.dumps(asdict(replace(note, total=done))))


def _receive(response: IO[bytes], file: IO[bytes], done: int, total: int | None, bar: _Bar) -> int:
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _BrokenError(_words(error)) from error
        if not chunk:
            return done
        file.write(chunk)
        done += len(chunk)
        bar("fetching", done, total)


def _continued(headers: HTTPMessage, done: int, note: _Transfer | None, note_path: Path) -> int | None:
    """The total size, where a partial answer does continue what is there; else all of it is fetched anew."""
    place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
    total = _whole_number(place[2]) if place else None
    if (
        note is None
        or place is None
        or int(place[1]) != done
        or (note.total is not None and total != note.total)
        or _validator(headers) not in (None, note.validator)
    ):
        note_path.unlink(missing_ok=True)
        raise _BrokenError("the archive changed on the server")
    return total


def _validator(headers: HTTPMessage) -> str | None:
    """What tells one version of the archive from another, byte by byte; weak tags do not (RFC 9110, section 8.8)."""
    tag = headers.get("ETag")
    return tag if tag is not None and not tag.startswith("W/") else headers.get("Last-Modified")


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _read_note(path: Path, address: str) -> _Transfer | None:
    try:
        note = _Transfer(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return note if note.address == address else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text else type(error).__name__


def _unpack(archive_path: Path, unpacked_dir: Path, address: str, required: str | None, bar: _Bar) -> None:
    try:
        unpack(
            archive_path,
            unpacked_dir,
            required=required,
            tell=lambda done, total: bar("unpacking", done, total),
        )
    except RefusedArchiveError as error:
        archive_path.unlink()
        raise DataError(f"{address}: the archive is refused, nothing of it was kept: {error}") from error
    except DamagedArchiveError as error:
        archive_path.unlink()
        raise DataError(
            f"{address}: what came is no whole zip or tar archive ({_words(error)}); run again to fetch it anew"
        ) from error
