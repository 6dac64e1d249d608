"""Can this archive be unpacked without harm?  Every member is looked at before the first is written."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Final, Protocol, TypeAlias

MAX_MEMBERS = 200_000
MAX_BYTES = 20 << 30
# Radiographs hardly shrink; an archive that unfolds to a hundred times its size is no collection.
MAX_RATIO = 100
_SLACK: Final = 1 << 20  # bytes that even the smallest archive may unfold to
_CHUNK: Final = 1 << 16  # bytes that are read at a time, and the most that a tar may say of one member
_MAX_GLOBAL: Final = 100  # things that a tar may say of all its members

_Unpacked: TypeAlias = IO[bytes] | gzip.GzipFile | bz2.BZ2File


class RefusedArchiveError(Exception):
    """The archive is not to be trusted; the message says why."""


class DamagedArchiveError(Exception):
    """The archive is not whole, or of no kind that is known; the message says how that shows."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class _Member:
    """What an archive says of one of its members; ``odd`` is what speaks against it, None for a file or a folder."""

    name: str
    num_bytes: int
    is_folder: bool
    odd: str | None
    open: Callable[[], AbstractContextManager[_Readable]]


def unpack(archive_path: Path, unpacked_dir: Path, *, required: str | None, tell: Callable[[int, int], None]) -> None:
    """Unpack an archive into a folder of its own, after a look at every member.

    Zip (stored or deflated) and tar (plain, gzip or bzip2) are known by their content. Nothing but the bytes of files
    is taken over: no owner, no permission, no time.

    Args:
        archive_path: the archive.
        unpacked_dir: the folder to make; what stands there is removed. A single folder at the top of the archive is
            left out.
        required: a file that the archive has to hold, or None.
        tell: is told (bytes done, bytes in all) after each file.

    Raises:
        RefusedArchiveError: a member leads out of the folder, is a link or a device, is encrypted, stands twice, or all
            of them are absurdly large; nothing was written.
        DamagedArchiveError: it is cut off, does not fit its checksums, or is no archive.
        OSError: the disk is too small or cannot be written.
    """
    shutil.rmtree(unpacked_dir, ignore_errors=True)
    num_bytes = archive_path.stat().st_size
    limit = min(MAX_BYTES, _SLACK + MAX_RATIO * num_bytes)
    with ExitStack() as stack:
        with _reading():
            members = _harmless(_members(archive_path, limit, stack), limit)
        if required is not None and PurePosixPath(required) not in members:
            raise RefusedArchiveError(f"it holds no {required}")
        total, done = sum(member.num_bytes for member in members.values()), 0
        if shutil.disk_usage(archive_path.parent).free < total:
            raise OSError(errno.ENOSPC, f"{total / 1e9:.1f} GB do not fit on the disk")
        for relative, member in members.items():
            path = unpacked_dir / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                for chunk in _content(member):
                    file.write(chunk)
            done += member.num_bytes
            tell(done, total)


