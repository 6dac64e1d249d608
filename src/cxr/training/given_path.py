"""Is what a user gives as a checkpoint a place on this machine, with a file in it?  Asked before heavy imports."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from cxr.errors import CheckpointError

# One letter alone is a drive of Windows. `Path` makes one slash of two.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def local_path(given: str | Path, key: str) -> Path:
    """The path, with a leading ``~`` resolved.

    Args:
        given: what was typed.
        key: under which.

    Raises:
        CheckpointError: an address of the web, a bucket, ``file://``: nothing is ever fetched for a checkpoint.
    """
    text = str(given)
    if _ADDRESS.match(text):
        raise CheckpointError(
            f"{key}={ascii(text)[1:-1]}: is an address, and only files of this machine are read; fetch it yourself and "
            "give the file"
        )
    if "\0" in text:
        raise CheckpointError(f"{key}={ascii(text)[1:-1]}: is no path, it holds a NUL byte")
    return Path(given).expanduser()


def is_file(path: Path) -> bool:
    """Whether a file lies there, or where a link leads.

    Raises:
        CheckpointError: a folder, or a pipe, socket or device, of which reading might never end.
    """
    try:
        mode = path.stat().st_mode
    except OSError:  # not there, a link that leads nowhere or in a circle
        return False
    if stat.S_ISREG(mode):
        return True
    kind = next((name for holds, name in _KINDS if holds(mode)), "something else")
    raise CheckpointError(f"{path}: is {kind}, where a file is expected")
