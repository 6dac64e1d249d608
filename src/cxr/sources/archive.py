"""Can this archive be unpacked without harm?  Every member is looked at before the first is written."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

MAX_MEMBERS = 200_000
MAX_BYTES = 20 << 30
# Radiographs hardly shrink; an archive that unfolds to a hundred times its size is no collection.
MAX_RATIO = 100


class RefusedArchiveError(Exception):
    """The archive is not to be trusted; the message says why."""


def check_members(archive: zipfile.ZipFile, num_bytes: int) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Relative path -> file of the archive, once every member is known to be harmless.

    Args:
        num_bytes: size of the archive itself.
    """
    members = archive.infolist()
    total = sum(info.file_size for info in members)
    if len(members) > MAX_MEMBERS or total > MAX_BYTES or total > (1 << 20) + MAX_RATIO * num_bytes:
        raise RefusedArchiveError(f"{len(members)} members would unfold to {total} bytes")
    files: dict[PurePosixPath, zipfile.ZipInfo] = {}
    folders: set[PurePosixPath] = set()
    for info in members:
        path = _harmless_path(info)
        folders.update(path.parents)
        if info.is_dir():
            folders.add(path)
        elif path in files:
            raise RefusedArchiveError(f"{info.orig_filename!r} stands twice")
        else:
            files[path] = info
    for path in files:
        if path in folders:
            raise RefusedArchiveError(f"{str(path)!r} is both a file and a folder")
    tops = {path.parts[0] for path in files}
    if len(tops) == 1 and all(len(path.parts) > 1 for path in files):
        return {PurePosixPath(*path.parts[1:]): info for path, info in files.items()}
    return files


def _harmless_path(info: zipfile.ZipInfo) -> PurePosixPath:
    # The name as it stands in the archive: zipfile itself cuts names at a NUL.
    name = info.orig_filename
    path = PurePosixPath(name)
    # A drive in the middle counts too: it may stand first once the top folder is left out.
    drive = any(PureWindowsPath(part).drive for part in path.parts)
    if "\0" in name or "\\" in name or path.is_absolute() or drive or ".." in path.parts:
        raise RefusedArchiveError(f"{name!r} leads out of its folder")
    if not path.parts:
        raise RefusedArchiveError(f"{name!r} names nothing")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise RefusedArchiveError(f"{name!r} is a link or a device")
    if info.flag_bits & 1:
        raise RefusedArchiveError(f"{name!r} is encrypted")
    return path


def unpack(archive_path: Path, unpacked_dir: Path, *, required: str | None, tell: Callable[[int, int], None]) -> None:
    """Unpack a zip archive into a folder of its own, after a look at every member.

    Args:
        archive_path: the archive.
        unpacked_dir: the folder to make; what stands there is removed.
        required: a file that the archive has to hold, or None.
        tell: is told (bytes done, bytes in all) after each file.

    Raises:
        RefusedArchiveError: a member leads out of the folder, is a link, is encrypted, stands twice, or all of them are
            absurdly large; nothing was written.
        OSError: the disk is too small or cannot be written.
        zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error: it is damaged.
    """
    shutil.rmtree(unpacked_dir, ignore_errors=True)
    with zipfile.ZipFile(archive_path) as archive:
        members = check_members(archive, archive_path.stat().st_size)
        if required is not None and PurePosixPath(required) not in members:
            raise RefusedArchiveError(f"it holds no {required}")
        total, done = sum(info.file_size for info in members.values()), 0
        if shutil.disk_usage(archive_path.parent).free < total:
            raise OSError(errno.ENOSPC, f"{total / 1e9:.1f} GB do not fit on the disk")
        for relative, info in members.items():
            path = unpacked_dir / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, path.open("xb") as file:
                shutil.copyfileobj(source, file)
            done += info.file_size
            tell(done, total)