@contextmanager
def _reading() -> Iterator[None]:
    """What the libraries raise on a damaged archive, in one word."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, zlib.error) as error:
        raise DamagedArchiveError(_words(error)) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DamagedArchiveError(_words(error)) from error  # of gzip and bzip2: nothing is wrong with the disk


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text else type(error).__name__


def _content(member: _Member) -> Iterator[bytes]:
    with ExitStack() as stack:
        with _reading():
            source = stack.enter_context(member.open())
        left = member.num_bytes
        while left:
            with _reading():
                chunk = source.read(min(_CHUNK, left))
            if not chunk:
                raise DamagedArchiveError(f"{member.name!r} is cut off")
            left -= len(chunk)
            yield chunk
        with _reading():
            source.read(1)  # a zip compares the checksum at the end


def _harmless(members: Iterable[_Member], limit: int) -> dict[PurePosixPath, _Member]:
    """Relative path -> file of the archive, once every member is known to be harmless."""
    files: dict[PurePosixPath, _Member] = {}
    folders: set[PurePosixPath] = set()
    total = 0
    for number, member in enumerate(members, start=1):
        total += member.num_bytes
        if number > MAX_MEMBERS or total > limit:
            raise RefusedArchiveError(f"its first {number} members would unfold to {total} bytes")
        path = _harmless_path(member)
        folders.update(path.parents)
        if member.is_folder:
            folders.add(path)
        elif path in files:
            raise RefusedArchiveError(f"{member.name!r} stands twice")
        else:
            files[path] = member
    for path in files:
        if path in folders:
            raise RefusedArchiveError(f"{str(path)!r} is both a file and a folder")
    tops = {path.parts[0] for path in files}
    if len(tops) == 1 and all(len(path.parts) > 1 for path in files):
        return {PurePosixPath(*path.parts[1:]): member for path, member in files.items()}
    return files


def _harmless_path(member: _Member) -> PurePosixPath:
    name = member.name
    path = PurePosixPath(name)
    # A drive in the middle counts too: it may stand first once the top folder is left out.
    drive = any(PureWindowsPath(part).drive for part in path.parts)
    if "\0" in name or "\\" in name or path.is_absolute() or drive or ".." in path.parts:
        raise RefusedArchiveError(f"{name!r} leads out of its folder")
    if not path.parts and not member.is_folder:
        raise RefusedArchiveError(f"{name!r} names nothing")
    if member.odd is not None:
        raise RefusedArchiveError(f"{name!r} is {member.odd}")
    return path


def _members(archive_path: Path, limit: int, stack: ExitStack) -> Iterator[_Member]:
    """What the archive holds; it stays open until the stack is closed."""
    file = stack.enter_context(archive_path.open("rb"))
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return _of_tar(stack.enter_context(gzip.GzipFile(fileobj=file)), limit)
    if start.startswith(b"BZh"):
        return _of_tar(stack.enter_context(bz2.BZ2File(file)), limit)
    if start[257:262] == b"ustar":
        return _of_tar(file, limit)
    return _of_zip(stack.enter_context(zipfile.ZipFile(file)))


def _of_zip(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        odd = None
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            odd = "a link or a device"
        elif info.flag_bits & 1:
            odd = "encrypted"
        elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            odd = "packed in another way than zip archives commonly are"
        # The name as it stands in the archive: zipfile itself cuts names at a NUL.
        yield _Member(info.orig_filename, info.file_size, info.is_dir(), odd, partial(archive.open, info))


def _of_tar(unpacked: _Unpacked, limit: int) -> Iterator[_Member]:
    stream = _BoundedStream(unpacked, limit + _SLACK)
    archive = tarfile.TarFile(fileobj=stream, mode="r")
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # or all that the headers say would stay in memory
        if len(archive.pax_headers) > _MAX_GLOBAL:
            raise RefusedArchiveError("it says too much of all its members")
        odd = None if info.isdir() or (info.isreg() and not info.issparse()) else "a link or a device"
        if info.size < 0:
            odd = "of a size below nothing"
        place = info.offset_data
        yield _Member(info.name, info.size, info.isdir(), odd, partial(stream.at, place))
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DamagedArchiveError("it has no end")  # tarfile takes an archive that is cut off for a shorter one
    while stream.read(_CHUNK):  # the checksum of gzip stands behind all of it
        stream.seek(stream.tell())


class _BoundedStream(io.RawIOBase):
    """An unpacked stream that no header can make swallow memory, and that ends where it becomes absurdly long."""

    def __init__(self, unpacked: _Unpacked, limit: int) -> None:
        self._unpacked = unpacked
        self._limit = limit

    def at(self, place: int) -> _BoundedStream:
        """The stream itself, from a place on."""
        self.seek(place)
        return _BoundedStream(self._unpacked, self._limit)

    def read(self, size: int = -1) -> bytes:
        # tarfile reads what a header says of a member in one piece, of whatever length it claims.
        if not 0 <= size <= _CHUNK:
            raise RefusedArchiveError(f"a header of {size} bytes")
        return self._unpacked.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset > self._limit:
            raise RefusedArchiveError(f"it would unfold to {offset} bytes and more")
        return self._unpacked.seek(offset)

    def tell(self) -> int:
        return self._unpacked.tell()
